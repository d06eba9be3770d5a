//! The coefficients of the cost model, fitted to what was measured on a GPU.
//!
//! A region's loss is that of its times, as squared logarithms of modelled over measured, of which those near the fastest count most, and that of
//! its choice: how much slower than the fastest is what the model ranks first, softened so that it has a slope. Coefficients that nothing was measured
//! for stay where they are. The search is Hooke and Jeeves' ("Direct Search", 1961) over logarithms: the model has maxima, so no derivatives.

use kiln_kernels::families::Model;
use kiln_target::{Costs, Gpu};
use serde::Serialize;
use serde_json::{Map, Value};

/// One region: its candidates, each with what the model says and what was measured, in seconds.
pub type Measurements<'m> = Vec<(&'m Model, f64)>;

/// How good a model is over some regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Regions.
    pub regions: usize,
    /// Candidates of all of them.
    pub candidates: usize,
    /// Factor by which modelled times are off: the exponential of the root of the mean square of logarithms.
    pub error: f64,
    /// Mean over regions of Spearman's rank correlation.
    pub spearman: f64,
    /// Geometric mean over regions of the time of what the model ranks first, over the fastest.
    pub first: f64,
    /// The same of the fastest of the first eight.
    pub of_eight: f64,
}

/// Coefficients, and what they are worth.
#[derive(Clone, Debug, Serialize)]
pub struct Fit {
    /// The coefficients.
    pub costs: Costs,
    /// With the coefficients as they were.
    pub before: Quality,
    /// With these.
    pub after: Quality,
    /// Of each half of the regions with coefficients that were fitted to the other half: what to expect of regions that nothing was measured of.
    pub held_out: Quality,
}

/// Times above the fastest by this share count a third as much.
const NEAR: f64 = 0.2;
/// Times that the model holds for longer than its shortest by this share are a third as likely to be chosen.
const SOFT: f64 = 0.02;
/// What a coefficient costs that is off its first value, as a share of the square of its logarithm.
const PRIOR: f64 = 1e-4;
/// Steps of the search, as logarithms.
const STEPS: [f64; 4] = [0.2, 0.1, 0.05, 0.02];
/// Most rounds of one step: the search ends whatever the times are.
const MOST_ROUNDS: usize = 40;

/// Fits the coefficients of a GPU to regions of which candidates were measured.
pub fn fit(regions: &[Measurements<'_>], gpu: &Gpu) -> Fit {
    let all: Vec<&Measurements<'_>> = regions.iter().filter(|region| region.len() > 1).collect();
    let costs = fitted(&all, gpu);
    let half = |odd: bool| -> Vec<&Measurements<'_>> {
        all.iter().enumerate().filter(|(i, _)| (i % 2 == 1) == odd).map(|(_, region)| *region).collect()
    };
    let [even, odd] = [half(false), half(true)];
    let held_out = match even.is_empty() || odd.is_empty() {
        true => Quality::default(),
        false => [(&even, &odd), (&odd, &even)]
            .map(|(of, to)| quality(of, &with(gpu, fitted(to, gpu))))
            .into_iter()
            .reduce(Quality::and)
            .unwrap_or_default(),
    };
    Fit { costs, before: quality(&all, gpu), after: quality(&all, &with(gpu, costs)), held_out }
}

