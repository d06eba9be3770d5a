//! Layouts of matrix products: who holds which accumulators, and how shared tiles are stored for them.

use crate::dtype::DType;
use crate::error::{Result, TileError};
use crate::expr::Expr;
use crate::program::{Buffer, Program, Scope};
use kiln_target::arch::Arch;

/// How an `[M, N]` accumulator is divided among the threads of a block. Each thread holds `registers` of them, indexed
/// `[mi][ni][r]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiled {
    /// Warps of `mma.sync` m16n8 accumulators (PTX ISA, "Matrix Fragments for mma.m16n8k16").
    Mma {
        /// Warps along N.
        warps_n: u32,
        /// m16 blocks of a warp.
        mi: u32,
        /// n8 blocks of a warp.
        ni: u32,
    },
    /// Threads with rows interleaved and columns dealt in runs.
    Simt {
        /// Threads along N.
        threads_n: u32,
        /// Rows of a thread.
        mi: u32,
        /// Runs of columns of a thread.
        ni: u32,
        /// Columns of a run.
        run: u32,
    },
}

impl Tiled {
    /// Extents of a thread's registers.
    pub fn registers(self) -> [u64; 3] {
        match self {
            Tiled::Mma { mi, ni, .. } => [mi.into(), ni.into(), 4],
            Tiled::Simt { mi, ni, run, .. } => [mi.into(), ni.into(), run.into()],
        }
    }

    /// Neighbouring columns that a thread handles together.
    pub fn lanes(self) -> u32 {
        match self {
            Tiled::Mma { .. } => 2,
            Tiled::Simt { run, .. } => run,
        }
    }

    /// The rows that a thread has a part of, if each lies within one warp.
    pub fn rows(self) -> Option<TiledSlice> {
        match self {
            Tiled::Mma { warps_n: 1, mi, .. } => Some(TiledSlice { mi, halves: 2, lanes: 4 }),
            Tiled::Simt { threads_n, mi, .. } if threads_n <= 32 => {
                Some(TiledSlice { mi, halves: 1, lanes: threads_n })
            }
            _ => None,
        }
    }
}

/// The rows of an accumulator that a thread has a part of; the same for accumulators of different widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TiledSlice {
    /// Rows, or m16 blocks.
    pub mi: u32,
    /// Rows of each: an m16 block has two.
    pub halves: u32,
    /// Neighbouring threads that share a row.
    pub lanes: u32,
}

/// How a shared tile is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedLayout {
    /// 16-byte chunks permuted within each row, so that `ldmatrix` meets every bank once.
    Swizzled {
        /// Row length in elements.
        cols: u32,
    },
    /// Rows this many elements apart.
    Padded {
        /// Elements from one row to the next.
        stride: u32,
    },
}

/// A product's layouts: of the accumulator, of `a`, of `b`.
pub type GemmLayout = (Tiled, SharedLayout, SharedLayout);

/// Chooses the layouts of `acc += a * b`; with `whole` every row of the accumulator lies within one warp.
pub fn gemm(
    program: &Program,
    arch: Arch,
    (acc, whole): (&Buffer, bool),
    (a, ta): (&Buffer, bool),
    (b, tb): (&Buffer, bool),
) -> Result<GemmLayout> {
    let extent = |buffer: &Buffer, i: usize| buffer.shape[i].as_const().unwrap_or(0) as u32;
    let (m, n) = (extent(acc, 0), extent(acc, 1));
    let k = extent(a, usize::from(!ta));
    let tensor = arch.mma(b.dtype).is_some();
    let refuse = |what: String, help: &str| TileError::Invalid {
        kernel: program.name.clone(),
        what,
        place: acc.name.clone(),
        help: help.to_owned(),
    };
    if a.scope == Scope::Fragment && !tensor {
        return Err(refuse(
            format!("{arch} has no tensor cores for {}", b.dtype),
            "store the left operand in a shared tile",
        ));
    }
    let tiled = match tensor {
        true => mma(program.threads, m, n, k, whole),
        false => simt(program.threads, m, n, acc.dtype, tb, whole),
    };
    let Some(tiled) = tiled else {
        let what = format!("a {m}x{n}x{k} product cannot be divided among {} threads", program.threads);
        return Err(refuse(what, "tensor cores take multiples of 16 x 16 x 16 a warp; otherwise use powers of two"));
    };
    let [mi, ni, r] = tiled.registers();
    let words = mi * ni * r * u64::from(acc.dtype.bits()) / 32;
    if words > 128 {
        let what = format!("{words} accumulator registers a thread would spill");
        return Err(refuse(what, "use more threads or a smaller tile"));
    }
    let shared = |buffer: &Buffer, k_inner: bool| {
        let cols = extent(buffer, 1);
        if tensor {
            SharedLayout::Swizzled { cols }
        } else {
            // Threads read down a column of a tile whose rows run along K: an odd stride spreads them over the banks.
            SharedLayout::Padded { stride: if k_inner { cols | 1 } else { cols } }
        }
    };
    Ok((tiled, shared(a, !ta), shared(b, tb)))
}

/// The warp arrangement that reads the least shared memory.
fn mma(threads: u32, m: u32, n: u32, k: u32, whole: bool) -> Option<Tiled> {
    let warps = threads / 32;
    let fits = |warps_m: &u32| {
        let warps_n = warps / warps_m;
        (!whole || warps_n == 1)
            && warps.is_multiple_of(*warps_m)
            && m.is_multiple_of(warps_m * 16)
            && n.is_multiple_of(warps_n * 16)
    };
    let best = (1..=warps).filter(fits).min_by_key(|warps_m| m / warps_m + n / (warps / warps_m))?;
    let warps_n = warps / best;
    k.is_multiple_of(16).then_some(Tiled::Mma { warps_n, mi: m / best / 16, ni: n / warps_n / 8 })
}

/// The thread arrangement that reads the least shared memory.
fn simt(threads: u32, m: u32, n: u32, acc: DType, transpose_b: bool, whole: bool) -> Option<Tiled> {
    // A run is one 16-byte read of b, if its columns are neighbours.
    let run = if transpose_b { 1 } else { 128 / acc.bits() };
    let fits = |threads_n: &u32| {
        let threads_m = threads / threads_n;
        threads_n.is_power_of_two()
            && (!whole || *threads_n <= 32)
            && threads.is_multiple_of(*threads_n)
            && m.is_multiple_of(threads_m)
            && n.is_multiple_of(threads_n * run)
    };
    let best = (1..=threads).rev().filter(fits).min_by_key(|threads_n| m / (threads / threads_n) + n / threads_n)?;
    Some(Tiled::Simt { threads_n: best, mi: m / (threads / best), ni: n / (best * run), run })
}

impl SharedLayout {
    /// Elements that a tile of this shape takes, a multiple of 16 bytes so that tiles can stand in a row.
    pub fn elements(self, buffer: &Buffer) -> u64 {
        let rows = buffer.shape.first().and_then(Expr::as_const).unwrap_or(0) as u64;
        let stride = match self {
            SharedLayout::Swizzled { cols } => cols,
            SharedLayout::Padded { stride } => stride,
        };
        let chunk = u64::from(128 / buffer.dtype.bits());
        (rows * u64::from(stride)).next_multiple_of(chunk)
    }
}
