//! Streams and events: ordered work, copies, device-side time, and faults that name a kernel.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cudarc::driver::result::stream::StreamKind;
use cudarc::driver::{DriverError, result, sys};

use super::copier::PinnedBuffer;
use super::graph::Executable;
use super::memory::DeviceBuffer;
use super::module::CudaModule;
use super::{Gpu, Handle, describe, driver_error, driver_function};
use crate::{CudaError, Result};

/// A queue of work on a device, run in order.
pub struct Stream {
    pub(super) gpu: Arc<Gpu>,
    pub(super) raw: Handle<sys::CUstream>,
    history: Mutex<History>,
}

/// What was queued since the last synchronization that succeeded.
#[derive(Default)]
struct History {
    latest: VecDeque<Arc<str>>,
    count: usize,
    /// What must not be unloaded before the work is done, by address. Waiting for the device when a module is dropped
    /// instead would break a capture that another thread has open.
    in_flight: HashMap<usize, InFlight>,
    /// While a graph is captured: the module of each kernel in it.
    captured: Option<Vec<CudaModule>>,
}

/// Something that queued work runs.
pub(super) enum InFlight {
    Module(CudaModule),
    Graph(Arc<Executable>),
    Host(Arc<PinnedBuffer>),
}

impl InFlight {
    fn address(&self) -> usize {
        match self {
            Self::Module(module) => Arc::as_ptr(&module.0).addr(),
            Self::Graph(graph) => Arc::as_ptr(graph).addr(),
            Self::Host(pinned) => Arc::as_ptr(pinned).addr(),
        }
    }
}

/// Names kept for a fault's message.
const NAMES_KEPT: usize = 8;
/// Modules and graphs that are kept at most until a wait says that nothing runs them.
const MOST_IN_FLIGHT: usize = 256;

impl Stream {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        gpu.bind()?;
        let raw =
            result::stream::create(StreamKind::NonBlocking).map_err(driver_error(|| "creating a stream".to_owned()))?;
        Ok(Self { gpu: Arc::clone(gpu), raw: Handle(raw), history: Mutex::default() })
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // The record is for messages; a panic elsewhere does not make it wrong.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes work just queued, and waits for it if the device is set so.
    pub(super) fn queued(&self, name: &Arc<str>, what: InFlight) -> Result<()> {
        let mut history = self.history();
        if let (Some(modules), InFlight::Module(module)) = (&mut history.captured, &what) {
            modules.push(module.clone());
            return Ok(());
        }
        history.note(name);
        history.in_flight.entry(what.address()).or_insert(what);
        // Who queues without ever waiting must not pile up what is kept until a wait.
        let full = history.in_flight.len() >= MOST_IN_FLIGHT;
        drop(history);
        if full || self.gpu.sync_each_launch.load(Ordering::Relaxed) { self.synchronize() } else { Ok(()) }
    }

    pub(super) fn is_capturing(&self) -> bool {
        self.history().captured.is_some()
    }

    /// Starts the record of a capture.
    pub(super) fn start_record(&self) {
        self.history().captured = Some(Vec::new());
    }

    /// Ends the record of a capture, and returns the module of each kernel in it.
    pub(super) fn end_record(&self) -> Vec<CudaModule> {
        self.history().captured.take().unwrap_or_default()
    }

    pub(super) fn check_not_capturing(&self, what: &'static str) -> Result<()> {
        if self.is_capturing() {
            return Err(CudaError::BadOperation { what, reason: "a graph is being captured on the stream".to_owned() });
        }
        Ok(())
    }

    /// Waits for all work queued so far.
    ///
    /// # Errors
    /// [`CudaError::DeviceFault`] if a kernel faulted, naming those launched since the last synchronization. The
    /// device's context is then lost; open it in a new process.
    pub fn synchronize(&self) -> Result<()> {
        self.check_not_capturing("synchronizing a stream")?;
        self.gpu.bind()?;
        // What other threads queue while this waits must stay in the record.
        let before = std::mem::take(&mut *self.history());
        // SAFETY: a stream of this context, alive as long as `self`.
        match unsafe { result::stream::synchronize(*self.raw) } {
            Ok(()) => Ok(()),
            Err(error) => {
                let fault = before.fault(error);
                // The context is lost, and so is what ran on it; later errors should name the same suspects.
                *self.history() = before;
                Err(fault)
            }
        }
    }

