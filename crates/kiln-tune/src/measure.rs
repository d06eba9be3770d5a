//! Candidates on a device: compiled, compared with the reference, and only then timed.

use crate::compile::{Compiling, Made, Outcome};
use crate::operands::{agrees, result_bytes, results, with_results};
use crate::rotating::{Rotating, Timed};
use crate::search::median;
use crate::task::TaskKey;
use crate::{Error, Job, Measured, Result, Task};
use kiln_cuda::Compiler;
use kiln_engine::Error::{Findings, Launch, OutOfRange};
use kiln_engine::{Action, Arguments, Device, KernelImage, Module, Place, open_device};
use kiln_graph::Tensor;
use kiln_target::{Gpu, Target};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What became of a job.
pub struct Report {
    /// Place of the candidate.
    pub candidate: usize,
    /// Its times, or why there are none.
    pub measured: Measured,
    /// [`Made::code`]; empty where there is none.
    pub code: String,
    /// Whether it would be so another time: memory that does not suffice says nothing of the candidate.
    pub lasting: bool,
}

/// What measures candidates: a device, or what takes its place in tests.
pub trait Measure {
    /// Time since tuning began, by the clock that budgets go by.
    fn elapsed(&self) -> Duration;

    /// Candidates that will be wanted later.
    fn ahead(&mut self, _task: &Arc<Task>, _candidates: &[usize]) {}

    /// Compiles, checks and times candidates, in turns; what is not ready at the time `until` is left out.
    ///
    /// # Errors
    /// What concerns no single candidate: the region has no data, the device is lost.
    fn measure(&mut self, task: &Arc<Task>, jobs: &[Job], until: Duration) -> Result<Vec<Report>>;

    /// A candidate's code, compiled if it must be.
    fn code(&mut self, task: &Arc<Task>, candidate: usize) -> Outcome;

    /// Nothing more is asked of a task.
    fn done(&mut self, _task: &Arc<Task>) {}
}

/// A round of samples that are this much slower than those before, all in all, does not count: the GPU became hot, or somebody else uses it.
const DROPPED: f64 = 1.05;
/// Then it is left alone for so long, and so often at most.
const PAUSE: Duration = Duration::from_millis(100);
const MOST_PAUSES: usize = 3;

/// Whether samples, each beside what is known of the same candidate, show that clocks dropped.
fn clocks_dropped(samples: impl Iterator<Item = (f64, f64)>) -> bool {
    let slower: Vec<f64> = samples.map(|(seconds, known)| seconds / known).collect();
    median(&slower).is_some_and(|slower| slower > DROPPED)
}

/// A candidate that is timed with others.
struct InTurns {
    candidate: usize,
    code: String,
    ready: Timed,
    times: Vec<f64>,
}

/// Measures on a device that Kiln can open.
pub struct OnDevice {
    name: String,
    max_memory: usize,
    start: Instant,
    compiling: Compiling,
    /// Keeps the GPU's context alive between regions.
    _opened: Box<dyn Device>,
    bench: Option<Bench>,
    /// Data of regions that had the device before.
    drawn: BTreeMap<TaskKey, Drawn>,
}

/// Bytes of data of other regions that are kept: to draw it again takes less than what the CPU makes of it.
const KEPT_BYTES: usize = 1 << 30;

/// Most device memory, unless something else is said.
const MOST_MEMORY: usize = 16 << 30;

/// Data of a region.
struct Drawn {
    inputs: Vec<Tensor>,
    /// What the region makes of them: by the CPU, or where that would take long by the first candidate that gives the same twice.
    expected: Option<Vec<Tensor>>,
}

impl Drawn {
    fn new(task: &Task) -> Result<Drawn> {
        let flops = task.ways.iter().filter_map(|way| way.estimate).map(|e| e.flops).fold(0.0, f64::max);
        let (inputs, expected) = with_results(&task.subject, flops)?;
        Ok(Drawn { inputs, expected })
    }

    fn bytes(&self) -> usize {
        self.inputs.iter().chain(self.expected.iter().flatten()).map(|tensor| tensor.data().len()).sum()
    }
}

