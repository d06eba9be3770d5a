//! Axes whose extents are constant: places and weights are literals.

use super::{Common, Coordinates, Given, Interpolation, Resize, Rounding, cubic_far, cubic_near, scaled_extent};
use crate::build::Builder;
use crate::{Dim, Result, Tensor, ValueId};

/// Largest extent that is resized: its places and weights are literals in the graph.
const MAX_EXTENT: i64 = 1 << 16;

/// One axis to resize.
pub(super) struct Axis {
    axis: usize,
    from: i64,
    to: i64,
    scale: f64,
    /// The new extent that aligned corners lie at: where a scale is given, before it was rounded down to whole elements.
    resized: f64,
    /// Start and end of the region of interest, for `tf_crop_and_resize`.
    roi: (f64, f64),
}

/// The axis, if its extents are constant.
pub(super) fn axis(
    b: &Builder,
    axis: usize,
    extent: &Dim,
    given: &Given<'_>,
    common: Option<&Common>,
    roi: (f64, f64),
    rule: &Resize,
) -> Result<Option<Axis>> {
    let Some(from) = extent.as_const() else { return Ok(None) };
    let (scale, to) = match (given, common) {
        (Given::Scale(scale), _) => (*scale, scaled_extent(from, scale * rule.span(roi))),
        (_, Some(common)) => match common.constant() {
            Some(scale) => (scale, (scale * from as f64 + 0.5).floor() as i64),
            None => return Ok(None),
        },
        (Given::Size(size), None) => match size.as_const() {
            Some(to) => (f64::from(to as f32 / from as f32), to),
            None => return Ok(None),
        },
    };
    if !(1..=MAX_EXTENT).contains(&from) || !(0..=MAX_EXTENT).contains(&to) {
        return b.fail("resize", format!("extent {from} by scale {scale} gives {to}, expected 0 to {MAX_EXTENT}"));
    }
    let resized = if matches!(given, Given::Scale(_)) { scale * from as f64 } else { to as f64 };
    Ok(Some(Axis { axis, from, to, scale, resized, roi }))
}

/// The place in the original axis that output element `i` stands for, in f32: which neighbour is nearest depends on its rounding.
fn coordinate(a: &Axis, rule: &Resize, i: i64) -> f32 {
    let (i, from, to, scale) = (i as f32, a.from as f32, a.to as f32, a.scale as f32);
    let roi = (a.roi.0 as f32, a.roi.1 as f32);
    match rule.coordinates {
        Coordinates::HalfPixel => (i + 0.5) / scale - 0.5,
        Coordinates::PytorchHalfPixel if a.to == 1 => 0.0,
        Coordinates::PytorchHalfPixel => (i + 0.5) / scale - 0.5,
        Coordinates::TfHalfPixelForNn if scale == 1.0 => i,
        Coordinates::TfHalfPixelForNn => (i + 0.5) / scale,
        Coordinates::AlignCorners if a.to == 1 => 0.0,
        Coordinates::AlignCorners => i * (from - 1.0) / (a.resized as f32 - 1.0),
        Coordinates::Asymmetric => i / scale,
        Coordinates::HalfPixelSymmetric => {
            let adjustment = to / (scale * from);
            let offset = from / 2.0 * (1.0 - adjustment);
            offset + (i + 0.5) / scale - 0.5
        }
        Coordinates::TfCropAndResize if a.to > 1 => {
            roi.0 * (from - 1.0) + i * (roi.1 - roi.0) * (from - 1.0) / (to - 1.0)
        }
        Coordinates::TfCropAndResize => 0.5 * (roi.0 + roi.1) * (from - 1.0),
    }
}

fn nearest(place: f64, how: Rounding) -> f64 {
    match how {
        Rounding::Floor => place.floor(),
        Rounding::Ceil => place.ceil(),
        Rounding::PreferFloor => (place - 0.5).ceil(),
        Rounding::PreferCeil => (place + 0.5).floor(),
    }
}

