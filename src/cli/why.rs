//! `kiln inspect --why`: why a model is fused so, one region at a time.

use super::model::{self, Extent, ModelArgs, Numerics};
use super::out::bytes;
use super::report::{named, next_best, si};
use super::{draw, regions, timings};
use kiln_cuda::Home;
use kiln_engine::{BuildOptions, Engine, PLANS};
use kiln_fuse::{Fused, LaunchReport, Step, fuse_plans};
use kiln_graph::Graph;
use kiln_target::Target;
use kiln_tune::{Prices, Timings, Tuning};
use miette::{IntoDiagnostic, Result, miette};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which region to explain, and how a model that is no engine yet is fused.
#[derive(clap::Args)]
pub struct WhyArgs {
    /// Say why there is this region: the model's nodes that it computes, bytes, operations and modelled time beside the roofline, the rules that led there, and what the next best
    /// would have taken more. A step's number, a name, or its beginning. For a model, or an engine that keeps its model (`kiln build --keep-model`).
    #[arg(long, value_name = "REGION", conflicts_with_all = ["cuda", "graph", "plan", "memory", "counters", "diff"])]
    pub why: Option<String>,
    /// For `--why` and `--graph` of a model: how far results may depart from the graph's own arithmetic, as `kiln build` takes it; default: reassoc.
    #[arg(long, requires = "fused")]
    numerics: Option<Numerics>,
    /// For `--why` and `--graph` of a model: products of f32 may round their operands to TF32.
    #[arg(long, requires = "fused")]
    tf32: bool,
    /// For `--why` and `--graph` of a model: sums in f16 or bf16 are kept in f32.
    #[arg(long, requires = "fused")]
    widen_reductions: bool,
    /// For `--why` and `--graph`: kernels of one's own that the engine was built with, or the model would be.
    #[arg(long, value_name = "FILE.tile", requires = "fused")]
    kernels: Vec<PathBuf>,
    /// For `--why` and `--graph`: fuse as `kiln tune` does with this timing cache, by what it has measured of the target's GPU. A file, or a folder or URL as `kiln tune` takes them.
    #[arg(long, value_name = "PLACE", requires = "fused")]
    timings: Option<Timings>,
}

impl WhyArgs {
    /// That nothing is said of an engine that it says itself.
    pub fn check(&self, engine: &Path, shapes: &[String]) -> Result<()> {
        if self.numerics.is_none() && !self.tf32 && !self.widen_reductions && shapes.is_empty() {
            return Ok(());
        }
        Err(miette!(
            help = "leave out `--numerics`, `--tf32`, `--widen-reductions` and `--shape`, or name the model",
            "{} is an engine, which says itself how it was built",
            engine.display()
        ))
    }

    /// Whether it is said what an engine does not hold, which is of use where its model is fused again.
    pub fn adds(&self) -> bool {
        !self.kernels.is_empty() || self.timings.is_some()
    }
}

/// What was fused, and for what.
pub struct Explained {
    target: String,
    numerics: kiln_fuse::Numerics,
    /// Before.
    pub graph: Graph,
    /// After.
    pub fused: Fused,
}

/// Explains `region` of what `path` names. `shapes` are of a model's inputs.
pub fn run(
    args: &WhyArgs,
    path: &Path,
    region: &str,
    target: Option<&str>,
    shapes: &[String],
    json: bool,
) -> Result<()> {
    let explained = match model::is_model(path) {
        true => of_model(args, path, target, shapes)?,
        false => of_engine(args, &Engine::load(path).into_diagnostic()?, target, shapes)?,
    };
    let found = find(&explained.fused, region)?;
    if json {
        return super::print_json(&as_json(&explained, &found));
    }
    for (i, launch) in found.into_iter().enumerate() {
        if i > 0 {
            outln!()?;
        }
        print(&explained, launch)?;
    }
    Ok(())
}

