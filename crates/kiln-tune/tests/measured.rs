//! Measuring on a device, here the simulator, whose times are its own: what is timed, and what is refused.

use kiln_cuda::{Compiler, CubinCache, Home, Nvrtc};
use kiln_engine::{BuildOptions, Device, Engine, Session, build, open_device};
use kiln_graph::{Builder, ConvSpec, DType, Dim, Graph, Tensor};
use kiln_target::{Gpu, Target};
use kiln_tune::{Error, OnDevice, Options, Rotating, Timings, Tuning, tune};
use std::time::Duration;

const DEVICE: &str = "sim:sm_80:fast";

/// A softmax of few rows.
fn graph() -> Graph {
    let mut b = Builder::new("rows");
    let x = b.input("x", DType::F16, &[Dim::from(12), Dim::from(200)]).unwrap();
    let y = b.softmax(x, -1).unwrap();
    b.output("y", y);
    b.finish()
}

/// An embedding, products of two kinds, a softmax, a convolution and an attention, all small.
fn kinds() -> Graph {
    let mut b = Builder::new("kinds");
    let input = |b: &mut Builder, name: &str, dtype, shape: &[Dim]| b.input(name, dtype, shape).unwrap();
    let rows = input(&mut b, "rows", DType::I64, &[Dim::from("N")]);
    let table = input(&mut b, "table", DType::F16, &[100, 64].map(Dim::from));
    let w = input(&mut b, "w", DType::F16, &[64, 64].map(Dim::from));
    let image = input(&mut b, "image", DType::F16, &[1, 8, 12, 12].map(Dim::from));
    let kernel = input(&mut b, "kernel", DType::F16, &[16, 8, 3, 3].map(Dim::from));
    let bytes = input(&mut b, "bytes", DType::I8, &[32, 64].map(Dim::from));
    let heads = input(&mut b, "heads", DType::F16, &[2, 32, 64].map(Dim::from));
    let embedded = b.gather(table, rows, 0).unwrap();
    let product = b.einsum("mk,nk->mn", &[embedded, w]).unwrap();
    let softmax = b.softmax(product, -1).unwrap();
    let root = b.sqrt(softmax).unwrap();
    let spec = ConvSpec { strides: vec![1; 2], pads: vec![(1, 1); 2], dilations: vec![1; 2], groups: 1 };
    let conv = b.conv(image, kernel, None, spec).unwrap();
    let exact = b.einsum("mk,nk->mn", &[bytes, bytes]).unwrap();
    let scores = b.einsum("hqd,hkd->hqk", &[heads, heads]).unwrap();
    let weights = b.softmax(scores, -1).unwrap();
    let attention = b.einsum("hqk,hkd->hqd", &[weights, heads]).unwrap();
    for (name, value) in [("root", root), ("conv", conv), ("exact", exact), ("attention", attention)] {
        b.output(name, value);
    }
    b.finish()
}

fn engine() -> Engine {
    engine_of(&graph())
}

fn engine_of(graph: &Graph) -> Engine {
    let targets = vec![Target::Gpu(Gpu::typical("sm_80".parse().unwrap()).unwrap())];
    let options = BuildOptions { targets, ..BuildOptions::new(Home::from_env().unwrap()) };
    build(graph, &options, &|_| {}).unwrap().0
}

fn compiler() -> Compiler {
    let home = Home::from_env().unwrap();
    Compiler::new(&Nvrtc::discover(&home).unwrap()).with_cache(CubinCache::in_home(&home))
}

#[test]
fn candidates_are_checked_before_they_are_timed() {
    let mut engine = engine();
    let (id, compiled) = engine.targets[0].kernels.iter_mut().next().unwrap();
    let id = *id;
    // What the engine has is somebody's own kernel, and wrong: its last CTA leaves out what it should write.
    let wrong = &mut compiled.variants[0].implementation;
    wrong.family = "kernel wrong".into();
    let kernel = &mut wrong.kernels[0];
    let body = kernel.source.rfind("__global__").unwrap();
    let open = body + kernel.source[body..].find('{').unwrap();
    kernel.source.insert_str(open + 1, "\n  if (blockIdx.x == gridDim.x - 1) return;\n");
    let gpu = Gpu::typical("sm_80".parse().unwrap()).unwrap();
    let compiler = compiler();
    let nvrtc = compiler.nvrtc().release().to_owned();
    let mut device = OnDevice::new(DEVICE, 64 << 10, compiler).unwrap();
    let search = Options { first: 4, least: 4, most: 4, ..Options::default() };
    let tuning = Tuning { budget: Duration::from_secs(600), search, ..Tuning::default() };
    let found = tune(&mut engine, &gpu, &nvrtc, &mut device, &tuning, &mut |_| {}).unwrap();
    let [region] = &found.regions[..] else { panic!("{found:?}") };
    assert_eq!((region.present, region.failure.as_deref()), (0, None));
    let why = region.candidates[0].invalid.as_deref().unwrap();
    assert!(why.contains("it computes something else"), "{why}");
    let timed = region.candidates.iter().filter(|row| row.samples > 0).count();
    assert!(timed >= 2 && region.chosen > 0, "{region:?}");
    // The wrong one is gone, and what took its place is right.
    assert_ne!(engine.targets[0].kernels[&id].variants[0].implementation.family, "kernel wrong");
    let x = Tensor::random(DType::F16, &[12, 200], 5).unwrap();
    let expected = kiln_graph::interpret(&graph(), std::slice::from_ref(&x)).unwrap();
    let given = Session::new(&engine, open_device(DEVICE).unwrap()).unwrap().run(&[("x", &x)]).unwrap();
    let pairs = expected[0].to_f64_vec().into_iter().zip(given[0].1.to_f64_vec());
    assert!(pairs.map(|(e, g)| (e - g).abs()).fold(0.0, f64::max) < 1e-4);
}

