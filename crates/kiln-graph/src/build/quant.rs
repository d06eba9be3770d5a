//! Quantization.

use super::Builder;
use crate::{DType, Op, QuantAxes, Result, ValueId};

impl Builder {
    /// `saturate(round(x / scale) + zero_point)`; the result has the dtype of `zero_point`.
    pub fn quantize(&mut self, x: ValueId, scale: ValueId, zero_point: ValueId, axes: QuantAxes) -> Result<ValueId> {
        let to = self.dtype(zero_point);
        self.add1(Op::Quantize { to, axes }, &[x, scale, zero_point])
    }

    /// `(x - zero_point) * scale`.
    pub fn dequantize(&mut self, x: ValueId, scale: ValueId, zero_point: ValueId, axes: QuantAxes) -> Result<ValueId> {
        self.add1(Op::Dequantize { axes }, &[x, scale, zero_point])
    }

    /// How a scale maps onto `x`, from its shape: one number; one for each index of `axis`; or, if `block` is not 0, one for each run of
    /// `block` elements of `axis`. A list of one is one number.
    pub fn quant_axes(&self, x: ValueId, scale: ValueId, axis: i64, block: usize) -> Result<QuantAxes> {
        match self.shape(scale) {
            [] => Ok(QuantAxes::Tensor),
            [n] if block == 0 && n.is(1) => Ok(QuantAxes::Tensor),
            [_] if block == 0 => Ok(QuantAxes::Axis(self.axis(x, axis)?)),
            _ if block > 0 => Ok(QuantAxes::Block { axis: self.axis(x, axis)?, block }),
            _ => self.fail("quantize", format!("scale {} needs the size of the blocks that share one", self.ty(scale))),
        }
    }

    /// Scale and zero point in the shape that `axes` asks for; the zero point is 0 in `dtype` if there is none.
    pub fn quant_parameters(
        &mut self,
        axes: &QuantAxes,
        scale: ValueId,
        zero_point: Option<ValueId>,
        dtype: DType,
    ) -> Result<(ValueId, ValueId)> {
        let scale = if *axes == QuantAxes::Tensor { self.reshape(scale, &[])? } else { scale };
        let shape = self.shape(scale).to_vec();
        let zero_point = match zero_point {
            Some(zero_point) => self.reshape(zero_point, &shape)?,
            None => {
                let zero = self.scalar(dtype, 0.0)?;
                self.broadcast_to(zero, &shape)?
            }
        };
        Ok((scale, zero_point))
    }
}
