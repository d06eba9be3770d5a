//! Roles, barriers, groups and fences.

use super::Lower;
use crate::error::Result;
use crate::expr::Expr;
use crate::ir::{BarrierId, Block, Fence, Group, Role};
use crate::threads::{self as t, Effect, Stmt};

/// Barriers of roles count down from this one; those that programs name count up.
const LAST_BARRIER: u32 = 15;

impl Lower<'_> {
    /// The threads of the role wait for each other.
    pub(super) fn sync(&mut self) -> Result<()> {
        let threads = self.threads()?;
        let effect = if threads.count == self.program.threads() {
            Effect::SyncThreads
        } else if threads.count == 32 {
            Effect::SyncWarp
        } else {
            let id = t::Expr::int((LAST_BARRIER + 1).saturating_sub(threads.role));
            Effect::NamedBarrier { id, threads: threads.count, wait: true }
        };
        self.push(Stmt::Effect(effect));
        Ok(())
    }

    /// Writes what each role does, for its own warps.
    pub(super) fn roles(&mut self, _roles: &[Role]) -> Result<()> {
        Err(self.internal("roles are not lowered yet"))
    }

    /// Writes what one thread of the role does.
    pub(super) fn elected(&mut self, _body: &Block) -> Result<()> {
        Err(self.internal("elected threads are not lowered yet"))
    }

    pub(super) fn expect(&mut self, _barrier: BarrierId, _index: &Expr, _bytes: u32) -> Result<()> {
        Err(self.internal("barriers are not lowered yet"))
    }

    pub(super) fn arrive(&mut self, _barrier: BarrierId, _index: &Expr) -> Result<()> {
        Err(self.internal("barriers are not lowered yet"))
    }

    pub(super) fn wait(&mut self, _barrier: BarrierId, _index: &Expr, _parity: &Expr) -> Result<()> {
        Err(self.internal("barriers are not lowered yet"))
    }

    pub(super) fn commit(&mut self, _group: Group) -> Result<()> {
        Err(self.internal("groups are not lowered yet"))
    }

    pub(super) fn wait_group(&mut self, _group: Group, _pending: u32) -> Result<()> {
        Err(self.internal("groups are not lowered yet"))
    }

    pub(super) fn fence(&mut self, _fence: Fence) -> Result<()> {
        Err(self.internal("fences are not lowered yet"))
    }

    pub(super) fn named_barrier(&mut self, _id: &Expr, _threads: u32, _wait: bool) -> Result<()> {
        Err(self.internal("named barriers are not lowered yet"))
    }

    pub(super) fn set_registers(&mut self, _count: u32, _increase: bool) -> Result<()> {
        Err(self.internal("register counts are not lowered yet"))
    }

    pub(super) fn cluster_sync(&mut self) -> Result<()> {
        Err(self.internal("clusters are not lowered yet"))
    }
}
