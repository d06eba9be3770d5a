//! What a build did, for people and scripts.

use super::Timed;
use crate::Result;
use crate::engine::Engine;
use crate::schedule::activation_bytes;
use kiln_fuse::{Plan, Region, RegionId, Step};
use kiln_graph::Graph;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// Report of one build.
#[derive(Clone, Debug, Serialize)]
pub struct BuildReport {
    /// Name of the model.
    pub model: String,
    /// Ops of the imported graph, literals and weights not counted.
    pub ops: usize,
    /// One a target.
    pub targets: Vec<TargetReport>,
    /// Bytes of all weights after folding.
    pub weight_bytes: usize,
    /// What did not go as it should, though the engine is good.
    pub warnings: Vec<String>,
}

/// Report of one target.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    /// `cpu` or `sm_XX[a]`.
    pub target: String,
    /// Launches a run, loops counted once.
    pub launches: usize,
    /// Distinct regions.
    pub regions: Vec<RegionReport>,
    /// Wall time of each stage.
    pub stages: Vec<StageTime>,
    /// What fusion did.
    pub fusion: kiln_fuse::Report,
    /// Arena bytes at the largest shapes of the profile, when it has bounds.
    pub arena_bytes: Option<usize>,
}

/// Wall time of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageTime {
    /// Name.
    pub stage: &'static str,
    /// Milliseconds.
    pub ms: f64,
}

/// One distinct region.
#[derive(Clone, Debug, Serialize)]
pub struct RegionReport {
    /// Name.
    pub name: String,
    /// What it computes, as a key.
    pub identity: RegionId,
    /// What it computes.
    pub summary: String,
    /// The model's nodes in its first use.
    pub nodes: Vec<String>,
    /// How many steps launch it.
    pub uses: usize,
    /// Its kernels; none for the CPU.
    pub kernels: Vec<KernelReport>,
}

/// One kernel.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// Entry point.
    pub name: String,
    /// Kernel family.
    pub family: String,
    /// When it runs, where its region has several ways to: conditions on the region's symbols.
    pub guard: Option<String>,
    /// Registers a thread.
    pub registers: u32,
    /// Spilled bytes.
    pub spill_bytes: u32,
    /// Shared memory a block, bytes.
    pub shared_bytes: u32,
    /// Size of the cubin.
    pub cubin_bytes: usize,
    /// Milliseconds that NVRTC took, now or when the cache was filled.
    pub compile_ms: f64,
    /// Whether the cache had it.
    pub cached: bool,
}

impl StageTime {
    /// A stage that began at `start` and ends now.
    pub fn since(stage: &'static str, start: Instant) -> StageTime {
        StageTime { stage, ms: start.elapsed().as_secs_f64() * 1e3 }
    }
}

impl BuildReport {
    pub(super) fn new(graph: &Graph) -> BuildReport {
        BuildReport {
            model: graph.name.clone(),
            ops: op_count(graph),
            targets: Vec::new(),
            weight_bytes: 0,
            warnings: Vec::new(),
        }
    }

    pub(super) fn finish(&mut self, engine: &Engine) -> Result<()> {
        self.weight_bytes = engine.weight_bytes();
        for (report, image) in self.targets.iter_mut().zip(&engine.targets) {
            report.arena_bytes = largest_arena(&image.plan);
        }
        Ok(())
    }
}

/// Nodes that compute something, bodies included.
fn op_count(graph: &Graph) -> usize {
    use kiln_graph::Op;
    graph
        .nodes
        .iter()
        .map(|n| match &n.op {
            Op::Input { .. } | Op::Weight { .. } | Op::Const { .. } => 0,
            Op::If { then_graph, else_graph } => 1 + op_count(then_graph) + op_count(else_graph),
            Op::Loop { body, .. } => 1 + op_count(body),
            _ => 1,
        })
        .sum()
}

/// Bounds above this are an importer's stand-in for "unknown", not a profile.
const LARGEST_EXTENT: i64 = 1 << 20;

/// Arena bytes with every symbol at its maximum, without kernels' scratch. `None` if a symbol is unbounded.
fn largest_arena(plan: &Plan) -> Option<usize> {
    let bound = |(_, (_, max)): (&str, (i64, i64))| max > LARGEST_EXTENT;
    if plan.symbols.iter().any(bound) {
        return None;
    }
    let bindings = plan.symbols.iter().map(|(name, (_, max))| (name.to_owned(), max)).collect();
    activation_bytes(plan, &bindings).ok()
}

impl TargetReport {
    pub(super) fn new(
        target: &str,
        plan: &Plan,
        kernels: &BTreeMap<RegionId, Timed>,
        stages: Vec<StageTime>,
        fusion: &kiln_fuse::Report,
    ) -> TargetReport {
        let mut regions = Vec::new();
        let launches = uses(plan, kernels, &mut regions, &mut BTreeMap::new());
        TargetReport { target: target.to_owned(), launches, regions, stages, fusion: fusion.clone(), arena_bytes: None }
    }
}

/// Adds what the steps of a plan and its nested plans run to `reports`, each distinct region once (`known` says where); returns the launches.
fn uses(
    plan: &Plan,
    kernels: &BTreeMap<RegionId, Timed>,
    reports: &mut Vec<RegionReport>,
    known: &mut BTreeMap<RegionId, usize>,
) -> usize {
    let ids: Vec<RegionId> = plan.regions.iter().map(Region::identity).collect();
    let mut launches = 0;
    for step in &plan.steps {
        if let Step::Run { region, nodes, .. } = step {
            let (id, region) = (ids[*region], &plan.regions[*region]);
            let at = *known.entry(id).or_insert_with(|| {
                reports.push(RegionReport {
                    name: region.name.clone(),
                    identity: id,
                    summary: region.summary.clone(),
                    nodes: nodes.clone(),
                    uses: 0,
                    kernels: kernels.get(&id).map(kernel_reports).unwrap_or_default(),
                });
                reports.len() - 1
            });
            reports[at].uses += 1;
            launches += 1;
        }
        for (_, inner) in step.nested() {
            launches += uses(inner, kernels, reports, known);
        }
    }
    launches
}

fn kernel_reports((compiled, times): &Timed) -> Vec<KernelReport> {
    let several = compiled.variants.len() > 1;
    let each = compiled.kernels().zip(times);
    each.map(|((variant, kernel, image), &(compile_ms, cached))| KernelReport {
        name: kernel.entry.clone(),
        family: variant.implementation.family.clone(),
        guard: several.then(|| variant.guard.to_string()),
        registers: image.resources.registers,
        spill_bytes: image.resources.spill_bytes,
        shared_bytes: image.resources.shared_bytes,
        cubin_bytes: image.cubin.len(),
        compile_ms,
        cached,
    })
    .collect()
}
