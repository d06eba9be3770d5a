//! Contractions of one value with several weights as one, the weights side by side ("horizontal" merging): queries, keys and values of attention, branches that begin with
//! pointwise convolutions. The parts are slices of the whole. What follows on neighbouring parts alike (biases, activations, heads, a rotary embedding) follows on the whole.
//! What turns some parts and leaves others (a rotary embedding of queries and keys) may be computed of all, and chosen by place: all parts are then one value again.
//!
//! Exact: every element is the sum that it was. A pass of its own, as its left-hand side is any number of contractions.

use super::Saturation;
use super::split::{self, Pick};
use crate::canonical::relabel;
use crate::egraph::{EGraph, Head, LeftHandSide, Put, Term, op_of};
use egg::{Id, PatternAst};
use kiln_graph::{BinaryOp, CompareOp, DType, Dim, EinsumSpec, Op, OpKind, Tensor, TensorType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The name of this pass among rules.
pub(super) const NAME: &str = "merge-contractions";

/// Adds the merged forms to a saturated e-graph; of a target that has kernels of `twins`, also those that only such kernels are good for.
pub(crate) fn merge(egraph: &mut EGraph, done: &mut Saturation, twins: bool) {
    egraph.analysis.trace.enter();
    let apart = if twins { split::side_by_side(egraph) } else { vec![] };
    let mut wholes: Vec<Whole> =
        groups(egraph).into_iter().filter_map(|(key, parts)| merged(egraph, key, parts)).collect();
    wholes.extend(apart.into_iter().filter_map(|(id, axis, parts)| Whole::of(egraph, id, axis, parts)));
    let name = |whole: &Whole| (whole.spread, whole.parts.clone());
    let mut known: BTreeSet<_> = wholes.iter().map(name).collect();
    let mut next = 0;
    while next < wholes.len() {
        let mut found = followers(egraph, &wholes, next);
        if twins {
            found.extend(spread(egraph, &wholes, next));
        }
        wholes.extend(found.into_iter().filter(|whole| known.insert(name(whole))));
        next += 1;
    }
    // Views of a whole are worth having only on the way to what computes.
    let mut useful: Vec<bool> = wholes.iter().map(|whole| whole.computes).collect();
    for i in (0..wholes.len()).rev().filter(|i| useful[*i]).collect::<Vec<_>>() {
        let mut from = wholes[i].from;
        while let Some(earlier) = from {
            useful[earlier] = true;
            from = wholes[earlier].from;
        }
    }
    let useful: Vec<Whole> =
        wholes.into_iter().zip(useful).filter_map(|(whole, useful)| useful.then_some(whole)).collect();
    for (part, slice) in useful.iter().flat_map(|whole| whole.parts.iter().zip(&whole.slices)) {
        egraph.union(*part, *slice);
    }
    egraph.rebuild();
    if !useful.is_empty() {
        done.fired.insert(NAME.to_owned(), useful.len());
    }
    let left = LeftHandSide { pattern: PatternAst::default(), vars: vec![] };
    let made = egraph.analysis.trace.leave();
    egraph.analysis.trace.fired(NAME.into(), made, &Arc::new(left), []);
    done.nodes = egraph.total_size();
    if twins {
        split::split(egraph, done);
    }
}

/// A value that lies side by side with others of its kind.
struct Whole {
    id: Id,
    /// The axis along which the parts follow each other.
    axis: usize,
    parts: Vec<Id>,
    /// What each part is of it.
    slices: Vec<Id>,
    /// The whole that it follows from.
    from: Option<usize>,
    /// Whether it is more than a view of that.
    computes: bool,
    /// If it has more than its parts: what it is spread over.
    spread: Option<Spread>,
    /// What it is computed by.
    made: Option<(Op, Vec<Id>)>,
}

/// A value that is computed of all of an earlier whole, though it is only wanted of some parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Spread {
    over: usize,
    /// The first of the parts that it is wanted of.
    first: usize,
}

