//! One target of a build.

use super::choice::{Choice, Refusal};
use super::constants::Constants;
use super::{BuildOptions, BuildReport, Pass, Progress, StageTime, TargetReport, compile, no_plan, subjects};
use crate::Result;
use crate::engine::TargetImage;
use kiln_cuda::{Compiler, CubinCache, Nvrtc};
use kiln_fuse::{Fused, Plan, RegionId};
use kiln_graph::Graph;
use kiln_kernels::{Variants, own};
use kiln_target::{Gpu, Target};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

/// What is built so far.
#[derive(Clone)]
pub(super) struct Built {
    pub targets: Vec<TargetImage>,
    pub constants: Constants,
    pub report: BuildReport,
}

impl Built {
    /// Nothing of a graph.
    pub fn of(graph: &Graph) -> Built {
        Built { targets: Vec::new(), constants: Constants::of(graph), report: BuildReport::new(graph) }
    }
}

/// The regions of a plan, each with its kernels.
type Regions = Vec<(RegionId, Variants)>;

/// What a plan is made for, and who is told.
struct Place<'t> {
    target: &'t Target,
    kernels: &'t [Arc<own::Kernel>],
    progress: &'t (dyn Fn(Progress<'_>) + Sync),
}

/// Builds targets of a graph.
pub(super) struct Builder<'b> {
    pub graph: &'b Graph,
    pub options: &'b BuildOptions,
    pub progress: &'b (dyn Fn(Progress<'_>) + Sync),
    pub compiler: Option<Arc<Compiler>>,
}

impl Builder<'_> {
    /// Adds a target to what is built `before`, once with each of its best plans, at most so many. Only what is wrong with the first plan is an error.
    pub fn target(&mut self, mut before: Built, target: &Target, most: usize) -> Result<Vec<Built>> {
        let (name, progress) = (target.label(), self.progress);
        let mut stages = Vec::new();
        let mut kernels = self.options.kernels.clone();
        // Fused anew without those of one's own kernels that turn out to be of no use on the target.
        loop {
            let start = Instant::now();
            progress(Progress::Stage { stage: "fuse", target: &name, kernels: 0 });
            let options = self.options.fusion(target, &kernels);
            let plans = kiln_fuse::fuse_plans(self.graph, &options, most, &mut |pass, text| {
                progress(Progress::Pass { pass: Pass::Fuse(pass), target: &name, kernel: "", text });
            })?;
            stages.push(StageTime::since("fuse", start));
            let mut plans = plans.into_iter();
            let Some(first) = plans.next() else { return Err(no_plan()) };
            let place = Place { target, kernels: &kernels, progress };
            let (built, unused) = self.plan(&before, first, &place, &mut stages)?;
            if !unused.is_empty() {
                before.report.warnings = built.report.warnings;
                kernels.retain(|kernel| !unused.iter().any(|name| name == kernel.name()));
                continue;
            }
            let quiet = |news: Progress<'_>| match news {
                Progress::Pass { .. } => {}
                news => progress(news),
            };
            let place = Place { progress: &quiet, ..place };
            let others = plans.filter_map(|fused| self.plan(&before, fused, &place, &mut stages.clone()).ok());
            let others = others.filter(|(_, unused)| unused.is_empty()).map(|(built, _)| built);
            return Ok([built].into_iter().chain(others).collect());
        }
    }

    /// What is built `before` with a target more, of a plan; and those of one's own kernels that turn out to be of no use on it. If there are any, the target is missing.
    fn plan(
        &mut self,
        before: &Built,
        fused: Fused,
        place: &Place,
        stages: &mut Vec<StageTime>,
    ) -> Result<(Built, Vec<String>)> {
        let (mut built, mut plan, name) = (before.clone(), fused.plan, place.target.label());
        built.constants.take(&mut plan, self.graph)?;
        let (kernels, toolchain) = match place.target {
            Target::Cpu(_) => (BTreeMap::new(), None),
            Target::Gpu(gpu) => {
                built.constants.note_ranges(&plan);
                let (regions, refused) = self.generate(&plan, &built.constants, gpu, place, stages)?;
                let unused: Vec<String> = refused.iter().filter_map(|refusal| refusal.kernel.clone()).collect();
                built.report.warnings.extend(refused.into_iter().map(|refusal| refusal.what));
                if !unused.is_empty() {
                    return Ok((built, unused));
                }
                let start = Instant::now();
                let total = regions.iter().flat_map(|(_, variants)| variants).map(|(_, i)| i.kernels.len()).sum();
                (place.progress)(Progress::Stage { stage: "compile", target: &name, kernels: total });
                let warnings = &mut built.report.warnings;
                let compiler = self.compiler()?;
                let (kernels, toolchain) = tracing::info_span!("compile", target = name, kernels = total)
                    .in_scope(|| compile(&compiler, regions, place.target, self.options, place.progress, warnings))?;
                stages.push(StageTime::since("compile", start));
                (kernels, Some(toolchain))
            }
        };
        built.report.targets.push(TargetReport::new(&name, &plan, &kernels, stages.clone(), &fused.report));
        let kernels = kernels.into_iter().map(|(id, (compiled, _))| (id, compiled)).collect();
        let gpu = match place.target {
            Target::Gpu(gpu) => Some(gpu.key()),
            Target::Cpu(_) => None,
        };
        built.targets.push(TargetImage { target: place.target.to_string(), gpu, toolchain, plan, kernels });
        Ok((built, vec![]))
    }

    /// The kernels of a plan's regions, and what is left out of one's own. Where that is a whole kernel, there are none of the regions.
    fn generate(
        &mut self,
        plan: &Plan,
        constants: &Constants,
        gpu: &Gpu,
        place: &Place,
        stages: &mut Vec<StageTime>,
    ) -> Result<(Regions, Vec<Refusal>)> {
        let (start, name) = (Instant::now(), place.target.label());
        (place.progress)(Progress::Stage { stage: "generate", target: &name, kernels: 0 });
        let compiler = self.compiler()?;
        let watch = &mut |kernel: &str, pass, text: &dyn Display| {
            (place.progress)(Progress::Pass { pass: Pass::Tile(pass), target: &name, kernel, text });
        };
        let options = self.options;
        let mut choice = Choice { compiler: &compiler, kernels: place.kernels, gpu, build: options, refused: vec![] };
        let regions = tracing::info_span!("generate", target = name).in_scope(|| {
            let chosen = subjects(plan, &constants.refit.ranges, &options.sizes, options.tf32)
                .into_iter()
                .map(|(id, subject)| Ok((id, choice.lower(&subject, watch)?)));
            chosen.collect::<Result<Regions>>()
        });
        let refused = choice.refused;
        stages.push(StageTime::since("generate", start));
        match refused.iter().any(|refusal| refusal.kernel.is_some()) {
            true => Ok((vec![], refused)),
            false => Ok((regions?, refused)),
        }
    }

    /// NVRTC, once it is needed.
    fn compiler(&mut self) -> Result<Arc<Compiler>> {
        if let Some(compiler) = &self.compiler {
            return Ok(compiler.clone());
        }
        let nvrtc = Nvrtc::discover(&self.options.home)?;
        let compiler = Arc::new(Compiler::new(&nvrtc).with_cache(CubinCache::in_home(&self.options.home)));
        self.compiler = Some(compiler.clone());
        Ok(compiler)
    }
}
