//! From a cover to launches: a value that one kernel computes on the way and another computes for itself becomes a second result of the
//! first. So does what is made of the rows of an attention's scores, which then need not be in memory. Parts of what a kernel of twins makes are written by that kernel.

use super::cost::Costs;
use super::cut::{Cone, Inner, subgraph};
use super::select::{Choice, Cover};
use crate::Anchor;
use crate::egraph::{ClassIx, Dag, DagNode};
use crate::region::legal;
use kiln_graph::Op;
use std::collections::{BTreeMap, BTreeSet};

/// One thing to launch.
#[derive(Clone, Debug)]
pub(crate) enum Launch {
    /// A region; with the class of a kernel that somebody wrote, if it is for one.
    Region { inner: Vec<Inner>, leaves: Vec<ClassIx>, outputs: Vec<ClassIx>, anchor: Anchor, kernel: Option<ClassIx> },
    /// An op with several results: its class and node.
    Step(ClassIx, u16),
}

impl Launch {
    fn reads<'a>(&'a self, dag: &'a Dag) -> &'a [ClassIx] {
        match self {
            Launch::Region { leaves, .. } => leaves,
            Launch::Step(class, node) => &dag.class(*class).nodes[usize::from(*node)].operands,
        }
    }

    /// Modelled seconds; of steps none.
    pub fn seconds(&self, dag: &Dag, costs: &Costs) -> f64 {
        match self {
            Launch::Region { inner, leaves, outputs, anchor, .. } => {
                costs.estimate(dag, inner, leaves, outputs, *anchor).seconds
            }
            Launch::Step(..) => 0.0,
        }
    }

    fn writes(&self) -> &[ClassIx] {
        match self {
            Launch::Region { outputs, .. } => outputs,
            Launch::Step(class, _) => std::slice::from_ref(class),
        }
    }
}

/// The launches of a cover in an order in which they can run.
pub(crate) fn share(dag: &Dag, costs: &Costs, cover: &Cover, roots: &[ClassIx]) -> Vec<Launch> {
    let mut launches: BTreeMap<ClassIx, Launch> = BTreeMap::new();
    for c in dag.indices() {
        match &cover.choices[c.index()] {
            Some(Choice::Region(cut)) => {
                let (inner, leaves, anchor) = (cut.inner.clone(), cut.leaves.clone(), cut.anchor);
                let kernel = dag.kernel(c).map(|_| c);
                let outputs = dag.kernel(c).map_or_else(|| vec![c], |place| place.outputs.clone());
                launches.insert(c, Launch::Region { inner, leaves, outputs, anchor, kernel });
            }
            Some(Choice::Step(node)) => {
                launches.insert(c, Launch::Step(c, *node));
            }
            _ => {}
        }
    }
    let own: Vec<ClassIx> = launches.keys().copied().collect();
    for small in &own {
        for large in own.iter().filter(|l| *l > small) {
            if let Some(merged) = absorb(dag, costs, launches.get(large), launches.get(small)) {
                let (a, b) = (launches.insert(*large, merged), launches.remove(small));
                if order(dag, cover, &launches).is_some() {
                    break;
                }
                launches.extend([(*large, a), (*small, b)].into_iter().filter_map(|(c, l)| Some((c, l?))));
            }
        }
    }
    if costs.extent().is_full() {
        stream(dag, costs, cover, roots, &mut launches);
        write_parts(dag, cover, roots, &mut launches);
    }
    let order = order(dag, cover, &launches).unwrap_or_else(|| launches.keys().copied().collect());
    order.iter().filter_map(|c| launches.get(c).cloned()).collect()
}

