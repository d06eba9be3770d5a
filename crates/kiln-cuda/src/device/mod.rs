//! A CUDA GPU: memory, modules, launches, streams, events and graphs, through cudarc's driver bindings.
//!
//! Only cudarc's `driver::result` and `sys` layers are used, with its context for keeping the primary context alive. Its
//! safe layer tracks events on every buffer for use on several streams, which an engine that plans its own order and
//! memory does not want to pay for on each launch.
//!
//! Nothing here hands out host memory to the device, so a kernel that misbehaves can fault the GPU's context but not
//! touch this process's memory; that is why launching is a safe function. Device code itself is trusted like any
//! compiler's output.

mod copier;
mod elf;
mod graph;
mod launch;
mod memory;
mod module;
mod properties;
mod stream;
mod tensor_map;

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, DriverError, result, sys};

pub use copier::{Copier, PinnedBuffer};
pub use graph::Graph;
pub use launch::{Arg, LaunchConfig};
pub use memory::{DeviceBuffer, DevicePtr};
pub use module::{CudaModule, KernelFunction};
pub use properties::{DeviceProperties, driver_cuda, driver_version};
pub use stream::{Event, Stream};
pub use tensor_map::{TensorDescriptor, TensorElement, TensorWindow};

use crate::{CudaError, CudaVersion, Result};

/// An open GPU, with one stream of its own. The context lives until the last object made from it is dropped.
pub struct CudaDevice {
    gpu: Arc<Gpu>,
    stream: Stream,
}

/// What every object on a device shares.
struct Gpu {
    context: Arc<CudaContext>,
    properties: DeviceProperties,
    sync_each_launch: AtomicBool,
}

impl Gpu {
    /// Makes this device's context current on the calling thread, as most driver calls need.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(driver_error(|| format!("using cuda:{}", self.properties.ordinal)))
    }
}