impl Whole {
    /// So many of its parts from `first` on.
    fn range(&self, egraph: &mut EGraph, first: usize, count: usize) -> Option<Whole> {
        let parts = self.parts[first..first + count].to_vec();
        let mut id = self.id;
        if count < self.parts.len() {
            let extent = |part: &Id| shape(egraph, *part)?.get(self.axis).cloned();
            let sum = |parts: &[Id]| parts.iter().try_fold(Dim::from(0), |sum, part| Some(sum + extent(part)?));
            let (start, size) = (sum(&self.parts[..first])?, sum(&parts)?);
            let mut sizes = shape(egraph, id)?;
            let (mut starts, steps) = (vec![Dim::from(0); sizes.len()], vec![1; sizes.len()]);
            (starts[self.axis], sizes[self.axis]) = (start, size);
            id = egraph.try_put(&Op::Slice { starts, sizes, steps }, &[id])?;
        }
        Whole::of(egraph, id, self.axis, parts)
    }

    /// The value `id` with the slices that are its parts; nothing if they do not type.
    fn of(egraph: &mut EGraph, id: Id, axis: usize, parts: Vec<Id>) -> Option<Whole> {
        let (mut start, mut slices) = (Dim::from(0), vec![]);
        for part in &parts {
            let sizes = shape(egraph, *part)?;
            let mut starts = vec![Dim::from(0); sizes.len()];
            starts[axis] = start.clone();
            start = start + sizes.get(axis)?.clone();
            let steps = vec![1; sizes.len()];
            let slice = egraph.try_put(&Op::Slice { starts, sizes, steps }, &[id])?;
            if egraph[slice].data.types != egraph[*part].data.types {
                return None;
            }
            slices.push(slice);
        }
        Some(Whole { id, axis, parts, slices, from: None, computes: true, spread: None, made: None })
    }
}

/// What contractions that can be one have in common: the value that all read and whether it is the left operand, how, types, the axis along which
/// their weights come side by side, and the extents of the others.
type Key = (Id, bool, EinsumSpec, [DType; 3], usize, Vec<Dim>);

/// Contractions of one key: their results and weights.
type Parts = Vec<(Id, Id)>;

/// Contractions that can be one; of those with the same results one way, if possible over weights as they are.
fn groups(egraph: &EGraph) -> Vec<(Key, Parts)> {
    let mut groups: BTreeMap<Key, Parts> = BTreeMap::new();
    for class in egraph.classes() {
        let contracts = |term: &&Term| matches!(term.head, Head::Op(code) if code.kind() == OpKind::Contract);
        for (op, operands) in class.nodes.iter().filter(contracts).filter_map(|term| op_of(egraph, term)) {
            for left in [true, false] {
                if let Some((key, weight)) = key(egraph, &op, &operands, left) {
                    let parts = groups.entry(key).or_default();
                    if parts.iter().all(|(part, _)| *part != class.id) {
                        parts.push((class.id, weight));
                    }
                }
            }
        }
    }
    // In the order in which the model has them, which is the same in equal layers.
    let mut first: BTreeMap<Id, usize> = BTreeMap::new();
    for node in 0..egraph.nodes().len() {
        first.entry(egraph.find(Id::from(node))).or_insert(node);
    }
    let mut best: BTreeMap<Vec<Id>, (usize, Key, Parts)> = BTreeMap::new();
    for (key, mut parts) in groups.into_iter().filter(|(_, parts)| parts.len() > 1) {
        parts.sort_by_key(|(part, _)| first.get(part));
        let made =
            |id: &Id| !egraph[*id].nodes.iter().any(|term| matches!(op_of(egraph, term), Some((Op::Weight { .. }, _))));
        let cost = parts.iter().filter(|(_, weight)| made(weight)).count();
        let results = parts.iter().map(|(part, _)| *part).collect();
        let better = best.get(&results).is_none_or(|(least, ..)| cost < *least);
        if better {
            best.insert(results, (cost, key, parts));
        }
    }
    best.into_values().map(|(_, key, parts)| (key, parts)).collect()
}

/// The key of a contraction of what is its left operand, or its right one, with a weight; and that weight.
fn key(egraph: &EGraph, op: &Op, operands: &[Id], left: bool) -> Option<(Key, Id)> {
    let (Op::Contract { spec, acc, out }, &[lhs, rhs]) = (op, operands) else { return None };
    let (shared, weight) = if left { (lhs, rhs) } else { (rhs, lhs) };
    let (shared, weight) = (egraph.find(shared), egraph.find(weight));
    let facts = &egraph[weight].data;
    let ty = facts.types.first().filter(|ty| facts.weight_only && ty.const_shape().is_some())?;
    if egraph[shared].data.weight_only {
        return None;
    }
    let mut spec = spec.clone();
    relabel(&mut spec);
    let (axis, _) = axes(&spec, left)?;
    let mut others = ty.shape.clone();
    others.remove(axis);
    Some(((shared, left, spec, [*acc, *out, ty.dtype], axis, others), weight))
}

