//! Damaged models: an error each time, never a panic, and never more work than the file's size explains.

use super::*;
use kiln_graph::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tensor_proto::DataType;

/// Small models that between them go through the decoder, functions, subgraphs, folding and most operator families.
fn seeds() -> Vec<ModelProto> {
    let vision = model(graph(
        vec![f32_input("x", &[D::Name("N"), D::Size(2), D::Size(8), D::Size(8)])],
        vec![
            floats("w", &[4, 2, 3, 3], &[0.5; 72]),
            floats("b", &[4], &[0.1; 4]),
            longs("pads", &[8], &[0, 0, 1, 1, 0, 0, 1, 1]),
            floats("scales", &[4], &[1.0, 1.0, 2.0, 1.5]),
            longs("axes", &[2], &[2, 3]),
            longs("split", &[2], &[1, 3]),
        ],
        vec![
            node("Pad", &["x", "pads"], &["p"], vec![text("mode", "reflect")]),
            node(
                "Conv",
                &["p", "w", "b"],
                &["c"],
                vec![ints("strides", &[2, 2]), ints("dilations", &[1, 1]), int("group", 1)],
            ),
            node(
                "MaxPool",
                &["c"],
                &["m"],
                vec![ints("kernel_shape", &[2, 2]), ints("strides", &[1, 1]), int("ceil_mode", 1)],
            ),
            node("AveragePool", &["m"], &["a"], vec![ints("kernel_shape", &[2, 2]), text("auto_pad", "SAME_UPPER")]),
            node("Resize", &["a", "", "scales"], &["r"], vec![text("mode", "linear")]),
            node("ConvTranspose", &["r", "w"], &["t"], vec![ints("strides", &[2, 1]), ints("output_padding", &[1, 0])]),
            node("ReduceMean", &["r", "axes"], &["g"], vec![int("keepdims", 0)]),
            node("Split", &["g", "split"], &["s1", "s2"], vec![int("axis", 1)]),
            node("Softmax", &["s2"], &["y"], vec![int("axis", -1)]),
            node("TopK", &["y", "k"], &["v", "i"], vec![int("axis", 1)]),
            node("LRN", &["r"], &["n"], vec![int("size", 3), float("alpha", 0.1)]),
        ],
        &["v", "i", "t", "n", "s1"],
    ));
    let mut vision = vision;
    if let Some(g) = &mut vision.graph {
        g.initializer.push(longs("k", &[1], &[2]));
    }
    let sequence = model(graph(
        vec![f32_input("x", &[D::Name("S"), D::Name("B"), D::Size(3)]), info("flag", DataType::Bool, &[])],
        vec![
            floats("w", &[1, 16, 3], &[0.1; 48]),
            floats("r", &[1, 16, 4], &[0.1; 64]),
            longs("idx", &[2], &[-1, 0]),
            longs("starts", &[2], &[1, -3]),
            longs("ends", &[2], &[9223372036854775807, -1]),
            longs("axes", &[2], &[0, 2]),
            longs("minus", &[3], &[0, -1, 4]),
            longs("trips", &[], &[5]),
        ],
        vec![
            node("LSTM", &["x", "w", "r"], &["y", "h", "c"], vec![int("hidden_size", 4), text("direction", "reverse")]),
            node("Slice", &["y", "starts", "ends", "axes"], &["cut"], vec![]),
            node("Gather", &["h", "idx"], &["at"], vec![int("axis", 2)]),
            node("Reshape", &["h", "minus"], &["flat"], vec![]),
            node("Einsum", &["flat", "flat"], &["e"], vec![text("equation", "bij,bkj->bik")]),
            node("CumSum", &["e", "trips"], &["bad"], vec![]),
            node(
                "If",
                &["flag"],
                &["z"],
                vec![
                    body("then_branch", graph(vec![], vec![], vec![node("Neg", &["e"], &["q"], vec![])], &["q"])),
                    body("else_branch", graph(vec![], vec![], vec![node("Abs", &["e"], &["q"], vec![])], &["q"])),
                ],
            ),
        ],
        &["z", "cut", "at"],
    ));
    let attention = {
        let mut m = model(graph(
            vec![f32_input("q", &[D::Name("B"), D::Size(6), D::Size(8)]), info("ids", DataType::Int64, &[D::Size(1)])],
            vec![
                floats("scale", &[8], &[1.0; 8]),
                floats("s", &[], &[0.5]),
                longs("shape", &[3], &[0, 2, -1]),
                longs("depth", &[], &[5]),
                floats("values", &[2], &[0.0, 1.0]),
                longs("repeats", &[3], &[1, 2, 1]),
            ],
            vec![
                NodeProto {
                    domain: Some("local".into()),
                    ..node("Norm", &["q", "scale"], &["n"], vec![float("eps", 0.1)])
                },
                node(
                    "Attention",
                    &["n", "n", "n"],
                    &["a"],
                    vec![int("q_num_heads", 2), int("kv_num_heads", 2), int("is_causal", 1)],
                ),
                node("QuantizeLinear", &["a", "s"], &["u"], vec![]),
                node("DequantizeLinear", &["u", "s"], &["d"], vec![]),
                node("Shape", &["d"], &["dims"], vec![int("start", -2)]),
                node("ConstantOfShape", &["dims"], &["zeros"], vec![]),
                node("OneHot", &["ids", "depth", "values"], &["hot"], vec![int("axis", -1)]),
                node("Tile", &["d", "repeats"], &["wide"], vec![]),
                node("Reshape", &["wide", "shape"], &["y"], vec![]),
            ],
            &["y", "hot", "zeros"],
        ));
        let eps = AttributeProto {
            name: Some("epsilon".into()),
            ref_attr_name: Some("eps".into()),
            r#type: Some(AttributeType::Float as i32),
            ..AttributeProto::default()
        };
        m.functions = vec![FunctionProto {
            name: Some("Norm".into()),
            domain: Some("local".into()),
            input: vec!["a".into(), "b".into()],
            output: vec!["c".into()],
            attribute: vec!["eps".into()],
            node: vec![node("LayerNormalization", &["a", "b"], &["c"], vec![eps])],
            opset_import: vec![opset("", 23)],
            ..FunctionProto::default()
        }];
        m.opset_import = vec![opset("", 23), opset("local", 1)];
        m
    };
    vec![vision, sequence, attention]
}

