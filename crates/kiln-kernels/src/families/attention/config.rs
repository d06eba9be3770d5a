//! What is decided about an attention, and what is legal.

use super::Problem;
use super::streamed::Feed;
use kiln_target::atoms::MmaKind;
use kiln_target::{BlockResources, Gpu};
use kiln_tile::DType;
use kiln_tile::ir::Schedule;
use kiln_tile::passes::machine::{DotShape, fma_threads};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How an attention is tiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Queries of a CTA.
    pub bm: u32,
    /// Keys of a step.
    pub bn: u32,
    /// Warps that multiply.
    pub warps: u32,
    /// Steps whose keys and values are there or on their way; with one, they are brought when they are needed.
    pub stages: u32,
    /// Whether a CTA takes tile after tile.
    pub persistent: bool,
    /// Whether values are multiplied a step later, so that the softmax runs under products.
    pub overlap: bool,
    /// Whether a role of its own brings the operands.
    pub specialise: bool,
    /// Whether results leave through shared memory in whole boxes, for which all warps meet; else each thread writes its own.
    pub staged: bool,
    /// Whether two warpgroups take turns at the tensor cores.
    pub ping_pong: bool,
    /// CTAs that share the keys of a tile, each a range of them; a second kernel puts what they leave together ("split-KV").
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub parts: u32,
}

fn whole() -> u32 {
    1
}

fn is_whole(parts: &u32) -> bool {
    *parts == whole()
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { bm, bn, warps, stages, persistent, overlap, specialise, staged, ping_pong, parts } = self;
        write!(f, "{bm} queries, {bn} keys, {warps} warps, {stages} stages")?;
        let said = [
            (*specialise, "specialised"),
            (*persistent, "persistent"),
            (*overlap, "overlapped"),
            (*staged, "staged"),
            (*ping_pong, "in turns"),
        ];
        for (said, text) in said {
            if said {
                write!(f, ", {text}")?;
            }
        }
        if *parts > 1 { write!(f, ", {parts} parts") } else { Ok(()) }
    }
}

/// Queries of a CTA and the warps that share them where tensor cores multiply: 16 rows of one instruction each. Three warpgroups are for heads
/// that leave more to do between products than in them.
const ROWS: [(u32, u32); 5] = [(192, 12), (128, 8), (64, 4), (32, 2), (16, 1)];
/// The same where threads do, each a block of rows and columns.
const BLOCKS: [(u32, u32); 7] = [(128, 8), (64, 8), (64, 4), (32, 4), (32, 2), (16, 2), (16, 1)];
const KEYS: [u32; 5] = [16, 32, 64, 96, 128];
/// Whether a role brings the operands, whether results are staged, whether warpgroups take turns; what is better where the model sees no
/// difference comes first.
const WAYS: [(bool, bool, bool); 5] =
    [(true, true, false), (true, false, false), (true, true, true), (true, false, true), (false, false, false)];
/// Registers of a thread that copies and of one that multiplies, of two warpgroups and of three.
const REGISTERS: [(u32, u32); 2] = [(40, 232), (32, 160)];
/// Most 32-bit registers of a thread for elements of tiles.
const MOST_HELD: u32 = 184;
/// The same of three warpgroups.
const MOST_HELD_OF_THREE: u32 = 128;
/// The same where threads multiply: they have more addresses.
const MOST_HELD_OF_BLOCKS: u32 = 168;
/// Registers of these for places of what is staged by three warpgroups, or of what two have in turns.
const PLACES: u32 = 8;
/// Most registers of a thread for weighted sums beside which the assembler lets products run on where one warpgroup multiplies, or two take turns
/// (C7510).
const MOST_SUMS: u32 = 96;
/// Steps of the depth that a thread which multiplies takes at a time.
const RUN: u32 = 4;
/// Bytes of shared memory that places of buffers may lose to alignment.
const SLACK: u32 = 2048;

impl Config {
    /// Threads of a CTA.
    pub fn threads(&self) -> u32 {
        32 * (self.warps + if self.specialise { 4 } else { 0 })
    }

