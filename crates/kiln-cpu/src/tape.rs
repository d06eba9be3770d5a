//! Recordings: launches, copies, branches and loops over one block of memory. Places are checked and resolved when a tape is made, so that an
//! iteration of a loop does nothing but run its stages and move its results.

mod record;

use crate::error::{Error, Result};
use crate::kernel::{ALIGN, BoundKernel};
use crate::lower::Home;
use crate::memory::Slot;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of an operand.
#[derive(Clone, Debug)]
pub enum Place {
    /// A range of the block that kernels write.
    Arena(Range<usize>),
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
        /// One range of the arena an output.
        outputs: Vec<Range<usize>>,
        /// At least [`BoundKernel::scratch_bytes`] of the arena.
        scratch: Range<usize>,
    },
    /// Copy to the arena; equal lengths, not overlapping.
    Copy {
        /// Source.
        from: Place,
        /// Destination.
        to: Range<usize>,
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
    pub index: Range<usize>,
    /// What to repeat.
    pub body: Vec<Command>,
    /// Copied after each iteration, in order: no destination is a later source.
    pub carried: Vec<(Place, Range<usize>)>,
    /// Copied after each iteration to the next part of the destination.
    pub scans: Vec<(Place, Range<usize>)>,
}

/// A list of commands, ready to run any number of times.
#[derive(Debug)]
pub struct Tape {
    steps: Vec<Step>,
    launches: Vec<Launch>,
    /// Where each slot is: those of a launch lie together, in the order of its kernel's.
    slots: Vec<Source>,
    arena: usize,
    /// What loops keep, and scratch that the arena has no room for.
    own: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Source {
    Arena(Range<usize>),
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

impl Tape {
    /// Runs everything, on rayon's current pool. `arena` starts on a cache line.
    ///
    /// # Errors
    /// An arena that is too small, a loop that stops before it has filled its stacked results, and what kernels report.
    pub fn run(&mut self, arena: &mut [u8]) -> Result<()> {
        let Tape { steps, launches, slots, own, .. } = self;
        if arena.len() < self.arena || arena.as_ptr().align_offset(ALIGN) != 0 {
            let message = format!("needs {} bytes on a cache line, found {} at {:p}", self.arena, arena.len(), arena);
            return Err(Error::Tape { message });
        }
        let own: &mut [u8] = bytemuck::cast_slice_mut(own);
        let skip = own.as_ptr().align_offset(ALIGN).min(own.len());
        let (arena, own) = (Slot::write(arena), Slot::write(&mut own[skip..]));
        let slots: Vec<Slot<'_>> = slots
            .iter()
            .map(|source| match source {
                Source::Arena(r) => arena.part(r.start, r.len()),
                Source::Own(r) => own.part(r.start, r.len()),
                Source::Fixed(bytes) => Slot::read(bytes),
            })
            .collect();
        Run { launches, slots: &slots }.steps(steps)
    }
}

/// A run in progress.
struct Run<'a> {
    launches: &'a [Launch],
    slots: &'a [Slot<'a>],
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
            return kernel.run_stages(lowered, range, slots, self.slots[*scratch]);
        }
        let (inputs, outputs) = slots.split_at(kernel.inputs.len());
        let inputs: Vec<&[u8]> = inputs.iter().map(Slot::bytes).collect();
        let mut outputs: Vec<&mut [u8]> = outputs.iter().map(|s| s.range_mut(0, s.len())).collect();
        kernel.reference(&inputs, &mut outputs)
    }
}
