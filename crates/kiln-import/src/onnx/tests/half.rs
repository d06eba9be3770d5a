//! Operators in half precision are rounded once: what the same model in f32 gives, rounded to f16.

use super::*;
use kiln_graph::{DType, interpret};
use tensor_proto::DataType;

/// An operator on `x` of this shape and constants that fit the dtype.
fn one(
    dtype: DataType,
    shape: &[i64],
    n: NodeProto,
    longs_in: &[(&str, Vec<i64>)],
    data: &[(&str, Vec<i64>)],
) -> Graph {
    let dims: Vec<D> = shape.iter().map(|&d| D::Size(d)).collect();
    let outputs = n.output.clone();
    let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let mut initializers: Vec<TensorProto> =
        longs_in.iter().map(|(name, values)| longs(name, &[values.len() as i64], values)).collect();
    for (name, dims) in data {
        let (kiln, count) = (kiln_dtype(dtype), dims.iter().product::<i64>() as usize);
        // Numbers of f16 in either dtype.
        let values = match FILLED.iter().find(|(filled, _)| filled == name) {
            Some((_, value)) => vec![*value; count],
            None => Tensor::random(DType::F16, &[count], 11).unwrap().to_f64_vec(),
        };
        initializers.push(TensorProto {
            name: Some((*name).into()),
            dims: dims.clone(),
            data_type: Some(dtype as i32),
            raw_data: Some(Tensor::from_f64(kiln, &[count], &values).unwrap().data().clone()),
            ..TensorProto::default()
        });
    }
    import(&model(graph(vec![info("x", dtype, &dims)], initializers, vec![n], &names))).unwrap()
}

fn kiln_dtype(dtype: DataType) -> DType {
    if dtype == DataType::Float16 { DType::F16 } else { DType::F32 }
}

#[test]
fn composites_are_rounded_once_at_the_end() {
    let axes = || vec![("axes", vec![1i64])];
    let plain = |op: &str, attributes| (node(op, &["x"], &["y"], attributes), vec![3, 65], vec![], vec![]);
    let reduce = |op: &str| (node(op, &["x", "axes"], &["y"], vec![]), vec![3, 65], axes(), vec![]);
    let image = |op: &str, attributes| (node(op, &["x"], &["y"], attributes), vec![1, 4, 6, 5], vec![], vec![]);
    let kernel = || ints("kernel_shape", &[3, 3]);
    let mut cases = vec![
        reduce("ReduceL1"),
        reduce("ReduceL2"),
        reduce("ReduceSumSquare"),
        reduce("ReduceLogSumExp"),
        reduce("ReduceMean"),
        plain("LpNormalization", vec![int("p", 1)]),
        plain("LpNormalization", vec![int("p", 2)]),
        image("LpPool", vec![int("p", 2), kernel()]),
        image("LpPool", vec![int("p", 3), kernel()]),
        image("GlobalLpPool", vec![int("p", 2)]),
        image("LRN", vec![int("size", 3)]),
        image("MeanVarianceNormalization", vec![]),
        plain("Softsign", vec![]),
        plain("Celu", vec![float("alpha", 1.7)]),
        plain("LeakyRelu", vec![float("alpha", 0.013)]),
        plain("Shrink", vec![float("lambd", 0.3), float("bias", 0.7)]),
        plain("ThresholdedRelu", vec![float("alpha", 0.3)]),
        (node("Mean", &["x", "x", "x"], &["y"], vec![]), vec![3, 5], vec![], vec![]),
        (node("Sum", &["x", "x", "x"], &["y"], vec![]), vec![3, 5], vec![], vec![]),
        (node("Einsum", &["x", "x", "x"], &["y"], vec![text("equation", "ij,kj,kl->il")]), vec![3, 5], vec![], vec![]),
        (node("Einsum", &["x", "x"], &["y"], vec![text("equation", "ij,kl->il")]), vec![3, 5], vec![], vec![]),
        (
            node("Gemm", &["x", "w", "b"], &["y"], vec![float("alpha", 1.3), float("beta", 0.7)]),
            vec![3, 9],
            vec![],
            vec![("w", vec![9, 4]), ("b", vec![4])],
        ),
        (
            node("Conv", &["x", "w", "b"], &["y"], vec![]),
            vec![1, 2, 5, 5],
            vec![],
            vec![("w", vec![3, 2, 3, 3]), ("b", vec![3])],
        ),
    ];
    let mut sizes = axes();
    sizes[0] = ("sizes", vec![1, 4, 9, 7]);
    cases.push((
        node("Resize", &["x", "", "", "sizes"], &["y"], vec![text("mode", "cubic")]),
        vec![1, 4, 6, 5],
        sizes,
        vec![],
    ));
    for (n, shape, longs_in, data) in cases {
        let half = one(DataType::Float16, &shape, n.clone(), &longs_in, &data);
        let wide = one(DataType::Float, &shape, n.clone(), &longs_in, &data);
        let dims: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
        // From numbers whose squares vanish to such as have infinite ones in f16.
        for scale in [1e-3, 1.0, 40.0, 900.0] {
            let values: Vec<f64> = Tensor::random(DType::F32, &dims, 5).unwrap().to_f64_vec();
            let x = Tensor::from_f64(DType::F16, &dims, &values.iter().map(|v| v * scale).collect::<Vec<_>>()).unwrap();
            let same = Tensor::from_f64(DType::F32, &dims, &x.to_f64_vec()).unwrap();
            let (found, expected) = (interpret(&half, &[x]).unwrap(), interpret(&wide, &[same]).unwrap());
            assert_eq!(found[0].dtype(), DType::F16);
            let rounded = Tensor::from_f64(DType::F16, expected[0].shape(), &expected[0].to_f64_vec()).unwrap();
            assert_eq!(found[0].to_f64_vec(), rounded.to_f64_vec(), "{} at {scale}", n.op_type());
        }
    }
}

