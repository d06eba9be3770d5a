//! Quantization and its inverse.

use super::dtype::{float_to_int, register, round};
use super::{Values, Writer};
use crate::Result;
use kiln_graph::{DType, Node, QuantAxes};
use kiln_tile::Expr;
use kiln_tile::expr::UnaryOp;

impl Values<'_> {
    /// `saturate(round_even(x / scale) + zero)`.
    pub(super) fn quantize(
        &mut self,
        k: &mut dyn Writer,
        node: &Node,
        to: DType,
        axes: &QuantAxes,
        index: &[Expr],
    ) -> Result<Expr> {
        let [x, scale, zero] = [node.inputs[0], node.inputs[1], node.inputs[2]];
        let own = parameter(axes, index);
        let quotient = self.graph.ty(scale).dtype.accumulator();
        // f32 cannot hold every i32, nor may an f64 be rounded before it is divided.
        let wide = matches!(self.graph.ty(x).dtype, DType::F64 | DType::I32) || quotient == DType::F64;
        let division = if wide { DType::F64 } else { DType::F32 };
        let x = self.number(k, x, index)?.cast(division);
        let scale = self.number(k, scale, &own)?.cast(division);
        let zero = self.number(k, zero, &own)?;
        let scaled = (x / scale).cast(quotient);
        if to.is_float() {
            return Ok((scaled + zero.cast(quotient)).cast(register(to)));
        }
        // Whole numbers that f32 cannot hold saturate anyway in 16 bits and less.
        let sum = if to.bits() > 16 { DType::F64 } else { quotient };
        let rounded = scaled.unary(UnaryOp::Round).cast(sum) + zero.cast(sum);
        let rounded = self.name(k, "rounded", rounded);
        Ok(float_to_int(&rounded, to))
    }

    /// `(x - zero) * scale`.
    pub(super) fn dequantize(
        &mut self,
        k: &mut dyn Writer,
        node: &Node,
        axes: &QuantAxes,
        index: &[Expr],
    ) -> Result<Expr> {
        let [x, scale, zero] = [node.inputs[0], node.inputs[1], node.inputs[2]];
        let own = parameter(axes, index);
        let (from, to) = (self.graph.ty(x).dtype, self.graph.ty(scale).dtype);
        let exact = match from.compute() {
            DType::U32 | DType::I32 if from.bits() == 32 => DType::I64,
            other => other,
        };
        let x = self.number(k, x, index)?.cast(exact);
        let zero = self.number(k, zero, &own)?.cast(exact);
        let scale = self.number(k, scale, &own)?;
        let centered = if zero.as_const() == Some(0) { x } else { x - zero };
        Ok(round(&(centered.cast(to.compute()) * scale), to))
    }
}

/// Where the scale and zero point of the element at `index` are.
fn parameter(axes: &QuantAxes, index: &[Expr]) -> Vec<Expr> {
    match axes {
        QuantAxes::Tensor => vec![],
        QuantAxes::Axis(axis) => vec![index[*axis].clone()],
        QuantAxes::Block { axis, block } => {
            let mut own = index.to_vec();
            own[*axis] = &own[*axis] / i64::try_from(*block).unwrap_or(i64::MAX);
            own
        }
    }
}
