//! What a plan looks like at its edges: control flow, aliases, copies, folded weights.

use crate::common::{check, convnet, options};
use kiln_fuse::{Anchor, BufferKind, MAX_OPERANDS, Numerics, Step, fuse, interpret_plan};
use kiln_graph::{Builder, DType, Dim, Graph, Op, Tensor, ValueId};

fn f32s(shape: &[usize], seed: u64) -> Tensor {
    Tensor::random(DType::F32, shape, seed).unwrap()
}

#[test]
fn results_are_never_inputs_or_weights() {
    let mut b = Builder::new("edges");
    let n = b.symbol("N", 1, 8);
    let x = b.input("x", DType::F32, &[n.clone(), 6.into()]).unwrap();
    b.input("unused", DType::I64, std::slice::from_ref(&n)).unwrap();
    let w = b.weight_data("w", f32s(&[2, 3], 1)).unwrap();
    let flat = b.reshape(x, &[n.clone() * Dim::from(6)]).unwrap();
    let y = b.relu(x).unwrap();
    let split = b.reshape(y, &[n, 2.into(), 3.into()]).unwrap();
    let one = b.scalar(DType::F32, 1.5).unwrap();
    let w2 = b.plus(w, one).unwrap();
    for (name, v) in
        [("x", x), ("flat", flat), ("y", y), ("split", split), ("again", y), ("w", w), ("one", one), ("w2", w2)]
    {
        b.output(name, v);
    }
    let graph = b.finish();
    let inputs = [f32s(&[4, 6], 2), Tensor::zeros(DType::I64, &[4]).unwrap()];
    let fused = check(&graph, &inputs, &options("cpu", Numerics::Exact), 0.0);
    let plan = &fused.plan;
    for (name, id) in &plan.outputs {
        assert_eq!(plan.buffers[id.index()].kind, BufferKind::Temp, "output `{name}`");
    }
    // The reshape of a result is the same memory.
    let (y, split) = (plan.outputs[2].1, plan.outputs[3].1);
    assert_eq!(plan.buffers[split.index()].alias_of, Some(y));
    assert_eq!(plan.inputs.len(), 2, "the signature keeps unused inputs");
}

#[test]
fn batch_norm_disappears_into_weights() {
    let graph = convnet(Dim::from(1), Dim::from(8), 3);
    let fused = fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap();
    let names: Vec<&String> = fused.plan.weights.keys().collect();
    assert!(!names.iter().any(|n| n.ends_with(".var") || n.ends_with(".mean") || n.ends_with(".g")), "{names:?}");
    for region in &fused.plan.regions {
        assert!(!region.graph.nodes.iter().any(|n| n.op.name() == "rsqrt"), "{}", region.summary);
    }
    // Not allowed to regroup: the statistics stay, as two vectors a norm.
    let exact = fuse(&graph, &options("sm_90a", Numerics::Exact)).unwrap();
    assert!(exact.plan.weights.keys().any(|n| n.ends_with(".mean")));
}

#[test]
fn functions_of_positions_are_folded_where_a_kernel_would_only_make_them() {
    let weights = |make: &dyn Fn(&mut Builder, ValueId, ValueId) -> kiln_graph::Result<ValueId>| {
        let mut b = Builder::new("positions");
        let shape = [Dim::from(64), Dim::from(48)];
        let x = b.input("x", DType::F32, &shape).unwrap();
        let (row, column) = (b.iota(DType::F32, &shape, 0).unwrap(), b.iota(DType::F32, &shape, 1).unwrap());
        let table = b.mul(row, column).unwrap();
        let y = make(&mut b, x, table).unwrap();
        b.output("y", y);
        let fused = check(&b.finish(), &[f32s(&[64, 48], 3)], &options("sm_90a", Numerics::Reassoc), 1e-5);
        assert_eq!(fused.report.kernels, 1);
        fused.plan.weights.len()
    };
    let scanned = weights(&|b, x, table| {
        let table = b.cumsum(table, 0, false, false)?;
        b.mul(x, table)
    });
    let multiplied = weights(&|b, x, table| {
        let table = b.transpose(table, &[1, 0])?;
        b.matmul(x, table)
    });
    assert_eq!((scanned, multiplied, weights(&|b, x, table| b.mul(x, table))), (1, 1, 0));
}

