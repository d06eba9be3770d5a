//! Resizing of axes whose extents are known only when the graph runs: places and weights are values of the graph.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::shape_values::{larger, smaller};
use super::resize::{Given, Rule, scaled};
use super::sample::{cubic, cubic_far, cubic_near, polynomial};
use kiln_graph::{BinaryOp, CompareOp, DType, Dim, EinsumSpec, ValueId};
use std::ops::RangeInclusive;

/// The one scale of all axes that keeps the aspect ratio: an extreme of the ratios of size to extent.
pub(super) struct Common {
    /// Size and extent of each axis.
    ratios: Vec<(Dim, Dim)>,
    smallest: bool,
}

impl Common {
    /// The scale, if every extent is constant.
    pub(super) fn constant(&self) -> Option<f64> {
        let ratio = |(to, from): &(Dim, Dim)| Some(f64::from(to.as_const()? as f32 / from.as_const()? as f32));
        let ratios = self.ratios.iter().map(ratio).collect::<Option<Vec<f64>>>()?;
        ratios.into_iter().reduce(if self.smallest { f64::min } else { f64::max })
    }

    /// `round(extent * scale)`.
    fn extent(&self, l: &Lower<'_>, extent: &Dim) -> Dim {
        let two = Dim::from(2);
        let each = self.ratios.iter().map(|(to, from)| {
            if from == extent {
                return to.clone();
            }
            (two.clone() * to.clone() * extent.clone() + from.clone()).floor_div(&(two.clone() * from.clone()))
        });
        let symbols = &l.graph().symbols;
        let pick = if self.smallest { smaller } else { larger };
        each.reduce(|a, b| pick(&a, &b, symbols)).unwrap_or_default()
    }

    /// A bound of `1 / scale`.
    fn shrinks(&self, l: &Lower<'_>) -> Dim {
        let each = self.ratios.iter().map(|(to, from)| from.ceil_div(to));
        each.reduce(|a, b| larger(&a, &b, &l.graph().symbols)).unwrap_or_default()
    }

    fn value(&self, l: &mut Lower<'_>) -> OpResult<ValueId> {
        let op = if self.smallest { BinaryOp::Min } else { BinaryOp::Max };
        let mut all = None;
        for (to, from) in &self.ratios {
            let (to, from) = (l.dim_value(to, DType::F32)?, l.dim_value(from, DType::F32)?);
            let ratio = l.div(to, from)?;
            all = Some(match all {
                Some(all) => l.binary(op, all, ratio)?,
                None => ratio,
            });
        }
        all.map_or_else(|| invalid("there are no axes to keep in proportion"), Ok)
    }
}

