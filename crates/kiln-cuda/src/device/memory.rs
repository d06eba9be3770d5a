//! Device memory and addresses in it.

use std::sync::Arc;

use cudarc::driver::result;

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

/// A block of device memory, freed when dropped.
///
/// Dropping it while a kernel that uses it runs is safe: freeing waits for the device. A [`super::Graph`] that was
/// captured with its address must not be replayed afterwards; that is a device fault.
pub struct DeviceBuffer {
    pub(super) gpu: Arc<Gpu>,
    address: u64,
    len: usize,
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
        Ok(Self { gpu: Arc::clone(gpu), address, len: bytes })
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
        if self.gpu.bind().is_ok() {
            // SAFETY: allocated by `malloc_sync` and freed once; the driver waits for work in flight.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBuffer({} bytes at {:#x})", self.len, self.address)
    }
}
