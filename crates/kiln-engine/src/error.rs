//! What can go wrong when an engine is built, read or run.

use std::path::PathBuf;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of building, reading or running an engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A graph problem.
    #[error(transparent)]
    Graph(#[from] kiln_graph::Error),
    /// A fusion problem.
    #[error(transparent)]
    Fuse(#[from] kiln_fuse::Error),
    /// A region has no kernel for the target.
    #[error(transparent)]
    Kernels(#[from] kiln_kernels::Error),
    /// A device for which nothing can be built.
    #[error(transparent)]
    Target(#[from] kiln_target::UnknownTarget),
    /// NVRTC or the CUDA driver.
    #[error(transparent)]
    Cuda(#[from] kiln_cuda::CudaError),
    /// The CPU device.
    #[error(transparent)]
    Cpu(#[from] kiln_cpu::Error),
    /// The simulator.
    #[error(transparent)]
    Sim(#[from] kiln_sim::Error),
    /// A file cannot be read or written.
    #[error("{action} {path}: {source}{}", disk_hint(source))]
    Io {
        /// `read`, `write`, `map`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The bytes are not an engine, or a damaged one.
    #[error("{path}: not a usable Kiln engine: {message}; build it again with `kiln build`")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Field, expected, found.
        message: String,
    },
    /// The engine was made by or for something else.
    #[error("{path}: {field} does not match: expected {expected}, found {found}; {fix}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The field of the stamp.
        field: &'static str,
        /// What this program or device needs.
        expected: String,
        /// What the file says.
        found: String,
        /// The command that helps.
        fix: String,
    },
    /// An engine is not signed by whom it is to be.
    #[error("{path}: its signature: {message}")]
    Signature {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// A file is no key.
    #[error("{path}: {message}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What was expected.
        message: String,
    },
    /// Weights that an engine does not take.
    #[error("weight `{name}`: expected {expected}, found {found}")]
    Weight {
        /// The weight.
        name: String,
        /// What the engine takes.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// A run was given the wrong input.
    #[error("input `{name}`: {message}")]
    Input {
        /// The input.
        name: String,
        /// Expected and found.
        message: String,
    },
    /// What a run gave was asked for in a wrong way.
    #[error("output `{name}`: {message}")]
    Output {
        /// The output.
        name: String,
        /// Expected and found.
        message: String,
    },
    /// A run that was queued failed. A call that waited for it says so, once.
    #[error("{}: {source}", runs(*first, *last))]
    Run {
        /// The first run that it may be: [`Session::runs`](crate::Session::runs) counts them, from 1.
        first: u64,
        /// The last one.
        last: u64,
        /// What went wrong.
        source: Box<Error>,
    },
    /// Weights do not fit the memory that they may take.
    #[error("weights: a budget of {budget} bytes is too small: at least {least} are needed")]
    WeightBudget {
        /// What they may take.
        budget: usize,
        /// What would do.
        least: usize,
    },
    /// Memory of the user's that activations cannot lie in.
    #[error("the arena of activations: {message}")]
    Arena {
        /// Expected and found.
        message: String,
    },
    /// No device is called that.
    #[error("`{name}` is not a device; use `cpu`, `cpu:THREADS`, `cuda:N` or `sim:sm_XX`")]
    UnknownDevice {
        /// What was given.
        name: String,
    },
    /// The simulator's checks found fault with a kernel.
    #[error("{device}: kernel `{kernel}`:\n  {findings}")]
    Findings {
        /// The device.
        device: String,
        /// The kernel.
        kernel: String,
        /// One a line.
        findings: String,
    },
    /// Data addressed something that does not exist.
    #[error("{device}: kernel `{kernel}`: {what}; check the indices that the model is given")]
    OutOfRange {
        /// The device.
        device: String,
        /// The kernel.
        kernel: String,
        /// The node, and which of its axes.
        what: String,
    },
    /// The shapes of a run ask of a kernel what no GPU can do.
    #[error("kernel `{kernel}` cannot be launched: {message}; use smaller shapes, or `--device cpu`")]
    Launch {
        /// The kernel.
        kernel: String,
        /// The limit, and what was asked.
        message: String,
    },
    /// The device cannot do this.
    #[error("{device}: {what} is not supported")]
    Unsupported {
        /// The device.
        device: String,
        /// What was asked.
        what: String,
    },
    /// Memory ran out.
    #[error("{device}: cannot allocate {bytes} bytes; use smaller shapes or a device with more memory")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A promise between engine and device was broken: a bug in Kiln.
    #[error("internal error in {place}: {message}; please report it")]
    Internal {
        /// Where.
        place: String,
        /// What.
        message: String,
    },
}

fn runs(first: u64, last: u64) -> String {
    match first == last {
        true => format!("run {first} of the session"),
        false => format!("one of the runs {first} to {last} of the session"),
    }
}

fn disk_hint(e: &std::io::Error) -> &'static str {
    match e.kind() {
        std::io::ErrorKind::StorageFull => "; free some disk space and try again (nothing was lost)",
        std::io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}
