//! The interpreter of the tile IR against plain loops in f64: random values, odd sizes, poisoned outputs.

use crate::tiles::random::{Random, close, dims, poison, product, random};
use crate::tiles::{Product, f32};
use kiln_target::arch::Arch;
use kiln_tile::interp::Arg;
use kiln_tile::ir::{self, Builder, Level, Op, Place, Program, Stmt, interp};
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::{Array, AtomicOp, DType, Expr, ReduceOp, Round, Scalar, TileError};

fn execute(program: &Program, mut args: Vec<Arg>) -> Vec<f64> {
    interp::run(program, &mut args).unwrap();
    args.pop().unwrap().array().unwrap().to_f64()
}

fn softmax_rows(x: &[f64], cols: usize) -> Vec<f64> {
    let row = |row: &[f64]| {
        let peak = row.iter().fold(f64::NEG_INFINITY, |peak, x| if x.is_nan() { f64::NAN } else { peak.max(*x) });
        let exps: Vec<f64> = row.iter().map(|x| (x - peak).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.into_iter().map(move |e| e / sum).collect::<Vec<f64>>()
    };
    x.chunks(cols).flat_map(row).collect()
}

#[test]
fn maps_repeat_axes_and_gather() {
    let mut r = random();
    for (rows, vocab, cols) in [(1, 1, 1), (9, 5, 3), (13, 7, 20)] {
        let (table, bias) = (r.array(DType::BF16, vocab * cols), r.array(DType::F32, cols));
        let ids: Vec<i64> = (0..rows).map(|_| r.below(2 * vocab as u64) as i64 - vocab as i64).collect();
        let gelu = |x: f64| x * 0.5 * (1.0 + kiln_tile::math::erf(x * std::f64::consts::FRAC_1_SQRT_2));
        let (t, b) = (table.to_f64(), bias.to_f64());
        let element = |row: i64, c: usize| gelu(t[row as usize * cols + c] + b[c]);
        let at = |id: i64| if id < 0 { id + vocab as i64 } else { id };
        let expected: Vec<f64> = ids.iter().flat_map(|&id| (0..cols).map(move |c| element(at(id), c))).collect();
        let program = crate::tiles::gather_gelu(DType::BF16, [4, 8]);
        let args = |ids: &[i64]| {
            let ids = Array::from_values(DType::I64, ids.iter().map(|&id| Scalar::Int(id.into())));
            let mut args = dims([rows, vocab, cols]);
            let fault = Array::from_values(DType::I32, [Scalar::Int(3)]);
            args.extend([table.clone(), ids, bias.clone(), fault].map(Arg::Array));
            args.push(poison(DType::BF16, rows * cols));
            args
        };
        let mut good = args(&ids);
        interp::run(&program, &mut good).unwrap();
        close(&good[7].array().unwrap().to_f64(), &expected, 1e-2);
        assert_eq!(good[6].array().unwrap().get(0), Scalar::Int(3), "no fault");
        // An id outside of the table is noted, and read nowhere.
        let mut wrong = ids.clone();
        wrong[rows / 2] = vocab as i64;
        let mut bad = args(&wrong);
        interp::run(&program, &mut bad).unwrap();
        assert_eq!(bad[6].array().unwrap().get(0), Scalar::Int(7));
    }
}

#[test]
fn softmax_of_a_tile_and_of_a_loop() {
    let mut r = random();
    for (rows, cols) in [(1, 1), (2, 7), (5, 33), (3, 64)] {
        let x = r.array(DType::F32, rows * cols);
        let expected = softmax_rows(&x.to_f64(), cols);
        for program in [crate::tiles::softmax(DType::F32, [2, 64]), crate::tiles::softmax_loop(DType::F32, [4, 16])] {
            let mut args = dims([rows, cols]);
            args.extend([Arg::Array(x.clone()), poison(DType::F32, rows * cols)]);
            close(&execute(&program, args), &expected, 1e-6);
        }
    }
}

#[test]
fn softmax_of_infinities_and_nan() {
    let mut r = random();
    let (rows, cols) = (40, 9);
    let x = r.wild(DType::F16, rows * cols);
    let mut args = dims([rows, cols]);
    args.extend([Arg::Array(x.clone()), poison(DType::F16, rows * cols)]);
    let found = execute(&crate::tiles::softmax(DType::F16, [8, 16]), args);
    let expected = softmax_rows(&x.to_f64(), cols);
    assert!(expected.iter().any(|x| x.is_nan()) && expected.iter().any(|x| x.is_finite()));
    close(&found, &expected, 2e-3);
}

#[test]
fn layer_norm_of_a_tile() {
    let mut r = random();
    for (rows, cols) in [(1, 1), (3, 77), (5, 128)] {
        let x = r.array(DType::F32, rows * cols);
        let (gamma, beta) = (r.array(DType::F32, cols), r.array(DType::F32, cols));
        let (g, b) = (gamma.to_f64(), beta.to_f64());
        let normal = |row: &[f64]| {
            let mean = row.iter().sum::<f64>() / cols as f64;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
            let of = |(c, x): (usize, &f64)| (x - mean) / (var + 1e-5).sqrt() * g[c] + b[c];
            row.iter().enumerate().map(of).collect::<Vec<f64>>()
        };
        let expected: Vec<f64> = x.to_f64().chunks(cols).flat_map(normal).collect();
        let mut args = dims([rows, cols]);
        args.push(Arg::Scalar(Scalar::Float(1e-5)));
        args.extend([x, gamma, beta].map(Arg::Array));
        args.push(poison(DType::F32, rows * cols));
        close(&execute(&crate::tiles::layer_norm(DType::F32, [2, 128]), args), &expected, 1e-5);
    }
}

fn product_matches(r: &mut Random, of: Product, [batch, m, n, k]: [usize; 4]) {
    let (a, b) = (r.array(of.operands, batch * m * k), r.array(of.operands, batch * k * n));
    let bias = r.array(of.acc, n);
    let (x, y, z) = (a.to_f64(), b.to_f64(), bias.to_f64());
    let mut args = dims([batch, m, n, k]);
    args.extend([a, b, bias].map(Arg::Array));
    args.push(poison(of.acc, batch * m * n));
    let found = execute(&crate::tiles::gemm(of), args);
    // A rounding for each tile along K, and one for the bias.
    let unit = if of.acc.is_float() { (k as f64 / f64::from(of.tile[2]) + 2.0) * 2f64.powi(-24) } else { 0.0 };
    for plane in 0..batch {
        let (a, b) = (&x[plane * m * k..][..m * k], &y[plane * k * n..][..k * n]);
        let (sums, sizes) = product(a, b, [m, n, k], of.transposed);
        for (t, found) in found[plane * m * n..][..m * n].iter().enumerate() {
            let (e, bound) = (sums[t] + z[t % n], unit * (sizes[t] + z[t % n].abs()));
            assert!((found - e).abs() <= bound, "{of:?} {:?} element {t}: {found}, expected {e}", [batch, m, n, k]);
        }
    }
}

#[test]
fn products_of_any_size_and_order() {
    let mut r = random();
    for (operands, acc) in [(DType::F16, DType::F32), (DType::F32, DType::F32), (DType::I8, DType::I32)] {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            let of = Product { operands, acc, tile: [16, 8, 4], transposed, stages: 3 };
            let sizes = [2, 1 + r.below(40), 1 + r.below(20), r.below(30)].map(|n| n as usize);
            product_matches(&mut r, of, sizes);
            product_matches(&mut r, of, [1, 1, 1, 1]);
        }
    }
}

