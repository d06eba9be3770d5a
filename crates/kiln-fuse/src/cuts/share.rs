//! From a cover to launches: a value that one kernel computes on the way and another computes for itself becomes a second result of the
//! first.

use super::cost::Costs;
use super::cut::{Inner, subgraph};
use super::select::{Choice, Cover};
use crate::Anchor;
use crate::egraph::{ClassIx, Dag};
use crate::region::legal;
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

    fn writes(&self) -> &[ClassIx] {
        match self {
            Launch::Region { outputs, .. } => outputs,
            Launch::Step(class, _) => std::slice::from_ref(class),
        }
    }
}

/// The launches of a cover in an order in which they can run.
pub(crate) fn share(dag: &Dag, costs: &Costs, cover: &Cover) -> Vec<Launch> {
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
    let roots: Vec<ClassIx> = launches.keys().copied().collect();
    for small in &roots {
        for large in roots.iter().filter(|l| *l > small) {
            if let Some(merged) = absorb(dag, costs, launches.get(large), launches.get(small)) {
                let (a, b) = (launches.insert(*large, merged), launches.remove(small));
                if order(dag, cover, &launches).is_some() {
                    break;
                }
                launches.extend([(*large, a), (*small, b)].into_iter().filter_map(|(c, l)| Some((c, l?))));
            }
        }
    }
    let order = order(dag, cover, &launches).unwrap_or_else(|| launches.keys().copied().collect());
    order.iter().filter_map(|c| launches.get(c).cloned()).collect()
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
