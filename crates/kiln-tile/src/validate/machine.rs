//! Executes the events of all roles of all CTAs of a cluster, and orders them. Each CTA has slots and barriers of its own, the cluster one barrier
//! together. An agent is a group of threads that do the same: of each role the warp of the thread that is
//! elected and the other warps, of each warpgroup where those matter.

use super::barriers::{Phases, Rounds, Wrong};
use super::flight::Registers;
use super::memory::{Access, Parts, SlotState, Stamp};
use super::trace::{Act, Event, NAMED, Plan, Trace};
use super::{Finding, Scene};
use crate::error::{Result, TileError};
use crate::ir::{Arriver, Fence, Grid, Group, Stmt, Turn};
use crate::lower::FIRST_TURN;

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
struct Agent {
    role: usize,
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
    registers: Registers,
    /// Registers of a thread, and whether they have changed hands: the ISA wants all warps of a warpgroup to meet before that is done again.
    count: u32,
    changed: bool,
}

impl Agent {
    fn event<'t, 'a>(&self, roles: &'t [Trace<'a>]) -> Option<&'t Event<'a>> {
        roles[self.role].events.get(self.at)
    }
}

struct Machine<'t, 'a> {
    scene: Scene<'a>,
    plan: &'t Plan,
    roles: &'t [Trace<'a>],
    parts: Parts,
    agents: Vec<Agent>,
    slots: Vec<SlotState<'a>>,
    barriers: Vec<Phases>,
    /// Of each CTA, then the cluster's.
    named: Vec<Rounds>,
    /// Registers of each CTA that were given up and not taken yet.
    free: Vec<u32>,
}

