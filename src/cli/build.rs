//! `kiln build`.

use super::dump::{self, Dump, Dumper};
use super::inspect;
use super::model::{self, ModelArgs};
use super::report::{self, Fusion};
use super::tune::TuneArgs;
use kiln_cuda::Home;
use kiln_engine::{BuildReport, Engine, PLANS, Progress};
use kiln_graph::{Graph, widen};
use kiln_target::Target;
use miette::{IntoDiagnostic, miette};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Imports a model, fuses it, compiles its kernels for each target and writes one engine file.
#[derive(clap::Args)]
pub struct Args {
    /// The model: an ONNX file, or a folder with a BERT encoder's `config.json` and `model.safetensors`.
    #[arg(required_unless_present = "dump")]
    model: Option<PathBuf>,
    /// The engine to write; default: the model's name with `.kiln`.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Targets: `cpu`, architectures such as `sm_90a`, or GPUs such as `h100`. Of GPUs of one architecture each has kernels of its own.
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    target: Vec<Target>,
    /// Build for `sm_80` too: the driver assembles its PTX on any newer GPU for which the engine has no code of its own.
    #[arg(long)]
    portable: bool,
    #[command(flatten)]
    options: ModelArgs,
    /// Show what passes leave behind: `after=PASS[,PASS..]`, `after=all`, or `help` for their names.
    #[arg(long, value_name = "after=PASS")]
    dump: Option<Dump>,
    /// Write that to files in this folder: TARGET/PASS and TARGET/KERNEL/PASS; default: to standard output.
    #[arg(long, value_name = "FOLDER", requires = "dump")]
    dump_to: Option<PathBuf>,
    /// Write a page that says why the model is fused so, for the first GPU of the targets, else the first: the graph before and after, rules, modelled times, the next best.
    #[arg(long, value_name = "FILE.html")]
    fusion_report: Option<PathBuf>,
    /// Measure ways to make each kernel on this machine's GPU, and take the fastest: see `kiln tune`. The GPU's own target is built for too.
    #[arg(long)]
    tune: bool,
    #[command(flatten)]
    tuning: TuneArgs,
    /// Leave the weights out: such an engine is small, and runs once `kiln refit` has given it its weights.
    #[arg(long)]
    strip_weights: bool,
    /// Keep the model's own weights too, so that `kiln run --on-mismatch rebuild` can build the engine anew where it does not fit.
    #[arg(long, conflicts_with = "strip_weights")]
    keep_model: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let start = Instant::now();
    let passes = match &args.dump {
        Some(Dump::Help) => {
            out!("{}", dump::list())?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Dump::After(passes)) => {
            dump::check(args.dump_to.as_ref(), args.json)?;
            passes.clone()
        }
        None => Vec::new(),
    };
    let model = args.model.as_ref().ok_or_else(|| miette!("no model is given"))?;
    let output = args.output.clone().unwrap_or_else(|| model.with_extension("kiln"));
    // Before the time of a build is spent.
    kiln_host::destination(&output).map_err(|e| miette!("cannot write {}: {e}", output.display()))?;
    let files = model::files(model)?;
    super::not_over(&output, &files)?;
    if let Some(page) = &args.fusion_report {
        kiln_host::destination(page).map_err(|e| miette!("cannot write {}: {e}", page.display()))?;
        super::not_over(page, &files)?;
        if page == &output || kiln_host::same(page, &output) {
            return Err(miette!("`--fusion-report {}`: this is where the engine is written", page.display()));
        }
    }
    let graph = model::import(model, &args.options, &[])?;
    let imported = start.elapsed();
    let warnings = warnings(&graph);
    let home = Home::from_env().into_diagnostic()?;
    let mut targets = args.target.clone();
    if args.tuning.given() && !args.tune {
        return Err(miette!(
            help = "add `--tune`, or leave out `--device`, `--budget`, `--max-memory`, `--timings`, `--exhaustive` and `--fit`",
            "how to measure is said, but not to tune"
        ));
    }
    // Before the time of a build is spent.
    let gpu = if args.tune { Some(args.tuning.gpu()?) } else { None };
    if let Some(gpu) = &gpu {
        let own = Target::Gpu(gpu.clone());
        targets.retain(|target| target.label() != own.label());
        targets.push(own);
    }
    if args.portable {
        Target::add_portable(&mut targets);
    }
    let dumper = Dumper::new(passes, args.dump_to.clone());
    let plans = if args.tune { PLANS } else { 1 };
    let hear = |news: &Progress<'_>| dumper.hear(news);
    let mut options = model::options(&args.options, &targets, home.clone())?;
    if let Some(gpu) = &gpu {
        options.prices = Some(args.tuning.prices(gpu, &options)?);
    }
    let built = model::build(&graph, &options, args.json, plans, &hear);
    dumper.finish()?;
    let (mut engines, mut reports): (Vec<Engine>, Vec<BuildReport>) = built?.into_iter().unzip();
    let tuned = match &gpu {
        Some(gpu) => Some(args.tuning.run(&mut engines, gpu, &home, args.json)?),
        None => None,
    };
    let plan = tuned.as_ref().map_or(0, |tuned| tuned.plan);
    let (mut engine, report) = (engines.swap_remove(plan), reports.swap_remove(plan));
    let writing = Instant::now();
    if args.keep_model {
        engine.keep_model(&graph).into_diagnostic()?;
    }
    if args.strip_weights {
        engine.strip_weights(&graph.weights).into_diagnostic()?;
    }
    engine.save(&output).into_diagnostic()?;
    if let Some(page) = &args.fusion_report {
        inspect::write(page, &fusion_page(&graph, &engine, &report)?)?;
    }
    if args.json {
        super::print_json(&serde_json::json!({
            "engine": output,
            "fusion_report": args.fusion_report,
            "import_ms": imported.as_secs_f64() * 1e3,
            "write_ms": writing.elapsed().as_secs_f64() * 1e3,
            "total_ms": start.elapsed().as_secs_f64() * 1e3,
            "warnings": warnings,
            "build": report,
            "tune": tuned,
        }))?;
    } else {
        warnings.iter().for_each(|w| note!("warning: {w}"));
        super::build_report::print(&report)?;
        if let Some(tuned) = &tuned {
            outln!()?;
            super::tune::print(tuned)?;
        }
        outln!(
            "\nimport {:.0} ms, write {:.0} ms, all {:.1} s -> {}",
            imported.as_secs_f64() * 1e3,
            writing.elapsed().as_secs_f64() * 1e3,
            start.elapsed().as_secs_f64(),
            output.display()
        )?;
        if let Some(page) = &args.fusion_report {
            outln!("-> {}", page.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The page of the first GPU's image, else of the first.
fn fusion_page(graph: &Graph, engine: &Engine, report: &BuildReport) -> miette::Result<String> {
    let all: Vec<_> = engine.targets.iter().zip(&report.targets).collect();
    let gpu = all.iter().find(|(image, _)| !image.kernels.is_empty());
    let (image, of) = gpu.or(all.first()).ok_or_else(|| miette!("there is no target to report"))?;
    report::fusion_page(&Fusion { graph, engine, image, report: &of.fusion })
}

/// Risks named one by one; the rest are counted.
const SHOWN_RISKS: usize = 8;

/// Sums in f16 that overflow on large data.
fn warnings(graph: &Graph) -> Vec<String> {
    let risks = widen::risks(graph);
    let mut warnings: Vec<String> = risks
        .iter()
        .take(SHOWN_RISKS)
        .map(|r| {
            format!("node `{}` ({}) rounds to f16 what node `{}` sums: above 65504 it is infinite", r.node, r.op, r.sum)
        })
        .collect();
    if risks.len() > SHOWN_RISKS {
        warnings.push(format!("and {} more like it", risks.len() - SHOWN_RISKS));
    }
    if !risks.is_empty() {
        let advice = "`kiln compare --input` names the first node that overflows on given data; `--widen-reductions` keeps such sums in f32";
        warnings.push(advice.to_owned());
    }
    warnings
}
