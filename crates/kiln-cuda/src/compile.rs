//! CUDA C to cubin, PTX and a resource log, for one exact architecture, in parallel, behind the cache.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::cache::{CubinCache, Entry, Key};
use crate::diagnostic::CompileFailure;
use crate::nvrtc::{Nvrtc, Output};
use crate::resources::ResourceLog;
use crate::{CudaError, Result};

/// One kernel to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileRequest {
    /// Name for messages (the entry function's, as a rule).
    pub name: String,
    /// CUDA C, without headers.
    pub source: String,
    /// Exact architecture, as in `sm_80` or `sm_90a`.
    pub arch: String,
    /// Further NVRTC options. The architecture, C++17 and ptxas's report are set already.
    pub options: Vec<String>,
    /// Keep line numbers in the cubin for profilers.
    pub line_info: bool,
}

/// Whether the cache held a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheOutcome {
    /// Read from the cache.
    Hit,
    /// Compiled and stored.
    Stored,
    /// Compiled and stored in the place of an entry that could not be used, for this reason.
    Replaced(String),
    /// Compiled; the compiler has no cache.
    Off,
    /// Compiled, but the cache could not be written, for this reason.
    NotStored(String),
}

/// A compiled kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The request's name.
    pub name: String,
    /// The request's architecture.
    pub arch: String,
    /// Machine code: an ELF image that the driver loads.
    pub cubin: Vec<u8>,
    /// The PTX the cubin was assembled from.
    pub ptx: String,
    /// Registers, spills, shared memory.
    pub log: ResourceLog,
    /// Time NVRTC took, when it was compiled (a hit repeats the time it saved).
    pub compile_time: Duration,
    /// Where it came from.
    pub cache: CacheOutcome,
}

/// News of [`Compiler::compile_all`].
#[derive(Debug, Clone, Copy)]
pub struct CompileProgress<'a> {
    /// Kernels done, this one included.
    pub done: usize,
    /// Kernels in all.
    pub total: usize,
    /// The request just done.
    pub request: &'a CompileRequest,
    /// What came of it.
    pub result: &'a Result<Compiled>,
}

/// Compiles kernels with one NVRTC.
#[derive(Debug, Clone)]
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Option<CubinCache>,
}

/// Name the source has inside NVRTC. It is the same for all kernels, so that two that differ in name only share a cache
/// entry and a cubin.
const FILE: &str = "kernel.cu";

impl Compiler {
    /// A compiler without a cache.
    pub fn new(nvrtc: &Nvrtc) -> Self {
        Self { nvrtc: nvrtc.clone(), cache: None }
    }