/// Damages one place or a few.
fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.next_u64() % 3 {
        if bytes.is_empty() {
            return;
        }
        let at = (rng.next_u64() % bytes.len() as u64) as usize;
        match rng.next_u64() % 12 {
            0 => bytes.truncate(at),
            1 => {
                // A length or value that claims nearly everything.
                let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
                bytes.splice(at..at + 1, huge);
            }
            2 => {
                let end = (at + 1 + (rng.next_u64() % 16) as usize).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => {
                let end = (at + 1 + (rng.next_u64() % 16) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            4 | 5 => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][(rng.next_u64() % 6) as usize],
            6 | 7 => bytes[at] = bytes[at].wrapping_add(1),
            8 => bytes[at] = bytes[at].wrapping_sub(1),
            9 => bytes[at] ^= 1 << (rng.next_u64() % 8),
            _ => bytes[at] = rng.next_u64() as u8,
        }
    }
}

#[test]
fn undamaged_seeds_reach_the_operators() {
    for (i, seed) in seeds().iter().enumerate() {
        // The sequence model has one node that the specification refuses, so that errors are mutated too.
        let outcome = import(seed);
        match i {
            1 => assert!(outcome.unwrap_err().to_string().contains("CumSum")),
            _ => assert!(outcome.is_ok(), "seed {i}: {}", outcome.unwrap_err()),
        }
    }
}

#[test]
fn thousands_of_mutations_never_panic() {
    let seeds: Vec<Vec<u8>> = seeds().iter().map(Message::encode_to_vec).collect();
    let mut rng = Rng::new(0x0dd5_eed5);
    let mut refused = 0;
    for round in 0..6000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        mutate(&mut bytes, &mut rng);
        let length = bytes.len();
        let copy = bytes.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| import_bytes(bytes.into(), &Options::default())));
        match outcome {
            Ok(Ok(graph)) => {
                // Nothing in a graph grows with what a number in the file merely claims.
                let stored: usize = graph.weights.values().map(|t| t.data().len()).sum();
                assert!(stored <= (1 << 20) + 8 * length, "{stored} bytes of weights from {length}");
                assert!(graph.nodes.len() < 20_000, "{} nodes from {length} bytes", graph.nodes.len());
            }
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("round {round} panics on {copy:02x?}"),
        }
    }
    assert!(refused > 3000, "only {refused} mutations were refused: they do not reach anything");
}