    /// An extent of a head, padded: to whole instructions, or to whole lines of boxes.
    pub fn padded(&self, extent: i64) -> u32 {
        let extent = u32::try_from(extent.max(1)).unwrap_or(u32::MAX / 2);
        match extent.next_multiple_of(16) {
            wide if wide > 32 && self.specialise => wide.next_multiple_of(64),
            wide if self.specialise => wide.next_power_of_two(),
            wide => wide,
        }
    }

    /// What passes are told.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            warps: self.warps,
            specialise: self.specialise,
            registers: match self.warps {
                8 if self.specialise => Some(REGISTERS[0]),
                12 if self.specialise => Some(REGISTERS[1]),
                _ => None,
            },
            persistent: self.persistent,
            staged_epilogue: self.staged,
            overlap: self.overlap,
            ping_pong: self.ping_pong,
            ..Schedule::default()
        }
    }

    /// What a CTA takes of an SM.
    pub fn resources(&self, problem: &Problem) -> BlockResources {
        let registers = match self.specialise {
            true => 65536 / self.threads() / 8 * 8,
            false => self.held(problem) + 48,
        };
        BlockResources {
            threads: self.threads(),
            registers: registers.min(255),
            shared_bytes: self.shared_bytes(problem),
        }
    }

    /// 32-bit registers of a thread for elements of tiles.
    fn held(&self, problem: &Problem) -> u32 {
        let threads = 32 * self.warps;
        let [depth, columns] = problem.heads.map(|extent| self.padded(extent));
        let scores = self.bm * self.bn;
        // Keys and values that threads load, packed where an access brings several, else each with its addresses: the next ones, or those that are
        // needed now.
        let packed = problem.feeds[1..].iter().all(|feed| matches!(feed, Feed::Pieces(_) | Feed::Boxes(_)));
        let loaded = |elements: u32| if packed { elements * problem.streamed.dtype.bits() / 32 } else { 4 * elements };
        let (ahead, now) = match self.stages {
            _ if problem.direct() => (0, 0),
            1 => (0, loaded(self.bn * depth.max(columns))),
            _ => (loaded(self.bn * (depth + columns)), 0),
        };
        // What scores are made of beside sums, and the weights that are multiplied, which threads that multiply read from shared memory.
        let more = scores * problem.beside + if problem.tensor() { scores / 2 } else { 0 };
        let more = more.max(threads * self.fetched(problem)).max(now);
        // What is staged is packed while sums are still there.
        let sums = self.bm * columns;
        let staged = if self.staged { sums * problem.stored_bytes / 4 } else { 0 };
        (sums + (scores + more + ahead).max(staged)).div_ceil(threads)
    }

    /// Registers of a thread that multiplies for rows and columns of operands: a few steps of the depth.
    fn fetched(&self, problem: &Problem) -> u32 {
        let blocks = self.blocks(problem).into_iter().flatten();
        blocks.map(|[rows, columns]| RUN * (rows + columns)).max().unwrap_or(0)
    }

    /// Rows and columns of each dot that a thread has; `None` where instructions on matrices multiply.
    pub fn blocks(&self, problem: &Problem) -> Option<[[u32; 2]; 2]> {
        if problem.tensor() {
            return None;
        }
        let [_, columns] = problem.heads.map(|extent| self.padded(extent));
        let [scores, sums] = [self.bn, columns].map(|columns| fma_threads([self.bm, columns], self.warps));
        let block = |[down, across]: [u32; 2], columns: u32| [self.bm.div_ceil(down), columns.div_ceil(across)];
        Some([block(scores, self.bn), block(sums, columns)])
    }

    /// Bytes of shared memory.
    fn shared_bytes(&self, problem: &Problem) -> u32 {
        let [depth, columns] = problem.heads.map(|extent| self.padded(extent));
        // What scores are made of beside sums comes to the threads that multiply through padded rows.
        let beside = if problem.beside > 0 { self.bm * (self.bn + 4) } else { 0 };
        let weights = if problem.tensor() { 0 } else { self.bm * self.bn + beside };
        let operands = self.bm * depth + self.stages * self.bn * (depth + columns) + weights;
        let staged = if self.staged { self.bm * columns * problem.stored_bytes } else { 0 };
        operands * problem.streamed.dtype.bits() / 8 + staged
    }

    /// The worse of the instructions that its two dots become; `None` if one has none.
    pub fn kind(&self, problem: &Problem) -> Option<MmaKind> {
        let machine = &problem.machine;
        let [depth, columns] = problem.heads.map(|extent| self.padded(extent));
        let dtype = problem.streamed.dtype;
        let dense = |feed: Feed, deep: usize| match feed {
            Feed::Elements => true,
            Feed::Registers(dense) | Feed::Pieces(dense) | Feed::Boxes(dense) => dense == deep,
        };
        let [query, key, value] = problem.feeds;
        let dots = [
            ([self.bm, self.bn, depth], [dense(query, 1), dense(key, 0)]),
            ([self.bm, columns, self.bn], [true, dense(value, 0)]),
        ];
        let mut worst = MmaKind::Wgmma;
        for (extents, k_major) in dots {
            let dot = DotShape { extents, types: [dtype, dtype, DType::F32], k_major, warps: self.warps, tf32: None };
            let atom = machine.dot_atom(&dot)?;
            machine.dot_layouts(&atom, [extents[0], extents[1]], self.warps, true).ok()?;
            worst = worst.min(atom.kind);
        }
        Some(worst)
    }
}

