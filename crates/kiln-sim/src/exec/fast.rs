//! Loads and stores without checks to run: the whole warp in one allocation, in this CTA's shared memory or in
//! local memory. Anything unusual is left to the checked path, which also reports what is wrong.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::cluster::Cluster;
use super::regs::{FULL, LANES, Regs, wide};
use super::step::lanes;
use super::warp::Warp;
use super::{LOCAL_BASE, SHARED_BASE};
use crate::decode::{Addr, Move, Reg};
use crate::ptx::Space;

/// What all lanes of a fast access touch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Buffer(usize),
    Shared,
    Local,
}

/// Where a fast access goes.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub kind: Kind,
    /// Address of its first byte.
    base: u64,
    /// Largest offset at which the access still fits.
    limit: u32,
    /// Bytes of the access.
    bytes: u32,
}

/// Byte offsets of the lanes in the target; `run` if all lanes take part and lie one behind another.
pub(super) struct Offsets {
    pub at: [u32; LANES],
    pub run: bool,
}

/// Words that lanes load from and store to.
trait Memory {
    fn word(&self, i: usize) -> u32;
    fn set_word(&mut self, i: usize, value: u32);
    /// Replaces the bits of `mask`.
    fn set_bits(&mut self, i: usize, value: u32, mask: u32);
    /// The words from `at` as a run of its own, if there are `n`.
    fn run(&mut self, at: usize, n: usize) -> Option<impl Memory>;
}

impl Memory for &[AtomicU32] {
    #[inline(always)]
    fn word(&self, i: usize) -> u32 {
        self[i].load(Relaxed)
    }
    #[inline(always)]
    fn set_word(&mut self, i: usize, value: u32) {
        self[i].store(value, Relaxed);
    }
    #[inline(always)]
    fn set_bits(&mut self, i: usize, value: u32, mask: u32) {
        super::buffer::set_bits(&self[i], value, mask);
    }
    #[inline(always)]
    fn run(&mut self, at: usize, n: usize) -> Option<impl Memory> {
        self.get(at..at + n)
    }
}

impl Memory for &mut [u32] {
    #[inline(always)]
    fn word(&self, i: usize) -> u32 {
        self[i]
    }
    #[inline(always)]
    fn set_word(&mut self, i: usize, value: u32) {
        self[i] = value;
    }
    #[inline(always)]
    fn set_bits(&mut self, i: usize, value: u32, mask: u32) {
        self[i] = self[i] & !mask | value & mask;
    }
    #[inline(always)]
    fn run(&mut self, at: usize, n: usize) -> Option<impl Memory> {
        self.get_mut(at..at + n)
    }
}

