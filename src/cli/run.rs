//! `kiln run`.

use super::model::{self, ModelArgs, Opened};
use super::tensors;
use kiln_engine::open_device;
use miette::{IntoDiagnostic, miette};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs a model once. An ONNX model is built first and the engine kept for the next time.
#[derive(clap::Args)]
pub struct Args {
    /// An engine (`.kiln`), or a model as `kiln build` takes.
    model: PathBuf,
    /// An input: `name=file.npy`, or a `.npz` whose arrays are the inputs.
    #[arg(short, long)]
    input: Vec<String>,
    /// Where outputs go as `NAME.npy`; without it their shapes and first values are printed.
    #[arg(short = 'o', long)]
    output_dir: Option<PathBuf>,
    /// `cpu`, `cuda:N`, `sim:sm_XX`.
    #[arg(long, default_value = "cpu")]
    device: String,
    #[command(flatten)]
    options: ModelArgs,
    /// Print timings and outputs as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let given = tensors::given("--input", &args.input)?;
    let sources: Vec<PathBuf> = given.files().map(Path::to_owned).collect();
    let device = open_device(&args.device).into_diagnostic()?;
    let Opened { engine, inputs, .. } = model::open(&args.model, &device.target(), &args.options, given)?;
    let mut session = model::session(&engine, device)?;
    let (outputs, times) = session.run_timed(&tensors::borrow(&inputs)).into_diagnostic()?;
    let mut files = Vec::new();
    if let Some(folder) = &args.output_dir {
        std::fs::create_dir_all(folder).map_err(|e| miette!("cannot write to {}: {e}", folder.display()))?;
        files = tensors::file_names(outputs.iter().map(|(name, _)| name.as_str()))
            .into_iter()
            .map(|file| folder.join(file))
            .collect::<Vec<_>>();
        for file in &files {
            super::not_over(file, sources.iter().chain([&args.model]))?;
        }
        for (file, (_, tensor)) in files.iter().zip(&outputs) {
            kiln_import::npy::save(file, tensor).into_diagnostic()?;
        }
    }
    if args.json {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|(name, t)| serde_json::json!({ "name": name, "dtype": t.dtype(), "shape": t.shape() }))
            .collect();
        super::print_json(&serde_json::json!({
            "device": session.device_name(),
            "code": session.code(),
            "outputs": outputs,
            "files": files,
            "compute_ms": times.compute.as_secs_f64() * 1e3,
            "memory": session.memory(),
        }))?;
    } else {
        for (i, (name, tensor)) in outputs.iter().enumerate() {
            out!("{name}: {}{:?}", tensor.dtype(), tensor.shape())?;
            match files.get(i) {
                Some(file) => outln!(" -> {}", file.display())?,
                None => outln!(" = {}", tensors::preview(tensor))?,
            }
        }
        outln!("{} in {:.2} ms", session.device_name(), times.compute.as_secs_f64() * 1e3)?;
    }
    Ok(ExitCode::SUCCESS)
}