/// Has kernels of twins write the parts of their result that others only copy; the result itself is in memory only if something else reads it.
fn write_parts(dag: &Dag, cover: &Cover, roots: &[ClassIx], launches: &mut BTreeMap<ClassIx, Launch>) {
    // The copies of parts of each result, and the reshapes between.
    let mut copies: BTreeMap<ClassIx, (Vec<ClassIx>, Vec<Inner>)> = BTreeMap::new();
    for (c, launch) in launches.iter() {
        let Launch::Region { inner, leaves, kernel: None, .. } = launch else { continue };
        let cone = Cone { inner: inner.clone(), leaves: leaves.clone(), ..Cone::default() };
        let Some((result, views)) = cone.copied(dag).map(|of| aliased(dag, cover, of)) else { continue };
        let (parts, nodes) = copies.entry(result).or_default();
        parts.push(*c);
        nodes.extend(views.iter().chain(inner));
    }
    for (result, (parts, nodes)) in copies {
        let Some(Launch::Region { inner, leaves, outputs, anchor: Anchor::Contract, kernel: None }) =
            launches.get(&result)
        else {
            continue;
        };
        let leaves = leaves.clone();
        let (mut inner, mut outputs) = ([&inner[..], &nodes].concat(), [&outputs[..], &parts].concat());
        inner.sort();
        inner.dedup();
        outputs.sort();
        let same = |c: &ClassIx| aliased(dag, cover, *c).0 == result;
        let mut others = launches.iter().filter(|(root, _)| !parts.contains(root));
        if !roots.iter().any(same) && !others.any(|(_, launch)| launch.reads(dag).iter().any(same)) {
            outputs.retain(|own| *own != result);
        }
        if legal(&subgraph(dag, &inner, &leaves, &outputs)) == Ok(Anchor::Contract) {
            parts.iter().for_each(|part| drop(launches.remove(part)));
            launches.insert(result, Launch::Region { inner, leaves, outputs, anchor: Anchor::Contract, kernel: None });
        }
    }
}

/// The class whose memory a class is under another shape, and the reshapes between them.
fn aliased(dag: &Dag, cover: &Cover, mut c: ClassIx) -> (ClassIx, Vec<Inner>) {
    let mut views = vec![];
    while let Some(Choice::Alias(of)) = &cover.choices[c.index()] {
        let is = |node: &DagNode| matches!(node.op, Some(Op::Reshape { .. })) && node.operands == [*of];
        views.extend(dag.class(c).nodes.iter().position(is).map(|n| (c, n as u16)));
        c = *of;
    }
    (c, views)
}

/// Makes one attention of the kernels that read the same scores, where a cover, which has one root a kernel, has them in memory for several.
fn stream(dag: &Dag, costs: &Costs, cover: &Cover, roots: &[ClassIx], launches: &mut BTreeMap<ClassIx, Launch>) {
    let of = |launch: &Launch, anchor: Anchor| matches!(launch, Launch::Region { anchor: own, .. } if *own == anchor);
    let all: Vec<ClassIx> = launches.keys().copied().collect();
    for scores in all {
        let Some(Launch::Region { outputs, anchor: Anchor::Contract, .. }) = launches.get(&scores) else { continue };
        let [x] = outputs[..] else { continue };
        let readers = |launches: &BTreeMap<ClassIx, Launch>, c: ClassIx| -> Vec<ClassIx> {
            launches.iter().filter(|(_, launch)| launch.reads(dag).contains(&c)).map(|(root, _)| *root).collect()
        };
        let mut parts = readers(launches, x);
        if roots.contains(&x) || !parts.iter().all(|c| launches.get(c).is_some_and(|l| of(l, Anchor::Reduce))) {
            continue;
        }
        // The product: one that computes the scores again, or reads the weights, which nothing else may then read.
        let again = launches.iter().find(|(_, launch)| {
            of(launch, Anchor::Attention)
                && matches!(launch, Launch::Region { inner, .. } if inner.binary_search_by_key(&x, |i| i.0).is_ok())
        });
        let mut weights = None;
        match again {
            Some((root, _)) => parts.push(*root),
            None => {
                let written: Vec<ClassIx> =
                    parts.iter().filter_map(|c| launches.get(c)).flat_map(Launch::writes).copied().collect();
                let found = written.into_iter().find_map(|w| match readers(launches, w)[..] {
                    [root] if !roots.contains(&w) && costs.streams(dag.class(w).ty().dtype) => Some((w, root)),
                    _ => None,
                });
                let Some((w, root)) = found else { continue };
                weights = Some(w);
                parts.extend([root, scores]);
            }
        }
        let Some(merged) = together(dag, &parts, launches, weights) else { continue };
        let gone: Vec<ClassIx> = parts.iter().copied().chain([scores]).collect();
        let seconds = |launch: &Launch| launch.seconds(dag, costs);
        let before = launches.clone();
        let mut apart = 0.0;
        for root in &gone {
            apart += launches.remove(root).as_ref().map_or(0.0, seconds);
        }
        let root = parts.iter().copied().max().unwrap_or(scores);
        let cheaper = seconds(&merged) < apart;
        launches.insert(root, merged);
        if !cheaper || order(dag, cover, launches).is_none() {
            *launches = before;
        }
    }
}

