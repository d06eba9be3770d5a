//! Reductions, softmax and scans.

use super::Builder;
use crate::{ArgOp, Dim, Op, ReduceOp, Result, ScanOp, ValueId};

impl Builder {
    /// Reduces `axes` (negative from the end); with `keep` they stay with extent 1.
    pub fn reduce(&mut self, op: ReduceOp, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
        let axes = self.axes(x, axes)?;
        if axes.is_empty() {
            return Ok(x);
        }
        let kept: Vec<Dim> = self.kept_shape(x, &axes);
        let y = self.add1(Op::Reduce { op, axes }, &[x])?;
        if keep { self.reshape(y, &kept) } else { Ok(y) }
    }

    fn kept_shape(&self, x: ValueId, axes: &[usize]) -> Vec<Dim> {
        let one = Dim::from(1);
        self.shape(x).iter().enumerate().map(|(i, d)| if axes.contains(&i) { one.clone() } else { d.clone() }).collect()
    }

    /// Sum over `axes`.
    pub fn sum(&mut self, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
        self.reduce(ReduceOp::Sum, x, axes, keep)
    }

    /// Maximum over `axes`.
    pub fn reduce_max(&mut self, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
        self.reduce(ReduceOp::Max, x, axes, keep)
    }

    /// Arithmetic mean over `axes`; integers truncate.
    pub fn mean(&mut self, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let count = b.count(x, axes)?;
            let sum = b.sum(x, axes, keep)?;
            let n = b.dim_value(&count, b.dtype(x))?;
            b.div(sum, n)
        })
    }

    fn count(&self, x: ValueId, axes: &[i64]) -> Result<Dim> {
        Ok(self.axes(x, axes)?.into_iter().fold(Dim::from(1), |n, a| n * self.shape(x)[a].clone()))
    }

    /// Variance over `axes` with divisor `n - correction`.
    pub fn var(&mut self, x: ValueId, axes: &[i64], correction: i64, keep: bool) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let mean = b.mean(x, axes, true)?;
            let centred = b.sub(x, mean)?;
            let square = b.mul(centred, centred)?;
            let sum = b.sum(square, axes, keep)?;
            let n = b.count(x, axes)? - Dim::from(correction);
            let n = b.dim_value(&n, b.dtype(x))?;
            b.div(sum, n)
        })
    }

    /// Standard deviation over `axes`: the root of [`Builder::var`].
    pub fn std(&mut self, x: ValueId, axes: &[i64], correction: i64, keep: bool) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let var = b.var(x, axes, correction, keep)?;
            b.sqrt(var)
        })
    }

    /// `log(sum(exp(x)))` over `axes`, without overflow.
    pub fn logsumexp(&mut self, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let peak = b.reduce_max(x, axes, true)?;
            // An infinite peak would give inf - inf; subtracting 0 keeps the right limit.
            let infinite = b.is_inf(peak)?;
            let zero = b.scalar(b.dtype(x), 0.0)?;
            let shift = b.select(infinite, zero, peak)?;
            let shifted = b.sub(x, shift)?;
            let e = b.exp(shifted)?;
            let sum = b.sum(e, axes, true)?;
            let l = b.log(sum)?;
            let y = b.plus(l, shift)?;
            if keep { Ok(y) } else { b.squeeze(y, axes) }
        })
    }

    /// `exp(x - max) / sum(exp(x - max))` along `axis`.
    pub fn softmax(&mut self, x: ValueId, axis: i64) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let peak = b.reduce_max(x, &[axis], true)?;
            let shifted = b.sub(x, peak)?;
            let e = b.exp(shifted)?;
            let sum = b.sum(e, &[axis], true)?;
            // It is 1 or more; a division for every element would take longer than all else.
            let inverse = b.recip(sum)?;
            b.mul(e, inverse)
        })
    }

    /// `x - max - log(sum(exp(x - max)))` along `axis`.
    pub fn log_softmax(&mut self, x: ValueId, axis: i64) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let peak = b.reduce_max(x, &[axis], true)?;
            let shifted = b.sub(x, peak)?;
            let e = b.exp(shifted)?;
            let sum = b.sum(e, &[axis], true)?;
            let l = b.log(sum)?;
            b.sub(shifted, l)
        })
    }

    /// Index of the first largest element along `axis`, which is removed.
    pub fn argmax(&mut self, x: ValueId, axis: i64) -> Result<ValueId> {
        self.arg_reduce(ArgOp::Max, x, axis, false, false)
    }

    /// Index of an extreme along `axis`.
    pub fn arg_reduce(&mut self, op: ArgOp, x: ValueId, axis: i64, last: bool, keep: bool) -> Result<ValueId> {
        let axis = self.axis(x, axis)?;
        let kept = self.kept_shape(x, &[axis]);
        let y = self.add1(Op::ArgReduce { op, axis, last }, &[x])?;
        if keep { self.reshape(y, &kept) } else { Ok(y) }
    }

    /// Running sum along `axis`.
    pub fn cumsum(&mut self, x: ValueId, axis: i64, exclusive: bool, reverse: bool) -> Result<ValueId> {
        self.scan(ScanOp::Sum, x, axis, exclusive, reverse)
    }

    /// Running reduction along `axis`.
    pub fn scan(&mut self, op: ScanOp, x: ValueId, axis: i64, exclusive: bool, reverse: bool) -> Result<ValueId> {
        let axis = self.axis(x, axis)?;
        self.add1(Op::Scan { op, axis, exclusive, reverse }, &[x])
    }

    /// The `k` extreme elements along `axis` in order, and their indices.
    pub fn topk(&mut self, x: ValueId, axis: i64, k: &Dim, largest: bool) -> Result<(ValueId, ValueId)> {
        let axis = self.axis(x, axis)?;
        let r = self.add(Op::TopK { axis, k: k.clone(), largest }, &[x])?;
        Ok((r[0], r[1]))
    }
}
