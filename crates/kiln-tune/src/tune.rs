//! A whole engine: every distinct region that can be made in several ways gets the fastest that was found; of several plans of a model, the one is taken whose regions are the fastest.

use crate::cache::{Cache, rounded};
use crate::fit::{Measurements, fit};
use crate::plans::{Uses, kept, lost};
use crate::points::{at_most, cover, points};
use crate::report::{Row, Tuned, TunedRegion};
use crate::shipped::shipped;
use crate::task::TaskKey;
use crate::turns::{TURN, Turns};
use crate::{Error, Job, Made, Measure, Measured, Options, Result, Search, Stop, Task, Times, Timings};
use kiln_engine::{Compiled, Engine, Variant};
use kiln_fuse::RegionId;
use kiln_graph::{Bindings, Dim};
use kiln_kernels::{Condition, Guard};
use kiln_target::Gpu;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How to tune.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long, all together. What was found by then is taken.
    pub budget: Duration,
    /// The timing cache: asked first, and told everything.
    pub timings: Option<Timings>,
    /// Whether what Kiln's own measurements say of a GPU ([`shipped`](crate::shipped)) counts until the timing cache knows better.
    pub shipped: bool,
    /// How each region is searched. Its floor is the region's.
    pub search: Options,
    /// Whether the cost model's coefficients are then fitted to all that is known of the regions.
    pub fit: bool,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { budget: Duration::from_secs(60), timings: None, shipped: true, search: Options::default(), fit: false }
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
    tune_plans(std::slice::from_mut(engine), gpu, compiler, measure, tuning, hear)
}

