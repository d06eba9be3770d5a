//! Choosing among plans of a model on a device whose times are made up.

use kiln_cuda::{Compiler, CubinCache, Home, Nvrtc};
use kiln_engine::{BuildOptions, BuildReport, Engine, PLANS, build, build_plans};
use kiln_fuse::RegionId;
use kiln_graph::{Builder, DType, Dim, Graph, Tensor};
use kiln_target::{Gpu, Target};
use kiln_tune::{Job, Made, Measure, Measured, Report, Task, Timings, Tuned, Tuning, tune_plans};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub fn gpu() -> Gpu {
    Gpu::named("a100").unwrap()
}

/// A gated product: gate and product beside it are one kernel or two.
pub fn gated() -> Graph {
    let mut b = Builder::new("gated");
    let x = b.input("x", DType::F16, &[96, 320].map(Dim::from)).unwrap();
    let weight = |b: &mut Builder, name: &str, shape: [usize; 2], seed| {
        b.weight_data(name, Tensor::random(DType::F16, &shape, seed).unwrap()).unwrap()
    };
    let [gate, up] = [("gate", 1), ("up", 2)].map(|(name, seed)| weight(&mut b, name, [832, 320], seed));
    let down = weight(&mut b, "down", [320, 832], 3);
    let gate = b.linear(x, gate, None, true).unwrap();
    let gate = b.silu(gate).unwrap();
    let up = b.linear(x, up, None, true).unwrap();
    let y = b.mul(gate, up).unwrap();
    let y = b.linear(y, down, None, true).unwrap();
    b.output("y", y);
    b.finish()
}

pub fn options() -> BuildOptions {
    let targets = vec![Target::cpu(), Target::Gpu(gpu())];
    BuildOptions { targets, ..BuildOptions::new(Home::from_env().unwrap()) }
}

fn plans(graph: &Graph) -> Vec<(Engine, BuildReport)> {
    build_plans(graph, &options(), PLANS, &|_| {}).unwrap()
}

fn is_both(task: &Task) -> bool {
    task.subject.region.anchors().len() == 2
}

/// A device with a clock of its own, on which all takes as long as the model says, but for kernels of two products.
struct Device {
    compiler: Compiler,
    now: Duration,
    /// How many times as long as modelled two products in one kernel take.
    both: f64,
    /// Samples of each candidate of each region.
    samples: BTreeMap<(RegionId, usize), usize>,
}

impl Device {
    fn new(both: f64) -> Device {
        let home = Home::from_env().unwrap();
        let nvrtc = Nvrtc::discover(&home).unwrap();
        let compiler = Compiler::new(&nvrtc).with_cache(CubinCache::in_home(&home));
        Device { compiler, now: Duration::ZERO, both, samples: BTreeMap::new() }
    }

    fn tried(&self, region: RegionId) -> usize {
        self.samples.keys().filter(|(id, _)| *id == region).count()
    }
}

impl Measure for Device {
    fn elapsed(&self) -> Duration {
        self.now
    }

    fn measure(&mut self, task: &Arc<Task>, jobs: &[Job], until: Duration) -> kiln_tune::Result<Vec<Report>> {
        let candidates = task.candidates();
        let mut reports = vec![];
        for job in jobs {
            let seconds = candidates[job.candidate].seconds * if is_both(task) { self.both } else { 1.0 };
            let mut times = vec![];
            while times.len() < job.samples && self.now < until {
                self.now += Duration::from_millis(3);
                times.push(seconds);
            }
            if !times.is_empty() {
                *self.samples.entry((task.id, job.candidate)).or_default() += times.len();
                let measured = Measured::Times(times);
                reports.push(Report { candidate: job.candidate, measured, code: "code".into(), lasting: true });
            }
        }
        Ok(reports)
    }

    fn code(&mut self, task: &Arc<Task>, candidate: usize) -> Result<Arc<Made>, String> {
        let made = Made::new(task, candidate, &self.compiler)?;
        Ok(Arc::new(Made { code: "code".into(), ..made }))
    }
}

fn tuned(
    plans: &[(Engine, BuildReport)],
    device: &mut Device,
    timings: Option<&Path>,
    budget: Duration,
) -> (Engine, Tuned) {
    let mut engines: Vec<Engine> = plans.iter().map(|(engine, _)| engine.clone()).collect();
    let tuning = Tuning { budget, timings: timings.map(Timings::file), ..Tuning::default() };
    let nvrtc = device.compiler.nvrtc().release().to_owned();
    let found = tune_plans(&mut engines, &gpu(), &nvrtc, device, &tuning, &mut |_| {}).unwrap();
    (engines.swap_remove(found.plan), found)
}

