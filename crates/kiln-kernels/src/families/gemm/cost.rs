//! The cost model of products: the turns that SMs take, each as long as the slowest of what it does at the same time (Williams, "Roofline"; the
//! loss at the end of the last turn, "wave quantisation", is in NVIDIA's Deep Learning Performance Guide), and the memory behind them, which
//! is as fast as what is asked of it at a time allows (Little's law).

use super::Problem;
use super::config::{Config, Depth, Feed};
use crate::families::cost::{SHARED_BYTES, block_bytes, flops};
use kiln_fuse::operations;
use kiln_graph::{Op, OpKind, ValueId};
use kiln_target::atoms::{MatrixType, MmaKind};
use kiln_target::{Estimate, Gpu, occupancy};
use kiln_tile::passes::Machine;
use std::collections::BTreeSet;

/// What a product would cost.
pub fn estimate(problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
    let operations = problem.operations() + flops(&problem.subject);
    if config.lanes > 0 {
        return Estimate { flops: operations, ..lanes(problem, config, gpu) };
    }
    let costs = &gpu.costs;
    let [bm, bn, bk] = [config.bm, config.bn, config.bk].map(f64::from);
    let sms = f64::from(gpu.sms);
    let atom = problem.atom(config, &Machine::new(gpu.arch));
    let kind = atom.map_or(MmaKind::Fma, |atom| atom.kind);
    let whole = (problem.depth_size() / bk).ceil().max(1.0);
    let (ctas, steps) = match config.depth {
        Depth::Stream(ctas) => (f64::from(ctas), (problem.tiles(config) * whole / f64::from(ctas)).ceil()),
        depth => {
            let parts = f64::from(depth.parts());
            (problem.tiles(config) * parts, (whole / parts).ceil().max(1.0))
        }
    };
    let resident = occupancy(gpu.arch, config.resources(problem)).map_or(1, |o| o.blocks.max(1));
    let resident = if config.persistent { 1.0 } else { f64::from(resident) };
    // CTAs of one SM share it: a turn is that of as many as there are, in whole clusters.
    let seats = f64::from((gpu.sms / config.ctas()).max(1) * config.ctas());
    let together = (ctas / seats).clamp(1.0, resident).ceil();
    let turns = (ctas / (seats * together)).ceil();

    let share = if kind < problem.best && kind == MmaKind::Sync { costs.sync_share } else { 1.0 };
    let peak = 1e12 * atom.map_or(gpu.rates.f32, |atom| rate(atom.a, gpu)) * share / sms;
    let math = f64::from(problem.contractions()) * 2.0 * bm * bn * bk / peak;
    let clock = gpu.clock_ghz * 1e9;
    let shared = read_bytes(problem, config, kind) / SHARED_BYTES / clock;
    let step_bytes = f64::from(config.step_bytes(problem));
    let l2 = (f64::from(config.asked_bytes(problem)) / costs.l2_sm_bytes).max(step_bytes / costs.sm_bytes) / clock;
    // What threads load themselves costs instructions, and does not run under products.
    let narrow = |side: usize| {
        let tile = f64::from(problem.operands(side)) * [bm, bn][side ^ usize::from(config.swap)] * bk;
        match problem.feeds[side] {
            Feed::Computed => tile,
            Feed::Registers => tile / 2.0,
            Feed::Narrow => tile / 8.0,
            Feed::Wide if config.specialise => 0.0,
            Feed::Wide => tile * f64::from(problem.types[side].bits()) / 128.0,
        }
    };
    // What is made of elements is made for every step of every CTA.
    let made = |side: usize| {
        let tile = [bm, bn][side ^ usize::from(config.swap)] * bk;
        let of = &problem.product.operands[side];
        if of.is_made() { tile * making(problem, of.value, costs.access_ops) } else { 0.0 }
    };
    let instructions = costs.access_ops * (narrow(0) + narrow(1)) + made(0) + made(1);
    let instructions = instructions / (gpu.peak_ops(kiln_tile::DType::F32, false) / sms);
    let busy = math.max(shared).max(l2);
    // Busy tensor cores slow the clocks of everything, where power is short.
    let clocks = if kind == MmaKind::Fma { 1.0 } else { 1.0 - (1.0 - costs.tensor_share) * (math / busy).powi(2) };
    let lost = if config.specialise { 0.0 } else { costs.overlap_loss * math.min(l2) };
    let busy = busy / clocks + lost;
    // A slot is free when all CTAs of a cluster have read theirs: one step less is on its way.
    let coupled = u32::from(config.ctas() > 1);
    let ahead = f64::from(config.stages.saturating_sub(1 + coupled).max(1));
    let step =
        ((busy * (1.0 + costs.pipeline_loss / ahead) + instructions) * together).max(costs.latency_seconds / ahead);
    // Boxes of narrow rows take more requests than whole lines.
    let line = f64::from(1 << (config.bn * problem.stored_bytes.max(1)).trailing_zeros().min(7));
    let boxes = if config.staged(problem) { 0.85 + 0.15 * 128.0 / line } else { 1.0 };
    let stored = boxes * bm * bn * f64::from(problem.stored_bytes.max(1)) / (gpu.bandwidth_gbs * 1e9 / sms);
    let (products, rest) = (steps * step, stored * together + costs.tile_seconds);
    // Of two tiles in turn one's products hide what the other has to do beside them.
    let work = match config.ping_pong {
        true => turns * products.max(rest) + rest,
        false => turns * (products + rest),
    };

    let bytes = problem.subject.bytes();
    // What several CTAs load comes from memory once: of what is on its way this share.
    let once = (bytes / (ctas * steps * step_bytes)).min(1.0);
    let asked = ctas.min(sms * together) * step_bytes * ahead * once;
    let memory = memory(bytes, asked, gpu);
    let overlapped = work.max(memory) + costs.overlap_loss * work.min(memory);

    let sums = f64::from(problem.contractions()) * bm * bn * f64::from(problem.sums.bits()) / 8.0;
    let turn = costs.handover_seconds + 2.0 * sums / (costs.l2_sm_bytes * clock);
    let (combined, launches) = match config.depth {
        Depth::Whole => (0.0, 1),
        // Sums are written and read again, and a kernel adds them.
        Depth::Parts(parts) => {
            let bytes = 2.0 * f64::from(parts) * problem.results() * f64::from(problem.sums.bits()) / 8.0;
            (bytes / (gpu.bandwidth_gbs * 1e9 * costs.l2_factor) + costs.launch_seconds + costs.handover_seconds, 2)
        }
        Depth::Turns(parts) => (f64::from(parts - 1) * turn, 1),
        // Its first tile waits for another CTA, its last is waited for.
        Depth::Stream(_) => (3.0 * turn, 1),
    };
    // Where a group ends comes from memory before its operands do.
    let found = if problem.groups.is_some() { costs.latency_seconds } else { 0.0 };
    // One CTA of a cluster may be half of its slots behind the other.
    let meetings = f64::from(coupled) * (costs.cluster_launch_seconds + f64::from(config.stages) / 2.0 * step);
    let seconds = costs.launch_seconds + costs.latency_seconds + found + overlapped + combined + meetings;
    Estimate { seconds, bytes, flops: operations, launches }
}

