//! Exact numerics: every device gives the same bits, and functions are within what is promised.

use crate::models::home;
use kiln_engine::{BuildOptions, Engine, Session, build, open_device};
use kiln_fuse::Numerics;
use kiln_graph::{BinaryOp, Builder, DType, Graph, Rng, Tensor, UnaryOp, ValueId, interpret};

/// The oldest architecture converts by hand what the newest has instructions for.
const TARGETS: [&str; 3] = ["cpu", "sm_75", "sm_90a"];

fn exact(graph: &Graph) -> Engine {
    let targets = TARGETS.iter().map(|t| t.parse().unwrap()).collect();
    let options = BuildOptions { targets, numerics: Numerics::Exact, ..BuildOptions::new(home()) };
    build(graph, &options, &|_| {}).unwrap().0
}

/// What each device makes of `inputs`.
fn on_each(engine: &Engine, inputs: &[(&str, &Tensor)]) -> Vec<(&'static str, Vec<Tensor>)> {
    let run = |target: &'static str| {
        let device = if target == "cpu" { "cpu:2".to_owned() } else { format!("sim:{target}:fast") };
        let mut session = Session::new(engine, open_device(&device).unwrap()).unwrap();
        // Makes the arena, to be poisoned.
        session.run(inputs).unwrap();
        session.poison(0xcb).unwrap();
        (target, session.run(inputs).unwrap().into_iter().map(|(_, t)| t).collect())
    };
    TARGETS.into_iter().map(run).collect()
}

/// Numbers of every magnitude that `dtype` has, many of them near each other, so that sums cancel.
fn numbers(dtype: DType, count: usize, seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    let (low, high) = match dtype {
        DType::F16 => (-16, 12),
        DType::BF16 | DType::F32 => (-130, 100),
        _ => (-1030, 800),
    };
    Tensor::generate(dtype, &[count], |i| match i % 16 {
        0 => [0.0, -0.0, f64::INFINITY, f64::NAN][rng.range(0, 3) as usize],
        1 => rng.signed() * 2f64.powi(rng.range(low, high) as i32),
        _ => 1.0 + rng.signed() * 0.5,
    })
    .unwrap()
}

/// A chain of `+ - * /`, roots and casts to other floats and to integers and back.
fn chain(dtype: DType, seed: u64) -> Graph {
    let mut rng = Rng::new(seed);
    let mut b = Builder::new(format!("chain_{dtype}"));
    let n = b.symbol("N", 1, 4096);
    let mut known: Vec<ValueId> =
        ["x", "y", "z"].iter().map(|name| b.input(name, dtype, std::slice::from_ref(&n)).unwrap()).collect();
    let pick = |rng: &mut Rng, known: &[ValueId]| known[rng.range(0, known.len() as i64 - 1) as usize];
    for _ in 0..16 {
        let (p, q) = (pick(&mut rng, &known), pick(&mut rng, &known));
        let binary = |b: &mut Builder, op| b.binary(op, p, q).unwrap();
        let through = |b: &mut Builder, to| {
            let cast = b.cast(p, to).unwrap();
            b.cast(cast, dtype).unwrap()
        };
        let next = match rng.range(0, 11) {
            0 | 1 => binary(&mut b, BinaryOp::Add),
            2 | 3 => binary(&mut b, BinaryOp::Sub),
            4..=6 => binary(&mut b, BinaryOp::Mul),
            7 => binary(&mut b, BinaryOp::Div),
            8 => {
                let positive = b.abs(p).unwrap();
                b.sqrt(positive).unwrap()
            }
            9 => through(&mut b, [DType::F16, DType::BF16, DType::F32, DType::F64][rng.range(0, 3) as usize]),
            10 => through(&mut b, [DType::I32, DType::I64, DType::U8, DType::I16][rng.range(0, 3) as usize]),
            _ => b.unary(UnaryOp::Recip, p).unwrap(),
        };
        known.push(next);
    }
    for (i, v) in known.iter().rev().take(4).enumerate() {
        b.output(format!("y{i}"), *v);
    }
    b.finish()
}

fn bits(t: &Tensor) -> Vec<u64> {
    let plain = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    t.to_f64_vec().into_iter().map(plain).collect()
}

#[test]
fn arithmetic_agrees_bit_for_bit_on_every_device() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for seed in 0..4 {
            let graph = chain(dtype, seed);
            let inputs = [0, 1, 2].map(|i| numbers(dtype, 1001, 10 * seed + i));
            let named: Vec<(&str, &Tensor)> = ["x", "y", "z"].into_iter().zip(&inputs).collect();
            let expected = interpret(&graph, &inputs).unwrap();
            for (target, found) in on_each(&exact(&graph), &named) {
                for (o, (e, f)) in expected.iter().zip(&found).enumerate() {
                    let apart = bits(e).into_iter().zip(bits(f)).position(|(e, f)| e != f);
                    let show = |t: &Tensor| apart.map(|i| t.to_f64_vec()[i]);
                    assert_eq!(apart, None, "{dtype} {seed} {target} output {o}: {:?}, {:?}", show(e), show(f));
                }
            }
        }
    }
}

