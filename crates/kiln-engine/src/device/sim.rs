//! The PTX simulator as a [`Device`]: the kernels that would run on a GPU, on any machine, checked as they run.

use super::gpu::{Checks, FAULT_BYTES, Resolved, Value, mapped, place, resolve};
use super::shared::Shared;
use super::{Arguments, Device, Fetch, KernelId, MemId, Module, Place, Prepared, RecordingId, UserMemory};
use crate::schedule::Action;
use crate::{Error, Result};
use bytes::Bytes;
use kiln_graph::{Bindings, Dim};
use kiln_kernels::{Element, Kernel, Swizzle, TensorMap, Window};
use kiln_sim::{Arg, CounterReport, LaunchConfig, Options, TensorType};
use kiln_target::Gpu;
use slab::Slab;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Executes an engine's PTX.
pub struct SimDevice {
    device: Arc<kiln_sim::Device>,
    target: String,
    sms: u32,
    options: Options,
    counters: Option<Sender<(String, CounterReport)>>,
    shared: Arc<Shared<Region, Block, Bytes>>,
    memory: Slab<Arc<Block>>,
    prepared: Slab<(Arc<Region>, Vec<Option<Resolved>>)>,
    recordings: Slab<Vec<Bound>>,
    /// Where kernels note faults: 0 until one does. Only there if some kernel checks anything.
    fault: Option<Block>,
    checks: Arc<Checks>,
}

/// Memory of the simulated device, freed when dropped unless it is the user's.
struct Block {
    device: Arc<kiln_sim::Device>,
    base: u64,
    bytes: usize,
    users: bool,
}

impl Drop for Block {
    fn drop(&mut self) {
        if !self.users {
            // Allocated once, freed once: there is nothing that it could refuse.
            let _ = self.device.free(self.base);
        }
    }
}

struct Region {
    kernels: Vec<Loaded>,
    scratch: Dim,
    zeroed: Dim,
    updated: Option<usize>,
}

/// A prepared region with its arguments, as a recording on a GPU has them: addresses, and tensor maps that are encoded.
struct Bound {
    region: Arc<Region>,
    /// What is copied first: from which address to which, and how many bytes.
    begin: Option<(u64, u64, usize)>,
    /// One a kernel; none where there is nothing to do.
    launches: Vec<Option<(LaunchConfig, Vec<Arg>)>>,
    /// Address and bytes of what the kernels leave zero.
    zeroed: Option<(u64, usize)>,
}

struct Loaded {
    kernel: Kernel,
    code: kiln_sim::Kernel,
    /// The code of its first check.
    fault_code: i32,
}

impl SimDevice {
    /// A simulated GPU of architecture `target`, with as many SMs as the typical one. A kernel that a check finds fault with is an error.
    pub fn new(target: &str, options: Options) -> SimDevice {
        let typical = target.parse().ok().and_then(Gpu::typical);
        SimDevice {
            device: Arc::default(),
            target: target.to_owned(),
            sms: typical.map_or(1, |gpu| gpu.sms),
            options,
            counters: None,
            shared: Arc::default(),
            memory: Slab::new(),
            prepared: Slab::new(),
            recordings: Slab::new(),
            fault: None,
            checks: Arc::default(),
        }
    }

    /// The machine that is simulated, with its memory: what allocates memory of the user's.
    pub fn simulated(&self) -> Arc<kiln_sim::Device> {
        self.device.clone()
    }

    /// Counts what each launch does, and sends the kernel's name and its counters.
    pub fn with_counters(mut self, to: Sender<(String, CounterReport)>) -> SimDevice {
        self.options.counters = true;
        self.counters = Some(to);
        self
    }

    /// Another number of SMs: what the grids of persistent kernels follow.
    pub fn with_sms(mut self, sms: u32) -> SimDevice {
        self.sms = sms;
        self
    }

