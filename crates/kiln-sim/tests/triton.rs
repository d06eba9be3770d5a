//! PTX of another compiler: Triton's, compiled ahead of time for sm_80 and sm_90, with all checks and no finding.

use crate::support::{Rng, assert_close, get, half, kernel, put, run};
use kiln_sim::{Arg, Device, LaunchConfig, Options};

/// The fixed order of warps and four shuffled ones.
const SEEDS: [Option<u64>; 5] = [None, Some(1), Some(2), Some(3), Some(4)];

/// Triton adds two pointers to scratch memory, unused here, after the kernel's own arguments.
fn with_scratch(mut args: Vec<Arg>, k: &kiln_sim::Kernel) -> Vec<Arg> {
    args.resize(k.params().len(), Arg::U64(0));
    args
}

#[test]
fn softmax_of_rows() {
    let mut rng = Rng::new(31);
    let (rows, cols) = (5usize, 777usize);
    let x: Vec<f32> = (0..rows * cols).map(|_| rng.unit() * 6.0).collect();
    for file in ["triton_softmax.sm_80", "triton_softmax.sm_90"] {
        for seed in SEEDS {
            let k = kernel(file, "softmax");
            let d = Device::default();
            let (px, py) = (put(&d, &x), d.alloc(4 * x.len() as u64).unwrap());
            let args = with_scratch(vec![Arg::U64(px), Arg::U64(py), Arg::I32(cols as i32)], &k);
            let config = LaunchConfig { shared: 16, ..LaunchConfig::linear(rows as u32, 128) };
            run(&d, &k, config, &args, &Options { seed, ..Options::default() });
            let want: Vec<f64> = x
                .chunks(cols)
                .flat_map(|row| {
                    let max = row.iter().fold(f64::MIN, |m, v| m.max((*v).into()));
                    let e: Vec<f64> = row.iter().map(|v| (f64::from(*v) - max).exp()).collect();
                    let sum: f64 = e.iter().sum();
                    e.into_iter().map(move |v| v / sum)
                })
                .collect();
            assert_close(&get::<f32>(&d, py, x.len()), &want, 2e-6, file);
        }
    }
}

#[test]
fn matmul_of_f16() {
    let mut rng = Rng::new(32);
    let (m, n, k) = (80usize, 112usize, 96usize);
    let a: Vec<i32> = (0..m * k).map(|_| rng.below(2047) as i32 - 1023).collect();
    let b: Vec<i32> = (0..k * n).map(|_| rng.below(2047) as i32 - 1023).collect();
    for (file, shared) in [("triton_matmul.sm_80", 16384), ("triton_matmul.sm_90", 24576)] {
        for seed in SEEDS {
            let kernel = kernel(file, "matmul");
            let d = Device::default();
            let pa = put(&d, &a.iter().map(|q| half(*q)).collect::<Vec<_>>());
            let pb = put(&d, &b.iter().map(|q| half(*q)).collect::<Vec<_>>());
            let pc = d.alloc((4 * m * n) as u64).unwrap();
            let sizes = [m, n, k].map(|v| Arg::I32(v as i32));
            let args = [&[Arg::U64(pa), Arg::U64(pb), Arg::U64(pc)], sizes.as_slice()].concat();
            let grid = [m.div_ceil(64) as u32, n.div_ceil(64) as u32, 1];
            let config = LaunchConfig { grid, shared, ..LaunchConfig::linear(1, 128) };
            run(&d, &kernel, config, &with_scratch(args, &kernel), &Options { seed, ..Options::default() });
            let want: Vec<f64> = (0..m * n)
                .map(|i| {
                    let (r, c) = (i / n, i % n);
                    (0..k).map(|l| f64::from(a[r * k + l]) * f64::from(b[l * n + c])).sum::<f64>() / 1_048_576.0
                })
                .collect();
            assert_close(&get::<f32>(&d, pc, m * n), &want, 1e-6, file);
        }
    }
}