#[test]
fn claims_without_bytes_are_refused() {
    // A weight of 2^60 elements with 4 bytes.
    let nodes = vec![node("Add", &["x", "w"], &["y"], vec![])];
    let w = floats("w", &[1 << 30, 1 << 30], &[1.0]);
    let m = model(graph(vec![f32_input("x", &[D::Size(1)])], vec![w], nodes, &["y"]));
    assert!(import(&m).unwrap_err().to_string().contains("tensor `w`"));
    // A fill of 2^62 elements is a shape, not memory.
    let nodes = vec![node("ConstantOfShape", &["s"], &["y"], vec![])];
    let m = model(graph(vec![], vec![longs("s", &[2], &[1 << 31, 1 << 31])], nodes, &["y"]));
    let g = import(&m).unwrap();
    assert!(g.weights.is_empty());
    // Each function calls the one before twice: 2^40 nodes from a few hundred bytes.
    let call =
        |name: String, a: &str, b: &str| NodeProto { domain: Some("f".into()), ..node(&name, &[a], &[b], vec![]) };
    let function = |i: usize| FunctionProto {
        name: Some(format!("f{i}")),
        domain: Some("f".into()),
        input: vec!["a".into()],
        output: vec!["c".into()],
        node: if i == 0 {
            vec![node("Relu", &["a"], &["c"], vec![])]
        } else {
            vec![call(format!("f{}", i - 1), "a", "b"), call(format!("f{}", i - 1), "b", "c")]
        },
        opset_import: vec![opset("", 21), opset("f", 1)],
        ..FunctionProto::default()
    };
    let mut m = model(graph(vec![f32_input("x", &[D::Size(1)])], vec![], vec![call("f40".into(), "x", "y")], &["y"]));
    m.functions = (0..=40).map(function).collect();
    m.opset_import.push(opset("f", 1));
    assert!(import(&m).unwrap_err().to_string().contains("expand without end"));
}

#[test]
fn messages_nested_without_end_are_refused() {
    // Each graph attribute holds a graph with one node with a graph attribute.
    let mut g = graph(vec![], vec![], vec![], &[]);
    for _ in 0..200 {
        g = graph(vec![], vec![], vec![node("If", &["c"], &["y"], vec![body("then_branch", g)])], &[]);
    }
    assert!(import(&model(g)).unwrap_err().to_string().contains("malformed"));
}

/// Operators with a lowering, by family.
const OPERATORS: &str = "Identity Cast CastLike Where Clip Pow Mod BitShift IsInf Min Max Sum Mean Reciprocal Neg Abs Sign Ceil Round \
    Sqrt Exp Log Erf Not BitwiseNot IsNaN Add Sub Mul Div And Or Xor BitwiseAnd Equal Less GreaterOrEqual Relu Sigmoid HardSwish \
    Softplus LeakyRelu Elu Selu Celu HardSigmoid ThresholdedRelu Swish Shrink Gelu SwiGLU Dropout PRelu Softmax LogSoftmax Hardmax Shape \
    Size Constant ConstantOfShape Range EyeLike Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Concat Split Slice Pad \
    DepthToSpace SpaceToDepth CenterCropPad Trilu MatMul Gemm Einsum MatMulInteger QLinearMatMul Conv ConvTranspose ConvInteger \
    QLinearConv MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool BatchNormalization LayerNormalization \
    RMSNormalization InstanceNormalization GroupNormalization LpNormalization MeanVarianceNormalization LRN ReduceSum ReduceMean ReduceMax \
    ReduceL2 ReduceLogSumExp ReduceSumSquare ArgMax ArgMin CumSum CumProd TopK Gather GatherElements GatherND Scatter ScatterElements \
    ScatterND OneHot ReverseSequence TensorScatter Compress QuantizeLinear DequantizeLinear DynamicQuantizeLinear \
    NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss Attention RotaryEmbedding RNN GRU LSTM LinearAttention CausalConvWithState \
    GridSample AffineGrid HannWindow DFT Resize Upsample If Loop Scan";

const ATTRIBUTES: &str = "axis axes keepdims kernel_shape strides pads dilations group output_padding output_shape perm to dtype \
    p size blocksize num_heads q_num_heads kv_num_heads num_groups hidden_size batch_dims batch_axis time_axis block_size \
    num_outputs num_scan_inputs k largest alpha beta epsilon transA transB ceil_mode exclusive reverse select_last_index is_causal \
    rotary_embedding_dim interleaved left_window_size onesided inverse training_mode align_corners noop_with_empty_axes allowzero start end \
    layout direction mode equation auto_pad coordinate_transformation_mode reduction padding_mode value_ints split starts ends scales";

