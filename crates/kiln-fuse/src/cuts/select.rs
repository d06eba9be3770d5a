//! Choice of a cover: area-flow dynamic programming from a few seeds, repeated with the sharing that the last cover had, each time refined by exact
//! local cost.
//!
//! The flow of a class is the modelled time of everything it needs, with the time of a shared operand divided among the kernels that read
//! it. Ranking by flow rather than by own cost is what makes a kernel worth growing even though its own time rises. At first only operands
//! of anchors without prologue count as shared, as those are in memory under any cover: users that end up in one kernel do not share, and
//! counting them would make the flow of what they read look cheap. The cover of each seed is then priced by those who make kernels ([`super::priced`]).
//!
//! Flow begins anew at what is in memory under any cover, so that only local cost counts, and costs that differ by rounding alone are equal: equal layers get equal kernels.

use super::cost::{Costs, weight};
use super::cut::{Cut, is_literal, subgraph};
use super::enumerate::Ranking;
use super::likeness::Likeness;
use super::memo::Memo;
use super::priced::{Without, priced};
use super::refine::{GAIN, refine};
use super::rivals::rivals;
use super::settled::settled;
use super::views::Views;
use crate::egraph::{ClassIx, Dag, DagNode, KernelPlace};
use crate::region::served;
use crate::{Anchor, Error, Options, Result};
use kiln_graph::{Op, OpKind};
use std::collections::BTreeSet;

/// How a class gets into memory.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// It is an input, a weight, a literal, or folded when the plan is built.
    Free,
    /// The same memory as another class under another shape.
    Alias(ClassIx),
    /// The root of a kernel.
    Region(Cut),
    /// A result of an op with several.
    Part(ClassIx),
    /// An op with several results, by node number.
    Step(u16),
}

impl Choice {
    /// Anchors that it computes.
    pub fn anchors(&self) -> &[ClassIx] {
        match self {
            Choice::Region(cut) => &cut.anchors,
            _ => &[],
        }
    }

    /// The classes that have to be in memory for it.
    pub fn needs<'a>(&'a self, dag: &'a Dag, class: ClassIx) -> &'a [ClassIx] {
        match self {
            Choice::Free => &[],
            Choice::Alias(of) | Choice::Part(of) => std::slice::from_ref(of),
            Choice::Region(cut) => &cut.leaves,
            Choice::Step(n) => &dag.class(class).nodes[usize::from(*n)].operands,
        }
    }
}

/// One way to get a class into memory, with its own modelled seconds.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub seconds: f64,
    pub choice: Choice,
}

/// The chosen way for every class that has to be in memory.
#[derive(Clone, Debug)]
pub(crate) struct Cover {
    pub choices: Vec<Option<Choice>>,
    /// Modelled seconds of all kernels, with charges for what is computed twice.
    pub seconds: f64,
    /// What there was to choose from for each class, and which of it was chosen.
    pub(super) candidates: Vec<Vec<Candidate>>,
    pub(super) chosen: Vec<Option<usize>>,
}

/// Repetitions of enumeration and choice.
const PASSES: usize = 4;
/// From this pass on, what the last cover has in memory counts as read by that many more kernels, so that cuts which end at it are among
/// the candidates.
const SETTLE: (usize, f64) = (2, 8.0);
/// Modelled time of a step of several results: control flow, or top-k.
const STEP_SECONDS: f64 = 1e-4;
/// Folding may not grow data by more than this factor (a dequantized int8 weight), or it would trade memory traffic for arithmetic.
const FOLD_GROWTH: f64 = 4.0;
/// Operations of an element from which its value is worth keeping, whatever it is computed from.
const DEAR: f64 = 12.0;
/// Folded data below this size is always worth it, in bytes.
const FOLD_SMALL: f64 = 4096.0;
/// Most operations of a step on the way to a folded value: beyond it the op stays in the plan.
const FOLD_OPERATIONS: f64 = (1u64 << 32) as f64;
/// Elements that a value on the way to a folded one may have, whatever it is computed from.
const FOLD_SCRATCH: f64 = (1 << 22) as f64;