/// The attention that launches make, with the results of all but what is read `between` them; `None` if they make none.
fn together(
    dag: &Dag,
    parts: &[ClassIx],
    launches: &BTreeMap<ClassIx, Launch>,
    between: Option<ClassIx>,
) -> Option<Launch> {
    let mut nodes: BTreeMap<ClassIx, u16> = BTreeMap::new();
    let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
    for root in parts {
        let Launch::Region { inner, leaves, outputs, anchor, kernel: None } = launches.get(root)? else { return None };
        for (class, node) in inner {
            if *nodes.entry(*class).or_insert(*node) != *node {
                return None;
            }
        }
        read.extend(leaves.iter().copied());
        let whole = *anchor != Anchor::Contract || between.is_some_and(|w| leaves.contains(&w));
        written.extend(outputs.iter().copied().filter(|c| whole && Some(*c) != between));
    }
    let inner: Vec<Inner> = nodes.into_iter().collect();
    let computed = |c: &ClassIx| inner.binary_search_by_key(c, |i| i.0).is_ok();
    let leaves: Vec<ClassIx> = read.into_iter().filter(|c| !computed(c)).collect();
    let outputs: Vec<ClassIx> = written.into_iter().collect();
    let anchor = legal(&subgraph(dag, &inner, &leaves, &outputs)).ok()?;
    (anchor == Anchor::Attention).then_some(Launch::Region { inner, leaves, outputs, anchor, kernel: None })
}

/// `large` with the result of `small` as a further one, if it computes that anyway and it pays.
fn absorb(dag: &Dag, costs: &Costs, large: Option<&Launch>, small: Option<&Launch>) -> Option<Launch> {
    // What a kernel that somebody wrote computes is what its function says.
    let (
        Launch::Region { inner, leaves, outputs, anchor, kernel: None },
        Launch::Region { inner: part, outputs: extra, kernel: None, .. },
    ) = (large?, small?)
    else {
        return None;
    };
    if !part.iter().all(|i| inner.binary_search(i).is_ok()) {
        return None;
    }
    let mut all: Vec<ClassIx> = extra.iter().chain(outputs).copied().collect();
    all.sort();
    all.dedup();
    if legal(&subgraph(dag, inner, leaves, &all)) != Ok(*anchor) {
        return None;
    }
    let Launch::Region { leaves: part_leaves, anchor: part_anchor, .. } = small? else { return None };
    let apart = costs.estimate(dag, inner, leaves, outputs, *anchor).seconds
        + costs.estimate(dag, part, part_leaves, extra, *part_anchor).seconds;
    let together = costs.estimate(dag, inner, leaves, &all, *anchor).seconds;
    (together < apart).then(|| Launch::Region {
        inner: inner.clone(),
        leaves: leaves.clone(),
        outputs: all,
        anchor: *anchor,
        kernel: None,
    })
}

/// An order in which every launch follows those whose results it reads, by root; `None` if there is a cycle.
fn order(dag: &Dag, cover: &Cover, launches: &BTreeMap<ClassIx, Launch>) -> Option<Vec<ClassIx>> {
    let mut writer: BTreeMap<ClassIx, ClassIx> = BTreeMap::new();
    for (root, launch) in launches {
        writer.insert(*root, *root);
        writer.extend(launch.writes().iter().map(|c| (*c, *root)));
    }
    let source = |mut c: ClassIx| {
        while let Some(Choice::Alias(of) | Choice::Part(of)) = &cover.choices[c.index()] {
            c = *of;
        }
        writer.get(&c).copied()
    };
    let mut waits: BTreeMap<ClassIx, BTreeSet<ClassIx>> = BTreeMap::new();
    let mut users: BTreeMap<ClassIx, Vec<ClassIx>> = BTreeMap::new();
    for (root, launch) in launches {
        let before: BTreeSet<ClassIx> = launch.reads(dag).iter().filter_map(|c| source(*c)).collect();
        before.iter().for_each(|b| users.entry(*b).or_default().push(*root));
        waits.insert(*root, before);
    }
    let mut ready: BTreeSet<ClassIx> = waits.iter().filter(|(_, w)| w.is_empty()).map(|(c, _)| *c).collect();
    let mut done = Vec::with_capacity(launches.len());
    while let Some(next) = ready.pop_first() {
        done.push(next);
        for user in users.get(&next).into_iter().flatten() {
            if let Some(w) = waits.get_mut(user)
                && w.remove(&next)
                && w.is_empty()
            {
                ready.insert(*user);
            }
        }
    }
    (done.len() == launches.len()).then_some(done)
}
