//! Two groups of warps that compute take tile after tile in turn ("ping-pong"): while one multiplies, the other stores its results. They share the
//! channels: each moves past the slots of the other's tile. Both run one role's code: twice the code would take twice as long to compile.
//!
//! ```text
//! for tile from cta by ctas { for k { receive; dot; release }; store }
//! ```
//! becomes, of group 0 or 1,
//! ```text
//! skip group tiles; for tile from cta + group ctas by 2 ctas { wait for the turn; for k { receive; dot; release }; pass it on; store; skip a tile }
//! ```
//!
//! Turns are more than order: an mbarrier tells a phase from the next alone, so nobody may wait for a slot before the one before has been filled.

use crate::dtype::Type;
use crate::expr::{Expr, ExprKind};
use crate::ir::{Block, ChannelId, Op, Program, Role, Stmt};
use crate::lower::FIRST_TURN;

/// Warps of each of the two groups: more would have too few registers.
const GROUP: u32 = 4;

/// Runs the pass if the schedule asks for it and every tile has as many slots.
pub fn alternate(program: &mut Program) {
    if !program.schedule.ping_pong {
        return;
    }
    let [Stmt { op: Op::Roles(roles), .. }] = &program.body[..] else { return };
    let [producer, consumer] = &roles[..] else { return };
    let (Some(taken), GROUP) = (taken(&consumer.body), consumer.warps) else { return };
    let (producer, consumer) = (producer.clone(), consumer.clone());
    let group = program.add_var("group", Type::Index);
    let body = turns(consumer.body, &taken, &Expr::var(&group));
    let consumer = Role { body, groups: Some((group, 2)), ..consumer };
    program.body = vec![Stmt::effect(Op::Roles(vec![producer, consumer]))];
}

/// What a tile takes: slots of each channel, in the statement of that number of the loop over tiles.
struct Taken {
    at: usize,
    slots: Vec<(ChannelId, Expr)>,
}

/// What every tile takes, if the role is a loop over tiles, in each of which one loop multiplies, and as often.
fn taken(role: &Block) -> Option<Taken> {
    let Op::For { var: tile, body, carried, .. } = &role.last()?.op else { return None };
    let receives = |stmt: &Stmt| {
        let mut found = false;
        stmt.walk(&mut |stmt| found |= matches!(stmt.op, Op::Receive(_)));
        found
    };
    let all: Vec<usize> = (0..body.len()).filter(|i| receives(&body[*i])).collect();
    let ([at], true) = (&all[..], carried.is_empty()) else { return None };
    let Op::For { start, end, step, body: inner, .. } = &body[*at].op else { return None };
    let count = (end - start).max(0).ceil_div(step.clone());
    // What differs between tiles.
    let bound = body.iter().filter_map(|stmt| if let Op::Bind { var, .. } = &stmt.op { Some(var.id) } else { None });
    let named: Vec<u32> = bound.chain([tile.id]).collect();
    let mut same = true;
    count.walk(&mut |e| same &= !matches!(e.kind(), ExprKind::Var(var) if named.contains(&var.id)));
    let slots: Vec<(ChannelId, Expr)> = inner
        .iter()
        .filter_map(|stmt| if let Op::Receive(channel) = stmt.op { Some((channel, count.clone())) } else { None })
        .collect();
    let direct = inner.iter().filter(|stmt| receives(stmt)).count() == slots.len();
    (same && direct).then_some(Taken { at: *at, slots })
}

/// The tiles of one of the two groups.
fn turns(mut role: Block, taken: &Taken, group: &Expr) -> Block {
    let meet = |id: Expr, wait: bool| Stmt::effect(Op::NamedBarrier { id, threads: 2 * 32 * GROUP, wait });
    let (wait, pass) = (meet(group + FIRST_TURN, true), meet(Expr::index(FIRST_TURN + 1) - group, false));
    let skip = |tiles: &Expr| {
        let skip = |(channel, slots): &(ChannelId, Expr)| Op::Skip { channel: *channel, slots: slots * tiles };
        taken.slots.iter().map(skip).map(Stmt::effect).collect::<Block>()
    };
    let when =
        |cond: Expr, then: Stmt| Stmt::effect(Op::If { cond, then: (vec![then], vec![]), otherwise: (vec![], vec![]) });
    let Some(Stmt { op: Op::For { start, end, step, body, .. }, .. }) = role.last_mut() else { return role };
    let tiles = (&*end - &*start).max(0).ceil_div(step.clone());
    *start = &*start + &*step * group;
    *step = &*step * 2;
    body.insert(taken.at + 1, pass.clone());
    body.insert(taken.at, wait.clone());
    body.extend(skip(&Expr::index(1)));
    let at = role.len() - 1;
    role.splice(at..at, skip(group).into_iter().chain([when(group.eq(1), pass)]));
    // The turn that nobody waits for is taken back by whose it is.
    role.push(when((tiles % 2).eq(group.clone()), wait));
    role
}
