//! Which subgraphs may be one region. Kernel generators and devices may rely on every rule here; [`Region::verify`] checks them.
//!
//! Notation: *leaf* is an operand of the region, *anchor* the op that its [`Anchor`] names. The *prologue* feeds the anchor, the
//! *epilogue* depends on it; nodes that do neither (the bias that an epilogue adds) are *side* nodes.
//!
//! * **Any region** but a Kernel has at most [`MAX_NODES`] nodes and [`MAX_OPERANDS`] operands. `Const` nodes hold one element and count as
//!   leaves, but never feed a contraction, convolution, window or scatter directly; larger constants are weights. Control flow and weights never stand inside.
//! * **Map**: elementwise ops, views and `Iota` / `DimValue` / `Const` in any combination: every result element is a function of its
//!   index. All results have one shape.
//! * **Index**: as Map, with one or more gathers among the views; or one scatter, which is the result, with a Map without gather, pad and concat that makes its indices. What is scattered into
//!   and the updates are leaves, and the first is read nowhere else. The result may lie in the place of what is scattered into: kernels find that where the result is to be, and write
//!   the updates alone ([`Region::updated`]).
//! * **Reduce**: all reductions (also arg-reductions) have the same input shape `S` and the same axes `R`. What depends on a reduction
//!   is elementwise on the full shape `S`, on the reduced shape (`S` without `R`), or on the kept shape (`S` with `R` set to 1); a
//!   reshape between reduced and kept; a broadcast from kept (or, when `R` is the leading axes, from reduced) to `S`. What does not
//!   depend on one is a Map without gathers. Results have one of the three shapes.
//! * **Contract**: prologue only casts, dequantizations, whose scales are leaves, and of what is multiplied *views in place*: permutes, reshapes,
//!   broadcasts and slices of step 1. One value that a contraction (all of them, if there are several) multiplies may be *made* instead: by elementwise ops of its shape, of one leaf or
//!   views in place of one, and of leaves, or views in place of such, each broadcast along an axis that the result keeps. Epilogue elementwise, plus permutes and reshapes;
//!   every value of the epilogue sees the anchor's result under one and the same chain of views. Side nodes are a Map without gather, pad
//!   and concat. All results lie behind the same chain of views. It may have several contractions, up to [`MAX_TWINS`], if they are *twins*: of one
//!   einsum, accumulator (f32 or i32) and result type, with one operand in common, the same value, and the others of one type behind prologues
//!   that are alike. The epilogue sees all of them as it sees one. Of twins it may end in a concat of up to [`MAX_TWINS`] of its values, behind which are
//!   permutes and reshapes only; and results may be slices of step 1 of what lies behind the same chain of views.
//! * **Conv**: as Contract, with a prologue of views in place alone.
//! * **Window**: as Contract with no prologue.
//! * **Attention**: two contractions that accumulate in f32. The first takes two leaves of f16, bf16 or f32, or views in place of such: *queries*, and
//!   *keys*, whose only axis of their own is the last of the result. Elementwise ops of the result's shape `S` lead from it to `x`, in f32; what they take
//!   beside it are side nodes. *Weights* are exponentials of `x` less a value of its row, in f32, times and over other values of the row, then cast to the values' type.
//!   Values of a row follow by elementwise ops and reshapes from the greatest `x` along the last axis, from sums of weights along it, and from side nodes.
//!   All weights are thus `exp(x - max)` times something of their row, which one pass over the keys can sum ([`crate::Weighing`]): a softmax, one with a logit beside
//!   each row that counts and weighs nothing, one by way of the logarithm of the sum. The second contraction sums *values*, a leaf
//!   of the queries' type or a view in place of one, along the last axis of the weights
//!   and nothing else. The axes that the first sums multiply to a constant of 1 to 256, and so do those that the values alone have. At least
//!   one axis of `S` is in neither keys nor values: the rows of queries. Behind the second contraction and beside, as Contract; nothing
//!   there sees what is between the contractions, and no result but values of rows. Kernels may apply what is of the row after the second contraction, round the
//!   weights before, and leave out keys and values whose weights a mask of positions makes 0, be they infinite.
//! * **Sink**: the running reduction (or another op of its kind) is the result; prologue elementwise with broadcasts of leaves and literals.
//! * **Alone**: one top-k (or another op of its kind) alone.
//! * **Kernel**: whatever is none of these, at most [`MAX_KERNEL_NODES`] nodes, each with one result. Only the kernel of a function that the region is an instance of
//!   ([`crate::Pattern::bind`]) takes it, and the CPU, which runs any region op by op.

