//! Models that are compiled on their first run, and tuned as they run.

use crate::{EngineBuilder, Model, Result};
use kiln_cuda::{Compiler, CubinCache, Home, Nvrtc};
use kiln_engine::{Engine, Kept, Session, open_device};
use kiln_target::{Gpu, Target};
use kiln_tune::{Job, Made, Measure, OnDevice, Report, Task, Timings, Tuning, tune};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Compiles a model for a device (`cpu`, `cpu:THREADS`, `cuda:N`, `sim:sm_XX`) on its first run on this machine, and loads it. Engines and kernels
/// are kept in `$KILN_HOME`. [`EngineBuilder::jit`] takes options, and tunes.
///
/// # Errors
/// No such device, and what [`EngineBuilder::build`] reports.
pub fn jit(model: &Model, device: &str) -> Result<Session> {
    EngineBuilder::new(model).jit(device).load()
}

/// A model that is compiled on its first run on a machine: with the kernels that the cost model ranks first, so that it runs at once. On a GPU it can be
/// [tuned](Jit::tune), also [while it runs](Jit::background). What was built and tuned is kept, and the next start finds it.
///
/// ```no_run
/// # fn main() -> kiln::Result<()> {
/// # use kiln::prelude::*;
/// # let model = Model::load("model.onnx")?;
/// let budget = std::time::Duration::from_secs(30);
/// let mut session = EngineBuilder::new(&model).jit("cuda:0").tune(budget).background().load()?;
/// # Ok(()) }
/// ```
pub struct Jit<'a> {
    builder: EngineBuilder<'a>,
    device: String,
    budget: Option<Duration>,
    background: bool,
    timings: Option<Timings>,
    measure: Option<Box<dyn Measure + Send>>,
}

impl<'a> Jit<'a> {
    pub(crate) fn new(builder: EngineBuilder<'a>, device: &str) -> Jit<'a> {
        let (device, timings, measure) = (device.to_owned(), None, None);
        Jit { builder, device, budget: None, background: false, timings, measure }
    }

    /// Measures ways to make each kernel for so long, and takes the fastest, before [`Jit::load`] returns. The CPU and the simulator have nothing to measure.
    /// Default: nothing is measured.
    pub fn tune(mut self, budget: Duration) -> Jit<'a> {
        self.budget = Some(budget);
        self
    }

    /// Tunes while the session runs: [`Jit::load`] returns at once, and the first run after tuning has ended is the first with the faster kernels. A session that
    /// is dropped before ends tuning, and keeps what was found.
    pub fn background(mut self) -> Jit<'a> {
        self.background = true;
        self
    }

    /// The timing cache. Default: `timings.jsonl` in `$KILN_HOME`.
    pub fn timings(mut self, timings: Timings) -> Jit<'a> {
        self.timings = Some(timings);
        self
    }

    /// What measures. Default: the device, if it is a GPU.
    pub fn measure(mut self, measure: Box<dyn Measure + Send>) -> Jit<'a> {
        self.measure = Some(measure);
        self
    }

    /// Builds, or finds what was built before on this machine, and loads it.
    ///
    /// # Errors
    /// No such device, what [`EngineBuilder::build`] reports, and what `kiln_tune::tune` does if it does not run in the background, where that is a warning in the
    /// log.
    pub fn load(self) -> Result<Session> {
        let Jit { builder, device: name, budget, background, timings, measure } = self;
        let device = open_device(&name)?;
        let target = device.processor()?;
        let measurable = measure.is_some() || device.gpu().is_some();
        let tuning = match budget.filter(|_| measurable) {
            None => None,
            Some(budget) => {
                let home = || Ok::<_, crate::Error>(Timings::in_home(builder.folder()?.root()));
                let timings = timings.map_or_else(home, Ok)?;
                Some(Tuning { budget, timings: Some(timings), ..Tuning::default() })
            }
        };
        let (mut engine, kept, home) = builder.kept(target.clone(), tuning.as_ref())?;
        let (Some(tuning), Target::Gpu(gpu)) = (tuning, target) else { return Ok(Session::new(&engine, device)?) };
        let (measure, compiler) = match measure {
            Some(measure) => {
                let toolchain = engine.target(gpu.arch.name())?.toolchain.clone();
                (measure, toolchain.unwrap_or_default().nvrtc)
            }
            None => on_device(&name, &gpu, &home)?,
        };
        let mut work = Work { gpu, compiler, measure, tuning, kept };
        if !background {
            work.run(&mut engine)?;
            return Ok(Session::new(&engine, device)?);
        }
        let mut session = Session::new(&engine, device)?;
        let tuner = Tuner::start(engine, work)?;
        session.follow(Box::new(move || tuner.newest()));
        Ok(session)
    }
}

