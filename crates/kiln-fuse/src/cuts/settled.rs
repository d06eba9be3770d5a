//! Which classes are in memory under any cover: what cuts above them may take for granted, and where flow begins anew.
//!
//! Without it the flow of a class is the time of the whole model before it, counted once more at every value that is read twice: in the tenth of ten equal layers the cuts would
//! rank otherwise than in the first.
//!
//! Beside what must be in memory, that is what any cover worth having has there: one of a value and what it is cast from, for a contraction reads either; and what a contraction makes
//! and is needed both before and behind something in memory, as a residual is, for else it would be computed twice. Not what elementwise ops make of such a value where only contractions
//! read it from memory: their kernels may make it themselves.

use super::cost::Costs;
use super::views::Views;
use crate::egraph::{ClassIx, Dag, DagNode};
use crate::region::repeats;
use kiln_graph::{Op, OpKind, UnaryOp};

/// Elementwise ops between the exponential of a softmax and the contraction that sums values by it: a quotient, a product, casts.
const SOFTMAX_STEPS: usize = 4;
/// Elementwise ops that make an operand of a contraction, one behind the other.
const MADE_STEPS: usize = 4;

/// Whether each class is in memory whatever cover of `roots` is chosen: the roots, and what contractions and their like read from memory that no cover does without.
/// Then, whether a contraction may make the class instead of reading it.
pub(super) fn settled(
    dag: &Dag,
    costs: &Costs,
    views: &Views,
    roots: &[ClassIx],
    free: &[bool],
) -> (Vec<bool>, Vec<bool>) {
    let nothing = vec![false; dag.classes.len()];
    let plain = Reading { dag, costs, views, stored: &nothing, alike: false };
    if !costs.makes() {
        return (plain.settled(roots, free), nothing);
    }
    let all = Reading { alike: true, ..plain }.settled(roots, free);
    let reading = Reading { stored: &all, alike: true, ..plain };
    let mut made = nothing.clone();
    for node in dag.classes.iter().flat_map(|class| &class.nodes) {
        let sides = (0..node.operands.len().min(2)).filter(|side| reading.makes(node, *side));
        sides.for_each(|side| made[node.operands[side].index()] = true);
    }
    let settled = if made.contains(&true) { reading } else { plain }.settled(roots, free);
    (settled, made)
}

/// What kernels read from memory.
#[derive(Clone, Copy)]
struct Reading<'a> {
    dag: &'a Dag,
    costs: &'a Costs<'a>,
    views: &'a Views,
    /// Of what is there contractions may make their operands.
    stored: &'a [bool],
    /// Whether another shape, order or type of a value counts as that value.
    alike: bool,
}

