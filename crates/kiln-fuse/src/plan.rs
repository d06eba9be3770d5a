//! What fusion hands on: regions, and the order in which they run over which buffers.

use kiln_graph::{Bindings, Constraint, Graph, Symbols, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Index of a buffer in its [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BufferId(pub u32);

impl BufferId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A connected subgraph of primitives that becomes one kernel.
///
/// Its graph's inputs are the region's operands in order (weights too: a region is independent of the data it runs on), its outputs the
/// results. Literals stay inside as `Const` nodes. Those of a plan are in canonical form ([`Region::canonical`]), so that steps which compute the same share one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Like an identifier: what it computes and the beginning of its identity, for instance `softmax_5f0c2a97be14`. Kernels are called so.
    pub name: String,
    /// One line that says what it computes, for people: `softmax over keys: exp(x - max) / sum`.
    pub summary: String,
    /// The iteration space that the kernel is built around.
    pub anchor: Anchor,
    /// The computation. The reference interpreter runs it.
    pub graph: Graph,
}

/// The op that decides how a region is scheduled; everything else in it is prologue or epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// Elementwise ops and views only: every result element is computed on its own.
    Map,
    /// One or more reductions over the same trailing rows (softmax, normalization, plain reductions), with elementwise ops around them.
    Reduce,
    /// One contraction.
    Contract,
    /// Two contractions with a softmax of rows between them, which one kernel streams through.
    Attention,
    /// One convolution.
    Conv,
    /// One window reduction.
    Window,
    /// One gather or scatter with data-dependent addresses.
    Index,
    /// One running reduction, or another op whose result is the region's.
    Sink,
    /// One top-k, or another op with a kernel of its own.
    Alone,
    /// Whatever a function is made of that somebody has written a kernel for: nothing else runs it in one piece. See [`crate::Pattern`].
    Kernel,
}

/// What a buffer is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferKind {
    /// Supplied by the caller under this name.
    Input(String),
    /// A weight of [`Plan::weights`].
    Weight(String),
    /// Lives between steps.
    Temp,
}

/// A region of device memory with a type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Element type and (symbolic) shape; dense row-major.
    pub ty: TensorType,
    /// Where its contents come from.
    pub kind: BufferKind,
    /// The model's name for the value, for messages and layer-by-layer comparison (may be empty).
    pub name: String,
    /// Set when this is the same memory as another buffer under another shape (a reshape that costs nothing). That one is never an
    /// alias itself, and `kind` is the same.
    pub alias_of: Option<BufferId>,
}

/// One thing to do, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Launch a region.
    Run {
        /// Index into [`Plan::regions`].
        region: usize,
        /// One buffer a region input.
        inputs: Vec<BufferId>,
        /// One buffer a region output.
        outputs: Vec<BufferId>,
        /// For each symbol of the region, the symbol of this plan that it stands for here.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        symbols: BTreeMap<String, String>,
        /// The model's nodes that this step computes, for reports.
        nodes: Vec<String>,
    },
    /// Take one of two branches by a scalar bool.
    If {
        /// The condition.
        cond: BufferId,
        /// Taken when true: inputs are `captures`.
        then_plan: Box<Plan>,
        /// Taken when false.
        else_plan: Box<Plan>,
        /// Buffers of this plan that become the branch's inputs, in order.
        captures: Vec<BufferId>,
        /// Buffers that receive the branch's outputs, in order.
        outputs: Vec<BufferId>,
    },
    /// Repeat a body. Semantics of `kiln_graph::Op::Loop`.
    Loop {
        /// Trip count (i64 scalar).
        trip: BufferId,
        /// Initial condition (bool scalar).
        cond: BufferId,
        /// The body; inputs `(i, cond, carried.., captures..)`, outputs `(cond, carried.., scans..)`.
        body: Box<Plan>,
        /// Initial carried values.
        carried: Vec<BufferId>,
        /// Invariant values.
        captures: Vec<BufferId>,
        /// Final carried values, then stacked scans.
        outputs: Vec<BufferId>,
    },
}

impl Step {
    /// Buffers that this reads.
    pub fn operands(&self) -> Vec<BufferId> {
        match self {
            Step::Run { inputs, .. } => inputs.clone(),
            Step::If { cond, captures, .. } => [&[*cond], &captures[..]].concat(),
            Step::Loop { trip, cond, carried, captures, .. } => [&[*trip, *cond], &carried[..], captures].concat(),
        }
    }

    /// Buffers that this writes.
    pub fn results(&self) -> &[BufferId] {
        let (Step::Run { outputs, .. } | Step::If { outputs, .. } | Step::Loop { outputs, .. }) = self;
        outputs
    }