/// An attribute of any kind with a value that somebody might get wrong.
fn random_attribute(name: &'static str, rng: &mut Rng) -> AttributeProto {
    const NUMBERS: [i64; 14] = [0, 1, 2, 3, -1, -2, 4, 8, 1 << 20, 1 << 31, 1 << 40, i64::MAX, i64::MIN, -100];
    let mut number = || {
        let kinds = if rng.next_u64().is_multiple_of(4) { 14 } else { 6 };
        NUMBERS[(rng.next_u64() % kinds) as usize]
    };
    let list: Vec<i64> = (0..number().clamp(0, 4) + 1).map(|_| number()).collect();
    match number().rem_euclid(8) {
        0..=2 => int(name, number()),
        3..=5 => ints(name, &list),
        6 => float(name, [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-30, 2.0][number().rem_euclid(6) as usize]),
        _ => text(
            name,
            ["reverse", "bidirectional", "SAME_UPPER", "linear", "cubic", "ij,jk->ik", "...i,i", "", "reflect"]
                [number().rem_euclid(9) as usize],
        ),
    }
}

#[test]
fn random_nodes_never_panic() {
    let operators: Vec<&str> = OPERATORS.split_whitespace().collect();
    let attributes: Vec<&'static str> = ATTRIBUTES.split_whitespace().collect();
    let inputs = || {
        vec![
            f32_input("f0", &[]),
            f32_input("f1", &[D::Size(3)]),
            f32_input("f2", &[D::Name("N"), D::Size(4)]),
            f32_input("f3", &[D::Size(2), D::Size(4), D::Name("M")]),
            f32_input("f4", &[D::Size(1), D::Size(2), D::Size(6), D::Size(6)]),
            f32_input("none", &[D::Size(0), D::Size(3)]),
            info("u", DataType::Uint8, &[D::Size(2), D::Size(4)]),
            info("h", DataType::Float16, &[D::Size(2), D::Size(4)]),
            info("flag", DataType::Bool, &[]),
            info("ids", DataType::Int64, &[D::Name("N")]),
        ]
    };
    let constants = || {
        vec![
            longs("zero", &[], &[0]),
            longs("i1", &[1], &[-1]),
            longs("i2", &[2], &[2, -3]),
            longs("i4", &[4], &[0, 1, 9223372036854775807, -9223372036854775807]),
            longs("big", &[2], &[1 << 40, 1 << 40]),
            longs("empty", &[0], &[]),
            floats("c4", &[4], &[1.0, 2.0, 1.5, 0.25]),
            floats("w", &[4, 2, 3, 3], &[0.5; 72]),
            floats("m", &[4, 4], &[0.5; 16]),
        ]
    };
    let names: Vec<String> =
        inputs().iter().map(|i| i.name().to_owned()).chain(constants().iter().map(|t| t.name().to_owned())).collect();
    let mut rng = Rng::new(0xa11_0b5);
    let mut accepted = 0;
    for round in 0..30_000 {
        let op = operators[(rng.next_u64() % operators.len() as u64) as usize];
        let pick = |rng: &mut Rng| match rng.next_u64() % 12 {
            0 => "",
            _ => names[(rng.next_u64() % names.len() as u64) as usize].as_str(),
        };
        let arguments: Vec<&str> = (0..1 + rng.next_u64() % 5).map(|_| pick(&mut rng)).collect();
        let outputs = &["y", "y1", "y2"][..1 + (rng.next_u64() % 8 / 6) as usize];
        let given: Vec<AttributeProto> = (0..rng.next_u64() % 4)
            .map(|_| {
                let name = attributes[(rng.next_u64() % attributes.len() as u64) as usize];
                random_attribute(name, &mut rng)
            })
            .collect();
        let first = node(op, &arguments, outputs, given);
        // Whatever comes out goes on, so that strange shapes travel.
        let second =
            node(operators[(rng.next_u64() % operators.len() as u64) as usize], &["y", pick(&mut rng)], &["z"], vec![]);
        let mut m = model(graph(inputs(), constants(), vec![first, second], &["y"]));
        m.opset_import = vec![opset("", [7, 10, 13, 18, 23, 28][(rng.next_u64() % 6) as usize])];
        match catch_unwind(AssertUnwindSafe(|| import(&m).is_ok())) {
            Ok(ok) => accepted += usize::from(ok),
            Err(_) => panic!("round {round} panics on {:?}", m.graph.map(|g| g.node)),
        }
    }
    assert!(accepted > 300, "only {accepted} nodes were accepted: they do not reach anything");
}
