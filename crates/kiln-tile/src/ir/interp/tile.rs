//! What statements do to elements.

use crate::dtype::{DType, Scalar};
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::interp::State;
use crate::ir::{self, Place, View, Walk};
use crate::program::{AtomicOp, ReduceOp};
use kiln_num::{Round, TF32};
use std::rc::Rc;

/// The elements of a tile, row-major, each rounded to its type.
pub(super) type Elements = Rc<Vec<Scalar>>;

/// Elements of a tile of these extents.
pub(super) fn count(shape: &[u32]) -> usize {
    shape.iter().map(|&extent| extent as usize).product()
}

/// Elements between neighbours along each axis, row-major.
fn strides(shape: &[u32]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as usize;
    }
    strides
}

/// Calls `visit` with the coordinates of every element, row-major.
fn each(shape: &[u32], visit: &mut dyn FnMut(&[usize]) -> Result<()>) -> Result<()> {
    let mut at = vec![0; shape.len()];
    for _ in 0..count(shape) {
        visit(&at)?;
        for (i, &extent) in at.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < extent as usize {
                break;
            }
            *i = 0;
        }
    }
    Ok(())
}

fn position(at: &[usize], strides: &[usize]) -> usize {
    at.iter().zip(strides).map(|(i, stride)| i * stride).sum()
}

fn set_axes(state: &mut State, axes: &[Var], at: &[usize]) {
    axes.iter().zip(at).for_each(|(var, &i)| state.set(var, Scalar::Int(i as i128)));
}

fn scalars(state: &mut State, body: &[ir::Scalar]) -> Result<()> {
    body.iter().try_for_each(|scalar| match scalar {
        ir::Scalar::Bind { var, value } => state.bind(var, value),
        ir::Scalar::Check { violated, fault, code } => state.check(violated, fault, code),
    })
}

/// For each element of a tile of extents `shape` where it is in the array of the tensor; `None`: it does not exist.
fn positions(state: &mut State, place: &Place, shape: &[u32]) -> Result<Vec<Option<usize>>> {
    let mut found = Vec::with_capacity(count(shape));
    match place {
        Place::View(view) => return box_positions(state, view),
        Place::Elements { tensor, axes, body, index, mask } => each(shape, &mut |at| {
            set_axes(state, axes, at);
            scalars(state, body)?;
            let exists = state.holds(mask)?;
            found.push(if exists { Some(state.offset(tensor, &state.indices(index)?)?) } else { None });
            Ok(())
        })?,
    }
    Ok(found)
}

fn box_positions(state: &State, view: &View) -> Result<Vec<Option<usize>>> {
    let mut found = Vec::with_capacity(count(&view.shape));
    let origin = state.indices(&view.origin)?;
    let extents = &state.tensor(&view.tensor)?.shape;
    let mut index = origin.clone();
    let walks: Vec<Vec<i128>> = view.walks.iter().map(|walk| walked(state, walk)).collect::<Result<_>>()?;
    each(&view.shape, &mut |at| {
        for ((i, first), axis) in index.iter_mut().zip(&origin).zip(&view.axes) {
            *i = first + axis.map_or(0, |axis| at[axis] as i128);
        }
        let mut inside = true;
        for (walk, scalars) in view.walks.iter().zip(&walks) {
            let [first, end, extents @ ..] = &scalars[..] else { continue };
            let position = first + at[walk.axis] as i128;
            inside &= position < *end;
            let mut rest = position;
            for (i, (part, extent)) in walk.parts.iter().zip(extents).enumerate().rev() {
                let value = if i == 0 { rest } else { rest % (*extent).max(1) };
                rest /= (*extent).max(1);
                index[part.axis] += value * i128::from(part.step) + i128::from(part.base);
            }
        }
        let mut along = index.iter().zip(extents).zip(&view.masked);
        let exists = inside && along.all(|((i, extent), masked)| !masked || (0..*extent).contains(i));
        // What is proved to be inside must be: the offset is checked.
        found.push(if exists { Some(state.offset(&view.tensor, &index)?) } else { None });
        Ok(())
    })?;
    Ok(found)
}

/// Where a walk begins and ends, and the extents of its parts.
fn walked(state: &State, walk: &Walk) -> Result<Vec<i128>> {
    let scalars = [&walk.first, &walk.end].into_iter().chain(walk.parts.iter().map(|part| &part.extent));
    scalars.map(|e| Ok(state.indices(std::slice::from_ref(e))?[0])).collect()
}

pub(super) fn load(state: &mut State, from: &Place, shape: &[u32], fill: &Expr) -> Result<Vec<Scalar>> {
    let positions = positions(state, from, shape)?;
    let fill = state.eval(fill)?;
    let array = &state.tensor(from.tensor())?.array;
    Ok(positions.into_iter().map(|at| at.map_or(fill, |at| array.get(at))).collect())
}

pub(super) fn store(state: &mut State, to: &Place, shape: &[u32], value: &[Scalar]) -> Result<()> {
    let positions = positions(state, to, shape)?;
    let array = state.array_mut(to.tensor())?;
    for (at, &element) in positions.into_iter().zip(value) {
        if let Some(at) = at {
            array.set(at, element);
        }
    }
    Ok(())
}