/// What measures on a GPU, and the compiler that it compiles with.
fn on_device(name: &str, gpu: &Gpu, home: &Home) -> Result<(Box<dyn Measure + Send>, String)> {
    let nvrtc = Nvrtc::discover(home)?;
    let compiler = Compiler::new(&nvrtc).with_cache(CubinCache::in_home(home));
    let measure = OnDevice::new(name, OnDevice::memory(gpu), compiler)?;
    Ok((Box::new(measure), nvrtc.release().to_owned()))
}

/// Tuning that is to be done.
struct Work {
    gpu: Gpu,
    compiler: String,
    measure: Box<dyn Measure + Send>,
    tuning: Tuning,
    kept: Kept,
}

impl Work {
    /// Tunes an engine, and keeps it for the next time.
    fn run(&mut self, engine: &mut Engine) -> kiln_tune::Result<()> {
        tune(engine, &self.gpu, &self.compiler, self.measure.as_mut(), &self.tuning, &mut |_| {})?;
        if let Err(e) = self.kept.store(engine) {
            tracing::warn!("the tuned engine is not kept for the next time: {e}");
        }
        Ok(())
    }
}

/// Tunes on a thread of its own, which ends with this.
struct Tuner {
    engines: Mutex<Receiver<Engine>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The deepest recursion of the tile compiler's passes is on large expressions; a thread's 2 MiB are tight.
const STACK_BYTES: usize = 32 << 20;

impl Tuner {
    fn start(mut engine: Engine, mut work: Work) -> Result<Tuner> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, engines) = sync_channel(1);
        work.measure = Box::new(Stoppable { measure: work.measure, stop: stop.clone() });
        let tunes = move || match work.run(&mut engine) {
            // Nobody may be there any more.
            Ok(()) => drop(sender.send(engine)),
            Err(e) => tracing::warn!("the model stays as it is: {e}"),
        };
        let thread = Builder::new().name("kiln-jit".into()).stack_size(STACK_BYTES).spawn(tunes);
        let thread = Some(thread.map_err(kiln_tune::Error::Thread)?);
        Ok(Tuner { engines: Mutex::new(engines), stop, thread })
    }

    fn newest(&self) -> Option<Engine> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }
}

impl Drop for Tuner {
    /// Waits for what is being measured and compiled: a program must not end under it.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Measures until it is told to stop; then its time is over.
struct Stoppable {
    measure: Box<dyn Measure + Send>,
    stop: Arc<AtomicBool>,
}

impl Measure for Stoppable {
    fn elapsed(&self) -> Duration {
        match self.stop.load(Ordering::Relaxed) {
            true => Duration::MAX,
            false => self.measure.elapsed(),
        }
    }

    fn ahead(&mut self, task: &Arc<Task>, candidates: &[usize]) {
        self.measure.ahead(task, candidates);
    }

    fn measure(&mut self, task: &Arc<Task>, jobs: &[Job], until: Duration) -> kiln_tune::Result<Vec<Report>> {
        self.measure.measure(task, jobs, until)
    }

    fn code(&mut self, task: &Arc<Task>, candidate: usize) -> std::result::Result<Arc<Made>, String> {
        self.measure.code(task, candidate)
    }

    fn done(&mut self, task: &Arc<Task>) {
        self.measure.done(task);
    }
}
