//! CUDA graphs: a stream's work captured once and replayed with one call.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::module::CudaModule;
use super::{Gpu, Handle, Stream, driver_error};
use crate::{CudaError, Result};

/// Captured work, ready to replay. It keeps its kernels loaded; the buffers it was captured with must stay alive, which
/// is the caller's part (a replay after one is freed is a device fault).
///
/// May move between threads but not be shared by them: the driver does not lock graphs.
pub struct Graph {
    gpu: Arc<Gpu>,
    graph: Handle<sys::CUgraph>,
    exec: Handle<sys::CUgraphExec>,
    modules: Vec<CudaModule>,
    name: Arc<str>,
    _not_sync: PhantomData<Cell<()>>,
}

impl Stream {
    /// Captures what `work` queues on this stream: launches, fills and device copies. Nothing runs until the replay.
    ///
    /// # Errors
    /// Those of `work` (an upload or download, say, cannot be captured), or [`CudaError::Driver`].
    pub fn capture(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<Graph> {
        const WHAT: &str = "capturing a graph";
        if self.is_capturing() {
            let reason = "a graph is being captured on the stream already".to_owned();
            return Err(CudaError::BadOperation { what: WHAT, reason });
        }
        self.gpu.bind()?;
        // Thread-local: allocations by other threads go on undisturbed.
        // SAFETY: a live stream of the context just bound.
        unsafe {
            result::stream::begin_capture(*self.raw, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        }
        .map_err(driver_error(|| WHAT.to_owned()))?;
        self.set_capturing(true);
        let mut open = OpenCapture { stream: self, ended: false };
        let worked = work(self);
        let ended = open.end();
        // The reason `work` gives explains more than the capture's own failure that follows from it.
        worked?;
        let (graph, modules) = ended?;
        // SAFETY: a graph that the capture just gave.
        let exec = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        let exec = exec.map_err(|error| {
            // SAFETY: as above, and not used again.
            let _ = unsafe { result::graph::destroy(graph) };
            driver_error(|| "instantiating a graph".to_owned())(error)
        })?;
        Ok(Graph {
            gpu: Arc::clone(&self.gpu),
            graph: Handle(graph),
            exec: Handle(exec),
            name: format!("graph of {} kernels", modules.len()).into(),
            modules,
            _not_sync: PhantomData,
        })
    }
}

/// A capture that must be ended however the recording closure is left.
struct OpenCapture<'a> {
    stream: &'a Stream,
    ended: bool,
}

impl OpenCapture<'_> {
    fn end(&mut self) -> Result<(sys::CUgraph, Vec<CudaModule>)> {
        self.ended = true;
        let modules = self.stream.set_capturing(false).unwrap_or_default();
        self.stream.gpu.bind()?;
        // SAFETY: the stream is capturing, begun on this thread.
        let graph = unsafe { result::stream::end_capture(*self.stream.raw) }
            .map_err(driver_error(|| "ending the capture of a graph".to_owned()))?;
        if graph.is_null() {
            let detail = "the capture was invalidated".to_owned();
            return Err(CudaError::Driver { what: "capturing a graph".to_owned(), detail });
        }
        Ok((graph, modules))
    }
}

impl Drop for OpenCapture<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Ok((graph, _)) = self.end() {
            // SAFETY: a graph of our own that nobody else has.
            let _ = unsafe { result::graph::destroy(graph) };
        }
    }
}

impl Graph {
    /// Queues the captured work on `stream`.
    ///
    /// # Errors
    /// [`CudaError::Driver`]; faults of its kernels come from the next synchronization.
    pub fn replay(&self, stream: &Stream) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: an instantiated graph and a stream, both alive; `Graph` is not shared between threads.
        unsafe { result::graph::launch(*self.exec, *stream.raw) }
            .map_err(driver_error(|| format!("replaying a {}", self.name)))?;
        stream.note(&self.name);
        Ok(())
    }

    /// Kernels in it.
    pub fn kernels(&self) -> usize {
        self.modules.len()
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // A replay may still run.
            let _ = result::ctx::synchronize();
            // SAFETY: made once, destroyed once, and idle.
            unsafe {
                let _ = result::graph::exec_destroy(*self.exec);
                let _ = result::graph::destroy(*self.graph);
            }
        }
    }
}