    /// The values of the symbols of what this step runs, given those of its plan. What has no value yet is left out.
    pub fn bindings(&self, plan: &Bindings) -> Bindings {
        match self {
            Step::Run { symbols, .. } => {
                symbols.iter().filter_map(|(own, outer)| Some((own.clone(), *plan.get(outer)?))).collect()
            }
            Step::If { .. } | Step::Loop { .. } => plan.clone(),
        }
    }

    /// The plans inside this, with the word that introduces each.
    pub fn nested(&self) -> Vec<(&'static str, &Plan)> {
        match self {
            Step::If { then_plan, else_plan, .. } => vec![("then", then_plan), ("else", else_plan)],
            Step::Loop { body, .. } => vec![("body", body)],
            Step::Run { .. } => Vec::new(),
        }
    }
}

/// An ordered program of regions over buffers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the model.
    pub name: String,
    /// Distinct regions, by [`Region::identity`].
    pub regions: Vec<Region>,
    /// Buffers.
    pub buffers: Vec<Buffer>,
    /// Steps in order of execution.
    pub steps: Vec<Step>,
    /// Input buffers in the order of the model's signature.
    pub inputs: Vec<BufferId>,
    /// Named results in order: always [`BufferKind::Temp`] (an input or weight that is a result is copied). Two names may share a buffer.
    pub outputs: Vec<(String, BufferId)>,
    /// Weights after constant folding, by name.
    #[serde(skip)]
    pub weights: BTreeMap<String, Tensor>,
    /// How those that folding made come of the model's weights, by name: see [`crate::replay`].
    #[serde(skip)]
    pub folded: BTreeMap<String, Graph>,
    /// Symbols of the shapes, with ranges.
    pub symbols: Symbols,
    /// What binding must check of the shapes.
    pub constraints: Vec<Constraint>,
}

impl Plan {
    /// The values that steps update and nothing needs afterwards, in whose memory the results may lie: each with its result, both roots of their aliases.
    fn updates(&self) -> impl Iterator<Item = (BufferId, BufferId)> + '_ {
        let of = |(at, step): (usize, &Step)| {
            let Step::Run { region, inputs, outputs, .. } = step else { return None };
            let region = &self.regions[*region];
            let updated = region.updated()?;
            let (from, to) = (self.root(*inputs.get(updated)?), self.root(*outputs.first()?));
            // Neither the region itself nor a step from here on reads it as anything else.
            let value = region.graph.inputs[updated];
            let uses = region.graph.nodes.iter().flat_map(|node| &node.inputs).filter(|v| **v == value).count();
            let beside = inputs.iter().enumerate().any(|(i, id)| i != updated && self.root(*id) == from);
            let later = || self.steps[at + 1..].iter().flat_map(Step::operands).any(|id| self.root(id) == from);
            let kept = || self.outputs.iter().any(|(_, id)| self.root(*id) == from);
            (uses == 1 && !beside && !later() && !kept()).then_some((from, to))
        };
        self.steps.iter().enumerate().filter_map(of)
    }

    /// For each buffer the one whose place it takes: itself, or what follows from it by updates and needs memory longest. Aliases have the place of their root.
    pub fn homes(&self) -> Vec<BufferId> {
        let mut homes: Vec<BufferId> = (0..self.buffers.len() as u32).map(|i| self.root(BufferId(i))).collect();
        let updates: Vec<_> = self.updates().collect();
        // Later ones first, so that chains end up in one place.
        for (from, to) in updates.into_iter().rev() {
            if self.buffers[from.index()].kind == BufferKind::Temp {
                homes[from.index()] = homes[to.index()];
            }
        }
        (0..homes.len() as u32).map(|i| homes[self.root(BufferId(i)).index()]).collect()
    }

    /// The input, by its number, that an output is what steps have updated of, where nothing reads it as it was after the first of them: both may be one memory.
    pub fn updated_input(&self, output: BufferId) -> Option<usize> {
        let mut updates: BTreeMap<BufferId, BufferId> = self.updates().map(|(from, to)| (to, from)).collect();
        let mut at = self.root(output);
        while let Some(from) = updates.remove(&at) {
            at = from;
        }
        self.inputs.iter().position(|input| *input == at).filter(|_| at != self.root(output))
    }

    /// The buffer whose memory this one is: itself, unless it is an alias.
    pub fn root(&self, mut id: BufferId) -> BufferId {
        while let Some(earlier) = self.buffers[id.index()].alias_of {
            id = earlier;
        }
        id
    }
}