/// The first axis of the weight that the result has of it alone, and which of the result's that is.
fn axes(spec: &EinsumSpec, left: bool) -> Option<(usize, usize)> {
    let (given, labels) = if left { (&spec.lhs, &spec.rhs) } else { (&spec.rhs, &spec.lhs) };
    let axis = labels.iter().position(|label| !given.contains(label) && spec.out.contains(label))?;
    Some((axis, spec.out.iter().position(|label| *label == labels[axis])?))
}

fn merged(egraph: &mut EGraph, key: Key, parts: Parts) -> Option<Whole> {
    let (shared, left, spec, [acc, out, _], axis, _) = key;
    let (_, along) = axes(&spec, left)?;
    let (parts, weights): (Vec<Id>, Vec<Id>) = parts.into_iter().unzip();
    let weight = egraph.try_put(&Op::Concat { axis }, &weights)?;
    let operands = if left { [shared, weight] } else { [weight, shared] };
    let id = egraph.try_put(&Op::Contract { spec, acc, out }, &operands)?;
    Whole::of(egraph, id, along, parts)
}

/// One use of a class: the result, the op and its operands.
pub(super) type Use = (Id, Op, Vec<Id>);

/// What one op makes of neighbouring parts of a whole, as a whole.
fn followers(egraph: &mut EGraph, wholes: &[Whole], of: usize) -> Vec<Whole> {
    let whole = &wholes[of];
    if whole.spread.is_some() {
        return vec![];
    }
    let mut found = vec![];
    for Run { first, at, ops, uses } in runs(egraph, whole) {
        let Some((op, axis)) = together(egraph, whole, &ops) else { continue };
        let Some(range) = whole.range(egraph, first, uses.len()) else { continue };
        let operands = operands(egraph, wholes, &range, at, &uses);
        let id = operands.and_then(|operands| egraph.try_put(&op, &operands));
        let results: Vec<Id> = uses.iter().map(|(id, ..)| *id).collect();
        let made = id.and_then(|id| Whole::of(egraph, id, axis, results));
        found.extend(made.map(|made| Whole { from: Some(of), computes: op.kind() == OpKind::Elementwise, ..made }));
    }
    found
}

/// Alike uses of neighbouring parts of a whole.
struct Run {
    /// The first of the parts.
    first: usize,
    /// Which operand they are.
    at: usize,
    /// The parts, and what is done to each.
    ops: Vec<(usize, Op)>,
    uses: Vec<Use>,
}

/// The longest runs of alike uses of at least two parts.
fn runs(egraph: &EGraph, whole: &Whole) -> Vec<Run> {
    let parts: Vec<Id> = whole.parts.iter().map(|part| egraph.find(*part)).collect();
    let uses: Vec<Vec<Use>> = parts.iter().map(|part| uses(egraph, *part)).collect();
    let mut found = vec![];
    for (first, leader) in uses.iter().enumerate().flat_map(|(i, uses)| uses.iter().map(move |of| (i, of))) {
        let place = |part: usize, (_, _, on): &Use| on.iter().position(|o| *o == parts[part]);
        let Some(at) = place(first, leader) else { continue };
        let same = |part: usize, other: &Use| {
            let both = [(first, leader.1.clone()), (part, other.1.clone())];
            place(part, other) == Some(at) && together(egraph, whole, &both).is_some()
        };
        // Of several such uses that which is as far on: they come in the order in which the model has them.
        let turn = uses[first].iter().filter(|other| same(first, other)).position(|other| other == leader);
        let alike = |part: usize| uses[part].iter().filter(|other| same(part, other)).nth(turn.unwrap_or(0));
        if first > 0 && alike(first - 1).is_some() {
            continue;
        }
        let run: Vec<Use> = (first..parts.len()).map_while(alike).cloned().collect();
        if run.len() > 1 {
            let ops = run.iter().enumerate().map(|(i, (_, op, _))| (first + i, op.clone())).collect();
            found.push(Run { first, at, ops, uses: run });
        }
    }
    found
}

