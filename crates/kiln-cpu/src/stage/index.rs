//! Gathers, scatters, padding and concatenation: data that moves.

use super::parallel::{each, threads_for};
use super::{Context, Stage};
use crate::error::{Error, Result};
use crate::lower::Lowering;
use crate::lower::affine::dense_strides;
use crate::memory::Slot;
use crate::program::Class;
use bytemuck::Pod;
use kiln_graph::{DType, Dim, Node, ScatterOp, ValueId};
use kiln_num::{load_bits, store_bits, wrap_i64};

/// The element of `extent` that an index names; negative ones count from the end.
fn place(index: i64, extent: usize, axis: usize, region: &str) -> Result<usize> {
    let at = if index < 0 { index.saturating_add(extent as i64) } else { index };
    match usize::try_from(at) {
        Ok(at) if at < extent => Ok(at),
        _ => Err(Error::Index { region: region.to_owned(), index, axis, extent }),
    }
}

fn check(indices: &[i64], extent: usize, axis: usize, region: &str) -> Result<()> {
    let low = -(extent as i64);
    match indices.iter().find(|&&i| i < low || i >= extent as i64) {
        Some(&index) => Err(Error::Index { region: region.to_owned(), index, axis, extent }),
        None => Ok(()),
    }
}

fn wrapped(index: i64, extent: usize) -> usize {
    (if index < 0 { index + extent as i64 } else { index }) as usize
}

/// Copies `n` elements; those of 4-bit dtypes one at a time.
fn copy(dtype: DType, from: &Slot<'_>, at: usize, out: &Slot<'_>, to: usize, n: usize) {
    if dtype.bits() == 4 {
        let bytes = from.bytes();
        for i in 0..n {
            put_nibble(dtype, out, to + i, load_bits(dtype, bytes, at + i).unwrap_or(0));
        }
        return;
    }
    let size = dtype.bits() as usize / 8;
    out.range_mut::<u8>(to * size, n * size).copy_from_slice(&from.bytes()[at * size..(at + n) * size]);
}

fn put_nibble(dtype: DType, out: &Slot<'_>, at: usize, bits: u64) {
    store_bits(dtype, out.range_mut::<u8>(at / 2, 1), at % 2, bits);
}

/// Threads for moving `elements`: 4-bit elements share bytes, so one thread writes them.
fn movers(dtype: DType, elements: usize, threads: usize) -> usize {
    if dtype.bits() == 4 { 1 } else { threads_for(elements / 2, threads) }
}

/// Rows picked along one axis.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) x: usize,
    pub(crate) indices: usize,
    pub(crate) out: usize,
    pub(crate) dtype: DType,
    pub(crate) axis: usize,
    pub(crate) outer: usize,
    pub(crate) extent: usize,
    pub(crate) inner: usize,
    pub(crate) threads: usize,
}

impl Gather {
    pub(crate) fn run(&self, cx: Context<'_>) -> Result<()> {
        let indices: &[i64] = cx.slots[self.indices].typed();
        let (x, out) = (&cx.slots[self.x], &cx.slots[self.out]);
        let n = indices.len();
        if self.outer * self.inner > 0 {
            check(indices, self.extent, self.axis, cx.region)?;
        }
        let units = self.outer * n;
        each(cx.pool, movers(self.dtype, units * self.inner, self.threads), units, |u| {
            let row = wrapped(indices[u % n], self.extent);
            copy(self.dtype, x, (u / n * self.extent + row) * self.inner, out, u * self.inner, self.inner);
        });
        Ok(())
    }
}

/// Elements picked along one axis.
#[derive(Debug)]
pub(crate) struct GatherElements {
    pub(crate) x: usize,
    pub(crate) indices: usize,
    pub(crate) out: usize,
    pub(crate) dtype: DType,
    pub(crate) axis: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) index_shape: Vec<usize>,
    pub(crate) threads: usize,
}

/// The element of a tensor of `shape` that entry `i` of an index tensor of `index_shape` addresses along `axis`.
fn along(i: usize, index: i64, axis: usize, shape: &[usize], strides: &[isize], index_shape: &[usize]) -> usize {
    let (mut rest, mut at) = (i, 0);
    for a in (0..shape.len()).rev() {
        let c = rest % index_shape[a];
        rest /= index_shape[a];
        at += if a == axis { wrapped(index, shape[a]) } else { c } * strides[a] as usize;
    }
    at
}

