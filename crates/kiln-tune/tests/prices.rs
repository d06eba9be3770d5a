//! What the timing cache says decides what fusion chooses, as long as it holds.

use crate::plans::{bytes, gated, gpu, has_both, options};
use kiln_engine::{BuildOptions, BuildReport, Engine, Used, build};
use kiln_fuse::{Kernels, Price};
use kiln_graph::{Bindings, Graph};
use kiln_kernels::candidates;
use kiln_target::Gpu;
use kiln_tune::{Outcome, Prices, Problem, Record, Timings, Tuning, append};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TARGET: &str = "sm_80";

/// A timing cache in a file of its own.
fn cache(folder: &Path, name: &str, records: &[Record]) -> PathBuf {
    let path = folder.join(name);
    append(&path, records).unwrap();
    path
}

fn prices(path: &Path) -> Prices {
    let tuning = Tuning { timings: Some(Timings::file(path)), ..Tuning::default() };
    Prices::of_build(&tuning, &gpu(), &options()).unwrap()
}

/// The model as whoever will tune it with this cache builds it.
fn built(graph: &Graph, path: &Path) -> (Engine, BuildReport) {
    let options = BuildOptions { prices: Some(Arc::new(prices(path))), ..options() };
    build(graph, &options, &|_| {}).unwrap()
}

fn is_both(used: &Used) -> bool {
    used.subject.region.anchors().len() == 2
}

/// The regions of an engine whose kernels were measured to take so many times as long as modelled: of each the candidate that the model ranks first, and one that is slower.
fn measured(engine: &Engine, times: impl Fn(&Used) -> Option<f64>) -> Vec<Record> {
    let toolchain = engine.target(TARGET).unwrap().toolchain.clone().unwrap();
    let mut records = vec![];
    for used in engine.subjects(TARGET).unwrap() {
        let Some(factor) = times(&used) else { continue };
        for (way, slower) in candidates(&used.subject, &gpu()).unwrap().iter().zip([1.0, 1.7]) {
            let ns = 1e9 * way.estimate.unwrap().seconds * factor * slower;
            let mut source = blake3::Hasher::new();
            for kernel in &way.make().unwrap().1.kernels {
                source.update(kernel.source.as_bytes());
            }
            records.push(Record {
                problem: Problem::of(used.id, &used.subject, &gpu(), &toolchain),
                sizes: Bindings::new(),
                family: way.family.to_string(),
                config: way.config.clone(),
                code: source.finalize().to_hex()[..16].to_owned(),
                // The median counts.
                outcome: Outcome::Ns(vec![ns as u64 / 2, ns as u64, 9 * ns as u64]),
            });
        }
    }
    records
}

type Change = fn(&mut Record);

fn fusion(report: &BuildReport) -> &kiln_fuse::Report {
    &report.targets.iter().find(|target| target.target == TARGET).unwrap().fusion
}

#[test]
fn a_region_that_was_measured_to_be_slow_is_split_and_joined_where_its_parts_are_slower() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, graph) = (folder.path(), gated());
    let (plain, report) = build(&graph, &options(), &|_| {}).unwrap();
    assert!(has_both(&plain) && fusion(&report).launches.iter().all(|launch| !launch.measured));

    // As fast as modelled: nothing changes but that it is known.
    let same = cache(folder, "same", &measured(&plain, |_| Some(1.0)));
    let (engine, report) = built(&graph, &same);
    assert!(bytes(&engine, folder) == bytes(&plain, folder));
    assert!(fusion(&report).launches.iter().all(|launch| launch.measured));

    let mut records = measured(&plain, |used| is_both(used).then_some(3.0));
    assert_eq!(records.len(), 2);
    let slow = cache(folder, "slow", &records);
    let (split, report) = built(&graph, &slow);
    assert!(!has_both(&split), "{}", split.target(TARGET).unwrap().plan);
    assert!(fusion(&report).launches.iter().all(|launch| !launch.measured));
    let again = built(&graph, &slow).0;
    assert!(bytes(&again, folder) == bytes(&split, folder), "one cache, two engines");
    // The CPU's plan is none of its business.
    assert_eq!(split.targets[0].plan, plain.targets[0].plan);

    // Whatever else is chosen is measured too, and worse: in the end the two are one again.
    let (mut joined, mut report, mut rounds) = (split, report, 0);
    while !has_both(&joined) {
        let known: Vec<String> = records.iter().map(|record| record.problem.region.clone()).collect();
        let new = measured(&joined, |used| (!known.contains(&used.id.to_string())).then_some(9.0));
        assert!(!new.is_empty() && rounds < 8, "nothing new is chosen, and it is not the fastest");
        records.extend(new);
        rounds += 1;
        (joined, report) = built(&graph, &cache(folder, &format!("round{rounds}"), &records));
    }
    assert!(rounds > 0);
    for launch in &fusion(&report).launches {
        let region = &joined.target(TARGET).unwrap().plan.regions[launch.region];
        let known = records.iter().find(|record| record.problem.region == region.identity().to_string());
        assert_eq!(launch.measured, known.is_some());
        if let Some(known) = known {
            let seconds = known.outcome.median().unwrap() as f64 * 1e-9;
            assert!((launch.seconds / seconds - 1.0).abs() < 1e-4, "{} {seconds}", launch.seconds);
        }
    }
}

