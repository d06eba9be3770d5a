//! Convolution: a product of the weights and gathered columns, or taps applied directly where each group has one channel.

use super::depthwise::{Plane, padded_elements, tap_offsets};
use super::gemm::Arithmetic;
use super::parallel::{each, share, threads_for_products};
use super::{Context, Spatial};
use crate::gemm::{Blocking, Matrix, Target, gemm_f32, gemm_f64};
use crate::memory::Slot;
use crate::simd::{Loop, update, widest};
use bytemuck::Pod;

/// `x[images, groups * channels, spatial..] * w[groups * outputs, channels, taps..]`.
#[derive(Debug)]
pub(crate) struct Conv {
    pub(crate) arithmetic: Arithmetic,
    pub(crate) x: usize,
    pub(crate) w: usize,
    pub(crate) out: usize,
    pub(crate) images: usize,
    pub(crate) groups: usize,
    pub(crate) channels: usize,
    pub(crate) outputs: usize,
    pub(crate) spatial: Spatial,
    pub(crate) threads: usize,
}

/// Bytes of gathered columns a task keeps in cache.
const COLUMNS: usize = 512 * 1024;

impl Conv {
    fn depth(&self) -> usize {
        self.channels * self.spatial.taps()
    }

    fn direct(&self) -> bool {
        self.channels == 1 && self.outputs <= 4
    }

    /// Whether the input is already the matrix of columns.
    fn pointwise(&self) -> bool {
        let s = &self.spatial;
        s.taps() == 1 && s.strides == [1; 3] && s.input == s.output
    }

    fn element(&self) -> usize {
        if matches!(self.arithmetic, Arithmetic::F64 | Arithmetic::I64) { 8 } else { 4 }
    }

    /// Output positions of a task.
    fn block(&self) -> usize {
        let positions = self.spatial.positions().max(1);
        let limit = if self.pointwise() {
            positions
        } else {
            (COLUMNS / self.element() / self.depth().max(1)).next_multiple_of(64)
        };
        // Enough tasks for all threads.
        let tasks = self.images * self.groups;
        let share = positions.div_ceil((2 * self.threads).div_ceil(tasks.max(1))).next_multiple_of(64);
        limit.min(share).min(positions).max(1)
    }

    fn blocking(&self) -> Blocking {
        Blocking::new(self.outputs, self.block(), self.depth())
    }

    fn column_bytes(&self) -> usize {
        if self.pointwise() { 0 } else { (self.depth() * self.block() * self.element()).next_multiple_of(64) }
    }

    fn thread_bytes(&self) -> usize {
        let packing = match self.arithmetic {
            Arithmetic::F32 | Arithmetic::F64 => self.blocking().packing() * self.element(),
            _ => 0,
        };
        self.column_bytes() + packing.next_multiple_of(64)
    }

