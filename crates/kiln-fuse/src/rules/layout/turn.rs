//! What comes from outside in the order of twins: not a permute of it, if it is itself a view or repeats something.

use super::super::merge::shape;
use super::through::{Order, is_identity, ordered, reshaped};
use crate::egraph::{EGraph, Put, op_of};
use egg::Id;
use kiln_graph::{Dim, Op, OpKind};
use std::collections::BTreeMap;

/// Ops that are looked through, at most.
const STEPS: usize = 8;

/// Values in other orders.
#[derive(Default)]
pub(super) struct Turned(BTreeMap<(Id, Order), Id>);

impl Turned {
    /// A value in another order.
    pub fn of(&mut self, egraph: &mut EGraph, id: Id, order: &[usize]) -> Option<Id> {
        self.within(egraph, id, order, STEPS)
    }

    fn within(&mut self, egraph: &mut EGraph, id: Id, order: &[usize], steps: usize) -> Option<Id> {
        let id = egraph.find(id);
        if is_identity(order) {
            return Some(id);
        }
        let key = (id, order.to_vec());
        if let Some(known) = self.0.get(&key) {
            return Some(*known);
        }
        let found = match steps {
            0 => permuted(egraph, id, order),
            _ => self.seen(egraph, id, order, steps - 1).or_else(|| permuted(egraph, id, order)),
        }?;
        self.0.insert(key, found);
        Some(found)
    }

    /// The value by what it is seen of.
    fn seen(&mut self, egraph: &mut EGraph, id: Id, order: &[usize], steps: usize) -> Option<Id> {
        let own = shape(egraph, id)?;
        let to = ordered(&own, order);
        let mut ways: Vec<(Op, Vec<Id>)> = egraph[id].nodes.iter().filter_map(|term| op_of(egraph, term)).collect();
        let in_place = stays(&own, order);
        let rank = |op: &Op| match op {
            Op::Permute { perm } if is_identity(&ordered(perm, order)) => 0,
            Op::Broadcast { .. } => 1,
            Op::Reshape { .. } => 2,
            // Few elements, which are computed in place of being moved.
            op if op.kind() == OpKind::Elementwise && in_place => 3,
            _ => 4,
        };
        ways.retain(|(op, _)| rank(op) < 4);
        ways.sort_by_key(|(op, _)| rank(op));
        for (op, operands) in ways {
            let of = operands[0];
            let found = match &op {
                Op::Permute { .. } => Some(of),
                Op::Broadcast { .. } => self
                    .narrow(egraph, of, order, steps)
                    .and_then(|of| egraph.try_put(&Op::Broadcast { shape: to.clone() }, &[of])),
                Op::Reshape { .. } => {
                    let from = shape(egraph, of)?;
                    let before = reshaped(order, &own, &from);
                    let of = before.and_then(|before| self.within(egraph, of, &before, steps));
                    of.and_then(|of| in_shape(egraph, of, &to))
                }
                _ => {
                    let fits = operands.iter().all(|id| shape(egraph, *id).as_ref() == Some(&own));
                    let turned = |id: &Id| self.within(egraph, *id, order, steps);
                    let operands: Option<Vec<Id>> = if fits { operands.iter().map(turned).collect() } else { None };
                    operands.and_then(|operands| egraph.try_put(&op, &operands))
                }
            };
            if let Some(found) = found.filter(|found| shape(egraph, *found).as_ref() == Some(&to)) {
                return Some(found);
            }
        }
        if in_place { in_shape(egraph, id, &to) } else { None }
    }

    /// What a broadcast repeats, so that a broadcast repeats it in another order.
    fn narrow(&mut self, egraph: &mut EGraph, of: Id, order: &[usize], steps: usize) -> Option<Id> {
        let own = shape(egraph, of)?;
        if own.iter().all(|extent| extent.is(1)) {
            return Some(of);
        }
        let lead = order.len().checked_sub(own.len())?;
        let wide: Vec<Dim> = std::iter::repeat_n(Dim::from(1), lead).chain(own).collect();
        let mut to = ordered(&wide, order);
        if !stays(&wide, order) {
            let of = in_shape(egraph, of, &wide)?;
            return self.within(egraph, of, order, steps);
        }
        // A weight as it is bound, if only leading axes of one element are missing.
        if egraph[of].data.weight_only {
            let units = to.iter().take_while(|extent| extent.is(1)).count();
            to.drain(..units);
        }
        match lead {
            0 if to.len() == order.len() => self.within(egraph, of, order, steps),
            _ => in_shape(egraph, of, &to),
        }
    }
}

/// A value with its axes in another order, as a view of it.
pub(super) fn permuted(egraph: &mut EGraph, id: Id, order: &[usize]) -> Option<Id> {
    let own = shape(egraph, id)?;
    match stays(&own, order) {
        true if ordered(&own, order) == own => Some(id),
        true => egraph.try_put(&Op::Reshape { shape: ordered(&own, order) }, &[id]),
        false => egraph.try_put(&Op::Permute { perm: order.to_vec() }, &[id]),
    }
}

/// Whether only axes of one element move, so that memory stays as it is.
fn stays(shape: &[Dim], order: &[usize]) -> bool {
    order.iter().filter(|axis| !shape[**axis].is(1)).is_sorted()
}

/// A value in another shape: of the first that it is a reshape of.
pub(super) fn in_shape(egraph: &mut EGraph, id: Id, to: &[Dim]) -> Option<Id> {
    let mut of = id;
    for _ in 0..STEPS {
        if shape(egraph, of)? == to {
            return Some(of);
        }
        let from = egraph[of].nodes.iter().filter_map(|term| match op_of(egraph, term) {
            Some((Op::Reshape { .. }, on)) => Some(egraph.find(on[0])),
            _ => None,
        });
        match from.min().filter(|from| *from < of) {
            Some(from) => of = from,
            None => break,
        }
    }
    egraph.try_put(&Op::Reshape { shape: to.to_vec() }, &[of])
}
