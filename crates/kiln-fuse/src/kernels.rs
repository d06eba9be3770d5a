//! What fusion may ask of those who make kernels.

use crate::Region;
use kiln_graph::{Bindings, Symbols};
use kiln_target::{Estimate, Gpu};
use std::fmt::Debug;

/// Who makes kernels: what it takes it can make, at about this cost.
pub trait Kernels: Debug + Send + Sync {
    /// What is known of the kernels of a region on a GPU, where symbols have typical values `sizes`. The same whenever it is asked.
    fn price(&self, region: &Region, gpu: &Gpu, symbols: &Symbols, sizes: &Bindings) -> Price;
}

/// What is known of the kernels of a region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Price {
    /// The modelled cost of the cheapest.
    Known(Estimate),
    /// Seconds of the fastest that was measured, on the scale of models: a launch among others is part of them.
    Measured(f64),
    /// They can be made, and there is no cost model: fusion's own counts.
    Unmodelled,
    /// No kernel can be made of it.
    Refused,
}
