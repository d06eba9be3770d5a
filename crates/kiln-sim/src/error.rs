//! The crate's error type.

/// Why a module could not be parsed, decoded or launched.
///
/// What a *running* kernel does wrong is a [`Finding`](crate::Finding) of the report, not an error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The text is not well-formed PTX.
    #[error("PTX line {line}: {message}")]
    Syntax {
        /// Line of the PTX text, from 1.
        line: u32,
        /// What was expected and what was found.
        message: String,
    },
    /// The text is well formed but asks for something the simulator does not execute.
    #[error("PTX line {line}: `{instruction}`: {message}")]
    Unsupported {
        /// Line of the PTX text, from 1.
        line: u32,
        /// The instruction as written.
        instruction: String,
        /// Which part is unsupported.
        message: String,
    },
    /// No kernel of this name.
    #[error("no entry `{name}` in the module; it has: {known}")]
    NoEntry {
        /// The name asked for.
        name: String,
        /// The entries that exist.
        known: String,
    },
    /// The launch configuration does not fit the kernel or the target.
    #[error("launch of `{kernel}`: {message}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// What does not fit, with expected and found values.
        message: String,
    },
    /// A host-side memory call names memory that is not allocated.
    #[error("{call} of {bytes} bytes at {address:#x}: not inside one allocation")]
    Memory {
        /// The call: upload, download, free or fill.
        call: &'static str,
        /// Device address.
        address: u64,
        /// Length of the access.
        bytes: u64,
    },
    /// An allocation is larger than the simulated device memory.
    #[error("allocation of {bytes} bytes exceeds what is left of the simulated device memory ({left} bytes)")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes left.
        left: u64,
    },
    /// This machine has no room for an allocation.
    #[error("allocation of {bytes} bytes: {why}; use smaller arrays, or a machine with more memory")]
    HostMemory {
        /// Bytes asked for.
        bytes: u64,
        /// What is free.
        why: String,
    },
    /// A tensor map was described with values that the hardware rejects.
    #[error("tensor map: {0}")]
    TensorMap(String),
}

/// The crate's result type.
pub type Result<T> = std::result::Result<T, Error>;
