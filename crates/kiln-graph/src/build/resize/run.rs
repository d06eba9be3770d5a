//! Axes whose extents are known only when the graph runs: places and weights are values of the graph.

use super::{Common, Coordinates, Given, Interpolation, Resize, Rounding, cubic_far, cubic_near, scaled_extent};
use crate::build::Builder;
use crate::{CompareOp, DType, Dim, EinsumSpec, Result, ValueId};
use std::ops::RangeInclusive;

/// One axis as values of the graph; scalars in f32.
struct Axis {
    axis: usize,
    from: Dim,
    to: Dim,
    scale: ValueId,
    /// Whether the model gives the scale, and not a size.
    scaled: bool,
    /// A bound of `1 / scale`.
    shrinks: Dim,
    roi: (f64, f64),
}

/// Resizes one axis.
pub(super) fn interpolate(
    b: &mut Builder,
    x: ValueId,
    axis: usize,
    given: &Given<'_>,
    common: Option<&Common>,
    roi: (f64, f64),
    rule: &Resize,
) -> Result<ValueId> {
    let from = b.shape(x)[axis].clone();
    let (to, scale, shrinks) = match (given, common) {
        (Given::Scale(scale), _) => {
            let shrinks = Dim::from((1.0 / scale).ceil().min(1e6) as i64);
            (extent_by(b, &from, scale * rule.span(roi))?, b.scalar(DType::F32, *scale)?, shrinks)
        }
        (_, Some(common)) => (common.extent(b, &from), common.value(b)?, common.shrinks(b)),
        (Given::Size(to), None) => {
            let (size, extent) = (b.dim_value(to, DType::F32)?, b.dim_value(&from, DType::F32)?);
            ((*to).clone(), b.div(size, extent)?, from.ceil_div(to))
        }
    };
    let a = Axis { axis, from, to, scale, scaled: matches!(given, Given::Scale(_)), shrinks, roi };
    let place = places(b, &a, rule)?;
    let grows = matches!(given, Given::Scale(scale) if *scale >= 1.0);
    let y = match rule.mode {
        Interpolation::Nearest => {
            let rounding = match given {
                Given::Scale(scale) => rule.rounding(*scale),
                Given::Size(_) => rule.rounding(1.0),
            };
            let at = nearest(b, place, rounding)?;
            let at = clamped(b, at, &a.from)?;
            b.gather(x, at, axis as i64)?
        }
        _ if rule.antialias && !grows => product(b, x, place, &a, rule)?,
        _ => taps(b, x, place, &a, rule)?,
    };
    if !rule.crops() {
        return Ok(y);
    }
    let last = a.from.clone() - Dim::from(1);
    let (zero, last) = (b.scalar(DType::F32, 0.0)?, b.dim_value(&last, DType::F32)?);
    let (after, before) = (b.compare(CompareOp::Ge, place, zero)?, b.compare(CompareOp::Le, place, last)?);
    let inside = b.and(after, before)?;
    let inside = column(b, inside, x, axis)?;
    let dtype = b.dtype(y);
    let outside = b.scalar(dtype, rule.outside)?;
    b.select(inside, y, outside)
}

/// Largest extent for which [`extent_by`] is checked.
const CHECKED: i64 = 1 << 16;

/// `floor(extent * scale)` as a dimension, as the product in f32 gives it: the simplest fraction that is `scale` in f32 where that does, else
/// with the rounding spelt out.
fn extent_by(b: &Builder, extent: &Dim, scale: f64) -> Result<Dim> {
    let (low, high) = extent.bounds(&b.graph().symbols);
    let range = low.clamp(1, CHECKED)..=high.clamp(1, CHECKED);
    if let Some((p, q)) = fraction(scale)
        && range.clone().all(|n| n * p / q == scaled_extent(n, scale))
    {
        return Ok((extent.clone() * Dim::from(p)).floor_div(&Dim::from(q)));
    }
    rounded(extent, scale, range)
        .map_or_else(|| b.fail("resize", format!("the scale {scale} of the extent `{extent}`; give sizes")), Ok)
}

