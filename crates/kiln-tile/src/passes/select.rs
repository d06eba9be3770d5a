//! Gives every dot an instruction, and brings its operands to where the instruction reads them.

use super::Machine;
use super::machine::DotShape;
use crate::error::{Result, TileError};
use crate::expr::Expr;
use crate::ir::{Block, Op, Operand, Place, Program, Shared, SharedId, Slot, Stage, Stmt, ValueId, View};
use kiln_target::atoms::MmaKind;
use std::collections::HashMap;

/// Runs the pass.
pub fn select(program: &mut Program, machine: &Machine) -> Result<()> {
    let body = std::mem::take(&mut program.body);
    let warps = program.schedule.warps;
    let pass = Pass { machine, dense: dense_axes(&body) };
    program.body = pass.block(program, body, warps)?;
    Ok(())
}

struct Pass<'a> {
    machine: &'a Machine,
    dense: HashMap<SharedId, usize>,
}

impl Pass<'_> {
    fn block(&self, program: &mut Program, from: Block, warps: u32) -> Result<Block> {
        let mut out = vec![];
        for mut stmt in from {
            match &mut stmt.op {
                Op::Dot { a, b, acc, atom } if atom.is_none() => {
                    let dot = self.dot(program, [a, b], *acc, warps);
                    let Some(found) = self.machine.dot_atom(&dot) else {
                        let [left, right, sum] = dot.types;
                        return Err(TileError::Unsupported {
                            kernel: program.name.clone(),
                            arch: self.machine.arch(),
                            what: format!("a product of {left} and {right} summed in {sum}"),
                            help: "cast the operands to the type of the sum, or to types that tensor cores take"
                                .to_owned(),
                        });
                    };
                    *atom = Some(found.name().into());
                    if let (Operand::Tile(value), MmaKind::Fma) = (&*a, found.kind) {
                        *a = to_shared(program, *value, &mut out);
                    }
                    if let Operand::Tile(value) = &*b {
                        *b = to_shared(program, *value, &mut out);
                    }
                }
                Op::Roles(roles) => {
                    for role in roles {
                        role.body = self.block(program, std::mem::take(&mut role.body), role.warps)?;
                    }
                }
                op => {
                    for inner in op.blocks_mut() {
                        *inner = self.block(program, std::mem::take(inner), warps)?;
                    }
                }
            }
            out.push(stmt);
        }
        Ok(out)
    }

    fn dot(&self, program: &Program, operands: [&Operand; 2], acc: ValueId, warps: u32) -> DotShape {
        let declared = operands.map(|operand| match operand {
            Operand::Tile(value) => (program.value(*value).dtype, &program.value(*value).shape),
            Operand::Shared(slot) => (program.shared(slot.buffer).dtype, &program.shared(slot.buffer).shape),
        });
        let deep = [1, 0];
        let k_major = [0, 1].map(|side| match operands[side] {
            Operand::Tile(_) => true,
            Operand::Shared(slot) => self.dense.get(&slot.buffer).is_none_or(|axis| *axis == deep[side]),
        });
        let sum = program.value(acc);
        DotShape {
            extents: [sum.shape[0], sum.shape[1], declared[0].1[1]],
            types: [declared[0].0, declared[1].0, sum.dtype],
            k_major,
            warps,
        }
    }
}

/// For each shared buffer the axis that is dense where it comes from: that of the box, or of what a loaded tile was loaded from.
pub(super) fn dense_axes(body: &Block) -> HashMap<SharedId, usize> {
    let mut loaded: HashMap<ValueId, usize> = HashMap::new();
    let mut dense = HashMap::new();
    let inner = |view: &View| view.axes.last().copied().flatten();
    for stmt in body {
        stmt.walk(&mut |stmt| match &stmt.op {
            Op::Load { from: Place::View(view), .. } => {
                loaded.extend(inner(view).map(|axis| (stmt.results[0], axis)));
            }
            Op::For { carried, .. } => {
                let known: Vec<(ValueId, usize)> =
                    carried.iter().filter_map(|(inside, first)| Some((*inside, *loaded.get(first)?))).collect();
                loaded.extend(known);
            }
            Op::SharedStore { to, value } => {
                if let Some(axis) = loaded.get(value) {
                    dense.entry(to.buffer).or_insert(*axis);
                }
            }
            Op::Copy { from: view, to: slot, .. } | Op::CopyOut { to: view, from: slot } => {
                dense.extend(inner(view).map(|axis| (slot.buffer, axis)));
            }
            _ => {}
        });
    }
    dense
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
