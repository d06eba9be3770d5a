//! Kernel families: a [`kiln_fuse::Region`] becomes tile programs with Config spaces, and CUDA C.
//!
//! Knows: regions and tile programs. Must not know: how anything is compiled, launched or timed.
#![forbid(unsafe_code)]

mod kernel;

pub use kernel::{Implementation, Kernel, Launch, Param};
