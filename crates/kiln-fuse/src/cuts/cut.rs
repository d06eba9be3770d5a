//! One candidate kernel.

use crate::Anchor;
use crate::egraph::{ClassIx, Dag, DagNode};
use crate::region::{Subgraph, SubgraphNode, SubgraphOperand};
use kiln_graph::{Op, OpKind};
use std::collections::BTreeSet;

/// An inner class and which of its nodes computes it.
pub(crate) type Inner = (ClassIx, u16);

/// A cone of the e-graph: inner classes with the node chosen for each, and the leaf classes that it reads.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// In topological order; the last is the root.
    pub inner: Vec<Inner>,
    /// Sorted. Literals count as leaves, though they end up inside the region.
    pub leaves: Vec<ClassIx>,
    /// Inner classes that are anchors, sorted: what would be costly to compute twice.
    pub anchors: Vec<ClassIx>,
    pub anchor: Anchor,
    /// Modelled seconds of the kernel, launch included.
    pub cost: f64,
    /// Cost plus the flow of the leaves.
    pub flow: f64,
}

impl Cut {
    pub fn node<'d>(&self, dag: &'d Dag, inner: Inner) -> &'d DagNode {
        &dag.class(inner.0).nodes[usize::from(inner.1)]
    }

    /// Its cone, to be joined with others whatever their anchors: only legality decides.
    pub fn free(&self) -> Cone {
        let (inner, leaves, anchors) = (self.inner.clone(), self.leaves.clone(), self.anchors.clone());
        Cone { inner, leaves, anchors, core: Core::Map }
    }

    /// Whether it has several contractions side by side.
    pub fn is_twins(&self) -> bool {
        self.anchor == Anchor::Contract && self.anchors.len() > 1
    }

    /// The operands of its contraction; none of other cuts.
    pub fn multiplied<'d>(&self, dag: &'d Dag) -> &'d [ClassIx] {
        let product = self.inner.iter().map(|at| self.node(dag, *at));
        let found = product.into_iter().find(|node| matches!(node.op, Some(Op::Contract { .. })));
        found.map_or(&[], |node| &node.operands)
    }

    /// As [`Cut::free`], of a contraction without its prologue.
    pub fn bare(&self, dag: &Dag) -> Cone {
        let mut needed: BTreeSet<ClassIx> = self.inner.last().map(|root| root.0).into_iter().collect();
        let (mut inner, mut leaves) = (Vec::new(), BTreeSet::new());
        for at in self.inner.iter().rev() {
            if needed.contains(&at.0) {
                let node = self.node(dag, *at);
                inner.push(*at);
                let from = if matches!(node.op, Some(Op::Contract { .. })) { &mut leaves } else { &mut needed };
                from.extend(&node.operands);
            }
        }
        inner.reverse();
        let computed = |c: &ClassIx| inner.binary_search_by_key(c, |i| i.0).is_ok();
        let leaves = leaves.union(&needed).copied().filter(|c| !computed(c)).collect();
        Cone { inner, leaves, anchors: self.anchors.clone(), core: Core::Map }
    }
}

/// Inner classes and leaves under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cone {
    pub inner: Vec<Inner>,
    pub leaves: Vec<ClassIx>,
    /// Inner classes that are anchors, sorted.
    pub anchors: Vec<ClassIx>,
    /// What cannot be joined with another of its like.
    pub core: Core,
}

/// The anchor of a cone as far as joining cones goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Core {
    #[default]
    Map,
    Gather,
    /// Reductions of values of this type and axes: the class and node of one of them.
    Reduce(Inner),
    /// Contraction, convolution or window.
    Heavy(Inner),
    /// Several contractions that share an operand: the class and node of one of them.
    Twins(Inner),
    /// Nothing may be joined to it or put on top.
    Closed,
}

impl Cone {
    /// A cone that only reads a class.
    pub fn leaf(class: ClassIx) -> Cone {
        Cone { leaves: vec![class], ..Cone::default() }
    }

    /// What it only copies a part of.
    pub fn copied(&self, dag: &Dag) -> Option<ClassIx> {
        let ([(class, node)], [of]) = (&self.inner[..], &self.leaves[..]) else { return None };
        matches!(dag.class(*class).nodes[usize::from(*node)].op, Some(Op::Slice { .. })).then_some(*of)
    }

    /// Both cones together; `None` if they choose different nodes for a class or have anchors that exclude each other.
    pub fn join(&self, other: &Cone, dag: &Dag) -> Option<Cone> {
        let core = self.core.join(other.core, dag)?;
        let mut inner = Vec::with_capacity(self.inner.len() + other.inner.len());
        let (mut a, mut b) = (self.inner.iter().peekable(), other.inner.iter().peekable());
        loop {
            match (a.peek(), b.peek()) {
                (Some(x), Some(y)) if x.0 == y.0 => {
                    if x.1 != y.1 {
                        return None;
                    }
                    inner.push(**x);
                    a.next();
                    b.next();
                }
                (Some(x), Some(y)) if x.0 < y.0 => {
                    inner.push(**x);
                    a.next();
                }
                (Some(x), None) => {
                    inner.push(**x);
                    a.next();
                }
                (_, Some(y)) => {
                    inner.push(**y);
                    b.next();
                }
                (None, None) => break,
            }
        }
        let mut leaves: Vec<ClassIx> = self.leaves.iter().chain(&other.leaves).copied().collect();
        leaves.sort();
        leaves.dedup();
        // What one cone reads and the other computes is computed.
        leaves.retain(|l| inner.binary_search_by_key(l, |i| i.0).is_err());
        let mut anchors: Vec<ClassIx> = self.anchors.iter().chain(&other.anchors).copied().collect();
        anchors.sort();
        anchors.dedup();
        Some(Cone { inner, leaves, anchors, core })
    }

