//! `kiln kernel`: one kernel of a family alone, at every level.

mod bench;
mod check;
mod choose;
mod emit;
mod own;
mod problem;

use emit::Emit;
use kiln_graph::DType;
use kiln_kernels::families::{self, Built, Offer, Subject};
use kiln_target::arch::Arch;
use kiln_target::{Gpu, Target};
use miette::{Result, miette};
use problem::{Element, Extents, PROBLEMS, Problem, Sizes};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes the kernel of one problem, and shows it at any level, says what it uses, or checks it. The exit code is 1 if a check fails.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The family: `kiln kernel list` has them.
    #[arg(required = true)]
    family: Option<String>,
    /// Which of the family's problems; default: the first that `kiln kernel list` names.
    #[arg(long)]
    op: Option<String>,
    /// Element type; `tf32`: f32 that products may round to TF32.
    #[arg(long, default_value = "bf16")]
    dtype: Element,
    #[command(flatten)]
    sizes: Sizes,
    /// The architecture, or a GPU such as `h200`.
    #[arg(long, default_value = "sm_90a")]
    target: Target,
    /// The GPU of that architecture whose rates count; default: the typical one.
    #[arg(long)]
    gpu: Option<String>,
    /// The Config, as JSON; default: the one that the cost model ranks first.
    #[arg(long, value_name = "JSON", conflicts_with = "all_configs", value_parser = parse_json)]
    config: Option<Value>,
    /// Every Config, the best ranked first.
    #[arg(long)]
    all_configs: bool,
    /// `tile[:PASS]` (the tile program, as the family built it or after a pass), `cuda`, `ptx`, `sass`, `json` (what it uses, what it
    /// should cost), or `check` (that, and how it compares with the reference).
    #[arg(long, default_value = "json")]
    emit: Emit,
    /// Where `--emit check` runs it: `cuda:N` measures its time too; default: the simulator, with every check on.
    #[arg(long)]
    device: Option<String>,
    /// Random inputs and schedules of `--emit check`.
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
}

/// Without it a [`Value`] would be the text as a string.
fn parse_json(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text)
}

#[derive(clap::Subcommand)]
enum Command {
    /// Families, what they compute, their Configs and architectures.
    List {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        /// Only the kernels of one's own in these files.
        #[arg(long, value_name = "FILE.tile")]
        kernels: Vec<PathBuf>,
    },
    Check(Box<own::CheckArgs>),
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Some(Command::List { json, kernels }) if kernels.is_empty() => return list(*json),
        Some(Command::List { json, kernels }) => {
            let listed = own::listed(kernels)?;
            match json {
                true => super::print_json(&listed)?,
                false => listed.iter().try_for_each(own::Listed::print)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Check(check)) => return own::check(check),
        None => {}
    }
    let family = args.family.as_deref().ok_or_else(|| miette!("no family is given"))?;
    if args.device.is_some() && args.emit != Emit::Check {
        return Err(miette!("`--device` says where `--emit check` runs the kernel"));
    }
    let problem = problem::find(family, args.op.as_deref())?;
    let size = problem.extents(&args.sizes)?;
    let gpu = gpu(&args.target, args.gpu.as_deref())?;
    let (subject, offers) = problem.offers(args.dtype, &size, &gpu).map_err(|e| {
        let there: Vec<String> = problem.dtypes(&size, &gpu).iter().map(Element::to_string).collect();
        let there = if there.is_empty() { "no type".to_owned() } else { there.join(", ") };
        miette!(
            help = format!("with these sizes it is made for {there}"),
            "`{}` of {} has no kernel on {}: {e}",
            problem.op,
            args.dtype,
            gpu.arch
        )
    })?;
    let chosen = match &args.config {
        Some(config) => vec![choose::given(offers, config)?],
        None => {
            let all = choose::all(offers, if args.all_configs { usize::MAX } else { 1 })?;
            if all.is_empty() {
                return Err(miette!("none of the Configs is for these sizes"));
            }
            all
        }
    };
    let asked = Asked { problem, size, dtype: args.dtype, gpu, subject };
    match args.emit {
        Emit::Json | Emit::Check => asked.report(args, &chosen),
        text => asked.print(text, &chosen, args.all_configs),
    }
}

/// The GPU whose rates count.
fn gpu(target: &Target, name: Option<&str>) -> Result<Gpu> {
    let Target::Gpu(typical) = target else {
        return Err(miette!("kernels are for GPUs: `--target` takes {}", Arch::ALL.map(Arch::name).join(", ")));
    };
    let Some(name) = name else { return Ok(typical.clone()) };
    let known = || Gpu::names().collect::<Vec<_>>().join(", ");
    let gpu = Gpu::named(&name.to_ascii_lowercase());
    let gpu = gpu.ok_or_else(|| miette!("no GPU is called `{name}`; there are {}", known()))?;
    match gpu.arch == typical.arch {
        true => Ok(gpu),
        false => Err(miette!("`--gpu {name}` is {}, and `--target` is {}", gpu.arch, typical.arch)),
    }
}

/// A problem on a GPU.
struct Asked {
    problem: &'static Problem,
    size: Extents,
    dtype: Element,
    gpu: Gpu,
    subject: std::sync::Arc<Subject>,
}

