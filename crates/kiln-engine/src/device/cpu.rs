//! The CPU as a [`Device`]: regions run in place on host memory, weights on the mapped file.

use super::arena::{Block, LINE};
use super::shared::Shared;
use super::{Arguments, Device, KernelId, MemId, Module, Place, Prepared, RecordingId, UserMemory};
use crate::schedule::Action;
use crate::{Error, Result};
use bytes::Bytes;
use kiln_cpu::{BoundKernel, Command, Kernel, Loop, Span, Tape};
use kiln_graph::Bindings;
use slab::Slab;
use std::ops::Range;
use std::sync::Arc;

/// A tape and the blocks that it works on.
#[derive(Default)]
struct Recording {
    tape: Tape,
    blocks: Vec<MemId>,
    /// Where the blocks lie while the tape runs.
    taken: Vec<Block>,
}

/// Runs regions on this machine's cores.
pub struct CpuDevice {
    pool: Arc<rayon::ThreadPool>,
    shared: Arc<Shared<Kernel, Bytes>>,
    memory: Slab<Block>,
    bound: Slab<Arc<BoundKernel>>,
    recordings: Slab<Recording>,
}

impl CpuDevice {
    /// A device with that many threads; `None`: one a core.
    pub fn new(threads: Option<usize>) -> Result<CpuDevice> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|i| format!("kiln-cpu-{i}"))
            .build()
            .map_err(|e| internal(format!("cannot start threads: {e}")))?;
        Ok(CpuDevice::over(Arc::new(pool), Arc::default()))
    }

    fn over(pool: Arc<rayon::ThreadPool>, shared: Arc<Shared<Kernel, Bytes>>) -> CpuDevice {
        let (memory, bound, recordings) = Default::default();
        CpuDevice { pool, shared, memory, bound, recordings }
    }

    fn read<T>(&self, place: Place, take: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let mapped;
        let bytes = match self.memory.get(place.mem.0) {
            Some(block) => block.bytes(),
            None => {
                mapped = self.shared.memory(place.mem);
                mapped.as_deref().ok_or_else(|| internal(format!("{place:?} is not allocated")))?
            }
        };
        let part = bytes.get(range(place));
        part.map(take).ok_or_else(|| internal(format!("{place:?} leaves its block of {} bytes", bytes.len())))
    }

    fn write(&mut self, place: Place) -> Result<&mut [u8]> {
        let block = self.memory.get_mut(place.mem.0).and_then(|block| block.bytes_mut().get_mut(range(place)));
        block.ok_or_else(|| internal(format!("{place:?} is not writable")))
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

    /// The threads are common too.
    fn fork(&self) -> Result<Box<dyn Device>> {
        Ok(Box::new(CpuDevice::over(self.pool.clone(), self.shared.clone())))
    }

    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        let block = Block::new(bytes).ok_or(Error::OutOfMemory { device: self.name(), bytes })?;
        Ok(MemId(self.memory.insert(block)))
    }

    fn shares_host(&self) -> bool {
        true
    }

    fn alignment(&self) -> usize {
        LINE
    }

    fn lend(&mut self, memory: UserMemory) -> Result<MemId> {
        Ok(MemId(self.memory.insert(Block::of_user(memory))))
    }

    fn map(&mut self, bytes: Bytes) -> Result<MemId> {
        Ok(self.shared.map(bytes))
    }

    fn free(&mut self, mem: MemId) -> Result<()> {
        match self.memory.try_remove(mem.0) {
            // Recordings may still use the block; not what is shared: a session records over code and weights that it holds.
            Some(_) => self.recordings.clear(),
            None => self.shared.free(mem),
        }
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
        if from.bytes != data.len() {
            return Err(internal(format!("download of {} bytes from {from:?}", data.len())));
        }
        self.read(from, |src| data.copy_from_slice(src))
    }

    fn copy(&mut self, to: Place, from: Place) -> Result<()> {
        if to.bytes != from.bytes {
            return Err(internal(format!("copy of {from:?} to {to:?}")));
        }
        if to.mem != from.mem {
            let data = self.read(from, <[u8]>::to_vec)?;
            return self.upload(to, &data);
        }
        match self.memory.get_mut(to.mem.0) {
            Some(block) if range(from).end <= block.bytes().len() && range(to).end <= block.bytes().len() => {
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
        Ok(self.shared.load(Kernel::compile(module.region)?))
    }

    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared> {
        let kernel = self.shared.region(kernel).ok_or_else(|| internal(format!("{kernel:?} is not loaded")))?;
        let bound = self.pool.install(|| kernel.bind(bindings))?;
        let scratch_bytes = bound.scratch_bytes();
        Ok(Prepared { id: self.bound.insert(Arc::new(bound)), scratch_bytes, zeroed_bytes: 0 })
    }

    fn release(&mut self, prepared: usize) {
        self.bound.try_remove(prepared);
    }

    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        let mut recording = self.recording(|recorder| Ok(Some(vec![recorder.launch(prepared, args)?])))?;
        recording.as_mut().map_or(Ok(()), |recording| self.run(recording))
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    /// Loops then need no session.
    fn record(&mut self, actions: &[Action]) -> Result<Option<RecordingId>> {
        let recording = self.recording(|recorder| recorder.commands(actions))?;
        Ok(recording.map(|recording| RecordingId(self.recordings.insert(recording))))
    }

    fn replay(&mut self, recording: RecordingId) -> Result<()> {
        let found = self.recordings.get_mut(recording.0).map(std::mem::take);
        let mut found = found.ok_or_else(|| internal("a recording is missing".into()))?;
        let result = self.run(&mut found);
        self.recordings[recording.0] = found;
        result
    }

    fn forget(&mut self, recording: RecordingId) {
        self.recordings.try_remove(recording.0);
    }

    fn implementation(&self, prepared: usize) -> String {
        self.bound.get(prepared).map(|b| b.implementation()).unwrap_or_default()
    }
}

impl CpuDevice {
    /// A recording of commands; `None` if there are none to be had.
    fn recording(
        &self,
        commands: impl FnOnce(&mut Recorder<'_>) -> Result<Option<Vec<Command>>>,
    ) -> Result<Option<Recording>> {
        let mut recorder = Recorder { device: self, blocks: Vec::new() };
        let Some(commands) = commands(&mut recorder)? else { return Ok(None) };
        let blocks = recorder.blocks;
        Ok(Some(Recording { tape: Tape::new(&commands)?, taken: Vec::with_capacity(blocks.len()), blocks }))
    }

    fn run(&mut self, recording: &mut Recording) -> Result<()> {
        let Recording { tape, blocks, taken } = recording;
        for mem in blocks.iter() {
            match self.memory.get_mut(mem.0) {
                Some(block) => taken.push(std::mem::take(block)),
                None => return Err(internal(format!("{mem:?} is not allocated"))),
            }
        }
        let result = tape.run(&self.pool, taken);
        for (mem, block) in blocks.iter().zip(taken.drain(..)) {
            self.memory[mem.0] = block;
        }
        Ok(result?)
    }
}

/// Turns actions into the commands of a tape.
struct Recorder<'a> {
    device: &'a CpuDevice,
    /// The tape's blocks.
    blocks: Vec<MemId>,
}

impl Recorder<'_> {
    /// `None` if a branch or body does not fit the shapes: whether that is an error, the session sees as it runs.
    fn commands(&mut self, actions: &[Action]) -> Result<Option<Vec<Command>>> {
        let mut commands = Vec::with_capacity(actions.len());
        for action in actions {
            match action {
                Action::Launch { .. } => {
                    if let Some((prepared, arguments)) = action.launch() {
                        commands.push(self.launch(prepared, arguments)?);
                    }
                }
                Action::If { cond, branches, results, outputs } => {
                    let mut taken = [Vec::new(), Vec::new()];
                    for ((commands, branch), results) in taken.iter_mut().zip(branches.iter()).zip(results) {
                        let Some(body) = self.commands(&branch.actions)? else { return Ok(None) };
                        commands.extend(body);
                        commands.extend(self.copies(results, outputs)?);
                    }
                    commands.push(Command::If { cond: self.operand(*cond)?, branches: taken });
                }
                Action::Loop { trip, body, index, start, state, next, scans, outputs } => {
                    let Some(body) = self.commands(&body.actions)? else { return Ok(None) };
                    commands.extend(self.copies(start, state)?);
                    let mut moves = |pairs: &mut dyn Iterator<Item = (Place, Place)>| {
                        pairs.map(|(from, to)| Ok((self.operand(from)?, self.written(to)?))).collect::<Result<_>>()
                    };
                    let carried = moves(&mut next.iter().copied().zip(state.iter().copied()))?;
                    let scans = moves(&mut scans.iter().copied())?;
                    let (trip, go, index) = (self.operand(*trip)?, self.operand(state[0])?, self.written(*index)?);
                    commands.push(Command::Loop(Loop { trip, go, index, body, carried, scans }));
                    commands.extend(self.copies(&state[1..], outputs)?);
                }
                Action::Unfit(_) => return Ok(None),
            }
        }
        Ok(Some(commands))
    }

    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<Command> {
        let kernel = self.device.bound.get(prepared).cloned();
        Ok(Command::Launch {
            kernel: kernel.ok_or_else(|| internal(format!("{prepared} is not prepared")))?,
            inputs: args.inputs.iter().map(|&i| self.operand(i)).collect::<Result<_>>()?,
            outputs: args.outputs.iter().map(|&o| self.written(o)).collect::<Result<_>>()?,
            scratch: args.scratch.map_or(Ok((0..0).into()), |s| self.written(s))?,
        })
    }

    fn copies(&mut self, from: &[Place], to: &[Place]) -> Result<Vec<Command>> {
        let copy = |(&from, &to)| Ok(Command::Copy { from: self.operand(from)?, to: self.written(to)? });
        from.iter().zip(to).map(copy).collect()
    }

    fn operand(&mut self, place: Place) -> Result<kiln_cpu::Place> {
        match self.device.shared.memory(place.mem) {
            Some(bytes) if range(place).end <= bytes.len() => Ok(kiln_cpu::Place::Fixed(bytes.slice(range(place)))),
            _ => Ok(kiln_cpu::Place::Memory(self.written(place)?)),
        }
    }

    fn written(&mut self, place: Place) -> Result<Span> {
        match self.device.memory.get(place.mem.0) {
            Some(block) if range(place).end <= block.bytes().len() => {}
            _ => return Err(internal(format!("{place:?} is no memory to work in"))),
        }
        let known = self.blocks.iter().position(|&mem| mem == place.mem);
        let block = known.unwrap_or_else(|| {
            self.blocks.push(place.mem);
            self.blocks.len() - 1
        });
        Ok(Span { block, range: range(place) })
    }
}
