//! What the cover would have been without one of its kernels: the best one found near the chosen one, and what it takes more.
//!
//! Two ways around a kernel are tried: its value is had by another cut, or none of its readers needs the value any more. What enters the cover by that is improved once, as in
//! [`super::refine`]. Cuts that differ in views, in what depends on weights alone, or in the words that rewriting found for the same values, are the same kernel here.

use super::cost::Costs;
use super::cut::Inner;
use super::refine::{Counted, GAIN};
use super::select::{Candidate, Choice, Cover};
use super::share::Launch;
use crate::Anchor;
use crate::egraph::{ClassIx, Dag};
use kiln_graph::OpKind;
use std::collections::BTreeSet;

/// A cover without a kernel of the chosen one.
pub(crate) struct Alternative {
    /// Modelled seconds that it takes more.
    pub seconds: f64,
    /// Kernels of the chosen cover that it lacks, and those that it has instead.
    pub without: Vec<Kernel>,
    pub instead: Vec<Kernel>,
}

/// A kernel of some cover.
pub(crate) struct Kernel {
    pub inner: Vec<Inner>,
    pub anchor: Anchor,
    pub seconds: f64,
}

/// The chosen cover, to be changed.
pub(crate) struct Alternatives<'a> {
    dag: &'a Dag,
    costs: &'a Costs<'a>,
    cover: &'a Cover,
    roots: &'a [ClassIx],
    present: Counted<'a>,
    /// Whether the model itself computes a class in a run, other than by a view.
    written: Vec<bool>,
}

