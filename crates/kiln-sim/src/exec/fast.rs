//! Loads and stores without checks to run: the whole warp in one allocation, in this CTA's shared memory or in
//! local memory. Anything unusual is left to the checked path, which also reports what is wrong.

use std::sync::atomic::Ordering::Relaxed;

use super::cluster::Cluster;
use super::regs::LANES;
use super::step::lanes;
use super::warp::Warp;
use super::{LOCAL_BASE, SHARED_BASE};
use crate::decode::{Move, Reg};
use crate::ptx::Space;

/// Where all lanes of a fast access go, with byte offsets in it.
enum Target {
    Buffer(usize),
    Shared,
    Local,
}

impl Cluster<'_> {
    /// Finds the common target of an access, if it has one and nothing watches it.
    #[inline]
    fn fast_target(
        &self,
        w: &mut Warp,
        space: Space,
        addrs: &[u64; LANES],
        m: u32,
        bytes: u32,
    ) -> Option<(Target, [u32; LANES])> {
        if self.counters.is_some() {
            return None;
        }
        let first = addrs[Warp::lead(m)];
        let (target, base, len) = match space {
            Space::Shared => (Target::Shared, 0, u64::from(self.run.program.shared + self.run.dynamic)),
            Space::Local => (Target::Local, 0, u64::from(self.run.program.frame)),
            Space::Global | Space::Const | Space::Generic => {
                if space == Space::Generic && first >> 48 != 0 {
                    match first & 0xffff_0000_0000_0000 {
                        SHARED_BASE => {
                            (Target::Shared, SHARED_BASE, u64::from(self.run.program.shared + self.run.dynamic))
                        }
                        LOCAL_BASE => (Target::Local, LOCAL_BASE, u64::from(self.run.program.frame)),
                        _ => return None,
                    }
                } else {
                    if !self.run.buffers.get(w.last_buffer)?.holds(first, bytes.into()) {
                        let i = self.run.buffers.partition_point(|b| b.base <= first).checked_sub(1)?;
                        w.last_buffer = i;
                    }
                    let b = self.run.buffers.get(w.last_buffer)?;
                    (Target::Buffer(w.last_buffer), b.base, b.len)
                }
            }
            Space::SharedCluster | Space::Param => return None,
        };
        match target {
            Target::Buffer(_) if self.run.options.checks.global_races => return None,
            Target::Shared if self.ctas[w.cta].shadow.is_some() => return None,
            _ => {}
        }
        // Offsets above 4 GiB are rare enough for the checked path.
        let limit = len.checked_sub(bytes.into())?.min(u32::MAX.into());
        let align = u64::from(bytes - 1);
        let mask32 = matches!(target, Target::Shared) && base == 0;
        let mut offs = [0u32; LANES];
        let mut bad = false;
        for lane in 0..LANES {
            let a = if mask32 { addrs[lane] & 0xffff_ffff } else { addrs[lane] };
            let off = a.wrapping_sub(base);
            bad |= (m >> lane & 1 != 0) & ((off > limit) | (a & align != 0));
            offs[lane] = off as u32;
        }
        (!bad).then_some((target, offs))
    }

    /// Performs a load, or returns false.
    pub(crate) fn fast_load(&mut self, w: &mut Warp, mv: &Move, addrs: &[u64; LANES], m: u32) -> bool {
        let Some((target, offs)) = self.fast_target(w, mv.space, addrs, m, mv.total) else { return false };
        match target {
            Target::Buffer(i) => {
                let words = &self.run.buffers[i].words;
                load(w, mv, &offs, m, |at, _| words[at].load(Relaxed));
            }
            Target::Shared => {
                let words = &self.ctas[w.cta].shared;
                load(w, mv, &offs, m, |at, _| words[at]);
            }
            Target::Local => {
                let frame = self.run.program.frame as usize / 4;
                let local = std::mem::take(&mut w.local);
                load(w, mv, &offs, m, |at, lane| local[lane * frame + at]);
                w.local = local;
            }
        }
        true
    }

    /// Performs a store, or returns false.
    pub(crate) fn fast_store(&mut self, w: &mut Warp, mv: &Move, addrs: &[u64; LANES], m: u32) -> bool {
        if mv.space == Space::Const || mv.size == 16 {
            return false;
        }
        let Some((target, offs)) = self.fast_target(w, mv.space, addrs, m, mv.total) else { return false };
        match target {
            Target::Buffer(i) => {
                let buffer = &self.run.buffers[i];
                store(w, mv, &offs, m, |off, _, value, mask| {
                    if mask == u32::MAX {
                        buffer.words[off as usize / 4].store(value, Relaxed);
                    } else {
                        buffer.set_bits(off.into(), value, mask);
                    }
                });
            }
            Target::Shared => {
                let words = &mut self.ctas[w.cta].shared;
                store(w, mv, &offs, m, |off, _, value, mask| {
                    let word = &mut words[off as usize / 4];
                    *word = *word & !mask | value & mask;
                });
            }
            Target::Local => {
                let frame = self.run.program.frame as usize / 4;
                let mut local = std::mem::take(&mut w.local);
                store(w, mv, &offs, m, |off, lane, value, mask| {
                    let word = &mut local[lane * frame + off as usize / 4];
                    *word = *word & !mask | value & mask;
                });
                w.local = local;
            }
        }
        true
    }
}

