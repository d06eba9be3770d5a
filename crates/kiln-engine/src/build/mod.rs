//! Graph to engine: fuse, generate, compile, assemble, for every target.

mod choice;
mod constants;
mod pass;
mod report;
mod single;
mod target;

pub use constants::{graph_hash, structure};
pub(crate) use constants::{hash_with_weights, range};
pub use pass::Pass;
pub use report::{BuildReport, KernelReport, RegionReport, StageTime, TargetReport};
pub use single::{Used, compile_single};
use target::{Builder, Built};

use crate::engine::{Compiled, Engine, Image, Port, Resources, Settings, Toolchain, Variant};
use crate::validate::regions;
use crate::{Error, Result};
use bytes::Bytes;
use kiln_cuda::{CacheOutcome, CompileRequest, Compiler, Home};
use kiln_fuse::{Anchor, BufferId, BufferKind, Kernels, Numerics, Plan, RegionId, Step};
use kiln_graph::{Bindings, Graph};
use kiln_kernels::families::{Families, Subject};
use kiln_kernels::{Kernel, Variants, own};
use kiln_target::Target;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// What to compile for.
    pub targets: Vec<Target>,
    /// Which rewrites are allowed.
    pub numerics: kiln_fuse::Numerics,
    /// Whether GPUs may round the operands of products of f32 matrices to TF32, which their tensor cores multiply.
    pub tf32: bool,
    /// Where NVRTC and the kernel cache are.
    pub home: Home,
    /// Compile GPU kernels with source line information, as the simulator's findings want.
    pub line_info: bool,
    /// The sizes of shape symbols to choose kernels for; they run at all others of their ranges too. A symbol without one counts as 64,
    /// or what of its range is next to that.
    pub sizes: Bindings,
    /// Kernels of one's own, each for where its function occurs.
    pub kernels: Vec<Arc<own::Kernel>>,
    /// Who says what a GPU's kernels cost; none: the families' models. Engines do not record it.
    pub prices: Option<Arc<dyn Kernels>>,
    /// How much is fused.
    pub extent: kiln_fuse::Extent,
    /// For tests: see [`kiln_fuse::Options::perturb`]. Engines do not record it.
    pub perturb: Option<u64>,
}

impl BuildOptions {
    /// Defaults: for the CPU, sums may be regrouped, nothing is known about sizes.
    pub fn new(home: Home) -> BuildOptions {
        let (targets, numerics) = (vec![Target::cpu()], Numerics::Reassoc);
        BuildOptions {
            targets,
            numerics,
            tf32: false,
            home,
            line_info: false,
            sizes: Bindings::new(),
            kernels: vec![],
            prices: None,
            extent: kiln_fuse::Extent::Full,
            perturb: None,
        }
    }

    /// How [`build`] fuses for a target, where these of one's own kernels are of use.
    pub fn fusion(&self, target: &Target, kernels: &[Arc<own::Kernel>]) -> kiln_fuse::Options {
        let kernels = if target.arch().is_some() { kernels } else { &[] };
        let models = || Arc::new(Families { tf32: self.tf32 }) as Arc<dyn Kernels>;
        kiln_fuse::Options {
            numerics: self.numerics,
            tf32: self.tf32,
            sizes: self.sizes.clone(),
            patterns: kernels.iter().flat_map(|kernel| kernel.patterns()).collect(),
            kernels: Some(self.prices.clone().unwrap_or_else(models)),
            extent: self.extent,
            perturb: self.perturb,
            ..kiln_fuse::Options::new(target.clone())
        }
    }

    /// The part of the options that an engine records.
    pub fn settings(&self) -> Settings {
        // Named one by one, so that a new option is not forgotten here.
        let BuildOptions {
            targets: _,
            numerics,
            tf32,
            home: _,
            line_info,
            ref sizes,
            ref kernels,
            prices: _,
            extent,
            perturb: _,
        } = *self;
        let kernels = match kernels.is_empty() {
            true => String::new(),
            false => blake3::hash(own::to_text(kernels).as_bytes()).to_hex().to_string(),
        };
        Settings { numerics, tf32, line_info, sizes: sizes.clone(), kernels, extent }
    }
}

