//! CTA and cluster barriers.

use super::cluster::Cluster;
use super::regs::{LANES, Lane};
use super::step::Flow;
use super::warp::{Wait, Warp};
use crate::check::FindingKind;
use crate::decode::BarMode;

/// One of the 16 barriers of a CTA.
#[derive(Clone, Default)]
pub(crate) struct Barrier {
    pub arrived: u32,
    /// Threads expected, when the instruction names a count.
    count: Option<u32>,
    /// Running values of `bar.red`.
    popc: u32,
    and: bool,
    or: bool,
    /// Destinations of `bar.red`: (warp, mode, lanes).
    results: Vec<(usize, BarMode, u32)>,
    /// Warps that arrived, for the happens-before of the race check.
    members: Vec<usize>,
}

impl Barrier {
    pub(crate) fn expected(&self, live: u32) -> u32 {
        self.count.unwrap_or(live)
    }
}

impl Cluster<'_> {
    pub(crate) fn bar(
        &mut self,
        w: &mut Warp,
        mode: BarMode,
        id: u32,
        count: Option<u32>,
        aligned: bool,
        m: u32,
    ) -> Flow {
        let lead = Warp::lead(m);
        if aligned {
            if !w.gather(m, w.alive(), true) {
                return Flow::Moved;
            }
            if m != !w.absent {
                let text = format!("an aligned barrier reached by lanes {m:#010x} of {:#010x}", !w.absent);
                self.report(w, lead, FindingKind::DivergentBarrier, None, text);
            }
            w.forced = false;
        }
        let id = w.regs.r[id as usize][lead];
        if id >= 16 {
            self.report(w, lead, FindingKind::InvalidOperand, None, format!("barrier {id}; a CTA has 16"));
            return Flow::Next;
        }
        let count = count.map(|row| w.regs.r[row as usize][lead]);
        if let Some(c) = count
            && (c == 0 || c % 32 != 0)
        {
            self.report(
                w,
                lead,
                FindingKind::InvalidOperand,
                None,
                format!("barrier thread count {c} is not a multiple of 32"),
            );
        }
        let cta = &mut self.ctas[w.cta];
        let missing = cta.threads - cta.live;
        let bar = &mut cta.bars[id as usize];
        if bar.arrived > 0 && bar.count != count {
            let text = format!("barrier {id} expects {:?} threads here and {:?} where others wait", count, bar.count);
            self.report(w, lead, FindingKind::InvalidOperand, None, text);
        } else if count.is_none() && missing > 0 {
            let text = format!("{missing} threads of the CTA have exited without reaching barrier {id}");
            self.report(w, lead, FindingKind::ExitedBeforeBarrier, None, text);
        }
        let bar = &mut self.ctas[w.cta].bars[id as usize];
        if bar.arrived == 0 {
            *bar = Barrier { count, and: true, ..Barrier::default() };
        }
        // With a count, a warp counts as a whole.
        bar.arrived += if count.is_some() { 32 } else { m.count_ones() };
        bar.members.push(w.index);
        let votes = |(p, neg): (u32, bool)| (if neg { !w.regs.p[p as usize] } else { w.regs.p[p as usize] }) & m;
        match mode {
            BarMode::Sync | BarMode::Arrive => {}
            BarMode::Popc(_, p) | BarMode::And(_, p) | BarMode::Or(_, p) => {
                let v = votes(p);
                bar.popc += v.count_ones();
                bar.and &= v == m;
                bar.or |= v != 0;
                bar.results.push((w.index, mode, m));
            }
        }
        if let Some(c) = &mut self.counters {
            c.barrier(w.pc);
        }
        self.arrive_clock(w);
        self.released.push((w.cta, id));
        if matches!(mode, BarMode::Arrive) {
            return Flow::Next;
        }
        w.park(m, Wait::Bar(id));
        Flow::Moved
    }

    /// Ends a barrier phase if all expected threads are there.
    pub(crate) fn try_release(&mut self, cta: usize, id: u32) {
        let live = self.ctas[cta].live;
        let bar = &mut self.ctas[cta].bars[id as usize];
        if bar.arrived == 0 || bar.arrived < bar.expected(live) {
            return;
        }
        let bar = std::mem::take(bar);
        for (index, mode, m) in &bar.results {
            let regs = &mut self.warps[*index].regs;
            match *mode {
                BarMode::Popc(d, _) => u32::put(regs, d, &[bar.popc; LANES], *m),
                BarMode::And(d, _) => bool::put(regs, d, &[bar.and; LANES], *m),
                BarMode::Or(d, _) => bool::put(regs, d, &[bar.or; LANES], *m),
                BarMode::Sync | BarMode::Arrive => {}
            }
        }
        let mut waiting = Vec::new();
        for w in self.warps.iter_mut().filter(|w| w.cta == cta) {
            for g in &mut w.groups {
                if g.wait == Wait::Bar(id) {
                    g.wait = Wait::Ready;
                    g.pc += 1;
                    waiting.push(w.index);
                }
            }
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.join(&bar.members, &waiting);
        }
    }

    /// Threads left while others wait at a barrier that counts the whole CTA.
    pub(crate) fn exited_at_barrier(&mut self, w: &Warp, m: u32, id: u32) {
        let bar = &self.ctas[w.cta].bars[id as usize];
        if bar.count.is_none() && bar.arrived > 0 {
            let text = format!("the thread exits while {} threads of its CTA wait at barrier {id}", bar.arrived);
            let pc = w.pc - 1;
            self.report_at(w, pc, Warp::lead(m), FindingKind::ExitedBeforeBarrier, None, text);
        }
    }

    pub(crate) fn cluster_arrive(&mut self, w: &mut Warp, aligned: bool, m: u32) -> Flow {
        if aligned && !w.gather(m, w.alive(), true) {
            return Flow::Moved;
        }
        w.forced = false;
        if w.cluster_arrived & m != 0 {
            let text = "arrives at the cluster barrier twice without a wait between".to_string();
            self.report(w, Warp::lead(m), FindingKind::InvalidOperand, None, text);
        }
        w.cluster_arrived |= m;
        self.cluster_arrived += m.count_ones();
        self.arrive_clock(w);
        // The phase that this warp's wait must see end.
        w.cluster_wait = self.cluster_phase;
        if let Some(c) = &mut self.counters {
            c.barrier(w.pc);
        }
        self.cluster_members.push(w.index);
        w.pc += 1;
        self.cluster_check();
        Flow::Moved
    }

    pub(crate) fn cluster_wait(&mut self, w: &mut Warp, aligned: bool, m: u32) -> Flow {
        if aligned && !w.gather(m, w.alive(), true) {
            return Flow::Moved;
        }
        w.forced = false;
        if self.cluster_phase != w.cluster_wait {
            w.cluster_arrived &= !m;
            let members = self.cluster_last.clone();
            if let Some(clocks) = &mut self.clocks {
                clocks.join(&members, &[w.index]);
            }
            return Flow::Next;
        }
        w.park(m, Wait::Cluster(w.cluster_wait));
        Flow::Moved
    }

    /// Ends the cluster phase when every live thread has arrived.
    pub(crate) fn cluster_check(&mut self) {
        let live: u32 = self.ctas.iter().map(|c| c.live).sum();
        if self.cluster_arrived == 0 || self.cluster_arrived < live {
            return;
        }
        self.cluster_arrived = 0;
        self.cluster_last = std::mem::take(&mut self.cluster_members);
        self.cluster_phase = self.cluster_phase.wrapping_add(1);
        for w in &mut self.warps {
            for g in &mut w.groups {
                if let Wait::Cluster(_) = g.wait {
                    g.wait = Wait::Ready;
                }
            }
        }
    }
}
