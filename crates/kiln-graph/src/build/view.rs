//! Slices, concatenation and padding.

use super::Builder;
use crate::{Dim, Op, Result, ValueId};

/// How [`Builder::pad`] fills.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// With a number.
    Constant(f64),
    /// With the mirror image, the edge not repeated.
    Reflect,
    /// With the nearest element.
    Edge,
    /// With the opposite end.
    Wrap,
}

impl std::str::FromStr for PadMode {
    type Err = String;

    /// Reads a mode as ONNX names them; `constant` fills with 0.
    fn from_str(word: &str) -> std::result::Result<PadMode, String> {
        Ok(match word {
            "constant" => PadMode::Constant(0.0),
            "reflect" => PadMode::Reflect,
            "edge" => PadMode::Edge,
            "wrap" => PadMode::Wrap,
            other => return Err(format!("expected one of constant, reflect, edge, wrap, found `{other}`")),
        })
    }
}

impl Builder {
    /// `out[i] = x[starts + i * steps]` for `i < sizes`.
    pub fn slice(&mut self, x: ValueId, starts: &[Dim], sizes: &[Dim], steps: &[i64]) -> Result<ValueId> {
        if self.shape(x) == sizes && starts.iter().all(|s| s.is(0)) && steps.iter().all(|&s| s == 1) {
            return Ok(x);
        }
        let op = Op::Slice { starts: starts.to_vec(), sizes: sizes.to_vec(), steps: steps.to_vec() };
        self.add1(op, &[x])
    }

    /// `size` elements of one axis from `start` in steps.
    pub fn slice_axis(&mut self, x: ValueId, axis: i64, start: &Dim, size: &Dim, step: i64) -> Result<ValueId> {
        let axis = self.axis(x, axis)?;
        let rank = self.rank(x);
        let mut starts = vec![Dim::from(0); rank];
        let mut sizes = self.shape(x).to_vec();
        let mut steps = vec![1; rank];
        starts[axis] = start.clone();
        sizes[axis] = size.clone();
        steps[axis] = step;
        self.slice(x, &starts, &sizes, &steps)
    }

    /// Python's `x[start:end:step]` on one axis: negative places count from the end, and both are clamped to the axis.
    pub fn slice_range(&mut self, x: ValueId, axis: i64, start: &Dim, end: &Dim, step: i64) -> Result<ValueId> {
        let a = self.axis(x, axis)?;
        let n = self.shape(x)[a].clone();
        if step == 0 {
            return self.fail("slice", format!("step on axis {a} is 0"));
        }
        // A forward walk may stand at 0..=n, a backward one at -1..=n-1.
        let shift = Dim::from(if step > 0 { 0i64 } else { -1 });
        let (low, high) = (shift.clone(), n.clone() + shift);
        let start = self.place(start, &n, &low, &high)?;
        let end = self.place(end, &n, &low, &high)?;
        let span = if step > 0 { end - start.clone() } else { start.clone() - end };
        let size = self.larger(&span.ceil_div(&Dim::from(step.unsigned_abs() as i64)), &Dim::from(0));
        self.slice_axis(x, a as i64, &start, &size, step)
    }

    /// A slice bound: counted from the end when negative, then clamped.
    fn place(&self, at: &Dim, n: &Dim, low: &Dim, high: &Dim) -> Result<Dim> {
        let (min, max) = at.bounds(&self.graph().symbols);
        let at = if max < 0 {
            at.clone() + n.clone()
        } else if min >= 0 {
            at.clone()
        } else {
            return self.fail("slice", format!("cannot tell whether the bound `{at}` counts from the end"));
        };
        Ok(self.larger(&self.smaller(&at, high), low))
    }

    /// The smaller of two extents, decided by the ranges of the symbols where possible.
    pub(super) fn smaller(&self, a: &Dim, b: &Dim) -> Dim {
        let (low, high) = (a.clone() - b.clone()).bounds(&self.graph().symbols);
        match () {
            () if high <= 0 => a.clone(),
            () if low >= 0 => b.clone(),
            () => a.minimum(b),
        }
    }

