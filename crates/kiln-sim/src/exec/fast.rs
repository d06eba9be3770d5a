//! Loads and stores without checks to run: the whole warp in one allocation, in this CTA's shared memory or in
//! local memory. Anything unusual is left to the checked path, which also reports what is wrong.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use pulp::{Arch, Simd, WithSimd};

use super::cluster::Cluster;
use super::regs::{FULL, LANES, Lane, Regs};
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
    /// Bytes from one lane's memory to the next lane's; 0 where they share it.
    frame: u32,
}

/// Words that lanes load from and store to.
trait Memory {
    fn word(&self, i: usize) -> u32;
    fn set_word(&mut self, i: usize, value: u32);
    /// Replaces the bits of `mask`.
    fn set_bits(&mut self, i: usize, value: u32, mask: u32);
    /// The words from `at` as a run of its own, if there are `n`.
    fn run(&mut self, at: usize, n: usize) -> Option<impl Memory>;
    fn reborrow(&mut self) -> impl Memory;
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
    #[inline(always)]
    fn reborrow(&mut self) -> impl Memory {
        *self
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
    #[inline(always)]
    fn reborrow(&mut self) -> impl Memory {
        &mut **self
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
        let frame = if kind == Kind::Local { self.run.program.frame } else { 0 };
        Some(Target { kind, base, limit, bytes, frame })
    }

    /// Performs a load, or returns false.
    pub(crate) fn fast_load(&mut self, w: &mut Warp, mv: &Move, m: u32) -> bool {
        let Some(target) = self.fast_target(w, mv.space, &mv.addr, m, mv.total) else { return false };
        match target.kind {
            Kind::Buffer(i) => Arch::new().dispatch(&mut Load {
                regs: &mut w.regs,
                mv,
                target,
                m,
                memory: &*self.run.buffers[i].words,
            }),
            Kind::Shared => Arch::new().dispatch(&mut Load {
                regs: &mut w.regs,
                mv,
                target,
                m,
                memory: &mut *self.ctas[w.cta].shared,
            }),
            Kind::Local => Arch::new().dispatch(&mut Load { regs: &mut w.regs, mv, target, m, memory: &mut *w.local }),
        }
    }

    /// Performs a store, or returns false.
    pub(crate) fn fast_store(&mut self, w: &mut Warp, mv: &Move, m: u32) -> bool {
        if mv.space == Space::Const || mv.size == 16 {
            return false;
        }
        let Some(target) = self.fast_target(w, mv.space, &mv.addr, m, mv.total) else { return false };
        match target.kind {
            Kind::Buffer(i) => {
                Arch::new().dispatch(&mut Store { regs: &w.regs, mv, target, m, memory: &*self.run.buffers[i].words })
            }
            Kind::Shared => {
                Arch::new().dispatch(&mut Store { regs: &w.regs, mv, target, m, memory: &mut *self.ctas[w.cta].shared })
            }
            Kind::Local => Arch::new().dispatch(&mut Store { regs: &w.regs, mv, target, m, memory: &mut *w.local }),
        }
    }
}

/// Whether the lanes of a row hold values `1 << step` apart. In explicit vectors, because the compiler makes scalars of it.
macro_rules! climbs {
    ($name:ident, $ty:ident, $vectors:ident, $splat:ident, $sub:ident, $xor:ident, $or:ident) => {
        #[inline(always)]
        fn $name<S: Simd>(simd: S, row: &[$ty; LANES], step: usize) -> bool {
            const STEPS: [[$ty; LANES]; 6] = {
                let (mut steps, mut i) = ([[0; LANES]; 6], 0);
                while i < 6 * LANES {
                    steps[i / LANES][i % LANES] = ((i % LANES) << (i / LANES)) as $ty;
                    i += 1;
                }
                steps
            };
            let (first, zero) = (simd.$splat(row[0]), simd.$splat(0));
            let mut apart = zero;
            for (x, y) in S::$vectors(row).0.iter().zip(S::$vectors(&STEPS[step]).0) {
                apart = simd.$or(apart, simd.$xor(simd.$sub(*x, first), *y));
            }
            let lanes: &[$ty] = pulp::bytemuck::cast_slice(std::slice::from_ref(&apart));
            lanes.iter().fold(0, |all, x| all | x) == 0
        }
    };
}

climbs!(climbs_u32, u32, as_simd_u32s, splat_u32s, sub_u32s, xor_u32s, or_u32s);
climbs!(climbs_u64, u64, as_simd_u64s, splat_u64s, sub_u64s, xor_u64s, or_u64s);

impl Target {
    /// The offset of the first lane, if all lanes take part, aligned and inside, one behind another.
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, regs: &Regs, addr: &Addr, m: u32) -> Option<usize> {
        let (first, outside) =
            if addr.wide { self.wide_place(regs, addr, 0) } else { self.narrow_place(regs, addr, 0) };
        let last = u64::from(first) + u64::from(self.bytes) * (LANES as u64 - 1);
        if last > self.limit.into() || outside != 0 || m != FULL {
            return None;
        }
        let step = self.bytes.trailing_zeros() as usize;
        let run = if addr.wide {
            climbs_u64(simd, &regs.d[addr.row as usize], step)
        } else {
            climbs_u32(simd, &regs.r[addr.row as usize], step)
        };
        run.then_some(first as usize)
    }

