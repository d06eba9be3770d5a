//! The timing cache: what was measured, kept for the next build.
//!
//! Lines, each a [`Record`] as JSON with a checksum of its own. In a file they are appended whole under a lock, so that several processes
//! may keep their times in one, and two files are merged by writing one after the other. A line that is damaged, or of another format, is
//! as if it were not there. [`Timings`](crate::Timings) says where they are.

use kiln_engine::Toolchain;
use kiln_fuse::RegionId;
use kiln_kernels::families::Subject;
use kiln_target::Gpu;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Changes with what [`Record`] holds.
const FORMAT: u32 = 2;
/// Bytes of a timing cache that are read at most.
pub(crate) const MOST_BYTES: u64 = 1 << 30;

/// What times depend on, beside the Config.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The region's identity: what is computed, with every fused operation.
    pub region: String,
    /// The buckets of the sizes of its symbols.
    pub shape: BTreeMap<String, Bucket>,
    /// The GPU's product name.
    pub gpu: String,
    /// Its highest clock in MHz.
    pub clock_mhz: u32,
    /// Bandwidth of its memory in GB/s, which follows from the memory's clock.
    pub memory_gbs: u32,
    /// What code is compiled for.
    pub arch: String,
    /// The compiler.
    pub nvrtc: String,
    /// Its options.
    pub options: Vec<String>,
    /// Whether products of f32 may round their operands.
    pub tf32: bool,
    /// What generated the code.
    pub kiln: String,
}

/// Sizes that share their times: those that are the same when they are rounded up to three significant binary digits, so that they are at most a quarter
/// apart, and that the same power of two divides, up to 16. Up to 16 each size is a bucket of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bucket {
    /// Its largest size.
    to: i64,
    /// What divides all of its sizes.
    by: i64,
}

impl Bucket {
    /// Of a size.
    pub fn of(size: i64) -> Bucket {
        let size = size.max(0).unsigned_abs();
        let digits = if size > 16 { 64 - size.leading_zeros() } else { 0 };
        let to = size.next_multiple_of(1 << digits.saturating_sub(3));
        let to = i64::try_from(to).unwrap_or(i64::MAX);
        Bucket { to, by: 1 << size.trailing_zeros().min(4) }
    }

    /// How far apart sizes of two buckets are, in doublings; that not the same divides them counts for half of one.
    fn apart(self, other: Bucket) -> f64 {
        let size = |bucket: Bucket| bucket.to.max(1) as f64;
        (size(self) / size(other)).log2().abs() + if self.by == other.by { 0.0 } else { 0.5 }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            ..=16 => write!(f, "{}", self.to),
            to => write!(f, "<={to} by {}", self.by),
        }
    }
}