/// Slow if the interpreter looks names up or allocates for every element.
#[test]
fn a_product_of_256_cubed() {
    let mut r = random();
    let of =
        Product { operands: DType::BF16, acc: DType::F32, tile: [128, 64, 32], transposed: [false, true], stages: 4 };
    product_matches(&mut r, of, [1, 256, 256, 256]);
}

#[test]
fn integer_sums_wrap() {
    let mut k = Builder::new("wrap", "y = a a^T of int32");
    let shape = [1.into(), 3.into()];
    let a = k.input("a", DType::I32, &shape);
    let y = k.output("y", DType::I32, &[1.into(), 1.into()]);
    k.grid(&[]);
    let from = k.view(&a, &[0.into(), 0.into()], &[1, 3]);
    let a = k.load("a", from);
    let b = k.transpose(&a, &[1, 0]);
    let five = k.full("acc", DType::I32, &[1, 1], Expr::int(DType::I32, 5));
    let sum = k.dot(&a, &b, &five);
    let to = k.view(&y, &[0.into(), 0.into()], &[1, 1]);
    k.store(Place::View(to), &sum);
    let values: [i64; 3] = [70_000, -50_000, 7];
    let a = Array::from_values(DType::I32, values.map(|x| Scalar::Int(x.into())));
    let exact: i64 = values.iter().map(|x| x * x).sum::<i64>() + 5;
    assert!(exact > i64::from(i32::MAX));
    let found = execute(&k.finish().unwrap(), vec![Arg::Array(a), poison(DType::I32, 1)]);
    assert_eq!(found, [f64::from(exact as i32)]);
}

