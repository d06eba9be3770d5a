//! Warp-specialized kernels as sm_90a wants them: rings of TMA copies, warpgroups that give stages back by one thread, multicast in clusters,
//! registers moved between warps, named barriers, tiles that leave through stmatrix and TMA.

use crate::support::{Rng, assert_close, from_bf16, get, kernel, put, to_bf16};
use kiln_sim::{Arg, Device, FindingKind, LaunchConfig, Mix, Options, Report, Swizzle, TensorMap, TensorType};

const FILE: &str = "warp_specialized.sm_90a";

/// The seeds of a kernel with asynchronous copies: the fixed schedule and twenty others.
fn schedules() -> impl Iterator<Item = Options> {
    (0..=20).map(|seed: u64| Options { seed: seed.checked_sub(1), ..Options::default() })
}

/// Random numbers as bf16, and what they are.
fn random(rng: &mut Rng, n: usize) -> (Vec<u16>, Vec<f64>) {
    let bits: Vec<u16> = (0..n).map(|_| to_bf16(rng.unit())).collect();
    let values = bits.iter().map(|b| f64::from(from_bf16(*b))).collect();
    (bits, values)
}

/// A map of a bf16 array, extents innermost first, swizzled by 128 bytes.
fn map(address: u64, dims: &[usize], extents: &[u32]) -> Arg {
    let bytes = dims.iter().scan(2, |bytes, d| {
        *bytes *= *d as u64;
        Some(*bytes)
    });
    let map = TensorMap {
        dtype: TensorType::Bf16,
        address,
        dims: dims.iter().map(|d| *d as u64).collect(),
        strides: bytes.take(dims.len() - 1).collect(),
        box_dims: extents.to_vec(),
        element_strides: vec![],
        swizzle: Swizzle::B128,
        nan_fill: false,
    };
    Arg::Bytes(map.encode().unwrap().to_vec())
}

#[track_caller]
fn assert_clean(report: &Report, what: &str) {
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.clean(), "{what}: {findings:#?}");
}

struct Gemm {
    name: &'static str,
    columns: usize,
    cluster: usize,
    stages: usize,
}

/// Runs a product with two CTAs, each working through several tiles: the report, what it computed and what it should.
fn gemm(g: &Gemm, [m, n, k]: [usize; 3], options: &Options) -> (Report, Vec<f32>, Vec<f64>) {
    let mut rng = Rng::new(31);
    let ((a, va), (b, vb)) = (random(&mut rng, m * k), random(&mut rng, n * k));
    let d = Device::default();
    let (pa, pb, pc) = (put(&d, &a), put(&d, &b), d.alloc(2 * (m * n) as u64).unwrap());
    let args = [
        map(pa, &[k, m], &[64, 128]),
        map(pb, &[k, n], &[64, (g.columns / g.cluster) as u32]),
        map(pc, &[n, m], &[64, 64]),
        Arg::I32(m as i32),
        Arg::I32(n as i32),
        Arg::I32(k as i32),
    ];
    let stage = (128 + g.columns) * 64 * 2;
    let shared = (g.stages * stage + 128 * g.columns * 2 + 1024) as u32;
    let cluster = Some([g.cluster as u32, 1, 1]);
    let config = LaunchConfig { grid: [2, 1, 1], block: [384, 1, 1], shared, cluster };
    let report = d.launch(&kernel(FILE, g.name), config, &args, options).unwrap();
    let got = get::<u16>(&d, pc, m * n).into_iter().map(from_bf16).collect();
    let dot = |i: usize| (0..k).map(|l| va[i / n * k + l] * vb[i % n * k + l]).sum();
    (report, got, (0..m * n).map(dot).collect())
}

#[test]
fn gemm_that_fills_a_ring() {
    let g = Gemm { name: "gemm_128", columns: 128, cluster: 1, stages: 3 };
    for (i, options) in schedules().enumerate() {
        // Tiles that fit; then rows, columns and depth that do not fill theirs.
        let shape = if i % 4 == 0 { [256, 256, 320] } else { [200, 152, 264] };
        let (report, got, want) = gemm(&g, shape, &options);
        assert_clean(&report, &format!("{shape:?} {:?}", options.seed));
        // Half a unit in the last place of bf16.
        assert_close(&got, &want, 1.0 / 256.0, "gemm_128");
    }
}

#[test]
fn gemm_in_clusters_that_share_b() {
    let g = Gemm { name: "gemm_256_cluster", columns: 256, cluster: 2, stages: 3 };
    for (i, options) in schedules().enumerate() {
        let shape = if i % 4 == 0 { [256, 512, 256] } else { [130, 264, 328] };
        let (report, got, want) = gemm(&g, shape, &options);
        assert_clean(&report, &format!("{shape:?} {:?}", options.seed));
        assert_close(&got, &want, 1.0 / 256.0, "gemm_256_cluster");
    }
}

/// Stages given back before the wgmmas that read them have been waited for: the next copy races with them, whatever the schedule.
#[test]
fn a_stage_given_back_before_the_wait_is_a_race() {
    let g = Gemm { name: "early", columns: 128, cluster: 1, stages: 2 };
    let mut named = 0;
    for options in schedules() {
        let (report, ..) = gemm(&g, [128, 128, 512], &options);
        let races: Vec<_> = report.findings.iter().filter(|f| f.kind == FindingKind::SharedRace).collect();
        let first = races.first().unwrap_or_else(|| panic!("seed {:?}: {:?}", options.seed, report.findings));
        assert!(first.file.ends_with("warp_specialized.cu") && first.line > 0, "{first}");
        // Seen from the copy, unless a warp is so late that it is the one to find the stage overwritten.
        named += usize::from(races.iter().any(|r| r.message.contains("a wgmma of warpgroup")));
    }
    assert!(named > 0);
}

