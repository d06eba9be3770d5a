//! Gives every dot an instruction, and brings its operands to where the instruction reads them.

use super::Machine;
use super::machine::DotShape;
use crate::error::{Result, TileError};
use crate::expr::Expr;
use crate::ir::{Block, CopyKind, Op, Operand, Place, Program, Shared, SharedId, Slot, Stage, Stmt, ValueId};
use kiln_num::Round;
use kiln_target::atoms::MmaKind;
use std::collections::{HashMap, HashSet};

/// Runs the pass.
pub fn select(program: &mut Program, machine: &Machine) -> Result<()> {
    let body = std::mem::take(&mut program.body);
    let warps = program.schedule.warps;
    let pass = Pass { machine, dense: dense_axes(&body), boxed: boxed(&body) };
    program.body = pass.block(program, body, warps)?;
    Ok(())
}

struct Pass<'a> {
    machine: &'a Machine,
    dense: HashMap<SharedId, usize>,
    /// What the accelerator alone writes, and nothing but products rounded as it rounds read.
    boxed: HashSet<SharedId>,
}

impl Pass<'_> {
    fn block(&self, program: &mut Program, from: Block, warps: u32) -> Result<Block> {
        let mut out = vec![];
        for mut stmt in from {
            match &mut stmt.op {
                Op::Dot { a, b, acc, tf32, atom } if atom.is_none() => {
                    let dot = self.dot(program, [a, b], *acc, *tf32, warps);
                    let rounds = tf32.is_none_or(|round| self.machine.atoms.tf32_roundings().contains(&round));
                    let Some(found) = self.machine.dot_atom(&dot).filter(|_| rounds) else {
                        let [left, right, sum] = dot.types;
                        let (rounded, help) = match rounds {
                            true => {
                                ("", "cast the operands to the type of the sum, or to types that tensor cores take")
                            }
                            false => (" rounded to TF32 so", "leave `tf32` out, or send ties elsewhere"),
                        };
                        return Err(TileError::Unsupported {
                            kernel: program.name.clone(),
                            arch: self.machine.arch(),
                            what: format!("a product of {left} and {right}{rounded} summed in {sum}"),
                            help: help.to_owned(),
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

    fn dot(
        &self,
        program: &Program,
        operands: [&Operand; 2],
        acc: ValueId,
        tf32: Option<Round>,
        warps: u32,
    ) -> DotShape {
        let declared = operands.map(|operand| match operand {
            Operand::Tile(value) => (program.value(*value).dtype, &program.value(*value).shape),
            Operand::Shared(slot) => (program.shared(slot.buffer).dtype, &program.shared(slot.buffer).shape),
        });
        let deep = [1, 0];
        let k_major = [0, 1].map(|side| match operands[side] {
            Operand::Tile(_) => true,
            Operand::Shared(slot) => self.dense.get(&slot.buffer).is_none_or(|axis| *axis == deep[side]),
        });
        let rounded = operands.map(|operand| match operand {
            Operand::Tile(_) => true,
            Operand::Shared(slot) => self.boxed.contains(&slot.buffer),
        });
        let sum = program.value(acc);
        DotShape {
            extents: [sum.shape[0], sum.shape[1], declared[0].1[1]],
            types: [declared[0].0, declared[1].0, sum.dtype],
            k_major,
            warps,
            tf32: tf32.map(|_| rounded),
        }
    }
}

/// For each shared buffer the axis that is dense where it comes from: that of the box, or of what a loaded tile was loaded from.
pub(super) fn dense_axes(body: &Block) -> HashMap<SharedId, usize> {
    let mut loaded: HashMap<ValueId, usize> = HashMap::new();
    let mut dense = HashMap::new();
    for stmt in body {
        stmt.walk(&mut |stmt| match &stmt.op {
            Op::Load { from: Place::View(view), .. } => {
                loaded.extend(view.inner().map(|axis| (stmt.results[0], axis)));
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
                dense.extend(view.inner().map(|axis| (slot.buffer, axis)));
            }
            _ => {}
        });
    }
    dense
}

/// Shared buffers that the tensor memory accelerator alone writes, and that nothing reads but dots which round to TF32 as it does.
fn boxed(body: &Block) -> HashSet<SharedId> {
    let (mut boxes, mut others) = (HashSet::new(), HashSet::new());
    for stmt in body {
        stmt.walk(&mut |stmt| match &stmt.op {
            Op::Copy { to, kind: CopyKind::Tma, .. } => {
                boxes.insert(to.buffer);
            }
            Op::Copy { to: slot, .. }
            | Op::SharedStore { to: slot, .. }
            | Op::SharedLoad { from: slot }
            | Op::CopyOut { from: slot, .. } => {
                others.insert(slot.buffer);
            }
            Op::Dot { a, b, tf32, .. } if *tf32 != Some(Round::Nearest) => {
                let slot =
                    |operand: &Operand| if let Operand::Shared(slot) = operand { Some(slot.buffer) } else { None };
                others.extend([a, b].into_iter().filter_map(slot));
            }
            _ => {}
        });
    }
    boxes.retain(|buffer| !others.contains(buffer));
    boxes
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
