//! Sums of exponentials. What the exponentials of a row are divided by or multiplied with may come before or after values are summed by them; kernels of attention are
//! found with it before ([`crate::Weighing`]).

use super::scale::laid;
use super::{Match, Rule, rule};
use crate::Numerics::Reassoc;
use crate::Result;
use egg::Id;
use kiln_graph::{BinaryOp, Op, ReduceOp, UnaryOp};

pub(super) fn rules() -> Result<Vec<Rule>> {
    let mut rules = vec![];
    for (op, left) in [(BinaryOp::Div, true), (BinaryOp::Div, false), (BinaryOp::Mul, true), (BinaryOp::Mul, false)] {
        let (side, operands) = if left { ("left", "?w ?v") } else { ("right", "?v ?w") };
        rules.push(rule(
            format!("exponentials-{op}-{side}"),
            "what all exponentials of a row have in common may be applied before values are summed",
            Reassoc,
            &format!("({op} (contract ?c {operands}) (broadcast ?b ?s))"),
            move |m, [c, first, second, _b, s]| {
                let Op::Contract { spec, .. } = m.attr(c)? else { return None };
                let (weights, values, own) = if left { (first, second, &spec.lhs) } else { (second, first, &spec.rhs) };
                let (cast, exponentials) = exponentials(m, weights)?;
                let ty = m.ty(exponentials)?;
                // What a cast rounds is at most 1 if it is a softmax.
                if ty.dtype != m.root_ty()?.dtype
                    || cast.is_some() && !(op == BinaryOp::Div && is_total(m, s, exponentials))
                {
                    return None;
                }
                let s = laid(m, s, own, &spec.out, ty.shape)?;
                let mut weights = m.add(Op::Binary(op), &[exponentials, s])?;
                if let Some(cast) = cast {
                    weights = m.add(cast, &[weights])?;
                }
                let operands = if left { [weights, values] } else { [values, weights] };
                let op = m.attr(c)?;
                m.add(op, &operands)
            },
        )?);
    }
    Ok(rules)
}

/// The exponentials that a value is, and the cast that it is of them.
fn exponentials(m: &Match, of: Id) -> Option<(Option<Op>, Id)> {
    let powers = |id: Id| m.ways(id).iter().any(|(op, _)| matches!(op, Op::Unary(UnaryOp::Exp)));
    if powers(of) {
        return Some((None, of));
    }
    let cast = m.ways(of).into_iter().find(|(op, from)| matches!(op, Op::Cast { .. }) && powers(from[0]));
    cast.map(|(op, from)| (Some(op), from[0]))
}

/// Whether a value is a sum of these, but for its shape.
fn is_total(m: &Match, id: Id, of: Id) -> bool {
    m.ways(id).iter().any(|(op, from)| match op {
        Op::Reduce { op: ReduceOp::Sum, .. } => m.same(from[0], of),
        Op::Reshape { .. } => {
            let sums =
                |(op, from): &(Op, Vec<Id>)| matches!(op, Op::Reduce { op: ReduceOp::Sum, .. }) && m.same(from[0], of);
            m.ways(from[0]).iter().any(sums)
        }
        _ => false,
    })
}
