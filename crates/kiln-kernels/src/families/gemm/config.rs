//! What is decided about a product, and what is legal.

use super::Problem;
use super::product::Along;
use kiln_target::atoms::{MmaAtom, MmaKind};
use kiln_target::{BlockResources, Gpu};
use kiln_tile::passes::Machine;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a product is tiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Rows of a CTA's tile.
    pub bm: u32,
    /// Columns of a CTA's tile.
    pub bn: u32,
    /// Depth of a step.
    pub bk: u32,
    /// Warps that multiply.
    pub warps: u32,
    /// Steps whose operands are there or on their way.
    pub stages: u32,
    /// Rows of tiles that are taken before the next column of them.
    pub raster: u32,
    /// Whether a role of its own brings the operands.
    pub specialise: bool,
    /// Whether a CTA takes tile after tile.
    pub persistent: bool,
    /// Parts of the depth, each summed for itself and added by a second kernel.
    pub splits: u32,
    /// Whether the right operand gives the rows: the product is made transposed.
    pub swap: bool,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { bm, bn, bk, warps, stages, raster, specialise, persistent, splits, swap } = self;
        write!(f, "{bm}x{bn}x{bk}, {warps} warps, {stages} stages, raster {raster}")?;
        for (said, text) in [(*specialise, "specialised"), (*persistent, "persistent"), (*swap, "swapped")] {
            if said {
                write!(f, ", {text}")?;
            }
        }
        if *splits > 1 { write!(f, ", {splits} parts") } else { Ok(()) }
    }
}

/// How an operand's tiles come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feed {
    /// Element by element, or converted on the way.
    Computed,
    /// Through registers: rows are not aligned for more.
    Registers,
    /// By asynchronous copies of less than 16 bytes.
    Narrow,
    /// In rows that are multiples of 16 bytes apart.
    Wide,
}

/// Most 32-bit registers of a thread for sums.
const MOST_SUMS: u32 = 128;
/// The same and those of operands that travel through registers.
const MOST_HELD: u32 = 176;
/// Most stages.
const MOST_STAGES: u32 = 6;
/// Tiles along rows that are taken before the next column.
const RASTER: u32 = 8;
/// Rows up to which the right operand may give the rows.
pub const FEW_ROWS: f64 = 64.0;
/// Fewest steps of a part.
const LEAST_STEPS: f64 = 4.0;

impl Config {
    /// Threads of a CTA.
    pub fn threads(&self) -> u32 {
        32 * (self.warps + if self.specialise { 4 } else { 0 })
    }

    /// 32-bit registers of a thread for sums.
    pub fn sums(&self, problem: &Problem) -> u32 {
        self.bm * self.bn * (problem.sums.bits() / 32) / (32 * self.warps)
    }

    /// Elements of both operands' tiles of a step.
    fn elements(&self) -> [u32; 2] {
        let tiles = [self.bm * self.bk, self.bn * self.bk];
        if self.swap { [tiles[1], tiles[0]] } else { tiles }
    }

    /// Bytes of shared memory of a step's operands.
    pub fn step_bytes(&self, problem: &Problem) -> u32 {
        let bytes = |side: usize| self.elements()[side] * problem.types[side].bits() / 8;
        bytes(0) + bytes(1)
    }

    /// 32-bit registers of a thread for operands that travel through them; the assembler gives bytes one each.
    fn carried(&self, problem: &Problem) -> u32 {
        let words = |side: usize| {
            let (elements, bits) = (self.elements()[side], problem.types[side].bits());
            if bits == 8 { elements } else { elements * bits / 32 }
        };
        (words(0) + words(1)) / (32 * self.warps)
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self, problem: &Problem) -> u32 {
        // Where threads multiply, rows are padded by 16 bytes.
        let padded = if problem.tensor() { 0 } else { 16 * (self.bm + self.bn + 2 * self.bk) };
        let staged = if self.staged() { self.bm * self.bn * problem.stored_bytes } else { 0 };
        self.stages * (self.step_bytes(problem) + padded) + staged
    }

    /// Whether results leave through shared memory.
    pub fn staged(&self) -> bool {
        self.specialise && self.splits == 1
    }

    /// What a CTA takes of an SM.
    pub fn resources(&self, problem: &Problem) -> BlockResources {
        let held = problem.feeds.iter().filter(|feed| **feed <= Feed::Registers).count() as u32;
        let operands = if held > 0 { self.step_bytes(problem) / 4 / (32 * self.warps) } else { 0 };
        let registers = (self.sums(problem) + operands + 40).min(255);
        // Of roles, the ones that multiply have what the ones that copy give up.
        let registers = if self.specialise { 65536 / self.threads() / 8 * 8 } else { registers };
        BlockResources { threads: self.threads(), registers, shared_bytes: self.shared_bytes(problem) }
    }
}

/// All Configs.
pub fn space(problem: &Problem, gpu: &Gpu) -> Vec<Config> {
    let machine = Machine::new(gpu.arch);
    let [few, many] = problem.outer_sizes();
    let mut space = Space { problem, gpu, machine, found: vec![] };
    for swap in [false, true] {
        if swap && (few > FEW_ROWS || many <= few) {
            continue;
        }
        let sizes = if swap { [many, few] } else { [few, many] };
        for (bm, bn, warps) in tiles(problem.tensor(), swap) {
            // A tile that is mostly outside is for nothing.
            let idle = |tile: u32, size: f64, least: u32| tile > least && f64::from(tile) / 2.0 >= size;
            if idle(bm, sizes[0], 16) || idle(bn, sizes[1], if swap { 8 } else { 32 }) {
                continue;
            }
            for line in [64, 128] {
                let config = Config { bm, bn, bk: line / problem.widest(), warps, swap, ..smallest(problem) };
                space.plain(config);
                if line == 128 {
                    space.specialised(config);
                }
            }
        }
    }
    if space.found.is_empty() {
        space.found.push(smallest(problem));
    }
    space.found.sort();
    space.found.dedup();
    space.found
}

