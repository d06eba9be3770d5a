//! From launches to a [`Plan`]: regions, buffers, steps, folded weights and names.

mod bytes;
mod fold;
mod names;
mod plan_builder;
mod region_builder;

pub(crate) use fold::Folder;
pub use fold::replay;
pub use names::node_name;
pub(crate) use names::{Provenance, describe};
pub(crate) use plan_builder::{Emission, emit};
pub(crate) use region_builder::region_graph;
