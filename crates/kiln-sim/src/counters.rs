//! Counters by instruction, added up by source line.

use std::collections::BTreeMap;

use crate::module::Kernel;

/// Bytes of a sector.
const SECTOR: u64 = 32;

/// Counters of a running launch, by instruction.
pub(crate) struct Counters {
    cells: Vec<Mix>,
    issued: u64,
}

/// Sums over instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
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
    /// Sectors that would do for the distinct bytes of each request.
    pub global_ideal_sectors: u64,
    /// Stores and atomics among the requests.
    pub global_store_requests: u64,
    /// Sectors of stores and atomics.
    pub global_store_sectors: u64,
    /// Sectors that would do for them.
    pub global_ideal_store_sectors: u64,
    /// Requests to shared memory.
    pub shared_requests: u64,
    /// Passes over the 32 banks those requests took; more than needed for the bytes means bank conflicts.
    pub shared_wavefronts: u64,
    /// Passes that would do for the distinct words: what there is beyond them are bank conflicts.
    pub shared_ideal_wavefronts: u64,
    /// Matrix instructions: `mma.sync` of a warp, `wgmma` of a warpgroup.
    pub mma_instructions: u64,
    /// Floating-point or integer operations of matrix instructions.
    pub mma_flops: u64,
    /// Bytes of bulk and tensor copies: of whole boxes, what lies outside the tensor included, once for a multicast.
    pub bulk_bytes: u64,
    /// Bytes that they read from global memory.
    pub bulk_load_bytes: u64,
    /// Bytes that they write to global memory.
    pub bulk_store_bytes: u64,
    /// Barrier arrivals and waits.
    pub barriers: u64,
    /// CTAs that let the grids that depend on this one start (`griddepcontrol.launch_dependents`).
    pub dependents_launched: u64,
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

/// The counters of one instruction.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct InstructionCounters {
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// Opcode with its modifiers.
    pub opcode: String,
    /// Source file, when the PTX has line information.
    pub file: String,
    /// Source line, 0 when unknown.
    pub line: u32,
    /// Its counts.
    pub counts: Mix,
}

/// Matrix instructions of one kind.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MatrixCounters {
    /// Opcode with shape and types.
    pub opcode: String,
    /// How many: of a warp for `mma.sync`, of a warpgroup for `wgmma`.
    pub instructions: u64,
    /// Their operations.
    pub flops: u64,
}

/// The counters of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CounterReport {
    /// Sums over the kernel.
    pub total: Mix,
    /// Sums by source line.
    pub lines: Vec<LineCounters>,
    /// Matrix instructions by kind.
    pub matrix: Vec<MatrixCounters>,
    /// Instructions that access memory, multiply matrices, copy or wait, in the order of the program.
    pub instructions: Vec<InstructionCounters>,
}

impl Counters {
    pub(crate) fn new(instructions: usize) -> Self {
        Counters { cells: vec![Mix::default(); instructions], issued: 0 }
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    #[inline]
    pub(crate) fn issue(&mut self, pc: u32, mask: u32, alive: u32) {
        let c = &mut self.cells[pc as usize];
        self.issued += 1;
        c.instructions += 1;
        c.thread_instructions += u64::from(mask.count_ones());
        c.divergent += u64::from(mask != alive);
    }

    /// Lanes that access `bytes` each, aligned to as much.
    pub(crate) fn global(&mut self, pc: u32, addrs: &[u64], bytes: u32, store: bool) {
        let distinct = |unit: u64| {
            let mut set: Vec<u64> =
                addrs.iter().flat_map(|a| (a / unit)..=a.saturating_add(u64::from(bytes) - 1) / unit).collect();
            set.sort_unstable();
            set.dedup();
            set.len() as u64
        };
        let (sectors, lines) = (distinct(SECTOR), distinct(128));
        let ideal = (distinct(bytes.into()) * u64::from(bytes)).div_ceil(SECTOR);
        let c = &mut self.cells[pc as usize];
        c.global_requests += 1;
        c.global_sectors += sectors;
        c.global_lines += lines;
        c.global_ideal_sectors += ideal;
        if store {
            c.global_store_requests += 1;
            c.global_store_sectors += sectors;
            c.global_ideal_store_sectors += ideal;
        }
    }

    /// A warp's accesses of more than 4 bytes a lane go in halves or quarters; each pass serves every bank once,
    /// and lanes that want the same word of a bank share it.
    pub(crate) fn shared(&mut self, pc: u32, addrs: &[u64], bytes: u32) {
        let group = match bytes {
            0..=4 => 32,
            8 => 16,
            _ => 8,
        };
        let (mut passes, mut ideal) = (0, 0);
        for part in addrs.chunks(group) {
            let mut words: Vec<u64> =
                part.iter().flat_map(|a| (a / 4)..=a.saturating_add(u64::from(bytes) - 1) / 4).collect();
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; 32];
            words.iter().for_each(|w| banks[(w % 32) as usize] += 1);
            passes += banks.iter().copied().max().unwrap_or(0);
            ideal += words.len().div_ceil(banks.len()) as u64;
        }
        let c = &mut self.cells[pc as usize];
        c.shared_requests += 1;
        c.shared_wavefronts += passes;
        c.shared_ideal_wavefronts += ideal;
    }

