//! The stages in order.

use crate::cuts::{Costs, Launch, select, share};
use crate::egraph::{ClassIx, Dag, build};
use crate::emit::{Emission, Provenance, emit};
use crate::hoist::hoist;
use crate::report::{LaunchReport, Report};
use crate::{Error, Options, Plan, Result, Step, rules};
use egg::Id;
use kiln_graph::{Graph, Op};
use std::time::Instant;

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
    let mut stages = Vec::new();
    let mut clock = Instant::now();
    let mut lap = |name: &str| {
        stages.push((name.to_owned(), clock.elapsed().as_secs_f64()));
        clock = Instant::now();
    };
    let hoisted = hoist(graph);
    let graph = hoisted.as_ref().unwrap_or(graph);
    lap("hoist");
    let built = build(graph)?;
    lap("build");
    let rules = rules::all()?;
    let (egraph, saturation) = rules::saturate(built.egraph, rules, options)?;
    lap("saturate");
    let root = |v: &kiln_graph::ValueId| -> Result<Id> {
        built.class_of[v.index()].ok_or_else(|| Error::NoCover {
            value: graph.value(*v).name.clone(),
            why: "it is not reachable from the outputs".into(),
        })
    };
    let outputs: Vec<Id> = graph.outputs.iter().map(|(_, v)| root(v)).collect::<Result<_>>()?;
    let dag = Dag::new(&egraph, &outputs);
    let roots: Vec<ClassIx> = outputs.iter().filter_map(|id| dag.find(&egraph, *id)).collect();
    let provenance = Provenance::new(graph, &dag, &egraph, &built.class_of);
    lap("order");
    let costs = Costs::new(&dag, &graph.symbols, options);
    let cover = select(&dag, &costs, &roots, options)?;
    let launches = share(&dag, &costs, &cover);
    lap("select");
    let emission = Emission { graph, dag: &dag, cover: &cover, provenance: &provenance, options };
    let (plan, regions) = emit(&emission, &launches, &roots)?;
    lap("emit");
    let mut report = Report {
        ops: count_ops(graph, &built.class_of),
        kernels: plan.steps.iter().filter(|s| matches!(s, Step::Run { .. })).count(),
        distinct: plan.regions.len(),
        enodes: saturation.nodes,
        iterations: saturation.iterations,
        stopped: saturation.stopped,
        fired: saturation.fired,
        stages,
        launches: Vec::new(),
    };
    for (launch, region) in launches.iter().zip(&regions) {
        if let (Launch::Region { inner, leaves, outputs, anchor }, Some(region)) = (launch, region) {
            let mut nodes: Vec<String> = Vec::new();
            for name in inner.iter().flat_map(|i| &provenance.nodes[i.0.index()]) {
                if !nodes.contains(name) {
                    nodes.push(name.clone());
                }
            }
            let e = costs.estimate(&dag, inner, leaves, outputs, *anchor);
            report.launches.push(LaunchReport {
                region: *region,
                name: plan.regions[*region].name.clone(),
                anchor: *anchor,
                nodes,
                bytes: e.bytes,
                ops: e.ops,
                seconds: e.seconds,
            });
        }
    }
    Ok(Fused { plan, report })
}

fn count_ops(graph: &Graph, class_of: &[Option<Id>]) -> usize {
    let counts = |n: &&kiln_graph::Node| {
        !matches!(n.op, Op::Input { .. } | Op::Weight { .. } | Op::Const { .. })
            && n.outputs.iter().any(|v| class_of[v.index()].is_some())
    };
    graph.nodes.iter().filter(counts).count()
}