impl OnDevice {
    /// A device by its name, of whose memory so many bytes are used at most.
    ///
    /// # Errors
    /// No such device.
    pub fn new(name: &str, max_memory: usize, compiler: Compiler) -> Result<OnDevice> {
        let compiling = Compiling::new(compiler)?;
        let opened = open_device(name)?;
        Ok(OnDevice {
            name: name.to_owned(),
            max_memory,
            start: Instant::now(),
            compiling,
            _opened: opened,
            bench: None,
            drawn: BTreeMap::new(),
        })
    }

    /// Bytes of a GPU's memory that are used unless something else is said: half of it, and no more than 16 GiB.
    pub fn memory(gpu: &Gpu) -> usize {
        ((gpu.memory_gb * 0.5e9) as usize).min(MOST_MEMORY)
    }

    /// What is known of a GPU whose kernels can be timed.
    ///
    /// # Errors
    /// No such device, or one that only runs kernels: the CPU has none to choose among, and the simulator has no clock.
    pub fn gpu(name: &str) -> Result<Gpu> {
        let device = open_device(name)?;
        match (device.gpu(), device.processor()?) {
            (Some(_), Target::Gpu(gpu)) => Ok(gpu),
            _ => Err(Error::Untimed { device: device.name() }),
        }
    }

    fn bench(&mut self, task: &Task) -> Result<&mut Bench> {
        let bench = match self.bench.take() {
            Some(bench) if bench.key == task.key() => bench,
            before => {
                // Its memory goes first.
                if let Some((key, drawn)) = before.map(Bench::into_drawn) {
                    let kept: usize = self.drawn.values().map(Drawn::bytes).sum();
                    if kept + drawn.bytes() <= KEPT_BYTES {
                        self.drawn.insert(key, drawn);
                    }
                }
                let drawn = self.drawn.remove(&task.key());
                Bench::new(task, drawn, open_device(&self.name)?, self.max_memory)?
            }
        };
        Ok(self.bench.insert(bench))
    }
}

impl Measure for OnDevice {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn ahead(&mut self, task: &Arc<Task>, candidates: &[usize]) {
        match self.bench.as_ref().is_some_and(|bench| bench.key == task.key()) {
            // Before those of other tasks.
            true => self.compiling.urgent(task, candidates),
            false => self.compiling.ahead(task, candidates),
        }
    }

    fn measure(&mut self, task: &Arc<Task>, jobs: &[Job], until: Duration) -> Result<Vec<Report>> {
        let mut wanted: Vec<usize> = jobs.iter().map(|job| job.candidate).collect();
        self.compiling.urgent(task, &wanted);
        self.bench(task)?;
        let (mut reports, mut timed): (Vec<Report>, Vec<InTurns>) = (vec![], vec![]);
        let (mut pauses, mut rounds) = (0, 0);
        let samples = |candidate| jobs.iter().find(|job| job.candidate == candidate).map_or(0, |job| job.samples);
        loop {
            let short = timed.iter().any(|one| one.times.len() < samples(one.candidate));
            let left = until.saturating_sub(self.start.elapsed());
            if left.is_zero() {
                break;
            }
            // While there is something to time, compilers are not waited for.
            let patience = if short { Duration::ZERO } else { left };
            if let Some((candidate, outcome)) = self.compiling.next(task, &wanted, patience) {
                wanted.retain(|other| *other != candidate);
                let ready = match &outcome {
                    Ok(made) => self.bench(task)?.ready(task, candidate, made)?,
                    Err(why) => Ready::Unusable(why.clone()),
                };
                let code = outcome.map(|made| made.code.clone()).unwrap_or_default();
                let (why, lasting) = match ready {
                    Ready::Timed(ready) => {
                        timed.push(InTurns { candidate, code, ready, times: vec![] });
                        continue;
                    }
                    Ready::Unusable(why) => (why, true),
                    Ready::NoRoom(why) => (why, false),
                };
                reports.push(Report { candidate, measured: Measured::Invalid(why), code, lasting });
                continue;
            }
            if !short {
                break;
            }
            // One sample of each that lacks some, every time another first: what runs after a hot kernel is slower.
            let mut round = vec![];
            let (later, sooner) = timed.split_at(rounds % timed.len());
            for (i, one) in sooner.iter().chain(later).enumerate() {
                let i = (i + later.len()) % timed.len();
                if one.times.len() < samples(one.candidate) {
                    round.push((i, self.bench(task)?.timer.sample_of(one.ready)?));
                }
            }
            rounds += 1;
            let known = round.iter().filter_map(|(i, seconds)| Some((*seconds, median(&timed[*i].times)?)));
            if pauses < MOST_PAUSES && clocks_dropped(known) {
                pauses += 1;
                std::thread::sleep(PAUSE);
                continue;
            }
            round.into_iter().for_each(|(i, seconds)| timed[i].times.push(seconds));
        }
        for InTurns { candidate, code, times, .. } in timed {
            if !times.is_empty() {
                reports.push(Report { candidate, measured: Measured::Times(times), code, lasting: true });
            }
        }
        Ok(reports)
    }