impl Reading<'_> {
    fn settled(&self, roots: &[ClassIx], free: &[bool]) -> Vec<bool> {
        let dag = self.dag;
        // Only what some anchor reads can be so.
        let mut number: Vec<Option<usize>> = vec![None; dag.classes.len()];
        let mut read: Vec<ClassIx> = Vec::new();
        for node in dag.classes.iter().flat_map(|class| &class.nodes) {
            for operand in self.operands_read(node) {
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
                    for n in self.operands_read(node).filter_map(|o| number[o.index()]) {
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
        for class in self.residuals(free, &settled) {
            settled[class.index()] = true;
        }
        settled
    }

    /// What is dear to compute, not in memory by itself, and read both by what something in memory is made of and beside that.
    fn residuals(&self, free: &[bool], settled: &[bool]) -> Vec<ClassIx> {
        let dag = self.dag;
        let mut dear: Vec<bool> = Vec::with_capacity(dag.classes.len());
        let mut users = vec![0; dag.classes.len()];
        for c in dag.indices() {
            // What is behind the epilogue of a product's kernel reads that from memory.
            let below = |o: &ClassIx| dear[o.index()] && !settled[o.index()] && !self.stored[o.index()];
            let heavy = |node: &DagNode| match node.op.as_ref().map(Op::kind) {
                Some(OpKind::Contract | OpKind::Conv) => true,
                Some(OpKind::View) if self.alike && matches!(node.op, Some(Op::Broadcast { .. })) => false,
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
        candidates.chunks(64).flat_map(|some| self.across(free, settled, some)).collect()
    }

    /// Which of up to 64 classes an e-node reads beside something that needs them by way of memory.
    fn across(&self, free: &[bool], settled: &[bool], classes: &[ClassIx]) -> Vec<ClassIx> {
        let dag = self.dag;
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
            let turned = |node: &&DagNode| self.alike && matches!(node.op, Some(Op::Permute { .. }));
            let turned = dag.class(c).nodes.iter().filter(turned);
            all[0] |= turned.fold(0, |same, node| same | bit(&node.operands[0]));
            needs.push(if dag.class(c).nodes.is_empty() { [0, 0] } else { all });
        }
        classes.iter().copied().filter(|c| bit(c) & found != 0).collect()
    }

    /// The operands that a node's kernel reads from memory, whatever is fused with it.
    fn operands_read<'n>(&'n self, node: &'n DagNode) -> impl Iterator<Item = ClassIx> + 'n {
        use OpKind::{Alone, Contract, Conv, Opaque, Scatter, Window};
        let kind = node.op.as_ref().map(Op::kind);
        let reads = matches!(kind, Some(Contract | Conv | Window | Scatter | Alone | Opaque));
        let operands = if reads { &node.operands[..] } else { &[] };
        let read = operands.iter().enumerate().filter(move |(side, c)| match kind {
            Some(Contract) => !self.prologue(**c) && !self.makes(node, *side),
            // The indices may be made on the way.
            Some(Scatter) => node.operands[1] != **c,
            Some(Conv) => !self.views.partial(**c),
            _ => true,
        });
        read.map(move |(_, c)| match (kind, self.views.instead(self.dag, *c)) {
            (Some(Conv), Some(leaf)) => leaf,
            _ => self.unshaped(*c),
        })
    }

    /// The class that a kernel reads instead of one that is no more than another shape, or a cast, of that.
    fn unshaped(&self, class: ClassIx) -> ClassIx {
        match &self.dag.class(class).nodes[..] {
            [node] if self.alike && matches!(node.op, Some(Op::Reshape { .. } | Op::Cast { .. })) => {
                self.unshaped(node.operands[0])
            }
            _ => class,
        }
    }

    /// Whether a contraction's kernel may read something else than this operand or what it is cast from: that of a view, or what makes the weights of attention.
    fn prologue(&self, class: ClassIx) -> bool {
        cast(self.dag, class).iter().any(|c| self.views.partial(*c))
            || self.costs.streams(self.dag.class(class).ty().dtype) && exponential(self.dag, class, SOFTMAX_STEPS)
    }

    /// Whether a contraction's kernel may make an operand of something in memory.
    fn makes(&self, node: &DagNode, side: usize) -> bool {
        let Some(Op::Contract { spec, .. }) = &node.op else { return false };
        let labels = [&spec.lhs, &spec.rhs][side];
        self.made(node.operands[side], &|axis| spec.out.contains(&labels[axis]), (MADE_STEPS, false))
    }

    /// Whether at most so many elementwise ops, not all of them casts, make a class of one that is stored, and of what is broadcast along one of the axes that are `kept`.
    fn made(&self, class: ClassIx, kept: &dyn Fn(usize) -> bool, (steps, works): (usize, bool)) -> bool {
        let ty = |c: ClassIx| self.dag.class(c).ty();
        let repeated = |c: ClassIx, node: &DagNode| {
            matches!(node.op, Some(Op::Broadcast { .. })) && repeats(ty(node.operands[0]), ty(c), kept)
        };
        let made = |node: &DagNode| {
            let elementwise = node.op.as_ref().is_some_and(|op| op.kind() == OpKind::Elementwise);
            if !elementwise || node.operands.iter().any(|c| ty(*c).shape != ty(class).shape) {
                return false;
            }
            let beside = |c: &ClassIx| self.dag.class(*c).nodes.iter().any(|node| repeated(*c, node));
            let mut of = node.operands.iter().copied().filter(|c| !beside(c));
            let (Some(of), None) = (of.next(), of.next()) else { return false };
            let works = works || !matches!(node.op, Some(Op::Cast { .. }));
            works && self.stored[of.index()] || steps > 1 && self.made(of, kept, (steps - 1, works))
        };
        self.dag.class(class).nodes.iter().any(made)
    }
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