/// The scale that `keep_aspect_ratio_policy` asks for.
pub(super) fn common_scale(
    l: &Lower<'_>,
    policy: &str,
    x: ValueId,
    axes: &[usize],
    sizes: Option<&[Dim]>,
) -> OpResult<Option<Common>> {
    let smallest = match policy {
        "stretch" => return Ok(None),
        "not_larger" => true,
        "not_smaller" => false,
        other => return invalid(format!("keep_aspect_ratio_policy is `{other}`")),
    };
    let sizes = sizes.unwrap_or_default().iter().cloned();
    let ratios: Vec<(Dim, Dim)> = sizes.zip(axes.iter().map(|&a| l.shape(x)[a].clone())).collect();
    if ratios.iter().any(|(to, from)| to.as_const().is_some_and(|v| v < 1) || from.is(0)) {
        return invalid("keeps the aspect ratio of an empty axis");
    }
    Ok(Some(Common { ratios, smallest }))
}

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
    l: &mut Lower<'_>,
    x: ValueId,
    axis: usize,
    given: &Given<'_>,
    common: Option<&Common>,
    roi: (f64, f64),
    rule: &Rule<'_>,
) -> OpResult<ValueId> {
    let from = l.shape(x)[axis].clone();
    let (to, scale, shrinks) = match (given, common) {
        (Given::Scale(scale), _) => {
            let shrinks = Dim::from((1.0 / scale).ceil().min(1e6) as i64);
            (scaled_extent(l, &from, scale * rule.span(roi))?, l.scalar(DType::F32, *scale)?, shrinks)
        }
        (_, Some(common)) => (common.extent(l, &from), common.value(l)?, common.shrinks(l)),
        (Given::Size(to), None) => {
            let (size, extent) = (l.dim_value(to, DType::F32)?, l.dim_value(&from, DType::F32)?);
            ((*to).clone(), l.div(size, extent)?, from.ceil_div(to))
        }
    };
    let a = Axis { axis, from, to, scale, scaled: matches!(given, Given::Scale(_)), shrinks, roi };
    let place = places(l, &a, rule)?;
    let grows = matches!(given, Given::Scale(scale) if *scale >= 1.0);
    let y = match rule.mode {
        "nearest" => {
            let rounding = match given {
                Given::Scale(scale) => rule.rounding(*scale),
                Given::Size(_) => rule.nearest,
            };
            let at = nearest(l, place, rounding)?;
            let at = clamped(l, at, &a.from)?;
            l.gather(x, at, axis as i64)?
        }
        _ if rule.antialias && !grows => product(l, x, place, &a, rule)?,
        _ => taps(l, x, place, &a, rule)?,
    };
    if !rule.crops() {
        return Ok(y);
    }
    let last = a.from.clone() - Dim::from(1);
    let (zero, last) = (l.scalar(DType::F32, 0.0)?, l.dim_value(&last, DType::F32)?);
    let (after, before) = (l.compare(CompareOp::Ge, place, zero)?, l.compare(CompareOp::Le, place, last)?);
    let inside = l.and(after, before)?;
    let inside = column(l, inside, x, axis)?;
    let dtype = l.dtype(y);
    let outside = l.scalar(dtype, rule.outside)?;
    Ok(l.select(inside, y, outside)?)
}

/// Largest extent for which [`scaled_extent`] is checked.
const CHECKED: i64 = 1 << 16;

