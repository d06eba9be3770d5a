//! What to measure next.

use crate::{Features, Surrogate};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One way to make a kernel.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its Config.
    pub config: Value,
    /// Its time by the cost model, in seconds.
    pub seconds: f64,
}

/// How long to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How many of the cost model's best are measured in any case.
    pub first: usize,
    /// How many are measured at a time after those, so that they can be compiled together.
    pub batch: usize,
    /// Most of all candidates that are measured, as a share, but this many in any case.
    pub share: f64,
    /// See `share`.
    pub least: usize,
    /// Most candidates that are measured, however many there are.
    pub most: usize,
    /// What no kernel can be faster than, in seconds; close to it the search ends.
    pub floor: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options { first: 8, batch: 4, share: 0.15, least: 16, most: 48, floor: 0.0 }
    }
}

/// A candidate to be timed so many times. Those of one batch are best timed in turns, so that a clock that drops is all candidates' loss; one that is
/// too fast to be believed comes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Place of the candidate.
    pub candidate: usize,
    /// How many times.
    pub samples: usize,
}

impl Job {
    /// A first look.
    pub fn look(candidate: usize) -> Job {
        Job { candidate, samples: LOOK }
    }
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// Times of single runs, in seconds.
    Times(Vec<f64>),
    /// It cannot be used, and why: it does not compile, spills, or computes something else.
    Invalid(String),
}

impl Measured {
    /// How many times there are.
    pub fn samples(&self) -> usize {
        match self {
            Measured::Times(times) => times.len(),
            Measured::Invalid(_) => 0,
        }
    }

    /// The median time, if there is one.
    pub fn seconds(&self) -> Option<f64> {
        match self {
            Measured::Times(times) => median(times),
            Measured::Invalid(_) => None,
        }
    }
}

/// The middle of some numbers, the higher of two.
pub(crate) fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// There was nothing left to measure.
    Exhausted,
    /// Nothing faster is possible.
    Floor,
    /// As much was measured as was allowed.
    Share,
    /// Time was over.
    Budget,
}

/// Times of a first look, and of those that may be the fastest.
const LOOK: usize = 5;
const CLOSE_LOOK: usize = 17;
/// How far from the best a candidate may be to be looked at closely, and how many are.
const CLOSE: f64 = 1.05;
const MOST_CLOSE: usize = 6;
/// Times that differ by less are alike.
const ALIKE: f64 = 1.01;
/// How near to the floor is near enough.
const AT_FLOOR: f64 = 1.02;
/// Whoever is faster than all others by this, or than the floor, is looked at alone before it is believed.
const SUSPICIOUS: f64 = 0.9;
/// How fast a candidate may well be lies this many standard deviations under what is expected of it.
const HOPE: f64 = 1.0;
/// What any step of a search that has not ended may gain.
const LEAST_GAIN: f64 = 0.01;

/// A search among candidates.
pub struct Search {
    candidates: Vec<Candidate>,
    features: Features,
    options: Options,
    measured: BTreeMap<usize, Measured>,
    preferred: Vec<usize>,
    ended: Option<Stop>,
}

impl Search {
    /// A search that has not begun. Candidates without a usable estimate come last.
    pub fn new(candidates: Vec<Candidate>, options: Options) -> Search {
        let features = Features::new(candidates.iter().map(|candidate| &candidate.config));
        Search { candidates, features, options, measured: BTreeMap::new(), preferred: vec![], ended: None }
    }

    /// The same search before it began.
    pub fn anew(&self) -> Search {
        let preferred = self.preferred.clone();
        Search { preferred, ..Search::new(self.candidates.clone(), self.options) }
    }

    /// Candidates that there is a reason to measure before those that the cost model ranks first.
    pub fn prefer(&mut self, candidates: Vec<usize>) {
        self.preferred = candidates;
    }

    /// What is known of each candidate that was measured.
    pub fn measured(&self) -> impl Iterator<Item = (usize, &Measured)> {
        self.measured.iter().map(|(at, measured)| (*at, measured))
    }

    /// The fastest so far and its time. Of those that measuring hardly tells apart it is the one that the cost model ranks first, so that another search
    /// chooses it too.
    pub fn best(&self) -> Option<(usize, f64)> {
        let times: Vec<(usize, f64)> =
            self.measured().filter_map(|(at, measured)| Some((at, measured.seconds()?))).collect();
        let fastest = times.iter().map(|(_, seconds)| *seconds).min_by(f64::total_cmp)?;
        let alike = times.into_iter().filter(|(_, seconds)| *seconds <= fastest * ALIKE);
        alike.min_by(|(a, _), (b, _)| self.modelled(*a).total_cmp(&self.modelled(*b)).then(a.cmp(b)))
    }

    /// A usable estimate, or infinity.
    fn modelled(&self, at: usize) -> f64 {
        match self.candidates[at].seconds {
            seconds if seconds > 0.0 && seconds.is_finite() => seconds,
            _ => f64::INFINITY,
        }
    }

    /// Why the search ended, if it has: all but a closer look at those that are near to each other.
    pub fn ended(&self) -> Option<Stop> {
        self.wanted().err()
    }

    /// Notes what became of a candidate; times join those that are known.
    pub fn tell(&mut self, candidate: usize, measured: Measured) {
        match (self.measured.get_mut(&candidate), measured) {
            (Some(Measured::Times(known)), Measured::Times(more)) => known.extend(more),
            (_, measured) => {
                self.measured.insert(candidate, measured);
            }
        }
    }

