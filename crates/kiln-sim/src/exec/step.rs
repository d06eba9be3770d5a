//! The instruction loop of a warp.

use super::cluster::Cluster;
use super::regs::Lane;
use super::warp::{Wait, Warp};
use crate::check::FindingKind;
use crate::decode::{Clock, FenceKind, Inst, Op, Reg};

/// Where a warp goes after an instruction.
#[derive(PartialEq, Eq, Clone, Copy)]
pub(crate) enum Flow {
    Next,
    /// The PC is already right, or the group was parked.
    Moved,
}

impl Inst {
    /// The lanes of the running group that the guard lets through.
    #[inline(always)]
    fn active(&self, w: &Warp) -> u32 {
        if self.guard == Self::NO_GUARD {
            return w.mask;
        }
        let p = w.regs.p[self.guard as usize];
        w.mask & if self.negate { !p } else { p }
    }
}

impl Cluster<'_> {
    /// Runs up to `quantum` instructions and returns how many.
    pub(crate) fn run_warp(&mut self, w: &mut Warp, quantum: u64) -> u64 {
        let insts: &[Inst] = &self.run.program.insts;
        let counting = self.counters.is_some();
        let watching = self.run.options.checks.uninitialized && !self.run.program.watched.bytes.is_empty();
        let mut left = quantum;
        while left > 0 {
            if (!w.groups.is_empty() || w.mask == 0) && !w.select() {
                break;
            }
            let inst = &insts[w.pc as usize];
            let m = inst.active(w);
            left -= 1;
            if counting && let Some(c) = &mut self.counters {
                c.issue(w.pc, m, w.alive());
            }
            let busy = w.wgmma.busy();
            if busy {
                self.wgmma_registers(w, m);
            }
            if watching {
                self.watched_registers(w, &inst.op, m);
            }
            match &inst.op {
                Op::Alu(f) => {
                    if m != 0 {
                        f(&mut w.regs, m);
                    }
                    w.pc += 1;
                    if counting || watching || busy {
                        continue;
                    }
                    // Arithmetic moves no lane, so that more of it needs nothing else of this loop.
                    for inst in insts[w.pc as usize..].iter().take(left as usize) {
                        let Op::Alu(f) = &inst.op else { break };
                        let m = inst.active(w);
                        if m != 0 {
                            f(&mut w.regs, m);
                        }
                        w.pc += 1;
                        left -= 1;
                    }
                }
                Op::Bra(target) => w.branch(m, *target),
                op => {
                    if m == 0 || self.step(w, op, m) == Flow::Next {
                        w.pc += 1;
                    }
                    if w.done() {
                        break;
                    }
                }
            }
        }
        quantum - left
    }

    /// Executes anything but arithmetic and plain branches on the lanes of `m`.
    fn step(&mut self, w: &mut Warp, op: &Op, m: u32) -> Flow {
        match op {
            Op::Alu(_) | Op::Bra(_) | Op::Nop => {}
            Op::BraIdx { index, targets } => {
                let at = u32::get(&w.regs, *index);
                let pc = w.pc;
                let rest = w.mask & !m;
                let mut groups: Vec<(u32, u32)> = Vec::new();
                for lane in lanes(m) {
                    let Some(target) = targets.get(at[lane] as usize) else {
                        self.report(
                            w,
                            lane,
                            FindingKind::InvalidOperand,
                            None,
                            format!("brx.idx index {} of {} targets", at[lane], targets.len()),
                        );
                        return self.exit(w, m);
                    };
                    match groups.iter_mut().find(|(t, _)| t == target) {
                        Some((_, mask)) => *mask |= 1 << lane,
                        None => groups.push((*target, 1 << lane)),
                    }
                }
                if rest != 0 {
                    groups.push((pc + 1, rest));
                }
                let mut groups = groups.into_iter();
                if let Some((pc, mask)) = groups.next() {
                    (w.pc, w.mask) = (pc, mask);
                }
                w.groups.extend(groups.map(|(pc, mask)| super::warp::Group { pc, mask, wait: Wait::Ready }));
                return Flow::Moved;
            }
            Op::Exit => return self.exit(w, m),
            Op::Trap => {
                self.report(w, Warp::lead(m), FindingKind::Trap, None, "trap or failed assertion".into());
                return self.exit(w, m);
            }
            Op::Clock { dst, kind } => {
                // Two cycles an instruction: monotonic and the same on every run.
                let now = self.counters.as_ref().map_or(0, |c| c.issued()) * 2 + w.executed * 2 + u64::from(w.pc);
                let v = match kind {
                    Clock::Hi => now >> 32,
                    Clock::Lo | Clock::Full => now,
                };
                match dst {
                    Reg::R(row) => u32::put(&mut w.regs, *row, &[v as u32; 32], m),
                    Reg::D(row) => u64::put(&mut w.regs, *row, &[v; 32], m),
                    Reg::Q(_) | Reg::None => {}
                }
            }
            Op::Ld(mv) => self.load(w, mv, m),
            Op::St(mv) => self.store(w, mv, m),
            Op::Atom(a) => self.atomic(w, a, m),
            Op::Shfl { mode, dst, pred, src, b, c, mask } => {
                return self.shfl(w, *mode, [*dst, *src, *b, *c, *mask], *pred, m);
            }
            Op::Vote { mode, dst, src, mask } => return self.vote(w, *mode, *dst, *src, *mask, m),
            Op::Match { all, dst, pred, src, mask } => return self.match_lanes(w, *all, *dst, *pred, *src, *mask, m),
            Op::Redux { op, dst, src, mask } => return self.redux(w, *op, [*dst, *src, *mask], m),
            Op::ActiveMask { dst } => u32::put(&mut w.regs, *dst, &[m; 32], m),
            Op::Elect { dst, pred, mask } => return self.elect(w, *dst, *pred, *mask, m),
            Op::BarWarp { mask } => {
                let need = w.regs.r[*mask as usize][Warp::lead(m)];
                return if self.members(w, m, need) { Flow::Next } else { Flow::Moved };
            }
            Op::Bar { mode, id, count, aligned } => return self.bar(w, *mode, *id, *count, *aligned, m),
            Op::ClusterArrive { aligned } => return self.cluster_arrive(w, *aligned, m),
            Op::ClusterWait { aligned } => return self.cluster_wait(w, *aligned, m),
            Op::Fence(kind) => self.fence(w, *kind),
            Op::Matrix { copy, regs, trans, addr, space } => {
                return self.matrix_copy(w, *copy, regs, *trans, addr, *space, m);
            }
            Op::Movmatrix { dst, src } => return self.movmatrix(w, *dst, *src, m),
            Op::Mma(desc) => return self.mma(w, desc, m),
            Op::Wgmma(desc) => return self.wgmma(w, desc, m),
            Op::WgmmaFence => {}
            Op::WgmmaCommit => return self.wgmma_commit(w, m),
            Op::WgmmaWait(left) => return self.wgmma_wait(w, *left, m),
            Op::CpAsync { dst, src, size, src_size, ignore } => {
                self.cp_async(w, dst, src, *size, *src_size, *ignore, m)
            }
            Op::CpCommit => self.cp_commit(w, m),
            Op::CpWait(left) => self.cp_wait(w, *left, m),
            Op::CpWaitAll => {
                self.cp_commit(w, m);
                self.cp_wait(w, 0, m);
            }
            Op::CpMbarArrive { addr, noinc } => self.cp_mbar_arrive(w, addr, *noinc, m),
            Op::Mbar { op, addr } => return self.mbarrier(w, op, addr, m),
            Op::Bulk(b) => self.bulk(w, b, m),
            Op::SetMaxNReg { increase, count } => return self.set_max_registers(w, *increase, *count, m),
            Op::LaunchDependents => {
                let first = !std::mem::replace(&mut self.ctas[w.cta].launched_dependents, true);
                if let Some(c) = self.counters.as_mut().filter(|_| first) {
                    c.launch_dependents(w.pc);
                }
            }
            Op::Tensormap(t) => return self.tensormap(w, t, m),
            Op::BulkCommit => self.bulk_commit(w, m),
            Op::BulkWait { left, read } => self.bulk_wait(w, *left, *read, m),
        }
        Flow::Next
    }

    fn exit(&mut self, w: &mut Warp, m: u32) -> Flow {
        w.exited |= m;
        w.mask &= !m;
        w.pc += 1;
        let cta = &mut self.ctas[w.cta];
        cta.live -= m.count_ones();
        for id in 0..16 {
            if self.ctas[w.cta].bars[id].arrived > 0 {
                self.exited_at_barrier(w, m, id as u32);
                self.released.push((w.cta, id as u32));
            }
        }
        if w.alive() == 0 {
            self.drain(w);
            self.warpgroup_moved(w);
            self.register_changes_of_a_part(w);
        }
        self.cluster_check();
        Flow::Moved
    }

    fn fence(&mut self, w: &mut Warp, kind: FenceKind) {
        match kind {
            FenceKind::Gpu => self.grid_fence(),
            FenceKind::ProxyAsync => self.proxy_fence(w),
            FenceKind::Cta | FenceKind::Other => {}
        }
    }
}

/// Lanes of a mask, ascending.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(lane)
    })
}