/// Weights of one number; others are random.
const FILLED: [(&str, f64); 2] = [("heavy", -400.0), ("shift", 60_000.0)];

#[test]
fn scores_and_gates_beyond_f16_are_none_the_worse() {
    // Scores of about 1e6; gates that are 300 * -400 + 60000 + 60000 and what the state adds.
    let attention = node("Attention", &["x", "x", "x"], &["y"], vec![float("scale", 1.0)]);
    let mut cases = vec![(attention, vec![1i64, 2, 5, 8], vec![], None)];
    for (op, gates) in [("RNN", 1), ("LSTM", 4), ("GRU", 3)] {
        let n = node(op, &["x", "heavy", "r", "shift", "", "h0"], &["y"], vec![int("hidden_size", 2)]);
        let data = vec![
            ("heavy", vec![1, 2 * gates, 1]),
            ("r", vec![1, 2 * gates, 2]),
            ("shift", vec![1, 4 * gates]),
            ("h0", vec![1, 1, 2]),
        ];
        cases.push((n, vec![6, 1, 1], data, Some(300.0)));
    }
    for (n, shape, data, fill) in cases {
        let dims: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
        let random: Vec<f64> = Tensor::random(DType::F32, &dims, 9).unwrap().to_f64_vec();
        let values: Vec<f64> = random.iter().map(|v| fill.unwrap_or(v * 600.0)).collect();
        let x = Tensor::from_f64(DType::F16, &dims, &values).unwrap();
        let same = Tensor::from_f64(DType::F32, &dims, &x.to_f64_vec()).unwrap();
        let make = |dtype| one(dtype, &shape, n.clone(), &[], &data);
        let found = interpret(&make(DataType::Float16), &[x]).unwrap();
        let expected = interpret(&make(DataType::Float), &[same]).unwrap();
        let largest = expected[0].to_f64_vec().iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        assert!(largest > 0.01, "{}: {largest}", n.op_type());
        for (f, e) in found[0].to_f64_vec().iter().zip(expected[0].to_f64_vec()) {
            assert!((f - e).abs() <= 4e-3 * largest, "{}: {f} {e}", n.op_type());
        }
    }
}
