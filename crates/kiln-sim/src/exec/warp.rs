//! A warp: its registers and the groups of lanes that are at different places of the program.
//!
//! Groups form at divergent branches; the group with the lowest PC runs and groups at the same PC merge, so
//! compiled code reconverges where its paths meet.

use std::collections::HashMap;

use super::regs::{LANES, Regs};

/// Why a group does not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    Ready,
    /// At a `.sync` instruction whose members `need` have not all arrived. A soft wait (an aligned barrier in
    /// diverged code) gives up when no other group can run.
    Sync {
        need: u32,
        soft: bool,
    },
    /// At CTA barrier `id`.
    Bar(u32),
    /// At a cluster barrier, waiting for this phase to end.
    Cluster(u32),
    /// At an mbarrier (CTA, shared address), until its phase is no longer the one of this parity.
    Mbar {
        cta: u32,
        addr: u32,
        parity: u32,
    },
    /// At a `wgmma.wait_group`, until the other warps of the warpgroup have committed as many groups.
    Wgmma(u32),
    /// At a `setmaxnreg.inc` to so many registers, until the CTA has them to give.
    Registers(u32),
}

/// Lanes at one PC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
}

/// One `cp.async` of one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy16 {
    pub lane: u8,
    pub size: u8,
    /// Bytes taken from the source; the rest is zero.
    pub valid: u8,
    /// CTA rank and shared address of the destination.
    pub cta: u32,
    pub dst: u32,
    pub src: u64,
    /// The data, if it was read at issue.
    pub early: Option<[u32; 4]>,
}

/// Committed copies of the lanes in `mask`.
#[derive(Clone, Debug, Default)]
pub(crate) struct CopyGroup {
    pub mask: u32,
    pub copies: Vec<Copy16>,
}

/// A warp.
#[derive(Default)]
pub(crate) struct Warp {
    pub regs: Regs,
    pub pc: u32,
    /// Lanes of the running group; 0 when all groups wait.
    pub mask: u32,
    pub groups: Vec<Group>,
    /// Lanes that have exited or never existed.
    pub exited: u32,
    /// Lanes that never existed.
    pub absent: u32,
    /// Index into the cluster's CTAs.
    pub cta: usize,
    /// Index in the CTA.
    pub id: u32,
    /// Index in the cluster.
    pub index: usize,
    /// Local memory, one frame a lane.
    pub local: Vec<u32>,
    /// Index of the allocation used last.
    pub last_buffer: usize,
    /// A soft wait was given up: the next barrier runs with what is there.
    pub forced: bool,
    /// Backward branches taken while other groups could run.
    pub back_edges: u32,
    /// Instructions for which the highest PC is preferred instead, to get out of a spin.
    pub rotate: u32,
    pub open_copies: Vec<Copy16>,
    pub copy_groups: Vec<CopyGroup>,
    pub wgmma: super::wgmma::State,
    /// Registers of a thread, once `setmaxnreg` has changed them.
    pub registers: Option<u32>,
    /// PC and time of each `setmaxnreg`.
    pub register_changes: Vec<(u32, u32)>,
    /// Bytes of each watched register that have been written, by lane.
    pub defined: Vec<[u16; LANES]>,
    pub bulk: super::bulk::State,
    /// Changes of tensor maps that it has acquired, by address.
    pub maps_acquired: HashMap<u64, u32>,
    /// Phase of the cluster barrier at this warp's last arrival.
    pub cluster_wait: u32,
    /// Lanes that have arrived at the cluster barrier and not yet waited.
    pub cluster_arrived: u32,
    /// Instructions executed.
    pub executed: u64,
}

/// Backward branches after which another group gets a turn.
const SPIN: u32 = 1024;

impl Warp {
    pub(crate) fn done(&self) -> bool {
        self.mask == 0 && self.groups.is_empty()
    }

