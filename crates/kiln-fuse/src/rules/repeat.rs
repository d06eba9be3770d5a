//! Contractions of what is repeated along part of an axis, as exported models repeat the keys that heads share: `[G, T, D]` broadcast to `[G, R, T, D]` and reshaped to
//! `[G * R, T, D]`. The axis is split where it is a batch of the contraction: `hsd,htd->hst` becomes `grsd,gtd->grst`, the other operand reshaped, and nothing is repeated. Elementwise
//! ops, reductions and broadcasts that follow do so on the split shape too, up to the next such contraction: there a softmax between both is found again.
//!
//! Exact: every element is the sum that it was. A pass of its own, as rules that move reshapes would move all reshapes of a model.

use super::Saturation;
use super::merge::{shape, uses};
use crate::canonical::relabel;
use crate::egraph::{EGraph, Head, LeftHandSide, Put, Term, op_of};
use crate::strided::reshape_groups;
use egg::{Id, PatternAst};
use kiln_graph::{DType, Dim, EinsumSpec, Op, OpKind};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name of this pass among rules.
pub(super) const NAME: &str = "contract-repeated";

/// Adds contractions that read what is repeated once to a saturated e-graph.
pub(crate) fn repeat(egraph: &mut EGraph, done: &mut Saturation) {
    egraph.analysis.trace.enter();
    let mut splits = Splits::default();
    for contraction in contractions(egraph) {
        for side in 0..2 {
            for repeated in repetitions(egraph, contraction.3[side]) {
                splits.contract(egraph, &contraction, side, &repeated);
            }
        }
    }
    let mut next = 0;
    while let Some((class, split)) = splits.order.get(next).cloned() {
        splits.follow(egraph, class, &split);
        next += 1;
    }
    for (a, b) in &splits.equal {
        egraph.union(*a, *b);
    }
    egraph.rebuild();
    if splits.found > 0 {
        done.fired.insert(NAME.to_owned(), splits.found);
    }
    let left = LeftHandSide { pattern: PatternAst::default(), vars: vec![] };
    let made = egraph.analysis.trace.leave();
    egraph.analysis.trace.fired(NAME.into(), made, &Arc::new(left), []);
    done.nodes = egraph.total_size();
}

/// A contraction: its class, labels, types of sums and result, and operands.
type Contraction = (Id, EinsumSpec, [DType; 2], [Id; 2]);

fn contractions(egraph: &EGraph) -> Vec<Contraction> {
    let of = |(class, term): (Id, &Term)| match (op_of(egraph, term)?, term.head) {
        ((Op::Contract { spec, acc, out }, operands), Head::Op(_)) => match operands[..] {
            [lhs, rhs] => Some((class, spec, [acc, out], [egraph.find(lhs), egraph.find(rhs)])),
            _ => None,
        },
        _ => None,
    };
    let terms = egraph.classes().flat_map(|class| class.nodes.iter().map(|term| (class.id, term)));
    let mut all: Vec<Contraction> = terms.filter_map(of).collect();
    all.sort_by(|a, b| (a.0, a.3, &a.1.lhs, &a.1.rhs).cmp(&(b.0, b.3, &b.1.lhs, &b.1.rhs)));
    all
}

/// A part of an axis, and whether it is repeated.
type Part = (Dim, bool);

/// How a class repeats another.
struct Repeated {
    of: Id,
    /// The parts of each of its axes.
    axes: Vec<Vec<Part>>,
}

/// The ways in which a class is a reshape of a broadcast that only puts axes together.
fn repetitions(egraph: &EGraph, class: Id) -> Vec<Repeated> {
    let views = |id: Id, wanted: fn(&Op) -> bool| {
        let found = egraph[id].nodes.iter().filter_map(|term| op_of(egraph, term)).filter(move |(op, _)| wanted(op));
        found.map(|(_, operands)| egraph.find(operands[0])).collect::<Vec<Id>>()
    };
    let mut found = vec![];
    for wide in views(class, |op| matches!(op, Op::Reshape { .. })) {
        for of in views(wide, |op| matches!(op, Op::Broadcast { .. })) {
            let shapes = [class, wide, of].map(|id| shape(egraph, id));
            if let [Some(to), Some(wide), Some(from)] = shapes
                && let Some(axes) = parts(&to, &wide, &from)
            {
                found.push(Repeated { of, axes });
            }
        }
    }
    found
}

