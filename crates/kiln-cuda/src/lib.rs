//! Every call into the CUDA driver and NVRTC.
//!
//! Knows: where NVRTC is and how to fetch it ([`setup`], [`discover`]), how to turn CUDA C into a cubin, PTX and a
//! resource log ([`Compiler`]) behind a content-addressed cache on disk ([`CubinCache`]), how to drive a GPU
//! ([`CudaDevice`]: memory, modules, launches, events, graphs), and what this machine has ([`doctor`]).
//!
//! Must not know: graphs, regions, kernels, tuning, or how an engine file looks. It compiles text it is handed and
//! launches functions by name.
//!
//! Absent libraries are errors or stated facts, never a panic: everything but [`CudaDevice`] works without a GPU and
//! without a driver.

mod cache;
mod compile;
mod device;
mod diagnostic;
mod disassemble;
pub mod discover;
pub mod doctor;
mod error;
mod home;
mod nvrtc;
mod python;
mod release;
mod resources;
pub mod setup;

pub use cache::{CubinCache, describe_entry};
pub use compile::{CacheOutcome, CompileProgress, CompileRequest, Compiled, Compiler};
pub use device::{
    Arg, Copier, CudaDevice, CudaModule, DeviceBuffer, DeviceProperties, DevicePtr, Event, Graph, KernelFunction,
    LaunchConfig, PinnedBuffer, Stream, TensorDescriptor, TensorElement, TensorWindow, driver_cuda, driver_version,
};
pub use diagnostic::{CompileFailure, Diagnostic, Place};
pub use disassemble::Disassembler;
pub use error::CudaError;
pub use home::Home;
pub use nvrtc::Nvrtc;
pub use python::Python;
pub use release::{CudaVersion, RELEASES, Release, cubin_refused, ptx_refused};
pub use resources::{FunctionResources, ResourceLog};

/// Result of a call into this crate.
pub type Result<T, E = CudaError> = std::result::Result<T, E>;
