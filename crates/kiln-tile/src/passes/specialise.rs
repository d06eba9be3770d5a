//! Splits a program into a role that copies and one that computes, with a channel between them for each group of operands.
//!
//! Both keep the loops; the producer of a channel and its consumer are the same statement of the source, so their trip counts are the same
//! expressions.

use super::Machine;
use super::feeds::{Feed, feeds, operands};
use crate::ir::{
    Block, Channel, ChannelId, CopyKind, Op, Operand, Part, Program, Renaming, Role, Shared, SharedId, Slot, Stage,
    Stmt, ValueId, View,
};
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Warps of the role that copies: one thread works, but registers change hands by warpgroups.
const PRODUCER_WARPS: u32 = 4;

/// Runs the pass if the schedule asks for it and every operand can be brought by the tensor memory accelerator; whether it did.
pub fn specialise(program: &mut Program, machine: &Machine) -> bool {
    // All threads of a CTA meet those of the others where a cluster combines something: no role does that alone.
    if !program.schedule.specialise || !machine.has_tma() || program.combines() {
        return false;
    }
    let mut found = feeds(program, machine);
    found.retain(|_, feed| feed.kind == CopyKind::Tma);
    if found.is_empty() {
        return false;
    }
    let body = std::mem::take(&mut program.body);
    let mut alone = vec![];
    travelling_alone(&body, &found, &mut alone);
    let mut pass = Pass { program, feeds: found, slots: HashMap::new(), groups: vec![], alone };
    pass.assign(&body, 1, &[]);
    let producer = pass.producer(&body);
    let consumer = pass.consumer(&body);
    let producer = pass.program.copy_block(&producer, &mut Renaming::default());
    let (give, take) = pass.program.schedule.registers.unzip();
    let roles = vec![
        Role { name: "producer".into(), warps: PRODUCER_WARPS, groups: None, registers: give, body: producer },
        Role {
            name: "consumer".into(),
            warps: pass.program.schedule.warps,
            groups: None,
            registers: take,
            body: consumer,
        },
    ];
    pass.program.body = vec![Stmt::effect(Op::Roles(roles))];
    true
}

/// Loads that travel together.
struct Group {
    /// The loads of one statement of the source, and of copies of it that other passes made.
    loads: Vec<Vec<ValueId>>,
    channel: ChannelId,
}

struct Pass<'a> {
    program: &'a mut Program,
    feeds: HashMap<ValueId, Feed>,
    slots: HashMap<ValueId, (ChannelId, SharedId)>,
    groups: Vec<Group>,
    /// Boxes that travel alone in a loop: so do those outside of it that are like them.
    alone: Vec<Key>,
}

/// What tells boxes apart: their tensor and extents.
#[derive(PartialEq)]
struct Key {
    tensor: u32,
    axes: Vec<Option<usize>>,
    walks: Vec<(usize, Vec<Part>)>,
    shape: Vec<u32>,
}

fn key(view: &View) -> Key {
    let walks = view.walks.iter().map(|walk| (walk.axis, walk.parts.clone())).collect();
    Key { tensor: view.tensor.id, axes: view.axes.clone(), walks, shape: view.shape.clone() }
}

/// The boxes that a dot in a pipelined loop multiplies with nothing else that the loop loads.
fn travelling_alone(block: &Block, feeds: &HashMap<ValueId, Feed>, found: &mut Vec<Key>) {
    for stmt in block {
        if let Op::For { body, stages: Some(_), .. } = &stmt.op {
            for dot in body {
                let mut loads = operands(&dot.op);
                loads.retain(|v| feeds.contains_key(v) && body.iter().any(|s| s.results.contains(v)));
                if let [load] = loads[..] {
                    found.push(key(&feeds[&load].view));
                }
            }
        }
        stmt.op.blocks().into_iter().for_each(|block| travelling_alone(block, feeds, found));
    }
}

