//! Priority cuts: the few best cones of each class, built from those of its operands.

use super::cost::Costs;
use super::cut::{Cone, Core, Cut, Inner, is_literal};
use super::likeness::Likeness;
use super::views::Views;
use crate::Anchor;
use crate::egraph::{ClassIx, Dag, DagNode};
use crate::region::{MAX_NODES, MAX_OPERANDS, SubgraphOperand, legal, made};
use kiln_graph::{Op, OpKind};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Cuts kept a class.
const KEPT: usize = 10;
/// Cuts kept a class of those that compute the same anchors: flow alone would crowd out the cut that reads what is shared.
const KEPT_ALIKE: usize = 3;
/// Partial joins kept while the operands of one node are joined, in all and alike.
const PARTIAL: (usize, usize) = (24, 6);

/// What cuts of one dag are compared by.
pub(super) struct Ranking<'a> {
    pub dag: &'a Dag,
    pub costs: &'a Costs<'a>,
    pub likeness: &'a Likeness,
    pub views: &'a Views,
    /// Which classes contractions may make.
    pub made: &'a [bool],
}

/// The legal cuts of `class`, best flow first, given those of earlier classes. `flow` is the cost of having a class in memory.
pub(super) fn cuts_of(ranking: &Ranking, class: ClassIx, earlier: &[Vec<Cut>], flow: &[f64]) -> Vec<Cut> {
    let Ranking { dag, costs, .. } = *ranking;
    let mut found: Vec<Cut> = Vec::new();
    for (n, node) in dag.class(class).nodes.iter().enumerate() {
        let at = (class, n as u16);
        let Some(op) = &node.op else { continue };
        let kind = op.kind();
        if matches!(kind, OpKind::Source | OpKind::Alone | OpKind::Opaque)
            || matches!(op, Op::Const { value } if value.len() != 1)
            || node.operands.iter().any(|c| dag.class(*c).tuple)
        {
            continue;
        }
        let Some(own) = Core::Map.under(dag, at) else { continue };
        // Only what may stand before this op is worth joining.
        let open = !matches!(own, Core::Closed) || matches!(kind, OpKind::Sink | OpKind::Scatter);
        let mut partial = vec![Cone::default()];
        let mut operands = node.operands.clone();
        operands.sort();
        operands.dedup();
        for operand in &operands {
            let mut options = vec![Cone::leaf(*operand)];
            // Of a scatter only the indices are made on the way.
            let read = kind == OpKind::Scatter && node.operands.iter().step_by(2).any(|o| o == operand);
            if open && !read && !is_literal(dag, *operand) {
                let cuts = earlier[operand.index()].iter();
                options.extend(cuts.filter_map(|cut| as_operand(ranking, cut, (node, kind), *operand)));
            }
            if matches!(kind, OpKind::Contract | OpKind::Conv) && node.operands.iter().take(2).any(|o| o == operand) {
                options = options.into_iter().map(|cone| ranking.in_place(cone, flow)).collect();
            }
            let mut next: Vec<Cone> = Vec::new();
            for a in &partial {
                let taken = |core: Core| !matches!(core, Core::Twins(_)) || costs.twins();
                let fits = |c: &Cone| c.inner.len() < MAX_NODES && c.core.under(dag, at).is_some_and(taken);
                next.extend(options.iter().filter_map(|b| a.join(b, dag)).filter(fits));
            }
            partial = ranking.prune(next, flow);
        }
        // All that survived the pruning may turn out illegal, or too large; the node alone is legal. So are the views that convolutions read in place.
        if kind != OpKind::Conv && partial.iter().all(|cone| !cone.inner.is_empty()) {
            partial.push(Cone { leaves: operands, ..Cone::default() });
        }
        if kind == OpKind::Contract {
            partial.extend(attentions(ranking, node, earlier, flow));
        }
        for cone in partial {
            let Some(cone) = cone.push(dag, at) else { continue };
            if cone.leaves.len() > 2 * MAX_OPERANDS {
                continue;
            }
            let Ok(anchor) = legal(&cone.sub(dag, &[class])) else { continue };
            if !costs.admits(dag, &cone.inner) {
                continue;
            }
            let cost = match cone.copied(dag) {
                // [`super::share()`] has the other kernel write it.
                Some(of) if earlier[of.index()].iter().any(Cut::is_twins) => costs.transfer(costs.bytes(class)),
                _ => costs.model(dag, &cone.inner, &cone.leaves, &[class], anchor).seconds,
            };
            let flow = cost + cone.leaves.iter().map(|l| flow[l.index()]).sum::<f64>();
            let Cone { inner, leaves, anchors, .. } = cone;
            found.push(Cut { inner, leaves, anchors, anchor, cost, flow });
        }
    }
    // Of cuts that read the same but for what is computed from literals the cheapest is enough: they would crowd out all others.
    let mut read: BTreeMap<Vec<ClassIx>, Cut> = BTreeMap::new();
    for cut in found {
        let leaves = cut.leaves.iter().copied().filter(|c| !dag.class(*c).literal).collect();
        match read.entry(leaves) {
            Entry::Vacant(place) => {
                place.insert(cut);
            }
            Entry::Occupied(mut place) => {
                if ranking.cheaper(&cut, place.get()) {
                    place.insert(cut);
                }
            }
        }
    }
    let mut found = ranking.sorted(read.into_values().collect(), |cut| cut.flow, |cut| (&cut.inner, &cut.leaves));
    // One of several parts of what a kernel writes may be dear to have that way, and all together cheap.
    let part = |cut: &Cut| cut.free().copied(dag).is_some_and(|of| earlier[of.index()].iter().any(Cut::is_twins));
    keep(&mut found, KEPT, KEPT_ALIKE, |cut| &cut.anchors, part);
    found
}