/// Operations to make an element of an operand, with the accesses to what it is made with, 16 bytes each.
fn making(problem: &Problem, operand: ValueId, access_ops: f64) -> f64 {
    let graph = &problem.subject.region.graph;
    let (mut open, mut seen) = (vec![operand], BTreeSet::new());
    let mut cost = 0.0;
    while let Some(v) = open.pop() {
        let node = graph.producer(v);
        if seen.insert(v) {
            cost += match node.op {
                Op::Broadcast { .. } => access_ops * f64::from(graph.ty(v).dtype.bits()) / 128.0,
                _ => operations(&node.op),
            };
            open.extend(node.inputs.iter().filter(|_| node.op.kind() == OpKind::Elementwise));
        }
    }
    cost
}

/// Peak of instructions on operands of a type, in 10^12 operations a second.
fn rate(of: MatrixType, gpu: &Gpu) -> f64 {
    match of {
        MatrixType::F64 => gpu.rates.f64,
        MatrixType::F32 | MatrixType::S32 => gpu.rates.f32,
        MatrixType::Tf32 => gpu.rates.tf32,
        MatrixType::F16 | MatrixType::BF16 => gpu.rates.f16,
        MatrixType::E4m3 | MatrixType::E5m2 => gpu.rates.f8,
        MatrixType::S8 | MatrixType::U8 => gpu.rates.i8,
    }
}

