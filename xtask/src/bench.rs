//! `xtask bench`: Kiln against onnxruntime on this CPU, in one run; build times; load time and memory.

use crate::cases::CASES;
use crate::step::{command, example, kiln};
use crate::{Outcome, python};
use kiln_cuda::{Home, Nvrtc, Python};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

const THREADS: &str = "2";
/// Alternations of the two runtimes; the best median of each counts, which is what the machine can do when left alone.
const ROUNDS: usize = 3;

/// Model, and its inputs in the form of [`crate::cases::Case::inputs`].
const RUNS: &[(&str, &[&str])] = &[
    ("minilm", &["input_ids=i64:1x128:0:30521", "attention_mask=i64:1x128:1:1", "token_type_ids=i64:1x128:0:0"]),
    ("rec", &["x=f32:1x3x48x320:-1:1"]),
    ("det", &["x=f32:1x3x320x320:-1:1"]),
    ("magika", &["bytes=i32:1x2048:0:256"]),
];

/// Measures and prints a Markdown table.
pub fn run() -> Outcome<()> {
    let home = Home::from_env()?;
    let kiln = kiln("release")?;
    let embed = example("release", "embed")?;
    command(&kiln, &["setup"])?;
    let runtime = python::ONNXRUNTIME.install(&home)?;
    let folder = home.root().join("bench");
    std::fs::create_dir_all(&folder)?;
    println!(
        "\n| model | Kiln ms | onnxruntime ms | ratio | load ms | weights + arena MiB | peak RSS MiB | of `kiln bench` | of onnxruntime |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (name, specs) in RUNS {
        let case = CASES.iter().find(|c| c.name == *name).ok_or_else(|| format!("no case `{name}`"))?;
        let model = case.model(&home)?.display().to_string();
        let path = |what: &str| folder.join(format!("{name}.{what}")).display().to_string();
        let (inputs, outputs, engine) = (path("in.npz"), path("out.npz"), path("kiln"));
        let mut args = vec![model.as_str(), inputs.as_str(), outputs.as_str()];
        args.extend(*specs);
        python::run("oracle.py", &runtime, args)?;
        json(Command::new(&kiln).args(["build", &model, "-o", &engine, "--target", "cpu", "--json"]))?;
        json(Command::new(&kiln).args(["compare", &engine, "-i", &inputs, "-e", &outputs, "--json"]))?;
        let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
        let (mut last, mut peer) = (Value::Null, Value::Null);
        let device = format!("cpu:{THREADS}");
        for _ in 0..ROUNDS {
            last = json(Command::new(&kiln).args(["bench", &engine, "-i", &inputs, "--device", &device, "--json"]))?;
            ours = ours.min(number(&last["latency"]["median"])?);
            peer = onnxruntime(&runtime, &model, &inputs)?;
            theirs = theirs.min(number(&peer["median_ms"])?);
        }
        let shapes = specs.iter().filter_map(|s| Some(format!("{}={}", s.split_once('=')?.0, s.split(':').nth(1)?)));
        let embedded = peak_rss(Command::new(&embed).args([&engine, &device]).args(shapes))?;
        let mib = |v: &Value| v.as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20);
        println!(
            "| {name} {} | {ours:.3} | {theirs:.3} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            specs[0].split(':').nth(1).unwrap_or_default(),
            ours / theirs,
            number(&last["load_ms"])?,
            mib(&last["memory"]["weights"]) + mib(&last["memory"]["arena"]),
            embedded / 1024.0,
            mib(&last["peak_rss_bytes"]),
            mib(&peer["peak_rss_bytes"]),
        );
    }
    builds(&kiln, &home, &folder)
}

/// Build times of MiniLM for one GPU target, with an empty and with a warm kernel cache.
fn builds(kiln: &str, home: &Home, folder: &Path) -> Outcome<()> {
    let case = CASES.iter().find(|c| c.name == "minilm").ok_or("no case `minilm`")?;
    let model = case.model(home)?.display().to_string();
    let fresh = folder.join("fresh-home");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    let nvrtc = Nvrtc::discover(home)?.path().to_owned();
    println!("\n| build of MiniLM for sm_90a | seconds |");
    println!("| --- | --- |");
    for cache in ["empty", "warm"] {
        let engine = folder.join("build.kiln").display().to_string();
        let report = json(
            Command::new(kiln)
                .args(["build", &model, "-o", &engine, "--target", "sm_90a", "--json"])
                .env("KILN_HOME", &fresh)
                .env("KILN_NVRTC", &nvrtc),
        )?;
        println!("| {cache} kernel cache | {:.2} |", number(&report["total_ms"])? / 1e3);
    }
    Ok(())
}

fn onnxruntime(runtime: &Path, model: &str, inputs: &str) -> Outcome<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join("ort_bench.py");
    let mut command = Command::new(Python::find()?.path());
    json(command.arg("-B").arg(script).args([model, inputs, THREADS, "3"]).env("PYTHONPATH", runtime))
}

/// Runs the example that embeds an engine: its largest resident set, KiB.
fn peak_rss(command: &mut Command) -> Outcome<f64> {
    let text = String::from_utf8(stdout(command)?)?;
    let found = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    found.ok_or_else(|| format!("{command:?} did not say VmHWM:\n{text}").into())
}

/// Runs a command that prints JSON.
fn json(command: &mut Command) -> Outcome<Value> {
    Ok(serde_json::from_slice(&stdout(command)?)?)
}

/// What a command that succeeds prints.
fn stdout(command: &mut Command) -> Outcome<Vec<u8>> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        return Err(format!("{command:?} failed: {}\n{text}", output.status).into());
    }
    Ok(output.stdout)
}

fn number(value: &Value) -> Outcome<f64> {
    value.as_f64().ok_or_else(|| format!("expected a number, found {value}").into())
}
