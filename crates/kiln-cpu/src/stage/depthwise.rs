//! Convolution of a channel with few filters of its own, in f32: a plane laid out once, then positions accumulated in registers over all
//! taps.

use super::image::Image;
use super::parallel::{share, threads_for_products};
use super::{Context, Spatial};
use pulp::{Arch, Simd, WithSimd};

/// Rows of positions that are summed together.
const ROWS: usize = 4;
/// Elements that a vector of positions may read beyond a plane.
const SLACK: usize = 16;

/// `x[images, groups, spatial..] * w[groups * outputs, 1, taps..]`.
#[derive(Debug)]
pub(crate) struct Depthwise {
    pub(crate) x: usize,
    pub(crate) w: usize,
    pub(crate) out: usize,
    pub(crate) images: usize,
    pub(crate) groups: usize,
    /// Filters of a group.
    pub(crate) outputs: usize,
    pub(crate) spatial: Spatial,
    pub(crate) image: Image,
    pub(crate) threads: usize,
}

impl Depthwise {
    /// Bytes of one thread's plane.
    fn plane_bytes(&self) -> usize {
        ((self.image.plane() + SLACK) * size_of::<f32>()).next_multiple_of(64)
    }

    pub(crate) fn scratch_bytes(&self) -> usize {
        self.plane_bytes() * self.threads
    }

    pub(crate) fn run(&self, cx: Context<'_>) {
        let s = &self.spatial;
        let (pixels, positions, taps) = (s.pixels(), s.positions(), s.taps());
        let (x, w): (&[f32], &[f32]) = (cx.slots[self.x].typed(), cx.slots[self.w].typed());
        let out = cx.slots[self.out];
        let channels = self.images * self.groups;
        let parts = threads_for_products(channels * self.outputs * positions * taps, self.threads);
        share(cx.pool, parts, channels, cx.scratch, self.plane_bytes(), |scratch, next| {
            let plane: &mut [f32] = bytemuck::cast_slice_mut(scratch);
            plane[self.image.plane()..].fill(0.0);
            while let Some(range) = next() {
                for channel in range {
                    self.image.lay_out(&x[channel * pixels..][..pixels], plane);
                    for o in 0..self.outputs {
                        let filter = channel % self.groups * self.outputs + o;
                        let out = out.range_mut((channel * self.outputs + o) * positions, positions);
                        let weights = &w[filter * taps..][..taps];
                        Arch::new().dispatch(Filter { of: self, plane: &*plane, weights, out });
                    }
                }
            }
        });
    }
}

/// One filter over one plane.
struct Filter<'a> {
    of: &'a Depthwise,
    plane: &'a [f32],
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Filter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [depth, height, columns] = self.of.spatial.output;
        if columns == 0 {
            return;
        }
        let (rows, lanes) = (depth * height, S::F32_LANES);
        let steps = self.of.image.steps();
        for r in (0..rows).step_by(ROWS) {
            // Beyond the last row, it is computed again and not stored.
            let starts =
                [0, 1, 2, 3].map(|i| (r + i).min(rows - 1)).map(|r| r / height * steps[0] + r % height * steps[1]);
            for c in (0..columns).step_by(lanes) {
                let mut acc = [simd.splat_f32s(0.0); ROWS];
                let from = starts.map(|start| &self.plane[start + c..]);
                for (&offset, &w) in self.of.image.taps().iter().zip(self.weights) {
                    let w = simd.splat_f32s(w);
                    for i in 0..ROWS {
                        let (x, _) = S::as_simd_f32s(&from[i][offset..offset + lanes]);
                        acc[i] = simd.mul_add_e_f32s(x[0], w, acc[i]);
                    }
                }
                let values: &[f32] = bytemuck::cast_slice(&acc);
                let live = lanes.min(columns - c);
                for (values, r) in values.chunks_exact(lanes).zip(r..rows) {
                    self.out[r * columns + c..][..live].copy_from_slice(&values[..live]);
                }
            }
        }
    }
}
