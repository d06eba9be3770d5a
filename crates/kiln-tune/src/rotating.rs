//! A device that times launches: over many copies of their operands, together larger than any cache, which take turns.

use kiln_engine::{Action, Arguments, Device, Error, KernelId, MemId, Module, Place, Prepared, RecordingId, Result};
use kiln_graph::Bindings;
use kiln_target::Target;
use slab::Slab;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Data of one round of sets: several times the L2 cache of any GPU of today, so that no launch finds its operands there.
const ROUND_BYTES: usize = 256 << 20;
/// Seconds that one sample should take at least, so that the host's share of it vanishes.
const SAMPLE_SECONDS: f64 = 2.5e-3;
/// Device memory that all blocks may take, unless something else is said.
const MOST_BYTES: usize = 16 << 30;
/// Sets of small operands: as many launches fill a sample, and each set serves once, after the caches were emptied.
const MOST_SETS: usize = 1024;

/// Which block stands in for the one of that number.
type Set = BTreeMap<usize, MemId>;

/// One launch with memory of its own.
#[derive(Clone)]
struct Launch {
    prepared: usize,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    scratch: Option<Place>,
    /// Not moved: every run leaves it as it was.
    zeroed: Option<Place>,
    packed: Vec<Place>,
}

impl Launch {
    fn new(prepared: usize, arguments: &Arguments<'_>) -> Launch {
        let Arguments { inputs, outputs, scratch, zeroed, packed } = *arguments;
        let [inputs, outputs, packed] = [inputs, outputs, packed].map(<[Place]>::to_vec);
        Launch { prepared, inputs, outputs, scratch, zeroed, packed }
    }

    fn action(&self) -> Action {
        let Launch { prepared, inputs, outputs, scratch, zeroed, packed } = self.clone();
        Action::Launch { prepared, inputs, outputs, scratch, zeroed, packed }
    }

    fn arguments(&self) -> (usize, Arguments<'_>) {
        let Launch { prepared, inputs, outputs, scratch, zeroed, packed } = self;
        (*prepared, Arguments { inputs, outputs, scratch: *scratch, zeroed: *zeroed, packed })
    }

    fn written(&self) -> impl Iterator<Item = &Place> {
        self.outputs.iter().chain(self.scratch.as_slice())
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.inputs.iter().chain(&self.packed).chain(self.written())
    }

    /// The same launch over another set.
    fn over(&self, set: &Set) -> Launch {
        let moved = |place: &Place| moved(place, set);
        Launch {
            prepared: self.prepared,
            inputs: self.inputs.iter().map(moved).collect(),
            outputs: self.outputs.iter().map(moved).collect(),
            scratch: self.scratch.as_ref().map(moved),
            zeroed: self.zeroed,
            packed: self.packed.iter().map(moved).collect(),
        }
    }
}

fn moved(place: &Place, set: &Set) -> Place {
    Place { mem: set.get(&place.mem.0).copied().unwrap_or(place.mem), ..*place }
}

/// Launches to issue together, recorded where the device can.
struct Batch {
    launches: Vec<Launch>,
    recording: Option<RecordingId>,
}

/// What a sample runs: many runs in a row, over sets of operands that take turns.
struct Round {
    batch: Batch,
    runs: usize,
    sets: usize,
    /// Operands that a run overwrites, because their memory serves later values too: where they belong, and a copy.
    restore: Vec<(Place, Place)>,
}

struct State {
    inner: Box<dyn Device>,
    sizes: HashMap<MemId, usize>,
    /// Copies of a block: that of each set but the first.
    copies: HashMap<MemId, Vec<MemId>>,
    /// Bytes of all blocks, and how many there may be.
    allocated: usize,
    limit: usize,
    /// Filled before each sample: evicts what the caches hold, and wakes a GPU that another process has used.
    flush: Option<Place>,
    rounds: Slab<Arc<Round>>,
    /// What a session runs.
    recorded: Option<Timed>,
}

/// Passes everything on to a device. Launches are also prepared for timing, over many copies of their memory: those that a session would record, and
/// those of [`Rotating::ready`]. Clones are one device.
#[derive(Clone)]
pub struct Rotating(Arc<Mutex<State>>);

/// Launches that are ready to be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed(usize);

/// The shape of a sample.
pub struct Shape {
    /// Copies of the operands.
    pub sets: usize,
    /// Runs in a row.
    pub runs: usize,
}

impl Rotating {
    /// Over a device that nothing else uses.
    pub fn new(inner: Box<dyn Device>) -> Rotating {
        Rotating::within(inner, MOST_BYTES)
    }

