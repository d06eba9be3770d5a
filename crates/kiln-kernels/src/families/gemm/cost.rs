//! The cost model of products: the turns that SMs take, each as long as the slowest of what it does at the same time (Williams, "Roofline"; the
//! loss at the end of the last turn, "wave quantisation", is in NVIDIA's Deep Learning Performance Guide).

use super::Problem;
use super::config::{Config, Feed};
use crate::families::cost::flops;
use kiln_target::atoms::MmaKind;
use kiln_target::{Estimate, Gpu, occupancy};
use kiln_tile::passes::Machine;

/// Bytes that an SM's shared memory moves in a cycle.
const SHARED_BYTES: f64 = 128.0;

/// What a product would cost.
pub fn estimate(problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
    let costs = &gpu.costs;
    let [bm, bn, bk] = [config.bm, config.bn, config.bk].map(f64::from);
    let sms = f64::from(gpu.sms);
    let kind = problem.atom(config, &Machine::new(gpu.arch)).map_or(MmaKind::Fma, |atom| atom.kind);
    let tiles = problem.tiles(config) * f64::from(config.splits);
    let resident = occupancy(gpu.arch, config.resources(problem)).map_or(1, |o| o.blocks.max(1));
    let resident = if config.persistent { 1.0 } else { f64::from(resident) };
    // CTAs of one SM share it: a turn is that of as many as there are.
    let together = (tiles / sms).clamp(1.0, resident);
    let turns = (tiles / (sms * together.ceil())).ceil();
    let together = together.ceil();
    let steps = (problem.depth_size() / bk / f64::from(config.splits)).ceil().max(1.0);

    let share = if kind < problem.best && kind == MmaKind::Sync { costs.sync_share } else { 1.0 };
    let peak = gpu.peak_ops(problem.types[0], kind != MmaKind::Fma) * share / sms;
    let math = 2.0 * bm * bn * bk / peak;
    let clock = gpu.clock_ghz * 1e9;
    let shared = read_bytes(problem, config, kind) / SHARED_BYTES / clock;
    let step_bytes = f64::from(config.step_bytes(problem));
    let l2 = step_bytes / (costs.l2_sm_bytes * clock);
    // What threads load themselves costs instructions, and does not run under products.
    let narrow = |side: usize| {
        let tile = [bm, bn][side ^ usize::from(config.swap)] * bk;
        match problem.feeds[side] {
            Feed::Computed => tile,
            Feed::Registers => tile / 2.0,
            Feed::Narrow => tile / 8.0,
            Feed::Wide if config.specialise => 0.0,
            Feed::Wide => tile * f64::from(problem.types[side].bits()) / 128.0,
        }
    };
    let instructions = costs.access_ops * (narrow(0) + narrow(1)) / (gpu.peak_ops(kiln_tile::DType::F32, false) / sms);
    let busy = math.max(shared).max(l2);
    let ahead = f64::from(config.stages.saturating_sub(1).max(1));
    let step =
        ((busy * (1.0 + costs.pipeline_loss / ahead) + instructions) * together).max(costs.latency_seconds / ahead);
    let stored = bm * bn * f64::from(problem.stored_bytes.max(1)) / (gpu.bandwidth_gbs * 1e9 / sms);
    let tile = steps * step + stored * together + costs.tile_seconds;
    let parts = if config.splits > 1 {
        // Sums are written and read again, and a kernel adds them.
        let bytes = 2.0 * f64::from(config.splits) * problem.results() * f64::from(problem.sums.bits()) / 8.0;
        bytes / (gpu.bandwidth_gbs * 1e9 * costs.l2_factor) + gpu.launch_seconds + costs.latency_seconds
    } else {
        0.0
    };
    let bytes = problem.subject.bytes();
    let running = (tiles / sms).min(1.0);
    let memory = bytes / (gpu.bandwidth_gbs * 1e9 * running);
    let work = turns * tile;
    let overlapped = work.max(memory) + costs.overlap_loss * memory.min(costs.latency_seconds);
    let launches = if config.splits > 1 { 2 } else { 1 };
    let seconds = gpu.launch_seconds + costs.latency_seconds + overlapped + parts;
    Estimate { seconds, bytes, flops: problem.operations() + flops(&problem.subject), launches }
}

/// Bytes of shared memory that a CTA reads for a step.
fn read_bytes(problem: &Problem, config: &Config, kind: MmaKind) -> f64 {
    let [bm, bn, bk] = [config.bm, config.bn, config.bk].map(f64::from);
    let size = f64::from(problem.types[0].bits()) / 8.0;
    let warps = f64::from(config.warps);
    match kind {
        // Every warpgroup reads its rows, and all columns.
        MmaKind::Wgmma => (bm + bn * warps / 4.0) * bk * size,
        // Warps share the tile as squarely as may be.
        MmaKind::Sync => {
            let across = (warps * bn / bm).sqrt().clamp(1.0, warps);
            (bm * across + bn * warps / across) * bk * size
        }
        // A thread reads a row and a column of its block; a warp's reads of one address are one.
        MmaKind::Fma => {
            let block = (bm * bn / (32.0 * warps)).sqrt();
            2.0 * block * 32.0 * warps * bk * size / 4.0
        }
    }
}
