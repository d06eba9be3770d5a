//! `kiln setup`.

use indicatif::{ProgressBar, ProgressStyle};
use kiln_cuda::setup::{SetupStep, setup_release};
use kiln_cuda::{Home, RELEASES, Release, driver_cuda};
use miette::IntoDiagnostic;
use std::process::ExitCode;

/// Fetches a pinned NVRTC wheel, checks its SHA-256 and unpacks it under $KILN_HOME (default ~/.cache/kiln); nothing else is touched. The file
/// comes from the package index that PIP_INDEX_URL or pip.conf names; where none is named, or it fails, python3 with pip fetches it.
#[derive(clap::Args)]
pub struct Args {
    /// Major version of CUDA: 12 for drivers r525 to r575, 13 from r580 on. Default: what the driver here runs, or 13 without a driver.
    #[arg(long, value_name = "12|13", value_parser = release)]
    nvrtc: Option<&'static Release>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn release(text: &str) -> Result<&'static Release, String> {
    text.parse().ok().and_then(Release::of_major).ok_or_else(|| {
        let known: Vec<String> = RELEASES.iter().map(|r| format!("{} ({})", r.cuda().major, r.version)).collect();
        format!("no such release; there are {}", known.join(" and "))
    })
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let home = Home::from_env().into_diagnostic()?;
    let release = args.nvrtc.unwrap_or_else(|| Release::fitting(driver_cuda()));
    let version = release.version;
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{msg:30} {wide_bar} {binary_bytes}/{binary_total_bytes}").into_diagnostic()?,
    );
    let folder = setup_release(&home, release, |step| match step {
        SetupStep::Downloading { bytes, total } => {
            bar.set_message(format!("NVRTC {version}"));
            bar.set_length(total);
            bar.set_position(bytes);
        }
        SetupStep::FallingBack(reason) => bar.suspend(|| note!("{reason}; trying pip")),
        SetupStep::Unpacking(file) => bar.set_message(format!("unpacking {file}")),
        SetupStep::Verifying => bar.set_message("checking SHA-256"),
        SetupStep::WaitingForOther => bar.set_message("waiting for another setup"),
        _ => {}
    })
    .into_diagnostic()?;
    bar.finish_and_clear();
    if args.json {
        super::print_json(&serde_json::json!({ "nvrtc": version, "path": folder }))?;
    } else {
        outln!("NVRTC {version} is ready in {}", folder.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
