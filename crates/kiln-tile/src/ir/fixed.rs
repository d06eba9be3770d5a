//! Programs with some of their numbers known.

use super::{Op, Place, Program};
use crate::expr::{Expr, ExprKind};
use crate::program::{Buffer, Param};
use std::collections::HashMap;

impl Program {
    /// The program at [`Level::Tile`](super::Level::Tile) with scalar parameters, by the number of their variable, replaced by what they are: those
    /// parameters go, and what follows of index arithmetic is folded.
    pub fn fixed(&self, values: &HashMap<u32, Expr>) -> Program {
        let mut program = self.clone();
        let fix = Fix { values, tensors: HashMap::new() };
        let tensors = program.params.iter().filter_map(|param| match param {
            Param::Buffer { buffer, .. } => Some((buffer.id, fix.tensor(buffer))),
            Param::Scalar { .. } => None,
        });
        let fix = Fix { values, tensors: tensors.collect() };
        program.params.retain(|param| !matches!(param, Param::Scalar { var, .. } if values.contains_key(&var.id)));
        for param in &mut program.params {
            if let Param::Buffer { buffer, .. } = param {
                fix.place(buffer);
            }
        }
        program.domain.iter_mut().for_each(|axis| axis.extent = fix.expr(&axis.extent));
        for stmt in &mut program.body {
            stmt.walk_mut(&mut |stmt| {
                match &mut stmt.op {
                    Op::Load { from: place, .. } | Op::Store { to: place, .. } | Op::Atomic { to: place, .. } => {
                        fix.place(match place {
                            Place::View(view) => &mut view.tensor,
                            Place::Elements { tensor, .. } => tensor,
                        });
                    }
                    _ => {}
                }
                stmt.op.exprs_mut(&mut |e| *e = fix.expr(e));
            });
        }
        program
    }
}

struct Fix<'v> {
    values: &'v HashMap<u32, Expr>,
    tensors: HashMap<u32, Buffer>,
}

impl Fix<'_> {
    fn expr(&self, e: &Expr) -> Expr {
        match e.kind() {
            ExprKind::Var(var) => self.values.get(&var.id).cloned().unwrap_or_else(|| e.clone()),
            ExprKind::Load(buffer, index) => {
                let mut buffer = buffer.clone();
                self.place(&mut buffer);
                Expr::new(e.ty(), ExprKind::Load(buffer, index.iter().map(|i| self.expr(i)).collect()))
            }
            _ => e.map_operands(&mut |e| self.expr(e)),
        }
    }

    fn tensor(&self, of: &Buffer) -> Buffer {
        let all = |exprs: &[Expr]| exprs.iter().map(|e| self.expr(e)).collect();
        Buffer::strided(of.id, &of.name, of.dtype, of.scope, all(&of.shape), all(&of.strides))
    }

    fn place(&self, buffer: &mut Buffer) {
        if let Some(fixed) = self.tensors.get(&buffer.id) {
            *buffer = fixed.clone();
        }
    }
}
