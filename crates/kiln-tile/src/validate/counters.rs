//! Counters in global memory, which CTAs that share a result hold in turn: here all CTAs of a launch count, one after another.
//!
//! Hardware starts CTAs in the order of their numbers. If each waits only for values that earlier ones leave, then whichever have started, the
//! earliest of them can go on: nothing is assumed of how many run at once.

use super::launches::Launch;
use super::{Finding, Scene};
use crate::dtype::Scalar;
use crate::error::Result;
use crate::interp::State;
use crate::ir::{Block, Op, Stmt};
use std::collections::HashMap;

/// A counter: its tensor's number, and which of them.
type Key = (u32, Vec<i128>);

/// What is known of a counter.
#[derive(Default)]
struct Counter {
    value: i128,
    /// The CTA that holds it.
    holder: Option<i128>,
    /// Whether any CTA has given it back.
    given: bool,
}

/// Checks what the CTAs of a launch do to counters.
pub(super) fn check(scene: Scene<'_>, launch: &Launch) -> Result<()> {
    if !holds_counters(&scene.program.body) {
        return Ok(());
    }
    let mut state = scene.state();
    launch.values.iter().for_each(|(var, value)| state.set(var, *value));
    let domain = &scene.program.domain;
    let extents: Vec<i128> = domain.iter().map(|axis| state.index(&axis.extent)).collect::<Result<_>>()?;
    let mut walk = Walk { scene, state, counters: HashMap::new(), cta: 0 };
    for cta in 0..extents.iter().product() {
        let mut rest = cta;
        for (axis, extent) in domain.iter().zip(&extents).rev() {
            walk.state.set(&axis.var, Scalar::Int(rest % extent));
            rest /= extent;
        }
        walk.cta = cta;
        walk.block(&scene.program.body)?;
        if let Some((_, at)) = walk.find(|counter| counter.holder == Some(cta)) {
            return scene.fail(Finding::Unfinished, "", None, format!("CTA {cta} ends and holds the counter {at:?}"));
        }
    }
    match walk.find(|counter| counter.value != 0) {
        Some((_, at)) => scene.fail(Finding::Unfinished, "", None, format!("the counter {at:?} is not left zero")),
        None => Ok(()),
    }
}

fn holds_counters(block: &Block) -> bool {
    let mut found = false;
    block.iter().for_each(|stmt| {
        stmt.walk(&mut |stmt| found |= matches!(stmt.op, Op::Await { .. } | Op::Signal { .. }));
    });
    found
}

struct Walk<'a> {
    scene: Scene<'a>,
    state: State,
    counters: HashMap<Key, Counter>,
    cta: i128,
}

impl<'a> Walk<'a> {
    /// The first counter, by its place, of which something holds.
    fn find(&self, holds: impl Fn(&Counter) -> bool) -> Option<Key> {
        self.counters.iter().filter(|(_, counter)| holds(counter)).map(|(key, _)| key.clone()).min()
    }

    fn fail<T>(&self, finding: Finding, stmt: &Stmt, what: String) -> Result<T> {
        self.scene.fail(finding, "", Some(stmt), format!("CTA {}: {what}", self.cta))
    }

    fn block(&mut self, block: &'a Block) -> Result<()> {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Result<()> {
        match &stmt.op {
            Op::Bind { var, value, .. } | Op::Assign { var, value, .. } => {
                // What depends on data is not asked for below, or found there.
                if let Ok(value) = self.state.eval(value) {
                    self.state.set(var, value);
                }
                Ok(())
            }
            Op::Await { counter, index, value } => {
                let (key, value) = ((counter.id, self.state.indices(index)?), self.state.index(value)?);
                let cta = self.cta;
                let known = self.counters.entry(key).or_default();
                let (found, holder) = (known.value, known.holder);
                if let Some(holder) = holder {
                    return self.fail(Finding::Counter, stmt, format!("CTA {holder} has awaited it too"));
                }
                if found != value {
                    let what = format!("it waits for {value}; earlier CTAs leave {found}");
                    return self.fail(Finding::Deadlock, stmt, what);
                }
                known.holder = Some(cta);
                Ok(())
            }
            Op::Signal { counter, index, value } => {
                let (key, value) = ((counter.id, self.state.indices(index)?), self.state.index(value)?);
                let cta = self.cta;
                let known = self.counters.entry(key).or_default();
                if known.holder != Some(cta) && (known.given || known.holder.is_some()) {
                    return self.fail(Finding::Counter, stmt, "it has not awaited what it gives back".to_owned());
                }
                *known = Counter { value, holder: None, given: true };
                Ok(())
            }
            op if !op.blocks().into_iter().any(holds_counters) => Ok(()),
            Op::If { cond, then, otherwise } => {
                let holds = self.state.holds(cond);
                match holds {
                    Ok(holds) => self.block(if holds { &then.0 } else { &otherwise.0 }),
                    Err(e) => self.fail(Finding::Control, stmt, format!("it depends on data: {e}")),
                }
            }
            Op::For { var, start, end, step, body, .. } => {
                let bounds = [start, end, step].map(|e| self.state.index(e));
                let [Ok(start), Ok(end), Ok(step)] = bounds else {
                    return self.fail(Finding::Control, stmt, "how often it runs depends on data".to_owned());
                };
                let mut at = start;
                while at < end {
                    self.state.set(var, Scalar::Int(at));
                    self.block(body)?;
                    at += step.max(1);
                }
                Ok(())
            }
            Op::Roles(roles) => roles.iter().try_for_each(|role| {
                (0..role.group_count()).try_for_each(|group| {
                    role.groups.iter().for_each(|(var, _)| self.state.set(var, Scalar::Int(group.into())));
                    self.block(&role.body)
                })
            }),
            op => op.blocks().into_iter().try_for_each(|block| self.block(block)),
        }
    }
}
