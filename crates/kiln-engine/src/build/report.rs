//! What a build did, for people and scripts.

use super::Timed;
use crate::Result;
use crate::engine::Engine;
use crate::schedule::activation_bytes;
use crate::validate::all_regions;
use kiln_fuse::{Plan, Step};
use kiln_graph::Graph;
use serde::Serialize;
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
    /// When it runs, where its region has several ways to.
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
        kernels: &[Timed],
        stages: Vec<StageTime>,
        fusion: &kiln_fuse::Report,
    ) -> TargetReport {
        let mut regions: Vec<RegionReport> = Vec::new();
        for (i, region) in all_regions(plan).into_iter().enumerate() {
            let kernels = kernels.get(i).map(|(compiled, times)| {
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
            });
            regions.push(RegionReport {
                name: region.name.clone(),
                summary: region.summary.clone(),
                nodes: Vec::new(),
                uses: 0,
                kernels: kernels.unwrap_or_default(),
            });
        }
        let launches = count_uses(plan, &mut regions, &mut 0);
        TargetReport { target: target.to_owned(), launches, regions, stages, fusion: fusion.clone(), arena_bytes: None }
    }
}

/// Fills uses and nodes of the regions of `plan` (the first is at `next`), then of its nested plans; returns the launches.
fn count_uses(plan: &Plan, regions: &mut [RegionReport], next: &mut usize) -> usize {
    let base = *next;
    *next += plan.regions.len();
    let mut launches = 0;
    for step in &plan.steps {
        if let Step::Run { region, nodes, .. } = step
            && let Some(report) = regions.get_mut(base + region)
        {
            launches += 1;
            report.uses += 1;
            if report.nodes.is_empty() {
                report.nodes.clone_from(nodes);
            }
        }
    }
    for inner in plan.steps.iter().flat_map(kiln_fuse::Step::nested).map(|(_, inner)| inner) {
        launches += count_uses(inner, regions, next);
    }
    launches
}