/// A model, fused for a target.
pub fn of_model(args: &WhyArgs, path: &Path, target: Option<&str>, shapes: &[String]) -> Result<Explained> {
    let model = ModelArgs {
        profile: shapes.to_vec(),
        numerics: args.numerics.unwrap_or(Numerics::Reassoc),
        tf32: args.tf32,
        widen_reductions: args.widen_reductions,
        kernels: args.kernels.clone(),
        fusion: Extent::Full,
    };
    let target: Target = target.unwrap_or("cpu").parse().into_diagnostic()?;
    let graph = model::import(path, &model, &[])?;
    let mut options = model::options(&model, std::slice::from_ref(&target), Home::from_env().into_diagnostic()?)?;
    let target = by_timings(args, target, &mut options)?;
    let first = plans(graph, &target, &options, 1)?.into_iter().next();
    first.ok_or_else(|| miette!("fusion gave no plan"))
}

/// The target as it was when it was measured, if a timing cache is given, whose times are prices then.
fn by_timings(args: &WhyArgs, target: Target, options: &mut BuildOptions) -> Result<Target> {
    let Some(timings) = &args.timings else { return Ok(target) };
    let Target::Gpu(gpu) = target else {
        return Err(miette!("`--timings {timings}`: nothing is measured for {target}; name a GPU with `--target`"));
    };
    let gpu = regions::as_measured(&timings::load(timings)?, &gpu);
    let tuning = Tuning { timings: Some(timings.clone()), ..Tuning::default() };
    options.prices = Some(Arc::new(Prices::of_build(&tuning, &gpu, options).into_diagnostic()?));
    Ok(Target::Gpu(gpu))
}

/// The model of an engine, fused again as the engine's plan is.
pub fn of_engine(args: &WhyArgs, engine: &Engine, target: Option<&str>, shapes: &[String]) -> Result<Explained> {
    let path = &engine.path;
    args.check(path, shapes)?;
    let mut graph: Graph = engine.graph_text.parse().into_diagnostic()?;
    let weighs = graph.nodes.iter().any(|node| matches!(node.op, kiln_graph::Op::Weight { .. }));
    if weighs && engine.sources.is_empty() {
        return Err(miette!(
            help = "name the model instead, or build with `kiln build --keep-model`",
            "{} does not keep its model's weights, without which it cannot be fused again",
            path.display()
        ));
    }
    graph.weights.clone_from(&engine.sources);
    let kernels = model::kernels(&args.kernels)?;
    let image = match target {
        Some(target) => engine.target(target).into_diagnostic()?,
        None => engine.targets.first().ok_or_else(|| miette!("this engine has no target"))?,
    };
    let target = regions::chosen_for(image).map_or_else(Target::cpu, Target::Gpu);
    let home = Home::from_env().into_diagnostic()?;
    let (numerics, tf32, sizes) = (engine.settings.numerics, engine.settings.tf32, engine.settings.sizes.clone());
    let (extent, line_info) = (engine.settings.extent, engine.settings.line_info);
    let mut options = BuildOptions { numerics, tf32, sizes, kernels, extent, line_info, ..BuildOptions::new(home) };
    let found = options.settings().kernels;
    if found != engine.settings.kernels {
        return Err(miette!(
            help = "give its kernels of one's own with `--kernels FILE.tile`, as `kiln build` took them",
            "{} was built with other kernels of one's own",
            path.display()
        ));
    }
    let target = by_timings(args, target, &mut options)?;
    let all = |plan: &kiln_fuse::Plan| plan.regions.iter().map(|r| r.identity()).collect::<BTreeSet<_>>();
    // Tuning may have kept another plan than the first.
    let plans = plans(graph, &target, &options, PLANS)?;
    let Some(explained) = plans.into_iter().find(|explained| all(&explained.fused.plan) == all(&image.plan)) else {
        return Err(miette!(
            help = "build the model again with this version; if it was tuned, name its timing cache with `--timings`",
            "Kiln {} fuses the model otherwise than Kiln {}, which built {}",
            env!("CARGO_PKG_VERSION"),
            engine.kiln,
            path.display()
        ));
    };
    Ok(explained)
}

/// At most so many plans, as a build for the target has them.
fn plans(graph: Graph, target: &Target, options: &BuildOptions, most: usize) -> Result<Vec<Explained>> {
    let all = fuse_plans(&graph, &options.fusion(target, &options.kernels), most, &mut |_, _| {}).into_diagnostic()?;
    let explained =
        |fused| Explained { target: target.label(), numerics: options.numerics, graph: graph.clone(), fused };
    Ok(all.into_iter().map(explained).collect())
}

