//! The cost model of attention: the turns that SMs take, each as long as the steps of a tile, in which products and the softmax between them run
//! under each other or do not.

use super::Problem;
use super::config::Config;
use crate::families::cost::{SHARED_BYTES, block_bytes, flops};
use kiln_target::atoms::{MatrixType, MmaKind};
use kiln_target::{Estimate, Gpu, occupancy};
use kiln_tile::DType;

/// Operations outside the tensor cores for one score: a multiply-add, a power, a maximum, a sum, a conversion.
const SOFTMAX_OPS: f64 = 16.0;

/// Schedulers of an SM.
const SCHEDULERS: f64 = 4.0;

/// What an attention would cost.
pub fn estimate(problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
    let costs = &gpu.costs;
    let (subject, streamed) = (&problem.subject, &problem.streamed);
    let [bm, bn] = [config.bm, config.bn].map(f64::from);
    let [depth, columns] = problem.heads.map(|extent| f64::from(config.padded(extent)));
    let [rows, keys] = [&streamed.rows, &streamed.keys].map(|group| problem.size(group));
    // Of a row the keys up to its diagonal and from its window on, by whole tiles, on average.
    let bounds = &streamed.positions.bounds;
    let nearest = |last: bool| {
        let offsets = bounds.iter().filter(|bound| bound.last == last).map(|bound| subject.size(&bound.offset));
        offsets.map(|offset| if last { offset } else { -offset }).reduce(f64::min)
    };
    let (ahead, behind) = (nearest(true), nearest(false));
    let past = ahead.map_or(keys, |ahead| (rows / 2.0 + ahead + bm.max(bn) / 2.0).min(keys));
    let seen = behind.map_or(past, |behind| past.min(behind + ahead.unwrap_or(keys) + bm + bn));
    let sms = f64::from(gpu.sms);
    let parts = f64::from(config.parts);
    let tiles = problem.tiles(config) * parts;
    let resident = occupancy(gpu.arch, config.resources(problem)).map_or(1, |o| o.blocks.max(1));
    let resident = if config.persistent { 1.0 } else { f64::from(resident) };
    let together = (tiles / sms).clamp(1.0, resident).ceil();
    let turns = (tiles / (sms * together)).ceil();

    let machine = &problem.machine;
    let kind = config.kind(problem).unwrap_or(MmaKind::Fma);
    let types = [streamed.dtype, streamed.dtype, DType::F32].map(MatrixType::of);
    let best = match types {
        [Some(a), Some(b), Some(sum)] => machine.atoms.mma_atoms(a, b, sum).first().map(|atom| atom.kind),
        _ => None,
    };
    let share = if best == Some(MmaKind::Wgmma) && kind != MmaKind::Wgmma { costs.sync_share } else { 1.0 };
    // An SM has four schedulers, each with a tensor core and lanes of its own; a warp uses one.
    let schedulers = (f64::from(config.warps) * together / SCHEDULERS).min(1.0);
    let math = 2.0 * bm * bn * (depth + columns) / (gpu.peak_ops(streamed.dtype, true) * share * schedulers / sms);
    let clock = gpu.clock_ghz * 1e9;
    let size = f64::from(streamed.dtype.bits()) / 8.0;
    // Threads that multiply read their rows and columns, after they left the weights where others find them.
    let fetched = config.blocks(problem).map(|blocks| {
        let bytes =
            |block: [u32; 2], deep: f64| block_bytes(block.map(f64::from), 32.0 * f64::from(config.warps), deep, size);
        bytes(blocks[0], depth) + bytes(blocks[1], bn) + bm * bn * size
    });
    let math = math.max(fetched.unwrap_or(0.0) / SHARED_BYTES / clock);
    let threads = gpu.peak_ops(DType::F32, false) * schedulers / sms;
    let others = f64::from(problem.beside) * costs.access_ops;
    let softmax = bm * bn * (SOFTMAX_OPS + others) / threads;
    // Copies of threads cost them instructions.
    let elements = bn * (depth + columns);
    let copies = match (config.specialise, problem.direct()) {
        (true, _) => 0.0,
        (_, true) => elements * size / 16.0,
        _ => elements,
    };
    let copies = copies * costs.access_ops / threads;
    // More warpgroups have more to do under each other's products.
    let lost = costs.overlap_loss * 2.0 / (f64::from(config.warps) / 4.0).max(2.0);
    let (apart, overlapped) = (math + softmax, math.max(softmax) + lost * math.min(softmax));
    // What several CTAs do at a time overlaps by chance.
    let busy = match config.overlap {
        true => overlapped,
        // Threads that multiply do one thing after another.
        false if together > 1.0 && problem.tensor() => (apart + overlapped) / 2.0,
        false => apart,
    };
    let cached = elements * size / (costs.l2_sm_bytes * clock);
    let meetings = match (config.ping_pong, problem.tensor()) {
        (false, true) => 1.0,
        (true, _) => 2.0,
        (_, false) => 3.0,
    };
    let work = (busy + copies).max(cached) * together + costs.barrier_seconds * meetings;
    // What is brought when it is needed is waited for, twice a step, unless another CTA has something to do.
    let waits = if config.stages == 1 { 2.0 * costs.latency_seconds / together } else { 0.0 };
    // A step's operands are on their way while those before it are in work.
    let step = (work + waits).max(costs.latency_seconds / f64::from((config.stages - 1).max(1)));
    // Results that are not staged leave two at a time.
    let leave = if config.staged { 0.0 } else { bm * columns / 2.0 * costs.access_ops / threads };
    let steps = if bounds.is_empty() { (seen / bn).ceil() } else { (seen / bn).max(1.0) };
    let steps = if config.parts > 1 { (steps / parts).ceil() } else { steps };
    let tile = steps * step + costs.tile_seconds + leave;
    let bytes = subject.bytes();
    let memory = bytes / (gpu.bandwidth_gbs * 1e9 * (tiles / sms).min(1.0));
    let busy = turns * tile;
    let overlapped = busy.max(memory) + costs.overlap_loss * busy.min(memory);
    let seconds = costs.launch_seconds + costs.latency_seconds + overlapped;
    let flops = subject.work().matrix_ops + flops(subject);
    if config.parts == 1 {
        return Estimate { seconds, bytes, flops, launches: 1 };
    }
    // What the parts leave comes again from the level-2 cache, all of a row's at once.
    let left = problem.size(&streamed.rows) * problem.outer() * parts * columns * 4.0;
    let again = 2.0 * left / (gpu.bandwidth_gbs * 1e9 * costs.l2_factor);
    let seconds = seconds + costs.launch_seconds + 2.0 * costs.latency_seconds + again;
    Estimate { seconds, bytes, flops, launches: 2 }
}
