//! `kiln bench`, in trtexec's vocabulary.

use super::model::{self, ModelArgs, Opened};
use super::profile::StepTime;
use super::tensors;
use kiln_engine::{Code, RunTimes, open_device};
use kiln_host::parse_size;
use miette::IntoDiagnostic;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Measures latency and throughput: a warm-up, then at least the duration and the iterations, whichever is longer.
#[derive(clap::Args)]
pub struct Args {
    /// An engine (`.kiln`), or a model as `kiln build` takes.
    model: PathBuf,
    /// Shape of an input: `name=1x3x64x64`. Values are random, from a fixed seed.
    #[arg(long, value_name = "INPUT=SHAPE")]
    shape: Vec<String>,
    /// An input from a file instead: `name=file.npy`, `.npz` or `.safetensors`.
    #[arg(short, long)]
    input: Vec<String>,
    /// `cpu`, `cpu:THREADS`, `cuda:N`, `sim:sm_XX`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Bytes that weights may take on the device, such as `2GiB`; the rest stays on the host and is copied ahead of its step.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    weight_budget: Option<u64>,
    /// Milliseconds of warm-up.
    #[arg(long, default_value_t = 200)]
    warm_up: u64,
    /// Seconds of measurement at least.
    #[arg(long, default_value_t = 3.0)]
    duration: f64,
    /// Iterations at least.
    #[arg(long, default_value_t = 10)]
    iterations: usize,
    /// Show the time of each kernel. `kiln inspect --graph plan.svg --profile` draws what `--json` prints.
    #[arg(long)]
    profile_kernels: bool,
    #[command(flatten)]
    options: ModelArgs,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Milliseconds.
#[derive(Serialize)]
struct Stats {
    min: f64,
    max: f64,
    mean: f64,
    median: f64,
    p90: f64,
    p95: f64,
    p99: f64,
}

impl Stats {
    fn of(times: &[RunTimes], part: impl Fn(&RunTimes) -> Duration) -> Stats {
        let mut ms: Vec<f64> = times.iter().map(|t| part(t).as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        // Nearest-rank percentiles, as trtexec reports them.
        let at = |p: f64| ms[((p * ms.len() as f64).ceil() as usize).clamp(1, ms.len()) - 1];
        Stats {
            min: at(0.0),
            max: at(1.0),
            mean: ms.iter().sum::<f64>() / ms.len() as f64,
            median: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
        }
    }
}

#[derive(Serialize)]
struct Report {
    device: String,
    code: Code,
    target: String,
    /// Of the inputs.
    shapes: tensors::Shapes,
    iterations: usize,
    seconds: f64,
    throughput_qps: f64,
    latency: Stats,
    enqueue: Stats,
    h2d: Stats,
    compute: Stats,
    d2h: Stats,
    memory: kiln_engine::Memory,
    /// From opening the file (or building the model) to a session that can run.
    load_ms: f64,
    /// Largest resident set of the process so far; none where the system does not say.
    peak_rss_bytes: Option<usize>,
    warnings: Vec<String>,
    kernels: Vec<StepTime>,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let given = tensors::given("--input", &args.input)?;
    let draw = given.is_empty();
    let device = open_device(&args.device).into_diagnostic()?;
    let loading = Instant::now();
    let Opened { engine, mut inputs, .. } = model::open(&args.model, &*device, &args.options, given)?;
    let mut session = model::session(&engine, device, args.weight_budget)?;
    let load_ms = loading.elapsed().as_secs_f64() * 1e3;
    if draw {
        inputs = tensors::random(&session, &tensors::parse_shapes(&args.shape)?, 7)?;
    }
    let inputs = tensors::borrow(&inputs);
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_millis(args.warm_up) {
        session.run_timed(&inputs).into_diagnostic()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < args.iterations.max(1) || start.elapsed().as_secs_f64() < args.duration {
        times.push(session.run_timed(&inputs).into_diagnostic()?.1);
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut kernels = Vec::new();
    if args.profile_kernels {
        let plan = session.plan().clone();
        let mut implementations = session.implementations().into_iter();
        session
            .run_observed(&inputs, &mut |seen| {
                let launches = matches!(seen.step, kiln_fuse::Step::Run { .. });
                kernels.push(StepTime {
                    step: seen.index,
                    kernel: super::draw::step_name(&plan, seen.step).to_owned(),
                    implementation: launches.then(|| implementations.next()).flatten().map(|(_, how)| how),
                    ms: seen.time.as_secs_f64() * 1e3,
                });
            })
            .into_diagnostic()?;
    }
    let report = Report {
        device: session.device_name(),
        code: session.code().clone(),
        target: session.code().target().to_owned(),
        shapes: inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shape().to_vec())).collect(),
        iterations: times.len(),
        seconds,
        throughput_qps: times.len() as f64 / seconds,
        latency: Stats::of(&times, |t| t.upload + t.compute + t.download),
        enqueue: Stats::of(&times, |t| t.enqueue),
        h2d: Stats::of(&times, |t| t.upload),
        compute: Stats::of(&times, |t| t.compute),
        d2h: Stats::of(&times, |t| t.download),
        memory: session.memory(),
        load_ms,
        peak_rss_bytes: peak_rss(),
        warnings: warnings(&times, &session.device_name()),
        kernels,
    };
    if args.json {
        super::print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `VmHWM` of Linux's `/proc/self/status`.
fn peak_rss() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<usize>().ok()? * 1024)
}

fn warnings(times: &[RunTimes], device: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let total = |part: fn(&RunTimes) -> Duration| times.iter().map(|t| part(t).as_secs_f64()).sum::<f64>();
    let compute = total(|t| t.compute);
    if device != "cpu" && total(|t| t.enqueue) > 0.9 * compute {
        warnings.push("enqueue time dominates: launches cost as much as the kernels".to_owned());
    }
    if total(|t| t.upload + t.download) > compute {
        warnings.push("transfers dominate: copying inputs and outputs takes longer than computing".to_owned());
    }
    let mean = compute / times.len() as f64;
    let variance = times.iter().map(|t| (t.compute.as_secs_f64() - mean).powi(2)).sum::<f64>() / times.len() as f64;
    let variation = variance.sqrt() / mean;
    if variation > 0.025 {
        warnings.push(format!("compute time varies by {:.1} % (coefficient of variation)", variation * 100.0));
    }
    warnings
}

fn print(report: &Report) -> miette::Result<()> {
    use super::out::bytes;
    outln!(
        "{}: {} iterations in {:.2} s, throughput {:.1} qps",
        report.device,
        report.iterations,
        report.seconds,
        report.throughput_qps
    )?;
    outln!(
        "{:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "ms",
        "min",
        "mean",
        "median",
        "p90",
        "p95",
        "p99",
        "max"
    )?;
    for (name, s) in [
        ("latency", &report.latency),
        ("enqueue", &report.enqueue),
        ("H2D", &report.h2d),
        ("compute", &report.compute),
        ("D2H", &report.d2h),
    ] {
        outln!(
            "{name:>8} {:>9.4} {:>9.4} {:>9.4} {:>9.4} {:>9.4} {:>9.4} {:>9.4}",
            s.min,
            s.mean,
            s.median,
            s.p90,
            s.p95,
            s.p99,
            s.max
        )?;
    }
    outln!(
        "load {:.1} ms; peak RSS {}; weights {}, arena {} (lower bound {})",
        report.load_ms,
        report.peak_rss_bytes.map_or("unknown".to_owned(), bytes),
        bytes(report.memory.weights),
        bytes(report.memory.arena),
        bytes(report.memory.lower_bound)
    )?;
    for w in &report.warnings {
        outln!("warning: {w}")?;
    }
    if !report.kernels.is_empty() {
        let total: f64 = report.kernels.iter().map(|k| k.ms).sum();
        outln!("kernels one at a time, {total:.3} ms in all:")?;
        let mut sorted: Vec<&StepTime> = report.kernels.iter().collect();
        sorted.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        for k in sorted {
            outln!("  {:>9.4} ms {:>5.1} %  step {:>4} {}", k.ms, 100.0 * k.ms / total, k.step, k.kernel)?;
        }
    }
    Ok(())
}
