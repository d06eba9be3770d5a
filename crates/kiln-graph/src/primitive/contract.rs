//! Contractions and convolutions; the references are blocked matrix products.

use super::elementwise::cast;
use super::index;
use crate::infer::Cx;
use crate::interp::array::{Array, Data, Eval, strides};
use crate::number::round_to;
use crate::{ConvSpec, DType, Dim, EinsumSpec, Result, TensorType};

pub(crate) fn contract_type(cx: &mut Cx, spec: &EinsumSpec, acc: DType, out: DType) -> Result<TensorType> {
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

pub(crate) fn grouped_type(cx: &mut Cx, transposed: bool, acc: DType, out: DType) -> Result<TensorType> {
    let (x, w, ends) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
    products(cx, x, w, acc, out)?;
    index::indices(cx, ends)?;
    let form = if transposed { "[G, N, K]" } else { "[G, K, N]" };
    let ([rows, depth], [groups, _, _], [count]) = (&x.shape[..], &w.shape[..], &ends.shape[..]) else {
        return cx.fail(format!("needs x[T, K], w{form} and ends[G], found {x}, {w} and {ends}"));
    };
    let [own, columns] = if transposed { [2, 1] } else { [1, 2] };
    cx.same(depth, &w.shape[own], || format!("axis 1 of {x} and axis {own} of {w} must be equal"))?;
    cx.same(groups, count, || format!("{ends} must have an end for each group of {w}"))?;
    Ok(TensorType { dtype: out, shape: vec![rows.clone(), w.shape[columns].clone()] })
}

pub(crate) fn conv_type(cx: &mut Cx, spec: &ConvSpec, acc: DType, out: DType) -> Result<TensorType> {
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

/// Largest stride, dilation or padding, and most taps of a window: products of indices and these stay within 64 bits.
pub(super) const MAX_GEOMETRY: usize = 1 << 24;

/// Number of positions of a window on an axis: `floor((n + pads - dilation * (taps - 1) - 1) / stride) + 1`.
pub(super) fn windows(
    cx: &mut Cx,
    n: &Dim,
    taps: &Dim,
    stride: usize,
    pads: (usize, usize),
    dilation: usize,
) -> Result<Dim> {
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

/// What products and sums are taken in: f64, or i64 modulo 2^64.
pub(super) trait Ring: Copy + Default {
    fn mul_add(self, a: Self, b: Self) -> Self;
}

impl Ring for f64 {
    fn mul_add(self, a: f64, b: f64) -> f64 {
        self + a * b
    }
}

impl Ring for i64 {
    fn mul_add(self, a: i64, b: i64) -> i64 {
        self.wrapping_add(a.wrapping_mul(b))
    }
}

/// `c[m, n] += a[m, k] * b[k, n]`, row-major, in order of `k` for each element.
fn matmul<T: Ring>(m: usize, n: usize, k: usize, a: &[T], b: &[T], c: &mut [T]) {
    const ROWS: usize = 4;
    const COLUMNS: usize = 1024;
    for j0 in (0..n).step_by(COLUMNS) {
        let width = COLUMNS.min(n - j0);
        for i0 in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - i0);
            for p in 0..k {
                let b_row = &b[p * n + j0..][..width];
                for i in i0..i0 + rows {
                    let factor = a[i * k + p];
                    for (c, &b) in c[i * n + j0..][..width].iter_mut().zip(b_row) {
                        *c = c.mul_add(factor, b);
                    }
                }
            }
        }
    }
}

/// Rounds or wraps sums to the accumulator, then to the result.
fn finish(sums: Data, shape: Vec<usize>, acc: DType, out: DType) -> Array {
    match sums {
        Data::Float(v) => Array::rounded(out, shape, v.into_iter().map(|v| round_to(acc, v, false)).collect()),
        Data::Int(v) => {
            let sums = Array::wrapped(acc, shape, v);
            cast(&sums, out, false)
        }
    }
}

pub(crate) fn contract(spec: &EinsumSpec, lhs: &Array, rhs: &Array, acc: DType, out: DType) -> Eval<Array> {
    for (i, l) in spec.lhs.iter().enumerate() {
        if let Some(j) = spec.rhs.iter().position(|r| r == l)
            && lhs.shape[i] != rhs.shape[j]
        {
            return Err(format!("label `{l}` is {} and {}", lhs.shape[i], rhs.shape[j]));
        }
    }
    let both = |l: &char| spec.lhs.contains(l) && spec.rhs.contains(l);
    let batch: Vec<char> = spec.out.iter().copied().filter(|l| both(l)).collect();
    let summed: Vec<char> = spec.lhs.iter().copied().filter(|l| both(l) && !spec.out.contains(l)).collect();
    let left: Vec<char> = spec.lhs.iter().copied().filter(|l| !both(l)).collect();
    let right: Vec<char> = spec.rhs.iter().copied().filter(|l| !both(l)).collect();
    let extent = |l: &char| {
        let at = |labels: &[char], x: &Array| labels.iter().position(|o| o == l).map(|i| x.shape[i]);
        at(&spec.lhs, lhs).or_else(|| at(&spec.rhs, rhs)).unwrap_or(1)
    };
    let size = |labels: &[char]| labels.iter().map(extent).product::<usize>();
    let arrange = |x: &Array, from: &[char], to: [&[char]; 3]| -> Array {
        let perm: Vec<usize> = to.concat().iter().filter_map(|l| from.iter().position(|o| o == l)).collect();
        x.permuted(&perm)
    };
    let a = arrange(lhs, &spec.lhs, [&batch, &left, &summed]);
    let b = arrange(rhs, &spec.rhs, [&batch, &summed, &right]);
    let (count, m, n, k) = (size(&batch), size(&left), size(&right), size(&summed));
    let sums = match (a.data.as_ref(), b.data.as_ref()) {
        (Data::Float(a), Data::Float(b)) => Data::Float(batched(count, m, n, k, a, b)),
        (Data::Int(a), Data::Int(b)) => Data::Int(batched(count, m, n, k, a, b)),
        _ => return Err(format!("operands differ in kind, {} and {}", lhs.dtype, rhs.dtype)),
    };
    let order: Vec<char> = [batch, left, right].concat();
    let result = finish(sums, order.iter().map(extent).collect(), acc, out);
    let perm: Vec<usize> = spec.out.iter().filter_map(|l| order.iter().position(|o| o == l)).collect();
    Ok(result.permuted(&perm))
}

fn batched<T: Ring>(count: usize, m: usize, n: usize, k: usize, a: &[T], b: &[T]) -> Vec<T> {
    let mut c = vec![T::default(); count * m * n];
    for i in 0..count {
        matmul(m, n, k, &a[i * m * k..][..m * k], &b[i * k * n..][..k * n], &mut c[i * m * n..][..m * n]);
    }
    c
}

pub(crate) fn grouped(transposed: bool, x: &Array, w: &Array, ends: &Array, acc: DType, out: DType) -> Eval<Array> {
    let w = if transposed { w.permuted(&[0, 2, 1]) } else { w.clone() };
    let (&[rows, depth], &[groups, own, columns]) = (&x.shape[..], &w.shape[..]) else {
        return Err(format!("operands of rank {} and {}", x.shape.len(), w.shape.len()));
    };
    let ends = ends.ints()?;
    if (depth, groups) != (own, ends.len()) {
        return Err(format!("x{:?} by w{:?} in {} groups", x.shape, w.shape, ends.len()));
    }
    let mut bounds = vec![];
    let mut start = 0;
    for (g, &end) in ends.iter().enumerate() {
        let next = usize::try_from(end).ok().filter(|end| (start..=rows).contains(end));
        let next = next.ok_or_else(|| format!("group {g} ends at {end}, expected {start}..={rows}"))?;
        bounds.push((start, next));
        start = next;
    }
    let sums = match (x.data.as_ref(), w.data.as_ref()) {
        (Data::Float(a), Data::Float(b)) => Data::Float(of_groups(&bounds, [rows, columns, depth], a, b)),
        (Data::Int(a), Data::Int(b)) => Data::Int(of_groups(&bounds, [rows, columns, depth], a, b)),
        _ => return Err(format!("operands differ in kind, {} and {}", x.dtype, w.dtype)),
    };
    Ok(finish(sums, vec![rows, columns], acc, out))
}

fn of_groups<T: Ring>(bounds: &[(usize, usize)], [m, n, k]: [usize; 3], a: &[T], b: &[T]) -> Vec<T> {
    let mut c = vec![T::default(); m * n];
    for (g, &(start, end)) in bounds.iter().enumerate() {
        matmul(end - start, n, k, &a[start * k..end * k], &b[g * k * n..][..k * n], &mut c[start * n..end * n]);
    }
    c
}

/// Positions of the output that are gathered into one matrix at a time.
const POSITIONS: usize = 2048;

pub(crate) fn conv(spec: &ConvSpec, x: &Array, w: &Array, acc: DType, out: DType, shape: &[usize]) -> Eval<Array> {
    let (found, expected) = (x.shape[1], w.shape[1].saturating_mul(spec.groups));
    if found != expected {
        return Err(format!("expected {expected} channels, found {found}"));
    }
    if !w.shape[0].is_multiple_of(spec.groups) {
        return Err(format!("{} output channels do not divide into {} groups", w.shape[0], spec.groups));
    }
    let sums = match (x.data.as_ref(), w.data.as_ref()) {
        (Data::Float(a), Data::Float(b)) => Data::Float(Conv::new(spec, x, w, shape).run(a, b)),
        (Data::Int(a), Data::Int(b)) => Data::Int(Conv::new(spec, x, w, shape).run(a, b)),
        _ => return Err(format!("operands differ in kind, {} and {}", x.dtype, w.dtype)),
    };
    Ok(finish(sums, shape.to_vec(), acc, out))
}

struct Conv<'a> {
    spec: &'a ConvSpec,
    /// `[N, C, spatial..]`.
    x: &'a [usize],
    /// `[O, C/groups, taps..]`.
    w: &'a [usize],
    /// `[N, O, spatial..]`.
    out: &'a [usize],
}