use crate::attention;
use crate::plan::{Anchor, Region};
use kiln_graph::{DType, Dim, Graph, NodeId, Op, OpKind, TensorType, ValueId};

/// Most nodes of a region.
pub const MAX_NODES: usize = 64;
/// Most nodes of a Kernel region.
pub const MAX_KERNEL_NODES: usize = 512;
/// Most operands of a region: they are kernel parameters.
pub const MAX_OPERANDS: usize = 24;
/// Most contractions of a Contract region: kernels keep a tile of sums of each in registers.
pub const MAX_TWINS: usize = 2;

impl Anchor {
    /// The anchor that an op of a kind makes of its region; `None` for what is prologue, epilogue or outside.
    pub fn of(kind: OpKind) -> Option<Anchor> {
        Some(match kind {
            OpKind::Gather | OpKind::Scatter => Anchor::Index,
            OpKind::Reduce => Anchor::Reduce,
            OpKind::Contract => Anchor::Contract,
            OpKind::Conv => Anchor::Conv,
            OpKind::Window => Anchor::Window,
            OpKind::Sink => Anchor::Sink,
            OpKind::Alone => Anchor::Alone,
            OpKind::Source | OpKind::Nullary | OpKind::Elementwise | OpKind::View | OpKind::Opaque => return None,
        })
    }
}

/// Where a node of a region stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A region operand.
    Operand,
    /// Feeds an anchor. In a Map, everything; in an Attention, also what lies between the contractions.
    Prologue,
    /// An anchor.
    Anchor,
    /// Depends on an anchor; in an Attention, on the second.
    Epilogue,
    /// Feeds the epilogue, but neither feeds an anchor nor depends on one.
    Side,
}

/// The iteration space of a Reduce region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Shape over which all reductions run.
    pub shape: Vec<Dim>,
    /// Axes of it that they remove.
    pub axes: Vec<usize>,
}

impl Rows {
    /// The shape without the axes.
    pub fn reduced(&self) -> Vec<Dim> {
        let kept = |(i, d): (usize, &Dim)| (!self.axes.contains(&i)).then(|| d.clone());
        self.shape.iter().enumerate().filter_map(kept).collect()
    }

    /// The shape with the axes set to 1.
    pub fn kept(&self) -> Vec<Dim> {
        let one = |(i, d): (usize, &Dim)| if self.axes.contains(&i) { Dim::from(1) } else { d.clone() };
        self.shape.iter().enumerate().map(one).collect()
    }

    fn of(op: &Op, input: &TensorType) -> Option<Rows> {
        let axes = match op {
            Op::Reduce { axes, .. } => axes.clone(),
            Op::ArgReduce { axis, .. } => vec![*axis],
            _ => return None,
        };
        Some(Rows { shape: input.shape.clone(), axes })
    }
}

impl Region {
    /// The anchors: the reductions of a Reduce region, the gathers of an Index region, the contractions of an Attention or Contract region, all ops of a
    /// Kernel that can be one, else the one op that the anchor names. None for a Map.
    pub fn anchors(&self) -> Vec<NodeId> {
        let wanted = |op: &Op| match self.anchor {
            Anchor::Kernel => Anchor::of(op.kind()).is_some(),
            Anchor::Attention => op.kind() == OpKind::Contract,
            named => Anchor::of(op.kind()) == Some(named),
        };
        (0..self.graph.nodes.len()).filter(|&i| wanted(&self.graph.nodes[i].op)).map(|i| NodeId(i as u32)).collect()
    }