impl Asked {
    /// Prints kernels as text, each under its Config where there are several.
    fn print(&self, form: Emit, chosen: &[(Offer, Built)], headed: bool) -> Result<ExitCode> {
        let arch = self.gpu.arch;
        let compiler = matches!(form, Emit::Ptx | Emit::Sass).then(emit::compiler).transpose()?;
        for (offer, built) in chosen {
            if headed {
                outln!("{} {}", form.comment(), offer.config)?;
            }
            if let Emit::Tile(passes) = form {
                outln!("{}", emit::tile(built, passes, arch)?)?;
                continue;
            }
            let generated = emit::generate(offer, built, arch)?;
            let Some(compiler) = &compiler else {
                generated.kernels.iter().try_for_each(|kernel| outln!("{}", kernel.source))?;
                continue;
            };
            let made = emit::compile(compiler, generated, arch)?;
            match form {
                Emit::Sass => outln!("{}", emit::sass(&made.images)?)?,
                _ => made.images.iter().try_for_each(|image| outln!("{}", image.ptx.trim_end_matches('\0')))?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints what kernels use and cost as JSON, and what checks say where they are asked for.
    fn report(&self, args: &Args, chosen: &[(Offer, Built)]) -> Result<ExitCode> {
        let Asked { problem, size, dtype, gpu, subject } = self;
        let compiler = emit::compiler()?;
        let reports = chosen.iter().map(|(offer, built)| {
            let estimate = &offer.estimate;
            let made = emit::compile(&compiler, emit::generate(offer, built, gpu.arch)?, gpu.arch)?;
            let work = emit::work(problem, size, *dtype, subject, estimate);
            let mut report = emit::report((problem, size, *dtype), gpu, estimate, &work, &made)?;
            if args.emit == Emit::Check {
                let device = args.device.as_deref();
                report.check = Some(check::check(subject, &made, gpu, &work, device, args.seeds)?);
            }
            Ok(report)
        });
        let reports = reports.collect::<Result<Vec<_>>>()?;
        match &reports[..] {
            [one] if !args.all_configs => super::print_json(one)?,
            all => super::print_json(&all)?,
        }
        let fine = reports.iter().all(|report| report.check.as_ref().is_none_or(|check| check.agrees));
        Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// A problem, as `kiln kernel list` shows it: its Configs at the sample sizes in f16 on the newest architecture that has any.
#[derive(Serialize)]
struct Listed {
    family: &'static str,
    op: &'static str,
    computes: &'static str,
    sizes: Extents,
    architectures: Vec<Arch>,
    dtypes: Vec<Element>,
    configs: usize,
    /// The values of each field.
    config: BTreeMap<String, Vec<Value>>,
}

fn list(json: bool) -> Result<ExitCode> {
    let there = |problem: &&Problem| families::names().any(|name| name == problem.family);
    let listed = PROBLEMS.iter().filter(there).map(listed).collect::<Result<Vec<_>>>()?;
    if json {
        super::print_json(&listed)?;
        return Ok(ExitCode::SUCCESS);
    }
    for Listed { family, op, computes, sizes, architectures, dtypes, configs, config } in &listed {
        outln!("{family} --op {op}: {computes}")?;
        let sizes: Vec<String> = sizes.iter().map(|(name, size)| format!("--{name} {size}")).collect();
        outln!("  sizes    {}", sizes.join(" "))?;
        outln!("  targets  {}", architectures.iter().map(|arch| arch.name()).collect::<Vec<_>>().join(" "))?;
        outln!("  dtypes   {}", dtypes.iter().map(Element::to_string).collect::<Vec<_>>().join(" "))?;
        outln!("  Configs  {configs} at these sizes in {SAMPLE}, of")?;
        print_fields(config)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_fields(config: &BTreeMap<String, Vec<Value>>) -> Result<()> {
    config.iter().try_for_each(|(field, values)| {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        outln!("    {field}: {}", values.join(", "))
    })
}

/// The values of each field of Configs.
fn fields<'c>(configs: impl Iterator<Item = &'c Value>) -> BTreeMap<String, Vec<Value>> {
    let mut fields = BTreeMap::<String, Vec<Value>>::new();
    for (field, value) in configs.filter_map(Value::as_object).flatten() {
        let values = fields.entry(field.clone()).or_default();
        if !values.contains(value) {
            values.push(value.clone());
        }
    }
    for values in fields.values_mut() {
        values.sort_by_key(|value| (value.as_u64(), value.to_string()));
    }
    fields
}

/// A type that every architecture has kernels for.
const SAMPLE: Element = Element::of(DType::F16);

fn listed(problem: &'static Problem) -> Result<Listed> {
    let size = problem.samples();
    let (mut architectures, mut space) = (vec![], None);
    for arch in Arch::ALL {
        let Some(gpu) = Gpu::typical(arch) else { continue };
        if let Ok((_, offers)) = problem.offers(SAMPLE, &size, &gpu) {
            architectures.push(arch);
            space = Some((gpu, offers));
        }
    }
    let (gpu, offers) = space.ok_or_else(|| miette!("no architecture has `{}` of {SAMPLE}", problem.op))?;
    Ok(Listed {
        family: problem.family,
        op: problem.op,
        computes: problem.text,
        dtypes: problem.dtypes(&size, &gpu),
        sizes: size,
        architectures,
        configs: offers.len(),
        config: fields(offers.iter().map(|offer| &offer.config)),
    })
}
