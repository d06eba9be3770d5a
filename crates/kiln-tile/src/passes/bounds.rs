//! Proves that boxes stay inside of their tensors: what is proved needs no mask.
//!
//! A box that starts at a multiple of its extent, counted up to the tensor's extent rounded up, stays inside if that extent is a multiple; where
//! extents are constants their ranges say it.

use crate::expr::{BinaryOp, Expr, ExprKind};
use crate::ir::{Block, Op, Place, Program, Stmt, View};
use crate::pass::facts::Facts;
use std::collections::HashMap;

/// What a loop or the grid counts to: the bound, and by how much it steps.
struct Count {
    end: Expr,
    step: i128,
}

/// Runs the pass.
pub fn bounds(program: &mut Program) {
    let mut pass = Bounds { facts: Facts::of(&program.params), counts: HashMap::new() };
    for axis in &program.domain {
        pass.facts.set_axis(&axis.var, &axis.extent);
        pass.counts.insert(axis.var.id, Count { end: axis.extent.clone(), step: 1 });
    }
    pass.block(&mut program.body);
}

struct Bounds {
    facts: Facts,
    counts: HashMap<u32, Count>,
}

impl Bounds {
    fn block(&mut self, block: &mut Block) {
        block.iter_mut().for_each(|stmt| self.stmt(stmt));
    }

    fn stmt(&mut self, stmt: &mut Stmt) {
        match &mut stmt.op {
            Op::Bind { var, value, .. } => self.facts.bind(var, value, 1),
            Op::Load { from: Place::View(view), .. }
            | Op::Store { to: Place::View(view), .. }
            | Op::Atomic { to: Place::View(view), .. } => self.view(view),
            Op::For { var, start, end, step, .. } => {
                self.facts.set_loop(var, start, end, step);
                if let (Some(0), Some(step)) = (start.as_const(), step.as_const()) {
                    self.counts.insert(var.id, Count { end: end.clone(), step });
                }
            }
            _ => {}
        }
        for block in stmt.op.blocks_mut() {
            self.block(block);
        }
    }

    fn view(&self, view: &mut View) {
        for axis in 0..view.origin.len() {
            // Windows reach outside.
            if view.parts(axis).next().is_some() {
                continue;
            }
            let extent = view.axes[axis].map_or(1, |axis| view.shape[axis]);
            let inside = self.fits(&view.origin[axis], extent.into(), &view.tensor.shape[axis]);
            view.masked[axis] &= !inside;
        }
    }

    /// Whether `origin + extent <= end`.
    fn fits(&self, origin: &Expr, extent: i128, end: &Expr) -> bool {
        if self.facts.range(origin).hi + extent <= self.facts.range(end).lo {
            return true;
        }
        let (var, factor) = match origin.kind() {
            ExprKind::Var(var) => (var, 1),
            ExprKind::Binary(BinaryOp::Mul, a, b) => match (a.kind(), b.as_const()) {
                (ExprKind::Var(var), Some(factor)) => (var, factor),
                _ => return false,
            },
            _ => return false,
        };
        let Some(count) = self.counts.get(&var.id) else { return false };
        let stride = factor * count.step;
        // `var` stays below the number of strides that begin inside of the tensor.
        let counted = if factor == 1 {
            count.end == *end
        } else {
            i64::try_from(factor).is_ok_and(|factor| count.end == end.ceil_div(factor))
        };
        counted && extent <= stride && self.facts.multiple(end) % stride == 0
    }
}