/// The launches that a name or number says, the first of each region.
fn find<'f>(fused: &'f Fused, name: &str) -> Result<Vec<&'f LaunchReport>> {
    let Fused { plan, report } = fused;
    if let Ok(number) = name.trim_start_matches('#').parse::<usize>() {
        if let Some(launch) = report.launches.iter().find(|launch| launch.step == number) {
            return Ok(vec![launch]);
        }
        return Err(match plan.steps.get(number) {
            None => miette!("step {number} is not in the plan, which has steps 0 to {}", plan.steps.len().max(1) - 1),
            Some(Step::Run { .. }) => miette!("step {number} copies a value, for outputs are memory of their own"),
            Some(step) => {
                miette!("step {number} is `{}`, whose plan of its own has no report", draw::step_name(plan, step))
            }
        });
    }
    let mut seen = BTreeSet::new();
    let first: Vec<&LaunchReport> = report.launches.iter().filter(|launch| seen.insert(launch.region)).collect();
    let tests: [&dyn Fn(&str) -> bool; 3] =
        [&|own| own == name, &|own| own.starts_with(name), &|own| own.contains(name)];
    for test in tests {
        let hits: Vec<&LaunchReport> = first.iter().copied().filter(|launch| test(&launch.name)).collect();
        if !hits.is_empty() {
            return Ok(hits);
        }
    }
    let names: Vec<&str> = first.iter().map(|launch| launch.name.as_str()).collect();
    Err(miette!("no region is named like `{name}`; there are:\n  {}", names.join("\n  ")))
}

fn steps(fused: &Fused, launch: &LaunchReport) -> Vec<usize> {
    let same = fused.report.launches.iter().filter(|other| other.region == launch.region);
    same.map(|other| other.step).collect()
}

fn as_json(explained: &Explained, found: &[&LaunchReport]) -> serde_json::Value {
    let Explained { target, numerics, fused, .. } = explained;
    let one = |launch: &&LaunchReport| {
        // Of whichever step: the next best is told of a region's first.
        let told = LaunchReport { next: fused.report.next(launch.region).cloned(), ..(*launch).clone() };
        let summary = &fused.plan.regions[launch.region].summary;
        serde_json::json!({ "summary": summary, "steps": steps(fused, launch), "roofline": launch.roofline(), "launch": told })
    };
    serde_json::json!({
        "target": target,
        "numerics": numerics,
        "regions": found.iter().map(one).collect::<Vec<_>>(),
    })
}

fn print(explained: &Explained, launch: &LaunchReport) -> Result<()> {
    let Explained { target, numerics, fused, .. } = explained;
    let steps = steps(fused, launch);
    outln!("#{} {} for {target}, numerics {}", launch.step, launch.name, numerics.name())?;
    outln!("  {}", fused.plan.regions[launch.region].summary)?;
    if steps.len() > 1 {
        let steps: Vec<String> = steps.iter().map(|step| format!("#{step}")).collect();
        outln!("  launched   {} times: {}", steps.len(), named(&steps))?;
    }
    outln!("  computes   {}", named(&launch.nodes))?;
    outln!("  anchor     {}", draw::anchor(launch.anchor).0)?;
    if let Some(function) = &launch.function {
        outln!("  kernel     {function}")?;
    }
    let (moved, ops) = (bytes(launch.bytes as usize), si(launch.ops, "op"));
    outln!("  moves      {moved}, {} at the least", si(launch.memory, "s"))?;
    outln!("  does       {ops}, {} at the least", si(launch.arithmetic, "s"))?;
    let share = 100.0 * launch.roofline() / launch.seconds;
    let known = if launch.measured { "measured" } else { "modelled" };
    outln!("  {known}   {}, launch included: {share:.0} % of it is the roofline's", si(launch.seconds, "s"))?;
    match launch.rules.is_empty() {
        true => outln!("  rules      none: it is computed as the model has it")?,
        false => outln!("  rules")?,
    }
    for rule in &launch.rules {
        outln!("    {:<28} {:<8} {}", rule.name, rule.numerics.name(), rule.reason)?;
    }
    match fused.report.next(launch.region) {
        Some(next) => outln!("  next best  {}", next_best(next)),
        None => outln!("  next best  nothing else was among the candidates"),
    }
}
