//! Kiln compiles models into stamped GPU engines.
//!
//! A model is written with [`macro@model`] or imported with [`Model::load`], becomes a [`graph::Graph`], is fused by an e-graph rewriter, turned
//! into CUDA C, compiled by NVRTC for exact architectures, and shipped as one [`engine`] file that also runs on the CPU. [`jit`] does all of it
//! on the first run; [`EngineBuilder`] builds ahead of time.
//!
//! ```
//! use kiln::prelude::*;
//!
//! #[kiln::model]
//! fn scores<B>(x: Tensor<f32, B, 4>) -> Tensor<f32, B, 3> {
//!     let w = weight!("w", f32, [4, 3]);
//!     x.matmul(w).softmax(-1)
//! }
//!
//! # fn main() -> kiln::Result<()> {
//! let model = Model::from(scores::graph()?).with_random_weights(1)?;
//! let mut session = kiln::jit(&model, "cpu")?;
//! session.bind("x", &[2, 4], &[0.5f32; 8])?;
//! session.run_bound()?;
//! let mut y = [0f32; 6];
//! session.read("output", &mut y)?;
//! assert!((y[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6);
//! # Ok(()) }
//! ```
//!
//! This crate is the front: models, builders, re-exports and the `kiln` command. ARCHITECTURE.md says which room does what.
#![forbid(unsafe_code)]

mod builder;
mod error;
mod jit;
pub mod kernels;
mod models;
mod refit;

pub use builder::EngineBuilder;
pub use error::{Error, Result};
pub use jit::{Jit, jit};
pub use kernels::{Config, Kernel, export};
pub use kiln_engine as engine;
pub use kiln_engine::{Engine, Session};
pub use kiln_fuse as fuse;
pub use kiln_graph as graph;
pub use kiln_import as import;
pub use kiln_macros::{Config, kernel, model};
pub use kiln_target as target;
pub use kiln_tune as tune;
pub use models::Model;
pub use refit::refit;

/// What most programs need.
pub mod prelude {
    pub use crate::{EngineBuilder, Kernel, Model, kernel, model};
    pub use half::{bf16, f16};
    pub use kiln_engine::{Engine, Session, open_device};
    pub use kiln_fuse::Numerics;
    pub use kiln_graph::{DType, Dim, Float, Graph, Int, Tensor};
}

// What the code that `#[model]` generates calls.
#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
#[doc(hidden)]
pub use kiln_macros::model_step as __model_step;
