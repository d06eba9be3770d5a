//! The interpreter against plain loops in f64, on random data of odd shapes.

use kiln_tile::interp::{Arg, run};
use kiln_tile::{Array, DType, Program, Scalar};

struct Random(fastrand::Rng);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    fn array(&mut self, dtype: DType, len: usize) -> Array {
        let values: Vec<f64> = (0..len).map(|_| self.0.f64() * 8.0 - 4.0).collect();
        Array::from_f64(dtype, values)
    }
}

/// Seeds differ from run to run; a failure prints the one to set here.
fn random() -> Random {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Random(fastrand::Rng::with_seed(seed))
}

fn execute(program: &Program, mut args: Vec<Arg>) -> Vec<f64> {
    run(program, &mut args).unwrap();
    args.pop().unwrap().array().unwrap().to_f64()
}

#[track_caller]
fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: {f}, expected {e}");
    }
}

fn zeros(dtype: DType, len: usize) -> Arg {
    Arg::Array(Array::zeros(dtype, len))
}

#[test]
fn bias_gelu_rounds_once_to_f16() {
    let mut r = random();
    for (rows, cols) in [(1, 1), (3, 77), (5, 16)] {
        let x = r.array(DType::F16, rows * cols);
        let bias = r.array(DType::F16, cols);
        let gelu = |x: f64| x * 0.5 * (1.0 + kiln_tile::math::erf(x * std::f64::consts::FRAC_1_SQRT_2));
        let (xs, bs) = (x.to_f64(), bias.to_f64());
        let expected: Vec<f64> = xs.iter().enumerate().map(|(i, x)| gelu(x + bs[i % cols])).collect();
        let program = crate::programs::bias_gelu(DType::F16, cols as i64);
        let args = vec![Arg::dim(rows as i64), Arg::Array(x), Arg::Array(bias), zeros(DType::F16, rows * cols)];
        close(&execute(&program, args), &expected, 1e-3);
    }
}

#[test]
fn softmax_and_layer_norm_match_plain_loops() {
    let mut r = random();
    for (rows, cols) in [(1, 1), (2, 7), (3, 129)] {
        let x = r.array(DType::F32, rows * cols);
        let expected: Vec<f64> = x
            .to_f64()
            .chunks(cols)
            .flat_map(|row| {
                let exps: Vec<f64> = row.iter().map(|x| x.exp()).collect();
                let sum: f64 = exps.iter().sum();
                exps.into_iter().map(move |e| e / sum)
            })
            .collect();
        let program = crate::programs::softmax_block(DType::F32, cols as u32);
        let args = vec![Arg::dim(rows as i64), Arg::Array(x.clone()), zeros(DType::F32, rows * cols)];
        close(&execute(&program, args), &expected, 1e-6);

        let (gamma, beta) = (r.array(DType::F32, cols), r.array(DType::F32, cols));
        let (g, b) = (gamma.to_f64(), beta.to_f64());
        let expected: Vec<f64> = x
            .to_f64()
            .chunks(cols)
            .flat_map(|row| {
                let mean = row.iter().sum::<f64>() / cols as f64;
                let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
                let normal: Vec<f64> = row.iter().map(|x| (x - mean) / (var + 1e-5).sqrt()).collect();
                normal.into_iter().enumerate().map(|(c, x)| x * g[c] + b[c]).collect::<Vec<_>>()
            })
            .collect();
        let program = crate::programs::layer_norm_warp(DType::F32, 1);
        let args = vec![
            Arg::dim(rows as i64),
            Arg::dim(cols as i64),
            Arg::Scalar(Scalar::Float(1e-5)),
            Arg::Array(x),
            Arg::Array(gamma),
            Arg::Array(beta),
            zeros(DType::F32, rows * cols),
        ];
        close(&execute(&program, args), &expected, 1e-5);
    }
}

#[test]
fn gather_wraps_and_clamps() {
    let mut r = random();
    let (count, vocab, cols) = (9, 5, 3);
    let table = r.array(DType::BF16, vocab * cols);
    let ids: Vec<i64> = (0..count).map(|_| r.below(2 * vocab as u64) as i64 - vocab as i64).collect();
    let rows = table.to_f64();
    let expected: Vec<f64> = ids
        .iter()
        .flat_map(|&id| {
            let row = if id < 0 { id + vocab as i64 } else { id } as usize;
            rows[row * cols..(row + 1) * cols].to_vec()
        })
        .collect();
    let args = vec![
        Arg::dim(count as i64),
        Arg::dim(vocab as i64),
        Arg::Array(table),
        Arg::Array(Array::from_values(DType::I64, ids.iter().map(|&id| Scalar::Int(id.into())))),
        zeros(DType::BF16, count as usize * cols),
    ];
    assert_eq!(execute(&crate::programs::gather_rows(DType::BF16, cols as i64), args), expected);
}

#[test]
fn max_pool_matches_plain_loops() {
    let mut r = random();
    for (planes, h, w) in [(2usize, 1usize, 1usize), (1, 5, 8), (3, 7, 4)] {
        let x = r.array(DType::F32, planes * h * w);
        let (oh, ow) = (h.div_ceil(2), w.div_ceil(2));
        let xs = x.to_f64();
        let mut expected = vec![f64::NEG_INFINITY; planes * oh * ow];
        for (i, best) in expected.iter_mut().enumerate() {
            let (plane, p, q) = (i / (oh * ow), i / ow % oh, i % ow);
            for row in (2 * p).saturating_sub(1)..(2 * p + 2).min(h) {
                for col in (2 * q).saturating_sub(1)..(2 * q + 2).min(w) {
                    *best = best.max(xs[(plane * h + row) * w + col]);
                }
            }
        }
        let args = vec![
            Arg::dim(planes as i64),
            Arg::dim(h as i64),
            Arg::dim(w as i64),
            Arg::Array(x),
            zeros(DType::F32, planes * oh * ow),
        ];
        assert_eq!(execute(&crate::programs::max_pool(), args), expected);
    }
}

