//! Quantization: scales and zero points that fit the quantized tensor.

use super::Cx;
use crate::{DType, Dim, QuantAxes, Result, TensorType};

pub(super) fn quantize(cx: &mut Cx, to: DType, axes: &QuantAxes) -> Result<TensorType> {
    cx.arity(3)?;
    let (x, scale, zero) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    if !x.dtype.is_float() && x.dtype != DType::I32 {
        return cx.fail(format!("quantizes floats or i32, found {x}"));
    }
    quantized(cx, to)?;
    cx.dtype(zero, to, "the zero point")?;
    parameters(cx, x, scale, zero, axes)?;
    Ok(TensorType { dtype: to, shape: x.shape.clone() })
}

pub(super) fn dequantize(cx: &mut Cx, axes: &QuantAxes) -> Result<TensorType> {
    cx.arity(3)?;
    let (x, scale, zero) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    quantized(cx, x.dtype)?;
    cx.dtype(zero, x.dtype, "the zero point")?;
    parameters(cx, x, scale, zero, axes)?;
    Ok(TensorType { dtype: scale.dtype, shape: x.shape.clone() })
}

fn quantized(cx: &Cx, dtype: DType) -> Result<()> {
    if dtype.is_int() || dtype.is_f8() {
        Ok(())
    } else {
        cx.fail(format!("the quantized type must be an integer or f8, found {dtype}"))
    }
}

fn parameters(cx: &mut Cx, x: &TensorType, scale: &TensorType, zero: &TensorType, axes: &QuantAxes) -> Result<()> {
    if !scale.dtype.is_float() {
        return cx.fail(format!("the scale must be a float, found {scale}"));
    }
    let shape = match axes {
        QuantAxes::Tensor => Vec::new(),
        QuantAxes::Axis(axis) => {
            cx.check_axis(*axis, x.rank())?;
            vec![x.shape[*axis].clone()]
        }
        QuantAxes::Block { axis, block } => {
            cx.check_axis(*axis, x.rank())?;
            if *block == 0 || *block > u32::MAX as usize {
                return cx.fail(format!("a block must have 1 to {} elements, found {block}", u32::MAX));
            }
            let mut shape = x.shape.clone();
            shape[*axis] = shape[*axis].ceil_div(&Dim::from(*block));
            shape
        }
    };
    let expected = TensorType { dtype: scale.dtype, shape };
    cx.same_shape(&expected, scale, "quantization axes and scale")?;
    cx.same_shape(&expected, zero, "quantization axes and zero point")
}
