//! What fusion may ask of those who make kernels.

use crate::Region;
use kiln_graph::{Bindings, Symbols};
use kiln_target::{Estimate, Gpu};

/// Who makes kernels: what it takes it can make, at about this cost.
pub trait Kernels {
    /// The modelled cost of the cheapest kernels of a region on a GPU, where symbols have typical values `sizes`; `None`: it takes no such
    /// region.
    fn estimate(&self, region: &Region, gpu: &Gpu, symbols: &Symbols, sizes: &Bindings) -> Option<Estimate>;
}