#[test]
fn layer_norm_of_odd_rows() {
    let mut rng = Rng::new(33);
    let (rows, cols, eps) = (5usize, 777usize, 1e-5f32);
    let mut floats = |n: usize, scale: f32| -> Vec<f32> { (0..n).map(|_| rng.unit() * scale + 0.5).collect() };
    let (x, w, b) = (floats(rows * cols, 3.0), floats(cols, 1.0), floats(cols, 1.0));
    let mut want = Vec::new();
    for row in x.chunks(cols) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / cols as f64;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        want.extend((0..cols).map(|i| (f64::from(row[i]) - mean) * scale * f64::from(w[i]) + f64::from(b[i])));
    }
    for file in ["triton_layer_norm.sm_80", "triton_layer_norm.sm_90"] {
        for seed in SEEDS {
            let k = kernel(file, "layer_norm");
            let d = Device::default();
            let py = d.alloc(4 * x.len() as u64).unwrap();
            let args = [&x, &w, &b].map(|data| Arg::U64(put(&d, data)));
            let args = [args.as_slice(), &[Arg::U64(py), Arg::I32(cols as i32), Arg::F32(eps)]].concat();
            let config = LaunchConfig { shared: 16, ..LaunchConfig::linear(rows as u32, 128) };
            run(&d, &k, config, &with_scratch(args, &k), &Options { seed, ..Options::default() });
            assert_close(&get::<f32>(&d, py, x.len()), &want, 1e-6, file);
        }
    }
}

/// Softmax of `q k^T / 2` times `v`, in f64, of one head with rows of 64.
fn attention(q: &[f64], k: &[f64], v: &[f64], causal: bool) -> Vec<f64> {
    let mut out = Vec::new();
    for (i, q) in q.chunks(64).enumerate() {
        let keys = if causal { i + 1 } else { k.len() / 64 };
        let dot = |k: &[f64]| q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / 2.0;
        let p: Vec<f64> = k.chunks(64).take(keys).map(|k| dot(k).exp()).collect();
        let sum: f64 = p.iter().sum();
        out.extend((0..64).map(|c| p.iter().zip(v.chunks(64)).map(|(p, v)| p * v[c]).sum::<f64>() / sum));
    }
    out
}

#[test]
fn attention_of_f16() {
    let mut rng = Rng::new(34);
    // Several trips around the ring of three buffers, and a last block that is not full.
    let (heads, n) = (2usize, 337usize);
    let mut draw = || -> Vec<i32> { (0..heads * n * 64).map(|_| rng.below(2047) as i32 - 1023).collect() };
    let [q, k, v] = [draw(), draw(), draw()];
    for (name, causal) in [("attention", false), ("attention_causal", true)] {
        let exact = |head: usize, data: &[i32]| -> Vec<f64> {
            data[head * n * 64..(head + 1) * n * 64].iter().map(|q| f64::from(*q) / 1024.0).collect()
        };
        let want: Vec<f64> =
            (0..heads).flat_map(|h| attention(&exact(h, &q), &exact(h, &k), &exact(h, &v), causal)).collect();
        for (target, shared) in [("sm_80", 40960), ("sm_90", 57344)] {
            let file = format!("triton_{name}.{target}");
            let kernel = kernel(&file, "attention");
            for seed in SEEDS {
                let d = Device::default();
                let po = d.alloc(4 * want.len() as u64).unwrap();
                let args =
                    [&q, &k, &v].map(|data| Arg::U64(put(&d, &data.iter().map(|q| half(*q)).collect::<Vec<_>>())));
                let args = [args.as_slice(), &[Arg::U64(po), Arg::I32(n as i32), Arg::F32(0.5)]].concat();
                let grid = [n.div_ceil(64) as u32, heads as u32, 1];
                let config = LaunchConfig { grid, shared, ..LaunchConfig::linear(1, 128) };
                run(&d, &kernel, config, &with_scratch(args, &kernel), &Options { seed, ..Options::default() });
                // The kernel rounds the probabilities to f16 before it multiplies them with `v`.
                assert_close(&get::<f32>(&d, po, want.len()), &want, 5e-4, &file);
            }
        }
    }
}
