//! What is decided about a product.

use super::Problem;
use kiln_target::BlockResources;
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
    /// How CTAs share the depth of a tile.
    pub depth: Depth,
    /// Threads that share the depth of a column where elements of operands meet in registers, without instructions on matrices; 0: they meet
    /// in tiles.
    pub lanes: u32,
    /// Whether the right operand gives the rows: the product is made transposed.
    pub swap: bool,
    /// CTAs of a cluster along rows and along columns, one of them 1: those along rows share columns, of which each brings a part to all.
    pub cluster: [u32; 2],
    /// Whether two tiles are in work, of which one multiplies while the other's results leave; each has as many warps.
    pub ping_pong: bool,
}

/// How CTAs share the depth of a tile. Sums are always added in the order of the depth, or in its reverse: the same bits in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// One has all of it.
    Whole,
    /// So many parts, each summed for itself; a second kernel adds them ("parallel split-K").
    Parts(u32),
    /// So many parts, whose CTAs add to the same sums one after another ("serial split-K").
    Turns(u32),
    /// So many CTAs, each of which has as many steps as the others, through tile after tile; those of one tile add to the same sums one after
    /// another (Osama et al., "Stream-K", PPoPP 2023).
    Stream(u32),
}

impl Depth {
    /// Parts of a tile, if each has as many.
    pub fn parts(self) -> u32 {
        match self {
            Depth::Whole | Depth::Stream(_) => 1,
            Depth::Parts(parts) | Depth::Turns(parts) => parts,
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            bm,
            bn,
            bk,
            warps,
            stages,
            raster,
            specialise,
            persistent,
            depth,
            lanes,
            swap,
            cluster,
            ping_pong,
        } = self;
        write!(f, "{bm}x{bn}x{bk}, {warps} warps")?;
        match lanes {
            0 => write!(f, ", {stages} stages, raster {raster}")?,
            lanes => write!(f, ", {lanes} lanes a column")?,
        }
        let said =
            [(*specialise, "specialised"), (*persistent, "persistent"), (*swap, "swapped"), (*ping_pong, "ping-pong")];
        for (said, text) in said {
            if said {
                write!(f, ", {text}")?;
            }
        }
        if self.ctas() > 1 {
            write!(f, ", clusters of {}x{}", cluster[0], cluster[1])?;
        }
        match depth {
            Depth::Whole => Ok(()),
            Depth::Parts(parts) => write!(f, ", {parts} parts"),
            Depth::Turns(parts) => write!(f, ", in {parts} turns"),
            Depth::Stream(ctas) => write!(f, ", streamed by {ctas}"),
        }
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

/// Rows up to which the right operand may give the rows.
pub const FEW_ROWS: f64 = 64.0;
/// Tiles along rows that are taken before the next column.
pub const RASTER: u32 = 16;

impl Config {
    /// Threads of a CTA.
    pub fn threads(&self) -> u32 {
        32 * (self.tiles() * self.warps + if self.specialise { 4 } else { 0 })
    }

    /// Tiles that a CTA has in work.
    pub fn tiles(&self) -> u32 {
        1 + u32::from(self.ping_pong)
    }

    /// 32-bit registers of a thread for sums.
    pub fn sums(&self, problem: &Problem) -> u32 {
        // Of a column that threads share each has the sums of its own elements of a step.
        let each = if self.lanes > 0 { self.bk } else { 1 };
        problem.contractions() * self.bm * self.bn * each * (problem.sums.bits() / 32) / (32 * self.warps)
    }

    /// Which operand gives the rows of tiles, 0 or 1, and which the columns.
    pub fn sides(&self) -> [usize; 2] {
        if self.swap { [1, 0] } else { [0, 1] }
    }

    /// Elements of the tiles of a step of the operands on either side.
    fn elements(&self, problem: &Problem) -> [u32; 2] {
        let outer = if self.swap { [self.bn, self.bm] } else { [self.bm, self.bn] };
        [0, 1].map(|side| problem.operands(side) * outer[side] * self.bk)
    }

    /// CTAs of a cluster.
    pub fn ctas(&self) -> u32 {
        self.cluster[0] * self.cluster[1]
    }

    /// Bytes of a step's operands that a CTA asks for itself; of what a cluster shares its part.
    pub fn asked_bytes(&self, problem: &Problem) -> u32 {
        let sides = self.sides();
        let elements = self.elements(problem);
        let part = |axis: usize| elements[sides[axis]] * problem.types[sides[axis]].bits() / 8 / self.cluster[1 - axis];
        part(0) + part(1)
    }

    /// Bytes of shared memory of a step's operands.
    pub fn step_bytes(&self, problem: &Problem) -> u32 {
        let bytes = |side: usize| self.elements(problem)[side] * problem.types[side].bits() / 8;
        bytes(0) + bytes(1)
    }

    /// 32-bit registers of a thread for operands that travel through them; the assembler gives bytes one each. What is made of others is there beside those.
    pub fn carried(&self, problem: &Problem) -> u32 {
        let words = |side: usize| {
            let (elements, bits) = (self.elements(problem)[side], problem.types[side].bits());
            match problem.product.operands[side].is_made() {
                true => 2 * elements * bits.max(32) / 32,
                false if bits == 8 => elements,
                false => elements * bits / 32,
            }
        };
        (words(0) + words(1)) / (32 * self.warps)
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self, problem: &Problem) -> u32 {
        if self.lanes > 0 {
            return 0;
        }
        // Where threads multiply, rows are padded by 16 bytes.
        let sides = self.sides();
        let padding = |axis: usize| 16 * problem.operands(sides[axis]) * ([self.bm, self.bn][axis] + self.bk);
        let padded = if problem.tensor() { 0 } else { padding(0) + padding(1) };
        let staged = if self.staged(problem) { self.tiles() * self.bm * self.bn * problem.stored_bytes } else { 0 };
        self.stages * (self.step_bytes(problem) + padded) + staged
    }

    /// Whether results leave through shared memory. Those of 32 bits fill whole sectors as warps hold them, and more stages are worth more.
    pub fn staged(&self, problem: &Problem) -> bool {
        self.specialise && !matches!(self.depth, Depth::Parts(_)) && problem.narrow
    }

    /// What a CTA takes of an SM.
    pub fn resources(&self, problem: &Problem) -> BlockResources {
        let held = problem.feeds.iter().filter(|feed| **feed <= Feed::Registers).count() as u32;
        let operands = self.step_bytes(problem) / 4 / (32 * self.warps);
        // Half of a step's operands wait where nothing else is done.
        let beside = match (self.lanes, held) {
            (0, 0) => 40,
            (0, _) => operands + 40,
            _ => operands / 2 + 20,
        };
        let registers = (self.sums(problem) + beside).min(255);
        // Of roles, the ones that multiply have what the ones that copy give up.
        let registers = if self.specialise { 65536 / self.threads() / 8 * 8 } else { registers };
        BlockResources { threads: self.threads(), registers, shared_bytes: self.shared_bytes(problem) }
    }
}
