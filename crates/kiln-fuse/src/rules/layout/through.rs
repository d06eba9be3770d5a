//! What an op does to operands whose axes are in another order.

use crate::strided::reshape_groups;
use kiln_graph::{Dim, EinsumSpec, Op, OpKind, QuantAxes, WindowSpec};

/// Which axis of a value each axis of its twin is.
pub(super) type Order = Vec<usize>;

/// Batch, space, channels.
pub(super) fn channels_last(rank: usize) -> Order {
    (0..1).chain(2..rank).chain(1..2).collect()
}

pub(super) fn inverse(order: &[usize]) -> Order {
    (0..order.len()).map(|axis| place(order, axis)).collect()
}

pub(super) fn is_identity(order: &[usize]) -> bool {
    order.iter().copied().eq(0..order.len())
}

/// What belongs to axes, in another order.
pub(super) fn ordered<T: Clone>(of: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|axis| of[*axis].clone()).collect()
}

/// Where an axis is.
fn place(order: &[usize], axis: usize) -> usize {
    order.iter().position(|a| *a == axis).unwrap_or(axis)
}

/// An op on twins.
pub(super) struct Through {
    /// None where the twin of the operand is that of the result.
    pub op: Option<Op>,
    /// The order of the result's axes.
    pub order: Order,
    /// In which order each operand is read; none: as it is.
    pub operands: Vec<Option<Order>>,
}

/// The op that makes a twin of the result, of shape `to`, of twins of the operands, of shapes `from`, whose orders are `known`; none where it makes no such thing.
pub(super) fn through(op: &Op, from: &[Vec<Dim>], to: &[Dim], known: &[Option<Order>]) -> Option<Through> {
    if let Op::Contract { spec, acc, out } = op {
        let (spec, order) = contraction(spec, known)?;
        return Some(Through {
            op: Some(Op::Contract { spec, acc: *acc, out: *out }),
            order,
            operands: known.to_vec(),
        });
    }
    let first = known.iter().position(Option::is_some)?;
    let order = known[first].clone()?;
    let alone = |op: Op, order: Order| {
        let own = (first == 0).then(|| known[0].clone());
        let operands = (0..from.len()).map(|i| if i == 0 { own.clone().flatten() } else { None }).collect();
        (first == 0).then_some(Through { op: Some(op), order, operands })
    };
    let all = |op: Op, order: Order| Through { op: Some(op), operands: vec![Some(order.clone()); from.len()], order };
    match op {
        Op::Quantize { to, axes } => alone(Op::Quantize { to: *to, axes: quantized(axes, &order)? }, order),
        Op::Dequantize { axes } => alone(Op::Dequantize { axes: quantized(axes, &order)? }, order),
        op if op.kind() == OpKind::Elementwise => from.iter().all(|f| f == to).then(|| all(op.clone(), order)),
        Op::Concat { axis } => Some(all(Op::Concat { axis: place(&order, *axis) }, order)),
        Op::Permute { perm } => {
            let own = inverse(perm);
            Some(Through { op: None, order: ordered(&own, &order), operands: vec![Some(order)] })
        }
        Op::Broadcast { .. } => {
            let lead = to.len().checked_sub(from[0].len())?;
            let order: Order = (0..lead).chain(order.iter().map(|axis| lead + axis)).collect();
            alone(Op::Broadcast { shape: ordered(to, &order) }, order)
        }
        Op::Reshape { .. } => {
            let order = reshaped(&order, &from[0], to)?;
            alone(Op::Reshape { shape: ordered(to, &order) }, order)
        }
        Op::Slice { starts, sizes, steps } => {
            let op = Op::Slice {
                starts: ordered(starts, &order),
                sizes: ordered(sizes, &order),
                steps: ordered(steps, &order),
            };
            alone(op, order)
        }
        Op::Pad { low, high, interior } => {
            let op =
                Op::Pad { low: ordered(low, &order), high: ordered(high, &order), interior: ordered(interior, &order) };
            alone(op, order)
        }
        // One index along the axis, so that it stays one.
        Op::Gather { axis } if from[1].len() == 1 => alone(Op::Gather { axis: place(&order, *axis) }, order),
        Op::Reduce { op, axes } => {
            let mut moved: Vec<usize> = axes.iter().map(|axis| place(&order, *axis)).collect();
            moved.sort_unstable();
            alone(Op::Reduce { op: *op, axes: moved }, without(&order, axes))
        }
        Op::ArgReduce { op, axis, last } => {
            alone(Op::ArgReduce { op: *op, axis: place(&order, *axis), last: *last }, without(&order, &[*axis]))
        }
        Op::WindowReduce { op, spec } => {
            let spec = windows(spec, &order)?;
            alone(Op::WindowReduce { op: *op, spec }, order)
        }
        _ => None,
    }
}

