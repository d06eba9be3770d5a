//! Kernel families: a [`kiln_fuse::Region`] becomes tile programs with Config spaces, and CUDA C.
//!
//! Knows: regions and tile programs. Must not know: how anything is compiled, launched or timed.
#![forbid(unsafe_code)]

mod error;
mod kernel;
mod lower;

pub use error::{Error, Result};
pub use kernel::{Implementation, Kernel, Launch, Param};
pub use lower::lower;
