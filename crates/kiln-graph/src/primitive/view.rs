//! Views: the same elements at other places.

use super::elementwise::fill;
use crate::infer::Cx;
use crate::interp::array::{Array, Data, Eval, strides, write_strided};
use crate::{DType, Dim, Requirement, Result, TensorType};

pub(crate) fn permute_type(cx: &Cx, perm: &[usize]) -> Result<TensorType> {
    let x = cx.inputs[0];
    let mut seen = vec![false; x.rank()];
    for &p in perm {
        if p >= x.rank() || std::mem::replace(&mut seen[p], true) {
            return cx.fail(format!("{perm:?} is not a permutation of the {} axes of {x}", x.rank()));
        }
    }
    cx.entries("axes in the permutation", perm.len(), x.rank())?;
    Ok(TensorType { dtype: x.dtype, shape: perm.iter().map(|&p| x.shape[p].clone()).collect() })
}

pub(crate) fn reshape_type(cx: &mut Cx, shape: &[Dim]) -> Result<TensorType> {
    let x = cx.inputs[0];
    cx.extents(shape)?;
    let ty = TensorType { dtype: x.dtype, shape: shape.to_vec() };
    let counts = [Dim::product(&x.shape)?, Dim::product(&ty.shape)?];
    cx.same(&counts[0], &counts[1], || format!("{x} and {ty} must have equal element counts"))?;
    Ok(ty)
}

pub(crate) fn broadcast_type(cx: &mut Cx, shape: &[Dim]) -> Result<TensorType> {
    let x = cx.inputs[0];
    cx.extents(shape)?;
    let ty = TensorType { dtype: x.dtype, shape: shape.to_vec() };
    let Some(lead) = shape.len().checked_sub(x.rank()) else {
        return cx.fail(format!("{x} has more axes than the target {ty}"));
    };
    for (i, d) in x.shape.iter().enumerate() {
        cx.broadcasts(d, &shape[lead + i], || format!("{x} does not broadcast to {ty} on axis {i}"))?;
    }
    Ok(ty)
}

pub(crate) fn slice_type(cx: &mut Cx, starts: &[Dim], sizes: &[Dim], steps: &[i64]) -> Result<TensorType> {
    let x = cx.inputs[0];
    cx.entries("starts", starts.len(), x.rank())?;
    cx.entries("sizes", sizes.len(), x.rank())?;
    cx.entries("steps", steps.len(), x.rank())?;
    cx.extents(sizes)?;
    for (axis, d) in x.shape.iter().enumerate() {
        if steps[axis] == 0 {
            return cx.fail(format!("step on axis {axis} is 0"));
        }
        let (one, size) = (Dim::from(1), &sizes[axis]);
        let first = starts[axis].clone();
        let last = first.clone() + (size.clone() - one.clone()) * Dim::from(steps[axis]);
        let end = d.clone() - one.clone();
        for place in [first, last] {
            if size.bounds(cx.symbols).0 < 1 {
                // An empty slice may start anywhere.
                let some = size.minimum(&one);
                if place.bounds(cx.symbols).0 < 0 {
                    cx.need(Requirement::at_most(Dim::from(0), place.clone() * some.clone()));
                }
                if (place.clone() - end.clone()).bounds(cx.symbols).1 > 0 {
                    cx.need(Requirement::at_most(place * some.clone(), end.clone() * some));
                }
                continue;
            }
            cx.at_most(&Dim::from(0), &place, || format!("slice of axis {axis} of {x} starts before it"))?;
            cx.at_most(&place, &end, || format!("slice of axis {axis} of {x} ends past it"))?;
        }
    }
    Ok(TensorType { dtype: x.dtype, shape: sizes.to_vec() })
}

pub(crate) fn pad_type(cx: &mut Cx, low: &[Dim], high: &[Dim], interior: &[i64]) -> Result<TensorType> {
    let (x, value) = (cx.inputs[0], cx.inputs[1]);
    cx.rank(value, 0, "the padding value")?;
    cx.dtype(value, x.dtype, "the padding value")?;
    cx.entries("low amounts", low.len(), x.rank())?;
    cx.entries("high amounts", high.len(), x.rank())?;
    cx.entries("interior amounts", interior.len(), x.rank())?;
    let mut shape = Vec::with_capacity(x.rank());
    for (axis, d) in x.shape.iter().enumerate() {
        for amount in [&low[axis], &high[axis]] {
            cx.at_most(&Dim::from(0), amount, || format!("padding of axis {axis} of {x} is negative"))?;
        }
        if interior[axis] < 0 {
            return cx.fail(format!("interior padding on axis {axis} is {}; slice instead", interior[axis]));
        }
        // An empty axis has no gaps.
        let mut gaps = d.clone() - Dim::from(1);
        if d.bounds(cx.symbols).0 < 1 {
            gaps = gaps.maximum(&Dim::from(0));
        }
        shape.push(low[axis].clone() + d.clone() + gaps * Dim::from(interior[axis]) + high[axis].clone());
    }
    Ok(TensorType { dtype: x.dtype, shape })
}