    /// The stage of each node.
    pub fn roles(&self) -> Vec<Role> {
        let g = &self.graph;
        let anchors = self.anchors();
        let mut roles: Vec<Role> = vec![Role::Side; g.nodes.len()];
        let mut feeds = vec![false; g.nodes.len()];
        for i in (0..g.nodes.len()).rev() {
            if feeds[i] || anchors.contains(&NodeId(i as u32)) || anchors.is_empty() {
                for v in &g.nodes[i].inputs {
                    feeds[g.value(*v).node.index()] = true;
                }
            }
        }
        for (i, node) in g.nodes.iter().enumerate() {
            let below = |s: Role| node.inputs.iter().any(|v| roles[g.value(*v).node.index()] == s);
            let between = self.anchor == Anchor::Attention && feeds[i];
            roles[i] = if matches!(node.op, Op::Input { .. }) {
                Role::Operand
            } else if anchors.contains(&NodeId(i as u32)) {
                Role::Anchor
            } else if !between && (below(Role::Anchor) || below(Role::Epilogue)) {
                Role::Epilogue
            } else if feeds[i] || anchors.is_empty() {
                Role::Prologue
            } else {
                Role::Side
            };
        }
        roles
    }

    /// Of a scatter, the input that its result begins as: devices have it in the result's place before they run the region, by a copy unless both are one place.
    pub fn updated(&self) -> Option<usize> {
        let scatter = self.graph.nodes.iter().find(|n| n.op.kind() == OpKind::Scatter)?;
        let of = self.graph.inputs.iter().position(|v| Some(v) == scatter.inputs.first());
        // Elements that share a byte are never written one by one.
        of.filter(|i| self.anchor == Anchor::Index && self.graph.ty(self.graph.inputs[*i]).dtype.bits() >= 8)
    }

    /// Of an operand of a contraction that elementwise ops make: what they make it of, a leaf or views in place of one.
    pub fn made_of(&self, operand: ValueId) -> Option<ValueId> {
        let sub = Subgraph::of_graph(&self.graph).ok()?;
        let found = sub.nodes.iter().flat_map(|node| &node.operands).find(|o| o.value == operand.index())?;
        let plain = plain(&sub, *found, before_contraction);
        made(&sub, *found, |_| true).filter(|_| !plain).map(|of| ValueId(of as u32))
    }

    /// The iteration space of a Reduce region.
    pub fn rows(&self) -> Option<Rows> {
        let node = self.graph.nodes.iter().find(|n| n.op.kind() == OpKind::Reduce)?;
        Rows::of(&node.op, self.graph.ty(*node.inputs.first()?))
    }

    /// Checks that the graph is legal as one region (see the module) and that the anchor is what it names.
    pub fn verify(&self) -> Result<(), String> {
        let sub = Subgraph::of_graph(&self.graph)?;
        match legal(&sub).or_else(|why| if self.anchor == Anchor::Kernel { kernel(&sub) } else { Err(why) }) {
            Ok(anchor) if anchor == self.anchor => Ok(()),
            Ok(anchor) => Err(format!("region `{}` says {:?} but is {anchor:?}", self.name, self.anchor)),
            Err(why) => Err(format!("region `{}`: {why}", self.name)),
        }
    }
}

/// An operand of a node in a [`Subgraph`].
#[derive(Clone, Copy)]
pub(crate) struct SubgraphOperand<'a> {
    pub ty: &'a TensorType,
    /// The inner node that computes it; a leaf otherwise.
    pub inner: Option<usize>,
    /// What it is called outside: the same value has the same number.
    pub value: usize,
}

/// A node of a [`Subgraph`].
pub(crate) struct SubgraphNode<'a> {
    pub op: &'a Op,
    pub operands: Vec<SubgraphOperand<'a>>,
    /// Type of its (first) result.
    pub ty: &'a TensorType,
}

