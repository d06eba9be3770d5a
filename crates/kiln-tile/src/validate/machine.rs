//! Executes the events of all roles of all CTAs of a cluster, and orders them. Each CTA has slots and barriers of its own, the cluster one barrier
//! together. An agent is a group of threads that do the same: of each role the warp of the thread that is
//! elected and the other warps, of each warpgroup where those matter.

mod ends;

use super::barriers::{Phases, Rounds, Wrong};
use super::flight::Registers;
use super::memory::{Access, Parts, SlotState, Stamp};
use super::trace::{Act, Event, NAMED, Plan, Trace};
use super::{Finding, Scene};
use crate::error::{Result, TileError};
use crate::ir::{Arriver, Fence, Grid, Group, Stmt, Turn};
use crate::lower::FIRST_TURN;
use std::collections::HashMap;
use std::ops::Range;

/// Registers of a CTA, and the most of a thread.
const REGISTERS: u32 = 65536;
const MOST_OF_A_THREAD: u32 = 255;
/// Warps of a warpgroup, and threads of a warp.
const GROUP: u32 = 4;
const WARP: u32 = 32;

/// Runs all roles to their ends.
pub(super) fn run(scene: Scene<'_>, plan: &Plan, roles: &[Trace<'_>]) -> Result<()> {
    let mut machine = Machine::new(scene, plan, roles);
    loop {
        let mut moved = false;
        for agent in 0..machine.agents.len() {
            while machine.step(agent)? {
                moved = true;
            }
        }
        if machine.agents.iter().all(|agent| agent.event(roles).is_none()) {
            return machine.ended();
        }
        if !moved {
            return machine.deadlock();
        }
    }
}

/// A group of threads.
struct Agent<'a> {
    role: usize,
    /// Its CTA in the cluster.
    cta: usize,
    threads: u32,
    /// Whether the thread that is elected is among them.
    leader: bool,
    /// Its warpgroup: in the kernel, in its role; and whether it has the first warp there.
    group: usize,
    within: u32,
    first: bool,
    /// The next event.
    at: usize,
    stamp: Stamp,
    /// The round that it waits for, and where.
    stands: Option<(usize, usize)>,
    /// The round of the cluster's barrier that it has arrived in.
    arrived: Option<usize>,
    copies: u32,
    bulk: u32,
    /// What was known when each group of products was closed.
    closed: Vec<Stamp>,
    /// Groups that an operation belongs to: closed or not.
    issued: u32,
    stored: u32,
    /// Things done in other CTAs, and the last of them.
    elsewhere: u32,
    last: Option<&'a Stmt>,
    registers: Registers,
    /// Registers of a thread, and whether they have changed hands: the ISA wants all warps of a warpgroup to meet before that is done again.
    count: u32,
    changed: bool,
}

impl<'a> Agent<'a> {
    fn event<'t>(&self, roles: &'t [Trace<'a>]) -> Option<&'t Event<'a>> {
        roles[self.role].events.get(self.at)
    }
}

struct Machine<'t, 'a> {
    scene: Scene<'a>,
    plan: &'t Plan,
    roles: &'t [Trace<'a>],
    parts: Parts,
    agents: Vec<Agent<'a>>,
    /// CTAs of the cluster, whose slots, barriers and named barriers follow each other; a slot is as many parts, which CTAs may bring apart.
    ctas: usize,
    slots: Vec<SlotState<'a>>,
    /// By slot of a CTA the box that CTAs brought parts of last: in which phase, and where it is.
    boxes: HashMap<usize, (u32, &'t [Option<i128>])>,
    barriers: Vec<Phases>,
    /// Of each CTA, then the cluster's.
    named: Vec<Rounds>,
    /// Registers of each CTA that were given up and not taken yet.
    free: Vec<u32>,
}

