//! Fusion by the families' own cost models: what it makes of well-known graphs, that equal layers are alike, that its plans can be made.

#[path = "../../kiln-fuse/tests/common/mod.rs"]
mod fusion;

use fusion::known::known;
use fusion::stacks::{halves, stack};
use fusion::{kernels, options};
use kiln_fuse::{Fused, Kernels, Numerics, Options, Price, Region, fuse, fuse_plans};
use kiln_graph::{Bindings, Graph, Symbols};
use kiln_kernels::families::{Families, Subject, offers};
use kiln_target::{Gpu, Target};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

fn priced(target: &str, numerics: Numerics) -> Options {
    Options { kernels: Some(Arc::new(Families { tf32: false })), ..options(target, numerics) }
}

fn ids(fused: &Fused) -> BTreeSet<String> {
    fused.plan.regions.iter().map(|region| region.identity().to_string()).collect()
}

fn seconds(fused: &Fused) -> f64 {
    fused.report.launches.iter().map(|launch| launch.seconds).sum()
}

#[test]
fn well_known_graphs_are_few_kernels() {
    let mut more = vec![];
    for (graph, most) in known() {
        let fused = fuse(&graph, &priced("sm_90a", Numerics::Reassoc)).unwrap();
        let (found, name) = (fused.report.kernels, &graph.name);
        println!("{name}: {found} kernels, {:.2} us\n  {}", seconds(&fused) * 1e6, kernels(&fused).join("\n  "));
        if found > most {
            let plain = fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap();
            for (what, fused) in [("priced", &fused), ("roofline", &plain)] {
                for launch in &fused.report.launches {
                    let region = &fused.plan.regions[launch.region];
                    let Target::Gpu(gpu) = options("sm_90a", Numerics::Reassoc).target else { panic!() };
                    let own = Families { tf32: false }.price(region, &gpu, &region.graph.symbols, &Bindings::new());
                    println!("    {what} {:.2} us, {own:?}: {}", launch.seconds * 1e6, region.summary);
                }
            }
            more.push(format!("{name}: {found} kernels, expected at most {most}"));
        }
    }
    assert!(more.is_empty(), "{}", more.join("\n"));
}

/// Families that count how often they are asked for what.
#[derive(Debug)]
struct Counting {
    families: Families,
    asked: AtomicUsize,
    seen: Mutex<BTreeSet<(String, Bindings)>>,
    nanoseconds: AtomicUsize,
}

impl Counting {
    fn new() -> Arc<Counting> {
        let families = Families { tf32: false };
        let (asked, nanoseconds) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Counting { families, asked, seen: Mutex::default(), nanoseconds })
    }
}

impl Kernels for Counting {
    fn price(&self, region: &Region, gpu: &Gpu, symbols: &Symbols, sizes: &Bindings) -> Price {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.seen.lock().unwrap().insert((region.identity().to_string(), sizes.clone()));
        let start = Instant::now();
        let price = self.families.price(region, gpu, symbols, sizes);
        self.nanoseconds.fetch_add(start.elapsed().as_nanos() as usize, Ordering::Relaxed);
        price
    }
}

#[test]
fn equal_layers_have_equal_regions_and_each_is_asked_for_once() {
    for model in [stack as fn(usize) -> Graph, halves] {
        for (target, numerics) in
            [("sm_80", Numerics::Reassoc), ("sm_90a", Numerics::Exact), ("sm_90a", Numerics::Reassoc)]
        {
            let mut asked = vec![];
            let all = [4, 12].map(|n| {
                let counting = Counting::new();
                let start = Instant::now();
                let asking = Options { kernels: Some(counting.clone()), ..options(target, numerics) };
                let fused = fuse(&model(n), &asking).unwrap();
                let (times, took) = (counting.asked.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
                assert_eq!(times, counting.seen.lock().unwrap().len());
                let start = Instant::now();
                fuse(&model(n), &options(target, numerics)).unwrap();
                let plain = start.elapsed().as_secs_f64();
                let ms = counting.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-6;
                println!(
                    "{} {target} {numerics:?}, {n} layers: {} kernels, {} distinct, {:.3} us; {times} prices in {ms:.1} ms of {:.1}, {:.1} without",
                    fused.plan.name, fused.report.kernels, fused.report.distinct, seconds(&fused) * 1e6, took * 1e3, plain * 1e3
                );
                asked.push(times);
                (n, fused)
            });
            let (_, four) = &all[0];
            for (n, fused) in &all {
                assert_eq!(
                    ids(fused),
                    ids(four),
                    "{target}: {n} layers\n{}\n{}",
                    kernels(four).join("\n"),
                    kernels(fused).join("\n")
                );
                assert_eq!(fused.report.kernels * 4, four.report.kernels * n, "{target}");
                assert!((seconds(fused) * 4.0 / seconds(four) / *n as f64 - 1.0).abs() < 0.01);
            }
            assert_eq!(asked[0], asked[1], "{target}");
        }
    }
}

#[test]
fn what_fusion_reports_is_what_the_families_say() {
    for (graph, _) in known() {
        let options = priced("h200", Numerics::Reassoc);
        let Target::Gpu(gpu) = &options.target else { panic!() };
        let Fused { plan, report } = fuse(&graph, &options).unwrap();
        for launch in &report.launches {
            let region = &plan.regions[launch.region];
            let offers = offers(&Arc::new(Subject::of(region)), gpu).unwrap();
            let Some(best) = offers.first() else { continue };
            assert!((launch.seconds / best.estimate.seconds - 1.0).abs() < 1e-4, "{}", region.summary);
        }
    }
}

#[test]
fn plans_are_different_and_the_first_is_the_one_that_fusion_chooses() {
    let mut several = 0;
    for (graph, _) in known() {
        for target in ["cpu", "sm_80", "sm_90a"] {
            let options = priced(target, Numerics::Reassoc);
            let one = fuse(&graph, &options).unwrap();
            let all = fuse_plans(&graph, &options, 3, &mut |_, _| {}).unwrap();
            let again = fuse_plans(&graph, &options, 3, &mut |_, _| {}).unwrap();
            assert!((1..=3).contains(&all.len()));
            assert_eq!(all[0].plan, one.plan);
            for (i, plan) in all.iter().enumerate() {
                assert_eq!(plan.plan, again[i].plan);
                plan.plan.regions.iter().for_each(|region| region.verify().unwrap());
                assert!(all[..i].iter().all(|other| ids(other) != ids(plan)), "{target} {}: {}", graph.name, plan.plan);
                println!(
                    "{} {target} plan {i}: {} kernels, {:.2} us",
                    graph.name,
                    plan.report.kernels,
                    seconds(plan) * 1e6
                );
            }
            several += usize::from(all.len() > 1);
        }
    }
    assert!(several > 12, "{several}");
}