/// How good the model is with the coefficients of a GPU.
pub fn quality_of(regions: &[Measurements<'_>], gpu: &Gpu) -> Quality {
    quality(&regions.iter().filter(|region| region.len() > 1).collect::<Vec<_>>(), gpu)
}

fn with(gpu: &Gpu, costs: Costs) -> Gpu {
    Gpu { costs, ..gpu.clone() }
}

fn fitted(regions: &[&Measurements<'_>], gpu: &Gpu) -> Costs {
    let Ok(Value::Object(first)) = serde_json::to_value(gpu.costs) else { return gpu.costs };
    let names: Vec<String> = first.keys().cloned().collect();
    let value = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let origin: Vec<f64> = names.iter().map(|name| value(&first, name)).collect();
    let costs = |at: &[f64]| -> Costs {
        let entry = |(i, name): (usize, &String)| {
            // A share of something is no more than all of it.
            let most = if name.ends_with("_share") { 1.0 } else { f64::MAX };
            (name.clone(), Value::from((origin[i] * at[i].exp()).min(most)))
        };
        serde_json::from_value(Value::Object(names.iter().enumerate().map(entry).collect())).unwrap_or(gpu.costs)
    };
    let loss = |at: &[f64]| {
        let moved: f64 = at.iter().map(|log| log * log).sum();
        loss(regions, &with(gpu, costs(at))) + PRIOR * moved
    };
    let mut at = vec![0.0; names.len()];
    let mut least = loss(&at);
    for step in STEPS {
        for _ in 0..MOST_ROUNDS {
            let before = least;
            for i in 0..at.len() {
                for by in [step, -step] {
                    let mut there = at.clone();
                    there[i] += by;
                    let found = loss(&there);
                    if found < least {
                        (at, least) = (there, found);
                        break;
                    }
                }
            }
            if least >= before {
                break;
            }
        }
    }
    costs(&at)
}

/// Modelled and measured times of a region's candidates.
fn pairs(region: &Measurements<'_>, gpu: &Gpu) -> Vec<(f64, f64)> {
    region.iter().map(|(model, measured)| (model(gpu).seconds, *measured)).collect()
}

fn loss(regions: &[&Measurements<'_>], gpu: &Gpu) -> f64 {
    let of = |region: &&Measurements<'_>| {
        let pairs = pairs(region, gpu);
        let [modelled, measured] = least(&pairs);
        let (mut near, mut squares, mut likely, mut regret) = (0.0, 0.0, 0.0, 0.0);
        for (model, time) in pairs {
            let weight = (-(time / measured - 1.0) / NEAR).exp();
            near += weight;
            squares += weight * (model / time).ln().powi(2);
            let chance = (-(model / modelled - 1.0) / SOFT).exp();
            likely += chance;
            regret += chance * (time / measured).ln();
        }
        squares / near + regret / likely
    };
    regions.iter().map(of).sum::<f64>() / regions.len().max(1) as f64
}

/// The shortest of both.
fn least(pairs: &[(f64, f64)]) -> [f64; 2] {
    pairs.iter().fold([f64::MAX; 2], |[a, b], (x, y)| [a.min(*x), b.min(*y)])
}

fn quality(regions: &[&Measurements<'_>], gpu: &Gpu) -> Quality {
    let one = |region: &&Measurements<'_>| {
        let mut pairs = pairs(region, gpu);
        let spearman = spearman(&pairs);
        pairs.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let fastest = least(&pairs)[1];
        let of_first = |n: usize| least(&pairs[..n.min(pairs.len())])[1] / fastest;
        let squares = pairs.iter().map(|(model, time)| (model / time).ln().powi(2)).sum::<f64>();
        Quality {
            regions: 1,
            candidates: pairs.len(),
            error: (squares / pairs.len() as f64).sqrt().exp(),
            spearman,
            first: of_first(1),
            of_eight: of_first(8),
        }
    };
    regions.iter().map(one).reduce(Quality::and).unwrap_or_default()
}

impl Quality {
    /// Of both together.
    fn and(self, other: Quality) -> Quality {
        let share = |of: usize, and: usize| of as f64 / (of + and).max(1) as f64;
        let (regions, candidates) = (share(self.regions, other.regions), share(self.candidates, other.candidates));
        let mean = |a: f64, b: f64, share: f64| a * share + b * (1.0 - share);
        let geometric = |a: f64, b: f64| mean(a.ln(), b.ln(), regions).exp();
        Quality {
            regions: self.regions + other.regions,
            candidates: self.candidates + other.candidates,
            error: mean(self.error.ln().powi(2), other.error.ln().powi(2), candidates).sqrt().exp(),
            spearman: mean(self.spearman, other.spearman, regions),
            first: geometric(self.first, other.first),
            of_eight: geometric(self.of_eight, other.of_eight),
        }
    }
}

/// Spearman's rank correlation; equal values share the mean of their ranks.
fn spearman(pairs: &[(f64, f64)]) -> f64 {
    let x = ranks(&pairs.iter().map(|(x, _)| *x).collect::<Vec<_>>());
    let y = ranks(&pairs.iter().map(|(_, y)| *y).collect::<Vec<_>>());
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let with = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let spread = (with(&x, &x) * with(&y, &y)).sqrt();
    if spread > 0.0 { with(&x, &y) / spread } else { 1.0 }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    while from < order.len() {
        let equal = order[from..].iter().take_while(|at| values[**at] == values[order[from]]).count();
        let rank = from as f64 + (equal as f64 - 1.0) / 2.0;
        order[from..from + equal].iter().for_each(|at| ranks[*at] = rank);
        from += equal;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::Rng;
    use kiln_target::Estimate;

    /// A kernel of so many bytes and operations by a model of two coefficients.
    fn kernel(bytes: f64, accesses: f64) -> Model {
        Box::new(move |gpu| {
            let memory = bytes / (gpu.bandwidth_gbs * 1e9 * gpu.costs.memory_share);
            let work = gpu.costs.access_ops * accesses / (gpu.rates.f32 * 1e12);
            Estimate { seconds: gpu.costs.launch_seconds + memory.max(work), bytes, flops: 0.0, launches: 1 }
        })
    }

    type Timed = Vec<(Model, f64)>;

    /// Regions of which some are bound by memory and some by work, with times by other coefficients and noise.
    fn regions(truth: &Gpu, seed: u64) -> Vec<Timed> {
        let mut rng = Rng::new(seed);
        let candidate = |bytes: f64, rng: &mut Rng| {
            let bytes = bytes * (1.0 + rng.unit());
            let accesses = bytes * (0.2 + 2.0 * rng.unit());
            let measured = kernel(bytes, accesses)(truth).seconds * (1.0 + 0.01 * rng.signed());
            (kernel(bytes, accesses), measured)
        };
        (0..12).map(|i| (0..30).map(|_| candidate(1e6 * f64::from(1 << i), &mut rng)).collect()).collect()
    }

    fn measurements(timed: &[Timed]) -> Vec<Measurements<'_>> {
        timed.iter().map(|region| region.iter().map(|(model, time)| (model, *time)).collect()).collect()
    }

    #[test]
    fn coefficients_that_times_came_from_are_found() {
        let gpu = Gpu::named("h200").unwrap();
        let costs = Costs { memory_share: 0.6, access_ops: 21.0, ..gpu.costs };
        let timed = regions(&with(&gpu, costs), 3);
        let found = fit(&measurements(&timed), &gpu);
        assert!((found.costs.memory_share / 0.6).ln().abs() < 0.03, "{:?}", found.costs);
        assert!((found.costs.access_ops / 21.0).ln().abs() < 0.03, "{:?}", found.costs);
        // Nothing was measured that they matter to.
        assert_eq!(found.costs.tensor_share, gpu.costs.tensor_share);
        assert!(found.before.error > 1.3 && found.after.error < 1.02, "{found:?}");
        assert!(found.held_out.error < 1.03 && found.held_out.first < 1.03, "{found:?}");
        assert_eq!((found.after.regions, found.after.candidates), (12, 360));
        // The same again: nothing is left to chance.
        assert_eq!(fit(&measurements(&timed), &gpu).costs, found.costs);
    }

    #[test]
    fn qualities_are_what_they_say() {
        let fixed =
            |seconds: f64| -> Model { Box::new(move |_| Estimate { seconds, bytes: 0.0, flops: 0.0, launches: 1 }) };
        let region = |pairs: &[(f64, f64)]| pairs.iter().map(|(model, time)| (fixed(*model), *time)).collect();
        let gpu = Gpu::named("t4").unwrap();
        let timed: Vec<Timed> = vec![
            region(&[(1.0, 2.0), (2.0, 1.0), (3.0, 3.0)]),
            region(&[(1.0, 1.0), (2.0, 2.0), (2.0, 4.0)]),
            // No choice.
            region(&[(1.0, 5.0)]),
        ];
        let found = quality_of(&measurements(&timed), &gpu);
        assert_eq!((found.regions, found.candidates), (2, 6));
        assert!((found.first - 2f64.sqrt()).abs() < 1e-12 && (found.of_eight - 1.0).abs() < 1e-12, "{found:?}");
        assert!((found.spearman - (0.5 + 0.75f64.sqrt()) / 2.0).abs() < 1e-12, "{found:?}");
        let error = (3.0 * 2f64.ln().powi(2) / 6.0).sqrt().exp();
        assert!((found.error - error).abs() < 1e-12, "{found:?}");
        assert_eq!(quality_of(&[], &gpu), Quality::default());
        let nothing = fit(&[], &gpu);
        assert_eq!((nothing.costs, nothing.after), (gpu.costs, Quality::default()));
    }
}
