//! Reductions over sliding windows.

use super::array::{Array, Data, Eval, store, strides, wide};
use super::contract::indices;
use super::reduce::{float_fold, int_fold};
use crate::{ReduceOp, WindowSpec};

pub(super) fn window(op: ReduceOp, spec: &WindowSpec, x: &Array, shape: &[usize]) -> Eval<Array> {
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
