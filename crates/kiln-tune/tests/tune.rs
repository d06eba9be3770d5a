//! Tuning an engine on a device whose times are made up: budgets, the timing cache, what is stale.

use kiln_cuda::{Compiler, CubinCache, Home, Nvrtc};
use kiln_engine::{BuildOptions, Engine, build};
use kiln_graph::{Builder, DType, Dim};
use kiln_target::{Gpu, Target};
use kiln_tune::{Error, Job, Made, Measure, Measured, Report, Task, Times, Timings, Tuned, Tuning, tune};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Two products that are two steps each, and a softmax.
fn engine(gpu: &Gpu) -> Engine {
    let mut b = Builder::new("twice");
    let x = b.input("x", DType::F16, &[Dim::from(256), Dim::from(512)]).unwrap();
    let w = b.weight("w", DType::F16, &[512, 512]).unwrap();
    let v = b.weight("v", DType::F16, &[512, 512]).unwrap();
    let h = b.einsum("mk,nk->mn", &[x, w]).unwrap();
    let y = b.einsum("mk,nk->mn", &[h, v]).unwrap();
    let y = b.softmax(y, -1).unwrap();
    b.output("y", y);
    let mut graph = b.finish();
    for (i, name) in ["w", "v"].into_iter().enumerate() {
        let weight = kiln_graph::Tensor::random(DType::F16, &[512, 512], i as u64).unwrap();
        graph.weights.insert(name.to_owned(), weight);
    }
    let targets = vec![Target::Gpu(gpu.clone()), Target::cpu()];
    let options = BuildOptions { targets, ..BuildOptions::new(Home::from_env().unwrap()) };
    build(&graph, &options, &|_| {}).unwrap().0
}

fn gpu() -> Gpu {
    Gpu::named("a100").unwrap()
}

/// A device with a clock of its own, on which a candidate takes the longer the earlier the cost model ranks it.
struct Device {
    compiler: Compiler,
    now: Duration,
    samples: usize,
    /// What code is said to be.
    version: &'static str,
    /// Whether regions of this name cannot be measured.
    broken: &'static str,
    /// Whether it depends on the sizes which candidates are fast.
    by_sizes: bool,
    /// Whose turn it was, with which candidates.
    turns: Vec<(String, Vec<usize>)>,
}

impl Device {
    fn new(version: &'static str) -> Device {
        let home = Home::from_env().unwrap();
        let nvrtc = Nvrtc::discover(&home).unwrap();
        let compiler = Compiler::new(&nvrtc).with_cache(CubinCache::in_home(&home));
        Device { compiler, now: Duration::ZERO, samples: 0, version, broken: "nothing", by_sizes: false, turns: vec![] }
    }
}

impl Measure for Device {
    fn elapsed(&self) -> Duration {
        self.now
    }

    fn measure(&mut self, task: &Arc<Task>, jobs: &[Job], until: Duration) -> kiln_tune::Result<Vec<Report>> {
        if task.subject.region.name.starts_with(self.broken) {
            return Err(Error::Untimed { device: "test".into() });
        }
        self.turns.push((task.id.to_string(), jobs.iter().map(|job| job.candidate).collect()));
        let mut reports = vec![];
        for job in jobs {
            let mut times = vec![];
            while times.len() < job.samples && self.now < until {
                self.now += Duration::from_millis(3);
                self.samples += 1;
                times.push(match self.by_sizes {
                    true => at_sizes(task, job.candidate),
                    false => 1e-3 / (2.0 + job.candidate as f64),
                });
            }
            let measured = match job.candidate {
                _ if times.is_empty() => continue,
                3 if !self.by_sizes => Measured::Invalid("it spills".into()),
                _ => Measured::Times(times),
            };
            reports.push(Report { candidate: job.candidate, measured, code: self.version.into(), lasting: true });
        }
        Ok(reports)
    }

    fn code(&mut self, task: &Arc<Task>, candidate: usize) -> Result<Arc<Made>, String> {
        let made = Made::new(task, candidate, &self.compiler)?;
        Ok(Arc::new(Made { code: self.version.into(), ..made }))
    }
}

