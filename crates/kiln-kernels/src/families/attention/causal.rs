//! Causal masks: which keys no row of a tile sees, so that their tiles are never read.

use crate::value::Values;
use kiln_graph::{BinaryOp, CompareOp, DType, Dim, Node, Op, ValueId};

/// A mask that hides from a query exactly the keys past it and an offset.
pub struct Causal {
    /// The axis of queries.
    pub axis: usize,
    /// The offset.
    pub offset: Dim,
    /// What is masked.
    pub seen: ValueId,
    /// It with minus infinity in place of what is hidden.
    pub masked: ValueId,
}

/// The mask if `x`, scores `[.., keys]`, is minus infinity wherever `key > query + offset`, and elsewhere what follows from the scores by casts.
pub fn diagonal(values: &Values, x: ValueId) -> Option<Causal> {
    // Types that have infinities.
    let node = through(values, x, |op| matches!(op, Op::Cast { to: DType::F16 | DType::BF16 | DType::F32, .. }));
    let (Op::Select, [seen, scores, hidden]) = (&node.op, &node.inputs[..]) else { return None };
    let Op::Const { value } = &through(values, *hidden, |op| matches!(op, Op::Broadcast { .. })).op else {
        return None;
    };
    if value.to_f64_vec()[..] != [f64::NEG_INFINITY] {
        return None;
    }
    let (compare, added) = aligned(values, *seen)?;
    let (Op::Compare(op), [left, right]) = (&compare.op, &compare.inputs[..]) else { return None };
    let (shape, compared) = (values.shape(x), values.shape(compare.outputs[0]));
    let shift = added + shape.len().checked_sub(values.shape(*seen).len())?;
    let (key, query, strict) = match op {
        CompareOp::Le => (left, right, 0),
        CompareOp::Lt => (left, right, 1),
        CompareOp::Ge => (right, left, 0),
        CompareOp::Gt => (right, left, 1),
        _ => return None,
    };
    let ((key_axis, key), (query_axis, query)) = (position(values, *key)?, position(values, *query)?);
    let whole = |axis: usize| shape[axis + shift] == compared[axis];
    let fits = key_axis + shift == shape.len() - 1 && query_axis != key_axis && whole(key_axis) && whole(query_axis);
    let masked = node.outputs[0];
    let alike = values.shape(*scores) == values.shape(masked);
    (fits && alike).then(|| Causal {
        axis: query_axis + shift,
        offset: query - key - Dim::from(strict),
        seen: *scores,
        masked,
    })
}

/// What stands before ops that `skipped` picks.
fn through<'a>(values: &Values<'a>, mut v: ValueId, skipped: impl Fn(&Op) -> bool) -> &'a Node {
    loop {
        let node = values.graph.producer(v);
        match node.inputs.first() {
            Some(&next) if skipped(&node.op) => v = next,
            _ => return node,
        }
    }
}

/// What stands before broadcasts and reshapes that only put axes in front, and how many they put there.
fn aligned<'a>(values: &Values<'a>, mut v: ValueId) -> Option<(&'a Node, usize)> {
    let mut added = 0;
    loop {
        let node = values.graph.producer(v);
        if !matches!(node.op, Op::Broadcast { .. } | Op::Reshape { .. }) {
            return Some((node, added));
        }
        let (from, to) = (values.shape(node.inputs[0]), values.shape(v));
        let more = to.len().checked_sub(from.len())?;
        let plain =
            matches!(node.op, Op::Broadcast { .. }) || to[more..] == *from && to[..more].iter().all(|d| d.is(1));
        if !plain {
            return None;
        }
        (v, added) = (node.inputs[0], added + more);
    }
}

/// `(axis, offset)` of a value that is `position along the axis + offset`.
fn position(values: &Values, v: ValueId) -> Option<(usize, Dim)> {
    // Narrower types wrap or round.
    if !matches!(values.graph.ty(v).dtype, DType::I32 | DType::I64) {
        return None;
    }
    let (node, added) = aligned(values, v)?;
    let (axis, offset) = here(values, node)?;
    // An axis of one position that is repeated counts no positions.
    let whole = values.shape(v)[axis + added] == values.shape(node.outputs[0])[axis];
    whole.then_some((axis + added, offset))
}

fn here(values: &Values, node: &Node) -> Option<(usize, Dim)> {
    match (&node.op, &node.inputs[..]) {
        (Op::Iota { axis, .. }, _) => Some((*axis, Dim::from(0))),
        (Op::Cast { .. }, [x]) => position(values, *x),
        (Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub)), [a, b]) => {
            let ((axis, offset), other) = match position(values, *a) {
                Some(found) => (found, *b),
                None if *op == BinaryOp::Add => (position(values, *b)?, *a),
                None => return None,
            };
            let by = match &through(values, other, |op| matches!(op, Op::Broadcast { .. } | Op::Reshape { .. })).op {
                Op::DimValue { dim } => dim.clone(),
                Op::Const { value } => Dim::from(i64::try_from(*value.to_i128_vec()?.first()?).ok()?),
                _ => return None,
            };
            Some((axis, if *op == BinaryOp::Add { offset + by } else { offset - by }))
        }
        _ => None,
    }
}
