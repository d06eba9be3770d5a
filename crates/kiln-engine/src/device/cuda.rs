//! A GPU through the CUDA driver as a [`Device`].

use super::gpu::{Checks, FAULT_BYTES, Resolved, Value, mapped, place, resolve};
use super::shared::Shared;
use super::{
    Arguments, Device, Fetch, GpuInfo, KernelId, MemId, Module, Place, Prepared, RecordingId, UserMemory, UserStream,
};
use crate::schedule::Action;
use crate::{Error, Result};
use bytes::Bytes;
use kiln_cuda::{
    Arg, Copier, CudaDevice, DeviceBuffer, DevicePtr, Graph, KernelFunction, LaunchConfig, PinnedBuffer,
    TensorDescriptor, TensorElement, TensorWindow,
};
use kiln_graph::{Bindings, Dim};
use kiln_kernels::{Element, Kernel, Param, Promotion, TENSOR_MAP_BYTES, TensorMap, Window};
use kiln_target::arch::Arch;
use kiln_target::{Detected, Gpu, Target, UnknownTarget};
use slab::Slab;
use std::sync::Arc;

/// Runs cubins on one GPU.
pub struct GpuDevice {
    // Recordings first: they must go before the memory that they point into.
    recordings: Slab<Graph>,
    memory: Slab<Arc<DeviceBuffer>>,
    shared: Arc<Shared<Region, DeviceBuffer, PinnedBuffer>>,
    /// Copies weights beside what runs, once some are.
    copier: Option<Copier>,
    prepared: Slab<(Arc<Region>, Vec<Option<Resolved>>)>,
    /// Where kernels note faults: 0 until one does. Only there if some kernel checks anything.
    fault: Option<DeviceBuffer>,
    checks: Arc<Checks>,
    device: CudaDevice,
    target: String,
}

struct Region {
    kernels: Vec<Loaded>,
    scratch: Dim,
    zeroed: Dim,
    updated: Option<usize>,
}

struct Loaded {
    kernel: Kernel,
    function: KernelFunction,
    /// The code of its first check.
    fault_code: i32,
}

impl GpuDevice {
    /// The GPU of that ordinal. Absent driver or GPU: an error.
    pub fn new(ordinal: usize) -> Result<GpuDevice> {
        let device = CudaDevice::new(ordinal)?;
        let (major, minor) = device.properties().compute_capability;
        let arch = kiln_target::arch::Arch::for_capability(10 * major + minor);
        let target = arch.map_or_else(|| format!("sm_{major}{minor}"), |arch| arch.name().to_owned());
        Ok(GpuDevice::over(device, target, Arc::default(), Arc::default()))
    }

    fn over(
        device: CudaDevice,
        target: String,
        shared: Arc<Shared<Region, DeviceBuffer, PinnedBuffer>>,
        checks: Arc<Checks>,
    ) -> GpuDevice {
        let (recordings, memory, prepared) = Default::default();
        GpuDevice { recordings, memory, shared, copier: None, prepared, fault: None, checks, device, target }
    }

    fn buffer(&self, place: Place) -> Result<Arc<DeviceBuffer>> {
        let buffer = self.memory.get(place.mem.0).cloned().or_else(|| self.shared.memory(place.mem));
        let buffer = buffer.ok_or_else(|| internal(format!("{place:?} is not allocated")))?;
        match place.offset.checked_add(place.bytes) {
            Some(end) if end <= buffer.len() => Ok(buffer),
            _ => Err(internal(format!("{place:?} leaves its block of {} bytes", buffer.len()))),
        }
    }

    fn address(&self, place: Place) -> Result<DevicePtr> {
        Ok(self.buffer(place)?.ptr_at(place.offset)?)
    }

    /// The tensor maps of a launch, in the order of its parameters.
    fn tensor_maps(
        &self,
        kernel: &Kernel,
        launch: &Resolved,
        args: &Arguments<'_>,
    ) -> Result<Vec<[u8; TENSOR_MAP_BYTES]>> {
        let mut all = Vec::new();
        for (index, value) in launch.values.iter().enumerate() {
            let Value::TensorMap(map) = value else { continue };
            let place = place(kernel, args, map.base)?;
            mapped(kernel, index, map, place, self.address(place)?.address())?;
            // Within the place, as was just checked.
            let at = self.buffer(place)?.ptr_at(place.offset + map.offset as usize)?;
            all.push(self.device.encode(&descriptor(map, at))?);
        }
        Ok(all)
    }

