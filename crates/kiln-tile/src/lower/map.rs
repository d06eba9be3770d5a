//! Elementwise work.

use super::access::{see_through, substituted};
use super::nest::{Digit, Nest};
use super::{Lower, Prepared};
use crate::dtype::{DType, Type};
use crate::error::Result;
use crate::expr::{BinaryOp, Expr, ExprKind, Var};
use crate::ir::{Scalar as Named, ValueId};
use crate::pass::facts::{Range, VarFacts};
use crate::program::Buffer;
use crate::threads::{self as t, Binary, Function, Scalar, Stmt, Ty};
use std::collections::HashMap;

/// Elements that are rounded to 16 bits before the next ones are computed.
const ROUNDED: u32 = 8;

/// A load in a body, and under which condition it is made.
struct Guarded {
    buffer: Buffer,
    index: Vec<Expr>,
    cond: Expr,
}

impl Lower<'_> {
    /// Tiles of the operands' elements at the same coordinates.
    pub(super) fn map(
        &mut self,
        results: &[ValueId],
        axes: &[Var],
        args: &[(Var, ValueId)],
        body: &[Named],
        values: &[Expr],
    ) -> Result<()> {
        let Some(&first) = results.first() else { return Ok(()) };
        let layout = self.layout(first)?;
        for &result in results {
            if self.layout(result)? != layout {
                return Err(self.internal("the results of a map have several layouts"));
            }
        }
        let operands = args.iter().map(|(_, value)| self.layout(*value)).collect::<Result<Vec<_>>>()?;
        let digits = self.digits(layout, &operands)?;
        for (var, _) in args {
            let (lo, hi) = var.ty.int_range().unwrap_or((0, 0));
            self.facts.set(var, VarFacts { range: Range::new(lo, hi), multiple: 1, lane_step: None });
        }
        let pairs: Vec<Option<Expr>> = values.iter().map(|value| self.rounds(value)).collect();
        let nest = self.widest(layout, &digits, args.len(), |lower, nest| {
            let (body, values) = at_coordinates(axes, &nest.at, body, values);
            Ok(lower.worth(nest, &body, &values))
        })?;
        let nest = match &nest.lane {
            None if pairs.iter().any(Option::is_some) => self.nest(layout, &digits, args.len(), pair_lanes(&digits))?,
            _ => nest,
        };
        let (body, values) = at_coordinates(axes, &nest.at, body, values);
        let mut inner = nest.counters();
        inner.extend(args.iter().map(|(var, _)| var.id));
        let (body, values) = self.limits(&inner, body, values)?;
        let body = self.hoist(body, &mut inner)?;
        let vectors = self.prepare(&nest, &inner, &body, &values)?;
        let arrays = results.iter().map(|id| self.array(*id)).collect::<Result<Vec<_>>>()?;
        let operands = args.iter().map(|(_, value)| self.array(*value)).collect::<Result<Vec<_>>>()?;
        self.in_loops(&nest.loops, &mut |lower| {
            vectors.iter().try_for_each(|vector| lower.load_vector(vector, nest.width()))?;
            let rounded = lower.rounded(&nest, &pairs)?;
            lower.in_lanes(&nest, &mut |lower| {
                for (((var, _), array), register) in args.iter().zip(&operands).zip(&nest.others) {
                    let register = lower.expr(register)?;
                    lower.vars.insert(var.id, array.at(register));
                }
                lower.scalars(&body, nest.width())?;
                lower.results(&nest, &values, &arrays, &rounded)
            })?;
            lower.round(&nest, &values, &arrays, &rounded)
        })?;
        self.prepared.clear();
        Ok(())
    }

    /// A body and its results with the comparisons of coordinates by [`Lower::compared`], where they guard no loads.
    fn limits(&mut self, inner: &[u32], body: Vec<Named>, values: Vec<Expr>) -> Result<(Vec<Named>, Vec<Expr>)> {
        if !guarded_loads(&body, &values).is_empty() {
            return Ok((body, values));
        }
        let mut bound = HashMap::new();
        let mut out = vec![];
        for scalar in body {
            let Named::Bind { var, value } = scalar else {
                out.push(scalar);
                continue;
            };
            let known = see_through(&value, &bound);
            out.push(Named::Bind { var: var.clone(), value: self.compared(&value, &bound, inner)? });
            bound.insert(var.id, known);
        }
        let values = values.iter().map(|value| self.compared(value, &bound, inner)).collect::<Result<_>>()?;
        Ok((out, values))
    }

    /// Writes the values of one element.
    fn results(&mut self, nest: &Nest, values: &[Expr], arrays: &[t::Var], rounded: &[Option<t::Var>]) -> Result<()> {
        let register = self.expr(&nest.register)?;
        let lane = match &nest.lane {
            Some((lane, _)) => self.expr(&Expr::var(lane))?,
            None => t::Expr::int(0),
        };
        let mut assigned = vec![];
        for ((value, array), rounded) in values.iter().zip(arrays).zip(rounded) {
            let (place, value) = match (rounded, value.kind()) {
                (Some(wide), ExprKind::Cast(value)) => (wide.place(lane.clone()), value),
                _ => (array.place(register.clone()), value),
            };
            let mut value = self.expr(value)?;
            if values.len() > 1 {
                // A result may have the registers of an operand that another one reads.
                let named = self.var(array.name(), Ty::Scalar(value.scalar()));
                self.push(Stmt::constant(&named, value));
                value = t::Expr::from(&named);
            }
            assigned.push(Stmt::Assign(place, value));
        }
        assigned.into_iter().for_each(|stmt| self.push(stmt));
        Ok(())
    }

    // ---- rounding in pairs ------------------------------------------------------------------------------------------

    /// The f32 that a result rounds to 16 bits, where an instruction rounds two of them.
    fn rounds(&self, value: &Expr) -> Option<Expr> {
        let ExprKind::Cast(wide) = value.kind() else { return None };
        let small = value.ty() == DType::F16 || value.ty() == DType::BF16;
        (small && wide.ty() == DType::F32 && self.arch.has_bf16()).then(|| wide.clone())
    }

    /// Declares what holds the lanes of results that are rounded in pairs.
    fn rounded(&mut self, nest: &Nest, pairs: &[Option<Expr>]) -> Result<Vec<Option<t::Var>>> {
        let width = nest.width();
        let declare = |pair: &Option<Expr>| {
            pair.as_ref().filter(|_| width.is_multiple_of(2)).map(|_| {
                let wide = self.var("wide", Ty::Array(Scalar::F32, width));
                self.push(Stmt::declare(&wide));
                wide
            })
        };
        Ok(pairs.iter().map(declare).collect())
    }

    /// Rounds them.
    fn round(&mut self, nest: &Nest, values: &[Expr], arrays: &[t::Var], rounded: &[Option<t::Var>]) -> Result<()> {
        let Some((lane, width)) = nest.lane.clone() else { return Ok(()) };
        let pair = self.counter("pair", width / 2, false);
        let at = |which: i64| {
            let place = Expr::var(&pair) * 2 + which;
            (place.clone(), nest.register.substitute(&|var| (*var == lane).then(|| place.clone())))
        };
        let both = [at(0), at(1)];
        for ((array, wide), value) in arrays.iter().zip(rounded).zip(values) {
            let Some(wide) = wide else { continue };
            let to = match value.ty() {
                Type::Element(dtype) => Scalar::of(dtype, false),
                Type::Index => return Err(self.internal("an index that is rounded")),
            };
            self.unrolled(&pair, width / 2, |lower| {
                let mut values = vec![];
                for (place, _) in &both {
                    values.push(wide.at(lower.expr(place)?));
                }
                let pair = t::Expr::call(Function::RoundPair(to), values);
                if array.ty().element() == Scalar::U32 {
                    let word = lower.expr(&(&both[0].1 / 2))?;
                    lower.push(Stmt::Assign(array.place(word), pair));
                    return Ok(());
                }
                let rounded = lower.var("rounded", Ty::Scalar(Scalar::U32));
                lower.push(Stmt::constant(&rounded, pair));
                for (which, (_, register)) in both.iter().enumerate() {
                    let register = lower.expr(register)?;
                    let half = t::Expr::from(&rounded);
                    let half = if which == 0 { half } else { half.op(Binary::Shr, t::Expr::Int(16, Scalar::U32)) };
                    let half = t::Expr::call(Function::FromBits(to), [half.cast(Scalar::U16)]);
                    lower.push(Stmt::Assign(array.place(register), half));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    // ---- loads --------------------------------------------------------------------------------------------------------

    /// Bytes that the lanes of a nest load by wide accesses; 0 where that is not worth it.
    fn worth(&mut self, nest: &Nest, body: &[Named], values: &[Expr]) -> u64 {
        let width = nest.width();
        self.note(body, width);
        let wide: Vec<u32> = guarded_loads(body, values)
            .iter()
            .filter(|load| self.is_wide(&load.buffer, &load.index, width) && self.is_uniform(&load.cond, width))
            .map(|load| width * load.buffer.dtype.bits() / 8)
            .collect();
        match (wide.iter().min(), wide.iter().max()) {
            (Some(least), Some(most)) if *least <= 16 && *most <= 32 => {
                wide.iter().map(|bytes| u64::from(*bytes)).sum()
            }
            _ => 0,
        }
    }

    /// Gets the loads of a body ready before its loops; gives those that are made wide.
    fn prepare(
        &mut self,
        nest: &Nest,
        inner: &[u32],
        body: &[Named],
        values: &[Expr],
    ) -> Result<Vec<(Prepared, Expr, t::Var)>> {
        let width = nest.width();
        self.note(body, width);
        let mut bound = HashMap::new();
        for scalar in body {
            if let Named::Bind { var, value } = scalar {
                let value = see_through(value, &bound);
                bound.insert(var.id, value);
            }
        }
        let mut vectors = vec![];
        for load in guarded_loads(body, values) {
            let key = (load.buffer.id, load.index.clone());
            if self.prepared.contains_key(&key)
                || load.index.iter().any(|i| i.any(&mut |e| matches!(e.kind(), ExprKind::Load(..)))) && width == 1
            {
                continue;
            }
            let wide =
                width > 1 && self.is_wide(&load.buffer, &load.index, width) && self.is_uniform(&load.cond, width);
            let mut prepared = match wide {
                true => {
                    let index: Vec<Expr> = load.index.iter().map(|e| see_through(e, &bound)).collect();
                    self.address(&load.buffer, &index, inner)?
                }
                false => self.address(&load.buffer, &load.index, inner)?,
            };
            if let (true, Some((lane, _))) = (wide, &nest.lane) {
                let of = Scalar::of(load.buffer.dtype, false);
                let vector = self.var(&format!("{}_v", load.buffer.name), Ty::Vector(of, width));
                prepared.inner = nest.first_lane(&prepared.inner);
                prepared.vector = Some((vector.clone(), Expr::var(lane)));
                let cond = nest.first_lane(&see_through(&load.cond, &bound));
                vectors.push((prepared.clone(), cond, vector));
            }
            self.prepared.insert(key, prepared);
        }
        Ok(vectors)
    }

    /// Loads a vector, if it is there.
    fn load_vector(&mut self, (prepared, cond, vector): &(Prepared, Expr, t::Var), width: u32) -> Result<()> {
        let inner = self.expr(&prepared.inner)?;
        let value = t::Expr::load_lanes(prepared.pointer.clone(), inner, width);
        if cond.as_const() == Some(1) {
            self.push(Stmt::constant(vector, value));
            return Ok(());
        }
        self.push(Stmt::declare(vector));
        let counter = self.counter("v", width, false);
        self.unrolled(&counter, width, |lower| {
            let (lane, of) = (lower.expr(&Expr::var(&counter))?, vector.ty().element());
            lower.push(Stmt::Assign(vector.place(lane), t::Expr::zero(of)));
            Ok(())
        })?;
        let cond = self.expr(cond)?;
        self.when(cond, |lower| {
            lower.push(Stmt::Assign(t::Place::Var(vector.clone()), value));
            Ok(())
        })
    }
}

/// A body and its results with coordinates in place of the axes.
fn at_coordinates(axes: &[Var], at: &[Expr], body: &[Named], values: &[Expr]) -> (Vec<Named>, Vec<Expr>) {
    let named =
        |e: &Expr| e.substitute(&|var| axes.iter().position(|axis| axis == var).and_then(|axis| at.get(axis).cloned()));
    (body.iter().map(|scalar| substituted(scalar, &named)).collect(), values.iter().map(named).collect())
}

/// The lanes in which pairs are rounded: the first digit that has an even number of values.
fn pair_lanes(digits: &[Digit]) -> Option<(usize, u32)> {
    let place = digits.iter().position(|digit| digit.extent.is_multiple_of(2))?;
    let width = [ROUNDED, 4, 2].into_iter().find(|width| digits[place].extent.is_multiple_of(*width))?;
    Some((place, width))
}

/// The loads of a body, each with the condition under which it is made.
fn guarded_loads(body: &[Named], values: &[Expr]) -> Vec<Guarded> {
    let mut found = vec![];
    let always = Expr::bool(true);
    for scalar in body {
        match scalar {
            Named::Bind { value, .. } => collect(value, &always, &mut found),
            Named::Check { violated, code, .. } => {
                collect(violated, &always, &mut found);
                collect(code, violated, &mut found);
            }
        }
    }
    values.iter().for_each(|value| collect(value, &always, &mut found));
    found
}

fn collect(e: &Expr, cond: &Expr, found: &mut Vec<Guarded>) {
    let bool = e.ty() == Type::Element(DType::Bool);
    match e.kind() {
        ExprKind::Select(c, a, b) => {
            collect(c, cond, found);
            collect(a, &cond.and(c), found);
            collect(b, &cond.and(!c.clone()), found);
        }
        ExprKind::Binary(op @ (BinaryOp::And | BinaryOp::Or), a, b) if bool => {
            collect(a, cond, found);
            let goes_on = if *op == BinaryOp::And { a.clone() } else { !a.clone() };
            collect(b, &cond.and(goes_on), found);
        }
        kind => {
            if let ExprKind::Load(buffer, index) = kind {
                found.push(Guarded { buffer: buffer.clone(), index: index.clone(), cond: cond.clone() });
            }
            e.operands().into_iter().for_each(|operand| collect(operand, cond, found));
        }
    }
}
