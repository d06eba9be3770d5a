//! A cover by what those who make its kernels say they cost. The roofline chose it from thousands of cuts; they are asked of what it has and of the closest rivals of that, and it is
//! refined with their answers, until nothing changes or for a few rounds: of the covers on the way, all of whose kernels were asked for, the best counts.
//!
//! What was not asked for is what the roofline says, times the median of what the answers were of its like: neither source may win for being the bolder one.

use super::cost::Costs;
use super::refine::{Counted, GAIN, refine};
use super::select::{Candidate, Choice, Cover, cover};
use crate::egraph::{ClassIx, Dag};
use crate::{Anchor, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Rounds of asking and refining.
const ROUNDS: usize = 4;
/// Candidates of a class in the cover that are asked for beside the chosen one, the best by flow.
const RIVALS: usize = 5;
/// Share of the time of what changes that the answers must save: cost models of kernels are off by a factor of 1.2 to 1.4 (docs/performance-gpu.md). What is nearer is left as the roofline
/// has it, for whoever can measure.
const DOUBT: f64 = 0.3;
/// What a cut that a cover is to do without is charged, in seconds: more than any model takes, and no infinity, from which nothing can be taken away.
const FORBIDDEN: f64 = 1e6;

/// Cuts that a cover is to do without: classes, and numbers of their candidates.
pub(super) type Without = BTreeSet<(ClassIx, usize)>;

/// The cover of some choices with the prices of those who make its kernels, refined with them. None where each cover on the way has a kernel that nobody makes, or one of `without`.
pub(super) fn priced(
    dag: &Dag,
    costs: &Costs,
    roots: &[ClassIx],
    (candidates, mut chosen): (Vec<Vec<Candidate>>, Vec<Option<usize>>),
    without: &Without,
) -> Result<Option<Cover>> {
    let mut book = Book { dag, costs, candidates, without, asked: BTreeMap::new(), answers: BTreeMap::new() };
    if !without.is_empty() {
        book.ask(&chosen, roots);
        book.replace(&mut chosen);
        chosen = refine(dag, costs, roots, &book.candidates, chosen, GAIN).0;
    }
    let mut best: Option<(f64, Vec<Option<usize>>)> = None;
    for _ in 0..ROUNDS {
        book.ask(&chosen, roots);
        let (_, seconds) = Counted::timed(dag, costs, roots, &book.candidates, chosen.clone());
        if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
            best = Some((seconds, chosen.clone()));
        }
        let (next, _) = refine(dag, costs, roots, &book.candidates, chosen.clone(), DOUBT);
        if next == chosen {
            break;
        }
        chosen = next;
    }
    let Some((seconds, chosen)) = best.filter(|(seconds, _)| *seconds < FORBIDDEN) else { return Ok(None) };
    let (found, _) = cover(dag, roots, book.candidates, chosen)?;
    Ok(Some(Cover { seconds, ..found }))
}

/// What is known of candidates.
struct Book<'a> {
    dag: &'a Dag,
    costs: &'a Costs<'a>,
    candidates: Vec<Vec<Candidate>>,
    without: &'a Without,
    /// What was asked for; none in it: there is no answer.
    asked: BTreeMap<(ClassIx, usize), Option<f64>>,
    /// For each anchor, how many times as long as the roofline says kernels take: the bits of positive floats, which are in their order. Equal layers have equal ones.
    answers: BTreeMap<Anchor, BTreeSet<u64>>,
}

impl Book<'_> {
    /// Asks for the kernels of a cover and their rivals, and gives all candidates the seconds that are known of them then.
    fn ask(&mut self, chosen: &[Option<usize>], roots: &[ClassIx]) {
        let used = Counted::new(self.dag, self.costs, roots, &self.candidates, chosen.to_vec()).users;
        for c in self.dag.indices().filter(|c| used[c.index()] > 0 && self.dag.kernel(*c).is_none()) {
            let rivals = 0..self.candidates[c.index()].len().min(RIVALS);
            for at in chosen[c.index()].into_iter().chain(rivals) {
                self.ask_for(c, at);
            }
        }
        self.settle();
    }

    fn ask_for(&mut self, c: ClassIx, at: usize) {
        let Choice::Region(cut) = &self.candidates[c.index()][at].choice else { return };
        if self.asked.contains_key(&(c, at)) {
            return;
        }
        // A copy that the kernel of twins makes itself is none.
        let twins = |of: &ClassIx| {
            self.candidates[of.index()].iter().any(|way| matches!(&way.choice, Choice::Region(cut) if cut.is_twins()))
        };
        if cut.free().copied(self.dag).is_some_and(|of| twins(&of)) {
            self.asked.insert((c, at), None);
            return;
        }
        let answer = self.costs.asked(self.dag, &cut.inner, &[c], cut.anchor);
        if let Some(seconds) = answer.filter(|seconds| seconds.is_finite()) {
            self.answers.entry(cut.anchor).or_default().insert((seconds / cut.cost).to_bits());
        }
        self.asked.insert((c, at), answer);
    }

    fn settle(&mut self) {
        let median =
            |ratios: &BTreeSet<u64>| ratios.iter().nth(ratios.len() / 2).map_or(1.0, |bits| f64::from_bits(*bits));
        let scale: BTreeMap<Anchor, f64> =
            self.answers.iter().map(|(anchor, ratios)| (*anchor, median(ratios))).collect();
        for c in self.dag.indices().filter(|c| self.dag.kernel(*c).is_none()) {
            for (at, way) in self.candidates[c.index()].iter_mut().enumerate() {
                let Choice::Region(cut) = &way.choice else { continue };
                let seconds = match self.asked.get(&(c, at)) {
                    Some(Some(answer)) => answer.min(FORBIDDEN),
                    Some(None) => cut.cost,
                    None => cut.cost * scale.get(&cut.anchor).copied().unwrap_or(1.0),
                };
                let charge = if self.without.contains(&(c, at)) { FORBIDDEN } else { 0.0 };
                way.seconds = seconds + charge;
            }
        }
    }

    /// Chooses anew for classes whose choice is forbidden: the first other candidate.
    fn replace(&self, chosen: &mut [Option<usize>]) {
        for &(c, at) in self.without {
            let ways = 0..self.candidates[c.index()].len();
            if chosen[c.index()] == Some(at)
                && let Some(other) = ways.into_iter().find(|other| !self.without.contains(&(c, *other)))
            {
                chosen[c.index()] = Some(other);
            }
        }
    }
}
