//! What an engine runs on. A session does not know which implementation it has.

mod arena;
mod cpu;
mod cuda;
mod gpu;
mod shared;
mod sim;
mod user;

pub use cpu::CpuDevice;
pub use cuda::GpuDevice;
pub use sim::SimDevice;
pub use user::{UserMemory, UserStream};

use crate::Result;
use crate::schedule::Action;
use bytes::Bytes;
use kiln_fuse::Region;
use kiln_graph::{Bindings, Dim};
use kiln_kernels::{Kernel, Pointer};
use kiln_target::Target;

/// A block of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemId(pub usize);

/// A byte range of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block.
    pub mem: MemId,
    /// First byte.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Place {
    /// Whether some byte belongs to both.
    pub fn overlaps(&self, other: &Place) -> bool {
        let shared = self.offset < other.offset + other.bytes && other.offset < self.offset + self.bytes;
        self.mem == other.mem && self.bytes > 0 && other.bytes > 0 && shared
    }
}

/// What [`Device::fetch`] copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// What was pinned, all of it.
    pub from: MemId,
    /// The first byte of the block that it is copied to.
    pub offset: usize,
    /// How much it is.
    pub bytes: usize,
}

/// A loaded region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelId(pub usize);

/// A loaded region with concrete shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// What [`Device::launch`] takes.
    pub id: usize,
    /// Scratch memory that the launch needs.
    pub scratch_bytes: usize,
    /// Memory that is zero, and that the launch leaves zero.
    pub zeroed_bytes: usize,
}

/// A recorded sequence of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordingId(pub usize);

/// Code of one region for one target.
#[derive(Clone, Debug)]
pub struct Module<'a> {
    /// The region: the CPU device runs it directly; others use it for messages.
    pub region: &'a Region,
    /// GPU kernels in launch order with their images; empty for the CPU.
    pub kernels: Vec<KernelImage<'a>>,
    /// Scratch bytes that the kernels share.
    pub scratch_bytes: Dim,
    /// Bytes that are zero and stay so.
    pub zeroed_bytes: Dim,
}

/// One compiled kernel.
#[derive(Clone, Debug)]
pub struct KernelImage<'a> {
    /// Launch description and source.
    pub kernel: &'a Kernel,
    /// Machine code for the exact architecture; `None` where the driver is to assemble the PTX.
    pub cubin: Option<Bytes>,
    /// PTX of the same compilation.
    pub ptx: Bytes,
}

/// Memory of one launch.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    /// One place a region input.
    pub inputs: &'a [Place],
    /// One place a region output. Never overlaps an input or another output, but for what the region updates ([`Region::updated`]), whose place it may be.
    pub outputs: &'a [Place],
    /// At least [`Prepared::scratch_bytes`].
    pub scratch: Option<Place>,
    /// At least [`Prepared::zeroed_bytes`], all zero.
    pub zeroed: Option<Place>,
    /// One place a packed constant of the implementation.
    pub packed: &'a [Place],
}

impl Arguments<'_> {
    /// From where to where a device copies before it runs a region that updates this input: nowhere if the result is in its place.
    pub(super) fn begin(&self, updated: Option<usize>) -> Option<(Place, Place)> {
        let pair = (*self.inputs.get(updated?)?, *self.outputs.first()?);
        (pair.0 != pair.1).then_some(pair)
    }

    /// What a kernel's pointer points to.
    pub fn place(&self, pointer: Pointer) -> Option<Place> {
        match pointer {
            Pointer::Input(i) => self.inputs.get(i).copied(),
            Pointer::Output(i) => self.outputs.get(i).copied(),
            Pointer::Scratch => self.scratch,
            Pointer::Zeroed => self.zeroed,
            Pointer::Packed(i) => self.packed.get(i).copied(),
        }
    }
}

/// A GPU and its driver, as far as they decide which code they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Compute capability, as `10 * major + minor`.
    pub capability: u32,
    /// Shared memory that a block may have, bytes.
    pub shared_bytes: u32,
    /// The newest CUDA version that the driver supports.
    pub cuda: kiln_cuda::CudaVersion,
}

/// A machine that runs regions.
pub trait Device: Send {
    /// For people: `cpu`, `cuda:0 NVIDIA H200`, `sim:sm_80`.
    fn name(&self) -> String;

    /// The engine target to build for it: `cpu` or `sm_XX[a]`.
    fn target(&self) -> String;

    /// What a model is built for that is to run here: a GPU with its own figures.
    ///
    /// # Errors
    /// Kiln has no target for it.
    fn processor(&self) -> Result<Target> {
        Ok(self.target().parse()?)
    }

    /// The GPU, where a driver may assemble PTX for it; `None` where code is for [`Device::target`] exactly.
    fn gpu(&self) -> Option<GpuInfo> {
        None
    }

    /// Bytes of memory of its own; `None` where it shares the host's.
    fn memory_bytes(&self) -> Option<u64> {
        None
    }

    /// The same machine once more, with a queue, memory, recordings and prepared regions of its own. What is loaded and mapped is common to both, by the
    /// same ids, whichever of them loads or maps it. They may be used by two threads at once.
    ///
    /// # Errors
    /// A device that cannot, and what the machine reports.
    fn fork(&self) -> Result<Box<dyn Device>> {
        Err(crate::Error::Unsupported {
            device: self.name(),
            what: "a second session that shares code and weights".into(),
        })
    }

    /// Allocates device memory; contents are undefined.
    fn alloc(&mut self, bytes: usize) -> Result<MemId>;

