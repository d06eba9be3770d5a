//! Recordings: launches, copies, branches and loops over a few blocks of memory. Places are checked and resolved when a tape is made, so that an
//! iteration of a loop does nothing but run its stages and move its results.

mod record;

use crate::error::{Error, Result};
use crate::kernel::{ALIGN, BoundKernel};
use crate::lower::Home;
use crate::memory::Slot;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of one of the blocks that a tape works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which block, in the order [`Tape::run`] is given them.
    pub block: usize,
    /// Bytes of it.
    pub range: Range<usize>,
}

impl From<Range<usize>> for Span {
    /// A range of the first block.
    fn from(range: Range<usize>) -> Span {
        Span { block: 0, range }
    }
}

/// Bytes of an operand.
#[derive(Clone, Debug)]
pub enum Place {
    /// Memory that may be written.
    Memory(Span),
    /// Memory that stays the same.
    Fixed(Bytes),
}

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Run a kernel.
    Launch {
        /// The kernel.
        kernel: Arc<BoundKernel>,
        /// One place an input.
        inputs: Vec<Place>,
        /// One an output. That of a region which updates an input ([`kiln_fuse::Region::updated`]) may be that input's.
        outputs: Vec<Span>,
        /// At least [`BoundKernel::scratch_bytes`].
        scratch: Span,
    },
    /// Copy between equal lengths that do not overlap.
    Copy {
        /// Source.
        from: Place,
        /// Destination.
        to: Span,
    },
    /// Take the first branch if a byte is not zero, else the second.
    If {
        /// The byte.
        cond: Place,
        /// What to do.
        branches: [Vec<Command>; 2],
    },
    /// Repeat a body.
    Loop(Loop),
}

/// `for i in 0..trip while go`.
#[derive(Clone, Debug)]
pub struct Loop {
    /// An i64.
    pub trip: Place,
    /// A bool that the body may change.
    pub go: Place,
    /// Where the body finds the iteration's number, an i64.
    pub index: Span,
    /// What to repeat.
    pub body: Vec<Command>,
    /// Copied after each iteration, in order: no destination is a later source.
    pub carried: Vec<(Place, Span)>,
    /// Copied after each iteration to the next part of the destination.
    pub scans: Vec<(Place, Span)>,
}

/// A list of commands, ready to run any number of times.
#[derive(Debug, Default)]
pub struct Tape {
    steps: Vec<Step>,
    launches: Vec<Launch>,
    /// Where each slot is: those of a launch lie together, in the order of its kernel's.
    slots: Vec<Source>,
    /// Bytes that each block must have.
    blocks: Vec<usize>,
    /// What loops keep, and scratch that does not fit where it was to be.
    own: Vec<u64>,
    /// The memory of a run's slots, for the next run.
    spare: Vec<Slot<'static>>,
}

#[derive(Clone, Debug)]
enum Source {
    Memory(Span),
    Own(Range<usize>),
    Fixed(Bytes),
}

#[derive(Debug)]
struct Launch {
    kernel: Arc<BoundKernel>,
    slots: Range<usize>,
    scratch: usize,
}

/// A command over slots.
#[derive(Debug)]
enum Step {
    Launch(usize),
    Copy(usize, usize),
    If(usize, Box<[Vec<Step>; 2]>),
    Loop(Box<Repeat>),
}

#[derive(Debug)]
struct Repeat {
    trip: usize,
    go: usize,
    index: usize,
    body: Vec<Step>,
    carried: Vec<(usize, usize)>,
    scans: Vec<(usize, usize)>,
    /// Launches of the body with stages that run before the first iteration.
    once: Vec<usize>,
}

/// Bytes of all slots up to which a run stays on its caller's thread: waking another takes longer.
const SMALL: usize = 64 * 1024;

