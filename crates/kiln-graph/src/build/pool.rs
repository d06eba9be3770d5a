//! Pooling over sliding windows.

use super::Builder;
use crate::{BinaryOp, Dim, Op, ReduceOp, Result, ValueId, WindowSpec};

/// Geometry of a pooling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The windows, one entry a spatial axis.
    pub spec: WindowSpec,
    /// Round the number of windows up: the last may reach past the padding, but must start before it.
    pub ceil_mode: bool,
}

impl Builder {
    /// Maximum over windows of the trailing axes.
    pub fn max_pool(&mut self, x: ValueId, pool: &Pool) -> Result<ValueId> {
        let spec = self.rounded_up(x, pool)?;
        self.window(ReduceOp::Max, x, spec)
    }

    /// Mean over windows of the trailing axes. Padding counts as elements only if `count_include_pad`.
    pub fn avg_pool(&mut self, x: ValueId, pool: &Pool, count_include_pad: bool) -> Result<ValueId> {
        let spec = self.rounded_up(x, pool)?;
        let overhang = spec.pads != pool.spec.pads;
        let padded = spec.pads.iter().any(|&p| p != (0, 0));
        self.widened(x, |b, x| {
            let sum = b.window(ReduceOp::Sum, x, spec.clone())?;
            if !padded || (count_include_pad && !overhang) {
                let taps: f64 = spec.window.iter().map(|&w| w as f64).product();
                return b.binary_scalar(BinaryOp::Div, sum, taps);
            }
            // Windows differ in how many elements they see: count them by pooling ones.
            let first = b.rank(x) - spec.window.len();
            let shape = b.shape(x)[first..].to_vec();
            let one = b.scalar(b.dtype(x), 1.0)?;
            let mut ones = b.broadcast_to(one, &shape)?;
            let mut count_spec = spec;
            if count_include_pad {
                let low: Vec<Dim> = pool.spec.pads.iter().map(|p| Dim::from(p.0)).collect();
                let high: Vec<Dim> = pool.spec.pads.iter().map(|p| Dim::from(p.1)).collect();
                ones = b.pad_with(ones, one, &low, &high, &vec![0; shape.len()])?;
                for (own, given) in count_spec.pads.iter_mut().zip(&pool.spec.pads) {
                    *own = (own.0 - given.0, own.1 - given.1);
                }
            }
            let count = b.window(ReduceOp::Sum, ones, count_spec)?;
            b.div(sum, count)
        })
    }

    /// The window reduction primitive.
    pub fn window(&mut self, op: ReduceOp, x: ValueId, spec: WindowSpec) -> Result<ValueId> {
        self.add1(Op::WindowReduce { op, spec }, &[x])
    }

    /// Mean of the spatial axes of `x[N, C, ..]`, kept with extent 1.
    pub fn global_avg_pool(&mut self, x: ValueId) -> Result<ValueId> {
        let axes: Vec<i64> = (2..self.rank(x) as i64).collect();
        self.mean(x, &axes, true)
    }

    /// Maximum of the spatial axes of `x[N, C, ..]`, kept with extent 1.
    pub fn global_max_pool(&mut self, x: ValueId) -> Result<ValueId> {
        let axes: Vec<i64> = (2..self.rank(x) as i64).collect();
        self.reduce_max(x, &axes, true)
    }

    /// The windows with `ceil_mode` turned into padding after the axis.
    fn rounded_up(&self, x: ValueId, pool: &Pool) -> Result<WindowSpec> {
        let mut spec = pool.spec.clone();
        let n = spec.window.len();
        let lists = [spec.strides.len(), spec.pads.len(), spec.dilations.len()];
        if n > self.rank(x) || lists.iter().any(|&l| l != n) || spec.strides.contains(&0) || spec.window.contains(&0) {
            let message =
                format!("{n} window axes with {lists:?} strides, pads and dilations do not fit {}", self.ty(x));
            return self.fail("pool", message);
        }
        if !pool.ceil_mode {
            return Ok(spec);
        }
        let first = self.rank(x) - n;
        for a in 0..n {
            let (stride, pads) = (spec.strides[a], spec.pads[a]);
            let span = spec.dilations[a].saturating_mul(spec.window[a] - 1).saturating_add(1);
            let extent = &self.shape(x)[first + a];
            if let Some(d) = extent.as_const().and_then(|d| usize::try_from(d).ok()) {
                let padded = d.saturating_add(pads.0).saturating_add(pads.1);
                let Some(room) = padded.checked_sub(span) else { continue };
                let mut steps = room.div_ceil(stride);
                if steps.saturating_mul(stride) >= d.saturating_add(pads.0) {
                    steps -= 1;
                }
                let overhang = steps.saturating_mul(stride).saturating_sub(room);
                spec.pads[a].1 = pads.1.saturating_add(overhang);
            } else if stride.saturating_add(pads.1) <= span {
                // No window can start in the padding, so rounding up is plain padding by what rounding down drops.
                spec.pads[a].1 += stride - 1;
            } else {
                let message = format!(
                    "ceil_mode over the symbolic extent {extent} needs stride + end padding <= window span, found {stride} + {} > {span}",
                    pads.1
                );
                return self.fail("pool", message);
            }
        }
        Ok(spec)
    }
}
