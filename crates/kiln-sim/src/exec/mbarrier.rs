//! mbarrier objects ("Parallel Synchronization and Communication Instructions: mbarrier").
//!
//! The 64 bits of an object, which the ISA leaves opaque: pending arrivals in bits 0-19, expected arrivals in
//! 20-39, pending transaction bytes (signed) in 40-61, the phase in 62.

use super::cluster::Cluster;
use super::memory::resolve;
use super::regs::Lane;
use super::step::{Flow, lanes};
use super::warp::{Wait, Warp};
use crate::check::FindingKind;
use crate::decode::{Addr, Mbar, Reg};
use crate::ptx::Space;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Object {
    pending: u32,
    expected: u32,
    tx: i32,
    phase: u32,
}

const COUNT_MASK: u64 = (1 << 20) - 1;

impl Object {
    fn unpack(bits: u64) -> Object {
        Object {
            pending: (bits & COUNT_MASK) as u32,
            expected: (bits >> 20 & COUNT_MASK) as u32,
            tx: ((bits << 2) as i64 >> 42) as i32,
            phase: (bits >> 62 & 1) as u32,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.pending)
            | u64::from(self.expected) << 20
            | (self.tx as u64 & ((1 << 22) - 1)) << 40
            | u64::from(self.phase) << 62
    }

    /// Ends the phase if nothing is pending.
    fn advance(&mut self) -> bool {
        let done = self.pending == 0 && self.tx == 0;
        if done {
            self.phase ^= 1;
            self.pending = self.expected;
        }
        done
    }
}