/// [`tune`] for engines of one model, which differ in their plans for the GPU, the one that the model ranks first before the others: what plans have in common is measured once.
/// [`Tuned::plan`] is the engine to keep.
///
/// # Errors
/// As for `tune`.
pub fn tune_plans(
    engines: &mut [Engine],
    gpu: &Gpu,
    compiler: &str,
    measure: &mut dyn Measure,
    tuning: &Tuning,
    hear: &mut dyn FnMut(News<'_>),
) -> Result<Tuned> {
    let target = gpu.arch.name();
    let Wanted { tasks, typical, uses, fixed } = wanted(engines, gpu, compiler)?;
    let mut cache = Cache::open(tuning.timings.as_ref(), if tuning.shipped { shipped(gpu) } else { Times::default() })?;
    let mut regions: Vec<Region> = tasks.into_iter().map(|task| Region::new(task, tuning.search, &cache)).collect();
    regions.sort_by(|a, b| b.weight().total_cmp(&a.weight()).then_with(|| a.task.key().cmp(&b.task.key())));
    // All first turns, then what follows them.
    for most in [TURN, AHEAD / 2] {
        for Region { task, search, .. } in &mut regions {
            let mut wanted = search.ahead(most);
            wanted.extend(search.best().filter(|_| search.left() == 0).map(|(best, _)| best));
            measure.ahead(task, &wanted);
        }
    }
    let (turns, start) = (Turns::default(), measure.elapsed());
    let mut spread = Spread { turns, budget: tuning.budget, start, samples: 0, plans: uses, typical };
    regions.iter().for_each(|region| spread.turns.add(region.task.uses, region.modelled, &region.search));
    // The regions of one identity, from the smallest sizes to the largest.
    let mut groups: BTreeMap<RegionId, Vec<usize>> = BTreeMap::new();
    regions.iter().enumerate().for_each(|(at, region)| groups.entry(region.task.id).or_default().push(at));
    for group in groups.values_mut() {
        group.sort_by(|a, b| regions[*a].sizes().cmp(regions[*b].sizes()));
    }
    loop {
        spread.search(&mut regions, &mut cache, measure, hear)?;
        if spread.beside(&mut regions, &groups, &mut cache, measure)? {
            continue;
        }
        groups.values().for_each(|group| choose(&mut regions, group));
        let mut again = false;
        for (at, region) in regions.iter_mut().enumerate() {
            if !region.settle(&mut cache, measure)? {
                spread.turns.again(at, &region.search);
                again = true;
            }
        }
        if !again {
            break;
        }
    }
    regions.iter().for_each(|region| measure.done(&region.task));
    // Nothing fails from here on, but for defects.
    for engine in engines.iter_mut() {
        let label = engine.target_of(gpu)?.label();
        for (id, group) in &groups {
            let image = engine.targets.iter_mut().find(|image| image.label() == label);
            let Some(compiled) = image.and_then(|image| image.kernels.get_mut(id)) else { continue };
            let group: Vec<&Region> = group.iter().map(|at| &regions[*at]).collect();
            table(&group, compiled);
        }
        engine.pack_weights()?;
    }
    let plans = spread.plans.timed(&spread.times(&regions));
    let plan = kept(&plans);
    let own = |region: &&Region| spread.plans.of(region.task.id, plan) > 0;
    let report = |region: &Region| {
        let typical = spread.typical.contains(&region.task.key());
        TunedRegion { uses: spread.plans.of(region.task.id, plan), ..region.report(typical) }
    };
    let fitted = tuning.fit.then(|| fit(&regions.iter().map(Region::timed).collect::<Vec<_>>(), gpu));
    Ok(Tuned {
        target: target.to_owned(),
        gpu: gpu.name.clone(),
        seconds: measure.elapsed().as_secs_f64(),
        budget_seconds: tuning.budget.as_secs_f64(),
        fixed,
        warnings: cache.warnings(),
        fit: fitted,
        plan,
        regions: regions.iter().filter(own).map(report).collect(),
        plans,
    })
}

/// What there is to tune.
struct Wanted {
    tasks: Vec<Arc<Task>>,
    /// The tasks at the sizes that the engines' kernels were chosen for.
    typical: BTreeSet<TaskKey>,
    uses: Uses,
    /// Distinct regions that need not be measured: they can be made in one way, and all plans have them alike.
    fixed: usize,
}

fn wanted(engines: &[Engine], gpu: &Gpu, compiler: &str) -> Result<Wanted> {
    let target = gpu.arch.name();
    let (mut tasks, mut typical, mut uses) = (Vec::<Task>::new(), BTreeSet::new(), Uses::new(engines.len()));
    for (plan, engine) in engines.iter().enumerate() {
        let image = engine.target_of(gpu)?;
        let toolchain = image.toolchain.clone().unwrap_or_default();
        if toolchain.nvrtc != compiler {
            let (expected, found) = (toolchain.nvrtc, compiler.to_owned());
            return Err(Error::OtherCompiler { target: target.to_owned(), expected, found });
        }
        for (point, sizes) in points(engine).into_iter().enumerate() {
            for used in engine.subjects_at(&image.label(), &sizes)? {
                let Some(present) = image.kernels.get(&used.id) else { continue };
                uses.note(plan, used.id, used.uses);
                let own = &used.subject.sizes;
                // Larger in everything than some, smaller than the others: a table can tell them apart.
                let apart = |other: &Bindings| at_most(own, other) != at_most(other, own);
                if tasks.iter().filter(|task| task.id == used.id).all(|task| apart(&task.subject.sizes)) {
                    let task = Task::new(&used, present, (target, &engine.settings, &toolchain), gpu)?;
                    if point == 0 {
                        typical.insert(task.key());
                    }
                    tasks.push(task);
                }
            }
        }
    }
    let settled = |task: &Task| task.ways.len() < 2 && !uses.differs(task.id);
    let fixed: BTreeSet<RegionId> = tasks.iter().filter(|task| settled(task)).map(|task| task.id).collect();
    tasks.retain(|task| !fixed.contains(&task.id));
    // Who may be in any plan is worth what it takes there.
    tasks.iter_mut().for_each(|task| task.uses = uses.most(task.id));
    Ok(Wanted { tasks: tasks.into_iter().map(Arc::new).collect(), typical, uses, fixed: fixed.len() })
}

/// How the budget is spent.
struct Spread {
    turns: Turns,
    plans: Uses,
    typical: BTreeSet<TaskKey>,
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
        let mut opened = false;
        while let Some(turn) = self.turns.next() {
            if !turn.first && !opened {
                opened = true;
                // Everything had its first turn: what only plans have that are far behind gets no more.
                let behind = lost(&self.plans.timed(&self.times(regions)));
                let only = |region: &Region| self.plans.only(region.task.id, &behind);
                let over: Vec<usize> = (0..regions.len()).filter(|at| only(&regions[*at])).collect();
                over.iter().for_each(|at| self.turns.over(*at));
                if !over.is_empty() {
                    continue;
                }
            }
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

    /// Measures at each of several sizes what won at the others, as long as there is time; whether anything was measured.
    fn beside(
        &mut self,
        regions: &mut [Region],
        groups: &BTreeMap<RegionId, Vec<usize>>,
        cache: &mut Cache,
        measure: &mut dyn Measure,
    ) -> Result<bool> {
        let mut measured = false;
        for group in groups.values().filter(|group| group.len() > 1) {
            let won = |at: &usize| regions[*at].search.best().map(|(best, _)| regions[*at].way(best));
            let winners: Vec<WayKey> = group.iter().filter_map(won).collect();
            for &at in group {
                let region = &mut regions[at];
                let place = |key: &WayKey| (0..region.task.ways.len()).find(|way| region.way(*way) == *key);
                let known = |way: &usize| region.search.measured().any(|(other, _)| other == *way);
                let jobs: Vec<Job> =
                    winners.iter().filter_map(place).filter(|way| !known(way)).map(Job::look).collect();
                if jobs.is_empty() || region.failure.is_some() || measure.elapsed() >= self.budget {
                    continue;
                }
                let samples = region.measure(&jobs, self.budget, cache, measure)?;
                self.samples += samples;
                measured |= samples > 0;
                self.turns.note(at, &region.search);
            }
        }
        Ok(measured)
    }

    /// The best time of each region so far, at the sizes that its kernels were chosen for.
    fn times(&self, regions: &[Region]) -> BTreeMap<RegionId, f64> {
        let typical = regions.iter().filter(|region| self.typical.contains(&region.task.key()));
        typical.filter_map(|region| Some((region.task.id, region.search.best()?.1))).collect()
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
    /// Which way it gets, if anything is known of any, and its code.
    chosen: Option<usize>,
    made: Option<Arc<Made>>,
}

/// A way to make a region, whatever its place at some sizes: family and Config.
type WayKey = (String, String);

impl Region {
    fn new(task: Arc<Task>, options: Options, cache: &Cache) -> Region {
        let candidates = task.candidates();
        let modelled = candidates.get(task.present).map_or(0.0, |present| present.seconds);
        let mut search = Search::new(candidates, Options { floor: task.floor, ..options });
        cache.tell(&task, &mut search);
        Region { task, modelled, search, stale: false, failure: None, chosen: None, made: None }
    }

    /// What was measured beside what the model says.
    fn timed(&self) -> Measurements<'_> {
        let timed =
            |(at, measured): (usize, &Measured)| Some((self.task.ways[at].model.as_ref()?, measured.seconds()?));
        self.search.measured().filter_map(timed).collect()
    }

    fn sizes(&self) -> &Bindings {
        &self.task.subject.sizes
    }

    fn way(&self, at: usize) -> WayKey {
        let way = &self.task.ways[at];
        (way.family.to_string(), way.config.to_string())
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
        self.measure(&jobs, until, cache, measure)
    }

    /// Measures some candidates; how many samples were taken.
    fn measure(
        &mut self,
        jobs: &[Job],
        until: Duration,
        cache: &mut Cache,
        measure: &mut dyn Measure,
    ) -> Result<usize> {
        if jobs.is_empty() {
            return Ok(0);
        }
        let reports = match measure.measure(&self.task, jobs, until) {
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

    /// Gets the code of what was chosen. False: it cannot be used after all, or what was known is of other code, and the search goes on.
    fn settle(&mut self, cache: &mut Cache, measure: &mut dyn Measure) -> Result<bool> {
        self.made = None;
        let Some(chosen) = self.chosen else { return Ok(true) };
        let made = match measure.code(&self.task, chosen) {
            Ok(made) => made,
            // It was usable when it was measured.
            Err(why) => {
                self.search.tell(chosen, Measured::Invalid(why));
                return Ok(false);
            }
        };
        let known = cache.code(&self.task, chosen);
        if known.is_some_and(|known| known != made.code) && !self.stale {
            self.stale = true;
            cache.forget(&self.task)?;
            self.search = self.search.anew();
            return Ok(false);
        }
        self.made = Some(made);
        Ok(true)
    }

    fn report(&self, typical: bool) -> TunedRegion {
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
            typical,
            floor_us: task.floor * 1e6,
            present: task.present,
            chosen: self.chosen.unwrap_or(task.present),
            ended: self.search.ended().unwrap_or(Stop::Budget),
            failure: self.failure.clone(),
            candidates: candidates.iter().enumerate().map(row).collect(),
        }
    }
}

/// Chooses the ways of a region at all of its sizes: the fastest, or where there are several sizes the fewest that are near to it everywhere.
fn choose(regions: &mut [Region], group: &[usize]) {
    if let [at] = group {
        regions[*at].chosen = regions[*at].search.best().map(|(best, _)| best);
        return;
    }
    let times = |at: &usize| {
        let measured = regions[*at].search.measured();
        measured.filter_map(|(way, measured)| Some((regions[*at].way(way), measured.seconds()?))).collect()
    };
    let points: Vec<BTreeMap<WayKey, f64>> = group.iter().map(times).collect();
    for (at, way) in group.iter().zip(cover(&points)) {
        let region = &regions[*at];
        let place = way.and_then(|way| (0..region.task.ways.len()).find(|at| region.way(*at) == way));
        regions[*at].chosen = place;
    }
}

/// Gives a region the kernels that were chosen for its sizes, from the smallest to the largest: each up to the sizes that it was chosen for, the last beyond
/// them too.
fn table(group: &[&Region], compiled: &mut Compiled) {
    let mut runs: Vec<(&Region, &Made)> = vec![];
    for region in group {
        let Some(made) = &region.made else { continue };
        match runs.last_mut() {
            Some(last) if last.1.implementation == made.implementation => *last = (*region, made.as_ref()),
            _ => runs.push((*region, made.as_ref())),
        }
    }
    let Some(((_, last), before)) = runs.split_last() else { return };
    let unchanged = group.iter().all(|region| region.chosen.is_none_or(|chosen| chosen == region.task.present));
    if before.is_empty() && unchanged && compiled.variants.len() <= 2 {
        return;
    }
    let rest = compiled.variants.pop().filter(|_| !last.guard.is_always());
    let variant = |made: &Made, up_to: Option<&Bindings>| {
        let bounds = up_to.into_iter().flatten().map(|(symbol, size)| Condition::AtMost(Dim::sym(symbol), *size));
        let mut guard = Guard(bounds.collect());
        let own = made.guard.0.iter().filter(|condition| !guard.0.contains(condition)).cloned().collect::<Vec<_>>();
        guard.0.extend(own);
        Variant { guard, implementation: made.implementation.clone(), images: made.images.clone() }
    };
    let mut variants: Vec<Variant> = before.iter().map(|(region, made)| variant(made, Some(region.sizes()))).collect();
    variants.push(variant(last, None));
    variants.extend(rest);
    compiled.variants = variants;
}
