//! The PTX simulator as a [`Device`]: the kernels that would run on a GPU, on any machine, checked as they run.

use super::gpu::{Checks, FAULT_BYTES, Resolved, Value, resolve};
use super::{Arguments, Device, KernelId, MemId, Module, Place, Prepared};
use crate::{Error, Result};
use bytes::Bytes;
use kiln_graph::{Bindings, Dim};
use kiln_kernels::Kernel;
use kiln_sim::{Arg, CounterReport, LaunchConfig, Options};
use slab::Slab;
use std::sync::mpsc::Sender;

/// Executes an engine's PTX.
pub struct SimDevice {
    device: kiln_sim::Device,
    target: String,
    options: Options,
    counters: Option<Sender<(String, CounterReport)>>,
    memory: Slab<(u64, usize)>,
    regions: Vec<Region>,
    prepared: Slab<(usize, Vec<Option<Resolved>>)>,
    /// Where kernels note faults: 0 until one does. Only there if some kernel checks anything.
    fault: Option<u64>,
    checks: Checks,
}

struct Region {
    kernels: Vec<Loaded>,
    scratch: Dim,
}

struct Loaded {
    kernel: Kernel,
    code: kiln_sim::Kernel,
    /// The code of its first check.
    fault_code: i32,
}

impl SimDevice {
    /// A simulated GPU of architecture `target`. A kernel that a check finds fault with is an error.
    pub fn new(target: &str, options: Options) -> SimDevice {
        SimDevice {
            device: kiln_sim::Device::default(),
            target: target.to_owned(),
            options,
            counters: None,
            memory: Slab::new(),
            regions: Vec::new(),
            prepared: Slab::new(),
            fault: None,
            checks: Checks::default(),
        }
    }

    /// Counts what each launch does, and sends the kernel's name and its counters.
    pub fn with_counters(mut self, to: Sender<(String, CounterReport)>) -> SimDevice {
        self.options.counters = true;
        self.counters = Some(to);
        self
    }

    fn address(&self, place: Place) -> Result<u64> {
        match self.memory.get(place.mem.0) {
            Some((base, bytes)) if place.offset.saturating_add(place.bytes) <= *bytes => Ok(base + place.offset as u64),
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

    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        let base = self.device.alloc(bytes.max(1) as u64)?;
        Ok(MemId(self.memory.insert((base, bytes))))
    }

    fn map(&mut self, bytes: Bytes) -> Result<MemId> {
        let mem = self.alloc(bytes.len())?;
        self.upload(Place { mem, offset: 0, bytes: bytes.len() }, &bytes)?;
        Ok(mem)
    }

    fn free(&mut self, mem: MemId) -> Result<()> {
        if let Some((base, _)) = self.memory.try_remove(mem.0) {
            self.device.free(base)?;
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
        if self.fault.is_none() && module.kernels.iter().any(|image| !image.kernel.checks.is_empty()) {
            let fault = self.device.alloc(FAULT_BYTES as u64)?;
            self.device.upload(fault, &[0; FAULT_BYTES])?;
            self.fault = Some(fault);
        }
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
        self.regions.push(Region { kernels, scratch: module.scratch_bytes.clone() });
        Ok(KernelId(self.regions.len() - 1))
    }

    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared> {
        let region = self.regions.get(kernel.0).ok_or_else(|| internal(format!("{kernel:?} is not loaded")))?;
        let launches = region.kernels.iter().map(|l| resolve(&l.kernel, bindings)).collect::<Result<_>>()?;
        let scratch_bytes = region.scratch.eval_extent(bindings)?;
        Ok(Prepared { id: self.prepared.insert((kernel.0, launches)), scratch_bytes })
    }

    fn release(&mut self, prepared: usize) {
        self.prepared.try_remove(prepared);
    }

    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        let (region, launches) =
            self.prepared.get(prepared).ok_or_else(|| internal(format!("{prepared} is not prepared")))?;
        for (Loaded { kernel, code, fault_code }, launch) in self.regions[*region].kernels.iter().zip(launches) {
            let Some(launch) = launch else { continue };
            let place = |places: &[Place], i: usize| {
                let place = places.get(i).ok_or_else(|| internal(format!("`{}` lacks argument {i}", kernel.entry)))?;
                Ok::<_, Error>(Arg::U64(self.address(*place)?))
            };
            let values = launch
                .values
                .iter()
                .map(|value| match *value {
                    Value::Input(i) => place(args.inputs, i),
                    Value::Output(i) => place(args.outputs, i),
                    Value::Scratch => place(args.scratch.as_slice(), 0),
                    Value::Fault => match self.fault {
                        Some(fault) => Ok(Arg::U64(fault)),
                        None => Err(internal(format!("`{}` has nowhere to note faults", kernel.entry))),
                    },
                    Value::FaultCode => Ok(Arg::I32(*fault_code)),
                    Value::I32(v) => Ok(Arg::I32(v)),
                    Value::I64(v) => Ok(Arg::I64(v)),
                })
                .collect::<Result<Vec<_>>>()?;
            let config = LaunchConfig {
                grid: launch.grid,
                block: kernel.launch.block,
                shared: kernel.launch.dynamic_shared,
                cluster: None,
            };
            let report = self.device.launch(code, config, &values, &self.options)?;
            if !report.clean() {
                let findings = report.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
                return Err(Error::Findings { device: self.name(), kernel: kernel.entry.clone(), findings });
            }
            if let (false, Some(fault)) = (kernel.checks.is_empty(), self.fault) {
                let mut word = [0; FAULT_BYTES];
                self.device.download(fault, &mut word)?;
                self.device.upload(fault, &[0; FAULT_BYTES])?;
                self.checks.fault(self.name(), word)?;
            }
            if let (Some(to), Some(counters)) = (&self.counters, report.counters) {
                // Nobody listens any more: the counts are not wanted.
                let _ = to.send((kernel.entry.clone(), counters));
            }
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    fn implementation(&self, prepared: usize) -> String {
        let region = self.prepared.get(prepared).and_then(|(r, _)| self.regions.get(*r));
        region
            .map(|r| r.kernels.iter().map(|l| l.kernel.entry.as_str()).collect::<Vec<_>>().join(" + "))
            .unwrap_or_default()
    }
}
