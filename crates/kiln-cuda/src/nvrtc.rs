//! NVRTC, loaded from an explicit path.
//!
//! This is a binding of its own, of the thirteen functions needed, and not cudarc's: cudarc's dynamic loader looks only for
//! fixed library names on the loader's path and panics without them, so it cannot be pointed at `$KILN_HOME`; its safe
//! layer returns PTX but no cubin; and its result type is a Rust enum, for which a code added by a later NVRTC would be
//! undefined behaviour. Result codes are plain integers here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::fs;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use crate::discover::{FoundBy, find_nvrtc};
use crate::{CudaError, Home, Result};

/// A loaded NVRTC. Cheap to clone; the library stays loaded for the life of the process.
#[derive(Clone)]
pub struct Nvrtc(Arc<Loaded>);

struct Loaded {
    api: Api,
    path: PathBuf,
    found_by: Option<FoundBy>,
    release: String,
    architectures: Vec<u32>,
}

type RawProgram = *mut c_void;

macro_rules! api {
    ($($field:ident = $symbol:literal : fn($($arg:ty),*) -> $ret:ty;)*) => {
        /// The functions of libnvrtc that Kiln calls.
        struct Api {
            $($field: unsafe extern "C" fn($($arg),*) -> $ret,)*
            // Unloading NVRTC is not supported by it (it leaves thread-local state behind), so the handles are kept.
            _libraries: ManuallyDrop<Vec<Library>>,
        }

        impl Api {
            fn resolve(libraries: Vec<Library>) -> Result<Self, libloading::Error> {
                let nvrtc = &libraries[0];
                Ok(Self {
                    // SAFETY: the signatures are those of nvrtc.h, unchanged since CUDA 11.2, with the result enum
                    // taken as the C int that it is.
                    $($field: unsafe { *nvrtc.get(concat!($symbol, "\0").as_bytes())? },)*
                    _libraries: ManuallyDrop::new(libraries),
                })
            }
        }
    };
}

