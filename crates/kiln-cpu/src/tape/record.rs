//! Making a tape: every place is checked, and what loops repeat is bound for being repeated.

use super::{Command, Home, Launch, Loop, Place, Repeat, Source, Span, Step, Tape};
use crate::aligned::{aligned, alignment};
use crate::error::{Error, Result};
use crate::kernel::{ALIGN, BoundKernel};
use kiln_graph::DType;
use std::sync::Arc;

impl Tape {
    /// Checks commands and resolves their places. Kernels in a loop are bound again: what stays the same in all iterations is laid out for
    /// them once a loop.
    ///
    /// # Errors
    /// Operands of a wrong number, size or alignment, and results that overlap an operand.
    pub fn new(commands: &[Command]) -> Result<Tape> {
        let mut recorder = Recorder { tape: Tape::default(), own: 0 };
        let steps = recorder.steps(commands, None, &mut Vec::new())?;
        let Recorder { mut tape, own: bytes } = recorder;
        tape.steps = steps;
        if bytes > 0 {
            let words = (bytes + ALIGN).div_ceil(8);
            tape.own.try_reserve_exact(words).map_err(|_| Error::Memory { bytes })?;
            tape.own.resize(words, 0);
        }
        Ok(tape)
    }
}

impl Place {
    fn len(&self) -> usize {
        match self {
            Place::Memory(span) => span.len(),
            Place::Fixed(b) => b.len(),
        }
    }
}

impl Span {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn overlaps(&self, other: &Span) -> bool {
        let (a, b) = (&self.range, &other.range);
        self.block == other.block && !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
    }
}

/// What something writes.
type Written = Vec<Span>;

struct Recorder {
    tape: Tape,
    /// Bytes of the tape's own memory.
    own: usize,
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::Tape { message })
}

/// What commands write.
fn writes(commands: &[Command], into: &mut Written) {
    for command in commands {
        match command {
            Command::Launch { outputs, scratch, .. } => into.extend(outputs.iter().chain([scratch]).cloned()),
            Command::Copy { to, .. } => into.push(to.clone()),
            Command::If { branches, .. } => branches.iter().for_each(|b| writes(b, into)),
            Command::Loop(l) => written_by(l, into),
        }
    }
}

fn written_by(l: &Loop, into: &mut Written) {
    writes(&l.body, into);
    into.push(l.index.clone());
    into.extend(l.carried.iter().chain(&l.scans).map(|(_, to)| to.clone()));
}

impl Recorder {
    fn slot(&mut self, source: Source) -> usize {
        if let Source::Memory(span) = &source {
            let blocks = &mut self.tape.blocks;
            blocks.resize(blocks.len().max(span.block + 1), 0);
            blocks[span.block] = blocks[span.block].max(span.range.end);
        }
        self.tape.slots.push(source);
        self.tape.slots.len() - 1
    }

    fn source(&self, place: &Place, dtype: DType) -> Result<Source> {
        match place {
            Place::Fixed(bytes) => Ok(Source::Fixed(aligned(bytes, dtype))),
            Place::Memory(span) => self.span(span, dtype),
        }
    }

    fn span(&self, span: &Span, dtype: DType) -> Result<Source> {
        if span.range.start > span.range.end || !span.range.start.is_multiple_of(alignment(dtype)) {
            return invalid(format!("{dtype} at {span:?}"));
        }
        Ok(Source::Memory(span.clone()))
    }

    /// A slot of `bytes` bytes.
    fn sized(&mut self, place: &Place, dtype: DType, bytes: usize) -> Result<usize> {
        if place.len() != bytes {
            return invalid(format!("a {dtype} scalar of {} bytes", place.len()));
        }
        let source = self.source(place, dtype)?;
        Ok(self.slot(source))
    }

    /// `written`: what the loop around writes. `once`: takes the launches that have stages to run before that loop.
    fn steps(&mut self, commands: &[Command], written: Option<&Written>, once: &mut Vec<usize>) -> Result<Vec<Step>> {
        let mut steps = Vec::with_capacity(commands.len());
        for command in commands {
            steps.push(match command {
                Command::Launch { kernel, inputs, outputs, scratch } => {
                    let at = self.launch(kernel, inputs, outputs, scratch, written)?;
                    if self.tape.launches[at].kernel.lowered().is_some_and(|l| l.once > 0) {
                        once.push(at);
                    }
                    Step::Launch(at)
                }
                Command::Copy { from, to } => {
                    let (from, to) = self.pair(from, to)?;
                    Step::Copy(from, to)
                }
                Command::If { cond, branches: [a, b] } => {
                    let cond = self.sized(cond, DType::Bool, 1)?;
                    let branches = [self.steps(a, written, once)?, self.steps(b, written, once)?];
                    Step::If(cond, Box::new(branches))
                }
                Command::Loop(l) => Step::Loop(Box::new(self.repeat(l)?)),
            });
        }
        Ok(steps)
    }

