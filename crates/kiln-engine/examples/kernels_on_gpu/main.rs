//! Single kernels on a device: checked against the reference interpreter, then timed at the sizes of real models.
//!
//! `kernels_on_gpu OUT.json [DEVICE]`; the device is `cuda:0` unless given. On a device without recordings (`cpu`, `sim:sm_80`) only the small
//! checks run. The JSON names every shape, so that other libraries can be timed on the same ones.

mod case;
mod rotating;

use case::{Case, Op};
use kiln_engine::{BuildOptions, Engine, Session, build, open_device};
use kiln_graph::{DType, Graph, Tensor, interpret};
use rotating::{Rotating, Timing};
use serde_json::{Value, json};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The reference interpreter is asked for slices of a full-size result up to this many multiply-adds.
const REFERENCE_WORK: f64 = 3e8;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(out) = args.first() else { return Err("usage: kernels_on_gpu OUT.json [DEVICE]".into()) };
    let device = args.get(1).map_or("cuda:0", String::as_str);
    // Keeps the GPU's context alive between the cases.
    let opened = open_device(device)?;
    println!("{} ({})", opened.name(), opened.target());
    let mut failed = 0;
    let mut checks = Vec::new();
    for case in case::small() {
        let row = check(&case, device);
        failed += report(&case, row, &mut checks);
    }
    let mut rows = Vec::new();
    if device.starts_with("cuda") {
        for case in case::full() {
            let row = time(&case, device);
            failed += report(&case, row, &mut rows);
        }
    }
    let name = opened.name();
    std::fs::write(out, serde_json::to_vec_pretty(&json!({ "device": name, "checks": checks, "rows": rows }))?)?;
    println!("{} checks, {} timed cases, {failed} failed", checks.len(), rows.len());
    if failed == 0 { Ok(()) } else { Err(format!("{failed} cases failed").into()) }
}

/// Adds a case's outcome to the rows and prints it; how many failures it is.
fn report(case: &Case, outcome: Outcome<Value>, rows: &mut Vec<Value>) -> usize {
    let mut row = json!({ "name": case.name(), "op": case.op.name(), "dtype": case.dtype.to_string() });
    row["shape"] = case.op.shape();
    let wrong = match outcome {
        Ok(Value::Object(found)) => {
            let wrong = found.get("agrees") == Some(&Value::Bool(false));
            for (key, value) in found {
                row[key] = value;
            }
            wrong
        }
        Ok(_) => true,
        Err(e) => {
            row["error"] = json!(e.to_string());
            true
        }
    };
    let us = row["us"].as_f64().map_or(String::new(), |us| format!("{us:10.1} us "));
    let rate = row["rate"].as_str().unwrap_or_default();
    let rel = row["rel_error"].as_f64().map_or(String::new(), |rel| format!("rel {rel:.1e} "));
    let error = row["error"].as_str().unwrap_or_default();
    println!("{} {:44} {us}{rate:>12} {rel}{error}", if wrong { "FAIL" } else { "ok  " }, case.name());
    rows.push(row);
    usize::from(wrong)
}

fn engine(graph: &Graph, target: &str) -> Outcome<Engine> {
    let options = BuildOptions {
        targets: vec![target.parse()?],
        numerics: kiln_fuse::Numerics::Reassoc,
        home: kiln_cuda::Home::from_env()?,
        line_info: false,
    };
    Ok(build(graph, &options, &|_| {})?.0)
}

fn borrow(inputs: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

/// Runs a small case twice, the second time over poisoned memory, and compares all of its output with the interpreter.
fn check(case: &Case, device: &str) -> Outcome<Value> {
    let graph = case.graph(case.op.lead())?;
    let device = open_device(device)?;
    let engine = engine(&graph, &device.target())?;
    let mut session = Session::new(&engine, device)?;
    let inputs = case.inputs(&graph, 11)?;
    let values: Vec<Tensor> = inputs.iter().map(|(_, t)| t.clone()).collect();
    let expected = interpret(&graph, &values)?;
    session.run(&borrow(&inputs))?;
    session.poison(0xcb)?;
    let found = session.run(&borrow(&inputs))?;
    let rel = relative(&expected[0], &found[0].1);
    Ok(json!({ "rel_error": rel, "agrees": rel <= case.tolerance() }))
}

/// Builds a full-size case, times it, and compares the last row, head or image of its output with the interpreter.
fn time(case: &Case, device: &str) -> Outcome<Value> {
    let graph = case.graph(case.op.lead())?;
    let timing = Timing::default();
    let device = Rotating::new(open_device(device)?, timing.clone());
    let start = Instant::now();
    let engine = engine(&graph, &kiln_engine::Device::target(&device))?;
    let build_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut session = Session::new(&engine, Box::new(device))?;
    let inputs = case.inputs(&graph, 12)?;
    let found = session.run(&borrow(&inputs))?;
    let kernels: Vec<String> = session.implementations(&borrow(&inputs))?.into_iter().map(|(_, k)| k).collect();
    let measured = timing.take().ok_or("the run was not recorded, so nothing was timed")?;
    let us = measured.median * 1e6;
    let rate = if case.op.is_arithmetic() {
        format!("{:.1} TF/s", case.op.flops() / us / 1e6)
    } else {
        format!("{:.0} GB/s", case.bytes() / us / 1e3)
    };
    let mut row = json!({
        "us": us, "least_us": measured.least * 1e6, "rate": rate, "flops": case.op.flops(), "bytes": case.bytes(),
        "sets": measured.sets, "launches": kernels.len(), "kernels": kernels, "build_ms": build_ms,
    });
    if case.op.flops() / case.op.lead() as f64 <= 2.0 * REFERENCE_WORK {
        let graph = case.graph(1)?;
        let values = inputs.iter().map(|(_, t)| last(t)).collect::<Outcome<Vec<_>>>()?;
        let expected = interpret(&graph, &values)?;
        let rel = relative(&expected[0], &last(&found[0].1)?);
        row["rel_error"] = json!(rel);
        row["agrees"] = json!(rel <= case.tolerance());
    }
    Ok(row)
}

/// The last slice of a tensor along its first axis.
fn last(tensor: &Tensor) -> Outcome<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let bytes = tensor.data().len() / shape[0];
    shape[0] = 1;
    Ok(Tensor::new(tensor.dtype(), shape, tensor.data().slice(tensor.data().len() - bytes..))?)
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

/// Random values that repeat after a prime number of elements, because generating gigabytes would take longer than the run.
fn random(dtype: DType, shape: &[usize], seed: u64) -> Outcome<Tensor> {
    const PERIOD: usize = 1_000_003;
    let n: usize = shape.iter().product();
    let some = Tensor::random(dtype, &[n.min(PERIOD)], seed)?;
    let size = some.data().len() / n.min(PERIOD);
    let data: Vec<u8> = some.data().iter().copied().cycle().take(n * size).collect();
    Ok(Tensor::new(dtype, shape.to_vec(), data.into())?)
}

impl Op {
    /// Whether arithmetic, not memory, should bound it.
    fn is_arithmetic(&self) -> bool {
        matches!(self, Op::Gemm { m: 128.., .. } | Op::Attention { .. } | Op::Conv { .. })
    }
}
