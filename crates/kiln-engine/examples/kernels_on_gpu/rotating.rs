//! A device that times what a session records.

use kiln_engine::{Arguments, Device, KernelId, MemId, Module, Place, Prepared, RecordingId, Result};
use kiln_graph::Bindings;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Data of one round of sets: several times the L2 cache of any GPU of today, so that no launch finds its operands there.
const ROUND_BYTES: usize = 256 << 20;
/// Seconds that one sample should take at least, so that the host's share of it vanishes.
const SAMPLE_SECONDS: f64 = 4e-3;
const SAMPLES: usize = 25;

/// Seconds of one run.
#[derive(Clone, Copy)]
pub struct Measured {
    pub median: f64,
    pub least: f64,
    /// How many copies of the operands took turns.
    pub sets: usize,
}

/// Where a [`Rotating`] leaves what it measured.
#[derive(Clone, Default)]
pub struct Timing(Arc<Mutex<Option<Measured>>>);

impl Timing {
    pub fn take(&self) -> Option<Measured> {
        self.0.lock().ok()?.take()
    }
}

/// Passes everything on to a device. When a session records its launches, they are also recorded many times in a row over copies of their memory
/// that take turns, and timed.
pub struct Rotating {
    inner: Box<dyn Device>,
    sizes: HashMap<MemId, usize>,
    timing: Timing,
}

impl Rotating {
    pub fn new(inner: Box<dyn Device>, timing: Timing) -> Rotating {
        Rotating { inner, sizes: HashMap::new(), timing }
    }

    /// Copies of every block that the launches use: for each set, the block that stands in for the original.
    fn sets(&mut self, launches: &[(usize, Arguments<'_>)]) -> Result<Vec<BTreeMap<usize, MemId>>> {
        let places = |a: &Arguments<'_>| -> Vec<MemId> {
            a.inputs.iter().chain(a.outputs).chain(a.scratch.as_slice()).map(|p| p.mem).collect()
        };
        let used: BTreeMap<usize, MemId> =
            launches.iter().flat_map(|(_, a)| places(a)).map(|mem| (mem.0, mem)).collect();
        let bytes: usize = used.values().filter_map(|mem| self.sizes.get(mem)).sum();
        let count = ROUND_BYTES.div_ceil(bytes.max(1)).min(256);
        let mut sets = vec![used.clone()];
        while sets.len() < count {
            let mut set = BTreeMap::new();
            for (&key, &mem) in &used {
                let bytes = self.sizes.get(&mem).copied().unwrap_or(0);
                let copy = self.inner.alloc(bytes)?;
                self.inner.copy(Place { mem: copy, offset: 0, bytes }, Place { mem, offset: 0, bytes })?;
                set.insert(key, copy);
            }
            sets.push(set);
        }
        Ok(sets)
    }

    /// Seconds of one replay.
    fn replayed(&mut self, recording: RecordingId) -> Result<f64> {
        self.inner.synchronize()?;
        let start = Instant::now();
        self.inner.replay(recording)?;
        self.inner.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn measure(&mut self, launches: &[(usize, Arguments<'_>)], single: RecordingId) -> Result<Option<Measured>> {
        let sets = self.sets(launches)?;
        self.replayed(single)?;
        let once = self.replayed(single)?.min(self.replayed(single)?);
        let rounds = ((SAMPLE_SECONDS / once / sets.len() as f64).ceil() as usize).max(1);
        let runs = rounds * sets.len();
        let moved = |places: &[Place], set: &BTreeMap<usize, MemId>| -> Vec<Place> {
            places.iter().map(|p| Place { mem: set.get(&p.mem.0).copied().unwrap_or(p.mem), ..*p }).collect()
        };
        let turned: Vec<(usize, Vec<Place>, Vec<Place>, Option<Place>)> = (0..runs)
            .flat_map(|run| launches.iter().map(move |launch| (run, launch)))
            .map(|(run, (prepared, a))| {
                let set = &sets[run % sets.len()];
                let scratch = moved(a.scratch.as_slice(), set).first().copied();
                (*prepared, moved(a.inputs, set), moved(a.outputs, set), scratch)
            })
            .collect();
        let arguments: Vec<(usize, Arguments<'_>)> = turned
            .iter()
            .map(|(prepared, inputs, outputs, scratch)| (*prepared, Arguments { inputs, outputs, scratch: *scratch }))
            .collect();
        let Some(many) = self.inner.record(&arguments)? else { return Ok(None) };
        self.replayed(many)?;
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            samples.push(self.replayed(many)? / runs as f64);
        }
        samples.sort_by(f64::total_cmp);
        Ok(Some(Measured { median: samples[SAMPLES / 2], least: samples[0], sets: sets.len() }))
    }
}

impl Device for Rotating {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn target(&self) -> String {
        self.inner.target()
    }

    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        let mem = self.inner.alloc(bytes)?;
        self.sizes.insert(mem, bytes);
        Ok(mem)
    }

    fn map(&mut self, data: bytes::Bytes) -> Result<MemId> {
        let bytes = data.len();
        let mem = self.inner.map(data)?;
        self.sizes.insert(mem, bytes);
        Ok(mem)
    }

    fn free(&mut self, mem: MemId) -> Result<()> {
        self.inner.free(mem)
    }

    fn upload(&mut self, to: Place, data: &[u8]) -> Result<()> {
        self.inner.upload(to, data)
    }

    fn download(&mut self, from: Place, data: &mut [u8]) -> Result<()> {
        self.inner.download(from, data)
    }

    fn copy(&mut self, to: Place, from: Place) -> Result<()> {
        self.inner.copy(to, from)
    }

    fn fill(&mut self, place: Place, byte: u8) -> Result<()> {
        self.inner.fill(place, byte)
    }

    fn load(&mut self, module: &Module<'_>) -> Result<KernelId> {
        self.inner.load(module)
    }

    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared> {
        self.inner.prepare(kernel, bindings)
    }

    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        self.inner.launch(prepared, args)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.inner.synchronize()
    }

    fn record(&mut self, launches: &[(usize, Arguments<'_>)]) -> Result<Option<RecordingId>> {
        let Some(single) = self.inner.record(launches)? else { return Ok(None) };
        let measured = self.measure(launches, single)?;
        if let Ok(mut slot) = self.timing.0.lock() {
            *slot = measured;
        }
        Ok(Some(single))
    }

    fn replay(&mut self, recording: RecordingId) -> Result<()> {
        self.inner.replay(recording)
    }

    fn implementation(&self, prepared: usize) -> String {
        self.inner.implementation(prepared)
    }
}
