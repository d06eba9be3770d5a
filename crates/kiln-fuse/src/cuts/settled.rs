//! Which classes are in memory under any cover: what cuts above them may take for granted, and where flow begins anew.
//!
//! Without it the flow of a class is the time of the whole model before it, counted once more at every value that is read twice: in the tenth of ten equal layers the cuts would
//! rank otherwise than in the first.
//!
//! Beside what must be in memory, that is what any cover worth having has there: one of a value and what it is cast from, for a contraction reads either; and what a contraction makes
//! and is needed both before and behind something in memory, as a residual is, for else it would be computed twice.

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
            if needs[root.index()].get(n / 64).is_some_and(|word| word >> (n % 64) & 1 == 1) {
                cast(dag, *class).iter().for_each(|c| settled[c.index()] = true);
            }
        }
    }
    for class in residuals(dag, free, &settled) {
        settled[class.index()] = true;
    }
    settled
}

/// What is dear to compute, not in memory by itself, and read both by what something in memory is made of and beside that.
fn residuals(dag: &Dag, free: &[bool], settled: &[bool]) -> Vec<ClassIx> {
    let mut dear: Vec<bool> = Vec::with_capacity(dag.classes.len());
    let mut users = vec![0; dag.classes.len()];
    for c in dag.indices() {
        // What is behind the epilogue of a product's kernel reads that from memory.
        let below = |o: &ClassIx| dear[o.index()] && !settled[o.index()];
        let heavy = |node: &DagNode| match node.op.as_ref().map(Op::kind) {
            Some(OpKind::Contract | OpKind::Conv) => true,
            Some(OpKind::Elementwise | OpKind::View) => node.operands.iter().any(below),
            _ => false,
        };
        let class = dag.class(c);
        dear.push(!free[c.index()] && !class.tuple && class.nodes.iter().all(heavy));
        let mut read: Vec<ClassIx> = class.nodes.iter().flat_map(|node| &node.operands).copied().collect();
        read.sort();
        read.dedup();
        read.iter().for_each(|o| users[o.index()] += 1);
    }
    let candidate = |c: &ClassIx| dear[c.index()] && !settled[c.index()] && users[c.index()] > 1;
    let candidates: Vec<ClassIx> = dag.indices().filter(candidate).collect();
    candidates.chunks(64).flat_map(|some| across(dag, free, settled, some)).collect()
}

/// Which of up to 64 classes an e-node reads beside something that needs them by way of memory.
fn across(dag: &Dag, free: &[bool], settled: &[bool], classes: &[ClassIx]) -> Vec<ClassIx> {
    let bit = |c: &ClassIx| classes.binary_search(c).map_or(0, |n| 1u64 << n);
    // Whatever way a class is computed: the classes that it is computed from, and those by way of memory.
    let mut needs: Vec<[u64; 2]> = Vec::with_capacity(dag.classes.len());
    let mut found = 0;
    for c in dag.indices() {
        let mut all = [if free[c.index()] { 0 } else { u64::MAX }; 2];
        for node in &dag.class(c).nodes {
            let reads = node.operands.iter().map(|o| {
                let [from, stored] = needs[o.index()];
                let from = from | bit(o);
                [from, if settled[o.index()] { stored | from } else { stored }]
            });
            let reads: Vec<[u64; 2]> = reads.collect();
            let own = reads.iter().fold([0, 0], |a, b| [a[0] | b[0], a[1] | b[1]]);
            found |= node.operands.iter().fold(0, |read, o| read | bit(o)) & own[1];
            all = [all[0] & own[0], all[1] & own[1]];
        }
        needs.push(if dag.class(c).nodes.is_empty() { [0, 0] } else { all });
    }
    classes.iter().copied().filter(|c| bit(c) & found != 0).collect()
}

/// A class and what casts make it from.
fn cast(dag: &Dag, class: ClassIx) -> Vec<ClassIx> {
    let mut all = vec![class];
    let mut next = 0;
    while let Some(c) = all.get(next) {
        let narrow = |n: &&DagNode| matches!(n.op, Some(Op::Cast { .. } | Op::Dequantize { .. }));
        let from = dag.class(*c).nodes.iter().filter(narrow).map(|n| n.operands[0]).filter(|o| !all.contains(o));
        let from: Vec<ClassIx> = from.collect();
        all.extend(from);
        next += 1;
    }
    all
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

/// Whether a contraction's kernel may read something else than this operand or what it is cast from: that of a view, or what makes the weights of attention.
fn prologue(dag: &Dag, costs: &Costs, views: &Views, class: ClassIx) -> bool {
    cast(dag, class).iter().any(|c| views.partial(*c))
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