fn attention(causal: bool, length: usize, heads: usize, options: &Options) -> Mix {
    let mut rng = Rng::new(32);
    let n = heads * length * 64;
    let ((q, vq), (k, vk), (v, vv)) = (random(&mut rng, n), random(&mut rng, n), random(&mut rng, n));
    let d = Device::default();
    let (pq, pk, pv) = (put(&d, &q), put(&d, &k), put(&d, &v));
    let out = d.alloc(2 * n as u64).unwrap();
    let dims = [64, length, heads];
    let args = [
        map(pq, &dims, &[64, 128, 1]),
        map(pk, &dims, &[64, 64, 1]),
        map(pv, &dims, &[64, 64, 1]),
        Arg::U64(out),
        Arg::I32(length as i32),
        Arg::F32((0.125 * std::f64::consts::LOG2_E) as f32),
    ];
    let shared = 128 * 128 + 4 * 64 * 128 + 1024;
    let grid = [length.div_ceil(128) as u32, heads as u32, 1];
    let config = LaunchConfig { grid, block: [384, 1, 1], shared, cluster: None };
    let name = if causal { "attention_causal" } else { "attention_full" };
    let report = d.launch(&kernel(FILE, name), config, &args, options).unwrap();
    assert_clean(&report, &format!("{name} of {length}, {:?}", options.seed));
    let mut want = Vec::with_capacity(n);
    for at in 0..heads * length {
        let (head, row) = (at / length, at % length);
        let keys = if causal { row + 1 } else { length };
        let line = |x: &[f64], i: usize, j: usize| x[(head * length + i) * 64 + j];
        let score = |key: usize| 0.125 * (0..64).map(|j| line(&vq, row, j) * line(&vk, key, j)).sum::<f64>();
        let weights: Vec<f64> = (0..keys).map(|key| score(key).exp()).collect();
        let sum: f64 = weights.iter().sum();
        want.extend((0..64).map(|j| (0..keys).map(|key| weights[key] * line(&vv, key, j)).sum::<f64>() / sum));
    }
    let got: Vec<f32> = get::<u16>(&d, out, n).into_iter().map(from_bf16).collect();
    // Probabilities and results are rounded to bf16.
    assert_close(&got, &want, 1.0 / 128.0, name);
    report.counters.unwrap_or_default().total
}

#[test]
fn attention_with_probabilities_in_registers() {
    for (i, options) in schedules().enumerate() {
        // A whole number of tiles; then a last tile of keys and of queries that is not full, and a single row.
        let length = [256, 200, 1, 65][i % 4];
        attention(i % 2 == 0, length, 2, &options);
        attention(i % 2 == 1, length, 1, &options);
    }
}

#[test]
fn counters_of_a_product_are_what_it_needs() {
    let options = Options { counters: true, ..Options::default() };
    let (alone, pair) = (
        Gemm { name: "gemm_128", columns: 128, cluster: 1, stages: 3 },
        Gemm { name: "gemm_256_cluster", columns: 256, cluster: 2, stages: 3 },
    );
    for (g, [m, n, k]) in [(&alone, [256, 256, 320]), (&alone, [200, 152, 264]), (&pair, [256, 512, 256])] {
        let (report, ..) = gemm(g, [m, n, k], &options);
        let c = report.counters.expect("counters were asked for");
        let (across, down, deep) = (n.div_ceil(g.columns), m.div_ceil(128), k.div_ceil(64));
        // Two warpgroups, four steps of 16 a stage.
        let products = (across * down * deep * 2 * 4) as u64;
        assert_eq!(c.total.mma_instructions, products, "{}", g.name);
        assert_eq!(c.total.mma_flops, products * 2 * 64 * 16 * g.columns as u64);
        let [only] = &c.matrix[..] else { panic!("{:?}", c.matrix) };
        assert_eq!(only.opcode, format!("wgmma.mma_async.sync.aligned.m64n{}k16.f32.bf16.bf16", g.columns));
        assert_eq!((only.instructions, only.flops), (products, c.total.mma_flops));
        // A for each column of tiles; B for each row of tiles, or of pairs of them.
        let (a, b) = (m * k * across, n * k * down / g.cluster);
        assert_eq!(c.total.bulk_load_bytes, 2 * (a + b) as u64, "{}", g.name);
        assert_eq!(c.total.bulk_store_bytes, 2 * (m * n) as u64);
        assert_eq!(c.total.global_requests, 0);
        // The epilogue's swizzle has no bank conflict: 32 lanes of 16 bytes take four passes.
        let staged: Vec<_> = c.instructions.iter().filter(|i| i.opcode.starts_with("stmatrix")).collect();
        assert_eq!(staged.len(), g.columns / 16);
        for i in staged {
            assert!(i.file.ends_with("warp_specialized.cu") && i.line > 0 && i.ptx_line > 0, "{i:?}");
            assert_eq!(i.counts.shared_wavefronts, 4 * i.counts.shared_requests);
        }
        assert_eq!(c.total.shared_wavefronts, c.total.shared_ideal_wavefronts);
    }
}

/// Results that leave four bytes a lane fill half of each sector they touch.
#[test]
fn counters_of_attention_show_its_stores() {
    let (c, length) = (attention(false, 256, 1, &Options { counters: true, ..Options::default() }), 256);
    let stores = (length * 64 * 2 / 128) as u64;
    assert_eq!((c.global_requests, c.global_store_requests), (stores, stores));
    assert_eq!((c.global_ideal_store_sectors, c.global_store_sectors), (4 * stores, 8 * stores));
    assert_eq!((c.global_ideal_sectors, c.global_sectors), (4 * stores, 8 * stores));
    assert_eq!(c.bulk_load_bytes, (2 * length * length / 128 + length) as u64 * 128);
}