/// Chooses a cover of `roots`, the first of the result. With `several`, others follow that are made of other cuts.
pub(crate) fn select(
    dag: &Dag,
    costs: &Costs,
    roots: &[ClassIx],
    options: &Options,
    several: bool,
) -> Result<Vec<Cover>> {
    let free = free_classes(dag, costs, options);
    let views = Views::of(dag, costs);
    let (settled, made) = settled(dag, costs, &views, roots, &free);
    let likeness = Likeness::of(dag);
    let ranking = Ranking { dag, costs, likeness: &likeness, views: &views, made: &made };
    let mut memo = Memo::new(&ranking);
    let [apart, merged] = [false, true].map(|parts| shared(dag, &views, &made, parts));
    // What merged products count as read by, however many of the readers of their parts are one kernel.
    let floor = apart.iter().zip(&merged).map(|(a, b)| if a == b { 1.0 } else { *b }).collect::<Vec<_>>();
    let mut seeds = vec![(apart, vec![1.0; dag.classes.len()])];
    if floor.iter().any(|n| *n > 1.0) {
        seeds.push((merged, floor));
    }
    let mut covers: Vec<Cover> = Vec::new();
    for (mut refs, floor) in seeds {
        let mut best: Option<Cover> = None;
        for pass in 0..PASSES {
            let (candidates, chosen) = candidates(&ranking, &mut memo, &free, &settled, &refs);
            let (chosen, charged) = refine(dag, costs, roots, &candidates, chosen, GAIN);
            let (mut cover, used) = cover(dag, roots, candidates, chosen)?;
            cover.seconds += charged;
            let weight = if pass + 1 >= SETTLE.0 { SETTLE.1 } else { 1.0 };
            let next: Vec<f64> = used.iter().zip(&floor).map(|(n, least)| f64::max(n * weight, *least)).collect();
            if best.as_ref().is_none_or(|b| cover.seconds < b.seconds * (1.0 - GAIN)) {
                best = Some(cover);
            }
            // Another pass would do the same.
            if next == refs {
                break;
            }
            refs = next;
        }
        covers.extend(best);
    }
    if costs.asks() {
        covers = covers.into_iter().map(|cover| asked(dag, costs, roots, cover)).collect::<Result<_>>()?;
    }
    // Of equal ones the first seed's.
    let better = |a: usize, b: usize| if covers[b].seconds < covers[a].seconds * (1.0 - GAIN) { b } else { a };
    let best = (0..covers.len())
        .reduce(better)
        .ok_or_else(|| Error::NoCover { value: "the model".into(), why: "it has no outputs".into() })?;
    covers.swap(0, best);
    match several {
        true => covers.extend(rivals(dag, costs, roots, &covers[0])?),
        false => covers.truncate(1),
    }
    Ok(covers)
}

/// A cover by what those who make kernels say of it. One of whose kernels nobody makes stays: whoever lowers it says which and why.
fn asked(dag: &Dag, costs: &Costs, roots: &[ClassIx], cover: Cover) -> Result<Cover> {
    let start = (cover.candidates.clone(), cover.chosen.clone());
    Ok(priced(dag, costs, roots, start, &Without::new())?.unwrap_or(cover))
}

/// Users of each class that has to be in memory because a user takes it in no other way; 1 for the rest. Parts of merged products are
/// such users only if `parts`: they may end up in one kernel.
fn shared(dag: &Dag, views: &Views, made: &[bool], parts: bool) -> Vec<f64> {
    let mut users = vec![0.0; dag.classes.len()];
    let mut stored = vec![false; dag.classes.len()];
    for c in dag.indices() {
        let mut read: Vec<ClassIx> = Vec::new();
        for node in &dag.class(c).nodes {
            read.extend(&node.operands);
            let kind = node.op.as_ref().map(Op::kind);
            use OpKind::{Alone, Contract, Conv, Opaque, Scatter, Window};
            if matches!(kind, Some(Contract | Conv | Window | Scatter | Alone | Opaque)) {
                let instead = |o: &ClassIx| match kind {
                    Some(Conv) => views.instead(dag, *o).unwrap_or(*o),
                    _ => *o,
                };
                // A convolution of one tap is a contraction, too.
                let taps = || dag.class(node.operands[1]).ty().shape[2..].iter();
                let contracts = kind == Some(Contract) || kind == Some(Conv) && taps().all(|taps| taps.is(1));
                let seen = |o: &ClassIx| match kind {
                    _ if contracts && made[instead(o).index()] => true,
                    Some(Contract | Conv) => views.partial(*o),
                    Some(Scatter) => node.operands[1] == *o,
                    _ => false,
                };
                node.operands.iter().filter(|o| !seen(o)).for_each(|o| stored[instead(o).index()] = true);
            }
            // Results of one op, or of one kernel, share it.
            if node.op.is_none() && !dag.class(c).tuple {
                node.operands.iter().for_each(|o| stored[o.index()] = true);
            }
            // What can be had otherwise is a part of merged products.
            if let (true, Some(Op::Slice { .. }), [of]) =
                (parts && dag.class(c).nodes.len() > 1, &node.op, &node.operands[..])
            {
                stored[of.index()] = true;
            }
        }
        read.sort();
        read.dedup();
        read.iter().for_each(|o| users[o.index()] += 1.0);
    }
    users.into_iter().zip(stored).map(|(n, stored)| if stored { f64::max(n, 1.0) } else { 1.0 }).collect()
}

