//! Reductions, and what fuses around them, against the interpreter.

use crate::support::{check, dims, random};
use kiln_graph::{ArgOp, BinaryOp, Builder, DType, ReduceOp, Rng, ScanOp};

#[test]
fn every_reduction_over_every_set_of_axes() {
    let mut rng = Rng::new(11);
    let shape = [3, 4, 5];
    for dtype in DType::ALL {
        let ops: &[ReduceOp] = match dtype {
            DType::Bool => &[ReduceOp::All, ReduceOp::Any],
            _ => &[ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min],
        };
        for &op in ops {
            for mask in 1..8u32 {
                let axes: Vec<i64> = (0..3).filter(|a| mask >> a & 1 == 1).collect();
                for keep in [false, true] {
                    let mut b = Builder::new(format!("{op:?} {dtype} {axes:?}"));
                    let x = b.input("x", dtype, &dims(&shape)).unwrap();
                    let y = b.reduce(op, x, &axes, keep).unwrap();
                    b.output("y", y);
                    let x = random(dtype, &shape, &mut rng, mask == 2);
                    // Sums of up to 60 terms below 1 in magnitude, accumulated in f32 or better.
                    check(&b.finish(), &[x], 8.0, 8.0);
                }
            }
        }
    }
}

#[test]
fn long_and_wide_reductions() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let mut rng = Rng::new(12);
    pool.install(|| {
        for (shape, axes) in [
            (vec![100_003], vec![0]),
            (vec![3, 20_011], vec![1]),
            (vec![20_011, 3], vec![0]),
            (vec![517, 300], vec![0]),
            (vec![517, 300], vec![1]),
            (vec![40, 30, 50], vec![1]),
            (vec![6, 70, 31, 17], vec![0, 2]),
            (vec![6, 7, 91, 170], vec![1, 3]),
            (vec![5, 1, 9001], vec![1, 2]),
            (vec![8, 0, 3], vec![1]),
            (vec![0, 4], vec![1]),
        ] {
            let mut b = Builder::new(format!("sum of squares {shape:?} {axes:?}"));
            let x = b.input("x", DType::F32, &dims(&shape)).unwrap();
            let s = b.binary(BinaryOp::Mul, x, x).unwrap();
            let s = b.sum(s, &axes, true).unwrap();
            let m = b.reduce_max(x, &axes, true).unwrap();
            let d = b.binary(BinaryOp::Sub, s, m).unwrap();
            b.output("d", d);
            let wide = b.broadcast_to(d, &dims(&shape)).unwrap();
            let y = b.binary(BinaryOp::Sub, x, wide).unwrap();
            b.output("y", y);
            let n: usize = axes.iter().map(|&a| shape[a as usize]).product();
            let x = random(DType::F32, &shape, &mut rng, false);
            // f32 partial sums of chunks in many lanes: the error grows with the log and a little of the length.
            check(&b.finish(), &[x], 64.0, (n as f64).max(1.0) / 3.0);
        }
    });
}

#[test]
fn softmax_and_norms_fuse_into_one_nest() {
    let mut rng = Rng::new(13);
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for shape in [vec![4, 33], vec![2, 3, 128], vec![1, 1], vec![7, 1], vec![2, 9000], vec![3, 2, 384]] {
            let rank = shape.len() as i64;
            let last = *shape.last().unwrap();
            let mut b = Builder::new(format!("softmax {dtype} {shape:?}"));
            let x = b.input("x", dtype, &dims(&shape)).unwrap();
            let y = b.softmax(x, rank - 1).unwrap();
            b.output("y", y);
            let bound = check(&b.finish(), &[random(dtype, &shape, &mut rng, false)], 12.0, 1e-3);
            assert!(!bound.implementation().contains(','), "{}", bound.implementation());

            let mut b = Builder::new(format!("layer norm {dtype} {shape:?}"));
            let x = b.input("x", dtype, &dims(&shape)).unwrap();
            let r = b.input("r", dtype, &dims(&shape)).unwrap();
            let g = b.input("g", dtype, &dims(&[last])).unwrap();
            let h = b.input("h", dtype, &dims(&[last])).unwrap();
            let s = b.binary(BinaryOp::Add, x, r).unwrap();
            let y = b.layer_norm(s, rank - 1, Some(g), Some(h), 1e-5).unwrap();
            b.output("s", s);
            b.output("y", y);
            let inputs = [
                random(dtype, &shape, &mut rng, false),
                random(dtype, &shape, &mut rng, false),
                random(dtype, &[last], &mut rng, false),
                random(dtype, &[last], &mut rng, false),
            ];
            let graph = b.finish();
            // Narrow dtypes round the mean, the variance and the quotient; a mean near zero leaves absolute errors of a few units.
            let bound = check(&graph, &inputs, if last == 1 { 600.0 } else { 40.0 }, 4.0);
            assert!(!bound.implementation().contains(','), "{}", bound.implementation());
        }
    }
}

