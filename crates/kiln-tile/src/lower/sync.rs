//! Roles, barriers, groups and fences.

use super::{Lower, Threads};
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::ir::{self, Arriver, BarrierId, Block, Fence, Group, Op, Role, Turn};
use crate::program::Buffer;
use crate::threads::{self as t, Effect, Stmt};

/// Barriers of roles count down from this one; those that programs name count up.
pub(crate) const LAST_BARRIER: u32 = 15;
/// The first of the two barriers at which warpgroups take turns: after those of at most four roles.
pub(crate) const FIRST_TURN: i64 = 6;
/// Bytes of an mbarrier.
const BARRIER_BYTES: u32 = 8;

impl Lower<'_> {
    /// The threads of the role wait for each other.
    pub(super) fn sync(&mut self) -> Result<()> {
        let threads = self.threads()?;
        let effect = if threads.count == self.program.threads() {
            Effect::SyncThreads
        } else if threads.count == 32 {
            Effect::SyncWarp
        } else {
            let id = self.in_group(t::Expr::int((LAST_BARRIER + 1).saturating_sub(threads.role)), t::Binary::Sub, 1)?;
            Effect::NamedBarrier { id, threads: threads.count, wait: true }
        };
        self.push(Stmt::Effect(effect));
        Ok(())
    }

    /// Sets up the mbarriers, which all threads then see.
    pub(super) fn init_barriers(&mut self) -> Result<()> {
        if self.program.barriers.is_empty() {
            return Ok(());
        }
        let first = self.is_first()?;
        let mut body = vec![];
        for id in 0..self.program.barriers.len() as u32 {
            let barrier = self.program.barrier(BarrierId(id));
            let (stages, count) = (barrier.stages, barrier.count);
            for stage in 0..stages {
                let address = self.barrier_address(BarrierId(id), &Expr::index(stage.into()))?;
                body.push(Stmt::Effect(Effect::BarrierInit { address, count }));
            }
        }
        body.push(Stmt::Effect(Effect::Fence(Fence::BarrierInit)));
        self.push(Stmt::If { cond: first, then: body, otherwise: vec![] });
        // Those of a cluster meet by the first statement, if there is anything that they share.
        if !matches!(self.program.body.first(), Some(ir::Stmt { op: Op::ClusterSync, .. })) {
            self.push(Stmt::Effect(Effect::SyncThreads));
        }
        Ok(())
    }

    /// Whether the thread is the first of its role.
    fn is_first(&mut self) -> Result<t::Expr> {
        let first = self.thread()?.eq(0);
        self.expr(&first)
    }

    /// Shared address of a barrier.
    pub(super) fn barrier_address(&mut self, barrier: BarrierId, index: &Expr) -> Result<t::Expr> {
        let offset = self.shared.barriers.get(barrier.0 as usize).copied();
        let offset = offset.ok_or_else(|| self.internal("a barrier that is not declared"))?;
        let bytes = index * i64::from(BARRIER_BYTES) + i64::from(offset);
        Ok(t::Expr::SharedAddress(Box::new(self.expr(&bytes)?)))
    }

    /// Writes what each role does, for its own warps.
    pub(super) fn roles(&mut self, roles: &[Role]) -> Result<()> {
        let thread = self.thread()?;
        let mut first = 0;
        let mut arms = vec![];
        let mut number = 1;
        for role in roles {
            let (count, groups) = (32 * role.warps, role.group_count());
            let threads = Threads { first, count, role: number, groups };
            let body = self.frame(threads, |lower| {
                lower.push(Stmt::Comment(role.name.to_string()));
                if let Some((var, _)) = &role.groups {
                    lower.group(var, threads)?;
                }
                lower.block(&role.body)
            })?;
            first += count * groups;
            number += groups;
            let within = thread.lt(i64::from(first));
            arms.push((self.expr(&within)?, body));
        }
        let mut rest = vec![];
        while let Some((cond, body)) = arms.pop() {
            rest = if rest.is_empty() && !arms.is_empty() {
                body
            } else {
                vec![Stmt::If { cond, then: body, otherwise: rest }]
            };
        }
        rest.into_iter().for_each(|stmt| self.push(stmt));
        Ok(())
    }

    /// Names the number of the group that a thread of a role is in.
    fn group(&mut self, var: &Var, threads: Threads) -> Result<()> {
        self.facts.set_axis(var, &Expr::index(threads.groups.into()));
        let named = self.declare(var);
        let within = t::Expr::thread().op(t::Binary::Sub, t::Expr::int(threads.first));
        self.push(Stmt::constant(&named, within.op(t::Binary::Div, t::Expr::int(threads.count))));
        if let Some(frame) = self.frames.last_mut() {
            frame.group = Some(var.clone());
        }
        Ok(())
    }

    /// `first` of the role's first group, and of each that follows so much more or less.
    pub(super) fn in_group(&mut self, first: t::Expr, sign: t::Binary, each: u32) -> Result<t::Expr> {
        let Some(group) = self.top()?.group.clone() else { return Ok(first) };
        let group = self.expr(&Expr::var(&group))?;
        Ok(first.op(sign, group.times(t::Expr::int(each))))
    }

    /// Writes what one thread of the role does.
    pub(super) fn elected(&mut self, body: &Block) -> Result<()> {
        let first = self.is_first()?;
        self.when(first, |lower| lower.block(body))
    }

    /// Writes how one thread waits for a counter, or gives it back.
    pub(super) fn counter_effect(&mut self, counter: &Buffer, index: &[Expr], value: &Expr, wait: bool) -> Result<()> {
        let pointer = self.buffers.get(&counter.id).map(t::Expr::from);
        let pointer = pointer.ok_or_else(|| self.internal("a counter that is no parameter"))?;
        let (index, value) = (self.expr(&counter.offset(index))?, self.expr(value)?.cast(t::Scalar::I32));
        self.push(Stmt::Effect(match wait {
            true => Effect::CounterWait { pointer, index, value },
            false => Effect::CounterSet { pointer, index, value },
        }));
        Ok(())
    }

    pub(super) fn expect(&mut self, barrier: BarrierId, index: &Expr, bytes: u32) -> Result<()> {
        let address = self.barrier_address(barrier, index)?;
        self.push(Stmt::Effect(Effect::BarrierExpect { address, bytes }));
        Ok(())
    }

    pub(super) fn arrive(&mut self, barrier: BarrierId, index: &Expr, everywhere: bool) -> Result<()> {
        let address = self.barrier_address(barrier, index)?;
        // One thread arrives at all: where each had its own, ptxas would not let products run on (its note C7514).
        let arrive: t::Block = match everywhere {
            true => {
                let at = |rank: u32| Effect::BarrierArriveRemote { address: address.clone(), rank: t::Expr::int(rank) };
                (0..self.program.schedule.cluster).map(at).map(Stmt::Effect).collect()
            }
            false => vec![Stmt::Effect(Effect::BarrierArrive { address })],
        };
        let team = match self.program.barrier(barrier).by {
            Arriver::Thread => {
                arrive.into_iter().for_each(|stmt| self.push(stmt));
                return Ok(());
            }
            Arriver::Warp => {
                self.push(Stmt::Effect(Effect::SyncWarp));
                32
            }
            Arriver::Warpgroup => 128,
        };
        let one = (self.thread()? % team).eq(0);
        let one = self.expr(&one)?;
        self.push(Stmt::If { cond: one, then: arrive, otherwise: vec![] });
        Ok(())
    }

    pub(super) fn wait(&mut self, barrier: BarrierId, index: &Expr, parity: &Expr) -> Result<()> {
        let address = self.barrier_address(barrier, index)?;
        let parity = self.expr(parity)?;
        self.push(Stmt::Effect(Effect::BarrierWait { address, parity }));
        Ok(())
    }

    pub(super) fn commit(&mut self, group: Group) -> Result<()> {
        self.push(Stmt::Effect(Effect::Commit(group)));
        Ok(())
    }

    pub(super) fn wait_group(&mut self, group: Group, pending: u32) -> Result<()> {
        self.push(Stmt::Effect(Effect::WaitGroup { group, pending }));
        Ok(())
    }

    pub(super) fn fence(&mut self, fence: Fence) -> Result<()> {
        self.push(Stmt::Effect(Effect::Fence(fence)));
        Ok(())
    }

    pub(super) fn named_barrier(&mut self, id: &Expr, threads: u32, wait: bool) -> Result<()> {
        let id = self.expr(id)?;
        self.push(Stmt::Effect(Effect::NamedBarrier { id, threads, wait }));
        Ok(())
    }

    /// Writes how two warpgroups take turns, each at a barrier of its own.
    pub(super) fn turn(&mut self, turn: Turn) -> Result<()> {
        let group = self.thread()? / 128;
        let own = self.expr(&(&group + FIRST_TURN))?;
        let other = self.expr(&(Expr::index(FIRST_TURN + 1) - &group))?;
        let meet = |id: t::Expr, wait: bool| Stmt::Effect(Effect::NamedBarrier { id, threads: 256, wait });
        let (of, then) = match turn {
            Turn::Start => (Some(1), meet(other, false)),
            Turn::Wait => (None, meet(own, true)),
            Turn::Pass => (None, meet(other, false)),
            Turn::End => (Some(0), meet(own, true)),
        };
        let Some(of) = of else {
            self.push(then);
            return Ok(());
        };
        let cond = self.expr(&group.eq(of))?;
        self.push(Stmt::If { cond, then: vec![then], otherwise: vec![] });
        Ok(())
    }

    pub(super) fn set_registers(&mut self, count: u32, increase: bool) -> Result<()> {
        self.push(Stmt::Effect(Effect::SetRegisters { count, increase }));
        Ok(())
    }

    pub(super) fn effect(&mut self, effect: Effect) -> Result<()> {
        self.push(Stmt::Effect(effect));
        Ok(())
    }
}
