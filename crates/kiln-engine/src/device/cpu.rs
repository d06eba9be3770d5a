//! The CPU as a [`Device`]: regions run in place on host memory, weights on the mapped file.

use super::arena::{Block, split};
use super::{Arguments, Device, KernelId, MemId, Module, Place, Prepared, RecordingId};
use crate::{Error, Result};
use bytes::Bytes;
use kiln_cpu::{BoundKernel, Kernel};
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
    bound: Vec<BoundKernel>,
    recordings: Vec<Arc<[Launch]>>,
}

/// A recorded launch.
struct Launch {
    prepared: usize,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    scratch: Option<Place>,
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
        let bound = kernel.bind(bindings)?;
        let scratch_bytes = bound.scratch_bytes();
        self.bound.push(bound);
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

    /// A run then changes to the pool's threads once rather than for each launch.
    fn record(&mut self, launches: &[(usize, Arguments<'_>)]) -> Result<Option<RecordingId>> {
        let launch = |&(prepared, args): &(usize, Arguments<'_>)| Launch {
            prepared,
            inputs: args.inputs.to_vec(),
            outputs: args.outputs.to_vec(),
            scratch: args.scratch,
        };
        self.recordings.push(launches.iter().map(launch).collect());
        Ok(Some(RecordingId(self.recordings.len() - 1)))
    }

    fn replay(&mut self, recording: RecordingId) -> Result<()> {
        let recording = self.recordings.get(recording.0).cloned();
        let launches = recording.ok_or_else(|| internal("a recording is missing".into()))?;
        let pool = Arc::clone(&self.pool);
        pool.install(|| {
            launches.iter().try_for_each(|l| {
                self.launch(l.prepared, Arguments { inputs: &l.inputs, outputs: &l.outputs, scratch: l.scratch })
            })
        })
    }

    fn implementation(&self, prepared: usize) -> String {
        self.bound.get(prepared).map(BoundKernel::implementation).unwrap_or_default()
    }
}