#[test]
fn softmax_over_inner_axes() {
    let mut rng = Rng::new(14);
    for (shape, axis) in [(vec![3, 17, 40], 1), (vec![64, 9], 0), (vec![2, 5, 3, 11], 1)] {
        let mut b = Builder::new(format!("softmax {shape:?} axis {axis}"));
        let x = b.input("x", DType::F32, &dims(&shape)).unwrap();
        let y = b.softmax(x, axis).unwrap();
        let y = b.mul_scalar(y, 3.0).unwrap();
        b.output("y", y);
        check(&b.finish(), &[random(DType::F32, &shape, &mut rng, false)], 12.0, 1e-3);
    }
}

#[test]
fn reductions_of_reductions_and_mixed_axes() {
    let mut rng = Rng::new(15);
    let shape = [6, 5, 24];
    let mut b = Builder::new("mixed");
    let x = b.input("x", DType::F32, &dims(&shape)).unwrap();
    let rows = b.softmax(x, 2).unwrap();
    let columns = b.softmax(x, 1).unwrap();
    let y = b.binary(BinaryOp::Mul, rows, columns).unwrap();
    let t = b.transpose(y, &[2, 0, 1]).unwrap();
    let m = b.mean(t, &[0], false).unwrap();
    let total = b.sum(m, &[0, 1], false).unwrap();
    b.output("y", y);
    b.output("t", t);
    b.output("m", m);
    b.output("total", total);
    check(&b.finish(), &[random(DType::F32, &shape, &mut rng, false)], 40.0, 1e-2);
}

#[test]
fn arg_reductions() {
    let mut rng = Rng::new(16);
    for dtype in [DType::F32, DType::F64, DType::F16, DType::I64, DType::I8, DType::U64, DType::U8] {
        for (shape, axis) in [(vec![5, 37], 1), (vec![37, 5], 0), (vec![3, 9500], 1), (vec![4, 6, 7], 1)] {
            for op in [ArgOp::Max, ArgOp::Min] {
                for last in [false, true] {
                    let mut b = Builder::new(format!("arg {op:?} {dtype} {shape:?} {last}"));
                    let x = b.input("x", dtype, &dims(&shape)).unwrap();
                    let y = b.arg_reduce(op, x, axis, last, false).unwrap();
                    b.output("y", y);
                    check(&b.finish(), &[random(dtype, &shape, &mut rng, axis == 0)], 0.0, 1.0);
                }
            }
        }
    }
}

#[test]
fn scans_and_top_k() {
    let mut rng = Rng::new(17);
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::I64, DType::I8, DType::U64, DType::U32, DType::I4] {
        for axis in 0..3 {
            for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut b = Builder::new(format!("scans {dtype} {axis}"));
                let x = b.input("x", dtype, &dims(&[3, 7, 5])).unwrap();
                for op in [ScanOp::Sum, ScanOp::Prod, ScanOp::Max, ScanOp::Min] {
                    let y = b.scan(op, x, axis, exclusive, reverse).unwrap();
                    b.output(format!("{op:?}"), y);
                }
                for largest in [true, false] {
                    let (values, indices) = b.topk(x, axis, &3.into(), largest).unwrap();
                    b.output("values", values);
                    b.output("indices", indices);
                }
                check(&b.finish(), &[random(dtype, &[3, 7, 5], &mut rng, exclusive)], 4.0, 1e-30);
            }
        }
    }
}
