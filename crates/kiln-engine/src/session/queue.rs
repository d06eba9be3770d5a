//! Runs that are queued: waiting for them, and the order of theirs and others' work.

use super::Session;
use crate::device::UserStream;
use crate::{Error, Result};
use kiln_cuda::CudaError;

impl Session {
    /// Runs the model on what is bound. On a GPU the run is queued, behind those before it: [`Session::synchronize`] and reading an output wait for it, and report
    /// what goes wrong in it. On the CPU and the simulator a run is done when this returns.
    ///
    /// # Errors
    /// Inputs that are not bound or whose shapes do not agree, and what the device reports.
    pub fn run_bound(&mut self) -> Result<()> {
        self.prepare()?;
        self.enqueue(None)?;
        self.ran = true;
        self.hand_over();
        Ok(())
    }

    /// Runs that have begun, or were queued.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Waits for all that is queued.
    ///
    /// # Errors
    /// What went wrong since a call waited last: [`Error::Run`] says in which runs. There are no outputs then.
    pub fn synchronize(&mut self) -> Result<()> {
        let done = self.device.check();
        self.settled(done)
    }

    /// Whether all that is queued is done. Does not wait. Whether it went well, only what waits can tell.
    ///
    /// # Errors
    /// A GPU that is lost.
    pub fn is_done(&mut self) -> Result<bool> {
        let done = self.device.is_done();
        done.map_err(|e| self.blamed(e))
    }

    /// What the session queues from now on waits on the GPU for what is queued by now on a stream of the user's: for inputs that another library computes there.
    /// This call does not wait.
    ///
    /// # Errors
    /// A device without streams: there everything is done when its call returns.
    pub fn wait_for_stream(&mut self, stream: UserStream) -> Result<()> {
        self.device.wait_for(stream)
    }

    /// What is queued from now on on a stream of the user's waits on the GPU for what the session has queued by now: for work there that reads outputs in memory of the user's
    /// ([`Session::bind_output`]). This call does not wait, and what went wrong in a run is still to be asked.
    ///
    /// # Errors
    /// A device without streams.
    pub fn hold_stream(&mut self, stream: UserStream) -> Result<()> {
        self.device.hold(stream)
    }

    /// What a call gives that waited for all runs and asked for their faults.
    pub(super) fn settled<T>(&mut self, done: Result<T>) -> Result<T> {
        match done {
            Ok(done) => {
                self.settled = self.runs;
                Ok(done)
            }
            Err(e) => Err(self.blamed(e)),
        }
    }

    /// An error of a call that waited, which says of which queued runs it is if it is one's.
    pub(super) fn blamed(&mut self, e: Error) -> Error {
        let (first, last) = (self.settled + 1, self.runs);
        match e {
            Error::OutOfRange { .. } | Error::Cuda(CudaError::DeviceFault { .. }) if first <= last => {
                (self.settled, self.ran) = (last, false);
                Error::Run { first, last, source: Box::new(e) }
            }
            e => e,
        }
    }
}
