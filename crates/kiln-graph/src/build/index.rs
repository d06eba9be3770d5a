//! Gathers, scatters, and masks made of iotas.

use super::Builder;
use crate::{CompareOp, DType, Dim, Op, Requirement, Result, ScatterOp, ValueId};

impl Builder {
    /// Takes elements of `axis` at `idx`, whose shape replaces it.
    pub fn gather(&mut self, x: ValueId, idx: ValueId, axis: i64) -> Result<ValueId> {
        let axis = self.axis(x, axis)?;
        self.add1(Op::Gather { axis }, &[x, idx])
    }

    /// Rows of `table[V, D]` at `ids[..]`: `[.., D]`.
    pub fn embedding(&mut self, table: ValueId, ids: ValueId) -> Result<ValueId> {
        self.gather(table, ids, 0)
    }

    /// `out[i..] = x[i.. with i[axis] = idx[i..]]`.
    pub fn gather_elements(&mut self, x: ValueId, idx: ValueId, axis: i64) -> Result<ValueId> {
        let axis = self.axis(x, axis)?;
        self.add1(Op::GatherElements { axis }, &[x, idx])
    }

    /// ONNX GatherND.
    pub fn gather_nd(&mut self, x: ValueId, idx: ValueId, batch_dims: usize) -> Result<ValueId> {
        self.add1(Op::GatherNd { batch_dims }, &[x, idx])
    }

    /// ONNX ScatterElements.
    pub fn scatter_elements(
        &mut self,
        x: ValueId,
        idx: ValueId,
        updates: ValueId,
        axis: i64,
        op: ScatterOp,
    ) -> Result<ValueId> {
        let axis = self.axis(x, axis)?;
        self.add1(Op::ScatterElements { axis, op }, &[x, idx, updates])
    }

    /// ONNX ScatterND.
    pub fn scatter_nd(&mut self, x: ValueId, idx: ValueId, updates: ValueId, op: ScatterOp) -> Result<ValueId> {
        self.add1(Op::ScatterNd { op }, &[x, idx, updates])
    }

    /// A copy of `x` in which the places `idx[N]` of `axis` hold those of `updates`, whose `axis` has extent `N`: the inverse of
    /// [`Builder::gather`].
    pub fn scatter(&mut self, x: ValueId, idx: ValueId, updates: ValueId, axis: i64, op: ScatterOp) -> Result<ValueId> {
        let a = self.axis(x, axis)?;
        if self.rank(idx) != 1 {
            return self.fail("scatter", format!("needs a list of indices, found {}", self.ty(idx)));
        }
        let mut shape = self.shape(x).to_vec();
        shape[a] = self.shape(idx)[0].clone();
        self.fits(updates, &shape, "scatter")?;
        let trailing: Vec<i64> = (1..(shape.len() - a) as i64).collect();
        let idx = self.unsqueeze(idx, &trailing)?;
        let idx = self.broadcast_to(idx, &shape)?;
        self.scatter_elements(x, idx, updates, axis, op)
    }

    /// Requires the shape that `x` leaves for `updates`.
    fn fits(&mut self, updates: ValueId, shape: &[Dim], op: &str) -> Result<()> {
        let found = self.shape(updates).to_vec();
        if found.len() != shape.len() {
            return self.fail(op, format!("updates of rank {} do not fit x of rank {}", found.len(), shape.len()));
        }
        for (axis, (e, f)) in shape.iter().zip(&found).enumerate() {
            self.agree(e, f, || format!("axis {axis} of the updates and of what {op} writes to"))?;
        }
        Ok(())
    }

    /// A copy of `cache` whose places `at .. at + n` of `axis` hold `rows`, where `n` is the extent of `rows` there. All of them must lie
    /// inside: an error when shapes are bound.
    pub fn update(&mut self, cache: ValueId, axis: i64, at: &Dim, rows: ValueId) -> Result<ValueId> {
        let a = self.axis(cache, axis)?;
        if let (Some(n), true) = (self.shape(rows).get(a).cloned(), self.rank(rows) == self.rank(cache)) {
            let (end, room) = (at.clone() + n, self.shape(cache)[a].clone());
            let symbols = &self.graph().symbols;
            if at.bounds(symbols).1 < 0 || (end.clone() - room.clone()).bounds(symbols).0 > 0 {
                return self.fail("update", format!("rows {at} to {end} lie outside axis {a} of extent {room}"));
            }
            for (less, more) in [(&Dim::from(0), at), (&end, &room)] {
                if (less.clone() - more.clone()).bounds(&self.graph().symbols).1 > 0 {
                    let scope = self.scope();
                    let what =
                        || format!("rows {at} to {end} that are written to axis {a} {scope}").trim_end().to_owned();
                    self.graph_mut().require(Requirement::at_most(less.clone(), more.clone()), what);
                }
            }
        }
        let at = self.dim_value(at, DType::I64)?;
        self.update_at(cache, axis, at, rows)
    }