    /// The PCs at which it has lanes, and those lanes.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (u32, u32)> {
        let running = (self.mask != 0).then_some((self.pc, self.mask));
        running.into_iter().chain(self.groups.iter().map(|g| (g.pc, g.mask)))
    }

    /// Lanes that exist and have not exited.
    pub(crate) fn alive(&self) -> u32 {
        !self.exited
    }

    /// Whether some group can run.
    pub(crate) fn runnable(&self) -> bool {
        self.mask != 0
            || self.groups.iter().any(|g| match g.wait {
                Wait::Ready => true,
                Wait::Sync { need, soft } => soft || need & !g.mask & !self.exited == 0,
                _ => false,
            })
    }

    /// Chooses the running group: merges groups at equal PCs, takes the lowest PC. False when none can run.
    pub(crate) fn select(&mut self) -> bool {
        // Merge into the running group.
        if self.mask != 0 {
            let (pc, mut mask) = (self.pc, self.mask);
            self.groups.retain(|g| {
                let same = g.pc == pc && matches!(g.wait, Wait::Ready | Wait::Sync { .. });
                if same {
                    mask |= g.mask;
                }
                !same
            });
            self.mask = mask;
        }
        let exited = self.exited;
        let ready = |g: &Group| match g.wait {
            Wait::Ready => true,
            Wait::Sync { need, .. } => need & !g.mask & !exited == 0,
            _ => false,
        };
        let high = self.rotate > 0;
        self.rotate = self.rotate.saturating_sub(1);
        let best = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, g)| ready(g))
            .min_by_key(|(_, g)| if high { !g.pc } else { g.pc });
        match best {
            Some((i, g)) => {
                let better = if high { g.pc > self.pc } else { g.pc < self.pc };
                if self.mask == 0 || better {
                    let g = self.groups.swap_remove(i);
                    if self.mask != 0 {
                        self.groups.push(Group { pc: self.pc, mask: self.mask, wait: Wait::Ready });
                    }
                    (self.pc, self.mask) = (g.pc, g.mask);
                    return self.select_merge();
                }
                true
            }
            None if self.mask != 0 => true,
            None => {
                // Nothing else can run: a soft wait goes on with the lanes it has.
                let soft = self.groups.iter().position(|g| matches!(g.wait, Wait::Sync { soft: true, .. }));
                match soft {
                    Some(i) => {
                        let g = self.groups.swap_remove(i);
                        (self.pc, self.mask) = (g.pc, g.mask);
                        self.forced = true;
                        self.select_merge()
                    }
                    None => false,
                }
            }
        }
    }

    fn select_merge(&mut self) -> bool {
        let (pc, mut mask) = (self.pc, self.mask);
        self.groups.retain(|g| {
            let same = g.pc == pc && matches!(g.wait, Wait::Ready | Wait::Sync { .. });
            if same {
                mask |= g.mask;
            }
            !same
        });
        self.mask = mask;
        true
    }

    /// A branch by the lanes of `taken`, the others falling through.
    pub(crate) fn branch(&mut self, taken: u32, target: u32) {
        if target <= self.pc && !self.groups.is_empty() {
            self.back_edges += 1;
            if self.back_edges > SPIN {
                self.back_edges = 0;
                self.rotate = SPIN;
            }
        }
        if taken == self.mask {
            self.pc = target;
        } else if taken == 0 {
            self.pc += 1;
        } else {
            self.groups.push(Group { pc: target, mask: taken, wait: Wait::Ready });
            self.mask &= !taken;
            self.pc += 1;
        }
    }

    /// Parks the lanes of `mask` at the present PC; the rest of the group goes on behind it.
    pub(crate) fn park(&mut self, mask: u32, wait: Wait) {
        self.groups.push(Group { pc: self.pc, mask, wait });
        self.mask &= !mask;
        self.pc += 1;
    }

    /// Whether a `.sync` instruction executed by `mask` has all its members here. If not, the group is parked. If
    /// so, lanes that the guard excludes are split off.
    pub(crate) fn gather(&mut self, mask: u32, need: u32, soft: bool) -> bool {
        if need & !mask & !self.exited == 0 || soft && self.forced {
            let rest = self.mask & !mask;
            if rest != 0 {
                self.groups.push(Group { pc: self.pc + 1, mask: rest, wait: Wait::Ready });
                self.mask = mask;
            }
            return true;
        }
        self.park(mask, Wait::Sync { need, soft });
        false
    }

    /// First lane of a mask.
    pub(crate) fn lead(mask: u32) -> usize {
        (mask.trailing_zeros() as usize).min(31)
    }
}
