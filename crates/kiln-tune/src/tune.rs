//! A whole engine: every distinct region that can be made in several ways gets the fastest that was found.

use crate::cache::{Cache, rounded};
use crate::report::{Row, Tuned, TunedRegion};
use crate::turns::{TURN, Turns};
use crate::{Error, Job, Measure, Measured, Options, Result, Search, Stop, Task, Timings};
use kiln_engine::{Engine, Variant};
use kiln_target::Gpu;
use std::sync::Arc;
use std::time::Duration;

/// How to tune.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long, all together. What was found by then is taken.
    pub budget: Duration,
    /// The timing cache: asked first, and told everything.
    pub timings: Option<Timings>,
    /// How each region is searched. Its floor is the region's.
    pub search: Options,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { budget: Duration::from_secs(60), timings: None, search: Options::default() }
    }
}

/// News while tuning.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    /// The region whose turn it is.
    pub region: &'a str,
    /// Regions whose search has ended, and how many there are.
    pub regions: (usize, usize),
    /// Candidates of it that were measured, and how many there are.
    pub measured: (usize, usize),
    /// Its best time so far, in seconds.
    pub best: Option<f64>,
    /// How long it will take until everything is done, at the pace so far; what is left of the budget at most.
    pub left: Duration,
}

/// Candidates that are compiled before the search asks for them.
const AHEAD: usize = 16;

/// Gives the regions of an engine's code for a GPU the fastest kernels that are found within the budget.
///
/// # Errors
/// The engine has no code for the GPU or another compiler's, the timing cache cannot be read or written, the device fails. The engine is then as it was.
pub fn tune(
    engine: &mut Engine,
    gpu: &Gpu,
    compiler: &str,
    measure: &mut dyn Measure,
    tuning: &Tuning,
    hear: &mut dyn FnMut(News<'_>),
) -> Result<Tuned> {
    let target = gpu.arch.name();
    let image = engine.target(target)?;
    let toolchain = image.toolchain.clone().unwrap_or_default();
    if toolchain.nvrtc != compiler {
        let (expected, found) = (toolchain.nvrtc, compiler.to_owned());
        return Err(Error::OtherCompiler { target: target.to_owned(), expected, found });
    }
    let mut tasks = vec![];
    for used in engine.subjects(target)? {
        let Some(present) = image.kernels.get(&used.id) else { continue };
        tasks.push(Arc::new(Task::new(&used, present, (target, &engine.settings, &toolchain), gpu)?));
    }
    let fixed = tasks.iter().filter(|task| task.ways.len() < 2).count();
    tasks.retain(|task| task.ways.len() > 1);
    let mut cache = Cache::open(tuning.timings.as_ref())?;
    let mut regions: Vec<Region> = tasks.into_iter().map(|task| Region::new(task, tuning.search, &cache)).collect();
    regions.sort_by(|a, b| b.weight().total_cmp(&a.weight()).then_with(|| a.task.id.cmp(&b.task.id)));
    // All first turns, then what follows them.
    for most in [TURN, AHEAD / 2] {
        for Region { task, search, .. } in &mut regions {
            let mut wanted = search.ahead(most);
            wanted.extend(search.best().filter(|_| search.left() == 0).map(|(best, _)| best));
            measure.ahead(task, &wanted);
        }
    }
    let mut spread = Spread { turns: Turns::default(), budget: tuning.budget, start: measure.elapsed(), samples: 0 };
    regions.iter().for_each(|region| spread.turns.add(region.task.uses, region.modelled, &region.search));
    loop {
        spread.search(&mut regions, &mut cache, measure, hear)?;
        let mut again = false;
        for (at, region) in regions.iter_mut().enumerate().filter(|(_, region)| region.found.is_none()) {
            match region.settle(&mut cache, measure)? {
                true => measure.done(&region.task),
                false => {
                    spread.turns.again(at, &region.search);
                    again = true;
                }
            }
        }
        if !again {
            break;
        }
    }
    // Nothing fails from here on, but for defects.
    let mut reports = vec![];
    for region in regions {
        reports.push(region.report());
        let (id, Some(variant)) = (region.task.id, region.found.flatten()) else { continue };
        let image = engine.targets.iter_mut().find(|image| image.target == target);
        let Some(compiled) = image.and_then(|image| image.kernels.get_mut(&id)) else { continue };
        let rest = compiled.variants.pop().filter(|_| !variant.guard.is_always());
        compiled.variants = [Some(variant), rest].into_iter().flatten().collect();
    }
    engine.pack_weights()?;
    Ok(Tuned {
        target: target.to_owned(),
        gpu: gpu.name.clone(),
        seconds: measure.elapsed().as_secs_f64(),
        budget_seconds: tuning.budget.as_secs_f64(),
        fixed,
        warnings: cache.warnings(),
        regions: reports,
    })
}

/// How the budget is spent.
struct Spread {
    turns: Turns,
    budget: Duration,
    /// When measuring began, and how many samples were taken since.
    start: Duration,
    samples: usize,
}

impl Spread {
    /// Measures until every search has ended or the time is over.
    fn search(
        &mut self,
        regions: &mut [Region],
        cache: &mut Cache,
        measure: &mut dyn Measure,
        hear: &mut dyn FnMut(News<'_>),
    ) -> Result<()> {
        while let Some(turn) = self.turns.next() {
            let now = measure.elapsed();
            hear(self.news(regions, turn.search, now));
            let left = self.budget.saturating_sub(now);
            if left.is_zero() {
                break;
            }
            let until = now + left / turn.sharers as u32;
            let region = &mut regions[turn.search];
            match region.step(turn.first, until, cache, measure)? {
                0 if measure.elapsed() < until || region.failure.is_some() => self.turns.over(turn.search),
                samples => {
                    self.samples += samples;
                    self.turns.note(turn.search, &region.search);
                }
            }
        }
        Ok(())
    }

    fn news<'r>(&self, regions: &'r [Region], at: usize, now: Duration) -> News<'r> {
        let Region { task, search, .. } = &regions[at];
        let to_come: usize = regions.iter().map(|region| region.search.left()).sum();
        let pace = now.saturating_sub(self.start).as_secs_f64() / self.samples.max(1) as f64;
        let left = self.budget.saturating_sub(now);
        // Nothing is known of the pace before the first sample.
        let expected = if self.samples > 0 { pace * to_come as f64 } else { f64::INFINITY };
        News {
            region: &task.subject.region.name,
            regions: (regions.iter().filter(|region| region.search.left() == 0).count(), regions.len()),
            measured: (search.measured().count(), task.ways.len()),
            best: search.best().map(|(_, seconds)| seconds),
            left: Duration::try_from_secs_f64(expected).map_or(left, |expected| expected.min(left)),
        }
    }
}

