//! Composites of the builder against formulas written out in f64.

use kiln_graph::*;

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| Dim::from(d)).collect()
}

/// Runs a graph of one input made by `f` on random values.
fn run(shape: &[usize], seed: u64, f: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId>) -> (Vec<f64>, Vec<f64>) {
    let x = Tensor::random(DType::F64, shape, seed).unwrap();
    (x.to_f64_vec(), run_on(&[x], |b, v| f(b, v[0])).to_f64_vec())
}

fn run_on(inputs: &[Tensor], f: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId>) -> Tensor {
    let mut b = Builder::new("test");
    let ids: Vec<ValueId> = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| b.input(&format!("x{i}"), t.dtype(), &dims(t.shape())).unwrap())
        .collect();
    let y = f(&mut b, &ids).unwrap();
    b.output("y", y);
    interpret(&b.finish(), inputs).unwrap().remove(0)
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-12 * e.abs().max(1.0), "element {i}: {f} is not {e}");
    }
}

#[test]
fn activations() {
    type Make = fn(&mut Builder, ValueId) -> Result<ValueId>;
    let softplus = |x: f64| x.exp().ln_1p();
    let cases: &[(Make, &dyn Fn(f64) -> f64)] = &[
        (Builder::relu, &|x| x.max(0.0)),
        (Builder::sigmoid, &|x| 1.0 / (1.0 + (-x).exp())),
        (Builder::silu, &|x| x / (1.0 + (-x).exp())),
        (Builder::gelu, &|x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))),
        (Builder::gelu_tanh, &|x| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }),
        (Builder::softplus, &softplus),
        (Builder::mish, &|x| x * softplus(x).tanh()),
        (Builder::hard_swish, &|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        (|b, x| b.leaky_relu(x, 0.1), &|x| if x < 0.0 { 0.1 * x } else { x }),
        (|b, x| b.elu(x, 0.7), &|x| if x > 0.0 { x } else { 0.7 * x.exp_m1() }),
        (|b, x| b.selu(x, 1.6, 1.05), &|x| if x > 0.0 { 1.05 * x } else { 1.05 * 1.6 * x.exp_m1() }),
        (|b, x| b.hard_sigmoid(x, 0.3, 0.4), &|x| (0.3 * x + 0.4).clamp(0.0, 1.0)),
        (|b, x| b.clip(x, Some(-0.25), Some(0.5)), &|x| x.clamp(-0.25, 0.5)),
    ];
    for (i, (make, formula)) in cases.iter().enumerate() {
        let (x, y) = run(&[5, 7], i as u64, |b, x| {
            let x = b.mul_scalar(x, 5.0)?;
            make(b, x)
        });
        let expected: Vec<f64> = x.iter().map(|&x| formula(x * 5.0)).collect();
        close(&y, &expected);
    }
}

#[test]
fn infinities_and_nan_through_softplus_and_clip() {
    let x = Tensor::from_slice(&[3], &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN]).unwrap();
    let y = run_on(std::slice::from_ref(&x), |b, v| b.softplus(v[0])).to_f64_vec();
    assert!(y[0] == f64::INFINITY && y[1] == 0.0 && y[2].is_nan());
    let y = run_on(&[x], |b, v| b.clip(v[0], Some(-1.0), Some(1.0))).to_f64_vec();
    assert!(y[0] == 1.0 && y[1] == -1.0 && y[2].is_nan());
}

#[test]
fn softmax_and_its_relatives_on_every_axis() {
    for axis in 0..3usize {
        let shape = [3, 1, 5];
        let inner: usize = shape[axis + 1..].iter().product();
        let line = |i: usize| {
            (0..shape[axis]).map(move |j| i / (inner * shape[axis]) * inner * shape[axis] + j * inner + i % inner)
        };
        let (x, y) = run(&shape, 3, |b, x| b.softmax(x, axis as i64 - 3));
        let total = |i: usize| line(i).map(|k| x[k].exp()).sum::<f64>();
        close(&y, &(0..x.len()).map(|i| x[i].exp() / total(i)).collect::<Vec<_>>());
        let (_, y) = run(&shape, 3, |b, x| b.log_softmax(x, axis as i64));
        close(&y, &(0..x.len()).map(|i| (x[i].exp() / total(i)).ln()).collect::<Vec<_>>());
        let (_, y) = run(&shape, 3, |b, x| {
            let l = b.logsumexp(x, &[axis as i64], true)?;
            let shape = b.shape(x).to_vec();
            b.broadcast_to(l, &shape)
        });
        close(&y, &(0..x.len()).map(|i| total(i).ln()).collect::<Vec<_>>());
    }
    let x = Tensor::from_slice(&[2], &[f64::NEG_INFINITY; 2]).unwrap();
    assert_eq!(run_on(&[x], |b, v| b.logsumexp(v[0], &[0], false)).to_f64_vec(), [f64::NEG_INFINITY]);
}

