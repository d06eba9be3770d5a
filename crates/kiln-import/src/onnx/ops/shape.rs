//! Shapes as values, and operators that only change the shape or make constants.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::tensor;
use super::super::value::{DimTensor, Val};
use super::Handler;
use kiln_graph::{CompareOp, DType, Dim, Tensor, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Shape" => shape,
        "Size" => size,
        "Constant" => constant,
        "ConstantOfShape" => constant_of_shape,
        "Range" => range,
        "EyeLike" => eye_like,
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Transpose" => transpose,
        "Expand" => expand,
        "Tile" => tile,
        _ => return None,
    };
    Some(handler)
}

fn shape<'m>(_: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let dims = n.input(0)?.ty().shape;
    let rank = dims.len() as i64;
    let place = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (place(n.int("start", 0)?), place(n.int("end", rank)?));
    Ok(vec![Val::shape_vector(dims.get(start..end).unwrap_or_default().to_vec())])
}

fn size<'m>(_: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let numel = n.input(0)?.ty().numel();
    Ok(vec![Val::dims(DimTensor { dtype: DType::I64, shape: Vec::new(), dims: vec![numel] })])
}

fn constant<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let value = if let Some(t) = n.tensor("value")? {
        tensor::tensor(t, &l.parts.external)?
    } else if let Some(v) = n.maybe_float("value_float")? {
        Tensor::scalar(v as f32)
    } else if let Some(v) = n.maybe_int("value_int")? {
        Tensor::scalar(v)
    } else if let Some(v) = n.floats("value_floats")? {
        Tensor::from_slice(&[v.len()], v)?
    } else if let Some(v) = n.ints("value_ints")? {
        Tensor::from_slice(&[v.len()], v)?
    } else {
        return unsupported("string and sparse constants are not supported");
    };
    Ok(vec![Val::constant(value)])
}

fn constant_of_shape<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let shape = l.known_dims(n.input(0)?, "the shape")?;
    let value = match n.tensor("value")? {
        Some(t) => tensor::tensor(t, &l.parts.external)?,
        None => Tensor::scalar(0f32),
    };
    if value.len() != 1 {
        return invalid(format!("the value has {} elements, expected 1", value.len()));
    }
    let value = l.constant(value.reshaped(Vec::new())?)?;
    let y = l.broadcast_to(value, &shape)?;
    l.done(y)
}

fn range<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (start, limit, delta) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let dtype = start.dtype();
    let count = if dtype.is_float() {
        let one = |l: &mut Lower<'m>, v: &Val| -> OpResult<f64> {
            let values = l.known_floats(v, "the range")?;
            values.first().copied().ok_or_else(|| super::super::lower::OpError::Invalid("a bound is empty".into()))
        };
        let (s, e, d) = (one(l, start)?, one(l, limit)?, one(l, delta)?);
        let count = ((e - s) / d).ceil().max(0.0);
        if !count.is_finite() || count >= 2f64.powi(40) {
            return invalid(format!("the range from {s} to {e} by {d} does not end"));
        }
        Dim::from(count as i64)
    } else {
        let one = |l: &mut Lower<'m>, v: &Val| -> OpResult<Dim> {
            Ok(l.known_dims(v, "the range")?.first().cloned().unwrap_or_default())
        };
        let (s, e, d) = (one(l, start)?, one(l, limit)?, one(l, delta)?);
        let span = e - s;
        let (low, high) = d.bounds(&l.graph().symbols);
        let count = if low > 0 {
            span.ceil_div(&d)
        } else if high < 0 {
            (-span).ceil_div(&-d)
        } else {
            return unsupported(format!("the sign of the step `{d}` is not known"));
        };
        super::super::shape_values::larger(&count, &Dim::from(0), &l.graph().symbols)
    };
    let (start, delta) = (l.arg(n, 0)?, l.arg(n, 2)?);
    let (start, delta) = (l.reshape(start, &[])?, l.reshape(delta, &[])?);
    let (start, delta) = (l.widen(start)?, l.widen(delta)?);
    let i = l.iota(dtype.accumulator(), &[count], 0)?;
    let scaled = l.mul(i, delta)?;
    let y = l.plus(scaled, start)?;
    let y = l.cast(y, dtype)?;
    l.done(y)
}

