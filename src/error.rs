//! What can go wrong between a model and its outputs.

use std::path::PathBuf;

/// An error of one of Kiln's rooms: its message says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model that is not well-formed.
    #[error(transparent)]
    Graph(#[from] kiln_graph::Error),
    /// A file that cannot be imported.
    #[error(transparent)]
    Import(#[from] kiln_import::Error),
    /// Building, saving, loading or running.
    #[error(transparent)]
    Engine(#[from] kiln_engine::Error),
    /// NVRTC, the driver, or `$KILN_HOME`.
    #[error(transparent)]
    Cuda(#[from] kiln_cuda::CudaError),
    /// A kernel of one's own that is not what it says.
    #[error(transparent)]
    Kernels(#[from] kiln_kernels::Error),
    /// A file of kernels that cannot be read or written.
    #[error("cannot {action} the kernels of {}: {source}", path.display())]
    KernelFile {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that is none of kernels.
    #[error("{}: {source}", path.display())]
    KernelText {
        /// The file.
        path: PathBuf,
        /// The line, and what was expected and found there.
        source: kiln_kernels::Error,
    },
    /// Tuning.
    #[error(transparent)]
    Tune(#[from] kiln_tune::Error),
    /// A target that does not exist.
    #[error(transparent)]
    Target(#[from] kiln_target::UnknownTarget),
    /// A path that no importer takes.
    #[error("{}: no model that can be imported; expected an ONNX file, or a folder with `config.json` and `model.safetensors`", path.display())]
    NoModel {
        /// The path.
        path: PathBuf,
    },
    /// A file that no weights are read from.
    #[error("{}: expected weights: one ONNX file, or `.safetensors` files", path.display())]
    NoWeights {
        /// The file.
        path: PathBuf,
    },
    /// Weights that do not fit the model.
    #[error("weight `{name}`: {message}")]
    Weight {
        /// The weight.
        name: String,
        /// Expected and found.
        message: String,
    },
}

/// A result of Kiln's.
pub type Result<T> = std::result::Result<T, Error>;
