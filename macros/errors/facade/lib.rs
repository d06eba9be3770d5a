//! The part of `kiln` that its macros and what they make need: what is tested here compiles without importers, devices and tuner.
#![forbid(unsafe_code)]

pub use kiln_graph as graph;
pub use kiln_kernels::own::{Config, Kernel};
pub use kiln_macros::{Config, kernel, model};

/// As of `kiln`.
pub mod prelude {
    pub use crate::{Kernel, kernel, model};
    pub use half::{bf16, f16};
    pub use kiln_graph::{DType, Dim, Float, Graph, Int, Tensor};
}

#[doc(hidden)]
#[path = "../../../src/private.rs"]
pub mod __private;
#[doc(hidden)]
pub use kiln_macros::model_step as __model_step;
