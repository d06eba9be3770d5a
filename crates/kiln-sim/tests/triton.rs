//! PTX of another compiler: Triton's, compiled ahead of time for sm_80 and sm_90.

mod support;

use kiln_sim::{Arg, Device, LaunchConfig, Options};
use support::{Rng, assert_close, get, kernel, put, run};

/// Triton adds two pointers to scratch memory, unused here, after the kernel's own arguments.
fn with_scratch(mut args: Vec<Arg>, k: &kiln_sim::Kernel) -> Vec<Arg> {
    args.resize(k.params().len(), Arg::U64(0));
    args
}

#[test]
fn softmax_of_rows() {
    let mut rng = Rng(31);
    let (rows, cols) = (5usize, 777usize);
    let x: Vec<f32> = (0..rows * cols).map(|_| rng.unit() * 6.0).collect();
    for file in ["triton_softmax.sm_80", "triton_softmax.sm_90"] {
        for seed in [None, Some(4)] {
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

/// Bits of `q / 1024` for |q| < 1024, exact in f16.
fn half(q: i32) -> u16 {
    if q == 0 {
        return 0;
    }
    let e = 31 - q.unsigned_abs().leading_zeros() as i32;
    (((e + 5) as u16) << 10) | ((q.unsigned_abs() << (10 - e)) as u16 & 0x3ff) | if q < 0 { 0x8000 } else { 0 }
}

#[test]
fn matmul_of_f16() {
    let mut rng = Rng(32);
    let (m, n, k) = (80usize, 112usize, 96usize);
    let a: Vec<i32> = (0..m * k).map(|_| rng.below(2047) as i32 - 1023).collect();
    let b: Vec<i32> = (0..k * n).map(|_| rng.below(2047) as i32 - 1023).collect();
    for (file, shared) in [("triton_matmul.sm_80", 16384), ("triton_matmul.sm_90", 24576)] {
        for seed in [None, Some(8)] {
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
