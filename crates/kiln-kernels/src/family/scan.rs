//! Running reductions: a thread a line, one element after another.

use super::fold::step;
use super::{anchor, axes, names, op};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::Region;
use kiln_graph::{Dim, Op, ScanOp, Symbols};
use kiln_tile::expr::Expr;
use kiln_tile::{Builder, ReduceOp, Worker};

pub fn program(region: &Region, symbols: &Symbols) -> Result<TileProgram> {
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
    let shape = values.shape(values.output(0));
    let anchor = anchor(&values)?;
    let Op::Scan { axis, .. } = *op(&values, anchor) else {
        return values.malformed("its anchor is not a scan");
    };
    let mut lines: Vec<Dim> = shape.to_vec();
    lines.remove(axis);
    let names = names(lines.len(), "ijklmn");
    let domain = axes(&mut values, &mut k, &lines, &names);
    let mut result = Ok(());
    k.for_each(Worker::Thread, &domain, |k, index| result = body(&mut values, k, &index[..lines.len()]));
    result?;
    values.finish(k, numel(&lines))
}

fn body(values: &mut Values, k: &mut Builder, line: &[Expr]) -> Result<()> {
    let anchor = anchor(values)?;
    let Op::Scan { op: combine, axis, exclusive, reverse } = *op(values, anchor) else {
        return values.malformed("its anchor is not a scan");
    };
    let combine = match combine {
        ScanOp::Sum => ReduceOp::Sum,
        ScanOp::Prod => ReduceOp::Prod,
        ScanOp::Max => ReduceOp::Max,
        ScanOp::Min => ReduceOp::Min,
    };
    let x = values.graph.node(anchor).inputs[0];
    let dtype = values.graph.ty(x).dtype;
    let extent = values.dim(k, &values.shape(x)[axis]);
    let total = k.declare("total", combine.identity(dtype.compute()));
    let mut result = Ok(());
    k.for_range("step", 0, &extent, |k, i| {
        result = values.scoped(|values| {
            let i = if reverse { values.name(k, "i", &extent - 1 - i) } else { i.clone() };
            let mut at = line.to_vec();
            at.insert(axis, i);
            let element = values.number(k, x, &at)?;
            if !exclusive {
                step(k, &total, combine, &element);
            }
            let so_far = super::fold::within(&Expr::var(&total), combine, dtype);
            let value = values.rounded(k, &so_far, dtype)?;
            values.store_value(k, 0, &at, value);
            if exclusive {
                step(k, &total, combine, &element);
            }
            Ok(())
        });
    });
    result
}
