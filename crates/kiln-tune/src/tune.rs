//! A whole engine: every distinct region that can be made in several ways gets the fastest that was found.

use crate::report::{Row, Tuned, TunedRegion};
use crate::{Error, Job, Measure, Measured, Options, Outcome, Record, Result, Search, Stop, Task, Times, append};
use kiln_engine::{Engine, Variant};
use kiln_target::Gpu;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How to tune.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long, all together. What was found by then is taken.
    pub budget: Duration,
    /// The timing cache: asked first, and told everything.
    pub timings: Option<PathBuf>,
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
    /// The region.
    pub region: &'a str,
    /// Regions that are done, and how many there are.
    pub regions: (usize, usize),
    /// Candidates of it that were measured, and how many there are.
    pub measured: (usize, usize),
    /// Its best time so far, in seconds.
    pub best: Option<f64>,
    /// How long it may take from now on until everything is done, at most.
    pub left: Duration,
}

/// Least weight of a region in the division of the budget, over an equal share.
const LEAST_WEIGHT: f64 = 0.25;

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
    let image = engine.target_of(gpu)?;
    let label = image.label();
    let toolchain = image.toolchain.clone().unwrap_or_default();
    if toolchain.nvrtc != compiler {
        let (expected, found) = (toolchain.nvrtc, compiler.to_owned());
        return Err(Error::OtherCompiler { target: target.to_owned(), expected, found });
    }
    let mut tasks = vec![];
    for used in engine.subjects(&label)? {
        let Some(present) = image.kernels.get(&used.id) else { continue };
        let task = Task::new(&used, present, (target, &engine.settings, &toolchain), gpu)?;
        let candidates = task.candidates();
        let weight = used.uses as f64 * candidates.get(task.present).map_or(0.0, |present| present.seconds);
        tasks.push((weight, Arc::new(task)));
    }
    let fixed = tasks.iter().filter(|(_, task)| task.ways.len() < 2).count();
    tasks.retain(|(_, task)| task.ways.len() > 1);
    tasks.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.id.cmp(&y.id)));
    let all: f64 = tasks.iter().map(|(weight, _)| weight).sum();
    let least = LEAST_WEIGHT * all / tasks.len().max(1) as f64;
    tasks.iter_mut().for_each(|(weight, _)| *weight = weight.max(least));

    let mut cache = Cache::open(tuning.timings.clone())?;
    let mut run = vec![];
    for (weight, task) in tasks {
        let options = Options { floor: task.floor, ..tuning.search };
        let mut search = Search::new(task.candidates(), options);
        cache.tell(&task, &mut search);
        let mut wanted: Vec<usize> = search.ask().into_iter().map(|job| job.candidate).collect();
        if wanted.is_empty() {
            wanted.extend(search.best().map(|(best, _)| best));
        }
        measure.ahead(&task, &wanted);
        run.push((weight, task, search));
    }
    let (mut regions, count) = (vec![], run.len());
    let mut left: f64 = run.iter().map(|(weight, ..)| weight).sum();
    for (done, (weight, task, mut search)) in run.into_iter().enumerate() {
        let now = measure.elapsed();
        let until = now + tuning.budget.saturating_sub(now).mul_f64((weight / left).clamp(0.0, 1.0));
        left -= weight;
        let mut region = Region { task: &task, search: &mut search, cache: &mut cache, measure: &mut *measure };
        let told = &mut |search: &Search, now: Duration| {
            hear(News {
                region: &task.subject.region.name,
                regions: (done, count),
                measured: (search.measured().count(), task.ways.len()),
                best: search.best().map(|(_, seconds)| seconds),
                left: tuning.budget.saturating_sub(now),
            });
        };
        regions.push(region.tuned(until, told)?);
        measure.done(&task);
    }
    // Nothing fails from here on, but for defects.
    let mut reports = vec![];
    for (report, winner) in regions {
        reports.push(report);
        let Some((id, variant)) = winner else { continue };
        let image = engine.targets.iter_mut().find(|image| image.label() == label);
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

/// One region while it is tuned.
struct Region<'r> {
    task: &'r Arc<Task>,
    search: &'r mut Search,
    cache: &'r mut Cache,
    measure: &'r mut dyn Measure,
}

type Winner = Option<(kiln_fuse::RegionId, Variant)>;