#[test]
fn normalizations() {
    let shape = [2, 6, 3, 2];
    let spatial = 6;
    let standard = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        x.iter().map(|v| (v - mean) / (var + 1e-3).sqrt()).collect::<Vec<_>>()
    };
    let all = |x: &[f64], n: usize| x.chunks(n).flat_map(standard).collect::<Vec<f64>>();
    let (x, y) = run(&shape, 5, |b, x| b.layer_norm(x, -2, None, None, 1e-3));
    close(&y, &all(&x, spatial));
    let (_, y) = run(&shape, 5, |b, x| b.instance_norm(x, None, None, 1e-3));
    close(&y, &all(&x, spatial));
    let scale: Vec<f64> = (0..6).map(|i| 1.0 + f64::from(i)).collect();
    let (_, y) = run(&shape, 5, |b, x| {
        let s = b.constant(Tensor::from_slice(&[6], &scale)?)?;
        b.group_norm(x, 3, Some(s), Some(s), 1e-3)
    });
    let grouped = all(&x, 2 * spatial);
    let channel = |i: usize| scale[i / spatial % 6];
    close(&y, &(0..x.len()).map(|i| grouped[i] * channel(i) + channel(i)).collect::<Vec<_>>());
    let (_, y) = run(&shape, 5, |b, x| b.rms_norm(x, 3, None, 1e-3));
    let rms = |r: &[f64]| (r.iter().map(|v| v * v).sum::<f64>() / 2.0 + 1e-3).sqrt();
    close(&y, &x.chunks(2).flat_map(|r| r.iter().map(|v| v / rms(r)).collect::<Vec<_>>()).collect::<Vec<_>>());
    let (_, y) = run(&shape, 5, |b, x| {
        let s = b.constant(Tensor::from_slice(&[6], &scale)?)?;
        b.batch_norm(x, s, s, s, s, 1e-3)
    });
    let bn = |i: usize| (x[i] - channel(i)) * channel(i) / (channel(i) + 1e-3).sqrt() + channel(i);
    close(&y, &(0..x.len()).map(bn).collect::<Vec<_>>());
    let (_, y) = run(&shape, 5, |b, x| b.var(x, &[2, 3], 1, false));
    let var = |r: &[f64]| {
        let mean = r.iter().sum::<f64>() / 6.0;
        r.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 5.0
    };
    close(&y, &x.chunks(6).map(var).collect::<Vec<_>>());
}

/// `out[b.., i, j] = sum a[b.., i, k] b[b.., k, j]` with both batch shapes broadcast.
fn naive_matmul(a: &Tensor, b: &Tensor) -> (Vec<usize>, Vec<f64>) {
    let (x, y) = (a.to_f64_vec(), b.to_f64_vec());
    let (sa, sb) = (a.shape(), b.shape());
    let (m, k, n) = (sa[sa.len() - 2], sa[sa.len() - 1], sb[sb.len() - 1]);
    let (ba, bb) = (&sa[..sa.len() - 2], &sb[..sb.len() - 2]);
    let rank = ba.len().max(bb.len());
    let extent = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    let batch: Vec<usize> = (0..rank).map(|i| extent(ba, i).max(extent(bb, i))).collect();
    let mut out = Vec::new();
    for l in 0..batch.iter().product() {
        let (mut rest, mut at) = (l, [0, 0]);
        let mut step = [1, 1];
        for i in (0..rank).rev() {
            let index = rest % batch[i];
            rest /= batch[i];
            for (s, shape) in [ba, bb].into_iter().enumerate() {
                let e = extent(shape, i);
                at[s] += step[s] * if e == 1 { 0 } else { index };
                step[s] *= e;
            }
        }
        for i in 0..m {
            for j in 0..n {
                out.push((0..k).map(|p| x[(at[0] * m + i) * k + p] * y[(at[1] * k + p) * n + j]).sum());
            }
        }
    }
    ([batch, vec![m, n]].concat(), out)
}

