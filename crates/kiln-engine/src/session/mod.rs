//! Running an engine: named tensors in, named tensors out, or memory that stays on the device.

mod common;
mod io;
mod queue;
mod shapes;
mod steps;
mod stream;
mod swap;
mod user;

use crate::choose::{Code, for_device};
use crate::device::{Device, MemId, Place, UserMemory};
use crate::engine::Engine;
use crate::memory::ALIGNMENT;
use crate::schedule::{Action, Blocks, schedule};
use crate::{Error, Result};
use common::{Common, Loaded};
use io::{Block, Donation, Io, Ran};
use kiln_fuse::{BufferId, BufferKind, Plan, Step};
use kiln_graph::{Bindings, Tensor, TensorType};
use shapes::Shapes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use steps::run_schedule;
pub use swap::Updates;

/// An engine loaded on a device.
///
/// [`Session::run`] takes tensors and gives tensors. Where that costs too much, inputs are bound once ([`Session::bind`]), the model is run any
/// number of times ([`Session::run_bound`]), outputs are read into slices ([`Session::read`]), and those that are the next run's inputs never
/// leave the device ([`Session::donate`]). On the CPU such a run allocates nothing once its shapes have been seen.
///
/// One thread at a time may use a session. For several there are several ([`Session::fork`]), with one copy of the code and the weights.
pub struct Session {
    device: Box<dyn Device>,
    common: Arc<Common>,
    /// The code and weights that it runs.
    loaded: Arc<Loaded>,
    swaps: usize,
    arena: Option<Block>,
    /// Memory that is zero between launches.
    zeroed: Option<Block>,
    /// Where weights that do not stay are copied to.
    streamed: Option<Block>,
    /// The inputs, then the outputs that are donated or bound.
    io: Vec<Io>,
    donations: Vec<Donation>,
    /// Roots of the outputs that are donated or bound.
    outside: Vec<BufferId>,
    /// The user's memory that the device knows, in the order of its use.
    lent: Vec<(UserMemory, MemId)>,
    shapes: Shapes,
    /// Whether the current shapes are those of what is bound.
    fresh: bool,
    /// Whether `outputs` are those of a run.
    ran: bool,
    outputs: Vec<Ran>,
    /// Runs that have begun, and how many of the first are known to have ended well.
    runs: u64,
    settled: u64,
    /// The blocks of `io` in a run.
    blocks: Vec<MemId>,
    /// Bytes on their way to a slice.
    staging: Vec<u8>,
}

/// How an engine is loaded.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Bytes that weights may take on the device; `None`: all that they need. Of weights that do not fit, those that launches of one step alone read stay in (pinned) host memory, and are
    /// copied to one of two buffers, which count too, ahead of the step and beside what runs. Results are the same to the bit. Each session that shares the weights has two such buffers of its own.
    /// Runs are no longer recorded as one (no CUDA graph). Where a device shares the host's memory, as the CPU does, weights are mapped, and this changes nothing.
    pub weight_budget: Option<u64>,
}

/// Wall time of the parts of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunTimes {
    /// Binding shapes and copying inputs to the device.
    pub upload: Duration,
    /// Issuing the launches.
    pub enqueue: Duration,
    /// From the first launch until the last has finished.
    pub compute: Duration,
    /// Copying outputs to the host.
    pub download: Duration,
}

/// Memory of a session under its last shapes, bytes.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Memory {
    /// Weights that stay on the device, of which there is one copy for all of `sessions`. The rest is this session's own.
    pub weights: usize,
    /// Where weights that do not stay are copied to ahead of their step.
    pub streamed: usize,
    /// The sessions that share code and weights, this one among them.
    pub sessions: usize,
    /// Inputs, and outputs that are donated or bound.
    pub bound: usize,
    /// The activation arena.
    pub arena: usize,
    /// The most that is alive in the arena at one step: no arena can be smaller.
    pub lower_bound: usize,
    /// What kernels find zero and leave zero.
    pub zeroed: usize,
    /// Of `bound` and `arena` what is the user's memory.
    pub user: usize,
}

/// What an observer of a run sees after each step.
pub struct Observation<'a> {
    /// Index of the step.
    pub index: usize,
    /// The step.
    pub step: &'a Step,
    /// Its wall time, with the device idle before and after.
    pub time: Duration,
    /// Its results: buffer and contents.
    pub results: Vec<(BufferId, Tensor)>,
}

