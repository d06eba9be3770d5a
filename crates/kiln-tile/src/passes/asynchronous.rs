//! From channels to what the hardware has: rings of mbarriers with phases between roles, groups of `cp.async` in one; and waits for products that
//! run on their own: a value is waited for where it is first used, its operands' slots are released when it is.

use crate::dtype::Type;
use crate::expr::{Expr, Var};
use crate::ir::{
    Arriver, Barrier, BarrierId, Block, ChannelId, CopyKind, Fence, Group, Op, Operand, Program, Role, SharedId, Slot,
    Stage, Stmt, Turn, ValueId,
};
use std::collections::{HashMap, HashSet};

/// Runs the pass.
pub fn asynchronous(program: &mut Program) {
    let rings = rings(program);
    let out = outgoing(&program.body);
    let read = read_asynchronously(&program.body);
    let mut body = std::mem::take(&mut program.body);
    let mut before = vec![];
    for stmt in &mut body {
        let Op::Roles(roles) = &mut stmt.op else { continue };
        let mut number = 1;
        for role in roles {
            let group = role.groups.as_ref().map_or(Expr::index(0), |(var, _)| Expr::var(var));
            let team = Team { barrier: group + number, threads: role.warps * 32 };
            let mut pass = Pass::new(program, &rings, [&out, &read], Some(team));
            role.body = pass.role(role);
            number += i64::from(role.group_count());
        }
    }
    if !body.iter().any(|stmt| matches!(stmt.op, Op::Roles(_))) {
        let mut pass = Pass::new(program, &rings, [&out, &read], None);
        body = pass.body(body);
        before = pass.declared;
    }
    before.append(&mut body);
    // Nobody's barriers are touched before they are set up, nor after their CTA has gone.
    if rings.values().any(|ring| ring.everywhere) {
        before.insert(0, Stmt::effect(Op::ClusterSync));
        before.push(Stmt::effect(Op::ClusterSync));
    }
    program.body = before;
}

/// The barriers of a channel.
#[derive(Clone, Copy)]
struct Ring {
    full: BarrierId,
    empty: BarrierId,
    /// Whether other CTAs of the cluster fill its slots too: they wait until all have read theirs.
    everywhere: bool,
}

impl Ring {
    /// A slot has been read.
    fn release(&self, index: Expr) -> Stmt {
        Stmt::effect(Op::Arrive { barrier: self.empty, index, everywhere: self.everywhere })
    }
}

/// Rings for the channels that the tensor memory accelerator fills.
fn rings(program: &mut Program) -> HashMap<ChannelId, Ring> {
    let mut rings = HashMap::new();
    let products = asynchronous_dots(&program.body);
    let mut consumers = program.schedule.warps;
    let mut by = Arriver::Warp;
    if products {
        (consumers, by) = (consumers / 4, Arriver::Warpgroup);
    }
    let shared = shared_buffers(&program.body);
    for (i, channel) in program.channels.clone().iter().enumerate() {
        if channel.kind != CopyKind::Tma {
            continue;
        }
        let everywhere = channel.buffers.iter().any(|buffer| shared.contains(buffer));
        let ctas = if everywhere { program.schedule.cluster } else { 1 };
        let mut add = |what: &str, count, by| {
            let name = format!("{}_{what}", channel.name).into();
            program.barriers.push(Barrier { name, stages: channel.stages, count, by });
            BarrierId(program.barriers.len() as u32 - 1)
        };
        let (full, empty) = (add("full", 1, Arriver::Thread), add("empty", consumers * ctas, by));
        let ring = Ring { full, empty, everywhere };
        rings.insert(ChannelId(i as u32), ring);
    }
    rings
}

/// Whether any dot runs on its own.
fn asynchronous_dots(body: &Block) -> bool {
    let mut found = false;
    body.iter().for_each(|stmt| stmt.walk(&mut |stmt| found |= is_asynchronous(&stmt.op)));
    found
}

fn is_asynchronous(op: &Op) -> bool {
    matches!(op, Op::Dot { atom: Some(atom), .. } if atom.starts_with("wgmma"))
}

/// Buffers that the accelerator stores from.
fn outgoing(body: &Block) -> HashSet<SharedId> {
    let mut found = HashSet::new();
    for stmt in body {
        stmt.walk(&mut |stmt| {
            if let Op::CopyOut { from, .. } = &stmt.op {
                found.insert(from.buffer);
            }
        });
    }
    found
}