/// A subgraph whose legality is asked: inner nodes in topological order.
pub(crate) struct Subgraph<'a> {
    pub nodes: Vec<SubgraphNode<'a>>,
    /// Inner nodes whose values are results.
    pub outputs: Vec<usize>,
    pub operands: usize,
}

impl<'a> Subgraph<'a> {
    pub fn of_graph(graph: &'a Graph) -> Result<Subgraph<'a>, String> {
        let mut place = vec![None; graph.nodes.len()];
        let mut nodes = Vec::new();
        for i in computed(graph) {
            let node = &graph.nodes[i];
            place[i] = Some(nodes.len());
            let operands = node.inputs.iter();
            let operands = operands
                .map(|v| SubgraphOperand {
                    ty: graph.ty(*v),
                    inner: place[graph.value(*v).node.index()],
                    value: v.index(),
                })
                .collect();
            let ty = graph.ty(*node.outputs.first().ok_or("a node without results")?);
            nodes.push(SubgraphNode { op: &node.op, operands, ty });
        }
        // A result that is an operand is a copy: it has no inner node.
        let mut outputs: Vec<usize> =
            graph.outputs.iter().filter_map(|(_, v)| place[graph.value(*v).node.index()]).collect();
        outputs.dedup();
        Ok(Subgraph { nodes, outputs, operands: graph.inputs.len() })
    }
}

/// The nodes of a graph that are inner nodes of its [`Subgraph`], in order: all but operands and literals, which are leaves too.
pub(crate) fn computed(graph: &Graph) -> impl Iterator<Item = usize> {
    let leaf = |op: &Op| matches!(op, Op::Input { .. }) || matches!(op, Op::Const { value } if value.len() == 1);
    graph.nodes.iter().enumerate().filter(move |(_, node)| !leaf(&node.op)).map(|(i, _)| i)
}

/// The anchor of a subgraph if it may be one region, else why not.
pub(crate) fn legal(sub: &Subgraph) -> Result<Anchor, &'static str> {
    if sub.nodes.len() > MAX_NODES {
        return Err("too many nodes");
    }
    if sub.operands > MAX_OPERANDS {
        return Err("too many operands");
    }
    let mut heavy = Vec::new();
    let (mut reduces, mut gathers) = (false, false);
    for (i, node) in sub.nodes.iter().enumerate() {
        match node.op.kind() {
            OpKind::Source | OpKind::Opaque => return Err("control flow and weights stand outside"),
            OpKind::Nullary => {
                if matches!(node.op, Op::Const { value } if value.len() != 1) {
                    return Err("a constant of several elements is a weight");
                }
            }
            OpKind::Elementwise | OpKind::View => {}
            OpKind::Gather => gathers = true,
            OpKind::Reduce => reduces = true,
            kind => heavy.push((i, kind)),
        }
    }
    let places: Vec<usize> = heavy.iter().map(|(i, _)| *i).collect();
    let products = heavy.iter().all(|(_, kind)| *kind == OpKind::Contract);
    match places[..] {
        // One behind the other, not side by side.
        [first, second] if products && after(sub, &[first])[second] => {
            return attention::parts(sub).map(|_| Anchor::Attention);
        }
        [_, _, ..] if !products || places.len() > MAX_TWINS => return Err("two anchors"),
        _ => {}
    }
    if usize::from(!heavy.is_empty()) + usize::from(reduces) + usize::from(gathers) > 1 {
        return Err("anchors of two kinds");
    }
    match heavy.first().copied() {
        Some((_, OpKind::Contract)) => anchored(sub, &places).map(|()| Anchor::Contract),
        Some((_, OpKind::Conv)) => anchored(sub, &places).map(|()| Anchor::Conv),
        Some((_, OpKind::Window)) => anchored(sub, &places).map(|()| Anchor::Window),
        Some((i, OpKind::Sink)) => sink(sub, i).map(|()| Anchor::Sink),
        Some((i, OpKind::Scatter)) => scatter(sub, i).map(|()| Anchor::Index),
        Some((_, kind)) => match (sub.nodes.len(), Anchor::of(kind)) {
            (1, Some(anchor)) => Ok(anchor),
            _ => Err("top-k stands alone"),
        },
        None if reduces => rows(sub).map(|()| Anchor::Reduce),
        None => {
            let shape = |i: usize| &sub.nodes[i].ty.shape;
            if sub.outputs.windows(2).any(|w| shape(w[0]) != shape(w[1])) {
                return Err("results of a map differ in shape");
            }
            Ok(if gathers { Anchor::Index } else { Anchor::Map })
        }
    }
}