impl<'a> Conv<'a> {
    fn new(spec: &'a ConvSpec, x: &'a Array, w: &'a Array, out: &'a [usize]) -> Conv<'a> {
        Conv { spec, x: &x.shape, w: &w.shape, out }
    }

    fn run<T: Ring>(&self, x: &[T], w: &[T]) -> Vec<T> {
        let pixels: usize = self.x[2..].iter().product();
        let positions: usize = self.out[2..].iter().product();
        let taps: usize = self.w[2..].iter().product();
        let (channels, outputs) = (self.w[1], self.w[0] / self.spec.groups);
        let depth = channels * taps;
        let mut sums = vec![T::default(); self.out.iter().product()];
        for first in (0..positions).step_by(POSITIONS) {
            let count = POSITIONS.min(positions - first);
            let places = self.places(first, count);
            let mut columns = vec![T::default(); depth * count];
            let mut product = vec![T::default(); outputs * count];
            for image in 0..self.x[0] {
                for group in 0..self.spec.groups {
                    for c in 0..channels {
                        let plane = &x[((image * self.x[1]) + group * channels + c) * pixels..][..pixels];
                        let rows = &mut columns[c * taps * count..][..taps * count];
                        for (to, place) in rows.iter_mut().zip(&places) {
                            *to = place.map_or(T::default(), |p| plane[p]);
                        }
                    }
                    product.fill(T::default());
                    matmul(
                        outputs,
                        count,
                        depth,
                        &w[group * outputs * depth..][..outputs * depth],
                        &columns,
                        &mut product,
                    );
                    for o in 0..outputs {
                        let row = (image * self.out[1] + group * outputs + o) * positions + first;
                        sums[row..][..count].copy_from_slice(&product[o * count..][..count]);
                    }
                }
            }
        }
        sums
    }

    /// For each tap and each of `count` output positions from `first`, the pixel under it, or `None` in the padding.
    fn places(&self, first: usize, count: usize) -> Vec<Option<usize>> {
        let own = strides(&self.x[2..]);
        let taps = indices(&self.w[2..], 0, self.w[2..].iter().product());
        let positions = indices(&self.out[2..], first, count);
        let mut places = Vec::with_capacity(taps.len() * count);
        for tap in &taps {
            for position in &positions {
                let mut at = Some(0isize);
                for a in 0..own.len() {
                    let i = (position[a] * self.spec.strides[a] + tap[a] * self.spec.dilations[a])
                        .checked_sub(self.spec.pads[a].0)
                        .filter(|&i| i < self.x[2 + a]);
                    at = at.zip(i).map(|(at, i)| at + own[a] * i as isize);
                }
                places.push(at.map(|at| at as usize));
            }
        }
        places
    }
}

/// The multi-indices of `count` elements of `shape` from linear index `first`.
pub(crate) fn indices(shape: &[usize], first: usize, count: usize) -> Vec<Vec<usize>> {
    (first..first + count)
        .map(|mut linear| {
            let mut index = vec![0; shape.len()];
            for a in (0..shape.len()).rev() {
                index[a] = linear % shape[a];
                linear /= shape[a];
            }
            index
        })
        .collect()
}
