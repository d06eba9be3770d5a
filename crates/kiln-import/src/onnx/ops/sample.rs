//! Sampling an image at computed places.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{BinaryOp, CompareOp, DType, Dim, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "GridSample" => grid_sample,
        "AffineGrid" => affine_grid,
        _ => return None,
    };
    Some(handler)
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, PartialEq)]
enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// One neighbour along one axis, for every output place.
struct Tap {
    /// Index within the axis.
    index: ValueId,
    /// Its weight; `None` for 1.
    weight: Option<ValueId>,
}

fn grid_sample<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, grid) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let mode = match n.string("mode", "linear")? {
        "linear" | "bilinear" => Mode::Linear,
        "nearest" => Mode::Nearest,
        "cubic" | "bicubic" => Mode::Cubic,
        other => return invalid(format!("mode is `{other}`")),
    };
    let outside = match n.string("padding_mode", "zeros")? {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return invalid(format!("padding_mode is `{other}`")),
    };
    let corners = n.flag("align_corners", false)?;
    let (image, places) = (l.shape(x).to_vec(), l.shape(grid).to_vec());
    let axes = image.len().saturating_sub(2);
    if axes == 0 || places.len() != axes + 2 || !places[axes + 1].is(axes as i64) {
        return invalid(format!(
            "needs x[N, C, ..] and a grid of its spatial rank, found {} and {}",
            l.ty(x),
            l.ty(grid)
        ));
    }
    if axes > 3 {
        return unsupported("more than three spatial axes");
    }
    let dtype = l.dtype(x);
    if !dtype.is_float() {
        return unsupported(format!("samples {dtype}"));
    }
    let wide = dtype.accumulator();
    let points = places[1..=axes].iter().fold(Dim::from(1), |p, d| p * d.clone());
    let cells = image[2..].iter().fold(Dim::from(1), |p, d| p * d.clone());
    let flat = l.reshape(x, &[image[0].clone(), image[1].clone(), cells])?;
    let flat = l.cast(flat, wide)?;
    let grid = l.reshape(grid, &[image[0].clone(), points.clone(), Dim::from(axes)])?;
    let grid = l.cast(grid, wide)?;
    let mut taps = Vec::new();
    for a in 0..axes {
        // The grid names the last axis first.
        let at = l.index_axis(grid, 2, (axes - 1 - a) as i64)?;
        taps.push(axis_taps(l, at, &image[2 + a], mode, outside, corners)?);
    }
    // All combinations of one tap an axis.
    let mut sum: Option<ValueId> = None;
    let mut choice = vec![0; axes];
    loop {
        let (mut index, mut weight): (Option<ValueId>, Option<ValueId>) = (None, None);
        for (a, &c) in choice.iter().enumerate() {
            let tap = &taps[a][c];
            index = Some(match index {
                Some(rows) => {
                    let length = l.dim_value(&image[2 + a], DType::I64)?;
                    let rows = l.mul(rows, length)?;
                    l.plus(rows, tap.index)?
                }
                None => tap.index,
            });
            weight = match (weight, tap.weight) {
                (Some(a), Some(b)) => Some(l.mul(a, b)?),
                (a, b) => a.or(b),
            };
        }
        let Some(index) = index else { return invalid("no axes") };
        let index = l.unsqueeze(index, &[1])?;
        let index = l.broadcast_to(index, &[image[0].clone(), image[1].clone(), points.clone()])?;
        let mut part = l.gather_elements(flat, index, 2)?;
        if let Some(weight) = weight {
            let weight = l.unsqueeze(weight, &[1])?;
            part = l.mul(part, weight)?;
        }
        sum = Some(match sum {
            Some(sum) => l.plus(sum, part)?,
            None => part,
        });
        let Some(next) = (0..axes).rev().find(|&a| choice[a] + 1 < taps[a].len()) else { break };
        choice[next] += 1;
        choice[next + 1..].fill(0);
    }
    let Some(y) = sum else { return invalid("no taps") };
    let y = l.cast(y, dtype)?;
    let shape: Vec<Dim> = image[..2].iter().chain(&places[1..=axes]).cloned().collect();
    let y = l.reshape(y, &shape)?;
    l.done(y)
}

