//! Running an engine: named tensors in, named tensors out.

use crate::device::{Device, KernelImage, MemId, Module, Place, RecordingId};
use crate::engine::{Engine, TargetImage};
use crate::schedule::{Action, LoadedPlan, Schedule, WeightPlaces, nested, schedule, signature};
use crate::{Error, Result};
use bytes::Bytes;
use kiln_fuse::{BufferId, BufferKind, Plan, Step};
use kiln_graph::{Bindings, Dim, Graph, Tensor, TensorType};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// An engine loaded on a device.
pub struct Session {
    device: Box<dyn Device>,
    plan: Plan,
    loaded: LoadedPlan,
    signature: Graph,
    weights: WeightPlaces,
    weight_bytes: usize,
    arena: Option<(MemId, usize)>,
    schedules: HashMap<Vec<(String, i64)>, Prepared>,
}

struct Prepared {
    schedule: Schedule,
    /// Cut when it first runs.
    parts: Option<Vec<Part>>,
}

/// Steps in a row, and their recording where the device can run them without the session.
struct Part {
    steps: Range<usize>,
    recording: Option<RecordingId>,
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
    /// Weights.
    pub weights: usize,
    /// The activation arena.
    pub arena: usize,
    /// The most that is alive at one step: no arena can be smaller.
    pub lower_bound: usize,
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
    /// Loads an engine's code for the device's target, and its weights. Weights are mapped, not copied, where the device shares memory.
    pub fn new(engine: &Engine, mut device: Box<dyn Device>) -> Result<Session> {
        let _span = tracing::info_span!("session", model = engine.model, device = device.name()).entered();
        let image = engine.target(&device.target())?;
        let plan = image.plan.clone();
        let loaded = load(&plan, image, &mut 0, device.as_mut())?;
        let mut weights = WeightPlaces::new();
        let mut weight_bytes = 0;
        for name in crate::validate::weight_names(&plan) {
            // A missing one is reported by the schedule, with its name.
            let Some(tensor) = engine.weights.get(name) else { continue };
            let mem = device.map(tensor.data().clone())?;
            weight_bytes += tensor.data().len();
            weights.insert(name.to_owned(), Place { mem, offset: 0, bytes: tensor.data().len() });
        }
        let signature = signature(&plan);
        Ok(Session { device, plan, loaded, signature, weights, weight_bytes, arena: None, schedules: HashMap::new() })
    }

    /// What runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Values of the shape symbols that these inputs give; an error names the input that does not fit.
    pub fn bind(&self, inputs: &[(&str, &Tensor)]) -> Result<Bindings> {
        let shapes: Vec<Vec<usize>> = self.order(inputs)?.iter().map(|t| t.shape().to_vec()).collect();
        Ok(kiln_graph::bind_symbols(&self.signature, &shapes)?)
    }

    /// The device's name.
    pub fn device_name(&self) -> String {
        self.device.name()
    }

