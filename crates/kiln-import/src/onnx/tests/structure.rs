//! What a file says about itself: names, order, versions, defaults and the files beside it.

use super::super::load;
use super::*;
use crate::Error;
use kiln_graph::{DType, Dim, Op};
use tensor_proto::DataLocation;

fn failure(m: &ModelProto) -> String {
    import(m).unwrap_err().to_string()
}

#[test]
fn nodes_in_any_order_are_sorted() {
    // The branch reads `b`, which a later node writes.
    let branch = |op| graph(vec![], vec![], vec![node(op, &["b", "x"], &["r"], vec![])], &["r"]);
    let nodes = vec![
        node("If", &["c"], &["y"], vec![body("then_branch", branch("Add")), body("else_branch", branch("Sub"))]),
        node("Greater", &["s", "b"], &["c2"], vec![]),
        node("ReduceMax", &["c3"], &["c4"], vec![int("keepdims", 0)]),
        node("Cast", &["c4"], &["c"], vec![int("to", 9)]),
        node("Cast", &["c2"], &["c3"], vec![int("to", 1)]),
        node("Exp", &["x"], &["b"], vec![]),
        node("Neg", &["x"], &["s"], vec![]),
    ];
    let m = model(graph(vec![f32_input("x", &[D::Size(3)])], vec![], nodes, &["y"]));
    let y = run(&import(&m).unwrap(), &[("x", tensor(&[3], &[0.0, 1.0, -2.0]))]);
    let expected: Vec<f32> = [0f32, 1.0, -2.0].iter().map(|v| v.exp() + v).collect();
    for (found, expected) in y[0].to_f64_vec().iter().zip(expected) {
        assert!((found - f64::from(expected)).abs() < 1e-6, "{found} {expected}");
    }
    let cycle = vec![node("Add", &["x", "b"], &["a"], vec![]), node("Neg", &["a"], &["b"], vec![])];
    let message = failure(&model(graph(vec![f32_input("x", &[D::Size(3)])], vec![], cycle, &["a"])));
    assert!(message.contains("cycle"), "{message}");
}

