//! Reductions of reductions, of axes of one element, and of one element repeated.

use super::{Rule, rule};
use crate::Numerics::{Exact, Reassoc};
use crate::Result;
use kiln_graph::{BinaryOp, Op, ReduceOp, Tensor};

pub(super) fn rules() -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for &op in ReduceOp::ALL {
        let name = Op::Reduce { op, axes: vec![] }.name();
        rules.push(rule(
            format!("{name}-of-units"),
            "an axis of one element needs no reduction",
            Exact,
            &format!("({name} ?a ?x)"),
            |m, [a, x]| {
                let (Op::Reduce { axes, .. }, shape) = (m.attr(a)?, m.shape(x)?) else { return None };
                let reduced = m.root_ty()?.shape;
                if axes.iter().all(|&a| shape[a].is(1)) { m.add(Op::Reshape { shape: reduced }, &[x]) } else { None }
            },
        )?);
        // Sums and products of parts round differently from those of the whole.
        let numerics = if matches!(op, ReduceOp::Sum | ReduceOp::Prod) { Reassoc } else { Exact };
        let pattern = format!("({name} ?a ({name} ?b ?x))");
        rules.push(rule(
            format!("{name}-twice"),
            "two reductions are one over all their axes",
            numerics,
            &pattern,
            move |m, [a, b, x]| {
                let (Op::Reduce { axes: outer, .. }, Op::Reduce { axes: inner, .. }) = (m.attr(a)?, m.attr(b)?) else {
                    return None;
                };
                let kept: Vec<usize> = (0..m.ty(x)?.rank()).filter(|i| !inner.contains(i)).collect();
                let mut axes: Vec<usize> = outer.iter().map(|&i| kept[i]).chain(inner.iter().copied()).collect();
                axes.sort_unstable();
                m.add(Op::Reduce { op, axes }, &[x])
            },
        )?);
    }
    rules.push(rule(
        "sum-of-broadcast",
        "a sum of one element repeated is a product with the count",
        Reassoc,
        "(reduce_sum ?a (broadcast ?b ?x))",
        |m, [a, b, x]| {
            let (Op::Reduce { axes, .. }, Op::Broadcast { shape: wide }) = (m.attr(a)?, m.attr(b)?) else {
                return None;
            };
            let (x_ty, result) = (m.ty(x)?, m.root_ty()?);
            let lead = wide.len() - x_ty.rank();
            let spread = |axis: usize| axis < lead || x_ty.shape[axis - lead].is(1);
            let count = axes
                .iter()
                .try_fold(1i64, |n, &axis| n.checked_mul(wide[axis].as_const().filter(|_| spread(axis))?))?;
            // The count must be a number of the dtype, or the product would be one of something else.
            let factor = Tensor::full(result.dtype, &[], count as f64).ok()?;
            if count < 1 || !result.dtype.is_float() || factor.to_f64_vec() != [count as f64] {
                return None;
            }
            let kept =
                (lead..wide.len()).filter(|axis| !axes.contains(axis)).map(|axis| x_ty.shape[axis - lead].clone());
            let y = m.add(Op::Reshape { shape: kept.collect() }, &[x])?;
            let y = m.add(Op::Broadcast { shape: result.shape.clone() }, &[y])?;
            let factor = m.add(Op::Const { value: factor }, &[])?;
            let factor = m.add(Op::Broadcast { shape: result.shape }, &[factor])?;
            m.add(Op::Binary(BinaryOp::Mul), &[y, factor])
        },
    )?);
    Ok(rules)
}