#[test]
fn transpose_goes_through_shared_memory() {
    let mut r = random();
    let (rows, cols) = (35, 67);
    let x = r.array(DType::F32, rows * cols);
    let xs = x.to_f64();
    let expected: Vec<f64> = (0..rows * cols).map(|i| xs[i % rows * cols + i / rows]).collect();
    let args = vec![Arg::dim(rows as i64), Arg::dim(cols as i64), Arg::Array(x), zeros(DType::F32, rows * cols)];
    assert_eq!(execute(&crate::programs::transpose_tiled(DType::F32), args), expected);
}

#[test]
fn atomics_count() {
    let mut r = random();
    let values: Vec<u64> = (0..1000).map(|_| r.below(256)).collect();
    let mut expected = vec![0.0; 256];
    values.iter().for_each(|&v| expected[v as usize] += 1.0);
    let x = Array::from_values(DType::U8, values.iter().map(|&v| Scalar::Int(v.into())));
    let args = vec![Arg::dim(1000), Arg::Array(x), zeros(DType::I32, 256)];
    assert_eq!(execute(&crate::programs::histogram(), args), expected);
}

#[test]
fn products_match_plain_loops() {
    use crate::programs::gemm::{Shape, gemm};
    let mut r = random();
    for dtype in [DType::F16, DType::F32, DType::I32] {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let (batch, m, n, k) = (2, 1 + r.below(20) as usize, 1 + r.below(20) as usize, r.below(40) as usize);
            let shape = Shape { transpose_a, transpose_b, ..Shape::new(dtype, (16, 16, 16), 32) };
            let (a, b, bias) = (r.array(dtype, batch * m * k), r.array(dtype, batch * k * n), r.array(DType::F32, n));
            let (x, y, z) = (a.to_f64(), b.to_f64(), bias.to_f64());
            let at_a = |i: usize, p: usize| if transpose_a { p * m + i } else { i * k + p };
            let at_b = |p: usize, j: usize| if transpose_b { j * k + p } else { p * n + j };
            let (mut expected, mut magnitude) = (vec![], vec![]);
            for t in 0..batch * m * n {
                let (z_at, i, j) = (t / (m * n), t / n % m, t % n);
                let term = |p: usize| x[z_at * m * k + at_a(i, p)] * y[z_at * k * n + at_b(p, j)];
                // An integer bias is a float cast on the way in.
                let bias = if dtype == DType::I32 { z[j].trunc() } else { z[j] };
                expected.push((0..k).map(term).sum::<f64>() + bias);
                magnitude.push((0..k).map(|p| term(p).abs()).sum::<f64>() + bias.abs());
            }
            let args = vec![
                Arg::dim(batch as i64),
                Arg::dim(m as i64),
                Arg::dim(n as i64),
                Arg::dim(k as i64),
                Arg::Array(a),
                Arg::Array(b),
                Arg::Array(bias),
                zeros(dtype, batch * m * n),
            ];
            // Partial sums are at most `magnitude`: one rounding to f32 for each of up to 3 tiles along K, the bias and the result, and one to f16.
            let unit = match dtype {
                DType::F16 => 5.0 * 2f64.powi(-24) + 2f64.powi(-11),
                DType::F32 => 5.0 * 2f64.powi(-24),
                _ => 0.0,
            };
            for (t, found) in execute(&gemm(shape), args).into_iter().enumerate() {
                let (e, bound) = (expected[t], unit * magnitude[t]);
                assert!((found - e).abs() <= bound, "{dtype:?} element {t}: {found}, expected {e} within {bound}");
            }
        }
    }
}

#[test]
fn streamed_attention_matches_plain_loops() {
    let mut r = random();
    for (batch, queries, keys) in [(1, 1, 1), (2, 19, 40), (1, 33, 7)] {
        let (depth, columns) = (32, 48);
        let [q, k, v] = [(queries, depth), (keys, depth), (keys, columns)]
            .map(|(rows, columns)| r.array(DType::BF16, batch * rows * columns));
        let [qs, ks, vs] = [&q, &k, &v].map(Array::to_f64);
        let mut expected = vec![0.0; batch * queries * columns];
        for row in 0..batch * queries {
            let first = row / queries * keys;
            let dot = |key: usize| (0..depth).map(|d| qs[row * depth + d] * ks[(first + key) * depth + d]).sum::<f64>();
            let scores: Vec<f64> = (0..keys).map(dot).collect();
            let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
            for column in 0..columns {
                let weighted = |key: usize| (scores[key] - peak).exp() * vs[(first + key) * columns + column];
                expected[row * columns + column] = (0..keys).map(weighted).sum::<f64>() / total;
            }
        }
        let program = crate::programs::attention::attention(DType::BF16, 32, 16, 64);
        let dims = [batch, queries, keys].map(|n| Arg::dim(n as i64));
        let args = [q, k, v].map(Arg::Array).into_iter().chain([zeros(DType::BF16, expected.len())]);
        close(&execute(&program, dims.into_iter().chain(args).collect()), &expected, 1e-2);
    }
}
