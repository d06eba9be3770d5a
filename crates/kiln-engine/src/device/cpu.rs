//! The CPU as a [`Device`]: regions run in place on host memory, weights on the mapped file.

use super::arena::{Block, split};
use super::{Arguments, Device, KernelId, MemId, Module, Place, Prepared, RecordingId};
use crate::schedule::Action;
use crate::{Error, Result};
use bytes::Bytes;
use kiln_cpu::{BoundKernel, Command, Kernel, Loop, Tape};
use kiln_graph::Bindings;
use std::ops::Range;
use std::sync::Arc;

enum Memory {
    Owned(Block),
    Mapped(Bytes),
    Free,
}

/// Runs regions on this machine's cores.
pub struct CpuDevice {
    pool: Arc<rayon::ThreadPool>,
    memory: Vec<Memory>,
    kernels: Vec<Kernel>,
    bound: Vec<Arc<BoundKernel>>,
    recordings: Vec<(MemId, Tape)>,
}

impl CpuDevice {
    /// A device with that many threads; `None`: one a core.
    pub fn new(threads: Option<usize>) -> Result<CpuDevice> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|i| format!("kiln-cpu-{i}"))
            .build()
            .map_err(|e| internal(format!("cannot start threads: {e}")))?;
        let (memory, kernels, bound, recordings) = Default::default();
        Ok(CpuDevice { pool: Arc::new(pool), memory, kernels, bound, recordings })
    }

    fn read(&self, place: Place) -> Result<&[u8]> {
        let bytes = match self.memory.get(place.mem.0) {
            Some(Memory::Owned(block)) => block.bytes(),
            Some(Memory::Mapped(bytes)) => bytes,
            _ => return Err(internal(format!("{place:?} is not allocated"))),
        };
        bytes.get(range(place)).ok_or_else(|| internal(format!("{place:?} leaves its block of {} bytes", bytes.len())))
    }

    fn write(&mut self, place: Place) -> Result<&mut [u8]> {
        match self.memory.get_mut(place.mem.0) {
            Some(Memory::Owned(block)) => block.bytes_mut().get_mut(range(place)),
            _ => None,
        }
        .ok_or_else(|| internal(format!("{place:?} is not writable")))
    }
}

fn range(place: Place) -> Range<usize> {
    place.offset..place.offset.saturating_add(place.bytes)
}

