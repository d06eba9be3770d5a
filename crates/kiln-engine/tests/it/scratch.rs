//! Scratch of GPU kernels: bytes that an implementation asks for by the model's symbols, shared by its kernels for one launch.

use crate::models::{engine_at, home};
use bytes::Bytes;
use kiln_cuda::{CompileRequest, Compiler, Nvrtc};
use kiln_engine::{Engine, Image, Session, open_device};
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, Tensor, interpret};
use kiln_kernels::{Implementation, Kernel, Launch, Param};

/// Two outputs of one input: row sums, and squares, which the kernels below compute by way of scratch.
fn graph() -> Graph {
    let mut b = Builder::new("scratch");
    let rows = b.symbol("N", 1, 64);
    let x = b.input("x", DType::F32, &[rows, 40.into()]).unwrap();
    let sums = b.reduce(kiln_graph::ReduceOp::Sum, x, &[1], false).unwrap();
    let squares = b.binary(BinaryOp::Mul, x, x).unwrap();
    b.output("sums", sums);
    b.output("squares", squares);
    b.finish()
}

/// The first kernel writes all of the scratch, the second reads it in another order than it was written.
const SOURCE: [(&str, &str); 2] = [
    (
        "fill_",
        "extern \"C\" __global__ void fill_(const float* x, float* scratch, int n) {
            for (int i = threadIdx.x; i < n; i += 64) { scratch[i] = x[n - 1 - i]; scratch[n + i] = -x[i]; }
        }",
    ),
    (
        "square_",
        "extern \"C\" __global__ void square_(float* y, const float* scratch, int n) {
            for (int i = threadIdx.x; i < n; i += 64) y[i] = -scratch[n - 1 - i] * scratch[n + i];
        }",
    ),
];

/// Puts the two kernels in the place of the squares' own.
fn with_scratch(mut engine: Engine, bytes: Dim) -> Engine {
    let image = &mut engine.targets[0];
    let squares = image.plan.regions.iter().position(|r| !matches!(r.anchor, kiln_fuse::Anchor::Reduce)).unwrap();
    let squares = image.plan.regions[squares].identity();
    let elements = Dim::from("s0") * 40.into();
    let kernel = |(entry, source): (&str, &str), first: Param| Kernel {
        entry: entry.to_owned(),
        source: source.to_owned(),
        launch: Launch {
            grid: [1.into(), 1.into(), 1.into()],
            block: [64, 1, 1],
            dynamic_shared: 0,
            params: vec![first, Param::Scratch, Param::I32(elements.clone())],
        },
        checks: Vec::new(),
    };
    let kernels = vec![kernel(SOURCE[0], Param::Input(0)), kernel(SOURCE[1], Param::Output(0))];
    let compiler = Compiler::new(&Nvrtc::discover(&home()).unwrap());
    let images = kernels.iter().map(|kernel| {
        let request = CompileRequest {
            name: kernel.entry.clone(),
            source: kernel.source.clone(),
            arch: "sm_80".to_owned(),
            options: Vec::new(),
            line_info: true,
        };
        let made = compiler.compile(&request).unwrap();
        Image { cubin: Bytes::from(made.cubin), ptx: Bytes::from(made.ptx), resources: Default::default() }
    });
    let compiled = image.kernels.get_mut(&squares).unwrap();
    compiled.images = images.collect();
    compiled.implementation =
        Implementation { family: "test".into(), config: serde_json::Value::Null, kernels, scratch_bytes: bytes };
    engine
}

#[test]
fn kernels_share_scratch_that_overlaps_nothing_alive() {
    let graph = graph();
    let engine = engine_at(&graph, &["sm_80"], home());
    assert!(engine.targets[0].plan.regions.len() >= 2, "{}", engine.targets[0].plan);
    let plain = {
        let mut session = Session::new(&engine, open_device("sim:sm_80").unwrap()).unwrap();
        session.run(&[("x", &Tensor::random(DType::F32, &[33, 40], 1).unwrap())]).unwrap();
        session.memory().arena
    };
    let engine = with_scratch(engine, Dim::from("s0") * 320.into());
    // It is kept in the file.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scratch.kiln");
    engine.save(&path).unwrap();
    let engine = kiln_engine::Engine::load(&path).unwrap();
    let mut session = Session::new(&engine, open_device("sim:sm_80").unwrap()).unwrap();
    for rows in [3, 33, 1] {
        let x = Tensor::random(DType::F32, &[rows, 40], rows as u64).unwrap();
        let expected = interpret(&graph, std::slice::from_ref(&x)).unwrap();
        session.poison(0xcb).unwrap();
        let found = session.run(&[("x", &x)]).unwrap();
        for (e, (name, f)) in expected.iter().zip(&found) {
            let d = kiln_engine::Tolerance { rtol: 1e-5, atol: 1e-5 }.compare(e, f);
            assert!(d.agrees(), "{rows} rows, {name}: {d}");
        }
    }
    assert!(session.memory().arena >= plain + 33 * 320, "{:?}, without scratch {plain}", session.memory());
}

#[test]
fn kernels_that_use_scratch_without_asking_are_refused() {
    let engine = with_scratch(engine_at(&graph(), &["sm_80"], home()), 0.into());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scratch.kiln");
    engine.save(&path).unwrap();
    let error = kiln_engine::Engine::load(&path).unwrap_err().to_string();
    assert!(error.contains("takes Scratch, which the region lacks"), "{error}");
    // Nor does one that was never in a file touch what is not its own.
    let mut session = Session::new(&engine, open_device("sim:sm_80").unwrap()).unwrap();
    let error = session.run(&[("x", &Tensor::random(DType::F32, &[3, 40], 1).unwrap())]).unwrap_err().to_string();
    assert!(error.contains("`fill_`"), "{error}");
}