/// Ties, numbers below the normal ones, and those beyond the greatest.
#[test]
fn operands_are_rounded_to_tf32_where_a_dot_says_so() {
    let p = |exponent: i32| 2f64.powi(exponent);
    let max = f64::from(f32::MAX);
    let values =
        [1.0 + p(-11), 1.0 + 3.0 * p(-11), -1.0 - p(-11), 1.0 + p(-11) + p(-23), p(-137), max, f64::NEG_INFINITY];
    let inf = f64::INFINITY;
    let up = [1.0 + p(-10), 1.0 + p(-9), -1.0 - p(-10), 1.0 + p(-10), p(-136), inf, -inf];
    let even = [1.0, 1.0 + p(-9), -1.0, 1.0 + p(-10), 0.0, inf, -inf];
    for (tf32, expected) in [(None, values), (Some(Round::Nearest), even), (Some(Round::NearestAway), up)] {
        let mut k = Builder::new("rounded", "y = a b of one column and one row");
        let (m, one) = (values.len() as u32, Expr::index(1));
        let a = k.input("a", DType::F32, &[i64::from(m).into(), one.clone()]);
        let b = k.input("b", DType::F32, &[one.clone(), one.clone()]);
        let y = k.output("y", DType::F32, &[i64::from(m).into(), one]);
        k.grid(&[]);
        let [from_a, from_b, to] =
            [(&a, m), (&b, 1), (&y, m)].map(|(of, m)| k.view(of, &[0.into(), 0.into()], &[m, 1]));
        let (a, b) = (k.load("a", from_a), k.load("b", from_b));
        let zero = k.full("acc", DType::F32, &[m, 1], f32(0.0));
        let sum = k.dot_rounded(&a, &b, &zero, tf32);
        k.store(Place::View(to), &sum);
        let array =
            |values: &[f64]| Arg::Array(Array::from_values(DType::F32, values.iter().map(|x| Scalar::Float(*x))));
        // The other operand is rounded too, to 1.
        let other = if tf32.is_some() { 1.0 + p(-12) } else { 1.0 };
        let args = vec![array(&values), array(&[other]), poison(DType::F32, values.len())];
        assert_eq!(execute(&k.finish().unwrap(), args), expected, "{tf32:?}");
    }
}

#[test]
fn attention_streams_through_keys() {
    let mut r = random();
    for (batch, queries, keys) in [(1, 1, 1), (2, 19, 40), (1, 33, 7)] {
        let (depth, columns) = (16, 24);
        let [q, k, v] = [(queries, depth), (keys, depth), (keys, columns)]
            .map(|(rows, columns)| r.array(DType::BF16, batch * rows * columns));
        let [qs, ks, vs] = [&q, &k, &v].map(Array::to_f64);
        let mut expected = vec![];
        for z in 0..batch {
            let of = |x: &'_ [f64], len: usize| x[z * len..][..len].to_vec();
            let (qs, ks, vs) = (of(&qs, queries * depth), of(&ks, keys * depth), of(&vs, keys * columns));
            let scores = product(&qs, &ks, [queries, keys, depth], [false, true]).0;
            expected.extend(product(&softmax_rows(&scores, keys), &vs, [queries, columns, keys], [false; 2]).0);
        }
        let mut args = dims([batch, queries, keys]);
        args.extend([q, k, v].map(Arg::Array));
        args.push(poison(DType::BF16, expected.len()));
        let program = crate::tiles::attention(DType::BF16, [16, 8], [depth as u32, columns as u32]);
        close(&execute(&program, args), &expected, 2e-2);
    }
}