    /// [`Rotating::new`] where copies are made as long as all blocks take at most so many bytes.
    pub fn within(inner: Box<dyn Device>, limit: usize) -> Rotating {
        let (sizes, copies, rounds) = Default::default();
        let state = State { inner, sizes, copies, allocated: 0, limit, flush: None, rounds, recorded: None };
        Rotating(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a sample of what a session runs is made, once it has run.
    pub fn shape(&self) -> Option<Shape> {
        let state = self.state();
        let round = state.rounds.get(state.recorded?.0)?;
        Some(Shape { sets: round.sets, runs: round.runs })
    }

    /// Seconds of one run of a session, from one sample; none before it has run, or if what it ran is more than launches.
    ///
    /// # Errors
    /// The device's.
    pub fn sample(&self) -> Result<Option<f64>> {
        let Some(timed) = self.state().recorded else { return Ok(None) };
        self.sample_of(timed).map(Some)
    }

    /// Prepares samples of launches, one after the other. What they write is what one run leaves behind.
    ///
    /// # Errors
    /// Actions that are more than launches, and the device's.
    pub fn ready(&self, actions: &[Action]) -> Result<Timed> {
        let mut state = self.state();
        let Some(launches) = launches(actions) else {
            return Err(Error::Unsupported { device: state.inner.name(), what: "timing more than launches".into() });
        };
        let single = Batch { launches, recording: None };
        let round = state.round(&single)?;
        Ok(Timed(state.rounds.insert(Arc::new(round))))
    }

    /// Seconds of one run, from one sample.
    ///
    /// # Errors
    /// Samples that are gone, and the device's errors.
    pub fn sample_of(&self, timed: Timed) -> Result<f64> {
        let mut state = self.state();
        match state.rounds.get(timed.0).cloned() {
            Some(round) => state.sampled(&round),
            None => Err(Error::Internal { place: "timing".into(), message: format!("{timed:?} is gone") }),
        }
    }
}

/// The launches that actions are, if they are nothing else.
fn launches(actions: &[Action]) -> Option<Vec<Launch>> {
    let all = actions.iter().map(Action::launch);
    all.map(|launch| launch.map(|(prepared, arguments)| Launch::new(prepared, &arguments))).collect()
}

impl State {
    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        let mem = self.inner.alloc(bytes)?;
        self.sizes.insert(mem, bytes);
        self.allocated += bytes;
        Ok(mem)
    }

    fn bytes(&self, mem: MemId) -> usize {
        self.sizes.get(&mem).copied().unwrap_or(0)
    }

    /// The copy of a block in a set, with whatever is in it.
    fn copy_of(&mut self, mem: MemId, set: usize) -> Result<MemId> {
        if let Some(&copy) = self.copies.get(&mem).and_then(|copies| copies.get(set)) {
            return Ok(copy);
        }
        let copy = self.alloc(self.bytes(mem))?;
        self.copies.entry(mem).or_default().push(copy);
        Ok(copy)
    }

    fn free(&mut self, mem: MemId) -> Result<()> {
        for mem in self.copies.remove(&mem).unwrap_or_default().into_iter().chain([mem]) {
            self.allocated -= self.sizes.remove(&mem).unwrap_or(0);
            self.inner.free(mem)?;
        }
        Ok(())
    }

    /// A copy of a place in a block of its own.
    fn copied(&mut self, place: &Place) -> Result<Place> {
        let copy = Place { mem: self.alloc(place.bytes)?, offset: 0, bytes: place.bytes };
        self.inner.copy(copy, *place)?;
        Ok(copy)
    }

    fn batch(&mut self, launches: Vec<Launch>) -> Result<Batch> {
        let actions: Vec<Action> = launches.iter().map(Launch::action).collect();
        let recording = self.inner.record(&actions)?;
        Ok(Batch { launches, recording })
    }

    /// Seconds of a batch.
    fn run(&mut self, batch: &Batch) -> Result<f64> {
        self.inner.synchronize()?;
        let start = Instant::now();
        match batch.recording {
            Some(recording) => self.inner.replay(recording)?,
            None => {
                for launch in &batch.launches {
                    let (prepared, arguments) = launch.arguments();
                    self.inner.launch(prepared, arguments)?;
                }
            }
        }
        self.inner.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn sampled(&mut self, round: &Round) -> Result<f64> {
        if let Some(flush) = self.flush {
            self.inner.fill(flush, 0)?;
        }
        for (to, from) in &round.restore {
            self.inner.copy(*to, *from)?;
        }
        Ok(self.run(&round.batch)? / round.runs as f64)
    }

    /// Prepares the samples of `single`; leaves its operands as they were.
    fn round(&mut self, single: &Batch) -> Result<Round> {
        let launches = &single.launches;
        let used: Set = launches.iter().flat_map(Launch::places).map(|place| (place.mem.0, place.mem)).collect();
        // What a run starts from: read before anything writes there.
        let (mut origins, mut written) = (Vec::<Place>::new(), Vec::<Place>::new());
        for launch in launches {
            let fresh = |place: &&Place| !origins.contains(place) && !written.iter().any(|w| w.overlaps(place));
            let fresh: Vec<Place> = launch.inputs.iter().chain(&launch.packed).filter(fresh).copied().collect();
            origins.extend(fresh);
            written.extend(launch.written());
        }
        let mut pristine = Vec::new();
        for origin in &origins {
            let overwritten = written.iter().any(|w| w.overlaps(origin));
            pristine.push(if overwritten { self.copied(origin)? } else { *origin });
        }
        let once = self.run(single)?.min(self.run(single)?).min(self.run(single)?);
        let bytes = used.values().map(|&mem| self.bytes(mem)).sum::<usize>().max(1);
        let needed = (SAMPLE_SECONDS / once).ceil() as usize;
        let overwrites = pristine != origins;
        // A set that a run spoils serves one run of a sample.
        if self.flush.is_none() {
            let bytes = ROUND_BYTES.min(self.limit / 4).max(1);
            self.flush = Some(Place { mem: self.alloc(bytes)?, offset: 0, bytes });
        }
        let present = used.values().map(|mem| self.copies.get(mem).map_or(0, Vec::len)).min().unwrap_or(0);
        let room = 1 + (self.limit.saturating_sub(self.allocated) / bytes).max(present);
        let wanted = ROUND_BYTES.div_ceil(bytes).min(MOST_SETS).max(if overwrites { needed } else { 1 });
        let sets = wanted.min(room);
        let runs = if overwrites || sets == MOST_SETS { sets } else { needed.div_ceil(sets) * sets };
        let mut all = vec![used];
        while all.len() < sets {
            let mut set = Set::new();
            for (&key, &mem) in &all[0] {
                set.insert(key, self.copy_of(mem, all.len() - 1)?);
            }
            for (origin, from) in origins.iter().zip(&pristine) {
                self.inner.copy(moved(origin, &set), *from)?;
            }
            all.push(set);
        }
        let spoiled: Vec<(&Place, &Place)> =
            origins.iter().zip(&pristine).filter(|(origin, copy)| origin != copy).collect();
        let restore = |set| spoiled.iter().map(move |(origin, copy)| (moved(origin, set), **copy));
        let restore: Vec<(Place, Place)> = all.iter().flat_map(restore).collect();
        for (to, from) in &restore[..spoiled.len()] {
            self.inner.copy(*to, *from)?;
        }
        let turns = all.iter().cycle().take(runs);
        let batch = self.batch(turns.flat_map(|set| launches.iter().map(|launch| launch.over(set))).collect())?;
        let round = Round { batch, runs, sets, restore };
        // Warm: modules, caches of instructions, the graph's first upload.
        self.sampled(&round)?;
        for (to, from) in &round.restore[..spoiled.len()] {
            self.inner.copy(*to, *from)?;
        }
        Ok(round)
    }
}

impl Device for Rotating {
    fn name(&self) -> String {
        self.state().inner.name()
    }

    fn target(&self) -> String {
        self.state().inner.target()
    }

    fn processor(&self) -> Result<Target> {
        self.state().inner.processor()
    }

    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        self.state().alloc(bytes)
    }

    fn map(&mut self, data: bytes::Bytes) -> Result<MemId> {
        let mut state = self.state();
        let bytes = data.len();
        let mem = state.inner.map(data)?;
        state.sizes.insert(mem, bytes);
        state.allocated += bytes;
        Ok(mem)
    }

    fn free(&mut self, mem: MemId) -> Result<()> {
        self.state().free(mem)
    }

    fn upload(&mut self, to: Place, data: &[u8]) -> Result<()> {
        self.state().inner.upload(to, data)
    }

    fn download(&mut self, from: Place, data: &mut [u8]) -> Result<()> {
        self.state().inner.download(from, data)
    }

    fn copy(&mut self, to: Place, from: Place) -> Result<()> {
        self.state().inner.copy(to, from)
    }

    fn fill(&mut self, place: Place, byte: u8) -> Result<()> {
        self.state().inner.fill(place, byte)
    }

    fn load(&mut self, module: &Module<'_>) -> Result<KernelId> {
        self.state().inner.load(module)
    }

    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared> {
        self.state().inner.prepare(kernel, bindings)
    }

    fn release(&mut self, prepared: usize) {
        self.state().inner.release(prepared);
    }

    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        self.state().inner.launch(prepared, args)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.state().inner.synchronize()
    }

    fn check(&mut self) -> Result<()> {
        self.state().inner.check()
    }

    fn is_done(&mut self) -> Result<bool> {
        self.state().inner.is_done()
    }

    fn record(&mut self, actions: &[Action]) -> Result<Option<RecordingId>> {
        let mut state = self.state();
        let Some(launches) = launches(actions) else { return Ok(None) };
        let single = state.batch(launches)?;
        let round = state.round(&single)?;
        if let Some(before) = state.recorded.take().and_then(|timed| state.rounds.try_remove(timed.0))
            && let Some(recording) = before.batch.recording
        {
            state.inner.forget(recording);
        }
        let timed = Timed(state.rounds.insert(Arc::new(round)));
        state.recorded = Some(timed);
        Ok(single.recording)
    }

    fn replay(&mut self, recording: RecordingId) -> Result<()> {
        self.state().inner.replay(recording)
    }

    fn forget(&mut self, recording: RecordingId) {
        self.state().inner.forget(recording);
    }

    fn implementation(&self, prepared: usize) -> String {
        self.state().inner.implementation(prepared)
    }
}
