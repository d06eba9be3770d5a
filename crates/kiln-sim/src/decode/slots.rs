//! Register slots by liveness: PTX names thousands of virtual registers, few live at once. Sharing rows keeps a
//! warp's registers in cache. Rows are per lane, so divergence does not matter: each lane's own path decides.

use super::Code;
use super::flatten::Flat;
use crate::ptx::{Arg, RegKind, Stmt};

/// Row of each virtual register, rows used of each file (32-bit, 64-bit, predicate).
pub(crate) struct Slots {
    pub row: Vec<u32>,
    pub count: [u32; 3],
    /// Registers that may be read before they are written (among others that only a guarded instruction writes first).
    pub early: Vec<u32>,
}

fn file(kind: RegKind) -> usize {
    match kind {
        RegKind::R32(_) => 0,
        RegKind::R64 | RegKind::R128 => 1,
        RegKind::Pred => 2,
    }
}

/// 128-bit registers take two 64-bit rows.
fn rows(kind: RegKind) -> u32 {
    if kind == RegKind::R128 { 2 } else { 1 }
}

pub(super) fn regs(arg: &Arg, out: &mut Vec<u32>) {
    match arg {
        Arg::Reg(r) => out.push(*r),
        Arg::Addr(a, _) | Arg::Not(a) => regs(a, out),
        Arg::Pair(a, b) => {
            regs(a, out);
            regs(b, out);
        }
        Arg::Vec(v) | Arg::List(v) => v.iter().for_each(|a| regs(a, out)),
        Arg::Tensor(a, v) => {
            regs(a, out);
            v.iter().for_each(|a| regs(a, out));
        }
        _ => {}
    }
}

/// Registers that `stmt` writes, and those it reads, its guard aside.
pub(super) fn operands(stmt: &Stmt, defs: &mut Vec<u32>, uses: &mut Vec<u32>) {
    defs.clear();
    uses.clear();
    let code = Code::new(&stmt.op);
    let writes = match code.base {
        "bar" | "barrier" => code.has("red"),
        "st" | "red" | "bra" | "brx" | "cp" | "nanosleep" | "prefetch" | "stmatrix" | "fence" | "membar"
        | "discard" | "tensormap" => false,
        _ => true,
    };
    let mut rest = stmt.args.as_slice();
    if let Some((first @ (Arg::Reg(_) | Arg::Vec(_) | Arg::Pair(..)), others)) = rest.split_first()
        && writes
    {
        regs(first, defs);
        rest = others;
    }
    rest.iter().for_each(|a| regs(a, uses));
}

/// Registers that `stmt` certainly overwrites, and those whose old values it needs.
fn access(stmt: &Stmt, defs: &mut Vec<u32>, uses: &mut Vec<u32>) {
    operands(stmt, defs, uses);
    // A guarded write keeps the old value elsewhere; wgmma accumulates in place.
    if stmt.guard.is_some() || stmt.op.starts_with("wgmma.mma_async") {
        uses.extend(defs.iter());
    }
    uses.extend(stmt.guard.map(|(g, _)| g));
}

/// Rows of 32-bit registers that each instruction reads and overwrites, for the check of registers that wgmma still
/// owns; empty for kernels without wgmma.
pub(crate) fn row_access(flat: &Flat, slots: &Slots) -> Vec<[Box<[u32]>; 2]> {
    if !flat.stmts.iter().any(|s| s.op.starts_with("wgmma.mma_async")) {
        return Vec::new();
    }
    let (mut defs, mut uses) = (Vec::new(), Vec::new());
    let rows = |regs: &[u32]| {
        let narrow = regs.iter().filter(|r| matches!(flat.regs[**r as usize], RegKind::R32(_)));
        narrow.map(|r| slots.row[*r as usize]).collect()
    };
    let each = flat.stmts.iter().map(|stmt| {
        access(stmt, &mut defs, &mut uses);
        [rows(&uses), rows(&defs)]
    });
    each.collect()
}

struct Block {
    from: usize,
    to: usize,
    next: Vec<usize>,
}

fn blocks(flat: &Flat) -> Vec<Block> {
    let n = flat.stmts.len();
    let mut leader = vec![false; n + 1];
    leader[0] = true;
    for l in &flat.labels {
        if let Some(slot) = leader.get_mut(*l as usize) {
            *slot = true;
        }
    }
    let ends = |s: &Stmt| {
        let base = s.op.split('.').next().unwrap_or("");
        matches!(base, "bra" | "brx" | "ret" | "exit")
    };
    for (i, s) in flat.stmts.iter().enumerate() {
        leader[i + 1] |= ends(s);
    }
    let starts: Vec<usize> = (0..n).filter(|i| leader[*i]).collect();
    let block_of = |at: u32| starts.partition_point(|s| *s <= at as usize).checked_sub(1);
    let mut out = Vec::with_capacity(starts.len());
    for (k, from) in starts.iter().enumerate() {
        let to = starts.get(k + 1).copied().unwrap_or(n);
        let last = &flat.stmts[to - 1];
        let base = last.op.split('.').next().unwrap_or("");
        let mut next = Vec::new();
        let mut jump = |label: u32| {
            let at = flat.labels.get(label as usize).copied().unwrap_or(u32::MAX);
            if (at as usize) < n {
                next.extend(block_of(at));
            }
        };
        match base {
            "bra" => last.args.iter().for_each(|a| {
                if let Arg::Label(l) = a {
                    jump(*l);
                }
            }),
            "brx" => flat.targets.iter().flat_map(|(_, l)| l).for_each(|l| jump(*l)),
            _ => {}
        }
        let falls = !matches!(base, "bra" | "brx" | "ret" | "exit") || last.guard.is_some();
        if falls && k + 1 < starts.len() {
            next.push(k + 1);
        }
        out.push(Block { from: *from, to, next });
    }
    out
}