fn internal(message: String) -> Error {
    Error::Internal { place: "the CPU device".into(), message }
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn target(&self) -> String {
        "cpu".into()
    }

    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        let block = Block::new(bytes).ok_or(Error::OutOfMemory { device: self.name(), bytes })?;
        self.memory.push(Memory::Owned(block));
        Ok(MemId(self.memory.len() - 1))
    }

    fn map(&mut self, bytes: Bytes) -> Result<MemId> {
        self.memory.push(Memory::Mapped(bytes));
        Ok(MemId(self.memory.len() - 1))
    }

    fn free(&mut self, mem: MemId) -> Result<()> {
        if let Some(m) = self.memory.get_mut(mem.0) {
            *m = Memory::Free;
        }
        // They may use the block.
        self.recordings.clear();
        Ok(())
    }

    fn upload(&mut self, to: Place, data: &[u8]) -> Result<()> {
        let dst = self.write(to)?;
        if dst.len() != data.len() {
            return Err(internal(format!("upload of {} bytes to {to:?}", data.len())));
        }
        dst.copy_from_slice(data);
        Ok(())
    }

    fn download(&mut self, from: Place, data: &mut [u8]) -> Result<()> {
        let src = self.read(from)?;
        if src.len() != data.len() {
            return Err(internal(format!("download of {} bytes from {from:?}", data.len())));
        }
        data.copy_from_slice(src);
        Ok(())
    }

    fn copy(&mut self, to: Place, from: Place) -> Result<()> {
        if to.bytes != from.bytes {
            return Err(internal(format!("copy of {from:?} to {to:?}")));
        }
        if to.mem != from.mem {
            let data = self.read(from)?.to_vec();
            return self.upload(to, &data);
        }
        match self.memory.get_mut(to.mem.0) {
            Some(Memory::Owned(block))
                if range(from).end <= block.bytes().len() && range(to).end <= block.bytes().len() =>
            {
                block.bytes_mut().copy_within(range(from), to.offset);
                Ok(())
            }
            _ => Err(internal(format!("copy of {from:?} to {to:?}"))),
        }
    }

    fn fill(&mut self, place: Place, byte: u8) -> Result<()> {
        self.write(place)?.fill(byte);
        Ok(())
    }

    fn load(&mut self, module: &Module<'_>) -> Result<KernelId> {
        self.kernels.push(Kernel::compile(module.region)?);
        Ok(KernelId(self.kernels.len() - 1))
    }

    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared> {
        let kernel = self.kernels.get(kernel.0).ok_or_else(|| internal(format!("{kernel:?} is not loaded")))?;
        let bound = self.pool.install(|| kernel.bind(bindings))?;
        let scratch_bytes = bound.scratch_bytes();
        self.bound.push(Arc::new(bound));
        Ok(Prepared { id: self.bound.len() - 1, scratch_bytes })
    }

    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        let writes: Vec<Place> = args.outputs.iter().chain(&args.scratch).copied().collect();
        // All writable memory of a launch is one block: the arena. It is taken out while inputs are borrowed from the rest.
        let arena = writes.first().map(|w| w.mem);
        if writes.iter().any(|w| Some(w.mem) != arena) {
            return Err(internal("a launch writes to several blocks".into()));
        }
        let mut taken = match arena.and_then(|m| self.memory.get_mut(m.0)) {
            Some(slot @ Memory::Owned(_)) => std::mem::replace(slot, Memory::Free),
            _ => return Err(internal("a launch writes to memory that is not allocated".into())),
        };
        let result = (|| {
            let Memory::Owned(block) = &mut taken else { return Err(internal("arena is not owned".into())) };
            let ranges: Vec<_> = writes.iter().map(|&w| range(w)).collect();
            let (mut outputs, gaps) = split(block.bytes_mut(), &ranges)
                .ok_or_else(|| internal(format!("outputs overlap or leave the arena: {writes:?}")))?;
            let scratch = if args.scratch.is_some() { outputs.pop() } else { None };
            let inputs: Vec<&[u8]> = args
                .inputs
                .iter()
                .map(|&i| {
                    if Some(i.mem) == arena {
                        gaps.get(range(i)).ok_or_else(|| internal(format!("input {i:?} overlaps an output")))
                    } else {
                        self.read(i)
                    }
                })
                .collect::<Result<_>>()?;
            let bound = self.bound.get(prepared).ok_or_else(|| internal(format!("{prepared} is not prepared")))?;
            let scratch = scratch.unwrap_or_default();
            self.pool.install(|| bound.run(&inputs, &mut outputs, scratch))?;
            Ok(())
        })();
        if let Some(m) = arena {
            self.memory[m.0] = taken;
        }
        result
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    /// A run then changes to the pool's threads once, and loops need no session.
    fn record(&mut self, actions: &[Action]) -> Result<Option<RecordingId>> {
        let Some(arena) = arena(actions) else { return Ok(None) };
        let Some(commands) = self.commands(actions, arena)? else { return Ok(None) };
        self.recordings.push((arena, Tape::new(&commands)?));
        Ok(Some(RecordingId(self.recordings.len() - 1)))
    }

    fn replay(&mut self, recording: RecordingId) -> Result<()> {
        let Some((arena, tape)) = self.recordings.get_mut(recording.0) else {
            return Err(internal("a recording is missing".into()));
        };
        match self.memory.get_mut(arena.0) {
            Some(Memory::Owned(block)) => Ok(self.pool.install(|| tape.run(block.bytes_mut()))?),
            _ => Err(internal("a recording writes to memory that is not allocated".into())),
        }
    }

    fn implementation(&self, prepared: usize) -> String {
        self.bound.get(prepared).map(|b| b.implementation()).unwrap_or_default()
    }
}

