//! Scatters into memory that holds what they scatter into: a thread an update. Where several updates have one place, the thread of the first makes all of them, in order: repeated
//! indices need no atomics, and the last one wins as it must. That a thread looks through the others for it costs little where there are few, as when a cache gains a token.

use super::fold::nest;
use super::{anchor, axes, names};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::Region;
use kiln_graph::{Dim, Node, Op, ScatterOp, Symbols};
use kiln_tile::expr::{BinaryOp, Expr};
use kiln_tile::{Builder, Worker};

pub fn program(region: &Region, symbols: &Symbols, ranges: &[Option<(i64, i64)>]) -> Result<TileProgram> {
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
    values.know(ranges);
    if region.updated().is_none() {
        return values.malformed("it scatters into what is no operand");
    }
    let node = values.graph.node(anchor(&values)?);
    let shape = values.shape(node.inputs[2]);
    let names = names(shape.len(), "ijklmn");
    let domain = axes(&mut values, &mut k, shape, &names);
    let mut result = Ok(());
    k.for_each(Worker::Thread, &domain, |k, index| {
        result = match node.op {
            Op::ScatterElements { axis, op } => Update { node, op, along: axis..axis + 1 }.write(&mut values, k, index),
            Op::ScatterNd { op } => {
                let rows = values.shape(node.inputs[1]).len() - 1;
                Update { node, op, along: 0..rows }.write(&mut values, k, index)
            }
            _ => values.malformed("its anchor is not a scatter"),
        };
    });
    result?;
    values.finish(k, numel(shape))
}

/// What is done with an update at an index, and with its number.
type Visit<'v> = dyn FnMut(&mut Values, &mut Builder, &[Expr], Expr) -> Result<()> + 'v;

/// One thread's update.
struct Update<'n> {
    node: &'n Node,
    op: ScatterOp,
    /// The axes of the updates along which others may have the same place.
    along: std::ops::Range<usize>,
}

impl Update<'_> {
    /// Makes the update at `index`, and all that have its place, if none before it has.
    fn write(&self, values: &mut Values, k: &mut Builder, index: &[Expr]) -> Result<()> {
        let index = &index[..values.shape(self.node.inputs[2]).len()];
        let place = self.place(values, k, index)?;
        let extents: Vec<Dim> = values.shape(self.node.inputs[2])[self.along.clone()].to_vec();
        if numel(&extents).is(1) {
            return self
                .combine(values, k, &place, |values, k, combined| combined.add(values, k, index, Expr::bool(true)));
        }
        let position = flat(values, k, &extents, &index[self.along.clone()]);
        let first = k.declare("first", Expr::bool(true));
        self.others(values, k, index, &extents, &mut |values, k, other, at| {
            let same = same(&self.place(values, k, other)?, &place).and(at.lt(&position));
            k.if_(same, |k| k.assign(&first, Expr::bool(false)));
            Ok(())
        })?;
        let mut result = Ok(());
        k.if_(Expr::var(&first), |k| {
            result = self.combine(values, k, &place, |values, k, combined| {
                self.others(values, k, index, &extents, &mut |values, k, other, _| {
                    let same = same(&self.place(values, k, other)?, &place);
                    combined.add(values, k, other, same)
                })
            });
        });
        result
    }

    /// Where the update at an index goes.
    fn place(&self, values: &mut Values, k: &mut Builder, index: &[Expr]) -> Result<Vec<Expr>> {
        match self.node.op {
            Op::ScatterElements { axis, .. } => {
                let mut place = index.to_vec();
                place[axis] = values.place(k, self.node, index, axis)?;
                Ok(place)
            }
            _ => {
                let (row, rest) = index.split_at(self.along.end);
                let mut place = values.coordinates(k, self.node, row, 0)?;
                place.extend_from_slice(rest);
                Ok(place)
            }
        }
    }

    /// Loops over the updates that may have the place of that at `index`, in order; `each` has the index of one and its number.
    fn others(
        &self,
        values: &mut Values,
        k: &mut Builder,
        index: &[Expr],
        extents: &[Dim],
        each: &mut Visit<'_>,
    ) -> Result<()> {
        let names = names(extents.len(), "uvw");
        let counts = values.dims(k, extents);
        let loops: Vec<(&str, Expr)> = names.iter().map(String::as_str).zip(counts).collect();
        let mut result = Ok(());
        nest(k, &loops, &mut |k, at| {
            let visit = values.scoped(|values| {
                let other = [&index[..self.along.start], at, &index[self.along.end..]].concat();
                let number = flat(values, k, extents, at);
                each(values, k, &other, number)
            });
            if result.is_ok() {
                result = visit;
            }
        });
        result
    }

    /// Stores what `write` makes of the element at a place.
    fn combine(
        &self,
        values: &mut Values,
        k: &mut Builder,
        place: &[Expr],
        write: impl FnOnce(&mut Values, &mut Builder, &Combined) -> Result<()>,
    ) -> Result<()> {
        let dtype = values.graph.ty(self.node.outputs[0]).dtype;
        let old = values.output_buffer(0).at(place).cast(crate::value::dtype::register(dtype)).cast(dtype.compute());
        let element = k.declare("element", old);
        write(values, k, &Combined { update: self, element: &element })?;
        let value = values.rounded(k, &Expr::var(&element), dtype)?;
        values.store_value(k, 0, place, value);
        Ok(())
    }
}

/// An element under updates.
struct Combined<'u> {
    update: &'u Update<'u>,
    element: &'u kiln_tile::expr::Var,
}

impl Combined<'_> {
    /// `element op= updates[at]` where `here` holds.
    fn add(&self, values: &mut Values, k: &mut Builder, at: &[Expr], here: Expr) -> Result<()> {
        let new = values.guarded(here.clone(), |values| values.number(k, self.update.node.inputs[2], at))?;
        let combine = match self.update.op {
            ScatterOp::Set => None,
            ScatterOp::Add => Some(BinaryOp::Add),
            ScatterOp::Mul => Some(BinaryOp::Mul),
            ScatterOp::Max => Some(BinaryOp::Max),
            ScatterOp::Min => Some(BinaryOp::Min),
        };
        let next = combine.map_or(new.clone(), |op| Expr::var(self.element).binary(op, &new));
        if here.as_const() == Some(1) {
            k.assign(self.element, next);
        } else {
            k.if_(here, |k| k.assign(self.element, next));
        }
        Ok(())
    }
}

/// The number of an index in row-major order.
fn flat(values: &mut Values, k: &mut Builder, extents: &[Dim], index: &[Expr]) -> Expr {
    let counts = values.dims(k, extents);
    index.iter().zip(counts).fold(Expr::index(0), |flat, (at, count)| flat * count + at)
}

fn same(a: &[Expr], b: &[Expr]) -> Expr {
    let differ = a.iter().zip(b).filter(|(a, b)| a != b);
    differ.fold(Expr::bool(true), |all, (a, b)| all.and(a.eq(b)))
}