/// Classes that need no kernel.
fn free_classes(dag: &Dag, costs: &Costs, options: &Options) -> Vec<bool> {
    // Bytes that a weight-only class is computed from, at least: of weights, and of functions of positions that are dear to compute again.
    // Plain functions of positions, a causal mask for one, are not worth memory: kernels compute them, and see what they are.
    // What a product reads is in memory anyway.
    let products = dag.classes.iter().flat_map(|class| &class.nodes).filter(|n| is_product(n));
    let read: BTreeSet<ClassIx> = products.flat_map(|n| n.operands.iter().copied()).collect();
    let mut source = vec![0.0f64; dag.classes.len()];
    let mut free = Vec::with_capacity(dag.classes.len());
    for c in dag.indices() {
        let class = dag.class(c);
        let named = class.nodes.iter().any(|n| matches!(n.op, Some(Op::Input { .. } | Op::Weight { .. })));
        if class.weight_only && !class.tuple {
            source[c.index()] = class
                .nodes
                .iter()
                .map(|n| match &n.op {
                    Some(Op::Weight { .. } | Op::Const { .. }) => costs.bytes(c),
                    Some(op) if class.literal && (is_dear(op) || read.contains(&c)) => costs.bytes(c),
                    _ => n.operands.iter().map(|o| source[o.index()]).sum(),
                })
                .fold(f64::INFINITY, f64::min);
        }
        let bytes = costs.bytes(c);
        let computable = |n: &DagNode| n.operands.iter().all(|o| dag.class(*o).weight_only);
        let folds = class.weight_only
            && !class.tuple
            && class.ty().const_shape().is_some()
            && class
                .nodes
                .iter()
                .any(|n| n.op.is_some() && computable(n) && n.operands.iter().all(|o| is_fixed(dag, *o)))
            && bytes <= FOLD_GROWTH * source[c.index()] + FOLD_SMALL
            && class.effort.operations <= FOLD_OPERATIONS
            && class.effort.elements <= FOLD_GROWTH * source[c.index()] + FOLD_SCRATCH
            && bytes <= options.fold_bytes as f64;
        free.push(named || is_literal(dag, c) || folds);
    }
    free
}

fn is_product(node: &DagNode) -> bool {
    node.op.as_ref().is_some_and(|op| matches!(op.kind(), OpKind::Contract | OpKind::Conv))
}

/// Whether a function of positions is worth memory rather than computing again: it takes long, or a kernel of its own.
fn is_dear(op: &Op) -> bool {
    weight(op, 1.0) >= DEAR || Anchor::of(op.kind()).is_some()
}

/// Whether a class has a shape that is known at build time.
fn is_fixed(dag: &Dag, c: ClassIx) -> bool {
    dag.class(c).types.iter().all(|t| t.const_shape().is_some())
}

