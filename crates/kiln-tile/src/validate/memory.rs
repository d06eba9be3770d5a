//! Who has seen what: vector clocks, and the accesses to each slot that they order.

use super::Finding;
use crate::ir::Stmt;

/// What is known at a point of the execution: for each part of the machine how many of its steps lie before, and how many of its writes have passed
/// a proxy fence on the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Stamp {
    pub now: Vec<u32>,
    pub fenced: Vec<u32>,
}

impl Stamp {
    pub fn new(parts: usize) -> Stamp {
        Stamp { now: vec![0; parts], fenced: vec![0; parts] }
    }

    /// Knows what `other` knows too.
    pub fn join(&mut self, other: &Stamp) {
        most(&mut self.now, &other.now);
        most(&mut self.fenced, &other.fenced);
    }

    /// Everything known has passed a proxy fence.
    pub fn fence(&mut self) {
        most(&mut self.fenced, &self.now);
    }
}

fn most(into: &mut [u32], from: &[u32]) {
    into.iter_mut().zip(from).for_each(|(into, from)| *into = (*into).max(*from));
}

/// Numbers of the parts of the machine that a stamp counts steps of.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub agents: usize,
    pub groups: usize,
    pub barriers: usize,
    /// Named barriers of all CTAs, then the cluster's.
    pub named: usize,
}

impl Parts {
    /// Ordinary accesses of an agent.
    pub fn accesses(self, agent: usize) -> usize {
        agent
    }

    /// Waits of an agent for phases.
    pub fn waits(self, agent: usize) -> usize {
        self.agents + agent
    }

    /// Its groups of `cp.async`.
    pub fn copies(self, agent: usize) -> usize {
        2 * self.agents + agent
    }

    /// Its groups of bulk stores.
    pub fn bulk(self, agent: usize) -> usize {
        3 * self.agents + agent
    }

    /// What it does in other CTAs of its cluster.
    pub fn elsewhere(self, agent: usize) -> usize {
        4 * self.agents + agent
    }

    /// Groups of products of a warpgroup.
    pub fn products(self, group: usize) -> usize {
        5 * self.agents + group
    }

    /// Phases of an mbarrier.
    pub fn barrier(self, barrier: usize) -> usize {
        5 * self.agents + self.groups + barrier
    }

    /// Rounds of a named barrier.
    pub fn named(self, id: usize) -> usize {
        5 * self.agents + self.groups + self.barriers + id
    }

    pub fn total(self) -> usize {
        self.named(self.named)
    }
}

/// An access to a slot.
#[derive(Clone, Copy)]
pub(super) struct Access<'a> {
    /// The part that counts it, and its number there.
    pub part: usize,
    pub step: u32,
    /// Whether it is made by the tensor memory accelerator or by a product.
    pub asynchronous: bool,
    pub stmt: &'a Stmt,
    pub role: &'a str,
}

impl Access<'_> {
    fn before(&self, stamp: &Stamp) -> bool {
        stamp.now[self.part] >= self.step
    }

    fn fenced(&self, stamp: &Stamp) -> bool {
        self.asynchronous || stamp.fenced[self.part] >= self.step
    }
}

/// The last accesses to a slot by each part.
#[derive(Clone, Default)]
pub(super) struct SlotState<'a> {
    writes: Vec<Access<'a>>,
    reads: Vec<Access<'a>>,
}

/// What is wrong with an access, and the one that it conflicts with.
pub(super) type Conflict<'a> = (Finding, Option<Access<'a>>);

impl<'a> SlotState<'a> {
    /// A read that starts where `stamp` is known.
    pub fn read(&mut self, access: Access<'a>, stamp: &Stamp) -> Result<(), Conflict<'a>> {
        if self.writes.is_empty() {
            return Err((Finding::Unwritten, None));
        }
        if let Some(write) = self.writes.iter().find(|write| !write.before(stamp)) {
            return Err((Finding::ReadEarly, Some(*write)));
        }
        if let Some(write) = self.writes.iter().find(|write| access.asynchronous && !write.fenced(stamp)) {
            return Err((Finding::ProxyFence, Some(*write)));
        }
        note(&mut self.reads, access);
        Ok(())
    }

    /// A write that starts where `stamp` is known.
    pub fn write(&mut self, access: Access<'a>, stamp: &Stamp) -> Result<(), Conflict<'a>> {
        if let Some(read) = self.reads.iter().find(|read| !read.before(stamp)) {
            return Err((Finding::WrittenEarly, Some(*read)));
        }
        // Threads that write by one statement write elements of their own.
        let apart = |write: &Access<'_>| std::ptr::eq(write.stmt, access.stmt) && write.part != access.part;
        if let Some(write) = self.writes.iter().find(|write| !apart(write) && !write.before(stamp)) {
            return Err((Finding::WrittenEarly, Some(*write)));
        }
        if let Some(write) = self.writes.iter().find(|write| access.asynchronous && !write.fenced(stamp)) {
            return Err((Finding::ProxyFence, Some(*write)));
        }
        note(&mut self.writes, access);
        Ok(())
    }

    /// Writes of other parts than agents that nobody knows to have ended.
    pub fn unfinished(&self, known: &[&Stamp]) -> Option<Access<'a>> {
        self.writes.iter().find(|write| write.asynchronous && !known.iter().any(|stamp| write.before(stamp))).copied()
    }
}

/// Keeps the last access of each part: the earlier ones lie before it, or were found to conflict.
fn note<'a>(accesses: &mut Vec<Access<'a>>, access: Access<'a>) {
    accesses.retain(|known| known.part != access.part);
    accesses.push(access);
}
