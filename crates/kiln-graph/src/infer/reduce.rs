//! Reductions, scans and selection along axes.

use super::Cx;
use crate::{DType, Dim, ReduceOp, Result, TensorType};

/// Checks that `op` reduces values of the dtype of `x`.
pub(super) fn reducible(cx: &Cx, op: ReduceOp, x: &TensorType) -> Result<()> {
    let wants_bool = matches!(op, ReduceOp::All | ReduceOp::Any);
    if wants_bool == (x.dtype == DType::Bool) {
        return Ok(());
    }
    cx.fail(format!("needs {}, found {x}; insert a cast", if wants_bool { "bools" } else { "numbers" }))
}

pub(super) fn reduce(cx: &Cx, op: ReduceOp, axes: &[usize]) -> Result<TensorType> {
    cx.arity(1)?;
    let x = cx.inputs[0];
    reducible(cx, op, x)?;
    if !axes.is_sorted_by(|a, b| a < b) {
        return cx.fail(format!("axes must be sorted and distinct, found {axes:?}"));
    }
    for &axis in axes {
        cx.check_axis(axis, x.rank())?;
    }
    let shape = x.shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect();
    Ok(TensorType { dtype: x.dtype, shape })
}

pub(super) fn arg(cx: &Cx, axis: usize) -> Result<TensorType> {
    cx.arity(1)?;
    let x = cx.inputs[0];
    numbers(cx, x)?;
    cx.check_axis(axis, x.rank())?;
    if x.shape[axis].is(0) {
        return cx.fail(format!("axis {axis} of {x} is empty and has no extreme"));
    }
    let mut shape = x.shape.clone();
    shape.remove(axis);
    Ok(TensorType { dtype: DType::I64, shape })
}

pub(super) fn scan(cx: &Cx, axis: usize) -> Result<TensorType> {
    cx.arity(1)?;
    let x = cx.inputs[0];
    numbers(cx, x)?;
    cx.check_axis(axis, x.rank())?;
    Ok(x.clone())
}

pub(super) fn topk(cx: &mut Cx, axis: usize, k: &Dim) -> Result<Vec<TensorType>> {
    cx.arity(1)?;
    let x = cx.inputs[0];
    numbers(cx, x)?;
    cx.check_axis(axis, x.rank())?;
    cx.extents(std::slice::from_ref(k))?;
    cx.at_most(k, &x.shape[axis], || format!("k on axis {axis} of {x}"))?;
    let mut values = x.clone();
    values.shape[axis] = k.clone();
    let indices = TensorType { dtype: DType::I64, shape: values.shape.clone() };
    Ok(vec![values, indices])
}

fn numbers(cx: &Cx, x: &TensorType) -> Result<()> {
    if x.dtype == DType::Bool { cx.fail(format!("needs numbers, found {x}; insert a cast")) } else { Ok(()) }
}
