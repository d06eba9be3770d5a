//! Schedules with a mistake, or with a change that is none.

use kiln_tile::ir::{Block, Op, Program, verify};

/// Whether a statement orders others.
fn orders(op: &Op) -> bool {
    matches!(
        op,
        Op::Wait { .. }
            | Op::Expect { .. }
            | Op::Arrive { .. }
            | Op::Copy { .. }
            | Op::CopyOut { .. }
            | Op::SharedStore { .. }
            | Op::Commit(_)
            | Op::WaitGroup { .. }
            | Op::Fence(_)
            | Op::Sync
            | Op::NamedBarrier { .. }
            | Op::Turn(_)
            | Op::SetRegisters { .. }
            | Op::ClusterSync
            | Op::ClusterArrive
            | Op::ClusterWait
    )
}

/// Blocks that hold statements that order others.
pub fn blocks(block: &mut Block, visit: &mut dyn FnMut(&mut Block)) {
    for stmt in block.iter_mut() {
        stmt.op.blocks_mut().into_iter().for_each(|inner| blocks(inner, visit));
    }
    if block.iter().any(|stmt| orders(&stmt.op)) {
        visit(block);
    }
}

/// Drops, doubles or swaps a statement; says which, if the program still keeps the rules of the language.
pub fn mutate(program: &mut Program, random: &mut fastrand::Rng) -> Option<String> {
    let mut body = std::mem::take(&mut program.body);
    let mut count = 0;
    blocks(&mut body, &mut |block| count += block.iter().filter(|stmt| orders(&stmt.op)).count());
    let (mut target, kind) = (random.usize(..count), random.usize(..3));
    let mut done = None;
    blocks(&mut body, &mut |block| {
        let places: Vec<usize> = (0..block.len()).filter(|i| orders(&block[*i].op)).collect();
        if let (Some(&at), None) = (places.get(target), &done) {
            // Results that do not leave are what is computed, not when.
            let kind = if matches!(block[at].op, Op::CopyOut { .. }) { kind.max(1) } else { kind };
            let after = block[..at].iter().any(|stmt| matches!(stmt.op, Op::For { .. }));
            let text = |at: usize| match &block[at].op {
                Op::WaitGroup { group, .. } => format!("wait_group {group:?}"),
                Op::Commit(group) => format!("commit {group:?}"),
                Op::Fence(fence) => format!("fence {fence:?}"),
                Op::Turn(turn) => format!("turn {turn:?}"),
                op => op.name().to_owned(),
            };
            done = match kind {
                0 => Some(format!("drop {}", text(at))),
                1 => Some(format!("double {}", text(at))),
                _ if at + 1 < block.len() => Some(format!("swap {}, {}", text(at), text(at + 1))),
                _ => None,
            };
            done = done.take().map(|done| if after { format!("{done} after the loop") } else { done });
            match kind {
                0 => _ = block.remove(at),
                1 => block.insert(at, block[at].clone()),
                _ if at + 1 < block.len() => block.swap(at, at + 1),
                _ => {}
            }
            target = usize::MAX;
        } else {
            target = target.wrapping_sub(places.len());
        }
    });
    program.body = body;
    verify(program).is_ok().then_some(done).flatten()
}
