//! Exact integer convolution: taps applied directly.

use super::parallel::{each, threads_for_products};
use super::{Context, Spatial};
use crate::simd::{Loop, widest};
use bytemuck::Pod;

/// `x[images, groups * channels, spatial..] * w[groups * outputs, channels, taps..]`, wrapping.
#[derive(Debug)]
pub(crate) struct IntConv {
    /// Whether elements are i64 rather than i32.
    pub(crate) wide: bool,
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

impl IntConv {
    pub(crate) fn run(&self, cx: Context<'_>) {
        if self.wide {
            self.planes::<i64>(cx, |a, x, w| a.wrapping_add(x.wrapping_mul(w)));
        } else {
            self.planes::<i32>(cx, |a, x, w| a.wrapping_add(x.wrapping_mul(w)));
        }
    }

    /// One output plane at a time, a tap at a time.
    fn planes<T: Pod + Send + Sync + Default>(&self, cx: Context<'_>, f: impl Fn(T, T, T) -> T + Copy + Sync) {
        let s = self.spatial;
        let (pixels, positions, depth) = (s.pixels(), s.positions(), self.channels * s.taps());
        let (x, w): (&[T], &[T]) = (cx.slots[self.x].typed(), cx.slots[self.w].typed());
        let out = cx.slots[self.out];
        let planes = self.images * self.groups * self.outputs;
        each(cx.pool, threads_for_products(planes * positions * depth, self.threads), planes, |p| {
            let (group, filter) = (p / self.outputs, p % (self.groups * self.outputs));
            widest(Taps {
                spatial: s,
                channels: &x[group * self.channels * pixels..][..self.channels * pixels],
                weights: &w[filter * depth..][..depth],
                out: out.range_mut(p * positions, positions),
                f,
            });
        });
    }
}

/// The taps of one filter over its channels.
struct Taps<'a, T, F> {
    spatial: Spatial,
    channels: &'a [T],
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
            for (i, &weight) in self.weights.iter().enumerate() {
                let (channel, tap) = (i / s.taps(), i % s.taps());
                let (td, th, tw) = (tap / (s.taps[1] * s.taps[2]), tap / s.taps[2] % s.taps[1], tap % s.taps[2]);
                let Some((d, h)) = s.source(0, od, td).zip(s.source(1, oh, th)) else { continue };
                let line = &self.channels[channel * s.pixels() + (d * height + h) * width..][..width];
                let (live, first) = s.live(tw);
                if live.is_empty() {
                    continue;
                }
                for (o, &x) in row[live].iter_mut().zip(line[first..].iter().step_by(s.strides[2])) {
                    *o = (self.f)(*o, x, weight);
                }
            }
        }
    }
}
