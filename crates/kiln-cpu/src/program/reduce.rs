//! Reductions over registers.

use super::convert::narrow;
use super::{Class, Id, Kind, Machine, Tile};
use crate::simd::fold;
use kiln_graph::{ArgOp, DType, ReduceOp};
use kiln_num::wrap_i64;
use std::cell::RefCell;

/// Accumulators of a reduction that takes several tiles: one element a row of the tile. Wider than the values, so that long sums stay
/// accurate.
#[derive(Clone, Debug, Default)]
pub(super) struct Partial {
    f: Vec<f64>,
    i: Vec<i64>,
    at: Vec<i64>,
}

thread_local! {
    /// Accumulators that no machine of this thread uses, with their memory.
    static SPARE: RefCell<Vec<Vec<Partial>>> = const { RefCell::new(Vec::new()) };
}

impl Partial {
    /// One accumulator an instruction, whose contents are of no use until a reduction begins.
    pub(super) fn take(instrs: usize) -> Vec<Partial> {
        let mut partials = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        partials.resize(instrs.max(partials.len()), Partial::default());
        partials
    }

    /// Gives accumulators back for the next machine.
    pub(super) fn give_back(partials: Vec<Partial>) {
        if !partials.is_empty() {
            SPARE.with_borrow_mut(|spare| spare.push(partials));
        }
    }
}

fn float_identity(op: ReduceOp) -> f64 {
    match op {
        ReduceOp::Prod => 1.0,
        ReduceOp::Max => f64::NEG_INFINITY,
        ReduceOp::Min => f64::INFINITY,
        _ => 0.0,
    }
}

fn int_identity(op: ReduceOp, dtype: DType) -> i64 {
    let (low, high) = dtype.int_range().unwrap_or((0, 1));
    match op {
        ReduceOp::Sum | ReduceOp::Any => 0,
        ReduceOp::Prod | ReduceOp::All => 1,
        ReduceOp::Max => low as i64,
        ReduceOp::Min => high as i64,
    }
}

#[inline(always)]
fn combine_f64(op: ReduceOp, x: f64, y: f64) -> f64 {
    match op {
        ReduceOp::Sum => x + y,
        ReduceOp::Prod => x * y,
        ReduceOp::Max => {
            if x > y || x.is_nan() {
                x
            } else {
                y
            }
        }
        _ => {
            if x < y || x.is_nan() {
                x
            } else {
                y
            }
        }
    }
}

#[inline(always)]
fn combine_i64(op: ReduceOp, unsigned: bool, x: i64, y: i64) -> i64 {
    match op {
        ReduceOp::Sum => x.wrapping_add(y),
        ReduceOp::Prod => x.wrapping_mul(y),
        ReduceOp::Max if unsigned => (x as u64).max(y as u64) as i64,
        ReduceOp::Min if unsigned => (x as u64).min(y as u64) as i64,
        ReduceOp::Max | ReduceOp::Any => x.max(y),
        ReduceOp::Min | ReduceOp::All => x.min(y),
    }
}

macro_rules! fold_float {
    ($op:expr, $xs:expr, $t:ident) => {{
        match $op {
            ReduceOp::Sum => fold($xs, 0.0, |x, y| x + y),
            ReduceOp::Prod => fold($xs, 1.0, |x, y| x * y),
            // A lane that met NaN keeps it: NaN is unequal to itself, and comparisons with it are false.
            ReduceOp::Max => fold($xs, $t::NEG_INFINITY, |x, y| if x > y || x.is_nan() { x } else { y }),
            _ => fold($xs, $t::INFINITY, |x, y| if x < y || x.is_nan() { x } else { y }),
        }
    }};
}

fn fold_f32(op: ReduceOp, xs: &[f32]) -> f32 {
    fold_float!(op, xs, f32)
}

fn fold_f64(op: ReduceOp, xs: &[f64]) -> f64 {
    fold_float!(op, xs, f64)
}

