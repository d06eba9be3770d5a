//! Scales of weights commute with contractions: batch norm folds into the convolution before it, per-channel scales into a projection.
//!
//! All of these assume finite weights and regroup products, hence `reassoc`.

use super::{Match, Rule, rule};
use crate::Numerics::Reassoc;
use crate::Result;
use egg::Id;
use kiln_graph::{BinaryOp, Dim, Op, UnaryOp};

pub(super) fn rules() -> Result<Vec<Rule>> {
    let mut rules = vec![
        rule(
            "scale-into-conv",
            "a scale of channels folds into the weights",
            Reassoc,
            "(mul (conv ?c ?x ?w) (broadcast ?b ?s))",
            |m, [c, x, w, _b, s]| {
                let labels: Vec<char> = ('a'..).take(m.root_ty()?.rank()).collect();
                // The weight's first axis is the result's second.
                let mut own = vec!['?'; labels.len()];
                own[0] = labels[1];
                let w = scaled(m, w, &own, s, &labels)?;
                let op = m.attr(c)?;
                m.add(op, &[x, w])
            },
        )?,
        rule(
            "scale-into-contract-right",
            "a scale folds into the weights",
            Reassoc,
            "(mul (contract ?c ?x ?w) (broadcast ?b ?s))",
            |m, [c, x, w, _b, s]| {
                let Op::Contract { spec, .. } = m.attr(c)? else { return None };
                let w = scaled(m, w, &spec.rhs, s, &spec.out)?;
                let op = m.attr(c)?;
                m.add(op, &[x, w])
            },
        )?,
        rule(
            "scale-into-contract-left",
            "a scale folds into the weights",
            Reassoc,
            "(mul (contract ?c ?w ?x) (broadcast ?b ?s))",
            |m, [c, w, x, _b, s]| {
                let Op::Contract { spec, .. } = m.attr(c)? else { return None };
                let w = scaled(m, w, &spec.lhs, s, &spec.out)?;
                let op = m.attr(c)?;
                m.add(op, &[w, x])
            },
        )?,
        rule(
            "div-by-weight",
            "the reciprocal of a weight folds, and a product is cheaper than a quotient",
            Reassoc,
            "(div ?x ?s)",
            |m, [x, s]| {
                if !m.weight_only(s) || m.weight_only(x) || !m.ty(s)?.dtype.is_float() {
                    return None;
                }
                let r = m.add(Op::Unary(UnaryOp::Recip), &[s])?;
                m.add(Op::Binary(BinaryOp::Mul), &[x, r])
            },
        )?,
    ];
    // (x op m) * s = x * s op m * s, after a contraction only: elsewhere it is no gain.
    for op in [BinaryOp::Add, BinaryOp::Sub] {
        let pattern = format!("(mul ({op} ?x ?m) ?s)");
        rules.push(rule(
            format!("distribute-{op}"),
            "the scale reaches the product before it, where it folds",
            Reassoc,
            &pattern,
            move |m, [x, shift, s]| {
                let after = m.ways(x).iter().any(|(op, _)| matches!(op, Op::Conv { .. } | Op::Contract { .. }));
                if !after || !m.weight_only(shift) || !m.weight_only(s) || !m.ty(x)?.dtype.is_float() {
                    return None;
                }
                let x = m.add(Op::Binary(BinaryOp::Mul), &[x, s])?;
                let shift = m.add(Op::Binary(BinaryOp::Mul), &[shift, s])?;
                m.add(Op::Binary(op), &[x, shift])
            },
        )?);
    }
    // Constants meet: (x o1 m) o2 n = x o1 (m o n).
    use BinaryOp::{Add, Mul, Sub};
    for (first, second, outer, inner, swap) in [
        (Add, Add, Add, Add, false),
        (Add, Sub, Add, Sub, false),
        (Sub, Add, Add, Sub, true),
        (Sub, Sub, Sub, Add, false),
        (Mul, Mul, Mul, Mul, false),
    ] {
        let pattern = format!("({second} ({first} ?x ?m) ?n)");
        rules.push(rule(
            format!("gather-{first}-{second}"),
            "constants meet, and fold",
            Reassoc,
            &pattern,
            move |m, [x, a, b]| {
                // `x = x * 1` puts a class below itself; unrolling it would not end.
                if x == m.root
                    || m.weight_only(x)
                    || !m.weight_only(a)
                    || !m.weight_only(b)
                    || !m.ty(x)?.dtype.is_float()
                {
                    return None;
                }
                let (a, b) = if swap { (b, a) } else { (a, b) };
                let both = m.add(Op::Binary(inner), &[a, b])?;
                m.add(Op::Binary(outer), &[x, both])
            },
        )?);
    }
    Ok(rules)
}

/// `w * s` with `s` laid along the axes of `w`. `own` labels the axes of `w`, `out` those of the result, against whose end `s` is aligned;
/// every axis of `s` that varies must be one of `w`. Both must be weights of one dtype, so that the product folds.
fn scaled(m: &mut Match, w: Id, own: &[char], s: Id, out: &[char]) -> Option<Id> {
    let (weight, scale) = (m.ty(w)?, m.ty(s)?);
    if !m.weight_only(w) || !m.weight_only(s) || weight.dtype != scale.dtype || weight.dtype != m.root_ty()?.dtype {
        return None;
    }
    if scale.shape.iter().all(|d| d.is(1)) {
        return None;
    }
    let s = laid(m, s, own, out, weight.shape)?;
    m.add(Op::Binary(BinaryOp::Mul), &[w, s])
}

/// `s`, which is aligned against the end of axes with the labels `out`, along axes with the labels `own` of extents `shape`; `None` if it varies along
/// another.
pub(super) fn laid(m: &mut Match, s: Id, own: &[char], out: &[char], shape: Vec<Dim>) -> Option<Id> {
    let scale = m.ty(s)?;
    let lead = out.len().checked_sub(scale.rank())?;
    let varying: Vec<(char, Dim)> = out[lead..].iter().copied().zip(scale.shape).filter(|(_, d)| !d.is(1)).collect();
    // Places in `varying` in the order in which `own` has them.
    let order: Vec<usize> = own.iter().filter_map(|label| varying.iter().position(|(l, _)| l == label)).collect();
    if order.len() != varying.len() {
        return None;
    }
    let s = m.add(Op::Reshape { shape: varying.iter().map(|(_, d)| d.clone()).collect() }, &[s])?;
    let s = if order.is_sorted() { s } else { m.add(Op::Permute { perm: order }, &[s])? };
    let extents = own.iter().map(|label| {
        let found = varying.iter().find(|(l, _)| l == label);
        found.map_or(Dim::from(1), |(_, d)| d.clone())
    });
    let extents: Vec<Dim> = extents.collect();
    let s = m.add(Op::Reshape { shape: extents }, &[s])?;
    m.add(Op::Broadcast { shape }, &[s])
}
