//! Matrix multiplication of strided operands: packed panels, a register-tiled microkernel, one call a thread.

mod float;
mod int;
mod pack;

pub(crate) use float::{Target, gemm_f32, gemm_f64};
pub(crate) use int::{dot_i16, dot_i32, dot_i64};
pub(crate) use pack::{PANEL, Panels, Windows};

/// A strided matrix within a slice: element `(r, c)` is at `offset + r * row + c * col`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) offset: isize,
    pub(crate) row: isize,
    pub(crate) col: isize,
}

impl<T: Copy> Matrix<'_, T> {
    #[inline(always)]
    fn index(&self, r: usize, c: usize) -> usize {
        (self.offset + r as isize * self.row + c as isize * self.col) as usize
    }

    #[inline(always)]
    fn shifted(&self, r: usize, c: usize) -> Self {
        Matrix { offset: self.index(r, c) as isize, ..*self }
    }

    #[inline(always)]
    fn transposed(&self) -> Self {
        Matrix { row: self.col, col: self.row, ..*self }
    }
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Columns<'a, T> {
    Matrix(Matrix<'a, T>),
    Windows(Windows<'a, T>),
    Panels(Panels<'a, T>),
}

/// How a product is computed: by its size as a whole, so that cutting it into tasks changes no result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocking {
    /// Rows of the whole product.
    pub(crate) rows: usize,
    /// Rows of B in a block.
    pub(crate) kc: usize,
    /// Columns of B in a block.
    pub(crate) nc: usize,
}

/// Rows of B in a block at most: a panel of A of this width lies in the L1 cache, its rows at constant places.
const DEPTH: usize = 320;

/// Where the rows of a block lie.
type Lines = smallvec::SmallVec<[usize; DEPTH]>;
/// Rows of a register tile are at most this many on any machine.
const ROWS: usize = 12;
/// Columns of a register tile are at most this many on any machine.
const PAD: usize = PANEL;

impl Blocking {
    /// A block of B for the L2 cache, a panel of A for the L1 cache.
    pub(crate) fn new(m: usize, n: usize, k: usize) -> Blocking {
        let kc = k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1);
        Blocking { rows: m, kc, nc: n.clamp(1, 512) }
    }

    /// Elements of packing space.
    pub(crate) fn packing(&self) -> usize {
        DEPTH * ROWS + self.kc * (self.nc + PAD)
    }
}
