//! The CPU device: runs the regions of a plan on rayon's current pool.
//!
//! A [`Kernel`] holds a region; [`Kernel::bind`] fixes its shapes and lowers it to stages: loop nests for elementwise ops, views and row
//! reductions (register programs over cache-sized tiles), packed matrix products, convolutions, windows, gathers and the rest. Any region runs;
//! one without stages falls back to the graph's reference interpreter and says so in [`BoundKernel::implementation`].
//!
//! A [`Tape`] is a list of launches, branches and loops over a few blocks of memory, resolved once, so that a loop of small kernels costs what its
//! kernels cost.
//!
//! Knows: regions, vector units, caches. Must not know: CUDA, files, engines.
#![deny(unsafe_code)]

mod aligned;
mod error;
mod gemm;
mod kernel;
mod lower;
mod math;
mod memory;
mod program;
mod simd;
mod stage;
mod tape;

pub use error::{Error, Result};
pub use kernel::{BoundKernel, Kernel};
pub use tape::{Command, Loop, Place, Span, Tape};
