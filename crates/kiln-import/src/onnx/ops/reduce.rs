//! Reductions, running sums, extremes and selection along axes.

use super::super::lower::{Lower, OpResult, invalid};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{ArgOp, DType, Dim, ReduceOp, ScanOp, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduce,
        "ArgMax" | "ArgMin" => arg_extreme,
        "CumSum" | "CumProd" => cumulative,
        "TopK" => top_k,
        _ => return None,
    };
    Some(handler)
}

/// Axes from an attribute or, from the operator set that moved them, from input 1.
fn axes<'m>(l: &Lower<'m>, n: &Node<'m>) -> OpResult<Vec<i64>> {
    let since = if n.op() == "ReduceSum" { 13 } else { 18 };
    if n.version < since {
        return Ok(n.ints("axes")?.unwrap_or_default().to_vec());
    }
    Ok(n.optional(1).map(|v| l.known_ints(v, "the axes")).transpose()?.unwrap_or_default())
}

fn reduce<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let mut axes = axes(l, n)?;
    let x = l.arg(n, 0)?;
    if axes.is_empty() && !n.flag("noop_with_empty_axes", false)? {
        axes = (0..l.rank(x) as i64).collect();
    }
    let keep = n.flag("keepdims", true)?;
    let y = reduced(l, n.op(), x, &axes, keep)?;
    l.done(y)
}

fn reduced(l: &mut Lower<'_>, op: &str, x: ValueId, axes: &[i64], keep: bool) -> OpResult<ValueId> {
    let is_bool = l.dtype(x) == DType::Bool;
    Ok(match op {
        "ReduceSum" => l.sum(x, axes, keep)?,
        "ReduceMean" => l.mean(x, axes, keep)?,
        "ReduceProd" => l.reduce(ReduceOp::Prod, x, axes, keep)?,
        "ReduceMax" => l.reduce(if is_bool { ReduceOp::Any } else { ReduceOp::Max }, x, axes, keep)?,
        "ReduceMin" => l.reduce(if is_bool { ReduceOp::All } else { ReduceOp::Min }, x, axes, keep)?,
        "ReduceL1" => {
            let a = l.abs(x)?;
            l.sum(a, axes, keep)?
        }
        "ReduceLogSum" => {
            // The logarithm of whole numbers is taken of a float.
            let wide = if l.dtype(x).is_float() { x } else { l.cast(x, DType::F64)? };
            let y = l.widened(wide, |b, x| {
                let s = b.sum(x, axes, keep)?;
                b.log(s)
            })?;
            let dtype = l.dtype(x);
            l.cast(y, dtype)?
        }
        "ReduceLogSumExp" => {
            let wide = if l.dtype(x).is_float() { x } else { l.cast(x, DType::F64)? };
            let y = l.logsumexp(wide, axes, keep)?;
            let dtype = l.dtype(x);
            l.cast(y, dtype)?
        }
        _ => l.widened(x, |b, x| {
            let square = b.mul(x, x)?;
            let sum = b.sum(square, axes, keep)?;
            if op == "ReduceSumSquare" {
                return Ok(sum);
            }
            if b.dtype(sum).is_float() {
                return b.sqrt(sum);
            }
            let wide = b.cast(sum, DType::F64)?;
            let root = b.sqrt(wide)?;
            let dtype = b.dtype(x);
            b.cast(root, dtype)
        })?,
    })
}

fn arg_extreme<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let op = if n.op() == "ArgMax" { ArgOp::Max } else { ArgOp::Min };
    let (axis, last, keep) = (n.int("axis", 0)?, n.flag("select_last_index", false)?, n.flag("keepdims", true)?);
    let y = l.arg_reduce(op, x, axis, last, keep)?;
    l.done(y)
}

fn cumulative<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let axis = l.known_ints(n.input(1)?, "the axis")?;
    let [axis] = axis[..] else { return invalid("the axis must be one number") };
    let x = l.arg(n, 0)?;
    let op = if n.op() == "CumSum" { ScanOp::Sum } else { ScanOp::Prod };
    let (exclusive, reverse) = (n.flag("exclusive", false)?, n.flag("reverse", false)?);
    let y = l.scan(op, x, axis, exclusive, reverse)?;
    l.done(y)
}

fn top_k<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let k = if n.version < 10 {
        Dim::from(n.int("k", 0)?)
    } else {
        l.known_dims(n.input(1)?, "k")?.first().cloned().unwrap_or_default()
    };
    let x = l.arg(n, 0)?;
    let (values, indices) = l.topk(x, n.int("axis", -1)?, &k, n.flag("largest", true)?)?;
    Ok(vec![l.run(values), l.run(indices)])
}
