//! Who fills and who empties what: channels, barriers, and the other statements without results.

use super::super::{BarrierId, Block, ChannelId, CopyKind, Level, Op, Operand, Slot, Stage, Stmt};
use super::Verifier;
use crate::dtype::Type;
use crate::error::Result;
use crate::expr::Expr;
use std::collections::HashSet;

/// What the statements so far do to channels and barriers.
#[derive(Default)]
struct Seen {
    /// Channels between acquire and publish, and between receive and release, of the role at hand.
    filling: HashSet<ChannelId>,
    reading: HashSet<ChannelId>,
    published: HashSet<ChannelId>,
    released: HashSet<ChannelId>,
    arrived: HashSet<BarrierId>,
    waited: HashSet<BarrierId>,
}

impl Verifier<'_> {
    /// A statement that defines nothing and holds no blocks.
    pub(super) fn effect(&self, op: &Op) -> Result<()> {
        match op {
            Op::Acquire(channel) | Op::Publish(channel) | Op::Receive(channel) | Op::Release(channel) => {
                self.declared(*channel)
            }
            Op::Skip { channel, slots } => {
                self.declared(*channel)?;
                self.scalar(slots, "the number of slots", Type::Index)
            }
            Op::Expect { barrier, index, bytes } => {
                // The count of a phase's bytes has 20 bits (PTX ISA, "mbarrier").
                let fits = (1..1 << 20).contains(bytes);
                self.rule(fits, || format!("{bytes} bytes"), "expect 1 to 1048575")?;
                self.phase(*barrier, index)
            }
            Op::Arrive { barrier, index, .. } => self.phase(*barrier, index),
            Op::Wait { barrier, index, parity } => {
                self.phase(*barrier, index)?;
                self.scalar(parity, "the parity", Type::Index)?;
                let bit = parity.as_const().is_none_or(|parity| (0..2).contains(&parity));
                self.rule(bit, || format!("a parity of {parity}"), "it is 0 or 1")
            }
            Op::NamedBarrier { id, threads, .. } => {
                self.scalar(id, "the barrier", Type::Index)?;
                let exists = id.as_const().is_none_or(|id| (0..16).contains(&id));
                self.rule(exists, || format!("named barrier {id}"), "there are 16")?;
                self.rule(
                    *threads > 0 && threads.is_multiple_of(32) && *threads <= self.program.threads(),
                    || format!("{threads} threads of {}", self.program.threads()),
                    "whole warps of the CTA take part",
                )
            }
            Op::SetRegisters { count, .. } => self.registers(*count),
            _ => Ok(()),
        }
    }

    fn declared(&self, channel: ChannelId) -> Result<()> {
        let declared = self.program.channels.get(channel.0 as usize).is_some();
        self.rule(declared, || format!("channel {} is not declared", channel.0), "declare it")
    }

    pub(super) fn phase(&self, id: BarrierId, index: &Expr) -> Result<()> {
        let Some(barrier) = self.program.barriers.get(id.0 as usize) else {
            return self.fail(format!("barrier {} is not declared", id.0), "declare it");
        };
        self.scalar(index, "the index", Type::Index)?;
        self.rule(
            index.as_const().is_none_or(|index| (0..barrier.stages.into()).contains(&index)),
            || format!("barrier {index} of the {} of `{}`", barrier.stages, barrier.name),
            "use one that it has",
        )
    }

    /// Checks that what is filled is emptied, what is waited for arrives, and that slots are touched only while they are held.
    pub(super) fn channels(&mut self) -> Result<()> {
        let mut seen = Seen::default();
        self.flow(&self.program.body, &mut seen)?;
        for (i, channel) in self.program.channels.iter().enumerate() {
            let id = ChannelId(i as u32);
            self.place = format!("channel `{}`", channel.name);
            // From level async on barriers and groups say it.
            let both = seen.published.contains(&id) && seen.released.contains(&id);
            self.rule(
                both || self.program.level == Level::Async,
                || "nothing publishes to it, or nothing releases its slots".to_owned(),
                "give it a producer and a consumer, or remove it",
            )?;
        }
        for (i, barrier) in self.program.barriers.iter().enumerate() {
            let id = BarrierId(i as u32);
            self.place = format!("barrier `{}`", barrier.name);
            self.rule(
                !seen.waited.contains(&id) || seen.arrived.contains(&id),
                || "it is waited for, and nothing arrives".to_owned(),
                "arrive, or expect bytes, for every phase",
            )?;
        }
        Ok(())
    }

    /// In the order of the text: a loop's body once, both branches of a condition.
    fn flow(&mut self, block: &Block, seen: &mut Seen) -> Result<()> {
        for stmt in block {
            self.place = format!("`{}`", stmt.op.name());
            self.step(stmt, seen)?;
            for inner in stmt.op.blocks() {
                if let Op::Roles(_) = stmt.op {
                    (seen.filling, seen.reading) = Default::default();
                }
                self.flow(inner, seen)?;
            }
        }
        Ok(())
    }

    fn step(&self, stmt: &Stmt, seen: &mut Seen) -> Result<()> {
        match &stmt.op {
            Op::Acquire(channel) => _ = seen.filling.insert(*channel),
            Op::Publish(channel) => {
                self.held(seen.filling.remove(channel), "published", "acquire a slot first")?;
                seen.published.insert(*channel);
            }
            Op::Receive(channel) => _ = seen.reading.insert(*channel),
            Op::Release(channel) => {
                self.held(seen.reading.remove(channel), "released", "receive a slot first")?;
                seen.released.insert(*channel);
            }
            Op::Skip { channel, .. } => {
                self.rule(
                    !seen.reading.contains(channel),
                    || "slots are skipped while one is held".to_owned(),
                    "release it first",
                )?;
            }
            Op::Copy { to, kind, barrier, .. } => {
                if let Stage::Cursor(channel) = to.stage {
                    self.held(seen.filling.contains(&channel), "filled", "acquire it first, publish it after")?;
                    let declared = self.program.channel(channel);
                    // Copies of any width are waited for in one way, and boxes whoever asks for them.
                    let boxes = *kind == CopyKind::Multicast && declared.kind == CopyKind::Tma;
                    self.rule(
                        boxes || std::mem::discriminant(&declared.kind) == std::mem::discriminant(kind),
                        || format!("a copy by {kind:?} in a channel of copies by {:?}", declared.kind),
                        "let all copies of a channel travel alike",
                    )?;
                }
                seen.arrived.extend(barrier.as_ref().map(|(barrier, _)| *barrier));
            }
            Op::SharedStore { to, .. } => self.reads(to, &seen.filling, "acquire it first, publish it after")?,
            Op::SharedLoad { from } | Op::CopyOut { from, .. } => {
                self.reads(from, &seen.reading, "receive it first, release it after")?;
            }
            Op::Dot { a, b, .. } => {
                for operand in [a, b] {
                    if let Operand::Shared(slot) = operand {
                        self.reads(slot, &seen.reading, "receive it first, release it after")?;
                    }
                }
            }
            Op::Expect { barrier, .. } | Op::Arrive { barrier, .. } => _ = seen.arrived.insert(*barrier),
            Op::Wait { barrier, .. } => _ = seen.waited.insert(*barrier),
            _ => {}
        }
        Ok(())
    }

    fn reads(&self, slot: &Slot, held: &HashSet<ChannelId>, help: &str) -> Result<()> {
        let Stage::Cursor(channel) = slot.stage else { return Ok(()) };
        self.held(held.contains(&channel), "used", help)
    }

    fn held(&self, held: bool, what: &str, help: &str) -> Result<()> {
        self.rule(held, || format!("a slot is {what} that is not held"), help)
    }
}
