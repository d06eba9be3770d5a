//! What can go wrong while fusing.

/// An error of fusion.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The graph itself, or a piece of it, is invalid or cannot be evaluated.
    #[error(transparent)]
    Graph(#[from] kiln_graph::Error),
    /// A rewrite rule stated an equality between values of different types.
    #[error("rule soundness: {0}; this is a bug in a rewrite rule, please report it")]
    Unsound(String),
    /// A value cannot be computed by any legal region.
    #[error("no kernel can compute {value}: {why}")]
    NoCover {
        /// The value, by name or op.
        value: String,
        /// Why.
        why: String,
    },
    /// A function cannot be looked for in models.
    #[error("`{function}` cannot be a kernel's function: {message}")]
    Pattern {
        /// The function.
        function: String,
        /// Why, and what to do.
        message: String,
    },
    /// A plan breaks an invariant, or its inputs do not fit.
    #[error("plan `{plan}`: {message}")]
    Plan {
        /// Its name.
        plan: String,
        /// Expected and found.
        message: String,
    },
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
