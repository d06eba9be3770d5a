//! Registers that some path reads before anything has written them. Most kernels have none, and then nothing is watched.
//!
//! A move, a load or a store hands on what it is given, undefined or not: compilers copy values that no path uses, and store vectors whose
//! elements they overwrite at once. What else reads an undefined byte is wrong.

use super::flatten::Flat;
use super::slots::{Slots, operands, regs};
use crate::ptx::{Arg, RegKind, Stmt};

/// One register or constant among those that an instruction moves.
pub(crate) struct Piece {
    /// Its number among the watched registers; a constant, or a register that is always written first, has none.
    pub watched: Option<u32>,
    pub bytes: u32,
}

/// What an instruction moves without looking at it.
pub(crate) enum Moves {
    /// Nothing: it computes.
    Nothing,
    /// The bytes of registers, one after another.
    Registers { from: Box<[Piece]>, to: Box<[Piece]> },
    /// Memory to registers.
    Load(Box<[Piece]>),
    /// Registers to memory.
    Store(Box<[Piece]>),
}

/// What one instruction does to watched registers.
pub(crate) struct Watch {
    /// Those it looks at.
    pub uses: Box<[u32]>,
    /// Those it computes.
    pub defs: Box<[u32]>,
    pub moves: Moves,
}

/// Watched registers of a kernel.
#[derive(Default)]
pub(crate) struct Watched {
    /// Bytes of each; empty if there are none.
    pub bytes: Vec<u32>,
    /// What each instruction does to them.
    pub insts: Vec<Watch>,
    /// Whether memory may come to hold undefined bytes.
    pub memory: bool,
}

fn bytes(kind: RegKind) -> u32 {
    match kind {
        // One flag stands for it.
        RegKind::Pred => 1,
        RegKind::R32(bits) => u32::from(bits) / 8,
        RegKind::R64 => 8,
        RegKind::R128 => 16,
    }
}

fn is_move(stmt: &Stmt) -> bool {
    stmt.op.starts_with("mov.") && stmt.args.len() == 2 && stmt.args.iter().all(|arg| !matches!(arg, Arg::Not(_)))
}

fn is_load(stmt: &Stmt) -> bool {
    (stmt.op.starts_with("ld.") || stmt.op.starts_with("ldu.")) && stmt.args.len() >= 2
}

/// The registers that a store stores.
fn stored(stmt: &Stmt) -> Option<&Arg> {
    if stmt.op.starts_with("st.") { stmt.args.get(1) } else { None }
}

/// The watched registers of a kernel, by number.
struct Numbers<'a> {
    flat: &'a Flat,
    number: Vec<Option<u32>>,
    bytes: Vec<u32>,
}

impl Numbers<'_> {
    /// Watches a register; false if it was watched already.
    fn watch(&mut self, reg: u32) -> bool {
        let slot = &mut self.number[reg as usize];
        let new = slot.is_none();
        if new {
            *slot = Some(self.bytes.len() as u32);
            self.bytes.push(bytes(self.flat.regs[reg as usize]));
        }
        new
    }

    fn any(&self, regs: &[u32]) -> bool {
        regs.iter().any(|r| self.number[*r as usize].is_some())
    }

    fn of(&self, regs: &[u32]) -> Box<[u32]> {
        regs.iter().filter_map(|r| self.number[*r as usize]).collect()
    }

    /// The pieces of an operand; those that are no register share `total` bytes evenly.
    fn pieces(&self, arg: &Arg, total: u32) -> Box<[Piece]> {
        let items = match arg {
            Arg::Vec(items) => items.as_slice(),
            arg => std::slice::from_ref(arg),
        };
        let share = total / items.len().max(1) as u32;
        let piece = |item: &Arg| match item {
            Arg::Reg(r) => Piece { watched: self.number[*r as usize], bytes: bytes(self.flat.regs[*r as usize]) },
            _ => Piece { watched: None, bytes: share },
        };
        items.iter().map(piece).collect()
    }

    /// Bytes of the registers of an operand.
    fn total(&self, arg: &Arg) -> u32 {
        let mut found = Vec::new();
        regs(arg, &mut found);
        found.iter().map(|r| bytes(self.flat.regs[*r as usize])).sum()
    }
}

pub(crate) fn watched(flat: &Flat, slots: &Slots) -> Watched {
    let mut numbers = Numbers { flat, number: vec![None; flat.regs.len()], bytes: Vec::new() };
    for r in &slots.early {
        numbers.watch(*r);
    }
    if numbers.bytes.is_empty() {
        return Watched::default();
    }
    // What is moved from a watched register, perhaps by way of memory, is watched too.
    let (mut defs, mut uses) = (Vec::new(), Vec::new());
    let mut memory = false;
    let mut changed = true;
    while changed {
        changed = false;
        for stmt in &flat.stmts {
            operands(stmt, &mut defs, &mut uses);
            if is_move(stmt) && numbers.any(&uses) || is_load(stmt) && memory {
                defs.iter().for_each(|r| changed |= numbers.watch(*r));
            }
            if let Some(value) = stored(stmt).filter(|_| !memory) {
                uses.clear();
                regs(value, &mut uses);
                memory = numbers.any(&uses);
                changed |= memory;
            }
        }
    }
    let insts = flat.stmts.iter().map(|stmt| {
        operands(stmt, &mut defs, &mut uses);
        let moves = if is_move(stmt) {
            let (to, from) = (&stmt.args[0], &stmt.args[1]);
            let total = numbers.total(to).max(numbers.total(from));
            uses.clear();
            Moves::Registers { from: numbers.pieces(from, total), to: numbers.pieces(to, total) }
        } else if is_load(stmt) {
            Moves::Load(numbers.pieces(&stmt.args[0], 0))
        } else if let Some(value) = stored(stmt) {
            uses.clear();
            regs(&stmt.args[0], &mut uses);
            Moves::Store(numbers.pieces(value, 0))
        } else {
            Moves::Nothing
        };
        if !matches!(moves, Moves::Nothing) {
            defs.clear();
        }
        uses.extend(stmt.guard.map(|(g, _)| g));
        Watch { uses: numbers.of(&uses), defs: numbers.of(&defs), moves }
    });
    Watched { insts: insts.collect(), bytes: numbers.bytes, memory }
}
