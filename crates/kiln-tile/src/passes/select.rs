//! Gives every dot an instruction, and brings its operands to where the instruction reads them.

use super::Machine;
use crate::expr::Expr;
use crate::ir::{Block, Op, Operand, Program, Shared, SharedId, Slot, Stage, Stmt, ValueId};
use std::sync::Arc;

/// Runs the pass.
pub fn select(program: &mut Program, machine: &Machine) {
    let body = std::mem::take(&mut program.body);
    let warps = program.schedule.warps;
    program.body = block(program, machine, body, warps);
}

fn block(program: &mut Program, machine: &Machine, from: Block, warps: u32) -> Block {
    let mut out = vec![];
    for mut stmt in from {
        match &mut stmt.op {
            Op::Dot { a, b, acc, atom, .. } if atom.is_none() => {
                let [m, n] = [0, 1].map(|axis| program.value(*acc).shape[axis]);
                let depth = match &*a {
                    Operand::Tile(value) => program.value(*value).shape[1],
                    Operand::Shared(slot) => program.shared(slot.buffer).shape[1],
                };
                let operands = match &*a {
                    Operand::Tile(value) => program.value(*value).dtype,
                    Operand::Shared(slot) => program.shared(slot.buffer).dtype,
                };
                let sum = program.value(*acc).dtype;
                let name = machine.dot_atom([m, n, depth], operands, sum, warps);
                let fused = name == "fma";
                *atom = Some(Arc::from(name));
                if let (Operand::Tile(value), true) = (&*a, fused) {
                    *a = to_shared(program, *value, &mut out);
                }
                if let Operand::Tile(value) = &*b {
                    *b = to_shared(program, *value, &mut out);
                }
            }
            Op::Roles(roles) => {
                for role in roles {
                    role.body = block(program, machine, std::mem::take(&mut role.body), role.warps);
                }
            }
            op => {
                for inner in op.blocks_mut() {
                    *inner = block(program, machine, std::mem::take(inner), warps);
                }
            }
        }
        out.push(stmt);
    }
    out
}

/// Puts a tile into a shared buffer of its own.
fn to_shared(program: &mut Program, value: ValueId, out: &mut Block) -> Operand {
    let declared = program.value(value).clone();
    let buffer = SharedId(program.shared.len() as u32);
    program.shared.push(Shared {
        name: declared.name,
        dtype: declared.dtype,
        shape: declared.shape,
        stages: 1,
        layout: None,
        offset: None,
    });
    let to = Slot { buffer, stage: Stage::Index(Expr::index(0)) };
    out.push(Stmt::effect(Op::Sync));
    out.push(Stmt::effect(Op::SharedStore { to: to.clone(), value }));
    out.push(Stmt::effect(Op::Sync));
    Operand::Shared(to)
}
