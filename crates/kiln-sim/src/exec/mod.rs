//! Execution of decoded kernels.

mod atomic;
mod barrier;
mod buffer;
mod bulk;
mod cluster;
mod collective;
mod copy;
mod fast;
mod fragment;
mod global;
mod grid;
mod mbarrier;
mod memory;
mod mma;
mod registers;
mod regs;
mod step;
mod tensor;
mod tensormap;
mod undefined;
mod warp;
mod wgmma;

pub(crate) use buffer::Buffer;
pub(crate) use cluster::Cluster;
pub(crate) use grid::launch;
pub(crate) use regs::{AluFn, FULL, LANES, Lane, Regs, ballot, f1, f2, f3, wide};
pub(crate) use tensor::{encode as encode_tensor_map, encode_im2col as encode_im2col_map};
pub(crate) use warp::Warp;

/// Bytes of address space that one window of the generic space covers.
pub(crate) const WINDOW: u64 = 1 << 32;
/// Generic addresses of shared memory: this plus the shared address.
pub(crate) const SHARED_BASE: u64 = 0x0001_0000_0000_0000;
/// Generic addresses of local memory.
pub(crate) const LOCAL_BASE: u64 = 0x0002_0000_0000_0000;
/// Generic addresses of kernel parameters.
pub(crate) const PARAM_BASE: u64 = 0x0003_0000_0000_0000;
/// First address of global memory.
pub(crate) const GLOBAL_BASE: u64 = 0x0000_0007_0000_0000;
