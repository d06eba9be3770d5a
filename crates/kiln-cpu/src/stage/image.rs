//! Images laid out for their windows.

use super::parallel::{each, threads_for};
use super::{Context, Spatial};
use crate::gemm::Windows;
use bytemuck::Pod;

/// How a plane lies so that what one tap reads for neighbouring positions is contiguous: with its padding, and each row split by phase
/// of the last axis's stride.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    spatial: Spatial,
    /// Whether the input already lies so.
    pub(crate) plain: bool,
    /// Extents of the first two axes, and of one phase of a row.
    depth: usize,
    height: usize,
    phase: usize,
    /// Where each tap is, from the place of the first.
    taps: Vec<usize>,
}

impl Image {
    pub(crate) fn new(spatial: Spatial) -> Image {
        let s = &spatial;
        let reach = |a: usize| (s.output[a].max(1) - 1) * s.strides[a] + (s.taps[a] - 1) * s.dilations[a] + 1;
        let columns = s.output[2].max(1) + (s.taps[2] - 1) * s.dilations[2] / s.strides[2];
        let plain = s.strides[2] == 1 && s.pads == [0; 3] && (0..3).all(|a| reach(a) <= s.input[a]);
        let [depth, height, phase] = if plain { s.input } else { [reach(0), reach(1), columns] };
        let row = phase * s.strides[2];
        let mut taps = Vec::with_capacity(s.taps());
        for td in 0..s.taps[0] {
            for th in 0..s.taps[1] {
                for tw in 0..s.taps[2] {
                    let reach = tw * s.dilations[2];
                    let along = reach % s.strides[2] * phase + reach / s.strides[2];
                    taps.push((td * s.dilations[0] * height + th * s.dilations[1]) * row + along);
                }
            }
        }
        Image { spatial, plain, depth, height, phase, taps }
    }

    /// Elements of a plane.
    pub(crate) fn plane(&self) -> usize {
        self.depth * self.height * self.row()
    }

    /// Where each tap is, from the place of a position's first.
    pub(crate) fn taps(&self) -> &[usize] {
        &self.taps
    }

    fn row(&self) -> usize {
        self.phase * self.spatial.strides[2]
    }

    /// Elements from a position to the next along the first two axes.
    pub(crate) fn steps(&self) -> [usize; 2] {
        let s = &self.spatial;
        [s.strides[0] * self.height * self.row(), s.strides[1] * self.row()]
    }

    /// The windows of the planes in `data`, from the position `first`.
    pub(crate) fn windows<'a, T>(&'a self, data: &'a [T], first: usize) -> Windows<'a, T> {
        let [_, height, width] = self.spatial.output;
        let (extents, steps) = ([height, width], self.steps());
        Windows { data, plane: self.plane(), taps: &self.taps, extents, steps, first }
    }

    /// Copies an input plane into this layout.
    pub(crate) fn lay_out<T: Pod>(&self, plane: &[T], to: &mut [T]) {
        let s = &self.spatial;
        let (stride, pad, phase) = (s.strides[2], s.pads[2], self.phase);
        for (r, to) in to[..self.plane()].chunks_exact_mut(self.row()).enumerate() {
            let inside = |at: usize, a: usize| at.checked_sub(s.pads[a]).filter(|&i| i < s.input[a]);
            let Some((d, h)) = inside(r / self.height, 0).zip(inside(r % self.height, 1)) else {
                to.fill(T::zeroed());
                continue;
            };
            let from = &plane[(d * s.input[1] + h) * s.input[2]..][..s.input[2]];
            for (p, to) in to.chunks_exact_mut(phase).enumerate() {
                // Element i of phase p is at input coordinate i * stride + p - pad.
                let low = pad.saturating_sub(p).div_ceil(stride).min(phase);
                let high = (s.input[2] + pad).saturating_sub(p).div_ceil(stride).clamp(low, phase);
                to[..low].fill(T::zeroed());
                to[high..].fill(T::zeroed());
                if low == high {
                    continue;
                }
                let first = low * stride + p - pad;
                if stride == 1 {
                    to[low..high].copy_from_slice(&from[first..first + high - low]);
                } else {
                    for (t, &x) in to[low..high].iter_mut().zip(from[first..].iter().step_by(stride)) {
                        *t = x;
                    }
                }
            }
        }
    }
}

/// Lays all planes of an input out.
#[derive(Debug)]
pub(crate) struct LayOut {
    pub(crate) image: Image,
    pub(crate) x: usize,
    pub(crate) out: usize,
    pub(crate) planes: usize,
    /// Bytes of an element: 4 or 8.
    pub(crate) element: usize,
    pub(crate) threads: usize,
}

impl LayOut {
    pub(crate) fn run(&self, cx: Context<'_>) {
        match self.element {
            8 => self.planes::<u64>(cx),
            _ => self.planes::<u32>(cx),
        }
    }

    fn planes<T: Pod + Sync>(&self, cx: Context<'_>) {
        let (pixels, plane) = (self.image.spatial.pixels(), self.image.plane());
        let (x, out): (&[T], _) = (cx.slots[self.x].typed(), cx.slots[self.out]);
        each(cx.pool, threads_for(self.planes * plane / 4, self.threads), self.planes, |p| {
            self.image.lay_out(&x[p * pixels..][..pixels], out.range_mut(p * plane, plane));
        });
    }
}
