//! Counters by instruction, added up by source line.

use std::collections::BTreeMap;

use crate::module::Kernel;

/// Counts of one instruction.
#[derive(Clone, Copy, Default)]
struct Cell {
    issues: u64,
    lanes: u64,
    divergent: u64,
    requests: u64,
    sectors: u64,
    lines: u64,
    store_sectors: u64,
    shared_requests: u64,
    wavefronts: u64,
    mma_flops: u64,
    bulk_bytes: u64,
    barriers: u64,
}

/// Counters of a running launch.
pub(crate) struct Counters {
    cells: Vec<Cell>,
    issued: u64,
}

/// Sums over instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mix {
    /// Warp instructions issued.
    pub instructions: u64,
    /// Threads that executed them.
    pub thread_instructions: u64,
    /// Instructions issued by a warp that was split by a branch or a predicate.
    pub divergent: u64,
    /// Requests to global memory.
    pub global_requests: u64,
    /// 32-byte sectors those requests touched.
    pub global_sectors: u64,
    /// 128-byte lines those requests touched.
    pub global_lines: u64,
    /// Sectors of stores and atomics among them.
    pub global_store_sectors: u64,
    /// Requests to shared memory.
    pub shared_requests: u64,
    /// Passes over the 32 banks those requests took; more than needed for the bytes means bank conflicts.
    pub shared_wavefronts: u64,
    /// Floating-point or integer operations of matrix instructions.
    pub mma_flops: u64,
    /// Bytes of bulk and tensor copies.
    pub bulk_bytes: u64,
    /// Barrier arrivals and waits.
    pub barriers: u64,
}

/// The counters of one source line.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LineCounters {
    /// Source file.
    pub file: String,
    /// Source line.
    pub line: u32,
    /// Its counts.
    pub counts: Mix,
}

/// The counters of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CounterReport {
    /// Sums over the kernel.
    pub total: Mix,
    /// Sums by source line.
    pub lines: Vec<LineCounters>,
}

impl Counters {
    pub(crate) fn new(instructions: usize) -> Self {
        Counters { cells: vec![Cell::default(); instructions], issued: 0 }
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    #[inline]
    pub(crate) fn issue(&mut self, pc: u32, mask: u32, alive: u32) {
        let c = &mut self.cells[pc as usize];
        self.issued += 1;
        c.issues += 1;
        c.lanes += u64::from(mask.count_ones());
        c.divergent += u64::from(mask != alive);
    }

    pub(crate) fn global(&mut self, pc: u32, addrs: &[u64], bytes: u32, store: bool) {
        let distinct = |unit: u64| {
            let mut set: Vec<u64> =
                addrs.iter().flat_map(|a| (a / unit)..=a.saturating_add(u64::from(bytes) - 1) / unit).collect();
            set.sort_unstable();
            set.dedup();
            set.len() as u64
        };
        let (sectors, lines) = (distinct(32), distinct(128));
        let c = &mut self.cells[pc as usize];
        c.requests += 1;
        c.sectors += sectors;
        c.lines += lines;
        c.store_sectors += if store { sectors } else { 0 };
    }

    /// A warp's accesses of more than 4 bytes a lane go in halves or quarters; each pass serves every bank once,
    /// and lanes that want the same word of a bank share it.
    pub(crate) fn shared(&mut self, pc: u32, addrs: &[u64], bytes: u32) {
        let group = match bytes {
            0..=4 => 32,
            8 => 16,
            _ => 8,
        };
        let mut passes = 0;
        for part in addrs.chunks(group) {
            let mut words: Vec<u64> =
                part.iter().flat_map(|a| (a / 4)..=a.saturating_add(u64::from(bytes) - 1) / 4).collect();
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; 32];
            words.iter().for_each(|w| banks[(w % 32) as usize] += 1);
            passes += banks.iter().copied().max().unwrap_or(0);
        }
        let c = &mut self.cells[pc as usize];
        c.shared_requests += 1;
        c.wavefronts += passes;
    }

    pub(crate) fn mma(&mut self, pc: u32, flops: u64) {
        self.cells[pc as usize].mma_flops += flops;
    }

    pub(crate) fn bulk(&mut self, pc: u32, bytes: u64) {
        self.cells[pc as usize].bulk_bytes += bytes;
    }

    pub(crate) fn barrier(&mut self, pc: u32) {
        self.cells[pc as usize].barriers += 1;
    }

    pub(crate) fn merge(&mut self, other: &Counters) {
        self.issued += other.issued;
        for (a, b) in self.cells.iter_mut().zip(&other.cells) {
            a.issues += b.issues;
            a.lanes += b.lanes;
            a.divergent += b.divergent;
            a.requests += b.requests;
            a.sectors += b.sectors;
            a.lines += b.lines;
            a.store_sectors += b.store_sectors;
            a.shared_requests += b.shared_requests;
            a.wavefronts += b.wavefronts;
            a.mma_flops += b.mma_flops;
            a.bulk_bytes += b.bulk_bytes;
            a.barriers += b.barriers;
        }
    }

    pub(crate) fn report(&self, kernel: &Kernel) -> CounterReport {
        let mut total = Mix::default();
        let mut lines: BTreeMap<(u32, u32), Mix> = BTreeMap::new();
        for (cell, inst) in self.cells.iter().zip(&kernel.program.insts) {
            if cell.issues == 0 {
                continue;
            }
            total.add(cell);
            lines.entry(inst.loc).or_default().add(cell);
        }
        let lines = lines.into_iter().map(|(loc, counts)| {
            let (file, line) = kernel.source(loc);
            LineCounters { file, line, counts }
        });
        CounterReport { total, lines: lines.collect() }
    }
}

impl std::ops::AddAssign for Mix {
    fn add_assign(&mut self, other: Mix) {
        self.instructions += other.instructions;
        self.thread_instructions += other.thread_instructions;
        self.divergent += other.divergent;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.global_lines += other.global_lines;
        self.global_store_sectors += other.global_store_sectors;
        self.shared_requests += other.shared_requests;
        self.shared_wavefronts += other.shared_wavefronts;
        self.mma_flops += other.mma_flops;
        self.bulk_bytes += other.bulk_bytes;
        self.barriers += other.barriers;
    }
}

impl Mix {
    fn add(&mut self, c: &Cell) {
        self.instructions += c.issues;
        self.thread_instructions += c.lanes;
        self.divergent += c.divergent;
        self.global_requests += c.requests;
        self.global_sectors += c.sectors;
        self.global_lines += c.lines;
        self.global_store_sectors += c.store_sectors;
        self.shared_requests += c.shared_requests;
        self.shared_wavefronts += c.wavefronts;
        self.mma_flops += c.mma_flops;
        self.bulk_bytes += c.bulk_bytes;
        self.barriers += c.barriers;
    }
}
