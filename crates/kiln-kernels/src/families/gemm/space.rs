//! Which Configs a product has.

use super::Problem;
use super::config::{Config, Depth, FEW_ROWS, Feed, RASTER};
use super::product::Along;
use crate::value::dims::multiple;
use kiln_target::Gpu;
use kiln_target::atoms::{MmaAtom, MmaKind};
use kiln_tile::passes::Machine;

/// Most 32-bit registers of a thread for sums.
const MOST_SUMS: u32 = 128;
/// The same where each of them is stored by itself, at a place and under a condition of its own.
const MOST_SCATTERED: u32 = 88;
/// The same of several contractions, of each of whose elements several may be stored.
const MOST_SCATTERED_TWINS: u32 = 64;
/// The same of several contractions, whose results meet, where registers hold more beside (operands, on their way or of threads that multiply; sums of
/// other CTAs) or are fewer (another tile is in work).
const MOST_TWINS: u32 = 96;
/// The same where sums of other CTAs are added.
const MOST_ADDED: u32 = 104;
/// The same where the epilogue reads whole tiles, each element under a condition or stored by itself, so that they are there at once.
const MOST_READ: u32 = 64;
/// The same for more than one of these reasons.
const MOST_READ_BESIDE: u32 = 48;
/// The same and those of operands that travel through registers.
const MOST_HELD: u32 = 176;
/// The same of a thread that shares the depth of columns: more would leave too few threads to keep memory busy.
const MOST_SHARED_SUMS: u32 = 64;
/// Most elements of a tile that multiplies what it reads so seldom that the level-2 cache may hold it up.
const SMALL: u32 = 128 * 128;
/// Rows of shared memory after which the order of a box's elements repeats.
const BOX_ROWS: u32 = 8;
/// Most stages.
const MOST_STAGES: u32 = 8;
/// Fewest steps of a part.
const LEAST_STEPS: f64 = 4.0;
/// Rows up to which threads may multiply without tiles: every row's sums are registers of their own.
const FEWEST_ROWS: f64 = 4.0;

