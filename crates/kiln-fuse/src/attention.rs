//! What an Attention region is: the predicate behind its rule in [`crate::region`], and its parts.

use crate::plan::{Anchor, Region};
use crate::region::{Subgraph, SubgraphOperand, after, computed, epilogue, in_place, scales_depend};
use kiln_graph::{BinaryOp, DType, Dim, NodeId, Op, OpKind, ReduceOp, TensorType, UnaryOp, ValueId};
use kiln_target::arch::has_mma;

/// Longest head, of queries and keys or of values: kernels keep it on chip.
const MAX_HEAD: i64 = 256;

/// The parts of an Attention region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// The first contraction; its result has the shape of `x`.
    pub scores: NodeId,
    /// What the softmax normalizes: f32.
    pub x: ValueId,
    /// The softmax as the second contraction reads it, after its cast if it has one.
    pub weights: ValueId,
    /// The second contraction.
    pub product: NodeId,
    /// A logit of each row that takes part in the softmax and weighs nothing (an attention sink), with one element along the last axis or without
    /// it.
    pub sink: Option<ValueId>,
    /// The greatest score of each row, and the total by which its weights are divided; results may be made of them.
    pub peak: ValueId,
    /// See `peak`.
    pub total: ValueId,
}

impl Region {
    /// The parts of an Attention region; none for others.
    pub fn attention(&self) -> Option<Attention> {
        if self.anchor != Anchor::Attention {
            return None;
        }
        let parts = parts(&Subgraph::of_graph(&self.graph).ok()?).ok()?;
        let nodes: Vec<usize> = computed(&self.graph).collect();
        let node = |i: usize| nodes.get(i).map(|&n| NodeId(n as u32));
        let value = |i: usize| self.graph.node(node(i)?).outputs.first().copied();
        Some(Attention {
            scores: node(parts.scores)?,
            x: value(parts.x)?,
            weights: value(parts.weights)?,
            product: node(parts.product)?,
            sink: match parts.sink {
                Some((peak, side)) => Some(*self.graph.node(node(peak)?).inputs.get(side)?),
                None => None,
            },
            peak: value(parts.peak)?,
            total: value(parts.total)?,
        })
    }
}

/// [`Attention`] by places in a [`Subgraph`].
pub(crate) struct Parts {
    scores: usize,
    x: usize,
    weights: usize,
    product: usize,
    /// Of which maximum it is which operand.
    sink: Option<(usize, usize)>,
    peak: usize,
    total: usize,
}

