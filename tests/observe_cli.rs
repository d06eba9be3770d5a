//! What a build shows of itself: `--dump` and `KILN_LOG`.

use kiln::graph::{DType, Tensor};
use kiln::import::npy;
use kiln_cuda::{Home, Nvrtc};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A folder with a model and its own `$KILN_HOME`, whose caches are empty.
struct Place(tempfile::TempDir);

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    /// `y = softmax(x w) * 0.5`.
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let ports: &[(&str, &[&str])] = &[("x", &["16", "32"]), ("w", &["32", "24"])];
        let nodes: &[(&str, &[&str], &str)] =
            &[("MatMul", &["x", "w"], "p"), ("Softmax", &["p"], "s"), ("Mul", &["s", "half"], "y")];
        let model = crate::files_cli::onnx::model(ports, &[("half", 0.5)], nodes, &[("y", &["16", "24"])]);
        fs::write(dir.path().join("m.onnx"), model).unwrap();
        Place(dir)
    }

    fn kiln(&self, args: &str, log: Option<&str>) -> Ran {
        let nvrtc = Nvrtc::discover(&Home::from_env().unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command.args(args.split_whitespace()).current_dir(self.0.path()).env_remove("KILN_LOG");
        command.env("KILN_HOME", self.0.path().join("home")).env("KILN_NVRTC", nvrtc.path());
        if let Some(log) = log {
            command.env("KILN_LOG", log);
        }
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn passes(&self) -> Vec<String> {
        let help = self.kiln("build --dump help", None);
        assert_eq!(help.code, Some(0), "{}", help.err);
        help.out.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    }
}

/// `(pass, text)` of each dump on standard output.
fn dumps(out: &str) -> Vec<(String, String)> {
    let parts = out.split("==== after ").skip(1).map(|part| part.split_once('\n').unwrap());
    parts.map(|(head, text)| (head.split(',').next().unwrap().to_owned(), text.to_owned())).collect()
}

#[test]
fn every_pass_that_is_listed_is_dumped_and_in_that_order() {
    let place = Place::new();
    let ran = place.kiln("build m.onnx --target sm_80 --dump after=all", None);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let dumps = dumps(&ran.out);
    let passes = place.passes();
    let mut seen: Vec<&String> = Vec::new();
    for (pass, text) in &dumps {
        assert!(!text.trim().is_empty(), "{pass} leaves nothing");
        if !seen.contains(&pass) {
            seen.push(pass);
        }
    }
    assert_eq!(seen, passes.iter().collect::<Vec<_>>());
    let text = |pass: &str| &dumps.iter().find(|(name, _)| name == pass).unwrap().1;
    for (pass, part) in [
        ("import", "graph \"m\""),
        ("build", "= Contract {"),
        ("saturate", "e-nodes after"),
        ("order", "c0"),
        ("select", "us modelled"),
        ("emit", "plan \"m\""),
        ("verify", "level tile"),
        ("layout", "layout \""),
        ("sync", "level async"),
        ("lower", "__global__"),
        ("cuda", "__global__"),
        ("ptx", ".visible .entry"),
        ("resources", "registers"),
    ] {
        assert!(text(pass).contains(part), "{pass} lacks `{part}`:\n{}", text(pass));
    }
    assert!(!text("build").contains("e-nodes after") && !text("verify").contains("layout \""));
}

#[test]
fn dumps_go_to_files_named_by_target_kernel_and_pass() {
    let place = Place::new();
    let ran = place.kiln("build m.onnx --target cpu,sm_80 --json --dump after=import,emit,cuda --dump-to d", None);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let number = |pass: &str| place.passes().iter().position(|name| name == pass).unwrap();
    let read = |path: String| -> String {
        let path: PathBuf = place.0.path().join("d").join(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    assert!(read(format!("{:02}-import.txt", number("import"))).contains("graph"));
    for target in ["cpu", "sm_80"] {
        assert!(read(format!("{target}/{:02}-emit.txt", number("emit"))).contains("plan"));
    }
    let kernels: Vec<&str> = report["build"]["targets"][1]["regions"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|region| region["kernels"].as_array().unwrap())
        .map(|kernel| kernel["name"].as_str().unwrap())
        .collect();
    assert!(!kernels.is_empty());
    for kernel in kernels {
        assert!(read(format!("sm_80/{kernel}/{:02}-cuda.cu", number("cuda"))).contains(kernel));
    }
    // Only what was asked for.
    assert_eq!(
        fs::read_dir(place.0.path().join("d/sm_80")).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count(),
        1
    );
}

#[test]
fn what_cannot_be_dumped_is_said() {
    let place = Place::new();
    let unknown = place.kiln("build m.onnx --dump after=import,laid", None);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.err.contains("no pass is called `laid`"), "{}", unknown.err);
    for pass in place.passes() {
        assert!(unknown.err.contains(&pass), "{pass} is not listed:\n{}", unknown.err);
    }
    let mixed = place.kiln("build m.onnx --json --dump after=import", None);
    assert_eq!(mixed.code, Some(2));
    assert!(mixed.err.contains("--dump-to"), "{}", mixed.err);
    let blocked = place.kiln("build m.onnx --dump after=emit --dump-to m.onnx", None);
    assert_eq!(blocked.code, Some(2));
    assert!(blocked.err.contains("cannot write m.onnx"), "{}", blocked.err);
}

#[test]
fn the_log_has_every_stage_on_standard_error() {
    let place = Place::new();
    let quiet = place.kiln("build m.onnx --target cpu,sm_80 -o quiet.kiln", None);
    assert_eq!((quiet.code, quiet.err.contains("time.busy")), (Some(0), false), "{}", quiet.err);
    fs::remove_dir_all(place.0.path().join("home")).unwrap();
    let ran = place.kiln("build m.onnx --target cpu,sm_80", Some("info"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for stage in ["import{", "build{", "fuse{", "generate{", "compile{", "nvrtc{", "save{"] {
        assert!(ran.err.contains(stage), "no `{stage}` in:\n{}", ran.err);
    }
    assert!(ran.err.contains("build{model=\"m\"}:compile{target=\"sm_80\""), "{}", ran.err);
    assert!(!ran.out.contains("time.busy") && !ran.err.contains("pass{"), "{}", ran.err);

    for (name, shape) in [("x", [16, 32]), ("w", [32, 24])] {
        let tensor = Tensor::random(DType::F32, &shape, 7).unwrap();
        npy::save(&place.0.path().join(format!("{name}.npy")), &tensor).unwrap();
    }
    let ran = place.kiln("run m.kiln --input x=x.npy --input w=w.npy", Some("kiln_engine=debug"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for stage in ["load{", "session{", "prepare{", "run: "] {
        assert!(ran.err.contains(stage), "no `{stage}` in:\n{}", ran.err);
    }
    let ran = place.kiln("build m.onnx --target sm_80", Some("kiln_fuse=debug,kiln_tile=trace"));
    for pass in ["saturate", "select", "layouts", "async"] {
        assert!(ran.err.contains(&format!("pass{{name=\"{pass}\"}}")), "no `{pass}` in:\n{}", ran.err);
    }
    assert!(!ran.err.contains("nvrtc{"), "{}", ran.err);
}

#[test]
fn a_log_filter_that_means_nothing_is_refused() {
    let place = Place::new();
    for (filter, part) in
        [("inof", "`inof` is neither a level"), ("kiln_fuse=loud", "kiln_fuse=loud"), ("egg=info", "`egg`")]
    {
        let ran = place.kiln("build --dump help", Some(filter));
        assert_eq!(ran.code, Some(2), "{filter}: {}", ran.err);
        assert!(ran.err.contains("KILN_LOG") && ran.err.contains(part), "{filter}: {}", ran.err);
    }
}

#[test]
fn tuning_is_for_gpus_and_its_options_for_tuning() {
    let place = Place::new();
    for command in ["tune m.onnx", "build m.onnx --tune"] {
        for device in ["cpu", "sim:sm_80"] {
            let ran = place.kiln(&format!("{command} --device {device}"), None);
            assert_eq!(ran.code, Some(2), "{}", ran.out);
            assert!(ran.err.contains("its kernels cannot be timed; tune on a GPU"), "{}", ran.err);
        }
    }
    let ran = place.kiln("build m.onnx --budget 30s", None);
    assert!(ran.code == Some(2) && ran.err.contains("add `--tune`"), "{}", ran.err);
    assert!(!place.0.path().join("m.kiln").exists());
}
