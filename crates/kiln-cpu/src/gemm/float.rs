//! f32 and f64 products.

use super::{Blocking, Matrix};
use crate::memory::Slot;
use pulp::{Arch, Simd, WithSimd};

/// Where a product goes: element `(r, c)` of the slot at `offset + r * row + c * col`.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) slot: Slot<'a>,
    pub(crate) offset: isize,
    pub(crate) row: isize,
    pub(crate) col: isize,
}

macro_rules! float_gemm {
    ($gemm:ident, $job:ident, $t:ident, $v:ident, $lanes:ident, $as_simd:ident, $as_mut_simd:ident, $splat:ident, $fma:ident, $add:ident, $sum:ident) => {
        /// `out[m, n] = a[m, k] * b[k, n]` on this thread. `packing` holds [`Blocking::packing`] elements.
        #[allow(clippy::too_many_arguments, reason = "the operands of a product")]
        pub(crate) fn $gemm(
            blocking: Blocking,
            m: usize,
            n: usize,
            k: usize,
            a: Matrix<'_, $t>,
            b: Matrix<'_, $t>,
            out: Target<'_>,
            packing: &mut [$t],
        ) {
            Arch::new().dispatch($job { blocking, m, n, k, a, b, out, packing });
        }

        struct $job<'a, 'p> {
            blocking: Blocking,
            m: usize,
            n: usize,
            k: usize,
            a: Matrix<'a, $t>,
            b: Matrix<'a, $t>,
            out: Target<'a>,
            packing: &'p mut [$t],
        }

        impl WithSimd for $job<'_, '_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                // Accumulators fill most of the register file: 32 registers on AVX-512, 16 elsewhere. Few rows take more columns.
                match self.m {
                    0 => {}
                    1..=4 if self.b.row == 1 && self.a.col == 1 => self.dots(simd),
                    1 => self.blocks::<S, 1, 4>(simd),
                    2..=4 => self.blocks::<S, 4, 2>(simd),
                    _ if S::$lanes * size_of::<$t>() == 64 => self.blocks::<S, 12, 2>(simd),
                    _ => self.blocks::<S, 6, 2>(simd),
                }
            }
        }

        impl $job<'_, '_> {
            /// A few rows of A against columns of B that are contiguous along K.
            #[inline(always)]
            fn dots<S: Simd>(self, simd: S) {
                const COLUMNS: usize = 4;
                let k = self.k;
                let last = self.n.saturating_sub(1);
                for c in (0..self.n).step_by(COLUMNS) {
                    let columns = [0, 1, 2, 3].map(|i| {
                        let at = self.b.index(0, (c + i).min(last));
                        S::$as_simd(&self.b.data[at..at + k])
                    });
                    for r in 0..self.m {
                        let at = self.a.index(r, 0);
                        let (row, tail) = S::$as_simd(&self.a.data[at..at + k]);
                        let mut acc = [simd.$splat(0.0); COLUMNS];
                        let [b0, b1, b2, b3] = columns.map(|(b, _)| &b[..row.len()]);
                        for i in 0..row.len() {
                            acc[0] = simd.$fma(row[i], b0[i], acc[0]);
                            acc[1] = simd.$fma(row[i], b1[i], acc[1]);
                            acc[2] = simd.$fma(row[i], b2[i], acc[2]);
                            acc[3] = simd.$fma(row[i], b3[i], acc[3]);
                        }
                        for i in 0..COLUMNS.min(self.n - c) {
                            let rest = tail.iter().zip(columns[i].1).fold(0.0, |s, (&x, &y)| s + x * y);
                            self.out.slot.put(self.out.at(r, c + i), simd.$sum(acc[i]) + rest);
                        }
                    }
                }
            }

            #[inline(always)]
            fn blocks<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
                let nr = NV * S::$lanes;
                let Blocking { mc, kc, nc } = self.blocking;
                if self.k == 0 {
                    for r in 0..self.m {
                        for c in 0..self.n {
                            self.out.slot.put(self.out.at(r, c), 0.0 as $t);
                        }
                    }
                    return;
                }
                let (pa, pb) = self.packing.split_at_mut(kc * mc.next_multiple_of(MR));
                // With few rows, packing B costs as much as using it: whole panels are then read where they are.
                let in_place = self.b.col == 1 && self.b.row >= nr as isize && self.m <= 2 * MR;
                for jc in (0..self.n).step_by(nc) {
                    let nb = nc.min(self.n - jc);
                    for pc in (0..self.k).step_by(kc) {
                        let kb = kc.min(self.k - pc);
                        let whole = if in_place { nb / nr * nr } else { 0 };
                        pack(&mut pb[whole * kb..], self.b.shifted(pc, jc + whole).transposed(), nb - whole, kb, nr);
                        for ic in (0..self.m).step_by(mc) {
                            let mb = mc.min(self.m - ic);
                            pack(pa, self.a.shifted(ic, pc), mb, kb, MR);
                            for j in (0..nb).step_by(nr) {
                                let (panel_b, step) = if j < whole {
                                    (&self.b.data[self.b.index(pc, jc + j)..], self.b.row as usize)
                                } else {
                                    (&pb[j * kb..(j + nr) * kb], nr)
                                };
                                for i in (0..mb).step_by(MR) {
                                    let panel_a = &pa[i * kb..(i + MR) * kb];
                                    let rows = MR.min(mb - i);
                                    let cols = nr.min(nb - j);
                                    Self::tile::<S, MR, NV>(
                                        simd,
                                        panel_a,
                                        (panel_b, step),
                                        self.out.shifted(ic + i, jc + j),
                                        rows,
                                        cols,
                                        pc > 0,
                                    );
                                }
                            }
                        }
                    }
                }
            }

            /// One register tile: `out = a * b`, or `+=` when `add`. Rows of B are `step` elements apart.
            #[inline(always)]
            fn tile<S: Simd, const MR: usize, const NV: usize>(
                simd: S,
                a: &[$t],
                (b, step): (&[$t], usize),
                out: Target<'_>,
                rows: usize,
                cols: usize,
                add: bool,
            ) {
                let mut acc = [[simd.$splat(0.0); NV]; MR];
                let nr = NV * S::$lanes;
                let (a, _) = a.as_chunks::<MR>();
                for (p, a) in a.iter().enumerate() {
                    let (b, _) = S::$as_simd(&b[p * step..p * step + nr]);
                    for i in 0..MR {
                        let x = simd.$splat(a[i]);
                        for j in 0..NV {
                            acc[i][j] = simd.$fma(x, b[j], acc[i][j]);
                        }
                    }
                }
                if rows == MR && cols == nr && out.col == 1 {
                    for (i, acc) in acc.iter().enumerate() {
                        let row: &mut [$t] = out.slot.range_mut(out.at(i, 0), nr);
                        let (row, _) = S::$as_mut_simd(row);
                        for j in 0..NV {
                            row[j] = if add { simd.$add(row[j], acc[j]) } else { acc[j] };
                        }
                    }
                    return;
                }
                for (i, acc) in acc.iter().enumerate().take(rows) {
                    let values: &[$t] = bytemuck::cast_slice(acc);
                    for (c, &v) in values[..cols].iter().enumerate() {
                        let at = out.at(i, c);
                        let old = if add { out.slot.range_mut::<$t>(at, 1)[0] } else { 0.0 };
                        out.slot.put(at, old + v);
                    }
                }
            }
        }
    };
}

