//! The state of a running cluster (usually one CTA) and its scheduler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::barrier::Barrier;
use super::buffer::Buffer;
use super::regs::{LANES, Row};
use super::warp::{Wait, Warp};
use crate::check::{Clocks, FindingKind, Findings, SharedShadow, UndefinedBytes};
use crate::counters::Counters;
use crate::decode::{Inst, MaskKind, Program, Source, Special};
use crate::launch::Options;

/// What all CTAs of a launch share.
pub(crate) struct Run<'a> {
    pub program: &'a Program,
    /// Allocations by ascending base.
    pub buffers: Vec<Arc<Buffer>>,
    /// Addresses of the module's variables.
    pub symbols: &'a [u64],
    pub params: Vec<u32>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    /// Dynamic shared bytes.
    pub dynamic: u32,
    pub options: &'a Options,
    /// Serialises atomics wider than a word.
    pub wide_atomics: Mutex<()>,
    pub executed: AtomicU64,
    /// When the launch's time is used up.
    pub deadline: Option<Instant>,
    pub stop: AtomicBool,
    pub sync: crate::check::GridSync,
    pub map_changes: Mutex<super::tensormap::MapChanges>,
    /// Undefined bytes of global memory.
    pub undefined: Mutex<UndefinedBytes>,
}

/// One CTA.
pub(crate) struct Cta {
    pub id: [u32; 3],
    pub shared: Vec<u32>,
    pub shadow: Option<SharedShadow>,
    pub bars: [Barrier; 16],
    /// Threads that have not exited.
    pub live: u32,
    pub threads: u32,
    /// Valid mbarriers by address.
    pub mbars: std::collections::BTreeSet<u32>,
    /// Registers in the pool of setmaxnreg, a thread of one warp.
    pub free_registers: u32,
    /// It has let the grids that depend on this one start.
    pub launched_dependents: bool,
}

/// A cluster in execution.
pub(crate) struct Cluster<'a> {
    pub run: &'a Run<'a>,
    pub ctas: Vec<Cta>,
    pub warps: Vec<Warp>,
    /// Barriers that may have become complete: (CTA, id).
    pub released: Vec<(usize, u32)>,
    /// mbarriers whose phase has ended: (CTA, address).
    pub woken: Vec<(usize, u32)>,
    /// Cluster barrier: threads arrived in this phase, and the phase.
    pub cluster_arrived: u32,
    pub cluster_phase: u32,
    /// Warps that arrived in this phase, and in the one that ended last.
    pub cluster_members: Vec<usize>,
    pub cluster_last: Vec<usize>,
    /// Bulk copies that have not landed.
    pub inflight: Vec<super::bulk::Job>,
    pub findings: Findings,
    /// Undefined bytes of shared and local memory.
    pub undefined: UndefinedBytes,
    pub counters: Option<Box<Counters>>,
    pub clocks: Option<Clocks>,
    pub rng: fastrand::Rng,
    /// Linear index of the first CTA, for cross-CTA checks.
    pub index: u64,
}

/// Instructions a warp runs before the next gets a turn.
const QUANTUM: u64 = 4096;

