//! Top-k by rank: a thread an element counts the elements of its line that come before it, and writes itself to that place.
//! Ranks of a line are distinct, so every place below k is written once.

use super::{anchor, axes, names, op};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::Region;
use kiln_graph::{Op, Symbols};
use kiln_tile::expr::{CompareOp, Expr, UnaryOp};
use kiln_tile::{Builder, DType, Type, Worker};

pub fn program(region: &Region, symbols: &Symbols) -> Result<TileProgram> {
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
    let anchor = anchor(&values)?;
    let shape = values.shape(values.graph.node(anchor).inputs[0]);
    let names = names(shape.len(), "ijklmn");
    let domain = axes(&mut values, &mut k, shape, &names);
    let mut result = Ok(());
    k.for_each(Worker::Thread, &domain, |k, index| result = body(&mut values, k, &index[..shape.len()]));
    result?;
    values.finish(k, numel(shape))
}

fn body(values: &mut Values, k: &mut Builder, index: &[Expr]) -> Result<()> {
    let anchor = anchor(values)?;
    let Op::TopK { axis, k: count, largest } = op(values, anchor) else {
        return values.malformed("its anchor is not a top-k");
    };
    let (axis, largest) = (*axis, *largest);
    let node = values.graph.node(anchor);
    let x = node.inputs[0];
    let own = values.number(k, x, index)?;
    let own = values.name(k, "own", own);
    let extent = values.dim(k, &values.shape(x)[axis]);
    let rank = k.declare("rank", Expr::int(DType::I32, 0));
    let mut result = Ok(());
    k.for_range("other", 0, extent, |k, other| {
        result = values.scoped(|values| {
            let mut at = index.to_vec();
            at[axis] = other.clone();
            let value = values.number(k, x, &at)?;
            let value = values.name(k, "value", value);
            let (above, below) = if largest { (CompareOp::Gt, CompareOp::Lt) } else { (CompareOp::Lt, CompareOp::Gt) };
            let (mut before, mut after) = (value.compare(above, &own), value.compare(below, &own));
            if own.ty().is_float() {
                // NaN is above everything, and as high as another.
                let (value_nan, own_nan) = (value.unary(UnaryOp::IsNan), own.unary(UnaryOp::IsNan));
                let (high, low) = if largest { (value_nan, own_nan) } else { (own_nan, value_nan) };
                before = before.or(high.and(!low.clone()));
                after = after.or(low.and(!high));
            }
            let tied = other.lt(&index[axis]).and(!after);
            k.if_(before.or(tied), |k| k.assign(&rank, Expr::var(&rank) + 1));
            Ok(())
        });
    });
    result?;
    let place = values.name(k, "place", Expr::var(&rank).cast(Type::Index));
    let count = values.dim(k, count);
    let mut to = index.to_vec();
    to[axis] = place.clone();
    let results = values.graph.outputs.clone();
    let value = values.value(k, x, index)?;
    k.if_(place.lt(count), |k| {
        for (i, (_, v)) in results.iter().enumerate() {
            let position = index[axis].cast(DType::I64);
            let value = if values.graph.value(*v).result == 0 { value.clone() } else { position };
            values.store_value(k, i, &to, value);
        }
    });
    Ok(())
}