/// Up to a millisecond, as chance will have it for a Config at some sizes.
fn at_sizes(task: &Task, candidate: usize) -> f64 {
    let text = format!("{} {:?}", task.ways[candidate].config, task.subject.sizes);
    let chance = text.bytes().fold(7u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    1e-4 + 9e-4 * kiln_graph::Rng::new(chance).unit()
}

fn tuned(engine: &Engine, device: &mut Device, timings: Option<&Path>, budget: Duration) -> (Engine, Tuned) {
    tuned_by(engine, device, timings.map(Timings::file), budget)
}

fn tuned_by(engine: &Engine, device: &mut Device, timings: Option<Timings>, budget: Duration) -> (Engine, Tuned) {
    let mut engine = engine.clone();
    let tuning = Tuning { budget, timings, ..Tuning::default() };
    let nvrtc = device.compiler.nvrtc().release().to_owned();
    let found = tune(&mut engine, &gpu(), &nvrtc, device, &tuning, &mut |_| {}).unwrap();
    (engine, found)
}

fn bytes(engine: &Engine, folder: &Path) -> Vec<u8> {
    let path = folder.join("e.kiln");
    engine.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn builds_with_one_timing_cache_are_equal_and_measure_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let model_ranked = engine(&gpu());
    let mut first = Device::new("one");
    let (engine, found) = tuned(&model_ranked, &mut first, Some(&path), LONG);
    assert!(found.regions.len() == 2 && first.samples > 0, "{found:?}");
    // Products that are equal are one region, and take most of the time.
    assert_eq!(found.regions[0].uses, 2);
    for region in &found.regions {
        let (before, after) = region.gain().unwrap();
        assert!(region.present == 0 && region.chosen > 0 && after < before, "{region:?}");
        assert!(region.candidates.iter().all(|row| row.modelled_us > 0.0));
        assert!(region.candidates[3].invalid.is_some());
        // The engine has what was chosen.
        let row = &region.candidates[region.chosen];
        let made = &engine.target("sm_80").unwrap().kernels[&region.identity].variants[0].implementation;
        assert_eq!((&made.config, made.family.as_str()), (&row.config, row.family.as_str()));
    }
    let (before, after) = found.totals();
    assert!(after < before);
    let first_bytes = bytes(&engine, folder.path());
    assert_ne!(first_bytes, bytes(&model_ranked, folder.path()));

    let mut second = Device::new("one");
    let (engine, again) = tuned(&model_ranked, &mut second, Some(&path), LONG);
    assert_eq!(second.samples, 0);
    assert!(first_bytes == bytes(&engine, folder.path()));
    assert_eq!(again.regions[0].chosen, found.regions[0].chosen);
    // An engine that is tuned already, as a file is.
    let loaded = Engine::load(folder.path().join("e.kiln")).unwrap();
    let mut third = Device::new("one");
    let (engine, _) = tuned(&loaded, &mut third, Some(&path), LONG);
    assert_eq!(third.samples, 0);
    assert!(first_bytes == bytes(&engine, folder.path()));

    // Generated code is not what it was: all is measured anew, once.
    let mut other = Device::new("two");
    let (engine, _) = tuned(&model_ranked, &mut other, Some(&path), LONG);
    assert_eq!(other.samples, first.samples);
    assert!(first_bytes == bytes(&engine, folder.path()));
    let mut last = Device::new("two");
    tuned(&model_ranked, &mut last, Some(&path), LONG);
    assert_eq!(last.samples, 0);
}

#[test]
fn machines_that_share_a_store_tune_each_kernel_once() {
    let store: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let fleet = || Some(Timings::store("fleet", store.clone(), "timings/a100"));
    let (folder, model_ranked) = (tempfile::tempdir().unwrap(), engine(&gpu()));
    let mut first = Device::new("one");
    let (tuned_first, _) = tuned_by(&model_ranked, &mut first, fleet(), LONG);
    let mut second = Device::new("one");
    let (tuned_second, _) = tuned_by(&model_ranked, &mut second, fleet(), LONG);
    assert!(first.samples > 0 && second.samples == 0);
    assert!(bytes(&tuned_first, folder.path()) == bytes(&tuned_second, folder.path()));
    // One object a run, and none of a run that had nothing to say.
    let written = fleet().unwrap().load().unwrap();
    assert_eq!((written.damaged, written.records().count() > 16), (0, true));
}

/// Rows of a number that is known at run time alone.
fn rows(n: i64) -> Engine {
    let mut b = Builder::new("rows");
    let x = b.input("x", DType::F16, &[Dim::from("N"), Dim::from(512)]).unwrap();
    let w = b.input("w", DType::F16, &[512, 512].map(Dim::from)).unwrap();
    let y = b.einsum("mk,nk->mn", &[x, w]).unwrap();
    b.output("y", y);
    let options = BuildOptions {
        targets: vec![Target::Gpu(gpu())],
        sizes: [("N".to_owned(), n)].into(),
        ..BuildOptions::new(Home::from_env().unwrap())
    };
    build(&b.finish(), &options, &|_| {}).unwrap().0
}

#[test]
fn times_count_in_their_bucket_and_are_guesses_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let mut first = Device::new("one");
    let (_, found) = tuned(&rows(456), &mut first, Some(&path), LONG);
    let winner = &found.regions[0].candidates[found.regions[0].chosen];
    let timed = found.regions[0].candidates.iter().filter(|row| row.measured_us.is_some());
    let fastest = timed.min_by(|a, b| a.measured_us.unwrap().total_cmp(&b.measured_us.unwrap())).unwrap();
    // 456 and 472 are between 448 and 512, and 8 divides both, 16 neither.
    let mut same = Device::new("one");
    let (_, again) = tuned(&rows(472), &mut same, Some(&path), LONG);
    assert_eq!((same.samples, &again.regions[0].candidates[again.regions[0].chosen].config), (0, &winner.config));
    for n in [464, 1000] {
        let mut other = Device::new("one");
        let (_, near) = tuned(&rows(n), &mut other, Some(&path), Duration::from_millis(3 * 5));
        let (_, tried) = &other.turns[0];
        assert_eq!(near.regions[0].candidates[tried[0]].config, fastest.config, "{n}");
        // It was timed there, rather than believed.
        assert_eq!((other.samples, near.regions[0].tried()), (5, 1), "{n}");
    }
}