/// The anchor of a subgraph that a kernel of a function runs, if it may be a region at all.
pub(crate) fn served(sub: &Subgraph) -> Result<Anchor, &'static str> {
    legal(sub).or_else(|_| kernel(sub))
}

/// Checks what holds of Kernel regions.
fn kernel(sub: &Subgraph) -> Result<Anchor, &'static str> {
    if sub.nodes.len() > MAX_KERNEL_NODES {
        return Err("too many nodes for a kernel");
    }
    if sub.operands > MAX_OPERANDS {
        return Err("too many operands");
    }
    let inside = |n: &SubgraphNode| {
        let table = matches!(n.op, Op::Const { value } if value.len() != 1);
        !matches!(n.op.kind(), OpKind::Source | OpKind::Opaque | OpKind::Alone) && !table
    };
    if sub.outputs.is_empty() || !sub.nodes.iter().all(inside) {
        return Err("control flow, weights and ops with several results stand outside");
    }
    Ok(Anchor::Kernel)
}

/// Whether each node depends on one of `anchors`, themselves included.
fn dependents(sub: &Subgraph, anchor: impl Fn(&SubgraphNode) -> bool) -> Vec<bool> {
    let mut post = vec![false; sub.nodes.len()];
    for (i, node) in sub.nodes.iter().enumerate() {
        post[i] = anchor(node) || node.operands.iter().any(|o| o.inner.is_some_and(|j| post[j]));
    }
    post
}

/// Whether each node depends on one of `anchors`, themselves included.
pub(crate) fn after(sub: &Subgraph, anchors: &[usize]) -> Vec<bool> {
    dependents(sub, |n| anchors.iter().any(|&anchor| std::ptr::eq(n, &sub.nodes[anchor])))
}

/// A quantization whose scale or zero point depends on the anchor cannot be an elementwise epilogue.
pub(crate) fn scales_depend(node: &SubgraphNode, post: &[bool]) -> bool {
    matches!(node.op, Op::Quantize { .. } | Op::Dequantize { .. })
        && node.operands[1..].iter().any(|o| o.inner.is_some_and(|j| post[j]))
}

/// Whether an op shows elements of its operand as they lie there: a view whose elements a kernel finds without looking at others.
pub(crate) fn is_in_place(op: &Op) -> bool {
    match op {
        Op::Slice { steps, .. } => steps.iter().all(|step| *step == 1),
        op => matches!(op, Op::Permute { .. } | Op::Reshape { .. } | Op::Broadcast { .. }),
    }
}

/// Whether an operand is a leaf, or views in place of one.
pub(crate) fn in_place<'a>(sub: &Subgraph<'a>, mut operand: SubgraphOperand<'a>) -> bool {
    while let Some(i) = operand.inner {
        let node = &sub.nodes[i];
        if !is_in_place(node.op) {
            return false;
        }
        operand = node.operands[0];
    }
    true
}

fn before_contraction(op: &Op) -> bool {
    is_in_place(op) || matches!(op, Op::Cast { .. } | Op::Dequantize { .. })
}