#[inline(always)]
fn load(w: &mut Warp, mv: &Move, offs: &[u32; LANES], m: u32, word: impl Fn(usize, usize) -> u32) {
    for (i, reg) in mv.regs.iter().enumerate() {
        let at = i as u32 * mv.size;
        match (*reg, mv.size) {
            (Reg::R(row), 4) => {
                let row = &mut w.regs.r[row as usize];
                if m == u32::MAX {
                    for lane in 0..LANES {
                        row[lane] = word((offs[lane] + at) as usize / 4, lane);
                    }
                } else {
                    lanes(m).for_each(|lane| row[lane] = word((offs[lane] + at) as usize / 4, lane));
                }
            }
            (Reg::R(row), 1 | 2) => {
                let row = &mut w.regs.r[row as usize];
                let shift = 32 - 8 * mv.size;
                for lane in lanes(m) {
                    let off = offs[lane] + at;
                    let v = word(off as usize / 4, lane) >> (8 * (off % 4)) << shift;
                    row[lane] = if mv.signed { (v as i32 >> shift) as u32 } else { v >> shift };
                }
            }
            (Reg::D(row), _) => {
                let row = &mut w.regs.d[row as usize];
                for lane in lanes(m) {
                    let off = offs[lane] + at;
                    let index = off as usize / 4;
                    row[lane] = match mv.size {
                        8 => u64::from(word(index, lane)) | u64::from(word(index + 1, lane)) << 32,
                        size => {
                            let shift = 64 - 8 * size;
                            let v = u64::from(word(index, lane)) >> (8 * (off % 4)) << shift;
                            if mv.signed { (v as i64 >> shift) as u64 } else { v >> shift }
                        }
                    };
                }
            }
            (Reg::Q(row), _) => {
                for k in 0..2 {
                    let row = &mut w.regs.d[row as usize + k];
                    for lane in lanes(m) {
                        let index = (offs[lane] + at) as usize / 4 + 2 * k;
                        row[lane] = u64::from(word(index, lane)) | u64::from(word(index + 1, lane)) << 32;
                    }
                }
            }
            (Reg::R(_) | Reg::None, _) => {}
        }
    }
}

/// Calls `put(byte offset, lane, value, mask)` for every word touched, in lane order.
#[inline(always)]
fn store(w: &Warp, mv: &Move, offs: &[u32; LANES], m: u32, mut put: impl FnMut(u32, usize, u32, u32)) {
    for (i, reg) in mv.regs.iter().enumerate() {
        let at = i as u32 * mv.size;
        match (*reg, mv.size) {
            (Reg::R(row), 4) => {
                let row = &w.regs.r[row as usize];
                lanes(m).for_each(|lane| put(offs[lane] + at, lane, row[lane], u32::MAX));
            }
            (Reg::R(row), 2) if mv.regs.len() == 1 => {
                let row = &w.regs.r[row as usize];
                let mut rest = m;
                while rest != 0 {
                    let lane = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    let off = offs[lane];
                    // Neighbours that fill one word are written together.
                    if off.is_multiple_of(4)
                        && rest >> (lane + 1).min(31) & 1 != 0
                        && lane < 31
                        && offs[lane + 1] == off + 2
                    {
                        put(off, lane, row[lane] & 0xffff | row[lane + 1] << 16, u32::MAX);
                        rest &= rest - 1;
                    } else {
                        put(off, lane, row[lane] << (8 * (off % 4)), 0xffff << (8 * (off % 4)));
                    }
                }
            }
            (Reg::R(row), size @ (1 | 2)) => {
                let row = &w.regs.r[row as usize];
                for lane in lanes(m) {
                    let off = offs[lane] + at;
                    put(off, lane, row[lane] << (8 * (off % 4)), ((1 << (8 * size)) - 1) << (8 * (off % 4)));
                }
            }
            (Reg::D(row), size) => {
                let row = &w.regs.d[row as usize];
                for lane in lanes(m) {
                    let off = offs[lane] + at;
                    let v = row[lane];
                    match size {
                        8 => {
                            put(off, lane, v as u32, u32::MAX);
                            put(off + 4, lane, (v >> 32) as u32, u32::MAX);
                        }
                        4 => put(off, lane, v as u32, u32::MAX),
                        _ => put(off, lane, (v as u32) << (8 * (off % 4)), ((1 << (8 * size)) - 1) << (8 * (off % 4))),
                    }
                }
            }
            _ => {}
        }
    }
}
