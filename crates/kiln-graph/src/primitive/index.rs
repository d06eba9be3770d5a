//! Gathers and scatters.

use super::elementwise::{max, min};
use crate::infer::Cx;
use crate::interp::array::{Array, Data, Eval, odometer, store, strides, wide, with_data};
use crate::{DType, Dim, Result, ScatterOp, TensorType};

pub(super) fn indices(cx: &Cx, idx: &TensorType) -> Result<()> {
    if matches!(idx.dtype, DType::I32 | DType::I64) {
        Ok(())
    } else {
        cx.fail(format!("indices must be i32 or i64, found {idx}; insert a cast"))
    }
}

pub(crate) fn gather_type(cx: &Cx, axis: usize) -> Result<TensorType> {
    let (x, idx) = (cx.inputs[0], cx.inputs[1]);
    indices(cx, idx)?;
    cx.check_axis(axis, x.rank())?;
    let shape = x.shape[..axis].iter().chain(&idx.shape).chain(&x.shape[axis + 1..]).cloned().collect();
    Ok(TensorType { dtype: x.dtype, shape })
}

pub(crate) fn gather_elements_type(cx: &mut Cx, axis: usize) -> Result<TensorType> {
    let (x, idx) = (cx.inputs[0], cx.inputs[1]);
    along_types(cx, x, idx, axis)?;
    Ok(TensorType { dtype: x.dtype, shape: idx.shape.clone() })
}

pub(crate) fn gather_nd_type(cx: &mut Cx, batch_dims: usize) -> Result<TensorType> {
    let (x, idx) = (cx.inputs[0], cx.inputs[1]);
    indices(cx, idx)?;
    let coordinates = coordinate_count(cx, x, idx, batch_dims)?;
    for a in 0..batch_dims {
        cx.same(&x.shape[a], &idx.shape[a], || format!("batch axis {a} of {x} and {idx} must be equal"))?;
    }
    let kept = &idx.shape[..idx.rank() - 1];
    let shape = kept.iter().chain(&x.shape[batch_dims + coordinates..]).cloned().collect();
    Ok(TensorType { dtype: x.dtype, shape })
}

pub(crate) fn scatter_elements_type(cx: &mut Cx, axis: usize, op: ScatterOp) -> Result<TensorType> {
    let (x, idx, updates) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    along_types(cx, x, idx, axis)?;
    scattered(cx, op)?;
    cx.same_shape(idx, updates, "indices and updates")?;
    Ok(x.clone())
}

pub(crate) fn scatter_nd_type(cx: &mut Cx, op: ScatterOp) -> Result<TensorType> {
    let (x, idx, updates) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    indices(cx, idx)?;
    scattered(cx, op)?;
    let coordinates = coordinate_count(cx, x, idx, 0)?;
    let shape: Vec<Dim> = idx.shape[..idx.rank() - 1].iter().chain(&x.shape[coordinates..]).cloned().collect();
    cx.same_shape(&TensorType { dtype: x.dtype, shape }, updates, "addressed slices and updates")?;
    Ok(x.clone())
}

/// Indices of the rank of `x`, no longer than it on the axes other than `axis`.
fn along_types(cx: &mut Cx, x: &TensorType, idx: &TensorType, axis: usize) -> Result<()> {
    indices(cx, idx)?;
    cx.check_axis(axis, x.rank())?;
    cx.rank(idx, x.rank(), "indices")?;
    for a in (0..x.rank()).filter(|&a| a != axis) {
        cx.at_most(&idx.shape[a], &x.shape[a], || format!("axis {a} of indices {idx} into {x}"))?;
    }
    Ok(())
}

/// The number of coordinates that the last axis of `idx` holds.
fn coordinate_count(cx: &Cx, x: &TensorType, idx: &TensorType, batch_dims: usize) -> Result<usize> {
    if idx.rank() <= batch_dims || x.rank() < batch_dims {
        return cx.fail(format!("{batch_dims} batch axes do not fit {x} and indices {idx}"));
    }
    let last = idx.shape[idx.rank() - 1].as_const().and_then(|n| usize::try_from(n).ok());
    match last {
        Some(n) if batch_dims + n <= x.rank() => Ok(n),
        Some(n) => cx.fail(format!("{n} coordinates after {batch_dims} batch axes do not fit {x}")),
        None => cx.fail(format!("the last axis of indices {idx} must be constant: it holds coordinates")),
    }
}

/// Updates have the dtype of `x`, and arithmetic needs numbers.
fn scattered(cx: &Cx, op: ScatterOp) -> Result<()> {
    let (x, updates) = (cx.inputs[0], cx.inputs[2]);
    cx.dtype(updates, x.dtype, "updates")?;
    if op != ScatterOp::Set && x.dtype == DType::Bool {
        return cx.fail(format!("`{op}` needs numbers, found {x}"));
    }
    Ok(())
}

/// An index into an extent, counted from the end when negative.
fn place(i: i64, n: usize, axis: usize) -> Eval<usize> {
    let n = n as i64;
    let at = if i < 0 { i + n } else { i };
    if (0..n).contains(&at) { Ok(at as usize) } else { Err(format!("index {i} is outside axis {axis} of extent {n}")) }
}

