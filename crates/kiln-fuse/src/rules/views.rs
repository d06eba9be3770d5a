//! Composition of views.

use super::{Rule, rule};
use crate::Numerics::Exact;
use crate::Result;
use kiln_graph::Op;

pub(super) fn rules() -> Result<Vec<Rule>> {
    Ok(vec![
        rule("permute-permute", Exact, "(permute ?p (permute ?q ?x))", |m, [p, q, x]| {
            let (Op::Permute { perm: outer }, Op::Permute { perm: inner }) = (m.attr(p)?, m.attr(q)?) else {
                return None;
            };
            m.add(Op::Permute { perm: outer.iter().map(|&a| inner[a]).collect() }, &[x])
        })?,
        rule("permute-identity", Exact, "(permute ?p ?x)", |m, [p, x]| match m.attr(p)? {
            Op::Permute { perm } => perm.iter().enumerate().all(|(i, &a)| i == a).then_some(x),
            _ => None,
        })?,
        rule("permute-of-units", Exact, "(permute ?p ?x)", |m, [p, x]| {
            let (Op::Permute { perm }, shape) = (m.attr(p)?, m.ty(x)?.shape) else { return None };
            // Axes longer than 1 keep their order: no element moves.
            let moved: Vec<usize> = perm.into_iter().filter(|&a| !shape[a].is(1)).collect();
            let shape = m.root_ty()?.shape;
            if moved.is_sorted() { m.add(Op::Reshape { shape }, &[x]) } else { None }
        })?,
        rule("reshape-reshape", Exact, "(reshape ?a (reshape ?b ?x))", |m, [_a, _b, x]| {
            let shape = m.root_ty()?.shape;
            m.add(Op::Reshape { shape }, &[x])
        })?,
        rule("reshape-identity", Exact, "(reshape ?a ?x)", |m, [_a, x]| (m.ty(x)? == m.root_ty()?).then_some(x))?,
        rule("broadcast-broadcast", Exact, "(broadcast ?a (broadcast ?b ?x))", |m, [_a, _b, x]| {
            let shape = m.root_ty()?.shape;
            m.add(Op::Broadcast { shape }, &[x])
        })?,
        rule("broadcast-identity", Exact, "(broadcast ?a ?x)", |m, [_a, x]| (m.ty(x)? == m.root_ty()?).then_some(x))?,
        rule("broadcast-of-units", Exact, "(broadcast ?a ?x)", |m, [_a, x]| {
            let (from, to) = (m.ty(x)?, m.root_ty()?);
            let lead = to.rank().checked_sub(from.rank())?;
            let same = to.shape[..lead].iter().all(|d| d.is(1)) && to.shape[lead..] == from.shape;
            if same { m.add(Op::Reshape { shape: to.shape }, &[x]) } else { None }
        })?,
    ])
}