/// With `scale = m / 2^k` and `m` of 24 bits, an exact product `n m` of `24 + e` bits rounds to whole steps of `2^e`, and so reaches the next whole
/// number from half a step, `2^(e - 1)`, below it. The largest over all `e` of `floor((n m + half) / 2^k)` is the result, where those for larger
/// products than `n m` are kept out of the way.
fn rounded(extent: &Dim, scale: f64, range: RangeInclusive<i64>) -> Option<Dim> {
    let bits = (scale as f32).to_bits();
    let (m, k) = (i64::from(bits & 0x7f_ffff | 0x80_0000), 150 - i64::from(bits >> 23));
    let steps = u32::try_from(k).ok().filter(|k| (1..=46).contains(k)).map(|k| 1i64 << k)?;
    let (mut terms, mut whole): (Vec<(i64, i64)>, Option<Dim>) = (Vec::new(), None);
    let term = |n: i64, (first, half): (i64, i64)| ((n - (first - n).max(0)) * m + half).div_euclid(steps);
    for n in range {
        let wanted = scaled_extent(n, scale);
        if terms.iter().map(|t| term(n, *t)).max() == Some(wanted) {
            continue;
        }
        let e = 40 - (n * m).leading_zeros();
        let t = (if terms.is_empty() { 0 } else { n }, (1i64 << e) >> 1);
        terms.push(t);
        if terms.iter().map(|t| term(n, *t)).max() != Some(wanted) {
            return None;
        }
        let reach = match t.0 {
            0 => extent.clone(),
            first => extent.clone() - (Dim::from(first) - extent.clone()).maximum(&Dim::from(0)),
        };
        let value = (reach * Dim::from(m) + Dim::from(t.1)).floor_div(&Dim::from(steps));
        whole = Some(whole.map_or(value.clone(), |w: Dim| w.maximum(&value)));
    }
    whole
}

/// The simplest fraction that rounds to `value` in f32, by its continued fraction.
fn fraction(value: f64) -> Option<(i64, i64)> {
    let (mut before, mut last) = ((0i64, 1i64), (1i64, 0i64));
    let mut rest = value;
    for _ in 0..32 {
        let whole = rest.floor();
        if !(0.0..1e9).contains(&whole) {
            return None;
        }
        let step = |a: i64, b: i64| (whole as i64).checked_mul(b)?.checked_add(a);
        let next = (step(before.0, last.0)?, step(before.1, last.1)?);
        (before, last) = (last, next);
        if (last.0 as f64 / last.1 as f64) as f32 == value as f32 {
            return (last.0 > 0).then_some(last);
        }
        rest = 1.0 / (rest - whole);
    }
    None
}

/// The places `[to]` in the original axis, in f32 as for constant extents.
fn places(b: &mut Builder, a: &Axis, rule: &Resize) -> Result<ValueId> {
    let i = b.iota(DType::F32, std::slice::from_ref(&a.to), 0)?;
    let (from, to) = (b.dim_value(&a.from, DType::F32)?, b.dim_value(&a.to, DType::F32)?);
    let one = b.scalar(DType::F32, 1.0)?;
    let centre = b.plus_scalar(i, 0.5)?;
    let single = b.compare(CompareOp::Eq, to, one)?;
    let zero = b.scalar(DType::F32, 0.0)?;
    let last = b.sub(from, one)?;
    Ok(match rule.coordinates {
        Coordinates::HalfPixel => half_pixel(b, centre, a)?,
        Coordinates::PytorchHalfPixel => {
            let place = half_pixel(b, centre, a)?;
            b.select(single, zero, place)?
        }
        Coordinates::TfHalfPixelForNn => {
            // An axis that keeps its extent is left alone.
            let same = b.compare(CompareOp::Eq, a.scale, one)?;
            let place = divided(b, centre, a.scale)?;
            b.select(same, i, place)?
        }
        Coordinates::Asymmetric => divided(b, i, a.scale)?,
        Coordinates::AlignCorners => {
            // A given scale counts before the new extent is rounded down to whole elements.
            let resized = if a.scaled { b.mul(a.scale, from)? } else { to };
            let steps = b.sub(resized, one)?;
            let steps = b.select(single, one, steps)?;
            let along = b.mul(i, last)?;
            let place = divided(b, along, steps)?;
            b.select(single, zero, place)?
        }
        Coordinates::HalfPixelSymmetric => {
            let resized = b.mul(a.scale, from)?;
            let adjustment = b.div(to, resized)?;
            let rest = b.sub(one, adjustment)?;
            let half = b.mul_scalar(from, 0.5)?;
            let offset = b.mul(half, rest)?;
            let place = divided(b, centre, a.scale)?;
            let place = b.plus(offset, place)?;
            b.plus_scalar(place, -0.5)?
        }
        Coordinates::TfCropAndResize => {
            let steps = b.sub(to, one)?;
            let steps = b.select(single, one, steps)?;
            let span = b.mul_scalar(i, a.roi.1 - a.roi.0)?;
            let along = b.mul(span, last)?;
            let along = b.div(along, steps)?;
            let start = b.mul_scalar(last, a.roi.0)?;
            let place = b.plus(start, along)?;
            let middle = b.mul_scalar(last, 0.5 * (a.roi.0 + a.roi.1))?;
            b.select(single, middle, place)?
        }
    })
}

