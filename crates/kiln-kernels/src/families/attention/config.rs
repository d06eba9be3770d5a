//! What is decided about an attention, and what is legal.

use super::Problem;
use super::streamed::Feed;
use kiln_target::atoms::MmaKind;
use kiln_target::{BlockResources, Gpu};
use kiln_tile::DType;
use kiln_tile::ir::Schedule;
use kiln_tile::passes::Machine;
use kiln_tile::passes::machine::DotShape;
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
    /// Steps whose keys and values are there or on their way.
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
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { bm, bn, warps, stages, persistent, overlap, specialise, staged, ping_pong } = self;
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
        Ok(())
    }
}

/// Queries of a CTA and the warps that share them: 16 rows of one or two instructions each.
const ROWS: [(u32, u32); 4] = [(128, 8), (64, 4), (32, 2), (16, 1)];
const KEYS: [u32; 5] = [16, 32, 64, 96, 128];
const STAGES: u32 = 2;
/// Whether a role brings the operands, whether results are staged, whether warpgroups take turns; what is better where the model sees no
/// difference comes first.
const WAYS: [(bool, bool, bool); 5] =
    [(true, true, false), (true, false, false), (true, true, true), (true, false, true), (false, false, false)];
/// Registers of a thread that copies and of one that multiplies, of two warpgroups.
const REGISTERS: (u32, u32) = (40, 232);
/// Most 32-bit registers of a thread for elements of tiles.
const MOST_HELD: u32 = 184;
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
            registers: (self.specialise && self.warps == 8).then_some(REGISTERS),
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
        // Sums of weighted values, scores, the weights that are multiplied, what scores are made of beside sums.
        let tiles = self.bm * columns + scores + scores / 2 + scores * problem.beside;
        // The next keys and values where threads load them: packed where an access brings several, else each with its addresses.
        let packed = problem.feeds[1..].iter().all(|feed| matches!(feed, Feed::Pieces(_) | Feed::Boxes(_)));
        let elements = self.bn * (depth + columns);
        let ahead = match packed {
            true if problem.direct() => 0,
            true => elements / 2,
            false => 4 * elements,
        };
        (tiles + ahead).div_ceil(threads)
    }

    /// Bytes of shared memory.
    fn shared_bytes(&self, problem: &Problem) -> u32 {
        let [depth, columns] = problem.heads.map(|extent| self.padded(extent));
        let operands = self.bm * depth + self.stages * self.bn * (depth + columns);
        let staged = if self.staged { self.bm * columns * problem.stored_bytes } else { 0 };
        operands * problem.streamed.dtype.bits() / 8 + staged
    }

    /// The worse of the instructions that its two dots become; `None` if one has none.
    pub fn kind(&self, problem: &Problem, machine: &Machine) -> Option<MmaKind> {
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

/// All Configs.
pub fn space(problem: &Problem, gpu: &Gpu) -> Vec<Config> {
    let machine = Machine::new(gpu.arch);
    let budget = gpu.arch.max_shared_per_block() - SLACK;
    let mut legal: Vec<Config> = vec![];
    for (bm, warps) in ROWS {
        for bn in KEYS {
            for (specialise, staged, ping_pong) in WAYS.into_iter().filter(|(_, _, turns)| !turns || warps == 8) {
                let (stages, persistent, overlap) = (STAGES, specialise, specialise);
                let config = Config { bm, bn, warps, stages, persistent, overlap, specialise, staged, ping_pong };
                let kind = config.kind(problem, &machine);
                let boxed = || machine.has_tma() && problem.boxed() && kind == Some(MmaKind::Wgmma) && bn >= 64;
                let plain = || bn.is_power_of_two() && kind.is_some_and(|kind| kind != MmaKind::Fma);
                if config.shared_bytes(problem) <= budget && if specialise { boxed() } else { plain() } {
                    legal.push(config);
                }
            }
        }
    }
    let fits = |config: &&Config| config.held(problem) <= MOST_HELD;
    let found: Vec<Config> = legal.iter().filter(fits).copied().collect();
    // Heads may be so large that nothing fits registers well.
    if found.is_empty() {
        legal.into_iter().min_by_key(|config| config.held(problem)).into_iter().collect()
    } else {
        found
    }
}
