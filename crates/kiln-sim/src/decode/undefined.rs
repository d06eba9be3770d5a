//! Registers that some path reads before anything has written them. Most kernels have none, and then nothing is watched.

use super::flatten::Flat;
use super::slots::{Slots, operands};

/// What one instruction does to watched registers, by their numbers in [`Slots::early`] and after.
#[derive(Default)]
pub(crate) struct Watch {
    pub uses: Box<[u32]>,
    pub defs: Box<[u32]>,
    /// A move hands on what it reads, undefined or not: compilers copy values that no path uses.
    pub copy: bool,
}

/// Watched registers of a kernel: how many, and what each instruction does to them (empty if there are none).
#[derive(Default)]
pub(crate) struct Watched {
    pub count: usize,
    pub insts: Vec<Watch>,
}

pub(crate) fn watched(flat: &Flat, slots: &Slots) -> Watched {
    let mut number = vec![None; flat.regs.len()];
    let mut count = 0;
    let mut watch = |reg: u32| {
        let new = number[reg as usize].is_none();
        if new {
            number[reg as usize] = Some(count);
            count += 1;
        }
        new
    };
    let mut open: Vec<u32> = slots.early.iter().copied().filter(|r| watch(*r)).collect();
    if open.is_empty() {
        return Watched::default();
    }
    let (mut defs, mut uses) = (Vec::new(), Vec::new());
    let is_copy = |op: &str| op.starts_with("mov.");
    // What is copied from a watched register is watched too.
    while !open.is_empty() {
        let mut next = Vec::new();
        for stmt in flat.stmts.iter().filter(|s| is_copy(&s.op)) {
            operands(stmt, &mut defs, &mut uses);
            if uses.iter().any(|r| open.contains(r)) {
                next.extend(defs.iter().copied().filter(|r| watch(*r)));
            }
        }
        open = next;
    }
    let numbers = |regs: &[u32]| regs.iter().filter_map(|r| number[*r as usize]).collect();
    let insts = flat.stmts.iter().map(|stmt| {
        operands(stmt, &mut defs, &mut uses);
        uses.extend(stmt.guard.map(|(g, _)| g));
        Watch { uses: numbers(&uses), defs: numbers(&defs), copy: is_copy(&stmt.op) }
    });
    Watched { insts: insts.collect(), count: count as usize }
}
