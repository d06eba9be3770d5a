//! A device that times what a session runs.

use kiln_engine::{Action, Arguments, Device, KernelId, MemId, Module, Place, Prepared, RecordingId, Result};
use kiln_graph::Bindings;
use kiln_target::Target;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Data of one round of sets: several times the L2 cache of any GPU of today, so that no launch finds its operands there.
const ROUND_BYTES: usize = 256 << 20;
/// Seconds that one sample should take at least, so that the host's share of it vanishes.
const SAMPLE_SECONDS: f64 = 2.5e-3;
/// Device memory that the sets may take.
const MOST_BYTES: usize = 16 << 30;

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

fn overlap(a: &Place, b: &Place) -> bool {
    a.mem == b.mem && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
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
    /// Filled before each sample: evicts what the caches hold, and wakes a GPU that another process has used.
    flush: Place,
}

struct State {
    inner: Box<dyn Device>,
    sizes: HashMap<MemId, usize>,
    round: Option<Round>,
}

/// Passes everything on to a device. The launches that a session would record are also prepared for timing, over many copies of their
/// memory. Clones are one device.
#[derive(Clone)]
pub struct Rotating(Arc<Mutex<State>>);

/// The shape of a sample.
pub struct Shape {
    /// Copies of the operands.
    pub sets: usize,
    /// Runs in a row.
    pub runs: usize,
}

impl Rotating {
    pub fn new(inner: Box<dyn Device>) -> Rotating {
        Rotating(Arc::new(Mutex::new(State { inner, sizes: HashMap::new(), round: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a sample is made, once a session has run.
    pub fn shape(&self) -> Option<Shape> {
        self.state().round.as_ref().map(|round| Shape { sets: round.sets, runs: round.runs })
    }

    /// Seconds of one run, from one sample; none before a session has run, or if what it ran is more than launches.
    pub fn sample(&self) -> Result<Option<f64>> {
        let mut state = self.state();
        let Some(round) = state.round.take() else { return Ok(None) };
        let seconds = state.sampled(&round);
        state.round = Some(round);
        seconds.map(Some)
    }
}

impl State {
    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        let mem = self.inner.alloc(bytes)?;
        self.sizes.insert(mem, bytes);
        Ok(mem)
    }

    fn bytes(&self, mem: MemId) -> usize {
        self.sizes.get(&mem).copied().unwrap_or(0)
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
        self.inner.fill(round.flush, 0)?;
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
            let fresh = |place: &&Place| !origins.contains(place) && !written.iter().any(|w| overlap(w, place));
            let fresh: Vec<Place> = launch.inputs.iter().chain(&launch.packed).filter(fresh).copied().collect();
            origins.extend(fresh);
            written.extend(launch.written());
        }
        let mut pristine = Vec::new();
        for origin in &origins {
            let overwritten = written.iter().any(|w| overlap(w, origin));
            pristine.push(if overwritten { self.copied(origin)? } else { *origin });
        }
        let once = self.run(single)?.min(self.run(single)?).min(self.run(single)?);
        let bytes = used.values().map(|&mem| self.bytes(mem)).sum::<usize>().max(1);
        let needed = (SAMPLE_SECONDS / once).ceil() as usize;
        let overwrites = pristine != origins;
        // A set that a run spoils serves one run of a sample.
        let sets =
            ROUND_BYTES.div_ceil(bytes).max(if overwrites { needed } else { 1 }).min((MOST_BYTES / bytes).max(1));
        let runs = if overwrites { sets } else { needed.div_ceil(sets) * sets };
        let mut all = vec![used];
        while all.len() < sets {
            let mut set = Set::new();
            for (&key, &mem) in &all[0] {
                set.insert(key, self.alloc(self.bytes(mem))?);
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
        let flush = Place { mem: self.alloc(ROUND_BYTES)?, offset: 0, bytes: ROUND_BYTES };
        let round = Round { batch, runs, sets, restore, flush };
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
        Ok(mem)
    }

    fn free(&mut self, mem: MemId) -> Result<()> {
        self.state().inner.free(mem)
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

    fn record(&mut self, actions: &[Action]) -> Result<Option<RecordingId>> {
        let mut state = self.state();
        let launches: Option<Vec<_>> = actions.iter().map(Action::launch).collect();
        let Some(launches) = launches else { return Ok(None) };
        let launches = launches.iter().map(|(prepared, arguments)| Launch::new(*prepared, arguments)).collect();
        let single = state.batch(launches)?;
        state.round = Some(state.round(&single)?);
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