#[test]
fn what_was_measured_elsewhere_or_of_other_code_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, graph) = (folder.path(), gated());
    let plain = build(&graph, &options(), &|_| {}).unwrap().0;
    let slow = measured(&plain, |used| is_both(used).then_some(3.0));
    let changes: [(&str, Change); 10] = [
        ("gpu", |r| r.problem.gpu = "A100 PCIe".into()),
        ("clock", |r| r.problem.clock_mhz -= 90),
        ("memory", |r| r.problem.memory_gbs += 1),
        ("nvrtc", |r| r.problem.nvrtc = "12.4.1".into()),
        ("options", |r| r.problem.options.push("--fmad=false".into())),
        ("tf32", |r| r.problem.tf32 = true),
        ("kiln", |r| r.problem.kiln = "0.0.9".into()),
        ("code", |r| r.code = "0123456789abcdef".into()),
        ("config", |r| r.config = serde_json::json!({ "tiles": 7 })),
        ("family", |r| r.family = "kernel mine".into()),
    ];
    for (what, change) in changes {
        let mut records = slow.clone();
        records.iter_mut().for_each(change);
        let (engine, report) = built(&graph, &cache(folder, what, &records));
        assert!(bytes(&engine, folder) == bytes(&plain, folder), "{what}");
        assert!(fusion(&report).launches.iter().all(|launch| !launch.measured), "{what}");
    }
    // The fastest is of other code: what is known of slower ones is of that time too.
    let mut records = slow.clone();
    records[0].code = "0123456789abcdef".into();
    assert!(has_both(&built(&graph, &cache(folder, "fastest", &records)).0));
    // What could not be used has no time; the other has.
    records[0].outcome = Outcome::Invalid("it spills 8 bytes of registers".into());
    assert!(!has_both(&built(&graph, &cache(folder, "invalid", &records)).0));
    // A cache that is not there is empty.
    assert!(bytes(&built(&graph, &folder.join("none")).0, folder) == bytes(&plain, folder));
}

#[test]
fn prices_are_measured_at_the_sizes_and_on_the_gpu_that_are_tuned_for() {
    let folder = tempfile::tempdir().unwrap();
    let plain = build(&gated(), &options(), &|_| {}).unwrap().0;
    let prices = prices(&cache(folder.path(), "t", &measured(&plain, |_| Some(2.0))));
    let other = Gpu { clock_ghz: 1.0, ..gpu() };
    for used in plain.subjects(TARGET).unwrap() {
        let region = &used.subject.region;
        let price = |gpu: &Gpu| prices.price(region, gpu, &region.graph.symbols, &used.subject.sizes);
        let best = candidates(&used.subject, &gpu()).unwrap()[0].estimate.unwrap().seconds;
        let Price::Measured(seconds) = price(&gpu()) else { panic!("{:?}", price(&gpu())) };
        assert!((seconds / best / 2.0 - 1.0).abs() < 1e-3, "{seconds} {best}");
        assert!(matches!(price(&other), Price::Known(_)));
    }
}