    /// The launches of a prepared region with its arguments.
    fn bind(&self, prepared: usize, args: Arguments<'_>) -> Result<Bound> {
        let (region, launches) =
            self.prepared.get(prepared).ok_or_else(|| internal(format!("{prepared} is not prepared")))?;
        let launch = |(Loaded { kernel, fault_code, .. }, launch): (&Loaded, &Option<Resolved>)| {
            let Some(launch) = launch else { return Ok(None) };
            let values = launch.values.iter().enumerate().map(|(index, value)| {
                Ok(match value {
                    Value::Pointer(pointer) => Arg::U64(self.address(place(kernel, &args, *pointer)?)?),
                    Value::TensorMap(map) => {
                        let place = place(kernel, &args, map.base)?;
                        let address = mapped(kernel, index, map, place, self.address(place)?)?;
                        Arg::Bytes(self.encode(map, address)?.to_vec())
                    }
                    Value::Fault => match &self.fault {
                        Some(fault) => Arg::U64(fault.base),
                        None => return Err(internal(format!("`{}` has nowhere to note faults", kernel.entry))),
                    },
                    Value::FaultCode => Arg::I32(*fault_code),
                    Value::I32(v) => Arg::I32(*v),
                    Value::I64(v) => Arg::I64(*v),
                    Value::F32(bits) => Arg::F32(f32::from_bits(*bits)),
                })
            });
            let config = LaunchConfig {
                grid: launch.grid,
                block: kernel.launch.block,
                shared: kernel.launch.dynamic_shared,
                cluster: kernel.launch.clustered().then_some(kernel.launch.cluster),
            };
            Ok(Some((config, values.collect::<Result<_>>()?)))
        };
        let launches = region.kernels.iter().zip(launches).map(launch).collect::<Result<_>>()?;
        let zeroed = args.zeroed.map(|place| Ok::<_, Error>((self.address(place)?, place.bytes))).transpose()?;
        let begin = args.begin(region.updated);
        let begin = begin.map(|(from, to)| Ok::<_, Error>((self.address(from)?, self.address(to)?, from.bytes)));
        Ok(Bound { region: region.clone(), begin: begin.transpose()?, launches, zeroed })
    }

    /// The map as kernels of the simulator read it.
    fn encode(&self, map: &TensorMap<u64>, address: u64) -> Result<[u8; kiln_kernels::TENSOR_MAP_BYTES]> {
        let dtype = match map.element {
            Element::U8 => TensorType::U8,
            Element::U16 => TensorType::U16,
            Element::U32 => TensorType::U32,
            Element::I32 => TensorType::I32,
            Element::U64 => TensorType::U64,
            Element::I64 => TensorType::I64,
            Element::F16 => TensorType::F16,
            Element::F32 => TensorType::F32,
            Element::F64 => TensorType::F64,
            Element::Bf16 => TensorType::Bf16,
            Element::Tf32 => TensorType::Tf32,
        };
        let swizzle = match map.swizzle {
            Swizzle::None => kiln_sim::Swizzle::None,
            Swizzle::B32 => kiln_sim::Swizzle::B32,
            Swizzle::B64 => kiln_sim::Swizzle::B64,
            Swizzle::B128 => kiln_sim::Swizzle::B128,
        };
        let (dims, strides, element_strides) = (map.extents.clone(), map.strides.clone(), map.steps());
        Ok(match &map.window {
            Window::Tiled(box_dims) => {
                let box_dims = box_dims.clone();
                let nan_fill = false;
                kiln_sim::TensorMap { dtype, address, dims, strides, box_dims, element_strides, swizzle, nan_fill }
                    .encode()?
            }
            Window::Im2col { lower, upper, channels, pixels } => kiln_sim::Im2colMap {
                dtype,
                address,
                dims,
                strides,
                lower_corner: lower.clone(),
                upper_corner: upper.clone(),
                channels_per_pixel: *channels,
                pixels_per_column: *pixels,
                element_strides,
                swizzle,
                nan_fill: false,
            }
            .encode()?,
        })
    }

