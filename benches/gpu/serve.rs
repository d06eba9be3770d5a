//! Times cases at the bidding of a program that times a peer's in between, so that both see the same clocks and the same temperature.
//!
//! Requests are lines on standard input, each answered by one line of JSON:
//!
//! * `cases`: the device, and what can be asked for.
//! * `prepare N [SECONDS]`: builds case N, tunes it for so long at most if that is given, and runs it once, compares the last row, head or image of what it gave with Kiln on the CPU (which the small
//!   cases compare with the reference interpreter, too slow at these sizes), and readies its samples.
//! * `sample`: seconds of one run.
//! * `end`: frees what the case holds.
//!
//! A request that fails is answered by `{"error": ..}`.

use crate::case::Case;
use crate::{Outcome, borrow, case, engine, relative, tuning};
use kiln_engine::{Device, Session, open_device};
use kiln_graph::{Graph, Tensor};
use kiln_target::Target;
use kiln_tune::{Rotating, Tuning};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// A case that can be sampled.
struct Ready {
    timer: Rotating,
    /// Owns the memory that the samples use.
    _session: Session,
}

pub fn serve(device: &str, name: &str) -> Outcome<()> {
    let cases = case::full();
    let mut ready = None;
    for line in std::io::stdin().lines() {
        let reply = answer(line?.trim(), &cases, device, name, &mut ready);
        println!("{}", reply.unwrap_or_else(|e| json!({ "error": e.to_string() })));
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn answer(request: &str, cases: &[Case], device: &str, name: &str, ready: &mut Option<Ready>) -> Outcome<Value> {
    match request.split_once(' ').unwrap_or((request, "")) {
        ("cases", _) => Ok(json!({ "device": name, "cases": cases.iter().map(Case::describe).collect::<Vec<_>>() })),
        ("prepare", rest) => {
            *ready = None;
            let (number, seconds) = rest.split_once(' ').unwrap_or((rest, "0"));
            let case = cases.get(number.parse::<usize>()?).ok_or("there is no case of that number")?;
            let (made, row) = prepare(case, device, Duration::try_from_secs_f64(seconds.parse()?)?)?;
            *ready = Some(made);
            Ok(row)
        }
        ("sample", _) => {
            let ready = ready.as_ref().ok_or("no case is prepared")?;
            Ok(json!({ "seconds": ready.timer.sample()?.ok_or("the run is more than launches")? }))
        }
        ("end", _) => {
            *ready = None;
            Ok(json!({}))
        }
        _ => Err(format!("`{request}` is no request").into()),
    }
}

fn prepare(case: &Case, device: &str, budget: Duration) -> Outcome<(Ready, Value)> {
    let lead = case.op.lead();
    let graph = case.graph(lead)?;
    let timer = Rotating::new(open_device(device)?);
    let start = Instant::now();
    let mut engine = engine(&graph, timer.processor()?)?;
    let build_ms = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    if !budget.is_zero() {
        let tuning = Tuning { budget, shipped: false, ..Tuning::default() };
        tuning::tuned(&mut engine, device, &tuning)?;
    }
    let tune_s = start.elapsed().as_secs_f64();
    let mut session = Session::new(&engine, Box::new(timer.clone()))?;
    let inputs = case.inputs(&graph, 12)?;
    let found = session.run(&borrow(&inputs))?;
    let shape = timer.shape().ok_or("the run is more than launches")?;
    let kernels: Vec<String> = session.implementations().into_iter().map(|(_, kernel)| kernel).collect();
    let slices = inputs.iter().map(|(name, t)| Ok((name.clone(), last(t, lead)?))).collect::<Outcome<Vec<_>>>()?;
    let rel = relative(&on_cpu(&case.graph(1)?, &slices)?, &last(&found[0].1, lead)?);
    let row = json!({
        "build_ms": build_ms, "tune_s": tune_s, "kernels": kernels, "sets": shape.sets, "runs": shape.runs,
        "rel_error": rel, "agrees": rel <= case.tolerance(),
    });
    Ok((Ready { timer, _session: session }, row))
}

/// The first result of a graph on the CPU.
fn on_cpu(graph: &Graph, inputs: &[(String, Tensor)]) -> Outcome<Tensor> {
    let mut session = Session::new(&engine(graph, Target::cpu())?, open_device("cpu")?)?;
    Ok(session.run(&borrow(inputs))?.swap_remove(0).1)
}

/// The last of a tensor's `lead` slices along its first axis.
fn last(tensor: &Tensor, lead: usize) -> Outcome<Tensor> {
    let mut shape = tensor.shape().to_vec();
    shape[0] /= lead;
    let bytes = tensor.data().len() / lead;
    Ok(Tensor::new(tensor.dtype(), shape, tensor.data().slice(tensor.data().len() - bytes..))?)
}
