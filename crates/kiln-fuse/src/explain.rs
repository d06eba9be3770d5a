//! Why there is each launch: what of the model it computes, which rules led there, what the next best would have cost.

use crate::cuts::{Alternatives, Costs, Cover, Kernel, Launch};
use crate::egraph::{ClassIx, Dag, EGraph};
use crate::emit::{Provenance, describe};
use crate::report::{FunctionReport, KernelReport, LaunchReport, NextBest};
use crate::{Plan, rules};
use std::collections::BTreeSet;

/// A fused model.
pub(crate) struct Explain<'a> {
    pub egraph: &'a EGraph,
    pub dag: &'a Dag,
    pub costs: &'a Costs<'a>,
    pub cover: &'a Cover,
    pub roots: &'a [ClassIx],
    pub launches: &'a [Launch],
    pub provenance: &'a Provenance,
    /// Whether nodes have other numbers than in the model.
    pub renumbered: bool,
}

impl Explain<'_> {
    /// A report a launch; `regions` has the region of each in the plan, none for other steps. Counts the launches that are for functions.
    pub fn launches(
        &self,
        plan: &Plan,
        regions: &[Option<usize>],
        functions: &mut [FunctionReport],
    ) -> Vec<LaunchReport> {
        let alternatives = Alternatives::new(self.dag, self.costs, self.cover, self.roots);
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        let mut all = Vec::new();
        for (step, (launch, region)) in self.launches.iter().zip(regions).enumerate() {
            let (Launch::Region { inner, leaves, outputs, anchor, kernel }, Some(region)) = (launch, region) else {
                continue;
            };
            let function = kernel.and_then(|k| self.dag.kernel(k)).map(|place| {
                functions[place.function].launches += 1;
                functions[place.function].name.clone()
            });
            let e = self.costs.estimate(self.dag, inner, leaves, outputs, *anchor);
            let made = inner.iter().filter_map(|(class, node)| self.dag.class(*class).nodes[usize::from(*node)].made);
            let next = seen.insert(*region).then(|| alternatives.without(launch, self.launches)).flatten();
            let kernels = |kernels: Vec<Kernel>| kernels.iter().map(|kernel| self.kernel(kernel)).collect();
            all.push(LaunchReport {
                region: *region,
                step,
                name: plan.regions[*region].name.clone(),
                anchor: *anchor,
                function,
                nodes: self.provenance.of(inner),
                numbers: if self.renumbered { vec![] } else { self.numbers(inner) },
                bytes: e.bytes,
                ops: e.ops,
                seconds: e.seconds,
                measured: self.costs.is_measured(self.dag, inner, outputs, *anchor),
                memory: e.memory,
                arithmetic: e.arithmetic,
                rules: self.egraph.analysis.trace.rules(made).into_iter().filter_map(rules::named).collect(),
                next: next.map(|found| NextBest {
                    seconds: found.seconds,
                    without: kernels(found.without),
                    instead: kernels(found.instead),
                }),
            });
        }
        all
    }

    fn numbers(&self, inner: &[(ClassIx, u16)]) -> Vec<u32> {
        let ids: BTreeSet<u32> = inner.iter().flat_map(|i| &self.provenance.ids[i.0.index()]).map(|id| id.0).collect();
        ids.into_iter().collect()
    }

    fn kernel(&self, kernel: &Kernel) -> KernelReport {
        let Kernel { inner, anchor, seconds } = kernel;
        let ops = inner.iter().filter_map(|(class, node)| self.dag.class(*class).nodes[usize::from(*node)].op.as_ref());
        let (_, summary) = describe(*anchor, ops);
        KernelReport { anchor: *anchor, summary, nodes: self.provenance.of(inner), seconds: *seconds }
    }
}
