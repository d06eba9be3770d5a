//! Which loads bring operands of dots and nothing else: those can travel ahead, into shared memory.

use super::Machine;
use crate::ir::{Block, CopyKind, Op, Operand, Place, Program, Stmt, ValueId, View};
use crate::pass::facts::Facts;
use std::collections::HashMap;

/// A load that feeds dots.
#[derive(Clone, Debug)]
pub struct Feed {
    /// What it loads.
    pub view: View,
    /// How it may travel.
    pub kind: CopyKind,
}

/// The loads of `program` whose every use is as an operand of a dot, and how each may travel.
pub fn feeds(program: &Program, machine: &Machine) -> HashMap<ValueId, Feed> {
    let mut feeds = HashMap::new();
    let mut facts = Facts::of(&program.params);
    for axis in &program.domain {
        facts.set_axis(&axis.var, &axis.extent);
    }
    collect(&mut facts, &program.body, machine, &mut feeds);
    for stmt in &program.body {
        stmt.walk(&mut |stmt| {
            let operands = operands(&stmt.op);
            for value in stmt.op.uses().into_iter().chain(stmt.op.yields()) {
                if !operands.contains(&value) {
                    feeds.remove(&value);
                }
            }
        });
    }
    feeds
}

/// The tiles that a dot multiplies.
pub fn operands(op: &Op) -> Vec<ValueId> {
    let Op::Dot { a, b, .. } = op else { return vec![] };
    let tile = |operand: &Operand| if let Operand::Tile(value) = operand { Some(*value) } else { None };
    [a, b].into_iter().filter_map(tile).collect()
}

fn collect(facts: &mut Facts, block: &Block, machine: &Machine, feeds: &mut HashMap<ValueId, Feed>) {
    for Stmt { results, op } in block {
        match op {
            Op::Bind { var, value, below } => {
                facts.bind(var, value, 1);
                if let Some(below) = below {
                    facts.bound(var, below);
                }
            }
            Op::For { var, start, end, step, .. } => facts.set_loop(var, start, end, step),
            Op::Load { from: Place::View(view), fill } if is_zero(fill) => {
                let kind = if machine.tma_takes(facts, view) {
                    CopyKind::Tma
                } else if let Some(bytes) = machine.cp_async_takes(facts, view) {
                    CopyKind::CpAsync(bytes)
                } else {
                    CopyKind::Registers
                };
                feeds.insert(results[0], Feed { view: view.clone(), kind });
            }
            _ => {}
        }
        for block in op.blocks() {
            collect(facts, block, machine, feeds);
        }
    }
}

fn is_zero(e: &crate::expr::Expr) -> bool {
    matches!(e.kind(), crate::expr::ExprKind::Const(value) if value.as_f64() == 0.0)
}
