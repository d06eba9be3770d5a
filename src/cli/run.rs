//! `kiln run`.

use super::model::{self, ModelArgs, Opened};
use super::tensors;
use kiln_engine::{Code, Number, Statistics, numbers, open_device};
use kiln_graph::{DType, Tensor};
use miette::IntoDiagnostic;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs a model once. An ONNX model is built first and the engine kept for the next time.
#[derive(clap::Args)]
pub struct Args {
    /// An engine (`.kiln`), or a model as `kiln build` takes.
    model: PathBuf,
    /// An input: `name=file.npy`, or a `.npz` or `.safetensors` file whose arrays are the inputs. bf16, 8-bit floats and 4-bit integers may come as
    /// ml_dtypes saves them; 4-bit integers also as int8 or uint8.
    #[arg(short, long)]
    input: Vec<String>,
    /// Where outputs go: a `.npz` or `.safetensors` file, or a folder for `NAME.npy`. Without it their first values are printed. `.npy` and `.npz` hold bf16, 8-bit
    /// floats and 4-bit integers as ml_dtypes has them (`numpy.load(..).view(ml_dtypes.bfloat16)`), safetensors 4-bit integers packed as `U8`, with
    /// their types in the metadata `kiln.types`.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// `cpu`, `cuda:N`, `sim:sm_XX`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// The public key that must have signed the engine: see `kiln sign`.
    #[arg(long, value_name = "FILE")]
    verify_key: Option<PathBuf>,
    /// What to do with an engine of another version of Kiln, or without code for the device: it is an error, or the model that it keeps (`kiln build --keep-model`)
    /// is built for the device.
    #[arg(long, value_enum, default_value = "error")]
    on_mismatch: model::OnMismatch,
    #[command(flatten)]
    options: ModelArgs,
    /// Print timings and outputs as JSON: of each output the first 1000 values in row-major order (`truncated` says whether there are more), and its smallest and
    /// largest finite value, their mean, and how many are NaN or infinite. NaN and infinities among values are strings.
    #[arg(long)]
    json: bool,
}

/// Values of an output in JSON.
const VALUES: usize = 1000;

#[derive(Serialize)]
struct Report {
    device: String,
    code: Code,
    outputs: Vec<Output>,
    values_limit: usize,
    files: Vec<PathBuf>,
    compute_ms: f64,
    memory: kiln_engine::Memory,
}

#[derive(Serialize)]
struct Output {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    statistics: Statistics,
    values: Vec<Number>,
    truncated: bool,
}

impl Output {
    fn of((name, tensor): &(String, Tensor)) -> Output {
        Output {
            name: name.clone(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            statistics: Statistics::of(tensor),
            values: numbers(tensor).take(VALUES).collect(),
            truncated: tensor.len() > VALUES,
        }
    }
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let given = tensors::given("--input", &args.input)?;
    let sources: Vec<PathBuf> = given.files().map(Path::to_owned).collect();
    let device = open_device(&args.device).into_diagnostic()?;
    let Opened { engine, inputs, .. } =
        model::open_as(&args.model, &*device, &args.options, given, (args.verify_key.as_deref(), args.on_mismatch))?;
    let mut session = model::session(&engine, device)?;
    let (outputs, times) = session.run_timed(&tensors::borrow(&inputs)).into_diagnostic()?;
    let files = match &args.output {
        Some(to) => tensors::save(to, &outputs, &[sources, vec![args.model.clone()]].concat())?,
        None => Vec::new(),
    };
    if args.json {
        super::print_json(&Report {
            device: session.device_name(),
            code: session.code().clone(),
            outputs: outputs.iter().map(Output::of).collect(),
            values_limit: VALUES,
            files,
            compute_ms: times.compute.as_secs_f64() * 1e3,
            memory: session.memory(),
        })?;
    } else {
        for (i, (name, tensor)) in outputs.iter().enumerate() {
            out!("{name}: {}{:?}", tensor.dtype(), tensor.shape())?;
            // One file may hold all outputs.
            match files.get(i).or(files.last()) {
                Some(file) => outln!(" -> {}", file.display())?,
                None => outln!(" = {}", tensors::preview(tensor))?,
            }
            if tensor.len() > 1 {
                outln!("  {}", Statistics::of(tensor))?;
            }
        }
        outln!("{} in {:.2} ms", session.device_name(), times.compute.as_secs_f64() * 1e3)?;
    }
    Ok(ExitCode::SUCCESS)
}
