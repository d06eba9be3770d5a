//! f32 and f64 products.

use super::{Blocking, Columns, DEPTH, Lines, Matrix};
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
            [m, n]: [usize; 2],
            k: usize,
            a: Matrix<'_, $t>,
            b: Columns<'_, $t>,
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
            b: Columns<'a, $t>,
            out: Target<'a>,
            packing: &'p mut [$t],
        }

        impl WithSimd for $job<'_, '_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                // Accumulators fill most of the register file: 32 registers on AVX-512, 16 elsewhere. Few rows take more columns.
                match (self.blocking.rows, self.b) {
                    (1..=4, Columns::Matrix(b)) if b.row == 1 && self.a.col == 1 => self.dots(simd, b),
                    // A panel's rows are read whole, which is the order of memory.
                    (1, Columns::Panels(_)) if S::$lanes * size_of::<$t>() < 64 => self.blocks::<S, 1, 8>(simd),
                    (1, _) => self.blocks::<S, 1, 4>(simd),
                    (2..=4, _) => self.blocks::<S, 4, 2>(simd),
                    _ if S::$lanes * size_of::<$t>() == 64 => self.blocks::<S, 12, 2>(simd),
                    _ => self.blocks::<S, 6, 2>(simd),
                }
            }
        }

        impl $job<'_, '_> {
            /// A few rows of A against columns of B that are contiguous along K.
            #[inline(always)]
            fn dots<S: Simd>(self, simd: S, b: Matrix<'_, $t>) {
                const COLUMNS: usize = 4;
                let k = self.k;
                let last = self.n.saturating_sub(1);
                for c in (0..self.n).step_by(COLUMNS) {
                    let columns = [0, 1, 2, 3].map(|i| {
                        let at = b.index(0, (c + i).min(last));
                        S::$as_simd(&b.data[at..at + k])
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
                let Blocking { kc, nc, .. } = self.blocking;
                if self.k == 0 {
                    for r in 0..self.m {
                        for c in 0..self.n {
                            self.out.slot.put(self.out.at(r, c), 0.0 as $t);
                        }
                    }
                    return;
                }
                let (pa, pb) = self.packing.split_at_mut(DEPTH * MR);
                // With few rows, packing B costs as much as using it: panels whose columns are neighbours are then read where they are.
                let panels = matches!(self.b, Columns::Panels(_));
                let in_place = panels || self.blocking.rows <= 2 * MR;
                let (mut packed, mut lines) = (Lines::new(), Lines::new());
                if !panels {
                    packed.extend((0..kc).map(|p| p * nr));
                }
                for jc in (0..self.n).step_by(nc) {
                    let nb = nc.min(self.n - jc);
                    for pc in (0..self.k).step_by(kc) {
                        let kb = kc.min(self.k - pc);
                        let lines = if in_place { self.b.lines(pc, kb, &mut lines) } else { &[][..] };
                        if !in_place {
                            self.b.pack(pb, (pc, kb), (jc, nb), nr);
                        }
                        // A panel of A stays in the L1 cache while B passes by.
                        for i in (0..self.m).step_by(MR) {
                            let rows = MR.min(self.m - i);
                            self.a.shifted(i, pc).copy_rows(pa, rows, kb);
                            for j in (0..nb).step_by(nr) {
                                let cols = nr.min(nb - j);
                                let panel = &mut pb[j * kb..(j + nr) * kb];
                                let place = if in_place { self.b.neighbours(jc + j, cols, nr) } else { None };
                                if in_place && place.is_none() && i == 0 {
                                    self.b.pack(panel, (pc, kb), (jc + j, cols), nr);
                                }
                                let b = match place {
                                    Some(b) => (b, lines),
                                    None => (&*panel, &packed[..kb]),
                                };
                                let out = self.out.shifted(i, jc + j);
                                Self::tile::<S, MR, NV>(simd, pa, b, out, (rows, cols), pc > 0);
                            }
                        }
                    }
                }
            }

            /// One register tile: `out = a * b`, or `+=` when `add`. Rows of A are `DEPTH` elements apart, those of B start at `lines`.
            #[inline(always)]
            fn tile<S: Simd, const MR: usize, const NV: usize>(
                simd: S,
                a: &[$t],
                (b, lines): (&[$t], &[usize]),
                out: Target<'_>,
                (rows, cols): (usize, usize),
                add: bool,
            ) {
                let nr = NV * S::$lanes;
                let mut acc = [[simd.$splat(0.0); NV]; MR];
                let a = &a.as_chunks::<DEPTH>().0[..MR];
                for p in 0..lines.len().min(DEPTH) {
                    let (b, _) = S::$as_simd(&b[lines[p]..lines[p] + nr]);
                    for i in 0..MR {
                        let x = simd.$splat(a[i][p]);
                        for j in 0..NV {
                            acc[i][j] = simd.$fma(x, b[j], acc[i][j]);
                        }
                    }
                }
                // Sums stay in registers as long as nothing indexes them by a variable: what follows reads a copy.
                let mut sums = acc;
                for i in 0..MR {
                    for j in 0..NV {
                        sums[i][j] = acc[i][j];
                    }
                }
                if cols == nr && out.col == 1 {
                    for (i, sums) in sums.iter().enumerate().take(rows) {
                        let (row, _) = S::$as_mut_simd(out.slot.range_mut(out.at(i, 0), nr));
                        for j in 0..NV {
                            row[j] = if add { simd.$add(row[j], sums[j]) } else { sums[j] };
                        }
                    }
                    return;
                }
                for (i, sums) in sums.iter().enumerate().take(rows) {
                    let values: &[$t] = bytemuck::cast_slice(sums);
                    if out.col == 1 && !add {
                        out.slot.range_mut(out.at(i, 0), cols).copy_from_slice(&values[..cols]);
                        continue;
                    }
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
