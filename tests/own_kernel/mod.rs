//! Kernels of one's own from end to end: written, checked, exported, read, found in models, run.

#[path = "../../examples/kernel/fused.rs"]
mod fused;
mod gemm;
mod language;

use kiln::graph::{BinaryOp, Builder, DType, Dim, Graph, Tensor, ValueId};
use kiln::kernels::Check;
use kiln::prelude::*;
use std::process::Command;
use std::sync::Arc;

/// What `run_on` gives: the outputs, and the kernels that ran.
type Ran = (Vec<Tensor>, Vec<String>);

fn run_on(model: &Model, kernels: &[Arc<Kernel>], device: &str, inputs: &[(&str, Tensor)]) -> Ran {
    let target = device.trim_start_matches("sim:");
    let builder = EngineBuilder::new(model).target(target).unwrap().kernels(kernels.to_vec());
    // As its file gives it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.kiln");
    builder.build().unwrap().save(&path).unwrap();
    let mut session = Engine::load(&path).unwrap().session(device).unwrap();
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let outputs = session.run(&inputs).unwrap();
    let ran = session.implementations().into_iter().map(|(_, by)| by).collect();
    (outputs.into_iter().map(|(_, tensor)| tensor).collect(), ran)
}

fn random(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    Tensor::random(dtype, shape, seed).unwrap()
}

/// The greatest difference over the greatest value.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
    let pairs: Vec<(f64, f64)> = found.to_f64_vec().into_iter().zip(expected.to_f64_vec()).collect();
    assert!(pairs.iter().all(|(f, e)| f.is_finite() && e.is_finite()));
    let most = pairs.iter().map(|(_, e)| e.abs()).fold(0.0, f64::max);
    assert!(most > 1e-3, "{most}");
    pairs.iter().map(|(f, e)| (f - e).abs()).fold(0.0, f64::max) / most
}

#[test]
fn the_kernel_of_the_plan_is_its_function_on_every_architecture() {
    let kernel = gemm::gemm_gelu::kernel().unwrap();
    assert_eq!(kernel.instances().len(), 2);
    for target in ["sm_80", "sm_90a"] {
        let check = Check::new().target(target.parse().unwrap()).dtype(DType::F16).shapes(6).seed(3);
        let checked = check.run(&kernel).unwrap();
        assert!(checked.failure.is_none(), "{target}: {}", checked.failure.unwrap());
        assert!(checked.shapes["f16"] == 6 && checked.compiled >= 1, "{checked:?}");
    }
}

#[test]
fn a_fused_norm_gate_and_quantization_is_its_function() {
    let kernel = fused::fused::kernel().unwrap();
    assert_eq!(kernel.instances().len(), 3);
    for (target, dtype) in [("sm_80", DType::BF16), ("sm_90a", DType::F32)] {
        let check = Check::new().target(target.parse().unwrap()).dtype(dtype).shapes(8).seed(5);
        let checked = check.run(&kernel).unwrap();
        assert!(checked.failure.is_none(), "{target}: {}", checked.failure.unwrap());
        assert!(checked.compiled >= 1, "{checked:?}");
    }
}

#[test]
fn what_a_body_may_hold_is_what_it_says() {
    for kernel in [language::softmax::kernel(), language::stepped::kernel()] {
        let checked = Check::new().shapes(12).seed(2).run(&kernel.unwrap()).unwrap();
        assert!(checked.failure.is_none(), "{}: {}", checked.kernel, checked.failure.unwrap());
        assert!(checked.compiled >= 2 && checked.left_out.is_empty(), "{checked:?}");
    }
}

#[test]
fn a_model_carries_the_kernel_that_it_calls() {
    let model = Model::from(fused::gate::graph().unwrap()).with_random_weights(1).unwrap();
    let x = [("x", random(DType::F16, &[5, 64], 7))];
    let (expected, _) = run_on(&model, &[], "cpu", &x);
    for device in ["sim:sm_80", "sim:sm_90a"] {
        let (found, ran) = run_on(&model, &[], device, &x);
        assert!(ran.iter().any(|name| name.contains("fused")), "{device}: {ran:?}");
        assert!(steps_apart(&found[0], &expected[0]) <= 1.0, "{device}");
        assert!(error(&found[1], &expected[1]) < 2e-3, "{device}");
    }
}

#[test]
fn a_kernel_that_cannot_be_used_is_said_and_a_generated_one_takes_its_place() {
    let model = Model::from(gemm::huge::graph().unwrap()).with_random_weights(2).unwrap();
    let x = [("x", random(DType::F16, &[3, 64], 4))];
    let (engine, report) = EngineBuilder::new(&model).target("sm_80").unwrap().build_with_report().unwrap();
    let said = report.warnings.join("\n");
    assert!(said.contains("kernel huge_gelu: its Config bm 512 is left out on sm_80"), "{said}");
    assert!(said.contains("kernel huge_gelu is not used on sm_80"), "{said}");
    let mut session = engine.session("sim:sm_80").unwrap();
    let found = session.run(&[("x", &x[0].1)]).unwrap().remove(0).1;
    let ran = session.implementations();
    assert!(ran.iter().all(|(_, by)| !by.contains("huge")), "{ran:?}");
    let (expected, _) = run_on(&model, &[], "cpu", &x);
    assert!(error(&found, &expected[0]) < 2e-3);
}

