//! The Config of a convolution's matrix product, the space of legal ones, and the order in which they are worth trying.

use kiln_target::arch::Arch;
use kiln_tile::DType;
use serde::{Deserialize, Serialize};

/// How a convolution's product is tiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GemmConfig {
    /// Rows of a block's tile.
    pub tile_m: u32,
    /// Columns of a block's tile.
    pub tile_n: u32,
    /// Depth of one step.
    pub tile_k: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Tiles in flight; derived, not searched.
    pub stages: u32,
}

/// Least and greatest extent of a dimension.
pub type Range = (i64, i64);

/// In which order blocks take their tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whether the rows' tiles vary fastest, or the columns'.
    pub rows_first: bool,
    /// How many of the faster tiles before the slower one moves on; 0 for all.
    pub band: i64,
}

/// What the choice of a Config depends on: extents, and how operands are read.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub arch: Arch,
    /// Element type of shared tiles.
    pub tile: DType,
    pub accumulator: DType,
    pub batch: Range,
    pub m: Range,
    pub n: Range,
    pub k: Range,
    /// Whether the filter is read directly from memory in 16-byte vectors.
    pub direct: bool,
}

/// `(M, N, K, threads)` for tensor cores. An image arrives one element at a time: a thread holds at most 64 of them while it multiplies.
const TENSOR: [(u32, u32, u32, u32); 7] = [
    (128, 64, 32, 256),
    (128, 32, 32, 128),
    (64, 64, 32, 256),
    (64, 32, 32, 128),
    (32, 64, 32, 128),
    (16, 64, 32, 128),
    (32, 32, 128, 128),
];
/// Multiply-adds of threads.
const SIMT: [(u32, u32, u32, u32); 6] =
    [(128, 128, 8, 256), (64, 64, 16, 256), (32, 32, 32, 128), (32, 32, 16, 64), (16, 32, 32, 128), (8, 64, 16, 64)];
/// The same for 64-bit elements.
const SIMT_DOUBLE: [(u32, u32, u32, u32); 3] = [(64, 64, 8, 256), (32, 32, 8, 64), (8, 64, 8, 64)];

/// Where the extents that count end: a dimension without a bound is hardly ever longer.
const LARGE: i64 = 1 << 14;
/// Most tiles of a band.
const BAND: i64 = 16;
/// Blocks that keep a large GPU busy; past this many, they take turns.
const BUSY: i128 = 128;

impl Problem {
    fn tensor(&self) -> bool {
        self.arch.mma(self.tile).is_some()
    }

    /// The Configs that are legal here, those that should be fastest first.
    pub fn configs(&self) -> impl Iterator<Item = GemmConfig> {
        let tiles: &[(u32, u32, u32, u32)] = match self.tensor() {
            true => &TENSOR,
            false if self.accumulator.bits() == 64 => &SIMT_DOUBLE,
            false => &SIMT,
        };
        let mut configs: Vec<(f64, GemmConfig)> =
            tiles.iter().filter_map(|&tile| Some((0.0, self.config(tile)?))).collect();
        for sizes in self.sizes() {
            let costs: Vec<f64> = configs.iter().map(|(_, config)| self.cost(config, sizes) as f64).collect();
            let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
            configs.iter_mut().zip(costs).for_each(|((total, _), cost)| *total += cost / least);
        }
        configs.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        // A depth that one step covers needs no loop nest of steps; below 8 the loop nest of the other family is as good.
        let worth = self.k.1 >= 8;
        configs.into_iter().map(|(_, config)| config).filter(move |_| worth)
    }

    /// Sizes in the range that all count alike: `[batch, m, n, k]` from the least to the greatest by equal factors.
    fn sizes(&self) -> impl Iterator<Item = [i64; 4]> + use<> {
        let ranges = [self.batch, self.m, self.n, self.k];
        (0..=4).map(move |step| {
            ranges.map(|(least, most)| {
                let least = least.max(1);
                let (least, most) = (least as f64, most.clamp(least, LARGE.max(least)) as f64);
                (least * (most / least).powf(f64::from(step) / 4.0)).round() as i64
            })
        })
    }

    /// The Config of a tile, if its buffers fit.
    fn config(&self, (tile_m, tile_n, tile_k, threads): (u32, u32, u32, u32)) -> Option<GemmConfig> {
        // Images come through registers: two tiles alternate.
        let stages = 2;
        let bytes = stages * (tile_m * (tile_k + 1) + tile_n * (tile_k + 1)) * self.tile.bits() / 8;
        // Two blocks on an SM hide each other's epilogues.
        let budget = self.arch.shared_per_sm() / 2 - 1024;
        (bytes <= budget).then_some(GemmConfig { tile_m, tile_n, tile_k, threads, stages })
    }

