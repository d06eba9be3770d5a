//! Opening what the user names: an engine file, or a model that is built first.

use super::tensors::Given;
use super::tune::TuneArgs;
use indicatif::{ProgressBar, ProgressStyle};
use kiln_cuda::Home;
use kiln_engine::{
    BuildOptions, BuildReport, Code, Device, Engine, Kept, Progress, PublicKey, Session, SessionOptions,
};
use kiln_graph::{Bindings, Dim, Graph, Tensor, ValueId, widen};
use kiln_import::onnx;
use kiln_target::Target;
use miette::{Context, IntoDiagnostic, Result, miette};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A model or engine and how to build it.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Smallest and largest shape of an input, `x=1x3x64x64:4x3x640x640`, or with the one to choose kernels for between them. Where smallest
    /// and largest agree the extent is fixed; without one between them kernels are chosen for the largest.
    #[arg(long, value_name = "INPUT=MIN:[OPT:]MAX")]
    pub profile: Vec<String>,
    /// How far results may depart from the graph's own arithmetic; docs/numerics.md has it in full.
    #[arg(long, default_value = "reassoc")]
    pub numerics: Numerics,
    /// GPUs from sm_80 on may round the operands of products of f32 matrices to TF32, which their tensor cores multiply; the CPU does not.
    #[arg(long)]
    pub tf32: bool,
    /// Keep sums that the model takes in f16 or bf16 in f32, with the elementwise ops that feed them and bring them back into range.
    #[arg(long)]
    pub widen_reductions: bool,
    /// How much becomes one kernel; less than all that pays shows what fusion is worth, and whether a result departs because of it.
    #[arg(long, default_value = "full")]
    pub fusion: Extent,
    /// Kernels of one's own, as `kiln::export` wrote them, to be used wherever their functions occur.
    #[arg(long, value_name = "FILE.tile")]
    pub kernels: Vec<PathBuf>,
}

/// The kernels of files.
pub fn kernels(files: &[PathBuf]) -> Result<Vec<Arc<kiln::Kernel>>> {
    let mut all: Vec<Arc<kiln::Kernel>> = vec![];
    for file in files {
        for kernel in kiln::kernels::load(file).into_diagnostic()? {
            if all.iter().any(|other| other.name() == kernel.name()) {
                return Err(miette!("{}: a second kernel is called `{}`", file.display(), kernel.name()));
            }
            all.push(kernel);
        }
    }
    Ok(all)
}

/// [`kiln_fuse::Extent`] as a command-line value.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Extent {
    /// Whatever pays.
    Full,
    /// Chains of elementwise ops; every other op by itself. No rewriting.
    Chains,
    /// Every op by itself. No rewriting.
    Single,
}

impl From<Extent> for kiln_fuse::Extent {
    fn from(extent: Extent) -> kiln_fuse::Extent {
        match extent {
            Extent::Full => kiln_fuse::Extent::Full,
            Extent::Chains => kiln_fuse::Extent::Chains,
            Extent::Single => kiln_fuse::Extent::Single,
        }
    }
}

/// [`kiln_fuse::Numerics`] as a command-line value.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Numerics {
    /// Every op rounds once, to its own type: + - * / sqrt, casts and integers give the same bits on every device, other functions are within
    /// 4 units in the last place, sums have no order.
    Exact,
    /// Sums and products may be grouped differently, and rounded together.
    Reassoc,
    /// Formulas may be replaced by close ones.
    Approx,
}

impl From<Numerics> for kiln_fuse::Numerics {
    fn from(n: Numerics) -> kiln_fuse::Numerics {
        match n {
            Numerics::Exact => kiln_fuse::Numerics::Exact,
            Numerics::Reassoc => kiln_fuse::Numerics::Reassoc,
            Numerics::Approx => kiln_fuse::Numerics::Approx,
        }
    }
}

/// Whether a path names a model to build rather than an engine: an ONNX file, or a folder with `config.json` and `model.safetensors`.
pub fn is_model(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}

/// The files that a model is read from.
pub fn files(path: &Path) -> Result<BTreeSet<PathBuf>> {
    if path.is_dir() {
        return Ok(["config.json", "model.safetensors"].map(|file| path.join(file)).into());
    }
    Ok(onnx::outline(path).into_diagnostic()?.files)
}

/// Imports a model. `values` are inputs whose contents may decide shapes.
pub fn import(path: &Path, args: &ModelArgs, values: &[(String, Tensor)]) -> Result<Graph> {
    let graph = import_as_is(path, args, values)?;
    if args.widen_reductions { widen::widen_reductions(&graph).into_diagnostic() } else { Ok(graph) }
}

