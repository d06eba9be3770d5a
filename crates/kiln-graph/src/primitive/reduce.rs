//! Reductions, arg-reductions, scans and top-k along axes.

use super::elementwise::{max, min};
use crate::infer::Cx;
use crate::interp::array::{Array, Data, Eval, odometer, store, strides, wide, with_data};
use crate::{ArgOp, DType, Dim, ReduceOp, Result, ScanOp, TensorType};
use std::cmp::Ordering;

/// Checks that `op` reduces values of the dtype of `x`.
pub(super) fn reducible(cx: &Cx, op: ReduceOp, x: &TensorType) -> Result<()> {
    let wants_bool = matches!(op, ReduceOp::All | ReduceOp::Any);
    if wants_bool == (x.dtype == DType::Bool) {
        return Ok(());
    }
    cx.fail(format!("needs {}, found {x}; insert a cast", if wants_bool { "bools" } else { "numbers" }))
}

pub(crate) fn reduce_type(cx: &Cx, op: ReduceOp, axes: &[usize]) -> Result<TensorType> {
    let x = cx.inputs[0];
    reducible(cx, op, x)?;
    if !axes.is_sorted_by(|a, b| a < b) {
        return cx.fail(format!("axes must be sorted and distinct, found {axes:?}"));
    }
    for &axis in axes {
        cx.check_axis(axis, x.rank())?;
    }
    let shape = x.shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect();
    Ok(TensorType { dtype: x.dtype, shape })
}

pub(crate) fn arg_type(cx: &Cx, axis: usize) -> Result<TensorType> {
    let x = cx.inputs[0];
    numbers(cx, x)?;
    cx.check_axis(axis, x.rank())?;
    if x.shape[axis].is(0) {
        return cx.fail(format!("axis {axis} of {x} is empty and has no extreme"));
    }
    let mut shape = x.shape.clone();
    shape.remove(axis);
    Ok(TensorType { dtype: DType::I64, shape })
}

pub(crate) fn scan_type(cx: &Cx, axis: usize) -> Result<TensorType> {
    let x = cx.inputs[0];
    numbers(cx, x)?;
    cx.check_axis(axis, x.rank())?;
    Ok(x.clone())
}

pub(crate) fn topk_type(cx: &mut Cx, axis: usize, k: &Dim) -> Result<Vec<TensorType>> {
    let x = cx.inputs[0];
    numbers(cx, x)?;
    cx.check_axis(axis, x.rank())?;
    cx.extents(std::slice::from_ref(k))?;
    cx.at_most(k, &x.shape[axis], || format!("k on axis {axis} of {x}"))?;
    let mut values = x.clone();
    values.shape[axis] = k.clone();
    let indices = TensorType { dtype: DType::I64, shape: values.shape.clone() };
    Ok(vec![values, indices])
}

fn numbers(cx: &Cx, x: &TensorType) -> Result<()> {
    if x.dtype == DType::Bool { cx.fail(format!("needs numbers, found {x}; insert a cast")) } else { Ok(()) }
}

/// The result of an empty reduction, and how it takes in an element.
pub(super) type Fold<T> = (T, fn(T, T) -> T);

/// `op` on floats.
pub(crate) fn float_fold(op: ReduceOp) -> Eval<Fold<f64>> {
    Ok(match op {
        ReduceOp::Sum => (0.0, |a, b| a + b),
        ReduceOp::Prod => (1.0, |a, b| a * b),
        ReduceOp::Max => (f64::NEG_INFINITY, max),
        ReduceOp::Min => (f64::INFINITY, min),
        ReduceOp::All | ReduceOp::Any => return Err(format!("`{op}` is not defined on floats")),
    })
}

/// `op` on the integers of `dtype`; the low 64 bits of sums and products are exact.
pub(crate) fn int_fold(op: ReduceOp, dtype: DType) -> Fold<i128> {
    let (low, high) = dtype.int_range().unwrap_or((0, 0));
    match op {
        ReduceOp::Sum => (0, i128::wrapping_add),
        ReduceOp::Prod => (1, i128::wrapping_mul),
        ReduceOp::Max => (low, i128::max),
        ReduceOp::Min => (high, i128::min),
        ReduceOp::All => (1, |a, b| a & b),
        ReduceOp::Any => (0, |a, b| a | b),
    }
}

pub(crate) fn reduce(op: ReduceOp, x: &Array, axes: &[usize]) -> Eval<Array> {
    let kept: Vec<usize> = (0..x.shape.len()).filter(|a| !axes.contains(a)).collect();
    let perm: Vec<usize> = kept.iter().chain(axes).copied().collect();
    let shape: Vec<usize> = kept.iter().map(|&a| x.shape[a]).collect();
    let run: usize = axes.iter().map(|&a| x.shape[a]).product();
    let rows = x.permuted(&perm);
    match rows.data.as_ref() {
        Data::Float(v) => {
            let (identity, step) = float_fold(op)?;
            let values = runs(v, &shape, run).map(|r| r.iter().fold(identity, |a, &b| step(a, b))).collect();
            Ok(Array::rounded(x.dtype, shape, values))
        }
        Data::Int(v) => {
            let (identity, step) = int_fold(op, x.dtype);
            let fold = |r: &[i64]| store(x.dtype, r.iter().fold(identity, |a, &b| step(a, wide(x.dtype, b))));
            let values = runs(v, &shape, run).map(fold).collect();
            Ok(Array::new(x.dtype, shape, Data::Int(values)))
        }
    }
}

