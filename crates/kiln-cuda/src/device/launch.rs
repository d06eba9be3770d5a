//! Launching: checking the shape and the arguments, packing them, and the call itself.

use std::mem;
use std::ptr;

use cudarc::driver::sys;

use super::describe;
use super::memory::DevicePtr;
use super::module::{KernelFunction, Parameter};
use super::properties::DeviceProperties;
use super::stream::{InFlight, Stream};
use crate::{CudaError, Result};

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory a block, in bytes.
    pub dynamic_smem: u32,
    /// Blocks of a thread-block cluster along x, y, z (compute capability 9.0 and up): 8 at most, which every such GPU can schedule.
    pub cluster: Option<[u32; 3]>,
}

/// One kernel argument. Its size must be that of the kernel's parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg<'a> {
    /// An address in device memory.
    Ptr(DevicePtr),
    /// A 32-bit signed integer.
    I32(i32),
    /// A 32-bit unsigned integer.
    U32(u32),
    /// A 64-bit signed integer.
    I64(i64),
    /// A 64-bit unsigned integer.
    U64(u64),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
    /// Any other value, by its bytes in memory.
    Bytes(&'a [u8]),
}

impl Arg<'_> {
    /// Size in bytes.
    fn size(&self) -> usize {
        match self {
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
            Self::Ptr(_) | Self::I64(_) | Self::U64(_) | Self::F64(_) => 8,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Writes the value into `slot`, which has its size.
    fn write(&self, slot: &mut [u8]) {
        match self {
            Self::Ptr(ptr) => slot.copy_from_slice(&ptr.0.to_ne_bytes()),
            Self::I32(value) => slot.copy_from_slice(&value.to_ne_bytes()),
            Self::U32(value) => slot.copy_from_slice(&value.to_ne_bytes()),
            Self::I64(value) => slot.copy_from_slice(&value.to_ne_bytes()),
            Self::U64(value) => slot.copy_from_slice(&value.to_ne_bytes()),
            Self::F32(value) => slot.copy_from_slice(&value.to_ne_bytes()),
            Self::F64(value) => slot.copy_from_slice(&value.to_ne_bytes()),
            Self::Bytes(bytes) => slot.copy_from_slice(bytes),
        }
    }
}

/// A kernel's parameter block: 128-byte aligned, as a TMA descriptor passed by value must be.
struct Packed(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Line([u8; 128]);

impl Packed {
    fn new(kernel: &str, parameters: &[Parameter], args: &[Arg<'_>]) -> Result<Self> {
        let bad = |reason: String| Err(CudaError::BadArguments { kernel: kernel.to_owned(), reason });
        if args.len() != parameters.len() {
            return bad(format!("it takes {} arguments, {} given", parameters.len(), args.len()));
        }
        let end = parameters.iter().map(|parameter| parameter.offset + parameter.size).max().unwrap_or(0);
        let mut packed = Self(vec![Line([0; 128]); end.div_ceil(128)]);
        for (index, (parameter, arg)) in parameters.iter().zip(args).enumerate() {
            if arg.size() != parameter.size {
                return bad(format!("argument {index} takes {} bytes, {} given ({arg:?})", parameter.size, arg.size()));
            }
            arg.write(&mut packed.bytes()[parameter.offset..parameter.offset + parameter.size]);
        }
        Ok(packed)
    }

    fn bytes(&mut self) -> &mut [u8] {
        let len = mem::size_of_val(self.0.as_slice());
        // SAFETY: `Line` is 128 bytes of plain data with no padding (its size is its alignment), all initialized.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// Blocks that a cluster may have on every GPU that has clusters; more is not portable.
const MAX_CLUSTER: u64 = 8;

/// Checks a launch's shape against the device and the function, so that a mistake is explained and not just
/// "invalid argument".
fn check_shape(
    kernel: &str,
    config: &LaunchConfig,
    device: &DeviceProperties,
    max_threads: u32,
    static_smem: u32,
) -> Result<()> {
    let bad = |reason: String| Err(CudaError::BadLaunch { kernel: kernel.to_owned(), reason });
    let LaunchConfig { grid, block, dynamic_smem, cluster } = *config;
    if grid.contains(&0) || block.contains(&0) {
        return bad(format!("grid {grid:?} of blocks {block:?} has an empty axis"));
    }
    for (axis, name) in ["x", "y", "z"].iter().enumerate() {
        if grid[axis] > device.max_grid[axis] {
            return bad(format!("grid {grid:?} exceeds {} blocks along {name}", device.max_grid[axis]));
        }
        if block[axis] > device.max_block[axis] {
            return bad(format!("block {block:?} exceeds {} threads along {name}", device.max_block[axis]));
        }
    }
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    if threads > u64::from(max_threads) {
        return bad(format!("block {block:?} has {threads} threads, and its registers allow {max_threads}"));
    }
    let smem = u64::from(dynamic_smem) + u64::from(static_smem);
    if smem > u64::from(device.smem_per_block_optin) {
        return bad(format!(
            "a block needs {smem} bytes of shared memory ({static_smem} static, {dynamic_smem} dynamic), and {} has {}",
            device.name, device.smem_per_block_optin
        ));
    }
    let Some(cluster) = cluster else { return Ok(()) };
    if device.compute_capability.0 < 9 {
        let (major, minor) = device.compute_capability;
        return bad(format!("clusters need compute capability 9.0, {} has {major}.{minor}", device.name));
    }
    let blocks: u64 = cluster.iter().map(|&n| u64::from(n)).product();
    if !(1..=MAX_CLUSTER).contains(&blocks) {
        return bad(format!(
            "cluster {cluster:?} has {blocks} blocks, and 1 to {MAX_CLUSTER} run on every GPU that has clusters"
        ));
    }
    if (0..3).any(|axis| grid[axis] % cluster[axis] != 0) {
        return bad(format!("grid {grid:?} is no multiple of cluster {cluster:?}"));
    }
    Ok(())
}

impl Stream {
    /// Queues one launch of `function`. Arguments are checked against its parameters and copied.
    ///
    /// # Errors
    /// [`CudaError::BadArguments`], [`CudaError::BadLaunch`]; [`CudaError::DeviceFault`] if an earlier kernel faulted.
    pub fn launch(&self, function: &KernelFunction, config: &LaunchConfig, args: &[Arg<'_>]) -> Result<()> {
        let kernel = &*function.0;
        let properties = &self.gpu.properties;
        check_shape(&kernel.name, config, properties, kernel.max_threads, kernel.static_smem)?;
        let mut packed = Packed::new(&kernel.name, &kernel.parameters, args)?;
        self.gpu.bind()?;
        if config.dynamic_smem + kernel.static_smem > properties.smem_per_block
            && config.dynamic_smem > function.max_dynamic_smem()?
        {
            return Err(CudaError::BadLaunch {
                kernel: kernel.name.to_string(),
                reason: format!(
                    "{} bytes of dynamic shared memory need KernelFunction::set_max_dynamic_smem first",
                    config.dynamic_smem
                ),
            });
        }
        let mut attributes = Vec::new();
        if let Some([x, y, z]) = config.cluster {
            attributes.push(sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                pad: [0; 4],
                value: cluster_dimension(x, y, z),
            });
        }
        let base = packed.bytes().as_mut_ptr();
        // SAFETY: every offset is inside the packed block, which is as long as the last parameter's end.
        let mut pointers: Vec<*mut std::ffi::c_void> =
            kernel.parameters.iter().map(|parameter| unsafe { base.add(parameter.offset) }.cast()).collect();
        let launch = sys::CUlaunchConfig {
            gridDimX: config.grid[0],
            gridDimY: config.grid[1],
            gridDimZ: config.grid[2],
            blockDimX: config.block[0],
            blockDimY: config.block[1],
            blockDimZ: config.block[2],
            sharedMemBytes: config.dynamic_smem,
            hStream: *self.raw,
            attrs: if attributes.is_empty() { ptr::null_mut() } else { attributes.as_mut_ptr() },
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the function belongs to a module kept alive by `function`, the stream to `self`, both in the context
        // just bound; `pointers` has one entry a parameter, each with that parameter's size behind it, and the driver
        // copies the values before it returns. What the kernel does with its arguments stays in device memory.
        let launched =
            unsafe { sys::cuLaunchKernelEx(&launch, *kernel.raw, pointers.as_mut_ptr(), ptr::null_mut()).result() };
        launched.map_err(|error| CudaError::BadLaunch {
            kernel: kernel.name.to_string(),
            reason: format!("{} for {config:?}", describe(error)),
        })?;
        self.queued(&kernel.name, InFlight::Module(kernel.module.clone()))
    }
}

fn cluster_dimension(x: u32, y: u32, z: u32) -> sys::CUlaunchAttributeValue {
    // SAFETY: a union of plain C data, for which all zeros is a value; the driver may look at its padding.
    let mut value: sys::CUlaunchAttributeValue = unsafe { mem::zeroed() };
    value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hopper() -> DeviceProperties {
        DeviceProperties {
            ordinal: 0,
            name: "H200".to_owned(),
            compute_capability: (9, 0),
            sm_count: 132,
            memory_bytes: 1 << 37,
            clock_khz: None,
            memory_clock_khz: None,
            memory_bus_bits: None,
            l2_bytes: 60 << 20,
            smem_per_block: 48 << 10,
            smem_per_block_optin: 227 << 10,
            smem_per_sm: 228 << 10,
            registers_per_sm: 65536,
            max_threads_per_block: 1024,
            max_threads_per_sm: 2048,
            max_grid: [i32::MAX as u32, 65535, 65535],
            max_block: [1024, 1024, 64],
        }
    }

    const CONFIG: LaunchConfig =
        LaunchConfig { grid: [100, 3, 1], block: [128, 2, 1], dynamic_smem: 4096, cluster: None };

    #[test]
    fn arguments_land_at_their_offsets() {
        let parameters = [(0, 8), (8, 4), (12, 4), (128, 128)].map(|(offset, size)| Parameter { offset, size });
        let map: Vec<u8> = (0..128).collect();
        let args = [Arg::Ptr(DevicePtr(0x1122_3344_5566_7788)), Arg::I32(-5), Arg::F32(1.5), Arg::Bytes(&map)];
        let mut packed = Packed::new("k", &parameters, &args).unwrap();
        let bytes = packed.bytes();
        assert_eq!(bytes.as_ptr().addr() % 128, 0);
        assert_eq!(bytes.len(), 256);
        assert_eq!(bytes[..8], 0x1122_3344_5566_7788u64.to_ne_bytes());
        assert_eq!(bytes[8..12], (-5i32).to_ne_bytes());
        assert_eq!(bytes[12..16], 1.5f32.to_ne_bytes());
        assert_eq!(bytes[128..], map[..]);
        assert!(Packed::new("k", &[], &[]).unwrap().bytes().is_empty());
    }

    #[test]
    fn wrong_arguments_are_named() {
        let parameters = [Parameter { offset: 0, size: 8 }, Parameter { offset: 8, size: 4 }];
        let error = |args: &[Arg<'_>]| Packed::new("axpy", &parameters, args).err().unwrap().to_string();
        assert_eq!(error(&[Arg::U64(1)]), "kernel `axpy`: it takes 2 arguments, 1 given");
        assert!(error(&[Arg::U64(1), Arg::I64(7)]).contains("argument 1 takes 4 bytes, 8 given (I64(7))"));
        assert!(error(&[Arg::Bytes(&[1, 2, 3]), Arg::I32(7)]).contains("argument 0 takes 8 bytes, 3 given"));
    }

    #[test]
    fn impossible_shapes_are_explained() {
        let check = |config: LaunchConfig| check_shape("k", &config, &hopper(), 512, 1024);
        assert!(check(CONFIG).is_ok());
        let cases = [
            (LaunchConfig { grid: [0, 1, 1], ..CONFIG }, "empty axis"),
            (LaunchConfig { grid: [1, 65536, 1], ..CONFIG }, "65535 blocks along y"),
            (LaunchConfig { block: [1, 1, 65], ..CONFIG }, "64 threads along z"),
            (LaunchConfig { block: [32, 32, 1], ..CONFIG }, "1024 threads, and its registers allow 512"),
            (LaunchConfig { dynamic_smem: 227 << 10, ..CONFIG }, "needs 233472 bytes of shared memory"),
            (LaunchConfig { cluster: Some([3, 1, 1]), ..CONFIG }, "no multiple of cluster"),
            (LaunchConfig { cluster: Some([10, 1, 1]), ..CONFIG }, "1 to 8"),
            (LaunchConfig { cluster: Some([0, 1, 1]), ..CONFIG }, "1 to 8"),
        ];
        for (config, expected) in cases {
            let error = check(config).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(check(LaunchConfig { cluster: Some([2, 3, 1]), ..CONFIG }).is_ok());
        let ampere = DeviceProperties { compute_capability: (8, 0), ..hopper() };
        let clustered = LaunchConfig { cluster: Some([2, 1, 1]), ..CONFIG };
        let error = check_shape("k", &clustered, &ampere, 1024, 0).unwrap_err().to_string();
        assert!(error.contains("need compute capability 9.0"), "{error}");
    }
}
