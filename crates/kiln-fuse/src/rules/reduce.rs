//! Reductions of reductions, and of axes of one element.

use super::{Rule, rule};
use crate::Numerics::{Exact, Reassoc};
use crate::Result;
use kiln_graph::{Op, ReduceOp};

pub(super) fn rules() -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for &op in ReduceOp::ALL {
        let name = Op::Reduce { op, axes: vec![] }.name();
        rules.push(rule(format!("{name}-of-units"), Exact, &format!("({name} ?a ?x)"), |m, [a, x]| {
            let (Op::Reduce { axes, .. }, shape) = (m.attr(a)?, m.shape(x)?) else { return None };
            let reduced = m.root_ty()?.shape;
            if axes.iter().all(|&a| shape[a].is(1)) { m.add(Op::Reshape { shape: reduced }, &[x]) } else { None }
        })?);
        // Sums and products of parts round differently from those of the whole.
        let numerics = if matches!(op, ReduceOp::Sum | ReduceOp::Prod) { Reassoc } else { Exact };
        let pattern = format!("({name} ?a ({name} ?b ?x))");
        rules.push(rule(format!("{name}-twice"), numerics, &pattern, move |m, [a, b, x]| {
            let (Op::Reduce { axes: outer, .. }, Op::Reduce { axes: inner, .. }) = (m.attr(a)?, m.attr(b)?) else {
                return None;
            };
            let kept: Vec<usize> = (0..m.ty(x)?.rank()).filter(|i| !inner.contains(i)).collect();
            let mut axes: Vec<usize> = outer.iter().map(|&i| kept[i]).chain(inner.iter().copied()).collect();
            axes.sort_unstable();
            m.add(Op::Reduce { op, axes }, &[x])
        })?);
    }
    Ok(rules)
}