/// The parts of each axis of `to`, a reshape of `wide`, which is a broadcast of `from`; `None` where an axis is no whole number of those, or none repeats.
fn parts(to: &[Dim], wide: &[Dim], from: &[Dim]) -> Option<Vec<Vec<Part>>> {
    let lead = wide.len().checked_sub(from.len())?;
    let spread = |axis: usize| axis < lead || from[axis - lead].is(1) && !wide[axis].is(1);
    // What may be 1 when it runs is not known to repeat.
    if (0..wide.len()).any(|axis| !spread(axis) && from[axis - lead] != wide[axis]) {
        return None;
    }
    let mut axes: Vec<Vec<Part>> = to.iter().map(|extent| vec![(extent.clone(), false)]).collect();
    for (new, old) in reshape_groups(to, wide) {
        let new: Vec<usize> = new.filter(|axis| !to[*axis].is(1)).collect();
        let old: Vec<Part> =
            old.filter(|axis| !wide[*axis].is(1)).map(|axis| (wide[axis].clone(), spread(axis))).collect();
        match new[..] {
            _ if old.iter().all(|(_, repeats)| !repeats) => {}
            [axis] => axes[axis] = old,
            _ => {
                let same = |(axis, (extent, _)): (&usize, &Part)| to[*axis] == *extent;
                if new.len() != old.len() || !new.iter().zip(&old).all(same) {
                    return None;
                }
                new.iter().zip(old).for_each(|(axis, part)| axes[*axis] = vec![part]);
            }
        }
    }
    axes.iter().flatten().any(|(_, repeats)| *repeats).then_some(axes)
}

/// An einsum one of whose operands is read without what it repeats.
struct Einsum {
    spec: EinsumSpec,
    /// The shape in which that operand is read.
    kept: Vec<Dim>,
    /// Labels that are several now: which, and the extents of those.
    instead: Vec<(char, Vec<char>, Vec<Dim>)>,
}

impl Einsum {
    /// `None` where the operand has an axis twice, or repeats along one that is no batch: a sum would count what is repeated.
    fn of(spec: &EinsumSpec, side: usize, axes: &[Vec<Part>]) -> Option<Einsum> {
        let (own, other) = if side == 0 { (&spec.lhs, &spec.rhs) } else { (&spec.rhs, &spec.lhs) };
        if (1..own.len()).any(|i| own[..i].contains(&own[i])) {
            return None;
        }
        let taken = |label: &char| [&spec.lhs, &spec.rhs, &spec.out].iter().any(|of| of.contains(label));
        let mut fresh = ('\u{e000}'..).filter(|label| !taken(label));
        let (mut labels, mut kept, mut instead) = (vec![], vec![], vec![]);
        for (label, parts) in own.iter().zip(axes) {
            let names: Vec<char> = match &parts[..] {
                [_] => vec![*label],
                _ => fresh.by_ref().take(parts.len()).collect(),
            };
            if parts.iter().any(|(_, repeats)| *repeats) && !(other.contains(label) && spec.out.contains(label)) {
                return None;
            }
            for (name, (extent, _)) in names.iter().zip(parts).filter(|(_, (_, repeats))| !repeats) {
                labels.push(*name);
                kept.push(extent.clone());
            }
            if names.len() > 1 {
                instead.push((*label, names, parts.iter().map(|(extent, _)| extent.clone()).collect()));
            }
        }
        let split = |of: &[char]| -> Vec<char> {
            let names = |label: &char| match instead.iter().find(|(whole, ..)| whole == label) {
                Some((_, names, _)) => names.clone(),
                None => vec![*label],
            };
            of.iter().flat_map(names).collect()
        };
        let (rest, out) = (split(other), split(&spec.out));
        let (lhs, rhs) = if side == 0 { (labels, rest) } else { (rest, labels) };
        let mut spec = EinsumSpec { lhs, rhs, out };
        relabel(&mut spec);
        Some(Einsum { spec, kept, instead })
    }
}

