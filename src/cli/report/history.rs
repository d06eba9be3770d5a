//! What the timing cache knows of an engine's kernels: the candidates that were measured, and what the cost model says of them.

use crate::cli::regions::{self, Machine, machine};
use kiln_engine::{Engine, TargetImage, Used};
use kiln_fuse::{Anchor, RegionId};
use kiln_graph::Bindings;
use kiln_kernels::families::Subject;
use kiln_kernels::{Implementation, Way, candidates};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use kiln_tune::{Bucket, Measurements, Outcome, Problem, Quality, Record, Times, quality_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was measured on one GPU.
pub struct History {
    /// It, with the clocks that it had.
    pub gpu: Gpu,
    /// One a kernel and size, those first of which most was measured.
    pub searches: Vec<Search>,
    /// How well the cost model ranks them; of no region where none has several times.
    pub quality: Quality,
    /// Other GPUs with times of these kernels.
    pub others: BTreeSet<String>,
}

/// The candidates of one region at some sizes.
pub struct Search {
    pub name: String,
    pub summary: String,
    pub anchor: Anchor,
    pub sizes: Bindings,
    /// How many ways there are to make it.
    pub candidates: usize,
    /// What is known, in the cost model's order.
    pub tries: Vec<Try>,
    id: RegionId,
    shape: BTreeMap<String, Bucket>,
}

/// A candidate that was measured.
pub struct Try {
    pub family: String,
    config: serde_json::Value,
    /// Its Config for people.
    pub text: String,
    /// Whether the engine has it.
    pub chosen: bool,
    /// Seconds by the cost model.
    pub modelled: Option<f64>,
    /// Median of its seconds, or why it cannot be used.
    pub measured: Result<f64, String>,
}

impl Search {
    /// The fastest.
    pub fn best(&self) -> Option<&Try> {
        let timed = self.tries.iter().filter_map(|one| Some((one, *one.measured.as_ref().ok()?)));
        timed.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(one, _)| one)
    }

    /// How many cannot be used, by reason; the most frequent first.
    pub fn reasons(&self) -> Vec<(&str, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for why in self.tries.iter().filter_map(|one| one.measured.as_ref().err()) {
            *counts.entry(why).or_default() += 1;
        }
        let mut all: Vec<_> = counts.into_iter().collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }
}

impl History {
    /// Median seconds of an implementation at the sizes where it is used.
    pub fn alone(&self, used: &Used, made: &Implementation) -> Option<f64> {
        let shape = buckets(&used.subject.sizes);
        let search = self.searches.iter().find(|search| search.id == used.id && search.shape == shape)?;
        let same = |one: &&Try| one.family == made.family && one.config == made.config;
        search.tries.iter().find(same)?.measured.as_ref().ok().copied()
    }
}

fn buckets(sizes: &Bindings) -> BTreeMap<String, Bucket> {
    sizes.iter().map(|(symbol, size)| (symbol.clone(), Bucket::of(*size))).collect()
}

/// What is known of an image's kernels as this compiler makes them: on the GPU that they were chosen for, else on that of which most is known.
/// `None` where nothing is.
pub fn history(engine: &Engine, image: &TargetImage, all: &[Used], times: &Times) -> Option<History> {
    let arch: Arch = image.target.parse().ok()?;
    let toolchain = image.toolchain.as_ref()?;
    let ids: BTreeMap<String, &Used> = all.iter().map(|used| (used.id.to_string(), used)).collect();
    let counts = |record: &Record| {
        let problem = &record.problem;
        ids.contains_key(&problem.region)
            && (&problem.arch, problem.tf32, &problem.kiln) == (&image.target, engine.settings.tf32, &engine.kiln)
            && (&problem.nvrtc, &problem.options) == (&toolchain.nvrtc, &toolchain.options)
            && record.outcome != Outcome::Ns(vec![])
    };
    let mut machines: BTreeMap<Machine<'_>, BTreeMap<&Problem, Vec<&Record>>> = BTreeMap::new();
    for record in times.records().filter(|record| counts(record)) {
        machines.entry(machine(&record.problem)).or_default().entry(&record.problem).or_default().push(record);
    }
    let chosen_for = regions::chosen_for(image).map(|gpu| gpu.key());
    let rank = |(machine, problems): &(&Machine<'_>, &BTreeMap<&Problem, Vec<&Record>>)| {
        let own = regions::measured_on(**machine, arch).map(|gpu| gpu.key()) == chosen_for;
        (own, problems.values().map(Vec::len).sum::<usize>())
    };
    let (&best, problems) = machines.iter().max_by_key(rank)?;
    let gpu = regions::measured_on(best, arch)?;
    let mut asked: Vec<Asked<'_>> =
        problems.iter().filter_map(|(problem, records)| Asked::new(ids[&problem.region], records, &gpu)).collect();
    asked.sort_by_key(|asked| std::cmp::Reverse(asked.records.len()));
    if asked.is_empty() {
        return None;
    }
    let timed: Vec<Measurements<'_>> = asked.iter().map(Asked::timed).collect();
    let quality = quality_of(&timed, &gpu);
    let others = machines.keys().filter(|machine| **machine != best).map(|machine| machine.0.to_owned()).collect();
    let searches = asked.iter().map(|asked| asked.search(image)).collect();
    Some(History { quality, searches, others, gpu })
}

