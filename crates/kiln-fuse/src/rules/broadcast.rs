//! Elementwise ops before a broadcast instead of after it: `f(broadcast x) = broadcast f(x)`. Fewer elements, and per-channel vectors of
//! weights meet each other, so that they fold.

use super::{Match, Rule, rule};
use crate::Numerics::Exact;
use crate::Result;
use egg::Id;
use kiln_graph::{BinaryOp, CompareOp, Dim, Op, UnaryOp};

pub(super) fn rules() -> Result<Vec<Rule>> {
    let mut rules = vec![rule(
        "broadcast-last-cast",
        "computed before the broadcast, on fewer elements",
        Exact,
        "(cast ?c (broadcast ?b ?x))",
        |m, [c, b, x]| {
            let (cast, wide) = (m.attr(c)?, m.attr(b)?);
            let y = m.add(cast, &[x])?;
            m.add(wide, &[y])
        },
    )?];
    for op in UnaryOp::ALL.iter().copied() {
        let pattern = format!("({op} (broadcast ?b ?x))");
        rules.push(rule(
            format!("broadcast-last-{op}"),
            "computed before the broadcast, on fewer elements",
            Exact,
            &pattern,
            move |m, [b, x]| {
                let wide = m.attr(b)?;
                let y = m.add(Op::Unary(op), &[x])?;
                m.add(wide, &[y])
            },
        )?);
    }
    let binary = BinaryOp::ALL.iter().map(|&op| (op.name(), Op::Binary(op)));
    let compare = CompareOp::ALL.iter().map(|&op| (op.name(), Op::Compare(op)));
    for (name, op) in binary.chain(compare) {
        let pattern = format!("({name} (broadcast ?a ?x) (broadcast ?b ?y))");
        rules.push(rule(
            format!("broadcast-last-{name}"),
            "computed before the broadcast, on fewer elements",
            Exact,
            &pattern,
            move |m, [_a, x, _b, y]| narrow(m, &op, x, y),
        )?);
    }
    Ok(rules)
}

/// `op` on two operands of a common shape smaller than the match's, then broadcast.
fn narrow(m: &mut Match, op: &Op, x: Id, y: Id) -> Option<Id> {
    let full = m.root_ty()?.shape;
    let small = common(&m.shape(x)?, &m.shape(y)?)?;
    if small == full {
        return None;
    }
    let mut widen = |id: Id| {
        if m.shape(id)? == small { Some(id) } else { m.add(Op::Broadcast { shape: small.clone() }, &[id]) }
    };
    let (x, y) = (widen(x)?, widen(y)?);
    let z = m.add(op.clone(), &[x, y])?;
    m.add(Op::Broadcast { shape: full }, &[z])
}

/// The numpy broadcast of two shapes, aligned right; `None` unless it is plain.
fn common(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let lead = long.len() - short.len();
    let mut shape = long.to_vec();
    for (d, s) in shape[lead..].iter_mut().zip(short) {
        if d.is(1) {
            *d = s.clone();
        } else if d != s && !s.is(1) {
            return None;
        }
    }
    Some(shape)
}
