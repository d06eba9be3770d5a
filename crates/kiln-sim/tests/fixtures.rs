//! One fixture an instruction form: 32 lanes of generated inputs, and outputs recorded on a GPU.
//!
//! `KILN_SIM_FIXTURES=DIR cargo test -p kiln-sim --test sim fixtures` writes the PTX and the inputs of every fixture to DIR, and what the
//! simulator makes of them (`simulated.txt`); `tests/fixtures/record.py DIR` runs them on the GPU it finds and writes `recorded.txt`, which
//! goes next to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::support::{Rng, get, put};
use crate::table::Compare::{Exact, Relative, Relative16, Ulp16, Ulp32};
use crate::table::{Compare, Fixture, Input, table};
use kiln_sim::{Arg, Device, LaunchConfig, Module, Options};

fn ptx(list: &[Fixture]) -> String {
    let mut out = String::from(".version 8.4\n.target sm_90a\n.address_size 64\n");
    for f in list {
        let _ = write!(
            out,
            ".visible .entry {}(.param .u64 in, .param .u64 out) {{\n.reg .b32 %i<48>; .reg .b32 %o<16>; .reg .b64 %d<64>; .reg .b16 %h<16>;\n\
            .reg .pred %p<4>; .reg .b32 %t; .reg .b32 %s; .reg .b64 %a; .reg .b64 %b; .reg .b64 %off;\n.reg .f32 %f<64>; .reg .b32 %v<64>; .reg .b32 %w<8>; .shared .align 1024 .b8 tile[{}];\n\
            mov.u32 %t, %tid.x;\nmov.u32 %s, tile;\nmad.lo.u32 %s, %t, 16, %s;\nld.param.u64 %a, [in];\nld.param.u64 %b, [out];\n\
            mul.wide.u32 %off, %t, {};\nadd.u64 %a, %a, %off;\nmul.wide.u32 %off, %t, {};\nadd.u64 %b, %b, %off;\n",
            f.name,
            if f.threads == 32 { 512 } else { 65536 },
            4 * f.inputs,
            4 * f.outputs
        );
        for i in 0..f.inputs {
            let _ = writeln!(out, "ld.global.b32 %i{i}, [%a+{}];", 4 * i);
        }
        out += &f.body;
        out += "\n";
        for i in 0..f.outputs {
            let _ = writeln!(out, "st.global.b32 [%b+{}], %o{i};", 4 * i);
        }
        out += "ret;\n}\n";
    }
    out
}

/// One input word; `index` is the word's position in its lane.
fn draw(rng: &mut Rng, input: Input, index: usize) -> u32 {
    let bits = rng.next() as u32;
    let special = rng.below(8);
    match input {
        Input::Bits => bits,
        Input::Ints if special < 2 => bits,
        Input::Ints => (rng.below(80) as i32 - 20) as u32,
        Input::F32 => match special {
            0 => [0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 1, 0x807f_ffff, 0x7f7f_ffff]
                [rng.below(8) as usize],
            1 | 2 => bits,
            _ => (bits & 0x807f_ffff) | ((112 + rng.below(32) as u32) << 23),
        },
        Input::Near => (rng.unit() * 8.0).to_bits(),
        Input::Half if special == 0 => bits & 0x83ff_83ff,
        Input::Half if special == 1 => bits,
        Input::Half => (bits & 0x8fff_8fff) | 0x3000_3000,
        Input::Bf16 => (bits & 0x83ff_83ff) | 0x3c00_3c00,
        Input::HalfNear => (bits & 0x8fff_8fff) | 0x3000_3000,
        Input::Fp8 => bits & 0xbfbf_bfbf,
        Input::F64 if index.is_multiple_of(2) => bits,
        Input::F64 => match special {
            0 => [0, 0x8000_0000, 0x7ff0_0000, 0x7ff8_0000, 1, 0x41e0_0000][rng.below(6) as usize],
            1 => bits,
            _ => (bits & 0x800f_ffff) | ((1000 + rng.below(50) as u32) << 20),
        },
        Input::F64Near if index.is_multiple_of(2) => bits,
        Input::F64Near => (bits & 0x800f_ffff) | ((1018 + rng.below(8) as u32) << 20),
    }
}

fn inputs(f: &Fixture) -> Vec<u32> {
    let seed = f.name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut rng = Rng::new(seed);
    (0..f.threads * f.inputs).map(|i| draw(&mut rng, f.input, i % f.inputs)).collect()
}

fn half(h: u32) -> f32 {
    let (e, m) = ((h >> 10 & 31) as i32, (h & 0x3ff) as f32 / 1024.0);
    let v = if e == 0 { m * 2f32.powi(-14) } else { (1.0 + m) * 2f32.powi(e - 15) };
    if h & 0x8000 != 0 { -v } else { v }
}

fn nan_equal(width: u32, got: &[u32], want: &[u32]) -> bool {
    let nan32 = |v: u32| v & 0x7fff_ffff > 0x7f80_0000;
    // Either half format: a NaN has all exponent bits set; 0x7c01.. is one only in f16, so compare canonical ones.
    let nan16 = |v: u32| v & 0x7fff == 0x7fff;
    match width {
        32 => got.iter().zip(want).all(|(g, w)| g == w || nan32(*g) && nan32(*w)),
        16 => got.iter().zip(want).all(|(g, w)| {
            [0, 16].iter().all(|s| {
                let (g, w) = (g >> s & 0xffff, w >> s & 0xffff);
                g == w || nan16(g) && nan16(w)
            })
        }),
        64 => got.chunks(2).zip(want.chunks(2)).all(|(g, w)| {
            let nan = |v: &[u32]| {
                v.len() == 2 && (v[1] & 0x7fff_ffff > 0x7ff0_0000 || v[1] & 0x7fff_ffff == 0x7ff0_0000 && v[0] != 0)
            };
            g == w || nan(g) && nan(w)
        }),
        _ => got == want,
    }
}

