//! Gathers, masks made of iotas, and quantization.

use super::Builder;
use crate::{CompareOp, DType, Dim, Op, QuantAxes, Result, ScatterOp, ValueId};

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

    /// `saturate(round(x / scale) + zero_point)`; the result has the dtype of `zero_point`.
    pub fn quantize(&mut self, x: ValueId, scale: ValueId, zero_point: ValueId, axes: QuantAxes) -> Result<ValueId> {
        let to = self.dtype(zero_point);
        self.add1(Op::Quantize { to, axes }, &[x, scale, zero_point])
    }

    /// `(x - zero_point) * scale`.
    pub fn dequantize(&mut self, x: ValueId, scale: ValueId, zero_point: ValueId, axes: QuantAxes) -> Result<ValueId> {
        self.add1(Op::Dequantize { axes }, &[x, scale, zero_point])
    }
}