pub fn bytes(engine: &Engine, folder: &Path) -> Vec<u8> {
    let path = folder.join("e.kiln");
    engine.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn ids(engine: &Engine) -> Vec<RegionId> {
    engine.target("sm_80").unwrap().plan.regions.iter().map(|region| region.identity()).collect()
}

pub fn has_both(engine: &Engine) -> bool {
    engine.target("sm_80").unwrap().plan.regions.iter().any(|region| region.anchors().len() == 2)
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn plans_are_engines_of_one_model_and_the_first_is_the_builds() {
    let folder = tempfile::tempdir().unwrap();
    let graph = gated();
    let plans = plans(&graph);
    assert!((2..=PLANS).contains(&plans.len()), "{}", plans.len());
    let (alone, _) = build(&graph, &options(), &|_| {}).unwrap();
    assert!(bytes(&alone, folder.path()) == bytes(&plans[0].0, folder.path()));
    let seconds = |report: &BuildReport| report.targets[1].fusion.launches.iter().map(|l| l.seconds).sum::<f64>();
    let x = Tensor::random(DType::F16, &[96, 320], 9).unwrap();
    let run = |engine: &Engine, device: &str| {
        engine.session(device).unwrap().run(&[("x", &x)]).unwrap().remove(0).1.to_f64_vec()
    };
    let expected = run(&alone, "cpu");
    for (i, (engine, report)) in plans.iter().enumerate() {
        assert!(plans[..i].iter().all(|(other, _)| ids(other) != ids(engine)));
        assert!(i < 2 || seconds(report) > seconds(&plans[i - 1].1), "plan {i}");
        assert_eq!(engine.targets[0].plan, alone.targets[0].plan);
        let largest = expected.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        for (found, expected) in run(engine, "sim:sm_80:fast").iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-2 * largest, "plan {i}: {found} {expected}");
        }
    }
    assert!(has_both(&plans[0].0) && plans.iter().any(|(engine, _)| !has_both(engine)));
}

#[test]
fn the_plan_that_measures_fastest_is_kept_and_follows_from_the_timing_cache() {
    let folder = tempfile::tempdir().unwrap();
    let plans = plans(&gated());
    for (both, kept) in [(1.0, true), (3.0, false)] {
        let path = folder.path().join(format!("{both}.jsonl"));
        let mut first = Device::new(both);
        let (engine, found) = tuned(&plans, &mut first, Some(&path), LONG);
        assert_eq!((found.plan == 0, has_both(&engine)), (kept, kept), "{:?}", found.plans);
        let times: Vec<f64> = found.plans.iter().map(|plan| plan.measured_us.unwrap()).collect();
        assert!(times.iter().all(|us| *us >= times[found.plan] / 1.01), "{times:?}");
        // What is reported is the plan's, and adds up to its time.
        let own = ids(&engine);
        assert!(found.regions.iter().all(|region| own.contains(&region.identity) && region.uses > 0));
        assert!((found.totals().1 / times[found.plan] - 1.0).abs() < 1e-3);
        // What plans have in common is measured once; in a plan that is far behind only a few candidates are.
        assert!(first.samples.values().all(|samples| *samples <= 5 + 17), "{:?}", first.samples);
        let lost = |plan: usize| times[plan] > 1.3 * times[found.plan];
        for (plan, (other, _)) in plans.iter().enumerate().filter(|(plan, _)| lost(*plan)) {
            let elsewhere = |id: &RegionId| {
                plans.iter().enumerate().any(|(at, (engine, _))| at != plan && !lost(at) && ids(engine).contains(id))
            };
            for id in ids(other).iter().filter(|id| !elsewhere(id)) {
                assert!(first.tried(*id) <= 4, "{}", first.tried(*id));
            }
        }
        let before = bytes(&engine, folder.path());
        let mut second = Device::new(both);
        let (engine, again) = tuned(&plans, &mut second, Some(&path), LONG);
        assert_eq!((second.samples.len(), again.plan), (0, found.plan));
        assert!(before == bytes(&engine, folder.path()));
    }
}

#[test]
fn a_budget_holds_for_all_plans_and_what_is_not_known_is_not_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let plans = plans(&gated());
    let mut none = Device::new(3.0);
    let (engine, found) = tuned(&plans, &mut none, None, Duration::ZERO);
    assert_eq!((none.samples.len(), found.plan), (0, 0));
    assert!(bytes(&engine, folder.path()) == bytes(&plans[0].0, folder.path()));
    let mut little = Device::new(3.0);
    // Time for a look at one kernel.
    let (engine, found) = tuned(&plans, &mut little, None, Duration::from_millis(1));
    assert_eq!((little.samples.len(), found.plan, has_both(&engine)), (1, 0, true), "{:?}", found.plans);
    assert!(found.plans.iter().all(|plan| plan.measured_us.is_none()), "{:?}", found.plans);
    let (mut kept, mut runs) = (vec![], 0);
    // Resumed until nothing is left to do.
    loop {
        let mut device = Device::new(3.0);
        let budget = Duration::from_millis(90);
        let (engine, found) = tuned(&plans, &mut device, Some(&path), budget);
        assert!(device.now <= budget + Duration::from_millis(3), "{:?}", device.now);
        assert!(found.plan == 0 || found.plans[0].measured_us.is_some());
        kept.push(has_both(&engine));
        runs += 1;
        if device.samples.is_empty() {
            break;
        }
        assert!(runs < 100);
    }
    assert!(runs > 3 && !kept[runs - 1], "{kept:?}");
}
