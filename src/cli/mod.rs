//! Subcommands, one a file.

#[macro_use]
mod out;

mod bench;
mod build;
mod build_report;
mod cache;
mod check;
mod compare;
mod counters;
mod diff;
mod doctor;
mod draw;
mod dump;
mod inspect;
mod kernel;
mod kernel_args;
mod log;
mod markup;
mod model;
mod profile;
mod refit;
mod regions;
mod report;
mod run;
mod setup;
mod sign;
mod sim;
mod tensors;
mod timings;
mod tune;
mod why;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compiles models into stamped GPU engines, and runs them.
#[derive(Parser)]
#[command(name = "kiln", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch NVRTC, the CUDA C compiler library, into $KILN_HOME.
    Setup(setup::Args),
    /// Report GPU, driver, NVRTC, CPU and cache.
    Doctor(doctor::Args),
    /// Compile a model into an engine file.
    Build(build::Args),
    Refit(refit::Args),
    CheckEngine(check::Args),
    Sign(sign::Args),
    /// Run a model or an engine on named inputs.
    Run(run::Args),
    /// Compare a model's outputs with expected ones; on a difference, find the first layer that departs.
    Compare(compare::Args),
    Tune(tune::Args),
    Timings(timings::Args),
    /// Show what is in an engine.
    Inspect(inspect::Args),
    Report(report::Args),
    /// Measure latency and throughput.
    Bench(bench::Args),
    Cache(cache::Args),
    /// Show or check one kernel of a family, alone.
    Kernel(Box<kernel::Args>),
    /// Run a kernel of any PTX file on the simulator, with checks.
    Sim(sim::Args),
}

/// Runs the command. The exit code is 0 for success and 1 where the command answers a question with no; errors are 2.
pub fn run(cli: Cli) -> miette::Result<ExitCode> {
    log::start()?;
    let code = match cli.command {
        Command::Setup(args) => setup::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Refit(args) => refit::run(&args),
        Command::CheckEngine(args) => check::run(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Timings(args) => timings::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Cache(args) => cache::run(&args),
        Command::Kernel(args) => kernel::run(&args),
        Command::Sim(args) => sim::run(&args),
    }?;
    out::flush()?;
    Ok(code)
}

/// An error if writing `output` would replace one of the files that it is made from.
fn not_over<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a PathBuf>) -> miette::Result<()> {
    match inputs.into_iter().find(|input| kiln_host::same(input, output)) {
        Some(input) => Err(miette::miette!(
            help = "write to another file",
            "cannot write {}: it is the input {}",
            output.display(),
            input.display()
        )),
        None => Ok(()),
    }
}

/// Prints a value as JSON on standard output.
fn print_json<T: serde::Serialize>(value: &T) -> miette::Result<()> {
    use miette::IntoDiagnostic;
    outln!("{}", serde_json::to_string_pretty(value).into_diagnostic()?)
}
