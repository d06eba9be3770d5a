//! Exact local cost: a candidate costs its own time plus that of everything which only it would need.
//!
//! Flow is an estimate; here each class in use is taken out of the cover, with whatever nothing else needs, and put back by the candidate
//! that adds the least. Computing an anchor that another kernel computes too is charged as a kernel of its own: the roofline of a small
//! contraction says that computing it twice is free, and no device agrees.
//!
//! A merged value pays once several of its parts come from it, which no change of one class at a time sees: its parts are tried together.

use super::cost::Costs;
use super::select::{Candidate, Choice};
use crate::egraph::{ClassIx, Dag};
use std::collections::BTreeMap;

/// Sweeps over the cover.
const SWEEPS: usize = 2;
/// A candidate must be better by this share of the time, or rounding would make sweeps undo each other.
pub(super) const GAIN: f64 = 1e-9;

/// Improves the choices wherever that saves a share of at least `gain` of what changes, and gives the charges for anchors that are still computed more than once.
pub(super) fn refine(
    dag: &Dag,
    costs: &Costs,
    roots: &[ClassIx],
    candidates: &[Vec<Candidate>],
    chosen: Vec<Option<usize>>,
    gain: f64,
) -> (Vec<Option<usize>>, f64) {
    let mut cover = Counted::new(dag, costs, roots, candidates, chosen);
    let merged = merged(dag, candidates);
    for _ in 0..SWEEPS {
        let mut changed = false;
        for c in dag.indices() {
            changed |= cover.users[c.index()] > 0 && cover.improve(c, gain) > 0.0;
        }
        for parts in &merged {
            changed |= cover.join(parts, gain);
        }
        if !changed {
            break;
        }
    }
    let again = |c: ClassIx| f64::from(cover.computed[c.index()].saturating_sub(1));
    let charged = dag.indices().filter(|c| again(*c) > 0.0).map(|c| again(c) * costs.again(dag, c)).sum();
    (cover.chosen, charged)
}

/// For each value of which several classes are parts, the candidates that have those come from it, behind those by which others are a part under another shape.
fn merged(dag: &Dag, candidates: &[Vec<Candidate>]) -> Vec<Vec<(ClassIx, usize)>> {
    let mut aliases: BTreeMap<ClassIx, Vec<(ClassIx, usize)>> = BTreeMap::new();
    let mut parts: BTreeMap<ClassIx, Vec<(ClassIx, usize)>> = BTreeMap::new();
    for c in dag.indices() {
        for (at, way) in candidates[c.index()].iter().enumerate() {
            match &way.choice {
                Choice::Alias(of) => aliases.entry(*of).or_default().push((c, at)),
                Choice::Region(cut) => {
                    if let Some(whole) = cut.free().copied(dag) {
                        parts.entry(whole).or_default().push((c, at));
                    }
                }
                _ => {}
            }
        }
    }
    let several = parts.into_values().filter(|parts| parts.len() > 1);
    let with_aliases = |part: (ClassIx, usize)| aliases.get(&part.0).into_iter().flatten().copied().chain([part]);
    several.map(|parts| parts.into_iter().flat_map(with_aliases).collect()).collect()
}

/// A cover that changes, with what it takes to tell the time that a change adds or saves.
#[derive(Clone)]
pub(super) struct Counted<'a> {
    dag: &'a Dag,
    costs: &'a Costs<'a>,
    candidates: &'a [Vec<Candidate>],
    pub chosen: Vec<Option<usize>>,
    /// Uses of each class by the cover.
    pub users: Vec<u32>,
    /// Kernels of the cover that compute each class, for anchors.
    computed: Vec<u32>,
}