/// A quotient rounded to f32 however it is computed: in f64 even a product with the reciprocal is close enough.
fn divided(b: &mut Builder, n: ValueId, by: ValueId) -> Result<ValueId> {
    let (n, by) = (b.cast(n, DType::F64)?, b.cast(by, DType::F64)?);
    let q = b.div(n, by)?;
    b.cast(q, DType::F32)
}

fn half_pixel(b: &mut Builder, centre: ValueId, a: &Axis) -> Result<ValueId> {
    let place = divided(b, centre, a.scale)?;
    b.plus_scalar(place, -0.5)
}

/// The nearest whole place, in f64, which takes the halves that are added exactly.
fn nearest(b: &mut Builder, place: ValueId, how: Rounding) -> Result<ValueId> {
    let place = b.cast(place, DType::F64)?;
    Ok(match how {
        Rounding::Floor => b.floor(place)?,
        Rounding::Ceil => b.ceil(place)?,
        Rounding::PreferFloor => {
            let lower = b.plus_scalar(place, -0.5)?;
            b.ceil(lower)?
        }
        Rounding::PreferCeil => {
            let upper = b.plus_scalar(place, 0.5)?;
            b.floor(upper)?
        }
    })
}

/// Whole places as indices inside an axis.
fn clamped(b: &mut Builder, place: ValueId, extent: &Dim) -> Result<ValueId> {
    let at = b.cast(place, DType::I64)?;
    let last = b.dim_value(&(extent.clone() - Dim::from(1)), DType::I64)?;
    let zero = b.scalar_int(DType::I64, 0)?;
    let at = b.max(at, zero)?;
    b.min(at, last)
}

/// A vector along `axis` of `x`, shaped to broadcast.
fn column(b: &mut Builder, v: ValueId, x: ValueId, axis: usize) -> Result<ValueId> {
    let trailing: Vec<i64> = (1..(b.rank(x) - axis) as i64).collect();
    b.unsqueeze(v, &trailing)
}

/// 1 where a whole place (a float) lies inside an axis, else 0.
fn inside(b: &mut Builder, at: ValueId, extent: &Dim) -> Result<ValueId> {
    let dtype = b.dtype(at);
    let (zero, end) = (b.scalar(dtype, 0.0)?, b.dim_value(extent, dtype)?);
    let (after, before) = (b.compare(CompareOp::Ge, at, zero)?, b.compare(CompareOp::Lt, at, end)?);
    let both = b.and(after, before)?;
    b.cast(both, dtype)
}

