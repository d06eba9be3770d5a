//! Running reductions.

use super::parallel::{each, threads_for};
use super::{Context, Stage};
use crate::error::Result;
use crate::lower::Lowering;
use crate::program::Class;
use bytemuck::Pod;
use kiln_graph::{DType, ScanOp, ValueId};
use kiln_num::wrap_i64;

/// A scan along the middle of `[outer, extent, inner]`. Slots hold the dtype's class.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) op: ScanOp,
    pub(crate) class: Class,
    pub(crate) dtype: DType,
    pub(crate) x: usize,
    pub(crate) out: usize,
    pub(crate) outer: usize,
    pub(crate) extent: usize,
    pub(crate) inner: usize,
    pub(crate) exclusive: bool,
    pub(crate) reverse: bool,
    pub(crate) threads: usize,
}

impl Scan {
    pub(crate) fn run(&self, cx: Context<'_>) {
        let dtype = self.dtype;
        let unsigned = dtype == DType::U64;
        let (low, high) = dtype.int_range().unwrap_or((0, 0));
        let (identity_f, identity_i) = match self.op {
            ScanOp::Sum => (0.0, 0),
            ScanOp::Prod => (1.0, 1),
            ScanOp::Max => (f64::NEG_INFINITY, low as i64),
            ScanOp::Min => (f64::INFINITY, high as i64),
        };
        let float = |a: f64, b: f64| match self.op {
            ScanOp::Sum => a + b,
            ScanOp::Prod => a * b,
            ScanOp::Max => {
                if a > b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            ScanOp::Min => {
                if a < b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
        };
        let int = |a: i64, b: i64| {
            let v = match self.op {
                ScanOp::Sum => a.wrapping_add(b),
                ScanOp::Prod => a.wrapping_mul(b),
                ScanOp::Max if unsigned => (a as u64).max(b as u64) as i64,
                ScanOp::Min if unsigned => (a as u64).min(b as u64) as i64,
                ScanOp::Max => a.max(b),
                ScanOp::Min => a.min(b),
            };
            wrap_i64(dtype, v)
        };
        match self.class {
            // Narrow floats accumulate in f64, so that long sums stay accurate.
            Class::F32 => self.lines::<f32, f64>(&cx, identity_f, |a, x| float(a, f64::from(x)), |a| a as f32),
            Class::F64 => self.lines::<f64, f64>(&cx, identity_f, float, |a| a),
            Class::I32 => self.lines::<i32, i64>(&cx, identity_i, |a, x| int(a, i64::from(x)), |a| a as i32),
            Class::I64 => self.lines::<i64, i64>(&cx, identity_i, int, |a| a),
        }
    }

    fn lines<T: Pod + Sync + Send, A: Copy + Sync>(
        &self,
        cx: &Context<'_>,
        identity: A,
        step: impl Fn(A, T) -> A + Sync,
        store: impl Fn(A) -> T + Sync,
    ) {
        let x: &[T] = cx.slots[self.x].typed();
        let out = &cx.slots[self.out];
        let lines = self.outer * self.inner;
        each(cx.pool, threads_for(x.len(), self.threads), lines, |line| {
            let base = line / self.inner * self.extent * self.inner + line % self.inner;
            let mut sum = identity;
            for i in 0..self.extent {
                let i = if self.reverse { self.extent - 1 - i } else { i };
                let at = base + i * self.inner;
                let before = sum;
                sum = step(sum, x[at]);
                out.put(at, store(if self.exclusive { before } else { sum }));
            }
        });
    }
}

/// The stage of a running reduction.
pub(super) fn lower(
    low: &mut Lowering,
    v: ValueId,
    op: ScanOp,
    axis: usize,
    exclusive: bool,
    reverse: bool,
) -> Result<()> {
    let node = low.graph.producer(v);
    let class = Class::of(low.dtype(v));
    let shape = low.shape(v).to_vec();
    let x = low.dense_as(node.inputs[0], class.dtype())?;
    let (out, same) = low.result_as(v, class);
    let dtype = low.dtype(v);
    low.stages.push(Stage::Scan(Scan {
        op,
        class,
        dtype,
        x,
        out,
        outer: shape[..axis].iter().product(),
        extent: shape[axis],
        inner: shape[axis + 1..].iter().product(),
        exclusive,
        reverse,
        threads: low.threads,
    }));
    if !same {
        low.convert(out, class.dtype(), v, dtype, dtype);
    }
    Ok(())
}