/// The operands of what a run does, of the whole that it is all of.
fn operands(egraph: &mut EGraph, wholes: &[Whole], whole: &Whole, at: usize, run: &[Use]) -> Option<Vec<Id>> {
    let own = |i: usize| run.iter().map(|(_, _, on)| on[i]).collect::<Vec<_>>();
    let operand = |i: usize| if i == at { Some(whole.id) } else { beside(egraph, wholes, whole, &own(i)) };
    (0..run.first()?.2.len()).map(operand).collect()
}

/// What one op makes of some parts, as the same of all of the whole; what it takes of a contraction as a contraction with parts of the weight. Where it has the
/// whole's type again, the parts that it is not wanted of are left as they are.
fn spread(egraph: &mut EGraph, wholes: &[Whole], of: usize) -> Vec<Whole> {
    let whole = &wholes[of];
    let mut found = vec![];
    for Run { first, at, ops, uses } in runs(egraph, whole) {
        let spread = match (whole.spread, uses.len() == whole.parts.len()) {
            (Some(own), true) => own,
            (None, false) => Spread { over: of, first },
            _ => continue,
        };
        let parts = |parts: Vec<Id>, id: Id, axis: usize, made: Option<(Op, Vec<Id>)>| {
            let (slices, from, computes, spread) = (vec![], None, false, Some(spread));
            Whole { id, axis, parts, slices, from, computes, spread, made }
        };
        let some = parts(whole.parts[first..first + uses.len()].to_vec(), whole.id, whole.axis, None);
        let ops: Vec<(usize, Op)> = ops.into_iter().map(|(part, op)| (part - first, op)).collect();
        let Some((op, axis)) = together(egraph, &some, &ops) else { continue };
        let made = match op {
            Op::Slice { .. } => taken(egraph, &some, &op).map(|id| (id, op, vec![some.id])),
            _ => done(egraph, wholes, &some, (op, axis), at, &uses),
        };
        let Some((id, op, operands)) = made else { continue };
        let made = parts(uses.iter().map(|(id, ..)| *id).collect(), id, axis, Some((op, operands)));
        found.extend(chosen(egraph, wholes, whole, &made));
        found.push(made);
    }
    found
}

/// What a slice takes of all of a value, along another axis than that of its parts.
fn taken(egraph: &mut EGraph, of: &Whole, slice: &Op) -> Option<Id> {
    let parts =
        of.parts.iter().try_fold(Dim::from(0), |sum, part| Some(sum + shape(egraph, *part)?[of.axis].clone()))?;
    let mut from = shape(egraph, of.id)?;
    from[of.axis] = parts;
    let [pick] = Pick::of_slice(slice, &from)?[..] else { return None };
    split::part(egraph, of.id, pick)
}

/// What an op of some parts makes of all of a value, and how.
fn done(
    egraph: &mut EGraph,
    wholes: &[Whole],
    of: &Whole,
    op: (Op, usize),
    at: usize,
    uses: &[Use],
) -> Option<(Id, Op, Vec<Id>)> {
    let (op, _) = widened(egraph, of, op)?;
    let operands = operands(egraph, wholes, of, at, uses)?;
    Some((egraph.try_put(&op, &operands)?, op, operands))
}

/// An op of the parts that a value is wanted of, as one of all of it; `axis` is where the parts follow each other in its result.
fn widened(egraph: &EGraph, whole: &Whole, (mut op, axis): (Op, usize)) -> Option<(Op, usize)> {
    let all = shape(egraph, whole.id)?.get(whole.axis)?.clone();
    if let Op::Reshape { shape: sizes } = &mut op {
        let extent = |part: &Id| shape(egraph, *part)?.get(whole.axis).cloned();
        let sum = whole.parts.iter().try_fold(Dim::from(0), |sum, part| Some(sum + extent(part)?))?;
        if sizes[axis] != sum {
            return None;
        }
        sizes[axis] = all;
    }
    Some((op, axis))
}

