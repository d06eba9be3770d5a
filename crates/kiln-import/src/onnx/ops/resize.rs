//! Resizing by interpolation, one axis at a time.
//!
//! Whole nearest-neighbour enlargements of an axis are repeats. Everything else gathers a few weighted taps an output element: places and
//! weights are constants where the extents are, and computed when the graph runs otherwise ([`super::resize_dynamic`]).

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use super::resize_dynamic as dynamic;
use super::sample::{cubic_far, cubic_near};
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
pub(super) struct Rule<'m> {
    pub(super) mode: &'m str,
    pub(super) coordinates: &'m str,
    /// Rounding of nearest neighbours; `simple`, which operator sets before 11 have, is down to enlarge and up to shrink.
    pub(super) nearest: &'m str,
    pub(super) cubic: f64,
    pub(super) exclude_outside: bool,
    pub(super) antialias: bool,
    /// Fills places outside the image, for `tf_crop_and_resize`.
    pub(super) outside: f64,
}

impl Rule<'_> {
    pub(super) fn crops(&self) -> bool {
        self.coordinates == "tf_crop_and_resize"
    }

    /// How much of an axis is seen.
    pub(super) fn span(&self, roi: (f64, f64)) -> f64 {
        if self.crops() { roi.1 - roi.0 } else { 1.0 }
    }

    /// Rounding of nearest neighbours for an axis of this scale.
    pub(super) fn rounding(&self, scale: f64) -> &str {
        match self.nearest {
            "simple" if scale < 1.0 => "ceil",
            "simple" => "floor",
            given => given,
        }
    }
}

