//! Maps and gathers: a thread (or one lane of a wide access) an element of the results.

use super::{axes, names};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::Region;
use kiln_graph::{Dim, Op, OpKind, QuantAxes, Symbols};
use kiln_tile::Worker;

pub fn program(region: &Region, symbols: &Symbols, ranges: &[Option<(i64, i64)>]) -> Result<TileProgram> {
    let flat = flattened(region);
    let region = flat.as_ref().unwrap_or(region);
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
    values.know(ranges);
    let shape = values.shape(values.output(0));
    let names = names(shape.len(), "ijklmn");
    let domain = axes(&mut values, &mut k, shape, &names);
    let mut result = Ok(());
    k.for_each(Worker::Thread, &domain, |k, index| {
        let index = &index[..shape.len()];
        result = (0..region.graph.outputs.len()).try_for_each(|i| values.store(k, i, index));
    });
    result?;
    values.finish(k, numel(shape))
}

/// The same region on one long axis, if all it does is elementwise on one shape and scalars: then no index is taken apart, and wide
/// accesses need only the element count to divide.
fn flattened(region: &Region) -> Option<Region> {
    let shape = region.graph.ty(region.graph.outputs.first()?.1).shape.clone();
    if shape.len() < 2 {
        return None;
    }
    let elementwise = |op: &Op| match op {
        Op::Quantize { axes, .. } | Op::Dequantize { axes } => *axes == QuantAxes::Tensor,
        Op::Input { .. } | Op::Const { .. } | Op::DimValue { .. } | Op::Broadcast { .. } => true,
        op => op.kind() == OpKind::Elementwise,
    };
    let fits = |dims: &Vec<Dim>| dims.is_empty() || *dims == shape;
    if !region.graph.nodes.iter().all(|n| elementwise(&n.op)) || !region.graph.values.iter().all(|v| fits(&v.ty.shape))
    {
        return None;
    }
    let mut flat = region.clone();
    let line = vec![numel(&shape)];
    let flatten = |dims: &mut Vec<Dim>| {
        if !dims.is_empty() {
            dims.clone_from(&line);
        }
    };
    flat.graph.values.iter_mut().for_each(|v| flatten(&mut v.ty.shape));
    for node in &mut flat.graph.nodes {
        match &mut node.op {
            Op::Input { ty, .. } => flatten(&mut ty.shape),
            Op::Broadcast { shape } => flatten(shape),
            _ => {}
        }
    }
    Some(flat)
}
