//! The cost model of kernels that stream through memory.
//!
//! Memory is busy while enough bytes are on their way (Little's law: bandwidth times latency), which the CTAs that run at once must have asked
//! for; every access costs instructions beside the arithmetic on what it brings. Coefficients are [`kiln_target::Costs`].

use super::Subject;
use kiln_fuse::operations;
use kiln_graph::{Node, OpKind};
use kiln_target::{BlockResources, Estimate, Gpu, occupancy};
use kiln_tile::DType;

/// One kernel that streams.
pub struct Stream {
    /// CTAs.
    pub ctas: f64,
    /// Threads of each.
    pub threads: u32,
    /// 32-bit registers that a thread holds for elements.
    pub registers: u32,
    /// Bytes that a thread asks for before it waits.
    pub ahead: f64,
    /// Bytes that device memory moves.
    pub bytes: f64,
    /// Bytes that come again from the level-2 cache.
    pub cached: f64,
    /// Arithmetic operations.
    pub flops: f64,
    /// Accesses of threads to memory.
    pub accesses: f64,
    /// Steps of reductions across threads, over all threads.
    pub shuffles: f64,
    /// Times that the threads of one CTA wait for each other.
    pub barriers: f64,
    /// Times that the CTAs of one cluster do, for each doubling of their number.
    pub meetings: f64,
}

/// Registers of a thread for everything but elements.
const OVERHEAD: u32 = 24;

impl Stream {
    /// What it would cost.
    pub fn estimate(&self, gpu: &Gpu) -> Estimate {
        let costs = &gpu.costs;
        let block = BlockResources { threads: self.threads, registers: OVERHEAD + self.registers, shared_bytes: 0 };
        let resident = occupancy(gpu.arch, block).map_or(1, |o| o.blocks.max(1));
        let running = self.ctas.min(f64::from(resident * gpu.sms)).max(1.0);
        // A few SMs do not get all of it.
        let sms = running.min(f64::from(gpu.sms));
        let reached = sms * costs.l2_sm_bytes * gpu.clock_ghz * 1e9;
        let asked = running * f64::from(self.threads) * self.ahead.max(1.0);
        let bandwidth = (gpu.bandwidth_gbs * 1e9).min(reached).min(asked / costs.latency_seconds);
        let memory = self.bytes / bandwidth + self.cached / (bandwidth * costs.l2_factor).min(reached);
        let busy = sms / f64::from(gpu.sms);
        let operations = self.flops + costs.access_ops * self.accesses + costs.shuffle_ops * self.shuffles;
        let arithmetic = operations / (gpu.peak_ops(DType::F32, false) * busy);
        let turns = (self.ctas / running).max(1.0);
        let together = self.barriers * costs.barrier_seconds + self.meetings * costs.cluster_seconds;
        let waits = turns * (costs.latency_seconds + together);
        let overlapped = memory.max(arithmetic) + costs.overlap_loss * memory.min(arithmetic);
        // Of the turns that CTAs of an SM take, the last one's latency is seen; the others' run under each other.
        let beside = (running / f64::from(gpu.sms)).max(1.0);
        let seconds = gpu.costs.launch_seconds + overlapped + waits / beside;
        Estimate { seconds, bytes: self.bytes, flops: self.flops, launches: 1 }
    }
}

/// Bytes that an SM's shared memory moves in a cycle.
pub const SHARED_BYTES: f64 = 128.0;

/// Bytes of shared memory that threads read for a product of which each has a block of so many rows and columns, of elements of `size` bytes; a warp's
/// reads of one address are one.
pub fn block_bytes([rows, columns]: [f64; 2], threads: f64, depth: f64, size: f64) -> f64 {
    (rows + columns) * threads * depth * size / 4.0
}

/// Arithmetic operations of all nodes of a region but contractions; a reduction works on what it reads.
pub fn flops(subject: &Subject) -> f64 {
    let graph = &subject.region.graph;
    let of = |node: &Node| {
        let shapes = node.inputs.iter().chain(&node.outputs).map(|v| &graph.ty(*v).shape);
        operations(&node.op) * shapes.map(|shape| subject.count(shape)).fold(0.0, f64::max)
    };
    graph.nodes.iter().filter(|node| node.op.kind() != OpKind::Source).map(of).sum()
}