impl Cluster<'_> {
    /// Finds what the first lane of an access of `bytes` bytes touches, if nothing watches that.
    #[inline(always)]
    pub(super) fn fast_target(&self, w: &mut Warp, space: Space, addr: &Addr, m: u32, bytes: u32) -> Option<Target> {
        if self.counters.is_some() {
            return None;
        }
        let lead = Warp::lead(m);
        let first =
            if addr.wide { w.regs.d[addr.row as usize][lead] } else { w.regs.r[addr.row as usize][lead].into() };
        let first = first.wrapping_add(addr.off as u64);
        let shared = u64::from(self.run.program.shared + self.run.dynamic);
        let frame = u64::from(self.run.program.frame);
        let (kind, base, len) = match space {
            Space::Shared => (Kind::Shared, 0, shared),
            Space::Local => (Kind::Local, 0, frame),
            Space::Generic if first >> 48 != 0 => match first & 0xffff_0000_0000_0000 {
                SHARED_BASE => (Kind::Shared, SHARED_BASE, shared),
                LOCAL_BASE => (Kind::Local, LOCAL_BASE, frame),
                _ => return None,
            },
            Space::Global | Space::Const | Space::Generic => {
                if !self.run.buffers.get(w.last_buffer)?.holds(first, bytes.into()) {
                    let i = self.run.buffers.partition_point(|b| b.base <= first).checked_sub(1)?;
                    w.last_buffer = i;
                }
                let b = self.run.buffers.get(w.last_buffer)?;
                (Kind::Buffer(w.last_buffer), b.base, b.len)
            }
            Space::SharedCluster | Space::Param => return None,
        };
        match kind {
            Kind::Buffer(_) if self.run.options.checks.global_races => return None,
            Kind::Shared if self.ctas[w.cta].shadow.is_some() => return None,
            _ => {}
        }
        // Offsets above 4 GiB are rare enough for the checked path.
        let limit = len.checked_sub(bytes.into())?.min(u32::MAX.into()) as u32;
        Some(Target { kind, base, limit, bytes })
    }

    /// Performs a load, or returns false.
    pub(crate) fn fast_load(&mut self, w: &mut Warp, mv: &Move, m: u32) -> bool {
        let Some(t) = self.fast_target(w, mv.space, &mv.addr, m, mv.total) else { return false };
        match t.kind {
            Kind::Buffer(i) => load(&mut w.regs, mv, t, m, 0, &*self.run.buffers[i].words),
            Kind::Shared => load(&mut w.regs, mv, t, m, 0, &mut *self.ctas[w.cta].shared),
            Kind::Local => load(&mut w.regs, mv, t, m, self.run.program.frame, &mut *w.local),
        }
    }

    /// Performs a store, or returns false.
    pub(crate) fn fast_store(&mut self, w: &mut Warp, mv: &Move, m: u32) -> bool {
        if mv.space == Space::Const || mv.size == 16 {
            return false;
        }
        let Some(t) = self.fast_target(w, mv.space, &mv.addr, m, mv.total) else { return false };
        match t.kind {
            Kind::Buffer(i) => store(&w.regs, mv, t, m, 0, &*self.run.buffers[i].words),
            Kind::Shared => store(&w.regs, mv, t, m, 0, &mut *self.ctas[w.cta].shared),
            Kind::Local => store(&w.regs, mv, t, m, self.run.program.frame, &mut *w.local),
        }
    }
}

impl Target {
    /// Offsets of the lanes of `m`, if all are aligned and inside. Lanes' frames of local memory are `frame` bytes apart.
    #[inline(always)]
    pub(super) fn offsets(&self, regs: &Regs, addr: &Addr, m: u32, frame: u32) -> Option<Offsets> {
        let Target { base, bytes, .. } = *self;
        if addr.wide {
            let row = &regs.d[addr.row as usize];
            // Addresses of a window, such as shared memory, wrap at 4 GiB.
            let window = if matches!(self.kind, Kind::Shared) && base == 0 { u64::from(u32::MAX) } else { u64::MAX };
            let off = (addr.off as u64).wrapping_sub(base);
            let skew = base & u64::from(bytes - 1);
            self.collect(m, frame, |lane| {
                let at = row[lane].wrapping_add(off) & window;
                let outside = u64::from(at > self.limit.into()) | (at.wrapping_add(skew) & u64::from(bytes - 1));
                (at as u32, outside as u32)
            })
        } else {
            let row = &regs.r[addr.row as usize];
            let off = addr.off as u32;
            self.collect(m, frame, |lane| {
                let at = row[lane].wrapping_add(off);
                (at, u32::from(at > self.limit) | (at & (bytes - 1)))
            })
        }
    }

    /// `lane_at` gives a lane's offset, and nonzero if that is no place for the access.
    #[inline(always)]
    fn collect(&self, m: u32, frame: u32, lane_at: impl Fn(usize) -> (u32, u32)) -> Option<Offsets> {
        let mut at = [0u32; LANES];
        let (mut bad, mut apart) = (0, frame);
        let (first, shift) = (lane_at(0).0, self.bytes.trailing_zeros());
        if m == FULL {
            for lane in 0..LANES {
                let (off, outside) = lane_at(lane);
                bad |= outside;
                apart |= off ^ first.wrapping_add((lane as u32) << shift);
                at[lane] = off.wrapping_add(lane as u32 * frame);
            }
        } else {
            apart = 1;
            for lane in lanes(m) {
                let (off, outside) = lane_at(lane);
                bad |= outside;
                at[lane] = off.wrapping_add(lane as u32 * frame);
            }
        }
        (bad == 0).then_some(Offsets { at, run: apart == 0 })
    }
}