/// The ways to make a region, and the records of some.
struct Asked<'r> {
    used: &'r Used,
    subject: Arc<Subject>,
    ways: Vec<Way>,
    records: &'r [&'r Record],
}

impl<'r> Asked<'r> {
    /// None where the records' sizes are no sizes of the region.
    fn new(used: &'r Used, records: &'r [&'r Record], gpu: &Gpu) -> Option<Asked<'r>> {
        let sizes = &records.first()?.sizes;
        let known = &used.subject.sizes;
        let in_range = |(symbol, size): (&String, &i64)| {
            let (low, high) = used.subject.symbols.range(symbol);
            (low..=high).contains(size)
        };
        if !sizes.keys().eq(known.keys()) || !sizes.iter().all(in_range) {
            return None;
        }
        let subject = Arc::new(Subject { sizes: sizes.clone(), ..(*used.subject).clone() });
        // A kernel of one's own may be the only one.
        let ways = candidates(&subject, gpu).unwrap_or_default();
        Some(Asked { used, subject, ways, records })
    }

    fn place(&self, record: &Record) -> Option<usize> {
        self.ways.iter().position(|way| way.family == record.family && way.config == record.config)
    }

    fn timed(&self) -> Measurements<'_> {
        let timed = |record: &&Record| {
            let model = self.ways[self.place(record)?].model.as_ref()?;
            Some((model, seconds(&record.outcome).ok()?))
        };
        self.records.iter().filter_map(timed).collect()
    }

    fn search(&self, image: &TargetImage) -> Search {
        let (id, subject) = (self.used.id, &self.subject);
        let runs = image.kernels.get(&id).and_then(|compiled| compiled.at(&subject.sizes));
        let mut tries: Vec<(usize, Try)> = vec![];
        for record in self.records {
            let place = self.place(record);
            let way = place.map(|place| &self.ways[place]);
            let same = |made: &Implementation| made.family == record.family && made.config == record.config;
            let one = Try {
                family: record.family.clone(),
                config: record.config.clone(),
                text: way.map_or_else(|| record.config.to_string(), |way| way.text.clone()),
                chosen: runs.is_some_and(|variant| same(&variant.implementation)),
                modelled: way.and_then(|way| way.estimate).map(|estimate| estimate.seconds),
                measured: seconds(&record.outcome),
            };
            tries.push((place.unwrap_or(usize::MAX), one));
        }
        tries.sort_by_key(|(place, _)| *place);
        Search {
            name: subject.region.name.clone(),
            summary: subject.region.summary.clone(),
            anchor: subject.region.anchor,
            sizes: subject.sizes.clone(),
            candidates: self.ways.len().max(tries.len()),
            tries: tries.into_iter().map(|(_, one)| one).collect(),
            id,
            shape: buckets(&subject.sizes),
        }
    }
}

fn seconds(outcome: &Outcome) -> Result<f64, String> {
    match outcome {
        Outcome::Invalid(why) => Err(why.clone()),
        timed => {
            let ns = timed.median().filter(|ns| *ns > 0);
            ns.map(|ns| ns as f64 * 1e-9).ok_or_else(|| "it is said to take no time".into())
        }
    }
}
