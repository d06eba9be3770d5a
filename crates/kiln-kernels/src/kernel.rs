//! What a kernel family hands to the engine: source, and how to launch it.

use kiln_graph::Dim;
use serde::{Deserialize, Serialize};

/// One way to run a region on a GPU: its kernels in launch order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Implementation {
    /// The family that made it, for instance `gemm`.
    pub family: String,
    /// The family's Config, as JSON: it is part of the timing cache's key.
    pub config: serde_json::Value,
    /// Usually one; a scatter, for instance, copies and then updates.
    pub kernels: Vec<Kernel>,
    /// Bytes of device scratch that the kernels share.
    pub scratch_bytes: Dim,
}

/// CUDA C of one kernel and its launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Name of the `extern "C" __global__` function.
    pub entry: String,
    /// Header-free CUDA C.
    pub source: String,
    /// Geometry and arguments.
    pub launch: Launch,
    /// What it checks as it runs: where data addresses something. Check `i` that fails raises [`Param::FaultCode`] `+ i` in
    /// [`Param::Fault`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
}

/// Launch geometry and arguments, as expressions over the model's symbols.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Thread blocks on each axis. Any extent of 0 means there is nothing to do.
    pub grid: [Dim; 3],
    /// Threads on each axis of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub dynamic_shared: u32,
    /// Arguments in order.
    pub params: Vec<Param>,
}

/// One kernel argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Param {
    /// Device pointer to the region's input of that index.
    Input(usize),
    /// Device pointer to the region's output of that index.
    Output(usize),
    /// Device pointer to the scratch.
    Scratch,
    /// Device pointer to an `i32` that becomes the greatest code raised.
    Fault,
    /// The code of the kernel's first check, an `i32` above 0.
    FaultCode,
    /// A 32-bit integer; a value outside `i32` is an error at launch.
    I32(Dim),
    /// A 64-bit integer.
    I64(Dim),
}
