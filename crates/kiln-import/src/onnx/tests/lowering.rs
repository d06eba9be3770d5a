use super::super::load;
use super::*;
use crate::Error;
use kiln_graph::{DType, Dim, Op};
use tensor_proto::{DataLocation, DataType};

/// `[B, S, 12]` split in heads by shape arithmetic, as exporters write it.
fn split_heads() -> ModelProto {
    model(graph(
        vec![f32_input("x", &[D::Name("B"), D::Name("S"), D::Size(12)])],
        vec![
            longs("zero", &[], &[0]),
            longs("one", &[], &[1]),
            longs("axis", &[1], &[0]),
            longs("heads", &[1], &[3]),
            longs("size", &[], &[12]),
        ],
        vec![
            node("Shape", &["x"], &["shape"], vec![]),
            node("Gather", &["shape", "zero"], &["b"], vec![int("axis", 0)]),
            node("Gather", &["shape", "one"], &["s"], vec![int("axis", 0)]),
            node("Mul", &["b", "s"], &["bs"], vec![]),
            node("Mul", &["bs", "size"], &["all"], vec![]),
            node("Div", &["all", "bs"], &["each"], vec![]),
            node("Unsqueeze", &["bs", "axis"], &["rows"], vec![]),
            node("Squeeze", &["heads", "axis"], &["h"], vec![]),
            node("Div", &["each", "h"], &["per_head"], vec![]),
            node("Unsqueeze", &["per_head", "axis"], &["columns"], vec![]),
            node("Concat", &["rows", "heads", "columns"], &["target"], vec![int("axis", 0)]),
            node("Reshape", &["x", "target"], &["y"], vec![]),
        ],
        &["y"],
    ))
}

#[test]
fn shape_arithmetic_becomes_symbolic_shapes() {
    let g = import(&split_heads()).unwrap();
    let expected = vec![Dim::sym("B") * Dim::sym("S"), Dim::from(3), Dim::from(4)];
    assert_eq!(g.ty(g.outputs[0].1).shape, expected);
    let ops: Vec<&str> = g.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(ops, ["input", "reshape"]);
    for (b, s) in [(1, 1), (2, 5)] {
        let x = Tensor::random(DType::F32, &[b, s, 12], 3).unwrap();
        let y = run(&g, &[("x", x.clone())]);
        assert_eq!(y[0].shape(), [b * s, 3, 4]);
        assert_eq!(y[0].data(), x.data());
    }
}