#[test]
fn folding_stops_where_it_would_take_more_than_the_model_explains() {
    // In exact arithmetic no rule gets round the large value, so the op stays, whatever its result's size.
    let plan = |extent: i64, numerics| {
        let mut b = Builder::new("large");
        let x = b.input("x", DType::F32, &[Dim::from(2)]).unwrap();
        let one = b.scalar(DType::F32, 1.5).unwrap();
        let large = b.broadcast_to(one, &[Dim::from(extent), Dim::from(extent)]).unwrap();
        let sum = b.sum(large, &[0, 1], false).unwrap();
        let y = b.plus(x, sum).unwrap();
        b.output("y", y);
        fuse(&b.finish(), &options("cpu", numerics)).unwrap().plan
    };
    let reduces = |plan: &kiln_fuse::Plan| {
        plan.regions.iter().flat_map(|r| &r.graph.nodes).filter(|n| n.op.name() == "reduce_sum").count()
    };
    assert_eq!(reduces(&plan(40_000, Numerics::Exact)), 1);
    assert_eq!(reduces(&plan(40, Numerics::Exact)), 0);
    // The sum of one number repeated is a product, and costs nothing.
    let product = plan(40_000, Numerics::Reassoc);
    assert_eq!(reduces(&product), 0);
    let y = interpret_plan(&product, &[Tensor::from_slice(&[2], &[0.0f32, 1.0]).unwrap()]).unwrap();
    assert_eq!(y[0].to_f64_vec(), [2.4e9, 2.4e9]);

    // Products of weights fold up to a few seconds' work.
    let product = |extent: usize| {
        let mut b = Builder::new("weights");
        let x = b.input("x", DType::F32, &[Dim::from(1), Dim::from(extent)]).unwrap();
        let mut weight = |name: &str| {
            let data = Tensor::new(DType::F32, vec![extent, extent], vec![0; extent * extent * 4].into()).unwrap();
            b.weight_data(name, data).unwrap()
        };
        let (u, v) = (weight("u"), weight("v"));
        let w = b.matmul(u, v).unwrap();
        let y = b.matmul(x, w).unwrap();
        b.output("y", y);
        let plan = fuse(&b.finish(), &options("cpu", Numerics::Exact)).unwrap().plan;
        plan.steps.len()
    };
    assert_eq!((product(16), product(2048)), (1, 2));
}

#[test]
fn unbound_weights_stay_weights() {
    let mut b = Builder::new("unbound");
    let x = b.input("x", DType::F32, &[2.into(), 3.into()]).unwrap();
    let w = b.weight("w", DType::F32, &[3, 4]).unwrap();
    let w = b.mul_scalar(w, 0.5).unwrap();
    let y = b.matmul(x, w).unwrap();
    b.output("y", y);
    let fused = fuse(&b.finish(), &options("sm_90a", Numerics::Approx)).unwrap();
    assert!(fused.plan.weights.is_empty());
    let weights = fused.plan.buffers.iter().filter(|b| b.kind == BufferKind::Weight("w".into())).count();
    assert_eq!(weights, 1);
}

fn body(name: &str, make: impl FnOnce(&mut Builder) -> kiln_graph::Result<()>) -> Box<Graph> {
    let mut b = Builder::new(name);
    make(&mut b).unwrap();
    Box::new(b.finish())
}

#[test]
fn control_flow_and_host_ops_are_steps() {
    let four = [Dim::from(4)];
    let branch = |name: &str, scale: f64| {
        body(name, |b| {
            let x = b.input("x", DType::F32, &four)?;
            let w = b.weight_data("w", Tensor::full(DType::F32, &[4], scale)?)?;
            let y = b.mul(x, w)?;
            let y = b.softmax(y, 0)?;
            b.output("y", y);
            Ok(())
        })
    };
    let repeated = body("repeated", |b| {
        let i = b.input("i", DType::I64, &[])?;
        let c = b.input("c", DType::Bool, &[])?;
        let x = b.input("x", DType::F32, &four)?;
        let k = b.input("k", DType::F32, &four)?;
        let f = b.cast(i, DType::F32)?;
        let s = b.plus(x, k)?;
        let s = b.plus(s, f)?;
        let t = b.tanh(s)?;
        b.output("c", c);
        b.output("x", t);
        b.output("scan", s);
        Ok(())
    });
    let mut b = Builder::new("control");
    let x = b.input("x", DType::F32, &four).unwrap();
    let cond = b.input("cond", DType::Bool, &[]).unwrap();
    let y = b.exp(x).unwrap();
    let op = Op::If { then_graph: branch("then", 2.0), else_graph: branch("else", -1.0) };
    let z = b.add1(op, &[cond, y]).unwrap();
    let trip = b.scalar_int(DType::I64, 3).unwrap();
    let go = b.scalar(DType::Bool, 1.0).unwrap();
    let op = Op::Loop { body: repeated, carried: 1, trip: Some(Dim::from(3)) };
    let results = b.add(op, &[trip, go, z, y]).unwrap();
    let scan = b.sum(results[1], &[0], false).unwrap();
    b.output("carried", results[0]);
    b.output("scan", scan);
    let graph = b.finish();
    for cond in [0.0, 1.0] {
        let inputs = [f32s(&[4], 3), Tensor::full(DType::Bool, &[], cond).unwrap()];
        let fused = check(&graph, &inputs, &options("cpu", Numerics::Exact), 0.0);
        let steps = &fused.plan.steps;
        assert!(steps.iter().any(|s| matches!(s, Step::If { .. })));
        assert!(steps.iter().any(|s| matches!(s, Step::Loop { .. })));
    }
}

