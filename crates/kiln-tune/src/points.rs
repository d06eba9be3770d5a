//! Sizes of a profile that kernels are tuned at, and which Configs suffice for all of them.

use kiln_engine::Engine;
use kiln_graph::Bindings;
use std::collections::{BTreeMap, BTreeSet};

/// How much slower than the best at some sizes a Config may be that serves there too.
const NEAR: f64 = 1.03;

/// Whoever allows more knows nothing of what is most.
const MOST: i64 = 1 << 24;

/// The sizes of an engine's symbols to tune at: those that its kernels were chosen for, the smallest, and where ranges end the largest.
pub fn points(engine: &Engine) -> Vec<Bindings> {
    let typical = engine.settings.sizes.clone();
    let mut points = vec![typical.clone(), typical.clone(), typical];
    for (symbol, (least, most)) in engine.symbols.iter() {
        points[1].insert(symbol.to_owned(), least.max(1));
        if most <= MOST {
            points[2].insert(symbol.to_owned(), most);
        }
    }
    points.dedup();
    points
}

/// Whether all sizes of `a` are at most those of `b`.
pub fn at_most(a: &Bindings, b: &Bindings) -> bool {
    a.keys().eq(b.keys()) && a.values().zip(b.values()).all(|(a, b)| a <= b)
}

/// The fewest ways of which one is near to the best at each point, and at each point the fastest of those; of as few, those that take the least time. Each
/// point has the seconds of the ways that were measured there; none where nothing was.
pub fn cover<W: Ord + Clone>(points: &[BTreeMap<W, f64>]) -> Vec<Option<W>> {
    let best: Vec<f64> = points.iter().map(|times| times.values().copied().fold(f64::INFINITY, f64::min)).collect();
    let over = |way: &W, at: usize| points[at].get(way).map(|seconds| seconds / best[at]).filter(|over| *over <= NEAR);
    let ways: BTreeSet<&W> = points.iter().flat_map(BTreeMap::keys).collect();
    let (all, none) = ((1usize << points.len()) - 1, points.iter().enumerate().filter(|(_, times)| times.is_empty()));
    let start = none.fold(0, |mask, (at, _)| mask | 1 << at);
    // For each set of points that can be served: by how many ways, how much over the best, and which those are.
    let mut served: BTreeMap<usize, (usize, f64, Vec<&W>)> = [(start, (0, 0.0, vec![]))].into();
    for way in ways {
        for (mask, (count, sum, before)) in served.clone() {
            let serves =
                (0..points.len()).filter_map(|at| Some((at, over(way, at)?))).filter(|(at, _)| mask >> at & 1 == 0);
            let (with, sum) = serves.fold((mask, sum), |(mask, sum), (at, over)| (mask | 1 << at, sum + over));
            let found = (count + 1, sum);
            if with != mask && served.get(&with).is_none_or(|(count, sum, _)| found < (*count, *sum)) {
                served.insert(with, (found.0, found.1, [before, vec![way]].concat()));
            }
        }
    }
    let chosen = served.remove(&all).map(|(.., ways)| ways).unwrap_or_default();
    let fastest = |times: &BTreeMap<W, f64>| {
        let there = chosen.iter().filter_map(|way| Some((*times.get(*way)?, *way)));
        there.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, way)| way.clone())
    };
    points.iter().map(fastest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(times: &[(&'static str, f64)]) -> BTreeMap<&'static str, f64> {
        times.iter().copied().collect()
    }

    #[test]
    fn few_ways_serve_where_they_are_near_to_the_best() {
        // Nobody wins everywhere; `b` is near everywhere.
        let near =
            [times(&[("a", 1.0), ("b", 1.02)]), times(&[("b", 2.05), ("c", 2.0), ("a", 3.0)]), times(&[("b", 9.0)])];
        assert_eq!(cover(&near), [Some("b"), Some("b"), Some("b")]);
        // Where it is not, two are needed, each where it is the faster.
        let far =
            [times(&[("a", 1.0), ("b", 1.2)]), times(&[("a", 1.01), ("b", 1.0)]), times(&[("a", 2.0), ("b", 1.0)])];
        assert_eq!(cover(&far), [Some("a"), Some("b"), Some("b")]);
        assert_eq!(cover(&[times(&[("a", 1.0), ("b", 1.01)])]), [Some("a")]);
        // What was not measured is served by nobody, and nobody is asked for it.
        assert_eq!(cover(&[times(&[]), times(&[("a", 1.0)])]), [None, Some("a")]);
        assert_eq!(cover::<&str>(&[]), []);
    }

    #[test]
    fn as_few_as_any_search_of_all_sets_finds() {
        let mut rng = kiln_graph::Rng::new(3);
        for _ in 0..300 {
            let names = ["a", "b", "c", "d", "e", "f"];
            let points: Vec<_> =
                (0..4).map(|_| names.iter().map(|name| (*name, 1.0 + 0.1 * rng.unit())).collect()).collect();
            let best: Vec<f64> =
                points.iter().map(|p: &BTreeMap<_, f64>| p.values().copied().fold(9.0, f64::min)).collect();
            let serves =
                |set: u32, at: usize| (0..6).any(|i| set >> i & 1 == 1 && points[at][names[i]] <= NEAR * best[at]);
            let fewest = (0u32..64).filter(|set| (0..4).all(|at| serves(*set, at))).map(u32::count_ones).min();
            let chosen = cover(&points);
            let used: BTreeSet<_> = chosen.iter().flatten().collect();
            assert!(used.len() as u32 <= fewest.unwrap(), "{chosen:?} {points:?}");
            for (at, way) in chosen.iter().enumerate() {
                assert!(points[at][way.unwrap()] <= NEAR * best[at]);
            }
        }
    }
}