fn fold_i32(op: ReduceOp, dtype: DType, xs: &[i32]) -> i64 {
    // Narrow results wrap, so i32 lanes keep all the bits that matter.
    i64::from(match op {
        ReduceOp::Sum => fold(xs, 0, i32::wrapping_add),
        ReduceOp::Prod => fold(xs, 1, i32::wrapping_mul),
        ReduceOp::Max | ReduceOp::Any => fold(xs, int_identity(op, dtype) as i32, |x, y| x.max(y)),
        ReduceOp::Min | ReduceOp::All => fold(xs, int_identity(op, dtype) as i32, |x, y| x.min(y)),
    })
}

fn fold_i64(op: ReduceOp, dtype: DType, xs: &[i64]) -> i64 {
    let unsigned = dtype == DType::U64;
    xs.iter().fold(int_identity(op, dtype), |x, &y| combine_i64(op, unsigned, x, y))
}

/// Whether `x` at a later position replaces the best so far. NaN is the extreme.
#[inline(always)]
fn better_f64(op: ArgOp, last: bool, x: f64, best: f64) -> bool {
    if x.is_nan() || best.is_nan() {
        return x.is_nan() && (last || !best.is_nan());
    }
    match op {
        ArgOp::Max => x > best || last && x == best,
        ArgOp::Min => x < best || last && x == best,
    }
}

#[inline(always)]
fn better_i64(op: ArgOp, last: bool, unsigned: bool, x: i64, best: i64) -> bool {
    let flip = if unsigned { i64::MIN } else { 0 };
    let (x, best) = (x ^ flip, best ^ flip);
    match op {
        ArgOp::Max => x > best || last && x == best,
        ArgOp::Min => x < best || last && x == best,
    }
}

