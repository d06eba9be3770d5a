//! Resizing by interpolation, one axis at a time.
//!
//! Whole nearest-neighbour enlargements of an axis are repeats, and stay symbolic. Everything else gathers a few weighted taps an output
//! element; places and weights are constants, so the extents must be known.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{DType, Dim, Tensor, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Resize" | "Upsample" => resize,
        _ => return None,
    };
    Some(handler)
}

/// Largest extent that is resized: its places and weights are constants in the graph.
const MAX_EXTENT: i64 = 1 << 16;

/// How an axis is resized.
struct Rule<'m> {
    mode: &'m str,
    coordinates: &'m str,
    nearest: &'m str,
    cubic: f64,
    exclude_outside: bool,
    antialias: bool,
}

/// One axis to resize.
struct Axis {
    axis: usize,
    from: i64,
    to: i64,
    scale: f64,
    /// Start and end of the region of interest, for `tf_crop_and_resize`.
    roi: (f64, f64),
}

fn resize<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let mut x = l.arg(n, 0)?;
    let old = n.op() == "Upsample" || n.version < 11;
    let rule = Rule {
        mode: match n.string("mode", "nearest")? {
            "bilinear" | "linear" => "linear",
            other => other,
        },
        coordinates: if old { "asymmetric" } else { n.string("coordinate_transformation_mode", "half_pixel")? },
        nearest: if old { "floor" } else { n.string("nearest_mode", "round_prefer_floor")? },
        cubic: n.float("cubic_coeff_a", -0.75)?,
        exclude_outside: n.flag("exclude_outside", false)?,
        antialias: n.flag("antialias", false)?,
    };
    if !matches!(rule.mode, "nearest" | "linear" | "cubic") {
        return invalid(format!("mode is `{}`", rule.mode));
    }
    let rank = l.rank(x);
    let axes: Vec<usize> = match n.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| l.axis(x, a)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let scales = scales(l, n, axes.len())?;
    let sizes = match n.optional(3) {
        Some(v) if scales.is_none() => Some(l.known_dims(v, "the sizes")?),
        _ => None,
    };
    let roi = match (rule.coordinates, n.optional(1)) {
        ("tf_crop_and_resize", Some(v)) => l.known_floats(v, "the region of interest")?,
        _ => Vec::new(),
    };
    if sizes.as_ref().is_some_and(|s| s.len() != axes.len()) || scales.is_none() == sizes.is_none() {
        return invalid(format!("needs one scale or one size for each of {} axes", axes.len()));
    }
    if rule.coordinates == "tf_crop_and_resize" && roi.len() != 2 * axes.len() {
        return invalid(format!("the region of interest has {} bounds, expected {}", roi.len(), 2 * axes.len()));
    }
    let policy = n.string("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" && sizes.is_none() {
        return invalid("keep_aspect_ratio_policy goes with sizes");
    }
    let common = common_scale(l, policy, x, &axes, sizes.as_deref())?;
    let outside = n.float("extrapolation_value", 0.0)?;
    for (i, &axis) in axes.iter().enumerate() {
        let extent = l.shape(x)[axis].clone();
        if let Some(scale) = scales.as_ref().map(|s| s[i]) {
            if scale == 1.0 && rule.coordinates != "tf_crop_and_resize" {
                continue;
            }
            if scale.fract() == 0.0 && (1.0..65536.0).contains(&scale) && repeats(&rule) {
                x = repeat(l, x, axis, &Dim::from(scale as i64))?;
                continue;
            }
        } else if sizes.as_ref().is_some_and(|s| s[i] == extent)
            && common.is_none()
            && rule.coordinates != "tf_crop_and_resize"
        {
            continue;
        }
        let Some(from) = extent.as_const().filter(|d| (1..=MAX_EXTENT).contains(d)) else {
            return unsupported(format!("interpolates over the extent `{extent}`, which must be constant here"));
        };
        let roi = if roi.is_empty() { (0.0, 1.0) } else { (roi[i], roi[axes.len() + i]) };
        let (scale, to) = match (&scales, &sizes, common) {
            (Some(scales), ..) => {
                let span = if rule.coordinates == "tf_crop_and_resize" { roi.1 - roi.0 } else { 1.0 };
                (scales[i], (from as f64 * span * scales[i]).floor() as i64)
            }
            (_, _, Some(common)) => (common, (common * from as f64 + 0.5).floor() as i64),
            (_, Some(sizes), _) => match sizes[i].as_const() {
                Some(to) => (to as f64 / from as f64, to),
                None => return unsupported(format!("the size `{}` is not constant", sizes[i])),
            },
            _ => return invalid("needs scales or sizes"),
        };
        if !(1..=MAX_EXTENT).contains(&to) || !scale.is_finite() || scale <= 0.0 {
            return invalid(format!("extent {from} by scale {scale} gives {to}"));
        }
        x = interpolate(l, x, &Axis { axis, from, to, scale, roi }, &rule, outside)?;
    }
    l.done(x)
}

