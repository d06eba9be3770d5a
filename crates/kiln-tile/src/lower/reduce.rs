//! Reductions along an axis: in registers, between lanes, between warps.

use super::Lower;
use super::convert;
use super::expr::binary;
use super::nest::Nest;
use crate::dtype::DType;
use crate::error::Result;
use crate::expr::Expr;
use crate::ir::ValueId;
use crate::program::ReduceOp;
use crate::threads::{self as t, Function, Scalar, Stmt};
use kiln_layout::RegisterLayout;

/// Threads of a warp.
const WARP: u32 = 32;

/// A digit of the thread index along the reduced axis.
#[derive(Clone, Copy)]
struct Across {
    weight: u32,
    extent: u32,
}

/// The digits of the thread index along `axis` of which nothing is left where so many elements are: those that shuffles reach, and the rest.
fn across(layout: &RegisterLayout, axis: usize, left: u32) -> (Vec<Across>, Vec<Across>) {
    let (mut lanes, mut warps) = (vec![], vec![]);
    let mut weight = 1;
    for mode in layout.thread_modes() {
        if mode.axis == axis && !mode.is_copies() {
            let stays = (left / mode.stride).clamp(1, mode.extent);
            let (weight, extent) = (weight * stays, mode.extent / stays);
            let inside = if weight < WARP && WARP.is_multiple_of(weight) { gcd(extent, WARP / weight) } else { 1 };
            // A digit that wraps around elsewhere than where the warp does is left to shared memory.
            let inside = if extent > inside && weight * inside < WARP { 1 } else { inside };
            if inside > 1 {
                lanes.push(Across { weight, extent: inside });
            }
            if extent > inside {
                warps.push(Across { weight: weight * inside, extent: extent / inside });
            }
        }
        weight *= mode.extent;
    }
    (lanes, warps)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Bytes of scratch that a reduction takes, its result's conversion included.
pub(super) fn scratch(from: &RegisterLayout, axis: usize, to: &RegisterLayout, dtype: DType) -> u32 {
    let left = to.shape().get(axis).copied().unwrap_or(1);
    let Ok(slice) = from.residues(axis, left) else { return 0 };
    let parts: u32 = across(from, axis, left).1.iter().map(|digit| digit.extent).product();
    let elements: u32 = slice.shape().iter().product();
    let own = if parts > 1 { parts * elements * Scalar::of(dtype, false).bytes() } else { 0 };
    own.max(convert::scratch(&slice, to, dtype))
}

impl Lower<'_> {
    /// Combines elements along an axis; all threads that hold a part of a result get it.
    pub(super) fn reduce(&mut self, result: ValueId, op: ReduceOp, value: ValueId, axis: usize) -> Result<()> {
        let (from, to) = (self.layout(value)?, self.layout(result)?);
        let (source, target) = (self.array(value)?, self.array(result)?);
        let dtype = self.program.value(value).dtype;
        let left = to.shape().get(axis).copied().unwrap_or(1);
        let slice = from.residues(axis, left).map_err(|e| self.internal(e.to_string()))?;
        let direct = &slice == to;
        let partial = if direct { target.clone() } else { self.registers(target.name(), dtype, &slice) };
        self.reduce_registers(op, dtype, axis, (from, &source), (&slice, &partial))?;
        let (lanes, warps) = across(from, axis, left);
        self.reduce_lanes(op, dtype, &lanes, &partial, slice.registers())?;
        if !warps.is_empty() {
            self.reduce_warps(op, dtype, (from, &lanes, &warps), (&slice, &partial))?;
        }
        if direct { Ok(()) } else { self.convert_registers((&slice, &partial), (to, &target), dtype) }
    }

    pub(super) fn combine(&self, op: ReduceOp, dtype: DType, x: t::Expr, y: t::Expr) -> t::Expr {
        binary(op.binary(), dtype.into(), x, y)
    }

    /// Each thread's own elements.
    fn reduce_registers(
        &mut self,
        op: ReduceOp,
        dtype: DType,
        axis: usize,
        (from, source): (&RegisterLayout, &t::Var),
        (slice, partial): (&RegisterLayout, &t::Var),
    ) -> Result<()> {
        let mut digits = self.digits(from, &[slice])?;
        let left = slice.shape().get(axis).copied().unwrap_or(1);
        let along = |digit: &super::nest::Digit| digit.axis == axis && digit.stride >= left;
        // Copies in registers count once; the reduced axis is innermost.
        digits.retain(|digit| digit.stride > 0 || digit.others.iter().any(|weight| *weight > 0));
        digits.sort_by_key(|digit| !along(digit));
        let inside = digits.iter().filter(|digit| along(digit)).count();
        let nest = self.nest(from, &digits, 1, None)?;
        let outside = nest.loops.len() - inside;
        let place = nest.others.first().cloned().ok_or_else(|| self.internal("a reduction to nothing"))?;
        if inside == 0 {
            return self.copy_nest(
                &Nest { others: vec![nest.register.clone()], register: place, ..nest },
                source,
                partial,
            );
        }
        let identity = self.expr(&op.identity(dtype))?;
        self.in_loops(&nest.loops[..outside], &mut |lower| {
            let place = lower.expr(&place)?;
            lower.push(Stmt::Assign(partial.place(place.clone()), identity.clone()));
            lower.in_loops(&nest.loops[outside..], &mut |lower| {
                let register = lower.expr(&nest.register)?;
                let value = lower.combine(op, dtype, partial.at(place.clone()), source.at(register));
                lower.push(Stmt::Assign(partial.place(place.clone()), value));
                Ok(())
            })
        })
    }

    /// What the lanes of a warp have.
    fn reduce_lanes(
        &mut self,
        op: ReduceOp,
        dtype: DType,
        lanes: &[Across],
        partial: &t::Var,
        count: u32,
    ) -> Result<()> {
        if lanes.is_empty() {
            return Ok(());
        }
        let counter = self.counter("i", count, false);
        self.unrolled(&counter, count, |lower| {
            let own = partial.at(lower.expr(&Expr::var(&counter))?);
            for digit in lanes {
                let mut distance = digit.weight * digit.extent / 2;
                while distance >= digit.weight {
                    // Named, because all lanes take part whatever a lazy operator says of their own.
                    let other = lower.var("other", t::Ty::Scalar(partial.ty().element()));
                    let moved = t::Expr::call(Function::ShuffleXor(distance), [own.clone()]);
                    lower.push(Stmt::constant(&other, moved));
                    let value = lower.combine(op, dtype, own.clone(), t::Expr::from(&other));
                    let place = partial.place(lower.expr(&Expr::var(&counter))?);
                    lower.push(Stmt::Assign(place, value));
                    distance /= 2;
                }
            }
            Ok(())
        })
    }

    /// What the warps have: each puts its part down, then all read all parts.
    fn reduce_warps(
        &mut self,
        op: ReduceOp,
        dtype: DType,
        (from, lanes, warps): (&RegisterLayout, &[Across], &[Across]),
        (slice, partial): (&RegisterLayout, &t::Var),
    ) -> Result<()> {
        let thread = self.thread()?;
        let (mut part, mut parts) = (Expr::index(0), 1);
        for digit in warps {
            part = part + self.thread_digit(&thread, i64::from(digit.weight), digit.extent)? * i64::from(parts);
            parts *= digit.extent;
        }
        // Of the lanes that have the same by now, and of copies, one puts it down.
        let mut first = self.owner(from)?.unwrap_or(Expr::bool(true));
        for digit in lanes {
            first = first.and(self.thread_digit(&thread, i64::from(digit.weight), digit.extent)?.eq(0));
        }
        let (part, first) = (self.of_thread("part", part)?, self.of_thread("first", first)?);
        let mut digits = self.digits(slice, &[])?;
        let reading = self.nest(slice, &digits, 0, None)?;
        digits.retain(|digit| digit.stride > 0);
        let writing = self.nest(slice, &digits, 0, None)?;
        let row = |at: &[Expr]| {
            slice.shape().iter().zip(at).fold(Expr::index(0), |sum, (extent, at)| sum * i64::from(*extent) + at)
        };
        let elements: u32 = slice.shape().iter().product();
        let pointer = t::Expr::SharedPointer { to: Scalar::of(dtype, false), bytes: Box::new(self.scratch()?) };
        let block = self.nested(|lower| {
            lower.in_loops(&writing.loops, &mut |lower| {
                let index = lower.expr(&(&part * i64::from(elements) + row(&writing.at)))?;
                let value = partial.at(lower.expr(&writing.register)?);
                lower.push(Stmt::Store { pointer: pointer.clone(), index, value });
                Ok(())
            })
        })?;
        let first = if first.as_const().is_some() { None } else { Some(self.expr(&first)?) };
        self.owned(first, block);
        self.sync()?;
        let which = self.counter("part", parts, false);
        self.in_loops(&reading.loops, &mut |lower| {
            let register = lower.expr(&reading.register)?;
            let index = lower.expr(&row(&reading.at))?;
            lower.push(Stmt::Assign(partial.place(register.clone()), t::Expr::load(pointer.clone(), index)));
            if parts == 1 {
                return Ok(());
            }
            let counter = lower.declare(&which);
            let body = lower.nested(|lower| {
                let index = lower.expr(&(Expr::var(&which) * i64::from(elements) + row(&reading.at)))?;
                let other = t::Expr::load(pointer.clone(), index);
                let value = lower.combine(op, dtype, partial.at(register.clone()), other);
                lower.push(Stmt::Assign(partial.place(register.clone()), value));
                Ok(())
            })?;
            let (start, end, step) = (t::Expr::int(1), t::Expr::int(parts), t::Expr::int(1));
            lower.push(Stmt::For { var: counter, start, end, step, unroll: true, body });
            Ok(())
        })?;
        self.sync()
    }
}
