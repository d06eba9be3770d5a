//! Elementwise ops and views against the interpreter.

use crate::support::{check, dims, random};
use kiln_graph::{BinaryOp, Builder, CompareOp, DType, Dim, Op, QuantAxes, Rng, Tensor, UnaryOp, ValueId};

const FLOATS: [DType; 6] = [DType::F64, DType::F32, DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2];

#[test]
fn every_unary_function_on_every_float() {
    let mut rng = Rng::new(1);
    for dtype in FLOATS {
        for &op in UnaryOp::ALL.iter().filter(|op| op.reference().is_some()) {
            let mut b = Builder::new(format!("{op:?} {dtype}"));
            let x = b.input("x", dtype, &dims(&[3, 67])).unwrap();
            let y = b.unary(op, x).unwrap();
            let (n, i) = (b.unary(UnaryOp::IsNan, y).unwrap(), b.unary(UnaryOp::IsInf, y).unwrap());
            b.output("y", y);
            b.output("nan", n);
            b.output("inf", i);
            let x = random(dtype, &[3, 67], &mut rng, true);
            assert!(!check(&b.finish(), &[x], 6.0, 1e-30).is_reference());
        }
    }
}

#[test]
fn every_binary_function_on_every_float() {
    let mut rng = Rng::new(2);
    for dtype in FLOATS {
        for op in [
            BinaryOp::Add,
            BinaryOp::Sub,
            BinaryOp::Mul,
            BinaryOp::Div,
            BinaryOp::Mod,
            BinaryOp::Rem,
            BinaryOp::Pow,
            BinaryOp::Min,
            BinaryOp::Max,
            BinaryOp::Atan2,
        ] {
            let mut b = Builder::new(format!("{op:?} {dtype}"));
            let shape = dims(&[5, 41]);
            let (x, y) = (b.input("x", dtype, &shape).unwrap(), b.input("y", dtype, &shape).unwrap());
            let z = b.binary(op, x, y).unwrap();
            b.output("z", z);
            for relation in [CompareOp::Eq, CompareOp::Ne, CompareOp::Lt, CompareOp::Le, CompareOp::Gt, CompareOp::Ge] {
                let c = b.compare(relation, x, z).unwrap();
                let s = b.select(c, x, y).unwrap();
                b.output(format!("{relation:?}"), s);
            }
            let inputs = [random(dtype, &[5, 41], &mut rng, true), random(dtype, &[5, 41], &mut rng, true)];
            check(&b.finish(), &inputs, 4.0, 1e-30);
        }
    }
}

const INTS: [DType; 10] = [
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
    DType::I4,
    DType::U4,
];

/// Values over the whole range of an integer dtype.
fn wide_ints(dtype: DType, shape: &[usize], rng: &mut Rng, zero: bool) -> Tensor {
    let n = shape.iter().product();
    let values: Vec<i128> = (0..n)
        .map(|_| {
            let v = i128::from(rng.next_u64() >> rng.range(0, 60));
            let v = kiln_graph::number::wrap_int(dtype, if rng.range(0, 1) == 0 { v } else { -v });
            if v == 0 && !zero { 1 } else { v }
        })
        .collect();
    Tensor::from_i128(dtype, shape, &values).unwrap()
}

#[test]
fn every_integer_function_on_every_integer() {
    let mut rng = Rng::new(3);
    for dtype in INTS {
        let mut b = Builder::new(format!("ints {dtype}"));
        let shape = dims(&[7, 19]);
        let (x, y) = (b.input("x", dtype, &shape).unwrap(), b.input("y", dtype, &shape).unwrap());
        for op in [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Sign, UnaryOp::Not] {
            let v = b.unary(op, x).unwrap();
            b.output(format!("{op:?}"), v);
        }
        for op in [
            BinaryOp::Add,
            BinaryOp::Sub,
            BinaryOp::Mul,
            BinaryOp::Div,
            BinaryOp::Mod,
            BinaryOp::Rem,
            BinaryOp::Pow,
            BinaryOp::Min,
            BinaryOp::Max,
            BinaryOp::And,
            BinaryOp::Or,
            BinaryOp::Xor,
            BinaryOp::Shl,
            BinaryOp::Shr,
        ] {
            let v = b.binary(op, x, y).unwrap();
            b.output(format!("{op:?}"), v);
        }
        for relation in [CompareOp::Eq, CompareOp::Ne, CompareOp::Lt, CompareOp::Le, CompareOp::Gt, CompareOp::Ge] {
            let v = b.compare(relation, x, y).unwrap();
            b.output(format!("{relation:?}"), v);
        }
        let inputs = [wide_ints(dtype, &[7, 19], &mut rng, true), wide_ints(dtype, &[7, 19], &mut rng, false)];
        assert!(!check(&b.finish(), &inputs, 0.0, 1.0).is_reference(), "{dtype}");
    }
}