impl GatherElements {
    pub(crate) fn run(&self, cx: Context<'_>) -> Result<()> {
        let indices: &[i64] = cx.slots[self.indices].typed();
        let (x, out) = (&cx.slots[self.x], &cx.slots[self.out]);
        check(indices, self.shape[self.axis], self.axis, cx.region)?;
        let strides = dense_strides(&self.shape);
        let block = 256;
        each(cx.pool, movers(self.dtype, indices.len() * 8, self.threads), indices.len().div_ceil(block), |u| {
            let first = u * block;
            for (i, &index) in indices.iter().enumerate().skip(first).take(block) {
                let at = along(i, index, self.axis, &self.shape, &strides, &self.index_shape);
                copy(self.dtype, x, at, out, i, 1);
            }
        });
        Ok(())
    }
}

/// Slices picked by coordinates.
#[derive(Debug)]
pub(crate) struct GatherNd {
    pub(crate) x: usize,
    pub(crate) indices: usize,
    pub(crate) out: usize,
    pub(crate) dtype: DType,
    pub(crate) batch_dims: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) index_shape: Vec<usize>,
    pub(crate) threads: usize,
}

/// Offsets of the slices that rows of coordinates address, and the length of a slice.
fn coordinates(
    indices: &[i64],
    shape: &[usize],
    index_shape: &[usize],
    batch_dims: usize,
    region: &str,
) -> Result<(Vec<usize>, usize)> {
    let strides = dense_strides(shape);
    let k = index_shape.last().copied().unwrap_or(0);
    let rows: usize = index_shape[..index_shape.len().saturating_sub(1)].iter().product();
    let batches: usize = shape[..batch_dims].iter().product();
    let volume: usize = shape[batch_dims..].iter().product();
    let slice = shape[batch_dims + k..].iter().product();
    let each = rows.checked_div(batches).unwrap_or(0).max(1);
    let mut offsets = Vec::with_capacity(rows);
    for row in 0..rows {
        let mut at = row / each * volume;
        for (a, &i) in indices[row * k..(row + 1) * k].iter().enumerate() {
            let axis = batch_dims + a;
            at += strides[axis] as usize * place(i, shape[axis], axis, region)?;
        }
        offsets.push(at);
    }
    Ok((offsets, slice))
}

impl GatherNd {
    pub(crate) fn run(&self, cx: Context<'_>) -> Result<()> {
        let indices: &[i64] = cx.slots[self.indices].typed();
        let (x, out) = (&cx.slots[self.x], &cx.slots[self.out]);
        let (offsets, slice) = coordinates(indices, &self.shape, &self.index_shape, self.batch_dims, cx.region)?;
        each(cx.pool, movers(self.dtype, offsets.len() * slice, self.threads), offsets.len(), |u| {
            copy(self.dtype, x, offsets[u], out, u * slice, slice);
        });
        Ok(())
    }
}

/// How a scatter addresses its target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ScatterKind {
    Elements { axis: usize },
    Nd,
}

/// `x` with updates, applied in order by one thread; a copy of it unless the result lies in its place.
#[derive(Debug)]
pub(crate) struct Scatter {
    pub(crate) kind: ScatterKind,
    pub(crate) op: ScatterOp,
    /// What slots hold, where updates are combined; none where they are set as they are.
    pub(crate) class: Option<Class>,
    pub(crate) dtype: DType,
    pub(crate) x: usize,
    pub(crate) indices: usize,
    pub(crate) updates: usize,
    pub(crate) out: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) index_shape: Vec<usize>,
}

