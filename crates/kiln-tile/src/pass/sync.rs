//! Inserts the barriers that make shared memory written by some threads visible to others.

use crate::expr::{Expr, ExprKind};
use crate::program::{Scope, Stmt};
use std::collections::HashSet;

/// Returns `body` with a [`Stmt::Barrier`] before each statement that conflicts with one since the last barrier.
/// [`Stmt::Pipelined`] loops place their own barriers inside.
pub fn sync(body: &[Stmt]) -> Vec<Stmt> {
    Pending::default().body(body)
}

/// Shared tiles touched since the last barrier.
#[derive(Clone, Default)]
struct Pending {
    read: HashSet<u32>,
    written: HashSet<u32>,
}

impl Pending {
    fn conflicts(&self, next: &Pending) -> bool {
        !self.written.is_disjoint(&next.read)
            || !self.written.is_disjoint(&next.written)
            || !self.read.is_disjoint(&next.written)
    }

    fn add(&mut self, next: Pending) {
        self.read.extend(next.read);
        self.written.extend(next.written);
    }

    fn body(&mut self, body: &[Stmt]) -> Vec<Stmt> {
        let mut out = Vec::with_capacity(body.len());
        for stmt in body {
            match stmt {
                Stmt::For { var, start, end, unroll, body } => {
                    // What one iteration leaves pending meets the next one: learn it first, then place barriers.
                    // The loop may also run not at all, so what was pending before it stays pending.
                    let before = self.clone();
                    let mut after = self.clone();
                    after.body(body);
                    self.add(after);
                    let body = self.body(body);
                    self.add(before);
                    let (var, start, end) = (var.clone(), start.clone(), end.clone());
                    out.push(Stmt::For { var, start, end, unroll: *unroll, body });
                }
                Stmt::If { cond, then, otherwise } => {
                    let mut other = self.clone();
                    let then = self.body(then);
                    let otherwise = other.body(otherwise);
                    self.add(other);
                    out.push(Stmt::If { cond: cond.clone(), then, otherwise });
                }
                stmt => {
                    let next = touched(stmt);
                    if self.conflicts(&next) {
                        out.push(Stmt::Barrier);
                        *self = Pending::default();
                    }
                    self.add(next);
                    out.push(pipelined(stmt));
                }
            }
        }
        out
    }
}

/// A pipelined loop places the barriers of its copies itself; what follows them in its body is synchronised here.
fn pipelined(stmt: &Stmt) -> Stmt {
    let Stmt::Pipelined { var, extent, stages, body } = stmt else { return stmt.clone() };
    let copies = body.iter().take_while(|s| matches!(s, Stmt::Copy { .. })).count();
    let (copies, rest) = body.split_at(copies);
    let mut body = copies.to_vec();
    body.extend(Pending::default().body(rest));
    Stmt::Pipelined { var: var.clone(), extent: extent.clone(), stages: *stages, body }
}

fn touched(stmt: &Stmt) -> Pending {
    let mut pending = Pending::default();
    stmt.walk(&mut |s| {
        match s {
            Stmt::Store { buffer, .. } | Stmt::Copy { dst: buffer, .. } if buffer.scope == Scope::Shared => {
                pending.written.insert(buffer.id);
            }
            Stmt::Gemm { a, b, .. } => pending.read.extend([a.id, b.id]),
            _ => {}
        }
        let mut visit = |e: &Expr| {
            if let ExprKind::Load(buffer, _) = e.kind()
                && buffer.scope == Scope::Shared
            {
                pending.read.insert(buffer.id);
            }
        };
        s.exprs().into_iter().for_each(|e| e.walk(&mut visit));
    });
    pending
}
