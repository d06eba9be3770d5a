//! NVRTC through cudarc, made to serve the file that Kiln chose.
//!
//! cudarc opens NVRTC by name, once a process, and panics where it cannot. The loader answers to a library's SONAME once the library is
//! loaded, so the chosen file is opened by its absolute path first; its builtins before it, for NVRTC opens those by bare name at its first
//! use. cudarc tries the unversioned `libnvrtc.so` before the versioned names, so one on the loader's path would still win: what cudarc's names
//! lead to is therefore compared with the chosen file before cudarc is asked, and another file is an error that names it.
//!
//! So a process has one NVRTC. Result codes become a Rust enum in cudarc: it is built with its newest CUDA version, which has all codes of
//! earlier ones.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::nvrtc::{
    result::{self, NvrtcError},
    sys,
};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use crate::discover::{FoundBy, find_nvrtc};
use crate::{CudaError, Home, Result};

/// A loaded NVRTC. Cheap to clone; the library stays loaded for the life of the process.
#[derive(Clone)]
pub struct Nvrtc {
    loaded: Arc<Loaded>,
    found_by: Option<FoundBy>,
}

struct Loaded {
    path: PathBuf,
    release: String,
    architectures: Vec<u32>,
}

/// The one of this process, once there is one.
static SERVING: Mutex<Option<Arc<Loaded>>> = Mutex::new(None);

/// A symbol whose address tells libraries apart.
const WITNESS: &str = "nvrtcVersion";

/// The functions called here: cudarc panics when it first calls one that is missing.
const FUNCTIONS: [&str; 13] = [
    WITNESS,
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetSupportedArchs",
    "nvrtcGetErrorString",
    "nvrtcCreateProgram",
    "nvrtcCompileProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetPTXSize",
    "nvrtcGetPTX",
    "nvrtcGetCUBINSize",
    "nvrtcGetCUBIN",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
];

/// What one NVRTC run gave.
pub(crate) struct Output {
    /// False if the source does not compile; then only `log` is set.
    pub ok: bool,
    pub cubin: Vec<u8>,
    pub ptx: Vec<u8>,
    pub log: String,
}

impl Nvrtc {
    /// Finds and loads NVRTC (see [`crate::discover`] for the search order). A library that does not load, lacks a function, or would not be
    /// the one that cudarc calls, is passed over.
    ///
    /// # Errors
    /// [`CudaError::NvrtcNotFound`], which lists where it looked and names `kiln setup`.
    pub fn discover(home: &Home) -> Result<Self> {
        find_nvrtc(home, |candidate| Self::load(&candidate.library, Some(candidate.found_by)))
    }

    /// Loads the NVRTC library at `path`.
    ///
    /// # Errors
    /// [`CudaError::NvrtcUnusable`] with the loader's or NVRTC's reason, or the file that serves this process already.
    pub fn open(path: &Path) -> Result<Self> {
        Self::load(path, None)
    }

    fn load(path: &Path, found_by: Option<FoundBy>) -> Result<Self> {
        let unusable = |reason: String| CudaError::NvrtcUnusable { path: path.to_owned(), reason };
        let path = &std::path::absolute(path).map_err(|e| unusable(e.to_string()))?;
        let mut serving = SERVING.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match &*serving {
            Some(loaded) if kiln_host::same(&loaded.path, path) => Arc::clone(loaded),
            Some(other) => {
                return Err(unusable(format!(
                    "NVRTC {} of {} serves this process already, which can have but one; set KILN_NVRTC to choose before it starts",
                    other.release,
                    other.path.display()
                )));
            }
            None => {
                bind(path)?;
                let architectures = architectures().map_err(unusable)?;
                let release = probe_release(&architectures).map_err(unusable)?;
                let loaded = Arc::new(Loaded { path: path.clone(), release, architectures });
                *serving = Some(Arc::clone(&loaded));
                loaded
            }
        };
        Ok(Self { loaded, found_by })
    }

    /// Absolute path of the library.
    pub fn path(&self) -> &Path {
        &self.loaded.path
    }

    /// The rule that found it; `None` if it was opened by path.
    pub fn found_by(&self) -> Option<FoundBy> {
        self.found_by
    }

    /// The exact release, as in `13.0.88`. Two builds of one minor version generate different code, so this, not
    /// `13.0`, is what stamps and cache keys hold.
    pub fn release(&self) -> &str {
        &self.loaded.release
    }