impl Scatter {
    pub(crate) fn run(&self, cx: Context<'_>) -> Result<()> {
        macro_rules! float {
            ($t:ident) => {
                self.apply::<$t>(&cx, |old, new| match self.op {
                    ScatterOp::Set => new,
                    ScatterOp::Add => old + new,
                    ScatterOp::Mul => old * new,
                    ScatterOp::Max => {
                        if old > new || old.is_nan() {
                            old
                        } else {
                            new
                        }
                    }
                    ScatterOp::Min => {
                        if old < new || old.is_nan() {
                            old
                        } else {
                            new
                        }
                    }
                })
            };
        }
        let dtype = self.dtype;
        let unsigned = dtype == DType::U64;
        let int = move |op: ScatterOp, old: i64, new: i64| {
            wrap_i64(
                dtype,
                match op {
                    ScatterOp::Set => new,
                    ScatterOp::Add => old.wrapping_add(new),
                    ScatterOp::Mul => old.wrapping_mul(new),
                    ScatterOp::Max if unsigned => (old as u64).max(new as u64) as i64,
                    ScatterOp::Min if unsigned => (old as u64).min(new as u64) as i64,
                    ScatterOp::Max => old.max(new),
                    ScatterOp::Min => old.min(new),
                },
            )
        };
        self.begin(&cx);
        match self.class {
            None => {
                let (updates, out) = (&cx.slots[self.updates], &cx.slots[self.out]);
                self.each(&cx, |at, from, n| copy(self.dtype, updates, from, out, at, n))
            }
            Some(Class::F32) => float!(f32),
            Some(Class::F64) => float!(f64),
            Some(Class::I32) => self.apply::<i32>(&cx, |old, new| int(self.op, old.into(), new.into()) as i32),
            Some(Class::I64) => self.apply::<i64>(&cx, |old, new| int(self.op, old, new)),
        }
    }

    /// Has `x` where the result is to be.
    fn begin(&self, cx: &Context<'_>) {
        let (x, out) = (&cx.slots[self.x], &cx.slots[self.out]);
        if !x.is(out) {
            out.range_mut::<u8>(0, x.len()).copy_from_slice(x.bytes());
        }
    }

    fn apply<T: Pod>(&self, cx: &Context<'_>, f: impl Fn(T, T) -> T) -> Result<()> {
        let updates: &[T] = cx.slots[self.updates].typed();
        let out = &cx.slots[self.out];
        let out = out.range_mut::<T>(0, out.len() / size_of::<T>());
        self.each(cx, |at, from, n| {
            for (o, &u) in out[at..at + n].iter_mut().zip(&updates[from..from + n]) {
                *o = f(*o, u);
            }
        })
    }

    /// Hands on where each update goes, where it comes from, and how many elements it has.
    fn each(&self, cx: &Context<'_>, mut to: impl FnMut(usize, usize, usize)) -> Result<()> {
        let indices: &[i64] = cx.slots[self.indices].typed();
        match self.kind {
            ScatterKind::Elements { axis } => {
                check(indices, self.shape[axis], axis, cx.region)?;
                let strides = dense_strides(&self.shape);
                for (i, &index) in indices.iter().enumerate() {
                    to(along(i, index, axis, &self.shape, &strides, &self.index_shape), i, 1);
                }
            }
            ScatterKind::Nd => {
                let (offsets, slice) = coordinates(indices, &self.shape, &self.index_shape, 0, cx.region)?;
                offsets.iter().enumerate().for_each(|(row, &at)| to(at, row * slice, slice));
            }
        }
        Ok(())
    }
}

/// A copy into a larger tensor filled with one value.
#[derive(Debug)]
pub(crate) struct Pad {
    pub(crate) x: usize,
    pub(crate) value: usize,
    pub(crate) out: usize,
    pub(crate) dtype: DType,
    /// Extents of `x`.
    pub(crate) shape: Vec<usize>,
    /// Distance in the result of neighbours in `x`, an axis each.
    pub(crate) strides: Vec<isize>,
    pub(crate) offset: isize,
    pub(crate) threads: usize,
}

