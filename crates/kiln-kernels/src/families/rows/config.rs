//! What is decided about rows.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a CTA takes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Whether a row is one tile.
    pub whole: bool,
    /// Elements of a row that are there at a time in one CTA.
    pub columns: u32,
    /// Rows of a CTA.
    pub rows: u32,
    /// Threads that lie along the axis that is contiguous in memory.
    pub row_threads: u32,
    /// Warps of a CTA.
    pub warps: u32,
    /// CTAs of a cluster, which share a row.
    pub cluster: u32,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { whole, columns, rows, row_threads, warps, cluster } = self;
        let held = if *whole { "whole, " } else { "in chunks, " };
        write!(f, "{rows} rows {held}{columns} columns, {row_threads} threads a line, {warps} warps")?;
        if *cluster > 1 { write!(f, ", clusters of {cluster}") } else { Ok(()) }
    }
}

impl Config {
    /// Threads of a CTA.
    pub fn threads(&self) -> u32 {
        32 * self.warps
    }

    /// Elements of a row that are there at a time in the cluster.
    pub fn span(&self) -> u32 {
        self.columns * self.cluster
    }

    /// Threads of a CTA that share one row.
    pub fn sharing(&self, shape: &Shape) -> u32 {
        if shape.contiguous { self.row_threads } else { self.threads() / self.row_threads }
    }
}

/// What of a problem its Configs depend on.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Whether neighbours of a row are neighbours in memory.
    pub contiguous: bool,
    /// Elements of a row, if that is known.
    pub longest: Option<u64>,
    /// Most elements of a row.
    pub bounded: i64,
    /// Elements of a typical row.
    pub typical: u64,
    /// What the extent of the contiguous axis is a multiple of.
    pub multiple: u64,
    /// Bytes of the narrowest operand with an element for each of the rows' elements.
    pub narrow: u32,
    /// 32-bit registers that an element takes for as long as its row is there.
    pub words: u32,
    /// Whether CTAs run in clusters.
    pub clusters: bool,
}

/// Most 32-bit registers of a thread for elements of rows.
const MOST_WORDS: u32 = 96;
/// Longest row that a CTA holds whole, and longest that no cluster shares.
const MOST_COLUMNS: u32 = 32 << 10;
const LONG: u64 = 16 << 10;
/// Registers that the threads of a CTA have together, and what each needs beside its elements.
const REGISTERS: u32 = 64 << 10;
const BESIDE: u32 = 28;

impl Shape {
    /// Elements of the widest access.
    pub fn vector(&self) -> u32 {
        let aligned = 1 << self.multiple.trailing_zeros().min(4);
        (16 / self.narrow.min(16)).min(aligned)
    }

    /// All Configs.
    pub fn space(&self) -> Vec<Config> {
        let mut space = vec![];
        for warps in [4, 8, 16, 32] {
            for shift in 0..=10 {
                let row_threads = 1 << shift;
                if row_threads <= 32 * warps {
                    self.with(warps, row_threads, &mut space);
                }
            }
        }
        if space.is_empty() {
            self.smallest(&mut space);
        }
        space
    }

    fn with(&self, warps: u32, row_threads: u32, space: &mut Vec<Config>) {
        let (threads, vector) = (32 * warps, self.vector());
        let (teams, line) = (threads / row_threads, row_threads * vector);
        let mut add_to = |cluster, whole, columns: u32, rows: u32| {
            let elements = u64::from(columns) * u64::from(rows) / u64::from(threads);
            let most = (REGISTERS / threads).min(MOST_WORDS + BESIDE) - BESIDE;
            if elements >= 1 && elements * u64::from(self.words) <= most.into() {
                space.push(Config { whole, columns, rows, row_threads, warps, cluster });
            }
        };
        let length = self.longest.unwrap_or(self.typical);
        let held = u32::try_from(length).ok().filter(|length| *length <= MOST_COLUMNS);
        if self.clusters && self.contiguous && length > LONG && teams == 1 {
            for cluster in [2, 4, 8] {
                let (line, ctas) = (u64::from(line), u64::from(cluster));
                // Less than half of it pads the row.
                let part = length.div_ceil(ctas).next_multiple_of(line);
                if let (Ok(columns), true) = (u32::try_from(part), part * ctas < 2 * length) {
                    add_to(cluster, true, columns, 1);
                }
                if 4 * line * ctas < length {
                    add_to(cluster, false, 4 * line as u32, 1);
                }
            }
        }
        let mut add = |whole, columns, rows| add_to(1, whole, columns, rows);
        if self.contiguous {
            // A line of accesses, as often as the row needs it; no more threads than have something to do.
            if let Some(length) = held
                && (line < 2 * length || row_threads == 1)
            {
                add(true, length.next_multiple_of(line), teams);
            }
            // All threads take long rows together: ptxas spills where several teams walk them.
            let together = teams == 1 || length <= LONG;
            if row_threads >= 32 && together && (self.longest.is_none() || u64::from(line) < length) {
                [1, 2, 4].into_iter().for_each(|accesses| add(false, line * accesses, teams));
            }
        } else if row_threads * vector <= 128 && row_threads >= 8 {
            if let Some(length) = held {
                add(true, length.next_multiple_of(teams), row_threads * vector);
            }
            if self.longest.is_none() || u64::from(teams) < length {
                [1, 2, 4, 8].into_iter().for_each(|steps| add(false, teams * steps, row_threads * vector));
            }
        }
    }

    /// One Config for elements so large that no other is.
    fn smallest(&self, space: &mut Vec<Config>) {
        let (rows, columns) = if self.contiguous { (4, 32) } else { (32, 4) };
        space.push(Config { whole: false, columns, rows, row_threads: 32, warps: 4, cluster: 1 });
    }
}
