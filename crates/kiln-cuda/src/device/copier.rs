//! Copies from pinned host memory beside what runs: for weights that do not stay on the device.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::result;

use super::memory::DeviceBuffer;
use super::stream::{Event, InFlight, Stream};
use super::{CudaDevice, Gpu, driver_error};
use crate::Result;

/// Host memory that the GPU reads by itself, which copies at full speed and without the caller waiting.
pub struct PinnedBuffer {
    gpu: Arc<Gpu>,
    address: usize,
    len: usize,
}

impl PinnedBuffer {
    pub(super) fn new(gpu: &Arc<Gpu>, data: &[u8]) -> Result<Self> {
        gpu.bind()?;
        // SAFETY: a plain allocation, written below before it is read.
        let start = unsafe { result::malloc_host(data.len().max(1), 0) }
            .map_err(driver_error(|| format!("pinning {} bytes of host memory", data.len())))?;
        // SAFETY: as large as the data, and nobody else's yet.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), start.cast(), data.len()) };
        Ok(Self { gpu: Arc::clone(gpu), address: start.expose_provenance(), len: data.len() })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with that size, initialized, and never written again.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(self.address), self.len) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: allocated once, freed once; streams hold it while a copy may read it.
            let _ = unsafe { result::free_host(std::ptr::with_exposed_provenance_mut(self.address)) };
        }
    }
}

/// A stream that copies ahead of another, and what orders the two.
pub struct Copier {
    stream: Stream,
    /// What was copied last, by address, and what was queued before that.
    previous: Option<(Range<u64>, Event)>,
}

impl Copier {
    /// A copier of a device.
    ///
    /// # Errors
    /// [`crate::CudaError::Driver`].
    pub fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self { stream: device.new_stream()?, previous: None })
    }

    /// Waits for all copies, and lets go of what they read.
    ///
    /// # Errors
    /// As for [`Stream::synchronize`].
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()
    }

    /// Queues copies of whole pinned buffers to places of device buffers. Work queued on `main` from now on waits for them. They wait for the work there that
    /// was queued before the copies before these, or where those were to the same place, for all of it: what is filled in turn must be read before
    /// the next copy is queued.
    ///
    /// # Errors
    /// [`crate::CudaError::BadOperation`] outside a buffer or while capturing, [`crate::CudaError::Driver`].
    pub fn copy(&mut self, main: &Stream, pieces: &[(Arc<DeviceBuffer>, usize, Arc<PinnedBuffer>)]) -> Result<()> {
        const WHAT: &str = "copying ahead";
        main.check_not_capturing(WHAT)?;
        let mut targets = Vec::with_capacity(pieces.len());
        for (buffer, offset, from) in pieces {
            targets.push((self.stream.range_of(buffer, WHAT, *offset, from.len())?, from));
        }
        let start = targets.iter().map(|(start, _)| *start).min().unwrap_or(0);
        let end = targets.iter().map(|(start, from)| start + from.len() as u64).max().unwrap_or(0);
        let span = start..end;
        let now = Event::untimed(&main.gpu)?;
        main.record(&now)?;
        let before = match &self.previous {
            Some((last, before)) if last.end <= span.start || span.end <= last.start => before,
            _ => &now,
        };
        self.stream.wait_event(before)?;
        for (target, from) in targets.into_iter().filter(|(_, from)| !from.is_empty()) {
            // SAFETY: the range is inside the buffer; the pinned memory lives at least until the stream is done with it, which the note below sees to.
            unsafe { result::memcpy_htod_async(target, from.bytes(), *self.stream.raw) }
                .map_err(driver_error(|| format!("copying {} bytes ahead", from.len())))?;
            self.stream.queued(&"a copy".into(), InFlight::Host(Arc::clone(from)))?;
        }
        let copied = Event::untimed(&main.gpu)?;
        self.stream.record(&copied)?;
        main.wait_event(&copied)?;
        self.previous = Some((span, now));
        Ok(())
    }
}
