//! Scatters: a thread a result element looks through the updates that may address it, in order. Slower than writing through the
//! indices when there are many, but repeated indices need no atomics and the last one wins as it must.

use super::fold::nest;
use super::{anchor, axes, names};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::Region;
use kiln_graph::{Node, Op, ScatterOp, Symbols};
use kiln_tile::expr::{BinaryOp, Expr, Var};
use kiln_tile::{Builder, Worker};

pub fn program(region: &Region, symbols: &Symbols, ranges: &[Option<(i64, i64)>]) -> Result<TileProgram> {
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
    values.know(ranges);
    let shape = values.shape(values.output(0));
    let names = names(shape.len(), "ijklmn");
    let domain = axes(&mut values, &mut k, shape, &names);
    let mut result = Ok(());
    k.for_each(Worker::Thread, &domain, |k, index| result = body(&mut values, k, &index[..shape.len()]));
    result?;
    values.finish(k, numel(shape))
}

fn body(values: &mut Values, k: &mut Builder, index: &[Expr]) -> Result<()> {
    let node = values.graph.node(anchor(values)?);
    let x = values.number(k, node.inputs[0], index)?;
    let element = k.declare("element", x);
    match node.op {
        Op::ScatterElements { axis, op } => along(values, k, node, axis, op, index, &element)?,
        Op::ScatterNd { op } => slices(values, k, node, op, index, &element)?,
        _ => return values.malformed("its anchor is not a scatter"),
    }
    let value = values.rounded(k, &Expr::var(&element), values.graph.ty(node.outputs[0]).dtype)?;
    (0..values.graph.outputs.len()).for_each(|i| values.store_value(k, i, index, value.clone()));
    Ok(())
}

/// Only updates on the element's own line along `axis` can address it.
fn along(
    values: &mut Values,
    k: &mut Builder,
    node: &Node,
    axis: usize,
    op: ScatterOp,
    index: &[Expr],
    element: &Var,
) -> Result<()> {
    let (x, places, updates) = (node.inputs[0], node.inputs[1], node.inputs[2]);
    let mut covered = Expr::bool(true);
    for (a, (from, own)) in values.shape(x).iter().zip(values.shape(places)).enumerate() {
        if a != axis && from != own {
            let extent = values.dim(k, own);
            covered = covered.and(index[a].lt(extent));
        }
    }
    let count = values.dim(k, &values.shape(places)[axis]);
    let mut result = Ok(());
    let look = |k: &mut Builder| {
        k.for_range("u", 0, count, |k, u| {
            result = values.scoped(|values| {
                let mut at = index.to_vec();
                at[axis] = u.clone();
                let place = values.place(k, node, &at, axis)?;
                update(values, k, op, place.eq(&index[axis]), (updates, at), element)
            });
        });
    };
    if covered.as_const() == Some(1) {
        look(k)
    } else {
        k.if_(covered, look)
    }
    result
}

/// Any of the slices may hold the element.
fn slices(
    values: &mut Values,
    k: &mut Builder,
    node: &Node,
    op: ScatterOp,
    index: &[Expr],
    element: &Var,
) -> Result<()> {
    let (places, updates) = (node.inputs[1], node.inputs[2]);
    let rank = values.shape(places).len() - 1;
    let names = names(rank, "uvw");
    let extents = values.dims(k, &values.shape(places)[..rank]);
    let loops: Vec<(&str, Expr)> = names.iter().map(String::as_str).zip(extents).collect();
    let mut result = Ok(());
    nest(k, &loops, &mut |k, u| {
        let visit = values.scoped(|values| {
            let found = values.coordinates(k, node, u, 0)?;
            let here = found.iter().zip(index).fold(Expr::bool(true), |all, (f, i)| all.and(f.eq(i)));
            let mut at = u.to_vec();
            at.extend_from_slice(&index[found.len()..]);
            update(values, k, op, here, (updates, at), element)
        });
        if result.is_ok() {
            result = visit;
        }
    });
    result
}

/// `element op= updates[at]` where `here` holds.
fn update(
    values: &mut Values,
    k: &mut Builder,
    op: ScatterOp,
    here: Expr,
    (updates, at): (kiln_graph::ValueId, Vec<Expr>),
    element: &Var,
) -> Result<()> {
    let new = values.guarded(here.clone(), |values| values.number(k, updates, &at))?;
    let combine = match op {
        ScatterOp::Set => None,
        ScatterOp::Add => Some(BinaryOp::Add),
        ScatterOp::Mul => Some(BinaryOp::Mul),
        ScatterOp::Max => Some(BinaryOp::Max),
        ScatterOp::Min => Some(BinaryOp::Min),
    };
    let next = combine.map_or(new.clone(), |op| Expr::var(element).binary(op, &new));
    k.if_(here, |k| k.assign(element, next));
    Ok(())
}