    fn run(&self, bound: &Bound) -> Result<()> {
        if let Some((from, to, bytes)) = bound.begin {
            let mut data = vec![0; bytes];
            self.device.download(from, &mut data)?;
            self.device.upload(to, &data)?;
        }
        let kernels = &bound.region.kernels;
        for (Loaded { kernel, code, .. }, launch) in kernels.iter().zip(&bound.launches) {
            let Some((config, values)) = launch else { continue };
            let report = self.device.launch(code, *config, values, &self.options)?;
            if !report.clean() {
                let findings = report.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
                return Err(self.findings(kernel, findings));
            }
            if let (false, Some(fault)) = (kernel.checks.is_empty(), &self.fault) {
                let mut word = [0; FAULT_BYTES];
                self.device.download(fault.base, &mut word)?;
                self.device.upload(fault.base, &[0; FAULT_BYTES])?;
                self.checks.fault(self.name(), word)?;
            }
            if let (Some(to), Some(counters)) = (&self.counters, report.counters) {
                // Nobody listens any more: the counts are not wanted.
                let _ = to.send((kernel.entry.clone(), counters));
            }
        }
        if let (Some((at, bytes)), Some(last)) = (bound.zeroed, kernels.last()) {
            let mut left = vec![0; bytes];
            self.device.download(at, &mut left)?;
            if let Some(i) = left.iter().position(|&byte| byte != 0) {
                let what = format!("byte {i} of the memory that kernels leave zero: expected 0, found {}", left[i]);
                return Err(self.findings(&last.kernel, what));
            }
        }
        Ok(())
    }

    fn findings(&self, kernel: &Kernel, findings: String) -> Error {
        Error::Findings { device: self.name(), kernel: kernel.entry.clone(), findings }
    }

    fn block(&self, bytes: usize) -> Result<Block> {
        let base = self.device.alloc(bytes.max(1) as u64)?;
        Ok(Block { device: self.device.clone(), base, bytes, users: false })
    }

    fn address(&self, place: Place) -> Result<u64> {
        match self.memory.get(place.mem.0).cloned().or_else(|| self.shared.memory(place.mem)) {
            Some(block) if place.offset.saturating_add(place.bytes) <= block.bytes => {
                Ok(block.base + place.offset as u64)
            }
            _ => Err(internal(format!("{place:?} is not allocated"))),
        }
    }
}

fn internal(message: String) -> Error {
    Error::Internal { place: "the simulated device".into(), message }
}

impl Device for SimDevice {
    fn name(&self) -> String {
        format!("sim:{}", self.target)
    }

    fn target(&self) -> String {
        self.target.clone()
    }