/// Whether an operand is a leaf behind ops that may stand `before` an anchor, whose other operands are leaves.
fn plain<'a>(sub: &Subgraph<'a>, mut operand: SubgraphOperand<'a>, before: fn(&Op) -> bool) -> bool {
    while let Some(i) = operand.inner {
        let node = &sub.nodes[i];
        if !before(node.op) || node.operands[1..].iter().any(|o| o.inner.is_some()) {
            return false;
        }
        operand = node.operands[0];
    }
    true
}

/// Whether a broadcast repeats what it is of along one of some axes of its result.
pub(crate) fn repeats(from: &TensorType, to: &TensorType, axis: impl Fn(usize) -> bool) -> bool {
    let lead = to.shape.len() - from.shape.len();
    let long = |i: &usize| !to.shape[*i].is(1) && (*i < lead || from.shape[*i - lead].is(1));
    (0..to.shape.len()).filter(long).any(axis)
}

/// What an operand is made of by elementwise ops of its shape, beside what is broadcast along one of the axes that are `kept`: a leaf, or views in place of one.
pub(crate) fn made<'a>(
    sub: &Subgraph<'a>,
    operand: SubgraphOperand<'a>,
    kept: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut open = vec![operand];
    let mut seen = vec![false; sub.nodes.len()];
    let mut of = None;
    while let Some(found) = open.pop() {
        if found.inner.is_some_and(|i| std::mem::replace(&mut seen[i], true)) {
            continue;
        }
        match found.inner.map(|i| &sub.nodes[i]) {
            Some(node) if node.op.kind() == OpKind::Elementwise => {
                if node.operands.iter().any(|o| o.ty.shape != operand.ty.shape) {
                    return None;
                }
                open.extend(&node.operands);
            }
            Some(SubgraphNode { op: Op::Broadcast { .. }, operands, ty })
                if repeats(operands[0].ty, ty, &kept) && in_place(sub, operands[0]) => {}
            _ if in_place(sub, found) && of.is_none_or(|known| known == found.value) => of = Some(found.value),
            _ => return None,
        }
    }
    of
}

/// Checks what stands before anchors.
fn prologue(sub: &Subgraph, anchors: &[usize]) -> Result<(), &'static str> {
    let before: fn(&Op) -> bool = match sub.nodes[anchors[0]].op.kind() {
        OpKind::Contract => before_contraction,
        OpKind::Conv => is_in_place,
        _ => |_| false,
    };
    let mut multiplied: Option<usize> = None;
    for node in anchors.iter().map(|&anchor| &sub.nodes[anchor]) {
        for (side, operand) in node.operands.iter().enumerate().filter(|(_, o)| !plain(sub, **o, before)) {
            let Op::Contract { spec, .. } = node.op else {
                return Err("prologue other than a cast, a dequantization or a view in place");
            };
            let labels = [&spec.lhs, &spec.rhs][side];
            made(sub, *operand, |axis| spec.out.contains(&labels[axis])).ok_or(
                "prologue other than a cast, a dequantization, a view in place or elementwise ops of one leaf",
            )?;
            if *multiplied.get_or_insert(operand.value) != operand.value {
                return Err("two operands that are made");
            }
        }
    }
    // What only one of several contractions multiplies is made alike for none.
    let all = |value: usize| anchors.iter().all(|&a| sub.nodes[a].operands.iter().any(|o| o.value == value));
    if multiplied.is_some_and(|value| !all(value)) {
        Err("an operand of one of several contractions is made")
    } else {
        Ok(())
    }
}

fn anchored(sub: &Subgraph, anchors: &[usize]) -> Result<(), &'static str> {
    let post = after(sub, anchors);
    prologue(sub, anchors)?;
    // Where groups of rows end is no operand that is multiplied.
    let mut ends = anchors.iter().filter_map(|&anchor| sub.nodes[anchor].operands.get(2)?.inner);
    if ends.any(|i| is_in_place(sub.nodes[i].op)) {
        return Err("a view of where groups end");
    }
    if let [first, others @ ..] = anchors
        && !others.iter().all(|other| twins(sub, *first, *other))
    {
        return Err("contractions that are no twins");
    }
    epilogue(sub, anchors, &post, &sub.outputs)
}

