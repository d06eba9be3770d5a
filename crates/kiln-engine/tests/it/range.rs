//! What data and extents may not be: places outside of an axis, and more elements than can be counted.

use crate::models::{engine_at, home};
use kiln_engine::{Compiled, Error, Session, open_device};
use kiln_graph::{Builder, DType, Graph, PadMode, ReduceOp, ScatterOp, Tensor};

const DEVICES: [&str; 4] = ["cpu:2", "sim:sm_75", "sim:sm_80", "sim:sm_90a"];

fn sessions(graph: &Graph) -> impl Iterator<Item = (&'static str, Session)> {
    let engine = engine_at(graph, &["cpu", "sm_75", "sm_80", "sm_90a"], home());
    DEVICES.into_iter().map(move |d| (d, Session::new(&engine, open_device(d).unwrap()).unwrap()))
}

/// A model over `x`, `[6, 5]`, and `ids`, `[4, 5]`.
fn model(name: &str) -> Graph {
    let mut b = Builder::new(name);
    let x = b.input("x", DType::F32, &[6.into(), 5.into()]).unwrap();
    let ids = b.input("ids", DType::I64, &[4.into(), 5.into()]).unwrap();
    let updates = b.exp(x).and_then(|e| b.slice_axis(e, 0, &0.into(), &4.into(), 1)).unwrap();
    let y = match name {
        "gather" => b.gather(x, ids, 0),
        "gather_elements" => b.gather_elements(x, ids, 0),
        "gather_nd" => b.unsqueeze(ids, &[-1]).and_then(|ids| b.gather_nd(x, ids, 0)),
        "scatter_elements" => b.scatter_elements(x, ids, updates, 0, ScatterOp::Set),
        "scatter_nd" => {
            let each = b.broadcast_to(updates, &[5.into(), 4.into(), 5.into()]).unwrap();
            let each = b.transpose(each, &[1, 0, 2]).unwrap();
            b.unsqueeze(ids, &[-1]).and_then(|ids| b.scatter_nd(x, ids, each, ScatterOp::Add))
        }
        // Between other work, beside padding.
        _ => {
            let rows = b.gather_elements(x, ids, 0).unwrap();
            let rows = b.tanh(rows).unwrap();
            b.pad(rows, &[1.into(), 0.into()], &[0.into(), 2.into()], PadMode::Constant(0.5))
        }
    };
    b.output("y", y.unwrap());
    b.finish()
}

#[test]
fn indices_out_of_range_are_errors_on_every_device() {
    let x = Tensor::random(DType::F32, &[6, 5], 1).unwrap();
    let ids = |bad: i128| {
        let values: Vec<i128> = (0..20).map(|i| if i == 13 { bad } else { i % 12 - 6 }).collect();
        Tensor::from_i128(DType::I64, &[4, 5], &values).unwrap()
    };
    for name in ["gather", "gather_elements", "gather_nd", "scatter_elements", "scatter_nd", "fused"] {
        let mut good = None;
        for (device, mut session) in sessions(&model(name)) {
            for bad in [6, -7, i128::from(i64::MAX), i128::from(i64::MIN)] {
                let error = session.run(&[("x", &x), ("ids", &ids(bad))]).unwrap_err();
                let known = matches!(error, Error::OutOfRange { .. } | Error::Cpu(kiln_cpu::Error::Index { .. }));
                assert!(known && error.to_string().contains("axis 0"), "{name} {device} {bad}: {error}");
                // It is said once, and the next run is as good as any.
                let y = session.run(&[("x", &x), ("ids", &ids(5))]).unwrap().remove(0).1;
                let good = good.get_or_insert_with(|| y.to_f64_vec()).iter().zip(y.to_f64_vec());
                good.for_each(|(a, b)| assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{name} {device}: {a} {b}"));
            }
        }
    }
}

#[test]
fn constant_indices_in_range_are_not_checked() {
    let mut b = Builder::new("constant");
    let x = b.input("x", DType::F32, &[6.into(), 5.into()]).unwrap();
    let ids = Tensor::from_i128(DType::I64, &[3], &[5, -6, 0]).unwrap();
    let ids = b.weight_data("ids", ids).unwrap();
    let y = b.gather(x, ids, 0).unwrap();
    b.output("y", y);
    let engine = engine_at(&b.finish(), &["sm_80"], home());
    for (_, kernel, _) in engine.targets[0].kernels.values().flat_map(Compiled::kernels) {
        assert!(kernel.checks.is_empty() && !kernel.source.contains("fault"), "{}", kernel.source);
    }
}

#[test]
fn extents_whose_product_overflows_are_errors_on_every_device() {
    // Fused into the reduction, so that no buffer has them.
    let mut b = Builder::new("overflow");
    let n = b.symbol("N", 1, i64::MAX);
    let x = b.input("x", DType::F32, std::slice::from_ref(&n)).unwrap();
    let big = 1i64 << 31;
    let wide = b.broadcast_to(x, &[big.into(), big.into(), n]).unwrap();
    let y = b.reduce(ReduceOp::Max, wide, &[0, 1, 2], false).unwrap();
    b.output("y", y);
    let x = Tensor::random(DType::F32, &[3], 1).unwrap();
    for (device, mut session) in sessions(&b.finish()) {
        let error = session.run(&[("x", &x)]).unwrap_err().to_string();
        assert!(error.contains("2147483648, 2147483648, 3"), "{device}: {error}");
    }
}

#[test]
fn groups_that_end_where_they_cannot_are_errors_on_every_device() {
    let mut b = Builder::new("groups");
    let x = b.input("x", DType::F16, &["T".into(), 16.into()]).unwrap();
    let w = b.input("w", DType::F16, &[3.into(), 16.into(), 8.into()]).unwrap();
    let ends = b.input("ends", DType::I32, &[3.into()]).unwrap();
    let y = b.grouped_matmul(x, w, ends, false).unwrap();
    b.output("y", y);
    let (x, w) =
        (Tensor::random(DType::F16, &[20, 16], 1).unwrap(), Tensor::random(DType::F16, &[3, 16, 8], 2).unwrap());
    let graph = b.finish();
    for (device, mut session) in sessions(&graph) {
        let mut run = |ends: &[i32; 3]| {
            let ends = Tensor::from_slice(&[3], ends).unwrap();
            session.run(&[("x", &x), ("w", &w), ("ends", &ends)]).map(|mut found| found.remove(0).1.to_f64_vec())
        };
        // Ends that decrease are the kernels' tests: rows of two groups are written twice, which the simulator calls a race before it says why.
        for wrong in [[-1, 4, 20], [0, 21, 21], [3, 4, i32::MAX]] {
            let error = run(&wrong).unwrap_err();
            let known = matches!(error, Error::OutOfRange { .. } | Error::Cpu(kiln_cpu::Error::Group { .. }));
            assert!(known && error.to_string().contains("group"), "{device} {wrong:?}: {error}");
        }
        // It is said once, and the next run is as good as any.
        let ends = Tensor::from_slice(&[3], &[7, 7, 19]).unwrap();
        let expected = kiln_graph::interpret(&graph, &[x.clone(), w.clone(), ends]).unwrap().remove(0).to_f64_vec();
        for (found, expected) in run(&[7, 7, 19]).unwrap().iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 2e-3 * expected.abs().max(1.0),
                "{device}: {found}, expected {expected}"
            );
        }
    }
}