/// The whole that a value is spread over with that value's parts in place of its own, if the value is put together of as many parts as an
/// axis of the whole can be taken apart into.
fn chosen(egraph: &mut EGraph, wholes: &[Whole], from: &Whole, made: &Whole) -> Option<Whole> {
    let Spread { over, first } = made.spread?;
    let base = &wholes[over];
    if base.axis != made.axis || egraph[base.id].data.types != egraph[made.id].data.types {
        return None;
    }
    let to = shape(egraph, base.id)?;
    // Values side by side, or turn by turn: each axis of a concat of single elements that a reshape ends within the one before.
    let (op, operands) = made.made.as_ref()?;
    let (joined, operands, behind) = match (op, &from.made) {
        (Op::Concat { .. }, _) => (op, operands, None),
        (Op::Reshape { .. }, Some((joined @ Op::Concat { .. }, operands))) => (joined, operands, Some(op)),
        _ => return None,
    };
    let Op::Concat { axis } = *joined else { return None };
    let count = operands.len() as i64;
    let mut start = 0;
    let mut parts = vec![];
    for (n, operand) in operands.iter().enumerate() {
        let own = shape(egraph, *operand)?;
        let op = match behind {
            None => {
                let size = own[axis].as_const()?;
                start += size;
                slice(&to, axis, start - size, size, 1)
            }
            Some(_) => {
                let turn = axis.checked_sub(1).filter(|turn| {
                    own[axis].is(1) && own.len() == axis + 1 && own[*turn].clone() * Dim::from(count) == to[*turn]
                })?;
                slice(&to, turn, n as i64, own[turn].as_const()?, count)
            }
        };
        let [pick] = Pick::of_slice(&op, &to)?[..] else { return None };
        let mut left = split::part(egraph, base.id, pick)?;
        if behind.is_some() {
            left = egraph.try_put(&Op::Reshape { shape: own.clone() }, &[left])?;
        }
        let axis = base.axis;
        let extent =
            |parts: &[Id]| parts.iter().map(|part| shape(egraph, *part)?.get(axis)?.as_const()).sum::<Option<i64>>();
        let (begin, size) = (extent(&base.parts[..first])?, extent(&made.parts)?);
        let wanted = between(egraph, &own, axis, [begin, begin + size])?;
        parts.push(egraph.try_put(&Op::Select, &[wanted, *operand, left])?);
    }
    let mut id = egraph.try_put(joined, &parts)?;
    if let Some(op) = behind {
        id = egraph.try_put(op, &[id])?;
    }
    let mut all = base.parts.clone();
    all.splice(first..first + made.parts.len(), made.parts.iter().copied());
    let whole = Whole::of(egraph, id, base.axis, all)?;
    Some(Whole { from: Some(over), ..whole })
}

/// Where the index along an axis of a shape is from `start` on and below `end`.
fn between(egraph: &mut EGraph, shape: &[Dim], axis: usize, [start, end]: [i64; 2]) -> Option<Id> {
    let mut line = vec![Dim::from(1); shape.len() - axis];
    line[0] = shape[axis].clone();
    let index = Op::Iota { ty: TensorType { dtype: DType::I32, shape: line.clone() }, axis: 0 };
    let index = egraph.try_put(&index, &[])?;
    let mut bound = |op: CompareOp, value: i64| {
        let value = Tensor::from_i128(DType::I32, &[], &[value.into()]).ok()?;
        let value = egraph.try_put(&Op::Const { value }, &[])?;
        let value = egraph.try_put(&Op::Broadcast { shape: line.clone() }, &[value])?;
        egraph.try_put(&Op::Compare(op), &[index, value])
    };
    let low = if start > 0 { Some(bound(CompareOp::Ge, start)?) } else { None };
    let high = if Dim::from(end) != shape[axis] { Some(bound(CompareOp::Lt, end)?) } else { None };
    let inside = match (low, high) {
        (Some(low), Some(high)) => egraph.try_put(&Op::Binary(BinaryOp::And), &[low, high])?,
        (low, high) => low.or(high)?,
    };
    egraph.try_put(&Op::Broadcast { shape: shape.to_vec() }, &[inside])
}