/// Buffers that all CTAs of a cluster fill together.
fn shared_buffers(body: &Block) -> HashSet<SharedId> {
    let mut found = HashSet::new();
    for stmt in body {
        stmt.walk(&mut |stmt| {
            if let Op::Copy { to, kind: CopyKind::Multicast, .. } = &stmt.op {
                found.insert(to.buffer);
            }
        });
    }
    found
}

/// Buffers that products read which run on their own: what threads write there needs a fence.
fn read_asynchronously(body: &Block) -> HashSet<SharedId> {
    let mut found = HashSet::new();
    for stmt in body {
        stmt.walk(&mut |stmt| {
            if let (true, Op::Dot { a, b, .. }) = (is_asynchronous(&stmt.op), &stmt.op) {
                found.extend([a, b].into_iter().filter_map(|operand| match operand {
                    Operand::Shared(slot) => Some(slot.buffer),
                    Operand::Tile(_) => None,
                }));
            }
        });
    }
    found
}

/// Where one end of a channel is.
#[derive(Clone)]
struct Cursor {
    stage: Var,
    /// Of barriers.
    phase: Option<Var>,
    /// The stage before, where it is released late.
    last: Option<Var>,
}

/// A product that may still run.
struct Flight {
    value: ValueId,
    channels: Vec<ChannelId>,
    /// Arrivals that are due when it has ended.
    releases: Vec<Stmt>,
}

/// Those who run a role together.
struct Team {
    /// Their named barrier.
    barrier: Expr,
    threads: u32,
}

struct Pass<'a> {
    program: &'a mut Program,
    rings: &'a HashMap<ChannelId, Ring>,
    outgoing: &'a HashSet<SharedId>,
    /// What [`read_asynchronously`] finds.
    read: &'a HashSet<SharedId>,
    /// By channel, and whether it is the producer's.
    cursors: HashMap<(ChannelId, bool), Cursor>,
    /// First assignments of cursors.
    declared: Block,
    /// In a program of roles.
    team: Option<Team>,
    producer: bool,
    /// Whether warpgroups take turns.
    turns: bool,
    /// Channels whose slots have surely been multiplied from since they were received: waiting for that has held each warpgroup together.
    met: HashSet<ChannelId>,
}

