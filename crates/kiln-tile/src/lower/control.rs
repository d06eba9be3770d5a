//! The grid, loops, branches and mutable scalars.

use super::Lower;
use super::nest::Nest;
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::ir::{self, Block, Grid, Op, ValueId};
use crate::pass::facts::{Range, VarFacts};
use crate::program::product;
use crate::threads::{self as t, Effect, Special, Stmt, Ty};

/// CTAs of a persistent grid: some for each SM.
const MOST_CTAS: i128 = 1 << 16;

impl Lower<'_> {
    /// Writes the body for the point, or the points, of this CTA.
    pub(super) fn domain(&mut self) -> Result<()> {
        let program = self.program;
        if let Grid::Persistent { count, .. } = &program.grid {
            let range = Range::new(1, MOST_CTAS);
            self.facts.set(count, VarFacts { range, multiple: 1, lane_step: Some(0) });
            let named = self.declare(count);
            let blocks = t::Expr::Cast(named.ty().element(), Box::new(t::Expr::Special(Special::Blocks)));
            self.push(Stmt::constant(&named, blocks));
        }
        let points = product(&program.domain);
        let point = self.scalar("point", crate::dtype::Type::Index);
        let last = self.facts.range(&points).hi - 1;
        self.facts.set(&point, VarFacts { range: Range::new(0, last.max(0)), multiple: 1, lane_step: Some(0) });
        let named = self.declare(&point);
        let block = t::Expr::Cast(named.ty().element(), Box::new(t::Expr::Special(Special::Block)));
        self.push(Stmt::constant(&named, block));
        self.unravel(&point)?;
        self.init_barriers()?;
        self.block(&program.body)
    }

    /// Names each coordinate of a point of the domain.
    fn unravel(&mut self, point: &Var) -> Result<()> {
        let axes = &self.program.domain;
        for (i, axis) in axes.iter().enumerate() {
            let inner = product(&axes[i + 1..]);
            let outermost = axes[..i].iter().all(|axis| axis.extent.as_const() == Some(1));
            let mut at = Expr::var(point) / &inner;
            if !outermost {
                at = at % &axis.extent;
            }
            self.bind(&axis.var, &at)?;
            let last = (self.facts.range(&axis.extent).hi - 1).max(0);
            let range = Range::new(0, last.min(self.facts.range(&at).hi));
            let multiple = if last == 0 { 0 } else { 1 };
            self.facts.set(&axis.var, VarFacts { range, multiple, lane_step: Some(0) });
        }
        Ok(())
    }

    /// Writes a loop; what it carries is copied into its registers where it is not made there.
    pub(super) fn for_loop(&mut self, stmt: &ir::Stmt) -> Result<()> {
        let Op::For { var, start, end, step, carried, body, yields, .. } = &stmt.op else {
            return Err(self.internal("not a loop"));
        };
        let firsts: Vec<ValueId> = carried.iter().map(|(_, first)| *first).collect();
        let inside: Vec<ValueId> = carried.iter().map(|(inside, _)| *inside).collect();
        self.hand_over(&firsts, &inside)?;
        self.pin(body, &inside)?;
        let (first, last, by) = (self.facts.range(start), self.facts.range(end), self.facts.multiple(step));
        let multiple = crate::pass::facts::gcd(self.facts.multiple(start), by);
        // The counter goes one step past the end.
        let far = last.hi.max(first.hi) + self.facts.range(step).hi;
        self.facts.set(var, VarFacts { range: Range::new(first.lo, far), multiple, lane_step: Some(0) });
        let counter = self.declare(var);
        let range = Range::new(first.lo, (last.hi - 1).max(first.lo));
        self.facts.set(var, VarFacts { range, multiple, lane_step: Some(0) });
        let of = counter.ty().element();
        let bound = |lower: &mut Self, e: &Expr| Ok::<_, crate::TileError>(lower.expr(e)?.cast_index(of));
        let (start, end, step) = (bound(self, start)?, bound(self, end)?, bound(self, step)?);
        let body = self.nested(|lower| {
            lower.block(body)?;
            lower.position += 1;
            lower.hand_over(yields, &inside)
        })?;
        self.push(Stmt::For { var: counter, start, end, step, unroll: false, body });
        Ok(())
    }

    /// Has sums that products of the loop add to, which run on their own, in their registers before the first of them: nothing else may define these
    /// beside them, else the assembler has products wait for each other (C7515).
    fn pin(&mut self, body: &Block, sums: &[ValueId]) -> Result<()> {
        for stmt in body {
            let Op::Dot { acc, atom: Some(atom), .. } = &stmt.op else { continue };
            if atom.starts_with("wgmma") && sums.contains(acc) {
                let (array, count) = (self.array(*acc)?, self.layout(*acc)?.registers());
                let counter = self.counter("i", count, false);
                self.unrolled(&counter, count, |lower| {
                    let at = lower.expr(&Expr::var(&counter))?;
                    lower.push(Stmt::Effect(Effect::Pin(array.place(at))));
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Writes a branch.
    pub(super) fn if_else(
        &mut self,
        results: &[ValueId],
        cond: &Expr,
        then: &(Block, Vec<ValueId>),
        otherwise: &(Block, Vec<ValueId>),
    ) -> Result<()> {
        let cond = self.expr(cond)?;
        let mut branch = |(block, yields): &(Block, Vec<ValueId>)| {
            self.nested(|lower| {
                lower.block(block)?;
                lower.position += 1;
                lower.hand_over(yields, results)
            })
        };
        let (then, otherwise) = (branch(then)?, branch(otherwise)?);
        self.push(Stmt::If { cond, then, otherwise });
        Ok(())
    }

    /// Copies tiles to the registers of others, all at once.
    fn hand_over(&mut self, from: &[ValueId], to: &[ValueId]) -> Result<()> {
        let moves: Vec<(ValueId, ValueId)> = from
            .iter()
            .zip(to)
            .map(|(from, to)| (*from, *to))
            .filter(|(from, to)| self.storage.class(*from) != self.storage.class(*to))
            .collect();
        let overwritten = |id: ValueId| moves.iter().any(|(_, to)| self.storage.class(*to) == self.storage.class(id));
        let crossed = moves.iter().any(|(from, _)| overwritten(*from));
        let mut later = vec![];
        for (from, to) in moves {
            let (source, target) = (self.array(from)?, self.array(to)?);
            let (layout, other) = (self.layout(from)?, self.layout(to)?);
            if layout != other {
                return Err(self.internal("a tile is handed over in another layout"));
            }
            if crossed {
                let kept = self.var(source.name(), source.ty());
                self.push(Stmt::declare(&kept));
                self.copy_registers(&source, &kept)?;
                later.push((kept, target));
            } else {
                self.copy_registers(&source, &target)?;
            }
        }
        later.iter().try_for_each(|(from, to)| self.copy_registers(from, to))
    }

    /// Copies an array.
    pub(super) fn copy_registers(&mut self, from: &t::Var, to: &t::Var) -> Result<()> {
        let Ty::Array(_, count) = to.ty() else { return Err(self.internal("a copy to what is no array")) };
        let counter = self.counter("i", count, false);
        self.unrolled(&counter, count, |lower| {
            let at = lower.expr(&Expr::var(&counter))?;
            lower.push(Stmt::Assign(to.place(at.clone()), from.at(at)));
            Ok(())
        })
    }

    /// Copies elements from array to array in a nest over the layout of the second.
    pub(super) fn copy_nest(&mut self, nest: &Nest, from: &t::Var, to: &t::Var) -> Result<()> {
        self.in_loops(&nest.loops, &mut |lower| {
            let register = lower.expr(&nest.register)?;
            let source = nest.others.first().ok_or_else(|| lower.internal("a copy of nothing"))?;
            let source = lower.expr(source)?;
            lower.push(Stmt::Assign(to.place(register), from.at(source)));
            Ok(())
        })
    }

    /// Sets a mutable scalar, which is declared by its first assignment.
    pub(super) fn assign(&mut self, var: &Var, value: &Expr, below: u32) -> Result<()> {
        if let Some(t::Expr::Var(known)) = self.vars.get(&var.id).cloned() {
            let value = self.expr(value)?.cast_index(known.ty().element());
            self.push(Stmt::Assign(t::Place::Var(known), value));
            return Ok(());
        }
        let value = self.expr(value)?;
        let range = Range::new(0, i128::from(below) - 1);
        self.facts.set(var, VarFacts { range, multiple: 1, lane_step: Some(0) });
        let named = self.var(&var.name, Ty::Scalar(self.scalar_type(var)));
        self.vars.insert(var.id, t::Expr::from(&named));
        let value = value.cast_index(named.ty().element());
        self.push(Stmt::Declare { var: named, value: Some(value), constant: false });
        Ok(())
    }
}