#[test]
fn a_name_has_one_value() {
    let x = || f32_input("x", &[D::Size(3)]);
    let of = |inputs, nodes, outputs: &[&str]| {
        model(graph(inputs, vec![floats("w", &[3], &[1.0, 2.0, 3.0])], nodes, outputs))
    };
    let relu = |output| node("Relu", &["x"], &[output], vec![]);
    let tanh = |output| node("Tanh", &["x"], &[output], vec![]);
    for (m, says) in [
        (of(vec![x()], vec![relu("a"), tanh("a")], &["a"]), "`Relu.a` (Relu) writes it too"),
        (of(vec![x()], vec![relu("x")], &["x"]), "input or initializer"),
        (of(vec![x()], vec![relu("w")], &["w"]), "input or initializer"),
        (of(vec![x(), x()], vec![relu("a")], &["a"]), "graph input `x`"),
        (of(vec![x()], vec![relu("a")], &["a", "a"]), "graph output `a`"),
    ] {
        let message = failure(&m);
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn operator_sets_before_the_oldest_are_too_old_and_not_malformed() {
    for (version, says) in [(2, "too old"), (5, "too old"), (900, "too new")] {
        let g = graph(vec![f32_input("x", &[D::Size(3)])], vec![], vec![node("Relu", &["x"], &["y"], vec![])], &["y"]);
        let m = ModelProto { opset_import: vec![opset("", version)], ..model(g) };
        let error = import(&m).unwrap_err();
        assert!(matches!(error, Error::OperatorSet { found, .. } if found == version));
        let message = error.to_string();
        assert!(message.contains(says) && message.contains(&version.to_string()) && !message.contains("malformed"));
    }
}

#[test]
fn squeezing_open_extents_names_the_profile_that_closes_them() {
    let m = model(graph(
        vec![f32_input("x", &[D::Name("N"), D::Size(1), D::Size(3)])],
        vec![],
        vec![node("Squeeze", &["x"], &["y"], vec![])],
        &["y"],
    ));
    let message = failure(&m);
    assert!(message.contains("`N`") && message.contains("--profile x=Nx1x3"), "{message}");
    // What is known not to be 1 stays.
    let options = Options { ranges: [("N".to_owned(), (2, 8))].into(), ..Options::default() };
    let g = import_bytes(m.encode_to_vec().into(), &options).unwrap();
    assert_eq!(g.ty(g.outputs[0].1).shape, [Dim::sym("N"), Dim::from(3)]);
    let options = Options { ranges: [("N".to_owned(), (1, 1))].into(), ..Options::default() };
    let g = import_bytes(m.encode_to_vec().into(), &options).unwrap();
    let y = run(&g, &[("x", tensor(&[1, 1, 3], &[4.0, 5.0, 6.0]))]);
    assert_eq!(y[0], tensor(&[3], &[4.0, 5.0, 6.0]));
}

#[test]
fn an_initializer_that_is_an_input_is_a_default() {
    let m = model(graph(
        vec![f32_input("x", &[D::Size(20)]), f32_input("w", &[D::Size(20)])],
        vec![floats("w", &[20], &[2.0; 20])],
        vec![node("Mul", &["x", "w"], &["y"], vec![])],
        &["y"],
    ));
    let bytes = || bytes::Bytes::from(m.encode_to_vec());
    let x = Tensor::random(DType::F32, &[20], 1).unwrap();
    let w = Tensor::random(DType::F32, &[20], 2).unwrap();
    let product = |w: &Tensor| -> Vec<f64> {
        x.to_f64_vec().iter().zip(w.to_f64_vec()).map(|(a, b)| f64::from((a * b) as f32)).collect()
    };
    // Nobody names it: a weight.
    let g = import(&m).unwrap();
    assert_eq!((g.inputs.len(), g.weights.len()), (1, 1));
    let two = Tensor::from_slice(&[20], &[2f32; 20]).unwrap();
    assert_eq!(run(&g, &[("x", x.clone())])[0].to_f64_vec(), product(&two));
    // A value when the graph runs, or a shape: an input.
    for options in [
        Options { candidates: [("w".to_owned(), w.clone())].into(), ..Options::default() },
        Options { shapes: [("w".to_owned(), vec![Dim::from(20)])].into(), ..Options::default() },
    ] {
        let g = import_bytes(bytes(), &options).unwrap();
        assert_eq!((g.inputs.len(), g.weights.len()), (2, 0));
        assert_eq!(run(&g, &[("x", x.clone()), ("w", w.clone())])[0].to_f64_vec(), product(&w));
    }
    // A constant: a weight of that value.
    let options = Options { constants: [("w".to_owned(), w.clone())].into(), ..Options::default() };
    let g = import_bytes(bytes(), &options).unwrap();
    assert_eq!(g.inputs.len(), 1);
    assert_eq!(run(&g, &[("x", x.clone())])[0].to_f64_vec(), product(&w));
    // One that decides a shape is a constant where it has a value, too.
    let m = model(graph(
        vec![f32_input("x", &[D::Size(20)]), info("s", tensor_proto::DataType::Int64, &[D::Size(2)])],
        vec![longs("s", &[2], &[4, 5])],
        vec![node("Reshape", &["x", "s"], &["y"], vec![])],
        &["y"],
    ));
    let given = Tensor::from_slice(&[2], &[10i64, 2]).unwrap();
    let options = Options { candidates: [("s".to_owned(), given)].into(), ..Options::default() };
    let g = import_bytes(m.encode_to_vec().into(), &options).unwrap();
    assert_eq!(run(&g, &[("x", x)])[0].shape(), [10, 2]);
}

#[test]
fn places_of_what_is_not_zero_need_a_known_operand() {
    let find = |nodes: Vec<NodeProto>, inputs, initializers| {
        let mut nodes = nodes;
        nodes.push(node("NonZero", &["o"], &["y"], vec![]));
        model(graph(inputs, initializers, nodes, &["y"]))
    };
    let constant = find(vec![], vec![], vec![floats("o", &[2, 3], &[0.0, 2.0, 0.0, -1.0, f32::NAN, 0.0])]);
    let y = run(&import(&constant).unwrap(), &[]);
    assert_eq!((y[0].shape().to_vec(), y[0].to_i64_vec().unwrap()), (vec![2, 3], vec![0, 1, 1, 1, 0, 1]));
    // One value everywhere, over extents that are not known yet.
    let ones = |value: i64| {
        let fill = AttributeProto { t: Some(longs("v", &[1], &[value])), ..attribute("value", AttributeType::Tensor) };
        let nodes = vec![node("Shape", &["x"], &["s"], vec![]), node("ConstantOfShape", &["s"], &["o"], vec![fill])];
        import(&find(nodes, vec![f32_input("x", &[D::Name("N"), D::Size(2)])], vec![])).unwrap()
    };
    let x = tensor(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let y = run(&ones(7), &[("x", x.clone())]);
    assert_eq!(y[0].shape(), [2, 6]);
    assert_eq!(y[0].to_i64_vec().unwrap(), [0, 0, 1, 1, 2, 2, 0, 1, 0, 1, 0, 1]);
    assert_eq!(run(&ones(0), &[("x", x)])[0].shape(), [2, 0]);
    let data = find(vec![node("Relu", &["x"], &["o"], vec![])], vec![f32_input("x", &[D::Size(2)])], vec![]);
    assert!(failure(&data).contains("NonZero"));
}

#[cfg(unix)]
#[test]
fn external_data_is_a_regular_file_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    let with = |location: &str| {
        let t = TensorProto {
            data_location: Some(DataLocation::External as i32),
            external_data: vec![entry("location", location), entry("length", "80")],
            raw_data: None,
            ..floats("w", &[20], &[0.0; 20])
        };
        let nodes = vec![node("Add", &["x", "w"], &["y"], vec![])];
        let m = model(graph(vec![f32_input("x", &[D::Size(20)])], vec![t], nodes, &["y"]));
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, m.encode_to_vec()).unwrap();
        load(&path, &Options::default())
    };
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("data"), [1u8; 80]).unwrap();
    let g = with("data").unwrap();
    assert!(g.nodes.iter().any(|n| matches!(n.op, Op::Weight { .. })));
    std::fs::create_dir(path("folder")).unwrap();
    // Opening a pipe would wait for a writer that never comes.
    assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), [1u8; 80]).unwrap();
    std::os::unix::fs::symlink(outside.path(), path("out")).unwrap();
    for (name, says) in [
        ("folder", "a regular file is needed"),
        ("pipe", "a regular file is needed"),
        ("device", "outside the model's folder"),
        ("out", "outside the model's folder"),
        ("missing", "missing"),
    ] {
        let message = with(name).unwrap_err().to_string();
        assert!(message.contains(says) && message.contains("`w`"), "{name}: {message}");
    }
    // The model itself, too.
    let message = load(&path("pipe"), &Options::default()).unwrap_err().to_string();
    assert!(message.contains("a regular file is needed"), "{message}");
}
