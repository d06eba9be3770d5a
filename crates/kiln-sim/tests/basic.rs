//! Scalar code: control flow, calls, memory spaces, collectives, mathematics.

use crate::support::{Rng, assert_close, get, kernel, put, run};
use kiln_sim::{Arg, Device, LaunchConfig, Module, Options};

const FILE: &str = "basic.sm_80";

#[test]
fn saxpy_at_odd_sizes() {
    let k = kernel(FILE, "saxpy");
    let mut rng = Rng::new(1);
    for n in [1usize, 31, 257, 1000] {
        let d = Device::default();
        let x: Vec<f32> = (0..n).map(|_| rng.unit()).collect();
        let y: Vec<f32> = (0..n).map(|_| rng.unit()).collect();
        let (px, py) = (put(&d, &x), put(&d, &y));
        let args = [Arg::U64(px), Arg::U64(py), Arg::I32(n as i32), Arg::F32(1.25)];
        run(&d, &k, LaunchConfig::linear(n.div_ceil(128) as u32, 128), &args, &Options::default());
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 1.25f32.mul_add(*x, *y)).collect();
        assert_eq!(get::<f32>(&d, py, n), want);
    }
}

#[test]
fn row_norm_reduces_across_warps() {
    let k = kernel(FILE, "row_norm");
    let mut rng = Rng::new(2);
    for (rows, cols, threads) in [(3usize, 1usize, 64u32), (5, 77, 128), (2, 1000, 256)] {
        for seed in [None, Some(7)] {
            let d = Device::default();
            let x: Vec<f32> = (0..rows * cols).map(|_| rng.unit()).collect();
            let (px, po) = (put(&d, &x), d.alloc(4 * rows as u64).unwrap());
            let options = Options { seed, ..Options::default() };
            run(
                &d,
                &k,
                LaunchConfig::linear(rows as u32, threads),
                &[Arg::U64(px), Arg::U64(po), Arg::I32(cols as i32)],
                &options,
            );
            let want: Vec<f64> =
                x.chunks(cols).map(|r| r.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()).collect();
            assert_close(&get::<f32>(&d, po, rows), &want, 1e-6, "norm");
        }
    }
}

#[test]
fn mixture_of_divergent_paths() {
    let k = kernel(FILE, "mixture");
    let n = 777usize;
    let mut rng = Rng::new(3);
    let a: Vec<i32> = (0..n).map(|_| (rng.next() >> 40) as i32).collect();
    let d = Device::default();
    let (pa, po, pc) = (put(&d, &a), d.alloc(4 * n as u64).unwrap(), put(&d, &[0i32, 0]));
    let args = [Arg::U64(pa), Arg::U64(po), Arg::U64(pc), Arg::I32(n as i32)];
    run(&d, &k, LaunchConfig::linear(7, 128), &args, &Options::default());
    let table = [1f32, 2.0, 3.0, 4.0];
    let want: Vec<f32> = a
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let v = *v;
            match v & 7 {
                0 => (0..v & 15).fold(0f32, |s, k| s.mul_add(0.5, k as f32)),
                1 => (((v >> 3) & 7) as f32).mul_add(0.5, i as f32),
                2 => table[((v >> 3) & 3) as usize],
                3 => (0..v & 31).map(|k| k as f32).sum(),
                4 => (v / 7) as f32 + (v % 7) as f32,
                5 => v.count_ones() as f32 + v.leading_zeros() as f32 * 100.0,
                6 => ((v as u64).wrapping_mul(3_000_000_000) >> 32) as f32,
                _ => {
                    if f32::from_bits(v as u32) != 0.0 {
                        -1.0
                    } else {
                        1.0
                    }
                }
            }
        })
        .collect();
    assert_eq!(get::<f32>(&d, po, n), want);
    assert_eq!(get::<i32>(&d, pc, 2), [*a.iter().max().unwrap(), n as i32]);
    let hits = d.symbol(&k, "hits").unwrap();
    assert_eq!(get::<i32>(&d, hits, 1), [7 + n as i32]);
}

/// erf by its series or continued fraction in f64.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let mut term = a;
        let mut sum = a;
        for n in 1..200 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let f = (1..200).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
        1.0 - (-a * a).exp() / f / std::f64::consts::PI.sqrt()
    };
    value.copysign(x)
}