pub(super) fn atomic(state: &mut State, op: AtomicOp, to: &Place, shape: &[u32], value: &[Scalar]) -> Result<()> {
    let positions = positions(state, to, shape)?;
    for (at, &element) in positions.into_iter().zip(value) {
        if let Some(at) = at {
            state.atomic(op, to.tensor(), at, element)?;
        }
    }
    Ok(())
}

/// An operand of a map: what its element is called, its elements and its extents.
pub(super) struct Argument<'p> {
    pub(super) var: &'p Var,
    pub(super) elements: Elements,
    pub(super) shape: &'p [u32],
}

/// One tile for each of `results`, all of extents `shape`.
pub(super) fn map(
    state: &mut State,
    shape: &[u32],
    axes: &[Var],
    args: &[Argument<'_>],
    body: &[ir::Scalar],
    results: &[Expr],
) -> Result<Vec<Vec<Scalar>>> {
    let repeated = |arg: &Argument<'_>| -> Vec<usize> {
        strides(arg.shape)
            .into_iter()
            .zip(arg.shape)
            .map(|(stride, &extent)| if extent == 1 { 0 } else { stride })
            .collect()
    };
    let steps: Vec<Vec<usize>> = args.iter().map(repeated).collect();
    let mut tiles = vec![Vec::with_capacity(count(shape)); results.len()];
    each(shape, &mut |at| {
        set_axes(state, axes, at);
        for (arg, steps) in args.iter().zip(&steps) {
            state.set(arg.var, arg.elements[position(at, steps)]);
        }
        scalars(state, body)?;
        for (tile, result) in tiles.iter_mut().zip(results) {
            tile.push(state.eval(result)?);
        }
        Ok(())
    })?;
    Ok(tiles)
}

/// The elements along `axis` of a tile of the first extents that are a multiple of the second's apart, combined in order: floats in f64, rounded
/// once.
pub(super) fn reduce(
    state: &State,
    op: ReduceOp,
    dtype: DType,
    value: &[Scalar],
    (shape, to): (&[u32], &[u32]),
    axis: usize,
) -> Result<Vec<Scalar>> {
    let wide = if dtype.is_float() { DType::F64 } else { dtype };
    let identity = state.eval(&op.identity(dtype))?;
    let (extent, left, inner) = (shape[axis] as usize, to[axis] as usize, count(&shape[axis + 1..]));
    let combined = |result: usize| {
        let lines = left * inner;
        let first = result / lines * extent * inner + result % lines;
        let along = (0..extent / left).map(|i| value[first + i * lines]);
        let total = along.into_iter().try_fold(identity, |total, x| state.binary(op.binary(), wide, total, x))?;
        Ok(total.cast(dtype))
    };
    (0..count(to)).map(combined).collect()
}

/// The elements of a tile of extents `shape` with axis `perm[i]` as axis `i`.
pub(super) fn transpose(value: &[Scalar], shape: &[u32], perm: &[usize]) -> Result<Vec<Scalar>> {
    let steps = strides(shape);
    let (shape, steps): (Vec<u32>, Vec<usize>) = perm.iter().map(|&axis| (shape[axis], steps[axis])).unzip();
    let mut elements = Vec::with_capacity(value.len());
    each(&shape, &mut |at| {
        elements.push(value[position(at, &steps)]);
        Ok(())
    })?;
    Ok(elements)
}

/// `acc[m, n] + a[m, k] * b[k, n]`, of operands rounded to TF32 where that is said. Of floats the products are exact (but those of f64) and
/// summed in f64 in the order of `k`, then `acc` is added and the sum rounded once to its type; integers are exact and wrap.
pub(super) fn dot(
    acc: &mut [Scalar],
    dtype: DType,
    [a, b]: [&[Scalar]; 2],
    [m, n, k]: [usize; 3],
    tf32: Option<Round>,
) {
    if dtype.is_float() {
        let operand = |x: f64| tf32.map_or(x, |round| TF32.decode(TF32.encode(x, round, false)));
        let floats = |x: &[Scalar]| x.iter().map(|x| operand(x.as_f64())).collect::<Vec<f64>>();
        let (a, b) = (floats(a), floats(b));
        let mut sums = vec![0.0; n];
        for i in 0..m {
            sums.fill(0.0);
            for p in 0..k {
                let x = a[i * k + p];
                sums.iter_mut().zip(&b[p * n..][..n]).for_each(|(sum, y)| *sum += x * y);
            }
            for (acc, sum) in acc[i * n..][..n].iter_mut().zip(&sums) {
                *acc = Scalar::Float(acc.as_f64() + sum).cast(dtype);
            }
        }
    } else {
        for (at, acc) in acc.iter_mut().enumerate() {
            let (i, j) = (at / n, at % n);
            let products = (0..k).map(|p| a[i * k + p].as_i128().wrapping_mul(b[p * n + j].as_i128()));
            *acc = Scalar::Int(products.fold(acc.as_i128(), i128::wrapping_add)).cast(dtype);
        }
    }
}