fn eye_like<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let ty = n.input(0)?.ty();
    if ty.rank() != 2 {
        return invalid(format!("needs a matrix, found {ty}"));
    }
    let dtype = match n.maybe_int("dtype")? {
        Some(to) => match tensor::dtype(i32::try_from(to).unwrap_or(0)) {
            Ok(dtype) => dtype,
            Err(reason) => return unsupported(reason),
        },
        None => ty.dtype,
    };
    let row = l.iota(DType::I64, &ty.shape, 0)?;
    let column = l.iota(DType::I64, &ty.shape, 1)?;
    let k = l.scalar_int(DType::I64, i128::from(n.int("k", 0)?))?;
    let row = l.plus(row, k)?;
    let hit = l.compare(CompareOp::Eq, row, column)?;
    let y = l.cast(hit, dtype)?;
    l.done(y)
}

fn reshape<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let shape = l.known_dims(n.input(1)?, "the shape")?;
    let x = l.arg(n, 0)?;
    let zero_is_zero = n.flag("allowzero", false)? && shape.iter().any(|d| d.is(0));
    let y = if zero_is_zero { l.reshape(x, &shape)? } else { l.reshape_infer(x, &shape)? };
    l.done(y)
}

fn flatten<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let y = l.flatten(x, n.int("axis", 1)?)?;
    l.done(y)
}

/// Axes from an attribute in operator sets before 13, from input 1 since.
fn axes_list<'m>(l: &Lower<'m>, n: &Node<'m>) -> OpResult<Option<Vec<i64>>> {
    if n.version < 13 {
        return Ok(n.ints("axes")?.map(<[i64]>::to_vec));
    }
    n.optional(1).map(|v| l.known_ints(v, "the axes")).transpose()
}

fn squeeze<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let axes = axes_list(l, n)?;
    let x = l.arg(n, 0)?;
    let axes = match axes {
        Some(axes) if axes.is_empty() => return l.done(x),
        Some(axes) => axes,
        None => units(l, x)?,
    };
    let y = if axes.is_empty() { x } else { l.squeeze(x, &axes)? };
    l.done(y)
}

/// The axes of extent 1. The rank of the result depends on them, so every extent must be known to be 1 or not to be.
fn units(l: &Lower<'_>, x: ValueId) -> OpResult<Vec<i64>> {
    let symbols = &l.graph().symbols;
    let mut axes = Vec::new();
    for (axis, extent) in l.shape(x).iter().enumerate() {
        match extent.bounds(symbols) {
            (1, 1) => axes.push(axis as i64),
            (low, high) if low > 1 || high < 1 => {}
            _ => {
                let inputs = l.inputs_with(extent);
                let profiles = inputs.iter().map(|(name, shape)| format!("`--profile {name}={shape}`"));
                return unsupported(format!(
                    "squeezes every axis of extent 1, and whether `{extent}` is 1 is known only when the graph runs; fix it with {} \
                     (numbers for names: one shape, or a smallest and a largest above 1), or give the axes in the model",
                    profiles.collect::<Vec<_>>().join(" or ")
                ));
            }
        }
    }
    Ok(axes)
}

fn unsqueeze<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let Some(axes) = axes_list(l, n)? else { return invalid("axes are missing") };
    let x = l.arg(n, 0)?;
    let y = l.unsqueeze(x, &axes)?;
    l.done(y)
}

fn transpose<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let perm = match n.ints("perm")? {
        Some(perm) => perm.iter().map(|&a| l.axis(x, a)).collect::<Result<Vec<_>, _>>()?,
        None => (0..l.rank(x)).rev().collect(),
    };
    let y = l.transpose(x, &perm)?;
    l.done(y)
}

fn expand<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let shape = l.known_dims(n.input(1)?, "the shape")?;
    let x = l.arg(n, 0)?;
    let y = l.expand(x, &shape)?;
    l.done(y)
}

fn tile<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let repeats = l.known_dims(n.input(1)?, "the repeats")?;
    let x = l.arg(n, 0)?;
    let y = l.tile(x, &repeats)?;
    l.done(y)
}
