//! What the caller decides about fusion.

use crate::{Kernels, Pattern};
use kiln_graph::{Bindings, Dim, Symbols};
use kiln_target::Target;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The value a symbol counts as when the caller gave none.
pub(crate) const TYPICAL: i64 = 64;

/// A typical value for each symbol of `dims`: that of `sizes`, else 64, within its range.
pub fn typical_sizes<'d>(dims: impl IntoIterator<Item = &'d Dim>, symbols: &Symbols, sizes: &Bindings) -> Bindings {
    let mut used = BTreeSet::new();
    dims.into_iter().for_each(|dim| dim.symbols(&mut used));
    let typical = |name: String| {
        let (low, high) = symbols.range(&name);
        let size = sizes.get(&name).copied().unwrap_or(TYPICAL).clamp(low, high.max(low));
        (name, size)
    };
    used.into_iter().map(typical).collect()
}

/// How far rewriting may change results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numerics {
    /// Every value stays what the graph's own arithmetic gives, op by op, each rounded to its own dtype (up to the sign of zero and NaN
    /// payloads, and the order of sums). `docs/numerics.md` says what devices promise.
    Exact,
    /// Sums and products of finite values may be grouped differently, and a product and a sum rounded together, as parallel hardware does
    /// anyway: last-bit differences.
    Reassoc,
    /// Formulas may be replaced by close ones.
    Approx,
}

impl Numerics {
    /// As `--numerics` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Exact => "exact",
            Numerics::Reassoc => "reassoc",
            Numerics::Approx => "approx",
        }
    }
}

/// How much may become one kernel: all but the first are what fusion is measured against, and where a wrong result is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// Whatever pays.
    #[default]
    Full,
    /// Elementwise ops, with views among them, as long as one follows on another; every other op is a kernel of its own. No rewriting.
    Chains,
    /// One op, with the views of what it reads. No rewriting.
    Single,
}

impl Extent {
    /// As `--fusion` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Extent::Full => "full",
            Extent::Chains => "chains",
            Extent::Single => "single",
        }
    }

    /// Whether it is the default.
    pub fn is_full(&self) -> bool {
        *self == Extent::Full
    }
}

/// Settings of [`crate::fuse`].
#[derive(Clone, Debug)]
pub struct Options {
    /// What the plan is for: ranks candidate kernels.
    pub target: Target,
    /// Which rules may fire.
    pub numerics: Numerics,
    /// Whether GPUs may round the operands of products of f32 matrices to TF32: what those cost then.
    pub tf32: bool,
    /// Typical values of shape symbols for the cost model. A symbol without one counts as 64, clamped to its range.
    pub sizes: Bindings,
    /// Largest value that folding a weight-only term may make, in bytes.
    pub fold_bytes: usize,
    /// E-nodes at which saturation stops, if it does not stop earlier for having outgrown the model.
    pub node_limit: usize,
    /// Rounds of rewriting after which saturation stops.
    pub iter_limit: usize,
    /// Functions that there are kernels for on this target, beside those that kernel families make: where the model contains one, it may become a region.
    pub patterns: Vec<Arc<Pattern>>,
    /// How much is fused.
    pub extent: Extent,
    /// Costs are multiplied by factors between a quarter and four, drawn from this seed: plans that no model of time would choose, and that must be as right as the best.
    pub perturb: Option<u64>,
    /// Who makes the kernels of a GPU, and says what they cost. Without it, fusion's own roofline counts.
    pub kernels: Option<Arc<dyn Kernels>>,
}

impl Options {
    /// Defaults for a target: reassociation allowed, folding up to 1 GiB.
    pub fn new(target: Target) -> Options {
        Options {
            target,
            numerics: Numerics::Reassoc,
            tf32: false,
            sizes: Bindings::new(),
            fold_bytes: 1 << 30,
            node_limit: 60_000,
            iter_limit: 12,
            patterns: Vec::new(),
            extent: Extent::Full,
            perturb: None,
            kernels: None,
        }
    }
}