type Observer<'a> = &'a mut dyn FnMut(Observation<'_>);

impl Session {
    /// Loads an engine's code and weights. A GPU without an image of its own gets the newest PTX that it can run: see [`Session::code`].
    /// Weights are mapped, not copied, where the device shares memory.
    ///
    /// # Errors
    /// An engine without its weights, no code for the device, and what the device says.
    pub fn new(engine: &Engine, device: Box<dyn Device>) -> Result<Session> {
        Session::with_options(engine, device, &SessionOptions::default())
    }

    /// [`Session::new`] with other than the usual options.
    ///
    /// # Errors
    /// As for `new`, and a budget that is too small.
    pub fn with_options(engine: &Engine, mut device: Box<dyn Device>, options: &SessionOptions) -> Result<Session> {
        let _span = tracing::info_span!("session", model = engine.model, device = device.name()).entered();
        engine.expect_weights()?;
        let (image, code) = for_device(engine, device.as_ref())?;
        // More than can be addressed is all there is.
        let budget = options.weight_budget.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let loaded = Arc::new(Loaded::new(engine, image, code, (budget, None), device.as_mut())?);
        let common = Common::new(engine, image.plan.clone(), budget, loaded.clone());
        Ok(Session::over(device, Arc::new(common), loaded))
    }

    /// Another session of the same engine on the same device, with the same code and weights in memory. What is written is each session's own: activations,
    /// inputs and outputs, on a GPU the stream too. So each may run on a thread of its own, at the same time as the others. Nothing is bound or donated in the new one.
    ///
    /// Called after what systems do with processes: what is only read is common, what is written is not. On the CPU the sessions share its threads too, so that
    /// no number of them keeps more threads busy than one does. They may be dropped in any order.
    ///
    /// Kernels that one of them takes ([`Session::swap`], [`Session::follow`]) the others take before their next run.
    ///
    /// # Errors
    /// What the device reports.
    pub fn fork(&self) -> Result<Session> {
        let newest = self.common.news().newest.clone();
        Ok(Session::over(self.device.fork()?, self.common.clone(), newest))
    }

    fn over(device: Box<dyn Device>, common: Arc<Common>, loaded: Arc<Loaded>) -> Session {
        let io = common.plan.inputs.iter().map(|_| Io::default()).collect();
        Session {
            device,
            common,
            loaded,
            swaps: 0,
            arena: None,
            zeroed: None,
            streamed: None,
            io,
            donations: Vec::new(),
            outside: Vec::new(),
            lent: Vec::new(),
            shapes: Shapes::default(),
            fresh: false,
            ran: false,
            outputs: Vec::new(),
            runs: 0,
            settled: 0,
            blocks: Vec::new(),
            staging: Vec::new(),
        }
    }

    /// What runs.
    pub fn plan(&self) -> &Plan {
        &self.common.plan
    }

    /// Values of the shape symbols that these inputs give; an error names the input that does not fit.
    pub fn symbols(&self, inputs: &[(&str, &Tensor)]) -> Result<Bindings> {
        let shapes: Vec<Vec<usize>> = self.order(inputs)?.iter().map(|t| t.shape().to_vec()).collect();
        Ok(kiln_graph::bind_symbols(&self.common.signature, &shapes)?)
    }

    /// The device's name.
    pub fn device_name(&self) -> String {
        self.device.name()
    }

    /// What of the engine it runs.
    pub fn code(&self) -> &Code {
        &self.loaded.code
    }

    /// Inputs: name and type.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.plan().inputs.iter().map(|id| {
            let b = &self.plan().buffers[id.index()];
            let name = match &b.kind {
                BufferKind::Input(name) => name.as_str(),
                _ => b.name.as_str(),
            };
            (name, &b.ty)
        })
    }

    /// Outputs: name and type.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.plan().outputs.iter().map(|(name, id)| (name.as_str(), &self.plan().buffers[id.index()].ty))
    }

    /// The memory of outputs outside the arena, but for what is that of an input which they update.
    fn output_blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let (inputs, outputs) = self.io.split_at(self.plan().inputs.len());
        let donated = |io: usize| self.donations.iter().any(|donation| donation.io == io && donation.in_place);
        let own = move |block: &Block| !inputs.iter().filter_map(|io| io.block).any(|input| input.mem == block.mem);
        let outputs = (inputs.len()..).zip(outputs).filter(move |(io, _)| !donated(*io));
        outputs.filter_map(|(_, io)| io.block).filter(own)
    }

    /// The memory of inputs and outputs, each once.
    fn bound_blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let inputs = self.io[..self.plan().inputs.len()].iter().filter_map(|io| io.block);
        inputs.chain(self.output_blocks())
    }

    /// Memory under the last shapes that ran.
    pub fn memory(&self) -> Memory {
        let used = self.shapes.iter().map(|shape| &shape.schedule).max_by_key(|s| s.arena_bytes);
        Memory {
            weights: self.loaded.weight_bytes(),
            streamed: self.streamed.map_or(0, |block| block.bytes),
            sessions: Arc::strong_count(&self.common),
            bound: self.bound_blocks().map(|block| block.bytes).sum(),
            arena: self.arena.map_or(0, |block| block.bytes),
            lower_bound: used.map_or(0, |s| s.lower_bound),
            zeroed: self.zeroed.map_or(0, |block| block.bytes),
            user: self.bound_blocks().chain(self.arena).filter_map(|block| block.user).map(|user| user.bytes()).sum(),
        }
    }

    /// How each step of the last run that launches a region does so: the region's name and the implementation.
    pub fn implementations(&mut self) -> Vec<(String, String)> {
        let Some(shape) = self.shapes.current() else { return Vec::new() };
        let steps = shape.schedule.actions.iter().zip(&self.common.plan.steps);
        let launches = steps.filter_map(|(action, step)| match (action, step) {
            (Action::Launch { prepared, .. }, Step::Run { region, .. }) => {
                Some((self.common.plan.regions[*region].name.clone(), self.device.implementation(*prepared)))
            }
            _ => None,
        });
        launches.collect()
    }

    /// Runs the model. Inputs by name, in any order; outputs in the model's order.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
        Ok(self.execute(inputs, None)?.0)
    }

    /// [`Session::run`] with the wall time of its parts.
    pub fn run_timed(&mut self, inputs: &[(&str, &Tensor)]) -> Result<(Vec<(String, Tensor)>, RunTimes)> {
        self.execute(inputs, None)
    }

    /// [`Session::run`], showing every step's results and time. Slower: the device waits after each step.
    pub fn run_observed(
        &mut self,
        inputs: &[(&str, &Tensor)],
        observer: Observer<'_>,
    ) -> Result<Vec<(String, Tensor)>> {
        Ok(self.execute(inputs, Some(observer))?.0)
    }

    /// Fills all memory that a run writes with a byte, so that a kernel that fails to write its output is noticed.
    pub fn poison(&mut self, byte: u8) -> Result<()> {
        // What updates an input in place is written in part.
        let outputs = self.output_blocks();
        let written: Vec<Block> = self.arena.into_iter().chain(outputs).chain(self.streamed).collect();
        for Block { mem, bytes, .. } in written {
            self.device.fill(Place { mem, offset: 0, bytes }, byte)?;
        }
        // What is copied to it waits for launches alone.
        self.streamed.map_or(Ok(()), |_| self.device.synchronize())
    }

    fn execute(
        &mut self,
        inputs: &[(&str, &Tensor)],
        observer: Option<Observer<'_>>,
    ) -> Result<(Vec<(String, Tensor)>, RunTimes)> {
        let _span = tracing::debug_span!("run").entered();
        if self.settled < self.runs {
            // What went wrong before is not this run's.
            self.synchronize()?;
        }
        let start = Instant::now();
        self.order(inputs)?;
        for (name, tensor) in inputs {
            self.bind_tensor(name, tensor)?;
        }
        self.prepare()?;
        self.device.synchronize()?;
        let upload = start.elapsed();
        let launched = Instant::now();
        self.enqueue(observer)?;
        // What goes wrong is this call's to say.
        self.settled = self.runs;
        let enqueue = launched.elapsed();
        self.device.synchronize()?;
        self.ran = true;
        let compute = launched.elapsed();
        let done = Instant::now();
        let names = self.plan().outputs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let outputs = names.into_iter().enumerate().map(|(i, name)| Ok((name, self.tensor(i)?))).collect::<Result<_>>();
        self.ran = outputs.is_ok();
        let outputs = outputs?;
        self.hand_over();
        Ok((outputs, RunTimes { upload, enqueue, compute, download: done.elapsed() }))
    }

    /// Runs what was prepared, or queues it.
    fn enqueue(&mut self, observer: Option<Observer<'_>>) -> Result<()> {
        self.runs += 1;
        let done = self.issue(observer);
        if let (Err(_), Some(Block { mem, bytes, .. })) = (&done, self.zeroed) {
            // A kernel that stopped half-way has left something in it. The run's own error says more than one of this.
            let _ = self.device.fill(Place { mem, offset: 0, bytes }, 0);
        }
        done
    }

    fn issue(&mut self, observer: Option<Observer<'_>>) -> Result<()> {
        let Session { device, common, loaded, streamed, shapes, .. } = self;
        let plan = &common.plan;
        let streamed = streamed.map(|block| (&loaded.streams, block.mem));
        let instance = shapes.current().and_then(|shape| shape.instance());
        let instance = instance.ok_or_else(|| internal("a schedule is missing"))?;
        if observer.is_some() || streamed.is_some() {
            return run_schedule(device.as_mut(), plan, &instance.schedule, streamed, observer);
        }
        let recording = match instance.recording {
            Some(recording) => recording,
            None => *instance.recording.insert(device.record(&instance.schedule.actions)?),
        };
        match recording {
            Some(id) => device.replay(id),
            None => run_schedule(device.as_mut(), plan, &instance.schedule, None, None),
        }
    }

    fn order<'t>(&self, inputs: &[(&str, &'t Tensor)]) -> Result<Vec<&'t Tensor>> {
        let known: Vec<(&str, &TensorType)> = self.inputs().collect();
        for (name, _) in inputs {
            if !known.iter().any(|(k, _)| k == name) {
                return Err(self.unknown_input(name));
            }
        }
        known
            .iter()
            .map(|(name, ty)| {
                let Some((_, tensor)) = inputs.iter().find(|(n, _)| n == name) else {
                    return Err(input_error(name, format!("missing; expected {ty}")));
                };
                if tensor.dtype() != ty.dtype || tensor.shape().len() != ty.rank() {
                    return Err(input_error(
                        name,
                        format!("expected {ty}, found {}{:?}", tensor.dtype(), tensor.shape()),
                    ));
                }
                Ok(*tensor)
            })
            .collect()
    }

    /// Finds or makes the schedule of what is bound, its memory, and the places of its outputs.
    fn prepare(&mut self) -> Result<()> {
        self.ran = false;
        self.update()?;
        if !self.fresh {
            self.choose()?;
            self.fresh = true;
        }
        let bytes = self.shapes.current().map(|shape| (shape.schedule.arena_bytes, shape.schedule.zeroed_bytes));
        let Some((arena_bytes, zeroed_bytes)) = bytes else { return Err(internal("a schedule is missing")) };
        for i in 0..self.outside.len() {
            let bytes = self.bytes(self.outside[i]);
            self.output_memory(i, bytes)?;
        }
        let arena = self.grow(arena_bytes)?;
        let zeroed = self.grow_zeroed(zeroed_bytes)?;
        let streamed = self.grow_streamed()?;
        let Session { device, common, io, outside, shapes, blocks, outputs, .. } = self;
        let plan = &common.plan;
        blocks.clear();
        blocks.extend(io.iter().filter_map(|io| io.block).map(|block| block.mem));
        let Some(shape) = shapes.current() else { return Err(internal("a schedule is missing")) };
        shape.place(
            Blocks { arena, zeroed, streamed },
            blocks,
            plan.inputs.iter().chain(outside.iter()),
            device.as_mut(),
        )?;
        let Some(instance) = shape.instance() else { return Err(internal("a schedule is missing")) };
        let schedule = &instance.schedule;
        let empty = Ran { place: Place { mem: arena, offset: 0, bytes: 0 }, shape: Vec::new() };
        outputs.resize(plan.outputs.len(), empty);
        for (ran, (_, id)) in outputs.iter_mut().zip(&plan.outputs) {
            ran.place = schedule.places[id.index()];
            ran.shape.clone_from(&schedule.shapes[id.index()]);
        }
        Ok(())
    }

    /// Makes the schedule of the shapes that are bound the current one.
    fn choose(&mut self) -> Result<()> {
        if let Some((name, ty)) = self.inputs().zip(&self.io).find_map(|(input, io)| (!io.bound).then_some(input)) {
            return Err(input_error(name, format!("missing; expected {ty}")));
        }
        let shapes: Vec<Vec<usize>> = self.io[..self.plan().inputs.len()].iter().map(|io| io.shape.clone()).collect();
        self.lay_out(&shapes)
    }

    /// Makes the schedule of such inputs the current one.
    fn lay_out(&mut self, shapes: &[Vec<usize>]) -> Result<()> {
        let bindings = kiln_graph::bind_symbols(&self.common.signature, shapes)?;
        let key: Vec<i64> = bindings.values().copied().collect();
        if !self.shapes.recall(&key) {
            let _span = tracing::info_span!("prepare", symbols = ?bindings).entered();
            let device = self.device.as_mut();
            let Loaded { plan: loaded, weights, .. } = self.loaded.as_ref();
            let made = schedule(&self.common.plan, loaded, &bindings, weights, device, &self.outside)?;
            self.shapes.insert(key, made, device);
        }
        Ok(())
    }

    /// Makes sure that the arena has the bytes.
    fn grow(&mut self, bytes: usize) -> Result<MemId> {
        match self.arena {
            Some(block) if block.bytes >= bytes => Ok(block.mem),
            Some(Block { user: Some(user), .. }) => {
                let message = user.check(bytes, ALIGNMENT).err().unwrap_or_default();
                Err(Error::Arena { message })
            }
            old => {
                self.arena = None;
                let mem = self.replace(old, bytes)?;
                self.arena = Some(Block { mem, bytes, user: None });
                Ok(mem)
            }
        }
    }

    /// Makes sure that the memory that is zero has the bytes; none where no kernel wants any.
    fn grow_zeroed(&mut self, bytes: usize) -> Result<Option<MemId>> {
        match self.zeroed {
            Some(block) if block.bytes >= bytes => Ok(Some(block.mem)),
            None if bytes == 0 => Ok(None),
            old => {
                self.zeroed = None;
                let mem = self.replace(old, bytes)?;
                self.device.fill(Place { mem, offset: 0, bytes }, 0)?;
                self.zeroed = Some(Block { mem, bytes, user: None });
                Ok(Some(mem))
            }
        }
    }

    /// Makes sure that there is memory for the weights that do not stay, and none where all do.
    fn grow_streamed(&mut self) -> Result<Option<MemId>> {
        let bytes = self.loaded.streams.bytes;
        match self.streamed {
            Some(block) if block.bytes == bytes => Ok(Some(block.mem)),
            None if bytes == 0 => Ok(None),
            old => {
                self.streamed = None;
                self.discard(old)?;
                if bytes > 0 {
                    let mem = self.device.alloc(bytes)?;
                    self.streamed = Some(Block { mem, bytes, user: None });
                }
                Ok(self.streamed.map(|block| block.mem))
            }
        }
    }

    /// A block in the place of a smaller one.
    fn replace(&mut self, old: Option<Block>, bytes: usize) -> Result<MemId> {
        self.discard(old)?;
        self.device.alloc(bytes)
    }

    /// Frees a block of the session's own.
    fn discard(&mut self, block: Option<Block>) -> Result<()> {
        let Some(Block { mem, user: None, .. }) = block else { return Ok(()) };
        self.shapes.unplace(self.device.as_mut());
        self.device.free(mem)
    }

    /// Bytes of a buffer under the current shapes.
    fn bytes(&mut self, id: BufferId) -> usize {
        self.shapes.current().map_or(0, |shape| shape.schedule.places[id.index()].bytes)
    }
}

fn internal(message: &str) -> Error {
    Error::Internal { place: "the session".into(), message: message.into() }
}

fn input_error(name: &str, message: String) -> Error {
    Error::Input { name: name.into(), message }
}
