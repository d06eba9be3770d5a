//! Matrix multiplication of strided operands: packed panels, a register-tiled microkernel, one call a thread.

mod float;
mod int;

pub(crate) use float::{Target, gemm_f32, gemm_f64};
pub(crate) use int::{dot_i16, dot_i32, dot_i64};

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
}

/// Cache blocking of one thread's product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocking {
    pub(crate) mc: usize,
    pub(crate) kc: usize,
    pub(crate) nc: usize,
}

/// Panels are padded to whole register tiles, which are at most this large on any machine.
const PAD: usize = 64;

impl Blocking {
    /// Blocks for a product of this size: a panel of B in the L2 cache, a micropanel of it in the L1 cache.
    pub(crate) fn new(m: usize, n: usize, k: usize) -> Blocking {
        let kc = k.div_ceil(k.div_ceil(320).max(1)).max(1);
        Blocking { mc: m.clamp(1, 144), kc, nc: n.clamp(1, 512) }
    }

    /// Elements of packing space.
    pub(crate) fn packing(&self) -> usize {
        self.kc * (self.mc + PAD + self.nc + PAD)
    }
}
