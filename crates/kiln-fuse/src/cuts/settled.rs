//! Which classes are in memory under any cover: what cuts above them may take for granted, and where flow begins anew.
//!
//! Without it the flow of a class is the time of the whole model before it, counted once more at every value that is read twice: in the tenth of ten equal layers the cuts would
//! rank otherwise than in the first.

use super::cost::Costs;
use super::views::Views;
use crate::egraph::{ClassIx, Dag, DagNode};
use kiln_graph::{Op, OpKind, UnaryOp};

/// Elementwise ops between the exponential of a softmax and the contraction that sums values by it: a quotient, a product, casts.
const SOFTMAX_STEPS: usize = 4;

/// Whether each class is in memory whatever cover of `roots` is chosen: the roots, and what contractions and their like read from memory that no cover does without.
pub(super) fn settled(dag: &Dag, costs: &Costs, views: &Views, roots: &[ClassIx], free: &[bool]) -> Vec<bool> {
    // Only what some anchor reads can be so.
    let mut number: Vec<Option<usize>> = vec![None; dag.classes.len()];
    let mut read: Vec<ClassIx> = Vec::new();
    for node in dag.classes.iter().flat_map(|class| &class.nodes) {
        for operand in from_memory(dag, costs, views, node) {
            if !free[operand.index()] && number[operand.index()].is_none() {
                number[operand.index()] = Some(read.len());
                read.push(operand);
            }
        }
    }
    // Of each class, which of those are in memory whenever it is computed: for some node of each way, and so for all ways.
    let words = read.len().div_ceil(64);
    let mut needs: Vec<Vec<u64>> = Vec::with_capacity(dag.classes.len());
    for c in dag.indices() {
        let mut all: Option<Vec<u64>> = None;
        if !free[c.index()] {
            for node in &dag.class(c).nodes {
                let mut own = vec![0u64; words];
                for operand in &node.operands {
                    own.iter_mut().zip(&needs[operand.index()]).for_each(|(a, b)| *a |= b);
                }
                for n in from_memory(dag, costs, views, node).filter_map(|o| number[o.index()]) {
                    own[n / 64] |= 1 << (n % 64);
                }
                match &mut all {
                    Some(all) => all.iter_mut().zip(&own).for_each(|(a, b)| *a &= b),
                    None => all = Some(own),
                }
            }
        }
        needs.push(all.unwrap_or_default());
    }
    let mut settled = vec![false; dag.classes.len()];
    for root in roots {
        settled[root.index()] = true;
        for (n, class) in read.iter().enumerate() {
            settled[class.index()] |= needs[root.index()].get(n / 64).is_some_and(|word| word >> (n % 64) & 1 == 1);
        }
    }
    settled
}

/// The operands that a node's kernel reads from memory, whatever is fused with it.
fn from_memory<'a>(
    dag: &'a Dag,
    costs: &'a Costs,
    views: &'a Views,
    node: &'a DagNode,
) -> impl Iterator<Item = ClassIx> + 'a {
    use OpKind::{Alone, Contract, Conv, Opaque, Scatter, Window};
    let kind = node.op.as_ref().map(Op::kind);
    let reads = matches!(kind, Some(Contract | Conv | Window | Scatter | Alone | Opaque));
    let operands = if reads { &node.operands[..] } else { &[] };
    let read = operands.iter().copied().filter(move |c| match kind {
        Some(Contract) => !prologue(dag, costs, views, *c),
        // The indices may be made on the way.
        Some(Scatter) => node.operands[1] != *c,
        Some(Conv) => !views.partial(*c),
        _ => true,
    });
    read.map(move |c| match (kind, views.instead(dag, c)) {
        (Some(Conv), Some(leaf)) => leaf,
        _ => c,
    })
}

/// Whether a contraction's kernel may read something else than this operand: that of a cast or of a view, or what makes the weights of attention.
fn prologue(dag: &Dag, costs: &Costs, views: &Views, class: ClassIx) -> bool {
    let narrow = |n: &DagNode| matches!(n.op, Some(Op::Cast { .. } | Op::Dequantize { .. }));
    dag.class(class).nodes.iter().any(narrow)
        || views.partial(class)
        || costs.streams(dag.class(class).ty().dtype) && exponential(dag, class, SOFTMAX_STEPS)
}

/// Whether an exponential is at most so many elementwise ops below.
fn exponential(dag: &Dag, class: ClassIx, steps: usize) -> bool {
    dag.class(class).nodes.iter().any(|node| match &node.op {
        Some(Op::Unary(UnaryOp::Exp)) => true,
        Some(op) if op.kind() == OpKind::Elementwise && steps > 0 => {
            node.operands.iter().any(|o| exponential(dag, *o, steps - 1))
        }
        _ => false,
    })
}