/// Time of memory for so many bytes of which so many are on their way at a time: its own, or the latency of each, whichever is longer; where
/// they are alike, more than either.
fn memory(bytes: f64, asked: f64, gpu: &Gpu) -> f64 {
    let peak = gpu.bandwidth_gbs * 1e9 * gpu.costs.memory_share;
    bytes / peak * 1f64.hypot(peak * gpu.costs.loaded_latency_seconds / asked.max(1.0))
}

/// Where operands meet in registers memory is most of it.
fn lanes(problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
    let costs = &gpu.costs;
    let [few, many] = config.sides();
    // Of an element of all operands on a side.
    let size = |side: usize| f64::from(problem.operands(side) * problem.types[side].bits()) / 8.0;
    let contractions = f64::from(problem.contractions());
    let [bm, bn, bk, lanes, threads] = [config.bm, config.bn, config.bk, config.lanes, config.threads()].map(f64::from);
    let (ctas, sms) = (problem.tiles(config), f64::from(gpu.sms));
    let steps = (problem.depth_size() / bk).ceil();
    let resident = occupancy(gpu.arch, config.resources(problem)).map_or(1, |o| o.blocks.max(1));
    let seats = f64::from(resident) * sms;
    let running = ctas.min(seats);
    let bytes = problem.subject.bytes();
    // The last CTAs may be too few to keep memory busy.
    let turn = |running: f64| memory(bytes * running / ctas, running * bn * bk * size(many), gpu);
    let memory = (ctas / seats).floor() * turn(seats) + turn(ctas % seats);
    // A conversion, and a multiplication and addition for each row; loads; shuffles within warps.
    let loads = (bn * size(many) + bm * size(few) * threads / lanes) * bk / 16.0;
    let step = contractions * bn * bk * (1.0 + 2.0 * bm) + costs.access_ops * loads;
    let end = contractions * costs.shuffle_ops * bm * bn * lanes * lanes.min(32.0).log2();
    let busy = (ctas / sms).min(1.0);
    let work = ctas * (steps * step + end) / (gpu.peak_ops(kiln_tile::DType::F32, false) * busy);
    // CTAs that begin together load together and then multiply together; those that come later run under them.
    let alone = (running / ctas).max(costs.overlap_loss);
    let overlapped = work.max(memory) + alone * work.min(memory);
    // CTAs that come later begin under the others.
    let waits = costs.latency_seconds + if config.lanes > 32 { bm * costs.barrier_seconds } else { 0.0 };
    let waits = waits * (1.0 + (ctas / running - 1.0) / f64::from(resident));
    Estimate { seconds: costs.launch_seconds + overlapped + waits, bytes, flops: 0.0, launches: 1 }
}

/// Bytes of shared memory that a CTA reads for a step, and of what multiplies by itself those that are written.
fn read_bytes(problem: &Problem, config: &Config, kind: MmaKind) -> f64 {
    let [bm, bn, bk] = [config.bm, config.bn, config.bk].map(f64::from);
    let size = f64::from(problem.types[0].bits()) / 8.0;
    let warps = f64::from(config.warps);
    // Each contraction reads both of its operands.
    let contractions = f64::from(problem.contractions());
    match kind {
        // Every 64 rows are read with all columns; copies have written all tiles there.
        MmaKind::Wgmma => {
            let [rows, columns] = config.sides().map(|side| f64::from(problem.operands(side)));
            (contractions * (bm + bn * bm / 64.0) + rows * bm + columns * bn) * bk * size
        }
        // Warps share the tile as squarely as may be.
        MmaKind::Sync => {
            let across = (warps * bn / bm).sqrt().clamp(1.0, warps);
            contractions * (bm * across + bn * warps / across) * bk * size
        }
        MmaKind::Fma => {
            let block = (bm * bn / (32.0 * warps)).sqrt();
            contractions * block_bytes([block; 2], 32.0 * warps, bk, size)
        }
    }
}