    /// The same with a cache.
    #[must_use]
    pub fn with_cache(mut self, cache: CubinCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// The NVRTC in use.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// The NVRTC options a request is compiled with, in order: what a stamp should record.
    pub fn options(&self, request: &CompileRequest) -> Vec<String> {
        let mut options = vec![
            format!("--gpu-architecture={}", request.arch),
            "--std=c++17".to_owned(),
            "--device-as-default-execution-space".to_owned(),
            "--ptxas-options=-v".to_owned(),
        ];
        // What a GPU's driver has cached comes without the assembler's report, and so would its spills be missed.
        if self.nvrtc.caches() {
            options.push("--no-cache".to_owned());
        }
        if request.line_info {
            options.push("--generate-line-info".to_owned());
        }
        options.extend(request.options.iter().cloned());
        options
    }

    /// Compiles one kernel, or takes it from the cache.
    ///
    /// # Errors
    /// [`CudaError::Compile`] with the lines at fault, [`CudaError::UnsupportedArch`], [`CudaError::BadRequest`].
    pub fn compile(&self, request: &CompileRequest) -> Result<Compiled> {
        pool()?.install(|| self.compile_here(request))
    }

    /// Compiles many kernels on all cores. Results are in the order of the requests; one that fails does not stop the
    /// others. `progress` is called after each, from several threads.
    pub fn compile_all(
        &self,
        requests: &[CompileRequest],
        progress: impl Fn(CompileProgress<'_>) + Sync,
    ) -> Vec<Result<Compiled>> {
        let pool = match pool() {
            Ok(pool) => pool,
            Err(_) => return requests.iter().map(|request| self.compile(request)).collect(),
        };
        let done = AtomicUsize::new(0);
        // Other threads do not know what this one is in.
        let stage = tracing::Span::current();
        pool.install(|| {
            requests
                .par_iter()
                // One at a time: kernels differ in cost by a factor of twenty.
                .with_max_len(1)
                .map(|request| {
                    let result = stage.in_scope(|| self.compile_here(request));
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    progress(CompileProgress { done, total: requests.len(), request, result: &result });
                    result
                })
                .collect()
        })
    }

    fn compile_here(&self, request: &CompileRequest) -> Result<Compiled> {
        self.check(request)?;
        let options = self.options(request);
        let key = Key::new(&request.source, &options, &request.arch, self.nvrtc.release());
        let refused = match self.cache.as_ref().map(|cache| cache.load(&key)) {
            Some(Ok(Some(entry))) => return Ok(compiled(request, entry, CacheOutcome::Hit)),
            Some(Err(reason)) => Some(reason),
            Some(Ok(None)) | None => None,
        };
        let _span = tracing::info_span!("nvrtc", kernel = request.name, arch = request.arch).entered();
        let start = Instant::now();
        let output = self.nvrtc.run(&request.name, &request.source, FILE, &options)?;
        let compile_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        if !output.ok {
            let failure = CompileFailure::new(&request.name, &request.arch, &request.source, FILE, output.log);
            return Err(CudaError::Compile(Box::new(self.with_ptx(request, failure))));
        }
        let ptx = String::from_utf8(output.ptx).ok().filter(|ptx| !ptx.is_empty() && !output.cubin.is_empty());
        let Some(ptx) = ptx else {
            return Err(CudaError::BadRequest {
                kernel: request.name.clone(),
                reason: format!("with options {options:?} NVRTC gives no cubin and PTX; remove -dlto and its like"),
            });
        };
        let entry = Entry { cubin: output.cubin, ptx, log: ResourceLog::parse(&output.log), compile_us };
        let outcome = match &self.cache {
            None => CacheOutcome::Off,
            Some(cache) => match cache.store(&key, &request.name, &request.arch, &entry) {
                Ok(()) => refused.map_or(CacheOutcome::Stored, CacheOutcome::Replaced),
                Err(error) => CacheOutcome::NotStored(error.to_string()),
            },
        };
        Ok(compiled(request, entry, outcome))
    }

    /// The PTX of one kernel, which is not assembled: for what runs nothing else, such as the simulator. It is not cached.
    ///
    /// # Errors
    /// Those of [`Compiler::compile`], but for what only the assembler refuses.
    pub fn ptx(&self, request: &CompileRequest) -> Result<String> {
        self.check(request)?;
        let output = pool()?.install(|| self.to_ptx(request))?;
        if output.ok {
            return Ok(String::from_utf8_lossy(&output.ptx).into_owned());
        }
        let failure = CompileFailure::new(&request.name, &request.arch, &request.source, FILE, output.log);
        Err(CudaError::Compile(Box::new(failure)))
    }

    /// NVRTC gives PTX alone when asked for a virtual architecture.
    fn to_ptx(&self, request: &CompileRequest) -> Result<Output> {
        let virtual_arch = request.arch.replacen("sm_", "compute_", 1);
        let options = self.options(&CompileRequest { arch: virtual_arch, ..request.clone() });
        self.nvrtc.run_to_ptx(&request.name, &request.source, FILE, &options)
    }

    /// Adds the PTX that the assembler refused.
    fn with_ptx(&self, request: &CompileRequest, failure: CompileFailure) -> CompileFailure {
        if !failure.needs_ptx() {
            return failure;
        }
        match self.to_ptx(request) {
            Ok(output) => failure.with_ptx(String::from_utf8_lossy(&output.ptx).into_owned()),
            Err(_) => failure,
        }
    }

    fn check(&self, request: &CompileRequest) -> Result<()> {
        let bad = |reason: String| Err(CudaError::BadRequest { kernel: request.name.clone(), reason });
        let digits = request.arch.strip_prefix("sm_").unwrap_or_default();
        // A suffix: `a` for one architecture's own instructions, `f` for its family's.
        let number = digits.strip_suffix(['a', 'f']).unwrap_or(digits);
        let Some(number) = number.parse::<u32>().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit())) else {
            return bad(format!("`{}` is no architecture; expected something like sm_80 or sm_90a", request.arch));
        };
        if !self.nvrtc.architectures().contains(&number) {
            return Err(CudaError::UnsupportedArch {
                kernel: request.name.clone(),
                arch: request.arch.clone(),
                version: self.nvrtc.release().to_owned(),
                supported: self.nvrtc.architectures().to_vec(),
            });
        }
        match request.options.iter().find(|o| o.contains("-arch=") || o.contains("gpu-architecture")) {
            Some(option) => bad(format!("option `{option}` is set by the request's architecture")),
            None => Ok(()),
        }
    }
}

fn compiled(request: &CompileRequest, entry: Entry, cache: CacheOutcome) -> Compiled {
    Compiled {
        name: request.name.clone(),
        arch: request.arch.clone(),
        cubin: entry.cubin,
        ptx: entry.ptx,
        log: entry.log,
        compile_time: Duration::from_micros(entry.compile_us),
        cache,
    }
}

/// NVRTC's own threads: its optimizer recurses deeply on large kernels, and a Rust thread's 2 MiB stack is tight.
fn pool() -> Result<&'static rayon::ThreadPool> {
    static POOL: OnceLock<Result<rayon::ThreadPool, String>> = OnceLock::new();
    POOL.get_or_init(|| {
        rayon::ThreadPoolBuilder::new()
            .stack_size(16 << 20)
            .thread_name(|index| format!("nvrtc-{index}"))
            .build()
            .map_err(|e| e.to_string())
    })
    .as_ref()
    .map_err(|reason| CudaError::BadRequest {
        kernel: "any".to_owned(),
        reason: format!("no threads to compile on: {reason}"),
    })
}
