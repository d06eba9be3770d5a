//! `kiln sim` from outside: files in, files, findings and exit codes out.

use kiln_graph::Tensor;
use kiln_import::npy;
use std::path::Path;
use std::process::{Command, Output};

/// y[i] = a * x[i] for i below n, a thread an element.
const PTX: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n)
.maxntid 128, 1, 1
{
  .reg .pred %p; .reg .b32 %r<4>; .reg .b64 %rd<5>; .reg .f32 %f<4>;
  .shared .align 4 .b8 stage[512];
  ld.param.u64 %rd0, [x];
  ld.param.u64 %rd1, [y];
  ld.param.f32 %f0, [a];
  ld.param.u32 %r0, [n];
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.u32 %r1, %r1, %r2, %r3;
  setp.ge.u32 %p, %r1, %r0;
  @%p bra DONE;
  mul.wide.u32 %rd2, %r1, 4;
  add.u64 %rd3, %rd0, %rd2;
  add.u64 %rd4, %rd1, %rd2;
  ld.global.f32 %f1, [%rd3];
  mul.f32 %f2, %f1, %f0;
  st.global.f32 [%rd4], %f2;
DONE:
  ret;
}
"#;

/// Copies the box of `source` at (x, y) to the origin of `target`, both by tensor maps of 512-byte boxes.
const TILE: &str = r#"
.version 8.0
.target sm_90a
.address_size 64
.visible .entry tile(.param .align 64 .b8 source[128], .param .align 64 .b8 target[128], .param .u32 x, .param .u32 y)
{
  .reg .pred %p; .reg .b32 %r<5>; .reg .b64 %rd<4>;
  .shared .align 1024 .b8 stage[512];
  .shared .align 8 .b64 full;
  mov.b64 %rd0, source;
  cvta.param.u64 %rd1, %rd0;
  mov.b64 %rd2, target;
  cvta.param.u64 %rd3, %rd2;
  ld.param.u32 %r0, [x];
  ld.param.u32 %r1, [y];
  mov.u32 %r2, stage;
  mov.u32 %r3, full;
  mov.u32 %r4, 0;
  mbarrier.init.shared::cta.b64 [%r3], 1;
  fence.mbarrier_init.release.cluster;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 512;
  cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1, {%r0, %r1}], [%r3];
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 %p, [%r3], 0;
  @!%p bra WAIT;
  cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd3, {%r4, %r4}], [%r2];
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group 0;
  ret;
}
"#;

/// Each CTA of a pair writes its rank into its peer; the launch says what a pair is.
const PAIR: &str = r#"
.version 8.0
.target sm_90
.address_size 64
.visible .entry pair(.param .u64 out) {
  .reg .b32 %r<6>;
  .reg .b64 %rd<4>;
  .shared .align 4 .b32 box;
  mov.u32 %r0, %cluster_ctarank;
  xor.b32 %r1, %r0, 1;
  mov.u32 %r2, box;
  mapa.shared::cluster.u32 %r3, %r2, %r1;
  st.shared::cluster.u32 [%r3], %r0;
  barrier.cluster.arrive;
  barrier.cluster.wait;
  ld.shared.u32 %r4, [%r2];
  mov.u32 %r5, %ctaid.x;
  ld.param.u64 %rd1, [out];
  mul.wide.u32 %rd2, %r5, 4;
  add.u64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r4;
  ret;
}
"#;

struct Case {
    dir: tempfile::TempDir,
    x: Vec<f32>,
}

impl Case {
    fn new(elements: usize) -> Case {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("scale.ptx"), PTX).unwrap();
        std::fs::write(dir.path().join("tile.ptx"), TILE).unwrap();
        std::fs::write(dir.path().join("pair.ptx"), PAIR).unwrap();
        let x: Vec<f32> = (0..elements).map(|i| (i * i % 41) as f32 * 0.3 - 5.0).collect();
        let tensor = Tensor::from_slice(&[elements], &x).unwrap();
        npy::save(&dir.path().join("x.npy"), &tensor).unwrap();
        Case { dir, x }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn kiln(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } =
            Command::new(env!("CARGO_BIN_EXE_kiln")).arg("sim").args(args).current_dir(self.path()).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    fn launch(&self, args: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
        let mut all = vec!["scale.ptx", "--entry", "scale", "--grid", "2,1,1", "--block", "64"];
        all.extend(args.iter().flat_map(|a| ["--arg", a]));
        all.extend(more);
        self.kiln(&all)
    }

    fn tile(&self, source: &str, target: &str, [x, y]: [i32; 2]) -> (Option<i32>, String, String) {
        let (x, y) = (format!("i32:{x}"), format!("i32:{y}"));
        let mut all = vec!["tile.ptx", "--entry", "tile", "--grid", "1", "--block", "1"];
        all.extend([source, target, &x, &y].iter().flat_map(|a| ["--arg", a]));
        self.kiln(&all)
    }
}

