//! Facade.
#![forbid(unsafe_code)]

pub use kiln_graph as graph;
pub use kiln_macros::model;
