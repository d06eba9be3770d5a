//! What can be wrong with a region on its way to kernels.

use kiln_tile::TileError;

/// Why a region has no kernel.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// No family can express the region.
    #[error("region `{region}` ({summary}): {what}; {help}")]
    Unsupported {
        /// The region's name.
        region: String,
        /// The region's summary.
        summary: String,
        /// What is missing, with the op and types at fault.
        what: String,
        /// What to do about it.
        help: String,
    },
    /// The region breaks a rule that fusion promises.
    #[error("region `{region}` is malformed: {what}; this is a defect of the plan, check it with `Region::verify`")]
    Malformed {
        /// The region's name.
        region: String,
        /// The rule that is broken.
        what: String,
    },
    /// A family made a tile program that the tile compiler refused.
    #[error("region `{region}`: {source}")]
    Tile {
        /// The region's name.
        region: String,
        /// What the compiler said.
        source: Box<TileError>,
    },
    /// A kernel of one's own that is not what it says.
    #[error("kernel `{kernel}`: {what}; {help}")]
    Own {
        /// The kernel's name.
        kernel: String,
        /// What was expected and found.
        what: String,
        /// What to do about it.
        help: String,
    },
    /// A file of kernels that cannot be read.
    #[error("line {line}: {what}; export the kernels again")]
    Text {
        /// From 1.
        line: usize,
        /// What was expected and found.
        what: String,
    },
}

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