    /// Whether it has a cache of its own, in the driver's, where a driver is: from CUDA 12.9 on (NVRTC documentation, "Caching").
    pub(crate) fn caches(&self) -> bool {
        let mut numbers = self.release().split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(12), Some(9))
    }

    /// The architectures it compiles for (90 for sm_90 and sm_90a), ascending.
    pub fn architectures(&self) -> &[u32] {
        &self.loaded.architectures
    }

    /// Compiles the `source` of `kernel` to cubin and PTX; messages call its text `file`.
    pub(crate) fn run(&self, kernel: &str, source: &str, file: &str, options: &[String]) -> Result<Output> {
        run(kernel, source, file, options, true)
    }

    /// The same for options that name a virtual architecture, which gives PTX only.
    pub(crate) fn run_to_ptx(&self, kernel: &str, source: &str, file: &str, options: &[String]) -> Result<Output> {
        run(kernel, source, file, options, false)
    }
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvrtc").field("path", &self.path()).field("release", &self.release()).finish_non_exhaustive()
    }
}

/// Loads the library and makes cudarc call it. A failure leaves cudarc unbound, so that another library can still be tried.
fn bind(path: &Path) -> Result<()> {
    let unusable = |path: &Path, reason: String| CudaError::NvrtcUnusable { path: path.to_owned(), reason };
    let open = |file: &Path, scope: c_int| {
        // SAFETY: loading runs the library's initializers; a file called libnvrtc that the user installed or
        // pointed at is trusted to be NVIDIA's.
        unsafe { Library::open(Some(file), RTLD_NOW | scope) }.map_err(|e| unusable(file, e.to_string()))
    };
    let mut libraries = builtins_beside(path).iter().map(|file| open(file, RTLD_GLOBAL)).collect::<Result<Vec<_>>>()?;
    let library = open(path, RTLD_LOCAL)?;
    for function in FUNCTIONS {
        if address(&library, function).is_none() {
            return Err(unusable(path, format!("it has no function {function}")));
        }
    }
    let wanted = address(&library, WITNESS);
    // As cudarc does it.
    let by_name = cudarc::get_lib_name_candidates("nvrtc").into_iter().find_map(|name| {
        // SAFETY: as above; cudarc would load it the same way.
        let library = unsafe { Library::new(&name) }.ok()?;
        Some((name, address(&library, WITNESS), library))
    });
    match by_name {
        Some((_, found, _)) if found == wanted => {}
        Some((name, found, _)) => {
            let file = found.and_then(mapped_file).map(|file| format!(" ({file})")).unwrap_or_default();
            return Err(unusable(
                path,
                format!(
                    "the loader's path has another `{name}`{file}, which would be called instead; take its folder out of LD_LIBRARY_PATH, or \
                     point KILN_NVRTC at it"
                ),
            ));
        }
        None => {
            return Err(unusable(path, "the loader finds it under none of NVRTC's names once it is loaded".to_owned()));
        }
    }
    // SAFETY: the loop above opened one of the names that this opens, so it does not panic.
    let called = unsafe { sys::culib().get::<*const c_void>(WITNESS.as_bytes()) }.ok().map(|symbol| *symbol);
    libraries.push(library);
    // Unloading NVRTC is not supported by it (it leaves thread-local state behind).
    std::mem::forget(libraries);
    if called == wanted {
        return Ok(());
    }
    let file = called.and_then(mapped_file).unwrap_or_else(|| "another file".to_owned());
    Err(unusable(
        path,
        format!(
            "{file} serves this process already, which can have but one; set KILN_NVRTC to choose before it starts"
        ),
    ))
}

/// Where a function of the library lies; `None` if it has no such function.
fn address(library: &Library, function: &str) -> Option<*const c_void> {
    // SAFETY: the address is only compared, never called.
    unsafe { library.get::<*const c_void>(function.as_bytes()) }.ok().map(|symbol| *symbol)
}

/// The file that an address of this process was mapped from, if the system tells it.
fn mapped_file(address: *const c_void) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let file = line.find('/')?;
        range.contains(&address.addr()).then(|| line[file..].to_owned())
    })
}

fn message(code: sys::nvrtcResult) -> String {
    // SAFETY: the function takes any code, and returns a static string.
    let text = unsafe { sys::nvrtcGetErrorString(code) };
    if text.is_null() {
        return "unknown error".to_owned();
    }
    // SAFETY: not null, and NUL-terminated by contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn architectures() -> Result<Vec<u32>, String> {
    let said = |function: &'static str| move |NvrtcError(code): NvrtcError| format!("{function}: {}", message(code));
    let mut count: c_int = 0;
    // SAFETY: `count` is valid for the write.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.result().map_err(said("nvrtcGetNumSupportedArchs"))?;
    let Some(room) = usize::try_from(count).ok().filter(|&count| count <= 1024) else {
        return Err(format!("nvrtcGetNumSupportedArchs: count {count}"));
    };
    let mut archs = vec![0 as c_int; room];
    // SAFETY: `archs` has room for the count that NVRTC gave.
    unsafe { sys::nvrtcGetSupportedArchs(archs.as_mut_ptr()) }.result().map_err(said("nvrtcGetSupportedArchs"))?;
    let mut archs: Vec<u32> = archs.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect();
    archs.sort_unstable();
    Ok(archs)
}

