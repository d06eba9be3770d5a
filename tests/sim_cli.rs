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

struct Case {
    dir: tempfile::TempDir,
    x: Vec<f32>,
}

impl Case {
    fn new(elements: usize) -> Case {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("scale.ptx"), PTX).unwrap();
        let x: Vec<f32> = (0..elements).map(|i| (i * i % 41) as f32 * 0.3 - 5.0).collect();
        let tensor = Tensor::from_slice(&[elements], &x).unwrap();
        npy::save(&dir.path().join("x.npy"), &tensor).unwrap();
        Case { dir, x }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn kiln(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_kiln"))
            .args(["sim", "scale.ptx"])
            .args(args)
            .current_dir(self.path())
            .output()
            .unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    fn launch(&self, args: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
        let mut all = vec!["--entry", "scale", "--grid", "2,1,1", "--block", "64"];
        all.extend(args.iter().flat_map(|a| ["--arg", a]));
        all.extend(more);
        self.kiln(&all)
    }
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
    let words = |text: String| text.split_whitespace().filter(|w| *w != "│").collect::<Vec<_>>().join(" ");
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
fn list_prints_kernels_parameters_and_shared_memory() {
    let case = Case::new(1);
    let (code, out, err) = case.kiln(&["--list"]);
    assert_eq!(code, Some(0), "{err}");
    for expected in
        ["sm_80", "scale: 512 B of static shared memory", "at most 128,1,1 threads", "4 bytes, aligned to 4: n"]
    {
        assert!(out.contains(expected), "`{expected}` is not in: {out}");
    }
    let (_, out, _) = case.kiln(&["--list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["entries"][0]["static_shared_bytes"], 512, "{out}");
    assert_eq!(listed["entries"][0]["entry"]["params"].as_array().map(Vec::len), Some(4), "{out}");
}