impl<'a> Counted<'a> {
    pub fn new(
        dag: &'a Dag,
        costs: &'a Costs<'a>,
        roots: &[ClassIx],
        candidates: &'a [Vec<Candidate>],
        chosen: Vec<Option<usize>>,
    ) -> Counted<'a> {
        Counted::timed(dag, costs, roots, candidates, chosen).0
    }

    /// The cover with its seconds, charges for anchors that are computed more than once among them.
    pub fn timed(
        dag: &'a Dag,
        costs: &'a Costs<'a>,
        roots: &[ClassIx],
        candidates: &'a [Vec<Candidate>],
        chosen: Vec<Option<usize>>,
    ) -> (Counted<'a>, f64) {
        let n = dag.classes.len();
        let mut cover = Counted { dag, costs, candidates, chosen, users: vec![0; n], computed: vec![0; n] };
        let seconds = roots.iter().map(|root| cover.enter(*root)).sum();
        (cover, seconds)
    }

    /// How a class that is in use gets into memory.
    pub fn way(&self, c: ClassIx) -> Option<&'a Candidate> {
        self.chosen[c.index()].and_then(|i| self.candidates[c.index()].get(i))
    }

    /// Adds a use of a class, and of what it needs if it was not in the cover. Gives the time added.
    fn enter(&mut self, class: ClassIx) -> f64 {
        let mut added = 0.0;
        let mut stack = vec![class];
        while let Some(c) = stack.pop() {
            self.users[c.index()] += 1;
            if self.users[c.index()] > 1 {
                continue;
            }
            match self.way(c) {
                Some(way) => {
                    added += way.seconds + self.compute(way);
                    stack.extend(way.choice.needs(self.dag, c));
                }
                None => added += f64::INFINITY,
            }
        }
        added
    }

    /// Counts the anchors of a kernel that joins the cover. Gives what computing them again is charged.
    fn compute(&mut self, way: &Candidate) -> f64 {
        let mut charged = 0.0;
        for anchor in way.choice.anchors() {
            if self.computed[anchor.index()] > 0 {
                charged += self.costs.again(self.dag, *anchor);
            }
            self.computed[anchor.index()] += 1;
        }
        charged
    }

    /// The reverse of [`Counted::compute`].
    fn forget(&mut self, way: &Candidate) -> f64 {
        let mut saved = 0.0;
        for anchor in way.choice.anchors() {
            self.computed[anchor.index()] -= 1;
            if self.computed[anchor.index()] > 0 {
                saved += self.costs.again(self.dag, *anchor);
            }
        }
        saved
    }

    /// The reverse of [`Counted::enter`]. Gives the time saved.
    fn leave(&mut self, class: ClassIx) -> f64 {
        let mut saved = 0.0;
        let mut stack = vec![class];
        while let Some(c) = stack.pop() {
            self.users[c.index()] -= 1;
            if self.users[c.index()] > 0 {
                continue;
            }
            if let Some(way) = self.way(c) {
                saved += way.seconds + self.forget(way);
                stack.extend(way.choice.needs(self.dag, c));
            }
        }
        saved
    }

    /// Puts the class's best candidate in place of the present one, if that saves a share of `gain`. Gives the time saved.
    pub fn improve(&mut self, c: ClassIx, gain: f64) -> f64 {
        let Some(present) = self.chosen[c.index()].filter(|_| self.candidates[c.index()].len() > 1) else {
            return 0.0;
        };
        let ways = &self.candidates[c.index()];
        // All that changes with the candidate; the class itself stays in use.
        let old = self.take(c, &ways[present]);
        let mut best = (old, present);
        for (i, way) in ways.iter().enumerate().filter(|(i, _)| *i != present) {
            let total = self.put(c, way);
            self.take(c, way);
            if total < old * (1.0 - gain) && total < best.0 * (1.0 - GAIN) {
                best = (total, i);
            }
        }
        self.chosen[c.index()] = Some(best.1);
        self.put(c, &ways[best.1]);
        old - best.0
    }

    /// Puts these candidates in the place of the present ones of what is in use, if together that saves a share of `gain`. Gives whether it does.
    fn join(&mut self, ways: &[(ClassIx, usize)], gain: f64) -> bool {
        let (mut old, mut new, mut before) = (0.0, 0.0, vec![]);
        for &(c, way) in ways {
            let Some(present) = self.chosen[c.index()].filter(|at| *at != way && self.users[c.index()] > 0) else {
                continue;
            };
            old += self.replace(c, (present, way), &mut new);
            before.push((c, way, present));
        }
        let better = before.len() > 1 && new < old * (1.0 - gain);
        if !better {
            for (c, way, present) in before.into_iter().rev() {
                self.replace(c, (way, present), &mut 0.0);
            }
        }
        better
    }

    /// Replaces a candidate of a class in use by another. Gives the time saved, and adds what the other takes.
    fn replace(&mut self, c: ClassIx, (present, other): (usize, usize), added: &mut f64) -> f64 {
        let ways = &self.candidates[c.index()];
        let saved = self.take(c, &ways[present]);
        self.chosen[c.index()] = Some(other);
        *added += self.put(c, &ways[other]);
        saved
    }

    /// Adds what a class that stays in use takes by this way. Gives the time added.
    pub fn put(&mut self, c: ClassIx, way: &Candidate) -> f64 {
        let own = way.seconds + self.compute(way);
        own + way.choice.needs(self.dag, c).iter().map(|l| self.enter(*l)).sum::<f64>()
    }

    /// The reverse of [`Counted::put`].
    pub fn take(&mut self, c: ClassIx, way: &Candidate) -> f64 {
        let own = way.seconds + self.forget(way);
        own + way.choice.needs(self.dag, c).iter().map(|l| self.leave(*l)).sum::<f64>()
    }
}
