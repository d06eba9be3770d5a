//! What can go wrong when kernels are tuned.

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of tuning. What is wrong with one candidate is no error: see [`Measured::Invalid`](crate::Measured::Invalid).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine, or the device.
    #[error(transparent)]
    Engine(#[from] kiln_engine::Error),
    /// What a region could be made of.
    #[error(transparent)]
    Kernels(#[from] kiln_kernels::Error),
    /// NVRTC.
    #[error(transparent)]
    Cuda(#[from] kiln_cuda::CudaError),
    /// Data for a region.
    #[error(transparent)]
    Graph(#[from] kiln_graph::Error),
    /// A device whose kernels there is nothing to choose by.
    #[error("{device}: its kernels cannot be timed; tune on a GPU, `--device cuda:0`")]
    Untimed {
        /// The device.
        device: String,
    },
    /// The engine's code is another compiler's.
    #[error(
        "the code of {target} was compiled by NVRTC {expected}, found NVRTC {found}; build the model again, or `kiln setup --nvrtc {}`",
        expected.split('.').next().unwrap_or_default()
    )]
    OtherCompiler {
        /// The engine's target.
        target: String,
        /// What compiled it.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The timing cache.
    #[error("cannot {action} the timing cache {place}: {source}; `--timings` names another")]
    Timings {
        /// `read`, `write` or `open`.
        action: &'static str,
        /// Where it is.
        place: String,
        /// The system's or the store's reason.
        source: std::io::Error,
    },
    /// A place that no timing cache can be in.
    #[error(
        "`{place}` is no place for a timing cache: {message}; expected a file, a folder, `file://FOLDER`{}",
        crate::timings::CLOUDS
    )]
    Place {
        /// What was given.
        place: String,
        /// Why not.
        message: String,
    },
    /// A region that is not measured.
    #[error("its operands take {needed} bytes, and at most {allowed} may be used; raise `--max-memory`")]
    Memory {
        /// Bytes of operands and results.
        needed: usize,
        /// Bytes that may be used.
        allowed: usize,
    },
    /// No thread for the compiler.
    #[error("cannot start a thread that compiles: {0}")]
    Thread(std::io::Error),
}