    /// [`Builder::update`] at a place that is computed: an integer of rank 0, or one for each index of the leading axes that it has. Places
    /// outside are an error of the run; negative ones count from the end.
    pub fn update_at(&mut self, cache: ValueId, axis: i64, at: ValueId, rows: ValueId) -> Result<ValueId> {
        let a = self.axis(cache, axis)?;
        let mut shape = self.shape(cache).to_vec();
        let Some(n) = self.shape(rows).get(a) else {
            return self.fail("update", format!("rows {} have no axis {a}", self.ty(rows)));
        };
        shape[a] = n.clone();
        self.fits(rows, &shape, "update")?;
        if self.rank(at) > a || !self.dtype(at).is_int() {
            let message =
                format!("places are integers of at most {a} axes, those before axis {a}; found {}", self.ty(at));
            return self.fail("update", message);
        }
        let at = self.cast(at, DType::I64)?;
        let trailing: Vec<i64> = (self.rank(at) as i64..shape.len() as i64).collect();
        let at = self.unsqueeze(at, &trailing)?;
        let step = self.iota(DType::I64, &shape, a)?;
        let place = self.plus(step, at)?;
        self.scatter_elements(cache, place, rows, axis, ScatterOp::Set)
    }

    /// `on` where the new axis equals the index (negative indices count from the end), else `off`; both rank 0.
    pub fn one_hot(&mut self, idx: ValueId, depth: &Dim, axis: i64, on: ValueId, off: ValueId) -> Result<ValueId> {
        let axis = self.axis_of(self.rank(idx) + 1, axis)?;
        let dtype = self.dtype(idx);
        let idx = self.unsqueeze(idx, &[axis as i64])?;
        let n = self.dim_value(depth, dtype)?;
        let negative = self.compare_scalar(CompareOp::Lt, idx, 0.0)?;
        let wrapped = self.plus(idx, n)?;
        let idx = self.select(negative, wrapped, idx)?;
        let mut shape = self.shape(idx).to_vec();
        shape[axis] = depth.clone();
        let place = self.iota(dtype, &shape, axis)?;
        let hot = self.compare(CompareOp::Eq, place, idx)?;
        self.select(hot, on, off)
    }

    /// Bool `[rows, columns]`: `column <= row + offset`.
    pub fn causal_mask(&mut self, rows: &Dim, columns: &Dim, offset: &Dim) -> Result<ValueId> {
        let shape = [rows.clone(), columns.clone()];
        let row = self.iota(DType::I64, &shape, 0)?;
        let column = self.iota(DType::I64, &shape, 1)?;
        let limit = if offset.is(0) {
            row
        } else {
            let offset = self.dim_value(offset, DType::I64)?;
            self.plus(row, offset)?
        };
        self.compare(CompareOp::Le, column, limit)
    }

    /// Keeps `column <= row + k` of the last two axes, zero elsewhere.
    pub fn tril(&mut self, x: ValueId, k: i64) -> Result<ValueId> {
        self.triangle(x, k, false)
    }

    /// Keeps `column >= row + k` of the last two axes, zero elsewhere.
    pub fn triu(&mut self, x: ValueId, k: i64) -> Result<ValueId> {
        self.triangle(x, k - 1, true)
    }

    fn triangle(&mut self, x: ValueId, k: i64, upper: bool) -> Result<ValueId> {
        let Some(rows) = self.rank(x).checked_sub(2) else {
            return self.fail("triangle", format!("needs at least two axes, found {}", self.ty(x)));
        };
        let (m, n) = (self.shape(x)[rows].clone(), self.shape(x)[rows + 1].clone());
        let mask = self.causal_mask(&m, &n, &Dim::from(k))?;
        let zero = self.scalar(self.dtype(x), 0.0)?;
        if upper { self.select(mask, zero, x) } else { self.select(mask, x, zero) }
    }
}
