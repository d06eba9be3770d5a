//! Tunes kernels and whole networks from nothing: how long it takes, what it gains over the cost model's choices, and whether it chooses alike when
//! it is done again.

use crate::common::nets;
use crate::{Outcome, borrow, case, common, engine};
use kiln_cuda::{Compiler, Home, Nvrtc};
use kiln_engine::{Engine, Session, open_device};
use kiln_graph::{Bindings, Graph};
use kiln_target::{Gpu, Target};
use kiln_tune::{OnDevice, Record, Rotating, Timings, Tuned, Tuning, append, tune};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Device memory that tuning may take.
const MOST_BYTES: usize = 16 << 30;
/// Samples of each engine.
const SAMPLES: usize = 40;

/// A row for each of [`nets::NETS`], tuned twice, and full-size case of these names; of all cases where none is named. Also how many failed. What was
/// measured is added to `timings`.
pub fn measure(device: &str, seconds: f64, timings: &Path, names: &[&str]) -> Outcome<(Value, usize)> {
    let budget = Duration::try_from_secs_f64(seconds)?;
    let gpu = OnDevice::gpu(device)?;
    let all: Vec<String> = match names {
        [] => case::full().iter().map(case::Case::name).collect(),
        _ => names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let (mut rows, mut failed) = (vec![], 0);
    for name in &all {
        let (graph, times) = match nets::named(name)? {
            Some(graph) => (graph, 2),
            None => {
                let case = case::named(name)?;
                (case.graph(case.op.lead())?, 1)
            }
        };
        let row = row(name, &graph, times, device, &gpu, budget, timings).unwrap_or_else(|e| {
            failed += 1;
            json!({ "name": name, "error": e.to_string() })
        });
        println!("{row}");
        rows.push(row);
    }
    Ok((json!({ "gpu": gpu.name, "budget_seconds": seconds, "rows": rows }), failed))
}

/// Tunes an engine with a compiler that has no cache, as if no kernel was compiled before.
pub fn tuned(engine: &mut Engine, device: &str, tuning: &Tuning) -> Outcome<Tuned> {
    let (gpu, nvrtc) = (OnDevice::gpu(device)?, Nvrtc::discover(&Home::from_env()?)?);
    let mut on_device = OnDevice::new(device, MOST_BYTES, Compiler::new(&nvrtc))?;
    Ok(tune(engine, &gpu, nvrtc.release(), &mut on_device, tuning, &mut |_| {})?)
}

fn row(
    name: &str,
    graph: &Graph,
    times: usize,
    device: &str,
    gpu: &Gpu,
    budget: Duration,
    timings: &Path,
) -> Outcome<Value> {
    let start = Instant::now();
    let before = engine(graph, Target::Gpu(gpu.clone()))?;
    let built = start.elapsed().as_secs_f64();
    let mut done = vec![];
    for _ in 0..times {
        let mut after = before.clone();
        let folder = tempfile::tempdir()?;
        let own = folder.path().join("timings.jsonl");
        let tuning = Tuning { budget, timings: Some(Timings::file(&own)), shipped: false, ..Tuning::default() };
        let start = Instant::now();
        let tuned = self::tuned(&mut after, device, &tuning)?;
        done.push((after, tuned, start.elapsed().as_secs_f64()));
        let known: Vec<Record> = Timings::file(&own).load()?.records().cloned().collect();
        append(timings, &known)?;
    }
    let Some((after, first, _)) = done.first() else { return Err("it was not tuned".into()) };
    let (modelled, measured) = first.totals();
    let [before, after] = medians(graph, [&before, after], device)?;
    let alike = done.last().map(|(_, last, _)| alike(first, last));
    let failures: Vec<_> = first.regions.iter().filter_map(|region| region.failure.as_ref()).collect();
    Ok(json!({
        "name": name, "build_seconds": built, "tune_seconds": done.iter().map(|(_, _, s)| s).collect::<Vec<_>>(),
        "regions": first.regions.len(), "fixed": first.fixed, "failures": failures,
        "tried": first.regions.iter().map(|region| region.tried()).sum::<usize>(),
        "alike": alike.filter(|_| times > 1), "kernels_us": [modelled, measured], "run_us": [before * 1e6, after * 1e6],
        "gain": before / after, "samples": SAMPLES,
    }))
}

/// Share of the regions for which two runs chose alike.
fn alike(one: &Tuned, other: &Tuned) -> f64 {
    let choices = |tuned: &Tuned| -> Vec<(Bindings, Value)> {
        let mut regions: Vec<_> = tuned.regions.iter().collect();
        regions.sort_by_key(|region| region.identity);
        let choice = |region: &kiln_tune::TunedRegion| {
            let row = &region.candidates[region.chosen];
            (region.sizes.clone(), json!([row.family, row.config]))
        };
        regions.into_iter().map(choice).collect()
    };
    let (one, other) = (choices(one), choices(other));
    let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
    same as f64 / one.len().max(1) as f64
}

/// Median seconds of a run of two engines of a graph, sampled in turn.
fn medians(graph: &Graph, engines: [&Engine; 2], device: &str) -> Outcome<[f64; 2]> {
    let inputs = common::inputs(graph)?;
    let mut ready = vec![];
    for engine in engines {
        let timer = Rotating::within(open_device(device)?, MOST_BYTES);
        let mut session = Session::new(engine, Box::new(timer.clone()))?;
        session.run(&borrow(&inputs))?;
        ready.push((timer, session));
    }
    let mut samples = [vec![], vec![]];
    for round in 0..SAMPLES {
        // Each goes first as often: what runs after a hot kernel is slower.
        for which in [round % 2, 1 - round % 2] {
            samples[which].push(ready[which].0.sample()?.ok_or("the run is more than launches")?);
        }
    }
    Ok(samples.map(|mut samples| {
        samples.sort_by(f64::total_cmp);
        samples[SAMPLES / 2]
    }))
}