/// Into how many parts the keys of a tile can go: more while SMs have no tile, and each part has a step.
fn shares(problem: &Problem, config: &Config, gpu: &Gpu) -> impl Iterator<Item = u32> {
    let sms = f64::from(gpu.sms);
    let (tiles, steps) = (problem.tiles(config), problem.size(&problem.streamed.keys) / f64::from(config.bn));
    // What is staged or taken in turns is results; three warpgroups have no registers for the places of more than one.
    let whole = config.staged || config.ping_pong || config.warps == 12;
    let more = move |parts: &u32| !whole && tiles * f64::from(*parts) < 2.0 * sms && f64::from(*parts) <= steps;
    std::iter::once(1).chain([2, 4, 8, 16, 32, 64].into_iter().take_while(more))
}

/// All Configs.
pub fn space(problem: &Problem, gpu: &Gpu) -> Vec<Config> {
    let budget = gpu.arch.max_shared_per_block() - SLACK;
    let (rows, stages) = if problem.tensor() { (&ROWS[..], &[2][..]) } else { (&BLOCKS[..], &[2, 1][..]) };
    let mut legal: Vec<Config> = vec![];
    for &(bm, warps) in rows {
        for (bn, &stages) in KEYS.into_iter().flat_map(|bn| stages.iter().map(move |stages| (bn, stages))) {
            for (specialise, staged, ping_pong) in WAYS.into_iter().filter(|(_, _, turns)| !turns || warps == 8) {
                let (persistent, overlap) = (specialise, specialise);
                let parts = 1;
                let config =
                    Config { bm, bn, warps, stages, persistent, overlap, specialise, staged, ping_pong, parts };
                let kind = config.kind(problem);
                let [_, columns] = problem.heads.map(|extent| config.padded(extent));
                let flies = || bm * columns / (32 * warps) <= MOST_SUMS || warps == 8 && !ping_pong;
                let boxed = || {
                    problem.machine.has_tma() && problem.boxed() && kind == Some(MmaKind::Wgmma) && bn >= 64 && flies()
                };
                let plain = || {
                    bm.is_power_of_two()
                        && bn.is_power_of_two()
                        && kind.is_some_and(|kind| (kind != MmaKind::Fma) == problem.tensor())
                };
                if config.shared_bytes(problem) <= budget && if specialise { boxed() } else { plain() } {
                    legal.extend(shares(problem, &config, gpu).map(|parts| Config { parts, ..config }));
                }
            }
        }
    }
    let most = |config: &Config| match (problem.tensor(), config.warps) {
        (true, 12) => MOST_HELD_OF_THREE - if config.staged { PLACES } else { 0 },
        (true, _) => MOST_HELD - if config.ping_pong { PLACES } else { 0 },
        (false, _) => MOST_HELD_OF_BLOCKS,
    };
    let fits = |config: &&Config| config.held(problem) <= most(config);
    let found: Vec<Config> = legal.iter().filter(fits).copied().collect();
    // Heads may be so large that nothing fits registers well.
    if found.is_empty() {
        legal.into_iter().min_by_key(|config| config.held(problem)).into_iter().collect()
    } else {
        found
    }
}
