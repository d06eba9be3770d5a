//! Scratch of GPU kernels: bytes that an implementation asks for by the model's symbols, shared by its kernels for one launch.

use crate::models::{engine_at, home};
use crate::own::{blocks, kernel, made, reloaded, replaced};
use kiln_engine::{Engine, Session, open_device};
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, Tensor, interpret};
use kiln_kernels::{Guard, Implementation, Param};

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
fn with_scratch(engine: Engine, bytes: Dim) -> Engine {
    let regions = &engine.targets[0].plan.regions;
    let squares = regions.iter().position(|r| !matches!(r.anchor, kiln_fuse::Anchor::Reduce)).unwrap();
    let elements = Dim::from("s0") * 40.into();
    let kernel = |(entry, source): (&str, &str), first: Param| {
        kernel(entry, source, blocks(1), vec![first, Param::Scratch, Param::I32(elements.clone())])
    };
    let kernels = vec![kernel(SOURCE[0], Param::Input(0)), kernel(SOURCE[1], Param::Output(0))];
    let made = Implementation { scratch_bytes: bytes, ..made(kernels) };
    replaced(engine, squares, vec![(Guard::always(), made)])
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
    let engine = reloaded(&engine).unwrap();
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
    let error = reloaded(&engine).unwrap_err().to_string();
    assert!(error.contains("takes Scratch, which the region lacks"), "{error}");
    // Nor does one that was never in a file touch what is not its own.
    let mut session = Session::new(&engine, open_device("sim:sm_80").unwrap()).unwrap();
    let error = session.run(&[("x", &Tensor::random(DType::F32, &[3, 40], 1).unwrap())]).unwrap_err().to_string();
    assert!(error.contains("`fill_`"), "{error}");
}