impl Tape {
    /// Runs everything. What is worth several threads is shared out over those of `pool`; a small tape otherwise stays on the caller's.
    /// Each block starts on a cache line. Nothing is allocated from the second run on, but for what the pool's queue needs.
    ///
    /// # Errors
    /// Blocks that are missing or too small, a loop that stops before it has filled its stacked results, and what kernels report.
    pub fn run<B: AsMut<[u8]>>(&mut self, pool: &rayon::ThreadPool, blocks: &mut [B]) -> Result<()> {
        if blocks.len() < self.blocks.len() {
            return Err(Error::Tape { message: format!("needs {} blocks, found {}", self.blocks.len(), blocks.len()) });
        }
        let own: &mut [u8] = bytemuck::cast_slice_mut(&mut self.own);
        let skip = own.as_ptr().align_offset(ALIGN).min(own.len());
        let own = Slot::write(&mut own[skip..]);
        // The whole blocks first, then what lies in them.
        let mut slots: Vec<Slot<'_>> = std::mem::take(&mut self.spare);
        for (block, &bytes) in blocks.iter_mut().zip(&self.blocks) {
            let block = block.as_mut();
            if block.len() < bytes || block.as_ptr().align_offset(ALIGN) != 0 {
                let message = format!("needs {bytes} bytes on a cache line, found {} at {block:p}", block.len());
                return Err(Error::Tape { message });
            }
            slots.push(Slot::write(block));
        }
        for source in &self.slots {
            slots.push(match source {
                Source::Memory(span) => slots[span.block].part(span.range.start, span.range.len()),
                Source::Own(r) => own.part(r.start, r.len()),
                Source::Fixed(bytes) => Slot::read(bytes),
            });
        }
        let all = &slots[self.blocks.len()..];
        let run = Run { launches: &self.launches, slots: all, pool };
        let result = match all.iter().map(Slot::len).sum::<usize>() <= SMALL {
            true => run.steps(&self.steps),
            false => pool.install(|| run.steps(&self.steps)),
        };
        slots.clear();
        // Collected in place: the allocation stays, the borrows end.
        self.spare = slots.into_iter().map(|_| Slot::read(&[])).collect();
        result
    }
}

/// A run in progress.
struct Run<'a> {
    launches: &'a [Launch],
    slots: &'a [Slot<'a>],
    pool: &'a rayon::ThreadPool,
}

impl Run<'_> {
    fn steps(&self, steps: &[Step]) -> Result<()> {
        for step in steps {
            match step {
                Step::Launch(i) => self.launch(&self.launches[*i], false)?,
                Step::Copy(from, to) => self.copy(*from, *to, 0),
                Step::If(cond, branches) => self.steps(&branches[usize::from(!self.truth(*cond))])?,
                Step::Loop(repeat) => self.repeat(repeat)?,
            }
        }
        Ok(())
    }

    fn truth(&self, slot: usize) -> bool {
        self.slots[slot].bytes().first().is_some_and(|&b| b != 0)
    }

    /// Copies a slot to the `part`-th part of another.
    fn copy(&self, from: usize, to: usize, part: usize) {
        let bytes = self.slots[from].bytes();
        self.slots[to].range_mut::<u8>(part * bytes.len(), bytes.len()).copy_from_slice(bytes);
    }

    fn repeat(&self, r: &Repeat) -> Result<()> {
        let trips = self.slots[r.trip].typed::<i64>().first().map_or(0, |&t| t.max(0));
        for &(from, to) in &r.scans {
            let (one, all) = (self.slots[from].len(), self.slots[to].len());
            if i64::try_from(one).ok().and_then(|one| one.checked_mul(trips)) != i64::try_from(all).ok() {
                return Err(Error::Loop { expected: (all / one.max(1)) as i64, found: trips });
            }
        }
        for &i in &r.once {
            self.launch(&self.launches[i], true)?;
        }
        let mut i = 0;
        while i < trips && self.truth(r.go) {
            self.slots[r.index].put(0, i);
            self.steps(&r.body)?;
            r.scans.iter().for_each(|&(from, to)| self.copy(from, to, i as usize));
            r.carried.iter().for_each(|&(from, to)| self.copy(from, to, 0));
            i += 1;
        }
        if i < trips && !r.scans.is_empty() {
            return Err(Error::Loop { expected: trips, found: i });
        }
        Ok(())
    }

    /// Runs a launch's stages: those of every time, or those that run `once`.
    fn launch(&self, launch: &Launch, once: bool) -> Result<()> {
        let Launch { kernel, slots, scratch } = launch;
        let slots = &self.slots[slots.clone()];
        if let Some(lowered) = kernel.lowered() {
            let range = if once { 0..lowered.once } else { lowered.once..lowered.stages.len() };
            return kernel.run_stages(lowered, range, slots, self.slots[*scratch], Some(self.pool));
        }
        let (inputs, outputs) = slots.split_at(kernel.inputs.len());
        let inputs: Vec<&[u8]> = inputs.iter().map(Slot::bytes).collect();
        let results = kernel.reference(&inputs)?;
        results.iter().zip(outputs).for_each(|(result, s)| s.range_mut(0, s.len()).copy_from_slice(result.data()));
        Ok(())
    }
}
