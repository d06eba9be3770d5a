//! Elementwise semantics, casts and quantization.

use kiln_graph::*;

fn run_on(inputs: &[Tensor], f: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId>) -> Result<Tensor> {
    let mut b = Builder::new("test");
    let mut ids = Vec::new();
    for (i, t) in inputs.iter().enumerate() {
        let shape: Vec<Dim> = t.shape().iter().map(|&d| Dim::from(d)).collect();
        ids.push(b.input(&format!("x{i}"), t.dtype(), &shape)?);
    }
    let y = f(&mut b, &ids)?;
    b.output("y", y);
    Ok(interpret(&b.finish(), inputs)?.remove(0))
}

fn ints(dtype: DType, v: &[i128]) -> Tensor {
    Tensor::from_i128(dtype, &[v.len()], v).unwrap()
}

fn integer(op: BinaryOp, dtype: DType, a: &[i128], b: &[i128]) -> Vec<i128> {
    run_on(&[ints(dtype, a), ints(dtype, b)], |g, v| g.binary(op, v[0], v[1])).unwrap().to_i128_vec().unwrap()
}

#[test]
fn integers_wrap_divide_and_shift_as_documented() {
    let max = i128::from(u64::MAX);
    assert_eq!(integer(BinaryOp::Add, DType::U64, &[max, 5], &[2, 6]), [1, 11]);
    assert_eq!(integer(BinaryOp::Mul, DType::U64, &[max, max / 2], &[max, 3]), [1, (max / 2 * 3) & max]);
    assert_eq!(integer(BinaryOp::Max, DType::U64, &[max, 1], &[1, max]), [max, max]);
    assert_eq!(integer(BinaryOp::Sub, DType::I4, &[-8], &[1]), [7]);
    assert_eq!(integer(BinaryOp::Div, DType::I32, &[7, -7, 7, -7], &[2, 2, -2, -2]), [3, -3, -3, 3]);
    assert_eq!(integer(BinaryOp::Div, DType::I64, &[i64::MIN.into()], &[-1]), [i64::MIN.into()]);
    assert_eq!(integer(BinaryOp::Mod, DType::I32, &[7, -7, 7, -7], &[3, 3, -3, -3]), [1, 2, -2, -1]);
    assert_eq!(integer(BinaryOp::Rem, DType::I32, &[7, -7, 7, -7], &[3, 3, -3, -3]), [1, -1, 1, -1]);
    assert_eq!(integer(BinaryOp::Pow, DType::I32, &[3, -2, 2, -1, 1], &[4, 3, -1, -3, -9]), [81, -8, 0, -1, 1]);
    assert_eq!(integer(BinaryOp::Shl, DType::U8, &[3, 255, 1], &[2, 1, 8]), [12, 254, 0]);
    assert_eq!(integer(BinaryOp::Shr, DType::I8, &[-128, -1, 64], &[3, 1, 9]), [-16, -1, 0]);
    assert_eq!(integer(BinaryOp::Xor, DType::Bool, &[0, 1, 1], &[1, 1, 0]), [1, 0, 1]);
    let e = run_on(&[ints(DType::I32, &[1]), ints(DType::I32, &[0])], |g, v| g.div(v[0], v[1])).unwrap_err();
    assert!(e.to_string().contains("division by zero"), "{e}");
    let not = |d, v: &[i128]| run_on(&[ints(d, v)], |g, v| g.not(v[0])).unwrap().to_i128_vec().unwrap();
    assert_eq!(not(DType::Bool, &[0, 1]), [1, 0]);
    assert_eq!(not(DType::U8, &[0, 7]), [255, 248]);
}

#[test]
fn float_remainders_and_nan() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let a = Tensor::from_slice(&[6], &[5.5, -5.5, 5.5, -5.5, -1.0, nan]).unwrap();
    let b = Tensor::from_slice(&[6], &[2.0, 2.0, -2.0, -2.0, inf, 1.0]).unwrap();
    let on = |op| run_on(&[a.clone(), b.clone()], |g, v| g.binary(op, v[0], v[1])).unwrap().to_f64_vec();
    assert_eq!(on(BinaryOp::Mod)[..5], [1.5, 0.5, -0.5, -1.5, inf]);
    assert_eq!(on(BinaryOp::Rem)[..5], [1.5, -1.5, 1.5, -1.5, -1.0]);
    assert!(on(BinaryOp::Min)[5].is_nan() && on(BinaryOp::Max)[5].is_nan());
    let compare =
        |op| run_on(&[a.clone(), a.clone()], |g, v| g.compare(op, v[0], v[1])).unwrap().to_i64_vec().unwrap()[5];
    assert_eq!(CompareOp::ALL.iter().map(|&op| compare(op)).collect::<Vec<_>>(), [0, 1, 0, 0, 0, 0]);
    let sign = run_on(&[Tensor::from_slice(&[4], &[-3.0, 0.0, inf, nan]).unwrap()], |g, v| g.sign(v[0])).unwrap();
    assert_eq!(sign.to_f64_vec()[..3], [-1.0, 0.0, 1.0]);
    assert!(sign.to_f64_vec()[3].is_nan());
    let round = run_on(&[Tensor::from_slice(&[4], &[0.5, 1.5, -2.5, 2.6]).unwrap()], |g, v| g.round(v[0])).unwrap();
    assert_eq!(round.to_f64_vec(), [0.0, 2.0, -2.0, 3.0]);
}

