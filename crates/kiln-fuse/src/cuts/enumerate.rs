//! Priority cuts: the few best cones of each class, built from those of its operands.

use super::cost::Costs;
use super::cut::{Cone, Core, Cut, is_literal};
use crate::Anchor;
use crate::egraph::{ClassIx, Dag, DagNode};
use crate::region::{MAX_NODES, MAX_OPERANDS, legal};
use kiln_graph::{Op, OpKind};
use std::collections::BTreeMap;

/// Cuts kept a class.
const KEPT: usize = 10;
/// Cuts kept a class of those that compute the same anchors: flow alone would crowd out the cut that reads what is shared.
const KEPT_ALIKE: usize = 3;
/// Partial joins kept while the operands of one node are joined, in all and alike.
const PARTIAL: (usize, usize) = (24, 6);

/// The legal cuts of `class`, best flow first, given those of earlier classes. `flow` is the cost of having a class in memory.
pub(super) fn cuts_of(dag: &Dag, costs: &Costs, class: ClassIx, earlier: &[Vec<Cut>], flow: &[f64]) -> Vec<Cut> {
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
        let open = !matches!(own, Core::Closed) || kind == OpKind::Sink;
        let mut partial = vec![Cone::default()];
        let mut operands = node.operands.clone();
        operands.sort();
        operands.dedup();
        for operand in &operands {
            let mut options = vec![Cone::leaf(*operand)];
            if open && !is_literal(dag, *operand) {
                options.extend(earlier[operand.index()].iter().filter_map(|cut| as_operand(dag, cut, kind)));
            }
            let mut next: Vec<Cone> = Vec::new();
            for a in &partial {
                let fits = |c: &Cone| c.inner.len() < MAX_NODES && c.core.under(dag, at).is_some();
                next.extend(options.iter().filter_map(|b| a.join(b, dag)).filter(fits));
            }
            prune(&mut next, step(costs), flow);
            partial = next;
        }
        // All that survived the pruning may turn out illegal, or too large; the node alone is legal.
        if partial.iter().all(|cone| !cone.inner.is_empty()) {
            partial.push(Cone { leaves: operands, ..Cone::default() });
        }
        if kind == OpKind::Contract {
            partial.extend(attentions(dag, costs, node, earlier));
        }
        for cone in partial {
            let Some(cone) = cone.push(dag, at) else { continue };
            if cone.leaves.len() > 2 * MAX_OPERANDS {
                continue;
            }
            let Ok(anchor) = legal(&cone.sub(dag, &[class])) else { continue };
            let cost = costs.estimate(dag, &cone.inner, &cone.leaves, &[class], anchor).seconds;
            let flow = cost + cone.leaves.iter().map(|l| flow[l.index()]).sum::<f64>();
            let Cone { inner, leaves, anchors, .. } = cone;
            found.push(Cut { inner, leaves, anchors, anchor, cost, flow });
        }
    }
    let step = step(costs);
    let rank = |cut: &Cut| ((cut.flow / step).round() as u64, cut.inner.len());
    found.sort_by(|a, b| {
        let flow = rank(a).cmp(&rank(b)).then(a.flow.total_cmp(&b.flow));
        flow.then_with(|| a.leaves.cmp(&b.leaves)).then_with(|| a.inner.cmp(&b.inner))
    });
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|cut| seen.insert(cut.leaves.clone()));
    keep(&mut found, KEPT, KEPT_ALIKE, |cut| &cut.anchors);
    found
}

/// Cones of scores and their softmax below a contraction, which makes Attention of them; no smaller region could hold both.
fn attentions(dag: &Dag, costs: &Costs, product: &DagNode, earlier: &[Vec<Cut>]) -> Vec<Cone> {
    let cuts = |c: ClassIx, anchor: Anchor| earlier[c.index()].iter().filter(move |cut| cut.anchor == anchor);
    let read = |cone: Cone| product.operands.iter().try_fold(cone, |cone, c| cone.join(&Cone::leaf(*c), dag));
    let mut found = Vec::new();
    for weights in product.operands.iter().filter(|c| costs.streams(dag.class(**c).ty().dtype)) {
        let shape = &dag.class(*weights).ty().shape;
        for softmax in cuts(*weights, Anchor::Reduce) {
            for x in softmax.leaves.iter().filter(|c| dag.class(**c).ty().shape == *shape) {
                let joined =
                    cuts(*x, Anchor::Contract).filter_map(|scores| softmax.free().join(&scores.bare(dag), dag));
                found.extend(joined.filter_map(read));
            }
        }
    }
    found
}

/// A cut of an operand as the start of a cone under an op of `kind`; anchors take only what [`crate::region`] allows as prologue.
fn as_operand(dag: &Dag, cut: &Cut, kind: OpKind) -> Option<Cone> {
    let fits = match kind {
        OpKind::Conv | OpKind::Window | OpKind::Scatter => false,
        OpKind::Contract => {
            let narrow = |op: &Option<Op>| matches!(op, Some(Op::Cast { .. } | Op::Dequantize { .. }));
            cut.inner.iter().all(|i| narrow(&cut.node(dag, *i).op))
        }
        _ => true,
    };
    fits.then(|| {
        let core = match (cut.anchor, cut.anchors.last()) {
            // What is put on top sees the second contraction only.
            (Anchor::Attention, Some(product)) => Core::Heavy(*product),
            _ => cut.inner.iter().try_fold(Core::Map, |core, i| core.under(dag, *i)).unwrap_or(Core::Closed),
        };
        Cone { core, ..cut.free() }
    })
}

/// The step in which flows are compared. Along a chain, reading any of its values costs about the same; of such cuts the one that
/// computes least again must survive, because that value may be in memory anyway.
fn step(costs: &Costs) -> f64 {
    costs.launch() / 4.0
}

/// Keeps the cones whose leaves are cheapest to have; of equal ones, those that compute less again.
fn prune(cones: &mut Vec<Cone>, step: f64, flow: &[f64]) {
    if cones.len() <= PARTIAL.1 {
        return;
    }
    let rank = |c: &Cone| {
        let leaves = c.leaves.iter().map(|l| flow[l.index()]).sum::<f64>();
        ((leaves / step).round() as u64, c.inner.len())
    };
    cones.sort_by(|a, b| {
        rank(a).cmp(&rank(b)).then_with(|| a.leaves.cmp(&b.leaves)).then_with(|| a.inner.cmp(&b.inner))
    });
    cones.dedup_by(|a, b| a.inner == b.inner && a.leaves == b.leaves);
    keep(cones, PARTIAL.0, PARTIAL.1, |cone| &cone.anchors);
}

/// Keeps the first `all`, but of those with equal anchors only the first `alike`.
fn keep<T>(items: &mut Vec<T>, all: usize, alike: usize, anchors: impl Fn(&T) -> &[ClassIx]) {
    let mut seen: BTreeMap<Vec<ClassIx>, usize> = BTreeMap::new();
    items.retain(|item| {
        let n = seen.entry(anchors(item).to_vec()).or_insert(0);
        *n += 1;
        *n <= alike
    });
    items.truncate(all);
}
