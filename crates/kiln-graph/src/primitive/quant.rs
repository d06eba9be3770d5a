//! Quantization: scales and zero points that fit the quantized tensor.

use crate::infer::Cx;
use crate::interp::array::{Array, Data, Eval, odometer, store, strides, wide};
use crate::number::{float_to_int, round_to};
use crate::{DType, Dim, QuantAxes, Result, TensorType};

pub(crate) fn quantize_type(cx: &mut Cx, to: DType, axes: &QuantAxes) -> Result<TensorType> {
    let (x, scale, zero) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    if !x.dtype.is_float() && x.dtype != DType::I32 {
        return cx.fail(format!("quantizes floats or i32, found {x}"));
    }
    quantized(cx, to)?;
    cx.dtype(zero, to, "the zero point")?;
    parameter_types(cx, x, scale, zero, axes)?;
    Ok(TensorType { dtype: to, shape: x.shape.clone() })
}

pub(crate) fn dequantize_type(cx: &mut Cx, axes: &QuantAxes) -> Result<TensorType> {
    let (x, scale, zero) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    quantized(cx, x.dtype)?;
    cx.dtype(zero, x.dtype, "the zero point")?;
    parameter_types(cx, x, scale, zero, axes)?;
    Ok(TensorType { dtype: scale.dtype, shape: x.shape.clone() })
}

fn quantized(cx: &Cx, dtype: DType) -> Result<()> {
    if dtype.is_int() || dtype.is_f8() {
        Ok(())
    } else {
        cx.fail(format!("the quantized type must be an integer or f8, found {dtype}"))
    }
}

fn parameter_types(cx: &mut Cx, x: &TensorType, scale: &TensorType, zero: &TensorType, axes: &QuantAxes) -> Result<()> {
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

/// For each element of `x`, the place of its scale and zero point.
fn parameters(x: &Array, axes: &QuantAxes) -> Vec<usize> {
    let mut places = Vec::with_capacity(x.len());
    match axes {
        QuantAxes::Tensor => places.resize(x.len(), 0),
        QuantAxes::Axis(axis) => {
            let mut own = vec![0; x.shape.len()];
            own[*axis] = 1;
            odometer(&x.shape, &own, 0, |at| places.push(at as usize));
        }
        QuantAxes::Block { axis, block } => {
            let mut scales = x.shape.clone();
            scales[*axis] = scales[*axis].div_ceil(*block);
            let own = strides(&scales);
            let mut base = own.clone();
            base[*axis] = 0;
            // The index along the axis is recovered from the element's number.
            let inner: usize = x.shape[*axis + 1..].iter().product();
            let mut element = 0;
            odometer(&x.shape, &base, 0, |at| {
                let i = element / inner % x.shape[*axis];
                places.push(at as usize + i / block * own[*axis] as usize);
                element += 1;
            });
        }
    }
    places
}

pub(crate) fn quantize(x: &Array, scale: &Array, zero: &Array, to: DType, axes: &QuantAxes) -> Eval<Array> {
    let scales = scale.floats()?;
    let quotient_type = scale.dtype.accumulator();
    let value = |i: usize| match x.data.as_ref() {
        Data::Float(v) => v[i],
        Data::Int(v) => v[i] as f64,
    };
    let quotients = parameters(x, axes)
        .into_iter()
        .enumerate()
        .map(|(i, p)| (round_to(quotient_type, value(i) / scales[p], false), p));
    let data = match zero.data.as_ref() {
        Data::Float(zeros) => Data::Float(quotients.map(|(q, p)| round_to(to, q + zeros[p], true)).collect()),
        Data::Int(zeros) => Data::Int(
            quotients
                .map(|(q, p)| store(to, float_to_int(to, q.round_ties_even() + wide(to, zeros[p]) as f64)))
                .collect(),
        ),
    };
    Ok(Array::new(to, x.shape.clone(), data))
}

pub(crate) fn dequantize(x: &Array, scale: &Array, zero: &Array, axes: &QuantAxes) -> Eval<Array> {
    let scales = scale.floats()?;
    let places = parameters(x, axes);
    let values = match (x.data.as_ref(), zero.data.as_ref()) {
        (Data::Float(v), Data::Float(z)) => places.iter().zip(v).map(|(&p, v)| (v - z[p]) * scales[p]).collect(),
        (Data::Int(v), Data::Int(z)) => {
            places.iter().zip(v).map(|(&p, &v)| (wide(x.dtype, v) - wide(x.dtype, z[p])) as f64 * scales[p]).collect()
        }
        _ => return Err(format!("zero point differs in kind, {} and {}", x.dtype, zero.dtype)),
    };
    Ok(Array::rounded(scale.dtype, x.shape.clone(), values))
}
