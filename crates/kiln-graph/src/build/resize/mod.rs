//! Resizing by interpolation, one axis at a time.
//!
//! Whole nearest-neighbour enlargements of an axis are repeats. Everything else gathers a few weighted taps an output element: places and
//! weights are literals where the extents are constant ([`fixed`]), and computed when the graph runs otherwise ([`run`]).

mod fixed;
mod run;

use super::Builder;
use super::word::words;
use crate::{BinaryOp, DType, Dim, Result, ValueId};

words! {
    /// How [`Builder::resize`] makes an element of its neighbours.
    Interpolation {
        /// The nearest one.
        Nearest = "nearest",
        /// Two, weighted by distance.
        Linear = "linear",
        /// Four, by Keys' kernel.
        Cubic = "cubic",
    }
}

words! {
    /// The place in the original axis that an element of the new one stands for; names and formulas are those of ONNX Resize.
    Coordinates {
        /// Centres of elements are aligned: `(i + 0.5) / scale - 0.5`.
        HalfPixel = "half_pixel",
        /// The same, and 0 for an axis of one element.
        PytorchHalfPixel = "pytorch_half_pixel",
        /// The same, with the centre of the axis where it was.
        HalfPixelSymmetric = "half_pixel_symmetric",
        /// `(i + 0.5) / scale`.
        TfHalfPixelForNn = "tf_half_pixel_for_nn",
        /// First and last elements are aligned.
        AlignCorners = "align_corners",
        /// `i / scale`.
        Asymmetric = "asymmetric",
        /// A region of the axis.
        TfCropAndResize = "tf_crop_and_resize",
    }
}

words! {
    /// Rounding of a place to the nearest neighbour.
    Rounding {
        /// Down.
        Floor = "floor",
        /// Up.
        Ceil = "ceil",
        /// To the nearest, halves down.
        PreferFloor = "round_prefer_floor",
        /// To the nearest, halves up.
        PreferCeil = "round_prefer_ceil",
    }
}

/// How [`Builder::resize`] resizes.
#[derive(Clone, Debug)]
pub struct Resize {
    /// Which neighbours count.
    pub mode: Interpolation,
    /// Where elements lie.
    pub coordinates: Coordinates,
    /// Rounding of nearest neighbours; none is down to enlarge and up to shrink.
    pub rounding: Option<Rounding>,
    /// The coefficient of Keys' kernel.
    pub cubic: f64,
    /// Neighbours outside have no weight, where they else are the nearest element inside.
    pub exclude_outside: bool,
    /// Shrinking widens the kernel by the scale.
    pub antialias: bool,
    /// Fills places outside, for [`Coordinates::TfCropAndResize`].
    pub outside: f64,
}

impl Default for Resize {
    /// ONNX's defaults.
    fn default() -> Resize {
        Resize {
            mode: Interpolation::Nearest,
            coordinates: Coordinates::HalfPixel,
            rounding: Some(Rounding::PreferFloor),
            cubic: -0.75,
            exclude_outside: false,
            antialias: false,
            outside: 0.0,
        }
    }
}