    /// Puts a node on top; `None` if that cannot be legal.
    pub fn push(mut self, dag: &Dag, at: Inner) -> Option<Cone> {
        self.core = self.core.under(dag, at)?;
        self.inner.push(at);
        let op = dag.class(at.0).nodes[usize::from(at.1)].op.as_ref()?;
        if Anchor::of(op.kind()).is_some() {
            self.anchors.push(at.0);
        }
        Some(self)
    }

    /// The subgraph, for the legality predicate.
    pub fn sub<'d>(&self, dag: &'d Dag, outputs: &[ClassIx]) -> Subgraph<'d> {
        subgraph(dag, &self.inner, &self.leaves, outputs)
    }
}

/// The subgraph of inner classes, for the legality predicate.
pub(crate) fn subgraph<'d>(dag: &'d Dag, inner: &[Inner], leaves: &[ClassIx], outputs: &[ClassIx]) -> Subgraph<'d> {
    let place = |c: &ClassIx| inner.binary_search_by_key(c, |i| i.0).ok();
    let nodes = inner.iter().filter_map(|(class, node)| {
        let node = &dag.class(*class).nodes[usize::from(*node)];
        let operand = |c: &ClassIx| SubgraphOperand { ty: dag.class(*c).ty(), inner: place(c), value: c.index() };
        let operands = node.operands.iter().map(operand).collect();
        Some(SubgraphNode { op: node.op.as_ref()?, operands, ty: dag.class(*class).ty() })
    });
    Subgraph {
        nodes: nodes.collect(),
        outputs: outputs.iter().filter_map(place).collect(),
        operands: leaves.iter().filter(|c| !is_literal(dag, **c)).count(),
    }
}

/// Most operations that the value of a single literal may take: it is computed for every region that reads it.
const LITERAL_OPERATIONS: f64 = (1 << 20) as f64;

/// Whether a class is a single literal: it costs nothing to read and becomes a `Const` node of the region.
pub(crate) fn is_literal(dag: &Dag, class: ClassIx) -> bool {
    let c = dag.class(class);
    c.literal
        && c.effort.operations <= LITERAL_OPERATIONS
        && c.types.first().and_then(|t| t.const_shape()).is_some_and(|s| s.iter().all(|d| *d == 1))
}

impl Core {
    fn join(self, other: Core, dag: &Dag) -> Option<Core> {
        Some(match (self, other) {
            (Core::Closed, _) | (_, Core::Closed) => return None,
            (Core::Map, x) | (x, Core::Map) => x,
            (Core::Gather, Core::Gather) => Core::Gather,
            (Core::Heavy(a), Core::Heavy(b)) if a.0 == b.0 => self,
            (Core::Heavy(a) | Core::Twins(a), Core::Heavy(b) | Core::Twins(b)) if a.0 == b.0 || twins(dag, a, b) => {
                Core::Twins(a)
            }
            (Core::Reduce(a), Core::Reduce(b)) if same_rows(dag, a, b) => self,
            _ => return None,
        })
    }

    /// The core of a cone with `node` of `class` put on top; `None` if that cannot be legal.
    pub fn under(self, dag: &Dag, at: Inner) -> Option<Core> {
        let node = &dag.class(at.0).nodes[usize::from(at.1)];
        let own = match node.op.as_ref()?.kind() {
            OpKind::Nullary | OpKind::Elementwise | OpKind::View => Core::Map,
            OpKind::Gather => Core::Gather,
            OpKind::Reduce => Core::Reduce(at),
            OpKind::Contract | OpKind::Conv | OpKind::Window => Core::Heavy(at),
            OpKind::Sink | OpKind::Scatter => return (self == Core::Map).then_some(Core::Closed),
            OpKind::Source | OpKind::Alone | OpKind::Opaque => return None,
        };
        self.join(own, dag)
    }
}

/// Whether two contractions are one einsum and share an operand: most pairs that are no twins are told apart by this.
fn twins(dag: &Dag, a: Inner, b: Inner) -> bool {
    let [a, b] = [a, b].map(|(class, node)| &dag.class(class).nodes[usize::from(node)]);
    let shared = || a.operands.iter().zip(&b.operands).any(|(a, b)| a == b);
    matches!(a.op, Some(Op::Contract { .. })) && a.op == b.op && shared()
}

/// Whether two reductions run over the same rows.
fn same_rows(dag: &Dag, a: Inner, b: Inner) -> bool {
    let rows = |(class, node): Inner| {
        let node = &dag.class(class).nodes[usize::from(node)];
        let shape = &dag.class(node.operands[0]).ty().shape;
        match &node.op {
            Some(Op::Reduce { axes, .. }) => Some((shape, axes.clone())),
            Some(Op::ArgReduce { axis, .. }) => Some((shape, vec![*axis])),
            _ => None,
        }
    };
    a == b || rows(a) == rows(b)
}
