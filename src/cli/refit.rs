//! `kiln refit`.

use super::out::bytes;
use kiln_engine::Engine;
use miette::{IntoDiagnostic, miette};
use std::path::PathBuf;
use std::process::ExitCode;

/// Gives an engine other weights, or those that `kiln build --strip-weights` left out: constants are made of them as the build made them, nothing is compiled.
#[derive(clap::Args)]
pub struct Args {
    /// The engine.
    engine: PathBuf,
    /// The weights: the ONNX file of the same model, or `.safetensors` files with the names of the model's weights.
    #[arg(required = true)]
    weights: Vec<PathBuf>,
    /// The engine to write.
    #[arg(short, long)]
    output: PathBuf,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let output = &args.output;
    kiln_host::destination(output).map_err(|e| miette!("cannot write {}: {e}", output.display()))?;
    super::not_over(output, args.weights.iter().chain([&args.engine]))?;
    let engine = Engine::load(&args.engine).into_diagnostic()?;
    let engine = kiln::refit(&engine, &args.weights).into_diagnostic()?;
    engine.save(output).into_diagnostic()?;
    outln!("weights: {} in {} tensors -> {}", bytes(engine.weight_bytes()), engine.weights.len(), output.display())?;
    Ok(ExitCode::SUCCESS)
}