#[test]
fn atomics_combine_what_meets() {
    let mut r = random();
    for (n, bins) in [(1, 1), (1000, 13), (257, 300)] {
        let values: Vec<i64> = (0..n).map(|_| r.below(1 << 20) as i64).collect();
        for op in [AtomicOp::Add, AtomicOp::Min, AtomicOp::Max] {
            let mut expected = vec![5; bins];
            for &v in &values {
                let bin = &mut expected[v as usize % bins];
                *bin = match op {
                    AtomicOp::Add => *bin + v,
                    AtomicOp::Min => v.min(*bin),
                    AtomicOp::Max => v.max(*bin),
                };
            }
            let mut args = dims([n, bins]);
            args.push(Arg::Array(Array::from_values(DType::I32, values.iter().map(|&v| Scalar::Int(v.into())))));
            args.push(Arg::Array(Array::from_values(DType::I32, vec![Scalar::Int(5); bins])));
            let found = execute(&crate::tiles::scatter(op, 64), args);
            assert_eq!(found, expected.iter().map(|&x| x as f64).collect::<Vec<_>>(), "{op:?}");
        }
    }
}

#[test]
fn one_of_two_blocks_runs() {
    let mut r = random();
    for n in [1, 5, 8] {
        let x = r.array(DType::F32, n);
        let xs = x.to_f64();
        let peak = xs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for (flag, expected) in [(0, xs.iter().map(|x| x * 2.0).collect()), (1, vec![peak; n])] {
            let mut args = dims([flag, n]);
            args.extend([Arg::Array(x.clone()), poison(DType::F32, n)]);
            assert_eq!(execute(&crate::tiles::branches(8), args), expected);
        }
    }
}

#[test]
fn reductions_of_every_kind() {
    use ReduceOp::{And, Max, Min, Or, Prod, Sum};
    let mut r = random();
    for (op, dtype) in [
        (Sum, DType::F32),
        (Prod, DType::F32),
        (Min, DType::F32),
        (Max, DType::F32),
        (Sum, DType::I32),
        (Min, DType::I32),
        (Max, DType::U32),
        (And, DType::Bool),
        (Or, DType::Bool),
        (Or, DType::I32),
    ] {
        for axis in 0..3 {
            let shape = [2, 3, 5];
            let x = if dtype == DType::F32 { r.wild(dtype, 30) } else { r.array(dtype, 30) };
            let mut left = shape;
            left[axis] = 1;
            let extents = |shape: [u32; 3]| shape.map(|n| Expr::index(n.into()));
            let mut k = Builder::new("reduce", "combines along an axis");
            let (input, y) = (k.input("x", dtype, &extents(shape)), k.output("y", dtype, &extents(left)));
            let zero = || [0, 0, 0].map(Expr::index);
            let from = k.view(&input, &zero(), &shape);
            let tile = k.load("x", from);
            let tile = k.reduce("y", op, &tile, axis);
            let to = k.view(&y, &zero(), &left);
            k.store(Place::View(to), &tile);
            let found =
                execute(&k.finish().unwrap(), vec![Arg::Array(x.clone()), poison(dtype, 30 / shape[axis] as usize)]);
            let xs = x.to_f64();
            let combine = |a: f64, b: f64| match op {
                Sum => a + b,
                Prod => a * b,
                Min | Max if a.is_nan() || b.is_nan() => f64::NAN,
                Min => a.min(b),
                Max => a.max(b),
                And => f64::from((a as i64 & b as i64) as i32),
                Or => f64::from((a as i64 | b as i64) as i32),
            };
            let inner: usize = shape[axis + 1..].iter().map(|&n| n as usize).product();
            let extent = shape[axis] as usize;
            let line = |at: usize| (0..extent).map(move |i| at / inner * inner * extent + i * inner + at % inner);
            let expected: Vec<f64> =
                (0..30 / extent).map(|at| line(at).map(|i| xs[i]).reduce(combine).unwrap()).collect();
            close(&found, &expected, 1e-6);
        }
    }
}

