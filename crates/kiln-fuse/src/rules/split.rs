//! What is taken apart of a contraction with a weight, along an axis that only the weight has, as contractions with parts of the weight: the halves of each head that a rotary
//! embedding turns, or a gate and what it gates side by side in one product. Contractions of one value with weights of one type are one kernel that sees both ("twins").
//!
//! Exact: every element is the sum that it was. A pass of its own, as its left-hand side is any number of views and elementwise ops.

use super::Saturation;
use crate::egraph::{EGraph, Head, LeftHandSide, Put, op_of};
use crate::strided::reshape_groups;
use egg::{Id, PatternAst};
use kiln_graph::{Dim, Op, OpKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The name of this pass among rules.
pub(super) const NAME: &str = "split-contractions";
/// Elementwise ops through which both halves meet, at most: those of a gate's activation.
const MEET: usize = 6;
/// Ops between a contraction and what is taken of it, at most.
const MOST_OPS: usize = 24;

/// Adds contractions for halves of values that meet again.
pub(super) fn split(egraph: &mut EGraph, done: &mut Saturation) {
    egraph.analysis.trace.enter();
    let mut count = 0;
    for (of, halves) in halves(egraph) {
        let parts: Option<Vec<Id>> = halves.iter().map(|(pick, _)| part(egraph, of, *pick)).collect();
        for ((_, half), part) in halves.iter().zip(parts.unwrap_or_default()) {
            if egraph[*half].data.types == egraph[part].data.types {
                count += usize::from(egraph.union(*half, part));
            }
        }
    }
    egraph.rebuild();
    if count > 0 {
        done.fired.insert(NAME.to_owned(), count);
    }
    let left = LeftHandSide { pattern: PatternAst::default(), vars: vec![] };
    let made = egraph.analysis.trace.leave();
    egraph.analysis.trace.fired(NAME.into(), made, &Arc::new(left), []);
    done.nodes = egraph.total_size();
}

/// Positions of an axis that is seen as `[.., len, inner]`: of `len` so many from `start` on, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pick {
    axis: usize,
    inner: i64,
    len: i64,
    start: i64,
    size: i64,
    step: i64,
}

impl Pick {
    /// What a slice picks of a value of shape `from` along each axis of which it leaves something out; none if that is not known when the plan is made.
    pub fn of_slice(op: &Op, from: &[Dim]) -> Option<Vec<Pick>> {
        let Op::Slice { starts, sizes, steps } = op else { return None };
        let partial = (0..from.len()).filter(|&axis| !starts[axis].is(0) || sizes[axis] != from[axis]);
        let pick = |axis: usize| {
            let known = |dim: &Dim| dim.as_const();
            let (len, size) =
                (known(&from[axis]).filter(|len| *len > 0)?, known(&sizes[axis]).filter(|size| *size > 0)?);
            Some(Pick { axis, inner: 1, len, start: known(&starts[axis])?, size, step: steps[axis] })
        };
        partial.map(pick).collect()
    }

    /// The shape of what it picks of a value of shape `from`.
    fn shape(&self, from: &[Dim]) -> Option<Vec<Dim>> {
        let mut shape = from.to_vec();
        shape[self.axis] = Dim::from(shape[self.axis].as_const()? / self.len * self.size);
        Some(shape)
    }

    /// The same of a value that is seen through a reshape from shape `from` to shape `to`.
    fn before(&self, to: &[Dim], from: &[Dim]) -> Option<Pick> {
        let (new, old) = reshape_groups(to, from).into_iter().find(|(new, _)| new.contains(&self.axis))?;
        let numel = |dims: &[Dim]| dims.iter().try_fold(1i64, |n, dim| n.checked_mul(dim.as_const()?));
        // Positions that are neighbours along it, in the order of memory.
        let apart = self.inner * numel(&to[self.axis + 1..new.end])?;
        old.clone().find_map(|axis| {
            let inner = numel(&from[axis + 1..old.end]).filter(|inner| *inner > 0 && apart % inner == 0)?;
            let period = (apart / inner).checked_mul(self.len).filter(|period| *period > 0)?;
            (from[axis].as_const()? % period == 0).then(|| Pick { axis, inner: apart / inner, ..*self })
        })
    }
}

/// A half of a value: what it picks, and its class.
type Half = (Pick, Id);

/// What is taken of values along one axis each, by value and axis.
fn taken(egraph: &EGraph) -> BTreeMap<(Id, usize), Vec<Half>> {
    let mut taken: BTreeMap<(Id, usize), Vec<Half>> = BTreeMap::new();
    for class in egraph.classes().filter(|class| !class.data.weight_only) {
        for (op, on) in class.nodes.iter().filter_map(|term| op_of(egraph, term)) {
            let Op::Slice { .. } = op else { continue };
            let picked = shape(egraph, on[0]).and_then(|from| Pick::of_slice(&op, &from));
            if let Some([pick]) = picked.as_deref() {
                taken.entry((egraph.find(on[0]), pick.axis)).or_default().push((*pick, class.id));
            }
        }
    }
    taken
}