/// One region while it is tuned.
struct Region {
    task: Arc<Task>,
    /// Seconds of what the engine has, by the cost model.
    modelled: f64,
    search: Search,
    /// Whether what is known of it turned out to be of other code.
    stale: bool,
    /// What went wrong with it as a whole.
    failure: Option<String>,
    /// Once that is settled: what it gets in the place of what it has, if anything.
    found: Option<Option<Variant>>,
}

impl Region {
    fn new(task: Arc<Task>, options: Options, cache: &Cache) -> Region {
        let candidates = task.candidates();
        let modelled = candidates.get(task.present).map_or(0.0, |present| present.seconds);
        let mut search = Search::new(candidates, Options { floor: task.floor, ..options });
        cache.tell(&task, &mut search);
        Region { task, modelled, search, stale: false, failure: None, found: None }
    }

    /// Its share of a run, by the cost model.
    fn weight(&self) -> f64 {
        self.task.uses as f64 * self.modelled
    }

    /// One turn; how many samples were taken.
    fn step(&mut self, first: bool, until: Duration, cache: &mut Cache, measure: &mut dyn Measure) -> Result<usize> {
        let mut jobs: Vec<Job> = self.search.ask();
        match first {
            true => jobs.truncate(TURN.saturating_sub(self.search.measured().count()).max(1)),
            // Compiled while these are measured.
            false => measure.ahead(&self.task, &self.search.ahead(AHEAD)),
        }
        if jobs.is_empty() {
            return Ok(0);
        }
        let reports = match measure.measure(&self.task, &jobs, until) {
            Ok(reports) => reports,
            // What it has now stays; the other regions are none the worse.
            Err(e) => {
                self.failure = Some(e.to_string());
                return Ok(0);
            }
        };
        let (mut samples, mut candidates) = (0, vec![]);
        for report in reports {
            samples += report.measured.samples().max(1);
            // As the cache keeps them, so that who reads it later decides alike.
            self.search.tell(report.candidate, rounded(report.measured));
            if report.lasting {
                candidates.push((report.candidate, report.code));
            }
        }
        cache.keep(&self.task, &self.search, &candidates)?;
        Ok(samples)
    }

    /// Takes the code of the fastest. False: what was known is of other code, and the search begins anew.
    fn settle(&mut self, cache: &mut Cache, measure: &mut dyn Measure) -> Result<bool> {
        let (best, made) = loop {
            let Some((best, _)) = self.search.best() else {
                self.found = Some(None);
                return Ok(true);
            };
            match measure.code(&self.task, best) {
                Ok(made) => break (best, made),
                // It was usable when it was measured.
                Err(why) => self.search.tell(best, Measured::Invalid(why)),
            }
        };
        let known = cache.code(&self.task, best);
        if known.is_some_and(|known| known != made.code) && !self.stale {
            self.stale = true;
            cache.forget(&self.task)?;
            self.search = self.search.anew();
            return Ok(false);
        }
        let variant = || {
            let (guard, implementation) = (made.guard.clone(), made.implementation.clone());
            Variant { guard, implementation, images: made.images.clone() }
        };
        self.found = Some((best != self.task.present).then(variant));
        Ok(true)
    }

    fn report(&self) -> TunedRegion {
        let (task, candidates) = (&self.task, self.task.candidates());
        let measured = |at: usize| self.search.measured().find(|(other, _)| *other == at).map(|(_, measured)| measured);
        let row = |(at, candidate): (usize, &crate::Candidate)| Row {
            family: task.ways[at].family.to_string(),
            config: task.ways[at].config.clone(),
            text: task.ways[at].text.clone(),
            modelled_us: candidate.seconds * 1e6,
            measured_us: measured(at).and_then(Measured::seconds).map(|seconds| seconds * 1e6),
            samples: measured(at).map_or(0, Measured::samples),
            invalid: match measured(at) {
                Some(Measured::Invalid(why)) => Some(why.clone()),
                _ => None,
            },
        };
        TunedRegion {
            name: task.subject.region.name.clone(),
            identity: task.id,
            summary: task.subject.region.summary.clone(),
            uses: task.uses,
            sizes: task.subject.sizes.clone(),
            floor_us: task.floor * 1e6,
            present: task.present,
            chosen: self.search.best().map_or(task.present, |(best, _)| best),
            ended: self.search.ended().unwrap_or(Stop::Budget),
            failure: self.failure.clone(),
            candidates: candidates.iter().enumerate().map(row).collect(),
        }
    }
}