impl Pass<'_> {
    /// Makes a channel for each group of loads of `block`: those that one dot of the same block multiplies, or dots that share one, or one alone. Not
    /// one of `busy`.
    fn assign(&mut self, block: &Block, stages: u32, busy: &[ChannelId]) {
        let mut here: Vec<ValueId> =
            block.iter().flat_map(|stmt| &stmt.results).copied().filter(|v| self.feeds.contains_key(v)).collect();
        let mut groups = vec![];
        for stmt in block {
            let mut group: Vec<ValueId> = operands(&stmt.op).into_iter().filter(|v| here.contains(v)).collect();
            group.dedup();
            here.retain(|value| !group.contains(value));
            let alone = |load: &ValueId| self.key(*load).is_some_and(|key| self.alone.contains(&key));
            // What a dot multiplies beside a tile of an earlier one travels with that, unless that travels alone.
            let shares = |(known, _): &(Vec<ValueId>, u32)| {
                !known.iter().any(alone) && operands(&stmt.op).iter().any(|v| known.contains(v))
            };
            let earlier = groups.iter().position(shares);
            let (apart, group): (Vec<ValueId>, Vec<ValueId>) = group.into_iter().partition(alone);
            groups.extend(apart.into_iter().map(|load| (vec![load], stages)));
            match earlier {
                Some(at) => groups[at].0.extend(group),
                None if !group.is_empty() => groups.push((group, stages)),
                None => {}
            }
        }
        groups.extend(here.into_iter().map(|load| (vec![load], 1)));
        // From the load to the last use: two that overlap have slots of different channels, for a channel's are taken in turn.
        let mut held: Vec<(ChannelId, RangeInclusive<usize>)> = vec![];
        let channels = |held: &[(ChannelId, RangeInclusive<usize>)], range: &RangeInclusive<usize>| -> Vec<ChannelId> {
            let overlap = |other: &RangeInclusive<usize>| other.start() <= range.end() && range.start() <= other.end();
            let held = held.iter().filter(|(_, other)| overlap(other)).map(|(channel, _)| *channel);
            busy.iter().copied().chain(held).collect()
        };
        for (group, stages) in groups {
            let concerned = |stmt: &Stmt| {
                stmt.results.iter().any(|v| group.contains(v)) || multiplied(stmt).iter().any(|v| group.contains(v))
            };
            let range = block.iter().position(concerned).unwrap_or(0)..=block.iter().rposition(concerned).unwrap_or(0);
            let channel = self.group(group, stages, &channels(&held, &range));
            held.push((channel, range));
        }
        for (i, stmt) in block.iter().enumerate() {
            let stages = if let Op::For { stages: Some(stages), .. } = &stmt.op { *stages } else { stages };
            let busy = channels(&held, &(i..=i));
            stmt.op.blocks().into_iter().for_each(|block| self.assign(block, stages, &busy));
        }
    }

    fn key(&self, load: ValueId) -> Option<Key> {
        self.feeds.get(&load).map(|feed| key(&feed.view))
    }

    /// The channel of a group: one that has loads of the same boxes and is not `busy`, or a new one.
    fn group(&mut self, loads: Vec<ValueId>, stages: u32, busy: &[ChannelId]) -> ChannelId {
        let keys = |loads: &[ValueId]| loads.iter().map(|load| self.key(*load)).collect::<Vec<_>>();
        let same = |group: &Group| !busy.contains(&group.channel) && keys(&group.loads[0]) == keys(&loads);
        if let Some(same) = self.groups.iter().position(same) {
            let group = &mut self.groups[same];
            let channel = group.channel;
            for (load, known) in loads.iter().zip(&group.loads[0]) {
                self.slots.insert(*load, self.slots[known]);
            }
            group.loads.push(loads);
            let declared = &mut self.program.channels[channel.0 as usize];
            declared.stages = declared.stages.max(stages);
            for buffer in declared.buffers.clone() {
                self.program.shared[buffer.0 as usize].stages = declared.stages;
            }
            return channel;
        }
        let channel = ChannelId(self.program.channels.len() as u32);
        let mut buffers = vec![];
        for load in &loads {
            let Feed { view, .. } = &self.feeds[load];
            let buffer = SharedId(self.program.shared.len() as u32);
            let name = self.program.value(*load).name.clone();
            let (dtype, shape) = (view.tensor.dtype, view.shape.clone());
            self.program.shared.push(Shared { name, dtype, shape, stages, layout: None, offset: None });
            self.slots.insert(*load, (channel, buffer));
            buffers.push(buffer);
        }
        let name = self.program.shared(buffers[0]).name.clone();
        self.program.channels.push(Channel { name, buffers, stages, kind: CopyKind::Tma });
        self.groups.push(Group { loads: vec![loads], channel });
        channel
    }

    fn slot(&self, load: ValueId) -> Slot {
        let (channel, buffer) = self.slots[&load];
        Slot { buffer, stage: Stage::Cursor(channel) }
    }

    /// The control flow around copies, and the copies.
    fn producer(&self, block: &Block) -> Block {
        let mut out = vec![];
        for stmt in block {
            match &stmt.op {
                Op::Bind { .. } => out.push(stmt.clone()),
                Op::Load { .. } if self.feeds.contains_key(&stmt.results[0]) => {
                    let load = stmt.results[0];
                    let all = self.groups.iter().flat_map(|group| &group.loads).find(|loads| loads.contains(&load));
                    let later = block.iter().skip_while(|s| !s.results.contains(&load)).skip(1);
                    let Some(all) = all else { continue };
                    if later.flat_map(|stmt| &stmt.results).any(|value| all.contains(value)) {
                        continue;
                    }
                    let channel = self.slots[&load].0;
                    out.push(Stmt::effect(Op::Acquire(channel)));
                    out.extend(all.iter().map(|load| {
                        let from = self.feeds[load].view.clone();
                        Stmt::effect(Op::Copy { from, to: self.slot(*load), kind: CopyKind::Tma, barrier: None })
                    }));
                    out.push(Stmt::effect(Op::Publish(channel)));
                }
                Op::For { var, start, end, step, body, .. } if self.copies(stmt) => {
                    let (var, start, end, step) = (var.clone(), start.clone(), end.clone(), step.clone());
                    let body = self.producer(body);
                    out.push(Stmt::effect(Op::For {
                        var,
                        start,
                        end,
                        step,
                        carried: vec![],
                        body,
                        yields: vec![],
                        stages: None,
                    }));
                }
                Op::If { cond, then, otherwise } if self.copies(stmt) => {
                    let [then, otherwise] = [then, otherwise].map(|(block, _)| (self.producer(block), vec![]));
                    out.push(Stmt::effect(Op::If { cond: cond.clone(), then, otherwise }));
                }
                _ => {}
            }
        }
        out
    }

    /// Whether there are copies inside.
    fn copies(&self, stmt: &Stmt) -> bool {
        let mut found = false;
        stmt.walk(&mut |stmt| found |= stmt.results.iter().any(|value| self.feeds.contains_key(value)));
        found
    }

    /// The program with slots instead of the loads: received before the first statement that multiplies them, there or in a block inside, and
    /// released after the last.
    fn consumer(&self, block: &Block) -> Block {
        let mut out = vec![];
        let loads: Vec<ValueId> = block.iter().flat_map(|stmt| &stmt.results).copied().collect();
        let uses: Vec<Vec<&Vec<ValueId>>> = block.iter().map(|stmt| self.received(stmt, &loads)).collect();
        let among = |uses: &[Vec<&Vec<ValueId>>], loads: &Vec<ValueId>| uses.iter().any(|used| used.contains(&loads));
        for (i, stmt) in block.iter().enumerate() {
            if stmt.results.iter().any(|value| self.feeds.contains_key(value)) {
                continue;
            }
            let first = uses[i].iter().filter(|loads| !among(&uses[..i], loads));
            out.extend(first.map(|loads| Stmt::effect(Op::Receive(self.slots[&loads[0]].0))));
            let mut stmt = stmt.clone();
            if let Op::Dot { a, b, .. } = &mut stmt.op {
                for operand in [a, b] {
                    if let Operand::Tile(value) = operand
                        && self.feeds.contains_key(value)
                    {
                        *operand = Operand::Shared(self.slot(*value));
                    }
                }
            }
            let inside: Vec<Block> = stmt.op.blocks().into_iter().map(|block| self.consumer(block)).collect();
            stmt.op.blocks_mut().into_iter().zip(inside).for_each(|(place, block)| *place = block);
            out.push(stmt);
            let last = uses[i].iter().filter(|loads| !among(&uses[i + 1..], loads));
            out.extend(last.map(|loads| Stmt::effect(Op::Release(self.slots[&loads[0]].0))));
        }
        out
    }

    /// Those groups of `loads` of which a statement multiplies one, itself or inside.
    fn received(&self, stmt: &Stmt, loads: &[ValueId]) -> Vec<&Vec<ValueId>> {
        let multiplied = multiplied(stmt);
        let all = self.groups.iter().flat_map(|group| &group.loads);
        all.filter(|group| group.iter().any(|v| loads.contains(v) && multiplied.contains(v))).collect()
    }
}

/// The tiles that a statement multiplies, itself or inside.
fn multiplied(stmt: &Stmt) -> Vec<ValueId> {
    let mut values = vec![];
    stmt.walk(&mut |stmt| values.extend(operands(&stmt.op)));
    values
}