#[test]
fn every_cast() {
    let mut rng = Rng::new(4);
    for from in DType::ALL {
        for to in DType::ALL {
            let mut b = Builder::new(format!("{from} to {to}"));
            let x = b.input("x", from, &dims(&[131])).unwrap();
            let y = b.cast(x, to).unwrap();
            let z = b.cast_saturating(x, to).unwrap();
            b.output("y", y);
            b.output("z", z);
            let x = if from.is_int() {
                wide_ints(from, &[131], &mut rng, true)
            } else {
                random(from, &[131], &mut rng, true)
            };
            // A cast is one exact rounding.
            check(&b.finish(), &[x], 0.0, 1.0);
        }
    }
}

/// A random view of `v`, whose shape it updates.
fn random_view(b: &mut Builder, v: ValueId, shape: &mut Vec<usize>, rng: &mut Rng) -> ValueId {
    let pick = |rng: &mut Rng, n: usize| rng.range(0, n as i64 - 1) as usize;
    match rng.range(0, 5) {
        0 => {
            let mut perm: Vec<usize> = (0..shape.len()).collect();
            for i in (1..perm.len()).rev() {
                perm.swap(i, pick(rng, i + 1));
            }
            *shape = perm.iter().map(|&p| shape[p]).collect();
            b.transpose(v, &perm).unwrap()
        }
        1 => {
            // Merge two neighbours, or split an axis in two.
            let a = pick(rng, shape.len());
            if a + 1 < shape.len() && rng.range(0, 1) == 0 {
                let n = shape.remove(a);
                shape[a] *= n;
            } else if let Some(f) = (2..shape[a]).find(|f| shape[a].is_multiple_of(*f)) {
                shape[a] /= f;
                shape.insert(a + 1, f);
            }
            b.reshape(v, &dims(shape)).unwrap()
        }
        2 => {
            // Any factorization.
            let n: usize = shape.iter().product();
            let f = (1..=n).filter(|f| n.is_multiple_of(*f)).nth(pick(rng, 3)).unwrap_or(1);
            *shape = vec![f, n / f];
            b.reshape(v, &dims(shape)).unwrap()
        }
        3 => {
            let mut to = shape.clone();
            for d in &mut to {
                if *d == 1 {
                    *d = rng.range(1, 3) as usize;
                }
            }
            to.insert(0, rng.range(1, 2) as usize);
            *shape = to;
            b.broadcast_to(v, &dims(shape)).unwrap()
        }
        4 => {
            let a = pick(rng, shape.len());
            let step = [-2, -1, 1, 2, 3][pick(rng, 5)];
            let start = pick(rng, shape[a]);
            let room = if step > 0 { shape[a] - 1 - start } else { start };
            let size = 1 + pick(rng, room / i64::unsigned_abs(step) as usize + 1);
            shape[a] = size;
            b.slice_axis(v, a as i64, &Dim::from(start), &Dim::from(size), step).unwrap()
        }
        _ => {
            let a = pick(rng, shape.len());
            let parts = [v, v];
            shape[a] *= 2;
            b.concat(&parts, a as i64).unwrap()
        }
    }
}

#[test]
fn random_chains_of_views_and_arithmetic() {
    let mut rng = Rng::new(5);
    for round in 0..400 {
        let dtype = [DType::F32, DType::F64, DType::F16, DType::I32, DType::I64, DType::U8, DType::I4][round % 7];
        let mut shape: Vec<usize> = (0..rng.range(1, 4)).map(|_| rng.range(1, 9) as usize).collect();
        let mut b = Builder::new(format!("views {round}"));
        let x = b.input("x", dtype, &dims(&shape)).unwrap();
        let inputs = [Tensor::random(dtype, &shape, rng.next_u64()).unwrap()];
        let mut v = x;
        for _ in 0..rng.range(1, 6) {
            if shape.iter().product::<usize>() > 4000 || shape.len() > 6 {
                break;
            }
            let before = (v, shape.clone());
            v = random_view(&mut b, v, &mut shape, &mut rng);
            if rng.range(0, 2) == 0 {
                v = b.binary(BinaryOp::Add, v, v).unwrap();
            }
            if shape == before.1 && rng.range(0, 1) == 0 {
                v = b.binary(BinaryOp::Max, v, before.0).unwrap();
            }
            if rng.range(0, 5) == 0 {
                let i = b.iota(dtype, &dims(&shape), rng.range(0, shape.len() as i64 - 1) as usize).unwrap();
                v = b.binary(BinaryOp::Sub, v, i).unwrap();
            }
        }
        b.output("y", v);
        assert!(!check(&b.finish(), &inputs, 2.0, 1.0).is_reference());
    }
}

