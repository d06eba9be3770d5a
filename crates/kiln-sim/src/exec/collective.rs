//! Warp collectives.

use super::cluster::Cluster;
use super::regs::{FULL, LANES, Lane, ballot, wide};
use super::step::{Flow, lanes};
use super::warp::Warp;
use crate::check::FindingKind;
use crate::decode::{ReduxOp, Reg, ShflMode, VoteMode};

impl Cluster<'_> {
    /// Waits for the member mask and checks that every executing lane is in it. True when it may go on.
    pub(crate) fn members(&mut self, w: &mut Warp, m: u32, need: u32) -> bool {
        if m & !need != 0 {
            let lane = Warp::lead(m & !need);
            let text = format!("the executing lane is not in the member mask {need:#010x}");
            self.report(w, lane, FindingKind::InvalidOperand, None, text);
        }
        w.gather(m, need, false)
    }

    pub(crate) fn shfl(&mut self, w: &mut Warp, mode: ShflMode, rows: [u32; 5], pred: Option<u32>, m: u32) -> Flow {
        let [dst, src, b, c, mask] = rows;
        let need = w.regs.r[mask as usize][Warp::lead(m)];
        if !self.members(w, m, need) {
            return Flow::Moved;
        }
        let (v, b, c) = (u32::get(&w.regs, src), u32::get(&w.regs, b), u32::get(&w.regs, c));
        // From the lane, its operand, the last lane of its segment and the operand as a lane of the segment.
        let (from, ok) = match mode {
            ShflMode::Up => sources(&b, &c, |lane, delta, max, _| {
                (lane.wrapping_sub(delta), lane as i32 - delta as i32 >= max as i32)
            }),
            ShflMode::Down => sources(&b, &c, |lane, delta, max, _| (lane + delta, lane + delta <= max)),
            ShflMode::Bfly => sources(&b, &c, |lane, delta, max, _| (lane ^ delta, lane ^ delta <= max)),
            ShflMode::Idx => sources(&b, &c, |_, _, max, named| (named, named <= max)),
        };
        let mut out = v;
        for (out, from) in out.iter_mut().zip(from) {
            *out = v[from as usize & 31];
        }
        if m != FULL {
            let astray = ok & m & ballot(|i| m >> from[i] & 1 == 0);
            for lane in lanes(astray) {
                let text = format!("reads lane {}, which does not take part (executing lanes {m:#010x})", from[lane]);
                self.report(w, lane, FindingKind::InvalidOperand, None, text);
            }
        }
        u32::put(&mut w.regs, dst, &out, m);
        if let Some(p) = pred {
            let p = &mut w.regs.p[p as usize];
            *p = *p & !m | ok & m;
        }
        Flow::Next
    }

    pub(crate) fn vote(
        &mut self,
        w: &mut Warp,
        mode: VoteMode,
        dst: u32,
        (p, neg): (u32, bool),
        mask: u32,
        m: u32,
    ) -> Flow {
        let need = w.regs.r[mask as usize][Warp::lead(m)];
        if !self.members(w, m, need) {
            return Flow::Moved;
        }
        let bits = w.regs.p[p as usize];
        let bits = (if neg { !bits } else { bits }) & m;
        let yes = match mode {
            VoteMode::All => bits == m,
            VoteMode::Any => bits != 0,
            VoteMode::Uni => bits == 0 || bits == m,
            VoteMode::Ballot => {
                u32::put(&mut w.regs, dst, &[bits; LANES], m);
                return Flow::Next;
            }
        };
        let old = &mut w.regs.p[dst as usize];
        *old = *old & !m | if yes { m } else { 0 };
        Flow::Next
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn match_lanes(
        &mut self,
        w: &mut Warp,
        all: bool,
        dst: u32,
        pred: Option<u32>,
        src: Reg,
        mask: u32,
        m: u32,
    ) -> Flow {
        let need = w.regs.r[mask as usize][Warp::lead(m)];
        if !self.members(w, m, need) {
            return Flow::Moved;
        }
        let v = super::atomic::values(w, src);
        let same = |lane: usize| lanes(m).filter(|o| v[*o] == v[lane]).fold(0u32, |acc, o| acc | 1 << o);
        let mut out = [0; LANES];
        let equal = same(Warp::lead(m)) == m;
        for lane in lanes(m) {
            out[lane] = match (all, equal) {
                (false, _) => same(lane),
                (true, true) => m,
                (true, false) => 0,
            };
        }
        u32::put(&mut w.regs, dst, &out, m);
        if let Some(p) = pred {
            let p = &mut w.regs.p[p as usize];
            *p = *p & !m | if equal { m } else { 0 };
        }
        Flow::Next
    }

    pub(crate) fn redux(&mut self, w: &mut Warp, op: ReduxOp, [dst, src, mask]: [u32; 3], m: u32) -> Flow {
        let need = w.regs.r[mask as usize][Warp::lead(m)];
        if !self.members(w, m, need) {
            return Flow::Moved;
        }
        let v = u32::get(&w.regs, src);
        let f: fn(u32, u32) -> u32 = match op {
            ReduxOp::Add => u32::wrapping_add,
            ReduxOp::And => |x, y| x & y,
            ReduxOp::Or => |x, y| x | y,
            ReduxOp::Xor => |x, y| x ^ y,
            ReduxOp::Min => Ord::min,
            ReduxOp::Max => Ord::max,
            ReduxOp::MinS => |x, y| (x as i32).min(y as i32) as u32,
            ReduxOp::MaxS => |x, y| (x as i32).max(y as i32) as u32,
        };
        let total = lanes(m).map(|i| v[i]).reduce(f).unwrap_or(0);
        u32::put(&mut w.regs, dst, &[total; LANES], m);
        Flow::Next
    }

    /// The first executing lane is elected.
    pub(crate) fn elect(&mut self, w: &mut Warp, dst: Option<u32>, pred: u32, mask: u32, m: u32) -> Flow {
        let need = w.regs.r[mask as usize][Warp::lead(m)];
        if !self.members(w, m, need) {
            return Flow::Moved;
        }
        let lead = Warp::lead(m);
        if let Some(d) = dst {
            u32::put(&mut w.regs, d, &[lead as u32; LANES], m);
        }
        let old = &mut w.regs.p[pred as usize];
        *old = *old & !m | 1 << lead;
        Flow::Next
    }
}

/// The lane that each lane of a `shfl` reads (itself, where the source is outside its segment), and which are inside.
#[inline(always)]
fn sources(
    b: &[u32; LANES],
    c: &[u32; LANES],
    source: impl Fn(u32, u32, u32, u32) -> (u32, bool),
) -> ([u32; LANES], u32) {
    wide(
        #[inline(always)]
        || {
            let (mut from, mut inside) = ([0; LANES], [false; LANES]);
            for i in 0..LANES {
                let lane = i as u32;
                let (delta, clamp, seg) = (b[i] & 31, c[i] & 31, c[i] >> 8 & 31);
                let (max, named) = (lane & seg | clamp & !seg, lane & seg | delta & !seg);
                let (to, fits) = source(lane, delta, max, named);
                inside[i] = fits;
                from[i] = if fits { to & 31 } else { lane };
            }
            (from, ballot(|i| inside[i]))
        },
    )
}
