//! Good kernels stay good, and give the same bits, under twenty warp schedules; counters of a known kernel.

use crate::support::{Rng, get, kernel, put, run};
use kiln_sim::{Arg, Device, LaunchConfig, Options};

#[test]
fn twenty_schedules_agree_bit_for_bit() {
    let gemm = kernel("gemm.sm_80", "gemm_bf16");
    let norm = kernel("basic.sm_80", "row_norm");
    let mut rng = Rng::new(21);
    let (m, n, k) = (50usize, 70usize, 72usize);
    let a: Vec<u16> = (0..m * k).map(|_| (rng.unit().to_bits() >> 16) as u16).collect();
    let b: Vec<u16> = (0..n * k).map(|_| (rng.unit().to_bits() >> 16) as u16).collect();
    let x: Vec<f32> = (0..3 * 301).map(|_| rng.unit()).collect();
    let mut first: Option<(Vec<u32>, Vec<u32>)> = None;
    for seed in 0..20 {
        let options = Options { seed: Some(seed), ..Options::default() };
        let d = Device::default();
        let (pa, pb, pc) = (put(&d, &a), put(&d, &b), d.alloc(4 * (m * n) as u64).unwrap());
        let args =
            [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::I32(m as i32), Arg::I32(n as i32), Arg::I32(k as i32)];
        run(&d, &gemm, LaunchConfig { grid: [2, 1, 1], ..LaunchConfig::linear(1, 128) }, &args, &options);
        let (px, po) = (put(&d, &x), d.alloc(12).unwrap());
        run(&d, &norm, LaunchConfig::linear(3, 192), &[Arg::U64(px), Arg::U64(po), Arg::I32(301)], &options);
        let out = (get::<u32>(&d, pc, m * n), get::<u32>(&d, po, 3));
        match &first {
            None => first = Some(out),
            Some(f) => assert!(*f == out, "seed {seed} differs"),
        }
    }
}

#[test]
fn counters_of_saxpy_are_what_it_does() {
    let k = kernel("basic.sm_80", "saxpy");
    let n = 1000usize;
    let d = Device::default();
    let (px, py) = (put(&d, &vec![1f32; n]), put(&d, &vec![2f32; n]));
    let options = Options { counters: true, ..Options::default() };
    let args = [Arg::U64(px), Arg::U64(py), Arg::I32(n as i32), Arg::F32(1.5)];
    let report = run(&d, &k, LaunchConfig::linear(8, 128), &args, &options);
    let c = report.counters.expect("counters were asked for");
    // 31 full warps and one of 8 lanes: two loads and a store each, coalesced; the last touches one sector.
    assert_eq!(c.total.global_requests, 3 * 32);
    assert_eq!(c.total.global_sectors, 3 * (31 * 4 + 1));
    assert_eq!(c.total.global_lines, 3 * 32);
    assert_eq!(c.total.global_store_sectors, 31 * 4 + 1);
    assert_eq!((c.total.shared_requests, c.total.mma_flops, c.total.barriers), (0, 0, 0));
    assert_eq!(c.total.instructions, report.instructions);
    assert!(c.total.divergent > 0 && c.total.thread_instructions < 32 * c.total.instructions);
    let body =
        c.lines.iter().find(|l| l.file == "basic.cu" && l.counts.global_requests > 0).expect("a line with loads");
    assert_eq!(body.counts.global_requests, 96);
}

#[test]
fn counters_of_a_gemm_count_its_products_and_conflicts() {
    let k = kernel("gemm.sm_80", "gemm_f16");
    let d = Device::default();
    let (pa, pb, pc) = (put(&d, &[0u16; 64 * 64]), put(&d, &[0u16; 64 * 64]), d.alloc(4 * 64 * 64).unwrap());
    let args = [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::I32(64), Arg::I32(64), Arg::I32(64)];
    let report = run(&d, &k, LaunchConfig::linear(1, 128), &args, &Options { counters: true, ..Options::default() });
    let c = report.counters.expect("counters were asked for").total;
    assert_eq!(c.mma_flops, 2 * 64 * 64 * 64);
    // Rows are padded to 80 bytes. Eight of them start at different banks, so the 80 ldmatrix take 4 passes each. The
    // 32 cp.async write two rows a pass, which share four banks: 8 passes each.
    assert_eq!((c.shared_requests, c.shared_wavefronts), (80 + 32, 80 * 4 + 32 * 8));
    // Those read A and B once, 16 bytes a lane; C leaves by 4 bytes a lane, 32 of 4096 at a time: every second word of a
    // sector in each of 8 rows.
    assert_eq!((c.global_requests, c.global_sectors), (32 + 4096 / 32, 2 * 64 * 64 * 2 / 32 + 4096 / 32 * 8));
    assert_eq!(c.barriers, 4 * 4);
}