/// Weight of an element at a distance from the place.
fn weight(distance: f64, rule: &Resize) -> f64 {
    let d = distance.abs();
    let polynomial = |c: [f64; 4]| ((c[0] * d + c[1]) * d + c[2]) * d + c[3];
    match rule.mode {
        Interpolation::Linear => (1.0 - d).max(0.0),
        _ if d <= 1.0 => polynomial(cubic_near(rule.cubic)),
        _ if d < 2.0 => polynomial(cubic_far(rule.cubic)),
        _ => 0.0,
    }
}

/// Elements and weights that make the output at `place`.
fn taps(place: f64, a: &Axis, rule: &Resize) -> Vec<(i64, f64)> {
    let last = a.from - 1;
    if rule.mode == Interpolation::Nearest {
        return vec![((nearest(place, rule.rounding(a.scale)) as i64).clamp(0, last), 1.0)];
    }
    // Shrinking with antialiasing widens the kernel by the scale.
    let stretch = if rule.antialias && a.scale < 1.0 { a.scale } else { 1.0 };
    let reach = if rule.mode == Interpolation::Linear { 1.0 } else { 2.0 } / stretch;
    let (first, end) = ((place - reach).floor() as i64 + 1, (place + reach).ceil() as i64 - 1);
    let mut taps = Vec::new();
    for at in first..=end.max(first) {
        let w = weight((at as f64 - place) * stretch, rule);
        if rule.exclude_outside && !(0..=last).contains(&at) {
            continue;
        }
        taps.push((at.clamp(0, last), w));
    }
    if rule.exclude_outside || stretch != 1.0 {
        let sum: f64 = taps.iter().map(|t| t.1).sum();
        taps.iter_mut().for_each(|t| t.1 /= sum);
    }
    taps
}

/// Resizes one axis by a few gathers.
pub(super) fn interpolate(b: &mut Builder, x: ValueId, a: &Axis, rule: &Resize) -> Result<ValueId> {
    if a.to == 0 {
        return b.slice_axis(x, a.axis as i64, &Dim::from(0), &Dim::from(0), 1);
    }
    let places: Vec<f64> = (0..a.to).map(|i| f64::from(coordinate(a, rule, i))).collect();
    let all: Vec<Vec<(i64, f64)>> = places.iter().map(|&p| taps(p, a, rule)).collect();
    let count = all.iter().map(Vec::len).max().unwrap_or(0);
    if count > 4096 || count * a.to as usize > 1 << 22 {
        return b.fail("resize", format!("shrinking {} to {} with antialiasing", a.from, a.to));
    }
    let dtype = b.dtype(x);
    let column = |b: &mut Builder, values: Tensor| -> Result<ValueId> {
        let v = b.constant(values)?;
        let trailing: Vec<i64> = (1..(b.rank(x) - a.axis) as i64).collect();
        b.unsqueeze(v, &trailing)
    };
    let mut sum = None;
    for t in 0..count {
        let tap = |i: usize| all[i].get(t).copied().unwrap_or((0, 0.0));
        let at: Vec<i64> = (0..all.len()).map(|i| tap(i).0).collect();
        let idx = b.constant(Tensor::from_slice(&[at.len()], &at)?)?;
        let mut part = b.gather(x, idx, a.axis as i64)?;
        if rule.mode != Interpolation::Nearest {
            let weights: Vec<f64> = (0..all.len()).map(|i| tap(i).1).collect();
            let weights = column(b, Tensor::from_f64(dtype, &[weights.len()], &weights)?)?;
            part = b.mul(part, weights)?;
        }
        sum = Some(match sum {
            Some(sum) => b.plus(sum, part)?,
            None => part,
        });
    }
    let Some(mut y) = sum else { return b.fail("resize", "no taps".into()) };
    if rule.crops() {
        let inside: Vec<bool> = places.iter().map(|p| (0.0..=(a.from - 1) as f64).contains(p)).collect();
        let inside = column(b, Tensor::from_slice(&[inside.len()], &inside)?)?;
        let value = b.scalar(dtype, rule.outside)?;
        y = b.select(inside, y, value)?;
    }
    Ok(y)
}
