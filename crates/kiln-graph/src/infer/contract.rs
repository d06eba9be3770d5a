//! Contractions and sliding windows.

use super::{Cx, reduce::reducible};
use crate::{ConvSpec, DType, Dim, EinsumSpec, ReduceOp, Result, TensorType, WindowSpec};

pub(super) fn contract(cx: &mut Cx, spec: &EinsumSpec, acc: DType, out: DType) -> Result<TensorType> {
    cx.arity(2)?;
    let (lhs, rhs) = (cx.inputs[0], cx.inputs[1]);
    products(cx, lhs, rhs, acc, out)?;
    for (side, labels, ty) in [("left", &spec.lhs, lhs), ("right", &spec.rhs, rhs)] {
        if labels.len() != ty.rank() {
            return cx.fail(format!("{side} labels {:?} do not fit {ty}", text(labels)));
        }
    }
    for (side, labels) in [("left", &spec.lhs), ("right", &spec.rhs), ("result", &spec.out)] {
        if let Some(l) = labels.iter().enumerate().find(|(i, l)| labels[..*i].contains(l)) {
            return cx.fail(format!("label `{}` occurs twice in the {side} labels", l.1));
        }
    }
    for (i, l) in spec.lhs.iter().enumerate() {
        match spec.rhs.iter().position(|r| r == l) {
            Some(j) => cx.same(&lhs.shape[i], &rhs.shape[j], || {
                format!("axis {i} of {lhs} and axis {j} of {rhs} must be equal (label `{l}`)")
            })?,
            None if !spec.out.contains(l) => {
                return cx.fail(format!("label `{l}` is in the left operand only; reduce that axis first"));
            }
            None => {}
        }
    }
    if let Some(l) = spec.rhs.iter().find(|l| !spec.lhs.contains(l) && !spec.out.contains(l)) {
        return cx.fail(format!("label `{l}` is in the right operand only; reduce that axis first"));
    }
    let mut shape = Vec::with_capacity(spec.out.len());
    for l in &spec.out {
        let from = |labels: &[char], ty: &TensorType| labels.iter().position(|x| x == l).map(|i| ty.shape[i].clone());
        match from(&spec.lhs, lhs).or_else(|| from(&spec.rhs, rhs)) {
            Some(d) => shape.push(d),
            None => return cx.fail(format!("result label `{l}` is in no operand")),
        }
    }
    Ok(TensorType { dtype: out, shape })
}

pub(super) fn conv(cx: &mut Cx, spec: &ConvSpec, acc: DType, out: DType) -> Result<TensorType> {
    cx.arity(2)?;
    let (x, w) = (cx.inputs[0], cx.inputs[1]);
    products(cx, x, w, acc, out)?;
    if x.rank() < 2 || x.rank() != w.rank() {
        return cx
            .fail(format!("needs x[N, C, spatial..] and w[O, C/groups, kernel..] of one rank, found {x} and {w}"));
    }
    let spatial = x.rank() - 2;
    cx.entries("strides", spec.strides.len(), spatial)?;
    cx.entries("pads", spec.pads.len(), spatial)?;
    cx.entries("dilations", spec.dilations.len(), spatial)?;
    if spec.groups == 0 {
        return cx.fail("groups must be at least 1".into());
    }
    let groups = Dim::from(spec.groups);
    let channels = w.shape[1].clone() * groups.clone();
    cx.same(&channels, &x.shape[1], || {
        format!("channels of {x} must be {} groups of the {} that {w} takes", spec.groups, w.shape[1])
    })?;
    if let Some(o) = w.shape[0].as_const()
        && o.checked_rem(spec.groups as i64) != Some(0)
    {
        return cx.fail(format!("{o} output channels of {w} do not divide into {} groups", spec.groups));
    }
    let mut shape = vec![x.shape[0].clone(), w.shape[0].clone()];
    for a in 0..spatial {
        let taps = &w.shape[2 + a];
        shape.push(windows(cx, &x.shape[2 + a], taps, spec.strides[a], spec.pads[a], spec.dilations[a])?);
    }
    Ok(TensorType { dtype: out, shape })
}

pub(super) fn window(cx: &mut Cx, op: ReduceOp, spec: &WindowSpec) -> Result<TensorType> {
    cx.arity(1)?;
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

/// Largest stride, dilation or padding, and most taps of a window: products of indices and these stay within 64 bits.
const MAX_GEOMETRY: usize = 1 << 24;

/// Number of positions of a window on an axis: `floor((n + pads - dilation * (taps - 1) - 1) / stride) + 1`.
fn windows(cx: &mut Cx, n: &Dim, taps: &Dim, stride: usize, pads: (usize, usize), dilation: usize) -> Result<Dim> {
    if stride == 0 || dilation == 0 || taps.bounds(cx.symbols).1 < 1 {
        return cx.fail(format!("window {taps}, stride {stride} and dilation {dilation} must be at least 1"));
    }
    if [stride, dilation, pads.0, pads.1].iter().any(|&n| n > MAX_GEOMETRY) {
        return cx.fail(format!("stride {stride}, dilation {dilation} or padding {pads:?} is beyond {MAX_GEOMETRY}"));
    }
    let padded = n.clone() + Dim::from(pads.0) + Dim::from(pads.1);
    let span = (taps.clone() - Dim::from(1)) * Dim::from(dilation) + Dim::from(1);
    cx.at_most(&span, &padded, || "the window does not fit the padded axis".into())?;
    Ok((padded - span).floor_div(&Dim::from(stride)) + Dim::from(1))
}

/// Operands, accumulator and result are all floats or all integers; float operands share a dtype unless both are 8 bits wide.
fn products(cx: &Cx, a: &TensorType, b: &TensorType, acc: DType, out: DType) -> Result<()> {
    let all = [a.dtype, b.dtype, acc, out];
    let one_kind = all.iter().all(|d| d.is_float()) || all.iter().all(|d| d.is_int());
    if !one_kind {
        return cx.fail(format!(
            "operands, accumulator and result must be all floats or all integers, found {a}, {b}, accumulator {acc}, result {out}"
        ));
    }
    if a.dtype.is_float() && a.dtype != b.dtype && (a.dtype.bits() != 8 || b.dtype.bits() != 8) {
        return cx.fail(format!("operands must have one dtype, found {a} and {b}; insert a cast"));
    }
    Ok(())
}

fn text(labels: &[char]) -> String {
    labels.iter().collect()
}
