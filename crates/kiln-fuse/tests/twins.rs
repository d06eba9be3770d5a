//! Products that share an operand are one kernel where a GPU makes both, and apart where they differ in more than the other operand.

use crate::common::{check, kernels, options};
use kiln_fuse::{Anchor, Fused, Numerics, Region};
use kiln_graph::{Attending, Builder, DType, Dim, EinsumSpec, Graph, Op, Result, Tensor, ValueId};

const GPUS: [&str; 3] = ["sm_75", "sm_80", "sm_90a"];

fn spec(text: &str) -> EinsumSpec {
    let labels = |text: &str| text.chars().collect();
    let (left, out) = text.split_once("->").unwrap();
    let (lhs, rhs) = left.split_once(',').unwrap();
    EinsumSpec { lhs: labels(lhs), rhs: labels(rhs), out: labels(out) }
}

/// A graph with inputs of these shapes, and random data for them.
fn model(
    dtype: DType,
    shapes: &[&[usize]],
    make: impl FnOnce(&mut Builder, &[ValueId]) -> Result<Vec<ValueId>>,
) -> (Graph, Vec<Tensor>) {
    let mut b = Builder::new("twins");
    let input =
        |b: &mut Builder, (i, shape): (usize, &&[usize])| b.input(&format!("x{i}"), dtype, &crate::common::dims(shape));
    let inputs: Vec<ValueId> = shapes.iter().enumerate().map(|at| input(&mut b, at).unwrap()).collect();
    for (i, y) in make(&mut b, &inputs).unwrap().into_iter().enumerate() {
        b.output(format!("y{i}"), y);
    }
    let data = (1..).zip(shapes).map(|(seed, shape)| Tensor::random(dtype, shape, seed).unwrap()).collect();
    (b.finish(), data)
}

/// The plan for a target, whose results are the graph's.
fn fused((graph, inputs): &(Graph, Vec<Tensor>), target: &str, numerics: Numerics) -> Fused {
    check(graph, inputs, &options(target, numerics), 1e-2)
}

fn twins(fused: &Fused) -> Vec<&Region> {
    let several = |region: &&Region| region.anchor == Anchor::Contract && region.anchors().len() > 1;
    fused.plan.regions.iter().filter(several).collect()
}

/// Checks that no two products are one kernel, and how many kernels there are.
fn apart(model: &(Graph, Vec<Tensor>), target: &str, count: usize) {
    let found = fused(model, target, Numerics::Reassoc);
    let names = kernels(&found).join("\n");
    assert!(twins(&found).is_empty() && found.report.kernels == count, "{target}: {names}");
}

/// `down(silu(gate x) * up x)`.
fn swiglu(dtype: DType) -> (Graph, Vec<Tensor>) {
    model(dtype, &[&[9, 48], &[80, 48], &[80, 48], &[48, 80]], |b, x| {
        let (gate, up) = (b.linear(x[0], x[1], None, true)?, b.linear(x[0], x[2], None, true)?);
        let gate = b.silu(gate)?;
        let y = b.mul(gate, up)?;
        Ok(vec![b.linear(y, x[3], None, true)?])
    })
}

#[test]
fn a_gated_layer_is_two_kernels() {
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let model = swiglu(dtype);
        for numerics in [Numerics::Exact, Numerics::Reassoc] {
            for target in GPUS {
                let found = fused(&model, target, numerics);
                assert_eq!(found.report.kernels, 2, "{dtype}, {target}: {:?}", kernels(&found));
                let [region] = twins(&found)[..] else { panic!("{dtype}, {target}: {:?}", kernels(&found)) };
                region.verify().unwrap();
                assert_eq!(region.graph.inputs.len(), 3, "what both multiply is one operand");
            }
            let found = fused(&model, "cpu", numerics);
            assert!(twins(&found).is_empty() && found.report.kernels == 3, "{dtype}: {:?}", kernels(&found));
        }
    }
}

/// Queries, keys and values of a few heads, of which queries and keys are turned.
fn rotary(dtype: DType, [tokens, heads, size]: [usize; 3], interleaved: bool, bias: bool) -> (Graph, Vec<Tensor>) {
    model(dtype, &[&[tokens, 24], &[tokens, size / 2], &[tokens, size / 2]], |b, x| {
        let mut all = vec![];
        for (seed, (name, n)) in (1..).zip([("q", heads), ("k", 2), ("v", 3)]) {
            let w = b.weight_data(name, Tensor::random(dtype, &[n * size, 24], seed)?)?;
            let beside = match bias {
                true => Some(b.weight_data(&format!("{name}.bias"), Tensor::random(dtype, &[n * size], seed + 9)?)?),
                false => None,
            };
            let y = b.linear(x[0], w, beside, true)?;
            let y = b.reshape(y, &crate::common::dims(&[tokens, n, size]))?;
            let y = b.transpose(y, &[1, 0, 2])?;
            all.push(if name == "v" { y } else { b.rope(y, x[1], x[2], interleaved, None)? });
        }
        Ok(all)
    })
}

