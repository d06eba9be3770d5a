//! The stages in order.

use crate::cuts::{Costs, apart, select, share};
use crate::dump::{Classes, Launches, Ordered};
use crate::egraph::{ClassIx, Dag, build, settle};
use crate::emit::{Emission, Provenance, emit};
use crate::explain::Explain;
use crate::hoist::hoist;
use crate::pass::{Pass, Passes, Watch};
use crate::pattern::{Found, find, permute_weights};
use crate::report::{FunctionReport, Report};
use crate::{Error, Options, Plan, Result, Step, rules};
use egg::Id;
use kiln_graph::{Graph, Op};

/// A plan, and how it came about.
#[derive(Clone, Debug)]
pub struct Fused {
    /// What to run.
    pub plan: Plan,
    /// What fusion did.
    pub report: Report,
}

/// Turns a graph into a plan: moves what loops repeat in vain before them, builds the e-graph, saturates it, enumerates legal cuts, selects a cover by modelled time, and emits
/// regions. Deterministic: equal inputs give equal plans.
pub fn fuse(graph: &Graph, options: &Options) -> Result<Fused> {
    fuse_watched(graph, options, &mut |_, _| {})
}

/// [`fuse`], showing `watch` what each [`Pass`] leaves behind.
pub fn fuse_watched(graph: &Graph, options: &Options, watch: &mut Watch<'_>) -> Result<Fused> {
    let missing = || Error::NoCover { value: "the model".into(), why: "no plan was made".into() };
    fuse_plans(graph, options, 1, watch)?.into_iter().next().ok_or_else(missing)
}

/// At most `most` plans, for whoever can measure which is the fastest: first [`fuse`]'s, then those that are next by modelled time and have other kernels. `watch` is shown how the
/// first one came about.
pub fn fuse_plans(graph: &Graph, options: &Options, most: usize, watch: &mut Watch<'_>) -> Result<Vec<Fused>> {
    let _span = tracing::info_span!("fuse", model = graph.name, target = %options.target).entered();
    let mut passes = Passes::new();
    let hoisted = passes.run(Pass::Hoist, || hoist(graph));
    let graph = hoisted.as_ref().unwrap_or(graph);
    watch(Pass::Hoist, graph);
    let built = passes.run(Pass::Build, || build(graph))?;
    watch(Pass::Build, &Classes(&built.egraph, None));
    let root = |v: &kiln_graph::ValueId| -> Result<Id> {
        built.class_of[v.index()].ok_or_else(|| Error::NoCover {
            value: graph.value(*v).name.clone(),
            why: "it is not reachable from the outputs".into(),
        })
    };
    let outputs: Vec<Id> = graph.outputs.iter().map(|(_, v)| root(v)).collect::<Result<_>>()?;
    let (egraph, saturation) = passes.run(Pass::Saturate, || {
        let full = options.extent.is_full();
        let rules = if full { rules::of_models(!options.patterns.is_empty())? } else { vec![] };
        let (mut egraph, mut saturation) = rules::saturate(built.egraph, rules, options)?;
        if full {
            rules::repeat(&mut egraph, &mut saturation);
            rules::merge(&mut egraph, &mut saturation, options.target.arch().is_some());
            rules::layout(&mut egraph, &mut saturation, &outputs, options);
        }
        permute_weights(&mut egraph, &options.patterns, options.numerics)?;
        settle(&mut egraph);
        Ok::<_, Error>((egraph, saturation))
    })?;
    watch(Pass::Saturate, &Classes(&egraph, Some(&saturation)));
    let dag = passes.run(Pass::Order, || Dag::new(&egraph, &outputs));
    watch(Pass::Order, &Ordered(&dag));
    let (dag, found) = passes.run(Pass::Match, || {
        let found = find(&dag, graph, &options.patterns, options.numerics)?;
        Ok::<_, Error>((dag.with_kernels(found.places.clone()), found))
    })?;
    watch(Pass::Match, &Ordered(&dag));
    let provenance = Provenance::new(graph, &dag, &egraph, &built.class_of);
    let roots: Vec<ClassIx> = outputs.iter().filter_map(|id| dag.find(&egraph, *id)).collect();
    let (costs, covers) = passes.run(Pass::Select, || {
        let costs = Costs::new(&dag, graph, options);
        let covers = select(&dag, &costs, &roots, options, most > 1)?.into_iter();
        let shared = covers.map(|cover| {
            let launches = share(&dag, &costs, &cover, &roots);
            (cover, launches)
        });
        let covers = apart(&dag, &costs, shared.collect(), most.max(1));
        Ok::<_, Error>((costs, covers))
    })?;
    let mut plans = Vec::with_capacity(covers.len());
    for (n, (cover, launches)) in covers.iter().enumerate() {
        let mut passes = passes.clone();
        if n == 0 {
            watch(Pass::Select, &Launches(launches, &dag, &costs));
        }
        let emission = Emission { graph, dag: &dag, cover, provenance: &provenance, options };
        let (plan, regions) = passes.run(Pass::Emit, || emit(&emission, launches, &roots))?;
        if n == 0 {
            watch(Pass::Emit, &plan);
        }
        let mut report = Report {
            ops: count_ops(graph, &built.class_of),
            kernels: plan.steps.iter().filter(|s| matches!(s, Step::Run { .. })).count(),
            distinct: plan.regions.len(),
            enodes: saturation.nodes,
            iterations: saturation.iterations,
            stopped: saturation.stopped.clone(),
            fired: saturation.fired.clone(),
            stages: passes.times,
            functions: functions(options, &found),
            launches: Vec::new(),
        };
        let explain = Explain {
            egraph: &egraph,
            dag: &dag,
            costs: &costs,
            cover,
            roots: &roots,
            launches,
            provenance: &provenance,
            renumbered: hoisted.is_some(),
        };
        report.launches = explain.launches(&plan, &regions, &mut report.functions);
        plans.push(Fused { plan, report });
    }
    Ok(plans)
}

fn functions(options: &Options, found: &Found) -> Vec<FunctionReport> {
    let report = |(i, pattern): (usize, &std::sync::Arc<crate::Pattern>)| FunctionReport {
        name: pattern.name().to_owned(),
        places: found.places.iter().filter(|place| place.function == i).count(),
        launches: 0,
        steps: found.searches[i].0,
        exhausted: found.searches[i].1,
    };
    options.patterns.iter().enumerate().map(report).collect()
}

fn count_ops(graph: &Graph, class_of: &[Option<Id>]) -> usize {
    let counts = |n: &&kiln_graph::Node| {
        !matches!(n.op, Op::Input { .. } | Op::Weight { .. } | Op::Const { .. })
            && n.outputs.iter().any(|v| class_of[v.index()].is_some())
    };
    graph.nodes.iter().filter(counts).count()
}
