//! Attention is one region where a GPU can stream it, and nowhere else.

use crate::common::{check, dims, kernels, options};
use kiln_fuse::{Anchor, Fused, Numerics, Region, Role};
use kiln_graph::{BinaryOp, Builder, DType, Dim, EinsumSpec, Graph, Op, Result, Tensor, ValueId};

const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

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

/// Checks that a graph is no Attention region, and that fusion makes none of it.
fn illegal(graph: &Graph, inputs: &[Tensor]) {
    let (name, graph_of) = (graph.name.clone(), graph.clone());
    let region = Region { name, summary: String::new(), anchor: Anchor::Attention, graph: graph_of };
    assert!(region.verify().is_err() && region.attention().is_none(), "`{}`", graph.name);
    parts_stay_apart(graph, inputs, "sm_90a");
}

#[test]
fn heads_before_rows() {
    for dtype in FLOATS {
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
    for dtype in FLOATS {
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
        assert_eq!(g.ty(parts.x).shape, [Dim::sym("s0"), 4.into(), Dim::sym("s1"), Dim::sym("s1")]);
        assert!(matches!(g.node(g.value(parts.x).node).op, Op::Binary(BinaryOp::Add)));
        let weights = &g.node(g.value(parts.weights).node).op;
        assert_eq!(matches!(weights, Op::Cast { to, .. } if *to == dtype), dtype != DType::F32);
        assert_eq!(g.ty(parts.weights).shape, g.ty(parts.x).shape);
        assert!(g.node(parts.product).inputs.contains(&parts.weights));
        assert!(parts.scores < parts.product);
    }
}

#[test]
fn masks() {
    for dtype in FLOATS {
        let shape = dims(&[2, 2, 6, 8]);
        let data = qkv(dtype, &[2, 2, 6, 8]);
        let make = |name: &str, mask: Option<DType>, causal: Option<Dim>| {
            graph(name, |b| {
                let [q, k, v] = inputs(b, dtype, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
                let mask = mask.map(|d| b.input("mask", d, &dims(&[2, 1, 6, 6]))).transpose()?;
                b.attention(q, k, v, mask, None, causal.as_ref())
            })
        };
        streams(&make("causal", None, Some(0.into())), &data);
        streams(&make("cached", None, Some(2.into())), &data);
        let keep =
            Tensor::generate(DType::Bool, &[2, 1, 6, 6], |i| f64::from(u8::from(i % 6 == 0 || i % 5 < 3))).unwrap();
        streams(&make("kept", Some(DType::Bool), None), &[&data[..], &[keep]].concat());
        let added = random(dtype, &[2, 1, 6, 6], 9);
        streams(&make("added", Some(dtype), Some(0.into())), &[&data[..], &[added]].concat());
    }
}

#[test]
fn a_mask_of_tokens_is_made_inside_or_before() {
    let (n, s) = (Dim::sym("N"), Dim::sym("S"));
    let shape = [n.clone(), 4.into(), s.clone(), 8.into()];
    let graph = graph("tokens", |b| {
        let [q, k, v] = inputs(b, DType::F16, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
        let mask = b.input("mask", DType::I64, &[n, s])?;
        let mask = b.cast(mask, DType::F32)?;
        let mask = b.unsqueeze(mask, &[1, 2])?;
        let one = b.scalar(DType::F32, 1.0)?;
        let mask = b.sub(one, mask)?;
        let mask = b.mul_scalar(mask, -10000.0)?;
        b.attention(q, k, v, Some(mask), None, None)
    });
    let mut data = qkv(DType::F16, &[2, 4, 5, 8]);
    data.push(Tensor::generate(DType::I64, &[2, 5], |i| f64::from(u8::from(i % 5 < 4))).unwrap());
    let fused = run(&graph, &data, "sm_90a", Numerics::Reassoc);
    assert_eq!(attentions(&fused).len(), 1, "{}", kernels(&fused).join("\n"));
    assert!(fused.report.kernels <= 2, "{}", kernels(&fused).join("\n"));
}

#[test]
fn any_labels() {
    for dtype in FLOATS {
        for (name, scores, context, q, k, v) in [
            ("split", "nqhd,nkhd->nhqk", "nhqk,nkhd->nqhd", vec![2, 5, 3, 8], vec![2, 7, 3, 8], vec![2, 7, 3, 4]),
            // Heads of queries share keys and values.
            (
                "grouped",
                "ngrqd,ngkd->ngrqk",
                "ngrqk,ngkd->ngrqd",
                vec![2, 2, 3, 5, 8],
                vec![2, 2, 7, 8],
                vec![2, 2, 7, 8],
            ),
            // All heads share the values, but not the keys.
            ("shared_values", "hqd,hkd->hqk", "hqk,kd->hqd", vec![3, 5, 8], vec![3, 7, 8], vec![7, 8]),
            ("one_row", "qd,kd->qk", "qk,kd->qd", vec![1, 8], vec![7, 8], vec![7, 16]),
            ("units", "nhqd,nhkd->nhqk", "nhqk,nhkd->nhqd", vec![1, 1, 1, 8], vec![1, 1, 9, 8], vec![1, 1, 9, 8]),
            ("one_wide", "nhqd,nhkd->nhqk", "nhqk,nhkd->nhqd", vec![2, 2, 3, 1], vec![2, 2, 2, 1], vec![2, 2, 2, 1]),
            ("two_head_axes", "qhde,khde->hqk", "hqk,khde->qhde", vec![5, 2, 4, 8], vec![6, 2, 4, 8], vec![6, 2, 4, 8]),
        ] {
            for swap in [false, true] {
                // Keys and values may be the left operands.
                let einsum = |b: &mut Builder, equation: &str, x: ValueId, y: ValueId| {
                    let (operands, out) = equation.split_once("->").unwrap_or_default();
                    let (l, r) = operands.split_once(',').unwrap_or_default();
                    if swap { b.einsum(&format!("{r},{l}->{out}"), &[y, x]) } else { b.einsum(equation, &[x, y]) }
                };
                let graph = graph(name, |b| {
                    let [q, k, v] = inputs(b, dtype, [("q", &dims(&q)), ("k", &dims(&k)), ("v", &dims(&v))])?;
                    // Narrow scores, cast for the softmax and back.
                    let x = einsum(b, scores, q, k)?;
                    let x = b.mul_scalar(x, 0.5)?;
                    let p = b.softmax(x, -1)?;
                    einsum(b, context, p, v)
                });
                streams(&graph, &[random(dtype, &q, 1), random(dtype, &k, 2), random(dtype, &v, 3)]);
            }
        }
    }
}

#[test]
fn grouped_heads_of_the_builder() {
    let graph = graph("grouped", |b| {
        let q = b.input("q", DType::F16, &dims(&[2, 2, 3, 5, 8]))?;
        let shared = dims(&[2, 2, 1, 7, 8]);
        let [k, v] = inputs(b, DType::F16, ["k", "v"].map(|n| (n, &shared[..])))?;
        b.attention(q, k, v, None, None, Some(&Dim::from(2)))
    });
    let data = [&[2, 2, 3, 5, 8][..], &[2, 2, 1, 7, 8], &[2, 2, 1, 7, 8]];
    let data: Vec<Tensor> = (1..).zip(data).map(|(seed, shape)| random(DType::F16, shape, seed)).collect();
    let fused = run(&graph, &data, "sm_90a", Numerics::Reassoc);
    assert_eq!(attentions(&fused).len(), 1, "{}", kernels(&fused).join("\n"));
    // The keys lose an axis of one element behind their transposition, which then is a kernel.
    assert!(fused.report.kernels <= 2, "{}", kernels(&fused).join("\n"));
}

#[test]
fn capped_scores_and_a_reciprocal() {
    let shape = dims(&[2, 6, 8]);
    let graph = graph("capped", |b| {
        let [q, k, v] = inputs(b, DType::F16, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
        let bias = b.input("bias", DType::F32, &dims(&[8]))?;
        let k = b.swap_axes(k, -1, -2)?;
        let x = b.matmul_as(q, k, DType::F32, DType::F32)?;
        let x = b.mul_scalar(x, 0.1)?;
        let x = b.tanh(x)?;
        let x = b.mul_scalar(x, 30.0)?;
        let peak = b.reduce_max(x, &[-1], true)?;
        let x = b.sub(x, peak)?;
        let e = b.exp(x)?;
        let sum = b.sum(e, &[-1], true)?;
        let inverse = b.recip(sum)?;
        let p = b.mul(e, inverse)?;
        let p = b.cast(p, DType::F16)?;
        let y = b.matmul_as(p, v, DType::F32, DType::F32)?;
        b.plus(y, bias)
    });
    let data = [&qkv(DType::F16, &[2, 6, 8])[..], &[random(DType::F32, &[8], 5)]].concat();
    let region = streams(&graph, &data);
    let (parts, roles) = (region.attention().unwrap(), region.roles());
    let role = |name: &str| {
        let found = region.graph.nodes.iter().zip(&roles).filter(|(n, _)| n.op.name() == name);
        found.map(|(_, s)| *s).collect::<Vec<_>>()
    };
    assert_eq!(region.anchors(), [parts.scores, parts.product]);
    assert_eq!(role("contract"), [Role::Anchor; 2]);
    assert_eq!(role("add"), [Role::Epilogue]);
    for between in ["tanh", "reduce_max", "sub", "exp", "reduce_sum", "recip", "cast"] {
        assert_eq!(role(between), [Role::Prologue], "{between}");
    }
    let bias = region.graph.nodes.iter().zip(&roles).filter(|(n, s)| n.op.name() == "broadcast" && **s == Role::Side);
    assert_eq!(bias.count(), 1);
}

#[test]
fn encoder_layers() {
    let (n, s) = (Dim::sym("N"), Dim::sym("S"));
    for dtype in FLOATS {
        let mut rng = kiln_graph::Rng::new(3);
        let mut linear = |b: &mut Builder, x: ValueId, name: &str| -> Result<ValueId> {
            let w = Tensor::generate(dtype, &[32, 32], |_| 0.3 * rng.signed())?;
            let w = b.weight_data(name, w)?;
            b.linear(x, w, None, true)
        };
        let graph = graph("layer", |b| {
            let x = b.input("x", dtype, &[n.clone(), s.clone(), 32.into()])?;
            let mut y = x;
            for layer in 0..2 {
                let split = [n.clone(), s.clone(), 4.into(), 8.into()];
                let mut heads = Vec::new();
                for name in ["q", "k", "v"] {
                    let p = linear(b, y, &format!("{layer}.{name}"))?;
                    let p = b.reshape(p, &split)?;
                    heads.push(b.transpose(p, &[0, 2, 1, 3])?);
                }
                let a = b.attention(heads[0], heads[1], heads[2], None, None, Some(&Dim::from(0)))?;
                let a = b.transpose(a, &[0, 2, 1, 3])?;
                let a = b.reshape(a, &[n.clone(), s.clone(), 32.into()])?;
                let o = linear(b, a, &format!("{layer}.out"))?;
                y = b.plus(o, y)?;
            }
            Ok(y)
        });
        let fused = run(&graph, &[random(dtype, &[2, 5, 32], 1)], "sm_90a", Numerics::Reassoc);
        let streamed = fused.report.launches.iter().filter(|l| l.anchor == Anchor::Attention).count();
        assert_eq!(streamed, 2, "{}", kernels(&fused).join("\n"));
        assert_eq!(fused.report.kernels, 2 * 5, "{}", kernels(&fused).join("\n"));
    }
}

/// One projection for queries, keys and values: its parts are slices, which the attention reads where they are.
#[test]
fn parts_of_one_projection_are_read_in_place() {
    let (n, s) = (Dim::sym("N"), Dim::sym("S"));
    for dtype in FLOATS {
        // Heads within parts, as ONNX files have them; parts as an axis of their own; heads of queries that share keys.
        for (form, heads) in [("split", [4, 4]), ("axis", [4, 4]), ("grouped", [4, 2])] {
            let mut rng = kiln_graph::Rng::new(3);
            let mut linear = |b: &mut Builder, x: ValueId, name: &str, columns: usize| -> Result<ValueId> {
                let w = b.weight_data(name, Tensor::generate(dtype, &[columns, 32], |_| 0.3 * rng.signed())?)?;
                let bias =
                    b.weight_data(&format!("{name}.b"), Tensor::generate(dtype, &[columns], |_| rng.signed())?)?;
                b.linear(x, w, Some(bias), true)
            };
            let [queries, shared] = heads;
            let graph = graph(form, |b| {
                let x = b.input("x", dtype, &[n.clone(), s.clone(), 32.into()])?;
                let mut y = x;
                for layer in 0..2 {
                    let all = linear(b, y, &format!("{layer}.qkv"), 8 * (queries + 2 * shared))?;
                    let mut parts = Vec::new();
                    for (start, count) in [(0, queries), (queries, shared), (queries + shared, shared)] {
                        if form == "axis" {
                            let apart = b.reshape(all, &[n.clone(), s.clone(), 3.into(), count.into(), 8.into()])?;
                            let apart = b.transpose(apart, &[2, 0, 3, 1, 4])?;
                            let part = b.slice_axis(apart, 0, &Dim::from(start / count), &Dim::from(1), 1)?;
                            parts.push(b.reshape(part, &[n.clone(), count.into(), s.clone(), 8.into()])?);
                            continue;
                        }
                        let part = b.slice_axis(all, 2, &Dim::from(8 * start), &Dim::from(8 * count), 1)?;
                        let shape: &[Dim] = match (form, parts.len()) {
                            ("grouped", 0) => &[n.clone(), s.clone(), shared.into(), 2.into(), 8.into()],
                            _ => &[n.clone(), s.clone(), count.into(), 8.into()],
                        };
                        parts.push(b.reshape(part, shape)?);
                    }
                    let [q, k, v] = parts[..] else { panic!() };
                    let [scores, context] = match form {
                        "split" => ["nqhd,nkhd->nhqk", "nhqk,nkhd->nqhd"],
                        "axis" => ["nhqd,nhkd->nhqk", "nhqk,nhkd->nqhd"],
                        _ => ["nqhgd,nkhd->nhgqk", "nhgqk,nkhd->nqhgd"],
                    };
                    let a = b.einsum(scores, &[q, k])?;
                    let a = b.softmax(a, -1)?;
                    let a = b.einsum(context, &[a, v])?;
                    let a = b.reshape(a, &[n.clone(), s.clone(), 32.into()])?;
                    let o = linear(b, a, &format!("{layer}.out"), 32)?;
                    y = b.plus(o, y)?;
                }
                Ok(y)
            });
            let fused = run(&graph, &[random(dtype, &[2, 5, 32], 1)], "sm_90a", Numerics::Reassoc);
            let names = kernels(&fused).join("\n");
            assert_eq!(fused.report.kernels, 2 * 3, "{form}, {dtype}: {names}");
            assert_eq!(fused.report.distinct, 3, "layers are alike: {form}, {dtype}: {names}");
            for region in attentions(&fused) {
                assert_eq!(region.graph.inputs.len(), 1, "{form}: all parts are of one operand");
                region.verify().unwrap();
            }
            assert_eq!(attentions(&fused).len(), 1, "{form}, {dtype}: {names}");
        }
    }
}

/// The first keys of a longer cache, of which how many there are is known when it runs.
#[test]
fn a_part_of_a_cache_is_read_in_place() {
    for dtype in FLOATS {
        let graph = graph("cache", |b| {
            let q = b.input("q", dtype, &[2.into(), Dim::sym("S"), 16.into()])?;
            let longer = [2.into(), Dim::sym("S") + Dim::sym("P") + Dim::from(3), 16.into()];
            let [k, v] = inputs(b, dtype, ["k", "v"].map(|n| (n, &longer[..])))?;
            let keys = Dim::sym("S") + Dim::sym("P");
            let k = b.slice_axis(k, 1, &Dim::from(2), &keys, 1)?;
            let v = b.slice_axis(v, 1, &Dim::from(1), &keys, 1)?;
            b.attention(q, k, v, None, None, Some(&Dim::sym("P")))
        });
        let data = [random(dtype, &[2, 5, 16], 1), random(dtype, &[2, 12, 16], 2), random(dtype, &[2, 12, 16], 3)];
        let fused = run(&graph, &data, "sm_90a", Numerics::Reassoc);
        assert_eq!((fused.report.kernels, attentions(&fused).len()), (1, 1), "{}", kernels(&fused).join("\n"));
    }
}

/// What is no view in place of something in memory is made before: every other row, keys that are turned by their positions, padded values.
#[test]
fn what_is_not_read_in_place() {
    type Make = fn(&mut Builder, ValueId) -> Result<ValueId>;
    let steps: Make = |b, x| {
        let shape = b.shape(x).to_vec();
        b.slice(x, &dims(&[0, 0, 0]), &[shape[0].clone(), 6.into(), 8.into()], &[1, 2, 1])
    };
    let turned: Make = |b, x| {
        let x = b.slice_axis(x, 1, &Dim::from(1), &Dim::from(6), 1)?;
        b.tanh(x)
    };
    let padded: Make = |b, x| {
        let x = b.slice_axis(x, 1, &Dim::from(0), &Dim::from(5), 1)?;
        b.pad(x, &dims(&[0, 1, 0]), &dims(&[0, 0, 0]), kiln_graph::PadMode::Constant(0.0))
    };
    for (name, make) in [("steps", steps), ("turned", turned), ("padded", padded)] {
        let shape = dims(&[2, 12, 8]);
        let graph = graph(name, |b| {
            let [q, k, v] = inputs(b, DType::F16, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
            let (k, v) = (make(b, k)?, make(b, v)?);
            b.attention(q, k, v, None, None, None)
        });
        let region =
            Region { name: name.into(), summary: String::new(), anchor: Anchor::Attention, graph: graph.clone() };
        assert!(region.verify().is_err() && region.attention().is_none(), "{name}");
        let fused = run(&graph, &qkv(DType::F16, &[2, 12, 8]), "sm_90a", Numerics::Reassoc);
        assert_eq!((fused.report.kernels, attentions(&fused).len()), (3, 1), "{}", kernels(&fused).join("\n"));
    }
}

/// Weights that are other than `exp(x - max) / sum`: whatever is an exponential of the score times something of the row streams.
#[test]
fn other_ways_to_weigh() {
    let shape = dims(&[2, 6, 8]);
    let spec = |lhs: &str, rhs: &str, out: &str| {
        let [lhs, rhs, out] = [lhs, rhs, out].map(|labels| labels.chars().collect());
        EinsumSpec { lhs, rhs, out }
    };
    let scores = |b: &mut Builder, dtype: DType| -> Result<(ValueId, ValueId)> {
        let [q, k, v] = inputs(b, dtype, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
        Ok((b.contract(spec("nqd", "nkd", "nqk"), q, k, DType::F32, DType::F32)?, v))
    };
    let powers = |b: &mut Builder, x: ValueId| -> Result<[ValueId; 2]> {
        let peak = b.reduce_max(x, &[-1], true)?;
        let x = b.sub(x, peak)?;
        let e = b.exp(x)?;
        Ok([e, b.sum(e, &[-1], true)?])
    };
    let weighed = |b: &mut Builder, p: ValueId, v: ValueId, dtype: DType| {
        let p = b.cast(p, dtype)?;
        b.contract(spec("nqk", "nkd", "nqd"), p, v, DType::F32, DType::F32)
    };
    for dtype in FLOATS {
        let data = qkv(dtype, &[2, 6, 8]);
        let halved = graph("halved", |b| {
            let (x, v) = scores(b, dtype)?;
            let p = b.softmax(x, -1)?;
            let p = b.mul_scalar(p, 0.5)?;
            weighed(b, p, v, dtype)
        });
        streams(&halved, &data);
        let by_logarithm = graph("by_logarithm", |b| {
            let (x, v) = scores(b, dtype)?;
            let p = b.log_softmax(x, -1)?;
            let p = b.exp(p)?;
            weighed(b, p, v, dtype)
        });
        streams(&by_logarithm, &data);
        let shared = graph("total_of_a_row_beside", |b| {
            let (x, v) = scores(b, dtype)?;
            let weight = b.input("weight", DType::F32, &dims(&[2, 6, 1]))?;
            let [e, sum] = powers(b, x)?;
            let sum = b.plus(sum, weight)?;
            let p = b.div(e, sum)?;
            let p = b.mul(p, weight)?;
            weighed(b, p, v, dtype)
        });
        let weight = Tensor::generate(DType::F32, &[2, 6, 1], |i| 0.5 + 0.1 * i as f64).unwrap();
        streams(&shared, &[&data[..], &[weight]].concat());
        let divided_after = graph("divided_after", |b| {
            let (x, v) = scores(b, dtype)?;
            let [e, sum] = powers(b, x)?;
            let y = weighed(b, e, v, dtype)?;
            b.div(y, sum)
        });
        streams(&divided_after, &data);
    }
}

#[test]
fn what_is_no_attention() {
    let shape = dims(&[2, 6, 8]);
    let data = |dtype| qkv(dtype, &[2, 6, 8]);
    let plain = |dtype| {
        graph("plain", |b| {
            let [q, k, v] = inputs(b, dtype, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
            b.attention(q, k, v, None, None, None)
        })
    };
    illegal(&plain(DType::F64), &data(DType::F64));
    parts_stay_apart(&plain(DType::BF16), &data(DType::BF16), "sm_75");
    for dtype in [DType::F16, DType::F32] {
        assert_eq!(attentions(&run(&plain(dtype), &data(dtype), "sm_75", Numerics::Reassoc)).len(), 1);
    }
    // What becomes of the scores between the contractions: nothing but a softmax is legal.
    let with = |name: &str, between: fn(&mut Builder, ValueId) -> Result<ValueId>| {
        let graph = graph(name, |b| {
            let [q, k, v] = inputs(b, DType::F16, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
            let x = b.einsum("nqd,nkd->nqk", &[q, k])?;
            let p = between(b, x)?;
            b.einsum("nqk,nkd->nqd", &[p, v])
        });
        illegal(&graph, &data(DType::F16));
    };
    with("other_axis", |b, x| b.softmax(x, 1));
    with("both_axes", |b, x| {
        let x = b.reshape(x, &dims(&[2, 36]))?;
        let x = b.softmax(x, -1)?;
        b.reshape(x, &dims(&[2, 6, 6]))
    });
    with("shared", |b, x| {
        let p = b.softmax(x, -1)?;
        b.output("weights", p);
        Ok(p)
    });
    with("twice", |b, x| {
        let x = b.softmax(x, -1)?;
        b.softmax(x, -1)
    });
    with("turned", |b, x| {
        let x = b.transpose(x, &[0, 2, 1])?;
        b.softmax(x, 1)
    });
    with("gated", |b, x| {
        let p = b.softmax(x, -1)?;
        let gate = b.sigmoid(x)?;
        b.mul(p, gate)
    });
    with("sum_of_all", |b, x| {
        let e = b.exp(x)?;
        let sum = b.sum(e, &[-1], true)?;
        b.div(e, sum)
    });
}

#[test]
fn heads_that_no_kernel_can_keep() {
    for (size, value) in [(264, 8), (8, 264)] {
        let graph = graph("wide", |b| {
            let [q, k, v] =
                inputs(b, DType::F16, [("q", &dims(&[3, size])), ("k", &dims(&[4, size])), ("v", &dims(&[4, value]))])?;
            b.attention(q, k, v, None, None, None)
        });
        let data =
            [random(DType::F16, &[3, size], 1), random(DType::F16, &[4, size], 2), random(DType::F16, &[4, value], 3)];
        illegal(&graph, &data);
    }
    let graph = graph("symbolic", |b| {
        let shape = [6.into(), Dim::sym("D")];
        let [q, k, v] = inputs(b, DType::F16, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
        b.attention(q, k, v, None, Some(0.25), None)
    });
    illegal(&graph, &qkv(DType::F16, &[6, 16]));
}

#[test]
fn keys_and_values_of_different_types() {
    let graph = graph("mixed", |b| {
        let shape = dims(&[6, 8]);
        let [q, k] = inputs(b, DType::BF16, ["q", "k"].map(|n| (n, &shape[..])))?;
        let v = b.input("v", DType::F16, &shape)?;
        let x = b.einsum("qd,kd->qk", &[q, k])?;
        let x = b.cast(x, DType::F32)?;
        let p = b.softmax(x, -1)?;
        let p = b.cast(p, DType::F16)?;
        b.matmul(p, v)
    });
    let data = [&qkv(DType::BF16, &[6, 8])[..2], &[random(DType::F16, &[6, 8], 4)]].concat();
    illegal(&graph, &data);
}

#[test]
fn other_uses_of_the_scores() {
    let shape = dims(&[2, 8, 8]);
    let data = qkv(DType::F16, &[2, 8, 8]);
    let values_are_scores = graph("values_are_scores", |b| {
        let [q, k] = inputs(b, DType::F16, ["q", "k"].map(|n| (n, &shape[..])))?;
        let x = b.einsum("nqd,nkd->nqk", &[q, k])?;
        let p = b.softmax(x, -1)?;
        b.einsum("nqk,nkd->nqd", &[p, x])
    });
    illegal(&values_are_scores, &data[..2]);
    let epilogue_reads_scores = graph("epilogue_reads_scores", |b| {
        let [q, k, v] = inputs(b, DType::F16, ["q", "k", "v"].map(|n| (n, &shape[..])))?;
        let x = b.einsum("nqd,nkd->nqk", &[q, k])?;
        let p = b.softmax(x, -1)?;
        let y = b.einsum("nqk,nkd->nqd", &[p, v])?;
        b.plus(y, x)
    });
    illegal(&epilogue_reads_scores, &data);
}

#[test]
fn causal_masks_of_fixed_sizes_stay_functions_of_positions() {
    let shape = dims(&[2, 160, 64]);
    let graph = graph("causal", |b| {
        let [q, k, v] = inputs(b, DType::F16, [("q", &shape), ("k", &shape), ("v", &shape)])?;
        b.attention(q, k, v, None, None, Some(&Dim::from(0)))
    });
    let region = streams(&graph, &qkv(DType::F16, &[2, 160, 64]));
    assert_eq!(region.graph.inputs.len(), 3);
    assert!(region.graph.nodes.iter().any(|n| matches!(n.op, Op::Iota { .. })));
}

#[test]
fn few_rows_over_many_keys_are_one_kernel_too() {
    let decode = |rows: usize| {
        let graph = graph("decode", |b| {
            let (few, many) = (dims(&[8, rows, 64]), dims(&[8, 4096, 64]));
            let [q, k, v] = inputs(b, DType::BF16, [("q", &few), ("k", &many), ("v", &many)])?;
            b.attention(q, k, v, None, None, None)
        });
        attentions(&kiln_fuse::fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap()).len()
    };
    assert_eq!((decode(4), decode(512)), (1, 1));
}

#[test]
fn heads_equal_by_a_constraint_only() {
    let graph = graph("constrained", |b| {
        let rows = [Dim::from(2), Dim::sym("S"), Dim::from(64)];
        let keys = [Dim::from(2), Dim::sym("T"), Dim::sym("D")];
        let values = [Dim::from(2), Dim::sym("T"), Dim::from(64)];
        let [q, k, v] = inputs(b, DType::F16, [("q", &rows), ("k", &keys), ("v", &values)])?;
        b.attention(q, k, v, None, None, None)
    });
    let inputs =
        [random(DType::F16, &[2, 40, 64], 1), random(DType::F16, &[2, 70, 64], 2), random(DType::F16, &[2, 70, 64], 3)];
    assert!(attentions(&run(&graph, &inputs, "sm_90a", Numerics::Reassoc)).is_empty());
}