/// The op that does to the whole what these do to some of its parts, and the axis along which its result's parts follow each other.
fn together(egraph: &EGraph, whole: &Whole, ops: &[(usize, Op)]) -> Option<(Op, usize)> {
    let axis = whole.axis;
    let (_, first) = ops.first()?;
    let extents = |part: usize| shape(egraph, whole.parts[part]);
    let all =
        |own: &dyn Fn(&(usize, Op)) -> Option<Dim>| ops.iter().try_fold(Dim::from(0), |sum, op| Some(sum + own(op)?));
    match first {
        Op::Unary(_) | Op::Binary(_) | Op::Cast { .. } | Op::Permute { .. } | Op::Concat { .. } => {
            if ops.iter().any(|(_, op)| op != first) {
                return None;
            }
            match first {
                Op::Permute { perm } => Some((first.clone(), perm.iter().position(|a| *a == axis)?)),
                Op::Concat { axis: own } if *own == axis => None,
                _ => Some((first.clone(), axis)),
            }
        }
        // The axis keeps its place, and what it becomes with those behind it is the same but for its extent.
        Op::Reshape { shape } => {
            let rest = shape.get(axis + 1..)?;
            let own = |(part, op): &(usize, Op)| match op {
                Op::Reshape { shape: to } => {
                    let from = extents(*part)?;
                    let fits = to.get(..axis)? == from.get(..axis)? && to.get(axis + 1..)? == rest;
                    fits.then(|| to[axis].clone())
                }
                _ => None,
            };
            let mut shape = shape.clone();
            shape[axis] = all(&own)?;
            Some((Op::Reshape { shape }, axis))
        }
        Op::Slice { starts, sizes, steps } => {
            let own = |(part, op): &(usize, Op)| match op {
                Op::Slice { starts: from, sizes: of, steps: by } => {
                    let extent = extents(*part)?.get(axis)?.clone();
                    let whole = from[axis].is(0) && by[axis] == 1 && of[axis] == extent;
                    let same = (0..starts.len())
                        .all(|a| a == axis || from[a] == starts[a] && of[a] == sizes[a] && by[a] == steps[a]);
                    (whole && same).then_some(extent)
                }
                _ => None,
            };
            let mut sizes = sizes.clone();
            sizes[axis] = all(&own)?;
            Some((Op::Slice { starts: starts.clone(), sizes, steps: steps.clone() }, axis))
        }
        _ => None,
    }
}

/// How a class is used by ops that can follow a whole.
pub(super) fn uses(egraph: &EGraph, class: Id) -> Vec<Use> {
    let of = |node: Id| {
        let (op, operands) = op_of(egraph, egraph.id_to_node(node))?;
        Some((egraph.find(node), op, operands.into_iter().map(|id| egraph.find(id)).collect()))
    };
    let mut uses: Vec<Use> = egraph[class].parents().filter_map(of).collect();
    uses.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
    uses.dedup();
    uses
}

/// For operands beside the parts of a whole, one of which each part's slice is its own: parts of another whole; something repeated; weights, which come side by side as well.
fn beside(egraph: &mut EGraph, wholes: &[Whole], whole: &Whole, own: &[Id]) -> Option<Id> {
    let own: Vec<Id> = own.iter().map(|id| egraph.find(*id)).collect();
    let same = |other: &&Whole| {
        (other.axis, other.spread) == (whole.axis, whole.spread)
            && other.parts.iter().map(|id| egraph.find(*id)).eq(own.iter().copied())
    };
    if let Some(other) = wholes.iter().find(same) {
        return Some(other.id);
    }
    let wide = shape(egraph, whole.id)?;
    let narrow = |id: &Id| {
        let spread = |term: &Term| match op_of(egraph, term) {
            Some((Op::Broadcast { .. }, operands)) => Some(egraph.find(operands[0])),
            _ => None,
        };
        egraph[*id].nodes.iter().filter_map(spread).min()
    };
    let inner: Vec<Id> = own.iter().map(|id| narrow(id).unwrap_or(*id)).collect();
    let first = shape(egraph, inner[0])?;
    let axis = (whole.axis + first.len()).checked_sub(wide.len());
    let repeated = axis.is_none_or(|axis| first[axis].is(1));
    let inner = match axis {
        _ if repeated => inner.iter().all(|id| *id == inner[0]).then_some(inner[0])?,
        Some(axis) if whole.spread.is_none() && inner.iter().all(|id| egraph[*id].data.weight_only) => {
            egraph.try_put(&Op::Concat { axis }, &inner)?
        }
        _ => return None,
    };
    if shape(egraph, inner)? == wide { Some(inner) } else { egraph.try_put(&Op::Broadcast { shape: wide }, &[inner]) }
}

/// So many positions of an axis of a shape from `start` on, `step` apart.
fn slice(shape: &[Dim], axis: usize, start: i64, size: i64, step: i64) -> Op {
    let (mut starts, mut sizes, mut steps) = (vec![Dim::from(0); shape.len()], shape.to_vec(), vec![1; shape.len()]);
    (starts[axis], sizes[axis], steps[axis]) = (Dim::from(start), Dim::from(size), step);
    Op::Slice { starts, sizes, steps }
}

pub(super) fn shape(egraph: &EGraph, id: Id) -> Option<Vec<Dim>> {
    egraph[id].data.types.first().map(|ty| ty.shape.clone())
}
