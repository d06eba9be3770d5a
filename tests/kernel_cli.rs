//! `kiln kernel` from outside: one kernel alone, as text at every level, as numbers, and checked.

use kiln_cuda::{Home, Nvrtc};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `kiln kernel` with its own `$KILN_HOME`, where `path` is all of `PATH`.
fn kernel_in(home: &Path, path: Option<&str>, args: &[&str]) -> Output {
    let nvrtc = Nvrtc::discover(&Home::from_env().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.arg("kernel").args(args).env("KILN_HOME", home).env("KILN_NVRTC", nvrtc.path());
    if let Some(path) = path {
        command.env("PATH", path).env_remove("CUDA_PATH").env_remove("CUDA_HOME");
    }
    command.output().unwrap()
}

fn kernel(args: &str) -> Output {
    let home = tempfile::tempdir().unwrap();
    kernel_in(home.path(), None, &args.split_whitespace().collect::<Vec<_>>())
}

/// Standard output of a success.
fn text(args: &str) -> String {
    let output = kernel(args);
    assert_eq!(output.status.code(), Some(0), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &str) -> Value {
    serde_json::from_str(&text(args)).unwrap()
}

/// Standard error of a refusal, without the line breaks and frames that a terminal gets.
fn refusal(args: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = kernel_in(home.path(), None, args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    flat(&output.stderr)
}

fn flat(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(['│', '\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_list_has_every_family_with_its_configs_and_architectures() {
    let list = json("list --json");
    let listed = list.as_array().unwrap();
    for (family, op) in
        [("map", "geglu"), ("rows", "softmax"), ("rows", "layer_norm"), ("gemm", "matmul"), ("gemm", "grouped")]
    {
        let found = listed.iter().find(|row| row["family"] == family && row["op"] == op);
        let row = found.unwrap_or_else(|| panic!("no {family} {op}"));
        assert!(row["configs"].as_u64().unwrap() > 1, "{row}");
        for (list, member) in [("architectures", "sm_75"), ("architectures", "sm_90a"), ("dtypes", "f16")] {
            assert!(row[list].as_array().unwrap().contains(&member.into()), "{member}: {row}");
        }
        let fields = row["config"].as_object().unwrap();
        assert!(fields.values().any(|values| values.as_array().unwrap().len() > 1), "{row}");
    }
    let people = text("list");
    assert!(people.contains("rows --op softmax: softmax(x[rows, cols]) along cols"), "{people}");
}

/// Each text is one level's, and reads back where it is the tile IR's.
#[test]
fn each_level_is_shown_as_it_is() {
    let softmax = "rows --op softmax --dtype f16 --rows 8 --cols 256 --target sm_80 --emit";
    for (emit, level) in
        [("tile", "tile"), ("tile:raster", "scheduled"), ("tile:layouts", "laid_out"), ("tile:plan", "async")]
    {
        let shown = text(&format!("{softmax} {emit}"));
        let program: kiln_tile::ir::Program = shown.parse().unwrap_or_else(|e| panic!("{emit}: {e}\n{shown}"));
        assert_eq!(program.level.name(), level, "{emit}");
        assert!(shown.contains("param x0: f16[8, 256]"), "{shown}");
    }
    let cuda = text(&format!("{softmax} cuda"));
    assert!(cuda.contains("extern \"C\" __global__"), "{cuda}");
    let ptx = text(&format!("{softmax} ptx"));
    assert!(ptx.contains(".target sm_80") && ptx.contains(".entry"), "{ptx}");
    // The default type, sizes and target.
    assert!(text("map --emit ptx").contains(".target sm_90a"));
}

#[test]
fn json_says_what_a_kernel_uses_and_should_cost() {
    let found = json("rows --dtype f32 --rows 4096 --cols 1024 --gpu H200");
    assert_eq!((&found["family"], &found["op"], &found["dtype"]), (&"rows".into(), &"softmax".into(), &"f32".into()));
    assert_eq!((&found["target"], &found["gpu"]), (&"sm_90a".into(), &"H200 SXM".into()));
    let kernel = &found["kernels"][0];
    assert!((8..=255).contains(&kernel["registers"].as_u64().unwrap()), "{kernel}");
    assert_eq!(kernel["spill_bytes"], 0);
    let config = &found["config"];
    assert_eq!(kernel["threads"].as_u64().unwrap(), 32 * config["warps"].as_u64().unwrap());
    assert_eq!(kernel["grid"][0].as_u64().unwrap(), 4096u64.div_ceil(config["rows"].as_u64().unwrap()));
    let estimate = &found["estimate"];
    // Once in, once out.
    assert_eq!(estimate["bytes"].as_f64().unwrap(), 2.0 * 4.0 * 4096.0 * 1024.0);
    let [fraction, seconds, gbs] = ["roofline_fraction", "seconds", "gbs"].map(|key| estimate[key].as_f64().unwrap());
    let roofline = estimate["bytes"].as_f64().unwrap() / 4800e9;
    assert!((fraction - roofline / seconds).abs() < 1e-9 && fraction > 0.2 && fraction <= 1.0, "{estimate}");
    assert!((gbs - 4800.0 * fraction).abs() < 1e-6 * gbs, "{estimate}");
}

#[test]
fn products_of_tf32_are_of_rounded_f32() {
    let sizes = "gemm --op linear --dtype tf32 --m 64 --n 96 --k 64 --target";
    for (target, instruction, conversion) in [
        ("sm_80", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "cvt.rna.tf32.f32"),
        ("sm_120", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "cvt.rn.tf32.f32"),
    ] {
        let cuda = text(&format!("{sizes} {target} --emit cuda"));
        assert!(cuda.contains(instruction) && cuda.contains(conversion), "{cuda}");
    }
    let program = text(&format!("{sizes} sm_90a --emit tile"));
    assert!(program.contains(" tf32 even") && program.contains("param x0: f32[64, 64]"), "{program}");
    let report = json(&format!("{sizes} sm_80 --seeds 1 --emit check"));
    let error = report["check"]["rel_error"].as_f64().unwrap();
    assert!(report["dtype"] == "tf32" && report["check"]["agrees"] == true, "{report}");
    // More than f32 is off, less than two operands are.
    assert!(error > 1e-5 && error < 1.0 / 1024.0, "{report}");
    // On an A100 tensor cores are eight times as fast, which is what the roofline counts.
    let large = |dtype: &str| {
        let found = json(&format!("gemm --dtype {dtype} --m 4096 --n 4096 --k 4096 --target a100"));
        ["tflops", "roofline_fraction"].map(|key| found["estimate"][key].as_f64().unwrap())
    };
    let [[exact, _], [rounded, fraction]] = ["f32", "tf32"].map(large);
    assert!(rounded > 3.0 * exact && fraction < 1.0, "{exact} {rounded} {fraction}");
    for (args, said) in [
        (&["gemm", "--dtype", "tf32", "--target", "sm_75"][..], "rounds nothing to TF32 on sm_75"),
        (&["map", "--dtype", "tf32"], "rounds nothing to TF32"),
    ] {
        let refused = refusal(args);
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn a_config_is_taken_as_it_is_given() {
    let all = json("map --rows 64 --cols 256 --all-configs");
    let all = all.as_array().unwrap();
    assert!(all.len() > 2);
    let seconds = |report: &Value| report["estimate"]["seconds"].as_f64().unwrap();
    assert!(all.is_sorted_by(|a, b| seconds(a) <= seconds(b)));
    let last = &all[all.len() - 1];
    let home = tempfile::tempdir().unwrap();
    let config = last["config"].to_string();
    let args = ["map", "--rows", "64", "--cols", "256", "--config", &config];
    let one: Value = serde_json::from_slice(&kernel_in(home.path(), None, &args).stdout).unwrap();
    assert_eq!(&one, last);
    assert_ne!(one["config"], all[0]["config"]);
    // Each text under its Config.
    let texts = text("map --rows 64 --cols 256 --all-configs --emit cuda");
    for report in all {
        assert!(texts.contains(&format!("// {}\n", report["config"])), "{texts}");
    }
}

#[test]
fn a_softmax_is_checked_in_the_simulator() {
    let found = json("rows --dtype f32 --rows 5 --cols 77 --target sm_80 --emit check --seeds 3");
    let check = &found["check"];
    assert_eq!((&check["device"], &check["seeds"]), (&"sim:sm_80".into(), &3.into()));
    assert_eq!(check["agrees"], true, "{check}");
    // It rounds, and the result is not zeros.
    let error = check["rel_error"].as_f64().unwrap();
    assert!(error > 0.0 && error < check["tolerance"].as_f64().unwrap(), "{check}");
    let counters = &check["counters"][0];
    assert_eq!(counters["launches"], 1, "the counters are of one run: {check}");
    for counter in ["instructions", "global_sectors", "sectors_per_request"] {
        assert!(counters[counter].as_f64().unwrap() > 0.0, "{counter}: {counters}");
    }
    for counter in ["bank_conflicts", "mma_instructions"] {
        assert!(counters[counter].is_u64(), "{counter}: {counters}");
    }
    assert!(check["measured"].is_null());
}

#[test]
fn every_problem_is_right_in_the_simulator() {
    for args in [
        "map --op geglu --dtype f32 --rows 3 --cols 70",
        "map --op add --rows 3 --cols 70",
        "rows --op layer_norm --rows 3 --cols 130",
        "rows --op rms_norm --dtype f32 --rows 3 --cols 130",
        "gemm --op matmul --m 70 --n 40 --k 96",
        "gemm --op linear --dtype f16 --m 33 --n 72 --k 64 --batch 2",
        "gemm --op grouped --dtype f16 --m 70 --n 40 --k 64 --groups 3",
    ] {
        let check = &json(&format!("{args} --target sm_80 --emit check --seeds 2"))["check"];
        assert_eq!(check["agrees"], true, "{args}: {check}");
        let mma = check["counters"][0]["mma_instructions"].as_u64().unwrap();
        assert_eq!(mma > 0, args.starts_with("gemm"), "{args}: {check}");
    }
}

#[test]
fn sass_comes_from_the_disassembler_on_path() {
    let home = tempfile::tempdir().unwrap();
    let bin = tempfile::tempdir().unwrap();
    let args = ["map", "--rows", "64", "--cols", "256", "--target", "sm_80", "--emit", "sass"];
    let path = bin.path().to_str().unwrap();
    let none = kernel_in(home.path(), Some(path), &args);
    assert_eq!(none.status.code(), Some(2));
    let said = flat(&none.stderr);
    assert!(said.contains("nvdisasm") && said.contains("pip install nvidia-cuda-nvdisasm"), "{said}");
    // In its place a program that prints its option and what it is given.
    let program = bin.path().join("nvdisasm");
    fs::write(&program, "#!/bin/sh\necho \"$1\"\nexec /bin/cat \"$2\"\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let found = kernel_in(home.path(), Some(path), &args);
    assert_eq!(found.status.code(), Some(0), "{}", flat(&found.stderr));
    assert!(found.stdout.starts_with(b"--print-code\n\x7fELF"), "{}", flat(&found.stdout));
    // One that fails.
    fs::write(&program, "#!/bin/sh\necho unknown architecture >&2\nexit 3\n").unwrap();
    let failed = kernel_in(home.path(), Some(path), &args);
    assert_eq!(failed.status.code(), Some(2));
    assert!(flat(&failed.stderr).contains("unknown architecture"), "{}", flat(&failed.stderr));
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let refused = |args: &str, words: &[&str]| {
        let said = refusal(&args.split_whitespace().collect::<Vec<_>>());
        for word in words {
            assert!(said.contains(word), "{args}: no `{word}` in {said}");
        }
    };
    refused("softmax", &["no kernel family is called `softmax`", "map, rows"]);
    refused("rows --op mean", &["no `--op mean`", "softmax, layer_norm, rms_norm"]);
    refused("rows --dtype f7", &["`f7`", "bf16"]);
    refused("rows --dtype i8", &["`softmax` of i8 has no kernel on sm_90a", "made for", "bf16"]);
    refused("rows --heads 3", &["`softmax` has no `--heads`", "--rows, --cols"]);
    refused("rows --rows 0", &["--rows"]);
    refused("rows --target sm_91", &["sm_91", "sm_90a"]);
    refused("rows --target cpu", &["kernels are for GPUs", "sm_75"]);
    refused("rows --gpu h300", &["`h300`", "h200"]);
    refused("rows --gpu a100", &["sm_80", "sm_90a"]);
    refused("rows --emit tile:fuse", &["no pass is called `fuse`", "layouts"]);
    refused("rows --emit text", &["tile[:PASS]", "sass"]);
    refused("rows --device cuda:0", &["--emit check"]);
    refused("rows --emit check --device sim:sm_80", &["sm_90a", "sim:sm_80"]);
    refused("gemm --m 8192 --n 8192 --k 8192 --emit check", &["simulator would take too long", "smaller"]);
    let said = refusal(&["map", "--config", r#"{"elements": 8, "warps": 5}"#]);
    assert!(said.contains("none of the") && said.contains(r#"{"elements":8,"warps":4}"#), "{said}");
    assert!(refusal(&["map", "--config", "{"]).contains("--config"));
    let both = refusal(&["map", "--config", "{}", "--all-configs"]);
    assert!(both.contains("cannot be used with"), "{both}");
}