/// Compiles an empty kernel, which shows that the builtins are found, and reads the release from the PTX header: the
/// API itself gives only `major.minor`.
fn probe_release(architectures: &[u32]) -> Result<String, String> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are valid for the write.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }
        .result()
        .map_err(|NvrtcError(code)| format!("nvrtcVersion: {}", message(code)))?;
    let lowest = architectures.first().ok_or("it supports no architecture")?;
    let options = [format!("--gpu-architecture=compute_{lowest}")];
    let output = run("probe", "extern \"C\" __global__ void probe() {}", "probe.cu", &options, false)
        .map_err(|e| e.to_string())?;
    if !output.ok {
        return Err(format!("it cannot compile an empty kernel: {}", output.log.trim()));
    }
    let ptx = String::from_utf8_lossy(&output.ptx);
    let release = ptx
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("//"))
        .find_map(|line| line.split(", V").nth(1))
        .map(|release| release.trim().to_owned());
    Ok(release.unwrap_or_else(|| format!("{major}.{minor}")))
}

/// Only called once [`bind`] has succeeded.
fn run(kernel: &str, source: &str, name: &str, options: &[String], cubin: bool) -> Result<Output> {
    let bad = |reason: String| CudaError::BadRequest { kernel: kernel.to_owned(), reason };
    let text = |what: &str, value: &str| CString::new(value).map_err(|_| bad(format!("its {what} holds a NUL byte")));
    let (source, name) = (text("source", source)?, text("name", name)?);
    // cudarc panics on one.
    options.iter().try_for_each(|option| text("options", option).map(|_| ()))?;
    let failed = |function: &'static str| {
        move |NvrtcError(code): NvrtcError| CudaError::NvrtcCall {
            function,
            kernel: kernel.to_owned(),
            code: code as i32,
            message: message(code),
        }
    };
    let program = Program(result::create_program(&source, Some(&name)).map_err(failed("nvrtcCreateProgram"))?);
    // SAFETY: here and below, a program created above and destroyed when this returns; `source` and `name` outlive it.
    let compiled = unsafe { result::compile_program(program.0, options) };
    let log = bytes(unsafe { result::get_program_log(program.0) }.unwrap_or_default());
    let log = String::from_utf8_lossy(log.strip_suffix(&[0]).unwrap_or(&log)).into_owned();
    match compiled {
        Ok(()) => {}
        Err(NvrtcError(sys::nvrtcResult::NVRTC_ERROR_COMPILATION)) => {
            return Ok(Output { ok: false, cubin: Vec::new(), ptx: Vec::new(), log });
        }
        Err(error) => {
            return Err(match failed("nvrtcCompileProgram")(error) {
                CudaError::NvrtcCall { function, kernel, code, message } if !log.trim().is_empty() => {
                    CudaError::NvrtcCall { function, kernel, code, message: format!("{message}: {}", log.trim()) }
                }
                error => error,
            });
        }
    }
    let mut ptx = bytes(unsafe { result::get_ptx(program.0) }.map_err(failed("nvrtcGetPTX"))?);
    if ptx.last() == Some(&0) {
        ptx.pop();
    }
    let cubin = if cubin { program.cubin().map_err(failed("nvrtcGetCUBIN"))? } else { Vec::new() };
    Ok(Output { ok: true, cubin, ptx, log })
}

fn bytes(text: Vec<c_char>) -> Vec<u8> {
    text.into_iter().flat_map(c_char::to_ne_bytes).collect()
}

struct Program(sys::nvrtcProgram);

impl Program {
    fn cubin(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut bytes = 0usize;
        // SAFETY: a live program, and a valid place for the size.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &mut bytes) }.result()?;
        let mut buffer = vec![0u8; bytes];
        // SAFETY: the buffer has the size that NVRTC gave for this very output.
        unsafe { sys::nvrtcGetCUBIN(self.0, buffer.as_mut_ptr().cast()) }.result()?;
        Ok(buffer)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by NVRTC and destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// `libnvrtc-builtins.so.MAJOR.MINOR` files beside the library, or beside what it is a symbolic link to, that belong to
/// its major version.
fn builtins_beside(library: &Path) -> Vec<PathBuf> {
    let major = |file: &Path, stem: &str| {
        let name = file.file_name()?.to_str()?.strip_prefix(stem)?.to_owned();
        name.split('.').find_map(|part| part.parse::<u32>().ok())
    };
    let real = fs::canonicalize(library).unwrap_or_else(|_| library.to_owned());
    let wanted = major(library, "libnvrtc.so").or_else(|| major(&real, "libnvrtc.so"));
    for folder in [library.parent(), real.parent()].into_iter().flatten() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| match major(path, "libnvrtc-builtins.so") {
                Some(found) => wanted.is_none_or(|wanted| wanted == found),
                None => false,
            })
            .collect();
        if !found.is_empty() {
            found.sort();
            return found;
        }
    }
    Vec::new()
}