/// The neighbours of normalized coordinates `-1..1` along an axis.
fn axis_taps(
    l: &mut Lower<'_>,
    at: ValueId,
    length: &Dim,
    mode: Mode,
    outside: Outside,
    corners: bool,
) -> OpResult<Vec<Tap>> {
    let wide = l.dtype(at);
    let size = l.dim_value(length, wide)?;
    let last = l.binary_scalar(BinaryOp::Sub, size, 1.0)?;
    let from_one = l.plus_scalar(at, 1.0)?;
    let mut place = if corners {
        let half = l.mul_scalar(from_one, 0.5)?;
        l.mul(half, last)?
    } else {
        let scaled = l.mul(from_one, size)?;
        let shifted = l.binary_scalar(BinaryOp::Sub, scaled, 1.0)?;
        l.mul_scalar(shifted, 0.5)?
    };
    let (low, high) = if corners {
        (l.scalar(wide, 0.0)?, last)
    } else {
        (l.scalar(wide, -0.5)?, l.binary_scalar(BinaryOp::Sub, size, 0.5)?)
    };
    if mode == Mode::Nearest {
        place = l.round(place)?;
    }
    let below = l.compare(CompareOp::Lt, place, low)?;
    let above = l.compare(CompareOp::Gt, place, high)?;
    match outside {
        Outside::Zeros => {}
        Outside::Border => {
            let zero = l.scalar(wide, 0.0)?;
            place = l.select(below, zero, place)?;
            place = l.select(above, last, place)?;
        }
        Outside::Reflection => place = reflect(l, place, low, high)?,
    }
    let base = l.floor(place)?;
    let f = l.sub(place, base)?;
    let offsets: &[(f64, Option<usize>)] = match mode {
        Mode::Nearest => &[(0.0, None)],
        Mode::Linear => &[(0.0, Some(0)), (1.0, Some(1))],
        Mode::Cubic => &[(-1.0, Some(0)), (0.0, Some(1)), (1.0, Some(2)), (2.0, Some(3))],
    };
    let start = if mode == Mode::Nearest { place } else { base };
    let mut taps = Vec::new();
    for &(offset, which) in offsets {
        let mut index = l.plus_scalar(start, offset)?;
        let mut weight = match (which, mode) {
            (None, _) => None,
            (Some(0), Mode::Linear) => {
                let rest = l.mul_scalar(f, -1.0)?;
                Some(l.plus_scalar(rest, 1.0)?)
            }
            (Some(_), Mode::Linear) => Some(f),
            (Some(_), _) => Some(l.cubic_weight(f, offset, -0.75)?),
        };
        match outside {
            Outside::Zeros => {
                let zero = l.scalar(wide, 0.0)?;
                let one = l.scalar(wide, 1.0)?;
                let after = l.compare(CompareOp::Ge, index, zero)?;
                let before = l.compare(CompareOp::Le, index, last)?;
                let inside = l.and(after, before)?;
                let kept = weight.unwrap_or(one);
                weight = Some(l.select(inside, kept, zero)?);
            }
            Outside::Border => {}
            Outside::Reflection => index = reflect(l, index, low, high)?,
        }
        // Whatever happened, the index stays inside; truncation is what the reflected half places need.
        let index = l.binary_scalar(BinaryOp::Max, index, 0.0)?;
        let index = l.min(index, last)?;
        taps.push(Tap { index: l.cast(index, DType::I64)?, weight });
    }
    Ok(taps)
}