/// Whether two contractions differ in one operand alone, whose values are of one type and made alike.
fn twins(sub: &Subgraph, first: usize, other: usize) -> bool {
    let [first, other] = [first, other].map(|i| &sub.nodes[i]);
    let Op::Contract { acc, .. } = first.op else { return false };
    let pairs = || first.operands.iter().zip(&other.operands);
    let own: Vec<_> = pairs().filter(|(a, b)| a.value != b.value).collect();
    first.op == other.op && matches!(acc, DType::F32 | DType::I32) && matches!(own[..], [(a, b)] if alike(sub, a, b))
}

/// Whether two operands of anchors are leaves of one type behind the same ops.
fn alike(sub: &Subgraph, a: &SubgraphOperand, b: &SubgraphOperand) -> bool {
    a.ty == b.ty
        && match (a.inner, b.inner) {
            (None, None) => true,
            (Some(i), Some(j)) => {
                let (i, j) = (&sub.nodes[i], &sub.nodes[j]);
                i.op == j.op && i.operands.iter().zip(&j.operands).all(|(a, b)| alike(sub, a, b))
            }
            _ => false,
        }
}

/// Checks what is behind anchors and beside them, and the results that follow from theirs; `post` says which nodes depend on one of them.
pub(crate) fn epilogue(
    sub: &Subgraph,
    anchors: &[usize],
    post: &[bool],
    outputs: &[usize],
) -> Result<(), &'static str> {
    let mut views: Vec<Vec<&Op>> = vec![Vec::new(); sub.nodes.len()];
    let joined = |views: &[&Op]| views.iter().any(|op| matches!(op, Op::Concat { .. }));
    // Slices are results: nothing follows on them.
    let mut sliced = vec![false; sub.nodes.len()];
    for (i, node) in sub.nodes.iter().enumerate() {
        if anchors.contains(&i) {
            continue;
        }
        let kind = node.op.kind();
        if !post[i] {
            if matches!(node.op, Op::Pad { .. } | Op::Concat { .. }) {
                return Err("pad or concat beside an anchor");
            }
            continue;
        }
        let mut from = node.operands.iter().filter_map(|o| o.inner).filter(|&j| post[j]);
        let first = from.next().ok_or("an epilogue without operand")?;
        if node.operands.iter().any(|o| o.inner.is_some_and(|j| sliced[j])) {
            return Err("an epilogue sees the anchor's result at two places");
        }
        match (kind, node.op) {
            (OpKind::Elementwise, _) => {
                if scales_depend(node, post) || from.any(|j| views[j] != views[first]) || joined(&views[first]) {
                    return Err("an epilogue sees the anchor's result at two places");
                }
                views[i] = views[first].clone();
            }
            // Values side by side: each is stored at its own place.
            (_, Op::Concat { .. }) if anchors.len() > 1 && node.operands.len() <= MAX_TWINS => {
                let mut parts = node.operands.iter().map(|o| o.inner.filter(|&j| post[j]));
                if joined(&views[first]) || !parts.all(|j| j.is_some_and(|j| views[j] == views[first])) {
                    return Err("an epilogue sees the anchor's result at two places");
                }
                views[i] = views[first].clone();
                views[i].push(node.op);
            }
            (_, Op::Slice { .. }) if anchors.len() > 1 && is_in_place(node.op) => {
                views[i] = views[first].clone();
                sliced[i] = true;
            }
            (_, Op::Permute { .. } | Op::Reshape { .. }) => {
                views[i] = views[first].clone();
                views[i].push(node.op);
            }
            _ => return Err("an epilogue of other than elementwise ops, permutes and reshapes"),
        }
    }
    let mut results = outputs.iter();
    let first = results.next().ok_or("no result")?;
    if !post[*first] || results.any(|o| !post[*o] || views[*o] != views[*first]) {
        return Err("results under different views");
    }
    Ok(())
}

