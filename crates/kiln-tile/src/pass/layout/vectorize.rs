//! How many neighbouring elements a thread can load and store together.

use super::Layouts;
use crate::dtype::DType;
use crate::expr::{BinaryOp, Expr, ExprKind};
use crate::pass::facts::Facts;
use crate::pass::simplify::simplify_div_mod;
use crate::program::{Axis, Buffer, Scope, Stmt};

/// Buffer elements with their indices.
pub type Accesses = Vec<(Buffer, Vec<Expr>)>;

/// Every load and every store in a loop that combines `values`, if it combines any.
pub fn accesses(body: &[Stmt], values: &[Expr]) -> (Accesses, Accesses) {
    let mut loaded = vec![];
    let mut stored = vec![];
    let mut loads = |e: &Expr| {
        e.walk(&mut |e| {
            if let ExprKind::Load(buffer, index) = e.kind() {
                loaded.push((buffer.clone(), index.clone()));
            }
        });
    };
    for stmt in body {
        stmt.walk(&mut |s| {
            s.exprs().into_iter().for_each(&mut loads);
            if let Stmt::Store { buffer, index, .. } | Stmt::Atomic { buffer, index, .. } = s {
                stored.push((buffer.clone(), index.clone()));
            }
        });
    }
    values.iter().for_each(loads);
    (loaded, stored)
}

/// Whether lanes of width `width` access neighbours that one aligned wide access covers.
pub fn is_vectorizable(layouts: &Layouts, facts: &Facts, buffer: &Buffer, index: &[Expr], width: u32) -> bool {
    let bits = buffer.dtype.bits();
    if bits < 8 || buffer.scope == Scope::Fragment {
        return false;
    }
    let offset = simplify_div_mod(facts, &layouts.offset(buffer, index));
    let access = i128::from((width * bits).min(128) / bits);
    facts.lane_step(&offset, width) == Some(1) && facts.multiple(&offset) % access == 0
}

/// The greatest width at which all stores of the loop are wide, an access moves at most 32 bytes, and the narrowest type
/// at most 16.
pub fn widest(layouts: &Layouts, facts: &Facts, axes: &[Axis], body: &[Stmt], values: &[Expr], limit: u32) -> u32 {
    let Some((inner, outer)) = axes.split_last() else { return 1 };
    let (loaded, stored) = accesses(body, values);
    let fragments = loaded.iter().chain(&stored).any(|(buffer, _)| buffer.scope == Scope::Fragment);
    if in_place(body, values) {
        return 1;
    }
    [16, 8, 4, 2]
        .into_iter()
        .filter(|&width| width <= limit && facts.multiple(&inner.extent) % i128::from(width) == 0)
        .find(|&width| {
            let mut facts = facts.clone();
            for axis in outer {
                facts.set_axis(&axis.var, &axis.extent);
            }
            facts.set_lane_axis(&inner.var, &inner.extent, width);
            let mut wide = Wide { layouts, facts, width, bits: vec![] };
            if !wide.body(body) {
                return false;
            }
            values.iter().for_each(|value| wide.loads(value));
            let (Some(least), Some(most)) = (wide.bits.iter().min(), wide.bits.iter().max()) else {
                // A loop over registers alone takes whatever the loops that fill them need.
                return fragments;
            };
            width * least <= 128 && width * most <= 256
        })
        .unwrap_or(1)
}

/// Whether the loop loads from a buffer outside of registers that it also stores to.
fn in_place(body: &[Stmt], values: &[Expr]) -> bool {
    let (loaded, stored) = accesses(body, values);
    stored.iter().any(|(buffer, _)| buffer.scope != Scope::Fragment && loaded.iter().any(|(b, _)| b.id == buffer.id))
}