impl Pad {
    pub(crate) fn run(&self, cx: Context<'_>) {
        let (x, out) = (&cx.slots[self.x], &cx.slots[self.out]);
        self.fill(&cx.slots[self.value], out);
        let (row, lead) = match self.shape.split_last() {
            Some((&row, lead)) => (row, lead),
            None => (1, &[][..]),
        };
        if row == 0 {
            return;
        }
        let step = self.strides.last().copied().unwrap_or(1) as usize;
        let rows: usize = lead.iter().product();
        each(cx.pool, movers(self.dtype, rows * row, self.threads), rows, |r| {
            let (mut rest, mut to) = (r, self.offset);
            for (a, &extent) in lead.iter().enumerate().rev() {
                to += (rest % extent) as isize * self.strides[a];
                rest /= extent;
            }
            let to = to as usize;
            if step == 1 {
                copy(self.dtype, x, r * row, out, to, row);
            } else {
                for i in 0..row {
                    copy(self.dtype, x, r * row + i, out, to + i * step, 1);
                }
            }
        });
    }

    fn fill(&self, value: &Slot<'_>, out: &Slot<'_>) {
        let bytes = out.range_mut::<u8>(0, out.len());
        let v = value.bytes();
        match v {
            [b] if self.dtype.bits() == 4 => bytes.fill((b & 15) | (b << 4)),
            v if v.iter().all(|b| *b == v[0]) && !v.is_empty() => bytes.fill(v[0]),
            v if !v.is_empty() => bytes.chunks_exact_mut(v.len()).for_each(|c| c.copy_from_slice(v)),
            _ => {}
        }
    }
}

/// Runs of several operands side by side: concatenation.
#[derive(Debug)]
pub(crate) struct Place {
    /// Slots, each with the elements that it adds to one outer index.
    pub(crate) parts: Vec<(usize, usize)>,
    pub(crate) out: usize,
    pub(crate) dtype: DType,
    pub(crate) outer: usize,
    pub(crate) threads: usize,
}

impl Place {
    pub(crate) fn run(&self, cx: Context<'_>) {
        let out = &cx.slots[self.out];
        let run: usize = self.parts.iter().map(|p| p.1).sum();
        each(cx.pool, movers(self.dtype, run * self.outer, self.threads), self.outer, |o| {
            let mut to = o * run;
            for &(slot, n) in &self.parts {
                copy(self.dtype, &cx.slots[slot], o * n, out, to, n);
                to += n;
            }
        });
    }
}

/// The stage of a padding.
pub(super) fn pad(low: &mut Lowering, v: ValueId, before: &[Dim], interior: &[i64]) -> Result<()> {
    let node = low.graph.producer(v);
    let before = low.extents(before)?;
    let (x, value) = (low.operand(v, 0)?, low.operand(v, 1)?);
    let shape = low.shape(node.inputs[0]).to_vec();
    let own = dense_strides(low.shape(v));
    let offset = own.iter().zip(&before).map(|(s, &l)| s * l as isize).sum();
    let strides = own.iter().zip(interior).map(|(s, &i)| s * (i as isize + 1)).collect();
    let (dtype, out) = (low.dtype(v), low.assign(v));
    let threads = low.threads;
    low.stages.push(Stage::Pad(Pad { x, value, out, dtype, shape, strides, offset, threads }));
    Ok(())
}

/// The stage of a concatenation.
pub(super) fn concat(low: &mut Lowering, v: ValueId, axis: usize) -> Result<()> {
    let node = low.graph.producer(v);
    let outer: usize = low.shape(v)[..axis].iter().product();
    let mut parts = Vec::with_capacity(node.inputs.len());
    for i in 0..node.inputs.len() {
        let run: usize = low.shape(node.inputs[i])[axis..].iter().product();
        parts.push((low.operand(v, i)?, run));
    }
    let (dtype, out) = (low.dtype(v), low.assign(v));
    let threads = low.threads;
    low.stages.push(Stage::Place(Place { parts, out, dtype, outer, threads }));
    Ok(())
}

/// The stage of a gather along an axis.
pub(super) fn gather(low: &mut Lowering, v: ValueId, axis: usize) -> Result<()> {
    let node = low.graph.producer(v);
    let shape = low.shape(node.inputs[0]).to_vec();
    let x = low.operand(v, 0)?;
    let indices = low.dense_as(node.inputs[1], DType::I64)?;
    let (dtype, out) = (low.dtype(v), low.assign(v));
    low.stages.push(Stage::Gather(Gather {
        x,
        indices,
        out,
        dtype,
        axis,
        outer: shape[..axis].iter().product(),
        extent: shape[axis],
        inner: shape[axis + 1..].iter().product(),
        threads: low.threads,
    }));
    Ok(())
}