/// What is left of an axis: sums of the elements that are a multiple of its new extent apart.
#[test]
fn reductions_leave_residues() {
    for (axis, left) in [(0, 2), (1, 3), (1, 6), (1, 1)] {
        let (shape, mut to) = ([4, 6], [4, 6]);
        to[axis] = left;
        let extents = |shape: [u32; 2]| shape.map(|n| Expr::index(n.into()));
        let mut k = Builder::new("residues", "combines along an axis");
        let (input, y) = (k.input("x", DType::F32, &extents(shape)), k.output("y", DType::F32, &extents(to)));
        let zero = || [0, 0].map(Expr::index);
        let from = k.view(&input, &zero(), &shape);
        let tile = k.load("x", from);
        let tile = k.reduce_to("y", ReduceOp::Sum, &tile, axis, left);
        let view = k.view(&y, &zero(), &to);
        k.store(Place::View(view), &tile);
        let x = random().array(DType::F32, 24);
        let found =
            execute(&k.finish().unwrap(), vec![Arg::Array(x.clone()), poison(DType::F32, (to[0] * to[1]) as usize)]);
        let mut expected = vec![0.0; (to[0] * to[1]) as usize];
        for (i, x) in x.to_f64().into_iter().enumerate() {
            let mut at = [i as u32 / 6, i as u32 % 6];
            at[axis] %= left;
            expected[(at[0] * to[1] + at[1]) as usize] += x;
        }
        close(&found, &expected, 1e-6);
    }
}

/// `y[i] = x[i + shift]`, masked or not.
fn shifted(masked: bool) -> Program {
    let mut k = Builder::new("shifted", "y = x from an offset");
    let (n, shift) = (k.dim("n", 1..=64, 1), k.dim("shift", -64..=64, 1));
    let x = k.input("x", DType::F32, std::slice::from_ref(&n));
    let y = k.output("y", DType::F32, std::slice::from_ref(&n));
    let mut from = k.view(&x, &[shift], &[8]);
    from.masked = vec![masked];
    let tile = k.load_or("x", Place::View(from), &[8], f32(9.0));
    let to = k.view(&y, &[0.into()], &[8]);
    k.store(Place::View(to), &tile);
    k.finish().unwrap()
}

#[test]
fn outside_of_a_tensor_is_the_fill_or_an_error() {
    let mut r = random();
    let x = r.array(DType::F32, 8);
    let xs = x.to_f64();
    let args = |shift: i64| vec![Arg::dim(8), Arg::dim(shift), Arg::Array(x.clone()), poison(DType::F32, 8)];
    for shift in [-9, -3, 0, 5, 8] {
        let expected: Vec<f64> =
            (0..8).map(|i| usize::try_from(i + shift).ok().and_then(|i| xs.get(i).copied()).unwrap_or(9.0)).collect();
        assert_eq!(execute(&shifted(true), args(shift)), expected);
        let unmasked = interp::run(&shifted(false), &mut args(shift));
        assert_eq!(unmasked.is_ok(), shift == 0);
        let Err(error) = unmasked else { continue };
        let index = vec![if shift < 0 { i128::from(shift) } else { 8 }];
        let (kernel, buffer) = ("shifted".to_owned(), "x".to_owned());
        assert_eq!(error, TileError::OutOfBounds { kernel, buffer, index, shape: vec![8] });
    }
}

#[test]
fn strided_tensors_and_planes_without_an_axis() {
    let mut r = random();
    // x is [3, 4, 5] with rows of 7; y[j, i] = x[1, i, j].
    let mut k = Builder::new("plane", "y = x[1] transposed");
    let shape = [3, 4, 5].map(Expr::index);
    let x = k.tensor_strided("x", DType::F32, &shape, &[28, 7, 1].map(Expr::index), kiln_tile::Access::Read);
    let y = k.output("y", DType::F32, &[5, 4].map(Expr::index));
    let place = crate::tiles::walk(&x, &[1, 0, 0].map(Expr::index), &[None, Some(1), Some(0)], &[5, 4]);
    let tile = k.load_or("x", place, &[5, 4], f32(0.0));
    let to = k.view(&y, &[0.into(), 0.into()], &[5, 4]);
    k.store(Place::View(to), &tile);
    let data = r.array(DType::F32, 84);
    let xs = data.to_f64();
    let expected: Vec<f64> = (0..20).map(|t| xs[28 + t % 4 * 7 + t / 4]).collect();
    assert_eq!(execute(&k.finish().unwrap(), vec![Arg::Array(data), poison(DType::F32, 20)]), expected);
}