/// `floor(extent * scale)` as a dimension, as the product in f32 gives it: the simplest fraction that is `scale` in f32 where that does, else
/// with the rounding spelt out.
fn scaled_extent(l: &Lower<'_>, extent: &Dim, scale: f64) -> OpResult<Dim> {
    let (low, high) = extent.bounds(&l.graph().symbols);
    let range = low.clamp(1, CHECKED)..=high.clamp(1, CHECKED);
    if let Some((p, q)) = fraction(scale)
        && range.clone().all(|n| n * p / q == scaled(n, scale))
    {
        return Ok((extent.clone() * Dim::from(p)).floor_div(&Dim::from(q)));
    }
    rounded(extent, scale, range)
        .map_or_else(|| unsupported(format!("the scale {scale} of the extent `{extent}`; give sizes")), Ok)
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
        let wanted = scaled(n, scale);
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
fn places(l: &mut Lower<'_>, a: &Axis, rule: &Rule<'_>) -> OpResult<ValueId> {
    let i = l.iota(DType::F32, std::slice::from_ref(&a.to), 0)?;
    let (from, to) = (l.dim_value(&a.from, DType::F32)?, l.dim_value(&a.to, DType::F32)?);
    let one = l.scalar(DType::F32, 1.0)?;
    let centre = l.plus_scalar(i, 0.5)?;
    let single = l.compare(CompareOp::Eq, to, one)?;
    let zero = l.scalar(DType::F32, 0.0)?;
    let last = l.sub(from, one)?;
    Ok(match rule.coordinates {
        "half_pixel" => half_pixel(l, centre, a)?,
        "pytorch_half_pixel" => {
            let place = half_pixel(l, centre, a)?;
            l.select(single, zero, place)?
        }
        "tf_half_pixel_for_nn" => {
            // An axis that keeps its extent is left alone.
            let same = l.compare(CompareOp::Eq, a.scale, one)?;
            let place = divided(l, centre, a.scale)?;
            l.select(same, i, place)?
        }
        "asymmetric" => divided(l, i, a.scale)?,
        "align_corners" => {
            // A given scale counts before the new extent is rounded down to whole elements.
            let resized = if a.scaled { l.mul(a.scale, from)? } else { to };
            let steps = l.sub(resized, one)?;
            let steps = l.select(single, one, steps)?;
            let along = l.mul(i, last)?;
            let place = divided(l, along, steps)?;
            l.select(single, zero, place)?
        }
        "half_pixel_symmetric" => {
            let resized = l.mul(a.scale, from)?;
            let adjustment = l.div(to, resized)?;
            let rest = l.sub(one, adjustment)?;
            let half = l.mul_scalar(from, 0.5)?;
            let offset = l.mul(half, rest)?;
            let place = divided(l, centre, a.scale)?;
            let place = l.plus(offset, place)?;
            l.plus_scalar(place, -0.5)?
        }
        "tf_crop_and_resize" => {
            let steps = l.sub(to, one)?;
            let steps = l.select(single, one, steps)?;
            let span = l.mul_scalar(i, a.roi.1 - a.roi.0)?;
            let along = l.mul(span, last)?;
            let along = l.div(along, steps)?;
            let start = l.mul_scalar(last, a.roi.0)?;
            let place = l.plus(start, along)?;
            let middle = l.mul_scalar(last, 0.5 * (a.roi.0 + a.roi.1))?;
            l.select(single, middle, place)?
        }
        other => return invalid(format!("coordinate_transformation_mode is `{other}`")),
    })
}

/// A quotient rounded to f32 however it is computed: in f64 even a product with the reciprocal is close enough.
fn divided(l: &mut Lower<'_>, a: ValueId, b: ValueId) -> OpResult<ValueId> {
    let (a, b) = (l.cast(a, DType::F64)?, l.cast(b, DType::F64)?);
    let q = l.div(a, b)?;
    Ok(l.cast(q, DType::F32)?)
}

fn half_pixel(l: &mut Lower<'_>, centre: ValueId, a: &Axis) -> OpResult<ValueId> {
    let place = divided(l, centre, a.scale)?;
    Ok(l.plus_scalar(place, -0.5)?)
}

/// The nearest whole place, in f64, which takes the halves that are added exactly.
fn nearest(l: &mut Lower<'_>, place: ValueId, how: &str) -> OpResult<ValueId> {
    let place = l.cast(place, DType::F64)?;
    Ok(match how {
        "floor" => l.floor(place)?,
        "ceil" => l.ceil(place)?,
        "round_prefer_floor" => {
            let lower = l.plus_scalar(place, -0.5)?;
            l.ceil(lower)?
        }
        "round_prefer_ceil" => {
            let upper = l.plus_scalar(place, 0.5)?;
            l.floor(upper)?
        }
        other => return invalid(format!("nearest_mode is `{other}`")),
    })
}

/// Whole places as indices inside an axis.
fn clamped(l: &mut Lower<'_>, place: ValueId, extent: &Dim) -> OpResult<ValueId> {
    let at = l.cast(place, DType::I64)?;
    let last = l.dim_value(&(extent.clone() - Dim::from(1)), DType::I64)?;
    let zero = l.scalar_int(DType::I64, 0)?;
    let at = l.max(at, zero)?;
    Ok(l.min(at, last)?)
}

/// A vector along `axis` of `x`, shaped to broadcast.
fn column(l: &mut Lower<'_>, v: ValueId, x: ValueId, axis: usize) -> OpResult<ValueId> {
    let trailing: Vec<i64> = (1..(l.rank(x) - axis) as i64).collect();
    Ok(l.unsqueeze(v, &trailing)?)
}

/// 1 where a whole place (a float) lies inside an axis, else 0.
fn inside(l: &mut Lower<'_>, at: ValueId, extent: &Dim) -> OpResult<ValueId> {
    let dtype = l.dtype(at);
    let (zero, end) = (l.scalar(dtype, 0.0)?, l.dim_value(extent, dtype)?);
    let (after, before) = (l.compare(CompareOp::Ge, at, zero)?, l.compare(CompareOp::Lt, at, end)?);
    let both = l.and(after, before)?;
    Ok(l.cast(both, dtype)?)
}

/// Two or four weighted neighbours of each place.
fn taps(l: &mut Lower<'_>, x: ValueId, place: ValueId, a: &Axis, rule: &Rule<'_>) -> OpResult<ValueId> {
    let dtype = l.dtype(x);
    let base = l.floor(place)?;
    let f = l.sub(place, base)?;
    let offsets: &[f64] = if rule.mode == "linear" { &[0.0, 1.0] } else { &[-1.0, 0.0, 1.0, 2.0] };
    let (mut parts, mut total) = (Vec::new(), None);
    for &offset in offsets {
        let mut weight = match rule.mode {
            "linear" if offset == 0.0 => {
                let rest = l.neg(f)?;
                l.plus_scalar(rest, 1.0)?
            }
            "linear" => f,
            _ => cubic(l, f, offset, rule.cubic)?,
        };
        let at = l.plus_scalar(base, offset)?;
        if rule.exclude_outside {
            let kept = inside(l, at, &a.from)?;
            weight = l.mul(weight, kept)?;
            total = Some(match total {
                Some(total) => l.plus(total, weight)?,
                None => weight,
            });
        }
        parts.push((clamped(l, at, &a.from)?, weight));
    }
    let mut sum = None;
    for (at, mut weight) in parts {
        if let Some(total) = total {
            weight = l.div(weight, total)?;
        }
        let weight = l.cast(weight, dtype)?;
        let weight = column(l, weight, x, a.axis)?;
        let part = l.gather(x, at, a.axis as i64)?;
        let part = l.mul(part, weight)?;
        sum = Some(match sum {
            Some(sum) => l.plus(sum, part)?,
            None => part,
        });
    }
    sum.map_or_else(|| invalid("no taps"), Ok)
}

/// Antialiasing widens the kernel by as much as the axis shrinks, so how many taps there are depends on the extents: a product with the matrix
/// of all weights, over the axis extended by as far as the kernel reaches.
fn product(l: &mut Lower<'_>, x: ValueId, place: ValueId, a: &Axis, rule: &Rule<'_>) -> OpResult<ValueId> {
    let dtype = l.dtype(x);
    let reach = if rule.mode == "linear" { 1 } else { 2 };
    let margin = a.shrinks.clone() * Dim::from(reach) + Dim::from(reach + 1);
    let extended = a.from.clone() + margin.clone() + margin.clone();
    let at = l.iota(DType::F32, &[a.to.clone(), extended.clone()], 1)?;
    let offset = l.dim_value(&margin, DType::F32)?;
    let at = l.sub(at, offset)?;
    let one = l.scalar(DType::F32, 1.0)?;
    let stretch = l.min(a.scale, one)?;
    let rows = l.unsqueeze(place, &[1])?;
    let distance = l.sub(at, rows)?;
    let distance = l.mul(distance, stretch)?;
    let distance = l.abs(distance)?;
    let mut weights = kernel(l, distance, rule)?;
    if rule.exclude_outside {
        let kept = inside(l, at, &a.from)?;
        weights = l.mul(weights, kept)?;
    }
    let total = l.sum(weights, &[1], true)?;
    let weights = l.div(weights, total)?;
    let weights = l.cast(weights, dtype)?;
    let column = l.iota(DType::F32, &[extended], 0)?;
    let column = l.sub(column, offset)?;
    let column = clamped(l, column, &a.from)?;
    let wide = l.gather(x, column, a.axis as i64)?;
    let other = |i: usize| char::from_u32(0x3b1 + i as u32).unwrap_or('?');
    let labels = |own: char| (0..l.rank(x)).map(|i| if i == a.axis { own } else { other(i) }).collect();
    let spec = EinsumSpec { lhs: labels('k'), rhs: vec!['n', 'k'], out: labels('n') };
    Ok(l.contract(spec, wide, weights, dtype, dtype)?)
}

/// The interpolation kernel at a distance of at least 0.
fn kernel(l: &mut Lower<'_>, d: ValueId, rule: &Rule<'_>) -> OpResult<ValueId> {
    let zero = l.scalar(DType::F32, 0.0)?;
    if rule.mode == "linear" {
        let rest = l.neg(d)?;
        let rest = l.plus_scalar(rest, 1.0)?;
        return Ok(l.max(rest, zero)?);
    }
    let (near, far) = (polynomial(l, d, &cubic_near(rule.cubic))?, polynomial(l, d, &cubic_far(rule.cubic))?);
    let inner = l.compare_scalar(CompareOp::Le, d, 1.0)?;
    let outer = l.compare_scalar(CompareOp::Lt, d, 2.0)?;
    let far = l.select(outer, far, zero)?;
    Ok(l.select(inner, near, far)?)
}