/// News of a build.
#[derive(Clone)]
pub enum Progress<'a> {
    /// A stage begins.
    Stage {
        /// `fuse`, `generate`, `compile`.
        stage: &'static str,
        /// The target.
        target: &'a str,
        /// How many [`Progress::Kernel`] will follow.
        kernels: usize,
    },
    /// A kernel was compiled or found in the cache.
    Kernel {
        /// Its name.
        name: &'a str,
        /// How many are ready.
        done: usize,
        /// How many there are.
        total: usize,
    },
    /// A pass ended.
    Pass {
        /// Which.
        pass: Pass,
        /// The target; empty for what is done once for all.
        target: &'a str,
        /// The kernel; empty for what is done to the whole model.
        kernel: &'a str,
        /// What it leaves behind; the text is only made if it is written somewhere.
        text: &'a dyn Display,
    },
}

/// Plans of a model that are worth measuring beside each other.
pub const PLANS: usize = 3;

/// Builds an engine for all targets of the options.
pub fn build(
    graph: &Graph,
    options: &BuildOptions,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<(Engine, BuildReport)> {
    build_plans(graph, options, 1, progress)?.into_iter().next().ok_or_else(no_plan)
}

/// Engines that differ in the plan of the last target, for whoever can measure which is the fastest: first [`build`]'s, then at most `most - 1` of the plans that are next by modelled
/// time. What passes leave behind is shown of the first. A plan that cannot be built is left out, unless it is the first.
///
/// # Errors
/// As for `build`.
pub fn build_plans(
    graph: &Graph,
    options: &BuildOptions,
    most: usize,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Vec<(Engine, BuildReport)>> {
    let _span = tracing::info_span!("build", model = graph.name).entered();
    progress(Progress::Pass { pass: Pass::Import, target: "", kernel: "", text: graph });
    let mut targets: Vec<&Target> = Vec::new();
    for target in &options.targets {
        // Of GPUs of one architecture each has an image, for which its kernels are chosen.
        if targets.iter().all(|other| other.label() != target.label()) {
            targets.push(target);
        }
    }
    let mut builder = Builder { graph, options, progress, compiler: None };
    let mut all = vec![Built::of(graph)];
    for (n, target) in targets.iter().enumerate() {
        let most = if n + 1 == targets.len() { most } else { 1 };
        all = builder.target(all.swap_remove(0), target, most)?;
    }
    let hash = graph_hash(graph);
    all.into_iter().map(|built| engine(graph, options, built, hash.clone())).collect()
}

/// The engine of what was built.
fn engine(graph: &Graph, options: &BuildOptions, built: Built, graph_hash: String) -> Result<(Engine, BuildReport)> {
    let Built { targets, constants, mut report } = built;
    let port = |name: &str, id| Port { name: name.to_owned(), ty: graph.ty(id).clone() };
    let inputs = graph
        .inputs
        .iter()
        .map(|&id| match &graph.producer(id).op {
            kiln_graph::Op::Input { name, .. } => port(name, id),
            _ => port("", id),
        })
        .collect();
    let mut engine = Engine {
        model: graph.name.clone(),
        kiln: env!("CARGO_PKG_VERSION").to_owned(),
        graph_hash,
        settings: options.settings(),
        graph_text: graph.to_string(),
        inputs,
        outputs: graph.outputs.iter().map(|(name, id)| port(name, *id)).collect(),
        symbols: graph.symbols.clone(),
        targets,
        weights: constants.weights,
        sources: BTreeMap::new(),
        stripped: false,
        refit: constants.refit,
        path: PathBuf::from("(in memory)"),
    };
    engine.pack_weights()?;
    report.finish(&engine)?;
    Ok((engine, report))
}

fn no_plan() -> Error {
    Error::Internal { place: "the build".into(), message: "no plan".into() }
}

fn no_compiler() -> Error {
    Error::Internal { place: "the build".into(), message: "no compiler".into() }
}

/// Every distinct region of a plan and its nested plans, and what is known where it is used.
fn subjects(
    plan: &Plan,
    weights: &BTreeMap<String, (i64, i64)>,
    sizes: &Bindings,
    tf32: bool,
) -> Vec<(RegionId, Arc<Subject>)> {
    let (mut ranges, mut typical) = (Ranges::new(), BTreeMap::new());
    input_ranges(plan, weights, &mut ranges);
    typical_sizes(plan, sizes, &mut typical);
    let known = regions(plan).into_iter().map(|(id, region)| {
        let ranges = ranges.get(&id).map(Vec::as_slice).unwrap_or_default();
        let sizes = typical.get(&id).unwrap_or(sizes);
        (id, Arc::new(Subject::new(region, &region.graph.symbols, ranges, sizes).with_tf32(tf32)))
    });
    known.collect()
}

/// Adds for each region of a plan and its nested plans what the sizes of its symbols are where it is first used.
fn typical_sizes(plan: &Plan, sizes: &Bindings, found: &mut BTreeMap<RegionId, Bindings>) {
    for step in &plan.steps {
        let own = step.bindings(sizes);
        step.nested().iter().for_each(|(_, inner)| typical_sizes(inner, &own, found));
        if let Step::Run { region, .. } = step {
            found.entry(plan.regions[*region].identity()).or_insert(own);
        }
    }
}

/// For each region that takes elements by index, within what the integers of each of its inputs lie, where that is known.
type Ranges = BTreeMap<RegionId, Vec<Option<(i64, i64)>>>;

/// Adds within what the integers lie that gathers and scatters of a plan and its nested plans take from weights: what holds for every use of a region.
fn input_ranges(plan: &Plan, known: &BTreeMap<String, (i64, i64)>, ranges: &mut Ranges) {
    for (region, inputs) in indexing(plan) {
        let own: Vec<_> = inputs.into_iter().map(|weight| weight.and_then(|name| known.get(name).copied())).collect();
        let all = match ranges.remove(&region) {
            None => own,
            Some(others) => others.into_iter().zip(own).map(|(a, b)| Some(hull(a?, b?))).collect(),
        };
        ranges.insert(region, all);
    }
}

/// The steps of a plan and its nested plans that take elements by index: the region, and of each input the weight that it is, if it is one.
fn indexing(plan: &Plan) -> Vec<(RegionId, Vec<Option<&str>>)> {
    let weight = |id: &BufferId| match &plan.buffers[plan.root(*id).index()].kind {
        BufferKind::Weight(name) => Some(name.as_str()),
        _ => None,
    };
    let mut all = Vec::new();
    for step in &plan.steps {
        if let Step::Run { region, inputs, .. } = step
            && let region = &plan.regions[*region]
            && region.anchor == Anchor::Index
        {
            all.push((region.identity(), inputs.iter().map(weight).collect()));
        }
        step.nested().iter().for_each(|(_, inner)| all.extend(indexing(inner)));
    }
    all
}

fn hull(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    (a.0.min(b.0), a.1.max(b.1))
}

/// NVRTC options beside those that every kernel is compiled with. Exact arithmetic takes what could be contracted or approximated as it
/// stands; the rest are NVRTC's defaults, said aloud.
fn numeric_options(numerics: Numerics) -> &'static [&'static str] {
    match numerics {
        Numerics::Exact => &["--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"],
        Numerics::Reassoc | Numerics::Approx => &[],
    }
}

fn request(kernel: &Kernel, target: &str, numerics: Numerics, line_info: bool) -> CompileRequest {
    let (name, source) = (kernel.entry.clone(), kernel.source.clone());
    CompileRequest { name, source, ..nothing(target, numerics, line_info) }
}

/// A request for no kernel, compiled as all are.
fn nothing(target: &str, numerics: Numerics, line_info: bool) -> CompileRequest {
    let options = numeric_options(numerics).iter().map(|&option| option.to_owned()).collect();
    CompileRequest { name: String::new(), source: String::new(), arch: target.to_owned(), options, line_info }
}

/// What all kernels of a target are compiled with under these settings, as engines record it.
pub fn toolchain(compiler: &Compiler, target: &str, numerics: Numerics, line_info: bool) -> Toolchain {
    let options = compiler.options(&nothing(target, numerics, line_info));
    Toolchain { nvrtc: compiler.nvrtc().release().to_owned(), options }
}

fn image(compiled: kiln_cuda::Compiled, kernel: &Kernel) -> Image {
    let log = &compiled.log;
    let resources = Resources {
        registers: log.registers(),
        spill_bytes: log.spill_stores() + log.spill_loads(),
        shared_bytes: log.static_smem() + kernel.launch.dynamic_shared,
        stack_bytes: log.stack(),
    };
    Image { cubin: Bytes::from(compiled.cubin), ptx: Bytes::from(compiled.ptx), resources }
}

/// A compiled region and, for each kernel, its compile time in milliseconds and whether the cache had it.
pub(crate) type Timed = (Compiled, Vec<(f64, bool)>);

fn compile(
    compiler: &Compiler,
    regions: Vec<(RegionId, Variants)>,
    target: &Target,
    build: &BuildOptions,
    progress: &(dyn Fn(Progress<'_>) + Sync),
    warnings: &mut Vec<String>,
) -> Result<(BTreeMap<RegionId, Timed>, Toolchain)> {
    let (label, arch) = (target.label(), target.to_string());
    let target = label.as_str();
    let requests: Vec<CompileRequest> = regions
        .iter()
        .flat_map(|(_, variants)| variants)
        .flat_map(|(_, i)| &i.kernels)
        .map(|kernel| request(kernel, &arch, build.numerics, build.line_info))
        .collect();
    let results = compiler.compile_all(&requests, |news| {
        progress(Progress::Kernel { name: &news.request.name, done: news.done, total: news.total });
    });
    // One line for each way in which the cache failed, however many kernels it failed for.
    let mut failures: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for compiled in results.iter().flatten() {
        let failure = match &compiled.cache {
            CacheOutcome::Replaced(why) => ("a cached kernel was not used and built again", why),
            CacheOutcome::NotStored(why) => ("a kernel could not be kept for the next build", why),
            CacheOutcome::Hit | CacheOutcome::Stored | CacheOutcome::Off => continue,
        };
        *failures.entry((failure.0, failure.1.clone())).or_default() += 1;
    }
    warnings.extend(failures.into_iter().map(|((what, why), times)| format!("{what} ({times}x for {target}): {why}")));
    let mut results = results.into_iter();
    let mut all = BTreeMap::new();
    for (id, region) in regions {
        let (mut variants, mut times) = (Vec::new(), Vec::new());
        for (guard, implementation) in region {
            let mut images = Vec::new();
            for kernel in &implementation.kernels {
                let compiled = results.next().ok_or_else(no_compiler)??;
                let log = &compiled.log;
                let show =
                    |pass, text: &dyn Display| progress(Progress::Pass { pass, target, kernel: &kernel.entry, text });
                show(Pass::Ptx, &compiled.ptx);
                show(Pass::Resources, &format_args!("{log:#?}"));
                times.push((compiled.compile_time.as_secs_f64() * 1e3, compiled.cache == CacheOutcome::Hit));
                images.push(image(compiled, kernel));
            }
            variants.push(Variant { guard, implementation, images });
        }
        all.insert(id, (Compiled { variants }, times));
    }
    Ok((all, toolchain(compiler, &arch, build.numerics, build.line_info)))
}
