//! Kernels are cuts of the saturated e-graph: enumerate the legal ones, cost them, choose a cover.

mod alternative;
mod cost;
mod cut;
mod enumerate;
mod likeness;
mod memo;
mod priced;
mod prices;
mod refine;
mod rivals;
mod select;
mod settled;
mod share;
mod views;

pub(crate) use alternative::{Alternatives, Kernel};
pub(crate) use cost::Costs;
pub use cost::operations;
pub(crate) use cut::is_literal;
pub(crate) use rivals::apart;
pub(crate) use select::{Choice, Cover, select};
pub(crate) use share::{Launch, share};