/// One axis to resize.
struct Axis {
    axis: usize,
    from: i64,
    to: i64,
    scale: f64,
    /// The new extent that aligned corners lie at: where a scale is given, before it was rounded down to whole elements.
    resized: f64,
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
        nearest: if old { "simple" } else { n.string("nearest_mode", "round_prefer_floor")? },
        cubic: n.float("cubic_coeff_a", -0.75)?,
        exclude_outside: n.flag("exclude_outside", false)?,
        antialias: n.flag("antialias", false)?,
        outside: n.float("extrapolation_value", 0.0)?,
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
    if rule.crops() && roi.len() != 2 * axes.len() {
        return invalid(format!("the region of interest has {} bounds, expected {}", roi.len(), 2 * axes.len()));
    }
    let policy = n.string("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" && sizes.is_none() {
        return invalid("keep_aspect_ratio_policy goes with sizes");
    }
    let dtype = l.dtype(x);
    let common = dynamic::common_scale(l, policy, x, &axes, sizes.as_deref())?;
    for (i, &axis) in axes.iter().enumerate() {
        let extent = l.shape(x)[axis].clone();
        if let Some(scale) = scales.as_ref().map(|s| s[i]) {
            if scale == 1.0 && !rule.crops() {
                continue;
            }
            if scale.fract() == 0.0 && (1.0..65536.0).contains(&scale) && repeats(&rule) {
                x = repeat(l, x, axis, &Dim::from(scale as i64))?;
                continue;
            }
        } else if sizes.as_ref().is_some_and(|s| s[i] == extent) && common.is_none() && !rule.crops() {
            continue;
        }
        let roi = if roi.is_empty() { (0.0, 1.0) } else { (roi[i], roi[axes.len() + i]) };
        if rule.mode != "nearest" {
            // Rounded once, after the last axis.
            let wide = if dtype.is_float() { dtype.accumulator() } else { DType::F32 };
            x = l.cast(x, wide)?;
        }
        let given = match (&scales, &sizes) {
            (Some(scales), _) if !scales[i].is_finite() || scales[i] <= 0.0 => {
                return invalid(format!("scale {} of axis {axis}", scales[i]));
            }
            (Some(scales), _) => Given::Scale(scales[i]),
            (None, Some(sizes)) => Given::Size(&sizes[i]),
            (None, None) => return invalid("needs scales or sizes"),
        };
        x = match constant_axis(axis, &extent, &given, common.as_ref(), roi, &rule)? {
            Some(axis) => interpolate(l, x, &axis, &rule)?,
            None => dynamic::interpolate(l, x, axis, &given, common.as_ref(), roi, &rule)?,
        };
    }
    let y = l.cast(x, dtype)?;
    l.done(y)
}

/// What the model says about the new extent of an axis.
pub(super) enum Given<'a> {
    Scale(f64),
    Size(&'a Dim),
}

/// The axis, if its extents are constant.
fn constant_axis(
    axis: usize,
    extent: &Dim,
    given: &Given<'_>,
    common: Option<&dynamic::Common>,
    roi: (f64, f64),
    rule: &Rule<'_>,
) -> OpResult<Option<Axis>> {
    let Some(from) = extent.as_const() else { return Ok(None) };
    let (scale, to) = match (given, common) {
        (Given::Scale(scale), _) => (*scale, scaled(from, scale * rule.span(roi))),
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
        return invalid(format!("extent {from} by scale {scale} gives {to}, expected 0 to {MAX_EXTENT}"));
    }
    let resized = if matches!(given, Given::Scale(_)) { scale * from as f64 } else { to as f64 };
    Ok(Some(Axis { axis, from, to, scale, resized, roi }))
}

/// `floor(extent * scale)` with the product in f32, as ONNX's shape inference has it.
pub(super) fn scaled(extent: i64, scale: f64) -> i64 {
    (extent as f32 * scale as f32).floor() as i64
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

/// Whether a whole enlargement repeats every element.
fn repeats(rule: &Rule<'_>) -> bool {
    rule.mode == "nearest"
        && match rule.coordinates {
            "asymmetric" => matches!(rule.nearest, "floor" | "simple"),
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

/// The place in the original axis that output element `i` stands for, in f32: which neighbour is nearest depends on its rounding.
fn coordinate(a: &Axis, rule: &Rule<'_>, i: i64) -> OpResult<f32> {
    let (i, from, to, scale) = (i as f32, a.from as f32, a.to as f32, a.scale as f32);
    let roi = (a.roi.0 as f32, a.roi.1 as f32);
    Ok(match rule.coordinates {
        "half_pixel" => (i + 0.5) / scale - 0.5,
        "pytorch_half_pixel" if a.to == 1 => 0.0,
        "pytorch_half_pixel" => (i + 0.5) / scale - 0.5,
        "tf_half_pixel_for_nn" if scale == 1.0 => i,
        "tf_half_pixel_for_nn" => (i + 0.5) / scale,
        "align_corners" if a.to == 1 => 0.0,
        "align_corners" => i * (from - 1.0) / (a.resized as f32 - 1.0),
        "asymmetric" => i / scale,
        "half_pixel_symmetric" => {
            let adjustment = to / (scale * from);
            let offset = from / 2.0 * (1.0 - adjustment);
            offset + (i + 0.5) / scale - 0.5
        }
        "tf_crop_and_resize" if a.to > 1 => roi.0 * (from - 1.0) + i * (roi.1 - roi.0) * (from - 1.0) / (to - 1.0),
        "tf_crop_and_resize" => 0.5 * (roi.0 + roi.1) * (from - 1.0),
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
    let d = distance.abs();
    let polynomial = |c: [f64; 4]| ((c[0] * d + c[1]) * d + c[2]) * d + c[3];
    match rule.mode {
        "linear" => (1.0 - d).max(0.0),
        _ if d <= 1.0 => polynomial(cubic_near(rule.cubic)),
        _ if d < 2.0 => polynomial(cubic_far(rule.cubic)),
        _ => 0.0,
    }
}

/// Elements and weights that make the output at `place`.
fn taps(place: f64, a: &Axis, rule: &Rule<'_>) -> OpResult<Vec<(i64, f64)>> {
    let last = a.from - 1;
    if rule.mode == "nearest" {
        return Ok(vec![((nearest(place, rule.rounding(a.scale))? as i64).clamp(0, last), 1.0)]);
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
fn interpolate(l: &mut Lower<'_>, x: ValueId, a: &Axis, rule: &Rule<'_>) -> OpResult<ValueId> {
    if a.to == 0 {
        return Ok(l.slice_axis(x, a.axis as i64, &Dim::from(0), &Dim::from(0), 1)?);
    }
    let places = (0..a.to).map(|i| coordinate(a, rule, i).map(f64::from)).collect::<OpResult<Vec<f64>>>()?;
    let all = places.iter().map(|&p| taps(p, a, rule)).collect::<OpResult<Vec<_>>>()?;
    let count = all.iter().map(Vec::len).max().unwrap_or(0);
    if count > 4096 || count * a.to as usize > 1 << 22 {
        return unsupported(format!("shrinking {} to {} with antialiasing", a.from, a.to));
    }
    let dtype = l.dtype(x);
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
        let mut part = l.gather(x, idx, a.axis as i64)?;
        if rule.mode != "nearest" {
            let weights: Vec<f64> = (0..all.len()).map(|i| tap(i).1).collect();
            let weights = column(l, Tensor::from_f64(dtype, &[weights.len()], &weights)?)?;
            part = l.mul(part, weights)?;
        }
        sum = Some(match sum {
            Some(sum) => l.plus(sum, part)?,
            None => part,
        });
    }
    let Some(mut y) = sum else { return invalid("no taps") };
    if rule.crops() {
        let inside: Vec<bool> = places.iter().map(|p| (0.0..=(a.from - 1) as f64).contains(p)).collect();
        let inside = column(l, Tensor::from_slice(&[inside.len()], &inside)?)?;
        let value = l.scalar(dtype, rule.outside)?;
        y = l.select(inside, y, value)?;
    }
    Ok(y)
}
