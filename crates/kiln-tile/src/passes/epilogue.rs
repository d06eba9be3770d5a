//! Results leave through shared memory, in whole boxes, where the schedule asks for it and the tensor memory accelerator takes them.

use super::Machine;
use crate::expr::{Expr, Var};
use crate::ir::{Block, Op, Place, Program, Shared, SharedId, Slot, Stage, Stmt, View};
use crate::pass::facts::Facts;
use crate::program::{Access, Param};

/// Runs the pass.
pub fn epilogue(program: &mut Program, machine: &Machine) {
    if program.schedule.staged_epilogue && machine.has_tma() {
        let facts = Facts::of(&program.params);
        let body = std::mem::take(&mut program.body);
        program.body = block(program, machine, &facts, body, None);
    }
}

/// Of a role that several groups run, each has a stage of its own.
fn block(program: &mut Program, machine: &Machine, facts: &Facts, from: Block, groups: Option<&(Var, u32)>) -> Block {
    let mut out = vec![];
    for mut stmt in from {
        match &mut stmt.op {
            Op::Store { to: Place::View(view), value } if machine.tma_takes(facts, view) && leaves(program, view) => {
                let buffer = SharedId(program.shared.len() as u32);
                let name = format!("{}_tile", view.tensor.name).into();
                let (dtype, shape) = (view.tensor.dtype, view.shape.clone());
                let (stage, stages) = groups.map_or((Expr::index(0), 1), |(var, count)| (Expr::var(var), *count));
                program.shared.push(Shared { name, dtype, shape, stages, layout: None, offset: None });
                let slot = Slot { buffer, stage: Stage::Index(stage) };
                out.push(Stmt::effect(Op::SharedStore { to: slot.clone(), value: *value }));
                out.push(Stmt::effect(Op::CopyOut { from: slot, to: view.clone() }));
            }
            Op::Roles(roles) => {
                for role in roles {
                    let body = std::mem::take(&mut role.body);
                    role.body = block(program, machine, facts, body, role.groups.as_ref());
                }
                out.push(stmt);
            }
            op => {
                for inner in op.blocks_mut() {
                    *inner = block(program, machine, facts, std::mem::take(inner), groups);
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