/// Folds places outside `low..=high` back in.
fn reflect(l: &mut Lower<'_>, x: ValueId, low: ValueId, high: ValueId) -> OpResult<ValueId> {
    let range = l.sub(high, low)?;
    // An axis of one element has no range to fold into; any positive one will do, for the index is clamped.
    let range = l.binary_scalar(BinaryOp::Max, range, 1e-30)?;
    let below = l.compare(CompareOp::Lt, x, low)?;
    let (under, over) = (l.sub(low, x)?, l.sub(x, high)?);
    let distance = l.select(below, under, over)?;
    let distance = l.binary_scalar(BinaryOp::Max, distance, 0.0)?;
    let folds = l.div(distance, range)?;
    let folds = l.floor(folds)?;
    let whole = l.mul(folds, range)?;
    let rest = l.sub(distance, whole)?;
    let parity = l.binary_scalar(BinaryOp::Mod, folds, 2.0)?;
    let odd = l.compare_scalar(CompareOp::Ne, parity, 0.0)?;
    let near_low = l.xor(below, odd)?;
    let (from_low, from_high) = (l.plus(low, rest)?, l.sub(high, rest)?);
    let folded = l.select(near_low, from_low, from_high)?;
    let above = l.compare(CompareOp::Gt, x, high)?;
    let outside = l.or(below, above)?;
    Ok(l.select(outside, folded, x)?)
}

/// Places `[-1, 1]` on each axis, transformed by the matrices `theta[N, r, r + 1]`.
fn affine_grid<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let size = l.known_dims(n.input(1)?, "the size")?;
    let theta = l.arg(n, 0)?;
    let axes = size.len().saturating_sub(2);
    if !(2..=3).contains(&axes) || l.rank(theta) != 3 {
        return invalid(format!(
            "needs theta[N, r, r + 1] and a size of 4 or 5, found {} and {}",
            l.ty(theta),
            size.len()
        ));
    }
    let dtype = l.dtype(theta);
    let wide = dtype.accumulator();
    let corners = n.flag("align_corners", false)?;
    let mut shape: Vec<Dim> = size[2..].to_vec();
    let mut columns = Vec::new();
    // The last axis is the first coordinate.
    for a in (0..axes).rev() {
        let i = l.iota(wide, &shape, a)?;
        let length = l.dim_value(&size[2 + a], wide)?;
        let place = if corners {
            // A single place is the last one, 1, as onnxruntime has it: there are no steps to divide by.
            let one = l.scalar(wide, 1.0)?;
            let single = l.compare(CompareOp::Eq, length, one)?;
            let steps = l.sub(length, one)?;
            let steps = l.select(single, one, steps)?;
            let doubled = l.mul_scalar(i, 2.0)?;
            let scaled = l.div(doubled, steps)?;
            let place = l.plus_scalar(scaled, -1.0)?;
            l.select(single, one, place)?
        } else {
            let doubled = l.mul_scalar(i, 2.0)?;
            let centre = l.plus_scalar(doubled, 1.0)?;
            let scaled = l.div(centre, length)?;
            l.plus_scalar(scaled, -1.0)?
        };
        columns.push(l.unsqueeze(place, &[axes as i64])?);
    }
    shape.push(Dim::from(1));
    let one = l.scalar(wide, 1.0)?;
    columns.push(l.broadcast_to(one, &shape)?);
    let base = l.concat(&columns, axes as i64)?;
    let points = size[2..].iter().fold(Dim::from(1), |p, d| p * d.clone());
    let base = l.reshape(base, &[points, Dim::from(axes + 1)])?;
    let theta = l.cast(theta, wide)?;
    let theta = l.transpose(theta, &[0, 2, 1])?;
    let grid = l.matmul(base, theta)?;
    let grid = l.cast(grid, dtype)?;
    let mut out = vec![size[0].clone()];
    out.extend_from_slice(&size[2..]);
    out.push(Dim::from(axes));
    let y = l.reshape(grid, &out)?;
    l.done(y)
}