/// The order of the axes that are left.
fn without(order: &[usize], gone: &[usize]) -> Order {
    let kept = order.iter().filter(|axis| !gone.contains(axis));
    kept.map(|axis| axis - gone.iter().filter(|gone| *gone < axis).count()).collect()
}

/// Labels in the orders of operands; the result is in that of an operand of which it has all labels but one at the same places, which is an image and what a filter of one tap
/// makes of it.
fn contraction(spec: &EinsumSpec, known: &[Option<Order>]) -> Option<(EinsumSpec, Order)> {
    let labels = [&spec.lhs, &spec.rhs];
    let alike = |labels: &[char]| {
        labels.len() == spec.out.len() && labels.iter().zip(&spec.out).filter(|(a, b)| a != b).count() < 2
    };
    let image = labels.iter().zip(known).find(|(labels, order)| order.is_some() && alike(labels));
    let order = image.and_then(|(_, order)| order.clone()).unwrap_or_else(|| (0..spec.out.len()).collect());
    let read = |side: usize| known[side].as_ref().map_or_else(|| labels[side].clone(), |o| ordered(labels[side], o));
    Some((EinsumSpec { lhs: read(0), rhs: read(1), out: ordered(&spec.out, &order) }, order))
}

fn quantized(axes: &QuantAxes, order: &[usize]) -> Option<QuantAxes> {
    match axes {
        QuantAxes::Tensor => Some(QuantAxes::Tensor),
        QuantAxes::Axis(axis) => Some(QuantAxes::Axis(place(order, *axis))),
        // The scales have axes of their own.
        QuantAxes::Block { .. } => None,
    }
}

/// Windows of trailing axes in another order: from the first axis on that has one, or that another is behind.
fn windows(spec: &WindowSpec, order: &[usize]) -> Option<WindowSpec> {
    let lead = order.len().checked_sub(spec.window.len())?;
    let first = order.iter().position(|axis| *axis >= lead)?;
    let mut found = WindowSpec { window: vec![], strides: vec![], pads: vec![], dilations: vec![] };
    for axis in &order[first..] {
        let own = axis.checked_sub(lead);
        let of = |all: &[usize]| own.map_or(1, |i| all[i]);
        found.window.push(of(&spec.window));
        found.strides.push(of(&spec.strides));
        found.dilations.push(of(&spec.dilations));
        found.pads.push(own.map_or((0, 0), |i| spec.pads[i]));
    }
    Some(found)
}

/// The order of the axes of a reshape, if it puts together only axes that are neighbours in that order, and takes apart others in place.
pub(super) fn reshaped(order: &[usize], from: &[Dim], to: &[Dim]) -> Option<Order> {
    let mut groups = reshape_groups(to, from);
    // Axes of one element at the end of a shape are in no group.
    let (new, old) = groups.last_mut()?;
    (new.end, old.end) = (to.len(), from.len());
    let long: Vec<usize> = order.iter().copied().filter(|axis| !from[*axis].is(1)).collect();
    let mut found: Order = Vec::with_capacity(to.len());
    for axis in order {
        let (new, old) = groups.iter().find(|(_, old)| old.contains(axis))?;
        let own: Vec<usize> = old.clone().filter(|axis| !from[*axis].is(1)).collect();
        let at = long.iter().position(|a| own.first() == Some(a));
        if let Some(at) = at
            && long.get(at..at + own.len()) != Some(&own[..])
        {
            return None;
        }
        // Each group once, where its first long axis is.
        if own.first().copied().or_else(|| old.clone().next()) == Some(*axis) {
            found.extend(new.clone());
        }
    }
    (found.len() == to.len()).then_some(found)
}