    fn fork(&self) -> Result<Box<dyn Device>> {
        Ok(Box::new(SimDevice {
            device: self.device.clone(),
            counters: self.counters.clone(),
            shared: self.shared.clone(),
            checks: self.checks.clone(),
            sms: self.sms,
            ..SimDevice::new(&self.target, self.options.clone())
        }))
    }

    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        Ok(MemId(self.memory.insert(Arc::new(self.block(bytes)?))))
    }

    fn lend(&mut self, memory: UserMemory) -> Result<MemId> {
        let (base, bytes) = (memory.address(), memory.bytes());
        if !self.device.holds(base, bytes as u64) {
            let what = format!("memory at {base:#x} of {bytes} bytes, which it has not allocated,");
            return Err(Error::Unsupported { device: self.name(), what });
        }
        let block = Block { device: self.device.clone(), base, bytes, users: true };
        Ok(MemId(self.memory.insert(Arc::new(block))))
    }

    fn map(&mut self, bytes: Bytes) -> Result<MemId> {
        let block = self.block(bytes.len())?;
        self.device.upload(block.base, &bytes)?;
        Ok(self.shared.map(block))
    }

    fn pin(&mut self, bytes: Bytes) -> Result<MemId> {
        Ok(self.shared.pin(bytes))
    }

    /// At once: nothing runs meanwhile.
    fn fetch(&mut self, block: MemId, pieces: &[Fetch]) -> Result<()> {
        pieces.iter().try_for_each(|&Fetch { from, offset, bytes }| {
            let data = self.shared.pinned(from).ok_or_else(|| internal(format!("{from:?} is not pinned")))?;
            self.upload(Place { mem: block, offset, bytes }, &data)
        })
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
        Ok(self.device.upload(self.address(to)?, data)?)
    }

    fn download(&mut self, from: Place, data: &mut [u8]) -> Result<()> {
        Ok(self.device.download(self.address(from)?, data)?)
    }

    fn copy(&mut self, to: Place, from: Place) -> Result<()> {
        if to.bytes != from.bytes {
            return Err(internal(format!("copy of {from:?} to {to:?}")));
        }
        let mut data = vec![0; from.bytes];
        self.download(from, &mut data)?;
        self.upload(to, &data)
    }

    fn fill(&mut self, place: Place, byte: u8) -> Result<()> {
        Ok(self.device.fill(self.address(place)?, byte, place.bytes as u64)?)
    }

    fn load(&mut self, module: &Module<'_>) -> Result<KernelId> {
        let kernels = module
            .kernels
            .iter()
            .map(|image| {
                let text = std::str::from_utf8(&image.ptx)
                    .map_err(|e| internal(format!("the PTX of `{}` is not text: {e}", image.kernel.entry)))?;
                let parsed = kiln_sim::Module::parse(text.trim_end_matches('\0'))?;
                let code = parsed.kernel(&image.kernel.entry)?;
                let fault_code = self.checks.add(image.kernel);
                Ok(Loaded { kernel: image.kernel.clone(), code, fault_code })
            })
            .collect::<Result<_>>()?;
        let (scratch, zeroed) = (module.scratch_bytes.clone(), module.zeroed_bytes.clone());
        Ok(self.shared.load(Region { kernels, scratch, zeroed, updated: module.region.updated() }))
    }

    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared> {
        let region = self.shared.region(kernel).ok_or_else(|| internal(format!("{kernel:?} is not loaded")))?;
        if self.fault.is_none() && region.kernels.iter().any(|loaded| !loaded.kernel.checks.is_empty()) {
            let fault = self.block(FAULT_BYTES)?;
            self.device.upload(fault.base, &[0; FAULT_BYTES])?;
            self.fault = Some(fault);
        }
        let launches = region.kernels.iter().map(|l| resolve(&l.kernel, bindings, self.sms)).collect::<Result<_>>()?;
        let scratch_bytes = region.scratch.eval_extent(bindings)?;
        let zeroed_bytes = region.zeroed.eval_extent(bindings)?;
        Ok(Prepared { id: self.prepared.insert((region, launches)), scratch_bytes, zeroed_bytes })
    }

    fn release(&mut self, prepared: usize) {
        self.prepared.try_remove(prepared);
    }

    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        self.run(&self.bind(prepared, args)?)
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    /// Launches only, with the arguments that they have now: what goes stale on a GPU does so here.
    fn record(&mut self, actions: &[Action]) -> Result<Option<RecordingId>> {
        let launches: Option<Vec<(usize, Arguments<'_>)>> = actions.iter().map(Action::launch).collect();
        let Some(launches) = launches else { return Ok(None) };
        let bound = launches.into_iter().map(|(prepared, args)| self.bind(prepared, args)).collect::<Result<_>>()?;
        Ok(Some(RecordingId(self.recordings.insert(bound))))
    }

    fn replay(&mut self, recording: RecordingId) -> Result<()> {
        let bound = self.recordings.get(recording.0).ok_or_else(|| internal(format!("{recording:?} is gone")))?;
        bound.iter().try_for_each(|bound| self.run(bound))
    }

    fn forget(&mut self, recording: RecordingId) {
        self.recordings.try_remove(recording.0);
    }

    fn implementation(&self, prepared: usize) -> String {
        let region = self.prepared.get(prepared);
        region
            .map(|(r, _)| r.kernels.iter().map(|l| l.kernel.entry.as_str()).collect::<Vec<_>>().join(" + "))
            .unwrap_or_default()
    }
}