/// Calls `f` for the lanes of a mask in order.
#[inline(always)]
fn each(m: u32, f: impl FnMut(usize)) {
    if m == FULL { (0..LANES).for_each(f) } else { lanes(m).for_each(f) }
}

/// The 32-bit registers of an access of whole words, if it has `N` and nothing else.
#[inline(always)]
fn words<const N: usize>(mv: &Move) -> Option<[usize; N]> {
    let regs: &[Reg; N] = mv.regs.as_slice().try_into().ok()?;
    let mut rows = [0; N];
    for (row, reg) in rows.iter_mut().zip(regs) {
        match *reg {
            Reg::R(r) if mv.size == 4 => *row = r as usize,
            _ => return None,
        }
    }
    Some(rows)
}

#[inline(always)]
fn load_run<const N: usize>(regs: &mut Regs, mv: &Move, first: u32, memory: &mut impl Memory) -> bool {
    let Some(rows) = words::<N>(mv) else { return false };
    let Some(run) = memory.run(first as usize / 4, N * LANES) else { return false };
    for (i, row) in rows.into_iter().enumerate() {
        let row = &mut regs.r[row];
        for lane in 0..LANES {
            row[lane] = run.word(N * lane + i);
        }
    }
    true
}

#[inline(always)]
fn store_run<const N: usize>(regs: &Regs, mv: &Move, first: u32, memory: &mut impl Memory) -> bool {
    let Some(rows) = words::<N>(mv) else { return false };
    let Some(mut run) = memory.run(first as usize / 4, N * LANES) else { return false };
    for (i, row) in rows.into_iter().enumerate() {
        let row = &regs.r[row];
        for lane in 0..LANES {
            run.set_word(N * lane + i, row[lane]);
        }
    }
    true
}

#[inline(always)]
fn load(regs: &mut Regs, mv: &Move, target: Target, m: u32, frame: u32, memory: impl Memory) -> bool {
    wide(
        #[inline(always)]
        move || {
            // Into this frame, where the compiler sees that nothing else changes it.
            let mut memory = memory;
            let Some(offsets) = target.offsets(regs, &mv.addr, m, frame) else { return false };
            let first = offsets.at[0];
            if offsets.run
                && (load_run::<1>(regs, mv, first, &mut memory)
                    || load_run::<2>(regs, mv, first, &mut memory)
                    || load_run::<4>(regs, mv, first, &mut memory)
                    || load_halves(regs, mv, first, &mut memory))
            {
                return true;
            }
            for (i, reg) in mv.regs.iter().enumerate() {
                let skip = i as u32 * mv.size;
                let at = |lane: usize| offsets.at[lane] + skip;
                let double = |lane: usize, k: usize| {
                    let index = at(lane) as usize / 4 + k;
                    u64::from(memory.word(index)) | u64::from(memory.word(index + 1)) << 32
                };
                match (*reg, mv.size) {
                    (Reg::R(row), 4) => {
                        let row = &mut regs.r[row as usize];
                        each(m, |lane| row[lane] = memory.word(at(lane) as usize / 4));
                    }
                    (Reg::R(row), size @ (1 | 2)) => {
                        let row = &mut regs.r[row as usize];
                        let shift = 32 - 8 * size;
                        each(m, |lane| {
                            let v = memory.word(at(lane) as usize / 4) >> (8 * (at(lane) % 4)) << shift;
                            row[lane] = if mv.signed { (v as i32 >> shift) as u32 } else { v >> shift };
                        });
                    }
                    (Reg::D(row), 8) => {
                        let row = &mut regs.d[row as usize];
                        each(m, |lane| row[lane] = double(lane, 0));
                    }
                    (Reg::D(row), size) => {
                        let row = &mut regs.d[row as usize];
                        let shift = 64 - 8 * size;
                        each(m, |lane| {
                            let v = u64::from(memory.word(at(lane) as usize / 4)) >> (8 * (at(lane) % 4)) << shift;
                            row[lane] = if mv.signed { (v as i64 >> shift) as u64 } else { v >> shift };
                        });
                    }
                    (Reg::Q(row), _) => {
                        for k in 0..2 {
                            let row = &mut regs.d[row as usize + k];
                            each(m, |lane| row[lane] = double(lane, 2 * k));
                        }
                    }
                    (Reg::R(_) | Reg::None, _) => {}
                }
            }
            true
        },
    )
}

