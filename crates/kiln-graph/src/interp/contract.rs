//! Contractions and convolutions, as blocked matrix products.

use super::array::{Array, Data, Eval, strides};
use crate::number::round_to;
use crate::{ConvSpec, DType, EinsumSpec};

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
            super::elementwise::cast(&sums, out, false)
        }
    }
}

pub(super) fn contract(spec: &EinsumSpec, lhs: &Array, rhs: &Array, acc: DType, out: DType) -> Eval<Array> {
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

/// Positions of the output that are gathered into one matrix at a time.
const POSITIONS: usize = 2048;

pub(super) fn conv(spec: &ConvSpec, x: &Array, w: &Array, acc: DType, out: DType, shape: &[usize]) -> Eval<Array> {
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
pub(super) fn indices(shape: &[usize], first: usize, count: usize) -> Vec<Vec<usize>> {
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