/// An axis as several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Split {
    axis: usize,
    parts: Vec<Dim>,
}

impl Split {
    /// A shape with the axis split.
    fn shape(&self, whole: &[Dim]) -> Vec<Dim> {
        [&whole[..self.axis], &self.parts, &whole[self.axis + 1..]].concat()
    }

    /// The same of another axis.
    fn at(&self, axis: usize) -> Split {
        Split { axis, parts: self.parts.clone() }
    }
}

/// Classes in split shapes.
#[derive(Default)]
struct Splits {
    known: BTreeMap<(Id, Split), Id>,
    /// What is known, in the order in which it was found.
    order: Vec<(Id, Split)>,
    equal: Vec<(Id, Id)>,
    /// Contractions that were found.
    found: usize,
}

impl Splits {
    /// Notes that `id` is `class` in a split shape.
    fn note(&mut self, class: Id, split: Split, id: Id) {
        let key = (class, split);
        match self.known.get(&key) {
            Some(known) => self.equal.push((*known, id)),
            None => {
                self.order.push(key.clone());
                self.known.insert(key, id);
            }
        }
    }

    /// A contraction without what its operand of a side repeats.
    fn contract(
        &mut self,
        egraph: &mut EGraph,
        (class, spec, [acc, out], operands): &Contraction,
        side: usize,
        repeated: &Repeated,
    ) -> Option<()> {
        let Einsum { spec: found, kept, instead } = Einsum::of(spec, side, &repeated.axes)?;
        // From the last axis on, so that those before keep their places.
        let splits = |of: &[char]| -> Vec<Split> {
            let found = of.iter().enumerate().rev().filter_map(|(axis, label)| {
                let (_, _, parts) = instead.iter().find(|(whole, ..)| whole == label)?;
                Some(Split { axis, parts: parts.clone() })
            });
            found.collect()
        };
        let other = operands[1 - side];
        let whole = splits(if side == 0 { &spec.rhs } else { &spec.lhs });
        let whole = whole.iter().fold(shape(egraph, other)?, |shape, split| split.shape(&shape));
        let (read, beside) = (reshaped(egraph, repeated.of, kept)?, reshaped(egraph, other, whole)?);
        let op = Op::Contract { spec: found, acc: *acc, out: *out };
        let id = egraph.try_put(&op, &if side == 0 { [read, beside] } else { [beside, read] })?;
        let result = shape(egraph, *class)?;
        let back = reshaped(egraph, id, result)?;
        if egraph[back].data.types != egraph[*class].data.types {
            return None;
        }
        self.found += 1;
        self.equal.push((*class, back));
        if let [split] = &splits(&spec.out)[..] {
            self.note(*class, split.clone(), id);
        }
        Some(())
    }

    /// What follows from a class in a split shape, in that.
    fn follow(&mut self, egraph: &mut EGraph, class: Id, split: &Split) {
        let (Some(whole), Some(&id)) = (shape(egraph, class), self.known.get(&(class, split.clone()))) else { return };
        for (result, op, operands) in uses(egraph, class) {
            let Some(to) = shape(egraph, result) else { continue };
            let Some((op, own)) = split.through(&op, &whole, &to) else {
                // A use in the split shape.
                if matches!(&op, Op::Reshape { shape } if *shape == split.shape(&whole)) {
                    self.equal.push((result, id));
                }
                continue;
            };
            let alike = operands.iter().all(|operand| shape(egraph, *operand).as_ref() == Some(&whole));
            let operands: Option<Vec<Id>> = match (op.kind(), alike) {
                (OpKind::Elementwise, true) => operands.iter().map(|of| self.split(egraph, *of, split)).collect(),
                (OpKind::Elementwise, false) => None,
                _ => Some(vec![id]),
            };
            let Some(made) = operands.and_then(|operands| egraph.try_put(&op, &operands)) else { continue };
            let expected = shape(egraph, made).is_some_and(|made| made == own.shape(&to));
            if expected && egraph[made].data.types[0].dtype == egraph[result].data.types[0].dtype {
                self.note(result, own, made);
            }
        }
    }

