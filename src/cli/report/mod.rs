//! `kiln report`.

mod chart;
mod fusion;
mod history;
mod kernels;
mod page;
mod scale;
mod stamp;
mod table;

pub use fusion::{Fusion, named, next_best, page as fusion_page};
pub use scale::si;

use super::profile::Profile;
use super::{draw, inspect, regions, tensors, timings};
use kernels::Gpus;
use kiln_cuda::Home;
use kiln_engine::{Engine, TargetImage, read_header};
use kiln_fuse::typical_sizes;
use kiln_graph::{Bindings, Dim};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use kiln_tune::{Times, Timings};
use miette::{IntoDiagnostic, Result, miette};
use std::path::PathBuf;
use std::process::ExitCode;

/// Writes a page that says what an engine is and where its time goes: stamp, fused graph, memory, kernels beside their roofline, what tuning tried, the cost model beside the clock.
///
/// The page is one file that asks nobody for anything. What was not measured is said to be modelled, and what is missing how to get it.
#[derive(clap::Args)]
pub struct Args {
    /// The engine.
    engine: PathBuf,
    /// The page to write; default: the engine's name with `.html`.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which target; default: the profile's, else the first GPU's, else the first.
    #[arg(long)]
    target: Option<String>,
    /// How long each step took: what `kiln bench ENGINE --profile-kernels --json` printed, on any machine.
    #[arg(long, value_name = "JSON")]
    profile: Option<PathBuf>,
    /// The timing cache, as `kiln tune` takes it; default: `timings.jsonl` in $KILN_HOME.
    #[arg(long, value_name = "PLACE")]
    timings: Option<Timings>,
    /// Shape of an input: `name=1x3x64x64`. Memory is shown at these, else at the largest of the engine's profile; kernels at those of the bench's, else at these, else at the sizes that they were chosen for.
    #[arg(long, value_name = "INPUT=SHAPE")]
    shape: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| args.engine.with_extension("html"));
    let timings_file = args.timings.as_ref().map(|timings| PathBuf::from(timings.to_string()));
    super::not_over(&output, [&args.engine].into_iter().chain(&args.profile).chain(&timings_file))?;
    let header = read_header(&args.engine).into_diagnostic()?;
    let engine = Engine::load(&args.engine).into_diagnostic()?;
    let profile = args.profile.as_deref().map(Profile::read).transpose()?;
    let image = image(&engine, args.target.as_deref(), profile.as_ref())?;
    let shapes = tensors::parse_shapes(&args.shape)?;
    let (sizes, said) = sizes(&engine, image, &shapes, profile.as_ref())?;
    let used = engine.subjects_at(&image.label(), &sizes).into_diagnostic()?;
    let (times, timings) = timings_of(args.timings.as_ref())?;
    let history = history::history(&engine, image, &used, &times);
    let gpus = gpus(image, history.as_ref().map(|history| &history.gpu), profile.as_ref());
    let rows = kernels::rows(image, &used, gpus.as_ref(), profile.as_ref(), history.as_ref())?;
    let memory = match draw::memory(&engine, image, &shapes) {
        Err(why) if shapes.is_empty() => Err(why.to_string()),
        drawn => Ok(drawn?),
    };
    let facts = page::Facts {
        path: &args.engine,
        header: &header,
        engine: &engine,
        image,
        gpus,
        profile: profile.as_ref(),
        sizes: said,
        rows,
        history,
        timings,
        plan: draw::plan(&engine, image, profile.as_ref())?,
        memory,
    };
    inspect::write(&output, &page::page(&facts))?;
    outln!("-> {}", output.display())?;
    Ok(ExitCode::SUCCESS)
}

fn image<'e>(engine: &'e Engine, target: Option<&str>, profile: Option<&Profile>) -> Result<&'e TargetImage> {
    let profiled = profile.map(|profile| profile.target.as_str());
    let gpu = || engine.targets.iter().find(|image| !image.kernels.is_empty());
    let image = match target.or(profiled) {
        Some(target) => engine.target(target).into_diagnostic()?,
        None => gpu().or(engine.targets.first()).ok_or_else(|| miette!("this engine has no target"))?,
    };
    match profiled.filter(|profiled| *profiled != image.label()) {
        Some(found) => Err(miette!(
            help = "profile it on such a device, or leave out `--target`",
            "the profile is of target {found}, expected {}",
            image.label()
        )),
        None => Ok(image),
    }
}

/// The sizes of the model's symbols that kernels are shown at, and what they are.
fn sizes(
    engine: &Engine,
    image: &TargetImage,
    shapes: &tensors::Shapes,
    profile: Option<&Profile>,
) -> Result<(Bindings, String)> {
    let profiled = profile.map(|profile| &profile.shapes).filter(|shapes| !shapes.is_empty());
    let (given, whose) = match profiled {
        Some(_) => (profiled, "of the profile"),
        None if !shapes.is_empty() => (Some(shapes), "of the shapes given"),
        None => (None, "that kernels were chosen for"),
    };
    let mut known = engine.settings.sizes.clone();
    known.extend(given.map(|shapes| tensors::bind(&image.plan, shapes)).transpose()?.unwrap_or_default());
    // What nobody gave a size has a typical one.
    let symbols: Vec<Dim> = engine.symbols.iter().map(|(name, _)| Dim::sym(name)).collect();
    known.extend(typical_sizes(&symbols, &engine.symbols, &known));
    let sizes: Vec<String> = known.iter().map(|(symbol, size)| format!("{symbol} = {size}")).collect();
    let said = match sizes.is_empty() {
        true => "all shapes are fixed".to_owned(),
        false => format!("at the sizes {whose}: {}", sizes.join(", ")),
    };
    Ok((known, said))
}

/// What a timing cache holds; which one it is, and how many of its lines are damaged, if it is there.
fn timings_of(given: Option<&Timings>) -> Result<(Times, (String, Option<usize>))> {
    let place = match given {
        Some(place) => place.clone(),
        None => Timings::in_home(Home::from_env().into_diagnostic()?.root()),
    };
    if given.is_none() && !place.exists() {
        return Ok((Times::default(), (place.to_string(), None)));
    }
    let times = timings::load(&place)?;
    if given.is_some() && times.damaged > 0 && times.records().next().is_none() {
        return Err(miette!(
            help = "`kiln tune` writes one; `kiln timings list PLACE` shows what it holds",
            "{place} is no timing cache: none of its {} lines can be read",
            times.damaged
        ));
    }
    let damaged = times.damaged;
    Ok((times, (place.to_string(), Some(damaged))))
}

/// Whose cost model and roofline: the GPU that was measured on, else that which kernels were chosen for.
fn gpus(image: &TargetImage, measured: Option<&Gpu>, profile: Option<&Profile>) -> Option<Gpus> {
    let modelled = measured.cloned().or_else(|| regions::chosen_for(image))?;
    let device = profile.map(|profile| profile.device.as_str()).filter(|device| device.starts_with("cuda"));
    // PTX may run on another architecture.
    let profiled = device.and_then(|device| Arch::ALL.into_iter().find_map(|arch| regions::product(arch, device)));
    Some(Gpus { roof: measured.cloned().or(profiled).unwrap_or_else(|| modelled.clone()), modelled })
}
