//! Views: the same elements at other places.

use super::Cx;
use crate::{DType, Dim, Requirement, Result, TensorType};

pub(super) fn permute(cx: &Cx, perm: &[usize]) -> Result<TensorType> {
    cx.arity(1)?;
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

pub(super) fn reshape(cx: &mut Cx, shape: &[Dim]) -> Result<TensorType> {
    cx.arity(1)?;
    let x = cx.inputs[0];
    cx.extents(shape)?;
    let ty = TensorType { dtype: x.dtype, shape: shape.to_vec() };
    let counts = [Dim::product(&x.shape)?, Dim::product(&ty.shape)?];
    cx.same(&counts[0], &counts[1], || format!("{x} and {ty} must have equal element counts"))?;
    Ok(ty)
}

pub(super) fn broadcast(cx: &mut Cx, shape: &[Dim]) -> Result<TensorType> {
    cx.arity(1)?;
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

pub(super) fn slice(cx: &mut Cx, starts: &[Dim], sizes: &[Dim], steps: &[i64]) -> Result<TensorType> {
    cx.arity(1)?;
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

pub(super) fn pad(cx: &mut Cx, low: &[Dim], high: &[Dim], interior: &[i64]) -> Result<TensorType> {
    cx.arity(2)?;
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

pub(super) fn concat(cx: &mut Cx, axis: usize) -> Result<TensorType> {
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
