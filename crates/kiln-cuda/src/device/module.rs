//! Loaded cubins and the functions in them.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{result, sys, sys::CUfunction_attribute as Attribute};

use super::{Gpu, Handle, describe, driver_error, driver_function, elf, properties};
use crate::release::ptx_refused;
use crate::{CudaError, Result};

/// A cubin on a device. Cheap to clone; unloaded when nothing made from it is left and its launches are done.
#[derive(Clone)]
pub struct CudaModule(pub(super) Arc<Loaded>);

pub(super) struct Loaded {
    gpu: Arc<Gpu>,
    name: String,
    raw: Handle<sys::CUmodule>,
}

/// A kernel ready to launch. Cheap to clone.
#[derive(Clone)]
pub struct KernelFunction(pub(super) Arc<Function>);

pub(super) struct Function {
    pub module: CudaModule,
    pub name: Arc<str>,
    pub raw: Handle<sys::CUfunction>,
    pub parameters: Vec<Parameter>,
    pub max_threads: u32,
    pub static_smem: u32,
    registers: u32,
    local_bytes: u32,
}

/// Where one parameter is in the kernel's parameter block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameter {
    pub offset: usize,
    pub size: usize,
}

/// Parameters a kernel may have, as a bound on a loop; the hardware allows at most 32764 bytes of them.
const MOST_PARAMETERS: usize = 32_764;

/// Bytes kept of what the driver's assembler says.
const JIT_LOG: usize = 16 << 10;

impl CudaModule {
    pub(super) fn load(gpu: &Arc<Gpu>, name: &str, cubin: &[u8]) -> Result<Self> {
        let (major, minor) = gpu.properties.compute_capability;
        let what = || format!("loading the cubin of `{name}` on a GPU of compute capability {major}.{minor}");
        elf::check(cubin).map_err(|detail| CudaError::Driver { what: what(), detail })?;
        gpu.bind()?;
        // The image may lie anywhere in a file; ELF's own fields want 8-byte alignment.
        let mut aligned = vec![0u64; cubin.len().div_ceil(8)];
        for (word, bytes) in aligned.iter_mut().zip(cubin.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }
        // SAFETY: a whole ELF image (checked above), alive during the call, which copies what it needs.
        let raw = unsafe { result::module::load_data(aligned.as_ptr().cast()) }.map_err(driver_error(what))?;
        Ok(Self(Arc::new(Loaded { gpu: Arc::clone(gpu), name: name.to_owned(), raw: Handle(raw) })))
    }

    pub(super) fn assemble(gpu: &Arc<Gpu>, name: &str, ptx: &[u8]) -> Result<Self> {
        let (major, minor) = gpu.properties.compute_capability;
        let what = || format!("assembling the PTX of `{name}` for a GPU of compute capability {major}.{minor}");
        let failed = |detail: String| CudaError::Driver { what: what(), detail };
        let text = std::str::from_utf8(ptx).map_err(|e| failed(e.to_string()))?;
        if let Some(reason) = ptx_refused(text, properties::supported()?) {
            return Err(failed(reason));
        }
        let text = CString::new(text).map_err(|_| failed("it holds a NUL byte".to_owned()))?;
        gpu.bind()?;
        let mut log = vec![0u8; JIT_LOG];
        // Values are passed in the bits of a pointer.
        let options = [
            (sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, log.as_mut_ptr().cast()),
            (sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, std::ptr::without_provenance_mut(JIT_LOG)),
        ];
        let (mut keys, mut values) = (options.map(|o| o.0), options.map(|o| o.1));
        let mut raw = std::ptr::null_mut();
        // SAFETY: NUL-terminated text, options with as many values, and a log of the size said; all outlive the call.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(
                &mut raw,
                text.as_ptr().cast(),
                keys.len() as u32,
                keys.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        loaded.result().map_err(|error| {
            let log = log.split(|&byte| byte == 0).next().unwrap_or_default();
            failed(format!("{}\n{}", describe(error), String::from_utf8_lossy(log).trim()))
        })?;
        Ok(Self(Arc::new(Loaded { gpu: Arc::clone(gpu), name: name.to_owned(), raw: Handle(raw) })))
    }

    /// The kernel `name`, whose parameters the caller takes to have these sizes in bytes (8 for a pointer).
    ///
    /// # Errors
    /// [`CudaError::Driver`] if there is no such function, [`CudaError::BadArguments`] if the cubin's parameters have
    /// other sizes.
    pub fn function(&self, name: &str, parameter_sizes: &[usize]) -> Result<KernelFunction> {
        let gpu = &self.0.gpu;
        gpu.bind()?;
        let what = || format!("looking up kernel `{name}` in `{}`", self.0.name);
        let symbol = CString::new(name)
            .map_err(|_| CudaError::Driver { what: what(), detail: "the name holds a NUL byte".to_owned() })?;
        // SAFETY: the module is loaded as long as `self` lives.
        let raw = unsafe { result::module::get_function(*self.0.raw, symbol) }.map_err(driver_error(what))?;
        let attribute = |attribute: Attribute| {
            // SAFETY: `raw` is a function of a loaded module.
            let value = unsafe { result::function::get_function_attribute(raw, attribute) };
            value.map(|value| u32::try_from(value).unwrap_or(0)).map_err(driver_error(what))
        };
        // SAFETY: only asks whether it is there, as it is from CUDA 12.4 on.
        let parameters = match unsafe { driver_function::<*const c_void>("cuFuncGetParamInfo") } {
            Some(_) => parameters_of(raw).map_err(driver_error(what))?,
            None => laid_out(name, parameter_sizes)?,
        };
        check_declared(name, parameter_sizes, &parameters)?;
        Ok(KernelFunction(Arc::new(Function {
            module: self.clone(),
            name: name.into(),
            max_threads: attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            static_smem: attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            registers: attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            raw: Handle(raw),
            parameters,
        })))
    }
}

