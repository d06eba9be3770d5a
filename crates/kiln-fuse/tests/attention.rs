//! Attention is one region where a GPU can stream it, and nowhere else.

mod common;

use common::{check, dims, kernels, options};
use kiln_fuse::{Anchor, Fused, Numerics, Region};
use kiln_graph::{BinaryOp, Builder, CompareOp, DType, Dim, Graph, Op, Result, Tensor, ValueId};

const HALVES: [DType; 2] = [DType::F16, DType::BF16];

/// A graph with one result.
fn graph(name: &str, make: impl FnOnce(&mut Builder) -> Result<ValueId>) -> Graph {
    let mut b = Builder::new(name);
    let y = make(&mut b).unwrap();
    b.output("y", y);
    b.finish()
}

fn inputs<const N: usize>(b: &mut Builder, dtype: DType, of: [(&str, &[Dim]); N]) -> Result<[ValueId; N]> {
    let mut ids = [ValueId(0); N];
    for (id, (name, shape)) in ids.iter_mut().zip(of) {
        *id = b.input(name, dtype, shape)?;
    }
    Ok(ids)
}

fn random(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    Tensor::random(dtype, shape, seed).unwrap()
}

/// Random queries, keys and values of one shape.
fn qkv(dtype: DType, shape: &[usize]) -> Vec<Tensor> {
    (1..4).map(|seed| random(dtype, shape, seed)).collect()
}

fn attentions(fused: &Fused) -> Vec<&Region> {
    fused.plan.regions.iter().filter(|r| r.anchor == Anchor::Attention).collect()
}

/// Fuses for `target` and gives the plan, whose results are the graph's.
fn run(graph: &Graph, inputs: &[Tensor], target: &str, numerics: Numerics) -> Fused {
    check(graph, inputs, &options(target, numerics), 1e-2)
}

/// Checks that the whole graph is one Attention region on a GPU, and none on a CPU or with exact numerics.
fn streams(graph: &Graph, inputs: &[Tensor]) -> Region {
    for (target, numerics) in [("cpu", Numerics::Reassoc), ("sm_90a", Numerics::Exact)] {
        let fused = run(graph, inputs, target, numerics);
        assert!(attentions(&fused).is_empty(), "`{}` on {target}, {numerics:?}", graph.name);
    }
    let fused = run(graph, inputs, "sm_90a", Numerics::Reassoc);
    let names = kernels(&fused).join("\n");
    assert_eq!(fused.report.kernels, 1, "`{}`: {names}", graph.name);
    let [region] = attentions(&fused)[..] else { panic!("`{}`: {names}", graph.name) };
    assert!(region.attention().is_some());
    assert!(region.name.contains("attention") && region.summary.starts_with("attention: "), "{}", region.name);
    region.clone()
}

/// Checks that no region of the plan is an Attention.
fn parts_stay_apart(graph: &Graph, inputs: &[Tensor], target: &str) {
    let fused = run(graph, inputs, target, Numerics::Reassoc);
    assert!(attentions(&fused).is_empty(), "`{}`: {}", graph.name, kernels(&fused).join("\n"));
}

#[test]
fn heads_before_rows() {
    for dtype in HALVES {
        for scale in [None, Some(0.3)] {
            for shape in [dims(&[2, 3, 7, 16]), vec![Dim::sym("N"), 3.into(), Dim::sym("S"), 16.into()]] {
                let graph = graph("heads_before_rows", |b| {
                    let [q, k, v] = inputs(b, dtype, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
                    b.attention(q, k, v, None, scale, None)
                });
                streams(&graph, &qkv(dtype, &[2, 3, 7, 16]));
            }
        }
    }
}

#[test]
fn rows_before_heads_with_an_epilogue() {
    for dtype in HALVES {
        let shape = [Dim::sym("N"), Dim::sym("S"), 4.into(), 8.into()];
        let graph = graph("rows_before_heads", |b| {
            let [q, k, v] = inputs(b, dtype, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
            let mask = b.input("mask", DType::F32, &[Dim::sym("N"), 1.into(), 1.into(), Dim::sym("S")])?;
            let [q, k, v] = [q, k, v].map(|x| b.transpose(x, &[0, 2, 1, 3]).unwrap());
            let y = b.attention(q, k, v, Some(mask), None, None)?;
            let y = b.cast(y, DType::F32)?;
            let y = b.mul_scalar(y, 0.5)?;
            let y = b.transpose(y, &[0, 2, 1, 3])?;
            b.reshape(y, &[Dim::sym("N"), Dim::sym("S"), 32.into()])
        });
        let mut inputs = qkv(dtype, &[2, 5, 4, 8]);
        // A row of the mask hides its last keys.
        inputs.push(
            Tensor::generate(DType::F32, &[2, 1, 1, 5], |i| if i > 6 { f64::NEG_INFINITY } else { 0.1 * i as f64 })
                .unwrap(),
        );
        let region = streams(&graph, &inputs);
        let parts = region.attention().unwrap();
        let g = &region.graph;
        let spec = |node| match &g.node(node).op {
            Op::Contract { spec, .. } => spec.clone(),
            op => panic!("{}", op.name()),
        };
        assert_eq!(spec(parts.scores).out.len(), 4);
        assert_eq!(g.ty(g.node(parts.scores).outputs[0]).shape, g.ty(parts.x).shape);
        assert_eq!(g.ty(parts.x).dtype, DType::F32);
        assert_eq!(g.ty(parts.x).shape, [Dim::sym("N"), 4.into(), Dim::sym("S"), Dim::sym("S")]);
        assert!(matches!(g.node(g.value(parts.x).node).op, Op::Binary(BinaryOp::Add)));
        assert!(matches!(g.node(g.value(parts.weights).node).op, Op::Cast { to, .. } if to == dtype));
        assert_eq!(g.ty(parts.weights).shape, g.ty(parts.x).shape);
        assert!(g.node(parts.product).inputs.contains(&parts.weights));
        assert!(parts.scores < parts.product);
    }
}