    /// A class in a split shape.
    fn split(&self, egraph: &mut EGraph, class: Id, split: &Split) -> Option<Id> {
        let class = egraph.find(class);
        if let Some(known) = self.known.get(&(class, split.clone())) {
            return Some(*known);
        }
        let whole = split.shape(&shape(egraph, class)?);
        // What is repeated in the shape is repeated in the split one.
        let spread = egraph[class].nodes.iter().find_map(|term| match op_of(egraph, term) {
            Some((Op::Broadcast { .. }, operands)) => Some(egraph.find(operands[0])),
            _ => None,
        });
        let Some(narrow) = spread else { return reshaped(egraph, class, whole) };
        let own = shape(egraph, narrow)?;
        let lead = shape(egraph, class)?.len().checked_sub(own.len())?;
        let narrow = match split.axis.checked_sub(lead) {
            None => narrow,
            Some(axis) if own[axis].is(1) => {
                let ones = Split { axis, parts: vec![Dim::from(1); split.parts.len()] };
                reshaped(egraph, narrow, ones.shape(&own))?
            }
            Some(axis) => self.split(egraph, narrow, &split.at(axis))?,
        };
        egraph.try_put(&Op::Broadcast { shape: whole }, &[narrow])
    }
}

impl Split {
    /// The op that does to a split operand what `op` does to one of shape `from`, and how its result, of shape `to`, is split.
    fn through(&self, op: &Op, from: &[Dim], to: &[Dim]) -> Option<(Op, Split)> {
        match op {
            op if op.kind() == OpKind::Elementwise && from == to => Some((op.clone(), self.clone())),
            Op::Reduce { op, axes } if !axes.contains(&self.axis) => {
                let more = self.parts.len() - 1;
                let moved = axes.iter().map(|axis| if *axis > self.axis { axis + more } else { *axis }).collect();
                let before = axes.iter().filter(|axis| **axis < self.axis).count();
                Some((Op::Reduce { op: *op, axes: moved }, self.at(self.axis - before)))
            }
            Op::Broadcast { .. } => {
                let own = self.at(self.axis + to.len().checked_sub(from.len())?);
                (to[own.axis] == from[self.axis]).then(|| (Op::Broadcast { shape: own.shape(to) }, own))
            }
            Op::Reshape { .. } => {
                let long = |shape: &[Dim], of: std::ops::Range<usize>| -> Vec<usize> {
                    of.filter(|axis| !shape[*axis].is(1)).collect()
                };
                let groups = reshape_groups(to, from);
                let (new, old) = groups.into_iter().find(|(_, old)| old.contains(&self.axis))?;
                match (&long(to, new)[..], &long(from, old)[..]) {
                    ([axis], [own]) if own == &self.axis => {
                        let own = self.at(*axis);
                        Some((Op::Reshape { shape: own.shape(to) }, own))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// A class in another shape: what it is a reshape of, where that has it.
fn reshaped(egraph: &mut EGraph, id: Id, to: Vec<Dim>) -> Option<Id> {
    if shape(egraph, id)? == to {
        return Some(id);
    }
    let from = egraph[id].nodes.iter().find_map(|term| match op_of(egraph, term) {
        Some((Op::Reshape { .. }, on)) if shape(egraph, on[0]).as_ref() == Some(&to) => Some(egraph.find(on[0])),
        _ => None,
    });
    from.or_else(|| egraph.try_put(&Op::Reshape { shape: to }, &[id]))
}