impl<'a> Alternatives<'a> {
    pub fn new(dag: &'a Dag, costs: &'a Costs<'a>, cover: &'a Cover, roots: &'a [ClassIx]) -> Alternatives<'a> {
        let present = Counted::new(dag, costs, roots, &cover.candidates, cover.chosen.clone());
        Alternatives { dag, costs, cover, roots, present, written: works(dag) }
    }

    /// The next best without one launch; `all` are the launches of the cover. None if nothing else was among the candidates.
    pub fn without(&self, launch: &Launch, all: &[Launch]) -> Option<Alternative> {
        let root = self.root(launch)?;
        if let Some(parts) = self.apart(launch, root, all) {
            return Some(parts);
        }
        let found = [self.otherwise(root), self.unread(root)].into_iter().flatten();
        found.min_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// The class whose way into memory a launch is, be it that the launch writes parts of that.
    fn root(&self, launch: &Launch) -> Option<ClassIx> {
        match launch {
            Launch::Region { kernel: Some(kernel), .. } => Some(*kernel),
            Launch::Region { inner, anchor, .. } => {
                let own = |i: &&Inner| matches!(&self.cover.choices[i.0.index()], Some(Choice::Region(cut)) if cut.anchor == *anchor);
                inner.iter().rfind(own).or(inner.last()).map(|i| i.0)
            }
            Launch::Step(class, _) => Some(*class),
        }
    }

    /// The kernels of which sharing has made one launch as launches of their own; none if it is one kernel of the cover.
    fn apart(&self, launch: &Launch, own: ClassIx, all: &[Launch]) -> Option<Alternative> {
        let Launch::Region { inner, leaves, outputs, anchor, kernel: None } = launch else { return None };
        let others: BTreeSet<ClassIx> =
            all.iter().filter_map(|launch| self.root(launch)).filter(|c| *c != own).collect();
        let part = |c: &ClassIx| {
            let Some(Choice::Region(cut)) = &self.cover.choices[c.index()] else { return false };
            !others.contains(c) && cut.inner.iter().all(|i| inner.binary_search(i).is_ok())
        };
        let parts = inner.iter().map(|i| i.0).filter(part);
        let instead: Vec<Kernel> = parts.filter_map(|c| kernel(self.present.way(c)?, c)).collect();
        if instead.len() < 2 {
            return None;
        }
        let seconds = self.costs.estimate(self.dag, inner, leaves, outputs, *anchor).seconds;
        let without = vec![Kernel { inner: inner.clone(), anchor: *anchor, seconds }];
        let seconds = instead.iter().map(|kernel| kernel.seconds).sum::<f64>() - seconds;
        Some(Alternative { seconds, without, instead })
    }

    /// The value by the best other cut.
    fn otherwise(&self, c: ClassIx) -> Option<Alternative> {
        let ways = &self.cover.candidates[c.index()];
        let present = self.present.chosen[c.index()]?;
        let mut trial = self.present.clone();
        let old = trial.take(c, &ways[present]);
        let mut totals: Vec<(f64, usize)> = Vec::new();
        for (i, way) in ways.iter().enumerate().filter(|(i, _)| *i != present) {
            totals.push((trial.put(c, way), i));
            trial.take(c, way);
        }
        totals.retain(|(total, _)| total.is_finite());
        totals.sort_by(|a, b| a.0.total_cmp(&b.0));
        totals.into_iter().find_map(|(total, i)| {
            let mut trial = trial.clone();
            trial.chosen[c.index()] = Some(i);
            trial.put(c, &ways[i]);
            self.settled(trial, total - old).map(|(_, found)| found)
        })
    }

    /// Every kernel that reads the value by the best other cut, which does not.
    fn unread(&self, c: ClassIx) -> Option<Alternative> {
        if self.roots.contains(&c) {
            return None;
        }
        let mut trial = self.present.clone();
        let mut added = 0.0;
        for user in self.dag.indices() {
            let reads = |way: &Candidate| way.choice.needs(self.dag, user).contains(&c);
            if trial.users[user.index()] == 0 || !trial.way(user).is_some_and(reads) {
                continue;
            }
            let (ways, present) = (&self.cover.candidates[user.index()], trial.chosen[user.index()]?);
            added -= trial.take(user, &ways[present]);
            let mut best: Option<(f64, usize)> = None;
            for (i, way) in ways.iter().enumerate().filter(|(_, way)| !reads(way)) {
                let total = trial.put(user, way);
                trial.take(user, way);
                if total.is_finite() && best.is_none_or(|(least, _)| total < least) {
                    best = Some((total, i));
                }
            }
            let (_, i) = best?;
            trial.chosen[user.index()] = Some(i);
            added += trial.put(user, &ways[i]);
        }
        self.settled(trial, added).filter(|(trial, _)| trial.users[c.index()] == 0).map(|(_, found)| found)
    }

    /// The changed cover, once what entered it is improved; none if its kernels are the same but for views and words.
    fn settled(&self, mut trial: Counted<'a>, mut added: f64) -> Option<(Counted<'a>, Alternative)> {
        for c in self.dag.indices() {
            if trial.users[c.index()] > 0 && self.present.users[c.index()] == 0 {
                added -= trial.improve(c, GAIN);
            }
        }
        let without = self.only(&self.present, &trial);
        let instead = self.only(&trial, &self.present);
        let told = |kernels: &[Kernel]| {
            let mut told: Vec<Vec<ClassIx>> = kernels.iter().map(|kernel| self.computed(kernel)).collect();
            told.sort();
            told
        };
        let other = told(&without) != told(&instead);
        other.then_some((trial, Alternative { seconds: added, without, instead }))
    }

    /// The kernels of one cover that another lacks, in order.
    fn only(&self, of: &Counted, other: &Counted) -> Vec<Kernel> {
        let lacks = |c: &ClassIx| {
            let i = c.index();
            of.users[i] > 0 && (other.users[i] == 0 || other.chosen[i] != of.chosen[i])
        };
        self.dag.indices().filter(lacks).filter_map(|c| kernel(of.way(c)?, c)).collect()
    }

    /// What a kernel computes of what the model does.
    fn computed(&self, kernel: &Kernel) -> Vec<ClassIx> {
        kernel.inner.iter().map(|i| i.0).filter(|c| self.written[c.index()]).collect()
    }
}

/// Whether the model itself computes a class in a run, other than by a view.
pub(super) fn works(dag: &Dag) -> Vec<bool> {
    let kinds = |c: ClassIx| {
        let own = dag.class(c).nodes.iter().filter(|node| node.made.is_none());
        own.filter_map(|node| node.op.as_ref()).map(|op| op.kind())
    };
    let works = |c: ClassIx| kinds(c).any(|kind| !matches!(kind, OpKind::View | OpKind::Nullary));
    dag.indices().map(|c| !dag.class(c).weight_only && works(c)).collect()
}

/// The kernel that a way is, if it is one.
fn kernel(way: &Candidate, class: ClassIx) -> Option<Kernel> {
    let (inner, anchor) = match &way.choice {
        Choice::Region(cut) => (cut.inner.clone(), cut.anchor),
        Choice::Step(node) => (vec![(class, *node)], Anchor::Alone),
        Choice::Free | Choice::Alias(_) | Choice::Part(_) => return None,
    };
    Some(Kernel { inner, anchor, seconds: way.seconds })
}
