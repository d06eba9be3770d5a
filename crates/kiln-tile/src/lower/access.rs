//! Addresses and conditions: what they owe to the thread and to loops outside is computed before the loop over registers.

use super::nest::Nest;
use super::{Lower, Prepared};
use crate::dtype::Type;
use crate::error::Result;
use crate::expr::{BinaryOp, CompareOp, Expr, ExprKind, Var};
use crate::ir::{Place, Scalar as Named};
use crate::pass::simplify::simplify_div_mod;
use crate::program::{AtomicOp, Buffer};
use crate::threads as t;
use std::collections::HashMap;

/// Where an element of a tile is in memory, in terms of the tile's coordinates.
pub(super) struct Position {
    /// Names used below.
    pub body: Vec<Named>,
    /// Index in the tensor.
    pub index: Vec<Expr>,
    /// Whether it exists.
    pub mask: Expr,
}

/// An access in a nest, got ready before it.
pub(super) struct Access {
    /// What comes before it in the loops.
    pub body: Vec<Named>,
    /// Where it starts from.
    pub pointer: t::Expr,
    /// Elements after that.
    pub inner: Expr,
    /// Whether the element exists.
    pub mask: Expr,
}

/// Whether an expression may differ between the iterations of loops that count these variables. What is loaded stays where it is: a
/// condition may guard it.
pub(super) fn depends(e: &Expr, inner: &[u32]) -> bool {
    e.any(&mut |e| match e.kind() {
        ExprKind::Var(var) => inner.contains(&var.id),
        ExprKind::Load(..) => true,
        _ => false,
    })
}

/// The conditions that a condition is made of; none that always hold.
fn conjuncts(cond: &Expr, into: &mut Vec<Expr>) {
    match cond.kind() {
        ExprKind::Binary(BinaryOp::And, a, b) => {
            conjuncts(a, into);
            conjuncts(b, into);
        }
        _ if cond.as_const() == Some(1) => {}
        _ => into.push(cond.clone()),
    }
}

/// An index as a sum: what does not depend on `inner`, and the rest.
pub(super) fn split(e: &Expr, inner: &[u32]) -> (Expr, Expr) {
    let zero = || Expr::index(0);
    if !depends(e, inner) {
        return (e.clone(), zero());
    }
    let ExprKind::Binary(op, a, b) = e.kind() else { return (zero(), e.clone()) };
    match op {
        BinaryOp::Add | BinaryOp::Sub => {
            let ((a0, a1), (b0, b1)) = (split(a, inner), split(b, inner));
            (a0.binary(*op, b0), a1.binary(*op, b1))
        }
        BinaryOp::Mul if !depends(b, inner) => {
            let (a0, a1) = split(a, inner);
            (a0 * b, a1 * b)
        }
        BinaryOp::Mul if !depends(a, inner) => {
            let (b0, b1) = split(b, inner);
            (a * b0, a * b1)
        }
        _ => (zero(), e.clone()),
    }
}

/// Beyond all coordinates in a tile.
const FAR: i128 = 1 << 30;

