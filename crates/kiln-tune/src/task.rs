//! One region to tune.

use crate::{Candidate, Problem, Result};
use kiln_engine::{Compiled, Settings, Toolchain, Used};
use kiln_fuse::RegionId;
use kiln_graph::Bindings;
use kiln_kernels::families::Subject;
use kiln_kernels::{Way, candidates};
use kiln_target::Gpu;
use std::sync::Arc;

/// A region at some sizes, for maps.
pub type TaskKey = (RegionId, Bindings);

/// A region at some sizes, the ways to make it, and what decides how they are compiled.
pub struct Task {
    /// Which.
    pub id: RegionId,
    /// The region, and what is known where it is used.
    pub subject: Arc<Subject>,
    /// How many steps launch it.
    pub uses: usize,
    /// What the engine has now comes first if the families do not offer it: a kernel of one's own. Then all that they offer, in the cost model's order.
    pub ways: Vec<Way>,
    /// Which of them the engine has now.
    pub present: usize,
    /// What code is compiled for.
    pub target: String,
    /// How.
    pub settings: Settings,
    /// What its times are kept under.
    pub problem: Problem,
    /// What no kernel can be faster than, in seconds: operands and results move once. 0 if the families do not say what moves.
    pub floor: f64,
    launch: f64,
}

/// Share of a step from one place to the next in the order of a family that has no cost model.
const RANK: f64 = 0.05;

impl Task {
    /// A region of an engine that has these kernels for it now.
    pub(crate) fn new(
        used: &Used,
        present: &Compiled,
        (target, settings, toolchain): (&str, &Settings, &Toolchain),
        gpu: &Gpu,
    ) -> Result<Task> {
        let Used { id, uses, subject } = used.clone();
        let mut ways = candidates(&subject, gpu).or_else(|e| match present.variants.is_empty() {
            true => Err(e),
            // Nothing but a kernel of one's own takes it.
            false => Ok(vec![]),
        })?;
        let runs = present.at(&subject.sizes);
        let made = runs.map(|variant| &variant.implementation);
        let same = |way: &Way| made.is_some_and(|made| made.family == way.family && made.config == way.config);
        let at = ways.iter().position(same);
        if let (None, Some(variant)) = (at, runs) {
            ways.insert(0, Way::made(variant.guard.clone(), variant.implementation.clone()));
        }
        let problem = Problem::of(id, &subject, gpu, toolchain);
        let bytes = ways.iter().filter_map(|way| way.estimate).map(|e| e.bytes).reduce(f64::min).unwrap_or(0.0);
        let floor = bytes / (gpu.bandwidth_gbs * 1e9);
        let (target, settings) = (target.to_owned(), settings.clone());
        let launch = gpu.costs.launch_seconds + subject.bytes() / (gpu.bandwidth_gbs * 1e9);
        Ok(Task { id, subject, uses, ways, present: at.unwrap_or(0), target, settings, problem, floor, launch })
    }

    /// What tells it from others.
    pub fn key(&self) -> TaskKey {
        (self.id, self.subject.sizes.clone())
    }

    /// The ways as the search sees them. Where a family has no cost model its order counts, and what the engine has now is as good as the best.
    pub fn candidates(&self) -> Vec<Candidate> {
        let best = self.ways.iter().filter_map(|way| way.estimate).map(|e| e.seconds).reduce(f64::min);
        let best = best.unwrap_or(self.launch);
        let seconds = |(rank, way): (usize, &Way)| match way.estimate {
            Some(estimate) => estimate.seconds,
            None => best * (1.0 + RANK * rank as f64),
        };
        let candidate = |(rank, way): (usize, &Way)| Candidate {
            config: serde_json::json!({"family": way.family, "config": way.config}),
            seconds: seconds((rank, way)),
        };
        self.ways.iter().enumerate().map(candidate).collect()
    }
}