#[test]
fn an_accumulator_is_used_once() {
    let mut k = Builder::new("twice", "an accumulator read after its dot");
    let y = k.output("y", DType::F32, &[8.into(), 8.into()]);
    let a = k.full("a", DType::F32, &[8, 8], f32(1.5));
    let acc = k.full("acc", DType::F32, &[8, 8], f32(0.0));
    let sum = k.dot(&a, &a, &acc);
    let twice = k.map("twice", &[8, 8], &[&sum], |_, x, _| &x[0] * 2.0);
    let to = k.view(&y, &[0.into(), 0.into()], &[8, 8]);
    k.store(Place::View(to), &twice);
    let mut program = k.finish().unwrap();
    for stmt in &mut program.body {
        if let Op::Map { args, .. } = &mut stmt.op {
            args[0].1 = acc.id;
        }
    }
    let error = interp::run(&program, &mut [poison(DType::F32, 64)]).unwrap_err();
    assert!(matches!(error, TileError::Undefined { .. }) && error.to_string().contains("`acc`"), "{error}");
}

#[test]
fn arguments_are_checked() {
    let args =
        |n: i64, dtype| vec![Arg::dim(n), Arg::dim(0), Arg::Array(Array::zeros(dtype, 8)), poison(DType::F32, 8)];
    for (position, mut args) in
        [(0, args(65, DType::F32)), (2, args(8, DType::F16)), (3, args(8, DType::F32)[..3].to_vec())]
    {
        let error = interp::run(&shifted(true), &mut args).unwrap_err();
        assert!(matches!(error, TileError::Argument { position: p, .. } if p == position), "{error}");
    }
}

/// Each CTA of a cluster of two takes half of a row; `late` says which statement the second one meets the first at.
fn halves(level: Level) -> Program {
    let text = r#"
kernel halves "sum and greatest of rows" level tile
param m: index in 1..=64
param x: f32[m, 64] strides [64, 1] read
param y: f32[m, 4] strides [4, 1] write
schedule warps 4 cluster 2 across
grid row = m, part = 2
{
  %x: f32[1, 32] = load x[row.., part * 32..] fill 0.0
  %sum: f32[1, 1] = reduce sum %x axis 1
  %most: f32[1, 1] = reduce max %x axis 1
  %sum.1: f32[1, 1], %most.1: f32[1, 1] = cluster_reduce sum %sum, max %most
  store y[row.., part * 2..] = %sum.1
  store y[row.., part * 2 + 1..] = %most.1
}"#;
    let mut program: Program = text.parse().unwrap();
    ir::verify(&program).unwrap();
    for pass in PASSES.iter().take_while(|pass| pass.level <= level) {
        pass.run(&mut program, &Machine::new(Arch::Sm90a)).unwrap();
    }
    program
}

#[test]
fn ctas_of_a_cluster_get_the_same() {
    let mut r = random();
    let x = r.wild(DType::F32, 5 * 64);
    let both = |row: &[f64]| {
        let most = row
            .iter()
            .fold(f64::NEG_INFINITY, |most, x| if x.is_nan() || most.is_nan() { f64::NAN } else { most.max(*x) });
        let sum: f64 = row.iter().sum();
        [sum, most, sum, most]
    };
    let expected: Vec<f64> = x.to_f64().chunks(64).flat_map(both).collect();
    for level in [Level::Tile, Level::Scheduled, Level::LaidOut] {
        let mut args = dims([5]);
        args.extend([Arg::Array(x.clone()), poison(DType::F32, 20)]);
        close(&execute(&halves(level), args), &expected, 1e-5);
    }
    // A CTA that ends without the others.
    let mut program = halves(Level::Tile);
    let stmt = program.body.remove(3);
    let cond = Expr::var(&program.domain[1].var).eq(0);
    program.body.insert(3, Stmt::effect(Op::If { cond, then: (vec![stmt], vec![]), otherwise: (vec![], vec![]) }));
    program.body.truncate(4);
    let mut args = dims([1]);
    args.extend([Arg::Array(x.clone()), poison(DType::F32, 20)]);
    let error = interp::run(&program, &mut args).unwrap_err();
    assert!(matches!(&error, TileError::Deadlock { .. }) && error.to_string().contains("other CTAs"), "{error}");
}

#[test]
fn barriers_are_the_simulators() {
    let mut program = shifted(true);
    program.level = Level::Async;
    program.body.push(Stmt::effect(Op::ClusterSync));
    let mut args = vec![Arg::dim(8), Arg::dim(0), Arg::Array(Array::zeros(DType::F32, 8)), poison(DType::F32, 8)];
    let error = interp::run(&program, &mut args).unwrap_err();
    assert!(matches!(error, TileError::Invalid { .. }) && error.to_string().contains("simulate"), "{error}");
}