impl Lower<'_> {
    /// Position of an element, counted from the first of the tensor.
    fn offset(&self, buffer: &Buffer, index: &[Expr]) -> Expr {
        simplify_div_mod(&self.facts, &buffer.offset(index))
    }

    /// Gets an access ready whose index depends on loops over `inner`.
    pub(super) fn address(&mut self, buffer: &Buffer, index: &[Expr], inner: &[u32]) -> Result<Prepared> {
        let base = self.buffers.get(&buffer.id).cloned();
        let base = base.ok_or_else(|| self.internal(format!("`{}` is no parameter", buffer.name)))?;
        let offset = self.offset(buffer, index);
        let (outer, rest) = split(&offset, inner);
        let pointer = t::Expr::from(&base);
        if inner.is_empty() || outer.as_const().is_some() || buffer.dtype.bits() < 8 {
            return Ok(Prepared { pointer, inner: offset, vector: None });
        }
        let outer = self.expr(&outer)?;
        let moved = self.var(&format!("{}_at", buffer.name), base.ty());
        self.push(t::Stmt::constant(&moved, pointer.plus(outer)));
        Ok(Prepared { pointer: t::Expr::from(&moved), inner: rest, vector: None })
    }

    /// Whether `width` lanes access neighbours that aligned accesses of up to 16 bytes cover.
    pub(super) fn is_wide(&self, buffer: &Buffer, index: &[Expr], width: u32) -> bool {
        let bits = buffer.dtype.bits();
        if bits < 8 {
            return false;
        }
        let offset = self.offset(buffer, index);
        let access = i128::from((width * bits).min(128) / bits);
        self.facts.lane_step(&offset, width) == Some(1) && self.facts.multiple(&offset) % access == 0
    }

    /// Whether all lanes agree on a value.
    pub(super) fn is_uniform(&self, e: &Expr, width: u32) -> bool {
        width == 1 || self.facts.lane_step(e, width) == Some(0)
    }

    /// A condition whose parts that do not depend on `inner` have been named.
    pub(super) fn condition(&mut self, cond: &Expr, inner: &[u32]) -> Result<Expr> {
        if !depends(cond, inner) {
            return self.name("inside", cond);
        }
        match cond.kind() {
            ExprKind::Binary(op @ (BinaryOp::And | BinaryOp::Or), a, b) => {
                let a = self.condition(a, inner)?;
                Ok(a.binary(*op, self.condition(b, inner)?))
            }
            ExprKind::Compare(op, a, b) if a.ty() == Type::Index => {
                let ((a0, a1), (b0, b1)) = (split(a, inner), split(b, inner));
                let (rest, mut limit) = (a1 - b1, b0 - a0);
                let of_rest = self.facts.range(&rest);
                if -FAR < of_rest.lo && of_rest.hi < FAR && !self.facts.range(&limit).fits_int() {
                    // What lies beyond all that is compared with it may as well lie nearer, in 32 bits; ends that are always the same make limits of
                    // one tile the same.
                    let end = |at: i128| Expr::wide_int(Type::Index, at);
                    limit = limit.max(end(-FAR)).min(end(FAR));
                }
                let limit = self.name("limit", &limit)?;
                Ok(rest.compare(*op, limit))
            }
            _ => Ok(cond.clone()),
        }
    }

    /// An expression whose comparisons of coordinates are [`Lower::condition`]s, names written out: what is left of them differs between registers
    /// alone, and where it is the same, so is the comparison.
    pub(super) fn compared(&mut self, e: &Expr, bound: &HashMap<u32, Expr>, inner: &[u32]) -> Result<Expr> {
        if let ExprKind::Compare(_, a, _) = e.kind()
            && a.ty() == Type::Index
        {
            let written = see_through(e, bound);
            return if depends(&written, inner) { self.condition(&written, inner) } else { Ok(e.clone()) };
        }
        let mut failed = Ok(());
        let out = e.map_operands(&mut |operand| {
            self.compared(operand, bound, inner).unwrap_or_else(|err| {
                failed = Err(err);
                operand.clone()
            })
        });
        failed.map(|()| out)
    }

    /// Where the elements of a tile at coordinates `at` are.
    pub(super) fn position(&mut self, place: &Place, at: &[Expr]) -> Result<Position> {
        match place {
            Place::View(view) => {
                let index = view.index(at);
                let mut mask = Expr::bool(true);
                for ((i, extent), masked) in index.iter().zip(&view.tensor.shape).zip(&view.masked) {
                    if *masked {
                        mask = mask.and(self.bound(i, extent));
                    }
                }
                for walk in &view.walks {
                    let (position, end) = (walk.position(&at[walk.axis]), self.facts.range(&walk.end));
                    if self.facts.range(&position).hi >= end.lo {
                        mask = mask.and(position.lt(&walk.end));
                    }
                }
                Ok(Position { body: vec![], index, mask })
            }
            Place::Elements { axes, body, index, mask, .. } => {
                if axes.len() != at.len() {
                    return Err(self.internal("a place has other axes than its tile"));
                }
                // What is named is written out: parts of it may be computed before the loops that the names would stand in.
                let mut known: HashMap<u32, Expr> = axes.iter().map(|axis| axis.id).zip(at.iter().cloned()).collect();
                let mut checks = vec![];
                for scalar in body {
                    let named = |e: &Expr| e.substitute(&|var| known.get(&var.id).cloned());
                    match scalar {
                        Named::Bind { var, value } => {
                            let value = named(value);
                            known.insert(var.id, value);
                        }
                        check => checks.push(substituted(check, &named)),
                    }
                }
                let named = |e: &Expr| e.substitute(&|var| known.get(&var.id).cloned());
                Ok(Position { body: checks, index: index.iter().map(named).collect(), mask: named(mask) })
            }
        }
    }

    /// Writes what an access needs before the loops of its nest.
    pub(super) fn access(&mut self, nest: &Nest, buffer: &Buffer, at: Position) -> Result<Access> {
        let mut inner = nest.counters();
        let mut left = self.hoist(at.body, &mut inner)?;
        let (mut index, mut mask) = (at.index, at.mask);
        if nest.width() > 1 {
            // Lanes are handled together, so that names of one lane's values have no place.
            let mut bound = HashMap::new();
            let checks = left.iter().filter_map(|scalar| see_through_body(scalar, &mut bound, nest));
            left = checks.collect();
            index.iter_mut().chain([&mut mask]).for_each(|e| *e = see_through(e, &bound));
        }
        let mask = self.condition(&nest.first_lane(&mask), &inner)?;
        let prepared = self.address(buffer, &index, &inner)?;
        Ok(Access { body: left, pointer: prepared.pointer, inner: nest.first_lane(&prepared.inner), mask })
    }

    /// Writes the names that do not depend on `inner`; the others are left, and are inner themselves.
    pub(super) fn hoist(&mut self, body: Vec<Named>, inner: &mut Vec<u32>) -> Result<Vec<Named>> {
        let mut left = vec![];
        for scalar in body {
            match scalar {
                Named::Bind { var, value } => {
                    let varies = value.any(&mut |e| matches!(e.kind(), ExprKind::Var(var) if inner.contains(&var.id)));
                    if !varies {
                        self.bind(&var, &value)?;
                    } else {
                        inner.push(var.id);
                        left.push(Named::Bind { var, value });
                    }
                }
                check => left.push(check),
            }
        }
        Ok(left)
    }

    /// Writes the loops of a nest around an access: `write` gets whether the element exists, and is asked about those that do not if
    /// `all`. What of the mask does not depend on inner loops is tested outside of them.
    pub(super) fn masked(
        &mut self,
        nest: &Nest,
        access: &Access,
        all: bool,
        write: &mut dyn FnMut(&mut Self, bool) -> Result<()>,
    ) -> Result<()> {
        let mut terms = vec![];
        conjuncts(&access.mask, &mut terms);
        self.masked_loops(&nest.loops, &terms, (access, nest.width(), all), write)
    }

    fn masked_loops(
        &mut self,
        loops: &[(Var, u32)],
        terms: &[Expr],
        (access, width, all): (&Access, u32, bool),
        write: &mut dyn FnMut(&mut Self, bool) -> Result<()>,
    ) -> Result<()> {
        let inner: Vec<u32> = loops.iter().map(|(var, _)| var.id).collect();
        let names = !loops.is_empty() && !access.body.is_empty();
        let (here, later): (Vec<Expr>, Vec<Expr>) =
            terms.iter().cloned().partition(|term| loops.is_empty() || !names && !depends(term, &inner));
        if loops.is_empty() {
            self.scalars(&access.body, width)?;
        }
        if here.is_empty() {
            return match loops {
                [] => write(self, true),
                [(var, extent), rest @ ..] => {
                    self.unrolled(var, *extent, |lower| lower.masked_loops(rest, &later, (access, width, all), write))
                }
            };
        }
        let cond = self.expr(&here.iter().fold(Expr::bool(true), |all, term| all.and(term)))?;
        let then = self.nested(|lower| match loops {
            [] => write(lower, true),
            loops => lower.masked_loops(loops, &later, (access, width, all), write),
        })?;
        let otherwise = match all {
            true => self.nested(|lower| lower.in_loops(loops, &mut |lower| write(lower, false)))?,
            false => vec![],
        };
        self.push(t::Stmt::If { cond, then, otherwise });
        Ok(())
    }

    /// Writes scalar statements.
    pub(super) fn scalars(&mut self, body: &[Named], width: u32) -> Result<()> {
        body.iter().try_for_each(|scalar| match scalar {
            Named::Bind { var, value } => self.bind_lanes(var, value, width),
            Named::Check { violated, fault, code } => self.check(violated, fault, code),
        })
    }

    /// Notes a fault where `violated` holds.
    fn check(&mut self, violated: &Expr, fault: &Buffer, code: &Expr) -> Result<()> {
        let cond = self.expr(violated)?;
        let pointer = self.address(fault, &[Expr::index(0)], &[])?.pointer;
        let value = self.expr(code)?;
        self.when(cond, |lower| {
            let effect = t::Effect::Atomic { op: AtomicOp::Max, pointer, index: t::Expr::int(0), value };
            lower.push(t::Stmt::Effect(effect));
            Ok(())
        })
    }

    /// Whether `0 <= i < extent`, as far as it is not proved.
    fn bound(&self, i: &Expr, extent: &Expr) -> Expr {
        let (range, end) = (self.facts.range(i), self.facts.range(extent));
        let below = if range.hi < end.lo { Expr::bool(true) } else { i.compare(CompareOp::Lt, extent) };
        let above = if range.lo >= 0 { Expr::bool(true) } else { i.compare(CompareOp::Ge, 0) };
        above.and(below)
    }
}

/// An expression with the names replaced that stand for something here.
pub(super) fn see_through(e: &Expr, bound: &HashMap<u32, Expr>) -> Expr {
    if bound.is_empty() { e.clone() } else { e.substitute(&|var| bound.get(&var.id).cloned()) }
}

/// Notes what a name stands for; a check is given back as it is in the first lane.
fn see_through_body(scalar: &Named, bound: &mut HashMap<u32, Expr>, nest: &Nest) -> Option<Named> {
    match scalar {
        Named::Bind { var, value } => {
            let value = see_through(value, bound);
            bound.insert(var.id, value);
            None
        }
        check => Some(substituted(check, &|e| nest.first_lane(&see_through(e, bound)))),
    }
}

/// A scalar statement with other expressions.
pub(super) fn substituted(scalar: &Named, to: &impl Fn(&Expr) -> Expr) -> Named {
    match scalar {
        Named::Bind { var, value } => Named::Bind { var: var.clone(), value: to(value) },
        Named::Check { violated, fault, code } => {
            Named::Check { violated: to(violated), fault: fault.clone(), code: to(code) }
        }
    }
}