fn agrees(compare: Compare, got: &[u32], want: &[u32], scale: f32) -> bool {
    let order = |v: u32, bits: u32| {
        if v >> (bits - 1) & 1 != 0 { -i64::from(v & ((1 << (bits - 1)) - 1)) } else { i64::from(v) }
    };
    let halves = |v: u32| [v & 0xffff, v >> 16];
    match compare {
        Exact(width) => nan_equal(width, got, want),
        Ulp32(n) => got.iter().zip(want).all(|(g, w)| {
            nan_equal(32, &[*g], &[*w]) || (order(*g, 32) - order(*w, 32)).unsigned_abs() <= u64::from(n)
        }),
        Ulp16(n) => got.iter().zip(want).all(|(g, w)| {
            halves(*g)
                .into_iter()
                .zip(halves(*w))
                .all(|(g, w)| (order(g, 16) - order(w, 16)).unsigned_abs() <= u64::from(n))
        }),
        Relative(r) => got
            .iter()
            .zip(want)
            .all(|(g, w)| nan_equal(32, &[*g], &[*w]) || (f32::from_bits(*g) - f32::from_bits(*w)).abs() <= r * scale),
        Relative16(r) => got
            .iter()
            .zip(want)
            .all(|(g, w)| halves(*g).into_iter().zip(halves(*w)).all(|(g, w)| (half(g) - half(w)).abs() <= r * scale)),
    }
}

fn recorded() -> BTreeMap<String, Vec<u32>> {
    let path = format!("{}/tests/fixtures/recorded.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let parse = |line: &str| {
        let (name, hex) = line.split_once(' ')?;
        let words = hex.as_bytes().chunks(8).map(|c| u32::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok());
        Some((name.to_string(), words.collect::<Option<Vec<_>>>()?))
    };
    text.lines().filter(|l| !l.starts_with('#')).filter_map(parse).collect()
}

fn hex(words: &[u32]) -> String {
    words.iter().map(|w| format!("{w:08x}")).collect()
}

/// The outputs of every lane, from the simulator with all checks on.
fn simulated(module: &Module, f: &Fixture, data: &[u32]) -> Vec<u32> {
    let kernel = module.kernel(&f.name).unwrap_or_else(|e| panic!("{}: {e}", f.name));
    let d = Device::default();
    let (pi, po) = (put(&d, data), d.alloc((4 * f.threads * f.outputs) as u64).unwrap());
    let config = LaunchConfig::linear(1, f.threads as u32);
    let r = d.launch(&kernel, config, &[Arg::U64(pi), Arg::U64(po)], &Options::default()).unwrap();
    assert!(r.clean(), "{}: {:?}", f.name, r.findings);
    get::<u32>(&d, po, f.threads * f.outputs)
}

/// Writes what a GPU needs to run the fixtures, and the simulator's answers.
fn write(dir: &str, text: &str, list: &[Fixture]) -> std::io::Result<()> {
    let module = Module::parse(text).unwrap();
    let (mut asked, mut answers) = (String::new(), String::from("# outputs of every thread, from the simulator\n"));
    for f in list {
        let data = inputs(f);
        let _ = writeln!(asked, "{} {} {} {}", f.name, f.threads, f.outputs, hex(&data));
        let _ = writeln!(answers, "{} {}", f.name, hex(&simulated(&module, f, &data)));
    }
    std::fs::create_dir_all(dir)?;
    std::fs::write(format!("{dir}/fixtures.ptx"), text)?;
    std::fs::write(format!("{dir}/inputs.txt"), asked)?;
    std::fs::write(format!("{dir}/simulated.txt"), answers)
}

#[test]
fn every_fixture_agrees_with_its_recording() {
    let list = table();
    let text = ptx(&list);
    if let Ok(dir) = std::env::var("KILN_SIM_FIXTURES") {
        write(&dir, &text, &list).unwrap_or_else(|e| panic!("{dir}: {e}"));
        return;
    }
    let module = Module::parse(&text).unwrap();
    let recorded = recorded();
    let mut wrong = Vec::new();
    for f in &list {
        let want = recorded.get(&f.name).unwrap_or_else(|| panic!("{} is not recorded", f.name));
        let data = inputs(f);
        let got = simulated(&module, f, &data);
        let magnitude = |w: &u32| match f.compare {
            Relative16(_) => half(w & 0xffff).abs().max(half(w >> 16).abs()),
            _ => Some(f32::from_bits(*w).abs()).filter(|v| v.is_finite()).unwrap_or(0.0),
        };
        let scale = want.iter().map(magnitude).fold(0.0, f32::max);
        for lane in 0..f.threads {
            let at = lane * f.outputs..(lane + 1) * f.outputs;
            if !agrees(f.compare, &got[at.clone()], &want[at.clone()], scale) {
                let input = &data[lane * f.inputs..(lane + 1) * f.inputs];
                wrong.push(format!(
                    "{} lane {lane}: inputs {input:08x?}, got {:08x?}, recorded {:08x?}",
                    f.name,
                    &got[at.clone()],
                    &want[at]
                ));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} fixtures disagree:\n{}", wrong.len(), list.len(), wrong.join("\n"));
}