/// A product and a softmax of up to 300 rows, their kernels chosen for 64.
fn profile() -> Engine {
    let mut b = Builder::new("profile");
    let n = b.symbol("N", 1, 300);
    let x = b.input("x", DType::F16, &[n, Dim::from(64)]).unwrap();
    let w = b.input("w", DType::F16, &[64, 64].map(Dim::from)).unwrap();
    let y = b.einsum("mk,nk->mn", &[x, w]).unwrap();
    let y = b.softmax(y, -1).unwrap();
    b.output("y", y);
    let options = BuildOptions {
        targets: vec![Target::Gpu(gpu())],
        sizes: [("N".to_owned(), 64)].into(),
        ..BuildOptions::new(Home::from_env().unwrap())
    };
    build(&b.finish(), &options, &|_| {}).unwrap().0
}

#[test]
fn a_profile_is_tuned_at_its_ends_too_and_a_table_says_what_runs_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let model_ranked = profile();
    let device = || Device { by_sizes: true, ..Device::new("one") };
    let mut first = device();
    let (engine, found) = tuned(&model_ranked, &mut first, Some(&path), LONG);
    assert_eq!(found.regions.len(), 6, "{found:?}");
    let kernels = &engine.target("sm_80").unwrap().kernels;
    let mut tables = 0;
    for (id, compiled) in kernels {
        let (last, before) = compiled.variants.split_last().unwrap();
        assert!(last.guard.is_always() && before.iter().all(|variant| !variant.guard.is_always()));
        tables += usize::from(!before.is_empty());
        for region in found.regions.iter().filter(|region| region.identity == *id) {
            // What runs at these sizes is what was chosen for them, and near to the best that is known there.
            let runs = compiled.variants.iter().find(|variant| variant.guard.holds(&region.sizes).unwrap()).unwrap();
            let chosen = &region.candidates[region.chosen];
            assert_eq!(runs.implementation.config, chosen.config, "{:?}", region.sizes);
            let times = region.candidates.iter().filter_map(|row| row.measured_us);
            let best = times.fold(f64::INFINITY, f64::min);
            assert!(chosen.measured_us.unwrap() <= 1.03 * best, "{:?}", region.sizes);
        }
        // Who won at some sizes was measured at the others, where it can be made.
        let own: Vec<_> = found.regions.iter().filter(|region| region.identity == *id).collect();
        assert_eq!((own.len(), own.iter().filter(|region| region.typical).count()), (3, 1));
        for (at, other) in own.iter().flat_map(|at| own.iter().map(move |other| (at, other))) {
            let timed = at.candidates.iter().filter(|row| row.measured_us.is_some());
            let won = timed.min_by(|a, b| a.measured_us.unwrap().total_cmp(&b.measured_us.unwrap())).unwrap();
            let there = other.candidates.iter().find(|row| row.config == won.config);
            assert!(there.is_none_or(|row| row.samples > 0), "{:?} {:?}", at.sizes, other.sizes);
        }
    }
    assert!(tables > 0);
    // Each size runs, on either side of every limit.
    let mut session = engine.session("sim:sm_80:fast").unwrap();
    let w = kiln_graph::Tensor::random(DType::F16, &[64, 64], 2).unwrap();
    for rows in [1, 2, 64, 65, 300] {
        let x = kiln_graph::Tensor::random(DType::F16, &[rows, 64], rows as u64).unwrap();
        session.poison(0xcb).unwrap();
        let given = session.run(&[("x", &x), ("w", &w)]).unwrap();
        let sums: Vec<f64> = given[0].1.to_f64_vec().chunks(64).map(|row| row.iter().sum()).collect();
        assert!(sums.len() == rows && sums.iter().all(|sum| (sum - 1.0).abs() < 0.02), "{rows}: {sums:?}");
    }
    // With all known nothing is measured, and the same comes out, from the engine that has it too.
    let before = bytes(&engine, folder.path());
    for from in [&model_ranked, &engine] {
        let mut second = device();
        let (again, _) = tuned(from, &mut second, Some(&path), LONG);
        assert!(second.samples == 0 && before == bytes(&again, folder.path()), "{}", second.samples);
    }
    // With time for little, what there is covers all sizes.
    let mut short = device();
    let (engine, _) = tuned(&model_ranked, &mut short, None, Duration::from_millis(45));
    assert!(
        engine.target("sm_80").unwrap().kernels.values().all(|made| made.variants.last().unwrap().guard.is_always())
    );
}

