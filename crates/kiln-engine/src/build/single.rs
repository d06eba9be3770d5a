//! What is done to one region at a time, after a build: other kernels for it.

use super::{image, request, subjects};
use crate::Result;
use crate::engine::{Engine, Image, Settings};
use kiln_cuda::Compiler;
use kiln_fuse::{Plan, RegionId, Step};
use kiln_graph::Bindings;
use kiln_kernels::Implementation;
use kiln_kernels::families::Subject;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A distinct region of an engine's plan.
#[derive(Clone, Debug)]
pub struct Used {
    /// Which.
    pub id: RegionId,
    /// How many steps launch it; those of a loop count once.
    pub uses: usize,
    /// The region, and what is known where it is used.
    pub subject: Arc<Subject>,
}

impl Engine {
    /// The distinct regions of a target's plan and its nested plans, as its kernels were chosen for them.
    ///
    /// # Errors
    /// The engine lacks the target.
    pub fn subjects(&self, target: &str) -> Result<Vec<Used>> {
        self.subjects_at(target, &self.settings.sizes)
    }

    /// [`Engine::subjects`] as kernels would be chosen for other sizes of the model's symbols.
    ///
    /// # Errors
    /// As for `subjects`.
    pub fn subjects_at(&self, target: &str, sizes: &Bindings) -> Result<Vec<Used>> {
        let plan = &self.target(target)?.plan;
        let mut uses = BTreeMap::new();
        count(plan, &mut uses);
        let all = subjects(plan, &self.refit.ranges, sizes, self.settings.tf32);
        let used = |(id, subject)| Used { id, uses: uses.get(&id).copied().unwrap_or(0), subject };
        Ok(all.into_iter().map(used).collect())
    }
}

fn count(plan: &Plan, uses: &mut BTreeMap<RegionId, usize>) {
    let ids: Vec<RegionId> = plan.regions.iter().map(kiln_fuse::Region::identity).collect();
    for step in &plan.steps {
        if let Step::Run { region, .. } = step {
            *uses.entry(ids[*region]).or_default() += 1;
        }
        step.nested().iter().for_each(|(_, inner)| count(inner, uses));
    }
}

/// Compiles the kernels of one implementation as a build with these settings does.
///
/// # Errors
/// What NVRTC refuses.
pub fn compile_single(
    compiler: &Compiler,
    implementation: &Implementation,
    target: &str,
    settings: &Settings,
) -> Result<Vec<Image>> {
    let compiled = implementation.kernels.iter().map(|kernel| {
        let request = request(kernel, target, settings.numerics, settings.line_info);
        Ok(image(compiler.compile(&request)?, kernel))
    });
    compiled.collect()
}