api! {
    version = "nvrtcVersion": fn(*mut c_int, *mut c_int) -> c_int;
    arch_count = "nvrtcGetNumSupportedArchs": fn(*mut c_int) -> c_int;
    archs = "nvrtcGetSupportedArchs": fn(*mut c_int) -> c_int;
    error_string = "nvrtcGetErrorString": fn(c_int) -> *const c_char;
    create = "nvrtcCreateProgram":
        fn(*mut RawProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
    compile = "nvrtcCompileProgram": fn(RawProgram, c_int, *const *const c_char) -> c_int;
    destroy = "nvrtcDestroyProgram": fn(*mut RawProgram) -> c_int;
    ptx_size = "nvrtcGetPTXSize": fn(RawProgram, *mut usize) -> c_int;
    ptx = "nvrtcGetPTX": fn(RawProgram, *mut c_char) -> c_int;
    cubin_size = "nvrtcGetCUBINSize": fn(RawProgram, *mut usize) -> c_int;
    cubin = "nvrtcGetCUBIN": fn(RawProgram, *mut c_char) -> c_int;
    log_size = "nvrtcGetProgramLogSize": fn(RawProgram, *mut usize) -> c_int;
    log = "nvrtcGetProgramLog": fn(RawProgram, *mut c_char) -> c_int;
}

/// `NVRTC_ERROR_COMPILATION`: the source text is at fault, and the log says how.
const COMPILATION_FAILED: c_int = 6;

/// What one NVRTC run gave.
pub(crate) struct Output {
    /// False if the source does not compile; then only `log` is set.
    pub ok: bool,
    pub cubin: Vec<u8>,
    pub ptx: Vec<u8>,
    pub log: String,
}

impl Nvrtc {
    /// Finds and loads NVRTC (see [`crate::discover`] for the search order). A library that does not load, or cannot
    /// compile an empty kernel, is passed over.
    ///
    /// # Errors
    /// [`CudaError::NvrtcNotFound`], which lists where it looked and names `kiln setup`.
    pub fn discover(home: &Home) -> Result<Self> {
        find_nvrtc(home, |candidate| Self::load(&candidate.library, Some(candidate.found_by)))
    }

    /// Loads the NVRTC library at `path`.
    ///
    /// # Errors
    /// [`CudaError::NvrtcUnusable`] with the loader's or NVRTC's reason.
    pub fn open(path: &Path) -> Result<Self> {
        Self::load(path, None)
    }

    fn load(path: &Path, found_by: Option<FoundBy>) -> Result<Self> {
        let unusable = |reason: String| CudaError::NvrtcUnusable { path: path.to_owned(), reason };
        let path = std::path::absolute(path).map_err(|e| unusable(e.to_string()))?;
        let open = |file: &Path, scope: c_int| {
            // SAFETY: loading runs the library's initializers; a file called libnvrtc that the user installed or
            // pointed at is trusted to be NVIDIA's.
            unsafe { Library::open(Some(file), RTLD_NOW | scope) }
                .map_err(|e| CudaError::NvrtcUnusable { path: file.to_owned(), reason: e.to_string() })
        };
        // NVRTC opens its builtins by bare name at its first use, which finds them only on the loader's path, unless a
        // library of that name is loaded already. So they are loaded first, by absolute path.
        let builtins = builtins_beside(&path).iter().map(|file| open(file, RTLD_GLOBAL)).collect::<Result<Vec<_>>>()?;
        let mut libraries = vec![open(&path, RTLD_LOCAL)?];
        libraries.extend(builtins);
        let api = Api::resolve(libraries).map_err(|e| unusable(e.to_string()))?;
        let architectures = api.architectures().map_err(unusable)?;
        let mut loaded = Loaded { api, path: path.clone(), found_by, release: String::new(), architectures };
        loaded.release = loaded.probe_release().map_err(unusable)?;
        Ok(Self(Arc::new(loaded)))
    }

    /// Absolute path of the library.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The rule that found it; `None` if it was opened by path.
    pub fn found_by(&self) -> Option<FoundBy> {
        self.0.found_by
    }

    /// The exact release, as in `13.0.88`. Two builds of one minor version generate different code, so this, not
    /// `13.0`, is what stamps and cache keys hold.
    pub fn release(&self) -> &str {
        &self.0.release
    }

    /// The architectures it compiles for (90 for sm_90 and sm_90a), ascending.
    pub fn architectures(&self) -> &[u32] {
        &self.0.architectures
    }

    /// Compiles the `source` of `kernel` to cubin and PTX; messages call its text `file`.
    pub(crate) fn run(&self, kernel: &str, source: &str, file: &str, options: &[String]) -> Result<Output> {
        self.0.run(kernel, source, file, options, true)
    }

    /// The same for options that name a virtual architecture, which gives PTX only.
    pub(crate) fn run_to_ptx(&self, kernel: &str, source: &str, file: &str, options: &[String]) -> Result<Output> {
        self.0.run(kernel, source, file, options, false)
    }
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvrtc").field("path", &self.0.path).field("release", &self.0.release).finish_non_exhaustive()
    }
}

impl Api {
    fn message(&self, code: c_int) -> String {
        // SAFETY: the function takes any code, and returns a static string.
        let text = unsafe { (self.error_string)(code) };
        if text.is_null() {
            return "unknown error".to_owned();
        }
        // SAFETY: not null, and NUL-terminated by contract.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    fn architectures(&self) -> Result<Vec<u32>, String> {
        let mut count: c_int = 0;
        // SAFETY: `count` is valid for the write.
        let code = unsafe { (self.arch_count)(&mut count) };
        let count = match usize::try_from(count) {
            Ok(count) if code == 0 && count <= 1024 => count,
            _ => return Err(format!("nvrtcGetNumSupportedArchs: {}, count {count}", self.message(code))),
        };
        let mut archs = vec![0 as c_int; count];
        // SAFETY: `archs` has room for the count that NVRTC gave.
        match unsafe { (self.archs)(archs.as_mut_ptr()) } {
            0 => {}
            code => return Err(format!("nvrtcGetSupportedArchs: {}", self.message(code))),
        }
        let mut archs: Vec<u32> = archs.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect();
        archs.sort_unstable();
        Ok(archs)
    }
}

