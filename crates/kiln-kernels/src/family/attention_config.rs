//! The Config of an attention kernel, the space of legal ones, and the order in which they are worth trying.

use super::gemm_config::Range;
use kiln_target::arch::Arch;
use serde::{Deserialize, Serialize};

/// How attention is tiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttentionConfig {
    /// Rows of a block's tile of scores.
    pub rows: u32,
    /// Columns of it: keys of one step.
    pub keys: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Tiles in flight.
    pub stages: u32,
}

/// What the choice of a Config depends on: extents, those of a head padded.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub arch: Arch,
    pub batch: Range,
    pub rows: Range,
    pub depth: u32,
    pub columns: u32,
    /// Whether keys and values go from memory to their tiles without registers between.
    pub direct: bool,
}

/// `(rows, keys, threads)`; of those that cost the same, the faster on an H200 first.
const TILES: [(u32, u32, u32); 8] = [
    (128, 64, 128),
    (128, 128, 256),
    (64, 128, 128),
    (64, 64, 128),
    (32, 64, 64),
    (32, 32, 64),
    (16, 64, 32),
    (16, 16, 32),
];
/// The same where keys or values go through registers: a thread holds the next ones while it multiplies.
const TILES_NARROW: [(u32, u32, u32); 5] = [(64, 64, 128), (64, 32, 128), (128, 16, 256), (64, 16, 128), (32, 16, 64)];
/// Copies of a thread for one step; addresses of all, or what they bring, are in registers together.
const COPIES: u32 = 16;
/// Registers of a thread that accumulators may take.
const ACCUMULATORS: u32 = 144;
/// Blocks that keep a large GPU busy; past this many, they take turns.
const BUSY: i128 = 128;

impl Problem {
    /// The Configs that are legal here, those that should be fastest first.
    pub fn configs(&self) -> Vec<AttentionConfig> {
        let tiles: &[(u32, u32, u32)] = if self.direct { &TILES } else { &TILES_NARROW };
        let configs = tiles.iter().map(|&(rows, keys, threads)| AttentionConfig { rows, keys, threads, stages: 2 });
        let mut configs: Vec<AttentionConfig> = configs.filter(|config| self.fits(config)).collect();
        configs.sort_by_key(|config| (self.spare_copies(config), self.cost(config)));
        configs
    }

    /// Copies of a thread past [`COPIES`].
    fn spare_copies(&self, config: &AttentionConfig) -> u32 {
        let elements = config.keys * (self.depth + self.columns) / config.threads;
        (if self.direct { elements / 8 } else { elements }).saturating_sub(COPIES)
    }

    fn fits(&self, config: &AttentionConfig) -> bool {
        let AttentionConfig { rows, keys, threads, stages } = *config;
        let bytes = 2 * (rows * self.depth + stages * keys * (self.depth + self.columns));
        // An m16 block of a warp has half a register a column and thread.
        let registers = rows / 16 / (threads / 32) * (keys + self.columns) / 2;
        bytes <= self.arch.max_shared_per_block() && registers <= ACCUMULATORS
    }

    /// Relative time: rounds of blocks.
    fn cost(&self, config: &AttentionConfig) -> i128 {
        let middle = |(least, most): Range| (i128::from(least.max(1)) * i128::from(most.clamp(1, 1 << 12))).isqrt();
        let rows = i128::from(config.rows);
        let blocks = middle(self.batch) * ((middle(self.rows) + rows - 1) / rows);
        (blocks + BUSY - 1) / BUSY * (rows + 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(arch: Arch, batch: i64, rows: i64, head: u32) -> Problem {
        Problem { arch, batch: (batch, batch), rows: (rows, rows), depth: head, columns: head, direct: true }
    }

    #[test]
    fn every_head_fits_every_architecture() {
        for arch in Arch::ALL {
            for head in (16..=128).step_by(16) {
                for direct in [true, false] {
                    let problem = Problem { direct, ..problem(arch, 8, 128, head) };
                    assert!(!problem.configs().is_empty(), "{arch}, {head}, {direct}");
                }
            }
        }
    }

    #[test]
    fn few_blocks_have_few_rows() {
        let rows = |batch, rows| problem(Arch::Sm90a, batch, rows, 64).configs()[0].rows;
        assert!(rows(128, 4096) == 128 && rows(12, 128) <= 32, "{} {}", rows(128, 4096), rows(12, 128));
    }
}