impl Region<'_> {
    fn tuned(&mut self, until: Duration, told: &mut dyn FnMut(&Search, Duration)) -> Result<(TunedRegion, Winner)> {
        let mut stale = false;
        let (winner, failure) = loop {
            let failure = self.searched(until, told)?;
            let Some((best, _)) = self.search.best() else { break (None, failure) };
            let made = match self.measure.code(self.task, best) {
                Ok(made) => made,
                Err(why) => {
                    // It was usable when it was measured.
                    self.search.tell(best, Measured::Invalid(why));
                    continue;
                }
            };
            let known = self.cache.code(self.task, best);
            if known.is_some_and(|known| known != made.code) && !stale {
                stale = true;
                self.cache.forget(self.task)?;
                *self.search = self.search.anew();
                continue;
            }
            if best == self.task.present {
                break (None, failure);
            }
            let (guard, implementation) = (made.guard.clone(), made.implementation.clone());
            break (Some((self.task.id, Variant { guard, implementation, images: made.images.clone() })), failure);
        };
        Ok((self.report(failure), winner))
    }

    /// Measures until the search ends or the time is over; what went wrong with the region as a whole.
    fn searched(&mut self, until: Duration, told: &mut dyn FnMut(&Search, Duration)) -> Result<Option<String>> {
        loop {
            let now = self.measure.elapsed();
            told(self.search, now);
            let jobs: Vec<Job> = self.search.ask();
            if jobs.is_empty() || now >= until {
                return Ok(None);
            }
            // Compiled while these are measured.
            self.measure.ahead(self.task, &self.search.ahead(AHEAD));
            let reports = match self.measure.measure(self.task, &jobs, until) {
                Ok(reports) => reports,
                // What it has now stays; the other regions are none the worse.
                Err(e) => return Ok(Some(e.to_string())),
            };
            if reports.is_empty() {
                return Ok(None);
            }
            let mut candidates = vec![];
            for report in reports {
                // As the cache keeps them, so that who reads it later decides alike.
                self.search.tell(report.candidate, rounded(report.measured));
                if report.lasting {
                    candidates.push((report.candidate, report.code));
                }
            }
            self.cache.keep(self.task, self.search, &candidates)?;
        }
    }

    fn report(&self, failure: Option<String>) -> TunedRegion {
        let (task, candidates) = (self.task, self.task.candidates());
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
            failure,
            candidates: candidates.iter().enumerate().map(row).collect(),
        }
    }
}

fn rounded(measured: Measured) -> Measured {
    match measured {
        Measured::Times(times) => Measured::Times(times.into_iter().map(|t| nanoseconds(t) as f64 * 1e-9).collect()),
        invalid => invalid,
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round().max(1.0) as u64
}

/// The timing cache as a file and in memory.
struct Cache {
    path: Option<PathBuf>,
    times: Times,
}

impl Cache {
    fn open(path: Option<PathBuf>) -> Result<Cache> {
        let times = match &path {
            Some(path) => {
                let failed = |source| Error::Timings { action: "read", path: path.clone(), source };
                Times::load(path).map_err(failed)?
            }
            None => Times::default(),
        };
        Ok(Cache { path, times })
    }

    fn warnings(&self) -> Vec<String> {
        match (self.times.damaged, &self.path) {
            (0, _) | (_, None) => vec![],
            (lines, Some(path)) => vec![format!("{}: {lines} lines are damaged and were not used", path.display())],
        }
    }

    fn record<'c>(&'c self, task: &Task, at: usize) -> Option<&'c Record> {
        let way = task.ways.get(at)?;
        self.times.of(&task.problem).find(|record| record.family == way.family && record.config == way.config)
    }

    /// What a candidate's code was when it was measured.
    fn code(&self, task: &Task, at: usize) -> Option<&str> {
        self.record(task, at).map(|record| record.code.as_str())
    }

    /// Tells a search what is known.
    fn tell(&self, task: &Task, search: &mut Search) {
        for at in 0..task.ways.len() {
            match self.record(task, at).map(|record| &record.outcome) {
                Some(Outcome::Ns(times)) if !times.is_empty() => {
                    search.tell(at, Measured::Times(times.iter().map(|ns| *ns as f64 * 1e-9).collect()));
                }
                Some(Outcome::Invalid(why)) => search.tell(at, Measured::Invalid(why.clone())),
                _ => {}
            }
        }
    }

    /// Keeps all that a search knows of some candidates, each with its code.
    fn keep(&mut self, task: &Task, search: &Search, candidates: &[(usize, String)]) -> Result<()> {
        let mut records = vec![];
        for (at, measured) in search.measured() {
            let Some((_, code)) = candidates.iter().find(|(other, _)| *other == at) else { continue };
            let way = &task.ways[at];
            let outcome = match measured {
                Measured::Times(times) => Outcome::Ns(times.iter().map(|t| nanoseconds(*t)).collect()),
                Measured::Invalid(why) => Outcome::Invalid(why.clone()),
            };
            let (problem, family) = (task.problem.clone(), way.family.to_string());
            records.push(Record { problem, family, config: way.config.clone(), code: code.clone(), outcome });
        }
        self.add(records)
    }

    fn add(&mut self, records: Vec<Record>) -> Result<()> {
        if let Some(path) = &self.path {
            let failed = |source| Error::Timings { action: "write", path: path.clone(), source };
            append(path, &records).map_err(failed)?;
        }
        records.into_iter().for_each(|record| self.times.add(record));
        Ok(())
    }

    /// What is known of a task's problem is of other code: nothing of it counts any more.
    fn forget(&mut self, task: &Task) -> Result<()> {
        let nothing = |record: &Record| Record { outcome: Outcome::Ns(vec![]), ..record.clone() };
        let records: Vec<Record> = self.times.of(&task.problem).map(nothing).collect();
        self.add(records)
    }
}
