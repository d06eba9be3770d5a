//! The simulated device: memory, and launches on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::exec::{Buffer, GLOBAL_BASE, launch};
use crate::launch::{Arg, LaunchConfig, Options};
use crate::memory::check_memory;
use crate::module::Kernel;
use crate::ptx::{PtxFile, Space};
use crate::report::Report;

/// Pattern of memory that nobody has written: NaN in every floating-point format.
const FRESH: u32 = u32::MAX;
/// Written piece by piece to variables, which may be large.
const ZEROS: [u8; 4096] = [0; 4096];
/// Space between allocations, so that an access past the end of one does not land in the next.
const GAP: u64 = 4096;

/// A device with its memory. All calls take `&self`; launches on one device may overlap.
pub struct Device {
    state: Mutex<State>,
    capacity: u64,
}

struct State {
    buffers: BTreeMap<u64, Arc<Buffer>>,
    next: u64,
    used: u64,
    /// Addresses of the variables of each module that has been launched.
    modules: Vec<(Arc<PtxFile>, Arc<Vec<u64>>)>,
}

impl Default for Device {
    /// 8 GiB.
    fn default() -> Self {
        Device::new(8 << 30)
    }
}

impl Device {
    /// A device with `capacity` bytes of memory.
    pub fn new(capacity: u64) -> Self {
        let state = State { buffers: BTreeMap::new(), next: GLOBAL_BASE, used: 0, modules: Vec::new() };
        Device { state: Mutex::new(state), capacity }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half-written that matters here.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Allocates memory, aligned to 256 bytes and filled with NaNs.
    pub fn alloc(&self, bytes: u64) -> Result<u64> {
        self.lock().alloc(bytes, self.capacity)
    }

    /// Frees an allocation by its address.
    pub fn free(&self, address: u64) -> Result<()> {
        let mut s = self.lock();
        match s.buffers.remove(&address) {
            Some(b) => {
                s.used -= b.len;
                Ok(())
            }
            None => Err(Error::Memory { call: "free", address, bytes: 0 }),
        }
    }

    fn find(&self, call: &'static str, address: u64, bytes: u64) -> Result<Arc<Buffer>> {
        let s = self.lock();
        let found = s.buffers.range(..=address).next_back().map(|(_, b)| b);
        match found {
            Some(b) if bytes == 0 || b.holds(address, bytes) => Ok(b.clone()),
            _ => Err(Error::Memory { call, address, bytes }),
        }
    }

    /// Whether so many bytes from an address are of one allocation.
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        let s = self.lock();
        s.buffers.range(..=address).next_back().is_some_and(|(_, buffer)| buffer.holds(address, bytes))
    }

    /// Copies host bytes to the device.
    pub fn upload(&self, address: u64, data: &[u8]) -> Result<()> {
        let b = self.find("upload", address, data.len() as u64)?;
        b.write(address - b.base, data);
        Ok(())
    }

    /// Copies device bytes to the host.
    pub fn download(&self, address: u64, data: &mut [u8]) -> Result<()> {
        let b = self.find("download", address, data.len() as u64)?;
        b.read(address - b.base, data);
        Ok(())
    }

    /// Sets `bytes` bytes to `value`.
    pub fn fill(&self, address: u64, value: u8, bytes: u64) -> Result<()> {
        let b = self.find("fill", address, bytes)?;
        let chunk = vec![value; bytes.min(1 << 16) as usize];
        let mut at = 0;
        while at < bytes {
            let n = (bytes - at).min(chunk.len() as u64);
            b.write(address + at - b.base, &chunk[..n as usize]);
            at += n;
        }
        Ok(())
    }

    /// Address of a module-scope variable of a kernel's module, allocating the module's variables if need be.
    pub fn symbol(&self, kernel: &Kernel, name: &str) -> Result<u64> {
        let addresses = self.lock().module(&kernel.file, self.capacity)?;
        let at = kernel.file.vars.iter().position(|v| v.name == name && v.space != Space::Shared);
        at.and_then(|i| addresses.get(i).copied())
            .ok_or_else(|| kernel.launch_error(format!("the module has no variable `{name}`")))
    }

