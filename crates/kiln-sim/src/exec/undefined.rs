//! Follows undefined bytes through registers and memory, and reports what uses them.

use super::cluster::Cluster;
use super::memory::resolve;
use super::step::lanes;
use super::warp::Warp;
use crate::check::{FindingKind, Origin, Owner, UndefinedBytes};
use crate::decode::{Addr, MatrixCopy, Moves, Op, Piece, Watch};
use crate::ptx::Space;
use std::sync::PoisonError;

/// A set bit for each of so many bytes.
fn ones(bytes: u32) -> u32 {
    u32::MAX.checked_shr(32 - bytes.min(32)).unwrap_or(0)
}

impl Cluster<'_> {
    /// Reports an instruction that uses bytes which nothing has written, and notes what it writes.
    pub(super) fn watched_registers(&mut self, w: &mut Warp, op: &Op, m: u32) {
        let watched = &self.run.program.watched;
        let Some(Watch { uses, defs, moves }) = watched.insts.get(w.pc as usize) else { return };
        let bad = uses.iter().fold(0, |bad, r| {
            let (defined, full) = (&w.defined[*r as usize], ones(watched.bytes[*r as usize]) as u16);
            bad | lanes(m).filter(|lane| defined[*lane] != full).fold(0, |bad, lane| bad | 1 << lane)
        });
        if bad != 0 {
            self.undefined_use(w, Warp::lead(bad));
        }
        for r in defs {
            let full = ones(watched.bytes[*r as usize]) as u16;
            lanes(m).for_each(|lane| w.defined[*r as usize][lane] = full);
        }
        match (moves, op) {
            (Moves::Registers { from, to }, _) => lanes(m).for_each(|lane| {
                let defined = gather(w, from, lane);
                scatter(w, to, lane, defined);
            }),
            (Moves::Load(to), Op::Ld(mv)) => {
                for (lane, at) in self.undefined_at(w, mv.space, &mv.addr, m, mv.total) {
                    for (i, piece) in to.iter().enumerate() {
                        let undefined = at >> (i as u32 * mv.size) & ones(mv.size);
                        // What a load adds above an element is its sign or zero.
                        let above = ones(piece.bytes) & !ones(mv.size);
                        let sign = mv.signed && undefined >> (mv.size - 1) & 1 != 0;
                        if let Some(r) = piece.watched {
                            let undefined = undefined | if sign { above } else { 0 };
                            w.defined[r as usize][lane] = (ones(piece.bytes) & !undefined) as u16;
                        }
                    }
                }
            }
            (Moves::Store(from), Op::St(mv)) if watched.memory => {
                let undefined = |w: &Warp, lane: usize| {
                    from.iter().enumerate().fold(0, |all, (i, piece)| {
                        let defined = gather(w, std::slice::from_ref(piece), lane);
                        all | (!defined & ones(mv.size)) << (i as u32 * mv.size)
                    })
                };
                self.set_undefined(w, mv.space, &mv.addr, m, mv.total, undefined);
            }
            _ if watched.memory => self.undefined_memory(w, op, m),
            _ => {}
        }
    }

    /// Other instructions than loads and stores use what they read from memory, and define what they write.
    fn undefined_memory(&mut self, w: &mut Warp, op: &Op, m: u32) {
        match op {
            Op::Atom(a) => self.memory_use(w, a.space, &a.addr, m, a.ty.bits() / 8 * a.a.len().max(1) as u32),
            Op::Matrix { copy, regs, addr, space, .. } => {
                // Each lane of the first eight for each matrix gives the address of a row.
                let rows = m & ones(8 * regs.len() as u32);
                match copy {
                    MatrixCopy::Load => self.memory_use(w, *space, addr, rows, 16),
                    MatrixCopy::Store => self.set_undefined(w, *space, addr, rows, 16, |_, _| 0),
                }
            }
            Op::CpAsync { dst, src, size, .. } => {
                self.memory_use(w, Space::Global, src, m, *size);
                self.set_undefined(w, Space::Shared, dst, m, *size, |_, _| 0);
            }
            _ => {}
        }
    }

    fn memory_use(&mut self, w: &mut Warp, space: Space, addr: &Addr, m: u32, bytes: u32) {
        let bad = self.undefined_at(w, space, addr, m, bytes).into_iter().find(|(_, undefined)| *undefined != 0);
        if let Some((lane, _)) = bad {
            self.undefined_use(w, lane);
            self.set_undefined(w, space, addr, m, bytes, |_, _| 0);
        }
    }

    fn undefined_use(&mut self, w: &Warp, lane: usize) {
        let text = "uses a register that nothing has written".to_string();
        self.report(w, lane, FindingKind::UninitializedRegister, None, text);
    }

    /// Where an access of each lane of `m` goes.
    fn places(&self, w: &Warp, space: Space, addr: &Addr, m: u32) -> Vec<(usize, Owner, u64)> {
        let addrs = w.addresses(addr);
        let place = |lane: usize| match resolve(space, addrs[lane]) {
            (Space::Global | Space::Generic | Space::Const, at) => Some((lane, Owner::Device, at)),
            (Space::Shared | Space::SharedCluster, at) => {
                let (cta, off) = self.shared_place(w, at);
                Some((lane, Owner::Cta(cta), off.into()))
            }
            (Space::Local, at) => Some((lane, Owner::Thread(w.index, lane), at)),
            (Space::Param, _) => None,
        };
        lanes(m).filter_map(place).collect()
    }

    /// The undefined bytes that each lane of `m` reads.
    fn undefined_at(&self, w: &Warp, space: Space, addr: &Addr, m: u32, bytes: u32) -> Vec<(usize, u32)> {
        if !self.run.program.watched.memory || space == Space::Param {
            return lanes(m).map(|lane| (lane, 0)).collect();
        }
        let device = self.run.undefined.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |owner: Owner| if owner == Owner::Device { &*device } else { &self.undefined };
        let places = self.places(w, space, addr, m);
        places.into_iter().map(|(lane, owner, at)| (lane, of(owner).get(owner, at, bytes))).collect()
    }

    /// Notes which bytes each lane of `m` leaves undefined.
    fn set_undefined(
        &mut self,
        w: &Warp,
        space: Space,
        addr: &Addr,
        m: u32,
        bytes: u32,
        undefined: impl Fn(&Warp, usize) -> u32,
    ) {
        let run = self.run;
        let mut device = run.undefined.lock().unwrap_or_else(PoisonError::into_inner);
        for (lane, owner, at) in self.places(w, space, addr, m) {
            let origin = Origin { pc: w.pc, block: self.ctas[w.cta].id, thread: self.thread(w, lane) };
            let memory: &mut UndefinedBytes = if owner == Owner::Device { &mut device } else { &mut self.undefined };
            memory.set(owner, at, bytes, undefined(w, lane), origin);
        }
    }
}

/// The defined bytes of registers, one after another.
fn gather(w: &Warp, pieces: &[Piece], lane: usize) -> u32 {
    let (mut all, mut at) = (0, 0);
    for piece in pieces {
        let defined = piece.watched.map_or(ones(piece.bytes), |r| w.defined[r as usize][lane].into());
        all |= defined.checked_shl(at).unwrap_or(0);
        at += piece.bytes;
    }
    // A shorter value is extended by what is defined.
    all | !ones(at)
}

/// Tells registers, one after another, which of their bytes are defined.
fn scatter(w: &mut Warp, pieces: &[Piece], lane: usize, defined: u32) {
    let mut at = 0;
    for piece in pieces {
        if let Some(r) = piece.watched {
            w.defined[r as usize][lane] = (defined.checked_shr(at).unwrap_or(0) & ones(piece.bytes)) as u16;
        }
        at += piece.bytes;
    }
}
