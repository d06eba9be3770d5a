//! Opening what the user names: an engine file, or a model that is built first.

use indicatif::{ProgressBar, ProgressStyle};
use kiln_cuda::Home;
use kiln_engine::{BuildOptions, BuildReport, Engine, Progress};
use kiln_graph::{Dim, Graph, Tensor, widen};
use kiln_import::onnx;
use kiln_target::Target;
use miette::{Context, IntoDiagnostic, Result, miette};
use std::path::{Path, PathBuf};

/// A model or engine and how to build it.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Smallest and largest shape of an input: `x=1x3x64x64:4x3x640x640`. Where both agree the extent is fixed.
    #[arg(long, value_name = "INPUT=MIN:MAX")]
    pub profile: Vec<String>,
    /// How far results may depart from the graph's own arithmetic; docs/numerics.md has it in full.
    #[arg(long, default_value = "reassoc")]
    pub numerics: Numerics,
    /// Keep sums that the model takes in f16 or bf16 in f32, with the elementwise ops that feed them and bring them back into range.
    #[arg(long)]
    pub widen_reductions: bool,
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
    let mut options = onnx::Options::default();
    for spec in &args.profile {
        let (name, range) =
            spec.split_once('=').ok_or_else(|| miette!("`--profile {spec}`: expected input=min:max shapes"))?;
        let (min, max) = range.split_once(':').unwrap_or((range, range));
        let (min, max) = (super::tensors::parse_shape(min)?, super::tensors::parse_shape(max)?);
        if min.len() != max.len() || min.iter().zip(&max).any(|(a, b)| a > b) {
            return Err(miette!("`--profile {spec}`: the smallest shape exceeds the largest, or their ranks differ"));
        }
        let dims = min.iter().zip(&max).enumerate().map(|(axis, (&a, &b))| {
            if a == b {
                return Dim::from(a);
            }
            let symbol = format!("{}_{axis}", identifier(name));
            options.ranges.insert(symbol.clone(), (a as i64, b as i64));
            Dim::sym(symbol)
        });
        let dims: Vec<Dim> = dims.collect();
        options.shapes.insert(name.to_owned(), dims);
    }
    options.candidates = values.iter().cloned().collect();
    onnx::load(path, &options).into_diagnostic().wrap_err_with(|| format!("cannot import {}", path.display()))
}

fn identifier(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
}

/// Builds an engine with a progress bar on standard error.
pub fn build(
    graph: &Graph,
    targets: &[Target],
    args: &ModelArgs,
    home: Home,
    quiet: bool,
) -> Result<(Engine, BuildReport)> {
    let options = BuildOptions { targets: targets.to_vec(), numerics: args.numerics.into(), home, line_info: false };
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
    bar.set_style(ProgressStyle::with_template("{prefix:>18} {wide_bar} {pos}/{len} {msg:40!}").into_diagnostic()?);
    let result = kiln_engine::build(graph, &options, &|news| match news {
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
    });
    bar.finish_and_clear();
    result.into_diagnostic()
}

/// Opens an engine file, or builds a model for one target; also gives the names of the inputs among `values` that became constants of
/// the model. Built engines are kept under `$KILN_HOME/engines`, keyed by the model's contents, the options and the version; the user is told.
pub fn open(path: &Path, target: &str, args: &ModelArgs, values: &[(String, Tensor)]) -> Result<(Engine, Vec<String>)> {
    if !is_model(path) {
        return Ok((kiln_engine::load(path).into_diagnostic()?, Vec::new()));
    }
    let home = Home::from_env().into_diagnostic()?;
    let target: Target = target.parse().into_diagnostic()?;
    let graph = import(path, args, values)?;
    let is_input = |name: &str| graph.inputs.iter().any(|&id| graph.input_name(id) == name);
    let folded = values.iter().map(|(name, _)| name).filter(|name| !is_input(name)).cloned().collect();
    let cached = cache_path(&home, &graph, &target, args);
    match kiln_engine::load(&cached) {
        Ok(engine) => {
            eprintln!("using the engine built before: {}", cached.display());
            return Ok((engine, folded));
        }
        Err(kiln_engine::Error::Io { .. }) => {}
        Err(e) => eprintln!("the cached engine cannot be used ({e}); building it again"),
    }
    eprintln!("building {} for {target}", path.display());
    let (engine, _) = build(&graph, &[target], args, home, false)?;
    if let Some(folder) = cached.parent() {
        std::fs::create_dir_all(folder).into_diagnostic()?;
    }
    kiln_engine::save(&engine, &cached).into_diagnostic()?;
    eprintln!("saved {}", cached.display());
    Ok((engine, folded))
}

fn cache_path(home: &Home, graph: &Graph, target: &Target, args: &ModelArgs) -> PathBuf {
    let key = format!("{}-{target}-{}-{:?}", kiln_engine::graph_hash(graph), env!("CARGO_PKG_VERSION"), args.numerics);
    let hash = blake3::hash(key.as_bytes()).to_hex();
    home.root().join("engines").join(format!("{}-{}.kiln", identifier(&graph.name), &hash[..24]))
}