/// The parts of a subgraph if it may be an Attention region, else why not.
pub(crate) fn parts(sub: &Subgraph) -> Result<Parts, &'static str> {
    let mut contractions = (0..sub.nodes.len()).filter(|&i| sub.nodes[i].op.kind() == OpKind::Contract);
    let (Some(scores), Some(product), None) = (contractions.next(), contractions.next(), contractions.next()) else {
        return Err("an attention is two contractions");
    };
    let (inside, behind) = (after(sub, &[scores]), after(sub, &[product]));
    let keyed = keyed(sub, scores).ok_or("a first contraction that makes no scores")?;
    let (weights, valued) = valued(sub, product, &inside).ok_or("a second contraction that weighs no values")?;
    if sub.nodes[scores].operands[0].ty.dtype != sub.nodes[weights].ty.dtype {
        return Err("keys and values of different types");
    }
    if !keyed.iter().zip(&valued).any(|(k, v)| !k && !v) {
        return Err("an attention without rows of queries");
    }
    let Softmax { x, steps, sink, peak, total } =
        softmax(sub, weights).ok_or("no softmax of rows between two contractions")?;
    let ty = sub.nodes[scores].ty;
    // What follows from the greatest and the total of a row alone.
    let mut of_rows = vec![false; sub.nodes.len()];
    for (i, node) in sub.nodes.iter().enumerate() {
        let reshapes = matches!(node.op, Op::Reshape { .. });
        let lead = &ty.shape[..ty.shape.len() - 1];
        let row =
            node.ty.shape == lead || node.ty.shape.split_last().is_some_and(|(last, rest)| last.is(1) && rest == lead);
        let mut from = node.operands.iter().filter_map(|o| o.inner).filter(|&j| inside[j]).peekable();
        let follows = row && from.peek().is_some() && from.all(|j| of_rows[j]);
        let plain = reshapes || node.op.kind() == OpKind::Elementwise && !scales_depend(node, &inside);
        of_rows[i] = i == peak || i == total || follows && plain && (reshapes || !steps.contains(&i));
    }
    if !inside[x] || sub.nodes[x].ty.dtype != DType::F32 || sub.nodes[x].ty.shape != ty.shape {
        return Err("a softmax of other than the scores in f32");
    }
    for (i, node) in sub.nodes.iter().enumerate().filter(|(i, _)| ![scores, product].contains(i)) {
        let kind = node.op.kind();
        let mut inner = node.operands.iter().filter_map(|o| o.inner);
        if behind[i] {
            if inner.any(|j| inside[j] && !behind[j]) {
                return Err("an epilogue that reads the scores");
            }
        } else if inside[i] {
            let plain = kind == OpKind::Elementwise && node.ty.shape == ty.shape && !scales_depend(node, &inside);
            if !steps.contains(&i) && !of_rows[i] && (!plain || inner.any(|j| steps.contains(&j) || of_rows[j])) {
                return Err("other than elementwise ops between the scores and their softmax");
            }
        } else if !matches!(kind, OpKind::Nullary | OpKind::Elementwise | OpKind::View) {
            return Err("other than a map beside an attention");
        }
    }
    let (rows, results): (Vec<usize>, Vec<usize>) = sub.outputs.iter().partition(|&&o| inside[o] && !behind[o]);
    if rows.iter().any(|&o| !of_rows[o]) {
        return Err("a result between the products that does not follow from a row's greatest score and total");
    }
    epilogue(sub, &[product], &behind, &results)?;
    if sink.is_some_and(|(peak, side)| sub.nodes[peak].operands[side].inner.is_some_and(|i| inside[i])) {
        return Err("a sink that depends on the scores");
    }
    Ok(Parts { scores, x, weights, product, sink, peak, total })
}

/// Which axes of the scores the keys have; `None` unless a contraction is one of queries with keys, which own the last axis.
fn keyed(sub: &Subgraph, scores: usize) -> Option<Vec<bool>> {
    let node = &sub.nodes[scores];
    let Op::Contract { spec, acc: DType::F32, out } = node.op else { return None };
    let [lhs, rhs] = node.operands[..] else { return None };
    let key = spec.out.last()?;
    let (queries, q, keys, k) = match (spec.lhs.contains(key), spec.rhs.contains(key)) {
        (false, true) => (lhs.ty, &spec.lhs, rhs.ty, &spec.rhs),
        (true, false) => (rhs.ty, &spec.rhs, lhs.ty, &spec.lhs),
        _ => return None,
    };
    let fits = in_place(sub, lhs)
        && in_place(sub, rhs)
        && is_float(lhs.ty.dtype)
        && lhs.ty.dtype == rhs.ty.dtype
        && is_float(*out)
        && k.iter().all(|l| l == key || q.contains(l))
        // Extents of one label may be equal only by a constraint, and written differently.
        && fits_head(queries, q, |l| !spec.out.contains(&l))
        && fits_head(keys, k, |l| !spec.out.contains(&l));
    fits.then(|| spec.out.iter().map(|l| k.contains(l)).collect())
}