#[test]
fn a_rotary_embedding_is_part_of_the_product() {
    for (n, dtype) in [DType::F16, DType::BF16, DType::F32].into_iter().cycle().take(6).enumerate() {
        let size = [[1, 5, 8], [7, 3, 6], [129, 4, 16]][n % 3];
        let model = rotary(dtype, size, n % 2 == 1, n > 2);
        for numerics in [Numerics::Exact, Numerics::Reassoc] {
            for target in GPUS {
                let found = fused(&model, target, numerics);
                assert_eq!((found.report.kernels, twins(&found).len()), (1, 1), "{target}: {:?}", kernels(&found));
                let region = twins(&found)[0];
                region.verify().unwrap();
                assert_eq!(region.graph.outputs.len(), 3, "queries, keys and values");
                // Both products of all heads, values among them.
                assert!(region.graph.nodes.iter().any(|node| matches!(node.op, Op::Select)));
            }
            let found = fused(&model, "cpu", numerics);
            assert!(twins(&found).is_empty(), "{dtype}: {:?}", kernels(&found));
        }
    }
}

/// Attention reads queries, keys and values as parts of what one kernel makes, though each could be had otherwise.
#[test]
fn attention_reads_what_is_turned_in_place() {
    let f = DType::F16;
    for (n, bias) in [(1, false), (3, true), (4, false)] {
        let model = model(f, &[&[13, 40], &[13, 8], &[13, 8]], |b, x| {
            let mut all = vec![];
            for (seed, (name, n)) in (1..).zip([("q", 2 * n), ("k", n), ("v", n)]) {
                let w = b.weight_data(name, Tensor::random(f, &[n * 16, 40], seed)?)?;
                let beside = match bias {
                    true => Some(b.weight_data(&format!("{name}.bias"), Tensor::random(f, &[n * 16], seed + 9)?)?),
                    false => None,
                };
                let y = b.linear(x[0], w, beside, true)?;
                let y = b.reshape(y, &crate::common::dims(&[13, n, 16]))?;
                let y = b.transpose(y, &[1, 0, 2])?;
                all.push(if name == "v" { y } else { b.rope(y, x[1], x[2], false, None)? });
            }
            Ok(vec![b.attention_with(all[0], all[1], all[2], &Attending { causal: true, ..Attending::default() })?])
        });
        for target in ["sm_80", "sm_90a"] {
            let found = fused(&model, target, Numerics::Reassoc);
            assert_eq!((found.report.kernels, twins(&found).len()), (2, 1), "{target}: {:?}", kernels(&found));
        }
    }
}

/// A gate and what it gates as halves of one product.
#[test]
fn a_gated_layer_of_one_projection_is_two_kernels() {
    for dtype in [DType::F16, DType::F32] {
        let model = model(dtype, &[&[9, 48]], |b, x| {
            let w = b.weight_data("gate_up", Tensor::random(dtype, &[160, 48], 3)?)?;
            let bias = b.weight_data("bias", Tensor::random(dtype, &[160], 4)?)?;
            let both = b.linear(x[0], w, Some(bias), true)?;
            let parts = b.split_evenly(both, -1, 2)?;
            let gate = b.silu(parts[0])?;
            let y = b.mul(gate, parts[1])?;
            let w = b.weight_data("down", Tensor::random(dtype, &[48, 80], 5)?)?;
            Ok(vec![b.linear(y, w, None, true)?])
        });
        for target in GPUS {
            let found = fused(&model, target, Numerics::Exact);
            assert_eq!((found.report.kernels, twins(&found).len()), (2, 1), "{target}: {:?}", kernels(&found));
        }
    }
}

/// A gated pointwise convolution: the image is the right operand of both products.
#[test]
fn the_right_operand_may_be_what_is_shared() {
    let model = model(DType::F16, &[&[40, 24], &[40, 24], &[3, 24, 30]], |b, x| {
        let mut product = |w: ValueId| b.contract(spec("oc,ncp->nop"), w, x[2], DType::F32, DType::F16);
        let (gate, up) = (product(x[0])?, product(x[1])?);
        let gate = b.sigmoid(gate)?;
        Ok(vec![b.mul(gate, up)?])
    });
    for target in GPUS {
        let found = fused(&model, target, Numerics::Reassoc);
        assert_eq!((found.report.kernels, twins(&found).len()), (1, 1), "{target}: {:?}", kernels(&found));
    }
}