    pub(crate) fn scratch_bytes(&self) -> usize {
        match (self.direct(), self.arithmetic) {
            (true, Arithmetic::F32) => self.plane_bytes() * self.threads,
            (true, _) => 0,
            _ => self.thread_bytes() * self.threads,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match (self.direct(), self.pointwise()) {
            (true, _) => "depthwise conv",
            (_, true) => "pointwise conv",
            _ => "im2col conv",
        }
    }

    pub(crate) fn run(&self, cx: Context<'_>) {
        match (self.direct(), self.arithmetic) {
            (true, Arithmetic::F32) => self.depthwise(cx),
            (true, Arithmetic::F64) => self.taps::<f64>(
                cx,
                #[inline(always)]
                |a, x, w| f64::mul_add(x, w, a),
            ),
            (true, Arithmetic::I64) => self.taps::<i64>(cx, |a, x, w| a.wrapping_add(x.wrapping_mul(w))),
            (true, _) => self.taps::<i32>(cx, |a, x, w| a.wrapping_add(x.wrapping_mul(w))),
            (false, Arithmetic::F32) => self.columns::<f32>(cx, |job| {
                let blocking = job.blocking;
                gemm_f32(blocking, job.m, job.n, job.k, job.a, job.b, job.out, bytemuck::cast_slice_mut(job.packing));
            }),
            (false, Arithmetic::F64) => self.columns::<f64>(cx, |job| {
                let blocking = job.blocking;
                gemm_f64(blocking, job.m, job.n, job.k, job.a, job.b, job.out, bytemuck::cast_slice_mut(job.packing));
            }),
            (false, Arithmetic::I64) => {
                self.columns::<i64>(cx, |job| job.rows(|a, x, w| a.wrapping_add(x.wrapping_mul(w))))
            }
            (false, _) => self.columns::<i32>(cx, |job| job.rows(|a, x, w| a.wrapping_add(x.wrapping_mul(w)))),
        }
    }

    /// Bytes of one thread's padded plane.
    fn plane_bytes(&self) -> usize {
        (padded_elements(&self.spatial) * size_of::<f32>()).next_multiple_of(64)
    }

    /// One input plane at a time, padded once and then read by each filter that applies to it.
    fn depthwise(&self, cx: Context<'_>) {
        let s = self.spatial;
        let (pixels, positions, taps) = (s.pixels(), s.positions(), s.taps());
        let (x, w): (&[f32], &[f32]) = (cx.slots[self.x].typed(), cx.slots[self.w].typed());
        let out = cx.slots[self.out];
        let offsets = tap_offsets(&s);
        let parts = threads_for_products(self.work(), self.threads);
        share(parts, self.images * self.groups, cx.scratch, self.plane_bytes(), |scratch, next| {
            let padded: &mut [f32] = bytemuck::cast_slice_mut(scratch);
            while let Some(range) = next() {
                for channel in range {
                    let plane = Plane::pad(&s, &offsets, &x[channel * pixels..][..pixels], padded);
                    for o in 0..self.outputs {
                        let filter = channel % self.groups * self.outputs + o;
                        let to = out.range_mut((channel * self.outputs + o) * positions, positions);
                        plane.filter(&w[filter * taps..][..taps], to);
                    }
                }
            }
        });
    }

    fn work(&self) -> usize {
        self.images * self.groups * self.outputs * self.depth() * self.spatial.positions()
    }

    fn columns<T: Pod + Send + Sync>(&self, cx: Context<'_>, product: impl Fn(Product<'_, T>) + Sync) {
        let s = &self.spatial;
        let (pixels, positions, depth, block) = (s.pixels(), s.positions(), self.depth(), self.block());
        if positions == 0 || self.outputs == 0 {
            return;
        }
        let blocks = positions.div_ceil(block);
        let (x, w): (&[T], &[T]) = (cx.slots[self.x].typed(), cx.slots[self.w].typed());
        let out = cx.slots[self.out];
        let parts = threads_for_products(self.work(), self.threads);
        let units = self.images * self.groups * blocks;
        share(parts, units, cx.scratch, self.thread_bytes(), |scratch, next| {
            let (columns, packing) = scratch.split_at_mut(self.column_bytes());
            let columns: &mut [T] = bytemuck::cast_slice_mut(columns);
            while let Some(range) = next() {
                for unit in range {
                    let (plane, first) = (unit / blocks, unit % blocks * block);
                    let group = plane % self.groups;
                    let count = block.min(positions - first);
                    let from = &x[plane * self.channels * pixels..][..self.channels * pixels];
                    let b = if self.pointwise() {
                        Matrix { data: from, offset: first as isize, row: pixels as isize, col: 1 }
                    } else {
                        let columns = &mut columns[..depth * count];
                        widest(Im2col { spatial: *s, from, columns, first, count });
                        Matrix { data: &*columns, offset: 0, row: count as isize, col: 1 }
                    };
                    let a = Matrix { data: &w[group * self.outputs * depth..], offset: 0, row: depth as isize, col: 1 };
                    let offset = (plane * self.outputs * positions + first) as isize;
                    let out = Target { slot: out, offset, row: positions as isize, col: 1 };
                    let (m, n, k) = (self.outputs, count, depth);
                    product(Product { blocking: self.blocking(), m, n, k, a, b, out, packing: &mut *packing });
                }
            }
        });
    }

    /// One output plane at a time, a tap at a time.
    fn taps<T: Pod + Send + Sync + Default>(&self, cx: Context<'_>, f: impl Fn(T, T, T) -> T + Copy + Sync) {
        let s = self.spatial;
        let (pixels, positions, taps) = (s.pixels(), s.positions(), s.taps());
        let (x, w): (&[T], &[T]) = (cx.slots[self.x].typed(), cx.slots[self.w].typed());
        let out: Slot<'_> = cx.slots[self.out];
        let planes = self.images * self.groups * self.outputs;
        each(threads_for_products(self.work(), self.threads), planes, |p| {
            let channel = p / self.outputs;
            let filter = p % (self.groups * self.outputs);
            widest(Taps {
                spatial: s,
                plane: &x[channel * pixels..][..pixels],
                weights: &w[filter * taps..][..taps],
                out: out.range_mut(p * positions, positions),
                f,
            });
        });
    }
}

