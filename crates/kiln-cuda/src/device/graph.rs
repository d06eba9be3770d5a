//! CUDA graphs: a stream's work captured once and replayed with one call.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::module::CudaModule;
use super::stream::InFlight;
use super::{Gpu, Handle, Stream, driver_error};
use crate::{CudaError, Result};

/// Captured work, ready to replay. It keeps its kernels loaded; the buffers it was captured with must stay alive, which
/// is the caller's part (a replay after one is freed is a device fault).
///
/// May move between threads but not be shared by them: the driver does not lock graphs.
pub struct Graph {
    executable: Arc<Executable>,
    kernels: usize,
    name: Arc<str>,
    _not_sync: PhantomData<Cell<()>>,
}

/// An instantiated graph with what it needs. Streams hold it too while a replay may be running.
pub(super) struct Executable {
    exec: Handle<sys::CUgraphExec>,
    captured: Captured,
    _modules: Vec<CudaModule>,
}

/// A graph as captured.
struct Captured {
    gpu: Arc<Gpu>,
    raw: Handle<sys::CUgraph>,
}

impl Stream {
    /// Captures what `work` queues on this stream: launches, fills and device copies. Nothing runs until the replay.
    ///
    /// # Errors
    /// Those of `work` (an upload or download, say, cannot be captured), or [`CudaError::Driver`].
    pub fn capture<E: From<CudaError>>(&self, work: impl FnOnce(&Self) -> Result<(), E>) -> Result<Graph, E> {
        let mut open = OpenCapture::begin(self)?;
        let worked = work(self);
        let ended = open.end();
        // The reason `work` gives explains more than the capture's own failure that follows from it.
        worked?;
        let (captured, modules) = ended?;
        Ok(Graph::instantiate(captured, modules)?)
    }
}

/// A capture that must be ended however the recording closure is left.
struct OpenCapture<'a> {
    stream: &'a Stream,
    ended: bool,
}

impl<'a> OpenCapture<'a> {
    fn begin(stream: &'a Stream) -> Result<Self> {
        const WHAT: &str = "capturing a graph";
        if stream.is_capturing() {
            let reason = "a graph is being captured on the stream already".to_owned();
            return Err(CudaError::BadOperation { what: WHAT, reason });
        }
        stream.gpu.bind()?;
        // Thread-local: allocations by other threads go on undisturbed.
        // SAFETY: a live stream of the context just bound.
        unsafe {
            result::stream::begin_capture(*stream.raw, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        }
        .map_err(driver_error(|| WHAT.to_owned()))?;
        stream.start_record();
        Ok(Self { stream, ended: false })
    }

    fn end(&mut self) -> Result<(Captured, Vec<CudaModule>)> {
        self.ended = true;
        let modules = self.stream.end_record();
        self.stream.gpu.bind()?;
        // SAFETY: the stream is capturing, begun on this thread.
        let raw = unsafe { result::stream::end_capture(*self.stream.raw) }
            .map_err(driver_error(|| "ending the capture of a graph".to_owned()))?;
        if raw.is_null() {
            let detail = "the capture was invalidated".to_owned();
            return Err(CudaError::Driver { what: "capturing a graph".to_owned(), detail });
        }
        Ok((Captured { gpu: Arc::clone(&self.stream.gpu), raw: Handle(raw) }, modules))
    }
}

impl Drop for OpenCapture<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // Only a panic of the closure comes here; the graph, if any, is dropped.
            let _ = self.end();
        }
    }
}

impl Graph {
    fn instantiate(captured: Captured, modules: Vec<CudaModule>) -> Result<Self> {
        // SAFETY: a graph that a capture gave, alive as long as `captured`.
        let exec = unsafe { result::graph::instantiate(*captured.raw, sys::CUgraphInstantiate_flags(0)) }
            .map_err(driver_error(|| "instantiating a graph".to_owned()))?;
        let kernels = modules.len();
        Ok(Self {
            executable: Arc::new(Executable { exec: Handle(exec), captured, _modules: modules }),
            kernels,
            name: format!("a graph of {kernels} kernels").into(),
            _not_sync: PhantomData,
        })
    }

    /// Queues the captured work on `stream`.
    ///
    /// # Errors
    /// [`CudaError::Driver`]; faults of its kernels come from the next synchronization.
    pub fn replay(&self, stream: &Stream) -> Result<()> {
        let gpu = &self.executable.captured.gpu;
        stream.check_same_device(gpu, "replaying a graph")?;
        gpu.bind()?;
        // SAFETY: an instantiated graph and a stream of one device, both alive; `Graph` is not shared between threads.
        unsafe { result::graph::launch(*self.executable.exec, *stream.raw) }
            .map_err(driver_error(|| format!("replaying {}", self.name)))?;
        stream.queued(&self.name, InFlight::Graph(Arc::clone(&self.executable)))
    }

    /// Kernels in it.
    pub fn kernels(&self) -> usize {
        self.kernels
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        if self.captured.gpu.bind().is_ok() {
            // SAFETY: made once, destroyed once; streams hold it while it may run.
            let _ = unsafe { result::graph::exec_destroy(*self.exec) };
        }
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: captured once, destroyed once.
            let _ = unsafe { result::graph::destroy(*self.raw) };
        }
    }
}