/// The stage of a gather of elements.
pub(super) fn gather_elements(low: &mut Lowering, v: ValueId, axis: usize) -> Result<()> {
    let node = low.graph.producer(v);
    let (shape, index_shape) = (low.shape(node.inputs[0]).to_vec(), low.shape(v).to_vec());
    check_along(low, node, &shape, &index_shape, axis)?;
    let x = low.operand(v, 0)?;
    let indices = low.dense_as(node.inputs[1], DType::I64)?;
    let (dtype, out) = (low.dtype(v), low.assign(v));
    let threads = low.threads;
    low.stages.push(Stage::GatherElements(GatherElements {
        x,
        indices,
        out,
        dtype,
        axis,
        shape,
        index_shape,
        threads,
    }));
    Ok(())
}

/// The stage of a gather by coordinates.
pub(super) fn gather_nd(low: &mut Lowering, v: ValueId, batch_dims: usize) -> Result<()> {
    let node = low.graph.producer(v);
    let (shape, index_shape) = (low.shape(node.inputs[0]).to_vec(), low.shape(node.inputs[1]).to_vec());
    let x = low.operand(v, 0)?;
    let indices = low.dense_as(node.inputs[1], DType::I64)?;
    let (dtype, out) = (low.dtype(v), low.assign(v));
    let threads = low.threads;
    low.stages.push(Stage::GatherNd(GatherNd { x, indices, out, dtype, batch_dims, shape, index_shape, threads }));
    Ok(())
}

/// The stage of a scatter of elements.
pub(super) fn scatter_elements(low: &mut Lowering, v: ValueId, axis: usize, op: ScatterOp) -> Result<()> {
    let node = low.graph.producer(v);
    let (shape, index_shape) = (low.shape(node.inputs[0]).to_vec(), low.shape(node.inputs[1]).to_vec());
    check_along(low, node, &shape, &index_shape, axis)?;
    scatter(low, v, ScatterKind::Elements { axis }, op, shape, index_shape)
}

/// The stage of a scatter by coordinates.
pub(super) fn scatter_nd(low: &mut Lowering, v: ValueId, op: ScatterOp) -> Result<()> {
    let node = low.graph.producer(v);
    let (shape, index_shape) = (low.shape(node.inputs[0]).to_vec(), low.shape(node.inputs[1]).to_vec());
    scatter(low, v, ScatterKind::Nd, op, shape, index_shape)
}

fn check_along(low: &Lowering, node: &Node, shape: &[usize], index: &[usize], axis: usize) -> Result<()> {
    for (a, (&i, &n)) in index.iter().zip(shape).enumerate() {
        if a != axis && i > n {
            let message = format!("indices {index:?} are longer than {shape:?} on axis {a}");
            return Err(low.unsupported(node, message));
        }
    }
    Ok(())
}

fn scatter(
    low: &mut Lowering,
    v: ValueId,
    kind: ScatterKind,
    op: ScatterOp,
    shape: Vec<usize>,
    index_shape: Vec<usize>,
) -> Result<()> {
    let node = low.graph.producer(v);
    let indices = low.dense_as(node.inputs[1], DType::I64)?;
    let dtype = low.dtype(v);
    if op == ScatterOp::Set {
        let (x, updates) = (low.operand(v, 0)?, low.operand(v, 2)?);
        let out = low.assign(v);
        let scatter = Scatter { kind, op, class: None, dtype, x, indices, updates, out, shape, index_shape };
        low.stages.push(Stage::Scatter(scatter));
        return Ok(());
    }
    // Repeated updates accumulate in the class of the dtype and are rounded once.
    let class = Class::of(dtype);
    let x = low.dense_as(node.inputs[0], class.dtype())?;
    let updates = low.dense_as(node.inputs[2], class.dtype())?;
    let (out, same) = low.result_as(v, class);
    let scatter = Scatter { kind, op, class: Some(class), dtype, x, indices, updates, out, shape, index_shape };
    low.stages.push(Stage::Scatter(scatter));
    if !same {
        low.convert(out, class.dtype(), v, dtype, dtype);
    }
    Ok(())
}
