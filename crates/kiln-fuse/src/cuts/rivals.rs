//! Covers beside the best one, for whoever can measure: each does without the kernels of one kind that the best one has, wherever it has them.

use super::alternative::works;
use super::cost::Costs;
use super::priced::{Without, priced};
use super::select::{Choice, Cover};
use super::share::Launch;
use crate::egraph::{ClassIx, Dag};
use crate::{RegionId, Result};
use std::collections::BTreeMap;

/// Kinds of kernels that covers are made without: those that take the most of the time.
const PLACES: usize = 8;
/// Covers whose times differ by no more than this share do the same work in other words.
const SAME: f64 = 1e-3;

/// Covers without kernels of the best one.
pub(super) fn rivals(dag: &Dag, costs: &Costs, roots: &[ClassIx], best: &Cover) -> Result<Vec<Cover>> {
    let works = works(dag);
    let mut found = vec![];
    for classes in places(dag, costs, best) {
        let without = without(best, &works, &classes);
        let start = (best.candidates.clone(), best.chosen.clone());
        found.extend(priced(dag, costs, roots, start, &without)?);
    }
    Ok(found)
}

/// At most so many covers with their launches: the first, and then the cheapest that do other work.
pub(crate) fn apart(
    dag: &Dag,
    costs: &Costs,
    all: Vec<(Cover, Vec<Launch>)>,
    most: usize,
) -> Vec<(Cover, Vec<Launch>)> {
    let seconds = |launches: &[Launch]| launches.iter().map(|launch| launch.seconds(dag, costs)).sum::<f64>();
    let timed = all.into_iter().map(|found| (seconds(&found.1), found));
    let mut timed: Vec<_> = timed.collect();
    if let Some((_, others)) = timed.split_first_mut() {
        others.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    }
    let mut kept: Vec<(f64, (Cover, Vec<Launch>))> = Vec::new();
    for (seconds, found) in timed {
        if kept.len() < most && kept.iter().all(|(other, _)| (seconds - other).abs() > SAME * other) {
            kept.push((seconds, found));
        }
    }
    kept.into_iter().map(|(_, found)| found).collect()
}

/// The classes that a cover has kernels of one kind for, those first that take the most time.
fn places(dag: &Dag, costs: &Costs, cover: &Cover) -> Vec<Vec<ClassIx>> {
    let mut kinds: BTreeMap<RegionId, (f64, Vec<ClassIx>)> = BTreeMap::new();
    for c in dag.indices().filter(|c| dag.kernel(*c).is_none()) {
        let Some(Choice::Region(cut)) = &cover.choices[c.index()] else { continue };
        let Some(region) = costs.region(dag, &cut.inner, &[c], cut.anchor) else { continue };
        let way = cover.chosen[c.index()].map_or(0.0, |at| cover.candidates[c.index()][at].seconds);
        let (seconds, classes) = kinds.entry(region).or_default();
        *seconds += way;
        classes.push(c);
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
    kinds.truncate(PLACES);
    kinds.into_iter().map(|(_, classes)| classes).collect()
}

/// The candidates of some classes that are the chosen kernels but for views.
fn without(cover: &Cover, works: &[bool], classes: &[ClassIx]) -> Without {
    let computed = |c: ClassIx, at: usize| match &cover.candidates[c.index()][at].choice {
        Choice::Region(cut) => Some(cut.inner.iter().map(|i| i.0).filter(|c| works[c.index()]).collect::<Vec<_>>()),
        _ => None,
    };
    let alike = |c: &ClassIx| {
        let chosen = cover.chosen[c.index()].and_then(|at| computed(*c, at));
        let ways = 0..cover.candidates[c.index()].len();
        ways.filter(|at| chosen.is_some() && computed(*c, *at) == chosen).map(|at| (*c, at)).collect::<Vec<_>>()
    };
    classes.iter().flat_map(alike).collect()
}