fn import_as_is(path: &Path, args: &ModelArgs, values: &[(String, Tensor)]) -> Result<Graph> {
    if path.is_dir() {
        if let Some(profile) = args.profile.first() {
            return Err(miette!("`--profile {profile}`: an encoder from a folder has the ranges of its config.json"));
        }
        let context = || format!("cannot import {}", path.display());
        return kiln_import::hf::bert::load(path).into_diagnostic().wrap_err_with(context);
    }
    let mut options = profile(args)?.0;
    options.candidates = values.iter().cloned().collect();
    onnx::load(path, &options).into_diagnostic().wrap_err_with(|| format!("cannot import {}", path.display()))
}

/// What `--profile` says: to the importer, and which sizes to choose kernels for.
fn profile(args: &ModelArgs) -> Result<(onnx::Options, Bindings)> {
    let (mut options, mut sizes) = (onnx::Options::default(), Bindings::new());
    for spec in &args.profile {
        let (name, range) =
            spec.split_once('=').ok_or_else(|| miette!("`--profile {spec}`: expected input=min:max shapes"))?;
        if options.shapes.contains_key(name) {
            return Err(miette!("`--profile {spec}`: the input has a profile already"));
        }
        let shapes: Vec<Vec<usize>> = range.split(':').map(super::tensors::parse_shape).collect::<Result<_>>()?;
        let (min, opt, max) = match shapes.as_slice() {
            [all] => (all, all, all),
            [min, max] => (min, max, max),
            [min, opt, max] => (min, opt, max),
            _ => return Err(miette!("`--profile {spec}`: expected one to three shapes, found {}", shapes.len())),
        };
        let ordered = |a: &[usize], b: &[usize]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a <= b);
        if !ordered(min, opt) || !ordered(opt, max) {
            return Err(miette!("`--profile {spec}`: a shape exceeds the one after it, or their ranks differ"));
        }
        let dims = min.iter().zip(opt).zip(max).enumerate().map(|(axis, ((&a, &typical), &b))| {
            if a == b {
                return Dim::from(a);
            }
            let mut symbol = format!("{}_{axis}", identifier(name));
            // Names of inputs are free, those of symbols are not: `x.1` and `x_1` look alike.
            while options.ranges.contains_key(&symbol) {
                symbol.push('_');
            }
            options.ranges.insert(symbol.clone(), (a as i64, b as i64));
            sizes.insert(symbol.clone(), typical as i64);
            Dim::sym(symbol)
        });
        let dims: Vec<Dim> = dims.collect();
        options.shapes.insert(name.to_owned(), dims);
    }
    Ok((options, sizes))
}

fn identifier(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
}

/// How a model is built.
pub fn options(args: &ModelArgs, targets: &[Target], home: Home) -> Result<BuildOptions> {
    let (numerics, sizes) = (args.numerics.into(), profile(args)?.1);
    let kernels = kernels(&args.kernels)?;
    let (tf32, extent) = (args.tf32, args.fusion.into());
    Ok(BuildOptions { targets: targets.to_vec(), numerics, tf32, sizes, kernels, extent, ..BuildOptions::new(home) })
}

/// Builds engines of at most so many plans of the last target ([`kiln_engine::build_plans`]), the first one in any case, with a progress bar on standard error; `hear` gets the news too.
pub fn build(
    graph: &Graph,
    options: &BuildOptions,
    quiet: bool,
    plans: usize,
    hear: &(dyn Fn(&Progress<'_>) + Sync),
) -> Result<Vec<(Engine, BuildReport)>> {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
    bar.set_style(ProgressStyle::with_template("{prefix:>18} {wide_bar} {pos}/{len} {msg:40!}").into_diagnostic()?);
    let result = kiln_engine::build_plans(graph, options, plans, &|news| {
        hear(&news);
        match news {
            Progress::Stage { stage, target, kernels } => {
                bar.set_prefix(format!("{stage} {target}"));
                bar.set_message("");
                bar.set_length(kernels as u64);
                bar.set_position(0);
            }
            Progress::Kernel { name, done, .. } => {
                bar.set_message(name.to_owned());
                bar.set_position(done as u64);
            }
            Progress::Pass { .. } => {}
        }
    });
    bar.finish_and_clear();
    let built = result.into_diagnostic()?;
    let warnings = built.first().into_iter().flat_map(|(_, report)| &report.warnings);
    warnings.for_each(|warning| note!("warning: {warning}"));
    Ok(built)
}

/// Loads an engine on a device, with a budget for its weights if one is given, and says so if it has no code of its own for it.
pub fn session(engine: &Engine, device: Box<dyn Device>, weight_budget: Option<u64>) -> Result<Session> {
    let target = device.target();
    let session = Session::with_options(engine, device, &SessionOptions { weight_budget }).into_diagnostic()?;
    if let Code::Portable(of) = session.code() {
        let advice = match of.split(':').next() == Some(target.as_str()) {
            true => "Kiln has no target of its own for this GPU".to_owned(),
            false => format!("`kiln build --target {target}` makes code for this GPU"),
        };
        note!("{} runs {}; {advice}", session.device_name(), session.code());
    }
    Ok(session)
}

/// What the user named, ready to run.
pub struct Opened {
    /// Loaded or built.
    pub engine: Engine,
    /// What was given for its inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// The model, if it was none yet.
    pub graph: Option<Graph>,
    /// Where the engine of a model is kept.
    pub kept: Option<Kept>,
    /// What that took.
    pub opening: Opening,
}

/// How an engine came to be ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    /// Reading a model.
    pub import: Duration,
    /// Finding the engine, or building it.
    pub engine: Duration,
    /// Whether it was there.
    pub warm: bool,
}

/// Opens an engine file, or builds a model for a device; also reads the inputs that were `given`, without those that became constants of the model.
/// Built engines are kept under `$KILN_HOME/engines`; the user is told.
pub fn open(path: &Path, device: &dyn Device, args: &ModelArgs, given: Given) -> Result<Opened> {
    open_as(path, device, args, given, &How { key: None, on_mismatch: OnMismatch::Error, tuning: None })
}

/// [`kiln_engine::OnMismatch`] as a command-line value.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum OnMismatch {
    /// Say what does not fit.
    Error,
    /// Build the model that the engine keeps.
    Rebuild,
}