/// Cones of scores and their softmax below a contraction, which makes Attention of them; no smaller region could hold both.
fn attentions(ranking: &Ranking, product: &DagNode, earlier: &[Vec<Cut>], flow: &[f64]) -> Vec<Cone> {
    let Ranking { dag, costs, .. } = *ranking;
    let cuts = |c: ClassIx, anchor: Anchor| earlier[c.index()].iter().filter(move |cut| cut.anchor == anchor);
    let mut found = Vec::new();
    for weights in product.operands.iter().filter(|c| costs.streams(dag.class(**c).ty().dtype)) {
        let shape = &dag.class(*weights).ty().shape;
        for softmax in cuts(*weights, Anchor::Reduce) {
            for x in softmax.leaves.iter().filter(|c| dag.class(**c).ty().shape == *shape) {
                for scores in cuts(*x, Anchor::Contract) {
                    let values = product.operands.iter().filter(|c| *c != weights);
                    let read: Vec<ClassIx> = scores.multiplied(dag).iter().chain(values).copied().collect();
                    let apart = read.iter().map(|c| ranking.in_place(Cone::leaf(*c), flow)).collect();
                    let ways = [Some(apart), ranking.of_one(&read, flow)].into_iter().flatten();
                    found.extend(ways.filter_map(|cones: Vec<Cone>| {
                        let both = scores.bare(dag).join(&softmax.free(), dag)?;
                        cones.iter().try_fold(both, |cone, read| cone.join(read, dag))
                    }));
                }
            }
        }
    }
    found
}

/// A cut of an operand as the start of a cone under an op of `kind`; anchors take only what [`crate::region`] allows as prologue.
fn as_operand(ranking: &Ranking, cut: &Cut, (node, kind): (&DagNode, OpKind), operand: ClassIx) -> Option<Cone> {
    let dag = ranking.dag;
    let fits = match kind {
        OpKind::Conv | OpKind::Window => false,
        OpKind::Scatter => cut.anchor == Anchor::Map,
        OpKind::Contract => {
            let narrow = |op: &Option<Op>| matches!(op, Some(Op::Cast { .. } | Op::Dequantize { .. }));
            cut.inner.iter().all(|i| narrow(&cut.node(dag, *i).op)) || makes(ranking, cut, node, operand)
        }
        _ => true,
    };
    fits.then(|| {
        let core = match (cut.anchor, cut.inner.iter().rfind(|i| cut.anchors.last() == Some(&i.0))) {
            // What is put on top sees the second contraction only.
            (Anchor::Attention, Some(product)) => Core::Heavy(*product),
            _ => cut.inner.iter().try_fold(Core::Map, |core, i| core.under(dag, *i)).unwrap_or(Core::Closed),
        };
        Cone { core, ..cut.free() }
    })
}

/// Whether a cut makes what a contraction multiplies, as its kernel may.
fn makes(ranking: &Ranking, cut: &Cut, product: &DagNode, operand: ClassIx) -> bool {
    let dag = ranking.dag;
    let Some(Op::Contract { spec, .. }) = &product.op else { return false };
    let sides = [&spec.lhs, &spec.rhs].into_iter().zip(&product.operands).filter(|(_, o)| **o == operand);
    let sub = cut.free().sub(dag, &[operand]);
    let root =
        SubgraphOperand { ty: dag.class(operand).ty(), inner: sub.nodes.len().checked_sub(1), value: operand.index() };
    ranking.made[operand.index()]
        && cut.anchor == Anchor::Map
        && sides.map(|(labels, _)| labels).all(|l| made(&sub, root, |axis| spec.out.contains(&l[axis])).is_some())
}

/// Flows that differ by less than this part of the step are equal: rounding must not decide.
const SAME: f64 = 1e-6;

