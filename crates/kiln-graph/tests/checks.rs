//! What inference, the verifier and symbol binding refuse, and how they say it.

use kiln_graph::*;

fn ty(text: &str) -> TensorType {
    let (dtype, shape) = text.split_once('[').unwrap();
    let shape = shape.trim_end_matches(']');
    let dims = shape.split(',').filter(|s| !s.trim().is_empty()).map(|s| s.parse::<Dim>().unwrap());
    TensorType { dtype: dtype.parse().unwrap(), shape: dims.collect() }
}

fn try_infer(op: &Op, inputs: &[&str]) -> Result<Inference> {
    let mut symbols = Symbols::default();
    symbols.declare("S", 1, 512);
    symbols.declare("L", 600, 900);
    let types: Vec<TensorType> = inputs.iter().map(|t| ty(t)).collect();
    infer(op, &types.iter().collect::<Vec<_>>(), &symbols)
}

fn einsum(text: &str) -> Op {
    let (inputs, out) = text.split_once("->").unwrap();
    let (lhs, rhs) = inputs.split_once(',').unwrap();
    let [lhs, rhs, out] = [lhs, rhs, out].map(|s| s.chars().collect());
    Op::Contract { spec: EinsumSpec { lhs, rhs, out }, acc: DType::F32, out: DType::F32 }
}

#[test]
fn mistakes_are_named_with_expected_and_found() {
    let add = Op::Binary(BinaryOp::Add);
    let conv = Op::Conv {
        spec: ConvSpec { strides: vec![1], pads: vec![(0, 0)], dilations: vec![1], groups: 2 },
        acc: DType::F32,
        out: DType::F32,
    };
    let grouped = Op::GroupedMatmul { transposed: false, acc: DType::F32, out: DType::F32 };
    let dims = |v: &[i64]| v.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>();
    let slice = |s: i64, n: i64, step: i64| Op::Slice { starts: dims(&[s]), sizes: dims(&[n]), steps: vec![step] };
    let cases: Vec<(Op, &[&str], &str)> = vec![
        (add.clone(), &["f32[3]", "f32[4]"], "expected 3, found 4"),
        (add.clone(), &["f32[S]", "f32[L]"], "expected S, found L"),
        (add.clone(), &["f32[3]", "f16[3]"], "found f32[3] and f16[3]; insert a cast"),
        (add.clone(), &["f32[3]", "f32[1, 3]"], "equal shapes"),
        (add.clone(), &["f32[3]"], "expected 2 operands, found 1"),
        (add, &["bool[3]", "bool[3]"], "numbers"),
        (Op::Binary(BinaryOp::Shl), &["f32[3]", "f32[3]"], "integers"),
        (Op::Unary(UnaryOp::Exp), &["i32[3]"], "needs a float, found i32[3]"),
        (Op::Unary(UnaryOp::Not), &["f32[3]"], "bool or an integer"),
        (Op::Compare(CompareOp::Lt), &["bool[2]", "bool[2]"], "no order"),
        (Op::Select, &["f32[2]", "f32[2]", "f32[2]"], "the condition must be bool"),
        (Op::Reduce { op: ReduceOp::Sum, axes: vec![2] }, &["f32[2, 3]"], "axis 2 does not exist at rank 2"),
        (Op::Reduce { op: ReduceOp::Sum, axes: vec![1, 0] }, &["f32[2, 3]"], "sorted and distinct"),
        (Op::Reduce { op: ReduceOp::All, axes: vec![0] }, &["f32[2]"], "needs bools"),
        (Op::TopK { axis: 0, k: 4.into(), largest: true }, &["f32[3]"], "4 exceeds 3"),
        (einsum("mk,kn->mn"), &["f32[2, 3]", "f32[4, 5]"], "label `k`"),
        (einsum("mk,kn->m"), &["f32[2, 3]", "f32[3, 5]"], "right operand only"),
        (einsum("mk,kn->mnz"), &["f32[2, 3]", "f32[3, 5]"], "`z` is in no operand"),
        (einsum("mm,mn->n"), &["f32[2, 2]", "f32[2, 5]"], "occurs twice"),
        (einsum("mk,kn->mn"), &["f32[2, 3, 4]", "f32[3, 5]"], "do not fit f32[2, 3, 4]"),
        (einsum("mk,kn->mn"), &["i8[2, 3]", "i8[3, 5]"], "all floats or all integers"),
        (
            grouped.clone(),
            &["f32[4, 3]", "f32[2, 5, 6]", "i64[2]"],
            "axis 1 of f32[4, 3] and axis 1 of f32[2, 5, 6] must be equal: expected 3, found 5",
        ),
        (
            grouped.clone(),
            &["f32[4, 3]", "f32[2, 3, 6]", "i64[3]"],
            "i64[3] must have an end for each group of f32[2, 3, 6]: expected 2, found 3",
        ),
        (grouped.clone(), &["f32[4, 3]", "f32[2, 3, 6]", "f32[2]"], "indices must be i32 or i64, found f32[2]"),
        (grouped.clone(), &["f32[4, 3]", "f16[2, 3, 6]", "i64[2]"], "operands must have one dtype"),
        (grouped, &["f32[1, 4, 3]", "f32[2, 3, 6]", "i64[2]"], "needs x[T, K], w[G, K, N] and ends[G]"),
        (conv.clone(), &["f32[1, 3, 8]", "f32[4, 1, 3]"], "expected 2, found 3"),
        (conv.clone(), &["f32[1, 2, 8]", "f32[3, 1, 3]"], "do not divide into 2 groups"),
        (conv, &["f32[1, 2, 2]", "f32[4, 1, 3]"], "3 exceeds 2"),
        (Op::Permute { perm: vec![0, 0] }, &["f32[2, 3]"], "not a permutation"),
        (Op::Reshape { shape: dims(&[5]) }, &["f32[2, 3]"], "expected 6, found 5"),
        (Op::Broadcast { shape: dims(&[2, 4]) }, &["f32[3]"], "expected 4, found 3"),
        (Op::Broadcast { shape: dims(&[4]) }, &["f32[1, 4]"], "more axes"),
        (slice(2, 3, 1), &["f32[4]"], "ends past it: 4 exceeds 3"),
        (slice(1, 3, -1), &["f32[4]"], "starts before it"),
        (slice(0, 1, 0), &["f32[4]"], "step on axis 0 is 0"),
        (Op::Concat { axis: 0 }, &["f32[2, 3]", "f32[2, 4]"], "differ on axis 1"),
        (Op::Concat { axis: 0 }, &[], "at least one"),
        (Op::Gather { axis: 0 }, &["f32[2]", "f32[1]"], "i32 or i64"),
        (Op::GatherElements { axis: 0 }, &["f32[2, 3]", "i64[9, 4]"], "4 exceeds 3"),
        (Op::GatherNd { batch_dims: 0 }, &["f32[2]", "i64[5, 2]"], "2 coordinates"),
        (Op::GatherNd { batch_dims: 0 }, &["f32[2]", "i64[5, S]"], "must be constant"),
        (Op::ScatterNd { op: ScatterOp::Set }, &["f32[4, 3]", "i64[2, 1]", "f32[2, 2]"], "expected 3, found 2"),
        (
            Op::Quantize { to: DType::I8, axes: QuantAxes::Axis(1) },
            &["f32[2, 3]", "f32[2]", "i8[2]"],
            "expected 3, found 2",
        ),
        (Op::Dequantize { axes: QuantAxes::Tensor }, &["f32[2]", "f32[]", "f32[]"], "integer or f8"),
        (Op::Weight { name: "w".into(), ty: ty("f32[S]") }, &[], "constant shape"),
    ];
    for (op, inputs, message) in cases {
        match try_infer(&op, inputs) {
            Ok(r) => panic!("{op} of {inputs:?} gave {r:?}"),
            Err(e) => assert!(e.to_string().contains(message) && e.to_string().starts_with(op.name()), "{e}"),
        }
    }
}