impl Cluster<'_> {
    /// Place of an mbarrier named by a shared or generic address, if it is one.
    fn mbar_place(&mut self, w: &Warp, lane: usize, addr: u64, init: bool) -> Option<(usize, u32)> {
        let (space, at) = resolve(Space::Generic, addr);
        let at = if matches!(space, Space::SharedCluster) { at } else { addr };
        let (cta, off) = self.shared_checked(w, lane, at, 8, "mbarrier access")?;
        if off % 8 != 0 {
            let text = "an mbarrier object must be aligned to 8 bytes".to_string();
            self.report(w, lane, FindingKind::Misaligned, Some(("shared", off.into())), text);
            return None;
        }
        if !init && !self.ctas[cta].mbars.contains(&off) {
            let text = "the address holds no initialised mbarrier".to_string();
            self.report(w, lane, FindingKind::Mbarrier, Some(("shared", off.into())), text);
            return None;
        }
        Some((cta, off))
    }

    fn mbar_get(&self, (cta, off): (usize, u32)) -> Object {
        let m = &self.ctas[cta].shared;
        Object::unpack(u64::from(m[off as usize / 4]) | u64::from(m[off as usize / 4 + 1]) << 32)
    }

    fn mbar_set(&mut self, (cta, off): (usize, u32), o: Object) {
        let bits = o.pack();
        let m = &mut self.ctas[cta].shared;
        m[off as usize / 4] = bits as u32;
        m[off as usize / 4 + 1] = (bits >> 32) as u32;
    }

    fn mbar_update(&mut self, place: (usize, u32), mut o: Object) {
        if o.advance() {
            self.mbar_phase(place);
            self.woken.push(place);
        }
        self.mbar_set(place, o);
    }

    /// Subtracts arrived bytes.
    pub(crate) fn mbar_complete_tx(&mut self, w: &Warp, lane: usize, cta: usize, off: u32, bytes: u32) {
        if !self.ctas.get(cta).is_some_and(|c| c.mbars.contains(&off)) {
            let text = "a copy completes on an address that holds no initialised mbarrier".to_string();
            self.report(w, lane, FindingKind::Mbarrier, Some(("shared", off.into())), text);
            return;
        }
        let mut o = self.mbar_get((cta, off));
        o.tx -= bytes as i32;
        self.mbar_update((cta, off), o);
    }

    /// Shared place of a completion mbarrier operand.
    pub(crate) fn mbar_operand(&mut self, w: &Warp, lane: usize, addr: u64) -> Option<(usize, u32)> {
        self.mbar_place(w, lane, addr, false)
    }

    fn arrive(&mut self, w: &Warp, lane: usize, place: (usize, u32), count: u32, drop: bool) -> u64 {
        let mut o = self.mbar_get(place);
        let state = o.pack();
        if count == 0 || count > o.pending {
            let text = format!("arrive with count {count} while {} arrivals are pending in this phase", o.pending);
            self.report(w, lane, FindingKind::Mbarrier, Some(("shared", place.1.into())), text);
            return state;
        }
        o.pending -= count;
        if drop {
            o.expected -= count.min(o.expected);
        }
        self.mbar_release(w, place);
        self.mbar_update(place, o);
        state
    }

    /// The arrival that `cp.async.mbarrier.arrive` makes once its copies are done.
    pub(crate) fn mbar_copies_done(&mut self, w: &Warp, lane: usize, addr: u64, noinc: bool) {
        let Some(place) = self.mbar_place(w, lane, addr, false) else { return };
        if !noinc {
            let mut o = self.mbar_get(place);
            o.pending += 1;
            self.mbar_set(place, o);
        }
        self.arrive(w, lane, place, 1, false);
    }

    pub(crate) fn mbarrier(&mut self, w: &mut Warp, op: &Mbar, addr: &Addr, m: u32) -> Flow {
        let addrs = w.addresses(addr);
        let value = |w: &Warp, row: u32, lane: usize| w.regs.r[row as usize][lane];
        let mut woke = 0;
        let mut blocked: Vec<(u32, Wait)> = Vec::new();
        for lane in lanes(m) {
            if let Mbar::PendingCount { dst, state } = op {
                let o = Object::unpack(w.regs.d[*state as usize][lane]);
                w.regs.r[*dst as usize][lane] = o.pending;
                continue;
            }
            let init = matches!(op, Mbar::Init { .. });
            let Some(place) = self.mbar_place(w, lane, addrs[lane], init) else {
                // A wait on nothing ends, lest the kernel spins for ever.
                woke |= 1 << lane;
                continue;
            };
            match op {
                Mbar::Init { count } => {
                    let count = value(w, *count, lane);
                    if count == 0 || u64::from(count) > COUNT_MASK {
                        let text = format!("mbarrier.init with count {count}; expected 1 to {COUNT_MASK}");
                        self.report(w, lane, FindingKind::Mbarrier, Some(("shared", place.1.into())), text);
                        continue;
                    }
                    self.shared_access(w, lane, place.0, place.1, 8, crate::check::Access::Atomic);
                    self.ctas[place.0].mbars.insert(place.1);
                    self.mbar_set(place, Object { pending: count, expected: count, tx: 0, phase: 0 });
                }
                Mbar::Inval => {
                    self.ctas[place.0].mbars.remove(&place.1);
                }
                Mbar::Arrive { state, count, expect, drop } => {
                    if let Some(row) = expect {
                        let mut o = self.mbar_get(place);
                        o.tx += value(w, *row, lane) as i32;
                        self.mbar_set(place, o);
                    }
                    let count = count.map_or(1, |row| value(w, row, lane));
                    let before = self.arrive(w, lane, place, count, *drop);
                    if let Reg::D(row) = *state {
                        w.regs.d[row as usize][lane] = before;
                    }
                }
                Mbar::ExpectTx { bytes } => {
                    let mut o = self.mbar_get(place);
                    o.tx += value(w, *bytes, lane) as i32;
                    self.mbar_update(place, o);
                }
                Mbar::CompleteTx { bytes } => {
                    let bytes = value(w, *bytes, lane);
                    self.mbar_complete_tx(w, lane, place.0, place.1, bytes);
                }
                Mbar::Wait { dst: _, state, parity, block } => {
                    let o = self.mbar_get(place);
                    let old = match (state, parity) {
                        (_, Some(row)) => value(w, *row, lane) & 1,
                        (Some(Reg::D(row)), _) => Object::unpack(w.regs.d[*row as usize][lane]).phase,
                        _ => 0,
                    };
                    if o.phase != old {
                        woke |= 1 << lane;
                        self.mbar_acquire(w, place);
                    } else if *block {
                        let wait = Wait::Mbar { cta: place.0 as u32, addr: place.1, parity: old };
                        match blocked.iter_mut().find(|(_, b)| *b == wait) {
                            Some((mask, _)) => *mask |= 1 << lane,
                            None => blocked.push((1 << lane, wait)),
                        }
                    }
                }
                Mbar::PendingCount { .. } => {}
            }
        }
        if let Mbar::Wait { dst, .. } = op {
            // try_wait may suspend until the phase ends, so the lanes whose phase has not ended sleep.
            if !blocked.is_empty() {
                if let Some(c) = &mut self.counters {
                    c.barrier(w.pc);
                }
                let rest = w.mask & !blocked.iter().fold(0, |acc, (mask, _)| acc | mask);
                let pred: [bool; 32] = std::array::from_fn(|i| woke >> i & 1 != 0);
                bool::put(&mut w.regs, *dst, &pred, woke);
                for (mask, wait) in blocked {
                    w.groups.push(super::warp::Group { pc: w.pc, mask, wait });
                }
                w.mask = rest;
                w.pc += 1;
                return Flow::Moved;
            }
            let pred: [bool; 32] = std::array::from_fn(|i| woke >> i & 1 != 0);
            bool::put(&mut w.regs, *dst, &pred, m);
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_survives_packing_and_a_phase_needs_arrivals_and_bytes() {
        for (pending, expected, tx, phase) in
            [(1, 1, 0, 0), (0xf_ffff, 3, -5, 1), (7, 128, 1 << 20, 1), (2, 2, -(1 << 20), 0)]
        {
            let o = Object { pending, expected, tx, phase };
            assert_eq!(Object::unpack(o.pack()), o);
        }
        let mut o = Object { pending: 0, expected: 2, tx: 16, phase: 0 };
        assert!(!o.advance());
        o.tx -= 16;
        assert!(o.advance());
        assert_eq!((o.phase, o.pending), (1, 2));
    }
}