/// The extents that [`Builder::resize`] gives, an entry an axis.
#[derive(Clone, Copy, Debug)]
pub enum ResizeTo<'a> {
    /// `floor(extent * scale)`.
    Scales(&'a [f64]),
    /// Exactly these.
    Sizes(&'a [Dim]),
    /// The largest in proportion of which none is larger.
    Within(&'a [Dim]),
    /// The smallest in proportion of which none is smaller.
    Covering(&'a [Dim]),
}

/// What is said about the new extent of an axis.
enum Given<'a> {
    Scale(f64),
    Size(&'a Dim),
}

impl Resize {
    fn crops(&self) -> bool {
        self.coordinates == Coordinates::TfCropAndResize
    }

    /// How much of an axis is seen.
    fn span(&self, roi: (f64, f64)) -> f64 {
        if self.crops() { roi.1 - roi.0 } else { 1.0 }
    }

    /// Rounding of nearest neighbours for an axis of this scale.
    fn rounding(&self, scale: f64) -> Rounding {
        self.rounding.unwrap_or(if scale < 1.0 { Rounding::Ceil } else { Rounding::Floor })
    }

    /// Whether a whole enlargement repeats every element.
    fn repeats(&self) -> bool {
        self.mode == Interpolation::Nearest
            && match self.coordinates {
                Coordinates::Asymmetric => self.rounding(1.0) == Rounding::Floor,
                Coordinates::HalfPixel | Coordinates::PytorchHalfPixel | Coordinates::HalfPixelSymmetric => {
                    matches!(self.rounding, Some(Rounding::PreferFloor | Rounding::PreferCeil))
                }
                _ => false,
            }
    }
}

impl Builder {
    /// Resizes `axes` of `x`. `roi` has the start and end, as fractions, of the region of each axis that
    /// [`Coordinates::TfCropAndResize`] takes, and is empty otherwise. Narrow floats are interpolated in f32 and rounded once, after the last
    /// axis.
    pub fn resize(
        &mut self,
        x: ValueId,
        axes: &[usize],
        to: &ResizeTo<'_>,
        roi: &[(f64, f64)],
        rule: &Resize,
    ) -> Result<ValueId> {
        let (scales, sizes) = match *to {
            ResizeTo::Scales(scales) => (Some(scales), None),
            ResizeTo::Sizes(sizes) | ResizeTo::Within(sizes) | ResizeTo::Covering(sizes) => (None, Some(sizes)),
        };
        let count = scales.map_or(0, <[f64]>::len) + sizes.map_or(0, <[Dim]>::len);
        let rank = self.rank(x);
        if count != axes.len() || axes.iter().any(|&a| a >= rank) {
            return self.fail("resize", format!("{count} scales or sizes do not fit axes {axes:?} of {}", self.ty(x)));
        }
        if rule.crops() && roi.len() != axes.len() {
            let message = format!("the region of interest has {} axes, expected {}", roi.len(), axes.len());
            return self.fail("resize", message);
        }
        if let Some(bad) = scales.and_then(|s| s.iter().find(|s| !s.is_finite() || **s <= 0.0)) {
            return self.fail("resize", format!("a scale is above 0, found {bad}"));
        }
        let dtype = self.dtype(x);
        let common = self.common_scale(x, axes, to)?;
        let mut x = x;
        for (i, &axis) in axes.iter().enumerate() {
            let extent = self.shape(x)[axis].clone();
            if let Some(scale) = scales.map(|s| s[i]) {
                if scale == 1.0 && !rule.crops() {
                    continue;
                }
                if scale.fract() == 0.0 && (1.0..65536.0).contains(&scale) && rule.repeats() {
                    x = self.repeat_interleave(x, axis as i64, &Dim::from(scale as i64))?;
                    continue;
                }
            } else if sizes.is_some_and(|s| s[i] == extent) && common.is_none() && !rule.crops() {
                continue;
            }
            let roi = roi.get(i).copied().filter(|_| rule.crops()).unwrap_or((0.0, 1.0));
            if rule.mode != Interpolation::Nearest {
                let wide = if dtype.is_float() { dtype.accumulator() } else { DType::F32 };
                x = self.cast(x, wide)?;
            }
            let given = match (scales, sizes) {
                (Some(scales), _) => Given::Scale(scales[i]),
                (None, Some(sizes)) => Given::Size(&sizes[i]),
                (None, None) => continue,
            };
            x = match fixed::axis(self, axis, &extent, &given, common.as_ref(), roi, rule)? {
                Some(axis) => fixed::interpolate(self, x, &axis, rule)?,
                None => run::interpolate(self, x, axis, &given, common.as_ref(), roi, rule)?,
            };
        }
        self.cast(x, dtype)
    }

    /// The one scale that keeps proportions, if they are to be kept.
    fn common_scale(&self, x: ValueId, axes: &[usize], to: &ResizeTo<'_>) -> Result<Option<Common>> {
        let (sizes, smallest) = match to {
            ResizeTo::Within(sizes) => (sizes, true),
            ResizeTo::Covering(sizes) => (sizes, false),
            _ => return Ok(None),
        };
        let ratios: Vec<(Dim, Dim)> =
            sizes.iter().cloned().zip(axes.iter().map(|&a| self.shape(x)[a].clone())).collect();
        if ratios.is_empty() || ratios.iter().any(|(to, from)| to.as_const().is_some_and(|v| v < 1) || from.is(0)) {
            return self.fail("resize", "keeps the aspect ratio of an empty axis".into());
        }
        Ok(Some(Common { ratios, smallest }))
    }

    /// Keys' cubic weight of the neighbour at `offset`, -1 to 2, for a fraction `f` on the way from neighbour 0 to 1.
    pub fn cubic_weight(&mut self, f: ValueId, offset: f64, coefficient: f64) -> Result<ValueId> {
        // |offset - f| as a polynomial's argument.
        let signed = self.mul_scalar(f, -1.0)?;
        let signed = self.plus_scalar(signed, offset)?;
        let d = self.abs(signed)?;
        let near = offset == 0.0 || offset == 1.0;
        self.cubic_polynomial(d, &if near { cubic_near(coefficient) } else { cubic_far(coefficient) })
    }

    /// A cubic polynomial of `d`, the coefficient of its highest power first.
    fn cubic_polynomial(&mut self, d: ValueId, coefficients: &[f64; 4]) -> Result<ValueId> {
        let mut y = self.mul_scalar(d, coefficients[0])?;
        for c in &coefficients[1..3] {
            y = self.plus_scalar(y, *c)?;
            y = self.mul(y, d)?;
        }
        self.plus_scalar(y, coefficients[3])
    }
}

/// Coefficients of Keys' kernel from 0 to 1, highest power first.
fn cubic_near(a: f64) -> [f64; 4] {
    [a + 2.0, -(a + 3.0), 0.0, 1.0]
}

/// Coefficients of Keys' kernel from 1 to 2, highest power first.
fn cubic_far(a: f64) -> [f64; 4] {
    [a, -5.0 * a, 8.0 * a, -4.0 * a]
}

/// `floor(extent * scale)` with the product in f32, as ONNX's shape inference has it.
fn scaled_extent(extent: i64, scale: f64) -> i64 {
    (extent as f32 * scale as f32).floor() as i64
}

/// The one scale of all axes that keeps the aspect ratio: an extreme of the ratios of size to extent.
struct Common {
    /// Size and extent of each axis; at least one.
    ratios: Vec<(Dim, Dim)>,
    smallest: bool,
}

impl Common {
    /// The scale, if every extent is constant.
    fn constant(&self) -> Option<f64> {
        let ratio = |(to, from): &(Dim, Dim)| Some(f64::from(to.as_const()? as f32 / from.as_const()? as f32));
        let ratios = self.ratios.iter().map(ratio).collect::<Option<Vec<f64>>>()?;
        ratios.into_iter().reduce(if self.smallest { f64::min } else { f64::max })
    }

    /// `round(extent * scale)`.
    fn extent(&self, b: &Builder, extent: &Dim) -> Dim {
        let two = Dim::from(2);
        let each = self.ratios.iter().map(|(to, from)| {
            if from == extent {
                return to.clone();
            }
            (two.clone() * to.clone() * extent.clone() + from.clone()).floor_div(&(two.clone() * from.clone()))
        });
        let pick = |a: Dim, c: Dim| if self.smallest { b.smaller(&a, &c) } else { b.larger(&a, &c) };
        each.reduce(pick).unwrap_or_default()
    }

    /// A bound of `1 / scale`.
    fn shrinks(&self, b: &Builder) -> Dim {
        let each = self.ratios.iter().map(|(to, from)| from.ceil_div(to));
        each.reduce(|a, c| b.larger(&a, &c)).unwrap_or_default()
    }

    fn value(&self, b: &mut Builder) -> Result<ValueId> {
        let op = if self.smallest { BinaryOp::Min } else { BinaryOp::Max };
        let mut all = None;
        for (to, from) in &self.ratios {
            let (to, from) = (b.dim_value(to, DType::F32)?, b.dim_value(from, DType::F32)?);
            let ratio = b.div(to, from)?;
            all = Some(match all {
                Some(all) => b.binary(op, all, ratio)?,
                None => ratio,
            });
        }
        all.map_or_else(|| b.fail("resize", "there are no axes to keep in proportion".into()), Ok)
    }
}
