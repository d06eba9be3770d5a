//! Views that the kernel of a contraction or convolution reads in place, where the target does: each axis of such a view walks through the memory of what it is a view of with one step.

use super::cost::Costs;
use super::cut::{Cone, Inner, is_literal};
use crate::egraph::{ClassIx, Dag};
use crate::region::is_in_place;
use crate::strided::Strided;
use kiln_graph::{Op, OpKind};

/// Views kept a class, those of fewest ops.
const KEPT: usize = 6;

/// A class as a view of another.
struct View {
    inner: Vec<Inner>,
    leaf: ClassIx,
    strided: Strided,
    /// Whether elements move, or are left out; else it is the same memory under another shape.
    moves: bool,
    /// Whether elements are left out, or repeat, which no contraction takes by its labels.
    partial: bool,
}

/// The views that classes are which contractions and convolutions multiply.
pub(super) struct Views {
    of: Vec<Vec<View>>,
    /// Whether a convolution reads the class.
    imaged: Vec<bool>,
}

impl Views {
    pub fn of(dag: &Dag, costs: &Costs) -> Views {
        let mut asked = vec![false; dag.classes.len()];
        let mut imaged = asked.clone();
        for c in dag.indices().rev().filter(|_| costs.sees_in_place()) {
            for node in &dag.class(c).nodes {
                let through = |op: &Op| is_in_place(op) || matches!(op, Op::Cast { .. });
                match &node.op {
                    Some(op) if matches!(op.kind(), OpKind::Contract | OpKind::Conv) => {
                        node.operands.iter().take(2).for_each(|o| asked[o.index()] = true);
                        let conv = op.kind() == OpKind::Conv;
                        node.operands.iter().filter(|_| conv).for_each(|o| imaged[o.index()] = true);
                    }
                    Some(op) if asked[c.index()] && through(op) => asked[node.operands[0].index()] = true,
                    _ => {}
                }
            }
        }
        let mut views: Vec<Vec<View>> = Vec::with_capacity(dag.classes.len());
        for c in dag.indices() {
            let own = if asked[c.index()] { ways(dag, c, &views) } else { vec![] };
            views.push(own);
        }
        Views { of: views, imaged }
    }

    /// What convolutions read in place of a class that is no more than another order of that, whatever else there is.
    pub fn instead(&self, dag: &Dag, class: ClassIx) -> Option<ClassIx> {
        let [node] = &dag.class(class).nodes[..] else { return None };
        let turned = self.imaged[class.index()] && matches!(node.op, Some(Op::Permute { .. }));
        node.operands.first().copied().filter(|_| turned)
    }

    /// Whether a contraction may read something else than a class because that is a part of it, or repeats it.
    pub fn partial(&self, class: ClassIx) -> bool {
        self.of[class.index()].iter().any(|view| view.partial && view.is_boxed())
    }

    /// The ways to see a class in place that are worth having: cones, each with the class that is read.
    pub fn cones(&self, class: ClassIx) -> impl Iterator<Item = (ClassIx, Cone)> + '_ {
        let views = self.of[class.index()].iter().filter(|view| view.moves && view.is_boxed());
        views.map(|view| (view.leaf, Cone { inner: view.inner.clone(), ..Cone::leaf(view.leaf) }))
    }
}

impl View {
    fn is_boxed(&self) -> bool {
        self.strided.boxed(|axis| !self.strided.shape()[axis].is(1)).is_some()
    }
}

fn ways(dag: &Dag, class: ClassIx, earlier: &[Vec<View>]) -> Vec<View> {
    let mut found: Vec<View> = vec![];
    let to = dag.class(class).ty();
    let mut add = |view: Option<View>| match (view, &mut found) {
        (None, _) => {}
        (Some(view), found) => match found.iter_mut().find(|known| known.leaf == view.leaf) {
            Some(known) if known.inner.len() > view.inner.len() => *known = view,
            Some(_) => {}
            None => found.push(view),
        },
    };
    for (n, node) in dag.class(class).nodes.iter().enumerate() {
        let Some(op) = node.op.as_ref().filter(|op| is_in_place(op) && to.dtype.bits() >= 8) else { continue };
        let [from] = node.operands[..] else { continue };
        let at = (class, n as u16);
        let moves = !matches!(op, Op::Reshape { .. });
        let partial = matches!(op, Op::Slice { .. } | Op::Broadcast { .. });
        let through = |strided: &Strided| strided.through(op, &to.shape);
        if !is_literal(dag, from) && !dag.class(from).tuple {
            let strided = through(&Strided::of(&dag.class(from).ty().shape));
            add(strided.map(|strided| View { inner: vec![at], leaf: from, strided, moves, partial }));
        }
        for view in &earlier[from.index()] {
            add(through(&view.strided).map(|strided| View {
                inner: [&view.inner[..], &[at]].concat(),
                leaf: view.leaf,
                strided,
                moves: moves || view.moves,
                partial: partial || view.partial,
            }));
        }
    }
    found.sort_by_key(|view| view.inner.len());
    found.truncate(KEPT);
    found
}