#[test]
fn what_cannot_be_proved_becomes_a_constraint() {
    let r = try_infer(&Op::Binary(BinaryOp::Add), &["f32[S, 4]", "f32[T, 4]"]).unwrap();
    assert_eq!(r.constraints, [Requirement::equal(Dim::sym("S"), Dim::sym("T"))]);
    let r = try_infer(&Op::Reshape { shape: vec!["T".into(), 4i64.into()] }, &["f32[S, 2, 2]"]).unwrap();
    assert_eq!(r.constraints, [Requirement::equal(Dim::sym("S") * 4i64.into(), Dim::sym("T") * 4i64.into())]);
    let r = try_infer(&Op::Binary(BinaryOp::Add), &["f32[2*S + 1]", "f32[S + S + 1]"]).unwrap();
    assert!(r.constraints.is_empty());
}

fn pair(range: (i64, i64)) -> Graph {
    let mut b = Builder::new("pair");
    let s = b.symbol("S", range.0, range.1);
    let x = b.input("x", DType::F32, &[s.clone() * 2i64.into() + 1i64.into()]).unwrap();
    let y = b.input("y", DType::F32, &["T".into()]).unwrap();
    let z = b.scoped("join", |b| b.plus(x, y)).unwrap();
    b.output("z", z);
    b.finish()
}