#[test]
fn embeddings_are_one_gather() {
    let mut b = Builder::new("embed");
    let (n, s) = (b.symbol("N", 1, 8), b.symbol("S", 1, 32));
    let ids = b.input("ids", DType::I64, &[n.clone(), s.clone()]).unwrap();
    let words = b.weight_data("words", f32s(&[50, 8], 1)).unwrap();
    let places = b.weight_data("places", f32s(&[32, 8], 2)).unwrap();
    let place = b.iota(DType::I64, &[s], 0).unwrap();
    let (w, p) = (b.embedding(words, ids).unwrap(), b.embedding(places, place).unwrap());
    let y = b.plus(w, p).unwrap();
    let y = b.layer_norm(y, -1, None, None, 1e-5).unwrap();
    b.output("y", y);
    let ids = Tensor::generate(DType::I64, &[2, 5], |i| (i * 7 % 50) as f64).unwrap();
    let fused = check(&b.finish(), &[ids], &options("sm_90a", Numerics::Exact), 0.0);
    let anchors: Vec<Anchor> = fused.plan.regions.iter().map(|r| r.anchor).collect();
    assert_eq!(anchors, [Anchor::Index, Anchor::Reduce], "{}", fused.report);
}

/// A value after a chain of sums and hyperbolic tangents, of `length` ops.
fn chain(b: &mut Builder, mut x: ValueId, length: usize) -> ValueId {
    let start = x;
    for i in 0..length {
        x = if i % 2 == 0 { b.tanh(x) } else { b.plus(x, start) }.unwrap();
    }
    x
}

#[test]
fn operands_that_cannot_be_joined_are_read_from_memory() {
    // Under a concat, the cheapest cuts of every operand hold a contraction or a row reduction: none of them may stand there.
    for parts in 2..6 {
        for rows in [false, true] {
            let mut b = Builder::new("anchors");
            let x = b.input("x", DType::F32, &[3.into(), 4.into()]).unwrap();
            let value = |b: &mut Builder, i: usize| {
                let w = b.input(&format!("w{i}"), DType::F32, &[4.into(), 4.into()])?;
                let y = if rows { b.softmax(w, -1)? } else { b.matmul(x, w)? };
                Ok::<_, kiln_graph::Error>(chain(b, y, 5))
            };
            let values: Vec<ValueId> = (0..parts).map(|i| value(&mut b, i).unwrap()).collect();
            let y = b.concat(&values, 0).unwrap();
            b.output("y", y);
            let inputs: Vec<Tensor> =
                (0..=parts).map(|i| f32s(&[if i == 0 { 3 } else { 4 }, 4], 20 + i as u64)).collect();
            check(&b.finish(), &inputs, &options("cpu", Numerics::Exact), 1e-6);
        }
    }
}

#[test]
fn operands_that_are_too_large_to_join_are_read_from_memory() {
    for length in [40, 70, 130] {
        let mut b = Builder::new("large");
        let (x, y) = (b.input("x", DType::F32, &[5.into()]).unwrap(), b.input("y", DType::F32, &[5.into()]).unwrap());
        let (p, q) = (chain(&mut b, x, length), chain(&mut b, y, length));
        let sum = b.plus(p, q).unwrap();
        b.output("sum", sum);
        check(&b.finish(), &[f32s(&[5], 1), f32s(&[5], 2)], &options("sm_90a", Numerics::Exact), 0.0);
    }
}

