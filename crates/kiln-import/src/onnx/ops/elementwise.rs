//! Arithmetic, logic, comparisons and conversions.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::tensor;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{BinaryOp, CompareOp, DType, UnaryOp, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Identity" => identity,
        "Cast" => cast,
        "CastLike" => cast_like,
        "Where" => select,
        "Clip" => clip,
        "Pow" => pow,
        "Mod" => modulo,
        "BitShift" => bit_shift,
        "IsInf" => is_inf,
        "Min" | "Max" | "Sum" | "Mean" => variadic,
        "Reciprocal" => reciprocal,
        _ if binary_op(op).is_some() => binary,
        _ if compare_op(op).is_some() => compare,
        _ if UnaryOp::from_onnx(op).is_some() => unary,
        _ => return None,
    };
    Some(handler)
}

fn binary_op(op: &str) -> Option<BinaryOp> {
    Some(match op {
        "Add" => BinaryOp::Add,
        "Sub" => BinaryOp::Sub,
        "Mul" => BinaryOp::Mul,
        "Div" => BinaryOp::Div,
        "And" | "BitwiseAnd" => BinaryOp::And,
        "Or" | "BitwiseOr" => BinaryOp::Or,
        "Xor" | "BitwiseXor" => BinaryOp::Xor,
        _ => return None,
    })
}

fn compare_op(op: &str) -> Option<CompareOp> {
    Some(match op {
        "Equal" => CompareOp::Eq,
        "Less" => CompareOp::Lt,
        "LessOrEqual" => CompareOp::Le,
        "Greater" => CompareOp::Gt,
        "GreaterOrEqual" => CompareOp::Ge,
        _ => return None,
    })
}

/// Two operands; operator sets before 7 line the second up with `axis` of the first.
fn operands(l: &mut Lower<'_>, n: &Node<'_>) -> OpResult<(ValueId, ValueId)> {
    let (a, b) = (l.arg(n, 0)?, l.arg(n, 1)?);
    if n.version >= 7 || !n.flag("broadcast", false)? || !n.has("axis") {
        return Ok((a, b));
    }
    let at = l.axis(a, n.int("axis", 0)?)?;
    let Some(trailing) = l.rank(a).checked_sub(at + l.rank(b)) else {
        return invalid(format!("{} does not fit {} at axis {at}", l.ty(b), l.ty(a)));
    };
    let first = l.rank(b) as i64;
    let b = l.unsqueeze(b, &(first..first + trailing as i64).collect::<Vec<_>>())?;
    Ok((a, b))
}

fn unary<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let Some(op) = UnaryOp::from_onnx(n.op()) else { return unsupported("no lowering") };
    let x = l.arg(n, 0)?;
    let y = l.unary(op, x)?;
    l.done(y)
}

fn binary<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let Some(op) = binary_op(n.op()) else { return unsupported("no lowering") };
    let (a, b) = operands(l, n)?;
    let y = l.binary(op, a, b)?;
    l.done(y)
}

fn compare<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let Some(op) = compare_op(n.op()) else { return unsupported("no lowering") };
    let (a, b) = operands(l, n)?;
    let y = l.compare(op, a, b)?;
    l.done(y)
}

fn reciprocal<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let y = l.recip(x)?;
    l.done(y)
}

fn identity<'m>(_: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    Ok(vec![n.input(0)?.clone()])
}

fn cast<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let Some(to) = n.maybe_int("to")? else { return invalid("attribute `to` is missing") };
    match tensor::dtype(i32::try_from(to).unwrap_or(0)) {
        Ok(to) => convert(l, n, to),
        Err(reason) => unsupported(reason),
    }
}

fn cast_like<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let to = n.input(1)?.dtype();
    convert(l, n, to)
}

fn convert<'m>(l: &mut Lower<'m>, n: &Node<'m>, to: DType) -> OpResult<Vec<Val>> {
    let mut x = l.arg(n, 0)?;
    if to.bits() == 4 && l.dtype(x).is_float() {
        // The reference wraps floats that are out of range of the 4-bit integers.
        x = l.cast(x, DType::I32)?;
    }
    let y = if n.flag("saturate", true)? { l.cast_saturating(x, to)? } else { l.cast(x, to)? };
    l.done(y)
}

