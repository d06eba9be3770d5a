//! cp.async and its groups.
//!
//! With the async check on, a copy lands only when its thread waits for it: until then the destination holds
//! NaNs and counts as unwritten, and the source is read at a random end of the window.

use std::sync::atomic::Ordering::Relaxed;

use super::cluster::Cluster;
use super::fast::Kind;
use super::memory::resolve;
use super::regs::{LANES, ballot};
use super::step::lanes;
use super::warp::{Copy16, CopyGroup, Warp};
use crate::check::{Access, FindingKind};
use crate::decode::Addr;
use crate::ptx::Space;

impl Cluster<'_> {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn cp_async(
        &mut self,
        w: &mut Warp,
        dst: &Addr,
        src: &Addr,
        size: u32,
        src_size: Option<u32>,
        ignore: Option<(u32, bool)>,
        m: u32,
    ) {
        if ignore.is_none() && self.cp_async_fast(w, dst, src, size, src_size, m) {
            return;
        }
        let (dsts, srcs) = (w.addresses(dst), w.addresses(src));
        self.count_access(w, Space::Shared, &dsts, m, size, true);
        let ignored = ignore.map_or(0, |(p, neg)| {
            let p = w.regs.p[p as usize];
            if neg { !p } else { p }
        });
        let read = src_size.map_or(u32::MAX, |row| ballot(|lane| w.regs.r[row as usize][lane] != 0));
        self.count_access(w, Space::Global, &srcs, m & read & !ignored, size, false);
        let delayed = self.run.options.checks.async_copies;
        for lane in lanes(m) {
            let mut valid = src_size.map_or(size, |row| w.regs.r[row as usize][lane]);
            if valid > size {
                let text = format!("cp.async src-size {valid} exceeds cp-size {size}");
                self.report(w, lane, FindingKind::InvalidOperand, None, text);
                valid = size;
            }
            if ignored >> lane & 1 != 0 {
                valid = 0;
            }
            let (d, s) = (dsts[lane], srcs[lane]);
            let (_, s) = resolve(Space::Generic, s);
            for (space, a) in [("shared", d & 0xffff_ffff), ("global", s)] {
                if !a.is_multiple_of(size.into()) && (space == "shared" || valid > 0) {
                    let text = format!("cp.async of {size} bytes at an address that is not a multiple of {size}");
                    self.report(w, lane, FindingKind::Misaligned, Some((space, a)), text);
                    valid = 0;
                }
            }
            let Some((cta, off)) = self.shared_checked(w, lane, d, size, "cp.async store") else { continue };
            if off % size != 0 {
                continue;
            }
            let copy = Copy16 {
                lane: lane as u8,
                size: size as u8,
                valid: valid as u8,
                cta: cta as u32,
                dst: off,
                src: s,
                early: None,
            };
            if !delayed {
                let data = self.copy_source(w, &copy);
                self.copy_land(w, &copy, data);
                continue;
            }
            self.shared_access(w, lane, cta, off, size, Access::AsyncIssue);
            // The source bounds are checked now; the data is read now or at the end.
            let data = self.copy_source(w, &copy);
            let early = self.rng.bool();
            for k in 0..size / 4 {
                self.ctas[cta].shared[(off / 4 + k) as usize] = u32::MAX;
            }
            w.open_copies.push(Copy16 { early: early.then_some(data), ..copy });
        }
    }

    /// Copies with nothing to check: all in one allocation and this CTA's shared memory.
    fn cp_async_fast(
        &mut self,
        w: &mut Warp,
        dst: &Addr,
        src: &Addr,
        size: u32,
        src_size: Option<u32>,
        m: u32,
    ) -> bool {
        if self.run.options.checks.async_copies {
            return false;
        }
        // Lanes that take nothing of the source may point anywhere.
        let (mut from, mut part) = (m, 0);
        if let Some(row) = src_size {
            let valid = &w.regs.r[row as usize];
            from = m & ballot(|lane| valid[lane] != 0);
            part = m & ballot(|lane| valid[lane] != 0 && valid[lane] != size);
        }
        if part != 0 {
            return false;
        }
        let Some(to) = self.fast_target(w, Space::Shared, dst, m, size) else { return false };
        let (mut tos, mut at) = ([0; LANES], [0; LANES]);
        if !to.offsets(&w.regs, dst, m, &mut tos) {
            return false;
        }
        let words = size as usize / 4;
        if from == 0 {
            let shared = &mut self.ctas[w.cta].shared;
            lanes(m).for_each(|lane| shared[tos[lane] as usize / 4..][..words].fill(0));
            return true;
        }
        let Some(source) = self.fast_target(w, Space::Global, src, from, size) else { return false };
        if !source.offsets(&w.regs, src, from, &mut at) {
            return false;
        }
        let Kind::Buffer(i) = source.kind else { return false };
        let memory = &self.run.buffers[i].words;
        let shared = &mut self.ctas[w.cta].shared;
        for lane in lanes(m) {
            let to = &mut shared[tos[lane] as usize / 4..][..words];
            if from >> lane & 1 == 0 {
                to.fill(0);
                continue;
            }
            for (to, word) in to.iter_mut().zip(&memory[at[lane] as usize / 4..][..words]) {
                *to = word.load(Relaxed);
            }
        }
        true
    }

    fn copy_source(&mut self, w: &mut Warp, c: &Copy16) -> [u32; 4] {
        let mut out = [0u32; 4];
        if c.valid == 0 {
            return out;
        }
        let Some((i, off)) = self.global_checked(w, c.lane.into(), c.src, c.valid.into(), "cp.async load") else {
            return out;
        };
        self.global_access(w, c.lane.into(), i, off, c.valid.into(), Access::Read);
        let buffer = &self.run.buffers[i];
        for (k, word) in out.iter_mut().enumerate().take(c.size as usize / 4) {
            let have = u32::from(c.valid).saturating_sub(4 * k as u32);
            if have > 0 {
                *word = buffer.word(off + 4 * k as u64);
                if have < 4 {
                    *word &= (1 << (8 * have)) - 1;
                }
            }
        }
        out
    }

    fn copy_land(&mut self, w: &mut Warp, c: &Copy16, data: [u32; 4]) {
        self.shared_access(w, c.lane.into(), c.cta as usize, c.dst, c.size.into(), Access::AsyncLand);
        let n = c.size as usize / 4;
        let at = c.dst as usize / 4;
        self.ctas[c.cta as usize].shared[at..at + n].copy_from_slice(&data[..n]);
    }

    fn copy_finish(&mut self, w: &mut Warp, c: &Copy16) {
        let data = match c.early {
            Some(data) => data,
            None => self.copy_source(w, c),
        };
        self.copy_land(w, c, data);
    }

    pub(crate) fn cp_commit(&mut self, w: &mut Warp, m: u32) {
        if !self.run.options.checks.async_copies {
            return;
        }
        let mine = |c: &Copy16| m >> c.lane & 1 != 0;
        let (copies, rest) = std::mem::take(&mut w.open_copies).into_iter().partition(mine);
        w.open_copies = rest;
        w.copy_groups.push(CopyGroup { mask: m, copies });
    }

    pub(crate) fn cp_wait(&mut self, w: &mut Warp, left: u32, m: u32) {
        let mut newer = [0u32; LANES];
        let mut finished = Vec::new();
        for g in w.copy_groups.iter_mut().rev() {
            let mut done = 0;
            for lane in lanes(g.mask & m) {
                if newer[lane] >= left {
                    done |= 1 << lane;
                }
                newer[lane] += 1;
            }
            if done != 0 {
                g.mask &= !done;
                let (landed, rest): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut g.copies).into_iter().partition(|c| done >> c.lane & 1 != 0);
                g.copies = rest;
                finished.extend(landed);
            }
        }
        w.copy_groups.retain(|g| g.mask != 0);
        for c in finished {
            self.copy_finish(w, &c);
        }
    }

    /// Arrives on an mbarrier when the executing threads' copies have completed; here that is at once.
    pub(crate) fn cp_mbar_arrive(&mut self, w: &mut Warp, addr: &Addr, noinc: bool, m: u32) {
        let addrs = w.addresses(addr);
        self.cp_commit(w, m);
        self.cp_wait(w, 0, m);
        for lane in lanes(m) {
            self.mbar_copies_done(w, lane, addrs[lane], noinc);
        }
    }

    /// What an exited warp left in flight still lands.
    pub(crate) fn drain(&mut self, w: &mut Warp) {
        let m = !w.absent;
        self.cp_commit(w, m);
        self.cp_wait(w, 0, m);
        self.bulk_drain(w);
    }
}