fn scales<'m>(l: &Lower<'m>, n: &Node<'m>, count: usize) -> OpResult<Option<Vec<f64>>> {
    let scales = match (n.op(), n.version) {
        ("Upsample", ..9) => n.floats("scales")?.map(|s| s.iter().map(|&v| f64::from(v)).collect()),
        ("Upsample", _) | (_, ..11) => Some(l.known_floats(n.input(1)?, "the scales")?),
        _ => n.optional(2).map(|v| l.known_floats(v, "the scales")).transpose()?.filter(|s: &Vec<f64>| !s.is_empty()),
    };
    match scales {
        Some(s) if s.len() != count => invalid(format!("{} scales for {count} axes", s.len())),
        scales => Ok(scales),
    }
}

/// The one scale of all axes that keeps the aspect ratio.
fn common_scale(
    l: &Lower<'_>,
    policy: &str,
    x: ValueId,
    axes: &[usize],
    sizes: Option<&[Dim]>,
) -> OpResult<Option<f64>> {
    let Some(sizes) = sizes.filter(|_| policy != "stretch") else { return Ok(None) };
    let mut ratios = Vec::new();
    for (size, &axis) in sizes.iter().zip(axes) {
        match (size.as_const(), l.shape(x)[axis].as_const()) {
            (Some(to), Some(from)) if from > 0 => ratios.push(to as f64 / from as f64),
            _ => return unsupported("keeping the aspect ratio of an extent that is not constant"),
        }
    }
    match policy {
        "not_larger" => Ok(ratios.into_iter().reduce(f64::min)),
        "not_smaller" => Ok(ratios.into_iter().reduce(f64::max)),
        other => invalid(format!("keep_aspect_ratio_policy is `{other}`")),
    }
}

/// Whether a whole enlargement repeats every element.
fn repeats(rule: &Rule<'_>) -> bool {
    rule.mode == "nearest"
        && match rule.coordinates {
            "asymmetric" => rule.nearest == "floor",
            "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric" => rule.nearest.starts_with("round_prefer"),
            _ => false,
        }
}

/// Every element of an axis `factor` times.
fn repeat(l: &mut Lower<'_>, x: ValueId, axis: usize, factor: &Dim) -> OpResult<ValueId> {
    let mut merged = l.shape(x).to_vec();
    let (mut split, mut wide) = (merged.clone(), merged.clone());
    split.insert(axis + 1, Dim::from(1));
    wide.insert(axis + 1, factor.clone());
    merged[axis] = merged[axis].clone() * factor.clone();
    let x = l.reshape(x, &split)?;
    let x = l.broadcast_to(x, &wide)?;
    Ok(l.reshape(x, &merged)?)
}

/// The place in the original axis that output element `i` stands for.
fn coordinate(a: &Axis, rule: &Rule<'_>, i: i64) -> OpResult<f64> {
    let (i, from, to) = (i as f64, a.from as f64, a.to as f64);
    // The length before it was rounded down to whole elements.
    let resized = a.scale * from;
    Ok(match rule.coordinates {
        "half_pixel" => (i + 0.5) / a.scale - 0.5,
        "pytorch_half_pixel" if a.to == 1 => 0.0,
        "pytorch_half_pixel" => (i + 0.5) / a.scale - 0.5,
        "align_corners" if a.to == 1 => 0.0,
        "align_corners" => i * (from - 1.0) / (resized - 1.0),
        "asymmetric" => i / a.scale,
        "half_pixel_symmetric" => {
            let adjustment = to / resized;
            let offset = from / 2.0 * (1.0 - adjustment);
            offset + (i + 0.5) / a.scale - 0.5
        }
        "tf_crop_and_resize" if a.to > 1 => {
            a.roi.0 * (from - 1.0) + i * (a.roi.1 - a.roi.0) * (from - 1.0) / (to - 1.0)
        }
        "tf_crop_and_resize" => 0.5 * (a.roi.0 + a.roi.1) * (from - 1.0),
        other => return invalid(format!("coordinate_transformation_mode is `{other}`")),
    })
}