impl<'t, 'a> Machine<'t, 'a> {
    fn new(scene: Scene<'a>, plan: &'t Plan, roles: &'t [Trace<'a>]) -> Self {
        let ctas = roles.iter().map(|role| role.cta + 1).max().unwrap_or(1);
        let threads = (roles.iter().map(|role| role.warps * WARP).sum::<u32>() / ctas as u32).max(1);
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
            slots: vec![SlotState::default(); ctas * plan.slot_count()],
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

    /// Where an agent's CTA has its slot, barrier or named barrier of this number.
    fn slot(&self, who: usize, slot: usize) -> usize {
        self.agents[who].cta * self.plan.slot_count() + slot
    }

    fn barrier(&self, who: usize, barrier: usize) -> usize {
        self.agents[who].cta * self.plan.barrier_count() + barrier
    }

    fn named(&self, who: usize, id: usize) -> usize {
        self.agents[who].cta * NAMED + id
    }

    /// What a named barrier is called.
    fn named_name(&self, number: usize) -> String {
        let cluster = number + 1 == self.parts.named;
        if cluster { "of the cluster".to_owned() } else { (number % NAMED).to_string() }
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
                let (waits, at) = (self.parts.waits(who), self.barrier(who, *barrier));
                let result = self.barriers[at].wait(&mut self.agents[who].stamp, *parity, waits);
                return result.map_err(|wrong| self.mbarrier(who, stmt, *barrier, wrong));
            }
            Act::Expect { barrier, bytes } => {
                let (bytes, at) = (bytes * i64::from(threads), self.barrier(who, *barrier));
                let result = self.barriers[at].arrive(&self.agents[who].stamp, threads, bytes);
                result.map_err(|wrong| self.mbarrier(who, stmt, *barrier, wrong))?;
            }
            Act::Arrive { barrier, by } => {
                let agent = &self.agents[who];
                let times = match by {
                    Arriver::Thread => threads,
                    Arriver::Warp if event.elected => 1,
                    Arriver::Warp => (threads / WARP).max(u32::from(agent.first)),
                    Arriver::Warpgroup => u32::from(agent.first),
                };
                if times > 0 {
                    let at = self.barrier(who, *barrier);
                    let result = self.barriers[at].arrive(&agent.stamp, times, 0);
                    result.map_err(|wrong| self.mbarrier(who, stmt, *barrier, wrong))?;
                }
            }
            Act::Bring { slot, barrier, bytes } => {
                let stamp = self.agents[who].stamp.clone();
                let at = self.barrier(who, *barrier);
                let step = self.barriers[at].ended() + 1;
                self.write(who, stmt, *slot, (self.parts.barrier(at), step, true), &stamp)?;
                let result = self.barriers[at].copy(&stamp, bytes * i64::from(threads));
                result.map_err(|wrong| self.mbarrier(who, stmt, *barrier, wrong))?;
            }
            Act::Copy { slot } => {
                let (part, step) = (self.parts.copies(who), self.agents[who].copies + 1);
                let stamp = self.agents[who].stamp.clone();
                self.write(who, stmt, *slot, (part, step, false), &stamp)?;
            }
            Act::Store { slot } => {
                let (part, step) = self.access(who);
                let stamp = self.agents[who].stamp.clone();
                self.write(who, stmt, *slot, (part, step, false), &stamp)?;
            }
            Act::Load { slot } => {
                let (part, step) = self.access(who);
                self.read(who, stmt, *slot, (part, step, false))?;
            }
            Act::Gather { slot } => {
                let (part, step) = self.access(who);
                for at in (*slot..self.slots.len()).step_by(self.plan.slot_count()) {
                    let access = self.made(who, stmt, (part, step, false));
                    let result = self.slots[at].read(access, &self.agents[who].stamp);
                    self.conflict(who, stmt, *slot, result)?;
                }
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
                let id = self.parts.named - 1;
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
                let id = self.parts.named - 1;
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
        self.wrong(who, stmt, &self.plan.barrier_name(self.scene.program, barrier), wrong)
    }

    /// Counts an ordinary access.
    fn access(&mut self, who: usize) -> (usize, u32) {
        let part = self.parts.accesses(who);
        let step = &mut self.agents[who].stamp.now[part];
        *step += 1;
        (part, *step)
    }

    fn read(&mut self, who: usize, stmt: &'a Stmt, slot: usize, access: (usize, u32, bool)) -> Result<()> {
        let (access, at) = (self.made(who, stmt, access), self.slot(who, slot));
        let result = self.slots[at].read(access, &self.agents[who].stamp);
        self.conflict(who, stmt, slot, result)
    }

    fn write(
        &mut self,
        who: usize,
        stmt: &'a Stmt,
        slot: usize,
        access: (usize, u32, bool),
        stamp: &Stamp,
    ) -> Result<()> {
        let (access, at) = (self.made(who, stmt, access), self.slot(who, slot));
        let result = self.slots[at].write(access, stamp);
        self.conflict(who, stmt, slot, result)
    }

    fn made(&self, who: usize, stmt: &'a Stmt, (part, step, asynchronous): (usize, u32, bool)) -> Access<'a> {
        let Agent { role, cta, .. } = self.agents[who];
        Access { part, step, asynchronous, stmt, role: self.roles[role].name, cta }
    }

    fn conflict(
        &self,
        who: usize,
        stmt: &Stmt,
        slot: usize,
        result: std::result::Result<(), super::memory::Conflict<'a>>,
    ) -> Result<()> {
        let Err((finding, other)) = result else { return Ok(()) };
        let mut what = self.plan.slot_name(self.scene.program, slot);
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
        let id = self.named(who, id);
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

    /// All stand, and some have not ended.
    fn deadlock(&self) -> Result<()> {
        let mut waits: Vec<String> = vec![];
        let mut at = None;
        let (mut bytes, mut registers) = (false, false);
        for agent in &self.agents {
            let Some(event) = agent.event(self.roles) else { continue };
            at = at.or(Some((agent.role, event.stmt)));
            let found = match &event.act {
                Act::Wait { barrier, parity } => {
                    let state = &self.barriers[agent.cta * self.plan.barrier_count() + barrier];
                    bytes |= state.bytes_differ();
                    let name = self.plan.barrier_name(self.scene.program, *barrier);
                    format!("phase {} of {name} ({})", state.phase(&agent.stamp, *parity), state.describe())
                }
                Act::SetRegisters { count, .. } => {
                    registers = true;
                    format!("{count} registers a thread ({} are free in all)", self.free[agent.cta])
                }
                Act::WaitGroup { .. } => "products that other warps of its warpgroup have not started".to_owned(),
                _ => agent.stands.map_or(String::new(), |(id, round)| {
                    let Rounds { arrived, threads, .. } = &self.named[id];
                    format!("round {round} of named barrier {} ({arrived} of {threads} threads)", self.named_name(id))
                }),
            };
            let role = self.roles[agent.role].name;
            let text = format!("{} waits for {found}", if role.is_empty() { "the kernel" } else { role });
            if !waits.contains(&text) {
                waits.push(text);
            }
        }
        let finding = match (registers, bytes) {
            (true, _) => Finding::RegisterCount,
            (_, true) => Finding::Bytes,
            _ => Finding::Deadlock,
        };
        let (role, stmt) = at.map_or(("", None), |(role, stmt)| (self.roles[role].name, Some(stmt)));
        self.scene.fail(finding, role, stmt, waits.join(", "))
    }

    /// All have ended: nothing may be left.
    fn ended(&self) -> Result<()> {
        let fail = |what: String| self.scene.fail(Finding::Unfinished, "", None, what);
        for (id, rounds) in self.named.iter().enumerate() {
            if rounds.arrived > 0 {
                let (arrived, threads, name) = (rounds.arrived, rounds.threads, self.named_name(id));
                return fail(format!("{arrived} of {threads} threads have arrived at named barrier {name}"));
            }
        }
        for (i, phases) in self.barriers.iter().enumerate() {
            if !phases.is_idle() {
                let name = self.plan.barrier_name(self.scene.program, i % self.plan.barrier_count());
                return fail(format!("barrier {name}, {}", phases.describe()));
            }
        }
        let known: Vec<&Stamp> = self.agents.iter().map(|agent| &agent.stamp).collect();
        for (i, slot) in self.slots.iter().enumerate() {
            let (cta, number) = (i / self.plan.slot_count(), i % self.plan.slot_count());
            let name = self.plan.slot_name(self.scene.program, number);
            if let Some(write) = slot.unfinished(&known) {
                return fail(format!("nobody waits for `{}` to {name}", self.scene.text(write.stmt)));
            }
            let own = self.agents.iter().filter(|agent| agent.cta == cta).map(|agent| &agent.stamp);
            if let Some(read) = slot.outlived(cta, &own.collect::<Vec<_>>()) {
                let text = self.scene.text(read.stmt);
                return fail(format!("a CTA may end before another one of its cluster reads its {name} by `{text}`"));
            }
        }
        for (i, agent) in self.agents.iter().enumerate() {
            if agent.stamp.now[self.parts.products(agent.group)] < agent.issued {
                return fail(format!(
                    "a product of group {} that role `{}` does not wait for",
                    agent.issued, self.roles[agent.role].name
                ));
            }
            if agent.stamp.now[self.parts.bulk(i)] < agent.stored {
                return fail(format!(
                    "a bulk store of group {} that role `{}` does not wait for",
                    agent.stored, self.roles[agent.role].name
                ));
            }
        }
        Ok(())
    }
}
