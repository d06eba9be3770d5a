//! `kiln timings`.

use clap::Subcommand;
use kiln_host::parse_size;
use kiln_tune::{Outcome, Record, Times, Timings};
use miette::{IntoDiagnostic, Result, miette};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Show, merge or shrink timing caches: what `kiln tune` measured.
///
/// A timing cache is a file of lines, one a candidate of a kernel, or a folder or object store with such a file for each run that wrote to it, which `--timings`
/// names as well. It may be copied, shared by several processes, and merged with those of other machines: times belong to a GPU, its clocks, the compiler
/// and the sizes.
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
        place: Timings,
        /// Print all records as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Add what several timing caches hold to another. Of a candidate that several hold those times count that are most, of as many the last.
    Merge {
        /// The timing caches.
        #[arg(required = true)]
        places: Vec<Timings>,
        /// The timing cache to add to, or to make.
        #[arg(short, long)]
        output: Timings,
    },
    /// Remove what is damaged, of another GPU, compiler or version, or no longer counts.
    Prune {
        /// The timing cache.
        place: Timings,
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
        Action::List { place, json } => list(place, *json)?,
        Action::Merge { places, output } => {
            let loaded = places.iter().map(load).collect::<Result<Vec<Times>>>()?;
            let mut count = 0;
            let all = |times: &mut Times| {
                loaded.iter().flat_map(Times::records).for_each(|record| times.add(record.clone()));
                count = times.records().count();
            };
            output.rewrite(all).into_diagnostic()?;
            outln!("{count} records -> {output}")?;
        }
        Action::Prune { place, gpu, nvrtc, limit } => {
            load(place)?;
            let (mut before, mut left) = (0, 0);
            let prune = |times: &mut Times| {
                before = times.records().count() + times.damaged;
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
                left = times.records().count();
            };
            place.rewrite(prune).into_diagnostic()?;
            outln!("removed {} records, left {left}", before - left)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All that is there; what is damaged is said.
pub fn load(place: &Timings) -> Result<Times> {
    if !place.exists() {
        return Err(miette!("there is no timing cache {place}"));
    }
    let times = place.load().into_diagnostic()?;
    if times.damaged > 0 {
        note!("{place}: {} lines are damaged and do not count", times.damaged);
    }
    Ok(times)
}

fn list(place: &Timings, json: bool) -> Result<()> {
    let times = load(place)?;
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
        let shape: Vec<String> = problem.shape.iter().map(|(symbol, bucket)| format!("{symbol}={bucket}")).collect();
        let best = best.map_or("none is usable".to_owned(), |(ns, record)| {
            format!("{:.2} us {} {}", ns as f64 / 1e3, record.family, record.config)
        });
        let place = format!("{} {} MHz, NVRTC {}", problem.gpu, problem.clock_mhz, problem.nvrtc);
        outln!("{region} {}  {place}: {measured} measured, {unusable} unusable; {best}", shape.join(" "))?;
    }
    Ok(())
}