#[test]
fn a_concat_of_any_number_of_values_splits() {
    for count in [MAX_OPERANDS, MAX_OPERANDS + 1, 61, MAX_OPERANDS * MAX_OPERANDS + 1] {
        let mut b = Builder::new("many");
        let values: Vec<ValueId> = (0..count)
            .map(|i| b.input(&format!("x{i}"), DType::F32, &[2.into(), (1 + i % 3).into()]).unwrap())
            .collect();
        let y = b.concat(&values, 1).unwrap();
        b.output("y", y);
        let inputs: Vec<Tensor> = (0..count).map(|i| f32s(&[2, 1 + i % 3], i as u64)).collect();
        let fused = check(&b.finish(), &inputs, &options("cpu", Numerics::Exact), 0.0);
        assert!(fused.plan.regions.iter().all(|r| r.graph.inputs.len() <= MAX_OPERANDS));
    }
}

/// Weights that lie the other way are read as they lie; what follows each element is in the same kernel.
#[test]
fn rows_in_groups_are_one_kernel_with_what_follows() {
    let mut b = Builder::new("groups");
    let n = b.symbol("N", 1, 64);
    let x = b.input("x", DType::F32, &[n.clone(), 12.into()]).unwrap();
    let w = b.input("w", DType::F32, &[3.into(), 8.into(), 12.into()]).unwrap();
    let ends = b.input("ends", DType::I32, &[3.into()]).unwrap();
    let residual = b.input("residual", DType::F32, &[n, 8.into()]).unwrap();
    let turned = b.transpose(w, &[0, 2, 1]).unwrap();
    let y = b.grouped_matmul(x, turned, ends, false).unwrap();
    let y = b.silu(y).unwrap();
    let y = b.plus(y, residual).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let ends = Tensor::from_slice(&[3], &[4i32, 4, 9]).unwrap();
    let inputs = [f32s(&[10, 12], 1), f32s(&[3, 8, 12], 2), ends, f32s(&[10, 8], 3)];
    for target in ["cpu", "sm_75", "sm_90a"] {
        let fused = check(&graph, &inputs, &options(target, Numerics::Exact), 1e-5);
        let [region] = &fused.plan.regions[..] else { panic!("{target}: {} kernels", fused.report.kernels) };
        assert_eq!(region.anchor, Anchor::Contract, "{target}");
        let turned = |op: &Op| matches!(op, Op::GroupedMatmul { transposed: true, .. });
        assert!(region.graph.nodes.iter().any(|node| turned(&node.op)), "{target}: {}", region.summary);
    }
}

/// `x` squared, or itself, with rows put at places that are counted on from `at`; `again`: what was updated is a result too.
fn updated(squared: bool, twice: bool, again: bool) -> Graph {
    let mut b = Builder::new("updated");
    let x = b.input("x", DType::F32, &[7, 3].map(Dim::from)).unwrap();
    let at = b.input("at", DType::I64, &[]).unwrap();
    let rows = b.input("rows", DType::F32, &[2, 3].map(Dim::from)).unwrap();
    let old = if squared { b.mul(x, x).unwrap() } else { x };
    let mut new = b.update_at(old, 0, at, rows).unwrap();
    if twice {
        let one = b.scalar_int(DType::I64, 1).unwrap();
        let after = b.plus(at, one).unwrap();
        new = b.update_at(new, 0, after, rows).unwrap();
    }
    b.output("new", new);
    if again {
        b.output("old", old);
    }
    b.finish()
}

#[test]
fn what_is_updated_gives_its_place_to_the_result_where_nothing_else_needs_it() {
    let inputs = [f32s(&[7, 3], 1), Tensor::scalar(4i64), f32s(&[2, 3], 2)];
    for target in ["cpu", "sm_80"] {
        for (squared, twice, again, shared, input) in [
            (true, false, false, 1, None),
            (true, true, false, 2, None),
            (false, false, false, 0, Some(0)),
            (false, true, false, 1, Some(0)),
            (true, false, true, 0, None),
            // The copy of the input that is a result may be made after.
            (false, false, true, 0, None),
        ] {
            let what = format!("{target}: {squared} {twice} {again}");
            let graph = updated(squared, twice, again);
            let plan = check(&graph, &inputs, &options(target, Numerics::Exact), 0.0).plan;
            let result = plan.outputs[0].1;
            let at_home = |i: usize| plan.homes()[i] == result && i != result.index();
            assert_eq!((0..plan.buffers.len()).filter(|i| at_home(*i)).count(), shared, "{what}\n{plan}");
            assert_eq!(plan.updated_input(result), input, "{what}\n{plan}");
            // The places are made by the kernel that writes there.
            let scatters = plan.regions.iter().filter(|region| region.updated().is_some()).count();
            assert_eq!(
                (scatters, plan.steps.len()),
                (1 + usize::from(twice), 1 + usize::from(twice) + usize::from(squared || again)),
                "{what}\n{plan}"
            );
        }
    }
}
