//! TMA, mbarriers, wgmma, clusters and distributed shared memory.

use crate::support::{Rng, assert_close, get, half, kernel, put, run};
use kiln_sim::{Arg, Device, LaunchConfig, Options, Swizzle, TensorMap, TensorType};

const FILE: &str = "hopper.sm_90a";

/// Runs `gemm_tma`, which expects operands swizzled by 128 bytes; what it computed, and what it should.
fn gemm_tma([m, n, k]: [usize; 3], swizzle: Swizzle, use_tma: i32, options: &Options) -> (Vec<f32>, Vec<f64>) {
    let mut rng = Rng::new(11);
    let d = Device::default();
    let qa: Vec<i32> = (0..m * k).map(|_| rng.below(2047) as i32 - 1023).collect();
    let qb: Vec<i32> = (0..n * k).map(|_| rng.below(2047) as i32 - 1023).collect();
    let pa = put(&d, &qa.iter().map(|q| half(*q)).collect::<Vec<_>>());
    let pb = put(&d, &qb.iter().map(|q| half(*q)).collect::<Vec<_>>());
    let pc = d.alloc((4 * m * n) as u64).unwrap();
    let map = |address, rows: usize, cols: usize, dtype: TensorType, swizzle| TensorMap {
        dtype,
        address,
        dims: vec![cols as u64, rows as u64],
        strides: vec![cols as u64 * u64::from(dtype.bytes())],
        box_dims: vec![64, 64],
        element_strides: vec![],
        swizzle,
        nan_fill: false,
    };
    let maps = [
        map(pa, m, k, TensorType::F16, swizzle),
        map(pb, n, k, TensorType::F16, Swizzle::B128),
        map(pc, m, n, TensorType::F32, Swizzle::None),
    ];
    let mut args: Vec<Arg> = maps.iter().map(|m| Arg::Bytes(m.encode().unwrap().to_vec())).collect();
    args.extend([Arg::U64(pc), Arg::I32(m as i32), Arg::I32(n as i32), Arg::I32(k as i32), Arg::I32(use_tma)]);
    let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
    let config = LaunchConfig { grid, block: [160, 1, 1], shared: 32768, cluster: None };
    run(&d, &kernel(FILE, "gemm_tma"), config, &args, options);
    let want = (0..m * n).map(|i| {
        let (r, c) = (i / n, i % n);
        (0..k).map(|l| f64::from(qa[r * k + l]) * f64::from(qb[c * k + l])).sum::<f64>() / 1048576.0
    });
    (get::<f32>(&d, pc, m * n), want.collect())
}

#[test]
fn gemm_with_tma_and_wgmma() {
    let fuzz = Options { seed: Some(5), ..Options::default() };
    for (shape, options) in [
        ([64, 64, 64], Options::default()),
        ([128, 64, 256], Options::default()),
        ([70, 100, 200], Options::default()),
        ([70, 100, 328], fuzz),
        ([70, 132, 520], Options::fast()),
    ] {
        for use_tma in [0, 1] {
            let (got, want) = gemm_tma(shape, Swizzle::B128, use_tma, &options);
            assert_close(&got, &want, 1e-6, "gemm_tma");
        }
    }
}

/// No access is wrong when the copy and the product disagree about the layout: what shows it is the result.
#[test]
fn a_wrong_swizzle_gives_a_wrong_product() {
    let (got, want) = gemm_tma([128, 64, 256], Swizzle::None, 1, &Options::default());
    let wrong = got.iter().zip(&want).filter(|(g, w)| (f64::from(**g) - **w).abs() > 1e-3).count();
    assert!(wrong > want.len() / 2, "{wrong} of {} elements differ", want.len());
}

#[test]
fn cluster_reads_its_peers() {
    let k = kernel(FILE, "cluster_sum");
    let (rows, n) = (3usize, 1001usize);
    let mut rng = Rng::new(12);
    for seed in [None, Some(1), Some(2)] {
        let d = Device::default();
        let x: Vec<f32> = (0..rows * n).map(|_| rng.unit()).collect();
        let (px, po) = (put(&d, &x), d.alloc(16 * rows as u64).unwrap());
        let config = LaunchConfig::linear(4 * rows as u32, 96);
        run(&d, &k, config, &[Arg::U64(px), Arg::U64(po), Arg::I32(n as i32)], &Options { seed, ..Options::default() });
        let want: Vec<f64> =
            (0..4 * rows).map(|i| x[i / 4 * n..(i / 4 + 1) * n].iter().map(|v| f64::from(*v)).sum()).collect();
        assert_close(&get::<f32>(&d, po, 4 * rows), &want, 1e-6, "sum");
    }
}

#[test]
fn multicast_reaches_every_cta() {
    let k = kernel(FILE, "multicast");
    let mut rng = Rng::new(13);
    for seed in [None, Some(1), Some(9)] {
        let d = Device::default();
        let x: Vec<f32> = (0..512).map(|_| rng.unit()).collect();
        let (px, po) = (put(&d, &x), d.alloc(4096).unwrap());
        let options = Options { seed, ..Options::default() };
        run(&d, &k, LaunchConfig::linear(4, 256), &[Arg::U64(px), Arg::U64(po)], &options);
        let out = get::<f32>(&d, po, 1024);
        for (pair, row) in x.chunks(256).enumerate() {
            let reversed: Vec<f32> = row.iter().rev().copied().collect();
            assert_eq!(&out[pair * 512..pair * 512 + 256], row);
            assert_eq!(&out[pair * 512 + 256..pair * 512 + 512], reversed);
        }
    }
}