    /// What to measure next; nothing: the search has ended. It follows from what is known alone, whatever the order in which that was told: a search
    /// that is told everything of another one ends as that did.
    pub fn ask(&mut self) -> Vec<Job> {
        match self.wanted() {
            Ok(most) => self.likely(most).into_iter().map(Job::look).collect(),
            Err(stop) => {
                self.ended = Some(stop);
                self.close()
            }
        }
    }

    /// How many candidates get a first look next.
    fn wanted(&self) -> Result<usize, Stop> {
        if let Some(stop) = self.ended {
            return Err(stop);
        }
        if self.measured.len() == self.candidates.len() {
            return Err(Stop::Exhausted);
        }
        let best = self.best().map(|(_, seconds)| seconds);
        // What is faster than possible is no reason to stop.
        let possible = self.options.floor..=self.options.floor * AT_FLOOR;
        if best.is_some_and(|seconds| possible.contains(&seconds)) {
            return Err(Stop::Floor);
        }
        if best.is_none() || self.measured.len() < self.options.first {
            // Also where all that was measured is invalid.
            return Ok(self.options.first.saturating_sub(self.measured.len()).max(1));
        }
        match self.allowed().min(self.options.batch) {
            0 => Err(Stop::Share),
            batch => Ok(batch),
        }
    }

    /// How many more may be looked at.
    fn allowed(&self) -> usize {
        let share = (self.candidates.len() as f64 * self.options.share) as usize;
        let Options { first, least, most, .. } = self.options;
        share.max(least).min(most).max(first).saturating_sub(self.measured.len())
    }

    /// At most so many that will be wanted for a first look, as far as is known now; none once the search has ended.
    pub fn ahead(&self, most: usize) -> Vec<usize> {
        match self.wanted() {
            Ok(_) => self.likely(most.min(self.allowed())),
            Err(_) => vec![],
        }
    }

    /// Those that may well be the fastest of what was not measured: at first those that are preferred, and then in the cost model's order.
    fn likely(&self, most: usize) -> Vec<usize> {
        let corrected = self.measured.len() >= self.options.first;
        let mut all: Vec<usize> = self.hopes(corrected).into_iter().map(|(_, at)| at).collect();
        let rank = |at: &usize| self.preferred.iter().position(|other| other == at).unwrap_or(usize::MAX);
        all.sort_by_key(rank);
        all.truncate(most);
        all
    }

    /// The logarithm of how fast each candidate may well be that was not measured, in seconds, the most hopeful first; by the cost model alone, or
    /// corrected by what was measured.
    fn hopes(&self, corrected: bool) -> Vec<(f64, usize)> {
        let left = (0..self.candidates.len()).filter(|at| !self.measured.contains_key(at));
        let errors: Vec<(usize, f64)> = self
            .measured()
            .filter_map(|(at, measured)| Some((at, (measured.seconds()? / self.modelled(at)).ln())))
            .filter(|(_, error)| error.is_finite())
            .collect();
        let surrogate = Surrogate::new(&self.features, &errors);
        // It never says that nothing is left to gain: after a few measurements of Configs that are alike it is too sure of itself.
        let hoped = |at: usize| {
            let (mean, deviation) = if corrected { surrogate.predict(at) } else { (0.0, 0.0) };
            self.modelled(at).ln() + mean - HOPE * deviation
        };
        let mut left: Vec<(f64, usize)> = left.map(|at| (hoped(at), at)).collect();
        left.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        left
    }

    /// What share of the best time so far the next step may well save: all of it before there is one, nothing once there is nothing left to measure.
    pub fn gain(&self) -> f64 {
        let looks = self.wanted().is_ok();
        let Some((_, best)) = self.best() else { return f64::from(looks) };
        let possible = 1.0 - self.options.floor / best;
        let hoped = match looks {
            true => self.hopes(true).first().map_or(0.0, |(hoped, _)| 1.0 - (hoped - best.ln()).exp()),
            false if self.close().is_empty() => return 0.0,
            // Which of some that are close is the fastest.
            false => 0.0,
        };
        hoped.min(possible).max(LEAST_GAIN)
    }

    /// How many samples there are still to be taken, at most.
    pub fn left(&self) -> usize {
        match self.wanted() {
            Ok(_) => self.allowed().max(1) * LOOK + MOST_CLOSE * CLOSE_LOOK,
            Err(_) => self.close().iter().map(|job| job.samples).sum(),
        }
    }

    /// The best, alone if it is suspiciously fast; then those that are close to it. Each that was only looked at once.
    fn close(&self) -> Vec<Job> {
        let mut known: Vec<(f64, usize, usize)> = self
            .measured()
            .filter_map(|(at, measured)| match measured {
                Measured::Times(times) => Some((measured.seconds()?, at, times.len())),
                Measured::Invalid(_) => None,
            })
            .collect();
        known.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let Some(&(best, ..)) = known.first() else { return vec![] };
        let alone = best < self.options.floor || known.get(1).is_some_and(|(second, ..)| best < second * SUSPICIOUS);
        known.retain(|(seconds, ..)| *seconds <= best * CLOSE);
        known.truncate(if alone { 1 } else { MOST_CLOSE });
        // What has no rival and is to be believed needs no closer look.
        let again = alone || known.len() > 1;
        let once = known.into_iter().filter(|(_, _, samples)| again && *samples < CLOSE_LOOK);
        once.map(|(_, candidate, _)| Job { candidate, samples: CLOSE_LOOK }).collect()
    }
}
