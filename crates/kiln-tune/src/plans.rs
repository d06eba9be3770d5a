//! Which of several plans of a model is the fastest, by the times of their regions.

use crate::report::TunedPlan;
use kiln_fuse::RegionId;
use std::collections::BTreeMap;

/// Plans whose times differ by less are alike: the one that the model ranks first is kept.
const ALIKE: f64 = 1.01;
/// A plan that is so many times as slow as the fastest after a first look at its kernels will not win.
const LOST: f64 = 1.25;

/// How many steps of each plan launch each region.
pub struct Uses {
    plans: usize,
    all: BTreeMap<RegionId, Vec<usize>>,
}

impl Uses {
    pub fn new(plans: usize) -> Uses {
        Uses { plans, all: BTreeMap::new() }
    }

    pub fn note(&mut self, plan: usize, region: RegionId, uses: usize) {
        self.all.entry(region).or_insert_with(|| vec![0; self.plans])[plan] = uses;
    }

    /// How many steps of a plan launch a region.
    pub fn of(&self, region: RegionId, plan: usize) -> usize {
        self.all.get(&region).map_or(0, |uses| uses[plan])
    }

    /// The same of the plan that has most.
    pub fn most(&self, region: RegionId) -> usize {
        self.all.get(&region).into_iter().flatten().copied().max().unwrap_or(0)
    }

    /// Whether some plan launches a region more often than another.
    pub fn differs(&self, region: RegionId) -> bool {
        self.all.get(&region).is_some_and(|uses| uses.iter().any(|n| *n != uses[0]))
    }

    /// Whether no plan launches a region but some of these.
    pub fn only(&self, region: RegionId, plans: &[usize]) -> bool {
        self.all.get(&region).is_some_and(|uses| uses.iter().enumerate().all(|(i, n)| *n == 0 || plans.contains(&i)))
    }

    /// The plans by times of their regions, in seconds. What all have alike need not be known.
    pub fn timed(&self, times: &BTreeMap<RegionId, f64>) -> Vec<TunedPlan> {
        let plan = |plan: usize| {
            let own = || self.all.iter().map(|(id, uses)| (id, uses[plan])).filter(|(_, uses)| *uses > 0);
            let known = own().all(|(id, _)| times.contains_key(id) || !self.differs(*id));
            let seconds = own().filter_map(|(id, uses)| Some(uses as f64 * times.get(id)?)).sum::<f64>();
            TunedPlan { launches: own().map(|(_, uses)| uses).sum(), measured_us: known.then_some(seconds * 1e6) }
        };
        (0..self.plans).map(plan).collect()
    }
}

/// The plan to keep: of those that are as fast as the fastest the first, which is the first of all where its own time is not known.
pub fn kept(plans: &[TunedPlan]) -> usize {
    let times = || plans.iter().map(|plan| plan.measured_us);
    let fastest = times().flatten().fold(f64::INFINITY, f64::min);
    let near = |us: Option<f64>| us.is_some_and(|us| us <= fastest * ALIKE);
    match plans.first().and_then(|first| first.measured_us) {
        Some(_) => times().position(near).unwrap_or(0),
        None => 0,
    }
}

/// The plans that are far behind the fastest.
pub fn lost(plans: &[TunedPlan]) -> Vec<usize> {
    let fastest = plans.iter().filter_map(|plan| plan.measured_us).fold(f64::INFINITY, f64::min);
    let behind = |plan: &TunedPlan| plan.measured_us.is_some_and(|us| us > fastest * LOST);
    plans.iter().enumerate().filter(|(_, plan)| behind(plan)).map(|(at, _)| at).collect()
}
