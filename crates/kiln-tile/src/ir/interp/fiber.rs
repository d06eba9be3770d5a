//! A role as a coroutine: where it is, what it knows, and how far it has come along each channel.

use super::tile::Elements;
use crate::dtype::Scalar;
use crate::ir::{Block, ChannelId, Op, Program, Stmt, ValueId};

/// The thread of execution of a CTA without roles, or of one of its roles.
pub(super) struct Fiber<'p> {
    pub(super) name: &'p str,
    /// The innermost block last; none: it has ended.
    pub(super) frames: Vec<Frame<'p>>,
    /// Its variables, while it does not run.
    pub(super) vars: Vec<Option<Scalar>>,
    /// By value.
    pub(super) tiles: Vec<Held>,
    /// By channel.
    cursors: Vec<Cursor>,
    /// What it waited for last.
    pub(super) waits: Option<Wait>,
}

/// What a tile value holds.
#[derive(Clone)]
pub(super) enum Held {
    Nothing,
    /// A dot has accumulated into it.
    Taken,
    Tile(Elements),
}

/// A block that is being run.
pub(super) struct Frame<'p> {
    pub(super) block: &'p [Stmt],
    /// Its next statement.
    pub(super) next: usize,
    pub(super) then: Then<'p>,
}

/// What follows the end of a block.
pub(super) enum Then<'p> {
    /// Nothing.
    End,
    /// Results get what the block yields.
    Yield { yields: &'p [ValueId], results: &'p [ValueId] },
    /// The next iteration of a loop, or its results.
    Again { stmt: &'p Stmt, next: i128, end: i128, step: i128 },
}

/// What a fiber waits for.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    /// That a slot is released.
    Free(ChannelId),
    /// That a slot is published.
    Full(ChannelId),
    /// That the other CTAs of the cluster come to the same statement.
    Cluster,
}

/// Slots of a channel that were passed, counted from the start of the CTA.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    /// Whether it publishes, and whether it receives.
    ends: (bool, bool),
    pub(super) acquired: bool,
    pub(super) published: u64,
    pub(super) received: u64,
    pub(super) released: u64,
}

impl Cursor {
    /// The slot that is acquired, or else the last that is received and not released.
    pub(super) fn slot(&self) -> Option<u64> {
        match self {
            _ if self.acquired => Some(self.published),
            _ if self.received > self.released => Some(self.received - 1),
            _ => None,
        }
    }
}

/// How far the slowest of the fibers has come at either end of a channel. An end at which there is none is where it was before them.
pub(super) fn progress(fibers: &[Fiber<'_>], channel: ChannelId) -> Cursor {
    let cursors = || fibers.iter().map(|fiber| fiber.cursor(channel));
    let first = cursors().next().unwrap_or_default();
    let slowest = |takes_part: fn(&Cursor) -> bool, count: fn(&Cursor) -> u64| {
        cursors().filter(takes_part).map(|cursor| count(&cursor)).min().unwrap_or_else(|| count(&first))
    };
    Cursor {
        published: slowest(|cursor| cursor.ends.0, |cursor| cursor.published),
        received: slowest(|cursor| cursor.ends.1, |cursor| cursor.received),
        released: slowest(|cursor| cursor.ends.1, |cursor| cursor.released),
        ..first
    }
}

impl<'p> Frame<'p> {
    pub(super) fn new(block: &'p [Stmt], then: Then<'p>) -> Frame<'p> {
        Frame { block, next: 0, then }
    }
}

impl<'p> Fiber<'p> {
    /// One that will run `body`, and knows nothing but `vars`.
    pub(super) fn new(program: &Program, name: &'p str, body: &'p Block, vars: Vec<Option<Scalar>>) -> Fiber<'p> {
        let mut fiber = Fiber {
            name,
            frames: vec![],
            vars,
            tiles: vec![Held::Nothing; program.values.len()],
            cursors: vec![Cursor::default(); program.channels.len()],
            waits: None,
        };
        fiber.start(body);
        fiber
    }

    /// A role of this fiber: it knows what this one does.
    pub(super) fn role(&self, name: &'p str, body: &'p Block, vars: &[Option<Scalar>]) -> Fiber<'p> {
        let (tiles, cursors) = (self.tiles.clone(), self.cursors.clone());
        let mut fiber = Fiber { name, frames: vec![], vars: vars.to_vec(), tiles, cursors, waits: None };
        fiber.start(body);
        fiber
    }

    fn start(&mut self, body: &'p Block) {
        self.cursors.iter_mut().for_each(|cursor| cursor.ends = (false, false));
        for stmt in body {
            stmt.walk(&mut |stmt| match stmt.op {
                Op::Publish(channel) => self.cursor_mut(channel).ends.0 = true,
                Op::Receive(channel) => self.cursor_mut(channel).ends.1 = true,
                _ => {}
            });
        }
        self.frames.push(Frame::new(body, Then::End));
    }

    /// The statement that it stands at; none: it has ended.
    pub(super) fn stands(&self) -> Option<&'p Stmt> {
        self.frames.last().and_then(|frame| frame.block.get(frame.next))
    }

    pub(super) fn cursor(&self, channel: ChannelId) -> Cursor {
        self.cursors[channel.0 as usize]
    }

    pub(super) fn cursor_mut(&mut self, channel: ChannelId) -> &mut Cursor {
        &mut self.cursors[channel.0 as usize]
    }

    pub(super) fn define(&mut self, value: ValueId, elements: Elements) {
        self.tiles[value.0 as usize] = Held::Tile(elements);
    }

    /// Goes on from where its roles have come to.
    pub(super) fn join(&mut self, roles: &[Fiber<'_>]) {
        for channel in 0..self.cursors.len() {
            let ends = self.cursors[channel].ends;
            self.cursors[channel] = Cursor { ends, ..progress(roles, ChannelId(channel as u32)) };
        }
    }

    /// What keeps it from going on.
    pub(super) fn describe(&self, program: &Program) -> String {
        let name = |channel: ChannelId| &program.channel(channel).name;
        match self.waits {
            _ if self.frames.is_empty() => format!("`{}` has ended", self.name),
            Some(Wait::Free(channel)) => {
                let (name, cursor) = (name(channel), self.cursor(channel));
                format!(
                    "`{}` waits for a free slot of channel `{name}` to publish slot {}",
                    self.name, cursor.published
                )
            }
            Some(Wait::Full(channel)) => {
                let (name, cursor) = (name(channel), self.cursor(channel));
                format!("`{}` waits for slot {} of channel `{name}` to be published", self.name, cursor.received)
            }
            Some(Wait::Cluster) => format!("`{}` waits for the other CTAs of its cluster", self.name),
            None => format!("`{}` waits", self.name),
        }
    }
}