    /// Whether all work queued so far is done. Does not wait.
    ///
    /// # Errors
    /// As for [`Stream::synchronize`].
    pub fn is_done(&self) -> Result<bool> {
        self.check_not_capturing("asking whether a stream is done")?;
        self.gpu.bind()?;
        // SAFETY: a stream of this context, alive as long as `self`.
        match unsafe { sys::cuStreamQuery(*self.raw) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            error => Err(self.history().fault(DriverError(error))),
        }
    }

    /// Work queued from now on waits for what is queued by now on another stream, `other`, a `CUstream`. Does not wait itself.
    ///
    /// # Safety
    /// `other` is a stream of this GPU's primary context that nobody destroys meanwhile; 0 is the legacy default stream.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub unsafe fn wait_for(&self, other: u64) -> Result<()> {
        // SAFETY: the caller's word, and a live stream.
        unsafe { self.order(foreign(other), *self.raw) }
    }

    /// Work queued from now on on another stream waits for what is queued here by now. Does not wait itself.
    ///
    /// # Safety
    /// As for [`Stream::wait_for`].
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub unsafe fn hold(&self, other: u64) -> Result<()> {
        // SAFETY: the caller's word, and a live stream.
        unsafe { self.order(*self.raw, foreign(other)) }
    }

    /// Work queued from now on on `after` waits for what is queued by now on `before`.
    ///
    /// # Safety
    /// Both are streams of this GPU's primary context.
    unsafe fn order(&self, before: sys::CUstream, after: sys::CUstream) -> Result<()> {
        self.check_not_capturing("ordering two streams")?;
        let event = Event::untimed(&self.gpu)?;
        let what = || "ordering two streams".to_owned();
        // SAFETY: live streams and a live event of one context. The wait keeps what it needs of the event.
        unsafe {
            result::event::record(*event.raw, before).map_err(driver_error(what))?;
            result::stream::wait_event(after, *event.raw, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
                .map_err(driver_error(what))
        }
    }

    /// Copies `data` into the buffer at byte `offset`, after the work queued so far; returns when it is there.
    ///
    /// # Errors
    /// [`CudaError::BadOperation`] outside the buffer or while capturing; [`CudaError::DeviceFault`].
    pub fn upload(&self, buffer: &DeviceBuffer, offset: usize, data: &[u8]) -> Result<()> {
        const WHAT: &str = "uploading to a device buffer";
        let target = self.range_of(buffer, WHAT, offset, data.len())?;
        self.check_not_capturing(WHAT)?;
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is inside the buffer, and `data` is borrowed until the wait below.
        let queued = unsafe { result::memcpy_htod_async(target, data, *self.raw) };
        // Waits even if queueing failed, so that no copy still reads `data` afterwards.
        let waited = self.synchronize();
        // A fault of earlier work fails this copy too; the wait names it.
        waited?;
        queued.map_err(driver_error(|| format!("uploading {} bytes", data.len())))
    }

    /// Copies from the buffer at byte `offset` into `data`, after the work queued so far.
    ///
    /// # Errors
    /// As for [`Stream::upload`].
    pub fn download(&self, buffer: &DeviceBuffer, offset: usize, data: &mut [u8]) -> Result<()> {
        self.download_all(&mut [(buffer, offset, data)])
    }

    /// [`Stream::download`] of several pieces, or of none, with one wait.
    ///
    /// # Errors
    /// As for [`Stream::upload`].
    pub fn download_all(&self, pieces: &mut [(&DeviceBuffer, usize, &mut [u8])]) -> Result<()> {
        const WHAT: &str = "downloading from a device buffer";
        let sources = pieces.iter().map(|(buffer, offset, data)| self.range_of(buffer, WHAT, *offset, data.len()));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        self.check_not_capturing(WHAT)?;
        let mut queued = Ok(());
        for ((_, _, data), source) in pieces.iter_mut().zip(sources).filter(|((_, _, data), _)| !data.is_empty()) {
            // SAFETY: the range is inside the buffer, and `data` is borrowed until the wait below.
            let copy = unsafe { result::memcpy_dtoh_async(data, source, *self.raw) };
            queued = queued.and(copy.map_err(driver_error(|| format!("downloading {} bytes", data.len()))));
        }
        // Waits even if queueing failed, so that no copy still writes to `data` afterwards.
        self.synchronize()?;
        queued
    }

    /// Queues a copy of `len` bytes between two device buffers (or two parts of one that do not overlap).
    ///
    /// # Errors
    /// [`CudaError::BadOperation`] outside a buffer.
    pub fn copy(
        &self,
        to: &DeviceBuffer,
        to_offset: usize,
        from: &DeviceBuffer,
        from_offset: usize,
        len: usize,
    ) -> Result<()> {
        const WHAT: &str = "copying between device buffers";
        let target = self.range_of(to, WHAT, to_offset, len)?;
        let source = self.range_of(from, WHAT, from_offset, len)?;
        if len == 0 {
            return Ok(());
        }
        // SAFETY: both ranges are inside live buffers of this context.
        unsafe { result::memcpy_dtod_async(target, source, len, *self.raw) }
            .map_err(driver_error(|| format!("copying {len} bytes on the device")))
    }

    /// Queues setting `len` bytes from `offset` to `byte`: 0 to clear, 0xFF to poison (every float is then NaN).
    ///
    /// # Errors
    /// [`CudaError::BadOperation`] outside the buffer.
    pub fn fill(&self, buffer: &DeviceBuffer, offset: usize, len: usize, byte: u8) -> Result<()> {
        let target = self.range_of(buffer, "filling a device buffer", offset, len)?;
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the range is inside the buffer.
        unsafe { result::memset_d8_async(target, byte, len, *self.raw) }
            .map_err(driver_error(|| format!("filling {len} bytes on the device")))
    }

    /// Work queued from now on waits for an event of this device.
    pub(super) fn wait_event(&self, event: &Event) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: a live stream and a live event of one device. The wait keeps what it needs of the event.
        unsafe { result::stream::wait_event(*self.raw, *event.raw, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
            .map_err(driver_error(|| "waiting for an event".to_owned()))
    }

    /// Checks a range and the buffer's device, and binds the context for the call that follows.
    pub(super) fn range_of(&self, buffer: &DeviceBuffer, what: &'static str, offset: usize, len: usize) -> Result<u64> {
        self.check_same_device(&buffer.gpu, what)?;
        let start = buffer.range(what, offset, len)?;
        self.gpu.bind()?;
        Ok(start.0)
    }

    pub(super) fn check_same_device(&self, other: &Arc<Gpu>, what: &'static str) -> Result<()> {
        if self.gpu.properties.ordinal != other.properties.ordinal {
            let reason = format!(
                "it belongs to cuda:{}, the stream to cuda:{}",
                other.properties.ordinal, self.gpu.properties.ordinal
            );
            return Err(CudaError::BadOperation { what, reason });
        }
        Ok(())
    }

    /// The stream's handle, a `CUstream`, for other libraries. It is destroyed with the stream.
    pub fn handle(&self) -> u64 {
        self.raw.expose_provenance() as u64
    }

    /// Queues a time stamp.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn record(&self, event: &Event) -> Result<()> {
        self.check_same_device(&event.gpu, "recording an event")?;
        self.gpu.bind()?;
        // SAFETY: an event and a stream of one device, both alive.
        unsafe { result::event::record(*event.raw, *self.raw) }
            .map_err(driver_error(|| "recording an event".to_owned()))
    }

    /// Runs `work`, which queues on this stream, and returns the time the device took from its first to its last item.
    ///
    /// # Errors
    /// Those of `work`, or [`CudaError::DeviceFault`].
    pub fn time<E: From<CudaError>>(&self, work: impl FnOnce(&Self) -> Result<(), E>) -> Result<Duration, E> {
        let (start, end) = (Event::new(&self.gpu)?, Event::new(&self.gpu)?);
        self.record(&start)?;
        work(self)?;
        self.record(&end)?;
        self.synchronize()?;
        Ok(end.since(&start)?)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: created once, destroyed once. The wait is for the modules that queued work runs, which are
            // unloaded with the record.
            unsafe {
                let _ = result::stream::synchronize(*self.raw);
                let _ = result::stream::destroy(*self.raw);
            }
        }
    }
}