#[inline(always)]
fn store(regs: &Regs, mv: &Move, target: Target, m: u32, frame: u32, memory: impl Memory) -> bool {
    wide(
        #[inline(always)]
        move || {
            // Into this frame, where the compiler sees that nothing else changes it.
            let mut memory = memory;
            let Some(offsets) = target.offsets(regs, &mv.addr, m, frame) else { return false };
            let first = offsets.at[0];
            if offsets.run
                && (store_run::<1>(regs, mv, first, &mut memory)
                    || store_run::<2>(regs, mv, first, &mut memory)
                    || store_run::<4>(regs, mv, first, &mut memory)
                    || store_halves(regs, mv, first, &mut memory))
            {
                return true;
            }
            for (i, reg) in mv.regs.iter().enumerate() {
                let skip = i as u32 * mv.size;
                let at = |lane: usize| offsets.at[lane] + skip;
                let mut narrow = |lane: usize, value: u32| {
                    let shift = 8 * (at(lane) % 4);
                    memory.set_bits(at(lane) as usize / 4, value << shift, ((1 << (8 * mv.size)) - 1) << shift);
                };
                match (*reg, mv.size) {
                    (Reg::R(row), 1 | 2) => each(m, |lane| narrow(lane, regs.r[row as usize][lane])),
                    (Reg::D(row), 1 | 2) => each(m, |lane| narrow(lane, regs.d[row as usize][lane] as u32)),
                    (Reg::R(row), _) => {
                        let row = &regs.r[row as usize];
                        each(m, |lane| memory.set_word(at(lane) as usize / 4, row[lane]));
                    }
                    (Reg::D(row), size) => {
                        let row = &regs.d[row as usize];
                        each(m, |lane| {
                            memory.set_word(at(lane) as usize / 4, row[lane] as u32);
                            if size == 8 {
                                memory.set_word(at(lane) as usize / 4 + 1, (row[lane] >> 32) as u32);
                            }
                        });
                    }
                    (Reg::Q(_) | Reg::None, _) => {}
                }
            }
            true
        },
    )
}

/// A run of 16-bit elements from a whole word on: two lanes a word.
#[inline(always)]
fn load_halves(regs: &mut Regs, mv: &Move, first: u32, memory: &mut impl Memory) -> bool {
    let (&[Reg::R(row)], 2, 0) = (mv.regs.as_slice(), mv.size, first % 4) else { return false };
    let Some(run) = memory.run(first as usize / 4, LANES / 2) else { return false };
    let row = &mut regs.r[row as usize];
    for i in 0..LANES / 2 {
        let word = run.word(i);
        let (low, high) = (word & 0xffff, word >> 16);
        [row[2 * i], row[2 * i + 1]] = if mv.signed { [low as i16 as u32, high as i16 as u32] } else { [low, high] };
    }
    true
}

/// [`load_halves`], to memory.
#[inline(always)]
fn store_halves(regs: &Regs, mv: &Move, first: u32, memory: &mut impl Memory) -> bool {
    let (&[Reg::R(row)], 2, 0) = (mv.regs.as_slice(), mv.size, first % 4) else { return false };
    let Some(mut run) = memory.run(first as usize / 4, LANES / 2) else { return false };
    let row = &regs.r[row as usize];
    for i in 0..LANES / 2 {
        run.set_word(i, row[2 * i] & 0xffff | row[2 * i + 1] << 16);
    }
    true
}