/// The weights, and which of their axes the values have; `None` unless a contraction sums values by weights along the last axis of those. `inside` says
/// what depends on the scores.
fn valued(sub: &Subgraph, product: usize, inside: &[bool]) -> Option<(usize, Vec<bool>)> {
    let node = &sub.nodes[product];
    let Op::Contract { spec, acc: DType::F32, out } = node.op else { return None };
    let [lhs, rhs] = node.operands[..] else { return None };
    let weighs = |operand: SubgraphOperand| operand.inner.filter(|i| inside[*i]);
    let (weights, w, values, v) = match (weighs(lhs), weighs(rhs)) {
        (Some(i), None) => (i, &spec.lhs, rhs, &spec.rhs),
        (None, Some(i)) => (i, &spec.rhs, lhs, &spec.lhs),
        _ => return None,
    };
    let key = w.last()?;
    let fits = in_place(sub, values)
        && is_float(values.ty.dtype)
        && lhs.ty.dtype == rhs.ty.dtype
        && is_float(*out)
        && w.iter().all(|l| spec.out.contains(l) == (l != key))
        && fits_head(values.ty, v, |l| !w.contains(&l));
    fits.then(|| (weights, w.iter().map(|l| v.contains(l)).collect()))
}

fn is_float(dtype: DType) -> bool {
    has_mma(dtype) || dtype == DType::F32
}

/// Whether there are axes with labels that `own` picks, and their extents make a constant that kernels can keep.
fn fits_head(ty: &TensorType, labels: &[char], own: impl Fn(char) -> bool) -> bool {
    let picked: Vec<&Dim> = labels.iter().zip(&ty.shape).filter(|(l, _)| own(**l)).map(|(_, d)| d).collect();
    let product = picked.iter().try_fold(1i64, |p, d| p.checked_mul(d.as_const()?));
    !picked.is_empty() && product.is_some_and(|p| (1..=MAX_HEAD).contains(&p))
}

/// A softmax along the last axis.
struct Softmax {
    /// What it normalizes.
    x: usize,
    /// Its nodes, a cast of the result included.
    steps: Vec<usize>,
    /// Of the node that is the greater of the row's greatest and of a logit beside the row, which operand that is.
    sink: Option<(usize, usize)>,
    /// The greatest of a row, and its total.
    peak: usize,
    total: usize,
}

/// The softmax that ends in a node, or in what that casts: `e / total` or `e * (1 / total)` with `e = exp(x - peak)`, where `peak = max(x)` and
/// `total = sum(e)`, or, with a sink, `peak = max(max(x), sink)` and `total = sum(e) + exp(sink - peak)`.
fn softmax(sub: &Subgraph, last: usize) -> Option<Softmax> {
    let op = |i: usize| sub.nodes[i].op;
    let operand = |i: usize, n: usize| sub.nodes[i].operands.get(n)?.inner;
    let ratio = if let Op::Cast { .. } = op(last) { operand(last, 0)? } else { last };
    let (a, b) = (operand(ratio, 0)?, operand(ratio, 1)?);
    let (e, sums, inverse) = match op(ratio) {
        Op::Binary(BinaryOp::Div) => (a, b, false),
        Op::Binary(BinaryOp::Mul) if matches!(op(a), Op::Unary(UnaryOp::Exp)) => (a, b, true),
        Op::Binary(BinaryOp::Mul) => (b, a, true),
        _ => return None,
    };
    let Op::Unary(UnaryOp::Exp) = op(e) else { return None };
    let shifted = operand(e, 0)?;
    let Op::Binary(BinaryOp::Sub) = op(shifted) else { return None };
    let x = operand(shifted, 0)?;
    let mut steps = vec![last, ratio, e, shifted];
    let peak = rows(sub, operand(shifted, 1)?, false, (BinaryOp::Max, ReduceOp::Max), x)?;
    let total = rows(sub, sums, inverse, (BinaryOp::Add, ReduceOp::Sum), e)?;
    let sink = match (peak.beside, total.beside) {
        (None, None) => None,
        (Some((greater, side)), Some((sum, other))) => {
            // What is added is the power of the same logit less the peak.
            let power = bare(sub, sub.nodes[sum].operands[other], &mut steps).inner?;
            let Op::Unary(UnaryOp::Exp) = op(power) else { return None };
            let difference = bare(sub, sub.nodes[power].operands[0], &mut steps).inner?;
            let Op::Binary(BinaryOp::Sub) = op(difference) else { return None };
            steps.extend([power, difference]);
            let [logit, less] = sub.nodes[difference].operands[..] else { return None };
            let less = bare(sub, less, &mut steps);
            let own = sub.nodes[greater].operands[side];
            let same = logit.value == own.value || alike(sub, logit, own);
            (same && less.inner == Some(greater)).then_some(Some((greater, side)))?
        }
        _ => return None,
    };
    let of = [&peak, &total].map(|combined| combined.beside.map(|(node, _)| node).or(combined.steps.last().copied()));
    let [Some(greatest), Some(sum)] = of else { return None };
    steps.extend(peak.steps.into_iter().chain(total.steps));
    Some(Softmax { x, steps, sink, peak: greatest, total: sum })
}