    /// Downloads a piece of memory, if one is wanted, and the word of faults. Waits for all work.
    fn with_faults(&self, piece: Option<(&DeviceBuffer, usize, &mut [u8])>) -> Result<()> {
        let stream = self.device.stream();
        let mut word = [0; FAULT_BYTES];
        let mut pieces: Vec<_> = piece.into_iter().collect();
        if let Some(fault) = &self.fault {
            pieces.push((fault, 0, &mut word));
        }
        stream.download_all(&mut pieces)?;
        if let (Some(fault), true) = (&self.fault, word != [0; FAULT_BYTES]) {
            stream.fill(fault, 0, FAULT_BYTES, 0)?;
        }
        self.checks.fault(self.name(), word)
    }

    fn copied(&self, to: Place, from: Place) -> Result<()> {
        if to.bytes != from.bytes {
            return Err(internal(format!("copy of {from:?} to {to:?}")));
        }
        Ok(self.device.stream().copy(&*self.buffer(to)?, to.offset, &*self.buffer(from)?, from.offset, from.bytes)?)
    }

    fn issue(&self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        let (region, launches) =
            self.prepared.get(prepared).ok_or_else(|| internal(format!("{prepared} is not prepared")))?;
        if let Some((from, to)) = args.begin(region.updated) {
            self.copied(to, from)?;
        }
        for (Loaded { kernel, function, fault_code }, launch) in region.kernels.iter().zip(launches) {
            let Some(launch) = launch else { continue };
            // Encoded for these addresses. A recording is of one place of every block: it is made anew where one moves.
            let encoded = self.tensor_maps(kernel, launch, &args)?;
            let mut encoded = encoded.iter();
            let values = launch
                .values
                .iter()
                .map(|value| {
                    Ok(match value {
                        Value::Pointer(pointer) => Arg::Ptr(self.address(place(kernel, &args, *pointer)?)?),
                        Value::TensorMap(_) => match encoded.next() {
                            Some(bytes) => Arg::Bytes(bytes),
                            None => return Err(internal(format!("`{}` lacks a tensor map", kernel.entry))),
                        },
                        Value::Fault => match &self.fault {
                            Some(fault) => Arg::Ptr(fault.ptr_at(0)?),
                            None => return Err(internal(format!("`{}` has nowhere to note faults", kernel.entry))),
                        },
                        Value::FaultCode => Arg::I32(*fault_code),
                        Value::I32(v) => Arg::I32(*v),
                        Value::I64(v) => Arg::I64(*v),
                        Value::F32(bits) => Arg::F32(f32::from_bits(*bits)),
                    })
                })
                .collect::<Result<Vec<_>>>()?;
            let config = LaunchConfig {
                grid: launch.grid,
                block: kernel.launch.block,
                dynamic_smem: kernel.launch.dynamic_shared,
                cluster: kernel.launch.clustered().then_some(kernel.launch.cluster),
            };
            self.device.stream().launch(function, &config, &values)?;
        }
        Ok(())
    }
}

fn descriptor(map: &TensorMap<u64>, address: DevicePtr) -> TensorDescriptor {
    TensorDescriptor {
        address,
        element: match map.element {
            Element::U8 => TensorElement::U8,
            Element::U16 => TensorElement::U16,
            Element::U32 => TensorElement::U32,
            Element::I32 => TensorElement::I32,
            Element::U64 => TensorElement::U64,
            Element::I64 => TensorElement::I64,
            Element::F16 => TensorElement::F16,
            Element::F32 => TensorElement::F32,
            Element::F64 => TensorElement::F64,
            Element::Bf16 => TensorElement::Bf16,
            Element::Tf32 => TensorElement::Tf32,
        },
        extents: map.extents.clone(),
        strides: map.strides.clone(),
        window: match &map.window {
            Window::Tiled(extents) => TensorWindow::Tiled(extents.clone()),
            Window::Im2col { lower, upper, channels, pixels } => TensorWindow::Im2col {
                lower: lower.clone(),
                upper: upper.clone(),
                channels: *channels,
                pixels: *pixels,
            },
        },
        element_strides: map.steps(),
        swizzle_bytes: map.swizzle.span().unwrap_or(0),
        promotion_bytes: match map.promotion {
            Promotion::None => 0,
            Promotion::B64 => 64,
            Promotion::B128 => 128,
            Promotion::B256 => 256,
        },
    }
}