/// How a slice ended.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Slice {
    Done,
    /// Out of instructions; other clusters should get a turn.
    Yield,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(run: &'a Run<'a>, index: u64) -> Self {
        let [cx, cy, cz] = run.cluster;
        let per = cx * cy * cz;
        let clusters = [run.grid[0] / cx, run.grid[1] / cy, run.grid[2] / cz];
        let at = [
            (index % u64::from(clusters[0])) as u32,
            (index / u64::from(clusters[0]) % u64::from(clusters[1])) as u32,
            (index / u64::from(clusters[0]) / u64::from(clusters[1])) as u32,
        ];
        let threads = run.block.iter().product::<u32>();
        let bytes = run.program.shared + run.dynamic;
        let options = run.options;
        let mut ctas = Vec::new();
        let mut warps = Vec::new();
        for rank in 0..per {
            let in_cluster = [rank % cx, rank / cx % cy, rank / cx / cy];
            let id = std::array::from_fn(|i| at[i] * run.cluster[i] + in_cluster[i]);
            let tracked = options.checks.shared_races || options.checks.uninitialized || options.checks.async_copies;
            ctas.push(Cta {
                id,
                // Fresh shared memory holds whatever the last CTA left: NaNs show its use.
                shared: vec![u32::MAX; bytes.div_ceil(4) as usize],
                shadow: tracked.then(|| SharedShadow::new(bytes)),
                bars: Default::default(),
                live: threads,
                threads,
                mbars: Default::default(),
                free_registers: 0,
                launched_dependents: false,
            });
            for w in 0..threads.div_ceil(LANES as u32) {
                let lanes = (threads - w * 32).min(32);
                let present = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
                let mut warp = Warp {
                    mask: present,
                    exited: !present,
                    absent: !present,
                    cta: rank as usize,
                    id: w,
                    index: warps.len(),
                    local: vec![u32::MAX; run.program.frame as usize / 4 * LANES],
                    ..Warp::default()
                };
                fill(run, &mut warp, id, in_cluster, at, clusters, rank);
                warps.push(warp);
            }
        }
        // A tensor core for each warpgroup of kernels that use wgmma.
        let tensor_cores = if run.program.row_access.is_empty() { 0 } else { threads.div_ceil(128) * per };
        let clocks = options.checks.shared_races.then(|| Clocks::new(warps.len(), tensor_cores as usize));
        Cluster {
            run,
            ctas,
            warps,
            released: Vec::new(),
            woken: Vec::new(),
            cluster_arrived: 0,
            cluster_phase: 0,
            cluster_members: Vec::new(),
            cluster_last: Vec::new(),
            inflight: Vec::new(),
            findings: Findings::default(),
            undefined: UndefinedBytes::default(),
            counters: options.counters.then(|| Box::new(Counters::new(run.program.insts.len()))),
            clocks,
            rng: fastrand::Rng::with_seed(options.seed.unwrap_or(0) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            index,
        }
    }

    /// Runs up to about `limit` instructions.
    pub(crate) fn slice(&mut self, limit: u64) -> Slice {
        let fuzz = self.run.options.seed.is_some();
        let count = self.warps.len();
        let mut used = 0;
        loop {
            if let Some((kind, limit)) = self.exhausted(used) {
                self.give_up(kind, limit);
                self.run.executed.fetch_add(used, Relaxed);
                return Slice::Done;
            }
            let mut progressed = false;
            let first = if fuzz { self.rng.usize(..count) } else { 0 };
            for k in 0..count {
                let i = (first + k) % count;
                if self.warps[i].done() || !self.warps[i].runnable() {
                    continue;
                }
                progressed = true;
                let quantum = if fuzz { self.rng.u64(1..=256) } else { QUANTUM };
                let mut warp = std::mem::take(&mut self.warps[i]);
                let ran = self.run_warp(&mut warp, quantum);
                warp.executed += ran;
                used += ran;
                self.warps[i] = warp;
                self.settle();
                if !self.inflight.is_empty() {
                    self.land_copies(false);
                    self.settle();
                }
            }
            if self.warps.iter().all(Warp::done) {
                while self.land_copies(true) {}
                self.run.executed.fetch_add(used, Relaxed);
                return Slice::Done;
            }
            if !progressed && self.land_copies(true) {
                self.settle();
                continue;
            }
            if !progressed {
                self.deadlock();
                self.run.executed.fetch_add(used, Relaxed);
                return Slice::Done;
            }
            if used >= limit {
                self.run.executed.fetch_add(used, Relaxed);
                return Slice::Yield;
            }
            if self.run.stop.load(Relaxed) {
                return Slice::Done;
            }
        }
    }

    /// Delivers barrier completions to the warps that wait for them.
    fn settle(&mut self) {
        while let Some((cta, id)) = self.released.pop() {
            self.try_release(cta, id);
        }
        while let Some((cta, addr)) = self.woken.pop() {
            for w in &mut self.warps {
                for g in &mut w.groups {
                    if matches!(g.wait, Wait::Mbar { cta: c, addr: a, .. } if c as usize == cta && a == addr) {
                        g.wait = Wait::Ready;
                    }
                }
            }
        }
    }

    fn deadlock(&mut self) {
        let mut lines = Vec::new();
        let mut first = None;
        for w in &self.warps {
            for g in &w.groups {
                let inst = &self.run.program.insts[g.pc as usize];
                let what = match g.wait {
                    Wait::Ready => "ready".to_string(),
                    Wait::Sync { need, .. } => {
                        format!("a .sync instruction with member mask {need:#x}, lanes {:#x} here", g.mask)
                    }
                    Wait::Bar(id) => {
                        let bar = &self.ctas[w.cta].bars[id as usize];
                        format!(
                            "barrier {id} ({} of {} threads arrived)",
                            bar.arrived,
                            bar.expected(self.ctas[w.cta].live)
                        )
                    }
                    Wait::Cluster(_) => "the cluster barrier".to_string(),
                    Wait::Mbar { addr, parity, .. } => format!("the mbarrier at shared {addr:#x}, parity {parity}"),
                    Wait::Registers(count) => {
                        let free = self.ctas[w.cta].free_registers;
                        format!("{count} registers a thread, of which the pool of the CTA has {free} more to give")
                    }
                    Wait::Wgmma(group) => {
                        let missing: Vec<String> =
                            self.wgmma_missing(w, group).map(|(warp, _)| warp.to_string()).collect();
                        format!(
                            "wgmma-group {group} of its warpgroup, to which warps {} belong too",
                            missing.join(", ")
                        )
                    }
                };
                lines.push(format!(
                    "CTA {} warp {} at source line {} (PTX line {}) waits for {what}",
                    w.cta, w.id, inst.loc.1, inst.line
                ));
                first.get_or_insert((w.index, g.pc, Warp::lead(g.mask)));
            }
        }
        let Some((index, pc, lane)) = first else { return };
        let total = lines.len();
        lines.truncate(8);
        if total > lines.len() {
            lines.push(format!("and {} more", total - 8));
        }
        let warp = std::mem::take(&mut self.warps[index]);
        self.report_at(&warp, pc, lane, FindingKind::Deadlock, None, format!("no warp can run: {}", lines.join("; ")));
        self.warps[index] = warp;
    }

    /// Which limit of the launch is used up, if any, when this slice has executed `used` instructions.
    fn exhausted(&self, used: u64) -> Option<(FindingKind, String)> {
        let Run { options, executed, deadline, .. } = self.run;
        if executed.load(Relaxed) + used > options.budget {
            return Some((FindingKind::Budget, format!("{} warp instructions", options.budget)));
        }
        let limit = options.timeout.unwrap_or_default();
        deadline.is_some_and(|at| Instant::now() >= at).then(|| (FindingKind::Timeout, format!("{limit:?}")))
    }

    /// Stops the launch, and says where each warp of this cluster is.
    fn give_up(&mut self, kind: FindingKind, limit: String) {
        let Some(index) = self.warps.iter().position(|w| !w.done()) else { return };
        let text = format!("the launch takes more than {limit}: {}", self.positions());
        let warp = std::mem::take(&mut self.warps[index]);
        let (pc, mask) = warp.positions().next().unwrap_or_default();
        self.report_at(&warp, pc, Warp::lead(mask), kind, None, text);
        self.warps[index] = warp;
        self.run.stop.store(true, Relaxed);
    }

    /// Where each warp is, those at one place together.
    fn positions(&self) -> String {
        let mut places: BTreeMap<(usize, u32), Vec<u32>> = BTreeMap::new();
        for w in &self.warps {
            for (pc, _) in w.positions() {
                places.entry((w.cta, pc)).or_default().push(w.id);
            }
        }
        let line = |((cta, pc), warps): (&(usize, u32), &Vec<u32>)| {
            let inst = &self.run.program.insts[*pc as usize];
            let ids: Vec<String> = warps.iter().map(u32::to_string).collect();
            let (are, s) = if warps.len() == 1 { ("is", "") } else { ("are", "s") };
            let ids = ids.join(", ");
            format!("CTA {cta} warp{s} {ids} {are} at source line {} (PTX line {})", inst.loc.1, inst.line)
        };
        places.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    /// The thread of a lane.
    pub(crate) fn thread(&self, w: &Warp, lane: usize) -> [u32; 3] {
        let linear = w.id * 32 + lane as u32;
        let [x, y, _] = self.run.block;
        [linear % x, linear / x % y, linear / x / y]
    }

    /// Records a finding about a lane at a PC.
    pub(crate) fn report_at(
        &mut self,
        w: &Warp,
        pc: u32,
        lane: usize,
        kind: FindingKind,
        at: Option<(&'static str, u64)>,
        message: String,
    ) {
        let inst: &Inst = &self.run.program.insts[pc as usize];
        let thread = self.thread(w, lane);
        let block = self.ctas[w.cta].id;
        self.findings.add(kind, pc, inst, block, thread, at, message);
        if kind.fatal() {
            self.run.stop.store(true, Relaxed);
        }
    }

    /// Records a finding about a lane at the instruction being executed.
    pub(crate) fn report(
        &mut self,
        w: &Warp,
        lane: usize,
        kind: FindingKind,
        at: Option<(&'static str, u64)>,
        message: String,
    ) {
        self.report_at(w, w.pc, lane, kind, at, message);
    }
}

/// Sets the constant rows of a new warp.
fn fill(
    run: &Run<'_>,
    w: &mut Warp,
    ctaid: [u32; 3],
    in_cluster: [u32; 3],
    cluster: [u32; 3],
    clusters: [u32; 3],
    rank: u32,
) {
    let p = run.program;
    w.regs.r = vec![Row([0; LANES]); p.rows[0] as usize];
    w.regs.d = vec![Row([0; LANES]); p.rows[1] as usize];
    w.regs.p = vec![0; p.rows[2] as usize];
    w.defined = vec![[0; LANES]; p.watched.bytes.len()];
    let [bx, by, _] = run.block;
    let threads = run.block.iter().product::<u32>();
    let axis = |v: [u32; 3], a: u8| v.get(a as usize).copied().unwrap_or(0);
    for f in &p.fills {
        let lane_value = |lane: u32| -> u64 {
            let linear = w.id * 32 + lane;
            match &f.source {
                Source::Value(v) => *v,
                Source::Symbol(i, off) => run.symbols.get(*i as usize).copied().unwrap_or(0).wrapping_add(*off as u64),
                Source::DynamicShared(off) => (i64::from(p.shared) + off) as u64,
                Source::Special(s) => u64::from(match *s {
                    Special::Tid(a) => axis([linear % bx, linear / bx % by, linear / bx / by], a),
                    Special::Ntid(a) => axis(run.block, a),
                    Special::Ctaid(a) => axis(ctaid, a),
                    Special::Nctaid(a) => axis(run.grid, a),
                    Special::LaneId => lane,
                    Special::WarpId => w.id,
                    Special::NwarpId => threads.div_ceil(32),
                    Special::SmId | Special::GridId => 0,
                    Special::NsmId => 1,
                    Special::LaneMask(MaskKind::Eq) => 1 << lane,
                    Special::LaneMask(MaskKind::Lt) => (1 << lane) - 1,
                    Special::LaneMask(MaskKind::Le) => (2u64 << lane).wrapping_sub(1) as u32,
                    Special::LaneMask(MaskKind::Gt) => !((2u64 << lane).wrapping_sub(1) as u32),
                    Special::LaneMask(MaskKind::Ge) => !((1 << lane) - 1),
                    Special::ClusterId(a) => axis(cluster, a),
                    Special::NclusterId(a) => axis(clusters, a),
                    Special::ClusterCtaid(a) => axis(in_cluster, a),
                    Special::ClusterNctaid(a) => axis(run.cluster, a),
                    Special::ClusterCtarank => rank,
                    Special::ClusterNctarank => run.cluster.iter().product(),
                    Special::IsExplicitCluster => u32::from(run.cluster != [1, 1, 1]),
                    Special::TotalSmem => p.shared + run.dynamic,
                    Special::DynamicSmem => run.dynamic,
                    Special::WarpSize => LANES as u32,
                }),
            }
        };
        let values: [u64; LANES] = std::array::from_fn(|lane| lane_value(lane as u32));
        match f.file {
            0 => w.regs.r[f.row as usize] = Row(values.map(|v| v as u32)),
            1 => w.regs.d[f.row as usize] = Row(values),
            _ => w.regs.p[f.row as usize] = (0..LANES).fold(0, |m, i| m | u32::from(values[i] != 0) << i),
        }
    }
}
