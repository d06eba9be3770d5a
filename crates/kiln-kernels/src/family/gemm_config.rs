//! The Config of a matrix product, the space of legal ones, and the order in which they are worth trying.

use kiln_target::arch::Arch;
use kiln_tile::DType;
use serde::{Deserialize, Serialize};

/// How a matrix product is tiled.
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

/// What the choice of a Config depends on: the greatest extents, and how operands are read.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub arch: Arch,
    /// Element type of shared tiles.
    pub tile: DType,
    pub accumulator: DType,
    pub batch: i64,
    pub m: i64,
    pub n: i64,
    pub k: i64,
    /// Whether both operands are read straight from memory in 16-byte vectors.
    pub wide: bool,
}

/// `(M, N, K, threads)` for tensor cores. M = 16 and 32 are for decoding and small batches.
const TENSOR: [(u32, u32, u32, u32); 6] = [
    (128, 128, 32, 256),
    (64, 128, 32, 128),
    (128, 32, 64, 128),
    (64, 64, 64, 128),
    (32, 64, 64, 64),
    (16, 64, 64, 64),
];
/// The same where operands arrive one element at a time, or computed: a thread holds at most 24 of them while it multiplies.
const TENSOR_NARROW: [(u32, u32, u32, u32); 4] =
    [(64, 64, 32, 256), (64, 32, 32, 128), (32, 64, 32, 128), (16, 64, 32, 128)];
/// Multiply-adds of threads.
const SIMT: [(u32, u32, u32, u32); 4] = [(128, 128, 8, 256), (64, 64, 16, 256), (32, 32, 16, 64), (8, 64, 16, 64)];
/// The same for 64-bit elements.
const SIMT_DOUBLE: [(u32, u32, u32, u32); 3] = [(64, 64, 8, 256), (32, 32, 8, 64), (8, 64, 8, 64)];

/// Blocks that keep a large GPU busy; past this many, they take turns.
const BUSY: i64 = 128;

impl Problem {
    fn tensor(&self) -> bool {
        self.tile == DType::F16 || self.tile == DType::BF16 && self.arch.has_bf16()
    }

    /// The Configs that are legal here, those that should be fastest first.
    pub fn configs(&self) -> impl Iterator<Item = GemmConfig> {
        let tiles: &[(u32, u32, u32, u32)] = match (self.tensor(), self.wide) {
            (true, true) => &TENSOR,
            (true, false) => &TENSOR_NARROW,
            (false, _) if self.accumulator.bits() == 64 => &SIMT_DOUBLE,
            (false, _) => &SIMT,
        };
        let mut configs: Vec<GemmConfig> = tiles.iter().filter_map(|&tile| self.config(tile)).collect();
        configs.sort_by_key(|config| self.cost(config));
        // A depth that one step covers needs no loop nest of steps; below 8 the loop nest of the other family is as good.
        let worth = self.k >= 8;
        configs.into_iter().filter(move |_| worth)
    }

    /// The Config of a tile, if its buffers fit.
    fn config(&self, (tile_m, tile_n, tile_k, threads): (u32, u32, u32, u32)) -> Option<GemmConfig> {
        // Copies in flight need `cp.async`; through registers, two tiles alternate.
        let most = if self.arch.has_cp_async() && self.wide { 4 } else { 2 };
        let bytes = |stages: u32| stages * (tile_m * (tile_k + 1) + tile_n * (tile_k + 1)) * self.tile.bits() / 8;
        // Two blocks on an SM hide each other's epilogues.
        let budget = self.arch.shared_per_sm() / 2 - 1024;
        let stages = (2..=most).rev().find(|&stages| bytes(stages) <= budget)?;
        Some(GemmConfig { tile_m, tile_n, tile_k, threads, stages })
    }

    /// Relative time: rounds of blocks, each as long as its multiply-adds take. Large tiles read less for each of them.
    fn cost(&self, config: &GemmConfig) -> i128 {
        let (tile_m, tile_n) = (i64::from(config.tile_m), i64::from(config.tile_n));
        let blocks = |extent: i64, tile: i64| (extent.clamp(1, 1 << 20) + tile - 1) / tile;
        let blocks =
            i128::from(self.batch.clamp(1, 1 << 20)) * i128::from(blocks(self.m, tile_m) * blocks(self.n, tile_n));
        let rounds = (blocks + i128::from(BUSY) - 1) / i128::from(BUSY);
        // Elements computed and elements read for each step along K.
        rounds * i128::from(tile_m * tile_n + 24 * (tile_m + tile_n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(arch: Arch, m: i64, n: i64, wide: bool) -> Problem {
        Problem { arch, tile: DType::F16, accumulator: DType::F32, batch: 1, m, n, k: 512, wide }
    }

    #[test]
    fn shape_decides_the_tile() {
        let first = |p: Problem| p.configs().next().unwrap();
        assert_eq!(first(problem(Arch::Sm90a, 8192, 8192, true)).tile_m, 128);
        assert!(first(problem(Arch::Sm80, 1, 4096, true)).tile_m == 16);
        assert!(first(problem(Arch::Sm80, 128, 384, true)).tile_m <= 64);
        assert_eq!(problem(Arch::Sm80, 64, 64, true).configs().count(), 6);
        assert!(problem(Arch::Sm80, 4096, 4096, false).configs().all(|c| c.stages == 2 && c.tile_k == 32));
        let tiny = Problem { k: 4, ..problem(Arch::Sm80, 64, 64, true) };
        assert_eq!(tiny.configs().count(), 0);
    }

    #[test]
    fn buffers_fit_every_architecture() {
        for arch in Arch::ALL {
            for wide in [false, true] {
                for config in problem(arch, 4096, 4096, wide).configs() {
                    let bytes = config.stages * (config.tile_m + config.tile_n) * config.tile_k * 2;
                    assert!(bytes <= arch.max_shared_per_block(), "{arch} {config:?}");
                    assert!(wide && arch.has_cp_async() || config.stages == 2);
                }
            }
        }
    }
}
