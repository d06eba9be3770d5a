//! Kernels of functions as classes of a dag.

use super::Effort;
use super::dag::{ClassIx, Dag, DagClass, DagNode};
use std::collections::{BTreeMap, BTreeSet};

/// One place where a kernel that somebody wrote could run: a cone like any cut, with all results of the kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KernelPlace {
    /// Which function.
    pub function: usize,
    /// Classes that it computes, and by which node each. In topological order.
    pub inner: Vec<(ClassIx, u16)>,
    /// Sorted. Literals count as leaves.
    pub leaves: Vec<ClassIx>,
    /// Leaves that the kernel takes as operands, be they literals. Sorted.
    pub inputs: Vec<ClassIx>,
    /// In the order of the function.
    pub outputs: Vec<ClassIx>,
}

impl KernelPlace {
    /// Whether both are the same computation, for one function or for two.
    pub fn same(&self, other: &KernelPlace) -> bool {
        KernelPlace { function: self.function, ..other.clone() } == *self
    }

    fn renumbered(self, to: &[ClassIx]) -> KernelPlace {
        let of = |c: ClassIx| to[c.index()];
        let all = |classes: Vec<ClassIx>| classes.into_iter().map(of).collect::<Vec<_>>();
        let sorted = |classes| {
            let mut classes = all(classes);
            classes.sort();
            classes
        };
        let mut inner: Vec<_> = self.inner.into_iter().map(|(c, n)| (of(c), n)).collect();
        inner.sort();
        let (leaves, inputs, outputs) = (sorted(self.leaves), sorted(self.inputs), all(self.outputs));
        KernelPlace { function: self.function, inner, leaves, inputs, outputs }
    }
}

impl Dag {
    /// This dag with a class for each kernel, from which each of its results can be had. A kernel that reads what depends on its own results is left out.
    pub fn with_kernels(self, places: Vec<KernelPlace>) -> Dag {
        if places.is_empty() {
            return self;
        }
        let n = self.classes.len();
        // Of each class, those that have to come before; kernels are numbered after all classes.
        let mut before: Vec<BTreeSet<usize>> = self
            .classes
            .iter()
            .map(|class| class.nodes.iter().flat_map(|node| &node.operands).map(|c| c.index()).collect())
            .collect();
        let mut kept: Vec<KernelPlace> = Vec::new();
        for place in places {
            let outputs: BTreeSet<usize> = place.outputs.iter().map(|c| c.index()).collect();
            if reaches(&before, place.leaves.iter().map(|c| c.index()), &outputs) {
                continue;
            }
            let own = before.len();
            for output in outputs {
                before[output].insert(own);
            }
            before.push(place.leaves.iter().map(|c| c.index()).collect());
            kept.push(place);
        }
        // Kernels as early as their first result was.
        let first = |place: &KernelPlace| place.outputs.iter().map(|c| c.index()).min().unwrap_or(0);
        let rank = |i: usize| if i < n { (i, n) } else { (first(&kept[i - n]), i - n) };
        let order = sorted(&before, rank);
        let mut to = vec![ClassIx(0); before.len()];
        order.iter().enumerate().for_each(|(at, i)| to[*i] = ClassIx(at as u32));

        let mut classes: Vec<Option<DagClass>> = self.classes.into_iter().map(Some).collect();
        for class in classes.iter_mut().flatten() {
            for node in &mut class.nodes {
                node.operands.iter_mut().for_each(|c| *c = to[c.index()]);
            }
        }
        let mut kernels = BTreeMap::new();
        for (k, place) in kept.into_iter().enumerate() {
            let own = to[n + k];
            let mut types = Vec::with_capacity(place.outputs.len());
            for (part, output) in place.outputs.iter().enumerate() {
                if let Some(class) = &mut classes[output.index()] {
                    types.extend(class.types.first().cloned());
                    class.nodes.push(DagNode { op: None, part, operands: vec![own], made: None });
                }
            }
            let place = place.renumbered(&to);
            classes.push(Some(DagClass {
                types,
                tuple: true,
                splat: None,
                weight_only: false,
                literal: false,
                shapely: false,
                effort: Effort::NONE,
                nodes: vec![DagNode { op: None, part: 0, operands: place.leaves.clone(), made: None }],
            }));
            kernels.insert(own, place);
        }
        let classes = order.iter().filter_map(|i| classes[*i].take()).collect();
        let index = self.index.into_iter().map(|(id, c)| (id, to[c.index()])).collect();
        Dag { classes, index, kernels }
    }
}

/// Whether any of `to` comes before any of `from`, or is it.
fn reaches(before: &[BTreeSet<usize>], from: impl Iterator<Item = usize>, to: &BTreeSet<usize>) -> bool {
    let mut seen = vec![false; before.len()];
    let mut stack: Vec<usize> = from.collect();
    while let Some(i) = stack.pop() {
        if to.contains(&i) {
            return true;
        }
        if !std::mem::replace(&mut seen[i], true) {
            stack.extend(&before[i]);
        }
    }
    false
}

/// An order in which everything follows what comes before it, and otherwise by rank.
fn sorted<R: Ord>(before: &[BTreeSet<usize>], rank: impl Fn(usize) -> R) -> Vec<usize> {
    let mut waits: Vec<usize> = before.iter().map(BTreeSet::len).collect();
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); before.len()];
    before.iter().enumerate().for_each(|(i, all)| all.iter().for_each(|b| after[*b].push(i)));
    let mut ready: BTreeSet<(R, usize)> = (0..before.len()).filter(|i| waits[*i] == 0).map(|i| (rank(i), i)).collect();
    let mut order = Vec::with_capacity(before.len());
    while let Some((_, i)) = ready.pop_first() {
        order.push(i);
        for next in &after[i] {
            waits[*next] -= 1;
            if waits[*next] == 0 {
                ready.insert((rank(*next), *next));
            }
        }
    }
    order
}