    /// The offset of a lane by a 64-bit address, and nonzero if that is no place for the access.
    #[inline(always)]
    fn wide_place(&self, regs: &Regs, addr: &Addr, lane: usize) -> (u32, u32) {
        // Addresses of a window, such as shared memory, wrap at 4 GiB.
        let window = if self.kind == Kind::Shared && self.base == 0 { u64::from(u32::MAX) } else { u64::MAX };
        let tail = u64::from(self.bytes - 1);
        let at = regs.d[addr.row as usize][lane].wrapping_add((addr.off as u64).wrapping_sub(self.base)) & window;
        let outside = u64::from(at > self.limit.into()) | (at.wrapping_add(self.base & tail) & tail);
        (at as u32, outside as u32)
    }

    /// [`Self::wide_place`] by a 32-bit address.
    #[inline(always)]
    fn narrow_place(&self, regs: &Regs, addr: &Addr, lane: usize) -> (u32, u32) {
        let at = regs.r[addr.row as usize][lane].wrapping_add(addr.off as u32);
        (at, u32::from(at > self.limit) | (at & (self.bytes - 1)))
    }

    /// Writes the offsets of the lanes of `m`; false if some are not aligned or not inside. Lanes' frames of local
    /// memory are `frame` bytes apart.
    #[inline(always)]
    pub(super) fn offsets(&self, regs: &Regs, addr: &Addr, m: u32, at: &mut [u32; LANES]) -> bool {
        if addr.wide {
            spread(m, self.frame, at, |lane| self.wide_place(regs, addr, lane))
        } else {
            spread(m, self.frame, at, |lane| self.narrow_place(regs, addr, lane))
        }
    }
}

/// [`Target::offsets`] of places. In loops, not by [`each`], which takes twice as long here.
#[inline(always)]
fn spread(m: u32, frame: u32, at: &mut [u32; LANES], place: impl Fn(usize) -> (u32, u32)) -> bool {
    let mut bad = 0;
    if m == FULL {
        for lane in 0..LANES {
            let (off, outside) = place(lane);
            bad |= outside;
            at[lane] = off.wrapping_add(lane as u32 * frame);
        }
    } else {
        for lane in lanes(m) {
            let (off, outside) = place(lane);
            bad |= outside;
            at[lane] = off.wrapping_add(lane as u32 * frame);
        }
    }
    bad == 0
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
fn load_run<const N: usize>(regs: &mut Regs, mv: &Move, first: usize, memory: &mut impl Memory) -> bool {
    let Some(rows) = words::<N>(mv) else { return false };
    let Some(run) = memory.run(first / 4, N * LANES) else { return false };
    for (i, row) in rows.into_iter().enumerate() {
        let row = &mut regs.r[row];
        for lane in 0..LANES {
            row[lane] = run.word(N * lane + i);
        }
    }
    true
}

#[inline(always)]
fn store_run<const N: usize>(regs: &Regs, mv: &Move, first: usize, memory: &mut impl Memory) -> bool {
    let Some(rows) = words::<N>(mv) else { return false };
    let Some(mut run) = memory.run(first / 4, N * LANES) else { return false };
    for (i, row) in rows.into_iter().enumerate() {
        let row = &regs.r[row];
        for lane in 0..LANES {
            run.set_word(N * lane + i, row[lane]);
        }
    }
    true
}

/// Word `k` behind the offset of each lane of `m`.
#[inline(always)]
fn words_at(memory: &impl Memory, offsets: &[u32; LANES], m: u32, k: usize) -> [u32; LANES] {
    let mut words = [0; LANES];
    each(m, |lane| words[lane] = memory.word(offsets[lane] as usize / 4 + k));
    words
}

/// A load with its memory: by reference to the code for wide vectors, so that it goes there in a register.
struct Load<'a, M> {
    regs: &'a mut Regs,
    mv: &'a Move,
    target: Target,
    m: u32,
    memory: M,
}