#[test]
fn functions_expand_with_their_attributes_and_defaults() {
    let alpha = AttributeProto {
        name: Some("alpha".into()),
        ref_attr_name: Some("slope".into()),
        r#type: Some(AttributeType::Float as i32),
        ..AttributeProto::default()
    };
    let leak = FunctionProto {
        name: Some("Leak".into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        attribute_proto: vec![float("slope", 0.5)],
        node: vec![node("LeakyRelu", &["a"], &["b"], vec![alpha])],
        opset_import: vec![opset("", 21)],
        ..FunctionProto::default()
    };
    let call = |input: &str, output: &str, attributes| NodeProto {
        domain: Some("local".into()),
        ..node("Leak", &[input], &[output], attributes)
    };
    let nodes = vec![call("x", "y", vec![]), call("x", "z", vec![float("slope", 0.25)])];
    let mut m = model(graph(vec![f32_input("x", &[D::Size(2)])], vec![], nodes, &["y", "z"]));
    m.opset_import.push(opset("local", 1));
    m.functions = vec![leak];
    let g = import(&m).unwrap();
    let out = run(&g, &[("x", tensor(&[2], &[-8.0, 8.0]))]);
    assert_eq!(out[0], tensor(&[2], &[-4.0, 8.0]));
    assert_eq!(out[1], tensor(&[2], &[-2.0, 8.0]));

    // A function that calls itself never ends.
    m.functions[0].node = vec![call("a", "b", vec![])];
    m.functions[0].opset_import.push(opset("local", 1));
    let message = import(&m).unwrap_err().to_string();
    assert!(message.contains("nest too deeply"), "{message}");
}

fn branches(cond: &str, extra: Vec<TensorProto>) -> ModelProto {
    let branch = |op| graph(vec![], vec![], vec![node(op, &["x", "w"], &["r"], vec![])], &["r"]);
    let mut initializers = extra;
    initializers.push(floats("w", &[20], &[3.0; 20]));
    model(graph(
        vec![f32_input("x", &[D::Size(20)]), info("flag", DataType::Bool, &[])],
        initializers,
        vec![node("If", &[cond], &["y"], vec![body("then_branch", branch("Add")), body("else_branch", branch("Mul"))])],
        &["y"],
    ))
}

#[test]
fn an_if_on_data_keeps_both_branches_and_on_a_constant_one() {
    let x = Tensor::random(DType::F32, &[20], 5).unwrap();
    let values: Vec<f32> = x.to_vec().unwrap();
    let g = import(&branches("flag", vec![])).unwrap();
    for flag in [true, false] {
        let y = run(&g, &[("x", x.clone()), ("flag", Tensor::scalar(flag))]);
        let expected: Vec<f32> = values.iter().map(|v| if flag { v + 3.0 } else { v * 3.0 }).collect();
        assert_eq!(y[0], tensor(&[20], &expected));
    }
    let constant = TensorProto {
        name: Some("no".into()),
        data_type: Some(DataType::Bool as i32),
        int32_data: vec![0],
        ..TensorProto::default()
    };
    let g = import(&branches("no", vec![constant])).unwrap();
    assert!(!g.nodes.iter().any(|n| matches!(n.op, Op::If { .. })));
    assert!(g.nodes.iter().any(|n| n.op.name() == "mul"));
}

#[test]
fn a_loop_carries_and_stacks() {
    // total += x[i]; stack total, six times: longer than what is unrolled is not needed to carry on.
    let inner = graph(
        vec![info("i", DataType::Int64, &[]), info("go", DataType::Bool, &[]), f32_input("total", &[])],
        vec![],
        vec![
            node("Gather", &["x", "i"], &["at"], vec![int("axis", 0)]),
            node("Add", &["total", "at"], &["next"], vec![]),
            node("Identity", &["go"], &["still"], vec![]),
            node("Identity", &["next"], &["shown"], vec![]),
        ],
        &["still", "next", "shown"],
    );
    for steps in [6usize, 100] {
        let m = model(graph(
            vec![f32_input("x", &[D::Size(steps as i64)])],
            vec![longs("trips", &[], &[steps as i64]), floats("start", &[], &[1.0])],
            vec![node("Loop", &["trips", "", "start"], &["last", "all"], vec![body("body", inner.clone())])],
            &["last", "all"],
        ));
        let g = import(&m).unwrap();
        assert_eq!(g.nodes.iter().any(|n| matches!(n.op, Op::Loop { .. })), steps == 100);
        let x: Vec<f32> = (0..steps).map(|i| i as f32).collect();
        let out = run(&g, &[("x", tensor(&[steps], &x))]);
        let sums: Vec<f32> = x
            .iter()
            .scan(1.0, |sum, v| {
                *sum += v;
                Some(*sum)
            })
            .collect();
        assert_eq!(out[0], Tensor::scalar(sums[steps - 1]));
        assert_eq!(out[1], tensor(&[steps], &sums));
    }
}

#[test]
fn every_unsupported_node_is_in_one_error() {
    let nodes = vec![
        node("Relu", &["x"], &["a"], vec![]),
        node("NoSuchOp", &["a"], &["b"], vec![]),
        node("Relu", &["b"], &["c"], vec![]),
        node("NoSuchOp", &["c"], &["d"], vec![]),
        node("StringSplit", &["x"], &["e", "f"], vec![]),
    ];
    let m = model(graph(vec![f32_input("x", &[D::Size(2)])], vec![], nodes, &["d", "e"]));
    let Err(Error::Unsupported(ops)) = import(&m) else { panic!("expected a list of unsupported nodes") };
    let found: Vec<(&str, usize)> = ops.groups.iter().map(|g| (g.op.as_str(), g.count)).collect();
    // The second NoSuchOp is counted although its input is never computed.
    assert_eq!(found, [("NoSuchOp", 2), ("StringSplit", 1)]);
    let message = ops.to_string();
    assert!(message.contains("`NoSuchOp.b`, `NoSuchOp.d`") && message.contains("x2"), "{message}");
}

#[test]
fn inputs_that_shape_the_graph_are_asked_for() {
    let m = model(graph(
        vec![f32_input("x", &[D::Size(6)]), info("shape", DataType::Int64, &[D::Size(2)])],
        vec![longs("one", &[], &[1])],
        vec![node("Mul", &["shape", "one"], &["target"], vec![]), node("Reshape", &["x", "target"], &["y"], vec![])],
        &["y"],
    ));
    let message = import(&m).unwrap_err().to_string();
    assert!(message.contains("depends on the data of `shape`"), "{message}");
    let shape = Tensor::from_slice(&[2], &[3i64, 2]).unwrap();
    let given = BTreeMap::from([("shape".to_owned(), shape)]);
    let bytes = Bytes::from(m.encode_to_vec());
    for options in [
        Options { constants: given.clone(), ..Options::default() },
        Options { candidates: given.clone(), ..Options::default() },
    ] {
        let g = import_bytes(bytes.clone(), &options).unwrap();
        assert_eq!(g.inputs.len(), 1);
        assert_eq!(g.ty(g.outputs[0].1).to_string(), "f32[3, 2]");
    }
    let wrong =
        Options { constants: BTreeMap::from([("shap".to_owned(), given["shape"].clone())]), ..Options::default() };
    assert!(import_bytes(bytes, &wrong).unwrap_err().to_string().contains("no input `shap`"));
}

#[test]
fn options_replace_shapes() {
    let options = Options {
        shapes: BTreeMap::from([("x".to_owned(), vec![Dim::from(2), Dim::sym("L"), Dim::from(12)])]),
        ranges: BTreeMap::from([("L".to_owned(), (1, 64))]),
        ..Options::default()
    };
    let g = import_bytes(split_heads().encode_to_vec().into(), &options).unwrap();
    assert_eq!(g.ty(g.outputs[0].1).to_string(), "f32[2*L, 3, 4]");
    assert_eq!(g.symbols.range("L"), (1, 64));
}

/// `y = x + w` with `w` in another file.
fn external(location: &str, offset: &str, length: &str) -> ModelProto {
    let entry = |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    let w = TensorProto {
        raw_data: None,
        data_location: Some(DataLocation::External as i32),
        external_data: vec![entry("location", location), entry("offset", offset), entry("length", length)],
        ..floats("w", &[20], &[])
    };
    let nodes = vec![node("Add", &["x", "w"], &["y"], vec![])];
    model(graph(vec![f32_input("x", &[D::Size(20)])], vec![w], nodes, &["y"]))
}

#[test]
fn external_data_is_found_beside_the_model_and_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    let mut content = vec![9u8; 4];
    content.extend((0..20).flat_map(|i| (i as f32).to_le_bytes()));
    std::fs::write(folder.join("data.bin"), &content).unwrap();
    std::fs::write(root.path().join("secret.bin"), &content).unwrap();
    let try_load = |m: &ModelProto| {
        let path = folder.join("m.onnx");
        std::fs::write(&path, m.encode_to_vec()).unwrap();
        load(&path, &Options::default())
    };
    let g = try_load(&external("data.bin", "4", "80")).unwrap();
    let y = run(&g, &[("x", tensor(&[20], &[1.0; 20]))]);
    let expected: Vec<f32> = (0..20).map(|i| i as f32 + 1.0).collect();
    assert_eq!(y[0], tensor(&[20], &expected));

    let absolute = root.path().join("secret.bin").display().to_string();
    #[cfg(unix)]
    std::os::unix::fs::symlink(root.path().join("secret.bin"), folder.join("link.bin")).unwrap();
    for (location, offset, length, message) in [
        ("../secret.bin", "4", "80", "inside the model's folder"),
        (absolute.as_str(), "4", "80", "inside the model's folder"),
        ("link.bin", "4", "80", "link leads outside"),
        ("data.bin", "8", "80", "outside `data.bin`"),
        ("data.bin", "18446744073709551615", "80", "outside `data.bin`"),
        ("data.bin", "4", "76", "80 bytes"),
        ("data.bin", "-1", "80", "expected a byte count"),
        ("none.bin", "4", "80", "none.bin"),
    ] {
        let found = try_load(&external(location, offset, length)).unwrap_err().to_string();
        assert!(found.contains(message), "{location} {offset} {length}: {found}");
    }
    let found = import(&external("data.bin", "4", "80")).unwrap_err().to_string();
    assert!(found.contains("load it from its path"), "{found}");
}

#[test]
fn weights_are_slices_of_the_model() {
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let nodes = vec![node("Add", &["x", "w"], &["y"], vec![])];
    let m = model(graph(vec![f32_input("x", &[D::Size(1000)])], vec![floats("w", &[1000], &values)], nodes, &["y"]));
    let bytes = Bytes::from(m.encode_to_vec());
    let g = import_bytes(bytes.clone(), &Options::default()).unwrap();
    let range = bytes.as_ptr_range();
    assert!(range.contains(&g.weights["w"].data().as_ptr()), "the weight was copied");
}