/// Checks what makes the indices of a scatter, and that nothing else is made.
fn scatter(sub: &Subgraph, anchor: usize) -> Result<(), &'static str> {
    let [x, _, updates] = sub.nodes[anchor].operands[..] else { return Err("a scatter of other than three operands") };
    if sub.outputs != [anchor] {
        return Err("an epilogue after a scatter");
    }
    if x.inner.is_some() || updates.inner.is_some() {
        return Err("a scatter of what is computed with it");
    }
    for (_, node) in sub.nodes.iter().enumerate().filter(|(i, _)| *i != anchor) {
        let plain = matches!(node.op.kind(), OpKind::Nullary | OpKind::Elementwise | OpKind::View);
        if !plain || matches!(node.op, Op::Pad { .. } | Op::Concat { .. }) {
            return Err("indices of a scatter from other than elementwise ops and views");
        }
        // It may be overwritten meanwhile.
        if node.operands.iter().any(|o| o.value == x.value) {
            return Err("indices of a scatter from what it scatters into");
        }
    }
    Ok(())
}

fn sink(sub: &Subgraph, anchor: usize) -> Result<(), &'static str> {
    if sub.outputs != [anchor] {
        return Err("an epilogue after a sink");
    }
    let shape = &sub.nodes[anchor].ty.shape;
    let fits = |n: &SubgraphNode| match n.op.kind() {
        OpKind::Elementwise => n.ty.shape == *shape,
        OpKind::Nullary => true,
        _ => matches!(n.op, Op::Broadcast { .. }),
    };
    let all = sub.nodes.iter().enumerate().all(|(i, n)| i == anchor || fits(n));
    all.then_some(()).ok_or("a sink's prologue is elementwise")
}

fn rows(sub: &Subgraph) -> Result<(), &'static str> {
    let post = dependents(sub, |n| n.op.kind() == OpKind::Reduce);
    let mut space: Option<Rows> = None;
    for node in sub.nodes.iter().filter(|n| n.op.kind() == OpKind::Reduce) {
        let found = Rows::of(node.op, node.operands[0].ty).ok_or("not a reduction")?;
        match &space {
            Some(rows) if *rows != found => return Err("reductions over different rows"),
            Some(_) => {}
            None => space = Some(found),
        }
    }
    let space = space.ok_or("no reduction")?;
    if space.axes.is_empty() {
        return Err("a reduction over no axes");
    }
    let (reduced, kept) = (space.reduced(), space.kept());
    let known = |shape: &[Dim]| shape == space.shape || shape == reduced || shape == kept;
    let leading = space.axes.iter().enumerate().all(|(i, &a)| i == a);
    for (i, node) in sub.nodes.iter().enumerate() {
        if !post[i] {
            continue;
        }
        let to = &node.ty.shape;
        let from = || &node.operands[0].ty.shape;
        match node.op {
            Op::Reduce { .. } | Op::ArgReduce { .. } => {}
            Op::Reshape { .. } => {
                let row = |s: &[Dim]| s == reduced || s == kept;
                if !row(to) || !row(from()) {
                    return Err("a reshape of rows");
                }
            }
            Op::Broadcast { .. } => {
                if *to != space.shape || !(*from() == kept || leading && *from() == reduced) {
                    return Err("a broadcast that is not back over the rows");
                }
            }
            op if op.kind() == OpKind::Elementwise => {
                if !known(to) || scales_depend(node, &post) {
                    return Err("an epilogue off the rows");
                }
            }
            _ => return Err("an epilogue of other than elementwise ops on the rows"),
        }
    }
    if sub.outputs.iter().any(|&o| !known(&sub.nodes[o].ty.shape) || !post[o] && sub.nodes[o].ty.shape != space.shape) {
        return Err("a result off the rows");
    }
    Ok(())
}
