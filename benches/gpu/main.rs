//! Single kernels and a decoding step on a GPU: timed at the sizes of real models, checked against the reference interpreter.
//!
//! `cargo bench --bench gpu [-- FILTER]` times a few of each kind on `cuda:0`, or on the device that `KILN_DEVICE` names (`cpu` and
//! `sim:sm_XX` serve to try this program). Given one of these words instead, it is the program that `gpu/run.sh` calls `kernels_on_gpu`:
//!
//! * `check OUT.json [DEVICE]`: small and odd sizes, in every float type, over poisoned memory.
//! * `slice [DEVICE]`: a few of them, for tools that slow everything down.
//! * `serve [DEVICE]`: times the sizes of real models at another program's bidding: see [`serve`].
//! * `once NAME [DEVICE]`: launches each kernel of one of them once, for a profiler.
//! * `configs OUT.json [DEVICE [NAME..]]`: times every Config of some products and attentions, or of the full-size cases of these names.
//! * `tune OUT.json DEVICE SECONDS [NAME..]`: tunes networks and cases: see [`tuning`]; what was measured goes to `OUT.jsonl`.
//! * `fit CONFIGS.json..`: fits the cost model's coefficients to what `configs` has written, and says how good they are.

mod case;
#[path = "../common/mod.rs"]
mod common;
mod configs;
mod decode;
mod serve;
mod tuning;
mod typical;

use case::Case;
use kiln_engine::{BuildOptions, Engine, Session, build, open_device};
use kiln_graph::{Graph, Tensor, interpret};
use kiln_target::Target;
use serde_json::{Value, json};
use std::path::Path;

type Outcome<T> = Result<T, common::Fail>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (mode, rest) = match args[..] {
        ["slice" | "serve" | "fit", ..] => (args[0], &args[1..]),
        ["check" | "once" | "configs" | "tune", _, ..] => (args[0], &args[2..]),
        // Criterion's own arguments.
        _ => return typical::bench(),
    };
    if mode == "fit" {
        return configs::fit(rest);
    }
    let device = rest.first().copied().unwrap_or("cuda:0");
    // Keeps the GPU's context alive between the cases.
    let opened = open_device(device)?;
    let name = opened.name();
    eprintln!("{name} ({})", opened.target());
    match mode {
        "check" => {
            let (rows, failed) = checks(&case::small(), device);
            write(args[1], &json!({ "device": name, "rows": rows }))?;
            verdict(failed)
        }
        "slice" => verdict(checks(&case::slice(), device).1),
        "once" => once(args[1], device),
        "configs" => {
            let (measured, failed) = configs::measure(device, rest.get(1..).unwrap_or_default())?;
            write(args[1], &measured)?;
            verdict(failed)
        }
        "tune" => {
            let seconds = rest.get(1).ok_or("for how many seconds at most?")?.parse()?;
            let timings = Path::new(args[1]).with_extension("jsonl");
            let (measured, failed) = tuning::measure(device, seconds, &timings, &rest[2..])?;
            write(args[1], &measured)?;
            verdict(failed)
        }
        _ => serve::serve(device, &name),
    }
}

fn verdict(failed: usize) -> Outcome<()> {
    if failed == 0 { Ok(()) } else { Err(format!("{failed} failed").into()) }
}

fn write(path: &str, value: &Value) -> Outcome<()> {
    Ok(std::fs::write(path, serde_json::to_vec_pretty(value)?)?)
}

/// Checks cases and prints each outcome: a row a case, and how many failed.
fn checks(cases: &[Case], device: &str) -> (Vec<Value>, usize) {
    let mut failed = 0;
    let rows = cases.iter().map(|case| {
        let mut row = case.describe();
        let (agrees, shown) = match check(case, device) {
            Ok(rel) => {
                row["rel_error"] = json!(rel);
                (rel <= case.tolerance(), format!("rel {rel:.1e}"))
            }
            Err(e) => {
                row["error"] = json!(e.to_string());
                (false, e.to_string())
            }
        };
        row["agrees"] = json!(agrees);
        failed += usize::from(!agrees);
        println!("{} {:44} {shown}", if agrees { "ok  " } else { "FAIL" }, case.name());
        row
    });
    (rows.collect(), failed)
}

/// Runs a small case twice, the second time over poisoned memory; the largest relative error of its outputs.
fn check(case: &Case, device: &str) -> Outcome<f64> {
    let graph = case.graph(case.op.lead())?;
    let device = open_device(device)?;
    let engine = engine(&graph, device.processor()?)?;
    let mut session = Session::new(&engine, device)?;
    let inputs = case.inputs(&graph, 11)?;
    session.run(&borrow(&inputs))?;
    session.poison(0xcb)?;
    let found = session.run(&borrow(&inputs))?;
    let expected = interpret(&graph, &inputs.into_iter().map(|(_, tensor)| tensor).collect::<Vec<_>>())?;
    let worst = expected.iter().zip(&found).map(|(e, (_, f))| relative(e, f)).fold(0.0, f64::max);
    Ok(worst)
}

/// Runs the full-size case of that name without a recording: each launch once.
fn once(name: &str, device: &str) -> Outcome<()> {
    let case = case::named(name)?;
    let graph = case.graph(case.op.lead())?;
    let device = open_device(device)?;
    let engine = engine(&graph, device.processor()?)?;
    let mut session = Session::new(&engine, device)?;
    session.run_observed(&borrow(&case.inputs(&graph, 12)?), &mut |_| {})?;
    Ok(())
}

fn engine(graph: &Graph, target: Target) -> Outcome<Engine> {
    let options = BuildOptions { targets: vec![target], ..BuildOptions::new(kiln_cuda::Home::from_env()?) };
    Ok(build(graph, &options, &|_| {})?.0)
}

fn borrow(inputs: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

/// `|found - expected| / |expected|`; infinite where shapes differ or an element is not finite.
fn relative(expected: &Tensor, found: &Tensor) -> f64 {
    if expected.shape() != found.shape() || expected.dtype() != found.dtype() {
        return f64::INFINITY;
    }
    let (mut difference, mut norm) = (0.0, 0.0);
    for (e, f) in expected.to_f64_vec().into_iter().zip(found.to_f64_vec()) {
        difference += (f - e).powi(2);
        norm += e.powi(2);
    }
    let rel = (difference / norm).sqrt();
    if rel.is_finite() { rel } else { f64::INFINITY }
}
