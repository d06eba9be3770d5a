//! ldmatrix, stmatrix, movmatrix, and the fragment layouts of mma.sync.
//!
//! All fragments of `mma.sync` follow one rule ("Matrix Fragments for mma.m16n8k16 with floating point type" and
//! its siblings). With `g = lane / 4`, `t = lane % 4` and `p` elements a register: register `r` of A holds row
//! `g + 8 (r % 2)` (all in row `g` when M is 8), columns `4 p (r / 2) + p t ..`; register `r` of B holds column
//! `g`, rows `4 p r + p t ..`; C and D hold row `g + 8 (i / 2)`, column `2 t + i % 2`.

use super::cluster::Cluster;
use super::memory::Words;
use super::regs::{FULL, LANES, Lane};
use super::step::Flow;
use super::warp::Warp;
use crate::check::FindingKind;
use crate::decode::{Addr, MatrixCopy};
use crate::ptx::Space;

impl Cluster<'_> {
    /// Waits for the whole warp, and reports lanes that can never come.
    pub(crate) fn whole_warp(&mut self, w: &mut Warp, m: u32) -> bool {
        if !w.gather(m, FULL, true) {
            return false;
        }
        w.forced = false;
        if m != FULL {
            let text = format!("a warp-wide instruction executed by lanes {m:#010x} only");
            self.report(w, Warp::lead(m), FindingKind::InvalidOperand, None, text);
        }
        true
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn matrix_copy(
        &mut self,
        w: &mut Warp,
        copy: MatrixCopy,
        regs: &[u32],
        trans: bool,
        addr: &Addr,
        space: Space,
        m: u32,
    ) -> Flow {
        if !self.whole_warp(w, m) {
            return Flow::Moved;
        }
        let addrs = w.addresses(addr);
        let rows = 8 * regs.len();
        // Lane 8 i + r gives the address of row r of matrix i.
        let mask = if rows == 32 { FULL } else { (1 << rows) - 1 } & m;
        let mut words: [Words; LANES] = [[u32::MAX; 8]; LANES];
        let half = |w: &Words, k: usize| w[k / 2] >> (16 * (k % 2)) & 0xffff;
        if copy == MatrixCopy::Load && self.ldmatrix_fast(w, regs, trans, &addrs, space, m) {
            return Flow::Next;
        }
        match copy {
            MatrixCopy::Load => {
                self.fetch(w, space, &addrs, mask, 16, &mut words);
                for (i, row) in regs.iter().enumerate() {
                    let block = &words[8 * i..8 * i + 8];
                    let out: [u32; LANES] = std::array::from_fn(|lane| {
                        let (g, t) = (lane / 4, lane % 4);
                        if trans { half(&block[2 * t], g) | half(&block[2 * t + 1], g) << 16 } else { block[g][t] }
                    });
                    u32::put(&mut w.regs, *row, &out, m);
                }
            }
            MatrixCopy::Store => {
                for (i, row) in regs.iter().enumerate() {
                    let v = u32::get(&w.regs, *row);
                    for (lane, v) in v.into_iter().enumerate() {
                        let (g, t) = (lane / 4, lane % 4);
                        if trans {
                            for (k, h) in [v & 0xffff, v >> 16].into_iter().enumerate() {
                                let word = &mut words[8 * i + 2 * t + k][g / 2];
                                let shift = 16 * (g % 2);
                                *word = *word & !(0xffff << shift) | h << shift;
                            }
                        } else {
                            words[8 * i + g][t] = v;
                        }
                    }
                }
                self.put(w, space, &addrs, mask, 16, &words);
            }
        }
        Flow::Next
    }

    /// ldmatrix from this CTA's shared memory with nothing to check or count.
    fn ldmatrix_fast(
        &self,
        w: &mut Warp,
        regs: &[u32],
        trans: bool,
        addrs: &[u64; LANES],
        space: Space,
        m: u32,
    ) -> bool {
        let cta = &self.ctas[w.cta];
        if space != Space::Shared || m != FULL || cta.shadow.is_some() || self.counters.is_some() {
            return false;
        }
        for (i, row) in regs.iter().enumerate() {
            let mut block = [[0u32; 4]; 8];
            for (r, words) in block.iter_mut().enumerate() {
                let at = addrs[8 * i + r] as u32;
                let from = at as usize / 4;
                match cta.shared.get(from..from + 4) {
                    Some(four) if at.is_multiple_of(16) => words.copy_from_slice(four),
                    _ => return false,
                }
            }
            let out = &mut w.regs.r[*row as usize];
            for lane in 0..LANES {
                let (g, t) = (lane / 4, lane % 4);
                out[lane] = if trans {
                    let half = |k: usize| block[2 * t + k][g / 2] >> (16 * (g % 2)) & 0xffff;
                    half(0) | half(1) << 16
                } else {
                    block[g][t]
                };
            }
        }
        true
    }

    /// Transposes an 8x8 matrix of 16-bit elements held one row a quad.
    pub(crate) fn movmatrix(&mut self, w: &mut Warp, dst: u32, src: u32, m: u32) -> Flow {
        if !self.whole_warp(w, m) {
            return Flow::Moved;
        }
        let v = u32::get(&w.regs, src);
        let at = |row: usize, col: usize| v[row * 4 + col / 2] >> (16 * (col % 2)) & 0xffff;
        let out: [u32; LANES] = std::array::from_fn(|lane| {
            let (g, t) = (lane / 4, lane % 4);
            at(2 * t, g) | at(2 * t + 1, g) << 16
        });
        u32::put(&mut w.regs, dst, &out, m);
        Flow::Next
    }
}
