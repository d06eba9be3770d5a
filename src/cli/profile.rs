//! How long each step of an engine took: what `kiln bench ENGINE --profile-kernels --json` printed, on any machine.

use super::draw::step_name;
use super::tensors::Shapes;
use kiln_fuse::{Plan, RegionId, Step};
use miette::{Result, miette};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::path::Path;

const HELP: &str = "`kiln bench ENGINE --profile-kernels --json` prints the profile of an engine";

/// What a bench says of each step.
#[derive(Deserialize)]
pub struct Profile {
    pub device: String,
    /// The target whose plan was profiled.
    pub target: String,
    /// Of the inputs; none in profiles of Kiln before they were told.
    #[serde(default)]
    pub shapes: Shapes,
    /// In the plan's order.
    pub kernels: Vec<StepTime>,
}

/// The time of one step.
#[derive(Serialize, Deserialize)]
pub struct StepTime {
    pub step: usize,
    pub kernel: String,
    /// How the device runs the region; none for control flow and the host.
    pub implementation: Option<String>,
    pub ms: f64,
}

impl Profile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Profile> {
        let failed = |e: &dyn Display| miette!(help = HELP, "cannot read the profile {}: {e}", path.display());
        let file = kiln_host::open(path).map_err(|e| failed(&e))?;
        serde_json::from_reader(std::io::BufReader::new(file)).map_err(|e| failed(&e))
    }

    /// Milliseconds of all steps.
    pub fn ms(&self) -> f64 {
        self.kernels.iter().map(|time| time.ms).sum()
    }

    /// An error unless this is a profile of that plan.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        if self.kernels.len() != plan.steps.len() {
            let (found, expected) = (self.kernels.len(), plan.steps.len());
            return Err(miette!(help = HELP, "the profile has {found} steps, and the plan {expected}"));
        }
        for (i, (time, step)) in self.kernels.iter().zip(&plan.steps).enumerate() {
            let expected = step_name(plan, step);
            if time.kernel != expected || time.step != i {
                let found = &time.kernel;
                return Err(miette!(help = HELP, "step {i} is `{found}` in the profile, and `{expected}` in the plan"));
            }
            if time.ms < 0.0 {
                return Err(miette!(help = HELP, "step {i} takes {} ms in the profile, expected a time", time.ms));
            }
        }
        Ok(())
    }

    /// The launches of a plan, each with its region; those inside branches and loops are not told apart.
    ///
    /// # Errors
    /// See [`Profile::check`].
    pub fn launches(&self, plan: &Plan) -> Result<Vec<(RegionId, &StepTime)>> {
        self.check(plan)?;
        let ids: Vec<RegionId> = plan.regions.iter().map(kiln_fuse::Region::identity).collect();
        let launch = |(step, time)| match step {
            &Step::Run { region, .. } => Some((ids[region], time)),
            Step::If { .. } | Step::Loop { .. } => None,
        };
        Ok(plan.steps.iter().zip(&self.kernels).filter_map(launch).collect())
    }
}
