//! Device memory and addresses in it.

use std::sync::Arc;

use cudarc::driver::{result, sys, sys::CUpointer_attribute as Attribute};

use super::{Gpu, describe};
use crate::{CudaError, Result};

/// An address in device memory, from a [`DeviceBuffer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePtr(pub(super) u64);

impl DevicePtr {
    /// The address as a number, for checks of its alignment.
    pub fn address(self) -> u64 {
        self.0
    }
}

/// A block of device memory, freed when dropped unless it was lent.
///
/// Dropping it while a kernel that uses it runs is safe: freeing waits for the device. A [`super::Graph`] that was
/// captured with its address must not be replayed afterwards; that is a device fault.
pub struct DeviceBuffer {
    pub(super) gpu: Arc<Gpu>,
    address: u64,
    len: usize,
    lent: bool,
}

impl DeviceBuffer {
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        gpu.bind()?;
        // The driver refuses empty allocations, and an empty tensor needs an address like any other.
        // SAFETY: a plain allocation; its content is undefined until written, and is only ever read as bytes.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| {
            let free = result::mem_get_info().map(|(free, _)| free >> 20).unwrap_or(0);
            CudaError::Driver {
                what: format!("allocating {bytes} bytes on cuda:{} ({free} MiB free)", gpu.properties.ordinal),
                detail: describe(error),
            }
        })?;
        Ok(Self { gpu: Arc::clone(gpu), address, len: bytes, lent: false })
    }

    /// Memory of another's, as far as the driver can tell that it is this GPU's and so large.
    ///
    /// # Safety
    /// Kernels may read and write it as long as the buffer lives and work that uses it runs.
    pub(super) unsafe fn lent(gpu: &Arc<Gpu>, address: u64, bytes: usize) -> Result<Self> {
        const WHAT: &str = "using memory of another's";
        let refused = |reason: String| CudaError::BadOperation { what: WHAT, reason };
        gpu.bind()?;
        let mut ordinal = 0i32;
        attribute(Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address, &mut ordinal)
            .map_err(|error| refused(format!("{address:#x} is no address of a GPU's: {}", describe(error))))?;
        if usize::try_from(ordinal) != Ok(gpu.properties.ordinal) {
            let own = gpu.properties.ordinal;
            return Err(refused(format!("{address:#x} is an address of cuda:{ordinal}; expected one of cuda:{own}")));
        }
        let (mut start, mut size) = (0u64, 0usize);
        // Not of every kind of memory is it known.
        let known = attribute(Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address, &mut start)
            .and_then(|()| attribute(Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE, address, &mut size));
        if known.is_ok() && size > 0 {
            let left = (start.saturating_add(size as u64)).saturating_sub(address);
            if bytes as u64 > left {
                return Err(refused(format!(
                    "{bytes} bytes from {address:#x} leave their allocation, which has {left} from there"
                )));
            }
        }
        Ok(Self { gpu: Arc::clone(gpu), address, len: bytes, lent: true })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of its first byte.
    pub fn ptr(&self) -> DevicePtr {
        DevicePtr(self.address)
    }

    /// Address of byte `offset`, which may be one past the end.
    ///
    /// # Errors
    /// [`CudaError::BadOperation`] if it lies beyond.
    pub fn ptr_at(&self, offset: usize) -> Result<DevicePtr> {
        self.range("taking an address in a device buffer", offset, 0)
    }

    /// Address of `offset` if `len` bytes from there are inside.
    pub(super) fn range(&self, what: &'static str, offset: usize, len: usize) -> Result<DevicePtr> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            let reason = format!("bytes {offset}..{offset}+{len} are outside the buffer's {} bytes", self.len);
            return Err(CudaError::BadOperation { what, reason });
        }
        Ok(DevicePtr(self.address + offset as u64))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // If the context is lost there is nothing left to free.
        if !self.lent && self.gpu.bind().is_ok() {
            // SAFETY: allocated by `malloc_sync` and freed once; the driver waits for work in flight.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// What the driver knows of an address, of the type that the attribute has.
fn attribute<T>(attribute: Attribute, address: u64, value: &mut T) -> Result<(), result::DriverError> {
    // SAFETY: a valid place for the value, whose type the callers choose as cuda.h says; any address may be asked for.
    unsafe { sys::cuPointerGetAttribute(std::ptr::from_mut(value).cast(), attribute, address) }.result()
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBuffer({} bytes at {:#x})", self.len, self.address)
    }
}