    /// One warp's share of a product, which `counts` for an instruction or is a further share of one.
    pub(crate) fn mma(&mut self, pc: u32, flops: u64, counts: bool) {
        let c = &mut self.cells[pc as usize];
        c.mma_flops += flops;
        c.mma_instructions += u64::from(counts);
    }

    /// A bulk copy of `bytes`, and what of it is in global memory.
    pub(crate) fn bulk(&mut self, pc: u32, bytes: u64, loaded: u64, stored: u64) {
        let c = &mut self.cells[pc as usize];
        c.bulk_bytes += bytes;
        c.bulk_load_bytes += loaded;
        c.bulk_store_bytes += stored;
    }

    pub(crate) fn barrier(&mut self, pc: u32) {
        self.cells[pc as usize].barriers += 1;
    }

    pub(crate) fn launch_dependents(&mut self, pc: u32) {
        self.cells[pc as usize].dependents_launched += 1;
    }

    pub(crate) fn merge(&mut self, other: &Counters) {
        self.issued += other.issued;
        self.cells.iter_mut().zip(&other.cells).for_each(|(a, b)| *a += *b);
    }

    pub(crate) fn report(&self, kernel: &Kernel) -> CounterReport {
        let mut total = Mix::default();
        let mut lines: BTreeMap<(u32, u32), Mix> = BTreeMap::new();
        let mut matrix: BTreeMap<&str, Mix> = BTreeMap::new();
        let mut instructions = Vec::new();
        let program = &kernel.program;
        for (i, (cell, inst)) in self.cells.iter().zip(&program.insts).enumerate() {
            if cell.instructions == 0 {
                continue;
            }
            total += *cell;
            *lines.entry(inst.loc).or_default() += *cell;
            // The exit behind the last instruction is in no text.
            let Some(opcode) = program.opcodes.get(i).filter(|_| cell.is_of_interest()) else { continue };
            if cell.mma_instructions > 0 {
                *matrix.entry(opcode).or_default() += *cell;
            }
            let (file, line) = kernel.source(inst.loc);
            let (ptx_line, opcode) = (inst.line, opcode.clone());
            instructions.push(InstructionCounters { ptx_line, opcode, file, line, counts: *cell });
        }
        let lines = lines.into_iter().map(|(loc, counts)| {
            let (file, line) = kernel.source(loc);
            LineCounters { file, line, counts }
        });
        let matrix = matrix.into_iter().map(|(opcode, c)| MatrixCounters {
            opcode: opcode.to_string(),
            instructions: c.mma_instructions,
            flops: c.mma_flops,
        });
        CounterReport { total, lines: lines.collect(), matrix: matrix.collect(), instructions }
    }
}

impl Mix {
    /// Whether there is more to say of it than that it was issued.
    fn is_of_interest(&self) -> bool {
        let Mix { instructions, thread_instructions, divergent, .. } = *self;
        *self != Mix { instructions, thread_instructions, divergent, ..Mix::default() }
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
        self.global_ideal_sectors += other.global_ideal_sectors;
        self.global_store_requests += other.global_store_requests;
        self.global_store_sectors += other.global_store_sectors;
        self.global_ideal_store_sectors += other.global_ideal_store_sectors;
        self.shared_requests += other.shared_requests;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal_wavefronts += other.shared_ideal_wavefronts;
        self.mma_instructions += other.mma_instructions;
        self.mma_flops += other.mma_flops;
        self.bulk_bytes += other.bulk_bytes;
        self.bulk_load_bytes += other.bulk_load_bytes;
        self.bulk_store_bytes += other.bulk_store_bytes;
        self.barriers += other.barriers;
        self.dependents_launched += other.dependents_launched;
    }
}
