//! Composition of views.

use super::{Rule, rule};
use crate::Numerics::Exact;
use crate::Result;
use kiln_graph::{Dim, Op};

pub(super) fn rules() -> Result<Vec<Rule>> {
    Ok(vec![
        rule("permute-permute", "two permutations are one", Exact, "(permute ?p (permute ?q ?x))", |m, [p, q, x]| {
            let (Op::Permute { perm: outer }, Op::Permute { perm: inner }) = (m.attr(p)?, m.attr(q)?) else {
                return None;
            };
            m.add(Op::Permute { perm: outer.iter().map(|&a| inner[a]).collect() }, &[x])
        })?,
        rule("permute-identity", "every axis stays where it is", Exact, "(permute ?p ?x)", |m, [p, x]| {
            match m.attr(p)? {
                Op::Permute { perm } => perm.iter().enumerate().all(|(i, &a)| i == a).then_some(x),
                _ => None,
            }
        })?,
        rule(
            "permute-of-units",
            "only axes of one element move, so that memory stays as it is",
            Exact,
            "(permute ?p ?x)",
            |m, [p, x]| {
                let (Op::Permute { perm }, shape) = (m.attr(p)?, m.ty(x)?.shape) else { return None };
                // Axes longer than 1 keep their order: no element moves.
                let moved: Vec<usize> = perm.into_iter().filter(|&a| !shape[a].is(1)).collect();
                let shape = m.root_ty()?.shape;
                if moved.is_sorted() { m.add(Op::Reshape { shape }, &[x]) } else { None }
            },
        )?,
        rule(
            "reshape-reshape",
            "only the last shape counts",
            Exact,
            "(reshape ?a (reshape ?b ?x))",
            |m, [_a, _b, x]| {
                let shape = m.root_ty()?.shape;
                m.add(Op::Reshape { shape }, &[x])
            },
        )?,
        rule("reshape-identity", "the shape is this one already", Exact, "(reshape ?a ?x)", |m, [_a, x]| {
            (m.ty(x)? == m.root_ty()?).then_some(x)
        })?,
        rule(
            "broadcast-broadcast",
            "two broadcasts are one",
            Exact,
            "(broadcast ?a (broadcast ?b ?x))",
            |m, [_a, _b, x]| {
                let shape = m.root_ty()?.shape;
                m.add(Op::Broadcast { shape }, &[x])
            },
        )?,
        rule("broadcast-identity", "the shape is this one already", Exact, "(broadcast ?a ?x)", |m, [_a, x]| {
            (m.ty(x)? == m.root_ty()?).then_some(x)
        })?,
        rule(
            "broadcast-of-units",
            "only axes of one element are added, so that memory stays as it is",
            Exact,
            "(broadcast ?a ?x)",
            |m, [_a, x]| {
                let (from, to) = (m.ty(x)?, m.root_ty()?);
                let lead = to.rank().checked_sub(from.rank())?;
                let same = to.shape[..lead].iter().all(|d| d.is(1)) && to.shape[lead..] == from.shape;
                if same { m.add(Op::Reshape { shape: to.shape }, &[x]) } else { None }
            },
        )?,
        rule(
            "broadcast-of-reshape",
            "a broadcast adds leading axes by itself",
            Exact,
            "(broadcast ?a (reshape ?b ?x))",
            |m, [_a, _b, x]| {
                // The reshape only adds leading units, which a broadcast does by itself.
                let (from, to) = (m.ty(x)?, m.root_ty()?);
                let between = m.ways(m.root).into_iter().find_map(|(op, on)| match op {
                    Op::Broadcast { .. } => m.shape(on[0]),
                    _ => None,
                })?;
                let lead = between.len().checked_sub(from.rank())?;
                let adds = between[..lead].iter().all(|d| d.is(1)) && between[lead..] == from.shape;
                if adds { m.add(Op::Broadcast { shape: to.shape }, &[x]) } else { None }
            },
        )?,
        rule("slice-identity", "the slice is the whole", Exact, "(slice ?s ?x)", |m, [s, x]| {
            let Op::Slice { starts, steps, .. } = m.attr(s)? else { return None };
            let whole = starts.iter().all(|d| d.is(0)) && steps.iter().all(|&s| s == 1);
            (whole && m.ty(x)? == m.root_ty()?).then_some(x)
        })?,
        rule("slice-slice", "a slice of a slice is one slice", Exact, "(slice ?s (slice ?t ?x))", |m, [s, t, x]| {
            let Op::Slice { starts, sizes, steps } = m.attr(s)? else { return None };
            let Op::Slice { starts: inner_starts, steps: inner_steps, .. } = m.attr(t)? else { return None };
            let starts = starts.into_iter().zip(inner_starts).zip(&inner_steps);
            let starts = starts.map(|((outer, inner), &by)| inner + outer * Dim::from(by)).collect();
            let steps = steps.iter().zip(&inner_steps).map(|(a, b)| a.checked_mul(*b)).collect::<Option<_>>()?;
            m.add(Op::Slice { starts, sizes, steps }, &[x])
        })?,
        rule("slice-of-concat", "the slice is one of the parts", Exact, "(slice ?s ?c)", |m, [s, c]| {
            let Op::Slice { starts, sizes, steps } = m.attr(s)? else { return None };
            let (axis, parts) = m.ways(c).into_iter().find_map(|(op, parts)| match op {
                Op::Concat { axis } => Some((axis, parts)),
                _ => None,
            })?;
            let plain = steps.iter().all(|&s| s == 1) && starts.iter().enumerate().all(|(a, d)| a == axis || d.is(0));
            let mut at = Dim::from(0);
            for part in parts.into_iter().filter(|_| plain) {
                let shape = m.shape(part)?;
                if at == starts[axis] && shape == sizes {
                    return Some(part);
                }
                at = at + shape[axis].clone();
            }
            None
        })?,
        rule("concat-of-one", "one part is the whole", Exact, "(concat ?a ?x)", |_, [_a, x]| Some(x))?,
        rule("pad-nothing", "nothing is added on any side", Exact, "(pad ?p ?x ?v)", |m, [p, x, _v]| {
            let Op::Pad { low, high, interior } = m.attr(p)? else { return None };
            let nothing = low.iter().chain(&high).all(|d| d.is(0)) && interior.iter().all(|&i| i == 0);
            nothing.then_some(x)
        })?,
    ])
}