impl Ranking<'_> {
    /// The step in which flows are compared. Along a chain, reading any of its values costs about the same; of such cuts the one that
    /// computes least again must survive, because that value may be in memory anyway.
    fn step(&self) -> f64 {
        self.costs.launch() / 4.0
    }

    /// A cone that reads one class, with what that is a view of read in place if it is cheaper to have by more than a step.
    fn in_place(&self, cone: Cone, flow: &[f64]) -> Cone {
        let &[read] = &cone.leaves[..] else { return cone };
        let steps = |class: ClassIx| flow[class.index()] / self.step();
        // What is only another order of a value that stands for a convolution is never had as it is.
        let only = self.views.instead(self.dag, read).is_some();
        let cheaper = self.views.cones(read).filter(|(leaf, _)| only || steps(*leaf) + 1.0 < steps(read));
        let rank = |(leaf, cone): &(ClassIx, Cone)| {
            let fine = (steps(*leaf) / SAME).round() as u64;
            (fine, cone.inner.len(), self.likeness.cone(&cone.inner, &cone.leaves))
        };
        let best = cheaper.min_by_key(rank).and_then(|(_, view)| view.join(&cone, self.dag));
        best.unwrap_or(cone)
    }

    /// Classes read as parts of one value, the cheapest of which all are views in place, if there is one: each alone may be had cheaper as part of another.
    fn of_one(&self, read: &[ClassIx], flow: &[f64]) -> Option<Vec<Cone>> {
        let (first, rest) = read.split_first()?;
        let view = |class: &ClassIx, of: ClassIx| self.views.cones(*class).find(|(leaf, _)| *leaf == of);
        let common = self.views.cones(*first).filter(|(leaf, _)| rest.iter().all(|c| view(c, *leaf).is_some()));
        let rank = |(leaf, cone): &(ClassIx, Cone)| {
            let steps = (flow[leaf.index()] / self.step() / SAME).round() as u64;
            (steps, self.likeness.cone(&cone.inner, &cone.leaves))
        };
        let (leaf, _) = common.min_by_key(rank)?;
        read.iter().map(|c| Some(view(c, leaf)?.1)).collect()
    }

    /// Whether the flow of `a` is below that of `b` by more than rounding; of equal ones, whether it computes less.
    fn cheaper(&self, a: &Cut, b: &Cut) -> bool {
        let same = SAME * self.step();
        let rank = |cut: &Cut| (cut.inner.len(), self.likeness.cone(&cut.inner, &cut.leaves));
        a.flow < b.flow - same || a.flow < b.flow + same && rank(a) < rank(b)
    }

    /// Items by the steps that their flow is above the least, then those that compute less again, then by flow, and then by what they are.
    fn sorted<T>(
        &self,
        items: Vec<T>,
        flow: impl Fn(&T) -> f64,
        cone: impl Fn(&T) -> (&Vec<Inner>, &Vec<ClassIx>),
    ) -> Vec<T> {
        let least = items.iter().map(&flow).fold(f64::INFINITY, f64::min);
        let rank = |item: &T| {
            let steps = (flow(item) - least) / self.step();
            let (inner, leaves) = cone(item);
            let fine = (steps / SAME).round() as u64;
            (steps.round() as u64, inner.len(), fine, self.likeness.cone(inner, leaves))
        };
        let mut ranked: Vec<_> = items.into_iter().map(|item| (rank(&item), item)).collect();
        ranked.sort_by(|(a, x), (b, y)| {
            let ((inner, leaves), other) = (cone(x), cone(y));
            a.cmp(b).then_with(|| leaves.cmp(other.1)).then_with(|| inner.cmp(other.0))
        });
        ranked.into_iter().map(|(_, item)| item).collect()
    }

    /// Keeps the cones whose leaves are cheapest to have and read; of equal ones, those that compute less again.
    fn prune(&self, cones: Vec<Cone>, flow: &[f64]) -> Vec<Cone> {
        if cones.len() <= PARTIAL.1 {
            return cones;
        }
        let dag = self.dag;
        let read = |l: &ClassIx| if is_literal(dag, *l) { 0.0 } else { self.costs.bytes(*l) };
        let leaves = |c: &Cone| {
            let had = c.leaves.iter().map(|l| flow[l.index()]).sum::<f64>();
            had + self.costs.transfer(c.leaves.iter().map(read).sum())
        };
        let mut cones = self.sorted(cones, leaves, |c| (&c.inner, &c.leaves));
        cones.dedup_by(|a, b| a.inner == b.inner && a.leaves == b.leaves);
        keep(&mut cones, PARTIAL.0, PARTIAL.1, |cone| &cone.anchors, |_| false);
        cones
    }
}

/// Keeps the first `all`, but of those with equal anchors only the first `alike`; and `always` some, which do not count.
fn keep<T>(
    items: &mut Vec<T>,
    all: usize,
    alike: usize,
    anchors: impl Fn(&T) -> &[ClassIx],
    always: impl Fn(&T) -> bool,
) {
    let (mut seen, mut kept) = (BTreeMap::<Vec<ClassIx>, usize>::new(), 0);
    items.retain(|item| {
        if always(item) {
            return true;
        }
        let n = seen.entry(anchors(item).to_vec()).or_insert(0);
        *n += 1;
        let fits = *n <= alike && kept < all;
        kept += usize::from(fits);
        fits
    });
}