impl<'a> Pass<'a> {
    fn new(
        program: &'a mut Program,
        rings: &'a HashMap<ChannelId, Ring>,
        [outgoing, read]: [&'a HashSet<SharedId>; 2],
        team: Option<Team>,
    ) -> Self {
        let turns = program.schedule.ping_pong && matches!(team, Some(Team { threads: 256, .. }));
        let (cursors, declared) = (HashMap::new(), vec![]);
        let met = HashSet::new();
        Pass { program, rings, outgoing, read, cursors, declared, team, producer: false, turns, met }
    }

    fn role(&mut self, role: &mut Role) -> Block {
        let body = std::mem::take(&mut role.body);
        self.producer = body.iter().any(|stmt| {
            let mut copies = false;
            stmt.walk(&mut |stmt| copies |= matches!(stmt.op, Op::Acquire(_)));
            copies
        });
        let body = self.body(body);
        let mut out = vec![];
        if let Some(count) = role.registers {
            out.push(Stmt::effect(Op::SetRegisters { count, increase: !self.producer }));
        }
        let mut inner = std::mem::take(&mut self.declared);
        inner.extend(body);
        if self.producer {
            out.push(Stmt::effect(Op::Elected(inner)));
        } else {
            out.extend(inner);
        }
        out
    }

    fn body(&mut self, body: Block) -> Block {
        self.turns &= !self.producer && asynchronous_dots(&body);
        let mut out: Block = self.turns.then(|| Stmt::effect(Op::Turn(Turn::Start))).into_iter().collect();
        out.extend(self.block(body));
        out.extend(self.turns.then(|| Stmt::effect(Op::Turn(Turn::End))));
        if !self.outgoing.is_empty() && !self.producer {
            let wait = Stmt::effect(Op::WaitGroup { group: Group::Bulk, pending: 0 });
            out.push(Stmt::effect(Op::Elected(vec![wait])));
        }
        out
    }

    fn cursor(&mut self, channel: ChannelId, filling: bool) -> Cursor {
        if let Some(cursor) = self.cursors.get(&(channel, filling)) {
            return cursor.clone();
        }
        let name = self.program.channel(channel).name.clone();
        let ring = self.rings.contains_key(&channel);
        let stages = self.program.channel(channel).stages;
        let stage = self.declare(&format!("{name}_{}", if filling { "fill" } else { "read" }), 0, stages);
        // A producer finds the first round of slots free: the phase before the first counts as ended.
        let phase = ring.then(|| self.declare(&format!("{name}_phase"), i64::from(filling), 2));
        let cursor = Cursor { stage, phase, last: None };
        self.cursors.insert((channel, filling), cursor.clone());
        cursor
    }

    fn declare(&mut self, name: &str, first: i64, below: u32) -> Var {
        let var = self.program.add_var(name, Type::Index);
        self.declared.push(Stmt::effect(Op::Assign { var: var.clone(), value: Expr::index(first), below }));
        var
    }

    /// The stage before a reader's cursor.
    fn last(&mut self, channel: ChannelId) -> Expr {
        let mut cursor = self.cursor(channel, false);
        if self.program.channel(channel).stages == 1 {
            return Expr::index(0);
        }
        if cursor.last.is_none() {
            let name = format!("{}_last", self.program.channel(channel).name);
            let stages = self.program.channel(channel).stages;
            cursor.last = Some(self.declare(&name, 0, stages));
            self.cursors.insert((channel, false), cursor.clone());
        }
        cursor.last.as_ref().map_or(Expr::index(0), Expr::var)
    }

    fn advance(&mut self, channel: ChannelId, filling: bool) -> Block {
        let Cursor { stage: var, phase, last } = self.cursor(channel, filling);
        let stages = self.program.channel(channel).stages;
        let stage = Expr::var(&var);
        let set = |var: &Var, value: Expr, below: u32| Stmt::effect(Op::Assign { var: var.clone(), value, below });
        let other = |phase: &Var| Expr::index(1) - Expr::var(phase);
        if stages == 1 {
            return phase.iter().map(|phase| set(phase, other(phase), 2)).collect();
        }
        let wraps = stage.eq(i64::from(stages) - 1);
        let mut out: Block = last.iter().map(|last| set(last, stage.clone(), stages)).collect();
        out.extend(phase.iter().map(|phase| set(phase, wraps.select(&other(phase), Expr::var(phase)), 2)));
        out.push(set(&var, wraps.select(&Expr::index(0), stage + 1), stages));
        out
    }

    fn skip(&mut self, channel: ChannelId, slots: &Expr) -> Block {
        let Cursor { stage, phase, .. } = self.cursor(channel, false);
        let stages = self.program.channel(channel).stages;
        let (past, count) = (Expr::var(&stage) + slots, i64::from(stages));
        let set = |var: Var, value: Expr, below: u32| Stmt::effect(Op::Assign { var, value, below });
        let phase = phase.map(|phase| set(phase.clone(), (Expr::var(&phase) + &past / count) % 2, 2));
        phase.into_iter().chain([set(stage, past % count, stages)]).collect()
    }

    fn block(&mut self, block: Block) -> Block {
        let mut out = vec![];
        let mut flights: Vec<Flight> = vec![];
        let turns = self.turns_of(&block);
        let mut released: Vec<ChannelId> = block.iter().rev().filter_map(|stmt| released(&stmt.op)).collect();
        for (mut stmt, turn) in block.into_iter().zip(turns) {
            if released.last().is_some_and(|channel| self::released(&stmt.op) == Some(*channel)) {
                released.pop();
            }
            let mut sure = multiplied(&stmt.op);
            sure.extend(self.meet(&mut stmt, &released));
            let met = self.met.clone();
            if turn.0 {
                out.push(Stmt::effect(Op::Turn(Turn::Wait)));
            }
            let used = stmt.used();
            let chained = |flight: &Flight| is_asynchronous(&stmt.op) && accumulator(&stmt.op) == Some(flight.value);
            if let Some(last) = flights.iter().rposition(|flight| used.contains(&flight.value) && !chained(flight)) {
                land(&mut flights, last + 1, &mut out);
            }
            let mut received = vec![];
            stmt.walk(&mut |stmt| {
                received.extend(if let Op::Receive(channel) = stmt.op { Some(channel) } else { None })
            });
            self.stmt(stmt, &mut flights, &mut out);
            // What blocks inside did may not have been done.
            self.met = met.into_iter().filter(|channel| !received.contains(channel)).chain(sure).collect();
            if turn.1 {
                out.push(Stmt::effect(Op::Turn(Turn::Pass)));
            }
        }
        let all = flights.len();
        land(&mut flights, all, &mut out);
        out
    }

    /// Where one branch multiplies from slots that are released later, the threads of the other wait for each other instead; gives the channels.
    fn meet(&self, stmt: &mut Stmt, released: &[ChannelId]) -> HashSet<ChannelId> {
        let Op::If { then, otherwise, .. } = &mut stmt.op else { return HashSet::new() };
        let [one, other] = [&then.0, &otherwise.0].map(all_multiplied);
        let due =
            |channel: &ChannelId| !self.producer && released.contains(channel) && self.rings.contains_key(channel);
        let mut met = HashSet::new();
        for (set, lacking, block) in [(&one, &other, &mut otherwise.0), (&other, &one, &mut then.0)] {
            let here: Vec<ChannelId> = set.difference(lacking).copied().filter(due).collect();
            if !here.is_empty() {
                block.push(Stmt::effect(Op::Sync));
            }
            met.extend(here);
        }
        met
    }

    /// Before which statements of a block the role waits for its turn, and after which it passes it on: around products that follow each other
    /// with no loop of products between.
    fn turns_of(&self, block: &Block) -> Vec<(bool, bool)> {
        let mut turns = vec![(false, false); block.len()];
        let mut last: Option<usize> = None;
        for (i, stmt) in block.iter().enumerate().filter(|_| self.turns) {
            if is_asynchronous(&stmt.op) {
                turns[i].0 = last.is_none();
                last = Some(i);
            } else if stmt.op.blocks().into_iter().any(asynchronous_dots)
                && let Some(last) = last.take()
            {
                turns[last].1 = true;
            }
        }
        if let Some(last) = last {
            turns[last].1 = true;
        }
        turns
    }

    fn stmt(&mut self, mut stmt: Stmt, flights: &mut Vec<Flight>, out: &mut Block) {
        if accumulates(&stmt) {
            return self.accumulating(stmt, out);
        }
        match &mut stmt.op {
            Op::Acquire(channel) => self.acquire(*channel, out),
            Op::Copy { to, barrier, .. } => {
                if let Stage::Cursor(channel) = to.stage {
                    let stage = Expr::var(&self.cursor(channel, true).stage);
                    *barrier = self.rings.get(&channel).map(|ring| (ring.full, stage.clone()));
                    to.stage = Stage::Index(stage);
                }
                out.push(stmt);
            }
            Op::Publish(channel) => {
                if !self.rings.contains_key(channel) {
                    out.push(Stmt::effect(Op::Commit(Group::CpAsync)));
                }
                out.extend(self.advance(*channel, true));
            }
            Op::Receive(channel) => self.receive(*channel, out),
            Op::Release(channel) => {
                let channel = *channel;
                let stage = Expr::var(&self.cursor(channel, false).stage);
                if let Some(ring) = self.rings.get(&channel).copied() {
                    match flights.iter_mut().rfind(|flight| flight.channels.contains(&channel)) {
                        Some(flight) => {
                            let held = self.program.add_var("held", Type::Index);
                            let below = Some(Expr::index(self.program.channel(channel).stages.into()));
                            out.push(Stmt::effect(Op::Bind { var: held.clone(), value: stage, below }));
                            flight.releases.push(ring.release(Expr::var(&held)));
                        }
                        None => {
                            // One thread arrives for others: where no product's wait has held them together, they may not have waited yet.
                            if self.program.barrier(ring.empty).by == Arriver::Warpgroup && !self.met.contains(&channel)
                            {
                                out.push(self.sync());
                            }
                            out.push(ring.release(stage));
                        }
                    }
                }
                out.extend(self.advance(channel, false));
            }
            Op::Skip { channel, slots } => out.extend(self.skip(*channel, slots)),
            Op::Sync => out.push(self.sync()),
            Op::Await { .. } => out.extend([Stmt::effect(Op::Elected(vec![stmt])), self.sync()]),
            Op::Signal { .. } => out.extend([self.sync(), Stmt::effect(Op::Elected(vec![stmt]))]),
            Op::SharedLoad { from } => {
                self.resolve(from);
                out.push(stmt);
            }
            Op::SharedStore { to, .. } => {
                let stored = self.outgoing.contains(&to.buffer);
                self.resolve(to);
                if stored {
                    let wait = Stmt::effect(Op::WaitGroup { group: Group::BulkRead, pending: 0 });
                    out.extend([Stmt::effect(Op::Elected(vec![wait])), self.sync()]);
                }
                let fence = self.read.contains(&to.buffer);
                out.push(stmt);
                if fence {
                    out.push(Stmt::effect(Op::Fence(Fence::ProxyAsync)));
                }
            }
            Op::CopyOut { from, .. } => {
                self.resolve(from);
                out.extend([Stmt::effect(Op::Fence(Fence::ProxyAsync)), self.sync()]);
                out.push(Stmt::effect(Op::Elected(vec![stmt, Stmt::effect(Op::Commit(Group::Bulk))])));
            }
            Op::Dot { a, b, .. } => {
                let mut channels = vec![];
                for operand in [a, b] {
                    if let Operand::Shared(slot) = operand {
                        if let Stage::Cursor(channel) = slot.stage {
                            channels.push(channel);
                        }
                        self.resolve(slot);
                    }
                }
                if !is_asynchronous(&stmt.op) {
                    out.push(stmt);
                    return;
                }
                let value = stmt.results[0];
                let chained = accumulator(&stmt.op);
                out.extend([Stmt::effect(Op::Fence(Fence::Wgmma)), stmt, Stmt::effect(Op::Commit(Group::Wgmma))]);
                flights.retain_mut(|flight| {
                    let same = Some(flight.value) == chained;
                    if same {
                        channels.append(&mut flight.channels);
                    }
                    !same || !flight.releases.is_empty()
                });
                flights.push(Flight { value, channels, releases: vec![] });
            }
            _ => {
                for block in stmt.op.blocks_mut() {
                    *block = self.block(std::mem::take(block));
                }
                out.push(stmt);
            }
        }
    }

    fn resolve(&mut self, slot: &mut Slot) {
        if let Stage::Cursor(channel) = slot.stage {
            slot.stage = Stage::Index(Expr::var(&self.cursor(channel, false).stage));
        }
    }

    /// The threads of the role wait for each other.
    fn sync(&self) -> Stmt {
        match &self.team {
            Some(Team { barrier, threads }) => {
                Stmt::effect(Op::NamedBarrier { id: barrier.clone(), threads: *threads, wait: true })
            }
            None => Stmt::effect(Op::Sync),
        }
    }

    fn acquire(&mut self, channel: ChannelId, out: &mut Block) {
        let Some(ring) = self.rings.get(&channel).copied() else {
            // Of several slots the one to fill was read before the barrier of the last wait.
            if self.program.channel(channel).stages == 1 {
                out.push(self.sync());
            }
            return;
        };
        let (index, parity) = self.phase(channel, true);
        let bytes = self.program.channel(channel).buffers.iter().map(|buffer| {
            let shared = self.program.shared(*buffer);
            shared.shape.iter().product::<u32>() * shared.dtype.bits() / 8
        });
        let bytes = bytes.sum();
        out.push(Stmt::effect(Op::Wait { barrier: ring.empty, index: index.clone(), parity }));
        out.push(Stmt::effect(Op::Expect { barrier: ring.full, index, bytes }));
    }

    fn receive(&mut self, channel: ChannelId, out: &mut Block) {
        let Some(ring) = self.rings.get(&channel).copied() else {
            let pending = self.program.channel(channel).stages.saturating_sub(2);
            out.push(Stmt::effect(Op::WaitGroup { group: Group::CpAsync, pending }));
            if self.program.channel(channel).buffers.iter().any(|buffer| self.read.contains(buffer)) {
                out.push(Stmt::effect(Op::Fence(Fence::ProxyAsync)));
            }
            out.push(self.sync());
            return;
        };
        let (index, parity) = self.phase(channel, false);
        out.push(Stmt::effect(Op::Wait { barrier: ring.full, index, parity }));
    }

    /// Which barrier of a ring one end waits for, and for which phase.
    fn phase(&mut self, channel: ChannelId, filling: bool) -> (Expr, Expr) {
        let cursor = self.cursor(channel, filling);
        (Expr::var(&cursor.stage), cursor.phase.as_ref().map_or(Expr::index(0), Expr::var))
    }

    /// A loop that only adds products: each iteration's may run into the next, whose slots are released an iteration later.
    fn accumulating(&mut self, mut stmt: Stmt, out: &mut Block) {
        let Op::For { var, start, end, body, .. } = &mut stmt.op else { return };
        let (mut inner, mut releases, mut late) = (vec![], vec![], vec![]);
        let dots = body.iter().filter(|stmt| is_asynchronous(&stmt.op)).count();
        let mut seen = 0;
        for stmt in std::mem::take(body) {
            match stmt.op {
                Op::Release(channel) => {
                    if let Some(ring) = self.rings.get(&channel).copied() {
                        late.push(ring.release(self.last(channel)));
                    }
                    releases.extend(self.advance(channel, false));
                }
                Op::Dot { .. } => {
                    let mut flights = vec![];
                    if seen == 0 {
                        inner.push(Stmt::effect(Op::Fence(Fence::Wgmma)));
                    }
                    seen += 1;
                    let mut own = vec![];
                    self.stmt(stmt, &mut flights, &mut own);
                    own.retain(|stmt| matches!(stmt.op, Op::Dot { .. }));
                    inner.extend(own);
                    if seen == dots {
                        inner.push(Stmt::effect(Op::Commit(Group::Wgmma)));
                    }
                }
                _ => self.stmt(stmt, &mut vec![], &mut inner),
            }
        }
        inner.push(Stmt::effect(Op::WaitGroup { group: Group::Wgmma, pending: 1 }));
        let none = || (vec![], vec![]);
        let later = Expr::var(var).gt(&*start);
        inner.push(Stmt::effect(Op::If { cond: later, then: (late.clone(), vec![]), otherwise: none() }));
        inner.extend(releases);
        let any = end.gt(&*start);
        *body = inner;
        out.push(stmt);
        out.push(Stmt::effect(Op::WaitGroup { group: Group::Wgmma, pending: 0 }));
        out.push(Stmt::effect(Op::If { cond: any, then: (late, vec![]), otherwise: none() }));
    }
}

fn released(op: &Op) -> Option<ChannelId> {
    if let Op::Release(channel) = op { Some(*channel) } else { None }
}

/// The channels from whose slots products multiply that run on their own, whichever way a statement takes; a loop may not run.
fn multiplied(op: &Op) -> HashSet<ChannelId> {
    match op {
        Op::Dot { a, b, .. } if is_asynchronous(op) => {
            let channel = |operand: &Operand| match operand {
                Operand::Shared(Slot { stage: Stage::Cursor(channel), .. }) => Some(*channel),
                _ => None,
            };
            [a, b].into_iter().filter_map(channel).collect()
        }
        Op::If { then, otherwise, .. } => {
            let [one, other] = [&then.0, &otherwise.0].map(all_multiplied);
            one.intersection(&other).copied().collect()
        }
        _ => HashSet::new(),
    }
}

fn all_multiplied(block: &Block) -> HashSet<ChannelId> {
    block.iter().flat_map(|stmt| multiplied(&stmt.op)).collect()
}

/// Waits for the first `count` products, and does what was due when they have ended.
fn land(flights: &mut Vec<Flight>, count: usize, out: &mut Block) {
    if count > 0 {
        let pending = (flights.len() - count) as u32;
        out.push(Stmt::effect(Op::WaitGroup { group: Group::Wgmma, pending }));
        out.extend(flights.drain(..count).flat_map(|flight| flight.releases));
    }
}

fn accumulator(op: &Op) -> Option<ValueId> {
    if let Op::Dot { acc, .. } = op { Some(*acc) } else { None }
}

/// Whether a loop does nothing but add products to what it carries.
fn accumulates(stmt: &Stmt) -> bool {
    let Op::For { carried, body, yields, .. } = &stmt.op else { return false };
    let mut sums: HashMap<ValueId, ValueId> = carried.iter().map(|(inside, _)| (*inside, *inside)).collect();
    let mut dots = 0;
    for stmt in body {
        match &stmt.op {
            Op::Dot { acc, .. } if is_asynchronous(&stmt.op) => {
                let Some(inside) = sums.remove(acc) else { return false };
                sums.insert(stmt.results[0], inside);
                dots += 1;
            }
            Op::Receive(_) | Op::Release(_) | Op::Bind { .. } => {}
            _ => return false,
        }
    }
    dots > 0 && carried.iter().zip(yields).all(|((inside, _), next)| sums.get(next) == Some(inside))
}