impl Problem {
    /// A region on a GPU, as this compiler makes its kernels.
    pub fn of(region: RegionId, subject: &Subject, gpu: &Gpu, toolchain: &Toolchain) -> Problem {
        Problem {
            region: region.to_string(),
            shape: subject.sizes.iter().map(|(symbol, size)| (symbol.clone(), Bucket::of(*size))).collect(),
            gpu: gpu.name.clone(),
            clock_mhz: (gpu.clock_ghz * 1e3).round() as u32,
            memory_gbs: gpu.bandwidth_gbs.round() as u32,
            arch: gpu.arch.name().to_owned(),
            nvrtc: toolchain.nvrtc.clone(),
            options: toolchain.options.clone(),
            tf32: subject.tf32,
            kiln: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// How far apart the shapes of two problems are that are alike in everything else.
    fn apart(&self, other: &Problem) -> Option<f64> {
        let alike = Problem { shape: other.shape.clone(), ..self.clone() } == *other
            && self.shape.keys().eq(other.shape.keys());
        alike.then(|| self.shape.values().zip(other.shape.values()).map(|(a, b)| a.apart(*b)).sum())
    }
}

/// What became of one Config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Of what.
    #[serde(flatten)]
    pub problem: Problem,
    /// The sizes that it was measured at.
    pub sizes: BTreeMap<String, i64>,
    /// Who made it.
    pub family: String,
    /// How.
    pub config: Value,
    /// The start of the BLAKE3 hash of its CUDA C, by which it shows that what is generated now is something else; empty if there was none.
    pub code: String,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Times, or why there are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Single runs in nanoseconds; none: what was known is of other code.
    Ns(Vec<u64>),
    /// It cannot be used.
    Invalid(String),
}

impl Record {
    /// Whether another of the same Config tells nothing that this one does not: it is of the same code, and has fewer times.
    fn says_more_than(&self, other: &Record) -> bool {
        match (&self.outcome, &other.outcome) {
            (Outcome::Ns(own), Outcome::Ns(others)) => {
                self.code == other.code && own.len() > others.len() && !others.is_empty()
            }
            _ => false,
        }
    }
}

impl Outcome {
    /// The median time in nanoseconds, if there is one.
    pub fn median(&self) -> Option<u64> {
        let Outcome::Ns(times) = self else { return None };
        let mut times = times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    format: u32,
    #[serde(flatten)]
    record: Record,
    /// The start of the BLAKE3 hash of `record`.
    sum: String,
}

/// A Config of a family, ordered as its text.
type Way = (String, String);

/// Times in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    known: BTreeMap<Problem, BTreeMap<Way, Record>>,
    /// Lines of files that were of no use.
    pub damaged: usize,
}

impl Times {
    /// Those of a file; none if there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, or is larger than a gigabyte.
    pub fn load(path: &Path) -> io::Result<Times> {
        let mut times = Times::default();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(times),
            Err(e) => return Err(e),
        };
        if file.metadata()?.len() > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a timing cache has at most a gigabyte; prune it"));
        }
        let mut bytes = vec![];
        file.take(MOST_BYTES).read_to_end(&mut bytes)?;
        times.read(&bytes);
        Ok(times)
    }

    /// Adds the lines of a file's contents; see [`Times::add`].
    pub fn read(&mut self, bytes: &[u8]) {
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) if line.format == FORMAT && line.sum == sum(&line.record) => self.add(line.record),
                _ => self.damaged += 1,
            }
        }
    }

    /// Adds a record, in the place of one of the same Config, unless that has more times of the same code.
    pub fn add(&mut self, record: Record) {
        let way = (record.family.clone(), record.config.to_string());
        let known = self.known.entry(record.problem.clone()).or_default();
        if known.get(&way).is_none_or(|before| !before.says_more_than(&record)) {
            known.insert(way, record);
        }
    }

    /// The fastest Config of each problem that is like this one but for its shape, the nearest shape first.
    pub fn near(&self, problem: &Problem) -> Vec<&Record> {
        let others = self.known.iter().filter(|(other, _)| *other != problem);
        let fastest = |ways: &'_ BTreeMap<Way, Record>| -> Option<(u64, Way)> {
            ways.iter().filter_map(|(way, record)| Some((record.outcome.median()?, way.clone()))).min()
        };
        let mut near: Vec<(f64, &Record)> =
            others.filter_map(|(other, ways)| Some((problem.apart(other)?, &ways[&fastest(ways)?.1]))).collect();
        near.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        near.into_iter().map(|(_, record)| record).collect()
    }

    /// What is known of a problem.
    pub fn of(&self, problem: &Problem) -> impl Iterator<Item = &Record> {
        self.known.get(problem).into_iter().flat_map(BTreeMap::values)
    }

    /// Everything.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.known.values().flat_map(BTreeMap::values)
    }

    /// Keeps the records of which this holds.
    pub fn retain(&mut self, keep: impl Fn(&Record) -> bool) {
        self.known.values_mut().for_each(|ways| ways.retain(|_, record| keep(record)));
        self.known.retain(|_, ways| !ways.is_empty());
    }

    /// Drops problems of which least was measured until the contents of a file take at most so many bytes.
    pub fn shrink(&mut self, limit: u64) {
        let size = |ways: &BTreeMap<Way, Record>| ways.values().map(|record| line(record).len() as u64).sum::<u64>();
        let mut sizes: Vec<(u64, Problem)> =
            self.known.iter().map(|(problem, ways)| (size(ways), problem.clone())).collect();
        sizes.sort();
        let mut all: u64 = sizes.iter().map(|(bytes, _)| bytes).sum();
        for (bytes, problem) in sizes {
            if all <= limit {
                return;
            }
            self.known.remove(&problem);
            all -= bytes;
        }
    }

    /// The contents of a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.records().flat_map(line).collect()
    }
}

/// Adds records to a file, whole or not at all. Other processes wait.
///
/// # Errors
/// The file cannot be written: what was there stays.
pub fn append(path: &Path, records: &[Record]) -> io::Result<()> {
    let mut file = locked(path)?;
    let before = file.metadata()?.len();
    let mut bytes: Vec<u8> = records.iter().flat_map(line).collect();
    if before > 0 && !ends_whole(&mut file, before)? {
        // Another process was stopped in the middle of a line, which is damaged for good.
        bytes.insert(0, b'\n');
    }
    let written = file.write_all(&bytes).and_then(|()| file.sync_data());
    if written.is_err() {
        // Not worth a second error: the line would be found damaged.
        let _ = file.set_len(before);
    }
    written
}

/// Puts other lines in the place of those of a file, whole or not at all. Other processes wait.
///
/// # Errors
/// The file cannot be read or written: what was there stays.
pub fn rewrite(path: &Path, change: impl FnOnce(&mut Times)) -> io::Result<()> {
    let lock = locked(path)?;
    let mut times = Times::load(path)?;
    change(&mut times);
    let written = kiln_host::write(path, |out| out.write_all(&times.to_bytes()));
    if written.is_err() && lock.metadata().is_ok_and(|made| made.is_file() && made.len() == 0) {
        // It was made for the lock.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Opens a file that nobody else has open in this way until it is dropped.
fn locked(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        file.lock()?;
        // It may have been replaced while this one waited.
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Whether an open file is the one of that name.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((own.dev(), own.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Elsewhere a file that is open cannot be replaced.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Whether a file ends with a whole line.
fn ends_whole(file: &mut File, length: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn line(record: &Record) -> Vec<u8> {
    let line = Line { format: FORMAT, record: record.clone(), sum: sum(record) };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn sum(record: &Record) -> String {
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    blake3::hash(&bytes).to_hex()[..16].to_owned()
}
