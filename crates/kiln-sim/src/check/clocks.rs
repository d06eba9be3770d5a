//! Vector clocks of the warps of a cluster.
//!
//! What a warpgroup's wgmmas read has an entry of its own, that of its tensor core: the number of the wgmma-group. A
//! warp comes after such a read once it has waited for the group, or has heard of it from a warp that has.

use std::collections::HashMap;

/// One clock a warp, each with an entry for every warp and every tensor core.
pub(crate) struct Clocks {
    now: Vec<Vec<u32>>,
    /// Clocks at the last barrier arrival.
    arrived: Vec<Vec<u32>>,
    /// Clocks at the last proxy fence.
    fenced: Vec<Vec<u32>>,
    /// By mbarrier: what arrived in the running phase, and what earlier phases published.
    objects: HashMap<(usize, u32), (Vec<u32>, Vec<u32>)>,
}

fn merge(into: &mut [u32], from: &[u32]) {
    into.iter_mut().zip(from).for_each(|(a, b)| *a = (*a).max(*b));
}

impl Clocks {
    pub(crate) fn new(warps: usize, tensor_cores: usize) -> Self {
        let mut now = vec![vec![0; warps + tensor_cores]; warps];
        for (i, row) in now.iter_mut().enumerate() {
            row[i] = 1;
        }
        Clocks {
            arrived: now.clone(),
            fenced: vec![vec![0; warps + tensor_cores]; warps],
            now,
            objects: HashMap::new(),
        }
    }

    /// The present clock of a warp.
    pub(crate) fn time(&self, warp: usize) -> u32 {
        self.now[warp][warp]
    }

    /// Entries of a clock.
    pub(crate) fn entries(&self) -> usize {
        self.now.first().map_or(0, Vec::len)
    }

    /// `warp` has waited for the wgmma-groups of a tensor core, up to number `group`.
    pub(crate) fn waited(&mut self, warp: usize, tensor_core: usize, group: u32) {
        let entry = &mut self.now[warp][tensor_core];
        *entry = group.max(*entry);
    }

    /// Whether what `other` did at `time` comes before what `warp` does now.
    pub(crate) fn ordered(&self, warp: usize, other: usize, time: u32) -> bool {
        self.now[warp][other] >= time
    }

    /// Whether `warp` made a proxy fence after what `other` did at `time`.
    pub(crate) fn fenced_after(&self, warp: usize, other: usize, time: u32) -> bool {
        self.fenced[warp][other] >= time
    }

    pub(crate) fn fence(&mut self, warp: usize) {
        self.fenced[warp] = self.now[warp].clone();
        // Later accesses are after the fence.
        self.now[warp][warp] += 1;
    }

    /// `warp` arrives at a barrier; what it does next is not covered by the arrival.
    pub(crate) fn arrive(&mut self, warp: usize) {
        self.arrived[warp] = self.now[warp].clone();
        self.now[warp][warp] += 1;
    }

    /// A barrier of `members` ended; `waiting` go on.
    pub(crate) fn join(&mut self, members: &[usize], waiting: &[usize]) {
        let mut all = vec![0; self.entries()];
        members.iter().for_each(|m| merge(&mut all, &self.arrived[*m]));
        waiting.iter().for_each(|w| merge(&mut self.now[*w], &all));
    }

    /// `warp` arrives on an mbarrier.
    pub(crate) fn release(&mut self, warp: usize, object: (usize, u32)) {
        let n = self.entries();
        let (running, _) = self.objects.entry(object).or_insert_with(|| (vec![0; n], vec![0; n]));
        merge(running, &self.now[warp]);
        self.now[warp][warp] += 1;
    }

    /// The phase of an mbarrier ended.
    pub(crate) fn phase(&mut self, object: (usize, u32)) {
        if let Some((running, published)) = self.objects.get_mut(&object) {
            merge(published, running);
            running.fill(0);
        }
    }

    /// `warp` saw a phase of an mbarrier end.
    pub(crate) fn acquire(&mut self, warp: usize, object: (usize, u32)) {
        if let Some((_, published)) = self.objects.get(&object) {
            merge(&mut self.now[warp], published);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_orders_what_came_before_it_and_nothing_later() {
        let mut c = Clocks::new(3, 0);
        let t0 = c.time(0);
        assert!(!c.ordered(1, 0, t0));
        c.arrive(0);
        c.arrive(1);
        let later = c.time(0);
        c.join(&[0, 1], &[0, 1]);
        assert!(c.ordered(1, 0, t0));
        assert!(!c.ordered(1, 0, later));
        assert!(!c.ordered(2, 0, t0));
    }

    #[test]
    fn a_wait_for_wgmma_covers_its_groups_for_whoever_hears_of_it() {
        let (mut c, tensor_core) = (Clocks::new(2, 1), 2);
        c.release(0, (0, 8));
        c.waited(0, tensor_core, 3);
        c.phase((0, 8));
        c.acquire(1, (0, 8));
        assert!(c.ordered(0, tensor_core, 3) && !c.ordered(0, tensor_core, 4));
        // The arrival was before the wait.
        assert!(!c.ordered(1, tensor_core, 3));
        c.release(0, (0, 8));
        c.phase((0, 8));
        c.acquire(1, (0, 8));
        assert!(c.ordered(1, tensor_core, 3));
    }

    #[test]
    fn an_mbarrier_publishes_at_the_end_of_a_phase() {
        let mut c = Clocks::new(2, 0);
        let t = c.time(0);
        c.release(0, (0, 8));
        c.acquire(1, (0, 8));
        assert!(!c.ordered(1, 0, t));
        c.phase((0, 8));
        c.acquire(1, (0, 8));
        assert!(c.ordered(1, 0, t));
    }
}
