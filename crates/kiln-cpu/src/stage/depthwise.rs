//! Depthwise convolution in f32: a plane padded once, then output columns accumulated in registers over all taps.

use super::Spatial;
use pulp::{Arch, Simd, WithSimd};

/// Vector registers of accumulators.
const ACCUMULATORS: usize = 4;
/// Elements that a tile of columns may read beyond a row: accumulators of the widest vector.
const SLACK: usize = ACCUMULATORS * 16;

/// An input plane with its padding, each row split by phase of the last axis's stride: what one tap reads for neighbouring output columns
/// is then contiguous.
pub(super) struct Plane<'a> {
    spatial: &'a Spatial,
    offsets: &'a [usize],
    data: &'a [f32],
}

/// Where each tap reads in a padded plane, from the place of an output's first tap.
pub(super) fn tap_offsets(s: &Spatial) -> Vec<usize> {
    let ([_, height], phase) = extents(s);
    let row = phase * s.strides[2];
    let mut offsets = Vec::with_capacity(s.taps());
    for td in 0..s.taps[0] {
        for th in 0..s.taps[1] {
            for tw in 0..s.taps[2] {
                let reach = tw * s.dilations[2];
                let along = reach % s.strides[2] * phase + reach / s.strides[2];
                offsets.push((td * s.dilations[0] * height + th * s.dilations[1]) * row + along);
            }
        }
    }
    offsets
}

/// Rows along the first two axes and elements of one phase of a row.
fn extents(s: &Spatial) -> ([usize; 2], usize) {
    let reach = |a: usize| (s.output[a].max(1) - 1) * s.strides[a] + (s.taps[a] - 1) * s.dilations[a] + 1;
    let columns = s.output[2] + (s.taps[2] - 1) * s.dilations[2] / s.strides[2] + 1;
    ([reach(0), reach(1)], columns)
}

/// Elements of a padded plane.
pub(super) fn padded_elements(s: &Spatial) -> usize {
    let ([depth, height], columns) = extents(s);
    depth * height * columns * s.strides[2] + SLACK
}

impl<'a> Plane<'a> {
    /// Copies `plane` into `padded`.
    pub(super) fn pad(spatial: &'a Spatial, offsets: &'a [usize], plane: &[f32], padded: &'a mut [f32]) -> Plane<'a> {
        let s = spatial;
        let ([depth, height], phase) = extents(s);
        let (stride, pad) = (s.strides[2], s.pads[2]);
        let row = phase * stride;
        let padded = &mut padded[..depth * height * row + SLACK];
        for (r, to) in padded.chunks_exact_mut(row).take(depth * height).enumerate() {
            let inside = |at: usize, a: usize| at.checked_sub(s.pads[a]).filter(|&i| i < s.input[a]);
            let Some((d, h)) = inside(r / height, 0).zip(inside(r % height, 1)) else {
                to.fill(0.0);
                continue;
            };
            let from = &plane[(d * s.input[1] + h) * s.input[2]..][..s.input[2]];
            for (p, to) in to.chunks_exact_mut(phase).enumerate() {
                // Element i of phase p is at input coordinate i * stride + p - pad.
                let low = pad.saturating_sub(p).div_ceil(stride).min(phase);
                let high = (s.input[2] + pad).saturating_sub(p).div_ceil(stride).clamp(low, phase);
                to[..low].fill(0.0);
                to[high..].fill(0.0);
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
        let end = padded.len() - SLACK;
        padded[end..].fill(0.0);
        Plane { spatial, offsets, data: padded }
    }

    /// Applies one filter.
    pub(super) fn filter(&self, weights: &[f32], out: &mut [f32]) {
        Arch::new().dispatch(Filter { plane: self, weights, out });
    }
}

struct Filter<'a> {
    plane: &'a Plane<'a>,
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Filter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let s = self.plane.spatial;
        let columns = s.output[2];
        if columns == 0 {
            return;
        }
        let tile = ACCUMULATORS * S::F32_LANES;
        let ([_, height], phase) = extents(s);
        let row = phase * s.strides[2];
        for (r, out) in self.out.chunks_exact_mut(columns).enumerate() {
            let (od, oh) = (r / s.output[1], r % s.output[1]);
            let base = (od * s.strides[0] * height + oh * s.strides[1]) * row;
            for c in (0..columns).step_by(tile) {
                let mut acc = [simd.splat_f32s(0.0); ACCUMULATORS];
                let from = &self.plane.data[base + c..];
                for (&offset, &w) in self.plane.offsets.iter().zip(self.weights) {
                    let (x, _) = S::as_simd_f32s(&from[offset..offset + tile]);
                    let w = simd.splat_f32s(w);
                    for i in 0..ACCUMULATORS {
                        acc[i] = simd.mul_add_e_f32s(x[i], w, acc[i]);
                    }
                }
                let values: &[f32] = bytemuck::cast_slice(&acc);
                let live = tile.min(columns - c);
                out[c..c + live].copy_from_slice(&values[..live]);
            }
        }
    }
}