    /// The larger of two extents, decided by the ranges of the symbols where possible.
    pub(super) fn larger(&self, a: &Dim, b: &Dim) -> Dim {
        let (low, high) = (a.clone() - b.clone()).bounds(&self.graph().symbols);
        match () {
            () if high <= 0 => b.clone(),
            () if low >= 0 => a.clone(),
            () => a.maximum(b),
        }
    }

    /// Reverses an axis.
    pub fn flip(&mut self, x: ValueId, axis: i64) -> Result<ValueId> {
        let a = self.axis(x, axis)?;
        let n = self.shape(x)[a].clone();
        let start = n.clone() - Dim::from(1);
        self.slice_axis(x, axis, &start, &n, -1)
    }

    /// Moves elements along an axis by `shift`, those beyond the end to the start.
    pub fn roll(&mut self, x: ValueId, axis: i64, shift: &Dim) -> Result<ValueId> {
        let a = self.axis(x, axis)?;
        let n = self.shape(x)[a].clone();
        if n.is(0) || shift.is(0) {
            return Ok(x);
        }
        // floor(shift / n) turns more or less change nothing; an axis of nothing has no turns.
        let turn = self.larger(&n, &Dim::from(1));
        let shift = shift.clone() - shift.floor_div(&turn) * turn;
        let rest = self.larger(&(n.clone() - shift.clone()), &Dim::from(0));
        let end = self.slice_axis(x, axis, &rest, &(n.clone() - rest.clone()), 1)?;
        let start = self.slice_axis(x, axis, &Dim::from(0), &rest, 1)?;
        self.concat(&[end, start], axis)
    }

    /// The element at one place of an axis, which is removed. A negative place counts from the end.
    pub fn index_axis(&mut self, x: ValueId, axis: i64, at: i64) -> Result<ValueId> {
        let a = self.axis(x, axis)?;
        let start = if at < 0 { self.shape(x)[a].clone() + Dim::from(at) } else { Dim::from(at) };
        let y = self.slice_axis(x, axis, &start, &Dim::from(1), 1)?;
        self.squeeze(y, &[a as i64])
    }

    /// Joins along an axis.
    pub fn concat(&mut self, values: &[ValueId], axis: i64) -> Result<ValueId> {
        match values {
            [] => self.fail("concat", "needs at least one operand".into()),
            [one] => Ok(*one),
            [first, ..] => {
                let axis = self.axis(*first, axis)?;
                self.add1(Op::Concat { axis }, values)
            }
        }
    }

    /// Joins on a new axis.
    pub fn stack(&mut self, values: &[ValueId], axis: i64) -> Result<ValueId> {
        let parts = values.iter().map(|&v| self.unsqueeze(v, &[axis])).collect::<Result<Vec<_>>>()?;
        self.concat(&parts, axis)
    }

    /// Consecutive parts of an axis with these extents, which must add up to it.
    pub fn split(&mut self, x: ValueId, axis: i64, sizes: &[Dim]) -> Result<Vec<ValueId>> {
        let a = self.axis(x, axis)?;
        let total = sizes.iter().fold(Dim::from(0), |n, s| n + s.clone());
        let n = self.shape(x)[a].clone();
        self.agree(&n, &total, || format!("axis {a} and the sum of the parts it is split into"))?;
        let mut start = Dim::from(0);
        let mut parts = Vec::with_capacity(sizes.len());
        for size in sizes {
            parts.push(self.slice_axis(x, axis, &start, size, 1)?);
            start = start + size.clone();
        }
        Ok(parts)
    }

    /// `n` equal parts of an axis.
    pub fn split_evenly(&mut self, x: ValueId, axis: i64, n: usize) -> Result<Vec<ValueId>> {
        let a = self.axis(x, axis)?;
        if n == 0 {
            return self.fail("split", "needs at least one part".into());
        }
        let each = self.shape(x)[a].floor_div(&Dim::from(n));
        self.split(x, axis, &vec![each; n])
    }

