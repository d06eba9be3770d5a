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
/// Device memory that the sets may take.
const MOST_BYTES: usize = 16 << 30;

/// Which block stands in for the one of that number.
type Set = BTreeMap<usize, MemId>;
/// Prepared region, inputs, outputs, scratch.
type Launch = (usize, Vec<Place>, Vec<Place>, Option<Place>);

/// Seconds of one run.
#[derive(Clone, Copy)]
pub struct Measured {
    pub median: f64,
    pub least: f64,
    /// How many copies of the operands there were, and runs in a sample.
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

/// Passes everything on to a device. When a session records its launches, they are also recorded many times in a row, each time over another
/// copy of their memory, and timed.
pub struct Rotating {
    inner: Box<dyn Device>,
    sizes: HashMap<MemId, usize>,
    timing: Timing,
}

impl Rotating {
    pub fn new(inner: Box<dyn Device>, timing: Timing) -> Rotating {
        Rotating { inner, sizes: HashMap::new(), timing }
    }

    /// A copy of every block of `used`, by the original's number.
    fn copied(&mut self, used: &Set) -> Result<Set> {
        let mut set = Set::new();
        for (&key, &mem) in used {
            let copy = self.inner.alloc(self.bytes(mem))?;
            self.copy_block(copy, mem)?;
            set.insert(key, copy);
        }
        Ok(set)
    }

    fn copy_block(&mut self, to: MemId, from: MemId) -> Result<()> {
        let bytes = self.bytes(from);
        let block = |mem| Place { mem, offset: 0, bytes };
        // Copies of an original are as long as it is.
        self.sizes.insert(to, bytes);
        self.inner.copy(block(to), block(from))
    }

    fn bytes(&self, mem: MemId) -> usize {
        self.sizes.get(&mem).copied().unwrap_or(0)
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
        let used: Set = launches
            .iter()
            .flat_map(|(_, a)| a.inputs.iter().chain(a.outputs).chain(a.scratch.as_slice()))
            .map(|place| (place.mem.0, place.mem))
            .collect();
        // Memory of inputs that were read is used again for later values, so every sample starts from this.
        let pristine = self.copied(&used)?;
        self.replayed(single)?;
        let once = self.replayed(single)?.min(self.replayed(single)?);
        let bytes = used.values().map(|&mem| self.bytes(mem)).sum::<usize>().max(1);
        let count = ROUND_BYTES.div_ceil(bytes).max((SAMPLE_SECONDS / once).ceil() as usize);
        let mut sets = vec![used];
        while sets.len() < count.min(MOST_BYTES / bytes) {
            sets.push(self.copied(&pristine)?);
        }
        let moved = |places: &[Place], set: &Set| -> Vec<Place> {
            places.iter().map(|p| Place { mem: set.get(&p.mem.0).copied().unwrap_or(p.mem), ..*p }).collect()
        };
        let turned: Vec<Launch> = sets
            .iter()
            .flat_map(|set| launches.iter().map(move |launch| (set, launch)))
            .map(|(set, (prepared, a))| {
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
            for set in &sets {
                for (key, &mem) in set {
                    self.copy_block(mem, pristine[key])?;
                }
            }
            samples.push(self.replayed(many)? / sets.len() as f64);
        }
        for (key, &mem) in &sets[0] {
            self.copy_block(mem, pristine[key])?;
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