/// Two or four weighted neighbours of each place.
fn taps(b: &mut Builder, x: ValueId, place: ValueId, a: &Axis, rule: &Resize) -> Result<ValueId> {
    let dtype = b.dtype(x);
    let base = b.floor(place)?;
    let f = b.sub(place, base)?;
    let offsets: &[f64] = if rule.mode == Interpolation::Linear { &[0.0, 1.0] } else { &[-1.0, 0.0, 1.0, 2.0] };
    let (mut parts, mut total) = (Vec::new(), None);
    for &offset in offsets {
        let mut weight = match rule.mode {
            Interpolation::Linear if offset == 0.0 => {
                let rest = b.neg(f)?;
                b.plus_scalar(rest, 1.0)?
            }
            Interpolation::Linear => f,
            _ => b.cubic_weight(f, offset, rule.cubic)?,
        };
        let at = b.plus_scalar(base, offset)?;
        if rule.exclude_outside {
            let kept = inside(b, at, &a.from)?;
            weight = b.mul(weight, kept)?;
            total = Some(match total {
                Some(total) => b.plus(total, weight)?,
                None => weight,
            });
        }
        parts.push((clamped(b, at, &a.from)?, weight));
    }
    let mut sum = None;
    for (at, mut weight) in parts {
        if let Some(total) = total {
            weight = b.div(weight, total)?;
        }
        let weight = b.cast(weight, dtype)?;
        let weight = column(b, weight, x, a.axis)?;
        let part = b.gather(x, at, a.axis as i64)?;
        let part = b.mul(part, weight)?;
        sum = Some(match sum {
            Some(sum) => b.plus(sum, part)?,
            None => part,
        });
    }
    sum.map_or_else(|| b.fail("resize", "no taps".into()), Ok)
}

/// Antialiasing widens the kernel by as much as the axis shrinks, so how many taps there are depends on the extents: a product with the matrix
/// of all weights, over the axis extended by as far as the kernel reaches.
fn product(b: &mut Builder, x: ValueId, place: ValueId, a: &Axis, rule: &Resize) -> Result<ValueId> {
    let dtype = b.dtype(x);
    let reach = if rule.mode == Interpolation::Linear { 1 } else { 2 };
    let margin = a.shrinks.clone() * Dim::from(reach) + Dim::from(reach + 1);
    let extended = a.from.clone() + margin.clone() + margin.clone();
    let at = b.iota(DType::F32, &[a.to.clone(), extended.clone()], 1)?;
    let offset = b.dim_value(&margin, DType::F32)?;
    let at = b.sub(at, offset)?;
    let one = b.scalar(DType::F32, 1.0)?;
    let stretch = b.min(a.scale, one)?;
    let rows = b.unsqueeze(place, &[1])?;
    let distance = b.sub(at, rows)?;
    let distance = b.mul(distance, stretch)?;
    let distance = b.abs(distance)?;
    let mut weights = kernel(b, distance, rule)?;
    if rule.exclude_outside {
        let kept = inside(b, at, &a.from)?;
        weights = b.mul(weights, kept)?;
    }
    let total = b.sum(weights, &[1], true)?;
    let weights = b.div(weights, total)?;
    let weights = b.cast(weights, dtype)?;
    let column = b.iota(DType::F32, &[extended], 0)?;
    let column = b.sub(column, offset)?;
    let column = clamped(b, column, &a.from)?;
    let wide = b.gather(x, column, a.axis as i64)?;
    let other = |i: usize| char::from_u32(0x3b1 + i as u32).unwrap_or('?');
    let labels = |own: char| (0..b.rank(x)).map(|i| if i == a.axis { own } else { other(i) }).collect();
    let spec = EinsumSpec { lhs: labels('k'), rhs: vec!['n', 'k'], out: labels('n') };
    b.contract(spec, wide, weights, dtype, dtype)
}

/// The interpolation kernel at a distance of at least 0.
fn kernel(b: &mut Builder, d: ValueId, rule: &Resize) -> Result<ValueId> {
    let zero = b.scalar(DType::F32, 0.0)?;
    if rule.mode == Interpolation::Linear {
        let rest = b.neg(d)?;
        let rest = b.plus_scalar(rest, 1.0)?;
        return b.max(rest, zero);
    }
    let (near, far) = (b.cubic_polynomial(d, &cubic_near(rule.cubic))?, b.cubic_polynomial(d, &cubic_far(rule.cubic))?);
    let inner = b.compare_scalar(CompareOp::Le, d, 1.0)?;
    let outer = b.compare_scalar(CompareOp::Lt, d, 2.0)?;
    let far = b.select(outer, far, zero)?;
    b.select(inner, near, far)
}
