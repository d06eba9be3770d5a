//! What reductions, windows, scans and contractions share: how values combine, and serial loops.

use crate::value::dtype::register;
use kiln_graph as graph;
use kiln_tile::expr::{Expr, Var};
use kiln_tile::{Builder, DType, ReduceOp};

/// How the values of a graph reduction combine.
pub fn reduction(op: graph::ReduceOp) -> ReduceOp {
    match op {
        graph::ReduceOp::Sum => ReduceOp::Sum,
        graph::ReduceOp::Prod => ReduceOp::Prod,
        graph::ReduceOp::Max => ReduceOp::Max,
        graph::ReduceOp::Min => ReduceOp::Min,
        graph::ReduceOp::All => ReduceOp::And,
        graph::ReduceOp::Any => ReduceOp::Or,
    }
}

/// The extreme of nothing, in the compute type, lies beyond the range of a narrower integer type: this brings it back.
pub fn within(e: &Expr, op: ReduceOp, dtype: DType) -> Expr {
    let narrow = dtype != DType::Bool && register(dtype) != dtype.compute();
    match dtype.int_range() {
        Some((low, high)) if narrow && matches!(op, ReduceOp::Max | ReduceOp::Min) => {
            e.max(Expr::wide_int(e.ty(), low)).min(Expr::wide_int(e.ty(), high))
        }
        _ => e.clone(),
    }
}

/// `total op= value`.
pub fn step(k: &mut Builder, total: &Var, op: ReduceOp, value: &Expr) {
    k.assign(total, Expr::var(total).binary(op.binary(), value));
}

/// Serial loops over `axes`, the last innermost; loops over few points are unrolled.
pub fn nest(k: &mut Builder, axes: &[(&str, Expr)], body: &mut dyn FnMut(&mut Builder, &[Expr])) {
    let points = axes.iter().try_fold(1i128, |n, (_, extent)| extent.as_const().map(|e| n * e));
    open(k, axes, points.is_some_and(|n| n <= UNROLLED), &mut vec![], body);
}

/// Most points of a loop nest that is unrolled.
const UNROLLED: i128 = 16;

fn open(
    k: &mut Builder,
    axes: &[(&str, Expr)],
    unroll: bool,
    index: &mut Vec<Expr>,
    body: &mut dyn FnMut(&mut Builder, &[Expr]),
) {
    let Some(((name, extent), rest)) = axes.split_first() else { return body(k, index) };
    if extent.as_const() == Some(1) {
        index.push(Expr::index(0));
        open(k, rest, unroll, index, body);
        index.pop();
        return;
    }
    let inner = |k: &mut Builder, i: &Expr| {
        index.push(i.clone());
        open(k, rest, unroll, index, body);
        index.pop();
    };
    if unroll {
        k.for_unrolled(name, 0, extent, inner);
    } else {
        k.for_range(name, 0, extent, inner);
    }
}