fn internal(message: String) -> Error {
    Error::Internal { place: "the CUDA device".into(), message }
}

impl Device for GpuDevice {
    fn name(&self) -> String {
        let properties = self.device.properties();
        format!("cuda:{} {}", properties.ordinal, properties.name)
    }

    fn target(&self) -> String {
        self.target.clone()
    }

    fn processor(&self) -> Result<Target> {
        let properties = self.device.properties();
        let arch: Arch = self.target.parse().map_err(|_| UnknownTarget { found: self.target.clone() })?;
        // Data moves at both edges of the memory clock.
        let bandwidth = |clock: u32, bits: u32| 2.0 * f64::from(clock) * f64::from(bits) / 8.0 / 1e6;
        let found = Detected {
            name: properties.name.clone(),
            arch,
            sms: properties.sm_count,
            clock_ghz: properties.clock_khz.map(|khz| f64::from(khz) / 1e6),
            memory_bytes: properties.memory_bytes,
            bandwidth_gbs: properties.memory_clock_khz.zip(properties.memory_bus_bits).map(|(c, b)| bandwidth(c, b)),
            l2_bytes: properties.l2_bytes.into(),
        };
        Ok(Gpu::detected(&found).map(Target::Gpu).ok_or(UnknownTarget { found: properties.name.clone() })?)
    }

    fn gpu(&self) -> Option<GpuInfo> {
        let properties = self.device.properties();
        let (major, minor) = properties.compute_capability;
        let (capability, shared_bytes) = (10 * major + minor, properties.smem_per_block_optin);
        Some(GpuInfo { capability, shared_bytes, cuda: kiln_cuda::driver_cuda()? })
    }

    fn memory_bytes(&self) -> Option<u64> {
        Some(self.device.properties().memory_bytes)
    }

