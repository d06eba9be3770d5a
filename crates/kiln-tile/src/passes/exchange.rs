//! What CTAs of a cluster combine goes through their shared memory: each puts its own part down, all wait, all read all parts. Each exchange has
//! a buffer of its own, so one barrier does; another, which a CTA arrives at after its last read and waits for at its end, keeps shared memory until
//! the others have read it.

use crate::error::{Result, TileError};
use crate::expr::Expr;
use crate::ir::{Op, Program, Shared, SharedId, Slot, Stage, Stmt, Value};
use kiln_layout::SharedLayout;

/// Runs the pass before channels become barriers.
pub fn exchange(program: &mut Program) -> Result<()> {
    let mut out = vec![];
    let mut read = None;
    for stmt in std::mem::take(&mut program.body) {
        let Op::ClusterReduce { of } = &stmt.op else {
            out.push(stmt);
            continue;
        };
        let mut loads = vec![];
        for ((op, value), result) in of.iter().zip(&stmt.results) {
            let Value { name, dtype, shape, .. } = program.value(*value).clone();
            let layout = SharedLayout::row_major(&shape, dtype.bits() / 8).map_err(|e| TileError::Invalid {
                kernel: program.name.clone(),
                what: format!("`{name}` in shared memory: {e}"),
                place: "async".to_owned(),
                help: "combine tiles of whole bytes".to_owned(),
            })?;
            let shared = Shared { name, dtype, shape, stages: 1, layout: Some(layout), offset: None };
            program.shared.push(shared);
            let slot = Slot { buffer: SharedId(program.shared.len() as u32 - 1), stage: Stage::Index(Expr::index(0)) };
            out.push(Stmt::effect(Op::SharedStore { to: slot.clone(), value: *value }));
            loads.push(Stmt { results: vec![*result], op: Op::ClusterLoad { op: *op, from: slot } });
        }
        out.push(Stmt::effect(Op::ClusterSync));
        out.append(&mut loads);
        read = Some(out.len());
    }
    if let Some(read) = read {
        out.insert(read, Stmt::effect(Op::ClusterArrive));
        out.push(Stmt::effect(Op::ClusterWait));
    }
    program.body = out;
    Ok(())
}