#[test]
fn products_that_differ_in_more_stay_apart() {
    let f = DType::F16;
    let gated = |b: &mut Builder, gate: ValueId, up: ValueId| {
        let gate = b.silu(gate)?;
        Ok(vec![b.mul(gate, up)?])
    };
    // Other left operands.
    let left = model(f, &[&[9, 48], &[9, 48], &[80, 48], &[80, 48]], |b, x| {
        let (gate, up) = (b.linear(x[0], x[2], None, true)?, b.linear(x[1], x[3], None, true)?);
        gated(b, gate, up)
    });
    // Weights that lie in other ways.
    let lies = model(f, &[&[9, 48], &[80, 48], &[48, 80]], |b, x| {
        let (gate, up) = (b.linear(x[0], x[1], None, true)?, b.linear(x[0], x[2], None, false)?);
        gated(b, gate, up)
    });
    // Sums in f64, of which registers hold half as many.
    let wide = model(DType::F64, &[&[9, 48], &[80, 48], &[80, 48]], |b, x| {
        let (gate, up) = (b.linear(x[0], x[1], None, true)?, b.linear(x[0], x[2], None, true)?);
        gated(b, gate, up)
    });
    // One that is seen transposed.
    let turned = model(f, &[&[64, 48], &[64, 48], &[64, 48]], |b, x| {
        let (gate, up) = (b.linear(x[0], x[1], None, true)?, b.linear(x[0], x[2], None, true)?);
        let up = b.relu(up)?;
        let up = b.transpose(up, &[1, 0])?;
        gated(b, gate, up)
    });
    for target in ["sm_80", "sm_90a"] {
        for model in [&left, &lies, &wide, &turned] {
            apart(model, target, 2);
        }
    }
    // One result a row, which reaches the others through memory.
    let column = model(f, &[&[9, 48], &[80, 48], &[1, 48]], |b, x| {
        let (gate, up) = (b.linear(x[0], x[1], None, true)?, b.linear(x[0], x[2], None, true)?);
        let shape = b.shape(gate).to_vec();
        let up = b.broadcast_to(up, &shape)?;
        gated(b, gate, up)
    });
    apart(&column, "sm_90a", 2);
}

/// Registers hold the sums of two: a third product is a kernel of its own.
#[test]
fn no_more_than_two_are_together() {
    let model = model(DType::F16, &[&[9, 48], &[80, 48], &[80, 48], &[80, 48]], |b, x| {
        let [p, q, r] = [1, 2, 3].map(|i| b.linear(x[0], x[i], None, true));
        let y = b.mul(p?, q?)?;
        Ok(vec![b.mul(y, r?)?])
    });
    let found = fused(&model, "sm_90a", Numerics::Exact);
    assert_eq!((found.report.kernels, twins(&found).len()), (2, 1), "{:?}", kernels(&found));
}

/// Products of one operand and nothing that sees both: each has a result of its own.
fn region(make: impl FnOnce(&mut Builder, ValueId, [ValueId; 2]) -> Result<Vec<ValueId>>) -> Region {
    let mut b = Builder::new("twins");
    let x = b.input("x", DType::F16, &crate::common::dims(&[16, 16])).unwrap();
    let weights = ["v", "w"].map(|name| b.input(name, DType::F16, &crate::common::dims(&[16, 16])).unwrap());
    for (i, y) in make(&mut b, x, weights).unwrap().into_iter().enumerate() {
        b.output(format!("y{i}"), y);
    }
    let (name, summary) = ("twins".to_owned(), "two products".to_owned());
    Region { name, summary, anchor: Anchor::Contract, graph: b.finish() }
}

/// What follows on values side by side, and on the products.
type Behind<'a> = dyn Fn(&mut Builder, ValueId, [ValueId; 2]) -> Result<Vec<ValueId>> + 'a;