    /// With a stream of its own: the GPU may run both at once.
    fn fork(&self) -> Result<Box<dyn Device>> {
        let (device, target) = (self.device.fork()?, self.target.clone());
        Ok(Box::new(GpuDevice::over(device, target, self.shared.clone(), self.checks.clone())))
    }

    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        Ok(MemId(self.memory.insert(Arc::new(self.device.alloc(bytes)?))))
    }

    #[allow(unsafe_code, reason = "the word is given where the memory is named")]
    fn lend(&mut self, memory: UserMemory) -> Result<MemId> {
        // SAFETY: the word of `UserMemory::new`.
        let buffer = unsafe { self.device.lend(memory.address(), memory.bytes()) }?;
        Ok(MemId(self.memory.insert(Arc::new(buffer))))
    }

    fn map(&mut self, bytes: Bytes) -> Result<MemId> {
        let buffer = self.device.alloc(bytes.len())?;
        // Waits for the copy: other streams may read it from now on.
        self.device.stream().upload(&buffer, 0, &bytes)?;
        Ok(self.shared.map(buffer))
    }

    fn pin(&mut self, bytes: Bytes) -> Result<MemId> {
        Ok(self.shared.pin(self.device.pin(&bytes)?))
    }

    fn fetch(&mut self, block: MemId, pieces: &[Fetch]) -> Result<()> {
        let pieces = pieces.iter().map(|&Fetch { from, offset, bytes }| {
            let pinned = self.shared.pinned(from).filter(|pinned| pinned.len() == bytes);
            let pinned = pinned.ok_or_else(|| internal(format!("{bytes} bytes of {from:?} are not pinned")))?;
            Ok((self.buffer(Place { mem: block, offset, bytes })?, offset, pinned))
        });
        let pieces = pieces.collect::<Result<Vec<_>>>()?;
        let copier = match &mut self.copier {
            Some(copier) => copier,
            none => none.insert(Copier::new(&self.device)?),
        };
        Ok(copier.copy(self.device.stream(), &pieces)?)
    }

    fn free(&mut self, mem: MemId) -> Result<()> {
        // Queued work may still use the block.
        self.device.synchronize()?;
        self.copier.as_ref().map_or(Ok(()), Copier::synchronize)?;
        match self.memory.try_remove(mem.0) {
            // So may recordings; not what is shared: a session records over code and weights that it holds.
            Some(_) => self.recordings.clear(),
            None => self.shared.free(mem),
        }
        Ok(())
    }

    fn upload(&mut self, to: Place, data: &[u8]) -> Result<()> {
        Ok(self.device.stream().upload(&*self.buffer(to)?, to.offset, data)?)
    }

    fn download(&mut self, from: Place, data: &mut [u8]) -> Result<()> {
        let buffer = self.buffer(from)?;
        self.with_faults(Some((&buffer, from.offset, data)))
    }

    fn copy(&mut self, to: Place, from: Place) -> Result<()> {
        self.copied(to, from)
    }

    fn fill(&mut self, place: Place, byte: u8) -> Result<()> {
        Ok(self.device.stream().fill(&*self.buffer(place)?, place.offset, place.bytes, byte)?)
    }

    fn load(&mut self, module: &Module<'_>) -> Result<KernelId> {
        let kernels = module
            .kernels
            .iter()
            .map(|image| {
                let loaded = match &image.cubin {
                    Some(cubin) => self.device.load_module(&image.kernel.entry, cubin)?,
                    None => self.device.load_ptx(&image.kernel.entry, &image.ptx)?,
                };
                let sizes: Vec<usize> = image.kernel.launch.params.iter().map(Param::bytes).collect();
                let function = loaded.function(&image.kernel.entry, &sizes)?;
                if image.kernel.launch.dynamic_shared > 0 {
                    function.set_max_dynamic_smem(image.kernel.launch.dynamic_shared)?;
                }
                let fault_code = self.checks.add(image.kernel);
                Ok(Loaded { kernel: image.kernel.clone(), function, fault_code })
            })
            .collect::<Result<_>>()?;
        let (scratch, zeroed) = (module.scratch_bytes.clone(), module.zeroed_bytes.clone());
        Ok(self.shared.load(Region { kernels, scratch, zeroed, updated: module.region.updated() }))
    }

    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared> {
        let region = self.shared.region(kernel).ok_or_else(|| internal(format!("{kernel:?} is not loaded")))?;
        if self.fault.is_none() && region.kernels.iter().any(|loaded| !loaded.kernel.checks.is_empty()) {
            let fault = self.device.alloc(FAULT_BYTES)?;
            self.device.stream().fill(&fault, 0, FAULT_BYTES, 0)?;
            self.fault = Some(fault);
        }
        let sms = self.device.properties().sm_count;
        let launches = region.kernels.iter().map(|l| resolve(&l.kernel, bindings, sms)).collect::<Result<_>>()?;
        let scratch_bytes = region.scratch.eval_extent(bindings)?;
        let zeroed_bytes = region.zeroed.eval_extent(bindings)?;
        Ok(Prepared { id: self.prepared.insert((region, launches)), scratch_bytes, zeroed_bytes })
    }

    fn release(&mut self, prepared: usize) {
        self.prepared.try_remove(prepared);
    }

    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        self.issue(prepared, args)
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(self.device.synchronize()?)
    }

    fn check(&mut self) -> Result<()> {
        self.with_faults(None)
    }

    fn is_done(&mut self) -> Result<bool> {
        Ok(self.device.stream().is_done()?)
    }

    #[allow(unsafe_code, reason = "the word is given where the stream is named")]
    fn wait_for(&mut self, stream: UserStream) -> Result<()> {
        // SAFETY: the word of `UserStream::new`.
        Ok(unsafe { self.device.stream().wait_for(stream.handle()) }?)
    }

    #[allow(unsafe_code, reason = "the word is given where the stream is named")]
    fn hold(&mut self, stream: UserStream) -> Result<()> {
        // SAFETY: the word of `UserStream::new`.
        Ok(unsafe { self.device.stream().hold(stream.handle()) }?)
    }

    /// Launches only: what chooses and repeats them is the session's.
    fn record(&mut self, actions: &[Action]) -> Result<Option<RecordingId>> {
        let launches: Option<Vec<(usize, Arguments<'_>)>> = actions.iter().map(Action::launch).collect();
        let Some(launches) = launches else { return Ok(None) };
        let graph = self
            .device
            .stream()
            .capture(|_| launches.iter().try_for_each(|(prepared, args)| self.issue(*prepared, *args)))?;
        Ok(Some(RecordingId(self.recordings.insert(graph))))
    }

    fn replay(&mut self, recording: RecordingId) -> Result<()> {
        let graph = self.recordings.get(recording.0).ok_or_else(|| internal(format!("{recording:?} is gone")))?;
        Ok(graph.replay(self.device.stream())?)
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