    fn repeat(&mut self, l: &Loop) -> Result<Repeat> {
        for (i, (_, to)) in l.carried.iter().enumerate() {
            let mut later = l.carried[i + 1..].iter().map(|(from, _)| from);
            if later.any(|from| matches!(from, Place::Memory(from) if from.overlaps(to))) {
                return invalid(format!("{to:?} is carried over before it is read"));
            }
        }
        let (mut written, mut once) = (Vec::new(), Vec::new());
        written_by(l, &mut written);
        let body = self.steps(&l.body, Some(&written), &mut once)?;
        let mut pairs = |all: &[(Place, Span)], whole: bool| {
            all.iter().map(|(from, to)| if whole { self.pair(from, to) } else { self.apart(from, to) }).collect()
        };
        let (carried, scans): (Result<Vec<_>>, Result<Vec<_>>) = (pairs(&l.carried, true), pairs(&l.scans, false));
        Ok(Repeat {
            trip: self.sized(&l.trip, DType::I64, 8)?,
            go: self.sized(&l.go, DType::Bool, 1)?,
            index: self.sized(&Place::Memory(l.index.clone()), DType::I64, 8)?,
            body,
            carried: carried?,
            scans: scans?,
            once,
        })
    }

    /// Slots of a copy between memory that does not overlap.
    fn apart(&mut self, from: &Place, to: &Span) -> Result<(usize, usize)> {
        if let Place::Memory(from) = from
            && from.overlaps(to)
        {
            return invalid(format!("a copy of {from:?} to {to:?}"));
        }
        let (from, to) = (self.source(from, DType::U8)?, self.span(to, DType::U8)?);
        Ok((self.slot(from), self.slot(to)))
    }

    /// [`Recorder::apart`], of equal lengths.
    fn pair(&mut self, from: &Place, to: &Span) -> Result<(usize, usize)> {
        if from.len() != to.len() {
            return invalid(format!("a copy of {} bytes to {to:?}", from.len()));
        }
        self.apart(from, to)
    }

    fn launch(
        &mut self,
        kernel: &Arc<BoundKernel>,
        inputs: &[Place],
        outputs: &[Span],
        scratch: &Span,
        written: Option<&Written>,
    ) -> Result<usize> {
        kernel.check("inputs", "input", &kernel.inputs, &mut inputs.iter().map(Place::len))?;
        kernel.check("outputs", "output", &kernel.outputs, &mut outputs.iter().map(Span::len))?;
        let all: Vec<&Span> = outputs.iter().chain([scratch]).collect();
        // What is updated may be the very memory of the result.
        let updated = kernel.region().updated().and_then(|i| match (inputs.get(i)?, outputs.first()?) {
            (Place::Memory(from), to) if from == to => Some(i),
            _ => None,
        });
        for (i, to) in all.iter().enumerate() {
            let apart = inputs.iter().enumerate().filter(|(n, _)| i > 0 || Some(*n) != updated);
            let reads = apart.filter_map(|(_, p)| if let Place::Memory(r) = p { Some(r) } else { None });
            if let Some(other) = reads.chain(all[..i].iter().copied()).find(|other| other.overlaps(to)) {
                return invalid(format!("`{}` writes {to:?} and uses {other:?}", kernel.name()));
            }
        }
        let kernel = match written {
            None => Arc::clone(kernel),
            Some(written) => {
                let steady = |p: &Place| match p {
                    Place::Fixed(_) => true,
                    Place::Memory(r) => !written.iter().any(|w| w.overlaps(r)),
                };
                Arc::new(kernel.repeated(&inputs.iter().map(steady).collect::<Vec<_>>())?)
            }
        };
        let input = |i: usize| self.source(&inputs[i], kernel.inputs[i].dtype);
        let output = |o: usize| self.span(&outputs[o], kernel.outputs[o].dtype);
        let (sources, private) = match kernel.lowered() {
            None => {
                let all = (0..inputs.len()).map(input).chain((0..outputs.len()).map(output));
                (all.collect::<Result<Vec<_>>>()?, Source::Own(0..0))
            }
            Some(lowered) => {
                let kept = self.own.next_multiple_of(ALIGN);
                let mut end = kept + lowered.kept_bytes;
                let bytes = lowered.scratch_bytes;
                let start = scratch.range.start;
                let private = if scratch.len() >= bytes && start.is_multiple_of(ALIGN) {
                    Source::Memory(Span { block: scratch.block, range: start..start + bytes })
                } else {
                    let start = end.next_multiple_of(ALIGN);
                    end = start + bytes;
                    Source::Own(start..end)
                };
                let sources = lowered.slots.iter().map(|spec| match &spec.home {
                    Home::Input(i) => input(*i),
                    Home::Output(o) => output(*o),
                    Home::Constant(data) => Ok(Source::Fixed(data.clone())),
                    Home::Scratch(at) => Ok(private.part(*at, spec.bytes())),
                    Home::Kept(at) => Ok(Source::Own(kept + at..kept + at + spec.bytes())),
                });
                let sources = sources.collect::<Result<Vec<_>>>()?;
                self.own = end;
                (sources, private)
            }
        };
        let start = self.tape.slots.len();
        for source in sources {
            self.slot(source);
        }
        let slots = start..self.tape.slots.len();
        let scratch = self.slot(private);
        self.tape.launches.push(Launch { kernel, slots, scratch });
        Ok(self.tape.launches.len() - 1)
    }
}

impl Source {
    /// Bytes `at..at + bytes` of a range of memory.
    fn part(&self, at: usize, bytes: usize) -> Source {
        let within = |start: usize| start + at..start + at + bytes;
        match self {
            Source::Memory(Span { block, range }) => Source::Memory(Span { block: *block, range: within(range.start) }),
            Source::Own(r) => Source::Own(within(r.start)),
            Source::Fixed(b) => Source::Fixed(b.slice(at..at + bytes)),
        }
    }
}