/// Products whose depth is in parts have them in scratch: as much as they write, for each part.
#[test]
fn candidates_that_memory_does_not_hold_are_left_out_this_time() {
    let mut b = Builder::new("deep");
    let x = b.input("x", DType::F16, &[16, 1024].map(Dim::from)).unwrap();
    let w = b.input("w", DType::F16, &[32, 1024].map(Dim::from)).unwrap();
    let y = b.einsum("mk,nk->mn", &[x, w]).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let operands = 2 * (16 * 1024 + 32 * 1024 + 16 * 32);
    let gpu = Gpu::typical("sm_80".parse().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    for (memory, all) in [(operands + 512, false), (2 * operands, true)] {
        let mut engine = engine_of(&graph);
        let compiler = compiler();
        let nvrtc = compiler.nvrtc().release().to_owned();
        let mut device = OnDevice::new(DEVICE, memory, compiler).unwrap();
        let search = Options { first: 24, least: 24, most: 24, share: 1.0, ..Options::default() };
        let tuning = Tuning {
            budget: Duration::from_secs(600),
            search,
            timings: Some(Timings::file(&path)),
            ..Tuning::default()
        };
        let found = tune(&mut engine, &gpu, &nvrtc, &mut device, &tuning, &mut |_| {}).unwrap();
        let left_out = found.regions[0].candidates.iter().filter_map(|row| row.invalid.as_ref());
        let left_out: Vec<&String> = left_out.collect();
        assert_eq!(left_out.is_empty(), all, "{found:?}");
        assert!(left_out.iter().all(|why| why.contains("beside its operands")), "{left_out:?}");
    }
}

#[test]
fn regions_of_every_kind_have_data_and_right_candidates() {
    let mut engine = engine_of(&kinds());
    let compiler = compiler();
    let nvrtc = compiler.nvrtc().release().to_owned();
    let gpu = Gpu::typical("sm_80".parse().unwrap()).unwrap();
    let mut device = OnDevice::new(DEVICE, 192 << 10, compiler).unwrap();
    let search = Options { first: 2, least: 2, most: 2, ..Options::default() };
    let tuning = Tuning { budget: Duration::from_secs(600), search, ..Tuning::default() };
    let found = tune(&mut engine, &gpu, &nvrtc, &mut device, &tuning, &mut |_| {}).unwrap();
    assert_eq!(found.regions.len(), 6);
    for region in &found.regions {
        assert!(region.failure.is_none() && region.tried() == 2, "{region:?}");
        assert!(region.candidates.iter().all(|row| row.invalid.is_none()), "{region:?}");
    }
}

#[test]
fn a_region_that_memory_does_not_hold_is_left_alone() {
    let mut engine = engine();
    let compiler = compiler();
    let nvrtc = compiler.nvrtc().release().to_owned();
    let mut device = OnDevice::new(DEVICE, 6 << 10, compiler).unwrap();
    let gpu = Gpu::typical("sm_80".parse().unwrap()).unwrap();
    let found = tune(&mut engine, &gpu, &nvrtc, &mut device, &Tuning::default(), &mut |_| {}).unwrap();
    assert!(found.regions[0].failure.as_deref().unwrap().contains("take 9600 bytes, and at most 6144"), "{found:?}");
}

#[test]
fn samples_run_over_copies_and_leave_a_session_as_it_was() {
    let timer = Rotating::within(open_device(DEVICE).unwrap(), 64 << 10);
    let mut session = Session::new(&engine(), Box::new(timer.clone())).unwrap();
    let x = Tensor::random(DType::F16, &[12, 200], 5).unwrap();
    assert!(timer.sample().unwrap().is_none());
    let before = session.run(&[("x", &x)]).unwrap();
    let shape = timer.shape().unwrap();
    // Operands and flush within 64 KiB.
    assert!((2..=6).contains(&shape.sets) && shape.runs >= shape.sets, "{} {}", shape.sets, shape.runs);
    assert!(timer.sample().unwrap().unwrap() > 0.0);
    let after = session.run(&[("x", &x)]).unwrap();
    assert_eq!(before[0].1.data(), after[0].1.data());
    assert!(before[0].1.to_f64_vec().iter().all(|v| *v > 0.0));
    assert_eq!(timer.target(), "sm_80");
}

#[test]
fn devices_without_a_clock_are_refused() {
    for device in ["cpu", DEVICE] {
        let e = OnDevice::gpu(device).unwrap_err();
        assert!(matches!(e, Error::Untimed { .. }), "{e}");
        assert!(e.to_string().contains("tune on a GPU, `--device cuda:0`"), "{e}");
    }
}
