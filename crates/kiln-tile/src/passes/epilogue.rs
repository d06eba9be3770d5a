//! Results leave through shared memory, in whole boxes, where the schedule asks for it and the tensor memory accelerator takes them.

use super::Machine;
use crate::expr::Expr;
use crate::ir::{Block, Op, Place, Program, Shared, SharedId, Slot, Stage, Stmt, View};
use crate::pass::facts::Facts;
use crate::program::{Access, Param};

/// Runs the pass.
pub fn epilogue(program: &mut Program, machine: &Machine) {
    if program.schedule.staged_epilogue && machine.has_tma() {
        let facts = Facts::of(&program.params);
        let body = std::mem::take(&mut program.body);
        program.body = block(program, machine, &facts, body);
    }
}

fn block(program: &mut Program, machine: &Machine, facts: &Facts, from: Block) -> Block {
    let mut out = vec![];
    for mut stmt in from {
        match &mut stmt.op {
            Op::Store { to: Place::View(view), value } if machine.tma_takes(facts, view) && leaves(program, view) => {
                let buffer = SharedId(program.shared.len() as u32);
                let name = format!("{}_tile", view.tensor.name).into();
                let (dtype, shape) = (view.tensor.dtype, view.shape.clone());
                program.shared.push(Shared { name, dtype, shape, stages: 1, layout: None, offset: None });
                let slot = Slot { buffer, stage: Stage::Index(Expr::index(0)) };
                out.push(Stmt::effect(Op::SharedStore { to: slot.clone(), value: *value }));
                out.push(Stmt::effect(Op::CopyOut { from: slot, to: view.clone() }));
            }
            op => {
                for inner in op.blocks_mut() {
                    *inner = block(program, machine, facts, std::mem::take(inner));
                }
                out.push(stmt);
            }
        }
    }
    out
}

/// Whether nothing reads in this kernel what is stored. Other CTAs may: what they wait for comes after the stores of threads, not after boxes.
fn leaves(program: &Program, view: &View) -> bool {
    let is =
        |param: &Param| matches!(param, Param::Buffer { buffer, access: Access::Write } if buffer.id == view.tensor.id);
    program.params.iter().any(is)
}