fn select<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (c, a, b) = (l.arg(n, 0)?, l.arg(n, 1)?, l.arg(n, 2)?);
    let y = l.select(c, a, b)?;
    l.done(y)
}

fn clip<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let mut x = l.arg(n, 0)?;
    let dtype = l.dtype(x);
    for (i, name, op) in [(1, "min", BinaryOp::Max), (2, "max", BinaryOp::Min)] {
        let bound = if n.version >= 11 {
            l.maybe_arg(n, i)?
        } else {
            n.maybe_float(name)?.map(|v| l.scalar(dtype, v)).transpose()?
        };
        if let Some(bound) = bound {
            x = l.binary(op, x, bound)?;
        }
    }
    l.done(x)
}

fn pow<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, mut y) = operands(l, n)?;
    let dtype = l.dtype(x);
    // A square as a product, which every device computes exactly alike.
    let exponent =
        n.input(1)?.as_const().filter(|t| t.len() == 1 && l.rank(x) >= t.shape().len()).map(|t| t.to_f64_vec()[0]);
    let out = match exponent {
        Some(2.0) => l.mul(x, x)?,
        _ if l.dtype(y) == dtype => l.binary(BinaryOp::Pow, x, y)?,
        // An integer to a fractional power is computed as a float, then truncated.
        _ if l.dtype(y).is_float() && !dtype.is_float() => {
            let wide = l.cast(x, DType::F64)?;
            y = l.cast(y, DType::F64)?;
            let p = l.binary(BinaryOp::Pow, wide, y)?;
            l.cast(p, dtype)?
        }
        _ => {
            y = l.cast(y, dtype)?;
            l.binary(BinaryOp::Pow, x, y)?
        }
    };
    l.done(out)
}

fn modulo<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (a, b) = operands(l, n)?;
    let op = if n.flag("fmod", false)? { BinaryOp::Rem } else { BinaryOp::Mod };
    let y = l.binary(op, a, b)?;
    l.done(y)
}

/// An amount below 0 or of the width and above shifts everything out, leaving copies of the sign.
fn bit_shift<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, mut by) = operands(l, n)?;
    let dtype = l.dtype(x);
    let op = match n.string("direction", "")? {
        "LEFT" => BinaryOp::Shl,
        "RIGHT" => BinaryOp::Shr,
        other => return invalid(format!("direction is `{other}`, expected LEFT or RIGHT")),
    };
    if dtype.is_signed() {
        let width = f64::from(dtype.bits());
        let negative = l.compare_scalar(CompareOp::Lt, by, 0.0)?;
        let out = l.scalar(dtype, width)?;
        by = l.select(negative, out, by)?;
        if op == BinaryOp::Shr {
            by = l.binary_scalar(BinaryOp::Min, by, width - 1.0)?;
        }
    }
    let y = l.binary(op, x, by)?;
    l.done(y)
}

fn is_inf<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let (negative, positive) = (n.flag("detect_negative", true)?, n.flag("detect_positive", true)?);
    let inf = l.is_inf(x)?;
    let y = match (negative, positive) {
        (true, true) => inf,
        (false, false) => l.binary(BinaryOp::Xor, inf, inf)?,
        _ => {
            let op = if positive { CompareOp::Gt } else { CompareOp::Lt };
            let sign = l.compare_scalar(op, x, 0.0)?;
            l.binary(BinaryOp::And, inf, sign)?
        }
    };
    l.done(y)
}

fn variadic<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let op = match n.op() {
        "Min" => BinaryOp::Min,
        "Max" => BinaryOp::Max,
        _ => BinaryOp::Add,
    };
    let count = n.variadic()?.len();
    let mut acc = l.arg(n, 0)?;
    let dtype = l.dtype(acc);
    // Sums of more than two are rounded once.
    let wide = if n.op() == "Mean" || op == BinaryOp::Add && count > 2 { dtype.accumulator() } else { dtype };
    acc = l.cast(acc, wide)?;
    for i in 1..count {
        let x = l.arg(n, i)?;
        let x = l.cast(x, wide)?;
        acc = l.binary(op, acc, x)?;
    }
    if n.op() == "Mean" {
        let count = l.scalar(wide, count as f64)?;
        acc = l.div(acc, count)?;
    }
    let y = l.cast(acc, dtype)?;
    l.done(y)
}
