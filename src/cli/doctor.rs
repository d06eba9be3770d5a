//! `kiln doctor`.

use kiln_cuda::{Home, doctor};
use miette::IntoDiagnostic;
use std::process::ExitCode;

/// Reports GPU, driver, NVRTC (version, path, architectures), CPU features and cache size. What is absent is said, with what to do.
#[derive(clap::Args)]
pub struct Args {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let home = Home::from_env().into_diagnostic()?;
    let report = doctor::examine(&home);
    if args.json {
        super::print_json(&report)?;
    } else {
        out!("{report}")?;
    }
    Ok(ExitCode::SUCCESS)
}
