//! Facade.
#![forbid(unsafe_code)]

pub use kiln_graph as graph;
pub use kiln_macros::model;

#[doc(hidden)]
pub use kiln_macros::model_step as __model_step;
#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
