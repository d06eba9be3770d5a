//! Transposes of loads become loads of transposed boxes, and what nothing uses goes.

use crate::ir::{Block, Op, Place, Program, Scalar, Stmt, ValueId};
use std::collections::{HashMap, HashSet};

/// Runs the pass.
pub fn canonicalise(program: &mut Program) {
    let mut body = std::mem::take(&mut program.body);
    transposed_loads(&mut body);
    remove_unused(&mut body);
    program.body = body;
}

fn transposed_loads(body: &mut Block) {
    let mut loads: HashMap<ValueId, Op> = HashMap::new();
    for stmt in body {
        stmt.walk_mut(&mut |stmt| match &stmt.op {
            Op::Load { from: Place::View(_), .. } => {
                loads.insert(stmt.results[0], stmt.op.clone());
            }
            Op::Transpose { value, perm } => {
                if let Some(Op::Load { from: Place::View(view), fill }) = loads.get(value) {
                    stmt.op = Op::Load { from: Place::View(view.transposed(perm)), fill: fill.clone() };
                    loads.insert(stmt.results[0], stmt.op.clone());
                }
            }
            _ => {}
        });
    }
}

/// Removes statements without effect whose results nothing uses.
pub fn remove_unused(body: &mut Block) {
    loop {
        let mut used = HashSet::new();
        for stmt in body.iter() {
            stmt.walk(&mut |stmt| {
                used.extend(stmt.op.uses());
                used.extend(stmt.op.yields());
            });
        }
        if !sweep(body, &used) {
            return;
        }
    }
}

fn sweep(body: &mut Block, used: &HashSet<ValueId>) -> bool {
    let before = body.len();
    body.retain(|stmt| !is_pure(stmt) || stmt.results.iter().any(|value| used.contains(value)));
    let mut changed = body.len() != before;
    for stmt in body {
        for block in stmt.op.blocks_mut() {
            changed |= sweep(block, used);
        }
    }
    changed
}

/// Whether a statement does nothing but define its results.
fn is_pure(stmt: &Stmt) -> bool {
    match &stmt.op {
        Op::Map { body, .. } | Op::Load { from: Place::Elements { body, .. }, .. } => {
            !body.iter().any(|scalar| matches!(scalar, Scalar::Check { .. }))
        }
        Op::Full { .. } | Op::Load { .. } | Op::Reduce { .. } | Op::Transpose { .. } | Op::Dot { .. } => true,
        Op::SharedLoad { .. } | Op::Convert { .. } => true,
        _ => false,
    }
}