/// One product of weights and columns.
struct Product<'a, T> {
    blocking: Blocking,
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'a, T>,
    b: Matrix<'a, T>,
    out: Target<'a>,
    packing: &'a mut [u8],
}

impl<T: Pod + Default> Product<'_, T> {
    /// A product by rows, for the element types without a packed kernel.
    fn rows(self, f: impl Fn(T, T, T) -> T + Copy) {
        for o in 0..self.m {
            let start = self.out.offset as usize + o * self.out.row as usize;
            let row = self.out.slot.range_mut::<T>(start, self.n);
            row.fill(T::default());
            for d in 0..self.k {
                let weight = self.a.data[self.a.offset as usize + o * self.a.row as usize + d];
                let at = self.b.offset as usize + d * self.b.row as usize;
                update(row, &self.b.data[at..at + self.n], |acc, x| f(acc, x, weight));
            }
        }
    }
}

/// Gathers, for each channel and tap, the inputs under `count` output positions from `first`.
struct Im2col<'a, T> {
    spatial: Spatial,
    from: &'a [T],
    columns: &'a mut [T],
    first: usize,
    count: usize,
}

impl<T: Pod> Loop for Im2col<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let s = &self.spatial;
        let (pixels, taps) = (s.pixels(), s.taps());
        let [_, height, width] = s.input;
        let ow = s.output[2];
        for (row, to) in self.columns.chunks_exact_mut(self.count).enumerate() {
            let plane = &self.from[row / taps * pixels..][..pixels];
            let tap = row % taps;
            let (td, th, tw) = (tap / (s.taps[1] * s.taps[2]), tap / s.taps[2] % s.taps[1], tap % s.taps[2]);
            let (live, source) = s.live(tw);
            let mut at = 0;
            while at < self.count {
                // The rest of an output row.
                let position = self.first + at;
                let (line, w0) = (position / ow, position % ow);
                let n = (ow - w0).min(self.count - at);
                let to = &mut to[at..at + n];
                at += n;
                let place = s.source(0, line / s.output[1], td).zip(s.source(1, line % s.output[1], th));
                let Some((d, h)) = place else {
                    to.fill(T::zeroed());
                    continue;
                };
                let from = &plane[(d * height + h) * width..][..width];
                let (low, high) = (live.start.clamp(w0, w0 + n), live.end.clamp(w0, w0 + n));
                to[..low - w0].fill(T::zeroed());
                to[high.max(low) - w0..].fill(T::zeroed());
                if low >= high {
                    continue;
                }
                let start = source + (low - live.start) * s.strides[2];
                let middle = &mut to[low - w0..high - w0];
                if s.strides[2] == 1 {
                    middle.copy_from_slice(&from[start..start + middle.len()]);
                } else {
                    for (t, &x) in middle.iter_mut().zip(from[start..].iter().step_by(s.strides[2])) {
                        *t = x;
                    }
                }
            }
        }
    }
}

/// The taps of one filter over one plane.
struct Taps<'a, T, F> {
    spatial: Spatial,
    plane: &'a [T],
    weights: &'a [T],
    out: &'a mut [T],
    f: F,
}

impl<T: Pod + Default, F: Fn(T, T, T) -> T + Copy> Loop for Taps<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let s = &self.spatial;
        let [_, height, width] = s.input;
        if s.output[2] == 0 {
            return;
        }
        for (r, row) in self.out.chunks_exact_mut(s.output[2]).enumerate() {
            let (od, oh) = (r / s.output[1], r % s.output[1]);
            row.fill(T::default());
            for td in 0..s.taps[0] {
                let Some(d) = s.source(0, od, td) else { continue };
                for th in 0..s.taps[1] {
                    let Some(h) = s.source(1, oh, th) else { continue };
                    let line = &self.plane[(d * height + h) * width..][..width];
                    for tw in 0..s.taps[2] {
                        let (live, first) = s.live(tw);
                        if live.is_empty() {
                            continue;
                        }
                        let weight = self.weights[(td * s.taps[1] + th) * s.taps[2] + tw];
                        let row = &mut row[live];
                        if s.strides[2] == 1 {
                            for (o, &x) in row.iter_mut().zip(&line[first..]) {
                                *o = (self.f)(*o, x, weight);
                            }
                        } else {
                            for (o, &x) in row.iter_mut().zip(line[first..].iter().step_by(s.strides[2])) {
                                *o = (self.f)(*o, x, weight);
                            }
                        }
                    }
                }
            }
        }
    }
}