impl CudaDevice {
    /// How many GPUs the driver reports: 0 if it has none.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::DriverTooOld`].
    pub fn count() -> Result<usize> {
        match init_driver()? {
            Devices::None => Ok(0),
            Devices::Some => {
                let count = result::device::get_count().map_err(driver_error(|| "counting GPUs".to_owned()))?;
                Ok(usize::try_from(count).unwrap_or(0))
            }
        }
    }

    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`] without libcuda, [`CudaError::DriverTooOld`], [`CudaError::NoDevice`], or the driver's
    /// own error.
    pub fn new(ordinal: usize) -> Result<Self> {
        let properties = DeviceProperties::query(ordinal)?;
        let context = CudaContext::new(ordinal).map_err(driver_error(|| format!("opening cuda:{ordinal}")))?;
        let gpu = Arc::new(Gpu { context, properties, sync_each_launch: AtomicBool::new(false) });
        let stream = Stream::new(&gpu)?;
        Ok(Self { gpu, stream })
    }

    /// What the GPU is.
    pub fn properties(&self) -> &DeviceProperties {
        &self.gpu.properties
    }

    /// The device's own stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The same GPU and context, with another stream as its own.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn fork(&self) -> Result<Self> {
        Ok(Self { gpu: Arc::clone(&self.gpu), stream: Stream::new(&self.gpu)? })
    }

    /// A further stream, which runs at the same time as the others.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn new_stream(&self) -> Result<Stream> {
        Stream::new(&self.gpu)
    }

    /// An event, for timing.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn new_event(&self) -> Result<Event> {
        Event::new(&self.gpu)
    }

    /// Free and total bytes of device memory.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn memory_info(&self) -> Result<(usize, usize)> {
        self.gpu.bind()?;
        result::mem_get_info().map_err(driver_error(|| "reading free device memory".to_owned()))
    }

    /// `bytes` of device memory, 256-byte aligned, with undefined content.
    ///
    /// # Errors
    /// [`CudaError::Driver`], with the memory left, if it does not fit.
    pub fn alloc(&self, bytes: usize) -> Result<DeviceBuffer> {
        DeviceBuffer::new(&self.gpu, bytes)
    }

    /// A copy of `data` in host memory that the GPU reads by itself.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the system has no more such memory.
    pub fn pin(&self, data: &[u8]) -> Result<PinnedBuffer> {
        PinnedBuffer::new(&self.gpu, data)
    }

    /// Memory that something else has allocated, as a buffer that does not free it.
    ///
    /// # Safety
    /// It may be read and written by kernels of this device as long as the buffer lives and work that uses it runs.
    ///
    /// # Errors
    /// [`CudaError::BadOperation`] if the driver knows that it is no memory of this GPU's, or not so much.
    pub unsafe fn lend(&self, address: u64, bytes: usize) -> Result<DeviceBuffer> {
        // SAFETY: the caller's word.
        unsafe { DeviceBuffer::lent(&self.gpu, address, bytes) }
    }

    /// Loads a cubin. `name` is for messages.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the image is not whole or is for another architecture.
    pub fn load_module(&self, name: &str, cubin: &[u8]) -> Result<CudaModule> {
        CudaModule::load(&self.gpu, name, cubin)
    }

    /// Has the driver assemble PTX for this GPU, and loads that. `name` is for messages.
    ///
    /// # Errors
    /// [`CudaError::Driver`] with the assembler's log, or if the driver is too old for the PTX.
    pub fn load_ptx(&self, name: &str, ptx: &[u8]) -> Result<CudaModule> {
        CudaModule::assemble(&self.gpu, name, ptx)
    }

    /// Waits after every launch, so that a fault names the very kernel. Slow; for finding a fault.
    pub fn set_sync_each_launch(&self, on: bool) {
        self.gpu.sync_each_launch.store(on, Ordering::Relaxed);
    }

    /// Waits for everything on the device's own stream.
    ///
    /// # Errors
    /// [`CudaError::DeviceFault`], naming the kernels that may be at fault.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()
    }
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDevice").field("properties", &self.gpu.properties).finish_non_exhaustive()
    }
}

enum Devices {
    None,
    Some,
}

/// The oldest driver: it has every function called here but [`stream::Event`]'s and `cuFuncGetParamInfo`, of which cudarc knows newer ones
/// only. cudarc resolves a function when it is first called, and panics if it is missing.
const NEEDED_DRIVER: CudaVersion = CudaVersion::new(12, 0);

/// Whether this machine has a driver. cudarc panics at its first call without one, so this must come first.
fn driver_is_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens libcuda by name, as every CUDA program does, and nothing else.
    *PRESENT.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// Initializes the driver if this machine has one that will do.
fn init_driver() -> Result<Devices> {
    if !driver_is_present() {
        return Err(CudaError::NoDriver);
    }
    match result::init() {
        Ok(()) => {}
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Devices::None),
        Err(error) => return Err(driver_error(|| "initializing the CUDA driver".to_owned())(error)),
    }
    let found = properties::supported()?;
    if found < NEEDED_DRIVER {
        return Err(CudaError::DriverTooOld { found, needed: NEEDED_DRIVER });
    }
    Ok(Devices::Some)
}

/// A function of the driver by name, for those that cudarc binds in a version that older drivers lack.
///
/// # Safety
/// `F` is the type of that function.
unsafe fn driver_function<F: Copy>(name: &str) -> Option<F> {
    // SAFETY: the caller vouches for the type; the driver is present, for there is a device, and stays loaded.
    unsafe { sys::culib().get::<F>(name.as_bytes()) }.ok().map(|function| *function)
}

/// Turns a driver error into this crate's, with what was being done.
fn driver_error(what: impl FnOnce() -> String) -> impl FnOnce(DriverError) -> CudaError {
    move |error| CudaError::Driver { what: what(), detail: describe(error) }
}

/// The driver's name and text for an error: `CUDA_ERROR_INVALID_VALUE (invalid argument)`.
fn describe(error: DriverError) -> String {
    let text = |found: Result<&std::ffi::CStr, DriverError>| found.ok().map(|text| text.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(meaning)) => format!("{name} ({meaning})"),
        _ => format!("CUDA error {:?}", error.0),
    }
}

/// A driver handle. The driver may be called with any handle from any thread once the context is bound there.
struct Handle<T>(T);

// SAFETY: see above; the handles wrapped (streams, modules, functions, events) are documented to be usable from any
// thread, and the driver locks internally.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as for Send.
unsafe impl<T> Sync for Handle<T> {}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