impl Machine<'_> {
    /// Reduces whole rows that lie in one tile.
    pub(super) fn reduce_rows(&mut self, id: Id, tile: &Tile) {
        let rows = tile.row.len();
        if matches!(self.instr(id).kind, Kind::ArgReduce { .. }) || rows == 0 {
            self.reduce_begin(id, rows);
            self.reduce_tile(id, tile, 0);
            self.reduce_end(id, rows);
            return;
        }
        let Kind::Reduce(op, of) = self.instr(id).kind else { return };
        let dtype = self.instr(id).dtype;
        let n = tile.full.len();
        let width = n / rows;
        let span = |r: usize| r * width..(r + 1) * width;
        self.write(id, |m, buffer| match m.class(of) {
            Class::F32 => {
                let dst: &mut [f32] = &mut bytemuck::cast_slice_mut(buffer)[..rows];
                let src = m.f32(of, n);
                for (r, d) in dst.iter_mut().enumerate() {
                    *d = narrow(f64::from(fold_f32(op, &src[span(r)])), dtype, false);
                }
            }
            Class::F64 => {
                let dst: &mut [f64] = &mut bytemuck::cast_slice_mut(buffer)[..rows];
                let src = m.f64(of, n);
                for (r, d) in dst.iter_mut().enumerate() {
                    *d = fold_f64(op, &src[span(r)]);
                }
            }
            Class::I32 => {
                let dst: &mut [i32] = &mut bytemuck::cast_slice_mut(buffer)[..rows];
                let src = m.i32(of, n);
                for (r, d) in dst.iter_mut().enumerate() {
                    *d = wrap_i64(dtype, fold_i32(op, dtype, &src[span(r)])) as i32;
                }
            }
            Class::I64 => {
                let dst: &mut [i64] = &mut bytemuck::cast_slice_mut(buffer)[..rows];
                let src = m.i64(of, n);
                for (r, d) in dst.iter_mut().enumerate() {
                    *d = wrap_i64(dtype, fold_i64(op, dtype, &src[span(r)]));
                }
            }
        });
    }

    /// Starts a reduction over several tiles.
    pub(crate) fn reduce_begin(&mut self, id: Id, rows: usize) {
        let (identity_f, identity_i) = match self.instr(id).kind {
            Kind::Reduce(op, _) => (float_identity(op), int_identity(op, self.instr(id).dtype)),
            _ => (0.0, 0),
        };
        let p = &mut self.partials[id];
        p.f.clear();
        p.f.resize(rows, identity_f);
        p.i.clear();
        p.i.resize(rows, identity_i);
        p.at.clear();
        p.at.resize(rows, -1);
    }

    /// Adds a tile whose first element is at `position` along the reduced dims. A row of the tile's row level takes
    /// `full.len() / row.len()` consecutive elements.
    pub(crate) fn reduce_tile(&mut self, id: Id, tile: &Tile, position: usize) {
        let (rows, n) = (tile.row.len(), tile.full.len());
        if rows == 0 || n == 0 {
            return;
        }
        let width = n / rows;
        let mut p = std::mem::take(&mut self.partials[id]);
        match self.instr(id).kind {
            Kind::Reduce(op, of) => {
                let dtype = self.instr(id).dtype;
                let unsigned = dtype == DType::U64;
                let span = |r: usize| r * width..(r + 1) * width;
                match self.class(of) {
                    Class::F32 if width == 1 => {
                        crate::simd::update(&mut p.f, self.f32(of, n), |x, y| combine_f64(op, x, f64::from(y)));
                    }
                    Class::F32 => {
                        for (r, acc) in p.f.iter_mut().enumerate() {
                            *acc = combine_f64(op, *acc, f64::from(fold_f32(op, &self.f32(of, n)[span(r)])));
                        }
                    }
                    Class::F64 => {
                        for (r, acc) in p.f.iter_mut().enumerate() {
                            *acc = combine_f64(op, *acc, fold_f64(op, &self.f64(of, n)[span(r)]));
                        }
                    }
                    Class::I32 => {
                        for (r, acc) in p.i.iter_mut().enumerate() {
                            *acc = combine_i64(op, false, *acc, fold_i32(op, dtype, &self.i32(of, n)[span(r)]));
                        }
                    }
                    Class::I64 => {
                        for (r, acc) in p.i.iter_mut().enumerate() {
                            *acc = combine_i64(op, unsigned, *acc, fold_i64(op, dtype, &self.i64(of, n)[span(r)]));
                        }
                    }
                }
            }
            Kind::ArgReduce { op, last, of } => {
                let unsigned = self.instr(of).dtype == DType::U64;
                for r in 0..rows {
                    for c in 0..width {
                        let (e, at) = (r * width + c, (position + c) as i64);
                        let first = p.at[r] < 0;
                        match self.class(of) {
                            Class::F32 | Class::F64 => {
                                let x = if self.class(of) == Class::F32 {
                                    f64::from(self.f32(of, n)[e])
                                } else {
                                    self.f64(of, n)[e]
                                };
                                if first || better_f64(op, last, x, p.f[r]) {
                                    (p.f[r], p.at[r]) = (x, at);
                                }
                            }
                            Class::I32 | Class::I64 => {
                                let x = if self.class(of) == Class::I32 {
                                    i64::from(self.i32(of, n)[e])
                                } else {
                                    self.i64(of, n)[e]
                                };
                                if first || better_i64(op, last, unsigned, x, p.i[r]) {
                                    (p.i[r], p.at[r]) = (x, at);
                                }
                            }
                        }
                    }
                }
            }
            _ => {}
        }
        self.partials[id] = p;
    }

    /// Writes the accumulated results to the value's register.
    pub(crate) fn reduce_end(&mut self, id: Id, rows: usize) {
        let p = std::mem::take(&mut self.partials[id]);
        let dtype = self.instr(id).dtype;
        let arg = matches!(self.instr(id).kind, Kind::ArgReduce { .. });
        self.write(id, |m, buffer| match m.class(id) {
            Class::F32 => {
                for (d, &x) in bytemuck::cast_slice_mut::<u64, f32>(buffer)[..rows].iter_mut().zip(&p.f) {
                    *d = narrow(x, dtype, false);
                }
            }
            Class::F64 => bytemuck::cast_slice_mut::<u64, f64>(buffer)[..rows].copy_from_slice(&p.f),
            Class::I32 => {
                for (d, &x) in bytemuck::cast_slice_mut::<u64, i32>(buffer)[..rows].iter_mut().zip(&p.i) {
                    *d = wrap_i64(dtype, x) as i32;
                }
            }
            Class::I64 => {
                for (r, d) in bytemuck::cast_slice_mut::<u64, i64>(buffer)[..rows].iter_mut().enumerate() {
                    *d = if arg { p.at[r].max(0) } else { wrap_i64(dtype, p.i[r]) };
                }
            }
        });
        self.partials[id] = p;
    }
}
