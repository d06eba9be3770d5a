//! What the caller says about a launch, and tensor maps.

use std::time::Duration;

use crate::error::Result;

/// Which checks run. Bounds and alignment are always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Checks {
    /// Reads of shared memory that nothing has written, and uses of registers that nothing has written, also by way of memory.
    pub uninitialized: bool,
    /// Unordered accesses to shared memory by different warps.
    pub shared_races: bool,
    /// Unordered accesses to global memory by different CTAs.
    pub global_races: bool,
    /// Asynchronous copies land as late as they may, their destinations hold NaNs until then.
    pub async_copies: bool,
    /// Generic-proxy writes read by the async proxy without a proxy fence.
    pub proxy_fences: bool,
}

impl Checks {
    /// Everything on.
    pub const fn all() -> Self {
        Checks { uninitialized: true, shared_races: true, global_races: true, async_copies: true, proxy_fences: true }
    }

    /// Only bounds and alignment.
    pub const fn none() -> Self {
        Checks {
            uninitialized: false,
            shared_races: false,
            global_races: false,
            async_copies: false,
            proxy_fences: false,
        }
    }
}

/// How a launch runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The checks.
    pub checks: Checks,
    /// Seed of the warp schedule; `None` is the fixed round-robin order.
    pub seed: Option<u64>,
    /// Collect counters.
    pub counters: bool,
    /// Warp instructions after which the launch is stopped with a finding.
    pub budget: u64,
    /// Time after which the launch is stopped with a finding; `None` is no limit.
    pub timeout: Option<Duration>,
}

impl Default for Options {
    /// All checks, fixed schedule, no counters, 2^36 instructions, however long they take.
    fn default() -> Self {
        Options { checks: Checks::all(), seed: None, counters: false, budget: 1 << 36, timeout: None }
    }
}

impl Options {
    /// As fast as it goes: bounds and alignment only.
    pub fn fast() -> Self {
        Options { checks: Checks::none(), ..Options::default() }
    }
}

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// CTAs along x, y, z.
    pub grid: [u32; 3],
    /// Threads along x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// CTAs of a cluster along x, y, z; `None` takes the kernel's own, or single CTAs.
    pub cluster: Option<[u32; 3]>,
}

impl LaunchConfig {
    /// A one-dimensional launch without dynamic shared memory.
    pub fn linear(grid: u32, block: u32) -> Self {
        LaunchConfig { grid: [grid, 1, 1], block: [block, 1, 1], shared: 0, cluster: None }
    }
}

/// One kernel argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A device address or another 64-bit integer.
    U64(u64),
    /// A 32-bit unsigned integer.
    U32(u32),
    /// A 32-bit signed integer.
    I32(i32),
    /// A 64-bit signed integer.
    I64(i64),
    /// A float.
    F32(f32),
    /// A double.
    F64(f64),
    /// A structure passed by value, such as a tensor map.
    Bytes(Vec<u8>),
}

impl Arg {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::I32(v) => v.to_le_bytes().to_vec(),
            Arg::I64(v) => v.to_le_bytes().to_vec(),
            Arg::F32(v) => v.to_le_bytes().to_vec(),
            Arg::F64(v) => v.to_le_bytes().to_vec(),
            Arg::Bytes(v) => v.clone(),
        }
    }
}

/// The swizzle of a tensor map or of a matrix descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Swizzle {
    /// None.
    #[default]
    None,
    /// 32-byte span.
    B32,
    /// 64-byte span.
    B64,
    /// 128-byte span.
    B128,
}

/// Element type of a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorType {
    /// 8-bit unsigned.
    U8,
    /// 16-bit unsigned.
    U16,
    /// 32-bit unsigned.
    U32,
    /// 32-bit signed.
    I32,
    /// 64-bit unsigned.
    U64,
    /// 64-bit signed.
    I64,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
    /// bfloat16.
    Bf16,
    /// f32 that loads round to TF32, ties to even.
    Tf32,
}

impl TensorType {
    pub(crate) fn is_float(self) -> bool {
        matches!(self, TensorType::F16 | TensorType::F32 | TensorType::F64 | TensorType::Bf16 | TensorType::Tf32)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u32 {
        match self {
            TensorType::U8 => 1,
            TensorType::U16 | TensorType::F16 | TensorType::Bf16 => 2,
            TensorType::U32 | TensorType::I32 | TensorType::F32 | TensorType::Tf32 => 4,
            TensorType::U64 | TensorType::I64 | TensorType::F64 => 8,
        }
    }
}

/// A tiled tensor map, as `cuTensorMapEncodeTiled` takes it. The driver's encoding is not public, so the simulator
/// has its own; its bytes are passed as a 128-byte kernel parameter or stored in global memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Element type.
    pub dtype: TensorType,
    /// Device address of element 0, a multiple of 16.
    pub address: u64,
    /// Elements along each dimension, innermost first.
    pub dims: Vec<u64>,
    /// Byte strides of all dimensions but the innermost, multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of the box along each dimension, 1 to 256.
    pub box_dims: Vec<u32>,
    /// Traversal strides in elements, the innermost ignored; empty means 1 everywhere.
    pub element_strides: Vec<u32>,
    /// Shared-memory swizzle.
    pub swizzle: Swizzle,
    /// Fill elements outside the tensor with NaN rather than zero.
    pub nan_fill: bool,
}

impl TensorMap {
    /// Checks the description and encodes it.
    pub fn encode(&self) -> Result<[u8; 128]> {
        crate::exec::encode_tensor_map(self)
    }
}

/// An im2col tensor map, as `cuTensorMapEncodeIm2col` takes it: what convolutions read. A copy takes `pixels_per_column`
/// pixels of `channels_per_pixel` channels, walking through a bounding box of each image, which the corners give, with
/// offsets into the filter that the instruction adds. Dimensions are (C, W, N), (C, W, H, N) or (C, W, H, D, N).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Im2colMap {
    /// Element type.
    pub dtype: TensorType,
    /// Device address of element 0, a multiple of 16.
    pub address: u64,
    /// Elements along each dimension, innermost first; 3 to 5.
    pub dims: Vec<u64>,
    /// Byte strides of all dimensions but the innermost, multiples of 16.
    pub strides: Vec<u64>,
    /// Where the bounding box starts along W, H, D: minus the padding.
    pub lower_corner: Vec<i32>,
    /// Where it ends, from the last pixel: the padding less the extent of the filter, plus one.
    pub upper_corner: Vec<i32>,
    /// Channels of a pixel in shared memory, 1 to 256.
    pub channels_per_pixel: u32,
    /// Pixels that a copy takes, 1 to 1024.
    pub pixels_per_column: u32,
    /// Traversal strides in elements, the innermost ignored; empty means 1 everywhere.
    pub element_strides: Vec<u32>,
    /// Shared-memory swizzle.
    pub swizzle: Swizzle,
    /// Fill elements outside the tensor with NaN rather than zero.
    pub nan_fill: bool,
}

impl Im2colMap {
    /// Checks the description and encodes it; an error names the limit that it does not keep.
    pub fn encode(&self) -> Result<[u8; 128]> {
        crate::exec::encode_im2col_map(self)
    }
}
