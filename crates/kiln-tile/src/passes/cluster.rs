//! Makes the domain whole clusters: CTAs of one have neighbouring points along an axis.

use super::Machine;
use crate::ir::{Op, Program, Scalar};

/// Runs the pass: fills up the axis, or gives up clusters where nothing could be shared. What CTAs combine is part of what is computed: such
/// clusters stay as they are, and are whole, as the verifier asks.
pub fn cluster(program: &mut Program, machine: &Machine) {
    if program.combines() {
        return;
    }
    let shares = program.schedule.specialise && machine.has_multicast() && !minds(program);
    let Some(axis) = program.cluster_axis().filter(|_| shares) else {
        program.schedule.cluster = 1;
        return;
    };
    let ctas = i64::from(program.schedule.cluster);
    let extent = &mut program.domain[axis].extent;
    if extent.as_const().is_none_or(|extent| extent % i128::from(ctas) != 0) {
        *extent = extent.ceil_div(ctas) * ctas;
    }
}

/// Whether points outside of the domain would be noticed: counters have none for them, and checks find faults there.
fn minds(program: &Program) -> bool {
    let mut found = false;
    for stmt in &program.body {
        stmt.walk(&mut |stmt| {
            found |= match &stmt.op {
                Op::Await { .. } | Op::Signal { .. } => true,
                Op::Map { body, .. } => body.iter().any(|scalar| matches!(scalar, Scalar::Check { .. })),
                _ => false,
            }
        });
    }
    found
}

impl Program {
    /// Whether the CTAs of a cluster combine what they have.
    pub(super) fn combines(&self) -> bool {
        self.body.iter().any(|stmt| matches!(stmt.op, Op::ClusterReduce { .. }))
    }

    /// The axis of the domain along which CTAs of a cluster are neighbours; `None` without clusters.
    pub(super) fn cluster_axis(&self) -> Option<usize> {
        let (axes, schedule) = (self.domain.len(), &self.schedule);
        if schedule.cluster == 1 || axes == 0 {
            return None;
        }
        Some(if schedule.across { axes - 1 } else { axes.saturating_sub(2) })
    }
}
