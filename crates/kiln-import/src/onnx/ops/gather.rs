//! Gathers, scatters and one-hot.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{CompareOp, DType, Dim, Op, ScatterOp, Tensor, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Gather" => gather,
        "GatherElements" => gather_elements,
        "GatherND" => gather_nd,
        "Scatter" | "ScatterElements" => scatter_elements,
        "ScatterND" => scatter_nd,
        "OneHot" => one_hot,
        "ReverseSequence" => reverse_sequence,
        "TensorScatter" => tensor_scatter,
        "Compress" => compress,
        "NonZero" => non_zero,
        _ => return None,
    };
    Some(handler)
}

/// Indices in a dtype that primitives take.
fn indices<'m>(l: &mut Lower<'m>, n: &Node<'m>, i: usize) -> OpResult<ValueId> {
    let idx = l.arg(n, i)?;
    Ok(if l.dtype(idx) == DType::I32 { idx } else { l.cast(idx, DType::I64)? })
}

fn gather<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let axis = n.int("axis", 0)?;
    // A constant place is a slice.
    if let Some(t) = n.input(1)?.as_const()
        && t.shape().is_empty()
        && let Some([at]) = t.to_i64_vec().as_deref()
    {
        let a = l.axis(x, axis)?;
        let low = l.shape(x)[a].bounds(&l.graph().symbols).0;
        if (0..low).contains(at) || (-low..0).contains(at) {
            let y = l.index_axis(x, axis, *at)?;
            return l.done(y);
        }
    }
    let idx = indices(l, n, 1)?;
    let y = l.gather(x, idx, axis)?;
    l.done(y)
}

fn gather_elements<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let idx = indices(l, n, 1)?;
    let y = l.gather_elements(x, idx, n.int("axis", 0)?)?;
    l.done(y)
}

fn gather_nd<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let idx = indices(l, n, 1)?;
    let Ok(batch) = usize::try_from(n.int("batch_dims", 0)?) else { return invalid("batch_dims is negative") };
    let y = l.gather_nd(x, idx, batch)?;
    l.done(y)
}

fn reduction(n: &Node<'_>) -> OpResult<ScatterOp> {
    Ok(match n.string("reduction", "none")? {
        "none" => ScatterOp::Set,
        "add" => ScatterOp::Add,
        "mul" => ScatterOp::Mul,
        "max" => ScatterOp::Max,
        "min" => ScatterOp::Min,
        other => return invalid(format!("reduction is `{other}`")),
    })
}

fn scatter_elements<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, updates) = (l.arg(n, 0)?, l.arg(n, 2)?);
    let idx = indices(l, n, 1)?;
    let y = l.scatter_elements(x, idx, updates, n.int("axis", 0)?, reduction(n)?)?;
    l.done(y)
}

fn scatter_nd<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, updates) = (l.arg(n, 0)?, l.arg(n, 2)?);
    let idx = indices(l, n, 1)?;
    let y = l.scatter_nd(x, idx, updates, reduction(n)?)?;
    l.done(y)
}

fn one_hot<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let depth = n.input(1)?;
    let depth = match depth.as_const() {
        // The depth may be given as a float.
        Some(t) if t.len() == 1 => kiln_graph::Dim::from(t.to_f64_vec()[0] as i64),
        _ => match l.known_dims(depth, "the depth")?.as_slice() {
            [one] => one.clone(),
            _ => return invalid("the depth must be one number"),
        },
    };
    let idx = l.arg(n, 0)?;
    let idx = l.cast(idx, DType::I64)?;
    let values = l.arg(n, 2)?;
    let (off, on) = (l.index_axis(values, 0, 0)?, l.index_axis(values, 0, 1)?);
    let y = l.one_hot(idx, &depth, n.int("axis", -1)?, on, off)?;
    l.done(y)
}

/// Reverses the first `sequence_lens[b]` elements of each batch entry: a gather whose places are computed.
fn reverse_sequence<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, lens) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let (batch, time) = (l.axis(x, n.int("batch_axis", 1)?)?, l.axis(x, n.int("time_axis", 0)?)?);
    if batch == time || l.rank(lens) != 1 {
        return invalid(format!("batch and time axes are both {batch}, or the lengths {} are no vector", l.ty(lens)));
    }
    let shape = l.shape(x).to_vec();
    let place = l.iota(DType::I64, &shape, time)?;
    let trailing: Vec<i64> = (1..(shape.len() - batch) as i64).collect();
    let lens = l.cast(lens, DType::I64)?;
    let lens = l.unsqueeze(lens, &trailing)?;
    let last = l.plus_scalar(lens, -1.0)?;
    let mirrored = l.sub(last, place)?;
    let inside = l.compare(CompareOp::Lt, place, lens)?;
    let idx = l.select(inside, mirrored, place)?;
    let y = l.gather_elements(x, idx, time as i64)?;
    l.done(y)
}

