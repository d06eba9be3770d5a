//! The search on a simulated device: real spaces of Configs, and times that follow a hidden model which errs from the cost model's as real
//! GPUs do: by fields, by pairs of fields, by single Configs, and with noise.

use kiln_fuse::{Anchor, Region};
use kiln_graph::{Builder, DType, Dim, Rng};
use kiln_kernels::families::{Subject, offers};
use kiln_target::Gpu;
use kiln_tune::{Candidate, Job, Measured, Options, Search, Stop, TURN, Turns};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The Configs of a product, and what the cost model says.
fn product(m: i64, n: i64, k: i64, dtype: DType, gpu: &str) -> Vec<Candidate> {
    let mut b = Builder::new("product");
    let x = b.input("x", dtype, &[Dim::from(m), Dim::from(k)]).unwrap();
    let w = b.input("w", dtype, &[Dim::from(n), Dim::from(k)]).unwrap();
    let y = b.einsum("mk,nk->mn", &[x, w]).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let region = Region { name: "product".into(), summary: "a product".into(), anchor: Anchor::Contract, graph };
    let offers = offers(&Arc::new(Subject::of(&region)), &Gpu::named(gpu).unwrap()).unwrap();
    let candidate = |offer: &kiln_kernels::families::Offer| Candidate {
        config: offer.config.clone(),
        seconds: offer.estimate.seconds,
    };
    offers.iter().map(candidate).collect()
}