/// All Configs.
pub fn space(problem: &Problem, gpu: &Gpu) -> Vec<Config> {
    let machine = Machine::new(gpu.arch);
    let mut space = Space { problem, gpu, machine, found: vec![] };
    for swap in [false, true] {
        space.lanes(swap);
        space.tiled(swap);
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
        depth: Depth::Whole,
        lanes: 0,
        swap: false,
        cluster: [1; 2],
        ping_pong: false,
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
    let rows: &[u32] = if swap { &[64, 128] } else { &[16, 32, 64, 128, 256] };
    // Columns in steps of 16, so that one of them divides the waves.
    let columns: Vec<u32> = if swap { vec![8, 16, 32, 64] } else { (2..=16).map(|sixteens| 16 * sixteens).collect() };
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
    /// Operands meet in tiles.
    fn tiled(&mut self, swap: bool) {
        let problem = self.problem;
        let [few, many] = problem.outer_sizes();
        if swap && (few > FEW_ROWS || many <= few) {
            return;
        }
        let sizes = if swap { [many, few] } else { [few, many] };
        for (bm, bn, warps) in tiles(problem.tensor(), swap) {
            // A tile that is mostly outside is for nothing.
            let idle = |tile: u32, size: f64, least: u32| tile > least && f64::from(tile) / 2.0 >= size;
            if idle(bm, sizes[0], 16) || idle(bn, sizes[1], if swap { 8 } else { 32 }) {
                continue;
            }
            // All few rows are in one tile: the other operand is read once.
            if swap && f64::from(bn) < few {
                continue;
            }
            for line in [64, 128] {
                let config = Config { bm, bn, bk: line / problem.widest(), warps, swap, ..smallest(problem) };
                self.plain(config);
                // Channels of images come in fewer whole lines than the depth of matrices.
                if line == 128 || problem.product.operands[0].windows.is_some() {
                    self.specialised(config);
                    self.alternating(config);
                }
            }
        }
    }

    /// Operands meet in registers: of few rows, whose other operand is read once, as fast as memory gives it.
    fn lanes(&mut self, swap: bool) {
        let problem = self.problem;
        let sides = if swap { [1, 0] } else { [0, 1] };
        let [few, many] = sides.map(|side| problem.outer_sizes()[side]);
        // Both are boxes along the depth, multiplied as they are.
        let along = |side: usize| {
            let operand = &problem.product.operands[side];
            let dense = operand.lies.as_ref().and_then(|(_, axes)| axes.dense());
            dense == Some(Along::Depth) && !operand.is_made()
        };
        if problem.groups.is_some() || few > FEWEST_ROWS || many < few || !along(0) || !along(1) {
            return;
        }
        let bm = (few as u32).next_power_of_two();
        let vector = 16 / problem.widest();
        for warps in [4, 8] {
            for lanes in [32, 32 * warps] {
                for (columns, runs) in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1)] {
                    let (bn, bk) = (columns * 32 * warps / lanes, lanes * vector * runs);
                    let config = Config { bm, bn, bk, warps, lanes, swap, stages: 1, raster: 0, ..smallest(problem) };
                    let idle = runs * lanes > 32 && f64::from(bk) / 2.0 >= problem.depth_size();
                    // Of 256 threads ptxas was seen to give each 64 registers, and to spill the sums of several contractions.
                    let crowded = problem.contractions() > 1 && warps > 4;
                    let most = if crowded { MOST_SHARED_SUMS / 2 } else { MOST_SHARED_SUMS };
                    if !idle && config.sums(problem) <= most {
                        self.found.push(config);
                    }
                }
            }
        }
    }

    /// The instruction of a Config, if there is one that its warps share; tensor cores where the types have them.
    fn atom(&self, config: &Config) -> Option<MmaAtom> {
        let atom = self.problem.atom(config, &self.machine)?;
        let layouts = self.machine.dot_layouts(&atom, [config.bm, config.bn], config.warps, false);
        let fits = layouts.is_ok() && (atom.kind != MmaKind::Fma || !self.problem.tensor());
        // What a warpgroup reads from shared memory lies in whole lines there, of 32 bytes at least.
        let lines = config.sides().into_iter().zip([config.bm, config.bn]).all(|(side, outer)| {
            let along = if self.problem.deep[side] { config.bk } else { outer };
            (along * self.problem.types[side].bits() / 8).is_multiple_of(32)
        });
        (fits && (lines || atom.kind != MmaKind::Wgmma)).then_some(atom)
    }

    /// Whether sums leave room in registers for what else is there, if there is more `beside` them.
    fn holds(&self, config: &Config, beside: bool) -> bool {
        let problem = self.problem;
        let columns = Along::Outer(config.sides()[1]);
        let ragged = multiple(&problem.product.extent(columns)) % i64::from(config.bn) != 0;
        let reasons = [ragged, problem.is_scattered()].into_iter().filter(|is| *is && problem.tiles_read > 0).count();
        let most = match problem.contractions() {
            _ if problem.groups.is_some() => MOST_SCATTERED,
            2.. if problem.is_scattered() => MOST_SCATTERED_TWINS,
            2.. if beside || problem.reads => MOST_TWINS,
            _ => match reasons + usize::from(reasons > 0 && beside) {
                0 => MOST_SUMS,
                1 => MOST_READ,
                _ => MOST_READ_BESIDE,
            },
        };
        config.sums(problem) <= most
    }

    /// One role that copies and multiplies.
    fn plain(&mut self, config: Config) {
        // Tiles that no power of two divides are for warpgroups fed by boxes.
        if !self.problem.one_group(&config) || !config.bn.is_power_of_two() || config.bn > 128 || config.bm > 128 {
            return;
        }
        let Some(atom) = self.atom(&config) else { return };
        let problem = self.problem;
        let asynchronous = self.machine.has_cp_async() && problem.feeds.iter().all(|feed| *feed >= Feed::Narrow);
        // Of narrow tiles that threads make the assembler lets products wait for each other (C7510).
        if !asynchronous && atom.kind == MmaKind::Wgmma && config.bn < 64 {
            return;
        }
        let sums = config.sums(problem);
        let held = if asynchronous { sums } else { sums + config.carried(problem) + problem.tiles_read * sums / 2 };
        let beside = !asynchronous || !problem.tensor();
        if !self.holds(&config, beside) || held > MOST_HELD || sums == 0 {
            return;
        }
        // Two CTAs on an SM hide each other's epilogues.
        let budget = self.gpu.arch.max_shared_per_block();
        let depths: &[u32] = if asynchronous { &[3, 4] } else { &[2] };
        for &stages in depths {
            let config = Config { stages, ..config };
            if config.shared_bytes(problem) <= budget {
                self.shared(config);
            }
        }
    }

    /// A role that copies boxes, and warpgroups that multiply.
    fn specialised(&mut self, config: Config) {
        let problem = self.problem;
        let sides = config.sides();
        let boxed = (0..2).all(|axis| self.boxed(sides[axis], [config.bm, config.bn][axis], config.bk));
        // A warpgroup has 64 rows, or 128.
        let rows = config.bm / (config.warps / 4);
        let wide = rows == 64 || rows == 128 && (config.bm == 256 || config.ping_pong);
        let boxed = boxed && problem.one_group(&config);
        if !self.machine.has_tma() || !boxed || !wide || !self.holds(&config, config.ping_pong) {
            return;
        }
        let config = Config { specialise: true, persistent: true, ..config };
        if self.atom(&config).is_none_or(|atom| atom.kind != MmaKind::Wgmma) {
            return;
        }
        let budget = self.gpu.arch.max_shared_per_block() - 1024;
        let fits = |stages: &u32| Config { stages: *stages, ..config }.shared_bytes(problem) <= budget;
        if let Some(stages) = (2..=MOST_STAGES).rev().find(fits) {
            let config = Config { stages, ..config };
            if config.ping_pong {
                self.found.push(config);
                return;
            }
            self.shared(config);
            self.clustered(config);
        }
    }

    /// The same by two warpgroups that have a tile each.
    fn alternating(&mut self, config: Config) {
        // Steps of groups are not as many in every tile; small tiles have little to store.
        if config.warps == 4 && config.bn >= 64 && !config.swap && self.problem.groups.is_none() {
            self.specialised(Config { ping_pong: true, ..config });
        }
    }

    /// Two CTAs that share the greater operand, or else the other, where tiles are so small that the level-2 cache holds them up.
    fn clustered(&mut self, config: Config) {
        let Config { bm, bn, bk, .. } = config;
        // Tiles of groups have matrices and depths of their own.
        if !self.machine.has_multicast()
            || self.problem.contractions() * bm * bn > SMALL
            || self.problem.groups.is_some()
        {
            return;
        }
        let (sides, sizes) = (config.sides(), self.problem.outer_sizes());
        // The axis along which CTAs are neighbours, and the other's operand, which they share: boxes are cut along their rows.
        let pairs = |axis: &usize| {
            let (side, outer) = (sides[1 - axis], [bm, bn][1 - axis]);
            let rows = if self.problem.deep[side] { outer } else { bk };
            // Of windows no parts are asked for.
            let whole = self.problem.product.operands[side].windows.is_none();
            whole && rows.is_multiple_of(2 * BOX_ROWS) && sizes[sides[*axis]] > f64::from([bm, bn][*axis])
        };
        let axis = if bn >= bm { [0, 1] } else { [1, 0] }.into_iter().find(pairs);
        if let Some(axis) = axis {
            let mut cluster = [1; 2];
            cluster[axis] = 2;
            self.found.push(Config { cluster, ..config });
        }
    }

    /// Whether an operand's tiles are boxes that the tensor memory accelerator brings.
    fn boxed(&self, side: usize, outer: u32, depth: u32) -> bool {
        let operand = &self.problem.product.operands[side];
        let line = |extent: u32| {
            let line = extent * operand.dtype.bits() / 8;
            line.is_multiple_of(128) || line == 64 || line == 32
        };
        if let Some(windows) = &operand.windows {
            let asked = self.machine.has_windows() && windows.boxed(depth);
            return asked && self.problem.feeds[side] == Feed::Wide && line(depth) && outer <= 256;
        }
        let Some((_, axes)) = &operand.lies else { return false };
        let extent = match axes.dense() {
            Some(Along::Depth) => depth,
            Some(Along::Outer(_)) => outer,
            _ => return false,
        };
        self.problem.feeds[side] == Feed::Wide && axes.0.len() <= 5 && line(extent) && outer <= 256
    }

    /// A Config, and the same with the depth shared where tiles do not fill the waves.
    fn shared(&mut self, config: Config) {
        self.found.push(config);
        if self.problem.groups.is_some() {
            return;
        }
        let added = self.holds(&config, true) && config.sums(self.problem) <= MOST_ADDED;
        let (tiles, sms) = (self.problem.tiles(&config), f64::from(self.gpu.sms));
        let steps = (self.problem.depth_size() / f64::from(config.bk)).ceil();
        for parts in [2, 4, 8, 16] {
            let each = steps / f64::from(parts);
            if tiles * f64::from(parts) <= 2.0 * sms && each >= LEAST_STEPS {
                let config = Config { persistent: false, ..config };
                self.found.push(Config { depth: Depth::Parts(parts), ..config });
                if parts <= 4 && added {
                    self.found.push(Config { depth: Depth::Turns(parts), ..config });
                }
            }
        }
        // The last wave is not full, and not one of many.
        let waves = tiles / sms;
        let uneven = waves > 0.5 && waves < 3.0 && waves.ceil() / waves > 1.25;
        if added && uneven && tiles * steps / sms >= LEAST_STEPS {
            self.found.push(Config { persistent: false, depth: Depth::Stream(self.gpu.sms), ..config });
        }
    }
}
