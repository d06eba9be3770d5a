//! `kiln timings`.

use clap::Subcommand;
use kiln_host::parse_size;
use kiln_tune::{Outcome, Record, Times};
use miette::{Result, miette};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Show, merge or shrink timing caches: what `kiln tune` measured.
///
/// A timing cache is a file of lines, one a candidate of a kernel. It may be copied, shared by several processes, and merged with those of other
/// machines: times belong to a GPU, its clock, the compiler and the sizes.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show for each kernel how many candidates were measured, and the fastest.
    List {
        /// The timing cache.
        file: PathBuf,
        /// Print all records as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write what several timing caches hold into one file. Of a candidate that several hold the last one's times count.
    Merge {
        /// The timing caches.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The file to write.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Remove what is damaged, of another GPU, compiler or version, or no longer counts.
    Prune {
        /// The timing cache.
        file: PathBuf,
        /// Keep this GPU's times alone: a part of its name, such as `H200`.
        #[arg(long)]
        gpu: Option<String>,
        /// Keep times of this NVRTC alone, such as `13.0.88`.
        #[arg(long)]
        nvrtc: Option<String>,
        /// Keep no more than this, such as `100MiB`: kernels of which least was measured go first.
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        limit: Option<u64>,
    },
}

/// One kernel's problem, for [`Action::List`].
#[derive(Default)]
struct Summary<'t> {
    measured: usize,
    unusable: usize,
    best: Option<(u64, &'t Record)>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.action {
        Action::List { file, json } => list(file, *json)?,
        Action::Merge { files, output } => {
            let mut all = Times::default();
            for file in files {
                let bytes = load(file)?.to_bytes();
                all.read(&bytes);
            }
            write(output, &all)?;
            outln!("{} records -> {}", all.records().count(), output.display())?;
        }
        Action::Prune { file, gpu, nvrtc, limit } => {
            let mut times = load(file)?;
            let before = times.records().count() + times.damaged;
            let version = env!("CARGO_PKG_VERSION");
            times.retain(|record| {
                let problem = &record.problem;
                gpu.as_ref().is_none_or(|gpu| problem.gpu.contains(gpu.as_str()))
                    && nvrtc.as_ref().is_none_or(|nvrtc| problem.nvrtc == *nvrtc)
                    && problem.kiln == version
                    && record.outcome != Outcome::Ns(vec![])
            });
            if let Some(limit) = limit {
                times.shrink(*limit);
            }
            write(file, &times)?;
            let left = times.records().count();
            outln!("removed {} records, left {left}", before - left)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(file: &Path) -> Result<Times> {
    if !file.exists() {
        return Err(miette!("there is no timing cache {}", file.display()));
    }
    let times = Times::load(file).map_err(|e| miette!("cannot read the timing cache {}: {e}", file.display()))?;
    if times.damaged > 0 {
        note!("{}: {} lines are damaged and do not count", file.display(), times.damaged);
    }
    Ok(times)
}

fn write(file: &Path, times: &Times) -> Result<()> {
    kiln_host::write(file, |out| out.write_all(&times.to_bytes()))
        .map_err(|e| miette!("cannot write {}: {e}", file.display()))
}

fn list(file: &Path, json: bool) -> Result<()> {
    let times = load(file)?;
    if json {
        #[derive(Serialize)]
        struct Listing<'t> {
            damaged: usize,
            records: Vec<&'t Record>,
        }
        return super::print_json(&Listing { damaged: times.damaged, records: times.records().collect() });
    }
    let mut problems: BTreeMap<_, Summary<'_>> = BTreeMap::new();
    for record in times.records() {
        let summary = problems.entry(&record.problem).or_default();
        match record.outcome.median() {
            Some(ns) => {
                summary.measured += 1;
                if summary.best.is_none_or(|(best, _)| ns < best) {
                    summary.best = Some((ns, record));
                }
            }
            None => summary.unusable += 1,
        }
    }
    for (problem, Summary { measured, unusable, best }) in problems {
        let region: String = problem.region.chars().take(12).collect();
        let sizes: Vec<String> = problem.sizes.iter().map(|(symbol, size)| format!("{symbol}={size}")).collect();
        let best = best.map_or("none is usable".to_owned(), |(ns, record)| {
            format!("{:.2} us {} {}", ns as f64 / 1e3, record.family, record.config)
        });
        let place = format!("{} {} MHz, NVRTC {}", problem.gpu, problem.clock_mhz, problem.nvrtc);
        outln!("{region} {}  {place}: {measured} measured, {unusable} unusable; {best}", sizes.join(" "))?;
    }
    Ok(())
}