    fn code(&mut self, task: &Arc<Task>, candidate: usize) -> Outcome {
        self.compiling.urgent(task, &[candidate]);
        let made = self.compiling.next(task, &[candidate], Duration::MAX);
        made.map_or_else(|| Err("it was not compiled".into()), |(_, outcome)| outcome)
    }

    fn done(&mut self, task: &Arc<Task>) {
        self.compiling.forget(task);
        self.drawn.remove(&task.key());
        if self.bench.as_ref().is_some_and(|bench| bench.key == task.key()) {
            self.bench = None;
        }
    }
}

/// What outputs hold that a kernel has to write.
const POISON: u8 = 0xcb;

/// The operands of one region on a device, and the candidates that were checked on them.
struct Bench {
    key: TaskKey,
    timer: Rotating,
    drawn: Drawn,
    input_places: Vec<Place>,
    output_places: Vec<Place>,
    scratch: Option<Place>,
    ready: BTreeMap<usize, Ready>,
    max_memory: usize,
}

/// What became of a candidate before it is timed.
#[derive(Clone)]
enum Ready {
    Timed(Timed),
    /// It cannot be used, and why.
    Unusable(String),
    /// There is too little memory for what it needs beside the operands.
    NoRoom(String),
}

impl Bench {
    fn new(task: &Task, drawn: Option<Drawn>, device: Box<dyn Device>, max_memory: usize) -> Result<Bench> {
        let subject = &task.subject;
        let outputs = result_bytes(subject)?;
        let needed = subject.bytes() as usize;
        if needed > max_memory {
            return Err(Error::Memory { needed, allowed: max_memory });
        }
        let drawn = drawn.map_or_else(|| Drawn::new(task), Ok)?;
        let mut timer = Rotating::within(device, max_memory);
        let mut input_places = vec![];
        for tensor in &drawn.inputs {
            let place = block(&mut timer, tensor.data().len())?;
            timer.upload(place, tensor.data())?;
            input_places.push(place);
        }
        let output_places = outputs.into_iter().map(|bytes| block(&mut timer, bytes)).collect::<Result<_>>()?;
        let (key, ready) = (task.key(), BTreeMap::new());
        Ok(Bench { key, timer, drawn, input_places, output_places, scratch: None, ready, max_memory })
    }

    /// Lets go of the device.
    fn into_drawn(self) -> (TaskKey, Drawn) {
        (self.key, self.drawn)
    }

    /// Readies a candidate, or says why it cannot be used.
    fn ready(&mut self, task: &Task, candidate: usize, made: &Made) -> Result<Ready> {
        if let Some(known) = self.ready.get(&candidate) {
            return Ok(known.clone());
        }
        let ready = self.checked(task, made)?;
        self.ready.insert(candidate, ready.clone());
        Ok(ready)
    }

