//! Elementwise ops: operands of equal shape.

use super::Cx;
use crate::{BinaryOp, CompareOp, DType, Result, TensorType, UnaryOp};

pub(super) fn unary(cx: &Cx, op: UnaryOp) -> Result<TensorType> {
    cx.arity(1)?;
    let x = cx.inputs[0];
    let (ok, wanted) = match op {
        UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sign => (x.dtype != DType::Bool, "a number"),
        UnaryOp::Not => (!x.dtype.is_float(), "bool or an integer"),
        _ => (x.dtype.is_float(), "a float"),
    };
    if !ok {
        return cx.fail(format!("needs {wanted}, found {x}"));
    }
    let dtype = if matches!(op, UnaryOp::IsNan | UnaryOp::IsInf) { DType::Bool } else { x.dtype };
    Ok(TensorType { dtype, shape: x.shape.clone() })
}

pub(super) fn binary(cx: &mut Cx, op: BinaryOp) -> Result<TensorType> {
    pair(cx)?;
    let a = cx.inputs[0];
    let (ok, wanted) = match op {
        BinaryOp::Atan2 => (a.dtype.is_float(), "floats"),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => (!a.dtype.is_float(), "bools or integers"),
        BinaryOp::Shl | BinaryOp::Shr => (a.dtype.is_int(), "integers"),
        _ => (a.dtype != DType::Bool, "numbers"),
    };
    if !ok {
        return cx.fail(format!("needs {wanted}, found {a}"));
    }
    Ok(a.clone())
}

pub(super) fn compare(cx: &mut Cx, op: CompareOp) -> Result<TensorType> {
    pair(cx)?;
    let a = cx.inputs[0];
    if a.dtype == DType::Bool && !matches!(op, CompareOp::Eq | CompareOp::Ne) {
        return cx.fail(format!("bools have no order, found {a}"));
    }
    Ok(TensorType { dtype: DType::Bool, shape: a.shape.clone() })
}

pub(super) fn select(cx: &mut Cx) -> Result<TensorType> {
    cx.arity(3)?;
    let [cond, a, b] = [cx.inputs[0], cx.inputs[1], cx.inputs[2]];
    cx.dtype(cond, DType::Bool, "the condition")?;
    cx.dtype(b, a.dtype, "the second branch")?;
    cx.same_shape(a, b, "branches")?;
    cx.same_shape(a, cond, "branches and condition")?;
    Ok(a.clone())
}

/// Two operands of one dtype and shape.
fn pair(cx: &mut Cx) -> Result<()> {
    cx.arity(2)?;
    let (a, b) = (cx.inputs[0], cx.inputs[1]);
    if a.dtype != b.dtype {
        return cx.fail(format!("operands must have one dtype, found {a} and {b}; insert a cast"));
    }
    cx.same_shape(a, b, "operands")
}
