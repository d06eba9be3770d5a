//! Views absorbed into the labels of a contraction, and convolutions that are contractions.

use super::{Match, Rule, rule};
use crate::Numerics::{Exact, Reassoc};
use crate::Result;
use egg::Id;
use kiln_graph::{EinsumSpec, Op};

pub(super) fn rules() -> Result<Vec<Rule>> {
    Ok(vec![
        rule(
            "contract-permuted-left",
            "a permuted operand is read as it lies, under other labels",
            Exact,
            "(contract ?c (permute ?p ?x) ?y)",
            |m, [c, p, x, y]| {
                let (Op::Contract { mut spec, acc, out }, Op::Permute { perm }) = (m.attr(c)?, m.attr(p)?) else {
                    return None;
                };
                spec.lhs = unpermuted(&spec.lhs, &perm);
                m.add(Op::Contract { spec, acc, out }, &[x, y])
            },
        )?,
        rule(
            "contract-permuted-right",
            "a permuted operand is read as it lies, under other labels",
            Exact,
            "(contract ?c ?x (permute ?p ?y))",
            |m, [c, x, p, y]| {
                let (Op::Contract { mut spec, acc, out }, Op::Permute { perm }) = (m.attr(c)?, m.attr(p)?) else {
                    return None;
                };
                spec.rhs = unpermuted(&spec.rhs, &perm);
                m.add(Op::Contract { spec, acc, out }, &[x, y])
            },
        )?,
        rule(
            "permuted-contract",
            "the product is written in the order that is wanted",
            Exact,
            "(permute ?p (contract ?c ?x ?y))",
            |m, [p, c, x, y]| {
                let (Op::Contract { mut spec, acc, out }, Op::Permute { perm }) = (m.attr(c)?, m.attr(p)?) else {
                    return None;
                };
                spec.out = perm.iter().map(|&a| spec.out[a]).collect();
                m.add(Op::Contract { spec, acc, out }, &[x, y])
            },
        )?,
        rule(
            "contract-broadcast-left",
            "the operand is read without what a broadcast repeats",
            Exact,
            "(contract ?c (broadcast ?b ?x) ?y)",
            |m, [c, _b, x, y]| {
                let Op::Contract { spec, acc, out } = m.attr(c)? else { return None };
                let (x, lhs) = unbroadcast(m, &spec.lhs, &spec.rhs, &spec.out, x)?;
                m.add(Op::Contract { spec: EinsumSpec { lhs, ..spec }, acc, out }, &[x, y])
            },
        )?,
        rule(
            "contract-broadcast-right",
            "the operand is read without what a broadcast repeats",
            Exact,
            "(contract ?c ?x (broadcast ?b ?y))",
            |m, [c, x, _b, y]| {
                let Op::Contract { spec, acc, out } = m.attr(c)? else { return None };
                let (y, rhs) = unbroadcast(m, &spec.rhs, &spec.lhs, &spec.out, y)?;
                m.add(Op::Contract { spec: EinsumSpec { rhs, ..spec }, acc, out }, &[x, y])
            },
        )?,
        rule(
            "grouped-transposed",
            "matrices of groups are read as they lie",
            Exact,
            "(grouped_matmul ?c ?x (permute ?p ?w) ?e)",
            |m, [c, x, p, w, e]| {
                let (Op::GroupedMatmul { transposed, acc, out }, Op::Permute { perm }) = (m.attr(c)?, m.attr(p)?)
                else {
                    return None;
                };
                // Only an exchange of rows and columns is another form of the same op.
                let turned = Op::GroupedMatmul { transposed: !transposed, acc, out };
                if perm == [0, 2, 1] { m.add(turned, &[x, w, e]) } else { None }
            },
        )?,
        rule(
            "pointwise-conv",
            "a convolution of one tap is a matrix product",
            Reassoc,
            "(conv ?c ?x ?w)",
            |m, [c, x, w]| {
                let Op::Conv { spec, acc, out } = m.attr(c)? else { return None };
                let shape = m.shape(w)?;
                let plain = spec.groups == 1
                    && spec.strides.iter().all(|&s| s == 1)
                    && spec.pads.iter().all(|&p| p == (0, 0))
                    && shape[2..].iter().all(|d| d.is(1));
                if !plain {
                    return None;
                }
                let w = m.add(Op::Reshape { shape: shape[..2].to_vec() }, &[w])?;
                // n, c, o, then one letter a spatial axis.
                let space: Vec<char> = ('s'..='z').take(shape.len() - 2).collect();
                let spec = EinsumSpec {
                    lhs: vec!['o', 'c'],
                    rhs: [&['n', 'c'], space.as_slice()].concat(),
                    out: [&['n', 'o'], space.as_slice()].concat(),
                };
                m.add(Op::Contract { spec, acc, out }, &[w, x])
            },
        )?,
    ])
}

/// Labels of the operand of a permute, from those of its result.
fn unpermuted(labels: &[char], perm: &[usize]) -> Vec<char> {
    let mut own = labels.to_vec();
    for (label, &axis) in labels.iter().zip(perm) {
        own[axis] = *label;
    }
    own
}

/// The operand of a broadcast without the axes that it repeats, and its labels. Those labels stay batch or free through the other operand;
/// a contracted one would have to scale the result and is left alone.
fn unbroadcast(m: &mut Match, labels: &[char], other: &[char], out: &[char], x: Id) -> Option<(Id, Vec<char>)> {
    let shape = m.shape(x)?;
    let lead = labels.len().checked_sub(shape.len())?;
    let gone = |label: &char| other.contains(label) && out.contains(label);
    let (mut kept_shape, mut kept_labels) = (Vec::new(), Vec::new());
    for (i, label) in labels.iter().enumerate() {
        let own = i.checked_sub(lead).map(|j| &shape[j]);
        match own {
            Some(d) if !d.is(1) => {
                kept_shape.push(d.clone());
                kept_labels.push(*label);
            }
            _ if gone(label) => {}
            _ => return None,
        }
    }
    if kept_labels.len() == labels.len() {
        return None;
    }
    let x = if kept_shape == shape { x } else { m.add(Op::Reshape { shape: kept_shape }, &[x])? };
    Some((x, kept_labels))
}
