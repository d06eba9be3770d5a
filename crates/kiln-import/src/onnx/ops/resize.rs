//! Resizing by interpolation.

use super::super::lower::{Lower, OpError, OpResult, invalid};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{Coordinates, Interpolation, Resize, ResizeTo, Rounding};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Resize" | "Upsample" => resize,
        _ => return None,
    };
    Some(handler)
}

fn resize<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let rule = rule(n)?;
    let axes: Vec<usize> = match n.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| l.axis(x, a)).collect::<Result<_, _>>()?,
        None => (0..l.rank(x)).collect(),
    };
    let scales = scales(l, n, axes.len())?;
    let sizes = match n.optional(3) {
        Some(v) if scales.is_none() => Some(l.known_dims(v, "the sizes")?),
        _ => None,
    };
    let crops = rule.coordinates == Coordinates::TfCropAndResize;
    let bounds = match n.optional(1) {
        Some(v) if crops => l.known_floats(v, "the region of interest")?,
        _ => Vec::new(),
    };
    if crops && bounds.len() != 2 * axes.len() {
        return invalid(format!("the region of interest has {} bounds, expected {}", bounds.len(), 2 * axes.len()));
    }
    let roi: Vec<(f64, f64)> = bounds.iter().zip(bounds.iter().skip(axes.len())).map(|(a, b)| (*a, *b)).collect();
    let policy = n.string("keep_aspect_ratio_policy", "stretch")?;
    let to = match (&scales, &sizes) {
        (None, Some(sizes)) if sizes.len() == axes.len() => match policy {
            "stretch" => ResizeTo::Sizes(sizes),
            "not_larger" => ResizeTo::Within(sizes),
            "not_smaller" => ResizeTo::Covering(sizes),
            other => return invalid(format!("keep_aspect_ratio_policy is `{other}`")),
        },
        (Some(_), _) if policy != "stretch" => return invalid("keep_aspect_ratio_policy goes with sizes"),
        (Some(scales), _) => ResizeTo::Scales(scales),
        _ => return invalid(format!("needs one scale or one size for each of {} axes", axes.len())),
    };
    // What is left to go wrong are extents and scales beyond what can be resized.
    let y = l.resize(x, &axes, &to, &roi, &rule).map_err(|e| OpError::Unsupported(e.to_string()))?;
    l.done(y)
}

/// How the node resizes. Operator sets before 11 have other coordinates, and another rounding.
fn rule(n: &Node<'_>) -> OpResult<Resize> {
    let word = |name: &str, message: String| OpError::Invalid(format!("`{name}`: {message}"));
    let mode = match n.string("mode", "nearest")? {
        "bilinear" => Interpolation::Linear,
        other => other.parse().map_err(|e| word("mode", e))?,
    };
    let old = n.op() == "Upsample" || n.version < 11;
    let (coordinates, rounding) = if old {
        (Coordinates::Asymmetric, None)
    } else {
        let name = "coordinate_transformation_mode";
        let coordinates = n.string(name, "half_pixel")?.parse().map_err(|e| word(name, e))?;
        let rounding: Rounding =
            n.string("nearest_mode", "round_prefer_floor")?.parse().map_err(|e| word("nearest_mode", e))?;
        (coordinates, Some(rounding))
    };
    Ok(Resize {
        mode,
        coordinates,
        rounding,
        cubic: n.float("cubic_coeff_a", -0.75)?,
        exclude_outside: n.flag("exclude_outside", false)?,
        antialias: n.flag("antialias", false)?,
        outside: n.float("extrapolation_value", 0.0)?,
    })
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