    /// What addresses of operands are multiples of, bytes: kernels rely on it.
    fn alignment(&self) -> usize {
        16
    }

    /// Takes memory of the user's as a block. Its address is such a multiple. Freeing the block leaves the memory as it is.
    ///
    /// # Errors
    /// What is no memory of this device, as far as it can tell.
    fn lend(&mut self, _memory: UserMemory) -> Result<MemId> {
        Err(crate::Error::Unsupported { device: self.name(), what: "memory of the user's".into() })
    }

    /// Makes host bytes readable on the device and all its forks, without a copy where the device shares the host's memory.
    fn map(&mut self, bytes: Bytes) -> Result<MemId>;

    /// Whether [`Device::map`] copies nothing, because the device shares the host's memory.
    fn shares_host(&self) -> bool {
        false
    }

    /// Keeps host bytes where [`Device::fetch`] copies them from, for all forks.
    ///
    /// # Errors
    /// A device that cannot, and what the machine reports.
    fn pin(&mut self, _bytes: Bytes) -> Result<MemId> {
        Err(crate::Error::Unsupported { device: self.name(), what: "copying weights ahead of their step".into() })
    }

    /// Copies what is pinned into parts of a block. Launches from now on wait for it; itself it waits only for launches that were queued before the `fetch` before this one, unless
    /// that was into the same parts. So where the two halves of a block are filled in turn, one is read while the other is filled.
    fn fetch(&mut self, _block: MemId, _pieces: &[Fetch]) -> Result<()> {
        Err(crate::Error::Unsupported { device: self.name(), what: "copying weights ahead of their step".into() })
    }

    /// Releases a block, and the recordings that may use it. What was mapped no fork may use any more.
    fn free(&mut self, mem: MemId) -> Result<()>;

    /// Host to device. `data` is as long as the place.
    fn upload(&mut self, to: Place, data: &[u8]) -> Result<()>;

    /// Device to host. `data` is as long as the place. Waits for earlier work, and reports the faults that kernels noted
    /// ([`kiln_kernels::Kernel::checks`]).
    fn download(&mut self, from: Place, data: &mut [u8]) -> Result<()>;

    /// Device to device, equal lengths, not overlapping.
    fn copy(&mut self, to: Place, from: Place) -> Result<()>;

    /// Sets every byte: tests poison outputs with it.
    fn fill(&mut self, place: Place, byte: u8) -> Result<()>;

    /// Loads a region's code.
    fn load(&mut self, module: &Module<'_>) -> Result<KernelId>;

    /// Fixes the shapes of a loaded region.
    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared>;

    /// Lets go of what [`Device::prepare`] made.
    fn release(&mut self, prepared: usize);

    /// Runs a prepared region, in order with everything before. What it updates ([`Region::updated`]) is copied to its result first, unless both are one place.
    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()>;

    /// Waits for all work; reports what failed.
    fn synchronize(&mut self) -> Result<()>;

    /// [`Device::synchronize`], which reports the faults that kernels noted too.
    fn check(&mut self) -> Result<()> {
        self.synchronize()
    }

    /// Whether all work is done. Does not wait: on a device where calls return when they are done it always is.
    fn is_done(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// Work from now on waits for what is queued by now on a stream of the user's.
    fn wait_for(&mut self, _stream: UserStream) -> Result<()> {
        Err(crate::Error::Unsupported { device: self.name(), what: "waiting for a stream".into() })
    }

    /// What is queued from now on on a stream of the user's waits for all work by now.
    fn hold(&mut self, _stream: UserStream) -> Result<()> {
        Err(crate::Error::Unsupported { device: self.name(), what: "holding a stream".into() })
    }

    /// Records actions without running them, for [`Device::replay`]. `None`: this device gains nothing by it, or cannot run one of them
    /// without the session.
    fn record(&mut self, _actions: &[Action]) -> Result<Option<RecordingId>> {
        Ok(None)
    }

    /// Runs a recording.
    fn replay(&mut self, _recording: RecordingId) -> Result<()> {
        Err(crate::Error::Unsupported { device: self.name(), what: "replaying launches".into() })
    }

    /// Lets go of a recording.
    fn forget(&mut self, _recording: RecordingId) {}

    /// How a prepared region runs, for reports.
    fn implementation(&self, prepared: usize) -> String;
}

/// Opens a device by name: `cpu`, `cpu:THREADS`, `cuda:N`, `sim:sm_XX` (every check on), or `sim:sm_XX:fast` (bounds and alignment only).
pub fn open_device(name: &str) -> Result<Box<dyn Device>> {
    let unknown = || crate::Error::UnknownDevice { name: name.to_owned() };
    let (kind, rest) = name.split_once(':').unwrap_or((name, ""));
    let number = || rest.parse::<usize>().map_err(|_| unknown());
    match kind {
        "cpu" if rest.is_empty() => Ok(Box::new(CpuDevice::new(None)?)),
        "cpu" => Ok(Box::new(CpuDevice::new(Some(number()?))?)),
        "cuda" => Ok(Box::new(GpuDevice::new(if rest.is_empty() { 0 } else { number()? })?)),
        "sim" => {
            let (arch, options) = match rest.strip_suffix(":fast") {
                Some(arch) => (arch, kiln_sim::Options::fast()),
                None => (rest, kiln_sim::Options::default()),
            };
            let arch: kiln_target::arch::Arch = arch.parse().map_err(|_| unknown())?;
            Ok(Box::new(SimDevice::new(arch.name(), options)))
        }
        _ => Err(unknown()),
    }
}
