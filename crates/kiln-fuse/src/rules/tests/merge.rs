//! Merged contractions compute what those apart did, and only those are merged that can be.

use super::super::{Saturation, all, merge, saturate};
use super::{agree, options};
use crate::egraph::{ClassIx, Dag, build};
use kiln_graph::{Builder, DType, Dim, Graph, Op, Result, Rng, Tensor, ValueId};

/// What merging makes of a graph: how many wholes, and the dag.
fn merged(graph: &Graph) -> (usize, Dag, Vec<ClassIx>) {
    let built = build(graph).unwrap();
    let (mut egraph, mut done): (_, Saturation) = saturate(built.egraph, all().unwrap(), &options()).unwrap();
    merge(&mut egraph, &mut done, true);
    let roots: Vec<_> = graph.outputs.iter().map(|(_, v)| built.class_of[v.index()].unwrap()).collect();
    let dag = Dag::new(&egraph, &roots);
    let roots = roots.iter().map(|r| dag.find(&egraph, *r).unwrap()).collect();
    (done.fired.get("merge-contractions").copied().unwrap_or(0), dag, roots)
}

/// The contractions of a dag by the extents of their results' last axes.
fn widths(dag: &Dag) -> Vec<i64> {
    let contracts = |c: &ClassIx| dag.class(*c).nodes.iter().any(|n| matches!(n.op, Some(Op::Contract { .. })));
    let mut all: Vec<i64> =
        dag.indices().filter(contracts).filter_map(|c| dag.class(c).ty().shape.last()?.as_const()).collect();
    all.sort();
    all.dedup();
    all
}

fn data(rng: &mut Rng, shape: &[usize]) -> Tensor {
    Tensor::generate(DType::F64, shape, |_| 2.0 * rng.signed()).unwrap()
}

/// Projections of one value to heads, with and without biases, activations, a rotary embedding and what else follows on some of them.
fn projections(rng: &mut Rng) -> Result<(Graph, Vec<Tensor>)> {
    let mut b = Builder::new("projections");
    let pick = |rng: &mut Rng, of: &[usize]| of[rng.range(0, of.len() as i64 - 1) as usize];
    let (rows, depth, size) = (pick(rng, &[1, 2, 5]), pick(rng, &[1, 3, 4]), 2 * pick(rng, &[1, 2, 3]));
    let (count, biased, active) = (pick(rng, &[2, 3, 4]), rng.range(0, 1) == 1, rng.range(0, 2));
    let transposed = rng.range(0, 1) == 1;
    let x = b.input("x", DType::F64, &[rows, depth].map(Dim::from))?;
    let mut inputs = vec![data(rng, &[rows, depth])];
    let angles = ["cos", "sin"].map(|name| b.input(name, DType::F64, &[rows, size / 2].map(Dim::from)));
    let [cos, sin] = angles;
    let (cos, sin) = (cos?, sin?);
    inputs.extend([data(rng, &[rows, size / 2]), data(rng, &[rows, size / 2])]);
    for i in 0..count {
        let heads = pick(rng, &[1, 2, 3]);
        let shape = if transposed { [heads * size, depth] } else { [depth, heads * size] };
        let w = b.weight_data(&format!("w{i}"), data(rng, &shape))?;
        let bias = if biased { Some(b.weight_data(&format!("b{i}"), data(rng, &[heads * size]))?) } else { None };
        let mut y = b.linear(x, w, bias, transposed)?;
        y = match active {
            1 => b.silu(y)?,
            2 => b.mul_scalar(y, 1.5)?,
            _ => y,
        };
        let y = b.reshape(y, &[rows, heads, size].map(Dim::from))?;
        let y = b.transpose(y, &[1, 0, 2])?;
        let y: ValueId = if rng.range(0, 2) > 0 { b.rope(y, cos, sin, false, None)? } else { y };
        b.output(format!("y{i}"), y);
    }
    Ok((b.finish(), inputs))
}

#[test]
fn what_is_merged_keeps_values() {
    let mut rng = Rng::new(99);
    let mut followed = 0;
    for case in 0..200 {
        let (graph, inputs) = projections(&mut rng).unwrap();
        let (wholes, dag, roots) = merged(&graph);
        let what = format!("case {case}");
        assert!(wholes > 0, "{what} is not merged");
        followed += usize::from(wholes > 1);
        agree((&graph, &inputs), (&dag, &roots), &mut rng, if case < 20 { 50 } else { 4 }, 1e-12, &what);
    }
    assert!(followed > 0);
}

fn two(make: impl Fn(&mut Builder, ValueId) -> Result<[ValueId; 2]>) -> Graph {
    let mut b = Builder::new("two");
    let n = b.symbol("N", 1, 9);
    let x = b.input("x", DType::F32, &[n, 4.into()]).unwrap();
    for (i, y) in make(&mut b, x).unwrap().into_iter().enumerate() {
        b.output(format!("y{i}"), y);
    }
    b.finish()
}

fn weight(b: &mut Builder, name: &str, shape: &[usize]) -> Result<ValueId> {
    b.weight_data(name, Tensor::random(DType::F32, shape, 5)?)
}

#[test]
fn only_what_shares_an_operand_is_merged() {
    let plain = two(|b, x| {
        let (v, w) = (weight(b, "v", &[4, 3])?, weight(b, "w", &[4, 5])?);
        Ok([b.matmul(x, v)?, b.matmul(x, w)?])
    });
    let (wholes, dag, _) = merged(&plain);
    assert_eq!((wholes, widths(&dag)), (1, vec![3, 5, 8]));
    let apart = [
        two(|b, x| {
            let (v, w) = (weight(b, "v", &[4, 3])?, weight(b, "w", &[4, 5])?);
            let y = b.exp(x)?;
            Ok([b.matmul(x, v)?, b.matmul(y, w)?])
        }),
        // Weights that nobody has cannot come side by side when the plan is made.
        two(|b, x| {
            let (v, w) = (b.weight("v", DType::F32, &[4, 3])?, b.weight("w", DType::F32, &[4, 5])?);
            Ok([b.matmul(x, v)?, b.matmul(x, w)?])
        }),
        // One product twice is one.
        two(|b, x| {
            let w = weight(b, "w", &[4, 5])?;
            Ok([b.matmul(x, w)?, b.matmul(x, w)?])
        }),
        // A product of a value with itself has no weight.
        two(|b, x| {
            let w = weight(b, "w", &[4, 5])?;
            let y = b.transpose(x, &[1, 0])?;
            Ok([b.matmul(x, w)?, b.matmul(x, y)?])
        }),
    ];
    for graph in &apart {
        assert_eq!(merged(graph).0, 0, "{:?}", graph.nodes);
    }
}
