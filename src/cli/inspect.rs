//! `kiln inspect`.

use super::out::bytes;
use super::profile::Profile;
use super::{counters, diff, draw, model, tensors, why};
use kiln_cuda::CudaVersion;
use kiln_engine::{Engine, TargetImage};
use kiln_target::arch::Arch;
use miette::{IntoDiagnostic, Result, miette};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Shows an engine's stamp, signature, targets, kernels and memory; the plan of a target as text or as a picture; its memory over time; the CUDA C of a kernel; or why a model is
/// fused so.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("shaped").args(["memory", "why", "graph"]).multiple(true))]
#[command(group = clap::ArgGroup::new("fused").args(["why", "graph"]).multiple(true))]
pub struct Args {
    /// The engine; for `--why` and `--graph` a model too.
    #[arg(required_unless_present = "diff")]
    engine: Option<PathBuf>,
    /// Print the header, the counters, or why a region is there, as JSON.
    #[arg(long, conflicts_with_all = ["cuda", "graph", "plan"])]
    json: bool,
    /// Print the plan: buffers and launches in order, then what each region computes.
    #[arg(long, conflicts_with_all = ["cuda", "graph"])]
    plan: bool,
    /// Print the CUDA C of this kernel (or of all whose name contains this).
    #[arg(long, value_name = "KERNEL")]
    cuda: Option<String>,
    /// Run once on the simulator and count, by kernel: instructions, memory sectors, bank passes, divergence, matrix operations.
    #[arg(long, requires = "input", conflicts_with_all = ["cuda", "graph", "plan"])]
    counters: bool,
    /// An input of the counted run: `name=file.npy`, or a `.npz` or `.safetensors` file whose arrays are the inputs.
    #[arg(short, long, requires = "counters")]
    input: Vec<String>,
    /// Which target's kernels or plan; default: the first GPU's (for a plan and pictures the first target's, or the profile's).
    #[arg(long)]
    target: Option<String>,
    /// Write the fused plan as a picture to `.svg`: a box for each step, with what its region fuses and how it is implemented, and a label for each buffer.
    /// Of a model, or an engine that keeps its model (`kiln build --keep-model`), the graph before fusion is at the left: a frame for the ops of each step, beside its box. Or the model's
    /// graph before fusion as Graphviz text to `.dot`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cuda", "plan"])]
    graph: Option<PathBuf>,
    /// What two engines differ in, the second being the later: stamps, sizes, targets, and by region the kernels, Configs and resources, with the time that each took more
    /// or less: measured where `--profile A.json,B.json` says, else modelled.
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["engine", "cuda", "graph", "plan", "memory", "counters", "target"])]
    diff: Vec<PathBuf>,
    /// How long each step took: what `kiln bench ENGINE --profile-kernels --json` printed, on any machine. One for the picture of the plan, one of each engine for `--diff`.
    #[arg(long, value_name = "JSON", value_delimiter = ',')]
    profile: Vec<PathBuf>,
    /// Write the activation arena over time as a picture to `.svg`: which buffer lies where, from which step to which; its size, and the lower bound.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cuda", "plan", "json", "counters"])]
    memory: Option<PathBuf>,
    /// Shape of an input for `--memory`: `name=1x3x64x64`. Extents that none gives are the largest of the profile. For `--why` and `--graph` of a model what `kiln build --profile` takes.
    #[arg(long, value_name = "INPUT=SHAPE", requires = "shaped")]
    shape: Vec<String>,
    #[command(flatten)]
    why: why::WhyArgs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let expected = if args.diff.is_empty() { usize::from(args.graph.is_some()) } else { 2 };
    if !args.profile.is_empty() && args.profile.len() != expected {
        return Err(miette!(
            help = "`--graph FILE.svg --profile JSON`, or `--diff A B --profile A.json,B.json`",
            "{} profiles are given; expected {expected}",
            args.profile.len()
        ));
    }
    if let [a, b] = &args.diff[..] {
        let profiles = args.profile.iter().map(|path| Profile::read(path)).collect::<Result<Vec<_>>>()?;
        let found = diff::diff(a, b, &profiles)?;
        if args.json {
            super::print_json(&found)?
        } else {
            diff::print(&found)?
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(path) = &args.engine else { return Err(miette!("no engine is given")) };
    if args.counters {
        return count(args, path);
    }
    if let Some(region) = &args.why.why {
        why::run(&args.why, path, region, args.target.as_deref(), &args.shape, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(file), None, true) = (&args.graph, &args.memory, model::is_model(path)) {
        model_picture(args, path, file)?;
        return Ok(ExitCode::SUCCESS);
    }
    let header = kiln_engine::read_header(path).into_diagnostic()?;
    if args.json {
        super::print_json(&header)?;
        return Ok(ExitCode::SUCCESS);
    }
    let engine = Engine::load(path).into_diagnostic()?;
    if args.graph.is_some() || args.memory.is_some() {
        pictures(args, &engine)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.plan {
        out!("{}", first_image(&engine, args.target.as_deref())?.plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(name) = &args.cuda {
        return print_cuda(&engine, name, args.target.as_deref());
    }
    outln!("{}: {} (Kiln {}, format {})", path.display(), header.model, header.stamp.kiln, header.stamp.format)?;
    outln!("graph {}", header.stamp.graph_hash)?;
    outln!("numerics {}", header.stamp.settings.numerics.name())?;
    for (what, ports) in [("input ", &header.inputs), ("output", &header.outputs)] {
        for port in ports {
            outln!("{what} {}: {}", port.name, port.ty)?;
        }
    }
    for (name, (min, max)) in header.symbols.iter() {
        let max = if max == i64::MAX { "any".to_owned() } else { max.to_string() };
        outln!("symbol {name}: {min}..={max}")?;
    }
    match engine.stripped {
        true => outln!("weights: stripped; `kiln refit` takes {} tensors", engine.refit.parameters.len())?,
        false => outln!("weights: {} in {} tensors", bytes(engine.weight_bytes()), engine.weights.len())?,
    }
    for (image, target) in engine.targets.iter().zip(&header.targets) {
        outln!("\n{}: {} steps, {} regions", image.label(), image.plan.steps.len(), image.plan.regions.len())?;
        if let Some(t) = &image.toolchain {
            outln!("  NVRTC {} with {}", t.nvrtc, t.options.join(" "))?;
            outln!("  configs {}", target.config_hash)?;
            outln!("  {}", runs_on(image))?;
            for compiled in image.regions().into_iter().filter_map(|(_, compiled)| compiled) {
                for (variant, kernel, i) in compiled.kernels() {
                    // Where there are several they are a table: what runs when.
                    let config = match compiled.variants.len() {
                        0 | 1 => String::new(),
                        _ => format!(": {}", variant.implementation.config),
                    };
                    outln!(
                        "  {:>4} regs {:>3} spilled {:>8} shared {:>8} cubin  {} [{}]{}{config}",
                        i.resources.registers,
                        i.resources.spill_bytes,
                        bytes(i.resources.shared_bytes as usize),
                        bytes(i.cubin.len()),
                        kernel.entry,
                        variant.implementation.family,
                        draw::condition(compiled, variant, &BTreeMap::new())
                    )?;
                }
            }
        } else {
            for region in &image.plan.regions {
                outln!("  {}: {}", region.name, region.summary)?;
            }
        }
    }
    outln!("\nsections:")?;
    for s in &header.sections {
        outln!("  {:>10} at {:>12}  {}  {}", bytes(s.length), s.offset, &s.blake3[..16.min(s.blake3.len())], s.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The target named, else the first.
fn first_image<'a>(engine: &'a Engine, target: Option<&str>) -> Result<&'a TargetImage> {
    match target {
        Some(target) => engine.target(target).into_diagnostic(),
        None => engine.targets.first().ok_or_else(|| miette!("this engine has no target")),
    }
}

/// Which GPUs and drivers take an image.
pub fn runs_on(image: &TargetImage) -> String {
    let Ok(arch) = image.target.parse::<Arch>() else { return String::new() };
    let (major, minor) = (arch.capability() / 10, arch.capability() % 10);
    let toolkit = image.toolchain.as_ref().and_then(|t| CudaVersion::of_release(&t.nvrtc));
    let driver = |version: CudaVersion| match version.driver() {
        Some(branch) => format!("drivers from {branch}"),
        None => format!("drivers for CUDA {version}"),
    };
    let Some(toolkit) = toolkit else { return format!("code for compute capability {major}.{minor}") };
    let own = driver(CudaVersion::new(toolkit.major, 0));
    // No capability is above all others; PTX for one architecture alone runs on none that is newer.
    let portable = match arch.ptx_runs_on(u32::MAX) {
        true => format!("; PTX for newer GPUs on {}", driver(toolkit)),
        false => "; no other GPU runs its PTX".to_owned(),
    };
    format!("code for compute capability {major}.{minor} on {own}{portable}")
}

fn gpu_image<'a>(engine: &'a Engine, target: Option<&str>) -> Result<&'a TargetImage> {
    match target {
        Some(target) => engine.target(target).into_diagnostic(),
        None => engine
            .targets
            .iter()
            .find(|t| !t.kernels.is_empty())
            .ok_or_else(|| miette!("this engine has no GPU target; build it with `--target sm_90a` or another")),
    }
}

fn count(args: &Args, path: &Path) -> Result<ExitCode> {
    let engine = Engine::load(path).into_diagnostic()?;
    let known: Vec<_> = engine.inputs.iter().map(|port| (port.name.clone(), Some(port.ty.dtype))).collect();
    let inputs = tensors::given("--input", &args.input)?.read("input", &known)?;
    let image = gpu_image(&engine, args.target.as_deref())?.clone();
    let target = image.target.clone();
    // Of several images for one architecture the simulator would take another.
    let engine = Engine { targets: vec![image], ..engine };
    if target == "cpu" {
        return Err(miette!(
            "`--counters` runs GPU kernels on the simulator; name a GPU target such as `--target sm_80`"
        ));
    }
    let rows = counters::collect(&engine, &target, &inputs)?;
    if args.json {
        super::print_json(&serde_json::json!({ "target": target, "kernels": rows }))?;
    } else {
        counters::print(&rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_cuda(engine: &Engine, name: &str, target: Option<&str>) -> Result<ExitCode> {
    let image = gpu_image(engine, target)?;
    let compiled: Vec<_> = image.regions().into_iter().filter_map(|(_, compiled)| compiled).collect();
    let kernels = || compiled.iter().flat_map(|c| c.kernels().map(|(_, kernel, _)| kernel));
    // A kernel's name ends in an underscore, like all generated ones.
    let mut hits: Vec<_> = kernels().filter(|k| k.entry == name || k.entry.strip_suffix('_') == Some(name)).collect();
    if hits.is_empty() {
        hits = kernels().filter(|k| k.entry.contains(name)).collect();
    }
    if hits.is_empty() {
        let names: Vec<&str> = kernels().map(|k| k.entry.as_str()).collect();
        return Err(miette!(
            "no kernel of {} is named like `{name}`; there are:\n  {}",
            image.target,
            names.join("\n  ")
        ));
    }
    for kernel in hits {
        outln!("{}", kernel.source)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws what `--graph` asks for of a model.
fn model_picture(args: &Args, path: &Path, file: &Path) -> Result<()> {
    if !args.profile.is_empty() {
        return Err(miette!("{} is a model: profiles are of engines", path.display()));
    }
    super::not_over(file, &model::files(path)?)?;
    let draws = match extension(file) {
        Some("svg") => {
            |e: &why::Explained| draw::sides(&e.graph, &e.fused.plan, &e.fused.report.launches, &BTreeMap::new(), None)
        }
        Some("dot") => |e: &why::Explained| e.graph.to_dot(),
        _ => return Err(miette!("`--graph {}`: expected a file .svg or .dot", file.display())),
    };
    write(file, &draws(&why::of_model(&args.why, path, args.target.as_deref(), &args.shape)?))
}

/// The plan of an engine, beside the model's graph where the engine has all of the model.
fn sides(args: &Args, engine: &Engine, image: &TargetImage, profile: Option<&Profile>) -> Result<String> {
    // With `--memory` shapes are for that.
    let shapes: &[String] = if args.memory.is_some() { &[] } else { &args.shape[..] };
    args.why.check(&engine.path, shapes)?;
    if engine.sources.is_empty() && !args.why.adds() {
        return draw::plan(engine, image, profile);
    }
    profile.map_or(Ok(()), |profile| profile.check(&image.plan))?;
    match why::of_engine(&args.why, engine, Some(&image.label()), shapes) {
        Err(why) if args.why.adds() => Err(why),
        Ok(e) => Ok(draw::sides(&e.graph, &image.plan, &e.fused.report.launches, &image.kernels, profile)),
        Err(why) => {
            note!("the plan alone is drawn: {why}");
            draw::plan(engine, image, profile)
        }
    }
}

/// Draws what `--graph` and `--memory` ask for.
fn pictures(args: &Args, engine: &Engine) -> Result<()> {
    for file in args.graph.iter().chain(&args.memory) {
        super::not_over(file, args.profile.iter().chain(&args.engine))?;
    }
    let profile = args.profile.first().map(|path| Profile::read(path)).transpose()?;
    let target = args.target.as_deref().or(profile.as_ref().map(|profile| profile.target.as_str()));
    let image = first_image(engine, target)?;
    if let Some(file) = &args.graph {
        let text = match extension(file) {
            Some("svg") => sides(args, engine, image, profile.as_ref())?,
            Some("dot") => engine.graph_text.parse::<kiln_graph::Graph>().into_diagnostic()?.to_dot(),
            _ => return Err(miette!("`--graph {}`: expected a file .svg or .dot", file.display())),
        };
        write(file, &text)?;
    }
    let Some(file) = &args.memory else { return Ok(()) };
    if extension(file) != Some("svg") {
        return Err(miette!("`--memory {}`: expected a file .svg", file.display()));
    }
    write(file, &draw::memory(engine, image, &tensors::parse_shapes(&args.shape)?)?)
}

fn extension(file: &Path) -> Option<&str> {
    file.extension().and_then(|extension| extension.to_str())
}

/// Writes a file whole, or not at all.
pub fn write(file: &Path, text: &str) -> Result<()> {
    kiln_host::write(file, |f| f.write_all(text.as_bytes()))
        .map_err(|e| miette!("cannot write {}: {e}", file.display()))
}