/// How to open it.
pub struct How<'a> {
    /// The public key that must have signed an engine.
    pub key: Option<&'a Path>,
    /// Whether an engine that does not fit is built anew.
    pub on_mismatch: OnMismatch,
    /// How a model is tuned once it has run.
    pub tuning: Option<&'a TuneArgs>,
}

/// [`open`], and how.
pub fn open_as(
    path: &Path,
    device: &dyn Device,
    args: &ModelArgs,
    given: Given,
    &How { key, on_mismatch, tuning }: &How<'_>,
) -> Result<Opened> {
    if let Some(key) = key.filter(|_| is_model(path)) {
        return Err(miette!("`--verify-key {}`: engines are signed, and {} is a model", key.display(), path.display()));
    }
    let start = Instant::now();
    if !is_model(path) {
        let key = key.map(PublicKey::load).transpose().into_diagnostic()?;
        let on = match on_mismatch {
            OnMismatch::Error => kiln_engine::OnMismatch::Error,
            OnMismatch::Rebuild => kiln_engine::OnMismatch::Rebuild(Home::from_env().into_diagnostic()?),
        };
        let engine = Engine::open(path, device, key.as_ref(), &on).into_diagnostic()?;
        if !kiln_host::same(&engine.path, path) {
            note!("{} does not fit: running what was built again from it", path.display());
        }
        let opening = Opening { engine: start.elapsed(), warm: true, ..Opening::default() };
        let known: Vec<_> = engine.inputs.iter().map(|port| (port.name.clone(), Some(port.ty.dtype))).collect();
        return Ok(Opened { engine, inputs: given.read("input", &known)?, graph: None, kept: None, opening });
    }
    let home = Home::from_env().into_diagnostic()?;
    let target = device.processor().into_diagnostic()?;
    // An encoder from a folder has no shapes that values decide.
    let (graph, inputs) = if path.is_dir() {
        let graph = import(path, args, &[])?;
        let port = |&id: &ValueId| (graph.input_name(id).to_owned(), Some(graph.ty(id).dtype));
        let known: Vec<_> = graph.inputs.iter().map(port).collect();
        (graph, given.read("input", &known)?)
    } else {
        let inputs = given.read("input", &onnx::outline(path).into_diagnostic()?.inputs)?;
        (import(path, args, &inputs)?, inputs)
    };
    let is_input = |name: &str| graph.inputs.iter().any(|&id| graph.input_name(id) == name);
    let inputs = inputs.into_iter().filter(|(name, _)| is_input(name)).collect();
    let import = start.elapsed();
    let opening = |warm| Opening { import, engine: start.elapsed() - import, warm };
    let mut options = options(args, std::slice::from_ref(&target), home)?;
    let kept = Kept::new(&graph, &target, &options).into_diagnostic()?;
    match kept.find() {
        Ok(None) => {}
        Ok(Some(engine)) => {
            note!("using the engine built before: {}", engine.path.display());
            return Ok(Opened { engine, inputs, graph: Some(graph), kept: Some(kept), opening: opening(true) });
        }
        Err(why) => note!("the engine built before cannot be used: {why}"),
    }
    note!("building {} for {target}", path.display());
    if let (Some(tuning), Some(_), Target::Gpu(gpu)) = (tuning, device.gpu(), &target) {
        options.prices = Some(tuning.prices(gpu, &options)?);
    }
    let (engine, _) = build(&graph, &options, false, 1, &|_| {})?.swap_remove(0);
    match kept.store(&engine) {
        Ok(path) => note!("saved {}", path.display()),
        Err(e) => note!("the engine is not kept for the next time: {e}"),
    }
    Ok(Opened { engine, inputs, graph: Some(graph), kept: Some(kept), opening: opening(false) })
}
