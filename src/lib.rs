//! Kiln compiles models into tuned, stamped GPU engines.
//!
//! A model is written with [`macro@model`] or imported with [`import`], becomes a [`graph::Graph`], is fused by an e-graph rewriter, turned
//! into CUDA C, compiled by NVRTC for exact architectures, and shipped as one [`engine`] file that also runs on the CPU.
//!
//! This crate is the facade: re-exports and the `kiln` command, no logic. ARCHITECTURE.md says which room does what.
#![forbid(unsafe_code)]

pub use kiln_engine as engine;
pub use kiln_fuse as fuse;
pub use kiln_graph as graph;
pub use kiln_import as import;
pub use kiln_macros::model;
pub use kiln_target as target;

/// What most programs need.
pub mod prelude {
    pub use crate::model;
    pub use kiln_engine::{BuildOptions, Engine, Session, build, load, open_device, save};
    pub use kiln_graph::{Builder, DType, Dim, Float, Graph, Int, Tensor};
    pub use kiln_target::Target;
}

// What the code that `#[model]` generates calls.
#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
#[doc(hidden)]
pub use kiln_macros::model_step as __model_step;
