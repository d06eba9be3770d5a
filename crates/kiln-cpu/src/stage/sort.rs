//! The extreme elements along an axis, in order.

use super::parallel::{each, threads_for};
use super::{Context, Stage};
use crate::error::Result;
use crate::lower::Lowering;
use crate::program::Class;
use bytemuck::Pod;
use kiln_graph::{DType, ValueId};
use std::cmp::Ordering;

/// Top-k along the middle of `[outer, extent, inner]`. Slots hold the dtype's class.
#[derive(Debug)]
pub(crate) struct TopK {
    pub(crate) class: Class,
    pub(crate) unsigned: bool,
    pub(crate) x: usize,
    pub(crate) values: usize,
    pub(crate) indices: usize,
    pub(crate) outer: usize,
    pub(crate) extent: usize,
    pub(crate) inner: usize,
    pub(crate) k: usize,
    pub(crate) largest: bool,
    pub(crate) threads: usize,
}

impl TopK {
    pub(crate) fn run(&self, cx: Context<'_>) {
        match self.class {
            Class::F32 => self.lines::<f32>(&cx, float_order),
            Class::F64 => self.lines::<f64>(&cx, float_order),
            Class::I32 => self.lines::<i32>(&cx, Ord::cmp),
            Class::I64 if self.unsigned => self.lines::<i64>(&cx, |a, b| (*a as u64).cmp(&(*b as u64))),
            Class::I64 => self.lines::<i64>(&cx, Ord::cmp),
        }
    }

    fn lines<T: Pod + Sync>(&self, cx: &Context<'_>, order: impl Fn(&T, &T) -> Ordering + Sync) {
        let x: &[T] = cx.slots[self.x].typed();
        let (values, indices) = (&cx.slots[self.values], &cx.slots[self.indices]);
        let lines = self.outer * self.inner;
        each(cx.pool, threads_for(x.len() * 8, self.threads), lines, |line| {
            let (o, i) = (line / self.inner, line % self.inner);
            let value = |at: usize| x[(o * self.extent + at) * self.inner + i];
            let rank = |a: &usize, b: &usize| {
                let by = order(&value(*a), &value(*b));
                (if self.largest { by.reverse() } else { by }).then(a.cmp(b))
            };
            let mut ranked: Vec<usize> = (0..self.extent).collect();
            if self.k < self.extent && self.k > 0 {
                ranked.select_nth_unstable_by(self.k - 1, rank);
            }
            ranked.truncate(self.k);
            ranked.sort_unstable_by(rank);
            for (j, &at) in ranked.iter().enumerate() {
                let to = (o * self.k + j) * self.inner + i;
                values.put(to, value(at));
                indices.put(to, at as i64);
            }
        });
    }
}

/// NaN is above everything.
fn float_order<T: PartialOrd + Copy>(a: &T, b: &T) -> Ordering {
    #[allow(clippy::eq_op, reason = "NaN is the value unequal to itself")]
    a.partial_cmp(b).unwrap_or_else(|| (a != a).cmp(&(b != b)))
}

/// The stage of a top-k.
pub(super) fn lower(low: &mut Lowering, v: ValueId, axis: usize, largest: bool) -> Result<()> {
    let node = low.graph.producer(v);
    let [values, indices] = node.outputs[..] else {
        return Err(low.unsupported(node, "has two results".into()));
    };
    let class = Class::of(low.dtype(values));
    let shape = low.shape(node.inputs[0]).to_vec();
    let k = low.shape(values)[axis];
    if k > shape[axis] {
        let message = format!("k is {k}, and axis {axis} has only {} elements", shape[axis]);
        return Err(low.unsupported(node, message));
    }
    let x = low.dense_as(node.inputs[0], class.dtype())?;
    let (out, same) = low.result_as(values, class);
    let dtype = low.dtype(values);
    let indices = low.assign(indices);
    low.stages.push(Stage::TopK(TopK {
        class,
        unsigned: dtype == DType::U64,
        x,
        values: out,
        indices,
        outer: shape[..axis].iter().product(),
        extent: shape[axis],
        inner: shape[axis + 1..].iter().product(),
        k,
        largest,
        threads: low.threads,
    }));
    if !same {
        low.convert(out, class.dtype(), values, dtype, dtype);
    }
    Ok(())
}