fn normal(rng: &mut Rng) -> f64 {
    // Box and Muller.
    let (u, v) = (1.0 - rng.unit(), rng.unit());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A device whose times are known to the test alone.
struct Device {
    seconds: Vec<f64>,
    broken: Vec<bool>,
    rng: Rng,
    samples: usize,
}

impl Device {
    fn new(candidates: &[Candidate], seed: u64) -> Device {
        let mut rng = Rng::new(seed);
        let mut effects: BTreeMap<String, f64> = BTreeMap::new();
        let mut seconds = vec![];
        for candidate in candidates {
            let Value::Object(fields) = &candidate.config else { panic!("{}", candidate.config) };
            let words: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let mut error = 0.02 * normal(&mut rng);
            for (i, word) in words.iter().enumerate() {
                error += *effects.entry(word.clone()).or_insert_with(|| 0.08 * normal(&mut rng));
                for other in &words[..i] {
                    error += *effects.entry(format!("{other} {word}")).or_insert_with(|| 0.015 * normal(&mut rng));
                }
            }
            seconds.push(candidate.seconds * error.exp());
        }
        let broken = candidates.iter().map(|_| rng.unit() < 0.03).collect();
        Device { seconds, broken, rng, samples: 0 }
    }

    fn time(&mut self, candidate: usize) -> f64 {
        self.samples += 1;
        let noise = 1.0 + 0.025 * normal(&mut self.rng);
        let spike = if self.rng.unit() < 0.05 { 1.5 } else { 1.0 };
        self.seconds[candidate] * noise * spike
    }

    fn best(&self) -> f64 {
        let usable = self.seconds.iter().zip(&self.broken).filter(|(_, broken)| !**broken);
        usable.map(|(seconds, _)| *seconds).fold(f64::INFINITY, f64::min)
    }
}

fn measure(search: &mut Search, device: &mut Device, jobs: Vec<Job>) {
    for job in jobs {
        let measured = match device.broken[job.candidate] {
            true => Measured::Invalid("it spills".into()),
            false => Measured::Times((0..job.samples).map(|_| device.time(job.candidate)).collect()),
        };
        search.tell(job.candidate, measured);
    }
}

fn run(search: &mut Search, device: &mut Device) {
    loop {
        let jobs = search.ask();
        if jobs.is_empty() {
            return;
        }
        measure(search, device, jobs);
    }
}

/// Samples of each candidate where all are measured.
const EXHAUSTIVE: usize = 20;

#[test]
fn the_best_is_found_by_few_measurements() {
    let spaces = [
        product(4096, 4096, 4096, DType::BF16, "h200"),
        product(2048, 1024, 1000, DType::F16, "a100"),
        product(384, 768, 3072, DType::F16, "rtx4090"),
        product(512, 512, 2048, DType::I8, "h100"),
    ];
    let (mut good, mut model, mut share, mut effort) = (0, 0, 0.0f64, 0.0f64);
    let trials = 200;
    for trial in 0..trials {
        let candidates = &spaces[trial % spaces.len()];
        assert!(candidates.len() >= 80, "{}", candidates.len());
        let mut device = Device::new(candidates, trial as u64);
        let mut search = Search::new(candidates.clone(), Options::default());
        run(&mut search, &mut device);
        let (found, _) = search.best().unwrap();
        assert!(!device.broken[found] && search.ended().is_some());
        let best = device.best();
        good += usize::from(device.seconds[found] <= 1.03 * best);
        model += usize::from(device.seconds[0] <= 1.03 * best);
        share = share.max(search.measured().count() as f64 / candidates.len() as f64);
        effort = effort.max(device.samples as f64 / (EXHAUSTIVE * candidates.len()) as f64);
    }
    println!(
        "{good} of {trials} within 3 %, the model alone {model}; at most {share:.3} of a space and {effort:.3} of all samples"
    );
    assert!(good * 100 >= trials * 95, "{good} of {trials}, {share}");
    assert!(share <= 0.15 && effort <= 0.15, "{share} {effort}");
    // Else the test would show nothing.
    assert!(model * 2 < trials, "{model}");
}

/// A kernel that is searched beside others.
struct Kernel {
    launches: usize,
    modelled: f64,
    search: Search,
    device: Device,
}

impl Kernel {
    /// Seconds of a run in what is best as far as is known, the cost model's choice before anything is.
    fn seconds(&self) -> f64 {
        self.launches as f64 * self.device.seconds[self.search.best().map_or(0, |(best, _)| best)]
    }
}

/// Kernels of a model, the heaviest first: none takes more than three times as much of it as another.
fn kernels(spaces: &[Vec<Candidate>], seed: u64) -> Vec<Kernel> {
    let slowest = spaces.iter().map(|candidates| candidates[0].seconds).fold(0.0, f64::max);
    let kernel = |(i, candidates): (usize, &Vec<Candidate>)| Kernel {
        launches: ((1 + i % 3) as f64 * slowest / candidates[0].seconds).ceil() as usize,
        modelled: candidates[0].seconds,
        search: Search::new(candidates.clone(), Options::default()),
        device: Device::new(candidates, 100 * seed + i as u64),
    };
    let mut kernels: Vec<Kernel> = spaces.iter().enumerate().map(kernel).collect();
    kernels.sort_by(|a, b| (b.launches as f64 * b.modelled).total_cmp(&(a.launches as f64 * a.modelled)));
    kernels
}

/// Samples that were taken.
fn taken(kernels: &[Kernel]) -> usize {
    kernels.iter().map(|kernel| kernel.device.samples).sum()
}

/// Spreads a budget of samples by turns, and says in which order that was.
fn spread(kernels: &mut [Kernel], budget: usize) -> Vec<usize> {
    let (mut turns, mut order) = (Turns::default(), vec![]);
    kernels.iter().for_each(|kernel| turns.add(kernel.launches, kernel.modelled, &kernel.search));
    while let Some(turn) = turns.next() {
        let mut jobs = kernels[turn.search].search.ask();
        if turn.first {
            jobs.truncate(TURN - kernels[turn.search].search.measured().count());
        }
        if taken(kernels) + jobs.iter().map(|job| job.samples).sum::<usize>() > budget {
            break;
        }
        let Kernel { search, device, .. } = &mut kernels[turn.search];
        measure(search, device, jobs);
        turns.note(turn.search, search);
        order.push(turn.search);
    }
    order
}

#[test]
fn every_kernel_has_its_turn_and_the_rest_goes_where_most_is_gained() {
    let spaces = [
        product(4096, 4096, 4096, DType::BF16, "h200"),
        product(2048, 1024, 1000, DType::F16, "a100"),
        product(384, 768, 3072, DType::F16, "rtx4090"),
        product(512, 512, 2048, DType::I8, "h100"),
        product(64, 512, 2048, DType::F16, "h100"),
        product(1024, 1024, 512, DType::F16, "a100"),
    ];
    let round = spaces.len() * TURN * 5;
    for budget in [round, 3 * round] {
        let (mut in_turns, mut in_order) = (0.0, 0.0);
        for seed in 0..6 {
            let mut model = kernels(&spaces, seed);
            let order = spread(&mut model, budget);
            assert!(taken(&model) <= budget, "{budget} {seed}");
            assert!(order.len() >= 6 && order[..6].iter().copied().eq(0..6), "{order:?}");
            assert!(model.iter().all(|kernel| kernel.search.measured().count() >= TURN), "{budget} {seed}");
            // As good as those that are searched to the end, the heaviest first, until the budget is used up.
            let mut other = kernels(&spaces, seed);
            let mut left = budget;
            for kernel in &mut other {
                loop {
                    let mut jobs = kernel.search.ask();
                    jobs.truncate(left / 5);
                    if jobs.is_empty() {
                        break;
                    }
                    let before = kernel.device.samples;
                    measure(&mut kernel.search, &mut kernel.device, jobs);
                    left = left.saturating_sub(kernel.device.samples - before);
                }
            }
            let best = |kernel: &Kernel| kernel.launches as f64 * kernel.device.best();
            let all: f64 = model.iter().map(best).sum();
            in_turns += model.iter().map(Kernel::seconds).sum::<f64>() / all;
            in_order += other.iter().map(Kernel::seconds).sum::<f64>() / all;
        }
        println!("{budget} samples: {:.3} of the best in turns, {:.3} in order", in_turns / 6.0, in_order / 6.0);
        assert!(in_turns < in_order, "{budget}: {in_turns} {in_order}");
    }
    // With time for all, each ends as it would alone.
    let mut model = kernels(&spaces, 1);
    spread(&mut model, usize::MAX);
    for (kernel, alone) in model.iter().zip(&mut kernels(&spaces, 1)) {
        run(&mut alone.search, &mut alone.device);
        let measured = |kernel: &Kernel| kernel.search.measured().count();
        assert!(kernel.search.ended().is_some() && measured(kernel) == measured(alone));
    }
}

#[test]
fn what_may_be_gained_follows_time_launches_and_how_unsure_the_model_is() {
    let candidates: Vec<Candidate> = (0..64)
        .map(|i| Candidate { config: serde_json::json!({"a": i % 8, "b": i / 8}), seconds: 1.0 + 0.002 * f64::from(i) })
        .collect();
    let told = |wrong: f64| {
        let mut search = Search::new(candidates.clone(), Options::default());
        assert_eq!(search.gain(), 1.0);
        for job in search.ask() {
            // Every other value of a field is worse than the model says.
            let seconds = candidates[job.candidate].seconds * if job.candidate % 2 == 0 { 1.0 + wrong } else { 1.0 };
            search.tell(job.candidate, Measured::Times(vec![seconds; job.samples]));
        }
        search
    };
    let (sure, unsure) = (told(0.0), told(0.5));
    assert!(unsure.gain() > 2.0 * sure.gain() && sure.gain() > 0.0, "{} {}", unsure.gain(), sure.gain());
    for (launches, seconds, first) in [([1, 1], [1.0, 1.0], 1), ([40, 1], [1.0, 1.0], 0)] {
        let mut turns = Turns::default();
        turns.add(launches[0], seconds[0], &sure);
        turns.add(launches[1], seconds[1], &unsure);
        assert_eq!(turns.next().map(|turn| (turn.search, turn.first)), Some((first, false)));
    }
    // At the roofline nothing is left.
    let mut search = Search::new(candidates.clone(), Options { floor: 0.995, ..Options::default() });
    search
        .ask()
        .iter()
        .for_each(|job| search.tell(job.candidate, Measured::Times(vec![candidates[job.candidate].seconds; 17])));
    assert_eq!((search.gain(), search.left(), search.ended()), (0.0, 0, Some(Stop::Floor)));
    let mut turns = Turns::default();
    turns.add(1, 1.0, &search);
    assert_eq!(turns.next(), None);
}

#[test]
fn a_search_ends_where_nothing_can_be_gained() {
    let candidates: Vec<Candidate> =
        (0..100).map(|i| Candidate { config: serde_json::json!({"a": i}), seconds: 1.0 + f64::from(i) }).collect();
    let floor = Options { floor: 0.99, ..Options::default() };
    let mut at_floor = Search::new(candidates.clone(), floor);
    assert_eq!(at_floor.ahead(20), (0..16).collect::<Vec<_>>());
    let first = at_floor.ask();
    assert_eq!(first.iter().map(|job| job.candidate).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    first
        .iter()
        .for_each(|job| at_floor.tell(job.candidate, Measured::Times(vec![candidates[job.candidate].seconds; 3])));
    // Twice as fast as the next is looked at again.
    let again = at_floor.ask();
    assert_eq!(again.iter().map(|job| job.candidate).collect::<Vec<_>>(), [0]);
    at_floor.tell(0, Measured::Times(vec![1.0; again[0].samples]));
    assert!(at_floor.ask().is_empty());
    assert_eq!((at_floor.ended(), at_floor.best()), (Some(Stop::Floor), Some((0, 1.0))));
    assert!(at_floor.ahead(20).is_empty());

    // As many as are allowed, and no more.
    let few = Options { most: 10, share: 1.0, ..Options::default() };
    let mut counted = Search::new(candidates.clone(), few);
    loop {
        let jobs = counted.ask();
        if jobs.is_empty() {
            break;
        }
        let times = |job: &Job| Measured::Times(vec![candidates[job.candidate].seconds; job.samples]);
        jobs.iter().for_each(|job| counted.tell(job.candidate, times(job)));
    }
    assert_eq!((counted.ended(), counted.measured().count()), (Some(Stop::Share), 10));

    // All invalid: everything is tried, and there is no best.
    let mut hopeless = Search::new(candidates[..20].to_vec(), Options::default());
    loop {
        let jobs = hopeless.ask();
        if jobs.is_empty() {
            break;
        }
        jobs.iter().for_each(|job| hopeless.tell(job.candidate, Measured::Invalid("no".into())));
    }
    assert_eq!((hopeless.ended(), hopeless.best()), (Some(Stop::Exhausted), None));
    assert_eq!(hopeless.measured().count(), 20);
    assert!(Search::new(vec![], Options::default()).ask().is_empty());
}

#[test]
fn who_is_too_fast_to_be_believed_is_measured_alone() {
    let config = |i: i32| Candidate { config: serde_json::json!({"a": i}), seconds: 1.0 + f64::from(i) / 100.0 };
    let candidates: Vec<Candidate> = (0..40).map(config).collect();
    for (floor, wrong) in [(0.0, 0.5), (0.99, 0.985)] {
        let mut search = Search::new(candidates.clone(), Options { floor, ..Options::default() });
        let mut alone = false;
        loop {
            let jobs = search.ask();
            if jobs.is_empty() {
                break;
            }
            alone |= jobs.len() == 1 && jobs[0].candidate == 5;
            for job in &jobs {
                // A first look at it that was wrong.
                let first = job.candidate == 5 && search.measured().all(|(at, _)| at != 5);
                let seconds = if first { wrong } else { candidates[job.candidate].seconds };
                search.tell(job.candidate, Measured::Times(vec![seconds; job.samples]));
            }
        }
        assert!(alone, "{floor}");
        assert_eq!(search.best(), Some((0, 1.0)), "{floor}");
    }
}

#[test]
fn a_search_that_is_told_everything_ends_at_once_and_alike() {
    let candidates = product(384, 768, 3072, DType::F16, "rtx4090");
    let mut device = Device::new(&candidates, 3);
    let mut search = Search::new(candidates.clone(), Options::default());
    run(&mut search, &mut device);
    let mut again = Search::new(candidates, Options::default());
    let mut told: Vec<(usize, Measured)> = search.measured().map(|(at, measured)| (at, measured.clone())).collect();
    told.reverse();
    told.into_iter().for_each(|(at, measured)| again.tell(at, measured));
    assert!(again.ask().is_empty());
    assert_eq!((again.best(), again.ended()), (search.best(), search.ended()));
}
