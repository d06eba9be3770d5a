//! Tensor-core GEMMs through ldmatrix, mma.sync and cp.async, against f64 and exact integers.

use crate::support::{Rng, assert_close, get, kernel, put, run};
use kiln_sim::{Arg, Device, LaunchConfig, Module, Options};

/// Value of an 8-bit float with `mantissa` bits, for codes without infinities and NaNs.
fn fp8(code: u8, mantissa: u32) -> f64 {
    let bias = if mantissa == 3 { 7 } else { 15 };
    let mag = u32::from(code & 0x7f);
    let (e, m) = ((mag >> mantissa) as i32, f64::from(mag & ((1 << mantissa) - 1)) / f64::from(1u32 << mantissa));
    let v = if e == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(e - bias) };
    if code & 0x80 != 0 { -v } else { v }
}

fn product(a: &[f64], b: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum();
        }
    }
    c
}

/// Makes one operand: its bytes, and its values.
type Make = fn(&mut Rng, usize) -> (Vec<u8>, Vec<f64>);

fn floats(rng: &mut Rng, n: usize, keep: u32, bytes: usize) -> (Vec<u8>, Vec<f64>) {
    let mut data = Vec::new();
    let mut values = Vec::new();
    for _ in 0..n {
        let v = f32::from_bits(rng.unit().to_bits() & keep);
        data.extend_from_slice(&v.to_bits().to_le_bytes()[4 - bytes..]);
        values.push(f64::from(v));
    }
    (data, values)
}

fn bf16(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<f64>) {
    floats(rng, n, 0xffff_0000, 2)
}

fn tf32(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<f64>) {
    floats(rng, n, 0xffff_e000, 4)
}

fn f16(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<f64>) {
    // Multiples of 2^-10 below 1 are f16 values; their bits are built by hand.
    let mut data = Vec::new();
    let mut values = Vec::new();
    for _ in 0..n {
        let q = rng.below(2047) as i32 - 1023;
        let v = f64::from(q) / 1024.0;
        let mut bits = 0u16;
        if q != 0 {
            let e = 31 - q.unsigned_abs().leading_zeros() as i32;
            bits = (((e - 10 + 15) as u16) << 10) | ((q.unsigned_abs() << (10 - e)) as u16 & 0x3ff);
        }
        data.extend_from_slice(&(bits | if q < 0 { 0x8000 } else { 0 }).to_le_bytes());
        values.push(v);
    }
    (data, values)
}

fn s8(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<f64>) {
    let data: Vec<u8> = (0..n).map(|_| rng.next() as u8).collect();
    let values = data.iter().map(|v| f64::from(*v as i8)).collect();
    (data, values)
}

fn u8_(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<f64>) {
    let data: Vec<u8> = (0..n).map(|_| rng.next() as u8).collect();
    let values = data.iter().map(|v| f64::from(*v)).collect();
    (data, values)
}

fn e4m3(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<f64>) {
    let data: Vec<u8> = (0..n).map(|_| rng.next() as u8 & 0xbf).collect();
    let values = data.iter().map(|v| fp8(*v, 3)).collect();
    (data, values)
}

fn e5m2(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<f64>) {
    let data: Vec<u8> = (0..n).map(|_| rng.next() as u8 & 0xbf).collect();
    let values = data.iter().map(|v| fp8(*v, 2)).collect();
    (data, values)
}

fn check(file: &str, name: &str, a: Make, b: Make, k_unit: usize, integer: bool) {
    let kernel = kernel(file, name);
    let mut rng = Rng::new(name.len() as u64);
    for ([m, n, k], options) in [
        ([64, 64, 8 * k_unit], Options::default()),
        ([64, 64, 8 * k_unit], Options { seed: Some(3), ..Options::default() }),
        ([33, 71, 5 * k_unit], Options::default()),
        ([129, 65, 13 * k_unit], Options::fast()),
        ([1, 1, k_unit], Options::default()),
    ] {
        let ((da, va), (db, vb)) = (a(&mut rng, m * k), b(&mut rng, n * k));
        let d = Device::default();
        let (pa, pb, pc) = (put(&d, &da), put(&d, &db), d.alloc(4 * (m * n) as u64).unwrap());
        let args =
            [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::I32(m as i32), Arg::I32(n as i32), Arg::I32(k as i32)];
        let config =
            LaunchConfig { grid: [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1], ..LaunchConfig::linear(1, 128) };
        run(&d, &kernel, config, &args, &options);
        let want = product(&va, &vb, [m, n, k]);
        if integer {
            let got: Vec<f64> = get::<i32>(&d, pc, m * n).into_iter().map(f64::from).collect();
            assert_eq!(got, want, "{name} {m}x{n}x{k}");
        } else {
            assert_close(&get::<f32>(&d, pc, m * n), &want, 1e-6, name);
        }
    }
}

#[test]
fn f16_gemm() {
    check("gemm.sm_80", "gemm_f16", f16, f16, 8, false);
}

#[test]
fn bf16_gemm() {
    check("gemm.sm_80", "gemm_bf16", bf16, bf16, 8, false);
}

#[test]
fn tf32_gemm() {
    check("gemm.sm_80", "gemm_tf32", tf32, tf32, 4, false);
}

#[test]
fn s8_gemm() {
    check("gemm.sm_80", "gemm_s8", s8, s8, 16, true);
}

#[test]
fn u8_by_s8_gemm() {
    check("gemm.sm_80", "gemm_u8s8", u8_, s8, 16, true);
}

#[test]
fn fp8_gemm() {
    check("gemm.sm_89", "gemm_e4m3", e4m3, e4m3, 16, false);
    check("gemm.sm_89", "gemm_e5m2_e4m3", e5m2, e4m3, 16, false);
}

/// A fragment's registers in the wrong order are no wrong access: what shows them is the result.
#[test]
fn a_wrong_fragment_layout_gives_a_wrong_product() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ptx/gemm.sm_80.ptx")).unwrap();
    let swapped = text.lines().map(|line| match line.split('{').collect::<Vec<_>>()[..] {
        [mma, d, a, b, c] if mma.starts_with("mma.sync.aligned.m16n8k16") => {
            let (registers, rest) = a.split_once('}').unwrap();
            let r: Vec<&str> = registers.split(',').collect();
            format!("{mma}{{{d}{{{},{},{},{}}}{rest}{{{b}{{{c}\n", r[0], r[2], r[1], r[3])
        }
        _ => format!("{line}\n"),
    });
    let kernel = Module::parse(&swapped.collect::<String>()).and_then(|m| m.kernel("gemm_bf16")).unwrap();
    let mut rng = Rng::new(5);
    let ((da, va), (db, vb)) = (bf16(&mut rng, 64 * 64), bf16(&mut rng, 64 * 64));
    let d = Device::default();
    let (pa, pb, pc) = (put(&d, &da), put(&d, &db), d.alloc(4 * 64 * 64).unwrap());
    let args = [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::I32(64), Arg::I32(64), Arg::I32(64)];
    run(&d, &kernel, LaunchConfig::linear(1, 128), &args, &Options::default());
    let (got, want) = (get::<f32>(&d, pc, 64 * 64), product(&va, &vb, [64, 64, 64]));
    let wrong = got.iter().zip(&want).filter(|(g, w)| (f64::from(**g) - **w).abs() > 1e-3).count();
    assert!(wrong > want.len() / 2, "{wrong} of {} elements differ", want.len());
}