    /// `n` parts of an axis, equal but for a smaller last one.
    pub fn chunk(&mut self, x: ValueId, axis: i64, n: usize) -> Result<Vec<ValueId>> {
        let a = self.axis(x, axis)?;
        if n == 0 {
            return self.fail("chunk", "needs at least one part".into());
        }
        let whole = self.shape(x)[a].clone();
        let each = whole.ceil_div(&Dim::from(n));
        let mut sizes = vec![each.clone(); n];
        sizes[n - 1] = whole - each * Dim::from(n - 1);
        self.split(x, axis, &sizes)
    }

    /// Padding of every axis by `low` before and `high` after. Negative amounts crop.
    pub fn pad(&mut self, x: ValueId, low: &[Dim], high: &[Dim], mode: PadMode) -> Result<ValueId> {
        let rank = self.rank(x);
        if low.len() != rank || high.len() != rank {
            return self
                .fail("pad", format!("expected {rank} amounts on each side, found {} and {}", low.len(), high.len()));
        }
        let x = self.crop(x, low, high)?;
        let positive = |d: &Dim| if d.as_const().is_some_and(|v| v < 0) { Dim::from(0) } else { d.clone() };
        let (low, high): (Vec<Dim>, Vec<Dim>) =
            (low.iter().map(positive).collect(), high.iter().map(positive).collect());
        if low.iter().chain(&high).all(|d| d.is(0)) {
            return Ok(x);
        }
        if let PadMode::Constant(value) = mode {
            let value = self.scalar(self.dtype(x), value)?;
            return self.pad_with(x, value, &low, &high, &vec![0; rank]);
        }
        let mut x = x;
        for a in 0..rank {
            x = self.pad_axis(x, a, &low[a], &high[a], mode)?;
        }
        Ok(x)
    }

    /// [`Op::Pad`] with a value operand.
    pub fn pad_with(
        &mut self,
        x: ValueId,
        value: ValueId,
        low: &[Dim],
        high: &[Dim],
        interior: &[i64],
    ) -> Result<ValueId> {
        if low.iter().chain(high).all(|d| d.is(0)) && interior.iter().all(|&i| i == 0) {
            return Ok(x);
        }
        self.add1(Op::Pad { low: low.to_vec(), high: high.to_vec(), interior: interior.to_vec() }, &[x, value])
    }

    /// Applies the negative amounts of a padding.
    fn crop(&mut self, x: ValueId, low: &[Dim], high: &[Dim]) -> Result<ValueId> {
        let cut = |d: &Dim| Dim::from(d.as_const().map_or(0, |v| (-v).max(0)));
        let starts: Vec<Dim> = low.iter().map(cut).collect();
        let sizes: Vec<Dim> =
            (0..low.len()).map(|a| self.shape(x)[a].clone() - starts[a].clone() - cut(&high[a])).collect();
        self.slice(x, &starts, &sizes, &vec![1; low.len()])
    }

    /// Non-constant padding of one axis, made of slices of it.
    fn pad_axis(&mut self, x: ValueId, axis: usize, low: &Dim, high: &Dim, mode: PadMode) -> Result<ValueId> {
        let n = self.shape(x)[axis].clone();
        let a = axis as i64;
        let one = Dim::from(1);
        let mut parts = Vec::with_capacity(3);
        for (amount, before) in [(low, true), (high, false)] {
            if !before {
                parts.push(x);
            }
            if amount.is(0) {
                continue;
            }
            let last = n.clone() - one.clone();
            let part = match (mode, before) {
                (PadMode::Reflect, true) => self.slice_axis(x, a, amount, amount, -1)?,
                (PadMode::Reflect, false) => self.slice_axis(x, a, &(last - one.clone()), amount, -1)?,
                (PadMode::Wrap, true) => self.slice_axis(x, a, &(n.clone() - amount.clone()), amount, 1)?,
                (PadMode::Wrap, false) => self.slice_axis(x, a, &Dim::from(0), amount, 1)?,
                (PadMode::Edge | PadMode::Constant(_), _) => {
                    let at = if before { Dim::from(0) } else { last };
                    let edge = self.slice_axis(x, a, &at, &one, 1)?;
                    let mut shape = self.shape(edge).to_vec();
                    shape[axis] = amount.clone();
                    self.broadcast_to(edge, &shape)?
                }
            };
            parts.push(part);
        }
        self.concat(&parts, a)
    }
}