/// Whether `width` points along the last of `axes` can be handled lane by lane between wide accesses, given that a thread
/// handles them anyway.
pub fn in_lanes(layouts: &Layouts, facts: &Facts, axes: &[Axis], body: &[Stmt], width: u32) -> bool {
    let Some((inner, outer)) = axes.split_last() else { return false };
    let mut facts = facts.clone();
    for axis in outer {
        facts.set_axis(&axis.var, &axis.extent);
    }
    facts.set_lane_axis(&inner.var, &inner.extent, width);
    !in_place(body, &[]) && Wide { layouts, facts, width, bits: vec![] }.body(body)
}

/// The greatest width at which a copy's condition is the same in all lanes and one of its loads is wide; 1 if there is none.
pub fn copy_width(layouts: &Layouts, facts: &Facts, copy: &Stmt) -> u32 {
    let Stmt::Copy { dst, axes, mask, body, value, .. } = copy else { return 1 };
    let Some((inner, outer)) = axes.split_last() else { return 1 };
    [16, 8, 4, 2]
        .into_iter()
        .filter(|width| width * dst.dtype.bits() <= 128 && facts.multiple(&inner.extent) % i128::from(*width) == 0)
        .find(|&width| {
            let mut facts = facts.clone();
            for axis in outer {
                facts.set_axis(&axis.var, &axis.extent);
            }
            facts.set_lane_axis(&inner.var, &inner.extent, width);
            let uniform = facts.lane_step(mask, width) == Some(0);
            let mut wide = Wide { layouts, facts, width, bits: vec![] };
            let uniform = uniform && wide.body(body);
            wide.loads(value);
            uniform && !wide.bits.is_empty()
        })
        .unwrap_or(1)
}

struct Wide<'a> {
    layouts: &'a Layouts,
    facts: Facts,
    width: u32,
    /// Element sizes of the wide accesses.
    bits: Vec<u32>,
}

impl Wide<'_> {
    /// Whether the body can be run lane by lane between wide loads and wide stores: binds, checks, stores, and at most one
    /// condition, last, that is the same in all lanes.
    fn body(&mut self, body: &[Stmt]) -> bool {
        body.iter().enumerate().all(|(i, stmt)| match stmt {
            Stmt::Bind { var, value } => {
                self.loads(value);
                self.facts.bind(var, value, self.width);
                true
            }
            Stmt::Check { violated, .. } => {
                self.loads(violated);
                true
            }
            Stmt::Store { buffer, index, value } => {
                self.loads(value);
                let wide = is_vectorizable(self.layouts, &self.facts, buffer, index, self.width);
                if wide {
                    self.bits.push(buffer.dtype.bits());
                }
                wide || buffer.scope == Scope::Fragment
            }
            Stmt::If { cond, then, otherwise } => {
                let before = &body[..i];
                let uniform = |e: &Expr| self.facts.lane_step(e, self.width) == Some(0);
                i + 1 == body.len()
                    && uniform(cond)
                    && before.iter().all(|s| matches!(s, Stmt::Bind { .. } | Stmt::Check { .. }))
                    && self.body(then)
                    && self.body(otherwise)
            }
            _ => false,
        })
    }

    fn loads(&mut self, e: &Expr) {
        let mut found = vec![];
        unconditional_loads(e, &mut |buffer, index| found.push((buffer.clone(), index.to_vec())));
        for (buffer, index) in found {
            if is_vectorizable(self.layouts, &self.facts, &buffer, &index, self.width) {
                self.bits.push(buffer.dtype.bits());
            }
        }
    }
}

/// Calls `visit` on the loads that evaluating `e` performs whatever its conditions say.
pub fn unconditional_loads(e: &Expr, visit: &mut impl FnMut(&Buffer, &[Expr])) {
    match e.kind() {
        ExprKind::Select(c, _, _) => unconditional_loads(c, visit),
        ExprKind::Binary(BinaryOp::And | BinaryOp::Or, a, _) if e.ty() == DType::Bool => {
            unconditional_loads(a, visit);
        }
        kind => {
            if let ExprKind::Load(buffer, index) = kind {
                visit(buffer, index);
            }
            for operand in e.operands() {
                unconditional_loads(operand, visit);
            }
        }
    }
}