#[test]
fn a_budget_is_kept_and_what_was_found_by_then_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let model_ranked = engine(&gpu());
    let mut none = Device::new("one");
    let (engine, found) = tuned(&model_ranked, &mut none, Some(&path), Duration::ZERO);
    assert_eq!(none.samples, 0);
    assert!(found.regions.iter().all(|region| region.chosen == region.present && region.gain().is_none()));
    assert!(bytes(&engine, folder.path()) == bytes(&model_ranked, folder.path()));

    let mut all = Device::new("one");
    let (_, whole) = tuned(&model_ranked, &mut all, None, LONG);
    let (mut samples, mut builds) = (0, 0);
    // Resumed until nothing is left to do.
    loop {
        let mut device = Device::new("one");
        let budget = Duration::from_millis(300);
        let (_, found) = tuned(&model_ranked, &mut device, Some(&path), budget);
        assert!(device.now <= budget + Duration::from_millis(3), "{:?}", device.now);
        // Each region has its share.
        assert!(found.regions.iter().all(|region| region.tried() > 0), "{found:?}");
        samples += device.samples;
        builds += 1;
        if device.samples == 0 {
            let chosen = |found: &Tuned| found.regions.iter().map(|region| region.chosen).collect::<Vec<_>>();
            assert_eq!(chosen(&found), chosen(&whole));
            break;
        }
        assert!(builds < 100);
    }
    // What a budget cut short was not measured in vain.
    assert!(builds > 3 && samples < all.samples * 3 / 2, "{builds} {samples} {}", all.samples);
}

/// Six kernels of very different weight.
fn six(gpu: &Gpu) -> Engine {
    let mut b = Builder::new("six");
    let dims = |shape: &[i64]| shape.iter().copied().map(Dim::from).collect::<Vec<_>>();
    let x = b.input("x", DType::F16, &dims(&[512, 1024])).unwrap();
    let w = b.input("w", DType::F16, &dims(&[1024, 1024])).unwrap();
    let v = b.input("v", DType::F16, &dims(&[2048, 1024])).unwrap();
    let g = b.input("g", DType::F16, &dims(&[64, 4096])).unwrap();
    let h = b.einsum("mk,nk->mn", &[x, w]).unwrap();
    let y = b.einsum("mk,nk->mn", &[h, v]).unwrap();
    let rows = b.softmax(y, -1).unwrap();
    let few = b.softmax(g, -1).unwrap();
    let sum = b.reduce_max(g, &[0], false).unwrap();
    let map = b.sqrt(x).unwrap();
    for (name, value) in [("rows", rows), ("few", few), ("sum", sum), ("map", map)] {
        b.output(name, value);
    }
    let options =
        BuildOptions { targets: vec![Target::Gpu(gpu.clone())], ..BuildOptions::new(Home::from_env().unwrap()) };
    build(&b.finish(), &options, &|_| {}).unwrap().0
}

