//! `kiln compare`.

use super::model::{self, ModelArgs};
use super::tensors;
use kiln_engine::{Difference, Session, Tolerance, open_device};
use miette::{IntoDiagnostic, Result, miette};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs a model and compares its outputs with expected ones. Exit code 0: all agree; 1: they differ, and then every kernel is checked against
/// the reference interpreter on the very inputs it had, in order, to name the first layer that departs.
#[derive(clap::Args)]
pub struct Args {
    /// An engine (`.kiln`), or a model as `kiln build` takes.
    model: PathBuf,
    /// An input: `name=file.npy`, or a `.npz` whose arrays are the inputs.
    #[arg(short, long)]
    input: Vec<String>,
    /// Expected outputs: `name=file.npy` or a `.npz`.
    #[arg(short, long, required = true)]
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
    let (engine, inputs) = model::open(&args.model, &device.target(), &args.options, given)?;
    let mut session = Session::new(&engine, device).into_diagnostic()?;
    let known: Vec<String> = session.outputs().map(|(name, _)| name.to_owned()).collect();
    let expected = expected.read("output", &known)?;
    if expected.is_empty() {
        return Err(miette!("`--expect` gives no array to compare with"));
    }
    let found = session.run(&tensors::borrow(&inputs)).into_diagnostic()?;
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
    let report = Report { agree, outputs, worst, first_departure };
    if args.json {
        super::print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    if report.agree {
        return Ok(());
    }
    if let Some(worst) = &report.worst {
        outln!("worst output: {worst}")?;
    }
    match &report.first_departure {
        Some(d) => outln!(
            "first layer that departs from the reference: step {}, kernel `{}` ({}), value `{}`: {}\n  nodes: {}",
            d.step,
            d.region,
            d.summary,
            d.value,
            d.difference,
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