impl<'t, 'a> Machine<'t, 'a> {
    fn new(scene: Scene<'a>, plan: &'t Plan, roles: &'t [Trace<'a>]) -> Self {
        let ctas = scene.program.schedule.cluster as usize;
        let own = roles.iter().filter(|role| role.cta == 0);
        let threads: u32 = own.map(|role| role.warps * WARP).sum::<u32>().max(1);
        let per_sm = match scene.program.grid {
            Grid::Persistent { per_sm, .. } => per_sm,
            Grid::Points => 1,
        };
        let count = (REGISTERS / per_sm.max(1) / threads).min(MOST_OF_A_THREAD) / 8 * 8;
        let mut agents = vec![];
        let mut groups = 0;
        for (role, trace) in roles.iter().enumerate() {
            let each = if plan.warpgroups { GROUP } else { trace.warps.max(1) };
            for within in 0..trace.warps.div_ceil(each) {
                let warps = each.min(trace.warps - within * each);
                // Of a single warp the elected thread and the others.
                let split = if warps == 1 { [1, WARP - 1] } else { [WARP, WARP * (warps - 1)] };
                for (i, threads) in split.into_iter().enumerate() {
                    let first = i == 0;
                    agents.push(Agent {
                        role,
                        cta: trace.cta,
                        threads,
                        leader: first && within == 0,
                        group: groups,
                        within,
                        first,
                        at: 0,
                        stamp: Stamp::default(),
                        stands: None,
                        arrived: None,
                        copies: 0,
                        bulk: 0,
                        closed: vec![],
                        issued: 0,
                        stored: 0,
                        elsewhere: 0,
                        last: None,
                        registers: Registers::default(),
                        count,
                        changed: false,
                    });
                }
                groups += 1;
            }
        }
        let counts = plan.counts(scene.program).repeat(ctas);
        let parts = Parts { agents: agents.len(), groups, barriers: counts.len(), named: ctas * NAMED + 1 };
        agents.iter_mut().for_each(|agent| agent.stamp = Stamp::new(parts.total()));
        let phases = |(i, count): (usize, &u32)| Phases::new(*count, parts.barrier(i), parts.total());
        Machine {
            scene,
            plan,
            roles,
            parts,
            agents,
            ctas,
            slots: vec![SlotState::default(); plan.slot_count() * ctas * ctas],
            boxes: HashMap::new(),
            barriers: counts.iter().enumerate().map(phases).collect(),
            named: (0..parts.named).map(|id| Rounds::new(parts.named(id), parts.total())).collect(),
            free: vec![0; ctas],
        }
    }

    fn fail<T>(&self, finding: Finding, agent: usize, stmt: &Stmt, what: String) -> Result<T> {
        self.scene.fail(finding, self.roles[self.agents[agent].role].name, Some(stmt), what)
    }

    /// An mbarrier's, or a named barrier's, complaint.
    fn wrong(&self, agent: usize, stmt: &Stmt, name: &str, (finding, what): Wrong) -> TileError {
        let role = self.roles[self.agents[agent].role].name;
        self.scene.finding(finding, role, Some(stmt), format!("barrier {name}: {what}"))
    }

    /// Where a CTA has its barrier of this number.
    fn barrier(&self, cta: usize, barrier: usize) -> usize {
        cta * self.plan.barrier_count() + barrier
    }

    /// Where it has its named barrier.
    fn named(&self, cta: usize, id: usize) -> usize {
        cta * NAMED + id
    }

    /// The barrier of the cluster.
    fn meeting(&self) -> usize {
        self.ctas * NAMED
    }

    /// The parts of a CTA's slot, or that which one CTA brings.
    fn slot(&self, cta: usize, slot: usize, by: Option<usize>) -> Range<usize> {
        let first = (cta * self.plan.slot_count() + slot) * self.ctas;
        by.map_or(first..first + self.ctas, |by| first + by..first + by + 1)
    }

    /// Does the next thing of an agent; `false` if it has to wait, or has ended.
    fn step(&mut self, who: usize) -> Result<bool> {
        let Some(event) = self.agents[who].event(self.roles) else { return Ok(false) };
        let mine = !event.elected || self.agents[who].leader;
        let done = !mine || self.act(who, event)?;
        self.agents[who].at += usize::from(done);
        Ok(done)
    }

    fn act(&mut self, who: usize, event: &'t Event<'a>) -> Result<bool> {
        let stmt = event.stmt;
        let threads = if event.elected { 1 } else { self.agents[who].threads };
        match &event.act {
            Act::Wait { barrier, parity } => {
                let (waits, barrier) = (self.parts.waits(who), self.barrier(self.agents[who].cta, *barrier));
                let result = self.barriers[barrier].wait(&mut self.agents[who].stamp, *parity, waits);
                return result.map_err(|wrong| self.mbarrier(who, stmt, barrier, wrong));
            }
            Act::Expect { barrier, bytes } => {
                let (bytes, barrier) = (bytes * i64::from(threads), self.barrier(self.agents[who].cta, *barrier));
                let result = self.barriers[barrier].arrive(&self.agents[who].stamp, threads, bytes);
                result.map_err(|wrong| self.mbarrier(who, stmt, barrier, wrong))?;
            }
            Act::Arrive { barrier, by, everywhere } => {
                let agent = &self.agents[who];
                let times = match by {
                    Arriver::Thread => threads,
                    Arriver::Warp if event.elected => 1,
                    Arriver::Warp => (threads / WARP).max(u32::from(agent.first)),
                    Arriver::Warpgroup => u32::from(agent.first),
                };
                if times > 0 {
                    for to in self.reached(who, stmt, *everywhere)? {
                        let barrier = self.barrier(to, *barrier);
                        let result = self.barriers[barrier].arrive(&self.agents[who].stamp, times, 0);
                        result.map_err(|wrong| self.mbarrier(who, stmt, barrier, wrong))?;
                    }
                }
            }
            Act::Bring { slot, barrier, bytes, multicast } => {
                let reached = self.reached(who, stmt, multicast.is_some())?;
                let (stamp, cta) = (self.agents[who].stamp.clone(), self.agents[who].cta);
                let bytes = bytes * i64::from(threads) / reached.len() as i64;
                for to in reached {
                    let barrier = self.barrier(to, *barrier);
                    let step = self.barriers[barrier].ended() + 1;
                    if let Some(origin) = multicast {
                        self.alike(who, stmt, (to * self.plan.slot_count() + slot, step), origin)?;
                    }
                    for part in self.slot(to, *slot, multicast.is_some().then_some(cta)) {
                        self.write(who, stmt, part, (self.parts.barrier(barrier), step, true), &stamp)?;
                    }
                    let result = self.barriers[barrier].copy(&stamp, bytes);
                    result.map_err(|wrong| self.mbarrier(who, stmt, barrier, wrong))?;
                }
            }
            Act::Copy { slot } => {
                let (part, step) = (self.parts.copies(who), self.agents[who].copies + 1);
                let stamp = self.agents[who].stamp.clone();
                self.write_own(who, stmt, *slot, (part, step, false), &stamp)?;
            }
            Act::Store { slot } => {
                let (part, step) = self.access(who);
                let stamp = self.agents[who].stamp.clone();
                self.write_own(who, stmt, *slot, (part, step, false), &stamp)?;
            }
            Act::Load { slot } => {
                let (part, step) = self.access(who);
                self.read(who, stmt, *slot, (part, step, false))?;
            }
            Act::Gather { slot } => {
                let (part, step) = self.access(who);
                for cta in 0..self.ctas {
                    self.read_in(cta, who, stmt, *slot, (part, step, false))?;
                }
                self.reached(who, stmt, true)?;
            }
            Act::Out { slot } => {
                let (part, step) = (self.parts.bulk(who), self.agents[who].bulk + 1);
                self.agents[who].stored = step;
                self.read(who, stmt, *slot, (part, step, true))?;
            }
            Act::Product { slots, left, sum } => {
                let agent = &mut self.agents[who];
                let (part, step) = (self.parts.products(agent.group), agent.closed.len() as u32 + 1);
                agent.issued = step;
                let result = agent.registers.product(*left, *sum, step, agent.stamp.now[part]);
                if let Err((finding, what)) = result {
                    return self.fail(finding, who, stmt, what);
                }
                for slot in slots {
                    self.read(who, stmt, *slot, (part, step, true))?;
                }
            }
            Act::Use(registers) => {
                let agent = &mut self.agents[who];
                let landed = agent.stamp.now[self.parts.products(agent.group)];
                if let Err((finding, what)) = agent.registers.touch(registers, landed) {
                    return self.fail(finding, who, stmt, what);
                }
            }
            Act::Commit(group) => {
                let agent = &mut self.agents[who];
                match group {
                    Group::CpAsync => agent.copies += 1,
                    Group::Wgmma => agent.closed.push(agent.stamp.clone()),
                    Group::Bulk | Group::BulkRead => agent.bulk += 1,
                }
            }
            Act::WaitGroup { group, pending } => return Ok(self.wait_group(who, *group, *pending)),
            Act::Fence(Fence::ProxyAsync) => self.agents[who].stamp.fence(),
            Act::Fence(Fence::Wgmma) => self.agents[who].registers.fence(),
            // The barriers are set up before the first statement.
            Act::Fence(Fence::BarrierInit) => {}
            Act::Meet { id, threads, wait } => return self.meet(who, stmt, *id, *threads, *wait),
            Act::ClusterArrive { threads } => {
                let id = self.meeting();
                let agent = &mut self.agents[who];
                if agent.arrived.is_some() {
                    let what = "it has arrived at the cluster's barrier, and not waited".to_owned();
                    return self.fail(Finding::NamedBarrier, who, stmt, what);
                }
                match self.named[id].arrive(&agent.stamp, agent.threads, *threads) {
                    Ok(round) => agent.arrived = Some(round),
                    Err(wrong) => return Err(self.wrong(who, stmt, "of the cluster", wrong)),
                }
            }
            Act::ClusterWait => {
                let id = self.meeting();
                let agent = &mut self.agents[who];
                let Some(round) = agent.arrived else {
                    let what = "it has not arrived at the cluster's barrier".to_owned();
                    return self.fail(Finding::NamedBarrier, who, stmt, what);
                };
                let on = self.named[id].wait(&mut agent.stamp, round);
                agent.stands = (!on).then_some((id, round));
                agent.arrived = (!on).then_some(round);
                return Ok(on);
            }
            Act::Turn(turn) => return self.turn(who, stmt, *turn),
            Act::SetRegisters { count, increase } => {
                let now = self.agents[who].count;
                if self.agents[who].changed {
                    let what = format!("they change to {count} a second time, expected once");
                    return self.fail(Finding::RegisterCount, who, stmt, what);
                }
                if (*increase && *count < now) || (!*increase && *count > now) {
                    let (way, than) = if *increase { ("increase", "at least") } else { ("decrease", "at most") };
                    let what = format!("{way} to {count} of {now} registers, expected {than} that");
                    return self.fail(Finding::RegisterCount, who, stmt, what);
                }
                // Who takes more waits until others have given up as much.
                let change = count.abs_diff(now) * self.agents[who].threads;
                let free = &mut self.free[self.agents[who].cta];
                if *increase && change > *free {
                    return Ok(false);
                }
                *free = if *increase { *free - change } else { *free + change };
                self.agents[who].count = *count;
                self.agents[who].changed = true;
            }
        }
        Ok(true)
    }

    fn mbarrier(&self, who: usize, stmt: &Stmt, barrier: usize, wrong: Wrong) -> TileError {
        self.wrong(who, stmt, &self.barrier_name(barrier), wrong)
    }

    /// Parts of a slot are of one box.
    fn alike(&mut self, who: usize, stmt: &Stmt, at: (usize, u32), origin: &'t [Option<i128>]) -> Result<()> {
        let (slot, step) = at;
        let known = self.boxes.insert(slot, (step, origin));
        match known.filter(|(before, other)| *before == step && *other != origin) {
            Some(_) => {
                let what = format!("CTAs bring parts of different boxes to {}", self.slot_name(slot * self.ctas));
                self.fail(Finding::Cluster, who, stmt, what)
            }
            None => Ok(()),
        }
    }

    /// The CTAs in which something is done: that of the agent, or all, which must have begun and, as [`Machine::ended`] sees to, not be gone.
    fn reached(&mut self, who: usize, stmt: &'a Stmt, everywhere: bool) -> Result<Range<usize>> {
        let met = self.parts.named(self.meeting());
        let agent = &mut self.agents[who];
        if !everywhere {
            return Ok(agent.cta..agent.cta + 1);
        }
        if agent.stamp.now[met] == 0 {
            let what = "another CTA may not have set up its barriers".to_owned();
            return self.fail(Finding::Cluster, who, stmt, what);
        }
        agent.elsewhere += 1;
        agent.last = Some(stmt);
        agent.stamp.now[self.parts.elsewhere(who)] = agent.elsewhere;
        Ok(0..self.ctas)
    }

    /// Counts an ordinary access.
    fn access(&mut self, who: usize) -> (usize, u32) {
        let part = self.parts.accesses(who);
        let step = &mut self.agents[who].stamp.now[part];
        *step += 1;
        (part, *step)
    }

    fn read(&mut self, who: usize, stmt: &'a Stmt, slot: usize, access: (usize, u32, bool)) -> Result<()> {
        self.read_in(self.agents[who].cta, who, stmt, slot, access)
    }

    /// Reads a slot of any CTA.
    fn read_in(
        &mut self,
        cta: usize,
        who: usize,
        stmt: &'a Stmt,
        slot: usize,
        access: (usize, u32, bool),
    ) -> Result<()> {
        let access = self.made(who, stmt, access);
        self.slot(cta, slot, None).try_for_each(|part| {
            let result = self.slots[part].read(access, &self.agents[who].stamp);
            self.conflict(who, stmt, part, result)
        })
    }

    fn write_own(
        &mut self,
        who: usize,
        stmt: &'a Stmt,
        slot: usize,
        access: (usize, u32, bool),
        stamp: &Stamp,
    ) -> Result<()> {
        self.slot(self.agents[who].cta, slot, None).try_for_each(|part| self.write(who, stmt, part, access, stamp))
    }

    fn write(
        &mut self,
        who: usize,
        stmt: &'a Stmt,
        part: usize,
        access: (usize, u32, bool),
        stamp: &Stamp,
    ) -> Result<()> {
        let access = self.made(who, stmt, access);
        let result = self.slots[part].write(access, stamp);
        self.conflict(who, stmt, part, result)
    }

    fn made(&self, who: usize, stmt: &'a Stmt, (part, step, asynchronous): (usize, u32, bool)) -> Access<'a> {
        Access { part, step, asynchronous, stmt, role: self.roles[self.agents[who].role].name }
    }

    fn conflict(
        &self,
        who: usize,
        stmt: &Stmt,
        part: usize,
        result: std::result::Result<(), super::memory::Conflict<'a>>,
    ) -> Result<()> {
        let Err((finding, other)) = result else { return Ok(()) };
        let mut what = self.slot_name(part);
        if let Some(other) = other {
            what.push_str(&format!(", after `{}`", self.scene.text(other.stmt)));
            if !other.role.is_empty() {
                what.push_str(&format!(" of role `{}`", other.role));
            }
            if finding != Finding::ProxyFence {
                what.push_str(", which nothing orders before it");
            }
        }
        self.fail(finding, who, stmt, what)
    }

    /// Waits until at most `pending` groups run; `false` if the warpgroup's other warps have not started theirs.
    fn wait_group(&mut self, who: usize, group: Group, pending: u32) -> bool {
        let (part, closed) = match group {
            Group::CpAsync => (self.parts.copies(who), self.agents[who].copies),
            Group::Bulk | Group::BulkRead => (self.parts.bulk(who), self.agents[who].bulk),
            Group::Wgmma => (self.parts.products(self.agents[who].group), self.agents[who].closed.len() as u32),
        };
        let landed = closed.saturating_sub(pending);
        if group == Group::Wgmma && landed > 0 {
            // A product is one of its four warps: what ran before it in any of them, as far as waits go, ran before it ended.
            let mut waits: Vec<(usize, u32)> = vec![];
            for (i, other) in self.agents.iter().enumerate().filter(|(_, o)| o.group == self.agents[who].group) {
                let Some(stamp) = other.closed.get(landed as usize - 1) else { return false };
                waits.push((self.parts.waits(i), stamp.now[self.parts.waits(i)]));
            }
            for (part, step) in waits {
                let now = &mut self.agents[who].stamp.now[part];
                *now = (*now).max(step);
            }
        }
        let now = &mut self.agents[who].stamp.now[part];
        *now = (*now).max(landed);
        true
    }

    fn meet(&mut self, who: usize, stmt: &Stmt, id: usize, threads: u32, wait: bool) -> Result<bool> {
        let id = self.named(self.agents[who].cta, id);
        let agent = &mut self.agents[who];
        let round = match agent.stands {
            Some((_, round)) => round,
            None => match self.named[id].arrive(&agent.stamp, agent.threads, threads) {
                Ok(round) => round,
                Err(wrong) => return Err(self.wrong(who, stmt, &self.named_name(id), wrong)),
            },
        };
        let on = !wait || self.named[id].wait(&mut agent.stamp, round);
        agent.stands = (!on).then_some((id, round));
        Ok(on)
    }

    /// As it is lowered: each of the two warpgroups has a barrier, at which it waits and the other arrives.
    fn turn(&mut self, who: usize, stmt: &Stmt, turn: Turn) -> Result<bool> {
        let role = self.agents[who].role;
        let warps = self.roles[role].warps;
        if warps != 2 * GROUP {
            let what = format!("turns of {warps} warps, expected {}", 2 * GROUP);
            return self.fail(Finding::NamedBarrier, who, stmt, what);
        }
        let within = self.agents[who].within as usize;
        let (own, other) = (FIRST_TURN as usize + within, FIRST_TURN as usize + 1 - within);
        let threads = 2 * GROUP * WARP;
        match turn {
            Turn::Start if within == 0 => Ok(true),
            Turn::End if within == 1 => Ok(true),
            Turn::Start | Turn::Pass => self.meet(who, stmt, other, threads, false),
            Turn::Wait | Turn::End => self.meet(who, stmt, own, threads, true),
        }
    }
}