#[test]
fn every_region_has_a_turn_before_any_is_searched() {
    let engine = six(&gpu());
    let mut all = Device::new("one");
    let (_, whole) = tuned(&engine, &mut all, None, LONG);
    let regions = whole.regions.len();
    assert_eq!(regions, 6, "{whole:?}");
    // What a first look at four candidates of each takes.
    let round = Duration::from_millis(3 * 5 * 4 * regions as u64);
    for budget in [round, round * 2, round * 4] {
        let mut device = Device::new("one");
        let mut news = 0;
        let mut engine = engine.clone();
        let tuning = Tuning { budget, ..Tuning::default() };
        let nvrtc = device.compiler.nvrtc().release().to_owned();
        let found = tune(&mut engine, &gpu(), &nvrtc, &mut device, &tuning, &mut |heard| {
            assert!(heard.left <= budget, "{heard:?}");
            news += 1;
        })
        .unwrap();
        assert!(news > regions && device.now <= budget, "{:?} of {budget:?}", device.now);
        assert!(found.regions.iter().all(|region| region.tried() >= 4.min(region.candidates.len())), "{found:?}");
        let first: std::collections::BTreeSet<_> = device.turns[..regions].iter().collect();
        assert!(first.len() == regions && first.iter().all(|(_, jobs)| jobs.len() <= 4), "{:?}", device.turns);
    }
    // Halfway it is known how long the rest takes, within a factor of two.
    let (mut device, end) = (Device::new("one"), all.now);
    let mut guesses = vec![];
    let mut engine = engine.clone();
    let tuning = Tuning { budget: LONG, ..Tuning::default() };
    let nvrtc = device.compiler.nvrtc().release().to_owned();
    tune(&mut engine, &gpu(), &nvrtc, &mut device, &tuning, &mut |heard| guesses.push(heard.left)).unwrap();
    let halfway = guesses[guesses.len() / 2];
    assert!(halfway < end && halfway > end / 8, "{halfway:?} of {end:?}");
}

#[test]
fn what_cannot_be_measured_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let model_ranked = engine(&gpu());
    let mut device = Device { broken: "softmax", ..Device::new("one") };
    let (engine, found) = tuned(&model_ranked, &mut device, None, LONG);
    let (broken, others): (Vec<_>, Vec<_>) = found.regions.iter().partition(|region| region.failure.is_some());
    assert!(broken.len() == 1 && !others.is_empty());
    let kernel = |engine: &Engine| engine.target("sm_80").unwrap().kernels[&broken[0].identity].variants[0].clone();
    assert_eq!(kernel(&engine).implementation, kernel(&model_ranked).implementation);
    assert!(others.iter().all(|region| region.chosen != region.present));

    let mut damaged = std::fs::read(folder.path().join("t.jsonl")).unwrap_or_default();
    damaged.extend_from_slice(b"{\"format\":1}\n");
    let path = folder.path().join("t.jsonl");
    std::fs::write(&path, &damaged).unwrap();
    let (_, found) = tuned(&model_ranked, &mut device, Some(&path), LONG);
    assert!(found.warnings[0].contains("1 lines are damaged"), "{:?}", found.warnings);
    assert_eq!(Times::load(&path).unwrap().damaged, 1);

    let mut other = model_ranked.clone();
    let e = tune(&mut other, &gpu(), "12.9.86", &mut device, &Tuning::default(), &mut |_| {}).unwrap_err();
    assert!(e.to_string().contains("kiln setup --nvrtc 13"), "{e}");
    let e = tune(&mut other, &Gpu::named("h100").unwrap(), "13.0.88", &mut device, &Tuning::default(), &mut |_| {});
    assert!(e.unwrap_err().to_string().contains("--target"), "the target is missing");
}