fn nearest(place: f64, how: &str) -> OpResult<f64> {
    Ok(match how {
        "floor" => place.floor(),
        "ceil" => place.ceil(),
        "round_prefer_floor" => (place - 0.5).ceil(),
        "round_prefer_ceil" => (place + 0.5).floor(),
        other => return invalid(format!("nearest_mode is `{other}`")),
    })
}

/// Weight of an element at a distance from the place.
fn weight(distance: f64, rule: &Rule<'_>) -> f64 {
    let (d, a) = (distance.abs(), rule.cubic);
    match rule.mode {
        "linear" => (1.0 - d).max(0.0),
        _ if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
        _ if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
        _ => 0.0,
    }
}

/// Elements and weights that make the output at `place`.
fn taps(place: f64, a: &Axis, rule: &Rule<'_>) -> OpResult<Vec<(i64, f64)>> {
    let last = a.from - 1;
    if rule.mode == "nearest" {
        return Ok(vec![((nearest(place, rule.nearest)? as i64).clamp(0, last), 1.0)]);
    }
    // Shrinking with antialiasing widens the kernel by the scale.
    let stretch = if rule.antialias && a.scale < 1.0 { a.scale } else { 1.0 };
    let reach = if rule.mode == "linear" { 1.0 } else { 2.0 } / stretch;
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
    Ok(taps)
}

/// Resizes one axis by a few gathers.
fn interpolate(l: &mut Lower<'_>, x: ValueId, a: &Axis, rule: &Rule<'_>, outside: f64) -> OpResult<ValueId> {
    let places = (0..a.to).map(|i| coordinate(a, rule, i)).collect::<OpResult<Vec<f64>>>()?;
    let all = places.iter().map(|&p| taps(p, a, rule)).collect::<OpResult<Vec<_>>>()?;
    let count = all.iter().map(Vec::len).max().unwrap_or(0);
    if count > 4096 || count * a.to as usize > 1 << 22 {
        return unsupported(format!("shrinking {} to {} with antialiasing", a.from, a.to));
    }
    let dtype = l.dtype(x);
    let wide = if rule.mode == "nearest" || !dtype.is_float() { x } else { l.cast(x, dtype.accumulator())? };
    let column = |l: &mut Lower<'_>, values: Tensor| -> OpResult<ValueId> {
        let v = l.value(&Val::constant(values))?;
        let trailing: Vec<i64> = (1..(l.rank(x) - a.axis) as i64).collect();
        Ok(l.unsqueeze(v, &trailing)?)
    };
    let mut sum = None;
    for t in 0..count {
        let tap = |i: usize| all[i].get(t).copied().unwrap_or((0, 0.0));
        let at: Vec<i64> = (0..all.len()).map(|i| tap(i).0).collect();
        let idx = l.value(&Val::constant(Tensor::from_slice(&[at.len()], &at)?))?;
        let mut part = l.gather(wide, idx, a.axis as i64)?;
        if rule.mode != "nearest" {
            let compute = if dtype.is_float() { l.dtype(wide) } else { DType::F32 };
            part = l.cast(part, compute)?;
            let weights: Vec<f64> = (0..all.len()).map(|i| tap(i).1).collect();
            let weights = column(l, Tensor::from_f64(compute, &[weights.len()], &weights)?)?;
            part = l.mul(part, weights)?;
        }
        sum = Some(match sum {
            Some(sum) => l.plus(sum, part)?,
            None => part,
        });
    }
    let Some(mut y) = sum else { return invalid("no taps") };
    y = l.cast(y, dtype)?;
    if rule.coordinates == "tf_crop_and_resize" {
        let inside: Vec<bool> = places.iter().map(|p| (0.0..=(a.from - 1) as f64).contains(p)).collect();
        let inside = column(l, Tensor::from_slice(&[inside.len()], &inside)?)?;
        let value = l.scalar(dtype, outside)?;
        y = l.select(inside, y, value)?;
    }
    Ok(y)
}