/// What stands before reshapes, which are added to `steps`.
fn bare<'a>(sub: &Subgraph<'a>, mut of: SubgraphOperand<'a>, steps: &mut Vec<usize>) -> SubgraphOperand<'a> {
    while let Some(i) = of.inner
        && let Op::Reshape { .. } = sub.nodes[i].op
    {
        steps.push(i);
        of = sub.nodes[i].operands[0];
    }
    of
}

/// Whether two operands are the same elements in the same order.
fn alike(sub: &Subgraph, a: SubgraphOperand, b: SubgraphOperand) -> bool {
    let [a, b] = [a, b].map(|of| bare(sub, of, &mut vec![]));
    a.value == b.value
        || match (a.inner, b.inner) {
            (Some(i), Some(j)) => {
                let (m, n) = (&sub.nodes[i], &sub.nodes[j]);
                let repeats = |op: &Op| matches!(op, Op::Broadcast { .. });
                repeats(m.op) && repeats(n.op) && alike(sub, m.operands[0], n.operands[0])
            }
            _ => false,
        }
}

/// What combines a row.
struct Combined {
    steps: Vec<usize>,
    /// Of the node that combines a row with something else, which operand that is.
    beside: Option<(usize, usize)>,
}

/// The nodes up to a broadcast of the reduction of `of` along its last axis back over that axis, with a reciprocal on the way if `inverse`; the row
/// may be combined with one number more.
fn rows(
    sub: &Subgraph,
    wide: usize,
    inverse: bool,
    (combine, reduction): (BinaryOp, ReduceOp),
    of: usize,
) -> Option<Combined> {
    let operand = |i: usize| sub.nodes[i].operands.first();
    let Op::Broadcast { shape } = sub.nodes[wide].op else { return None };
    let (kept, lead) = (&operand(wide)?.ty.shape, shape.len().checked_sub(1)?);
    if kept.len() != shape.len() || kept[..lead] != shape[..lead] || !kept[lead].is(1) {
        return None;
    }
    let (mut steps, mut inverses, mut beside) = (vec![wide], 0, None);
    let mut next = operand(wide)?.inner?;
    loop {
        steps.push(next);
        let node = &sub.nodes[next];
        match node.op {
            Op::Reshape { .. } => {}
            Op::Unary(UnaryOp::Recip) if beside.is_none() => inverses += 1,
            Op::Binary(op) if *op == combine && beside.is_none() => {
                let reduces = |side: &usize| {
                    let inner = node.operands.get(*side).and_then(|o| bare(sub, *o, &mut vec![]).inner);
                    inner.is_some_and(|i| matches!(sub.nodes[i].op, Op::Reduce { .. }))
                };
                let side = (0..2).find(reduces)?;
                beside = Some((next, 1 - side));
                next = node.operands[side].inner?;
                continue;
            }
            Op::Reduce { op, axes } => {
                let fits = *op == reduction && axes[..] == [lead] && operand(next)?.inner == Some(of);
                return (fits && inverses == usize::from(inverse)).then_some(Combined { steps, beside });
            }
            _ => return None,
        }
        next = operand(next)?.inner?;
    }
}
