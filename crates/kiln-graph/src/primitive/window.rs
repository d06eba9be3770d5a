//! Reductions over sliding windows.

use super::contract::{MAX_GEOMETRY, indices, windows};
use super::reduce::{float_fold, int_fold, reducible};
use crate::infer::Cx;
use crate::interp::array::{Array, Data, Eval, store, strides, wide};
use crate::{Dim, ReduceOp, Result, TensorType, WindowSpec};

pub(crate) fn window_type(cx: &mut Cx, op: ReduceOp, spec: &WindowSpec) -> Result<TensorType> {
    let x = cx.inputs[0];
    reducible(cx, op, x)?;
    let n = spec.window.len();
    cx.entries("strides", spec.strides.len(), n)?;
    cx.entries("pads", spec.pads.len(), n)?;
    cx.entries("dilations", spec.dilations.len(), n)?;
    let taps = spec.window.iter().try_fold(1usize, |n, &w| n.checked_mul(w));
    if taps.is_none_or(|n| n > MAX_GEOMETRY) {
        return cx.fail(format!("a window of {:?} has more than {MAX_GEOMETRY} taps", spec.window));
    }
    if n > x.rank() {
        return cx.fail(format!("a window of {n} axes does not fit {x}"));
    }
    let first = x.rank() - n;
    let mut shape = x.shape.clone();
    for a in 0..n {
        let taps = Dim::from(spec.window[a]);
        shape[first + a] = windows(cx, &x.shape[first + a], &taps, spec.strides[a], spec.pads[a], spec.dilations[a])?;
    }
    Ok(TensorType { dtype: x.dtype, shape })
}

pub(crate) fn window(op: ReduceOp, spec: &WindowSpec, x: &Array, shape: &[usize]) -> Eval<Array> {
    let first = x.shape.len() - spec.window.len();
    let pixels: usize = x.shape[first..].iter().product();
    let planes: usize = x.shape[..first].iter().product();
    let places = places(spec, &x.shape[first..], &shape[first..]);
    match x.data.as_ref() {
        Data::Float(v) => {
            let (identity, step) = float_fold(op)?;
            let fold = |plane: &[f64], at: &[usize]| at.iter().fold(identity, |a, &p| step(a, plane[p]));
            let values = each(v, planes, pixels, &places, fold);
            Ok(Array::rounded(x.dtype, shape.to_vec(), values))
        }
        Data::Int(v) => {
            let (identity, step) = int_fold(op, x.dtype);
            let fold = |plane: &[i64], at: &[usize]| {
                store(x.dtype, at.iter().fold(identity, |a, &p| step(a, wide(x.dtype, plane[p]))))
            };
            Ok(Array::new(x.dtype, shape.to_vec(), Data::Int(each(v, planes, pixels, &places, fold))))
        }
    }
}

fn each<T>(v: &[T], planes: usize, pixels: usize, places: &[Vec<usize>], fold: impl Fn(&[T], &[usize]) -> T) -> Vec<T> {
    let mut out = Vec::with_capacity(planes * places.len());
    for plane in 0..planes {
        let plane = &v[plane * pixels..][..pixels];
        out.extend(places.iter().map(|at| fold(plane, at)));
    }
    out
}

/// For each window, the pixels in it that are not padding.
fn places(spec: &WindowSpec, input: &[usize], output: &[usize]) -> Vec<Vec<usize>> {
    let own = strides(input);
    let taps = indices(&spec.window, 0, spec.window.iter().product());
    let pixel = |position: &[usize], tap: &[usize]| {
        let mut at = 0;
        for a in 0..own.len() {
            let i = (position[a] * spec.strides[a] + tap[a] * spec.dilations[a]).checked_sub(spec.pads[a].0)?;
            if i >= input[a] {
                return None;
            }
            at += own[a] as usize * i;
        }
        Some(at)
    };
    indices(output, 0, output.iter().product())
        .iter()
        .map(|position| taps.iter().filter_map(|tap| pixel(position, tap)).collect())
        .collect()
}