pub(crate) fn concat_type(cx: &mut Cx, axis: usize) -> Result<TensorType> {
    let Some((first, rest)) = cx.inputs.split_first() else {
        return cx.fail("needs at least one operand".into());
    };
    cx.check_axis(axis, first.rank())?;
    let mut shape = first.shape.clone();
    for (i, x) in rest.iter().enumerate() {
        cx.dtype(x, first.dtype, &format!("operand {}", i + 1))?;
        cx.rank(x, first.rank(), &format!("operand {}", i + 1))?;
        for (a, d) in x.shape.iter().enumerate() {
            if a == axis {
                shape[a] = shape[a].clone() + d.clone();
            } else {
                cx.same(&first.shape[a], d, || format!("{first} and {x} differ on axis {a}"))?;
            }
        }
    }
    Ok(TensorType { dtype: first.dtype, shape })
}

/// Checks that a scalar operand is a bool or index of rank 0.
pub(super) fn scalar(cx: &Cx, ty: &TensorType, dtype: DType, what: &str) -> Result<()> {
    cx.rank(ty, 0, what)?;
    cx.dtype(ty, dtype, what)
}

pub(crate) fn reshape(x: &Array, to: &[usize]) -> Eval<Array> {
    if to.iter().product::<usize>() != x.len() {
        return Err(format!("{:?} does not reshape to {to:?}", x.shape));
    }
    Ok(x.with_shape(to.to_vec()))
}

pub(crate) fn broadcast(x: &Array, shape: &[usize]) -> Eval<Array> {
    let own = strides(&x.shape);
    let lead = shape.len() - x.shape.len();
    let mut wide = vec![0; shape.len()];
    for (i, &d) in x.shape.iter().enumerate() {
        if d != 1 {
            if d != shape[lead + i] {
                return Err(format!("{:?} does not broadcast to {shape:?}", x.shape));
            }
            wide[lead + i] = own[i];
        }
    }
    Ok(x.view(shape.to_vec(), &wide, 0))
}

pub(crate) fn slice(x: &Array, starts: &[i64], sizes: &[usize], steps: &[i64]) -> Eval<Array> {
    let own = strides(&x.shape);
    let mut offset = 0;
    let mut walked = vec![0; own.len()];
    if sizes.contains(&0) {
        // Nothing is read, so it does not matter where the slice starts.
        return Ok(x.view(sizes.to_vec(), &walked, 0));
    }
    for a in 0..own.len() {
        let n = x.shape[a] as i64;
        let last = (sizes[a] as i64 - 1).checked_mul(steps[a]).and_then(|d| d.checked_add(starts[a]));
        let inside = |i: i64| (0..n).contains(&i);
        if !inside(starts[a]) || !last.is_some_and(inside) {
            return Err(format!(
                "slice of axis {a} takes {} elements from {} in steps of {}, outside its extent {n}",
                sizes[a], starts[a], steps[a]
            ));
        }
        offset += own[a] * starts[a] as isize;
        // The step of a single element is never taken, and may be anything.
        walked[a] = if sizes[a] > 1 { own[a] * steps[a] as isize } else { 0 };
    }
    Ok(x.view(sizes.to_vec(), &walked, offset))
}

pub(crate) fn pad(
    x: &Array,
    value: &Array,
    low: &[i64],
    high: &[i64],
    interior: &[i64],
    shape: &[usize],
) -> Eval<Array> {
    if let Some(h) = high.iter().find(|h| **h < 0) {
        return Err(format!("padding by {h}; amounts must be at least 0"));
    }
    if let Some(l) = low.iter().find(|l| **l < 0) {
        return Err(format!("padding by {l}; amounts must be at least 0"));
    }
    let own = strides(shape);
    let mut data = fill(value, shape.iter().product())?;
    if x.len() == 0 {
        return Ok(Array::new(x.dtype, shape.to_vec(), data));
    }
    let offset: isize = own.iter().zip(low).map(|(s, &l)| s * l as isize).sum();
    // The gap after a single element is never taken, and may be anything.
    let gap = |a: usize| if x.shape[a] > 1 { interior[a] as isize + 1 } else { 0 };
    let spread: Vec<isize> = own.iter().enumerate().map(|(a, s)| s * gap(a)).collect();
    write(&mut data, x, &spread, offset)?;
    Ok(Array::new(x.dtype, shape.to_vec(), data))
}

pub(crate) fn concat(parts: &[Array], axis: usize, shape: &[usize]) -> Eval<Array> {
    let own = strides(shape);
    let count = shape.iter().product();
    let mut data = match parts[0].data.as_ref() {
        Data::Float(_) => Data::Float(vec![0.0; count]),
        Data::Int(_) => Data::Int(vec![0; count]),
    };
    let mut start = 0;
    for part in parts {
        write(&mut data, part, &own, own[axis] * start)?;
        start += part.shape[axis] as isize;
    }
    Ok(Array::new(parts[0].dtype, shape.to_vec(), data))
}

/// Writes `part` to strided places.
fn write(data: &mut Data, part: &Array, strides: &[isize], offset: isize) -> Eval<()> {
    match (data, part.data.as_ref()) {
        (Data::Float(d), Data::Float(s)) => write_strided(d, s, &part.shape, strides, offset),
        (Data::Int(d), Data::Int(s)) => write_strided(d, s, &part.shape, strides, offset),
        _ => return Err("operands differ in kind".into()),
    }
    Ok(())
}
