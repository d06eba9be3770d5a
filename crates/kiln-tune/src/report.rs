//! What tuning found, for people and scripts.

use crate::{Fit, Stop};
use kiln_fuse::RegionId;
use kiln_graph::Bindings;
use serde::Serialize;

/// What tuning an engine found.
#[derive(Clone, Debug, Serialize)]
pub struct Tuned {
    /// `sm_XX[a]`.
    pub target: String,
    /// The GPU's product name.
    pub gpu: String,
    /// How long it took, and might have.
    pub seconds: f64,
    /// The budget.
    pub budget_seconds: f64,
    /// Distinct regions that can be made in one way only.
    pub fixed: usize,
    /// The cost model's coefficients, if they were fitted.
    pub fit: Option<Fit>,
    /// What did not go as it should, though the engine is good.
    pub warnings: Vec<String>,
    /// The plans that were measured beside each other, in the model's order; one where there was nothing to choose from.
    pub plans: Vec<TunedPlan>,
    /// Which of them was kept: the regions are its.
    pub plan: usize,
    /// The others, those first that take most of the time by the cost model.
    pub regions: Vec<TunedRegion>,
}

/// One plan of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TunedPlan {
    /// Launches of kernels; those of a loop count once.
    pub launches: usize,
    /// Time of all of them whose time is known, in microseconds; none where the time of one that other plans lack is not known.
    pub measured_us: Option<f64>,
}

/// One distinct region.
#[derive(Clone, Debug, Serialize)]
pub struct TunedRegion {
    /// Name.
    pub name: String,
    /// What it computes, as a key.
    pub identity: RegionId,
    /// What it computes.
    pub summary: String,
    /// How many steps launch it.
    pub uses: usize,
    /// The sizes of its symbols.
    pub sizes: Bindings,
    /// Whether those are the sizes that the engine's kernels were chosen for, rather than an end of the profile.
    pub typical: bool,
    /// What no kernel can be faster than; 0 if that is not known.
    pub floor_us: f64,
    /// Which candidate the engine had.
    pub present: usize,
    /// Which it has now.
    pub chosen: usize,
    /// Why the search ended.
    pub ended: Stop,
    /// Why nothing could be measured, if that was so.
    pub failure: Option<String>,
    /// All ways to make it, in the cost model's order.
    pub candidates: Vec<Row>,
}

/// One candidate.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Kernel family.
    pub family: String,
    /// Its Config.
    pub config: serde_json::Value,
    /// The Config, for people.
    pub text: String,
    /// Time by the cost model.
    pub modelled_us: f64,
    /// Median time, if it was measured.
    pub measured_us: Option<f64>,
    /// Of so many samples.
    pub samples: usize,
    /// Why it cannot be used.
    pub invalid: Option<String>,
}

impl TunedRegion {
    /// Time of what the engine had and of what it has now, in microseconds.
    pub fn gain(&self) -> Option<(f64, f64)> {
        let measured = |at: usize| self.candidates.get(at)?.measured_us;
        Some((measured(self.present)?, measured(self.chosen)?))
    }

    /// How many candidates were tried.
    pub fn tried(&self) -> usize {
        self.candidates.iter().filter(|row| row.samples > 0 || row.invalid.is_some()).count()
    }
}

impl Tuned {
    /// Microseconds of all launches of the regions that were timed, each as often as steps launch it, at the typical sizes: before and after.
    pub fn totals(&self) -> (f64, f64) {
        let of = |region: &TunedRegion| {
            let (before, after) = region.gain()?;
            Some((before * region.uses as f64, after * region.uses as f64))
        };
        self.regions
            .iter()
            .filter(|region| region.typical)
            .filter_map(of)
            .fold((0.0, 0.0), |(a, b), (before, after)| (a + before, b + after))
    }
}