/// The linear layer and the GELU as an export has them: three axes, a transposed weight, the error function.
fn exported() -> Graph {
    let mut b = Builder::new("exported");
    let batch = b.symbol("batch", 1, 16);
    let x = b.input("x", DType::F32, &[batch, Dim::from(7), Dim::from(48)]).unwrap();
    let w = b.weight("w", DType::F32, &[48, 80]).unwrap();
    let bias = b.weight("bias", DType::F32, &[80]).unwrap();
    let product = b.matmul(x, w).unwrap();
    let sum = b.binary(BinaryOp::Add, product, bias).unwrap();
    let y = gelu_by_parts(&mut b, sum);
    b.output("y", y);
    b.finish()
}

fn gelu_by_parts(b: &mut Builder, x: ValueId) -> ValueId {
    let dtype = b.dtype(x);
    let [root, one, half] = [std::f64::consts::SQRT_2, 1.0, 0.5].map(|v| b.scalar(dtype, v).unwrap());
    let scaled = b.div(x, root).unwrap();
    let erf = b.erf(scaled).unwrap();
    let shifted = b.binary(BinaryOp::Add, erf, one).unwrap();
    let product = b.mul(x, shifted).unwrap();
    b.mul(product, half).unwrap()
}

#[test]
fn a_model_that_never_heard_of_a_kernel_gets_it() {
    let model = Model::from(exported()).with_random_weights(3).unwrap();
    let x = [("x", random(DType::F32, &[2, 7, 48], 11))];
    let kernel = gemm::gemm_gelu::kernel().unwrap();
    // Kept engines are told apart by their kernels.
    let settings = |builder: EngineBuilder| builder.build().unwrap().settings;
    let [without, with, other] = [
        settings(EngineBuilder::new(&model)),
        settings(EngineBuilder::new(&model).kernel(kernel.clone())),
        settings(EngineBuilder::new(&model).kernel(fused::fused::kernel().unwrap())),
    ];
    assert!(without != with && with != other && without.kernels.is_empty());
    let (expected, _) = run_on(&model, &[], "cpu", &x);
    let (found, ran) = run_on(&model, &[kernel], "sim:sm_80", &x);
    assert!(ran.iter().any(|name| name.contains("gemm_gelu")), "{ran:?}");
    assert!(error(&found[0], &expected[0]) < 1e-5);
}

/// Norm, gate and quantization as an export has them: three axes, a power for the square, a root and a division, the sigmoid.
fn exported_norm() -> Graph {
    let mut b = Builder::new("exported_norm");
    let batch = b.symbol("batch", 1, 16);
    let shape = [batch, Dim::from(7), Dim::from(160)];
    let [x, up] = ["x", "up"].map(|name| b.input(name, DType::F16, &shape).unwrap());
    let scale = b.weight("scale", DType::F16, &[160]).unwrap();
    let [x, up, scale] = [x, up, scale].map(|v| b.cast(v, DType::F32).unwrap());
    let square = b.binary_scalar(BinaryOp::Pow, x, 2.0).unwrap();
    let mean = b.mean(square, &[-1], true).unwrap();
    let shifted = b.binary_scalar(BinaryOp::Add, mean, 1e-5).unwrap();
    let root = b.sqrt(shifted).unwrap();
    let normed = b.div(x, root).unwrap();
    let normed = b.mul(normed, scale).unwrap();
    let sigmoid = b.sigmoid(normed).unwrap();
    let silu = b.mul(normed, sigmoid).unwrap();
    let gated = b.mul(silu, up).unwrap();
    let size = b.abs(gated).unwrap();
    let most = b.reduce_max(size, &[-1], true).unwrap();
    let most = b.binary_scalar(BinaryOp::Max, most, 1e-12).unwrap();
    let step = b.binary_scalar(BinaryOp::Div, most, 127.0).unwrap();
    let steps = b.div(gated, step).unwrap();
    let whole = b.round(steps).unwrap();
    let q = b.cast(whole, DType::I8).unwrap();
    b.output("q", q);
    b.output("step", step);
    b.finish()
}

#[test]
fn a_norm_a_gate_and_a_quantization_by_parts_become_the_one_kernel() {
    let model = Model::from(exported_norm()).with_random_weights(5).unwrap();
    let inputs = [("x", random(DType::F16, &[3, 7, 160], 1)), ("up", random(DType::F16, &[3, 7, 160], 2))];
    let (expected, _) = run_on(&model, &[], "cpu", &inputs);
    let (found, ran) = run_on(&model, &[fused::fused::kernel().unwrap()], "sim:sm_80", &inputs);
    assert!(ran.len() == 1 && ran[0].contains("fused"), "{ran:?}");
    assert!(steps_apart(&found[0], &expected[0]) <= 1.0);
    assert!(error(&found[1], &expected[1]) < 1e-5);
}

