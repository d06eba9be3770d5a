//! `kiln setup`.

use indicatif::{ProgressBar, ProgressStyle};
use kiln_cuda::Home;
use kiln_cuda::setup::{NVRTC_VERSION, SetupStep, setup};
use miette::IntoDiagnostic;
use std::process::ExitCode;

/// Fetches the pinned NVRTC wheel with pip, checks its SHA-256 and unpacks it under $KILN_HOME (default ~/.cache/kiln). Needs python3 with
/// pip; nothing outside $KILN_HOME is touched.
#[derive(clap::Args)]
pub struct Args {
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let home = Home::from_env().into_diagnostic()?;
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{msg:30} {wide_bar} {binary_bytes}/{binary_total_bytes}").into_diagnostic()?,
    );
    let folder = setup(&home, |step| match step {
        SetupStep::Downloading { bytes, total } => {
            bar.set_message(format!("NVRTC {NVRTC_VERSION}"));
            bar.set_length(total);
            bar.set_position(bytes);
        }
        SetupStep::Unpacking(file) => bar.set_message(format!("unpacking {file}")),
        SetupStep::Verifying => bar.set_message("checking SHA-256"),
        SetupStep::WaitingForOther => bar.set_message("waiting for another setup"),
        _ => {}
    })
    .into_diagnostic()?;
    bar.finish_and_clear();
    if args.json {
        super::print_json(&serde_json::json!({ "nvrtc": NVRTC_VERSION, "path": folder }))?;
    } else {
        outln!("NVRTC {NVRTC_VERSION} is ready in {}", folder.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