impl History {
    fn note(&mut self, name: &Arc<str>) {
        if self.latest.len() == NAMES_KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(Arc::clone(name));
        self.count += 1;
    }

    fn fault(&self, error: DriverError) -> CudaError {
        CudaError::DeviceFault { detail: describe(error), suspects: self.suspects() }
    }

    fn suspects(&self) -> String {
        let names = self.latest.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match self.count {
            0 => "work queued before the last synchronization, or on another stream".to_owned(),
            1 => format!("kernel {names}"),
            count if count <= NAMES_KEPT => format!("one of the kernels {names}"),
            count => format!("one of the last {count} kernels, of which the latest are {names}"),
        }
    }
}

/// A point in a stream's work, with the device's time.
pub struct Event {
    gpu: Arc<Gpu>,
    raw: Handle<sys::CUevent>,
}

/// A stream by its handle.
fn foreign(handle: u64) -> sys::CUstream {
    std::ptr::with_exposed_provenance_mut(handle as usize)
}

impl Event {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        Self::with(gpu, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// For order alone, which costs the GPU less.
    pub(super) fn untimed(gpu: &Arc<Gpu>) -> Result<Self> {
        Self::with(gpu, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn with(gpu: &Arc<Gpu>, flags: sys::CUevent_flags) -> Result<Self> {
        gpu.bind()?;
        let raw = result::event::create(flags).map_err(driver_error(|| "creating an event".to_owned()))?;
        Ok(Self { gpu: Arc::clone(gpu), raw: Handle(raw) })
    }

    /// Device time from `start` to this event, once both have happened; waits for this one. Resolution is about half
    /// a microsecond.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if either was not recorded.
    pub fn since(&self, start: &Self) -> Result<Duration> {
        let what = || "measuring the time between two events".to_owned();
        self.gpu.bind()?;
        // cudarc has only the version of CUDA 12.8.
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
        // SAFETY: the type is that of cuda.h.
        let elapsed = unsafe { driver_function::<Elapsed>("cuEventElapsedTime") };
        let elapsed = elapsed.ok_or_else(|| CudaError::Driver {
            what: what(),
            detail: "the driver has no cuEventElapsedTime".to_owned(),
        })?;
        let mut milliseconds = 0.0;
        // SAFETY: live events of this device, and a valid place for the time.
        unsafe {
            result::event::synchronize(*self.raw).map_err(driver_error(what))?;
            elapsed(&mut milliseconds, *start.raw, *self.raw).result().map_err(driver_error(what))?;
        }
        Ok(Duration::try_from_secs_f64(f64::from(milliseconds) / 1e3).unwrap_or_default())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: created once, destroyed once.
            let _ = unsafe { result::event::destroy(*self.raw) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_suspects() {
        let mut history = History::default();
        assert!(history.suspects().contains("another stream"));
        history.note(&"first".into());
        assert_eq!(history.suspects(), "kernel `first`");
        history.note(&"second".into());
        assert_eq!(history.suspects(), "one of the kernels `first`, `second`");
        for i in 0..30 {
            history.note(&format!("k{i}").into());
        }
        let text = history.suspects();
        assert!(text.starts_with("one of the last 32 kernels") && text.ends_with("`k29`"), "{text}");
        assert!(!text.contains("`k21`") && text.contains("`k22`"), "{text}");
    }
}
