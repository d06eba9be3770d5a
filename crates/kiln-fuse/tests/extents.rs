//! Less fusion than pays, and plans that no model of time would choose, are as right as the best plan.

use crate::common::known::known;
use crate::common::stacks::halves;
use crate::common::{kernels, options, worst};
use kiln_fuse::{Extent, Fused, Numerics, Options, fuse, interpret_plan};
use kiln_graph::{DType, Graph, OpKind, Tensor, interpret};

/// Random inputs; whole numbers count within a cache.
fn inputs(graph: &Graph) -> Vec<Tensor> {
    let tensor = |(i, v): (usize, &kiln_graph::ValueId)| {
        let ty = graph.ty(*v);
        let shape: Vec<usize> = ty.shape.iter().map(|d| d.as_const().unwrap_or(3) as usize).collect();
        match ty.dtype {
            DType::I64 => Tensor::generate(DType::I64, &shape, |_| 5.0).unwrap(),
            dtype => Tensor::random(dtype, &shape, 40 + i as u64).unwrap(),
        }
    };
    graph.inputs.iter().enumerate().map(tensor).collect()
}

fn fused(graph: &Graph, extent: Extent, perturb: Option<u64>) -> Fused {
    fuse(graph, &Options { extent, perturb, ..options("sm_90a", Numerics::Reassoc) }).unwrap()
}

#[test]
fn perturbed_costs_give_other_plans_that_are_right() {
    let (mut others, graphs) = (0, known());
    for (graph, _) in graphs.iter().chain([&(halves(2), 0)]) {
        let data = inputs(graph);
        let expected = interpret(graph, &data).unwrap();
        let best = kernels(&fused(graph, Extent::Full, None));
        for seed in 0..4 {
            let plan = fused(graph, Extent::Full, Some(seed));
            others += usize::from(kernels(&plan) != best);
            let found = interpret_plan(&plan.plan, &data).unwrap();
            for (e, f) in expected.iter().zip(&found) {
                assert!(
                    worst(e, f) < 2e-2,
                    "{} by seed {seed}: {}\n{}",
                    graph.name,
                    worst(e, f),
                    kernels(&plan).join("\n")
                );
            }
        }
    }
    assert!(others > 3 * graphs.len(), "{others} plans differ from the best one");
}

#[test]
fn less_is_fused_where_that_is_asked_for() {
    for (graph, _) in known() {
        let [full, chains, single] = [Extent::Full, Extent::Chains, Extent::Single].map(|e| fused(&graph, e, None));
        let data = inputs(&graph);
        let expected = interpret(&graph, &data).unwrap();
        for plan in [&chains, &single] {
            let found = interpret_plan(&plan.plan, &data).unwrap();
            for (e, f) in expected.iter().zip(&found) {
                assert!(worst(e, f) < 2e-2, "{}: {}", graph.name, worst(e, f));
            }
        }
        let work = |fused: &Fused| {
            let of = |region: &kiln_fuse::Region| {
                let kinds = region.graph.nodes.iter().map(|node| node.op.kind());
                let work: Vec<OpKind> =
                    kinds.filter(|k| !matches!(k, OpKind::Source | OpKind::Nullary | OpKind::View)).collect();
                (work.len(), work.iter().all(|k| *k == OpKind::Elementwise))
            };
            fused.plan.regions.iter().map(of).collect::<Vec<_>>()
        };
        assert!(work(&single).iter().all(|(n, _)| *n <= 1), "{}: {}", graph.name, kernels(&single).join("\n"));
        assert!(
            work(&chains).iter().all(|(n, maps)| *n <= 1 || *maps),
            "{}: {}",
            graph.name,
            kernels(&chains).join("\n")
        );
        let counts = [&full, &chains, &single].map(|fused| fused.report.kernels);
        println!("{}: {counts:?}", graph.name);
        assert!(counts.is_sorted() && counts[0] < counts[2], "{}: {counts:?}", graph.name);
    }
}
