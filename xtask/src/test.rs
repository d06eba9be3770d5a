//! `xtask test`: everything that must hold before a change lands.

use crate::cases::{self, CASES};
use crate::python::NVDISASM;
use crate::step::{Steps, cargo, cargo_with, command, tested_kiln};
use crate::{Outcome, demo, deny, header, onnx_suite, proto};
use kiln_cuda::{Home, RELEASES, setup};
use std::process::Command;

/// Runs all checks; stops at the first that fails.
pub fn run() -> Outcome<()> {
    let home = Home::from_env()?;
    let mut steps = Steps::new();
    steps.run("formatting", || cargo(&["fmt", "--all", "--", "--check"]))?;
    // All of them: a test compiles with each that is there.
    for release in &RELEASES {
        steps.run(&format!("NVRTC {}", release.version), || Ok(setup::setup_release(&home, release, |_| {})?))?;
    }
    steps.run("ONNX message types are current", || proto::run(true))?;
    steps.run("the C header is current", || header(true))?;
    steps.run("lints", || cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    steps.run("documentation", || {
        cargo_with(&["doc", "--quiet", "--workspace", "--no-deps"], "RUSTDOCFLAGS", "-D warnings")
    })?;
    steps.run("oldest Rust", oldest_rust)?;
    steps.run("licences and sources of dependencies", deny::run)?;
    steps.run("public models and what onnxruntime makes of them", || cases::run(false, &[]))?;
    let disassembler = steps.run("disassembler", || NVDISASM.install(&home))?;
    steps.run("unit, property and file tests", || {
        cargo_with(&["test", "--workspace"], "PYTHONPATH", &disassembler.display().to_string())
    })?;
    let kiln = tested_kiln()?;
    for case in CASES.iter().filter(|c| !c.inputs.is_empty()) {
        steps.run(&format!("public model {}", case.name), || public_model(&kiln, case, &home))?;
    }
    steps.run("ONNX backend suite", || onnx_suite::run(true, &[]))?;
    steps.summary();
    Ok(())
}

/// Checks libraries and programs with the oldest Rust that they promise to build with, unless that is the one in use, which then checks it in every
/// step. Where it is not installed, the lints alone have looked (clippy's `incompatible_msrv`: what std had by then), and that is said.
fn oldest_rust() -> Outcome<()> {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    let used = String::from_utf8(Command::new("rustc").arg("--version").output()?.stdout)?;
    if used.split_whitespace().nth(1).is_some_and(|version| version.starts_with(&format!("{oldest}."))) {
        println!("the oldest Rust promised, {oldest}, is the one in use");
        return Ok(());
    }
    let toolchain = format!("{oldest}.0");
    let installed = Command::new("rustup").args(["run", &toolchain, "rustc", "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        println!("Rust {toolchain} is not installed: only the lints looked for what is newer than {oldest}");
        return Ok(());
    }
    command("rustup", &["run", &toolchain, "cargo", "check", "--quiet", "--workspace"])
}

/// Builds a model for every target without a spill, and compares its recorded runs with onnxruntime.
fn public_model(kiln: &str, case: &crate::cases::Case, home: &Home) -> Outcome<()> {
    let model = case.model(home)?.display().to_string();
    let recordings = case.recordings(home)?;
    let folder = home.root().join("test");
    std::fs::create_dir_all(&folder)?;
    let engine = folder.join(format!("{}.kiln", case.name)).display().to_string();
    let output =
        Command::new(kiln).args(["build", &model, "-o", &engine, "--target", demo::TARGETS, "--json"]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let kernels = no_spills(&report)?;
    println!("{}: {kernels} kernels over all architectures, no spills", case.name);
    for r in &recordings {
        let (inputs, outputs) = (r.inputs.display().to_string(), r.outputs.display().to_string());
        command(kiln, &["compare", &engine, "--input", &inputs, "--expect", &outputs])?;
    }
    case.check_perturbed(home)
}

/// Counts the kernels of a build report; a spill is an error that names the kernel.
fn no_spills(report: &serde_json::Value) -> Outcome<usize> {
    let list = |v: &serde_json::Value, key: &str| v[key].as_array().cloned().unwrap_or_default();
    let mut count = 0;
    for target in list(&report["build"], "targets") {
        for kernel in list(&target, "regions").iter().flat_map(|r| list(r, "kernels")) {
            count += 1;
            if kernel["spill_bytes"] != 0 {
                let (name, target) = (&kernel["name"], &target["target"]);
                return Err(format!("kernel {name} for {target} spills {} bytes", kernel["spill_bytes"]).into());
            }
        }
    }
    if count == 0 { Err("the report lists no kernels".into()) } else { Ok(count) }
}
