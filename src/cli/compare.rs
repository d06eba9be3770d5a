//! `kiln compare`.

use super::model::{self, ModelArgs, Opened};
use super::tensors;
use kiln_engine::{Difference, Tolerance, open_device};
use kiln_graph::widen::{self, Overflow};
use kiln_graph::{Graph, Tensor, ValueId};
use miette::{IntoDiagnostic, Result, miette};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs a model and compares its outputs with expected ones. Exit code 0: all agree; 1: they differ, and then every kernel is checked against
/// the reference interpreter on the very inputs it had, in order, to name the first layer that departs. Of a model (not an engine) that computes
/// in half precision it also names the first node that overflows on these inputs, where f64 would not.
#[derive(clap::Args)]
pub struct Args {
    /// An engine (`.kiln`), or a model as `kiln build` takes.
    model: PathBuf,
    /// An input: `name=file.npy`, or a `.npz` or `.safetensors` file whose arrays are the inputs. bf16, 8-bit floats and 4-bit integers may come as
    /// ml_dtypes saves them; 4-bit integers also as int8 or uint8.
    #[arg(short, long)]
    input: Vec<String>,
    /// Expected outputs: `name=file.npy`, `.npz` or `.safetensors`; without any, what the model gives in f64.
    #[arg(short, long)]
    expect: Vec<String>,
    /// Relative tolerance.
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,
    /// Absolute tolerance.
    #[arg(long, default_value_t = 1e-5)]
    atol: f64,
    /// `cpu`, `cuda:N`, `sim:sm_XX`.
    #[arg(long, default_value = "cpu")]
    device: String,
    #[command(flatten)]
    options: ModelArgs,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    agree: bool,
    outputs: Vec<Output>,
    worst: Option<String>,
    first_departure: Option<kiln_engine::Departure>,
    first_overflow: Option<Overflow>,
}

#[derive(Serialize)]
struct Output {
    name: String,
    #[serde(flatten)]
    difference: Difference,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let given = tensors::given("--input", &args.input)?;
    let expected = tensors::given("--expect", &args.expect)?;
    let device = open_device(&args.device).into_diagnostic()?;
    let Opened { engine, inputs, graph, .. } = model::open(&args.model, &*device, &args.options, given)?;
    let mut session = model::session(&engine, device, None)?;
    let known: Vec<_> = session.outputs().map(|(name, ty)| (name.to_owned(), Some(ty.dtype))).collect();
    let mut expected = expected.read("output", &known)?;
    if expected.is_empty() && !args.expect.is_empty() {
        return Err(miette!("`--expect` gives no array to compare with"));
    }
    let found = session.run(&tensors::borrow(&inputs)).into_diagnostic()?;
    if args.expect.is_empty() {
        let Some(graph) = &graph else {
            return Err(miette!("an engine has no reference of its own: give `--expect`, or the model instead"));
        };
        let outputs = widen::reference(graph, &ordered(graph, &inputs)).into_diagnostic()?;
        expected = graph.outputs.iter().map(|(name, _)| name.clone()).zip(outputs).collect();
    }
    let tolerance = Tolerance { rtol: args.rtol, atol: args.atol };
    let mut outputs = Vec::new();
    for (name, expected) in &expected {
        let Some((_, found)) = found.iter().find(|(n, _)| n == name) else { continue };
        outputs.push(Output { name: name.clone(), difference: tolerance.compare(expected, found) });
    }
    let agree = outputs.iter().all(|o| o.difference.agrees());
    let worst = outputs.iter().max_by(|a, b| a.difference.severity().total_cmp(&b.difference.severity()));
    let worst = worst.map(|o| o.name.clone());
    // A wrong shape or dtype is no kernel's doing: there are no values to compare.
    let values_differ = outputs.iter().any(|o| o.difference.mismatches > 0);
    let first_departure = match values_differ {
        false => None,
        true => kiln_engine::first_departure(&engine, &mut session, &tensors::borrow(&inputs), tolerance)
            .into_diagnostic()?,
    };
    let first_overflow = match &graph {
        Some(graph) if !agree || args.expect.is_empty() => {
            widen::first_overflow(graph, &ordered(graph, &inputs)).into_diagnostic()?
        }
        _ => None,
    };
    let report = Report { agree, outputs, worst, first_departure, first_overflow };
    if args.json {
        super::print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The inputs in the order of the graph's signature.
fn ordered(graph: &Graph, inputs: &[(String, Tensor)]) -> Vec<Tensor> {
    let named = |id: &ValueId| inputs.iter().find(|(name, _)| *name == graph.input_name(*id)).map(|(_, t)| t.clone());
    graph.inputs.iter().filter_map(named).collect()
}

fn print(report: &Report) -> Result<()> {
    for output in &report.outputs {
        outln!(
            "{} {}: {}",
            if output.difference.agrees() { "agree " } else { "DIFFER" },
            output.name,
            output.difference
        )?;
    }
    if let Some(o) = &report.first_overflow {
        outln!(
            "first node that overflows {}: `{}` ({}), value `{}`: {} element(s) are infinite or NaN where f64 is finite, the first {:e}; \
             `--widen-reductions` keeps sums in f32",
            o.dtype,
            o.node,
            o.op,
            o.value,
            o.count,
            o.exact
        )?;
    }
    if report.agree {
        return Ok(());
    }
    if let Some(worst) = &report.worst {
        outln!("worst output: {worst}")?;
    }
    match &report.first_departure {
        Some(d) => outln!(
            "first layer that departs from the reference: step {}, kernel `{}` ({}), value `{}`: {}\n  run by: {}\n  nodes: {}",
            d.step,
            d.region,
            d.summary,
            d.value,
            d.difference,
            d.implementation,
            d.nodes.join(", ")
        ),
        None if report.outputs.iter().any(|o| o.difference.shape_error.is_some()) => outln!(
            "outputs of another shape or dtype were not compared: correct the expected values, or the profile that the engine was \
             built with"
        ),
        None => outln!(
            "every kernel agrees with the reference interpreter on the inputs it had: the difference was there before \
             (import, fusion, or the expected values), or is the sum of roundings within tolerance"
        ),
    }
}