/// Writes an update into a cache at a place of its own for each batch entry.
fn tensor_scatter<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (cache, update) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let axis = l.axis(cache, n.int("axis", -2)?)?;
    let shape = l.shape(update).to_vec();
    if axis == 0 || shape.len() != l.rank(cache) {
        return invalid(format!("axis {axis} of {} and {}", l.ty(cache), l.ty(update)));
    }
    let mut place = l.iota(DType::I64, &shape, axis)?;
    if let Some(first) = l.maybe_arg(n, 2)? {
        let first = l.cast(first, DType::I64)?;
        let first = l.unsqueeze(first, &(1..shape.len() as i64).collect::<Vec<_>>())?;
        place = l.plus(place, first)?;
    }
    match n.string("mode", "linear")? {
        "linear" => {}
        "circular" => {
            let length = l.shape(cache)[axis].clone();
            let length = l.dim_value(&length, DType::I64)?;
            place = l.modulo(place, length)?;
        }
        other => return invalid(format!("mode is `{other}`, expected linear or circular")),
    }
    let y = l.scatter_elements(cache, place, update, axis as i64, ScatterOp::Set)?;
    l.done(y)
}

/// Keeps the places where a condition holds. How many there are is a shape, so the condition must be known.
fn compress<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let condition = l.known_ints(n.input(1)?, "the condition")?;
    let mut x = l.arg(n, 0)?;
    let axis = match n.maybe_int("axis")? {
        Some(axis) => l.axis(x, axis)?,
        None => {
            let all = l.ty(x).numel();
            x = l.reshape(x, &[all])?;
            0
        }
    };
    if l.rank(x) == 0 {
        return invalid(format!("{} has no axis to take from", l.ty(x)));
    }
    let kept: Vec<i64> = (0..).zip(&condition).filter(|(_, c)| **c != 0).map(|(i, _)| i).collect();
    let Some(extent) = l.shape(x)[axis].as_const() else {
        return unsupported(format!("axis {axis} of {} is not constant", l.ty(x)));
    };
    if kept.last().is_some_and(|&last| last >= extent) {
        return invalid(format!("the condition has {} places for axis {axis} of {}", condition.len(), l.ty(x)));
    }
    let kept = l.value(&Val::constant(Tensor::from_slice(&[kept.len()], &kept)?))?;
    let y = l.gather(x, kept, axis as i64)?;
    l.done(y)
}

/// Coordinates of the elements that are not 0, one column each. How many there are is a shape, so the operand must be known; one element
/// everywhere is known enough.
fn non_zero<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = n.input(0)?;
    let shape = x.ty().shape;
    if let Some(element) = uniform(l, x) {
        return if element == 0.0 {
            Ok(vec![Val::constant(Tensor::from_slice::<i64>(&[shape.len(), 0], &[])?)])
        } else {
            every_place(l, &shape)
        };
    }
    let x = l.known(x, "the operand")?;
    let places: Vec<usize> = x.to_f64_vec().iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, _)| i).collect();
    let mut coordinates = Vec::with_capacity(places.len() * x.shape().len());
    let mut stride = x.len();
    for &extent in x.shape() {
        stride /= extent.max(1);
        coordinates.extend(places.iter().map(|at| (at / stride.max(1) % extent.max(1)) as i64));
    }
    Ok(vec![Val::constant(Tensor::from_slice(&[x.shape().len(), places.len()], &coordinates)?)])
}

/// The element that fills a value, if it is one spread out.
fn uniform(l: &Lower<'_>, x: &Val) -> Option<f64> {
    let Val::Run { level, id, .. } = x else { return None };
    let graph = l.frames[*level].builder.graph();
    let spread = graph.producer(*id);
    match (&spread.op, spread.inputs.first().map(|&of| &graph.producer(of).op)) {
        (Op::Broadcast { .. }, Some(Op::Const { value })) if value.len() == 1 => value.to_f64_vec().first().copied(),
        _ => None,
    }
}

/// The coordinates of all elements in row-major order.
fn every_place<'m>(l: &mut Lower<'m>, shape: &[Dim]) -> OpResult<Vec<Val>> {
    let count = shape.iter().fold(Dim::from(1), |n, d| n * d.clone());
    let place = l.iota(DType::I64, &[count], 0)?;
    let mut rows = Vec::with_capacity(shape.len());
    for (axis, extent) in shape.iter().enumerate() {
        let stride = shape[axis + 1..].iter().fold(Dim::from(1), |n, d| n * d.clone());
        let (stride, extent) = (l.dim_value(&stride, DType::I64)?, l.dim_value(extent, DType::I64)?);
        let steps = l.div(place, stride)?;
        let at = l.modulo(steps, extent)?;
        rows.push(l.unsqueeze(at, &[0])?);
    }
    if rows.is_empty() {
        return Ok(vec![Val::constant(Tensor::from_slice::<i64>(&[0, 1], &[])?)]);
    }
    let y = l.concat(&rows, 0)?;
    l.done(y)
}
