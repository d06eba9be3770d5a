//! Weights that do not stay on the device: which, and where each lies while its step runs.

use crate::device::{Device, Fetch, MemId};
use crate::memory::ALIGNMENT;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What runs need of a streamed weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// By the step that reads them, the weights that are copied ahead of it.
    steps: BTreeMap<usize, Vec<Fetch>>,
    /// Bytes of the block that they are copied to: two halves, which steps take in turn.
    pub bytes: usize,
}

impl Streams {
    /// Copies what a step reads to the block, beside what runs.
    pub fn fetch(&self, step: usize, block: MemId, device: &mut dyn Device) -> Result<()> {
        self.steps.get(&step).map_or(Ok(()), |pieces| device.fetch(block, pieces))
    }

    /// Adds a weight to what a step reads.
    pub fn add(&mut self, step: usize, piece: Fetch) {
        self.steps.entry(step).or_default().push(piece);
    }
}

/// Where streamed weights lie in the block, by name, with their step; and the bytes of the block.
pub type Layout<'w> = (BTreeMap<&'w str, (usize, usize)>, usize);

/// Which weights do not stay, so that all memory of weights is at most `budget`, the block for the others among it. Weights are given by name with their bytes and the step that alone
/// reads them; others stay.
///
/// All that a step may give up goes or stays, for its launch waits for all of it. Of the steps that take no more than half a block, as few bytes as will do go, spread evenly over the run: each copy then has
/// as long as can be to be done. The size of the block is the one for which these are fewest.
///
/// # Errors
/// A budget that is too small, with the least that would do.
pub fn lay_out<'w>(weights: &BTreeMap<&'w str, (usize, Option<usize>)>, budget: usize) -> Result<Layout<'w>> {
    let rounded = |bytes: usize| bytes.next_multiple_of(ALIGNMENT);
    let total: usize = weights.values().map(|(bytes, _)| rounded(*bytes)).sum();
    if total <= budget {
        return Ok((BTreeMap::new(), 0));
    }
    let mut steps: BTreeMap<usize, usize> = BTreeMap::new();
    for (bytes, step) in weights.values() {
        if let Some(step) = step {
            *steps.entry(*step).or_default() += rounded(*bytes);
        }
    }
    let halves: BTreeSet<usize> = steps.values().copied().filter(|&bytes| bytes > 0).collect();
    let choices = halves.iter().map(|&half| {
        let most: usize = steps.values().filter(|&&bytes| bytes <= half).sum();
        (half, most, (total + 2 * half).saturating_sub(budget))
    });
    let enough = choices.clone().filter(|(_, most, needed)| needed <= most);
    let chosen = enough.map(|(half, most, needed)| (spread(&steps, half, most, needed), half));
    let Some((streamed, half)) = chosen.min_by_key(|((_, bytes), half)| (*bytes, *half)).map(|(s, half)| (s.0, half))
    else {
        let least = choices.map(|(half, most, _)| total + 2 * half - most).chain([total]).min().unwrap_or(total);
        return Err(Error::WeightBudget { budget, least });
    };
    let turn: BTreeMap<usize, usize> = streamed.iter().enumerate().map(|(i, &step)| (step, i % 2 * half)).collect();
    let mut next = turn.clone();
    let placed = weights.iter().filter_map(|(name, (bytes, step))| {
        let step = (*step)?;
        let at = next.get_mut(&step)?;
        let offset = *at;
        *at += rounded(*bytes);
        Some((*name, (step, offset)))
    });
    Ok((placed.collect(), 2 * half))
}

/// Of the steps that take at most `half`, which take `most` together, evenly spread ones that take at least `needed`: in order, and what they take.
fn spread(steps: &BTreeMap<usize, usize>, half: usize, most: usize, needed: usize) -> (Vec<usize>, usize) {
    let (mut passed, mut taken, mut chosen) = (0u128, 0usize, Vec::new());
    for (&step, &bytes) in steps.iter().filter(|(_, bytes)| (1..=half).contains(*bytes)) {
        passed += bytes as u128;
        // What is to be taken by now, were it taken byte by byte.
        if (taken as u128) * (most as u128) < passed * needed as u128 {
            taken += bytes;
            chosen.push(step);
        }
    }
    (chosen, taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::Rng;

    /// Weights of steps, in order; those of no step come last.
    fn named(weights: &[(usize, Option<usize>)]) -> (Vec<String>, Vec<(usize, Option<usize>)>) {
        ((0..weights.len()).map(|i| format!("w{i}")).collect(), weights.to_vec())
    }

    fn of<'w>(names: &'w [String], weights: &[(usize, Option<usize>)]) -> BTreeMap<&'w str, (usize, Option<usize>)> {
        names.iter().map(String::as_str).zip(weights.iter().copied()).collect()
    }

    #[test]
    fn what_stays_and_the_block_are_within_any_budget_that_is_large_enough() {
        let seed = u64::from(std::process::id());
        let mut rng = Rng::new(seed);
        let mut below = |n: u64| (rng.next_u64() % n) as usize;
        for case in 0..300 {
            let count = 1 + below(40);
            let weights: Vec<_> =
                (0..count).map(|i| (below(1 << 14), (below(5) > 0).then_some(i / (1 + case % 3)))).collect();
            let (names, weights) = named(&weights);
            let all = of(&names, &weights);
            let total: usize = weights.iter().map(|(bytes, _)| bytes.next_multiple_of(ALIGNMENT)).sum();
            let least = match lay_out(&all, 0) {
                Err(Error::WeightBudget { least, .. }) => least,
                Ok(_) => 0,
                Err(e) => panic!("{e}"),
            };
            assert!(least <= total);
            if least > 0 {
                lay_out(&all, least - 1).unwrap_err();
            }
            for budget in [least, least + below(1 + (total - least) as u64), total] {
                let (streamed, bytes) = lay_out(&all, budget).unwrap();
                let stays = all.iter().filter(|(name, _)| !streamed.contains_key(*name));
                let stays: usize = stays.map(|(_, (bytes, _))| bytes.next_multiple_of(ALIGNMENT)).sum();
                assert!(stays + bytes <= budget, "seed {seed}, case {case}: {stays} + {bytes} > {budget}");
                assert_eq!(streamed.is_empty(), budget >= total, "seed {seed}, case {case}");
                // Steps take halves in turn, and weights of one step do not overlap.
                let mut ends: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
                for (name, (step, offset)) in &streamed {
                    assert_eq!(all[name].1, Some(*step));
                    ends.entry(*step).or_default().push((*offset, offset + all[name].0));
                }
                for (i, places) in ends.values_mut().enumerate() {
                    places.sort();
                    let half = i % 2 * bytes / 2..(i % 2 + 1) * bytes / 2;
                    assert!(places.iter().all(|(start, end)| half.contains(start) && *end <= half.end));
                    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "seed {seed}, case {case}");
                }
            }
        }
    }

    #[test]
    fn what_goes_is_spread_over_the_run() {
        let weights: Vec<_> = (0..32).map(|i| (1024, Some(i))).collect();
        let (names, weights) = named(&weights);
        // Ten of 32, two of them for the block.
        let (streamed, bytes) = lay_out(&of(&names, &weights), 24 * 1024).unwrap();
        let mut steps: Vec<usize> = streamed.values().map(|(step, _)| *step).collect();
        steps.sort();
        assert_eq!((steps.len(), bytes), (10, 2048));
        assert!(steps.windows(2).all(|pair| (3..=4).contains(&(pair[1] - pair[0]))), "{steps:?}");
    }
}
