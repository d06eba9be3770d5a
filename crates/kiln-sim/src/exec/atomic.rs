//! `atom` and `red`.

use std::sync::atomic::Ordering::Relaxed;

use super::cluster::Cluster;
use super::memory::{resolve, space_name};
use super::regs::{LANES, Lane};
use super::step::lanes;
use super::warp::Warp;
use crate::check::{Access, FindingKind};
use crate::decode::{Atom, AtomOp, Reg, Ty};
use crate::num::{add_odd, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::ptx::Space;

/// A register's value on all lanes, as 64 bits.
pub(crate) fn values(w: &Warp, reg: Reg) -> [u64; LANES] {
    match reg {
        Reg::R(row) => u32::get(&w.regs, row).map(u64::from),
        Reg::D(row) | Reg::Q(row) => u64::get(&w.regs, row),
        Reg::None => [0; LANES],
    }
}

fn half_op(op: AtomOp, x: f32, y: f32) -> f64 {
    match op {
        AtomOp::Min => f64::from(x.min(y)),
        AtomOp::Max => f64::from(x.max(y)),
        _ => add_odd(x.into(), y.into()),
    }
}

/// The new value of a location.
pub(crate) fn combine(op: AtomOp, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    let f16 = |o: u64, a: u64| {
        u64::from(f32_to_f16(half_op(op, f16_to_f32(o as u32 & 0xffff), f16_to_f32(a as u32 & 0xffff)) as f32))
    };
    let bf16 = |o: u64, a: u64| {
        u64::from(f32_to_bf16(half_op(op, bf16_to_f32(o as u32 & 0xffff), bf16_to_f32(a as u32 & 0xffff)) as f32))
    };
    match (op, ty) {
        (AtomOp::Exch, _) => a,
        (AtomOp::Cas, _) => {
            if old == a {
                b
            } else {
                old
            }
        }
        (AtomOp::And, _) => old & a,
        (AtomOp::Or, _) => old | a,
        (AtomOp::Xor, _) => old ^ a,
        (_, Ty::F32) => {
            let (x, y) = (f32::from_bits(old as u32), f32::from_bits(a as u32));
            let r = match op {
                AtomOp::Min => x.min(y),
                AtomOp::Max => x.max(y),
                _ => x + y,
            };
            r.to_bits().into()
        }
        (_, Ty::F64) => (f64::from_bits(old) + f64::from_bits(a)).to_bits(),
        (_, Ty::F16) => f16(old, a),
        (_, Ty::F16x2) => f16(old, a) | f16(old >> 16, a >> 16) << 16,
        (_, Ty::Bf16) => bf16(old, a),
        (_, Ty::Bf16x2) => bf16(old, a) | bf16(old >> 16, a >> 16) << 16,
        (AtomOp::Add, _) if ty.bits() == 64 => old.wrapping_add(a),
        (AtomOp::Add, _) => u64::from((old as u32).wrapping_add(a as u32)),
        (AtomOp::Min, Ty::S64) => (old as i64).min(a as i64) as u64,
        (AtomOp::Max, Ty::S64) => (old as i64).max(a as i64) as u64,
        (AtomOp::Min, Ty::S32) => u64::from((old as i32).min(a as i32) as u32),
        (AtomOp::Max, Ty::S32) => u64::from((old as i32).max(a as i32) as u32),
        (AtomOp::Min, _) => old.min(a),
        (AtomOp::Max, _) => old.max(a),
        (AtomOp::Inc, _) => u64::from(if old as u32 >= a as u32 { 0 } else { old as u32 + 1 }),
        (AtomOp::Dec, _) => u64::from(if old as u32 == 0 || old as u32 > a as u32 { a as u32 } else { old as u32 - 1 }),
    }
}

impl Cluster<'_> {
    pub(crate) fn atomic(&mut self, w: &mut Warp, atom: &Atom, m: u32) {
        let addrs = w.addresses(&atom.addr);
        let size = atom.ty.bits() / 8;
        let total = size * atom.a.len() as u32;
        self.count_access(w, atom.space, &addrs, m, total, true);
        let b = atom.b.map_or([0; LANES], |r| values(w, r));
        let operands: Vec<[u64; LANES]> = atom.a.iter().map(|r| values(w, *r)).collect();
        let mut results = vec![[0u64; LANES]; atom.a.len()];
        for lane in lanes(m) {
            let (space, addr) = resolve(atom.space, addrs[lane]);
            if !addr.is_multiple_of(u64::from(total)) {
                let text = format!("atomic of {total} bytes at an address that is not a multiple of {total}");
                self.report(w, lane, FindingKind::Misaligned, Some((space_name(space), addr)), text);
                continue;
            }
            match space {
                Space::Global => {
                    let Some((i, off)) = self.global_checked(w, lane, addr, total, "atomic") else { continue };
                    self.global_access(w, lane, i, off, total, Access::Atomic);
                    let (races, me) = (self.run.options.checks.global_races, self.index as u32 + 1);
                    if races {
                        self.run.sync.publish(me, addr, atom.ordered);
                    }
                    for (k, operand) in operands.iter().enumerate() {
                        let off = off + k as u64 * u64::from(size);
                        results[k][lane] = self.global_atomic(i, off, atom, operand[lane], b[lane]);
                    }
                    if races {
                        self.run.sync.observe(me, addr, atom.ordered);
                    }
                }
                Space::Shared | Space::SharedCluster => {
                    let Some((cta, off)) = self.shared_checked(w, lane, addr, total, "atomic") else { continue };
                    self.shared_access(w, lane, cta, off, total, Access::Atomic);
                    for (k, operand) in operands.iter().enumerate() {
                        let at = off + k as u32 * size;
                        let memory = &mut self.ctas[cta].shared;
                        let i = at as usize / 4;
                        let shift = 8 * (at % 4);
                        let old = match size {
                            8 => u64::from(memory[i]) | u64::from(memory[i + 1]) << 32,
                            4 => u64::from(memory[i]),
                            _ => u64::from(memory[i] >> shift & 0xffff),
                        };
                        let new = combine(atom.op, atom.ty, old, operand[lane], b[lane]);
                        match size {
                            8 => {
                                memory[i] = new as u32;
                                memory[i + 1] = (new >> 32) as u32;
                            }
                            4 => memory[i] = new as u32,
                            _ => memory[i] = memory[i] & !(0xffff << shift) | (new as u32 & 0xffff) << shift,
                        }
                        results[k][lane] = old;
                    }
                }
                _ => {
                    let text = "atomic on memory that is neither global nor shared".to_string();
                    self.report(w, lane, FindingKind::InvalidOperand, Some((space_name(space), addr)), text);
                }
            }
        }
        for (reg, v) in atom.dst.iter().zip(&results) {
            match *reg {
                Reg::R(row) => u32::put(&mut w.regs, row, &v.map(|v| v as u32), m),
                Reg::D(row) => u64::put(&mut w.regs, row, v, m),
                Reg::Q(_) | Reg::None => {}
            }
        }
    }

    /// One atomic on global memory; returns the old value.
    pub(crate) fn global_atomic(&self, buffer: usize, off: u64, atom: &Atom, a: u64, b: u64) -> u64 {
        self.global_update(buffer, off, atom.ty, |old| combine(atom.op, atom.ty, old, a, b))
    }

    /// Atomically replaces a value of type `ty`.
    pub(crate) fn global_update(&self, buffer: usize, off: u64, ty: Ty, f: impl Fn(u64) -> u64) -> u64 {
        let buf = &self.run.buffers[buffer];
        if ty.bits() == 64 {
            let _guard = self.run.wide_atomics.lock();
            let old = u64::from(buf.word(off)) | u64::from(buf.word(off + 4)) << 32;
            let new = f(old);
            buf.set_word(off, new as u32);
            buf.set_word(off + 4, (new >> 32) as u32);
            return old;
        }
        let word = &buf.words[off as usize / 4];
        let shift = 8 * (off % 4) as u32;
        let keep: u32 = if ty.bits() == 16 { 0xffff << shift } else { u32::MAX };
        let mut now = word.load(Relaxed);
        loop {
            let old = u64::from((now & keep) >> if ty.bits() == 16 { shift } else { 0 });
            let new = (f(old) as u32) << if ty.bits() == 16 { shift } else { 0 };
            match word.compare_exchange_weak(now, now & !keep | new & keep, Relaxed, Relaxed) {
                Ok(_) => return old,
                Err(seen) => now = seen,
            }
        }
    }
}