/// Products of which neighbouring slices are all, with the axis and the slices in order: projections that a model has as one.
pub(super) fn side_by_side(egraph: &EGraph) -> Vec<(Id, usize, Vec<Id>)> {
    let all = taken(egraph).into_iter().filter_map(|((of, axis), mut parts)| {
        parts.sort_by_key(|(pick, _)| pick.start);
        let next = |end: i64, (pick, _): &Half| (pick.step == 1 && pick.start == end).then_some(end + pick.size);
        let end = parts.iter().try_fold(0, next)?;
        let whole = end == parts.first()?.0.len && parts.len() > 1 && is_product(egraph, of, axis, MEET);
        whole.then(|| (of, axis, parts.into_iter().map(|(_, id)| id).collect()))
    });
    all.collect()
}

/// Whether elementwise ops make a class of a contraction with a weight, which alone has the axis.
fn is_product(egraph: &EGraph, class: Id, axis: usize, steps: usize) -> bool {
    egraph[class].nodes.iter().filter_map(|term| op_of(egraph, term)).any(|(op, on)| match op {
        Op::Contract { spec, .. } => {
            [(&spec.lhs, &spec.rhs, on[0]), (&spec.rhs, &spec.lhs, on[1])].iter().any(|(own, other, operand)| {
                let label = spec.out[axis];
                own.contains(&label) && !other.contains(&label) && egraph[*operand].data.weight_only
            })
        }
        Op::Unary(_) | Op::Binary(_) | Op::Cast { .. } if steps > 0 => {
            on.iter().any(|id| is_product(egraph, *id, axis, steps - 1))
        }
        _ => false,
    })
}

/// Values of which two slices are the halves along an axis, and these, where an elementwise op sees both.
fn halves(egraph: &EGraph) -> Vec<(Id, [Half; 2])> {
    let pairs = taken(egraph).into_iter().filter_map(|((of, _), slices)| {
        let is = |start: i64, step: i64| {
            let half = |(pick, _): &&Half| (2 * pick.size, pick.start, pick.step) == (pick.len, start, step);
            slices.iter().find(half).copied()
        };
        let size = slices.first()?.0.len / 2;
        let pair = [[(0, 1), (size, 1)], [(0, 2), (1, 2)]].into_iter().find_map(|[first, second]| {
            let pair = [is(first.0, first.1)?, is(second.0, second.1)?];
            let seen = pair.map(|(_, id)| seen_by(egraph, id));
            (!seen[0].is_disjoint(&seen[1])).then_some(pair)
        });
        Some((of, pair?))
    });
    pairs.collect()
}

/// What elementwise ops make of a class, within a few steps.
fn seen_by(egraph: &EGraph, class: Id) -> BTreeSet<Id> {
    let (mut seen, mut last) = (BTreeSet::new(), vec![class]);
    for _ in 0..MEET {
        let elementwise = |node: &Id| match egraph.id_to_node(*node).head {
            Head::Op(code) => code.kind() == OpKind::Elementwise,
            _ => false,
        };
        let users = last.iter().flat_map(|class| egraph[*class].parents().filter(elementwise));
        let users: BTreeSet<Id> = users.map(|node| egraph.find(node)).collect();
        last = users.into_iter().filter(|user| seen.insert(*user)).collect();
    }
    seen
}

/// What is picked of a class as a contraction with what is picked of the weight, and what follows on that; none where the class is no such thing.
pub(super) fn part(egraph: &mut EGraph, class: Id, pick: Pick) -> Option<Id> {
    Parts { egraph, known: HashMap::new(), ops: 0 }.of(class, pick)
}

struct Parts<'a> {
    egraph: &'a mut EGraph,
    /// What was found, or is being looked for.
    known: HashMap<(Id, Pick), Option<Id>>,
    ops: usize,
}