#[test]
fn matmul_broadcasts_as_numpy_does() {
    let cases: &[(&[usize], &[usize])] = &[
        (&[3, 5], &[5, 7]),
        (&[2, 3, 5], &[5, 1]),
        (&[1, 5], &[4, 5, 2]),
        (&[2, 1, 3, 4], &[1, 5, 4, 2]),
        (&[2, 3, 1, 4], &[3, 4, 2]),
        (&[1, 2, 3], &[1, 3, 2]),
    ];
    for (i, (sa, sb)) in cases.iter().enumerate() {
        let a = Tensor::random(DType::F64, sa, i as u64).unwrap();
        let b = Tensor::random(DType::F64, sb, 100 + i as u64).unwrap();
        let y = run_on(&[a.clone(), b.clone()], |g, v| g.matmul(v[0], v[1]));
        let (shape, expected) = naive_matmul(&a, &b);
        assert_eq!(y.shape(), shape, "{sa:?} {sb:?}");
        close(&y.to_f64_vec(), &expected);
    }
    let a = Tensor::random(DType::F64, &[5], 1).unwrap();
    let b = Tensor::random(DType::F64, &[2, 5, 3], 2).unwrap();
    let y = run_on(&[a.clone(), b.clone()], |g, v| g.matmul(v[0], v[1]));
    assert_eq!(y.shape(), [2, 3]);
    close(&y.to_f64_vec(), &naive_matmul(&a.reshaped(vec![1, 5]).unwrap(), &b).1);
    let y = run_on(&[a.clone(), a.clone()], |g, v| g.matmul(v[0], v[1]));
    assert_eq!(y.shape(), [0usize; 0]);
}

#[test]
fn linear_takes_both_weight_layouts() {
    let x = Tensor::random(DType::F64, &[2, 3, 5], 1).unwrap();
    let w = Tensor::random(DType::F64, &[5, 4], 2).unwrap();
    let bias = Tensor::random(DType::F64, &[4], 3).unwrap();
    let plain = run_on(&[x.clone(), w.clone(), bias.clone()], |g, v| g.linear(v[0], v[1], Some(v[2]), false));
    let turned = run_on(&[x.clone(), w.clone(), bias.clone()], |g, v| {
        let t = g.swap_axes(v[1], 0, 1)?;
        g.linear(v[0], t, Some(v[2]), true)
    });
    assert_eq!(plain, turned);
    let b = bias.to_f64_vec();
    let expected: Vec<f64> = naive_matmul(&x, &w).1.iter().enumerate().map(|(i, v)| v + b[i % 4]).collect();
    close(&plain.to_f64_vec(), &expected);
}

#[test]
fn einsum_covers_diagonals_ellipsis_and_implicit_results() {
    let a = Tensor::random(DType::F64, &[3, 3], 1).unwrap();
    let x = a.to_f64_vec();
    let trace = run_on(std::slice::from_ref(&a), |g, v| g.einsum("ii", v));
    close(&trace.to_f64_vec(), &[x[0] + x[4] + x[8]]);
    let diagonal = run_on(std::slice::from_ref(&a), |g, v| g.einsum("ii->i", v));
    close(&diagonal.to_f64_vec(), &[x[0], x[4], x[8]]);
    let turned = run_on(std::slice::from_ref(&a), |g, v| g.einsum("ba", v));
    close(&turned.to_f64_vec(), &[x[0], x[3], x[6], x[1], x[4], x[7], x[2], x[5], x[8]]);
    let p = Tensor::random(DType::F64, &[2, 1, 3, 4], 2).unwrap();
    let q = Tensor::random(DType::F64, &[5, 4, 2], 3).unwrap();
    let y = run_on(&[p.clone(), q.clone()], |g, v| g.einsum("...ij, ...jk -> ...ik", v));
    let (shape, expected) = naive_matmul(&p, &q);
    assert_eq!(y.shape(), shape);
    close(&y.to_f64_vec(), &expected);
    let chain = run_on(&[a.clone(), a.clone(), a.clone()], |g, v| g.einsum("ij,jk,kl->il", v));
    let twice = naive_matmul(&a, &a).1;
    let twice = Tensor::from_slice(&[3, 3], &twice).unwrap();
    close(&chain.to_f64_vec(), &naive_matmul(&twice, &a).1);
    let weighted = run_on(&[a.clone(), a.clone()], |g, v| g.einsum("ij,kj->i", v));
    let expected: Vec<f64> =
        (0..3).map(|i| (0..3).map(|j| x[i * 3 + j] * (x[j] + x[3 + j] + x[6 + j])).sum()).collect();
    close(&weighted.to_f64_vec(), &expected);
    let mut b = Builder::new("bad");
    let v = b.constant(a).unwrap();
    for bad in ["ij->ii", "ijk->i", "i,j->ij", "ij->k", "i1->i"] {
        assert!(b.einsum(bad, &[v]).is_err(), "{bad}");
    }
}