#[test]
fn what_is_legal() {
    let f = DType::F16;
    let product = |b: &mut Builder, text: &str, x, w, acc| b.contract(spec(text), x, w, acc, f);
    let both = |texts: [&'static str; 2], accs: [DType; 2]| {
        region(|b, x, w| {
            let p = product(b, texts[0], x, w[0], accs[0])?;
            let q = product(b, texts[1], x, w[1], accs[1])?;
            Ok(vec![b.mul(p, q)?])
        })
    };
    let (sum, text) = (DType::F32, "mk,kn->mn");
    both([text; 2], [sum; 2]).verify().unwrap();
    region(|b, x, w| Ok(vec![product(b, text, x, w[0], sum)?, product(b, text, x, w[1], sum)?])).verify().unwrap();
    let refused = |region: Region, why: &str| {
        let said = region.verify().unwrap_err();
        assert!(said.contains(why), "{said}");
    };
    refused(both([text, "mk,nk->mn"], [sum; 2]), "no twins");
    refused(both([text; 2], [sum, f]), "no twins");
    refused(both([text; 2], [f; 2]), "no twins");
    refused(
        region(|b, x, w| {
            let p = product(b, text, x, w[0], sum)?;
            let q = product(b, text, w[0], w[1], sum)?;
            Ok(vec![b.mul(p, q)?])
        }),
        "no twins",
    );
    // One weight is converted on the way.
    refused(
        region(|b, x, w| {
            let p = product(b, text, x, w[0], sum)?;
            let bytes = b.input("bytes", DType::I8, &crate::common::dims(&[16, 16]))?;
            let converted = b.cast(bytes, f)?;
            let q = product(b, text, x, converted, sum)?;
            Ok(vec![b.mul(p, q)?])
        }),
        "no twins",
    );
    refused(
        region(|b, x, w| {
            let p = product(b, text, x, w[0], sum)?;
            let q = product(b, text, x, w[1], sum)?;
            let q = b.transpose(q, &[1, 0])?;
            Ok(vec![b.mul(p, q)?])
        }),
        "at two places",
    );
    // Values side by side, and parts as results.
    let joined = |behind: &Behind<'_>| {
        region(|b, x, w| {
            let p = product(b, text, x, w[0], sum)?;
            let q = product(b, text, x, w[1], sum)?;
            let y = b.mul(p, q)?;
            let c = b.concat(&[p, y], 1)?;
            behind(b, c, [p, q])
        })
    };
    let row =
        |b: &mut Builder, y: ValueId, start: i64, step: i64| b.slice_axis(y, 0, &Dim::from(start), &Dim::from(3), step);
    joined(&|_, c, _| Ok(vec![c])).verify().unwrap();
    joined(&|b, c, _| {
        let y = b.reshape(c, &crate::common::dims(&[4, 4, 32]))?;
        Ok(vec![b.transpose(y, &[1, 0, 2])?])
    })
    .verify()
    .unwrap();
    joined(&|b, c, _| Ok(vec![row(b, c, 0, 1)?, row(b, c, 3, 1)?, c])).verify().unwrap();
    refused(joined(&|b, c, _| Ok(vec![row(b, c, 0, 2)?])), "elementwise ops, permutes and reshapes");
    refused(joined(&|b, c, _| Ok(vec![b.exp(c)?])), "at two places");
    refused(joined(&|_, c, [p, _]| Ok(vec![c, p])), "under different views");
    refused(joined(&|b, c, _| Ok(vec![b.concat(&[c, c], 0)?])), "at two places");
    refused(
        joined(&|b, c, _| {
            let y = row(b, c, 0, 1)?;
            Ok(vec![b.exp(y)?])
        }),
        "at two places",
    );
    refused(joined(&|b, _, [p, q]| Ok(vec![b.concat(&[p, q, p], 1)?])), "elementwise ops, permutes and reshapes");
    refused(
        joined(&|b, _, [p, q]| {
            let q = b.transpose(q, &[1, 0])?;
            Ok(vec![b.concat(&[p, q], 1)?])
        }),
        "at two places",
    );
    refused(
        region(|b, x, w| {
            let p = product(b, text, x, w[0], sum)?;
            Ok(vec![b.concat(&[p, p], 1)?])
        }),
        "elementwise ops, permutes and reshapes",
    );
    // One behind the other, with no softmax between.
    refused(
        region(|b, x, w| {
            let p = product(b, text, x, w[0], sum)?;
            Ok(vec![product(b, text, p, w[1], sum)?])
        }),
        "no exponentials of scores",
    );
    refused(
        region(|b, x, w| {
            let p = product(b, text, x, w[0], sum)?;
            let q = product(b, text, x, w[1], sum)?;
            let r = product(b, text, x, x, sum)?;
            let y = b.mul(p, q)?;
            Ok(vec![b.mul(y, r)?])
        }),
        "two anchors",
    );
}
