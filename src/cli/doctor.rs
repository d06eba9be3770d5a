//! `kiln doctor`.

use kiln_cuda::{DeviceProperties, Home, doctor};
use kiln_target::arch::Arch;
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
        let mut json = serde_json::to_value(&report).into_diagnostic()?;
        json["targets"] = report.gpus.iter().map(|gpu| target(gpu).map(Arch::name)).collect();
        super::print_json(&json)?;
    } else {
        out!("{report}")?;
        for gpu in &report.gpus {
            let name = gpu.ordinal;
            match target(gpu) {
                Some(arch) if arch.capability() == capability(gpu) => {
                    outln!("Target  cuda:{name} runs code for {arch}")?
                }
                Some(arch) => outln!("Target  cuda:{name} runs PTX of {arch} and older, assembled by the driver")?,
                None => outln!("Target  cuda:{name}: Kiln has none for it; it is older than {}", Arch::ALL[0])?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn capability(gpu: &DeviceProperties) -> u32 {
    10 * gpu.compute_capability.0 + gpu.compute_capability.1
}

/// What an engine for the GPU is built for.
fn target(gpu: &DeviceProperties) -> Option<Arch> {
    Arch::for_capability(capability(gpu))
}
