//! `setmaxnreg`: warps of a CTA hand registers to each other ("Miscellaneous Instructions: setmaxnreg").
//!
//! At launch every warp has the registers that `.maxnreg`, or `.maxntid` with `.minnctapersm`, give it, and the pool of
//! the CTA is empty. `.dec` fills the pool, `.inc` sleeps until the pool has enough: when it never has, the deadlock says so.

use super::cluster::Cluster;
use super::step::Flow;
use super::warp::{Wait, Warp};
use crate::check::FindingKind;

impl Cluster<'_> {
    pub(crate) fn set_max_registers(&mut self, w: &mut Warp, increase: bool, count: u32, m: u32) -> Flow {
        if !self.whole_warp(w, m) {
            return Flow::Moved;
        }
        let lane = Warp::lead(m);
        let wrong = |text: String| (FindingKind::RegisterLimit, text);
        let found = match (w.registers.or(self.run.program.launch_registers), increase) {
            _ if !(24..=256).contains(&count) || !count.is_multiple_of(8) => {
                Err(wrong(format!("setmaxnreg {count}; expected a multiple of 8 in 24..=256")))
            }
            (None, _) => Err(wrong(
                "setmaxnreg has no effect: the kernel has neither .maxnreg nor .maxntid with .minnctapersm".into(),
            )),
            (Some(now), true) if count < now => {
                Err(wrong(format!("setmaxnreg.inc to {count} registers a thread, which has {now}")))
            }
            (Some(now), false) if count > now => {
                Err(wrong(format!("setmaxnreg.dec to {count} registers a thread, which has {now}")))
            }
            (Some(now), _) => Ok(now),
        };
        let now = match found {
            Ok(now) => now,
            Err((kind, text)) => {
                self.report(w, lane, kind, None, text);
                return Flow::Next;
            }
        };
        if let Some(text) = self.differs_in_warpgroup(w) {
            self.report(w, lane, FindingKind::RegisterLimit, None, text);
        }
        let pool = &mut self.ctas[w.cta].free_registers;
        if increase {
            let Some(left) = pool.checked_sub(count - now) else {
                w.park(m, Wait::Registers(count));
                return Flow::Moved;
            };
            *pool = left;
        } else {
            *pool += now - count;
            for warp in self.warps.iter_mut().filter(|other| other.cta == w.cta) {
                for g in warp.groups.iter_mut().filter(|g| matches!(g.wait, Wait::Registers(_))) {
                    g.wait = Wait::Ready;
                }
            }
        }
        w.registers = Some(count);
        w.register_changes.push((w.pc, self.clocks.as_ref().map_or(0, |c| c.time(w.index))));
        Flow::Next
    }

    /// How the changes of this warp, of which one is being made, differ from those of its warpgroup so far.
    fn differs_in_warpgroup(&self, w: &Warp) -> Option<String> {
        let made = w.register_changes.len();
        for (index, other) in self.warpgroup(w).filter(|i| *i != w.index).map(|i| (i, &self.warps[i])) {
            if let Some((pc, _)) = other.register_changes.get(made).filter(|(pc, _)| *pc != w.pc) {
                let line = self.run.program.insts[*pc as usize].line;
                return Some(format!("warp {} of the warpgroup executes the setmaxnreg at PTX line {line}", other.id));
            }
            let Some(before) = made.checked_sub(1) else { continue };
            let together = other.register_changes.get(before).is_some_and(|(_, time)| {
                self.clocks.as_ref().is_none_or(|clocks| clocks.ordered(w.index, index, *time))
            });
            if !together {
                return Some(format!(
                    "a second setmaxnreg without a barrier since the first for warp {} of the warpgroup",
                    other.id
                ));
            }
        }
        None
    }

    /// A warp has left: reports changes of registers that a part of its warpgroup has made.
    pub(crate) fn register_changes_of_a_part(&mut self, w: &Warp) {
        let made = w.register_changes.len();
        for i in self.warpgroup(w).filter(|i| *i != w.index) {
            let other = &self.warps[i];
            if !other.done() || other.register_changes.len() == made {
                continue;
            }
            let (more, less, few) = if made > other.register_changes.len() {
                (w, other.id, other.register_changes.len())
            } else {
                (other, w.id, made)
            };
            let text = format!("executed by warp {} and not by warp {less} of its warpgroup", more.id);
            let pc = more.register_changes[few].0;
            self.report_at(w, pc, 0, FindingKind::RegisterLimit, None, text);
            return;
        }
    }
}
