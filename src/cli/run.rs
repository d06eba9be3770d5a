//! `kiln run`.

use super::model::{self, ModelArgs, Opened};
use super::tensors;
use super::tune::{TuneArgs, parse_time};
use kiln_cuda::Home;
use kiln_engine::{Code, Engine, Kept, Number, Statistics, numbers, open_device};
use kiln_graph::{DType, Tensor};
use kiln_host::parse_size;
use kiln_tune::{OnDevice, Timings, Tuned};
use miette::{IntoDiagnostic, miette};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs a model once. An ONNX model is built first, with the kernels that the cost model ranks first, and the engine kept for the next time.
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
    /// Bytes that weights may take on the device, such as `2GiB`; the rest stays on the host and is copied ahead of its step.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    weight_budget: Option<u64>,
    /// The public key that must have signed the engine: see `kiln sign`.
    #[arg(long, value_name = "FILE")]
    verify_key: Option<PathBuf>,
    /// What to do with an engine of another version of Kiln, or without code for the device: it is an error, or the model that it keeps (`kiln build --keep-model`)
    /// is built for the device.
    #[arg(long, value_enum, default_value = "error")]
    on_mismatch: model::OnMismatch,
    /// Once the outputs are there, measure ways to make each kernel of a model on the GPU, for so long at most (default: 30s), and keep the fastest for the next
    /// time; `kiln tune` has more to say. The CPU and the simulator have nothing to measure.
    #[arg(long, value_name = "TIME", value_parser = parse_time, num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    tune: Option<Duration>,
    /// The timing cache, as of `kiln tune`.
    #[arg(long, value_name = "PLACE", requires = "tune")]
    timings: Option<Timings>,
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
    first: First,
    memory: kiln_engine::Memory,
    tune: Option<Tuned>,
}

/// From the start of the command to the first outputs, in milliseconds.
#[derive(Serialize)]
struct First {
    /// Whether the engine was there.
    warm: bool,
    /// Reading a model and the inputs.
    import_ms: f64,
    /// Finding the engine, or building it.
    engine_ms: f64,
    /// Loading it on the device.
    load_ms: f64,
    /// Running it.
    run_ms: f64,
    /// All of it.
    total_ms: f64,
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
    let start = Instant::now();
    if args.tune.is_some() && !model::is_model(&args.model) {
        return Err(miette!(
            help = "`kiln tune ENGINE -o FASTER.kiln` tunes an engine",
            "`--tune` is for models, whose engines Kiln keeps, and {} is an engine",
            args.model.display()
        ));
    }
    let given = tensors::given("--input", &args.input)?;
    let sources: Vec<PathBuf> = given.files().map(Path::to_owned).collect();
    let device = open_device(&args.device).into_diagnostic()?;
    let tuning = args.tune.map(|budget| TuneArgs {
        device: Some(args.device.clone()),
        budget: Some(budget),
        max_memory: None,
        timings: args.timings.clone(),
        exhaustive: false,
        fit: false,
    });
    let (key, on_mismatch) = (args.verify_key.as_deref(), args.on_mismatch);
    let how = model::How { key, on_mismatch, tuning: tuning.as_ref() };
    let Opened { mut engine, inputs, kept, opening, .. } =
        model::open_as(&args.model, &*device, &args.options, given, &how)?;
    let loading = Instant::now();
    let mut session = model::session(&engine, device, args.weight_budget)?;
    let load = loading.elapsed();
    let (outputs, times) = session.run_timed(&tensors::borrow(&inputs)).into_diagnostic()?;
    let first = First {
        warm: opening.warm,
        import_ms: ms(opening.import),
        engine_ms: ms(opening.engine),
        load_ms: ms(load),
        run_ms: ms(loading.elapsed() - load),
        total_ms: ms(start.elapsed()),
    };
    let files = match &args.output {
        Some(to) => tensors::save(to, &outputs, &[sources, vec![args.model.clone()]].concat())?,
        None => Vec::new(),
    };
    if !args.json {
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
        let start = if first.warm { "warm" } else { "cold" };
        outln!(
            "{} in {:.2} ms; first outputs {:.0} ms after a {start} start",
            session.device_name(),
            ms(times.compute),
            first.total_ms
        )?;
    }
    let tuned = match (&tuning, &kept) {
        (Some(tuning), Some(kept)) => tuned(args, tuning, &mut engine, kept)?,
        _ => None,
    };
    if args.json {
        super::print_json(&Report {
            device: session.device_name(),
            code: session.code().clone(),
            outputs: outputs.iter().map(Output::of).collect(),
            values_limit: VALUES,
            files,
            compute_ms: ms(times.compute),
            first,
            memory: session.memory(),
            tune: tuned,
        })?;
    } else if let Some(tuned) = &tuned {
        outln!()?;
        super::tune::print(tuned)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tunes an engine on the device, and keeps it; none where there is nothing to measure.
fn tuned(args: &Args, tuning: &TuneArgs, engine: &mut Engine, kept: &Kept) -> miette::Result<Option<Tuned>> {
    let gpu = match OnDevice::gpu(&args.device) {
        Ok(gpu) => gpu,
        Err(kiln_tune::Error::Untimed { device }) => {
            note!("{device} has nothing to tune");
            return Ok(None);
        }
        Err(e) => return Err(e).into_diagnostic(),
    };
    super::out::flush()?;
    let tuned = tuning.run(std::slice::from_mut(engine), &gpu, &Home::from_env().into_diagnostic()?, args.json)?;
    match kept.store(engine) {
        Ok(path) => note!("saved {}", path.display()),
        Err(e) => note!("the engine is not kept for the next time: {e}"),
    }
    Ok(Some(tuned))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