    /// The order of blocks in which those that run together cover a patch that is nearly square, and read each operand from
    /// memory few times.
    pub fn order(&self, config: &GemmConfig) -> Order {
        let (tile_m, tile_n) = (i64::from(config.tile_m), i64::from(config.tile_n));
        let [_, m, n, _] = self.sizes().nth(2).unwrap_or([1; 4]);
        let rows_first = m / tile_m < n / tile_n;
        let ((least, most), tile) = if rows_first { (self.m, tile_m) } else { (self.n, tile_n) };
        // Whole bands only, so that no block is outside.
        let band = |tiles: i64| (2..=BAND).rev().find(|band| tiles % band == 0).unwrap_or(0);
        let tiles = most / tile + i64::from(most % tile > 0);
        Order { rows_first, band: if least == most && tiles > BAND { band(tiles) } else { 0 } }
    }

    /// Relative time: steps along K of rounds of blocks.
    fn cost(&self, config: &GemmConfig, [batch, m, n, k]: [i64; 4]) -> i128 {
        let GemmConfig { tile_m, tile_n, tile_k, threads, .. } = *config;
        let [tile_m, tile_n, tile_k, threads] = [tile_m, tile_n, tile_k, threads].map(i128::from);
        let tiles = |extent: i64, tile: i128| (i128::from(extent) + tile - 1) / tile;
        let blocks = i128::from(batch) * tiles(m, tile_m) * tiles(n, tile_n);
        let rounds = (blocks + BUSY - 1) / BUSY;
        let (products, left, right) = (tile_m * tile_n * tile_k, tile_m * tile_k, tile_n * tile_k);
        // Fitted to all Configs of 18 products and convolutions on an H200, in picoseconds. Blocks of a processor share its
        // issue slots; a lone block waits for what it loads, one step ahead.
        let gathered = (right + if self.direct { 0 } else { left }) / threads;
        let (busy, lone) = if self.tensor() {
            (products * 4 / 5 + 100 * (left + right) + 100 * gathered * threads, 500_000 + 130_000 * gathered)
        } else {
            // The fewer elements of the result a thread has, the more it reads from shared memory for each.
            (5 * products + 60 * threads * tile_k + 87 * (left + right), 450_000 + 50_000 * gathered)
        };
        // Of what only waits, the one with less to do.
        tiles(k, tile_k) * (lone.max(rounds * busy) + rounds * busy / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(arch: Arch, m: i64, n: i64, direct: bool) -> Problem {
        let [batch, m, n, k] = [1, m, n, 512].map(|extent| (extent, extent));
        Problem { arch, tile: DType::F16, accumulator: DType::F32, batch, m, n, k, direct }
    }

    #[test]
    fn shape_decides_the_tile() {
        let first = |p: Problem| p.configs().next().unwrap();
        // A small image of many channels: more blocks, each with fewer elements to gather.
        let image = Problem { k: (4608, 4608), ..problem(Arch::Sm90a, 512, 49, true) };
        assert_eq!(first(image).tile_n, 32);
        // Any number of rows: neither the tile for one of them nor that for thousands.
        let any = Problem { tile: DType::F32, m: (1, i64::MAX), n: (384, 384), ..problem(Arch::Sm90a, 1, 384, true) };
        assert!((16..=64).contains(&first(any).tile_m), "{:?}", first(any));
        let config = first(problem(Arch::Sm90a, 8192, 8192, true));
        assert_eq!(
            problem(Arch::Sm90a, 8192, 8192, true).order(&config),
            Order { rows_first: config.tile_m > config.tile_n, band: 16 }
        );
        assert_eq!(problem(Arch::Sm90a, 128, 8192, true).order(&config), Order { rows_first: true, band: 0 });
        let any = Problem { n: (1, i64::MAX), ..any };
        assert_eq!(any.order(&first(any)).band, 0);
        let tiny = Problem { k: (4, 4), ..problem(Arch::Sm80, 64, 64, true) };
        assert_eq!(tiny.configs().count(), 0);
    }

    #[test]
    fn buffers_fit_every_architecture() {
        for arch in Arch::ALL {
            for direct in [false, true] {
                for config in problem(arch, 4096, 4096, direct).configs() {
                    let bytes = config.stages * (config.tile_m + config.tile_n) * config.tile_k * 2;
                    assert!(bytes <= arch.max_shared_per_block(), "{arch} {config:?}");
                }
            }
        }
    }
}