float_gemm!(
    gemm_f32,
    JobF32,
    f32,
    f32s,
    F32_LANES,
    as_simd_f32s,
    as_mut_simd_f32s,
    splat_f32s,
    mul_add_e_f32s,
    add_f32s,
    reduce_sum_f32s
);
float_gemm!(
    gemm_f64,
    JobF64,
    f64,
    f64s,
    F64_LANES,
    as_simd_f64s,
    as_mut_simd_f64s,
    splat_f64s,
    mul_add_e_f64s,
    add_f64s,
    reduce_sum_f64s
);

impl Target<'_> {
    #[inline(always)]
    fn at(&self, r: usize, c: usize) -> usize {
        (self.offset + r as isize * self.row + c as isize * self.col) as usize
    }

    #[inline(always)]
    fn shifted(&self, r: usize, c: usize) -> Self {
        Target { offset: self.offset + r as isize * self.row + c as isize * self.col, ..*self }
    }
}

impl<T: Copy> Matrix<'_, T> {
    #[inline(always)]
    fn shifted(&self, r: usize, c: usize) -> Self {
        Matrix { offset: self.offset + r as isize * self.row + c as isize * self.col, ..*self }
    }

    #[inline(always)]
    fn transposed(&self) -> Self {
        Matrix { row: self.col, col: self.row, ..*self }
    }
}

/// Packs `rows x k` of `src` into panels of `width` rows, each panel k-major, the last padded with zeros.
#[inline(always)]
fn pack<T: Copy + Default + bytemuck::Pod>(dst: &mut [T], src: Matrix<'_, T>, rows: usize, k: usize, width: usize) {
    for (p, panel) in dst.chunks_exact_mut(width * k).take(rows.div_ceil(width)).enumerate() {
        let first = p * width;
        let live = width.min(rows - first);
        if live < width {
            panel.fill(T::default());
        }
        if src.row == 1 {
            for (kk, line) in panel.chunks_exact_mut(width).enumerate() {
                let at = src.index(first, kk);
                if live == width {
                    // Of constant length, which copies without a call.
                    line.copy_from_slice(&src.data[at..at + width]);
                } else {
                    line[..live].copy_from_slice(&src.data[at..at + live]);
                }
            }
        } else if src.col == 1 {
            // Read along memory, in blocks of K whose lines of the panel stay in the L1 cache.
            const STEP: usize = 128;
            for k0 in (0..k).step_by(STEP) {
                let kb = STEP.min(k - k0);
                let block = &mut panel[k0 * width..(k0 + kb) * width];
                for r in 0..live {
                    let at = src.index(first + r, k0);
                    for (line, &x) in block.chunks_exact_mut(width).zip(&src.data[at..at + kb]) {
                        line[r] = x;
                    }
                }
            }
        } else {
            for (kk, line) in panel.chunks_exact_mut(width).enumerate() {
                for (r, slot) in line[..live].iter_mut().enumerate() {
                    *slot = src.data[src.index(first + r, kk)];
                }
            }
        }
    }
}