#[test]
fn attention_masks_and_scales() {
    let (s, t, d) = (3, 5, 4);
    let q = Tensor::random(DType::F64, &[2, s, d], 1).unwrap();
    let k = Tensor::random(DType::F64, &[2, t, d], 2).unwrap();
    let v = Tensor::random(DType::F64, &[2, t, d], 3).unwrap();
    let mask = Tensor::random(DType::F64, &[s, t], 4).unwrap();
    let y = run_on(&[q.clone(), k.clone(), v.clone(), mask.clone()], |b, x| {
        b.attention(x[0], x[1], x[2], Some(x[3]), None, Some(&Dim::from(2)))
    });
    let [q, k, v, mask] = [q, k, v, mask].map(|t| t.to_f64_vec());
    let mut expected = Vec::new();
    for b in 0..2 {
        for i in 0..s {
            let score = |j: usize| {
                let dot: f64 = (0..d).map(|c| q[(b * s + i) * d + c] * k[(b * t + j) * d + c]).sum();
                if j <= i + 2 { (dot / 2.0 + mask[i * t + j]).exp() } else { 0.0 }
            };
            let total: f64 = (0..t).map(score).sum();
            expected.extend((0..d).map(|c| (0..t).map(|j| score(j) / total * v[(b * t + j) * d + c]).sum::<f64>()));
        }
    }
    close(&y.to_f64_vec(), &expected);
}

#[test]
fn narrow_floats_are_computed_wide_and_rounded_once() {
    let x = Tensor::random(DType::F16, &[4, 33], 9).unwrap();
    let narrow = run_on(std::slice::from_ref(&x), |b, v| b.softmax(v[0], -1));
    let wide = Tensor::from_f64(DType::F32, &[4, 33], &x.to_f64_vec()).unwrap();
    let wide = run_on(&[wide], |b, v| {
        let y = b.softmax(v[0], -1)?;
        b.cast(y, DType::F16)
    });
    assert_eq!(narrow, wide);
}

#[test]
fn rows_in_groups_have_a_matrix_each() {
    let (x, w) = (Tensor::random(DType::F64, &[7, 3], 1).unwrap(), Tensor::random(DType::F64, &[4, 3, 2], 2).unwrap());
    let run = |ends: [i64; 4]| {
        let ends = Tensor::from_slice(&[4], &ends).unwrap();
        let turned = |b: &mut Builder, v: &[ValueId]| {
            let w = b.transpose(v[1], &[0, 2, 1])?;
            b.grouped_matmul(v[0], w, v[2], true)
        };
        let y = run_on(&[x.clone(), w.clone(), ends.clone()], |b, v| b.grouped_matmul(v[0], v[1], v[2], false));
        close(&run_on(&[x.clone(), w.clone(), ends], turned).to_f64_vec(), &y.to_f64_vec());
        assert_eq!(y.shape(), [7, 2]);
        y.to_f64_vec()
    };
    // The second group has no rows, and two rows no group.
    let (x_, w_) = (x.to_f64_vec(), w.to_f64_vec());
    let group = [0, 0, 2, 3, 3];
    let element = |i: usize| match group.get(i / 2) {
        Some(g) => (0..3).map(|k| x_[i / 2 * 3 + k] * w_[(g * 3 + k) * 2 + i % 2]).sum(),
        None => 0.0,
    };
    close(&run([2, 2, 3, 5]), &(0..14).map(element).collect::<Vec<f64>>());
    for (ends, said) in
        [([2, 1, 3, 5], "group 1 ends at 1, expected 2..=7"), ([2, 2, 3, 8], "group 3 ends at 8, expected 3..=7")]
    {
        let mut b = Builder::new("wrong");
        let v = [&x, &w].map(|t| b.constant(t.clone()).unwrap());
        let ends = b.constant(Tensor::from_slice(&[4], &ends.map(i64::from)).unwrap()).unwrap();
        let y = b.grouped_matmul(v[0], v[1], ends, false).unwrap();
        b.output("y", y);
        let error = interpret(&b.finish(), &[]).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