/// The greatest difference of integers.
fn steps_apart(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
    assert!(expected.to_f64_vec().iter().any(|e| e.abs() > 100.0));
    found.to_f64_vec().iter().zip(expected.to_f64_vec()).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max)
}

#[test]
fn what_is_exported_reads_back_and_builds_the_same_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.tile");
    let kernel = fused::fused::kernel().unwrap();
    kiln::export(&path, std::slice::from_ref(&kernel)).unwrap();
    let read = kiln::kernels::load(&path).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].name(), kernel.name());
    for (a, b) in read[0].instances().iter().zip(kernel.instances()) {
        assert_eq!((&a.function, &a.candidates), (&b.function, &b.candidates));
    }
    // The command line reads it too, and says what is in it and whether it is right.
    let kiln = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_kiln")).arg("kernel").args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let file = path.to_str().unwrap();
    let (code, listed) = kiln(&["list", "--kernels", file]);
    assert!(code == Some(0) && listed.contains("fused") && listed.contains("bf16"), "{listed}");
    let (code, checked) = kiln(&["check", "--kernels", file, "--dtype", "f16", "--shapes", "3", "--json"]);
    assert_eq!(code, Some(0), "{checked}");
    assert!(serde_json::from_str::<serde_json::Value>(&checked).unwrap()[0]["shapes"]["f16"] == 3, "{checked}");
}

/// A file of kernels whose text is changed.
fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

#[test]
fn a_kernel_that_is_not_its_function_is_found_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.tile");
    kiln::export(&path, &[fused::fused::kernel().unwrap()]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    // Truncates where it should round.
    let wrong = text.replace("round(", "trunc(");
    assert_ne!(wrong, text);
    std::fs::write(&path, wrong).unwrap();
    let kernel = kiln::kernels::load(&path).unwrap().remove(0);
    let checked = Check::new().dtype(DType::F16).shapes(4).seed(1).run(&kernel).unwrap();
    let failure = checked.failure.unwrap().to_string();
    assert!(
        failure.contains("tile interpreter") && failure.contains("M=") && failure.contains("output 0 at ["),
        "{failure}"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(["kernel", "check", "--kernels", path.to_str().unwrap(), "--shapes", "2"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn files_that_are_none_of_kernels_are_refused_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k.tile");
    kiln::export(&path, &[fused::fused::kernel().unwrap()]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let cut = &text[..text.len() / 2];
    let last = text.rfind("== end").unwrap();
    let second = text.replacen("== function", "== kernel fused\n== function", 2);
    for (wrong, expected) in [
        (String::new(), "expected `kiln kernels 1`"),
        ("kiln kernels 2\n".into(), "version 2, expected 1"),
        ("kiln kernels 1\nhello\n== kernel x\n".into(), "expected a section"),
        ("kiln kernels 1\n".into(), "there is no kernel"),
        (cut.into(), "lost its end"),
        (text[..last].into(), "lost its end"),
        (second, "a second kernel is called `fused`"),
        (changed(&text, "== kernel fused", "== kernel 7up"), "no identifier"),
        (changed(&text, "== config {", "== config {{"), "the Config"),
        (changed(&text, "== config", "== konfig"), "no section is called `konfig`"),
        (changed(&text, "level tile", "level moon"), "column"),
        (changed(&text, "i8[M, N]", "i16[M, N]"), "declared i16[M, N]"),
        (changed(&text, "param M", "param Q"), "line"),
    ] {
        std::fs::write(&path, &wrong).unwrap();
        let error = kiln::kernels::load(&path).unwrap_err().to_string();
        assert!(error.contains("line ") && error.contains(expected), "{expected}: {error}");
    }
    // What is no text is no panic either.
    std::fs::write(&path, [0xffu8, 0xfe, 0x00]).unwrap();
    assert!(kiln::kernels::load(&path).is_err());
}

#[test]
fn a_config_is_plain_numbers_in_an_order() {
    use kiln::Config;
    let space = gemm::Tiles::space();
    assert_eq!(space.len(), 12);
    assert!(space.iter().all(|tiles| tiles.fits()));
    assert!(space.is_sorted());
    let json = serde_json::to_string(&space[0]).unwrap();
    assert_eq!(json, r#"{"bm":64,"bn":64,"bk":32,"stages":2}"#);
    assert_eq!(serde_json::from_str::<gemm::Tiles>(&json).unwrap(), space[0]);
    assert_eq!(space[0].to_string(), "bm 64, bn 64, bk 32, stages 2");
    assert!(serde_json::from_str::<gemm::Tiles>(r#"{"bm":64,"bn":64,"bk":32,"stages":2,"more":1}"#).is_err());
}
