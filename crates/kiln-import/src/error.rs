//! What can go wrong when a model is imported.

use std::fmt;
use std::path::PathBuf;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of importing a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened or mapped.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not what their format promises.
    #[error("{what} is malformed: {message}; check that the file is complete and of this format")]
    Malformed {
        /// File or part of it.
        what: String,
        /// What was found.
        message: String,
    },
    /// The default operator set is one that is not implemented.
    #[error(
        "the model uses ONNX operator set {found}, which is too {}: Kiln knows {oldest} to {newest}; convert the model, for instance with \
         onnx.version_converter", if found < oldest { "old" } else { "new" }
    )]
    OperatorSet {
        /// The model's.
        found: i64,
        /// The oldest that is implemented.
        oldest: i64,
        /// The newest that is known.
        newest: i64,
    },
    /// One node contradicts the ONNX specification or itself.
    #[error("node `{node}` ({op}): {message}")]
    Node {
        /// Name of the node, or of its first output.
        node: String,
        /// Operator, with its domain if it is not the default.
        op: String,
        /// Expected and found.
        message: String,
    },
    /// Operators, or uses of them, that Kiln cannot lower: all of the model's at once.
    #[error("{0}")]
    Unsupported(UnsupportedOps),
    /// An option names what the model does not have, or gives it another type.
    #[error("import option: {0}")]
    Option(String),
    /// The lowered graph is refused.
    #[error(transparent)]
    Graph(#[from] kiln_graph::Error),
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>, message: impl fmt::Display) -> Error {
        Error::Malformed { what: what.into(), message: message.to_string() }
    }
}

/// Everything in a model that cannot be lowered, grouped by operator and reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsupportedOps {
    /// The groups, in order of first occurrence.
    pub groups: Vec<UnsupportedOp>,
}

/// Nodes of one operator that fail for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedOp {
    /// Operator, with its domain if it is not the default.
    pub op: String,
    /// Why it cannot be lowered.
    pub reason: String,
    /// How many nodes.
    pub count: usize,
    /// Names of the first few.
    pub nodes: Vec<String>,
}

/// Node names shown for one group; the count tells the rest.
const SHOWN_NODES: usize = 4;

impl UnsupportedOps {
    pub(crate) fn push(&mut self, op: &str, node: &str, reason: String) {
        match self.groups.iter_mut().find(|g| g.op == op && g.reason == reason) {
            Some(group) => {
                group.count += 1;
                if group.nodes.len() < SHOWN_NODES {
                    group.nodes.push(node.to_owned());
                }
            }
            None => {
                let op = op.to_owned();
                self.groups.push(UnsupportedOp { op, reason, count: 1, nodes: vec![node.to_owned()] });
            }
        }
    }
}

impl fmt::Display for UnsupportedOps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.groups.iter().map(|g| g.count).sum();
        write!(f, "{total} node(s) of the model cannot be imported:")?;
        for g in &self.groups {
            write!(f, "\n  {} x{}: {} (", g.op, g.count, g.reason)?;
            for (i, node) in g.nodes.iter().enumerate() {
                write!(f, "{}`{node}`", if i > 0 { ", " } else { "" })?;
            }
            f.write_str(if g.count > g.nodes.len() { ", ..)" } else { ")" })?;
        }
        Ok(())
    }
}
