//! Ops without operands.

use crate::infer::Cx;
use crate::interp::Call;
use crate::interp::array::{Array, Eval, odometer};
use crate::{DType, Dim, Result, Tensor, TensorType};

pub(crate) fn input_type(cx: &Cx, ty: &TensorType) -> Result<TensorType> {
    cx.extents(&ty.shape)?;
    Ok(ty.clone())
}

pub(crate) fn weight_type(cx: &Cx, name: &str, ty: &TensorType) -> Result<TensorType> {
    if ty.const_shape().is_none() {
        return cx.fail(format!("weight `{name}` needs a constant shape, found {ty}"));
    }
    Ok(ty.clone())
}

pub(crate) fn constant_type(value: &Tensor) -> Result<TensorType> {
    Ok(TensorType::new(value.dtype(), value.shape().iter().copied()))
}

pub(crate) fn iota_type(cx: &Cx, ty: &TensorType, axis: usize) -> Result<TensorType> {
    cx.extents(&ty.shape)?;
    cx.check_axis(axis, ty.rank())?;
    if ty.dtype == DType::Bool {
        return cx.fail("counts in an integer or float type, found bool".into());
    }
    Ok(ty.clone())
}

pub(crate) fn dim_type() -> Result<TensorType> {
    Ok(TensorType::new(DType::I64, [0i64; 0]))
}

/// Inputs have their values before anything is computed.
pub(crate) fn input(name: &str) -> Eval<Array> {
    Err(format!("input `{name}` was not supplied"))
}

pub(crate) fn constant(value: &Tensor) -> Eval<Array> {
    Ok(Array::from_tensor(value))
}

pub(crate) fn iota(dtype: DType, shape: &[usize], axis: usize) -> Eval<Array> {
    let mut step = vec![0; shape.len()];
    step[axis] = 1;
    let mut values = Vec::with_capacity(shape.iter().product());
    odometer(shape, &step, 0, |at| values.push(at as i64));
    Ok(if dtype.is_float() {
        Array::rounded(dtype, shape.to_vec(), values.into_iter().map(|v| v as f64).collect())
    } else {
        Array::wrapped(dtype, shape.to_vec(), values)
    })
}

pub(crate) fn dim(call: &Call, dim: &Dim) -> Eval<Array> {
    Ok(Array::scalar(call.places(std::slice::from_ref(dim))?[0]))
}
