//! Maps and gathers: a thread (or one lane of a wide access) an element of the results.

use super::{axes, names};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::Region;
use kiln_graph::Symbols;
use kiln_tile::Worker;

pub fn program(region: &Region, symbols: &Symbols) -> Result<TileProgram> {
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
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