impl Parts<'_> {
    fn of(&mut self, class: Id, pick: Pick) -> Option<Id> {
        let class = self.egraph.find(class);
        if self.egraph[class].data.weight_only {
            return None;
        }
        if let Some(known) = self.known.get(&(class, pick)) {
            return *known;
        }
        self.known.insert((class, pick), None);
        self.ops += 1;
        if self.ops > MOST_OPS {
            return None;
        }
        let mut ways: Vec<(Op, Vec<Id>)> =
            self.egraph[class].nodes.iter().filter_map(|term| op_of(self.egraph, term)).collect();
        // A contraction of this very value before one of which it is a part.
        ways.sort_by_key(|(op, _)| match op {
            Op::Contract { .. } => 0,
            Op::Slice { .. } => 2,
            _ => 1,
        });
        let found = ways.iter().find_map(|(op, on)| self.through(class, op, on, pick));
        self.known.insert((class, pick), found);
        found
    }

    fn through(&mut self, class: Id, op: &Op, on: &[Id], pick: Pick) -> Option<Id> {
        let to = shape(self.egraph, class)?;
        match op {
            Op::Contract { spec, .. } => {
                let label = spec.out[pick.axis];
                let place = |labels: &[char]| labels.iter().position(|l| *l == label);
                let (side, axis) = match (place(&spec.lhs), place(&spec.rhs)) {
                    (Some(axis), None) => (0, axis),
                    (None, Some(axis)) => (1, axis),
                    _ => return None,
                };
                if !self.egraph[on[side]].data.weight_only || self.egraph[on[1 - side]].data.weight_only {
                    return None;
                }
                let mut operands = on.to_vec();
                operands[side] = self.of_weight(on[side], Pick { axis, ..pick })?;
                self.egraph.try_put(op, &operands)
            }
            Op::Permute { perm } => {
                let part = self.of(on[0], Pick { axis: perm[pick.axis], ..pick })?;
                self.egraph.try_put(op, &[part])
            }
            Op::Reshape { .. } => {
                let from = shape(self.egraph, on[0])?;
                let part = self.of(on[0], pick.before(&to, &from)?)?;
                self.egraph.try_put(&Op::Reshape { shape: pick.shape(&to)? }, &[part])
            }
            Op::Slice { .. } => {
                let from = shape(self.egraph, on[0])?;
                let picks = Pick::of_slice(op, &from)?;
                let whole = picks.into_iter().try_fold(on[0], |id, pick| self.of(id, pick))?;
                self.of(whole, pick)
            }
            Op::Unary(_) | Op::Binary(_) | Op::Cast { .. } => {
                let parts: Vec<Option<Id>> = on.iter().map(|id| self.of(*id, pick)).collect();
                if parts.iter().all(Option::is_none) {
                    return None;
                }
                let beside = |(part, id): (Option<Id>, &Id)| part.or_else(|| self.beside(*id, pick));
                let operands: Option<Vec<Id>> = parts.into_iter().zip(on).map(beside).collect();
                self.egraph.try_put(op, &operands?)
            }
            _ => None,
        }
    }

    /// What is picked of something beside a contraction: of what is repeated, or of a weight.
    fn beside(&mut self, class: Id, pick: Pick) -> Option<Id> {
        let to = shape(self.egraph, class)?;
        let narrow = self.egraph[class].nodes.iter().filter_map(|term| match op_of(self.egraph, term) {
            Some((Op::Broadcast { .. }, on)) => Some(self.egraph.find(on[0])),
            _ => None,
        });
        let Some(narrow) = narrow.min() else { return self.of_weight(class, pick) };
        let from = shape(self.egraph, narrow)?;
        let axis = (pick.axis + from.len()).checked_sub(to.len()).filter(|axis| !from[*axis].is(1));
        let part = match axis {
            Some(axis) => self.beside(narrow, Pick { axis, ..pick })?,
            None => narrow,
        };
        self.egraph.try_put(&Op::Broadcast { shape: pick.shape(&to)? }, &[part])
    }

    /// What is picked of a weight, which is computed when the plan is made.
    fn of_weight(&mut self, class: Id, pick: Pick) -> Option<Id> {
        let from = shape(self.egraph, class)?;
        if !self.egraph[class].data.weight_only {
            return None;
        }
        let Pick { axis, inner, len, .. } = pick;
        let outer = from[axis].as_const()? / (len * inner);
        let seen = |len: i64| {
            let mut shape = from.clone();
            shape.splice(axis..=axis, [outer, len, inner].map(Dim::from));
            shape
        };
        let all = self.egraph.try_put(&Op::Reshape { shape: seen(len) }, &[class])?;
        let sizes = seen(pick.size);
        let (mut starts, mut steps) = (vec![Dim::from(0); sizes.len()], vec![1; sizes.len()]);
        (starts[axis + 1], steps[axis + 1]) = (Dim::from(pick.start), pick.step);
        let part = self.egraph.try_put(&Op::Slice { starts, sizes, steps }, &[all])?;
        self.egraph.try_put(&Op::Reshape { shape: pick.shape(&from)? }, &[part])
    }
}

fn shape(egraph: &EGraph, id: Id) -> Option<Vec<Dim>> {
    egraph[id].data.types.first().map(|ty| ty.shape.clone())
}
