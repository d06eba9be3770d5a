//! What a GPU and its driver are.

use cudarc::driver::{result, sys, sys::CUdevice_attribute as Attribute};
use serde::{Deserialize, Serialize};

use super::{Devices, driver_error, driver_is_present, init_driver};
use crate::{CudaError, CudaVersion, Result};

/// Facts about one GPU, as the driver gives them. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceProperties {
    /// The driver's number for it.
    pub ordinal: usize,
    /// Marketing name, as in `NVIDIA H200`.
    pub name: String,
    /// Compute capability, as in (9, 0).
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Device memory.
    pub memory_bytes: u64,
    /// Highest SM clock, in kHz, if the driver reports one.
    pub clock_khz: Option<u32>,
    /// Highest memory clock, in kHz, if the driver reports one.
    pub memory_clock_khz: Option<u32>,
    /// Width of the memory bus in bits, if the driver reports one.
    pub memory_bus_bits: Option<u32>,
    /// L2 cache.
    pub l2_bytes: u32,
    /// Shared memory a block may have without asking.
    pub smem_per_block: u32,
    /// Shared memory a block may have if the kernel opts in.
    pub smem_per_block_optin: u32,
    /// Shared memory of one SM.
    pub smem_per_sm: u32,
    /// 32-bit registers of one SM.
    pub registers_per_sm: u32,
    /// Threads a block may have.
    pub max_threads_per_block: u32,
    /// Threads resident on one SM.
    pub max_threads_per_sm: u32,
    /// Largest grid.
    pub max_grid: [u32; 3],
    /// Largest block.
    pub max_block: [u32; 3],
}

impl DeviceProperties {
    /// Reads the properties of GPU `ordinal` without opening a context on it.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::DriverTooOld`], [`CudaError::NoDevice`] or [`CudaError::Driver`].
    pub fn query(ordinal: usize) -> Result<Self> {
        let failed = || format!("reading the properties of cuda:{ordinal}");
        let count = match init_driver()? {
            Devices::None => 0,
            Devices::Some => result::device::get_count().map_err(driver_error(failed))?,
        };
        let count = usize::try_from(count).unwrap_or(0);
        let number = match i32::try_from(ordinal) {
            Ok(number) if ordinal < count => number,
            _ => return Err(CudaError::NoDevice { ordinal, count }),
        };
        let device = result::device::get(number).map_err(driver_error(failed))?;
        let optional = |attribute: Attribute| {
            // SAFETY: `device` came from the driver just now.
            let value = unsafe { result::device::get_attribute(device, attribute) };
            value.map(|value| u32::try_from(value).unwrap_or(0))
        };
        let get = |attribute: Attribute| optional(attribute).map_err(driver_error(failed));
        let reported = |attribute: Attribute| optional(attribute).ok().filter(|&value| value > 0);
        Ok(Self {
            ordinal,
            name: result::device::get_name(device).map_err(driver_error(failed))?,
            compute_capability: (
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            sm_count: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            // SAFETY: as above.
            memory_bytes: unsafe { result::device::total_mem(device) }.map_err(driver_error(failed))? as u64,
            clock_khz: reported(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
            memory_clock_khz: reported(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
            memory_bus_bits: reported(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
            l2_bytes: get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            smem_per_block: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
            smem_per_block_optin: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            smem_per_sm: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            registers_per_sm: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
            max_threads_per_block: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            max_threads_per_sm: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            max_grid: [
                get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
            ],
            max_block: [
                get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)?,
            ],
        })
    }
}

/// The newest CUDA version the driver supports; the caller has checked that libcuda is there.
pub(super) fn supported() -> Result<CudaVersion> {
    let mut version = 0;
    // SAFETY: `version` is valid for the write; it may be called before the driver is initialized.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(driver_error(|| "reading the driver's version".to_owned()))?;
    Ok(decoded(version))
}

/// A version as the driver counts them: 12090 is 12.9.
fn decoded(version: i32) -> CudaVersion {
    let version = u32::try_from(version).unwrap_or(0);
    CudaVersion::new(version / 1000, version % 1000 / 10)
}

/// The newest CUDA version the driver supports; `None` without a driver. Initializes nothing.
pub fn driver_cuda() -> Option<CudaVersion> {
    driver_is_present().then(supported)?.ok()
}

/// The newest CUDA version the driver supports, as in `13.0`, and the driver's own release where the system tells it, as
/// in `580.95.05`.
///
/// # Errors
/// [`CudaError::NoDriver`] or [`CudaError::DriverTooOld`].
pub fn driver_version() -> Result<(String, Option<String>)> {
    init_driver()?;
    let release = std::fs::read_to_string("/proc/driver/nvidia/version").ok().and_then(|text| driver_release(&text));
    Ok((supported()?.to_string(), release))
}

/// The release in the kernel module's version line: its first word with two dots or one, all digits.
fn driver_release(text: &str) -> Option<String> {
    text.lines()
        .next()?
        .split_whitespace()
        .find(|word| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!((decoded(13000), decoded(12090)), (CudaVersion::new(13, 0), CudaVersion::new(12, 9)));
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (x)  Sep 2025\nGCC version: gcc 12.3.0";
        assert_eq!(driver_release(text), Some("580.95.05".to_owned()));
        assert_eq!(driver_release("no release here"), None);
    }
}
