//! Merged contractions compute what those apart did, and only those are merged that can be.

use super::super::{Saturation, all, merge, saturate};
use super::{agree, options};
use crate::egraph::{ClassIx, Dag, build};
use kiln_graph::{Builder, DType, Dim, Graph, Op, Result, Rng, Tensor, ValueId};

/// What merging makes of a graph: how many wholes, and the dag.
fn merged(graph: &Graph) -> (usize, Dag, Vec<ClassIx>) {
    let (done, dag, roots) = passed(graph);
    (done.fired.get("merge-contractions").copied().unwrap_or(0), dag, roots)
}

/// What all passes make of a graph.
fn passed(graph: &Graph) -> (Saturation, Dag, Vec<ClassIx>) {
    let built = build(graph).unwrap();
    let (mut egraph, mut done): (_, Saturation) = saturate(built.egraph, all().unwrap(), &options()).unwrap();
    merge(&mut egraph, &mut done, true);
    let roots: Vec<_> = graph.outputs.iter().map(|(_, v)| built.class_of[v.index()].unwrap()).collect();
    let dag = Dag::new(&egraph, &roots);
    let roots = roots.iter().map(|r| dag.find(&egraph, *r).unwrap()).collect();
    (done, dag, roots)
}

/// Whether a dag has a class that some op computes.
fn has(dag: &Dag, is: impl Fn(&Op) -> bool) -> bool {
    dag.classes.iter().flat_map(|class| &class.nodes).any(|node| node.op.as_ref().is_some_and(&is))
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
    let (transposed, interleaved) = (rng.range(0, 1) == 1, rng.range(0, 1) == 1);
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
        let y: ValueId = if rng.range(0, 2) > 0 { b.rope(y, cos, sin, interleaved, None)? } else { y };
        b.output(format!("y{i}"), y);
    }
    Ok((b.finish(), inputs))
}

#[test]
fn what_is_merged_keeps_values() {
    let mut rng = Rng::new(99);
    let (mut followed, mut chosen) = (0, 0);
    for case in 0..200 {
        let (graph, inputs) = projections(&mut rng).unwrap();
        let (wholes, dag, roots) = merged(&graph);
        let what = format!("case {case}");
        assert!(wholes > 0, "{what} is not merged");
        followed += usize::from(wholes > 1);
        // What is turned of some is chosen by place.
        chosen += usize::from(has(&dag, |op| matches!(op, Op::Select)));
        agree((&graph, &inputs), (&dag, &roots), &mut rng, if case < 20 { 50 } else { 4 }, 1e-12, &what);
    }
    assert!(followed > 0 && chosen > 20, "{followed}, {chosen}");
}

/// A product whose halves meet: of each head, or of all; neighbours or not; behind a bias, a cast and views.
fn halves(rng: &mut Rng) -> Result<(Graph, Vec<Tensor>)> {
    let mut b = Builder::new("halves");
    let pick = |rng: &mut Rng, of: &[usize]| of[rng.range(0, of.len() as i64 - 1) as usize];
    let (rows, depth, half, heads) =
        (pick(rng, &[1, 2, 5]), pick(rng, &[1, 3]), pick(rng, &[1, 2, 3]), pick(rng, &[1, 3, 4]));
    let x = b.input("x", DType::F64, &[rows, depth].map(Dim::from))?;
    let inputs = vec![data(rng, &[rows, depth])];
    let w = b.weight_data("w", data(rng, &[depth, heads * 2 * half]))?;
    let bias = if rng.range(0, 1) == 1 { Some(b.weight_data("b", data(rng, &[heads * 2 * half]))?) } else { None };
    let mut y = b.linear(x, w, bias, false)?;
    if rng.range(0, 2) == 0 {
        y = b.mul_scalar(y, 1.5)?;
    }
    let order = rng.range(0, 3);
    let axis = match order {
        0 => 1,
        order => {
            y = b.reshape(y, &[rows, heads, 2 * half].map(Dim::from))?;
            let perm = [[0, 1, 2], [1, 0, 2], [2, 0, 1]][order as usize - 1];
            y = b.transpose(y, &perm)?;
            perm.iter().position(|axis| *axis == 2).unwrap() as i64
        }
    };
    let size = b.shape(y)[axis as usize].as_const().unwrap() / 2;
    let (second, step) = if rng.range(0, 1) == 0 { (size, 1) } else { (1, 2) };
    let part = |b: &mut Builder, start: i64| b.slice_axis(y, axis, &Dim::from(start), &Dim::from(size), step);
    let (gate, up) = (part(&mut b, 0)?, part(&mut b, second)?);
    let gate = b.silu(gate)?;
    let y = b.mul(gate, up)?;
    b.output("y", y);
    Ok((b.finish(), inputs))
}

#[test]
fn halves_that_meet_keep_values() {
    let mut rng = Rng::new(17);
    for case in 0..200 {
        let (graph, inputs) = halves(&mut rng).unwrap();
        let (done, dag, roots) = passed(&graph);
        let what = format!("case {case}");
        assert_eq!(done.fired.get("split-contractions"), Some(&2), "{what}: {:?}", graph.nodes);
        agree((&graph, &inputs), (&dag, &roots), &mut rng, if case < 20 { 50 } else { 4 }, 1e-12, &what);
    }
}

/// Halves of what no weight makes, of what a sum runs over, thirds, and halves that nothing sees together stay as they are.
#[test]
fn only_halves_of_products_that_meet_are_split() {
    let of = |make: &dyn Fn(&mut Builder, ValueId) -> Result<ValueId>, axis: i64, sizes: [i64; 2], meet: bool| {
        let mut b = Builder::new("apart");
        let x = b.input("x", DType::F32, &[6, 4].map(Dim::from)).unwrap();
        let y = make(&mut b, x).unwrap();
        let part = |b: &mut Builder, start: i64, size: i64| {
            b.slice_axis(y, axis, &Dim::from(start), &Dim::from(size), 1).unwrap()
        };
        let parts = [part(&mut b, 0, sizes[0]), part(&mut b, sizes[0], sizes[1])];
        match meet {
            true => {
                let y = b.mul(parts[0], parts[1]).unwrap();
                b.output("y", y);
            }
            false => parts.iter().enumerate().for_each(|(i, y)| {
                let y = b.exp(*y).unwrap();
                b.output(format!("y{i}"), y);
            }),
        }
        passed(&b.finish()).0.fired.get("split-contractions").copied().unwrap_or(0)
    };
    let product = |b: &mut Builder, x: ValueId| {
        let w = weight(b, "w", &[4, 6])?;
        b.matmul(x, w)
    };
    assert_eq!(of(&product, 1, [3, 3], true), 2);
    assert_eq!(of(&product, 1, [3, 3], false), 0);
    assert_eq!(of(&product, 1, [2, 2], true), 0);
    // Along rows, which the weight has not.
    assert_eq!(of(&product, 0, [3, 3], true), 0);
    let shared = |b: &mut Builder, x: ValueId| {
        let y = b.transpose(x, &[1, 0])?;
        b.matmul(x, y)
    };
    assert_eq!(of(&shared, 1, [3, 3], true), 0);
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