/// One row a register, for kernels too large for the analysis.
fn identity(flat: &Flat) -> Slots {
    let mut count = [0; 3];
    let row = flat
        .regs
        .iter()
        .map(|k| {
            let c = &mut count[file(*k)];
            *c += rows(*k);
            *c - rows(*k)
        })
        .collect();
    Slots { row, count, early: Vec::new() }
}

pub(crate) fn allocate(flat: &Flat) -> Slots {
    let (nregs, n) = (flat.regs.len(), flat.stmts.len());
    if n == 0 || nregs == 0 {
        return identity(flat);
    }
    let blocks = blocks(flat);
    let words = nregs.div_ceil(64);
    if words.saturating_mul(blocks.len()) > 1 << 23 {
        return identity(flat);
    }
    let (mut defs, mut uses) = (Vec::new(), Vec::new());
    let mut live_in = vec![0u64; words * blocks.len()];
    let mut live = vec![0u64; words];
    loop {
        let mut changed = false;
        for (k, b) in blocks.iter().enumerate().rev() {
            live.fill(0);
            for s in &b.next {
                live.iter_mut().zip(&live_in[s * words..]).for_each(|(a, b)| *a |= b);
            }
            for stmt in flat.stmts[b.from..b.to].iter().rev() {
                access(stmt, &mut defs, &mut uses);
                defs.iter().for_each(|r| live[*r as usize / 64] &= !(1 << (r % 64)));
                uses.iter().for_each(|r| live[*r as usize / 64] |= 1 << (r % 64));
            }
            let old = &mut live_in[k * words..(k + 1) * words];
            if old != live.as_slice() {
                old.copy_from_slice(&live);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    // The interval from first to last statement at which a register is live or written.
    let (mut first, mut last) = (vec![u32::MAX; nregs], vec![0u32; nregs]);
    let mut touch = |r: usize, at: usize| {
        first[r] = first[r].min(at as u32);
        last[r] = last[r].max(at as u32);
    };
    for (k, b) in blocks.iter().enumerate() {
        let bits = |set: &[u64], at: usize, touch: &mut dyn FnMut(usize, usize)| {
            for (w, word) in set.iter().enumerate() {
                let mut word = *word;
                while word != 0 {
                    touch(w * 64 + word.trailing_zeros() as usize, at);
                    word &= word - 1;
                }
            }
        };
        bits(&live_in[k * words..(k + 1) * words], b.from, &mut touch);
        for s in &b.next {
            bits(&live_in[s * words..(s + 1) * words], b.to, &mut touch);
        }
        for (i, stmt) in flat.stmts[b.from..b.to].iter().enumerate() {
            access(stmt, &mut defs, &mut uses);
            defs.iter().chain(&uses).for_each(|r| touch(*r as usize, b.from + i));
        }
    }
    let mut order: Vec<u32> = (0..nregs as u32).filter(|r| first[*r as usize] != u32::MAX).collect();
    order.sort_unstable_by_key(|r| first[*r as usize]);
    let early = (0..nregs).filter(|r| live_in[r / 64] >> (r % 64) & 1 != 0).map(|r| r as u32).collect();
    let mut slots = Slots { row: vec![0; nregs], count: [0; 3], early };
    let mut free: [Vec<u32>; 3] = Default::default();
    let mut ending = std::collections::BinaryHeap::new();
    for r in order {
        let kind = flat.regs[r as usize];
        while let Some(std::cmp::Reverse((end, old))) = ending.peek().copied() {
            // An operand read by the statement that defines `r` keeps its row until after it.
            if end >= first[r as usize] {
                break;
            }
            ending.pop();
            let old_kind = flat.regs[old as usize];
            if rows(old_kind) == 1 {
                free[file(old_kind)].push(slots.row[old as usize]);
            }
        }
        let f = file(kind);
        slots.row[r as usize] = match free[f].pop() {
            Some(row) if rows(kind) == 1 => row,
            other => {
                free[f].extend(other);
                slots.count[f] += rows(kind);
                slots.count[f] - rows(kind)
            }
        };
        ending.push(std::cmp::Reverse((last[r as usize], r)));
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_only_between_values_that_are_never_live_together() {
        let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(){\n.reg .b32 %r<6>; .reg .pred %p<2>;\n\
            mov.u32 %r1, 1;\nmov.u32 %r2, 2;\nL: add.u32 %r3, %r1, %r2;\nadd.u32 %r4, %r3, 1;\nmov.u32 %r1, %r4;\n\
            setp.lt.u32 %p1, %r1, 9;\n@%p1 bra L;\nret;\n}\n";
        let file = crate::ptx::parse(text).unwrap();
        let flat = super::super::flatten(&file, "k").unwrap();
        let s = allocate(&flat);
        // r2 is live around the loop, so nothing inside may take its row.
        for other in [1usize, 3, 4] {
            assert_ne!(s.row[2], s.row[other]);
        }
        assert!(s.count[0] <= 4);
    }
}