/// A Config whatever the sizes and types are: threads can multiply tiles of 16 by 32.
pub fn smallest(problem: &Problem) -> Config {
    Config {
        bm: 16,
        bn: 32,
        bk: 64 / problem.widest(),
        warps: 4,
        stages: 2,
        raster: RASTER,
        specialise: false,
        persistent: false,
        splits: 1,
        swap: false,
    }
}

/// Rows and columns of tiles, and warps.
fn tiles(tensor: bool, swap: bool) -> Vec<(u32, u32, u32)> {
    if !tensor {
        // A thread has a block of 8 by 8 at most.
        let all = [
            (128, 128, 8),
            (128, 64, 8),
            (64, 128, 8),
            (64, 64, 8),
            (64, 64, 4),
            (32, 64, 4),
            (32, 32, 4),
            (16, 32, 4),
            (16, 64, 4),
        ];
        return all.to_vec();
    }
    let rows: &[u32] = if swap { &[64, 128] } else { &[16, 32, 64, 128] };
    let columns: &[u32] = if swap { &[8, 16, 32, 64] } else { &[32, 64, 96, 128, 160, 192, 224, 256] };
    let pairs = rows.iter().flat_map(|bm| columns.iter().map(move |bn| (*bm, *bn)));
    pairs.flat_map(|(bm, bn)| [4, 8].map(|warps| (bm, bn, warps))).collect()
}

struct Space<'p> {
    problem: &'p Problem,
    gpu: &'p Gpu,
    machine: Machine,
    found: Vec<Config>,
}

impl Space<'_> {
    /// The instruction of a Config, if there is one that its warps share; tensor cores where the types have them.
    fn atom(&self, config: &Config) -> Option<MmaAtom> {
        let atom = self.problem.atom(config, &self.machine)?;
        let layouts = self.machine.dot_layouts(&atom, [config.bm, config.bn], config.warps, false);
        (layouts.is_ok() && (atom.kind != MmaKind::Fma || !self.problem.tensor())).then_some(atom)
    }

    /// One role that copies and multiplies.
    fn plain(&mut self, config: Config) {
        // Tiles that no power of two divides are for warpgroups fed by boxes.
        if !config.bn.is_power_of_two() || config.bn > 128 || self.atom(&config).is_none() {
            return;
        }
        let problem = self.problem;
        let asynchronous = self.machine.has_cp_async() && problem.feeds.iter().all(|feed| *feed >= Feed::Narrow);
        let held = config.sums(problem) + if asynchronous { 0 } else { config.carried(problem) };
        if config.sums(problem) > MOST_SUMS || held > MOST_HELD || config.sums(problem) == 0 {
            return;
        }
        // Two CTAs on an SM hide each other's epilogues.
        let budget = self.gpu.arch.max_shared_per_block();
        let depths: &[u32] = if asynchronous { &[3, 4] } else { &[2] };
        for &stages in depths {
            let config = Config { stages, ..config };
            if config.shared_bytes(problem) <= budget {
                self.parts(config);
            }
        }
    }

    /// A role that copies boxes, and warpgroups that multiply.
    fn specialised(&mut self, config: Config) {
        let problem = self.problem;
        let sides = if config.swap { [1, 0] } else { [0, 1] };
        let boxed = (0..2).all(|axis| self.boxed(sides[axis], [config.bm, config.bn][axis], config.bk));
        let wide = config.bm / 16 == config.warps && config.bm >= 64;
        if !self.machine.has_tma() || !boxed || !wide || config.sums(problem) > MOST_SUMS {
            return;
        }
        if self.atom(&config).is_none_or(|atom| atom.kind != MmaKind::Wgmma) {
            return;
        }
        let config = Config { specialise: true, persistent: true, ..config };
        let budget = self.gpu.arch.max_shared_per_block() - 1024;
        let fits = |stages: &u32| Config { stages: *stages, ..config }.shared_bytes(problem) <= budget;
        if let Some(stages) = (2..=MOST_STAGES).rev().find(fits) {
            self.parts(Config { stages, ..config });
        }
    }

    /// Whether an operand's tiles are boxes that the tensor memory accelerator brings.
    fn boxed(&self, side: usize, outer: u32, depth: u32) -> bool {
        let operand = &self.problem.product.operands[side];
        let Some((_, axes)) = &operand.lies else { return false };
        let extent = match axes.dense() {
            Some(Along::Depth) => depth,
            Some(Along::Outer(_)) => outer,
            _ => return false,
        };
        let line = extent * operand.dtype.bits() / 8;
        let whole = line.is_multiple_of(128) || line == 64 || line == 32;
        self.problem.feeds[side] == Feed::Wide && axes.0.len() <= 5 && whole && outer <= 256
    }

    /// A Config, and the same in parts where there are few tiles.
    fn parts(&mut self, config: Config) {
        self.found.push(config);
        let tiles = self.problem.tiles(&config);
        let steps = (self.problem.depth_size() / f64::from(config.bk)).ceil();
        for splits in [2, 4, 8, 16] {
            let parts = f64::from(splits);
            if tiles * parts <= 2.0 * f64::from(self.gpu.sms) && steps / parts >= LEAST_STEPS {
                self.found.push(Config { splits, persistent: false, ..config });
            }
        }
    }
}
