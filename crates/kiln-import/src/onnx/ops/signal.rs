//! Windows and Fourier transforms.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::tensor;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{BinaryOp, DType, Dim, PadMode, Tensor, ValueId};
use std::f64::consts::TAU;

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => window,
        "DFT" => dft,
        _ => return None,
    };
    Some(handler)
}

/// Sums of cosines over one period.
fn window<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let size = l.known_dims(n.input(0)?, "the size")?.first().cloned().unwrap_or_default();
    let to = match tensor::dtype(i32::try_from(n.int("output_datatype", 1)?).unwrap_or(0)) {
        Ok(to) => to,
        Err(reason) => return unsupported(reason),
    };
    let terms: &[f64] = match n.op() {
        "HannWindow" => &[0.5, -0.5],
        "HammingWindow" => &[25.0 / 46.0, -21.0 / 46.0],
        _ => &[0.42, -0.5, 0.08],
    };
    let i = l.iota(DType::F64, std::slice::from_ref(&size), 0)?;
    let period = if n.flag("periodic", true)? { size } else { size - Dim::from(1) };
    let period = l.dim_value(&period, DType::F64)?;
    let turn = l.div(i, period)?;
    let mut sum = l.scalar(DType::F64, terms[0])?;
    for (k, term) in terms.iter().enumerate().skip(1) {
        let angle = l.mul_scalar(turn, TAU * k as f64)?;
        let cos = l.cos(angle)?;
        let part = l.mul_scalar(cos, *term)?;
        sum = l.plus(sum, part)?;
    }
    let y = l.cast(sum, to)?;
    l.done(y)
}

/// Largest table of sines, in elements.
const MAX_TABLE: i64 = 1 << 22;

/// The transform as a product with tables of cosines and sines.
fn dft<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let axis = match n.optional(2) {
        Some(axis) => l.known_ints(axis, "the axis")?.first().copied().unwrap_or(-2),
        None => n.int("axis", if n.version < 20 { 1 } else { -2 })?,
    };
    let (inverse, onesided) = (n.flag("inverse", false)?, n.flag("onesided", false)?);
    let x = l.arg(n, 0)?;
    let dtype = l.dtype(x);
    let rank = l.rank(x);
    let axis = l.axis(x, axis)?;
    let parts = l.shape(x).last().and_then(Dim::as_const);
    let (Some(parts @ 1..=2), true) = (parts, axis + 1 < rank) else {
        return invalid(format!(
            "needs real or complex pairs on the last axis of {} and a transform along another",
            l.ty(x)
        ));
    };
    let Some(length) = l.shape(x)[axis].as_const() else {
        return unsupported(format!("the length of {} along axis {axis} is not constant", l.ty(x)));
    };
    let points = match n.optional(1) {
        Some(v) => l.known_ints(v, "the length")?.first().copied().unwrap_or(0),
        None if inverse && onesided => 2 * (length - 1),
        None => length,
    };
    let (inputs, outputs) = match (inverse, onesided) {
        (false, true) => (points, points / 2 + 1),
        (true, true) => (points / 2 + 1, points),
        _ => (points, points),
    };
    if points < 1 || inputs > MAX_TABLE || outputs > MAX_TABLE || inputs * outputs > MAX_TABLE {
        return invalid(format!("a transform of {points} points"));
    }
    let wide = dtype.accumulator();
    let mut x = l.cast(x, wide)?;
    // As many elements as the transform takes: cut, or filled with zeros.
    if length > inputs {
        x = l.slice_axis(x, axis as i64, &Dim::from(0), &Dim::from(inputs), 1)?;
    } else if length < inputs {
        let mut high = vec![Dim::from(0); rank];
        high[axis] = Dim::from(inputs - length);
        x = l.pad(x, &vec![Dim::from(0); rank], &high, PadMode::Constant(0.0))?;
    }
    let table = |f: fn(f64) -> f64| {
        Tensor::generate(wide, &[inputs as usize, outputs as usize], |e| {
            let (i, o) = (e as i64 / outputs, e as i64 % outputs);
            // In one-sided input, all but the first and the middle stand for two.
            let twin = inverse && onesided && i != 0 && 2 * i != points;
            let scale = if inverse { 1.0 / points as f64 } else { 1.0 };
            f(TAU * (i * o % points) as f64 / points as f64) * scale * if twin { 2.0 } else { 1.0 }
        })
    };
    let cos = l.value(&Val::constant(table(f64::cos)?))?;
    let sin = l.value(&Val::constant(table(f64::sin)?))?;
    // The transformed axis last, as rows of a matrix product.
    let perm: Vec<usize> = (0..rank - 1).filter(|&a| a != axis).chain([axis]).collect();
    let mut back: Vec<usize> = (0..rank - 2).collect();
    back.insert(axis, rank - 2);
    let plane = |l: &mut Lower<'m>, i: i64| -> OpResult<ValueId> {
        let p = l.index_axis(x, -1, i)?;
        Ok(l.transpose(p, &perm)?)
    };
    let re = plane(l, 0)?;
    let im = if parts == 2 { Some(plane(l, 1)?) } else { None };
    let (re_cos, re_sin) = (l.matmul(re, cos)?, l.matmul(re, sin)?);
    // e^(-j a) forward, e^(j a) backward.
    let (mut real, mut imaginary) = (re_cos, if inverse { re_sin } else { l.neg(re_sin)? });
    if let Some(im) = im {
        let (im_cos, im_sin) = (l.matmul(im, cos)?, l.matmul(im, sin)?);
        let sign = if inverse { BinaryOp::Sub } else { BinaryOp::Add };
        real = l.binary(sign, real, im_sin)?;
        imaginary = l.plus(imaginary, im_cos)?;
    }
    let mut planes = vec![real];
    if !(inverse && onesided) {
        planes.push(imaginary);
    }
    for p in &mut planes {
        let moved = l.transpose(*p, &back)?;
        *p = l.unsqueeze(moved, &[rank as i64 - 1])?;
    }
    let y = l.concat(&planes, rank as i64 - 1)?;
    let y = l.cast(y, dtype)?;
    l.done(y)
}