    /// Inputs: name and type.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.plan.inputs.iter().map(|id| {
            let b = &self.plan.buffers[id.index()];
            let name = match &b.kind {
                BufferKind::Input(name) => name.as_str(),
                _ => b.name.as_str(),
            };
            (name, &b.ty)
        })
    }

    /// Outputs: name and type.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.plan.outputs.iter().map(|(name, id)| (name.as_str(), &self.plan.buffers[id.index()].ty))
    }

    /// Memory under the last shapes that ran.
    pub fn memory(&self) -> Memory {
        let used = self.schedules.values().map(|p| &p.schedule).max_by_key(|s| s.arena_bytes);
        Memory {
            weights: self.weight_bytes,
            arena: self.arena.map_or(0, |a| a.1),
            lower_bound: used.map_or(0, |s| s.lower_bound),
        }
    }

    /// How each step that launches a region runs under the shapes of these inputs: the region's name and the implementation.
    pub fn implementations(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, String)>> {
        let bindings = self.bind(inputs)?;
        let key: Vec<(String, i64)> = bindings.into_iter().collect();
        let Some(prepared) = self.schedules.get(&key) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (action, step) in prepared.schedule.actions.iter().zip(&self.plan.steps) {
            if let (Action::Launch { prepared, .. }, Step::Run { region, .. }) = (action, step) {
                found.push((self.plan.regions[*region].name.clone(), self.device.implementation(*prepared)));
            }
        }
        Ok(found)
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

    /// Fills the arena with a byte, so that a kernel that fails to write its output is noticed.
    pub fn poison(&mut self, byte: u8) -> Result<()> {
        match self.arena {
            Some((mem, bytes)) => self.device.fill(Place { mem, offset: 0, bytes }, byte),
            None => Ok(()),
        }
    }

    fn execute(
        &mut self,
        inputs: &[(&str, &Tensor)],
        observer: Option<Observer<'_>>,
    ) -> Result<(Vec<(String, Tensor)>, RunTimes)> {
        let _span = tracing::debug_span!("run").entered();
        let start = Instant::now();
        let ordered = self.order(inputs)?;
        let bindings = self.bind(inputs)?;
        let key: Vec<(String, i64)> = bindings.iter().map(|(k, v)| (k.clone(), *v)).collect();
        self.prepare(&key, &bindings)?;
        let Session { device, plan, schedules, .. } = self;
        let Some(Prepared { schedule, parts }) = schedules.get_mut(&key) else {
            return Err(internal("a schedule is missing"));
        };
        for (tensor, id) in ordered.iter().zip(&plan.inputs) {
            device.upload(schedule.places[id.index()], tensor.data())?;
        }
        device.synchronize()?;
        let upload = start.elapsed();
        let launched = Instant::now();
        if observer.is_some() {
            run_schedule(device.as_mut(), plan, schedule, observer)?;
        } else {
            let parts = match parts {
                Some(parts) => parts,
                None => parts.insert(record(device.as_mut(), schedule)?),
            };
            for part in parts {
                match part.recording {
                    Some(id) => device.replay(id)?,
                    None => run_steps(device.as_mut(), plan, schedule, part.steps.clone(), None)?,
                }
            }
        }
        let enqueue = launched.elapsed();
        device.synchronize()?;
        let compute = launched.elapsed();
        let done = Instant::now();
        let outputs = plan
            .outputs
            .iter()
            .map(|(name, id)| Ok((name.clone(), fetch(device.as_mut(), plan, schedule, *id)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok((outputs, RunTimes { upload, enqueue, compute, download: done.elapsed() }))
    }

    fn order<'t>(&self, inputs: &[(&str, &'t Tensor)]) -> Result<Vec<&'t Tensor>> {
        let known: Vec<(&str, &TensorType)> = self.inputs().collect();
        for (name, _) in inputs {
            if !known.iter().any(|(k, _)| k == name) {
                let names: Vec<&str> = known.iter().map(|k| k.0).collect();
                let hint = match self.weights.contains_key(*name) {
                    true => "; it is a weight of this engine: build the model with `--profile` for it to be an input",
                    false => "",
                };
                let message = format!("the model has no such input; it has {}{hint}", names.join(", "));
                return Err(input_error(name, message));
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

    fn prepare(&mut self, key: &[(String, i64)], bindings: &Bindings) -> Result<()> {
        if self.schedules.contains_key(key) {
            return Ok(());
        }
        let _span = tracing::info_span!("prepare", symbols = ?bindings).entered();
        let mut made = schedule(&self.plan, &self.loaded, bindings, &self.weights, self.device.as_mut())?;
        let arena = match self.arena {
            Some((mem, bytes)) if bytes >= made.arena_bytes => mem,
            old => {
                // Schedules and recordings point into the old arena: they go with it.
                self.schedules.clear();
                self.arena = None;
                if let Some((mem, _)) = old {
                    self.device.free(mem)?;
                }
                let mem = self.device.alloc(made.arena_bytes)?;
                self.arena = Some((mem, made.arena_bytes));
                mem
            }
        };
        made.rebase(arena);
        self.schedules.insert(key.to_vec(), Prepared { schedule: made, parts: None });
        Ok(())
    }
}

fn load(plan: &Plan, image: &TargetImage, next: &mut usize, device: &mut dyn Device) -> Result<LoadedPlan> {
    let mut loaded = LoadedPlan::default();
    for region in &plan.regions {
        let module = match image.kernels.get(*next) {
            Some(compiled) => Module {
                region,
                kernels: compiled
                    .implementation
                    .kernels
                    .iter()
                    .zip(&compiled.images)
                    .map(|(kernel, i)| KernelImage { kernel, cubin: i.cubin.clone(), ptx: i.ptx.clone() })
                    .collect(),
                scratch_bytes: compiled.implementation.scratch_bytes.clone(),
            },
            None => Module { region, kernels: Vec::new(), scratch_bytes: Dim::from(0) },
        };
        *next += 1;
        loaded.kernels.push(device.load(&module)?);
    }
    for inner in plan.steps.iter().flat_map(nested) {
        loaded.nested.push(load(inner, image, next, device)?);
    }
    Ok(loaded)
}

fn internal(message: &str) -> Error {
    Error::Internal { place: "the session".into(), message: message.into() }
}

fn input_error(name: &str, message: String) -> Error {
    Error::Input { name: name.into(), message }
}

fn fetch(device: &mut dyn Device, plan: &Plan, schedule: &Schedule, id: BufferId) -> Result<Tensor> {
    let place = schedule.places[id.index()];
    let mut data = kiln_host::reserve(place.bytes)
        .map_err(|_| Error::OutOfMemory { device: "the host".into(), bytes: place.bytes })?;
    data.resize(place.bytes, 0);
    device.download(place, &mut data)?;
    Ok(Tensor::new(plan.buffers[id.index()].ty.dtype, schedule.shapes[id.index()].clone(), Bytes::from(data))?)
}

/// Records a schedule, in parts between the steps that the host runs.
fn record(device: &mut dyn Device, schedule: &Schedule) -> Result<Vec<Part>> {
    let (mut parts, mut at) = (Vec::new(), 0);
    for actions in schedule.actions.chunk_by(|a, b| a.has_host() == b.has_host()) {
        let steps = at..at + actions.len();
        at = steps.end;
        let recording = if actions[0].has_host() { None } else { device.record(actions)? };
        parts.push(Part { steps, recording });
    }
    Ok(parts)
}

fn scalar(device: &mut dyn Device, place: Place) -> Result<i64> {
    let mut data = vec![0; place.bytes];
    device.download(place, &mut data)?;
    match <[u8; 8]>::try_from(data.as_slice()) {
        Ok(bytes) => Ok(i64::from_le_bytes(bytes)),
        Err(_) => Ok(i64::from(data.first().is_some_and(|&b| b != 0))),
    }
}

fn run_schedule(
    device: &mut dyn Device,
    plan: &Plan,
    schedule: &Schedule,
    observer: Option<Observer<'_>>,
) -> Result<()> {
    schedule.check()?;
    run_steps(device, plan, schedule, 0..plan.steps.len(), observer)
}

fn run_steps(
    device: &mut dyn Device,
    plan: &Plan,
    schedule: &Schedule,
    range: Range<usize>,
    mut observer: Option<Observer<'_>>,
) -> Result<()> {
    let steps = schedule.actions[range.clone()].iter().zip(&plan.steps[range.clone()]);
    for (index, (action, step)) in range.zip(steps) {
        let start = Instant::now();
        match (action, step) {
            (Action::Launch { .. }, _) => {
                if let Some((prepared, arguments)) = action.launch() {
                    device.launch(prepared, arguments)?;
                }
            }
            (Action::Host { inputs, outputs, .. }, Step::Host { graph, .. }) => {
                let tensors =
                    inputs.iter().map(|(id, _)| fetch(device, plan, schedule, *id)).collect::<Result<Vec<_>>>()?;
                for (result, (_, place)) in kiln_graph::interpret(graph, &tensors)?.iter().zip(outputs) {
                    device.upload(*place, result.data())?;
                }
            }
            (Action::If { cond, branches, results, outputs }, Step::If { then_plan, else_plan, .. }) => {
                let taken = usize::from(scalar(device, *cond)? == 0);
                run_schedule(device, [then_plan, else_plan][taken], &branches[taken], None)?;
                for (from, to) in results[taken].iter().zip(outputs) {
                    device.copy(*to, *from)?;
                }
            }
            (Action::Loop { .. }, Step::Loop { body, .. }) => run_loop(device, body, action)?,
            _ => return Err(internal("the schedule does not match its plan")),
        }
        if let Some(observer) = &mut observer {
            device.synchronize()?;
            let time = start.elapsed();
            let results = crate::schedule::results(step)
                .map(|id| Ok((id, fetch(device, plan, schedule, id)?)))
                .collect::<Result<Vec<_>>>()?;
            observer(Observation { index, step, time, results });
        }
    }
    Ok(())
}

fn run_loop(device: &mut dyn Device, plan: &Plan, action: &Action) -> Result<()> {
    let Action::Loop { trip, body, index, start, state, next, scans, outputs } = action else {
        return Err(internal("not a loop"));
    };
    let all = |device: &mut dyn Device, from: &[Place], to: &[Place]| {
        from.iter().zip(to).try_for_each(|(from, to)| device.copy(*to, *from))
    };
    all(device, start, state)?;
    let trips = scalar(device, *trip)?;
    let mut i = 0;
    while i < trips && scalar(device, state[0])? != 0 {
        body.check()?;
        device.upload(*index, &i.to_le_bytes())?;
        run_schedule(device, plan, body, None)?;
        for (scan, to) in scans {
            let offset = to.offset + i as usize * scan.bytes;
            device.copy(Place { offset, bytes: scan.bytes, ..*to }, *scan)?;
        }
        all(device, next, state)?;
        i += 1;
    }
    if !scans.is_empty() && i != trips {
        return Err(Error::Unsupported {
            device: device.name(),
            what: format!("a loop with scan outputs that stops after {i} of {trips} iterations"),
        });
    }
    all(device, &state[1..], outputs)
}