#[test]
fn maths_is_close_to_f64() {
    let k = kernel(FILE, "maths");
    let n = 500usize;
    let mut rng = Rng::new(4);
    let x: Vec<f32> = (0..n).map(|i| rng.unit() * [0.01, 1.0, 5.0, 30.0][i % 4]).collect();
    let d = Device::default();
    let (px, po) = (put(&d, &x), d.alloc(44 * n as u64).unwrap());
    run(&d, &k, LaunchConfig::linear(4, 128), &[Arg::U64(px), Arg::U64(po), Arg::I32(n as i32)], &Options::default());
    let out = get::<f32>(&d, po, 11 * n);
    type Function = (&'static str, fn(f64) -> f64, f64);
    let f: [Function; 9] = [
        ("exp", f64::exp, 3e-7),
        ("tanh", f64::tanh, 5e-7),
        ("erf", erf, 5e-7),
        ("sin", |v| (f64::from(v as f32 * 1000.0)).sin(), 3e-7),
        ("log", |v| v.abs().ln(), 1e-6),
        ("1/x", |v| 1.0 / v, 1e-7),
        ("rsqrt", |v| 1.0 / v.abs().sqrt(), 3e-7),
        ("pow", |v| v.abs().powf(f64::from(1.7f32)), 2e-6),
        ("fmod", |v| v % f64::from(0.37f32), 1e-6),
    ];
    for (j, (name, f, tolerance)) in f.into_iter().enumerate() {
        for (i, v) in x.iter().enumerate() {
            let (got, want) = (f64::from(out[j * n + i]), f(f64::from(*v)));
            let error = (got - want).abs() / want.abs().max(1e-30);
            let absolute = if name == "sin" || name == "log" { (got - want).abs() } else { error };
            assert!(error.min(absolute) <= tolerance, "{name}({v}) = {got}, expected {want}");
        }
    }
    for (i, v) in x.iter().enumerate() {
        let exact = f64::from(*v) / 3.0;
        let rz = f64::from(out[9 * n + i]);
        assert!(rz.abs() <= exact.abs() && (exact - rz).abs() <= exact.abs() * 1.2e-7, "div.rz {v}");
        let exact = f64::from(*v) + f64::from(1e-3f32);
        let rd = f64::from(out[10 * n + i]);
        assert!(rd <= exact && (exact - rd) <= exact.abs() * 1.2e-7, "add.rm {v}");
    }
}

#[test]
fn collectives_follow_their_definitions() {
    let k = kernel(FILE, "collectives");
    let mut rng = Rng::new(5);
    let x: Vec<u32> = (0..32).map(|_| rng.below(1000) as u32).collect();
    let d = Device::default();
    let (px, po) = (put(&d, &x), d.alloc(4 * 224).unwrap());
    run(&d, &k, LaunchConfig::linear(1, 32), &[Arg::U64(px), Arg::U64(po)], &Options::default());
    let out = get::<u32>(&d, po, 224);
    let bits = |f: &dyn Fn(u32) -> bool| (0..32).fold(0u32, |m, i| m | u32::from(f(x[i])) << i);
    for t in 0..32usize {
        assert_eq!(out[t], bits(&|v| v & 1 != 0));
        assert_eq!(out[32 + t], if t >= 3 { x[t - 3] } else { x[t] });
        assert_eq!(out[64 + t], x[t / 8 * 8 + (x[t] % 8) as usize]);
        assert_eq!(out[96 + t], bits(&|v| v & 3 == x[t] & 3));
        assert_eq!(out[128 + t], *x.iter().max().unwrap());
        let odd = x[t ^ 2].wrapping_add(0xaaaa_aaaa);
        let even = (bits(&|v| v > 100) & 0x5555_5555).count_ones();
        assert_eq!(out[160 + t], if t % 2 == 1 { odd } else { even });
        assert_eq!(out[192 + t], 1);
    }
}

#[test]
fn integers_follow_their_definitions() {
    let k = kernel(FILE, "integers");
    let n = 100usize;
    let mut rng = Rng::new(6);
    let x: Vec<u32> = (0..n).map(|_| rng.next() as u32).collect();
    let y: Vec<u32> = (0..n).map(|_| rng.next() as u32 >> rng.below(32)).collect();
    let d = Device::default();
    let (px, py, po) = (put(&d, &x), put(&d, &y), d.alloc(36 * n as u64).unwrap());
    let args = [Arg::U64(px), Arg::U64(py), Arg::U64(po), Arg::I32(n as i32)];
    run(&d, &k, LaunchConfig::linear(1, 128), &args, &Options::default());
    let out = get::<u32>(&d, po, 9 * n);
    for i in 0..n {
        let (a, b) = (x[i], y[i]);
        let (ab, bb) = (a.to_le_bytes(), b.to_le_bytes());
        assert_eq!(out[i], u32::from_le_bytes([ab[0], ab[2], bb[0], bb[2]]));
        let dot: i32 = (0..4).map(|j| i32::from(ab[j] as i8) * i32::from(bb[j] as i8)).sum();
        assert_eq!(out[n + i] as i32, dot + 5);
        let s = b & 31;
        assert_eq!(out[2 * n + i], ((u64::from(b) << 32 | u64::from(a)) << s >> 32) as u32);
        let mulhi = ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32;
        assert_eq!(out[3 * n + i], a.reverse_bits() ^ mulhi);
        assert_eq!(
            out[4 * n + i],
            a.abs_diff(b).wrapping_add(1).wrapping_add((a as i32).abs_diff(b as i32)).wrapping_add(2)
        );
        let p = (u64::from(a) * u64::from(b)).wrapping_add(u64::from(b) << 20);
        assert_eq!(out[5 * n + i], (p / u64::from(a | 1)) as u32 ^ (p % u64::from(b | 1)) as u32);
        let add: [u8; 4] = std::array::from_fn(|j| ab[j].wrapping_add(bb[j]));
        let max = |s: u32| u32::from(((a >> s) as i16).max((b >> s) as i16) as u16) << s;
        assert_eq!(out[6 * n + i], u32::from_le_bytes(add) ^ (max(0) | max(16)));
        // Unsigned to float towards zero.
        let mut f = a as f32;
        if f as u64 > u64::from(a) {
            f = f.next_down();
        }
        let rounded = (f * 1e-3).round_ties_even() as i32 as u32;
        let want = rounded.wrapping_add(u32::from(a.wrapping_add(b) as u16)).wrapping_add(b as i8 as u32);
        assert_eq!(out[7 * n + i], want);
        assert_eq!(out[8 * n + i], (a & b) | (!a ^ (b << 3)));
    }
}

/// Every width of element and vector through global, shared and local memory, by 32-bit, 64-bit and generic addresses,
/// of all lanes or some, neighbours or apart, on the path without checks and on the one with them.
#[test]
fn copies_bring_every_element_and_no_other() {
    let mut rng = Rng::new(21);
    for (vector, ty, reg) in [
        ("", "u8", "b16"),
        ("", "u16", "b16"),
        ("", "f32", "b32"),
        ("", "b64", "b64"),
        (".v2", "u8", "b16"),
        (".v2", "u32", "b32"),
        (".v2", "f64", "b64"),
        (".v4", "u8", "b32"),
        (".v4", "b16", "b16"),
        (".v4", "f32", "b32"),
    ] {
        let count = vector.trim_start_matches(".v").parse().unwrap_or(1);
        let bytes = count * ty[1..].parse::<usize>().expect("bits") / 8;
        let list = |name: &str| {
            let regs: Vec<String> = (0..count).map(|i| format!("%{name}{i}")).collect();
            if count == 1 { regs.join("") } else { format!("{{{}}}", regs.join(",")) }
        };
        let (a, b, c) = (list("a"), list("b"), list("c"));
        for (address, width) in [("mov.u32 %s, s;", 32), ("mov.u64 %s, s;", 64), ("cvta.shared.u64 %s, %w;", 64)] {
            let space = if address.starts_with("cvta") { "" } else { ".shared" };
            let ptx = format!(
                ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 y, .param .u32 step, .param .u32 every){{\n\
                .reg .b64 %d<5>; .reg .b64 %w; .reg .b64 %l; .reg .b{width} %s; .reg .b{width} %o; .reg .b32 %r<5>; .reg .pred %p;\n\
                .reg .{reg} %a<4>; .reg .{reg} %b<4>; .reg .{reg} %c<4>;\n\
                .shared .align 16 .b8 s[4096]; .local .align 16 .b8 own[48];\n\
                ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; ld.param.u32 %r1, [step]; ld.param.u32 %r2, [every];\n\
                mov.u32 %r3, %tid.x; rem.u32 %r4, %r3, %r2; setp.eq.u32 %p, %r4, 0; mul.lo.u32 %r3, %r3, %r1;\n\
                cvt.u64.u32 %d3, %r3; add.s64 %d1, %d1, %d3; add.s64 %d2, %d2, %d3;\n\
                mov.u64 %w, s; mov.u64 %l, own; {address} cvt.u{width}.u32 %o, %r3; add.u{width} %s, %s, %o;\n\
                @%p ld.global{vector}.{ty} {a}, [%d1+16];\n\
                @%p st{space}{vector}.{ty} [%s+32], {a};\n\
                @%p ld{space}{vector}.{ty} {b}, [%s+32];\n\
                @%p st.local{vector}.{ty} [%l+16], {b};\n\
                @%p ld.local{vector}.{ty} {c}, [%l+16];\n\
                @%p st.global{vector}.{ty} [%d2+16], {c}; ret; }}"
            );
            let k = Module::parse(&ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
            for (apart, every) in [(1, 1), (1, 3), (3, 1), (3, 2)] {
                let x: Vec<u8> = (0..32 * 3 * 32 + 16).map(|_| rng.next() as u8).collect();
                let mut want = vec![0xa5u8; x.len()];
                for lane in (0..32).step_by(every) {
                    let at = 16 + lane * apart * bytes;
                    want[at..at + bytes].copy_from_slice(&x[at..at + bytes]);
                }
                for options in [Options::default(), Options::fast()] {
                    let d = Device::default();
                    let (px, py) = (put(&d, &x), put(&d, &vec![0xa5u8; x.len()]));
                    let step = (apart * bytes) as u32;
                    let args = [Arg::U64(px), Arg::U64(py), Arg::U32(step), Arg::U32(every as u32)];
                    run(&d, &k, LaunchConfig::linear(1, 32), &args, &options);
                    assert_eq!(
                        get::<u8>(&d, py, x.len()),
                        want,
                        "{vector}.{ty}, {address}, {apart} apart, 1 of {every}"
                    );
                }
            }
        }
    }
}

/// Neighbours and elements apart, from a whole word and from the middle of one, into registers of 32 and 64 bits.
#[test]
fn narrow_loads_extend_their_sign_or_zeros() {
    let mut rng = Rng::new(9);
    let x: Vec<u8> = (0..400).map(|_| rng.next() as u8).collect();
    for (ty, bytes) in [("8", 1), ("16", 2), ("32", 4)] {
        let ptx = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 y, .param .u32 step){{\n\
            .reg .b64 %d<9>; .reg .b32 %r<6>;\n\
            ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; ld.param.u32 %r3, [step]; mov.u32 %r1, %tid.x;\n\
            mul.wide.u32 %d3, %r1, %r3; add.s64 %d3, %d1, %d3; mul.wide.u32 %d4, %r1, 32; add.s64 %d4, %d2, %d4;\n\
            ld.global.u{ty} %d5, [%d3]; st.global.u64 [%d4], %d5; ld.global.s{ty} %d6, [%d3]; st.global.u64 [%d4+8], %d6;\n\
            ld.global.u{ty} %r4, [%d3]; cvt.u64.u32 %d7, %r4; st.global.u64 [%d4+16], %d7;\n\
            ld.global.s{ty} %r5, [%d3]; cvt.s64.s32 %d8, %r5; st.global.u64 [%d4+24], %d8; ret; }}"
        );
        let k = Module::parse(&ptx).and_then(|m| m.kernel("k")).expect("kernel");
        for (first, step) in [(0, 1), (1, 1), (2, 1), (0, 3)] {
            for options in [Options::default(), Options::fast()] {
                let d = Device::default();
                let (px, py) = (put(&d, &x), put(&d, &[0xdead_beefu64; 128]));
                let args = [Arg::U64(px + first * bytes), Arg::U64(py), Arg::U32((step * bytes) as u32)];
                run(&d, &k, LaunchConfig::linear(1, 32), &args, &options);
                let want = (0..32).flat_map(|lane| {
                    let at = ((first + step * lane) * bytes) as usize;
                    let element = &x[at..at + bytes as usize];
                    let zeros = element.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
                    let spare = 64 - 8 * bytes as u32;
                    let signs = ((zeros << spare) as i64 >> spare) as u64;
                    // 32-bit registers hold 32 bits without a sign of their own.
                    [zeros, signs, zeros, signs]
                });
                assert_eq!(get::<u64>(&d, py, 128), want.collect::<Vec<_>>(), ".{ty} from {first}, every {step}");
            }
        }
    }
}