/// From actions to the commands of a tape. `arena` is the one block that they write.
impl CpuDevice {
    /// `None` if a branch or body does not fit the shapes: whether that is an error, the session sees as it runs.
    fn commands(&self, actions: &[Action], arena: MemId) -> Result<Option<Vec<Command>>> {
        let mut commands = Vec::with_capacity(actions.len());
        for action in actions {
            match action {
                Action::Launch { prepared, inputs, outputs, scratch } => {
                    let kernel = self.bound.get(*prepared);
                    let kernel = kernel.ok_or_else(|| internal(format!("{prepared} is not prepared")))?;
                    commands.push(Command::Launch {
                        kernel: Arc::clone(kernel),
                        inputs: inputs.iter().map(|&i| self.operand(i, arena)).collect::<Result<_>>()?,
                        outputs: outputs.iter().map(|&o| written(o, arena)).collect::<Result<_>>()?,
                        scratch: scratch.map_or(Ok(0..0), |s| written(s, arena))?,
                    });
                }
                Action::If { cond, branches, results, outputs } => {
                    let mut taken = [Vec::new(), Vec::new()];
                    for ((commands, branch), results) in taken.iter_mut().zip(branches.iter()).zip(results) {
                        let Some(body) = self.commands(&branch.actions, arena)? else { return Ok(None) };
                        commands.extend(body);
                        commands.extend(self.copies(results, outputs, arena)?);
                    }
                    commands.push(Command::If { cond: self.operand(*cond, arena)?, branches: taken });
                }
                Action::Loop { trip, body, index, start, state, next, scans, outputs } => {
                    let Some(body) = self.commands(&body.actions, arena)? else { return Ok(None) };
                    commands.extend(self.copies(start, state, arena)?);
                    let moves = |pairs: &mut dyn Iterator<Item = (Place, Place)>| {
                        pairs
                            .map(|(from, to)| Ok((self.operand(from, arena)?, written(to, arena)?)))
                            .collect::<Result<_>>()
                    };
                    let carried = moves(&mut next.iter().copied().zip(state.iter().copied()))?;
                    let scans = moves(&mut scans.iter().copied())?;
                    let (trip, go, index) =
                        (self.operand(*trip, arena)?, self.operand(state[0], arena)?, written(*index, arena)?);
                    commands.push(Command::Loop(Loop { trip, go, index, body, carried, scans }));
                    commands.extend(self.copies(&state[1..], outputs, arena)?);
                }
                Action::Unfit(_) => return Ok(None),
            }
        }
        Ok(Some(commands))
    }

    fn copies(&self, from: &[Place], to: &[Place], arena: MemId) -> Result<Vec<Command>> {
        let copy = |(&from, &to)| Ok(Command::Copy { from: self.operand(from, arena)?, to: written(to, arena)? });
        from.iter().zip(to).map(copy).collect()
    }

    fn operand(&self, place: Place, arena: MemId) -> Result<kiln_cpu::Place> {
        match self.memory.get(place.mem.0) {
            Some(Memory::Owned(_)) if place.mem == arena => Ok(kiln_cpu::Place::Arena(range(place))),
            Some(Memory::Mapped(bytes)) if range(place).end <= bytes.len() => {
                Ok(kiln_cpu::Place::Fixed(bytes.slice(range(place))))
            }
            _ => Err(internal(format!("{place:?} is neither in the arena nor a weight"))),
        }
    }
}

/// The block of the first thing that actions write.
fn arena(actions: &[Action]) -> Option<MemId> {
    actions.iter().find_map(|action| match action {
        Action::Launch { outputs, .. } | Action::If { outputs, .. } => outputs.first().map(|o| o.mem),
        Action::Loop { index, .. } => Some(index.mem),
        Action::Unfit(_) => None,
    })
}

/// A place that a recording writes.
fn written(place: Place, arena: MemId) -> Result<Range<usize>> {
    if place.mem == arena { Ok(range(place)) } else { Err(internal("a recording writes to several blocks".into())) }
}