/// The parameters the cubin declares; the driver refuses the first index past the last.
fn parameters_of(function: sys::CUfunction) -> Result<Vec<Parameter>, result::DriverError> {
    let mut parameters = Vec::new();
    for index in 0..MOST_PARAMETERS {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: a function of a loaded module, and two valid places to write.
        match unsafe { sys::cuFuncGetParamInfo(function, index, &mut offset, &mut size) } {
            sys::CUresult::CUDA_SUCCESS => parameters.push(Parameter { offset, size }),
            sys::CUresult::CUDA_ERROR_INVALID_VALUE => break,
            other => return Err(result::DriverError(other)),
        }
    }
    Ok(parameters)
}

/// Where parameters of these sizes lie, for drivers that do not tell: scalars and pointers are aligned to their size.
fn laid_out(kernel: &str, sizes: &[usize]) -> Result<Vec<Parameter>> {
    let mut end = 0usize;
    sizes
        .iter()
        .map(|&size| {
            if !matches!(size, 1 | 2 | 4 | 8) {
                return Err(CudaError::BadArguments {
                    kernel: kernel.to_owned(),
                    reason: format!(
                        "a parameter of {size} bytes has an alignment that drivers before CUDA 12.4 (r550) do not tell; update the driver"
                    ),
                });
            }
            let offset = end.next_multiple_of(size);
            end = offset + size;
            Ok(Parameter { offset, size })
        })
        .collect()
}

fn check_declared(kernel: &str, declared: &[usize], found: &[Parameter]) -> Result<()> {
    let found: Vec<usize> = found.iter().map(|parameter| parameter.size).collect();
    if declared == found {
        return Ok(());
    }
    Err(CudaError::BadArguments {
        kernel: kernel.to_owned(),
        reason: format!("declared with parameters of {declared:?} bytes, but the cubin's have {found:?} bytes"),
    })
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: loaded once, unloaded once; streams hold the module while a kernel of it may run.
            let _ = unsafe { result::module::unload(*self.raw) };
        }
    }
}

impl KernelFunction {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sizes of its parameters in bytes.
    pub fn parameter_sizes(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.parameters.iter().map(|parameter| parameter.size)
    }

    /// Threads a block may have, given its registers.
    pub fn max_threads(&self) -> u32 {
        self.0.max_threads
    }

    /// Static shared memory a block, in bytes.
    pub fn static_smem(&self) -> u32 {
        self.0.static_smem
    }

    /// Registers a thread.
    pub fn registers(&self) -> u32 {
        self.0.registers
    }

    /// Local memory (spills and stack) a thread, in bytes.
    pub fn local_bytes(&self) -> u32 {
        self.0.local_bytes
    }

    /// Lets launches ask for up to `bytes` of dynamic shared memory. Needed beyond what a block has without asking.
    ///
    /// # Errors
    /// [`CudaError::BadLaunch`] if with the static part it is more than the GPU has.
    pub fn set_max_dynamic_smem(&self, bytes: u32) -> Result<()> {
        let function = &*self.0;
        let gpu = &function.module.0.gpu;
        let most = gpu.properties.smem_per_block_optin.saturating_sub(function.static_smem);
        if bytes > most {
            return Err(CudaError::BadLaunch {
                kernel: function.name.to_string(),
                reason: format!(
                    "{bytes} bytes of dynamic shared memory asked for; {} leaves {most} beside {} static ones",
                    gpu.properties.name, function.static_smem
                ),
            });
        }
        self.set(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes)
    }

    /// Dynamic shared memory that launches may ask for, in bytes.
    pub(super) fn max_dynamic_smem(&self) -> Result<u32> {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: a function of a loaded module.
        let value = unsafe { result::function::get_function_attribute(*self.0.raw, attribute) };
        let value = value.map_err(driver_error(|| format!("reading an attribute of kernel `{}`", self.0.name)))?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    fn set(&self, attribute: Attribute, value: u32) -> Result<()> {
        self.0.module.0.gpu.bind()?;
        let what = || format!("setting {attribute:?} of kernel `{}` to {value}", self.0.name);
        let value = i32::try_from(value).unwrap_or(i32::MAX);
        // SAFETY: a function of a loaded module.
        unsafe { result::function::set_function_attribute(*self.0.raw, attribute, value) }.map_err(driver_error(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_laid_out_where_the_driver_does_not_tell() {
        let offsets = |sizes: &[usize]| laid_out("k", sizes).map(|p| p.iter().map(|p| p.offset).collect::<Vec<_>>());
        assert_eq!(offsets(&[8, 4, 8, 4, 4, 8]).unwrap(), [0, 8, 16, 24, 28, 32]);
        assert_eq!(offsets(&[1, 2, 1, 4]).unwrap(), [0, 2, 4, 8]);
        assert!(offsets(&[8, 128]).unwrap_err().to_string().contains("128 bytes"));
    }

    #[test]
    fn declared_parameters_must_match() {
        let found = [Parameter { offset: 0, size: 8 }, Parameter { offset: 8, size: 4 }];
        assert!(check_declared("k", &[8, 4], &found).is_ok());
        for declared in [&[8, 8][..], &[8], &[8, 4, 4], &[4, 8], &[]] {
            let error = check_declared("k", declared, &found).unwrap_err().to_string();
            assert!(error.contains("`k`") && error.contains("[8, 4]"), "{error}");
        }
    }
}
