//! Stages: what a lowered region does, in order, over slots.

mod conv;
mod depthwise;
mod gemm;
mod grouped;
mod image;
mod index;
mod nest;
mod parallel;
mod scan;
mod sort;
mod window;

pub(crate) use conv::IntConv;
pub(crate) use depthwise::Depthwise;
pub(crate) use gemm::{Arithmetic, Form, MatMul, Strided};
pub(crate) use grouped::Grouped;
pub(crate) use image::{Image, LayOut};
pub(crate) use parallel::Pool;
pub(crate) use window::{Spatial, Window};

use crate::error::Result;
use crate::lower::{Lowering, Nest};
use crate::memory::Slot;
use index::{Gather, GatherElements, GatherNd, Pad, Place, Scatter};
use kiln_graph::{Op, ValueId};
use scan::Scan;
use sort::TopK;

/// What a stage may use while it runs.
pub(crate) struct Context<'a> {
    pub(crate) slots: &'a [Slot<'a>],
    /// Private scratch, aligned to 64 bytes.
    pub(crate) scratch: &'a mut [u8],
    /// Name of the region, for errors.
    pub(crate) region: &'a str,
    pub(crate) pool: Pool<'a>,
}

/// One step of a bound region.
#[derive(Debug)]
pub(crate) enum Stage {
    Copy { from: usize, to: usize },
    Nest(Box<Nest>),
    MatMul(Box<MatMul>),
    Grouped(Box<Grouped>),
    LayOut(LayOut),
    Depthwise(Box<Depthwise>),
    IntConv(IntConv),
    Window(Window),
    Gather(Gather),
    GatherElements(GatherElements),
    GatherNd(GatherNd),
    Scatter(Scatter),
    Pad(Pad),
    Place(Place),
    Scan(Scan),
    TopK(TopK),
}

impl Stage {
    /// Calls `f` with every slot it reads or writes.
    pub(crate) fn each_slot(&self, f: &mut dyn FnMut(usize)) {
        match self {
            Stage::Copy { from, to } => [*from, *to].into_iter().for_each(f),
            Stage::Nest(s) => s.program.accesses.iter().for_each(|a| f(a.slot)),
            Stage::MatMul(s) => {
                [s.a.slot, s.b.slot, s.out.slot].into_iter().for_each(&mut *f);
                s.tail.iter().flat_map(|t| &t.program.accesses).for_each(|a| f(a.slot));
            }
            Stage::Grouped(s) => {
                [s.product.a.slot, s.product.b.slot, s.product.out.slot, s.ends].into_iter().for_each(f);
            }
            Stage::LayOut(s) => [s.x, s.out].into_iter().for_each(f),
            Stage::Depthwise(s) => [s.x, s.w, s.out].into_iter().for_each(f),
            Stage::IntConv(s) => [s.x, s.w, s.out].into_iter().for_each(f),
            Stage::Window(s) => [s.x, s.out].into_iter().for_each(f),
            Stage::Gather(s) => [s.x, s.indices, s.out].into_iter().for_each(f),
            Stage::GatherElements(s) => [s.x, s.indices, s.out].into_iter().for_each(f),
            Stage::GatherNd(s) => [s.x, s.indices, s.out].into_iter().for_each(f),
            Stage::Scatter(s) => [s.x, s.indices, s.updates, s.out].into_iter().for_each(f),
            Stage::Pad(s) => [s.x, s.value, s.out].into_iter().for_each(f),
            Stage::Place(s) => s.parts.iter().map(|p| p.0).chain([s.out]).for_each(f),
            Stage::Scan(s) => [s.x, s.out].into_iter().for_each(f),
            Stage::TopK(s) => [s.x, s.values, s.indices].into_iter().for_each(f),
        }
    }

    /// Bytes of private scratch.
    pub(crate) fn scratch_bytes(&self) -> usize {
        match self {
            Stage::Nest(s) => s.scratch_bytes(),
            Stage::MatMul(s) => s.scratch_bytes(),
            Stage::Grouped(s) => s.product.scratch_bytes(),
            Stage::Depthwise(s) => s.scratch_bytes(),
            _ => 0,
        }
    }

    /// What it is called in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Stage::Copy { .. } => "copy",
            Stage::Nest(s) => s.name(),
            Stage::MatMul(s) => s.name(),
            Stage::Grouped(_) => "grouped gemm",
            Stage::LayOut(_) => "lay out",
            Stage::Depthwise(_) => "depthwise conv",
            Stage::IntConv(_) => "integer conv",
            Stage::Window(_) => "window",
            Stage::Gather(_) | Stage::GatherElements(_) | Stage::GatherNd(_) => "gather",
            Stage::Scatter(_) => "scatter",
            Stage::Pad(_) => "pad",
            Stage::Place(_) => "concat",
            Stage::Scan(_) => "scan",
            Stage::TopK(_) => "sort",
        }
    }

    pub(crate) fn run(&self, cx: Context<'_>) -> Result<()> {
        match self {
            Stage::Copy { from, to } => {
                let source = cx.slots[*from].bytes();
                cx.slots[*to].range_mut::<u8>(0, source.len()).copy_from_slice(source);
            }
            Stage::Nest(s) => s.run(cx),
            Stage::MatMul(s) => s.run(cx),
            Stage::Grouped(s) => s.run(cx)?,
            Stage::LayOut(s) => s.run(cx),
            Stage::Depthwise(s) => s.run(cx),
            Stage::IntConv(s) => s.run(cx),
            Stage::Window(s) => s.run(cx),
            Stage::Gather(s) => s.run(cx)?,
            Stage::GatherElements(s) => s.run(cx)?,
            Stage::GatherNd(s) => s.run(cx)?,
            Stage::Scatter(s) => s.run(cx)?,
            Stage::Pad(s) => s.run(cx),
            Stage::Place(s) => s.run(cx),
            Stage::Scan(s) => s.run(cx),
            Stage::TopK(s) => s.run(cx),
        }
        Ok(())
    }
}

/// Emits the stage of the op that defines `v`, if it is one that a single stage computes from dense operands.
pub(crate) fn lower(low: &mut Lowering, v: ValueId) -> Result<()> {
    let node = low.graph.producer(v);
    match &node.op {
        Op::WindowReduce { op, spec } => window::lower(low, v, *op, spec),
        Op::Pad { low: before, interior, .. } => index::pad(low, v, before, interior),
        Op::Concat { axis } => index::concat(low, v, *axis),
        Op::Gather { axis } => index::gather(low, v, *axis),
        Op::GatherElements { axis } => index::gather_elements(low, v, *axis),
        Op::GatherNd { batch_dims } => index::gather_nd(low, v, *batch_dims),
        Op::ScatterElements { axis, op } => index::scatter_elements(low, v, *axis, *op),
        Op::ScatterNd { op } => index::scatter_nd(low, v, *op),
        Op::Scan { op, axis, exclusive, reverse } => scan::lower(low, v, *op, *axis, *exclusive, *reverse),
        Op::TopK { axis, largest, .. } => sort::lower(low, v, *axis, *largest),
        _ => Err(low.unsupported(node, "has no CPU kernel".into())),
    }
}
