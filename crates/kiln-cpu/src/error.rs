//! Errors of the CPU device.

use kiln_graph::DType;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a region and its results.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape or dimension error from the graph.
    #[error("region `{region}`: {source}")]
    Graph {
        /// The region.
        region: String,
        /// The cause.
        #[source]
        source: kiln_graph::Error,
    },
    /// The region holds something this device cannot run.
    #[error("region `{region}`, node `{node}`: {message}")]
    Unsupported {
        /// The region.
        region: String,
        /// Mnemonic or name of the node.
        node: String,
        /// Why, and what to do.
        message: String,
    },
    /// Wrong number of operands.
    #[error("region `{region}` takes {expected} {what}, found {found}")]
    Arity {
        /// The region.
        region: String,
        /// `inputs` or `outputs`.
        what: &'static str,
        /// How many it has.
        expected: usize,
        /// How many were given.
        found: usize,
    },
    /// A buffer of the wrong size.
    #[error("region `{region}`: {what} {index} of type {dtype}{shape:?} takes {expected} bytes, found {found}")]
    Size {
        /// The region.
        region: String,
        /// `input` or `output`.
        what: &'static str,
        /// Which.
        index: usize,
        /// Its dtype.
        dtype: DType,
        /// Its extents.
        shape: Vec<usize>,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Too little scratch memory.
    #[error("region `{region}` needs {expected} bytes of scratch, found {found}")]
    Scratch {
        /// The region.
        region: String,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A shape whose size in bytes overflows.
    #[error("region `{region}`: a value of type {dtype}{shape:?} is too large")]
    TooLarge {
        /// The region.
        region: String,
        /// Its dtype.
        dtype: DType,
        /// Its extents.
        shape: Vec<usize>,
    },
    /// A loop that does not fill the results it stacks.
    #[error("a loop stacks the results of {expected} iterations, and stops after {found}; stack as many as run")]
    Loop {
        /// Iterations that the stacked results have room for.
        expected: i64,
        /// Iterations that ran or were asked for.
        found: i64,
    },
    /// A recording whose places do not suit its kernels.
    #[error("a recording of kernel launches is invalid: {message}")]
    Tape {
        /// What is wrong.
        message: String,
    },
    /// The machine has no memory for what a recording keeps.
    #[error("out of memory: a recording needs {bytes} bytes")]
    Memory {
        /// How much.
        bytes: usize,
    },
    /// A group of rows that ends before it begins, or past the last row.
    #[error("region `{region}`: group {group} ends at {end}, expected {start}..={rows}")]
    Group {
        /// The region.
        region: String,
        /// Which group.
        group: usize,
        /// Where it is said to end.
        end: i64,
        /// Where it begins.
        start: usize,
        /// Rows in all.
        rows: usize,
    },
    /// A gather or scatter address outside its axis.
    #[error("region `{region}`: index {index} is outside axis {axis} of extent {extent}")]
    Index {
        /// The region.
        region: String,
        /// The offending index.
        index: i64,
        /// The axis of the addressed operand.
        axis: usize,
        /// Its extent.
        extent: usize,
    },
}
