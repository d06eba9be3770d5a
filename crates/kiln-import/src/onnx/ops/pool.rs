//! Pooling.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use super::conv::{geometry, padding};
use kiln_graph::{BinaryOp, Builder, Pool, ReduceOp, Result, ValueId, WindowSpec};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "MaxPool" => max_pool,
        "AveragePool" => average_pool,
        "LpPool" => lp_pool,
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => global_pool,
        _ => return None,
    };
    Some(handler)
}

fn pool(l: &Lower<'_>, n: &Node<'_>, x: ValueId) -> OpResult<Pool> {
    let shape = l.shape(x);
    if shape.len() < 3 {
        return invalid(format!("needs x[N, C, ..], found {}", l.ty(x)));
    }
    let count = shape.len() - 2;
    if !n.has("kernel_shape") {
        return invalid("attribute `kernel_shape` is missing");
    }
    let window = geometry(n, "kernel_shape", count, 1, 1)?;
    let strides = geometry(n, "strides", count, 1, 1)?;
    let dilations = geometry(n, "dilations", count, 1, 1)?;
    let pads = padding(n, &shape[2..], &window, &strides, &dilations)?;
    let ceil_mode = n.flag("ceil_mode", false)? && matches!(n.string("auto_pad", "NOTSET")?, "NOTSET" | "");
    Ok(Pool { spec: WindowSpec { window, strides, pads, dilations }, ceil_mode })
}

fn max_pool<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    if n.wants(1) {
        return unsupported("the indices of the maxima are not computed");
    }
    let x = l.arg(n, 0)?;
    let pool = pool(l, n, x)?;
    let y = l.max_pool(x, &pool)?;
    l.done(y)
}

fn average_pool<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let pool = pool(l, n, x)?;
    let y = l.avg_pool(x, &pool, n.flag("count_include_pad", false)?)?;
    l.done(y)
}

fn lp_pool<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let pool = pool(l, n, x)?;
    if pool.ceil_mode {
        return unsupported("ceil_mode");
    }
    let p = n.int("p", 2)? as f64;
    let y = l.widened(x, |b, x| {
        let powers = powers(b, x, p)?;
        let sum = b.window(ReduceOp::Sum, powers, pool.spec)?;
        root(b, sum, p)
    })?;
    l.done(y)
}

/// `|x|^p`.
fn powers(b: &mut Builder, x: ValueId, p: f64) -> Result<ValueId> {
    let magnitude = b.abs(x)?;
    match p {
        1.0 => Ok(magnitude),
        2.0 => b.mul(x, x),
        _ => b.binary_scalar(BinaryOp::Pow, magnitude, p),
    }
}

/// The `p`-th root.
fn root(b: &mut Builder, x: ValueId, p: f64) -> Result<ValueId> {
    match p {
        1.0 => Ok(x),
        2.0 => b.sqrt(x),
        _ => b.binary_scalar(BinaryOp::Pow, x, 1.0 / p),
    }
}

fn global_pool<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let y = match n.op() {
        "GlobalAveragePool" => l.global_avg_pool(x)?,
        "GlobalMaxPool" => l.global_max_pool(x)?,
        _ => {
            let p = n.int("p", 2)? as f64;
            let axes: Vec<i64> = (2..l.rank(x) as i64).collect();
            l.widened(x, |b, x| {
                let powers = powers(b, x, p)?;
                let sum = b.sum(powers, &axes, true)?;
                root(b, sum, p)
            })?
        }
    };
    l.done(y)
}