/// Every class's candidates, best flow first, and the number of the one with the least flow (none where there is no way).
fn candidates(
    ranking: &Ranking,
    memo: &mut Memo,
    free: &[bool],
    settled: &[bool],
    refs: &[f64],
) -> (Vec<Vec<Candidate>>, Vec<Option<usize>>) {
    let Ranking { dag, costs, .. } = *ranking;
    let mut flow: Vec<f64> = Vec::with_capacity(dag.classes.len());
    let mut cuts: Vec<Vec<Cut>> = Vec::with_capacity(dag.classes.len());
    let mut all = Vec::with_capacity(dag.classes.len());
    let mut chosen = Vec::with_capacity(dag.classes.len());
    for c in dag.indices() {
        let class = dag.class(c);
        let own = if class.tuple { Vec::new() } else { memo.cuts_of(c, &cuts, &flow) };
        let mut ways: Vec<Candidate> = Vec::new();
        if let Some(place) = dag.kernel(c) {
            ways.extend(written(dag, costs, place));
        } else if free[c.index()] {
            ways.push(Candidate { seconds: 0.0, choice: Choice::Free });
        } else {
            for (i, node) in class.nodes.iter().enumerate() {
                let (seconds, choice) = match &node.op {
                    None => (0.0, Choice::Part(node.operands[0])),
                    Some(Op::Reshape { .. }) => (0.0, Choice::Alias(node.operands[0])),
                    Some(op) if op.kind() == OpKind::Alone => {
                        let moved: f64 = costs.bytes(c) + costs.bytes(node.operands[0]);
                        (costs.launch() + costs.transfer(moved), Choice::Step(i as u16))
                    }
                    Some(_) if class.tuple => (STEP_SECONDS, Choice::Step(i as u16)),
                    Some(_) => continue,
                };
                ways.push(Candidate { seconds, choice });
            }
            ways.extend(own.iter().map(|cut| Candidate { seconds: cut.cost, choice: Choice::Region(cut.clone()) }));
        }
        let total = |w: &Candidate| w.seconds + w.choice.needs(dag, c).iter().map(|l| flow[l.index()]).sum::<f64>();
        let best = (0..ways.len()).reduce(|a, b| if total(&ways[b]) < total(&ways[a]) * (1.0 - GAIN) { b } else { a });
        flow.push(match best {
            Some(_) if settled[c.index()] => 0.0,
            Some(i) => total(&ways[i]) / refs[c.index()],
            None => f64::INFINITY,
        });
        chosen.push(best);
        all.push(ways);
        cuts.push(own);
    }
    (all, chosen)
}

/// The kernel of a function at its place. It computes all of its results, whoever reads them.
fn written(dag: &Dag, costs: &Costs, place: &KernelPlace) -> Option<Candidate> {
    let KernelPlace { inner, leaves, outputs, .. } = place;
    let anchor = served(&subgraph(dag, inner, leaves, outputs)).ok()?;
    let cost = costs.written(dag, place, anchor);
    let computed = inner.iter().filter(|(class, node)| {
        let op = dag.class(*class).nodes[usize::from(*node)].op.as_ref();
        op.is_some_and(|op| Anchor::of(op.kind()).is_some())
    });
    let anchors = computed.map(|i| i.0).collect();
    let cut = Cut { inner: inner.clone(), leaves: leaves.clone(), anchors, anchor, cost, flow: cost };
    Some(Candidate { seconds: cost, choice: Choice::Region(cut) })
}

/// The classes that `roots` need under the choices, and how many kernels read each.
pub(super) fn cover(
    dag: &Dag,
    roots: &[ClassIx],
    candidates: Vec<Vec<Candidate>>,
    chosen: Vec<Option<usize>>,
) -> Result<(Cover, Vec<f64>)> {
    let mut used = vec![0.0; dag.classes.len()];
    let mut choices: Vec<Option<Choice>> = vec![None; dag.classes.len()];
    let mut seconds = 0.0;
    for root in roots {
        used[root.index()] += 1.0;
    }
    for c in dag.indices().rev() {
        if used[c.index()] == 0.0 {
            continue;
        }
        let way = chosen[c.index()].and_then(|i| candidates[c.index()].get(i)).ok_or_else(|| {
            let op = dag.class(c).nodes.iter().find_map(|n| n.op.as_ref()).map_or("a value", Op::name);
            let ty = dag.class(c).types.first().map_or(String::new(), ToString::to_string);
            Error::NoCover { value: format!("{op} {ty}"), why: "no legal region contains it".into() }
        })?;
        way.choice.needs(dag, c).iter().for_each(|l| used[l.index()] += 1.0);
        seconds += way.seconds;
        choices[c.index()] = Some(way.choice.clone());
    }
    Ok((Cover { choices, seconds, candidates, chosen }, used))
}
