//! Quantization.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::tensor;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{BinaryOp, CompareOp, DType, QuantAxes, ReduceOp, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "QuantizeLinear" => quantize,
        "DequantizeLinear" => dequantize,
        "DynamicQuantizeLinear" => dynamic_quantize,
        _ => return None,
    };
    Some(handler)
}

/// How a scale maps onto `x`.
fn axes<'m>(l: &mut Lower<'m>, n: &Node<'m>, x: ValueId, scale: ValueId) -> OpResult<QuantAxes> {
    let block = n.int("block_size", 0)?;
    match usize::try_from(block) {
        Ok(block) => Ok(l.quant_axes(x, scale, n.int("axis", 1)?, block)?),
        Err(_) => invalid(format!("block_size is {block}")),
    }
}

fn quantize<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, scale, zero) = (l.arg(n, 0)?, l.arg(n, 1)?, l.maybe_arg(n, 2)?);
    let to = match (zero, n.int("output_dtype", 0)?) {
        (Some(zero), _) => l.dtype(zero),
        (None, 0) => DType::U8,
        (None, to) => match tensor::dtype(i32::try_from(to).unwrap_or(0)) {
            Ok(to) => to,
            Err(reason) => return unsupported(reason),
        },
    };
    if to.is_f8() && !n.flag("saturate", true)? {
        return unsupported("quantization to f8 without saturation");
    }
    let axes = axes(l, n, x, scale)?;
    let (scale, zero) = l.quant_parameters(&axes, scale, zero, to)?;
    let y = l.quantize(x, scale, zero, axes)?;
    l.done(y)
}

fn dequantize<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, scale, zero) = (l.arg(n, 0)?, l.arg(n, 1)?, l.maybe_arg(n, 2)?);
    let axes = axes(l, n, x, scale)?;
    let dtype = l.dtype(x);
    let (scale, zero) = l.quant_parameters(&axes, scale, zero, dtype)?;
    let y = l.dequantize(x, scale, zero, axes)?;
    let y = match n.int("output_dtype", 0)? {
        0 => y,
        to => match tensor::dtype(i32::try_from(to).unwrap_or(0)) {
            Ok(to) => l.cast(y, to)?,
            Err(reason) => return unsupported(reason),
        },
    };
    l.done(y)
}

/// u8 quantization with scale and zero point from the range of the data, widened to include 0.
fn dynamic_quantize<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let all: Vec<i64> = (0..l.rank(x) as i64).collect();
    let low = l.reduce(ReduceOp::Min, x, &all, false)?;
    let low = l.binary_scalar(BinaryOp::Min, low, 0.0)?;
    let high = l.reduce(ReduceOp::Max, x, &all, false)?;
    let high = l.binary_scalar(BinaryOp::Max, high, 0.0)?;
    let span = l.sub(high, low)?;
    let scale = l.binary_scalar(BinaryOp::Div, span, 255.0)?;
    // All zeros: any scale will do, and 0 / 0 must not become one.
    let flat = l.compare_scalar(CompareOp::Eq, scale, 0.0)?;
    let dtype = l.dtype(x);
    let one = l.scalar(dtype, 1.0)?;
    let divisor = l.select(flat, one, scale)?;
    let low = l.neg(low)?;
    let zero = l.div(low, divisor)?;
    let zero = l.clip(zero, Some(0.0), Some(255.0))?;
    let zero = l.round(zero)?;
    let zero = l.cast(zero, DType::U8)?;
    let y = l.quantize(x, divisor, zero, QuantAxes::Tensor)?;
    Ok(vec![l.run(y), l.run(scale), l.run(zero)])
}
