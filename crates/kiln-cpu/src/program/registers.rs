//! Register allocation: values to cache-sized buffers.

use super::{Class, Id, Kind, Level, Program};

/// Where each value lives and how large the buffers are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    /// Buffer of each value; stores have none.
    pub(crate) of: Vec<Option<usize>>,
    /// Elements and class of each buffer.
    pub(crate) buffers: Vec<(usize, Class)>,
    /// Values that are the same for every tile, computed once a thread.
    pub(crate) invariant: Vec<bool>,
    /// Bytes of one thread's buffers, each rounded up to a cache line.
    pub(crate) bytes: usize,
}

/// Assigns buffers. With `reuse`, the program runs once straight through a tile, so that a buffer is free after its value's last use.
pub(crate) fn allocate(program: &Program, full: usize, row: usize, reuse: bool) -> Registers {
    let n = program.instrs.len();
    let mut last_use: Vec<Id> = (0..n).collect();
    for (i, instr) in program.instrs.iter().enumerate() {
        for a in instr.kind.operands() {
            last_use[a] = i;
        }
    }
    let invariant: Vec<bool> = program
        .instrs
        .iter()
        .map(|i| match &i.kind {
            Kind::Const(_) => true,
            Kind::Load(a) => program.accesses[*a].strides.iter().all(|&s| s == 0),
            _ => false,
        })
        .collect();
    let mut regs = Registers { of: vec![None; n], buffers: Vec::new(), invariant, bytes: 0 };
    let mut free: Vec<usize> = Vec::new();
    for (i, instr) in program.instrs.iter().enumerate() {
        if matches!(instr.kind, Kind::Store(..)) {
            release(&mut free, &regs, instr, i, &last_use, reuse);
            continue;
        }
        let want = (if instr.level == Level::Row { row } else { full }, Class::of(instr.dtype));
        let fits = |b: &usize| {
            let (n, c) = regs.buffers[*b];
            n == want.0 && c.bytes() == want.1.bytes()
        };
        let reusable = (reuse && !regs.invariant[i]).then(|| free.iter().position(fits)).flatten();
        let buffer = match reusable {
            Some(at) => free.swap_remove(at),
            None => {
                regs.buffers.push(want);
                regs.buffers.len() - 1
            }
        };
        regs.of[i] = Some(buffer);
        release(&mut free, &regs, instr, i, &last_use, reuse);
    }
    regs.bytes = regs.buffers.iter().map(|&(n, c)| (n * c.bytes()).next_multiple_of(64)).sum();
    regs
}

fn release(free: &mut Vec<usize>, regs: &Registers, instr: &super::Instr, at: Id, last_use: &[Id], reuse: bool) {
    if !reuse {
        return;
    }
    let mut done: Vec<Id> = instr.kind.operands().filter(|&a| last_use[a] == at && !regs.invariant[a]).collect();
    done.dedup();
    for a in done {
        if let Some(b) = regs.of[a]
            && !free.contains(&b)
        {
            free.push(b);
        }
    }
}
