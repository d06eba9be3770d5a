//! What all CTAs of a cluster load alike, each brings a part of, to all.

use super::Machine;
use crate::expr::{BinaryOp, Expr, ExprKind, Var};
use crate::ir::{Block, ChannelId, CopyKind, Op, Program, SharedId, Slot, Stage};
use std::collections::{HashMap, HashSet};

/// Runs the pass on boxes that can be cut in parts, of channels whose slots every CTA of a cluster fills as often.
pub fn multicast(program: &mut Program, machine: &Machine) {
    let ctas = program.schedule.cluster;
    let ([cta], true) = (&program.domain[..], ctas > 1 && machine.has_multicast()) else { return };
    let (cta, own) = (cta.var.clone(), HashSet::from([cta.var.id]));
    let mut found = Found { ctas: ctas.into(), cta, own, copies: HashMap::new(), uneven: HashSet::new() };
    found.block(&program.body, false);
    let whole = |buffer: &SharedId| {
        let boxes = program.shared(*buffer).layout.as_ref().and_then(|layout| layout.tma_box());
        boxes.is_some_and(|boxes| boxes.cut(ctas).is_some())
    };
    let Found { mut copies, uneven, .. } = found;
    copies.retain(|buffer, (channel, alike)| *alike && !uneven.contains(channel) && whole(buffer));
    for stmt in &mut program.body {
        stmt.walk_mut(&mut |stmt| match &mut stmt.op {
            Op::Copy { to, kind, .. } if copies.contains_key(&to.buffer) => *kind = CopyKind::Multicast,
            _ => {}
        });
    }
}

/// What copies of a program do in the CTAs of a cluster.
struct Found {
    ctas: i128,
    cta: Var,
    /// Variables that may differ between them.
    own: HashSet<u32>,
    /// By buffer the channel, and whether all copies are of boxes that are alike.
    copies: HashMap<SharedId, (ChannelId, bool)>,
    /// Channels that not every one fills as often.
    uneven: HashSet<ChannelId>,
}

impl Found {
    fn block(&mut self, block: &Block, uneven: bool) {
        for stmt in block {
            let mut inside = uneven;
            match &stmt.op {
                Op::Bind { var, value, .. } | Op::Assign { var, value, .. } if self.differs(value) => {
                    self.own.insert(var.id);
                }
                Op::For { var, start, end, step, .. } if [start, end, step].into_iter().any(|e| self.differs(e)) => {
                    self.own.insert(var.id);
                    inside = true;
                }
                Op::If { cond, .. } => inside |= self.differs(cond),
                Op::Copy { from, to: Slot { buffer, stage: Stage::Cursor(channel) }, kind: CopyKind::Tma, .. } => {
                    // Of windows no parts are asked for.
                    let alike = from.walks.is_empty() && !from.origin.iter().any(|e| self.differs(e));
                    self.copies.entry(*buffer).or_insert((*channel, true)).1 &= alike;
                    if uneven {
                        self.uneven.insert(*channel);
                    }
                }
                _ => {}
            }
            stmt.op.blocks().into_iter().for_each(|block| self.block(block, inside));
        }
    }

    /// Whether a scalar may differ between the CTAs of a cluster; the number of the cluster does not.
    fn differs(&self, e: &Expr) -> bool {
        match e.kind() {
            ExprKind::Var(var) => self.own.contains(&var.id),
            ExprKind::Binary(BinaryOp::Div, cta, ctas)
                if *cta == Expr::var(&self.cta) && ctas.as_const() == Some(self.ctas) =>
            {
                false
            }
            _ => {
                let mut found = false;
                e.map_operands(&mut |e| {
                    found |= self.differs(e);
                    e.clone()
                });
                found
            }
        }
    }
}
