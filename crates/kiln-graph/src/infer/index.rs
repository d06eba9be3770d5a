//! Gathers and scatters.

use super::Cx;
use crate::{DType, Dim, Result, ScatterOp, TensorType};

fn indices(cx: &Cx, idx: &TensorType) -> Result<()> {
    if matches!(idx.dtype, DType::I32 | DType::I64) {
        Ok(())
    } else {
        cx.fail(format!("indices must be i32 or i64, found {idx}; insert a cast"))
    }
}

pub(super) fn gather(cx: &Cx, axis: usize) -> Result<TensorType> {
    cx.arity(2)?;
    let (x, idx) = (cx.inputs[0], cx.inputs[1]);
    indices(cx, idx)?;
    cx.check_axis(axis, x.rank())?;
    let shape = x.shape[..axis].iter().chain(&idx.shape).chain(&x.shape[axis + 1..]).cloned().collect();
    Ok(TensorType { dtype: x.dtype, shape })
}

pub(super) fn gather_elements(cx: &mut Cx, axis: usize) -> Result<TensorType> {
    cx.arity(2)?;
    let (x, idx) = (cx.inputs[0], cx.inputs[1]);
    along(cx, x, idx, axis)?;
    Ok(TensorType { dtype: x.dtype, shape: idx.shape.clone() })
}

pub(super) fn gather_nd(cx: &mut Cx, batch_dims: usize) -> Result<TensorType> {
    cx.arity(2)?;
    let (x, idx) = (cx.inputs[0], cx.inputs[1]);
    indices(cx, idx)?;
    let coordinates = coordinates(cx, x, idx, batch_dims)?;
    for a in 0..batch_dims {
        cx.same(&x.shape[a], &idx.shape[a], || format!("batch axis {a} of {x} and {idx} must be equal"))?;
    }
    let kept = &idx.shape[..idx.rank() - 1];
    let shape = kept.iter().chain(&x.shape[batch_dims + coordinates..]).cloned().collect();
    Ok(TensorType { dtype: x.dtype, shape })
}

pub(super) fn scatter_elements(cx: &mut Cx, axis: usize, op: ScatterOp) -> Result<TensorType> {
    cx.arity(3)?;
    let (x, idx, updates) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    along(cx, x, idx, axis)?;
    scattered(cx, op)?;
    cx.same_shape(idx, updates, "indices and updates")?;
    Ok(x.clone())
}

pub(super) fn scatter_nd(cx: &mut Cx, op: ScatterOp) -> Result<TensorType> {
    cx.arity(3)?;
    let (x, idx, updates) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    indices(cx, idx)?;
    scattered(cx, op)?;
    let coordinates = coordinates(cx, x, idx, 0)?;
    let shape: Vec<Dim> = idx.shape[..idx.rank() - 1].iter().chain(&x.shape[coordinates..]).cloned().collect();
    cx.same_shape(&TensorType { dtype: x.dtype, shape }, updates, "addressed slices and updates")?;
    Ok(x.clone())
}

/// Indices of the rank of `x`, no longer than it on the axes other than `axis`.
fn along(cx: &mut Cx, x: &TensorType, idx: &TensorType, axis: usize) -> Result<()> {
    indices(cx, idx)?;
    cx.check_axis(axis, x.rank())?;
    cx.rank(idx, x.rank(), "indices")?;
    for a in (0..x.rank()).filter(|&a| a != axis) {
        cx.at_most(&idx.shape[a], &x.shape[a], || format!("axis {a} of indices {idx} into {x}"))?;
    }
    Ok(())
}

/// The number of coordinates that the last axis of `idx` holds.
fn coordinates(cx: &Cx, x: &TensorType, idx: &TensorType, batch_dims: usize) -> Result<usize> {
    if idx.rank() <= batch_dims || x.rank() < batch_dims {
        return cx.fail(format!("{batch_dims} batch axes do not fit {x} and indices {idx}"));
    }
    let last = idx.shape[idx.rank() - 1].as_const().and_then(|n| usize::try_from(n).ok());
    match last {
        Some(n) if batch_dims + n <= x.rank() => Ok(n),
        Some(n) => cx.fail(format!("{n} coordinates after {batch_dims} batch axes do not fit {x}")),
        None => cx.fail(format!("the last axis of indices {idx} must be constant: it holds coordinates")),
    }
}

/// Updates have the dtype of `x`, and arithmetic needs numbers.
fn scattered(cx: &Cx, op: ScatterOp) -> Result<()> {
    let (x, updates) = (cx.inputs[0], cx.inputs[2]);
    cx.dtype(updates, x.dtype, "updates")?;
    if op != ScatterOp::Set && x.dtype == DType::Bool {
        return cx.fail(format!("`{op}` needs numbers, found {x}"));
    }
    Ok(())
}