pub(crate) fn gather(x: &Array, idx: &Array, axis: usize) -> Eval<Array> {
    let outer: usize = x.shape[..axis].iter().product();
    let inner: usize = x.shape[axis + 1..].iter().product();
    let n = x.shape[axis];
    let rows = idx.ints()?.iter().map(|&i| place(i, n, axis)).collect::<Eval<Vec<usize>>>()?;
    let shape = [&x.shape[..axis], &idx.shape, &x.shape[axis + 1..]].concat();
    let data = with_data!(x.data.as_ref(), v => {
        let mut out = Vec::with_capacity(outer * rows.len() * inner);
        for o in 0..outer {
            for &r in &rows {
                out.extend_from_slice(&v[(o * n + r) * inner..][..inner]);
            }
        }
        out
    });
    Ok(Array::new(x.dtype, shape, data))
}

/// Offsets into `x` of the elements that `idx` addresses along `axis`.
fn along(x: &Array, idx: &Array, axis: usize) -> Eval<Vec<usize>> {
    for (a, (&i, &n)) in idx.shape.iter().zip(&x.shape).enumerate() {
        if a != axis && i > n {
            return Err(format!("indices {:?} are longer than {:?} on axis {a}", idx.shape, x.shape));
        }
    }
    let mut own = strides(&x.shape);
    let step = std::mem::replace(&mut own[axis], 0) as usize;
    let mut bases = Vec::with_capacity(idx.len());
    odometer(&idx.shape, &own, 0, |at| bases.push(at as usize));
    let n = x.shape[axis];
    bases.iter().zip(idx.ints()?).map(|(base, &i)| Ok(base + step * place(i, n, axis)?)).collect()
}

/// Offsets into `x` of the slices that coordinates on the last axis of `idx` address, and the length of a slice.
fn coordinates(x: &Array, idx: &Array, batch_dims: usize) -> Eval<(Vec<usize>, usize)> {
    let own = strides(&x.shape);
    let k = idx.shape[idx.shape.len() - 1];
    let slice = x.shape[batch_dims + k..].iter().product();
    let batches: usize = x.shape[..batch_dims].iter().product();
    let each: usize = idx.shape[batch_dims..idx.shape.len() - 1].iter().product();
    let volume: usize = x.shape[batch_dims..].iter().product();
    let ints = idx.ints()?;
    let mut offsets = Vec::with_capacity(batches * each);
    for row in 0..batches * each {
        let mut at = row.checked_div(each).unwrap_or(0) * volume;
        for (a, &i) in ints[row * k..][..k].iter().enumerate() {
            let axis = batch_dims + a;
            at += own[axis] as usize * place(i, x.shape[axis], axis)?;
        }
        offsets.push(at);
    }
    Ok((offsets, slice))
}

pub(crate) fn gather_elements(x: &Array, idx: &Array, axis: usize) -> Eval<Array> {
    let places = along(x, idx, axis)?;
    let data = with_data!(x.data.as_ref(), v => places.iter().map(|&p| v[p]).collect());
    Ok(Array::new(x.dtype, idx.shape.clone(), data))
}

pub(crate) fn gather_nd(x: &Array, idx: &Array, batch_dims: usize, shape: &[usize]) -> Eval<Array> {
    let (offsets, slice) = coordinates(x, idx, batch_dims)?;
    let data =
        with_data!(x.data.as_ref(), v => offsets.iter().flat_map(|&o| v[o..][..slice].iter().copied()).collect());
    Ok(Array::new(x.dtype, shape.to_vec(), data))
}

pub(crate) fn scatter_elements(x: &Array, idx: &Array, updates: &Array, axis: usize, op: ScatterOp) -> Eval<Array> {
    let places = along(x, idx, axis)?;
    scatter(x, places.into_iter(), updates, op)
}

pub(crate) fn scatter_nd(x: &Array, idx: &Array, updates: &Array, op: ScatterOp) -> Eval<Array> {
    let (offsets, slice) = coordinates(x, idx, 0)?;
    scatter(x, offsets.into_iter().flat_map(|o| o..o + slice), updates, op)
}

fn scatter(x: &Array, places: impl Iterator<Item = usize>, updates: &Array, op: ScatterOp) -> Eval<Array> {
    match (x.data.as_ref(), updates.data.as_ref()) {
        (Data::Float(v), Data::Float(u)) => {
            let mut out = v.clone();
            for (p, &u) in places.zip(u) {
                out[p] = match op {
                    ScatterOp::Set => u,
                    ScatterOp::Add => out[p] + u,
                    ScatterOp::Mul => out[p] * u,
                    ScatterOp::Max => max(out[p], u),
                    ScatterOp::Min => min(out[p], u),
                };
            }
            Ok(Array::rounded(x.dtype, x.shape.clone(), out))
        }
        (Data::Int(v), Data::Int(u)) => {
            let mut out = v.clone();
            for (p, &u) in places.zip(u) {
                out[p] = integer(op, x.dtype, out[p], u);
            }
            Ok(Array::new(x.dtype, x.shape.clone(), Data::Int(out)))
        }
        _ => Err(format!("updates differ in kind, {} and {}", x.dtype, updates.dtype)),
    }
}

fn integer(op: ScatterOp, dtype: DType, old: i64, new: i64) -> i64 {
    let (a, b) = (wide(dtype, old), wide(dtype, new));
    let v = match op {
        ScatterOp::Set => b,
        ScatterOp::Add => a + b,
        ScatterOp::Mul => a.wrapping_mul(b),
        ScatterOp::Max => a.max(b),
        ScatterOp::Min => a.min(b),
    };
    store(dtype, v)
}