#[test]
fn large_maps_run_on_several_threads() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let mut rng = Rng::new(6);
    pool.install(|| {
        for shape in [vec![517, 333], vec![64, 3, 777], vec![200_001], vec![33, 1, 40, 129]] {
            let mut b = Builder::new(format!("large {shape:?}"));
            let x = b.input("x", DType::F32, &dims(&shape)).unwrap();
            let last = *shape.last().unwrap();
            let bias = b.input("bias", DType::F32, &dims(&[last])).unwrap();
            let wide = b.broadcast_to(bias, &dims(&shape)).unwrap();
            let y = b.binary(BinaryOp::Add, x, wide).unwrap();
            let y = b.gelu(y).unwrap();
            let mut perm: Vec<usize> = (0..shape.len()).collect();
            perm.reverse();
            let t = b.transpose(y, &perm).unwrap();
            b.output("y", y);
            b.output("t", t);
            let inputs = [random(DType::F32, &shape, &mut rng, true), random(DType::F32, &[last], &mut rng, false)];
            check(&b.finish(), &inputs, 16.0, 1.0);
        }
    });
}

#[test]
fn quantize_and_dequantize_by_tensor_axis_and_block() {
    let mut rng = Rng::new(7);
    for to in [DType::I8, DType::U8, DType::I4, DType::U4, DType::I16, DType::I32, DType::F8E4M3, DType::F8E5M2] {
        for (axes, scales) in [
            (QuantAxes::Tensor, vec![]),
            (QuantAxes::Axis(1), vec![6]),
            (QuantAxes::Axis(0), vec![5]),
            (QuantAxes::Block { axis: 1, block: 3 }, vec![5, 2, 7]),
            (QuantAxes::Block { axis: 1, block: 4 }, vec![5, 2, 7]),
        ] {
            let mut b = Builder::new(format!("quantize {to} {axes:?}"));
            let x = b.input("x", DType::F32, &dims(&[5, 6, 7])).unwrap();
            let s = b.input("s", DType::F32, &dims(&scales)).unwrap();
            let z = b.input("z", to, &dims(&scales)).unwrap();
            let q = b.quantize(x, s, z, axes.clone()).unwrap();
            let d = b.dequantize(q, s, z, axes).unwrap();
            b.output("q", q);
            b.output("d", d);
            let scale: Vec<f64> =
                (0..scales.iter().product::<usize>()).map(|_| f64::from((0.01 + 0.2 * rng.unit()) as f32)).collect();
            let inputs = [
                random(DType::F32, &[5, 6, 7], &mut rng, true),
                Tensor::from_f64(DType::F32, &scales, &scale).unwrap(),
                Tensor::random(to, &scales, rng.next_u64()).unwrap(),
            ];
            check(&b.finish(), &inputs, 2.0, 1e-3);
        }
    }
}

#[test]
fn symbolic_shapes_bind_again_and_again() {
    let mut b = Builder::new("symbolic");
    let (n, m) = (b.symbol("N", 1, 100), b.symbol("M", 1, 100));
    let x = b.input("x", DType::F32, &[n.clone(), m.clone()]).unwrap();
    let t = b.transpose(x, &[1, 0]).unwrap();
    let t = b.reshape(t, &[m.clone() * n.clone()]).unwrap();
    let size = b.dim_value(&(n * m), DType::F32).unwrap();
    let [t, size] = b.broadcast_together([t, size]).unwrap();
    let y = b.binary(BinaryOp::Mul, t, size).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let mut rng = Rng::new(8);
    for shape in [[1, 1], [1, 100], [37, 5], [64, 64]] {
        check(&graph, &[random(DType::F32, &shape, &mut rng, false)], 0.0, 1.0);
    }
}

#[test]
fn padding_of_every_dtype() {
    let mut rng = Rng::new(9);
    for dtype in DType::ALL {
        for interior in [[0, 0], [1, 0], [0, 2]] {
            let mut b = Builder::new(format!("pad {dtype} {interior:?}"));
            let x = b.input("x", dtype, &dims(&[3, 5])).unwrap();
            let v = b.input("v", dtype, &[]).unwrap();
            let op = Op::Pad { low: dims(&[1, 2]), high: dims(&[0, 3]), interior: interior.to_vec() };
            let y = b.add1(op, &[x, v]).unwrap();
            b.output("y", y);
            let inputs = [random(dtype, &[3, 5], &mut rng, false), random(dtype, &[], &mut rng, false)];
            check(&b.finish(), &inputs, 0.0, 1.0);
        }
    }
}