#[test]
fn symbols_are_solved_and_checked() {
    let g = pair((1, 4));
    assert_eq!(bind_symbols(&g, &[vec![7], vec![7]]).unwrap()["S"], 3);
    let message = |shapes: &[Vec<usize>]| bind_symbols(&g, shapes).unwrap_err().to_string();
    assert_eq!(message(&[vec![6], vec![6]]), "input `x`: axis 0: expected 5 (`2*S + 1`), found 6");
    assert_eq!(message(&[vec![11], vec![11]]), "symbol `S`: expected 1..=4, found 5 from axis 0 of input `x`");
    assert_eq!(
        message(&[vec![7], vec![5]]),
        "broadcast `join`: needs `T` to be 1 or `2*S + 1`, found 5 and 7 for these input shapes"
    );
    assert_eq!(bind_symbols(&g, &[vec![7], vec![1]]).unwrap()["T"], 1);
    assert!(message(&[vec![7, 1], vec![7]]).contains("rank 1"));
    assert!(message(&[vec![7]]).contains("expected 2 inputs, found 1"));
    let wrong = [Tensor::random(DType::F16, &[7], 1).unwrap(), Tensor::random(DType::F32, &[7], 1).unwrap()];
    assert_eq!(interpret(&g, &wrong).unwrap_err().to_string(), "input `x`: expected f32, found f16");
}

#[test]
fn the_verifier_finds_what_was_broken() {
    let good = pair((1, 4));
    verify(&good).unwrap();
    let broken = |change: &dyn Fn(&mut Graph), message: &str| {
        let mut g = good.clone();
        change(&mut g);
        let e = verify(&g).unwrap_err().to_string();
        assert!(e.contains(message), "{e}");
    };
    broken(&|g| g.nodes[3].inputs[0] = ValueId(9), "uses %9 before it is defined");
    broken(&|g| g.nodes.swap(0, 3), "before it is defined");
    broken(&|g| g.values[3].ty.dtype = DType::F16, "declared f16[2*S + 1], inferred f32[2*S + 1]");
    broken(&|g| g.constraints.clear(), "not among the graph's constraints");
    broken(&|g| g.outputs.push(("z".into(), ValueId(0))), "output `z` is listed twice");
    broken(&|g| g.outputs[0].1 = ValueId(4), "does not exist");
    broken(&|g| g.inputs.truncate(1), "input `y` is not listed");
    broken(&|g| g.inputs[1] = ValueId(2), "not by an input");
    broken(&|g| g.nodes[3].op = Op::Unary(UnaryOp::Exp), "expected 1 operands");
    broken(&|g| drop(g.values.pop()), "must be value");
    broken(&|g| g.symbols.declare("S", 3, 2), "holds no extent");
    broken(&|g| g.symbols.declare("a b", 1, 2), "cannot be written");
    let mut b = Builder::new("w");
    b.weight_data("w", Tensor::random(DType::F32, &[3], 1).unwrap()).unwrap();
    assert!(b.weight("w", DType::F32, &[4]).is_err());
    let mut g = b.finish();
    g.weights.insert("w".into(), Tensor::random(DType::F32, &[4], 1).unwrap());
    assert!(verify(&g).unwrap_err().to_string().contains("expected f32[3], found data of f32[4]"));
}

#[test]
fn unbound_weights_are_errors() {
    let mut b = Builder::new("w");
    let w = b.weight("layer.w", DType::F32, &[3]).unwrap();
    b.output("y", w);
    assert!(interpret(&b.finish(), &[]).unwrap_err().to_string().contains("weight `layer.w` has no data"));
}

#[test]
fn loops_stop_carry_and_stack() {
    let text = r#"
    graph "power" {
      %x = input "x" : f64[2]
      %n = input "n" : i64[]
      %on = const [1] : bool[]
      // carries x^i, stacks i
      %y, %s = loop (%n, %on, %x, %x) carried=1 trip=[4] body graph "body" {
        %i = input "i" : i64[]
        %c = input "c" : bool[]
        %p = input "p" : f64[2]
        %q = input "q" : f64[2]
        %r = mul (%p, %q)
        output "c" = %c
        output "r" = %r
        output "i" = %i
      }
      output "y" = %y
      output "s" = %s
    }"#;
    let g: Graph = text.parse().unwrap();
    verify(&g).unwrap();
    let x = Tensor::from_slice(&[2], &[3.0, -2.0]).unwrap();
    let r = interpret(&g, &[x.clone(), Tensor::scalar(4i64)]).unwrap();
    assert_eq!(r[0].to_f64_vec(), [243.0, -32.0]);
    assert_eq!(r[1].to_i64_vec().unwrap(), [0, 1, 2, 3]);
    let e = interpret(&g, &[x, Tensor::scalar(3i64)]).unwrap_err().to_string();
    assert!(e.contains("needs 4 iterations, the loop ended after 3"), "{e}");
}

#[test]
fn literals_keep_every_bit() {
    for dtype in DType::ALL {
        for (n, seed) in [(1, 1), (7, 2), (64, 3), (65, 4)] {
            let mut rng = Rng::new(seed);
            let bytes: Vec<u8> = (0..dtype.bytes_for(n).unwrap())
                .map(|_| if dtype == DType::Bool { rng.range(0, 1) as u8 } else { rng.next_u64() as u8 })
                .collect();
            let mut b = Builder::new("c");
            b.constant(Tensor::new(dtype, vec![n], bytes.into()).unwrap()).unwrap();
            let g = b.finish();
            assert_eq!(g.to_string().parse::<Graph>().unwrap(), g, "{g}");
        }
    }
}