/// A product and its own rounding, apart by what a fused multiply and add would keep.
#[test]
fn nothing_is_contracted() {
    let mut b = Builder::new("contract");
    let [x, y, p] = ["x", "y", "p"].map(|name| b.input(name, DType::F32, &[512.into()]).unwrap());
    let product = b.mul(x, y).unwrap();
    let rest = b.sub(product, p).unwrap();
    b.output("rest", rest);
    let inputs = [1, 2].map(|seed| Tensor::random(DType::F32, &[512], seed).unwrap());
    let (x, y) = (inputs[0].to_f64_vec(), inputs[1].to_f64_vec());
    let rounded = Tensor::generate(DType::F32, &[512], |i| x[i] * y[i]).unwrap();
    assert!(rounded.to_f64_vec().iter().zip(x.iter().zip(&y)).any(|(p, (x, y))| *p != x * y), "nothing to be kept");
    let engine = exact(&b.finish());
    for (target, found) in on_each(&engine, &[("x", &inputs[0]), ("y", &inputs[1]), ("p", &rounded)]) {
        assert!(found[0].to_f64_vec().iter().all(|v| *v == 0.0), "{target}");
    }
}

/// 2^62 + 2^54 + 1 is nearer to 2^62 + 2^55 than to 2^62; by way of f32 or f64 it is a tie, which falls to 2^62.
#[test]
fn integers_and_wide_floats_round_once_to_sixteen_bits() {
    let big = (1i128 << 62) + (1 << 54) + 1;
    let mut b = Builder::new("once");
    let [i, h] = [("i", DType::I64), ("h", DType::F64)].map(|(name, ty)| b.input(name, ty, &[64.into()]).unwrap());
    let (i, h) = (b.cast(i, DType::BF16).unwrap(), b.cast(h, DType::F16).unwrap());
    b.output("i", i);
    b.output("h", h);
    let ints = Tensor::from_i128(DType::I64, &[64], &[big, -big].repeat(32)).unwrap();
    let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
    let floats = Tensor::generate(DType::F64, &[64], |i| if i % 2 == 0 { above } else { -above }).unwrap();
    for (target, found) in on_each(&exact(&b.finish()), &[("i", &ints), ("h", &floats)]) {
        assert_eq!(
            found[0].to_f64_vec()[..2],
            [2f64.powi(62) + 2f64.powi(55), -2f64.powi(62) - 2f64.powi(55)],
            "{target}"
        );
        assert_eq!(found[1].to_f64_vec()[..2], [1.0 + 2f64.powi(-10), -1.0 - 2f64.powi(-10)], "{target}");
    }
}

/// Units in the last place of `dtype` at `x`.
fn ulp(dtype: DType, x: f64) -> f64 {
    let (mantissa, least) = match dtype {
        DType::F16 => (10, -14),
        DType::BF16 => (7, -126),
        DType::F32 => (23, -126),
        _ => (52, -1022),
    };
    2f64.powi((x.abs().log2().floor() as i32).max(least) - mantissa)
}

#[test]
fn functions_are_within_four_units_in_the_last_place() {
    use UnaryOp::*;
    let all = [
        Exp, Exp2, Expm1, Log, Log2, Log1p, Rsqrt, Sin, Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Tanh, Asinh, Acosh,
        Atanh, Erf,
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let mut b = Builder::new(format!("functions_{dtype}"));
        let x = b.input("x", dtype, &[4096.into()]).unwrap();
        for op in all {
            let y = b.unary(op, x).unwrap();
            b.output(format!("{op}"), y);
        }
        let graph = b.finish();
        let mut rng = Rng::new(9);
        let x = Tensor::generate(dtype, &[4096], |i| match i % 4 {
            0 => rng.signed() * 2f64.powi(rng.range(-20, 6) as i32),
            1 => rng.signed(),
            2 => 1.0 + rng.signed().abs() * 4.0,
            _ => rng.signed() * 9.0,
        })
        .unwrap();
        // The interpreter computes in f64 and rounds once.
        let expected = interpret(&graph, std::slice::from_ref(&x)).unwrap();
        for (target, found) in on_each(&exact(&graph), &[("x", &x)]) {
            for (op, (e, f)) in all.iter().zip(expected.iter().zip(&found)) {
                for (i, (e, f)) in e.to_f64_vec().into_iter().zip(f.to_f64_vec()).enumerate() {
                    let same = e == f || e.is_nan() && f.is_nan();
                    let apart = (e - f).abs() / ulp(dtype, e);
                    assert!(same || apart <= 4.0, "{dtype} {target} {op}({:e}): {f:e}, not {e:e}", x.to_f64_vec()[i]);
                }
            }
        }
    }
}