    /// Runs a candidate twice over poisoned outputs, compares what it gives, and prepares its samples.
    fn checked(&mut self, task: &Task, made: &Made) -> Result<Ready> {
        let implementation = &made.implementation;
        let images = implementation.kernels.iter().zip(&made.images);
        let module = Module {
            region: &task.subject.region,
            kernels: images
                .map(|(kernel, image)| KernelImage { kernel, cubin: Some(image.cubin.clone()), ptx: image.ptx.clone() })
                .collect(),
            scratch_bytes: implementation.scratch_bytes.clone(),
            zeroed_bytes: implementation.zeroed_bytes.clone(),
        };
        // What the device refuses is the candidate's fault.
        let loaded = self.timer.load(&module).and_then(|kernel| self.timer.prepare(kernel, &task.subject.sizes));
        let prepared = match loaded {
            Ok(prepared) => prepared,
            Err(e) => return Ok(Ready::Unusable(e.to_string())),
        };
        let beside = prepared.scratch_bytes.saturating_add(prepared.zeroed_bytes);
        if (task.subject.bytes() as usize).saturating_add(beside) > self.max_memory {
            return Ok(Ready::NoRoom(format!("it needs {beside} bytes beside its operands, more than memory allows")));
        }
        let scratch = self.scratch(prepared.scratch_bytes)?;
        let zeroed = match prepared.zeroed_bytes {
            0 => None,
            bytes => {
                let place = block(&mut self.timer, bytes)?;
                self.timer.fill(place, 0)?;
                Some(place)
            }
        };
        let mut packed = vec![];
        for packing in &implementation.packed {
            let Some(from) = self.drawn.inputs.get(packing.input) else {
                return Ok(Ready::Unusable(format!("it packs input {}", packing.input)));
            };
            match packing.apply(from) {
                Ok(tensor) => {
                    let place = block(&mut self.timer, tensor.data().len())?;
                    self.timer.upload(place, tensor.data())?;
                    packed.push(place);
                }
                Err(e) => return Ok(Ready::Unusable(format!("it packs what {e}"))),
            }
        }
        let (inputs, outputs) = (&self.input_places, &self.output_places);
        let arguments = Arguments { inputs, outputs, scratch, zeroed, packed: &packed };
        let mut given: Option<Vec<Tensor>> = None;
        for _ in 0..2 {
            for place in outputs {
                self.timer.fill(*place, POISON)?;
            }
            let ran = self.timer.launch(prepared.id, arguments).map_err(Error::from);
            let found = match ran.and_then(|()| results(&task.subject, &mut self.timer, outputs)) {
                Ok(found) => found,
                // Its own fault; others may be the device's, after which nothing that is measured counts.
                Err(Error::Engine(e @ (Launch { .. } | OutOfRange { .. } | Findings { .. }))) => {
                    return Ok(Ready::Unusable(e.to_string()));
                }
                Err(e) => return Err(e),
            };
            // The same bits again were compared before.
            if given.as_ref() != Some(&found) {
                let expected = self.drawn.expected.as_ref().or(given.as_ref());
                for (expected, found) in expected.into_iter().flatten().zip(&found) {
                    if let Err(why) = agrees(&task.subject, expected, found) {
                        return Ok(Ready::Unusable(why));
                    }
                }
            }
            given = Some(found);
        }
        self.drawn.expected = self.drawn.expected.take().or(given);
        let action = Action::Launch {
            prepared: prepared.id,
            inputs: inputs.clone(),
            outputs: outputs.clone(),
            scratch,
            zeroed,
            packed,
        };
        Ok(Ready::Timed(self.timer.ready(&[action])?))
    }

    /// Scratch that candidates share.
    fn scratch(&mut self, bytes: usize) -> Result<Option<Place>> {
        if bytes == 0 {
            return Ok(None);
        }
        if self.scratch.is_none_or(|place| place.bytes < bytes) {
            // Recordings use the smaller one: it stays, and is less than this one.
            self.scratch = Some(block(&mut self.timer, bytes.checked_next_power_of_two().unwrap_or(bytes))?);
        }
        Ok(self.scratch.map(|place| Place { bytes, ..place }))
    }
}

fn block(device: &mut dyn Device, bytes: usize) -> Result<Place> {
    Ok(Place { mem: device.alloc(bytes)?, offset: 0, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_drop_for_all_candidates_or_not_at_all() {
        let dropped = |slower: &[f64]| clocks_dropped(slower.iter().map(|slower| (slower * 2e-6, 2e-6)));
        assert!(dropped(&[1.15, 1.14, 1.16, 1.01]));
        assert!(!dropped(&[1.5, 1.01, 0.99, 1.02]) && !dropped(&[]) && !dropped(&[1.04, 1.03]));
    }
}
