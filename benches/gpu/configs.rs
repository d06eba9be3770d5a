//! Times every Config of some kernels: the cost model's order beside the clock's.

use crate::case::{self, Case};
use crate::{Outcome, engine};
use kiln_cuda::{Compiler, CubinCache, Home, Nvrtc};
use kiln_kernels::families::Model;
use kiln_kernels::{Way, candidates};
use kiln_target::{Gpu, Target};
use kiln_tune::{Measurements, OnDevice, Options, Tuning, quality_of, tune};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Device memory that a case may take.
const MOST_BYTES: usize = 16 << 30;

/// The GPU, and a row a case: its Configs in the model's order, each with the median time of a run. Also how many give wrong results.
pub fn measure(device: &str, names: &[&str]) -> Outcome<(Value, usize)> {
    let home = Home::from_env()?;
    let nvrtc = Nvrtc::discover(&home)?;
    let compiler = Compiler::new(&nvrtc).with_cache(CubinCache::in_home(&home));
    let gpu = OnDevice::gpu(device)?;
    let everything = Options { first: 64, batch: 64, share: 1.0, most: usize::MAX, ..Options::default() };
    let tuning = Tuning { budget: Duration::from_secs(600), search: everything, ..Tuning::default() };
    let (mut rows, mut failed) = (vec![], 0);
    let named: Vec<Case> = names.iter().map(|name| case::named(name)).collect::<Outcome<_>>()?;
    for case in if named.is_empty() { case::ranked() } else { named } {
        let start = Instant::now();
        let mut engine = engine(&case.graph(case.op.lead())?, Target::Gpu(gpu.clone()))?;
        let mut on_device = OnDevice::new(device, MOST_BYTES, compiler.clone())?;
        let tuned = tune(&mut engine, &gpu, nvrtc.release(), &mut on_device, &tuning, &mut |_| {})?;
        let (row, wrong) = row(&case, &tuned.regions, start)?;
        rows.push(row);
        failed += wrong;
    }
    Ok((json!({ "gpu": gpu, "rows": rows }), failed))
}

/// Fits the coefficients of the GPU that files of [`measure`] name to all of them, and prints them with what they are worth, family by family.
pub fn fit(files: &[&str]) -> Outcome<()> {
    let (mut gpu, mut timed) = (None, vec![]);
    for file in files {
        let measured: Value = serde_json::from_slice(&std::fs::read(file)?)?;
        let of: Gpu = serde_json::from_value(measured["gpu"].clone())?;
        for row in measured["rows"].as_array().into_iter().flatten() {
            let case = case::named(row["name"].as_str().unwrap_or_default())?;
            timed.push((case.op.name(), measured_ways(&case, row, &of)?));
        }
        gpu = gpu.or(Some(of));
    }
    let gpu = gpu.ok_or("no files are named")?;
    timed.sort_by_key(|(family, _)| *family);
    let regions: Vec<Measurements<'_>> =
        timed.iter().map(|(_, ways)| ways.iter().map(|(model, seconds)| (model, *seconds)).collect()).collect();
    let found = kiln_tune::fit(&regions, &gpu);
    println!("{}", serde_json::to_string_pretty(&found)?);
    let fitted = Gpu { costs: found.costs, ..gpu.clone() };
    let mut from = 0;
    for family in timed.chunk_by(|(a, _), (b, _)| a == b) {
        let some = &regions[from..from + family.len()];
        from += family.len();
        let [before, after] = [&gpu, &fitted].map(|gpu| quality_of(some, gpu));
        println!("{}: {before:.3?}\n  now {after:.3?}", family[0].0);
    }
    Ok(())
}

/// What a row says was measured, each beside the model.
fn measured_ways(case: &Case, row: &Value, gpu: &Gpu) -> Outcome<Vec<(Model, f64)>> {
    let engine = engine(&case.graph(case.op.lead())?, Target::Gpu(gpu.clone()))?;
    let subjects = engine.subjects(gpu.arch.name())?;
    let [used] = &subjects[..] else { return Err(format!("{} is not one region", case.name()).into()) };
    let timed = row["configs"].as_array().cloned().unwrap_or_default();
    let seconds = |way: &Way| {
        let same = |timed: &&Value| timed["config"] == way.config;
        timed.iter().find(same).and_then(|timed| timed["us"].as_f64()).map(|us| us * 1e-6)
    };
    let ways = candidates(&used.subject, gpu)?.into_iter();
    Ok(ways.filter_map(|way| seconds(&way).zip(way.model)).map(|(seconds, model)| (model, seconds)).collect())
}

fn row(case: &Case, regions: &[kiln_tune::TunedRegion], start: Instant) -> Outcome<(Value, usize)> {
    let [region] = regions else { return Err("a case is one region with several Configs".into()) };
    if let Some(failure) = &region.failure {
        return Err(format!("{}: {failure}", case.name()).into());
    }
    let (mut configs, mut unusable) = (vec![], vec![]);
    for found in &region.candidates {
        match (&found.measured_us, &found.invalid) {
            (Some(us), _) => {
                println!("{:40} {us:10.1} us: {}", case.name(), found.text);
                configs.push(
                    json!({ "config": found.config, "text": found.text, "us": us, "modelled_us": found.modelled_us }),
                );
            }
            (None, why) => {
                println!("{:40} unusable: {}: {}", case.name(), found.text, why.as_deref().unwrap_or("not measured"));
                unusable.push(json!({ "config": found.config, "why": why }));
            }
        }
    }
    let failed = unusable.len();
    let seconds = start.elapsed().as_secs_f64();
    Ok((json!({ "name": case.name(), "configs": configs, "unusable": unusable, "seconds": seconds }), failed))
}