impl<M: Memory> WithSimd for &mut Load<'_, M> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        // Into this frame, where the compiler sees that nothing else changes them.
        let Load { ref mut regs, mv, target, m, ref mut memory } = *self;
        let mut memory = memory.reborrow();
        if target.frame == 0
            && let Some(first) = target.run(simd, regs, &mv.addr, m)
            && (load_run::<1>(regs, mv, first, &mut memory)
                || load_run::<2>(regs, mv, first, &mut memory)
                || load_run::<4>(regs, mv, first, &mut memory)
                || load_halves(regs, mv, first, &mut memory))
        {
            return true;
        }
        let mut offsets = [0; LANES];
        if !target.offsets(regs, &mv.addr, m, &mut offsets) {
            return false;
        }
        let shift = 32 - 8 * mv.size.min(4);
        for reg in &mv.regs {
            let low = words_at(&memory, &offsets, m, 0);
            let mut narrow = [0; LANES];
            for lane in 0..LANES {
                let v = low[lane] >> (8 * (offsets[lane] % 4)) << shift;
                narrow[lane] = if mv.signed { (v as i32 >> shift) as u32 } else { v >> shift };
            }
            let double = |low: [u32; LANES], k: usize| {
                let (high, mut both) = (words_at(&memory, &offsets, m, k), [0; LANES]);
                for lane in 0..LANES {
                    both[lane] = u64::from(low[lane]) | u64::from(high[lane]) << 32;
                }
                both
            };
            match (*reg, mv.size) {
                (Reg::R(row), 4) => u32::put(regs, row, &low, m),
                (Reg::R(row), _) => u32::put(regs, row, &narrow, m),
                (Reg::D(row), 8) => u64::put(regs, row, &double(low, 1), m),
                (Reg::D(row), _) if mv.signed => i64::put(regs, row, &narrow.map(|v| i64::from(v as i32)), m),
                (Reg::D(row), _) => u64::put(regs, row, &narrow.map(u64::from), m),
                (Reg::Q(row), _) => {
                    u64::put(regs, row, &double(low, 1), m);
                    u64::put(regs, row + 1, &double(words_at(&memory, &offsets, m, 2), 3), m);
                }
                (Reg::None, _) => {}
            }
            offsets.iter_mut().for_each(|at| *at += mv.size);
        }
        true
    }
}

/// A store with its memory: by reference to the code for wide vectors, so that it goes there in a register.
struct Store<'a, M> {
    regs: &'a Regs,
    mv: &'a Move,
    target: Target,
    m: u32,
    memory: M,
}

impl<M: Memory> WithSimd for &mut Store<'_, M> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        // Into this frame, where the compiler sees that nothing else changes them.
        let Store { ref mut regs, mv, target, m, ref mut memory } = *self;
        let mut memory = memory.reborrow();
        if target.frame == 0
            && let Some(first) = target.run(simd, regs, &mv.addr, m)
            && (store_run::<1>(regs, mv, first, &mut memory)
                || store_run::<2>(regs, mv, first, &mut memory)
                || store_run::<4>(regs, mv, first, &mut memory)
                || store_halves(regs, mv, first, &mut memory))
        {
            return true;
        }
        let mut offsets = [0; LANES];
        if !target.offsets(regs, &mv.addr, m, &mut offsets) {
            return false;
        }
        for reg in &mv.regs {
            let word = |lane: usize| offsets[lane] as usize / 4;
            let mut narrow = |lane: usize, value: u32| {
                let shift = 8 * (offsets[lane] % 4);
                memory.set_bits(word(lane), value << shift, ((1 << (8 * mv.size)) - 1) << shift);
            };
            match (*reg, mv.size) {
                (Reg::R(row), 1 | 2) => each(m, |lane| narrow(lane, regs.r[row as usize][lane])),
                (Reg::D(row), 1 | 2) => each(m, |lane| narrow(lane, regs.d[row as usize][lane] as u32)),
                (Reg::R(row), _) => {
                    let row = &regs.r[row as usize];
                    each(m, |lane| memory.set_word(word(lane), row[lane]));
                }
                (Reg::D(row), size) => {
                    let row = &regs.d[row as usize];
                    each(m, |lane| {
                        memory.set_word(word(lane), row[lane] as u32);
                        if size == 8 {
                            memory.set_word(word(lane) + 1, (row[lane] >> 32) as u32);
                        }
                    });
                }
                (Reg::Q(_) | Reg::None, _) => {}
            }
            offsets.iter_mut().for_each(|at| *at += mv.size);
        }
        true
    }
}

/// A run of 16-bit elements from a whole word on: two lanes a word.
#[inline(always)]
fn load_halves(regs: &mut Regs, mv: &Move, first: usize, memory: &mut impl Memory) -> bool {
    let (&[Reg::R(row)], 2, 0) = (mv.regs.as_slice(), mv.size, first % 4) else { return false };
    let Some(run) = memory.run(first / 4, LANES / 2) else { return false };
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
fn store_halves(regs: &Regs, mv: &Move, first: usize, memory: &mut impl Memory) -> bool {
    let (&[Reg::R(row)], 2, 0) = (mv.regs.as_slice(), mv.size, first % 4) else { return false };
    let Some(mut run) = memory.run(first / 4, LANES / 2) else { return false };
    let row = &regs.r[row as usize];
    for i in 0..LANES / 2 {
        run.set_word(i, row[2 * i] & 0xffff | row[2 * i + 1] << 16);
    }
    true
}