    /// Runs a kernel with typed arguments.
    pub fn launch(&self, kernel: &Kernel, config: LaunchConfig, args: &[Arg], options: &Options) -> Result<Report> {
        let params = kernel.params();
        if params.len() != args.len() {
            return Err(kernel.launch_error(format!(
                "{} arguments given, the kernel takes {}",
                args.len(),
                params.len()
            )));
        }
        let mut block = vec![0u8; kernel.program.param_bytes as usize];
        for (i, ((at, size), arg)) in params.iter().zip(args).enumerate() {
            let bytes = arg.bytes();
            if bytes.len() != *size as usize {
                return Err(
                    kernel.launch_error(format!("argument {i} has {} bytes, the parameter has {size}", bytes.len()))
                );
            }
            block[*at as usize..(*at + *size) as usize].copy_from_slice(&bytes);
        }
        self.launch_block(kernel, config, &block, options)
    }

    /// Runs a kernel with a parameter block laid out as [`Kernel::params`] says.
    pub fn launch_block(
        &self,
        kernel: &Kernel,
        config: LaunchConfig,
        params: &[u8],
        options: &Options,
    ) -> Result<Report> {
        if params.len() != kernel.program.param_bytes as usize {
            let want = kernel.program.param_bytes;
            return Err(kernel.launch_error(format!("parameter block of {} bytes, expected {want}", params.len())));
        }
        let (symbols, buffers) = {
            let mut s = self.lock();
            let symbols = s.module(&kernel.file, self.capacity)?;
            (symbols, s.buffers.values().cloned().collect::<Vec<_>>())
        };
        launch(kernel, config, params, options, &symbols, buffers)
    }
}

impl State {
    fn alloc(&mut self, bytes: u64, capacity: u64) -> Result<u64> {
        let left = capacity.saturating_sub(self.used);
        if bytes > left {
            return Err(Error::OutOfMemory { bytes, left });
        }
        check_memory(bytes).map_err(|why| Error::HostMemory { bytes, why })?;
        let base = self.next;
        self.next = (base + bytes + GAP).next_multiple_of(256);
        self.used += bytes;
        self.buffers.insert(base, Arc::new(Buffer::new(base, bytes, FRESH)));
        Ok(base)
    }

    /// Addresses of a module's variables; places and initialises them on first use.
    fn module(&mut self, file: &Arc<PtxFile>, capacity: u64) -> Result<Arc<Vec<u64>>> {
        if let Some((_, known)) = self.modules.iter().find(|(f, _)| Arc::ptr_eq(f, file)) {
            return Ok(known.clone());
        }
        let mut addresses = Vec::with_capacity(file.vars.len());
        for v in &file.vars {
            addresses.push(if v.space == Space::Shared { 0 } else { self.alloc(v.size.max(1), capacity)? });
        }
        for (v, at) in file.vars.iter().zip(&addresses).filter(|(v, _)| v.space != Space::Shared) {
            let Some(buffer) = self.buffers.get(at) else { continue };
            let mut data = v.init.clone();
            for (off, symbol, addend) in &v.relocs {
                let target = file.vars.iter().position(|o| o.name == *symbol).map_or(0, |i| addresses[i]);
                data[*off..*off + 8].copy_from_slice(&target.wrapping_add(*addend as u64).to_le_bytes());
            }
            // What is not initialised is zero.
            (data.len() as u64..v.size).step_by(ZEROS.len()).for_each(|at| {
                buffer.write(at, &ZEROS[..ZEROS.len().min((v.size - at) as usize)]);
            });
            buffer.write(0, &data);
        }
        let addresses = Arc::new(addresses);
        self.modules.push((file.clone(), addresses.clone()));
        Ok(addresses)
    }
}
