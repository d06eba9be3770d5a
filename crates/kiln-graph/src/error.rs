//! What can go wrong with a graph.

use crate::DType;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of graph construction, verification, parsing or interpretation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Dtype and shape need another number of bytes than were given.
    #[error(
        "a {dtype}{shape:?} tensor takes {expected} bytes, found {found}; check the dtype and shape, or whether the data is truncated"
    )]
    DataLength {
        /// Element type.
        dtype: DType,
        /// Extents.
        shape: Vec<usize>,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Element count or byte size overflows.
    #[error("a {dtype}{shape:?} tensor has more bytes than this machine can address")]
    TooLarge {
        /// Element type.
        dtype: DType,
        /// Extents.
        shape: Vec<usize>,
    },
    /// An op's operands or attributes do not fit; the text says which, expected and found.
    #[error("{op}: {message}")]
    Infer {
        /// The op, with the node's name where known.
        op: String,
        /// What does not fit.
        message: String,
    },
    /// A dimension expression cannot be evaluated or parsed.
    #[error("dimension `{dim}`: {message}")]
    Dim {
        /// The expression.
        dim: String,
        /// Why.
        message: String,
    },
    /// The text form does not parse.
    #[error("line {line}: {message}")]
    Parse {
        /// Line, from 1.
        line: usize,
        /// What was expected and found.
        message: String,
    },
    /// A graph breaks an invariant.
    #[error("invalid graph: {0}")]
    Verify(String),
    /// Inputs do not fit the graph's signature, its symbols' ranges or its constraints.
    #[error("{what}: {message}")]
    Binding {
        /// The input, symbol or node, as text.
        what: String,
        /// Expected and found.
        message: String,
    },
    /// The reference interpreter cannot run a node.
    #[error("node {node}: {message}")]
    Interpret {
        /// Node name or id.
        node: String,
        /// Why.
        message: String,
    },
}
