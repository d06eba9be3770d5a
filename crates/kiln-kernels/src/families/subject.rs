//! What families are asked about.

use kiln_fuse::{Region, typical_sizes};
use kiln_graph::{Bindings, Dim, Symbols};

/// A region, and what is known about the data that it will run on.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The region.
    pub region: Region,
    /// Ranges of its symbols.
    pub symbols: Symbols,
    /// Within what the values of inputs lie, where that is known, as that of constants is; inputs past the end are unknown. Indices that
    /// cannot be out of range are not checked.
    pub ranges: Vec<Option<(i64, i64)>>,
    /// A typical value for each symbol.
    pub sizes: Bindings,
    /// Whether products of f32 may round their operands to TF32.
    pub tf32: bool,
}

impl Subject {
    /// A region and its facts; symbols that `sizes` does not name count as [`typical_sizes`] says.
    pub fn new(region: &Region, symbols: &Symbols, ranges: &[Option<(i64, i64)>], sizes: &Bindings) -> Subject {
        let dims = region.graph.values.iter().flat_map(|value| &value.ty.shape);
        let sizes = typical_sizes(dims, symbols, sizes);
        Subject { region: region.clone(), symbols: symbols.clone(), ranges: ranges.to_vec(), sizes, tf32: false }
    }

    /// The same, whose products of f32 may round their operands to TF32 where `allowed`.
    pub fn with_tf32(self, allowed: bool) -> Subject {
        Subject { tf32: allowed, ..self }
    }

    /// A region of which nothing more is known.
    pub fn of(region: &Region) -> Subject {
        Subject::new(region, &region.graph.symbols, &[], &Bindings::new())
    }

    /// The typical value of a dimension, not negative.
    pub fn size(&self, dim: &Dim) -> f64 {
        dim.eval(&self.sizes).map_or(0.0, |value| value.max(0) as f64)
    }

    /// The typical number of elements of a shape.
    pub fn count(&self, shape: &[Dim]) -> f64 {
        shape.iter().map(|dim| self.size(dim)).product()
    }

    /// Typical bytes of all operands and results.
    pub fn bytes(&self) -> f64 {
        let graph = &self.region.graph;
        let values = graph.inputs.iter().copied().chain(graph.outputs.iter().map(|(_, v)| *v));
        values.map(|v| self.count(&graph.ty(v).shape) * f64::from(graph.ty(v).dtype.bits()) / 8.0).sum()
    }
}