impl Loaded {
    /// Compiles an empty kernel, which shows that the builtins are found, and reads the release from the PTX header: the
    /// API itself gives only `major.minor`.
    fn probe_release(&self) -> Result<String, String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both are valid for the write.
        let code = unsafe { (self.api.version)(&mut major, &mut minor) };
        if code != 0 {
            return Err(format!("nvrtcVersion: {}", self.api.message(code)));
        }
        let lowest = self.architectures.first().ok_or("it supports no architecture")?;
        let options = [format!("--gpu-architecture=compute_{lowest}")];
        let output = self
            .run("probe", "extern \"C\" __global__ void probe() {}", "probe.cu", &options, false)
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

    fn run(&self, kernel: &str, source: &str, name: &str, options: &[String], cubin: bool) -> Result<Output> {
        let text = |what: &str, value: &str| {
            CString::new(value).map_err(|_| CudaError::BadRequest {
                kernel: kernel.to_owned(),
                reason: format!("its {what} holds a NUL byte"),
            })
        };
        let (source, name) = (text("source", source)?, text("name", name)?);
        let options = options.iter().map(|option| text("options", option)).collect::<Result<Vec<_>>>()?;
        let option_pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let check = |function: &'static str, code: c_int| match code {
            0 => Ok(()),
            code => {
                Err(CudaError::NvrtcCall { function, kernel: kernel.to_owned(), code, message: self.api.message(code) })
            }
        };

        let mut program = Program { api: &self.api, raw: ptr::null_mut() };
        // SAFETY: `source` and `name` are NUL-terminated and outlive the program; there are no headers.
        let code =
            unsafe { (self.api.create)(&mut program.raw, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null()) };
        check("nvrtcCreateProgram", code)?;
        let count = c_int::try_from(option_pointers.len()).map_err(|_| CudaError::BadRequest {
            kernel: kernel.to_owned(),
            reason: "it has too many options".to_owned(),
        })?;
        // SAFETY: a program just created, and `count` valid strings.
        let code = unsafe { (self.api.compile)(program.raw, count, option_pointers.as_ptr()) };
        let log = program.text(self.api.log_size, self.api.log).unwrap_or_default();
        let log = String::from_utf8_lossy(log.strip_suffix(&[0]).unwrap_or(&log)).into_owned();
        if code == COMPILATION_FAILED {
            return Ok(Output { ok: false, cubin: Vec::new(), ptx: Vec::new(), log });
        }
        check("nvrtcCompileProgram", code).map_err(|error| match error {
            CudaError::NvrtcCall { function, kernel, code, message } if !log.trim().is_empty() => {
                CudaError::NvrtcCall { function, kernel, code, message: format!("{message}: {}", log.trim()) }
            }
            error => error,
        })?;
        let mut ptx = program
            .text(self.api.ptx_size, self.api.ptx)
            .or_else(|code| check("nvrtcGetPTX", code).map(|()| Vec::new()))?;
        if ptx.last() == Some(&0) {
            ptx.pop();
        }
        let cubin = if cubin {
            program
                .text(self.api.cubin_size, self.api.cubin)
                .or_else(|code| check("nvrtcGetCUBIN", code).map(|()| Vec::new()))?
        } else {
            Vec::new()
        };
        Ok(Output { ok: true, cubin, ptx, log })
    }
}

struct Program<'a> {
    api: &'a Api,
    raw: RawProgram,
}

impl Program<'_> {
    /// Fetches one of the program's outputs by its size and content functions; the error is NVRTC's code.
    fn text(
        &self,
        size: unsafe extern "C" fn(RawProgram, *mut usize) -> c_int,
        content: unsafe extern "C" fn(RawProgram, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, c_int> {
        let mut bytes = 0usize;
        // SAFETY: a live program, and a valid place for the size.
        match unsafe { size(self.raw, &mut bytes) } {
            0 => {}
            code => return Err(code),
        }
        let mut buffer = vec![0u8; bytes];
        // SAFETY: the buffer has the size that NVRTC gave for this very output.
        match unsafe { content(self.raw, buffer.as_mut_ptr().cast()) } {
            0 => Ok(buffer),
            code => Err(code),
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: created by this API and destroyed once.
            unsafe { (self.api.destroy)(&mut self.raw) };
        }
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

// `Api` holds function pointers and library handles only, and NVRTC is documented to be thread-safe for distinct programs.
const _: fn() = || {
    fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Nvrtc>();
};