#[test]
fn every_value_is_rounded_to_its_dtype() {
    // 2048 + 1 is not an f16: the first sum rounds away what the second would need.
    let x = Tensor::from_f64(DType::F16, &[1], &[2048.0]).unwrap();
    let twice = run_on(&[x], |g, v| {
        let y = g.plus_scalar(v[0], 1.0)?;
        g.plus_scalar(y, 1.0)
    });
    assert_eq!(twice.unwrap().to_f64_vec(), [2048.0]);
    // A sum, on the other hand, is rounded once.
    let x = Tensor::from_f64(DType::F16, &[3], &[2048.0, 1.0, 1.0]).unwrap();
    assert_eq!(run_on(&[x], |g, v| g.sum(v[0], &[0], false)).unwrap().to_f64_vec(), [2050.0]);
}

#[test]
fn casts_cover_every_pair() {
    for from in DType::ALL {
        for to in DType::ALL {
            let x = Tensor::random(from, &[64], u64::from(from.bits()) + 9).unwrap();
            let y = run_on(std::slice::from_ref(&x), |g, v| g.cast(v[0], to)).unwrap();
            let expected: Vec<f64> = match (x.to_i128_vec(), to.is_float()) {
                (Some(v), false) => v.iter().map(|&v| number::wrap_int(to, v) as f64).collect(),
                _ => x.to_f64_vec().iter().map(|&v| number::round_to(to, v, false)).collect(),
            };
            assert_eq!(y.to_f64_vec(), expected, "{from} to {to}");
        }
    }
    let x = Tensor::from_slice(&[5], &[f32::NAN, f32::INFINITY, -1e30, 300.9, -0.9]).unwrap();
    let y = run_on(std::slice::from_ref(&x), |g, v| g.cast(v[0], DType::U8)).unwrap();
    assert_eq!(y.to_i64_vec().unwrap(), [0, 255, 0, 255, 0]);
    let y = run_on(&[x], |g, v| g.cast_saturating(v[0], DType::F8E4M3)).unwrap().to_f64_vec();
    assert_eq!(y[1..3], [448.0, -448.0]);
}

#[test]
fn quantization_rounds_to_even_and_saturates() {
    let x = Tensor::from_slice(&[6], &[0.5f32, 1.5, 2.5, -1000.0, 1000.0, f32::NAN]).unwrap();
    let q = |to: DType, zero: i128| {
        let inputs = [x.clone(), Tensor::scalar(1f32), Tensor::from_i128(to, &[], &[zero]).unwrap()];
        run_on(&inputs, |g, v| g.quantize(v[0], v[1], v[2], QuantAxes::Tensor)).unwrap().to_i64_vec().unwrap()
    };
    assert_eq!(q(DType::I8, 0), [0, 2, 2, -128, 127, 0]);
    assert_eq!(q(DType::U8, 3), [3, 5, 5, 0, 255, 0]);
    assert_eq!(q(DType::I4, -1), [-1, 1, 1, -8, 7, 0]);
}

#[test]
fn quantization_axes_pick_their_scale() {
    let x: Vec<f32> = (0..12).map(|i| i as f32 - 6.0).collect();
    let x = Tensor::from_slice(&[2, 6], &x).unwrap();
    let scales = |shape: &[usize], v: &[f32]| Tensor::from_slice(shape, v).unwrap();
    let cases = [
        (QuantAxes::Axis(0), scales(&[2], &[1.0, 2.0]), (|r, _| [1.0, 2.0][r]) as fn(usize, usize) -> f64),
        (QuantAxes::Axis(1), scales(&[6], &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), |_, c| f64::from(1 << c)),
        (QuantAxes::Block { axis: 1, block: 4 }, scales(&[2, 2], &[1.0, 2.0, 4.0, 8.0]), |r, c| {
            f64::from(1 << (2 * r + c / 4))
        }),
        (
            QuantAxes::Block { axis: 0, block: 1 },
            scales(&[2, 6], &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 1.0, 0.5, 0.25, 2.0, 4.0, 8.0]),
            |r, c| [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 1.0, 0.5, 0.25, 2.0, 4.0, 8.0][r * 6 + c],
        ),
        (QuantAxes::Block { axis: 0, block: 2 }, scales(&[1, 6], &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), |_, c| {
            f64::from(1 << c)
        }),
    ];
    for (axes, scale, pick) in cases {
        let zero = Tensor::full(DType::I8, scale.shape(), 5.0).unwrap();
        let q = run_on(&[x.clone(), scale.clone(), zero.clone()], |g, v| g.quantize(v[0], v[1], v[2], axes.clone()));
        let q = q.unwrap();
        let quotient = |i: usize| (x.to_f64_vec()[i] / pick(i / 6, i % 6)).round_ties_even() + 5.0;
        assert_eq!(q.to_f64_vec(), (0..12).map(quotient).collect::<Vec<_>>(), "{axes:?}");
        let d = run_on(&[q, scale, zero], |g, v| g.dequantize(v[0], v[1], v[2], axes.clone())).unwrap();
        let back = |i: usize| (quotient(i) - 5.0) * pick(i / 6, i % 6);
        assert_eq!(d.to_f64_vec(), (0..12).map(back).collect::<Vec<_>>(), "{axes:?}");
    }
}

#[test]
fn integer_products_are_exact_in_the_accumulator() {
    let a = Tensor::random(DType::U8, &[3, 40], 1).unwrap();
    let b = Tensor::random(DType::I8, &[40, 2], 2).unwrap();
    let y = run_on(&[a.clone(), b.clone()], |g, v| g.matmul_as(v[0], v[1], DType::I32, DType::I32)).unwrap();
    let (x, w) = (a.to_i64_vec().unwrap(), b.to_i64_vec().unwrap());
    let expected: Vec<i64> = (0..6).map(|i| (0..40).map(|k| x[i / 2 * 40 + k] * w[k * 2 + i % 2]).sum()).collect();
    assert_eq!(y.to_i64_vec().unwrap(), expected);
}