/// An error message on one line.
fn words(text: String) -> String {
    text.split_whitespace().filter(|w| *w != "│").collect::<Vec<_>>().join(" ")
}

#[test]
fn a_good_kernel_runs_and_its_output_is_saved() {
    let case = Case::new(100);
    let args = ["f32:x.npy", "out:f32:4x25:y.npy", "f32:-1.7", "u32:100"];
    let (code, out, err) = case.launch(&args, &["--seed", "3"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("nothing found"), "{out}");
    let expected: Vec<f32> = case.x.iter().map(|x| x * -1.7).collect();
    assert_eq!(npy::load(&case.path().join("y.npy")).unwrap(), Tensor::from_slice(&[4, 25], &expected).unwrap());
}

#[test]
fn memory_that_a_kernel_leaves_out_is_nan_and_inout_keeps_it() {
    let case = Case::new(100);
    let (code, out, err) = case.launch(&["f32:x.npy", "out:f32:100:y.npy", "f32:2", "u32:99"], &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    let y = npy::load(&case.path().join("y.npy")).unwrap().to_f64_vec();
    assert!(y[99].is_nan() && y[98] == f64::from(case.x[98] * 2.0), "{y:?}");
    let (code, out, err) = case.launch(&["f32:x.npy", "inout:f32:x.npy:z.npy", "f32:2", "u32:99"], &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    let z = npy::load(&case.path().join("z.npy")).unwrap().to_f64_vec();
    assert_eq!((z[98], z[99]), (f64::from(case.x[98] * 2.0), f64::from(case.x[99])));
}

#[test]
fn an_access_out_of_bounds_is_printed_and_exits_with_1() {
    let case = Case::new(100);
    let args = ["f32:x.npy", "out:f32:100:y.npy", "f32:2", "u32:101"];
    let (code, out, err) = case.launch(&args, &["--check", "none"]);
    assert_eq!(code, Some(1), "{out}{err}");
    // Element 100 is thread 36 of block 1.
    let lines: Vec<&str> = out.lines().filter(|l| l.starts_with("out of bounds")).collect();
    assert_eq!(lines.len(), 2, "{out}");
    for line in lines {
        assert!(line.contains("`scale`") && line.contains("block (1,0,0) thread (36,0,0)"), "{line}");
        assert!(line.contains("global address 0x"), "{line}");
    }

    let (code, out, _) = case.launch(&args, &["--json"]);
    assert_eq!(code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["findings"][0]["kind"], "out-of-bounds", "{out}");
    assert_eq!(report["findings"][0]["thread"], serde_json::json!([36, 0, 0]));
    // Four warps each issue one load and one store.
    assert_eq!(report["counters"]["total"]["global_requests"], 8, "{out}");
}

#[test]
fn wrong_arguments_are_errors_that_say_what_is_wrong() {
    let case = Case::new(100);
    let refused = |args: &[&str], message: &str| {
        let (code, out, err) = case.launch(args, &[]);
        let err = words(err);
        assert_eq!(code, Some(2), "{out}{err}");
        assert!(err.contains(message), "`{message}` is not in: {err}");
        assert!(!case.path().join("y.npy").exists());
    };
    refused(&["f32:x.npy", "out:f32:100:y.npy"], "2 arguments given, the kernel takes 4");
    refused(&["f32:x.npy", "out:f32:100:y.npy", "f64:2", "u32:100"], "argument 2 has 8 bytes, the parameter has 4");
    refused(&["f16:x.npy", "out:f32:100:y.npy", "f32:2", "u32:100"], "holds f32, the argument says f16");
    refused(&["f32:x.npy", "out:f32:y.npy", "f32:2", "u32:100"], "parts are missing");
    refused(&["f32:x.npy", "out:f32:100:y.npy", "f32:two", "u32:100"], "`two` is neither a number nor a .npy file");
}

#[test]
fn a_tensor_map_moves_tiles_and_fills_what_hangs_over_the_edge() {
    let case = Case::new(1);
    let (rows, cols) = (5, 36);
    let x: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
    npy::save(&case.path().join("x.npy"), &Tensor::from_slice(&[rows, cols], &x).unwrap()).unwrap();
    let tile = |source: &str, target: &str, at| {
        let (code, out, err) = case.tile(source, target, at);
        assert_eq!(code, Some(0), "{out}{err}");
        npy::load(&case.path().join("y.npy")).unwrap().to_f64_vec()
    };
    let expected = |[left, top]: [i64; 2], step: i64, fill: f64| -> Vec<u64> {
        let value = |i: i64| {
            let (row, col) = (top + i / 32 * step, left + i % 32);
            let inside = (0..rows as i64).contains(&row) && (0..cols as i64).contains(&col);
            if inside { (row * cols as i64 + col) as f64 } else { fill }
        };
        (0..128).map(|i| value(i).to_bits()).collect()
    };
    let bits = |found: Vec<f64>| -> Vec<u64> { found.into_iter().map(f64::to_bits).collect() };

    // Within, over the lower right edge and over the upper left one.
    let out = "tma:out:f32:4x32:y.npy:box=4x32";
    for at in [[4, 1], [16, 3], [-8, -2]] {
        let wide = at.map(i64::from);
        assert_eq!(bits(tile("tma:f32:x.npy:box=4x32", out, at)), expected(wide, 1, 0.0), "{at:?}");
        let found = tile("tma:f32:x.npy:box=4x32:fill=nan", out, at).into_iter();
        let found = found.map(|v| if v.is_nan() { -1.0 } else { v }).collect();
        assert_eq!(bits(found), expected(wide, 1, -1.0), "{at:?}");
        // Every second row.
        assert_eq!(bits(tile("tma:f32:x.npy:box=8x32:step=2x1", out, at)), expected(wide, 2, 0.0), "{at:?}");
        // What one map swizzles another undoes.
        let found = tile("tma:f32:x.npy:box=4x32:swizzle=128", &format!("{out}:swizzle=128"), at);
        assert_eq!(bits(found), expected(wide, 1, 0.0), "{at:?}");
    }
    // Of a row of 128 bytes a swizzle exchanges chunks of four floats by the row's number.
    let found = tile("tma:f32:x.npy:box=4x32:swizzle=128", out, [0, 0]);
    let chunks = |row: usize| (0..32).map(move |col| ((row * cols) + (col ^ row << 2)) as f64);
    assert_eq!(found, (0..4).flat_map(chunks).collect::<Vec<_>>());
    // A target keeps what the box does not cover, and is not written beyond its edge.
    let found = tile("tma:f32:x.npy:box=4x32", "tma:inout:f32:x.npy:y.npy:box=4x32", [4, 1]);
    for (i, v) in found.iter().enumerate() {
        let (row, col) = (i / cols, i % cols);
        assert_eq!(*v, if row < 4 && col < 32 { ((row + 1) * cols + col + 4) as f64 } else { i as f64 });
    }
}

#[test]
fn a_tensor_map_that_the_hardware_would_not_take_is_refused() {
    let case = Case::new(1);
    let save = |name: &str, shape: &[usize]| {
        let data = vec![0u16; shape.iter().product()];
        npy::save(&case.path().join(name), &Tensor::from_slice(shape, &data).unwrap()).unwrap();
    };
    save("odd.npy", &[4, 36]);
    save("even.npy", &[4, 64]);
    save("deep.npy", &[1, 1, 1, 1, 4, 64]);
    for (source, message) in [
        ("tma:u16:odd.npy:box=4x32", "over u16[4, 36] ╰─▶ tensor map: stride of 72 bytes is not a multiple of 16"),
        ("tma:u16:even.npy:box=4x512", "box size 512 is not in 1..=256"),
        ("tma:u16:even.npy:box=64", "`box` has 1 numbers, the array 2 dimensions"),
        ("tma:u16:deep.npy:box=1x1x1x1x4x64", "expected rank 1 to 5"),
        ("tma:u16:even.npy:box=4x64:swizzle=64", "inner box of 128 bytes exceeds the swizzle span of 64 bytes"),
        ("tma:u16:even.npy:box=4x4", "inner box of 8 bytes is not a multiple of 16"),
        ("tma:u16:even.npy:box=4x64:fill=nan", "fill with NaNs of U16, which has none"),
        ("tma:u16:even.npy:box=4x64:step=1x2", "the innermost element stride is 2"),
        ("tma:i16:even.npy:box=4x64", "a tensor map cannot hold i16; expected u8, u16"),
        ("tma:u16:even.npy", "the box is missing"),
        ("tma:u16:even.npy:box=4x64:swizle=128", "`swizle=128` is not an option; expected box=8x32"),
    ] {
        let (code, out, err) = case.tile(source, "tma:out:f32:4x32:y.npy:box=4x32", [0, 0]);
        let err = words(err);
        assert_eq!(code, Some(2), "{out}{err}");
        assert!(err.contains(message), "`{message}` is not in: {err}");
    }
}

#[test]
fn list_prints_kernels_parameters_and_shared_memory() {
    let case = Case::new(1);
    let (code, out, err) = case.kiln(&["scale.ptx", "--list"]);
    assert_eq!(code, Some(0), "{err}");
    for expected in
        ["sm_80", "scale: 512 B of static shared memory", "at most 128,1,1 threads", "4 bytes, aligned to 4: n"]
    {
        assert!(out.contains(expected), "`{expected}` is not in: {out}");
    }
    let (_, out, _) = case.kiln(&["scale.ptx", "--list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["entries"][0]["static_shared_bytes"], 512, "{out}");
    assert_eq!(listed["entries"][0]["entry"]["params"].as_array().map(Vec::len), Some(4), "{out}");
}

#[test]
fn what_would_not_end_or_not_fit_is_stopped() {
    let case = Case::new(1);
    let module = |declared: &str, body: &str| {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n{declared}\n.visible .entry k(.param .u64 p) {{\n\
             .reg .b32 r<4>; .reg .b64 d<4>; .reg .pred q;\n{body}\nret; }}\n"
        );
        std::fs::write(case.path().join("k.ptx"), text).unwrap();
    };
    let launch = |grid: &str, block: &str, arg: &str, more: &[&str]| {
        let args = ["k.ptx", "--entry", "k", "--grid", grid, "--block", block, "--arg", arg];
        let (code, out, err) = case.kiln(&[&args, more].concat());
        (code, words(out + &err))
    };
    // Half of each warp waits for what the other half never does: both places are told.
    module("", "mov.u32 r0, %laneid; setp.lt.u32 q, r0, 16; @q bra B;\nA: bra A;\nB: bra B;");
    for (more, kind) in [
        (&["--timeout", "0.2"], "time limit exceeded: the launch takes more than 200ms: "),
        (
            &["--max-instructions", "5000"],
            "instruction budget exceeded: the launch takes more than 5000 warp instructions: ",
        ),
    ] {
        let (code, text) = launch("1", "96", "u64:0", more);
        assert!(code == Some(1) && text.contains(kind), "{text}");
        for line in ["PTX line 8", "PTX line 9"] {
            assert!(text.contains(&format!("CTA 0 warps 0, 1, 2 are at source line 0 ({line})")), "{line}: {text}");
        }
    }
    module("", "");
    let (code, text) = launch("2147483647", "1", "u64:0", &["--timeout", "0.2"]);
    assert!(code == Some(1) && text.contains("time limit exceeded"), "{text}");
    let (code, text) = launch("2147483648", "1", "u64:0", &[]);
    assert!(code == Some(2) && text.contains("exceeds 2147483647 along x"), "{text}");
    let (code, text) = launch("1", "1", "out:f32:4294967296:y.npy", &[]);
    assert!(code == Some(2) && text.contains("allocation of 17179869184 bytes exceeds"), "{text}");
    let (code, text) = launch("1", "1", "u64:0", &["--timeout=-1"]);
    assert!(code == Some(2) && text.contains("--timeout"), "{text}");
    for (size, refused) in [(4294967295u32, true), (65537, true), (65536, false)] {
        module(&format!(".const .align 4 .b8 c[{size}];"), "");
        let (code, text) = launch("1", "1", "u64:0", &[]);
        assert_eq!(code == Some(2) && text.contains("constant memory has 65536 bytes"), refused, "{size}: {text}");
    }
    module(".const .b8 a[40000];\n.const .b8 b[40000];", "");
    let (code, text) = launch("1", "1", "u64:0", &[]);
    assert!(code == Some(2) && text.contains("`b` of 40000 bytes: constant memory"), "{text}");
    // Nothing is lost on what does end.
    module("", "mov.u32 r0, 0;\nA: add.u32 r0, r0, 1; setp.lt.u32 q, r0, 9; @q bra A;");
    let (code, text) = launch("3", "40", "u64:0", &["--timeout", "60", "--max-instructions", "1000"]);
    assert!(code == Some(0) && text.contains("nothing found"), "{text}");
}

#[test]
fn clusters_that_the_kernel_leaves_to_the_launch() {
    let case = Case::new(1);
    let launch = |grid: &str, more: &[&str]| {
        let args = ["pair.ptx", "--entry", "pair", "--grid", grid, "--block", "1", "--arg", "out:u32:4:out.npy"];
        case.kiln(&[&args, more].concat())
    };
    let (code, out, err) = launch("4", &["--cluster", "2"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let ranks = npy::load(&case.path().join("out.npy")).unwrap();
    assert_eq!(ranks, Tensor::from_slice(&[4], &[1u32, 0, 1, 0]).unwrap());
    // Without clusters there is no peer.
    let (code, out, _) = launch("4", &[]);
    assert!(code == Some(1) && out.contains("out of bounds"), "{out}");
    let (code, _, err) = launch("3", &["--cluster", "2,1,1"]);
    let err = words(err);
    assert!(code == Some(2) && err.contains("3 CTAs along x are no multiple of the cluster's 2"), "{code:?} {err}");
    let (code, _, err) = launch("4", &["--cluster", "1,17"]);
    assert!(code == Some(2) && words(err).contains("17 CTAs; expected 1 to 16"), "{code:?}");
}
