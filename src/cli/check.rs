//! `kiln check-engine`.

use kiln_engine::{Finding, Preflight, PublicKey, open_device, preflight};
use miette::IntoDiagnostic;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Says what would stop an engine on a device, all of it, before anything is loaded: another signer, another version, damage, section by section, weights that were stripped, no
/// code for the GPU, a driver that is too old, too little memory. The exit code is 1 if there is any.
#[derive(clap::Args)]
pub struct Args {
    /// The engine.
    engine: PathBuf,
    /// `cpu`, `cuda:N`, `sim:sm_XX`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// The public key that must have signed the engine: see `kiln sign`.
    #[arg(long, value_name = "FILE")]
    verify_key: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    engine: &'a PathBuf,
    device: &'a str,
    runs: bool,
    #[serde(flatten)]
    preflight: &'a Preflight,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let key = args.verify_key.as_ref().map(PublicKey::load).transpose().into_diagnostic()?;
    let device = open_device(&args.device);
    let mut found = preflight(&args.engine, device.as_deref().ok(), key.as_ref()).into_diagnostic()?;
    if let Err(e) = &device {
        found.findings.push(Finding::new("device", e));
    }
    let runs = found.findings.is_empty();
    if args.json {
        super::print_json(&Report { engine: &args.engine, device: &args.device, runs, preflight: &found })?;
    } else if let (true, Some(code)) = (runs, &found.code) {
        outln!("{} runs on {}: {code}", args.engine.display(), args.device)?;
    } else {
        outln!("{} does not run on {}:", args.engine.display(), args.device)?;
        for Finding { field, message } in &found.findings {
            outln!("  {field}: {message}")?;
        }
    }
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
