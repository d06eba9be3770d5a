//! Interpolating resizes.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{Dim, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Resize" | "Upsample" => resize,
        _ => return None,
    };
    Some(handler)
}

fn resize<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let scales = match (n.op(), n.version) {
        ("Upsample", ..9) => n.floats("scales")?.map(|s| s.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()),
        ("Upsample", _) | ("Resize", ..11) => Some(l.known_floats(n.input(1)?, "the scales")?),
        _ => n.optional(2).map(|v| l.known_floats(v, "the scales")).transpose()?.filter(|s| !s.is_empty()),
    };
    let Some(scales) = scales else { return unsupported("sizes") };
    if scales.len() != l.rank(x) {
        return invalid("scales");
    }
    let mode = n.string("mode", "nearest")?;
    let whole = scales.iter().all(|s| s.fract() == 0.0 && (1.0..1e6).contains(s));
    let exact = n.op() == "Upsample"
        || n.string("coordinate_transformation_mode", "half_pixel")? == "asymmetric"
            && n.string("nearest_mode", "round_prefer_floor")? == "floor";
    if mode != "nearest" || !whole || !exact {
        return unsupported("mode");
    }
    let y = repeat(l, x, &scales.iter().map(|&s| Dim::from(s as i64)).collect::<Vec<_>>())?;
    l.done(y)
}

/// Every element `factor` times along each axis.
fn repeat(l: &mut Lower<'_>, x: ValueId, factors: &[Dim]) -> OpResult<ValueId> {
    let shape = l.shape(x).to_vec();
    let (mut split, mut wide, mut merged) = (Vec::new(), Vec::new(), Vec::new());
    for (d, f) in shape.iter().zip(factors) {
        split.push(d.clone());
        wide.push(d.clone());
        if !f.is(1) {
            split.push(Dim::from(1));
            wide.push(f.clone());
        }
        merged.push(d.clone() * f.clone());
    }
    let x = l.reshape(x, &split)?;
    let x = l.broadcast_to(x, &wide)?;
    Ok(l.reshape(x, &merged)?)
}