/// Consecutive runs of `run` elements, one for each element of `shape`, even if they are empty.
fn runs<'a, T>(v: &'a [T], shape: &[usize], run: usize) -> impl Iterator<Item = &'a [T]> {
    (0..shape.iter().product()).map(move |i: usize| &v[i * run..][..run])
}

/// The offsets of the first elements along `axis`, and its stride and extent.
fn lines(x: &Array, axis: usize) -> (Vec<isize>, isize, usize) {
    let own = strides(&x.shape);
    let mut outer = x.shape.clone();
    outer[axis] = 1;
    let mut starts = Vec::new();
    odometer(&outer, &own, 0, |at| starts.push(at));
    (starts, own[axis], x.shape[axis])
}

/// Order of elements in which NaN is above everything.
fn order(x: &Array) -> Box<dyn Fn(usize, usize) -> Ordering + '_> {
    match x.data.as_ref() {
        Data::Float(v) => Box::new(|a, b| {
            let (a, b) = (v[a], v[b]);
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }),
        Data::Int(v) => Box::new(|a, b| wide(x.dtype, v[a]).cmp(&wide(x.dtype, v[b]))),
    }
}

pub(crate) fn arg(op: ArgOp, x: &Array, axis: usize, last: bool) -> Eval<Array> {
    let (starts, stride, n) = lines(x, axis);
    if n == 0 && !starts.is_empty() {
        return Err(format!("axis {axis} is empty and has no extreme"));
    }
    let order = order(x);
    let is_nan = |i: usize| matches!(x.data.as_ref(), Data::Float(v) if v[i].is_nan());
    let values = starts.into_iter().map(|start| {
        let at = |i: usize| (start + i as isize * stride) as usize;
        let better = |new: usize, old: usize| {
            let o = match (is_nan(new), is_nan(old)) {
                (false, false) if op == ArgOp::Min => order(old, new),
                (a, b) if a || b => a.cmp(&b),
                _ => order(new, old),
            };
            if last { o != Ordering::Less } else { o == Ordering::Greater }
        };
        (1..n).fold(0, |best, i| if better(at(i), at(best)) { i } else { best }) as i64
    });
    let data = Data::Int(values.collect());
    let mut shape = x.shape.clone();
    shape.remove(axis);
    Ok(Array::new(DType::I64, shape, data))
}

pub(crate) fn topk(x: &Array, axis: usize, k: usize, largest: bool) -> Eval<Vec<Array>> {
    let n = x.shape[axis];
    if k > n {
        return Err(format!("k is {k}, and axis {axis} has only {n} elements"));
    }
    let (starts, stride, _) = lines(x, axis);
    let order = order(x);
    let mut shape = x.shape.clone();
    shape[axis] = k;
    let own = strides(&shape);
    let count = shape.iter().product();
    let mut places = vec![0usize; count];
    let mut indices = vec![0i64; count];
    let mut outer = shape.clone();
    outer[axis] = 1;
    let mut targets = Vec::with_capacity(starts.len());
    odometer(&outer, &own, 0, |at| targets.push(at));
    for (&start, &target) in starts.iter().zip(&targets) {
        let at = |i: usize| (start + i as isize * stride) as usize;
        let mut ranked: Vec<usize> = (0..n).collect();
        ranked.sort_by(|&a, &b| {
            let o = order(at(a), at(b));
            if largest { o.reverse() } else { o }
        });
        for (j, &i) in ranked[..k].iter().enumerate() {
            let to = (target + j as isize * own[axis]) as usize;
            places[to] = at(i);
            indices[to] = i as i64;
        }
    }
    let data = with_data!(x.data.as_ref(), v => places.iter().map(|&p| v[p]).collect());
    Ok(vec![Array::new(x.dtype, shape.clone(), data), Array::new(DType::I64, shape, Data::Int(indices))])
}

pub(crate) fn scan(op: ScanOp, x: &Array, axis: usize, exclusive: bool, reverse: bool) -> Eval<Array> {
    let fold = match op {
        ScanOp::Sum => ReduceOp::Sum,
        ScanOp::Prod => ReduceOp::Prod,
        ScanOp::Max => ReduceOp::Max,
        ScanOp::Min => ReduceOp::Min,
    };
    let (starts, stride, n) = lines(x, axis);
    // Calls `visit` with each place along each line, in the direction of the scan.
    let walk = |visit: &mut dyn FnMut(usize, bool)| {
        for &start in &starts {
            for i in 0..n {
                let i = if reverse { n - 1 - i } else { i };
                let first = i == if reverse { n - 1 } else { 0 };
                visit((start + i as isize * stride) as usize, first);
            }
        }
    };
    match x.data.as_ref() {
        Data::Float(v) => {
            let (identity, step) = float_fold(fold)?;
            let mut out = vec![0.0; v.len()];
            let mut sum = identity;
            walk(&mut |at, first| {
                let before = if first { identity } else { sum };
                sum = step(before, v[at]);
                out[at] = if exclusive { before } else { sum };
            });
            Ok(Array::rounded(x.dtype, x.shape.clone(), out))
        }
        Data::Int(v) => {
            let (identity, step) = int_fold(fold, x.dtype);
            let mut out = vec![0; v.len()];
            let mut sum = identity;
            walk(&mut |at, first| {
                let before = if first { identity } else { sum };
                sum = step(before, wide(x.dtype, v[at]));
                out[at] = store(x.dtype, if exclusive { before } else { sum });
            });
            Ok(Array::new(x.dtype, x.shape.clone(), Data::Int(out)))
        }
    }
}
