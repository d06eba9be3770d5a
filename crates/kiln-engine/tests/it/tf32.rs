//! Products of f32 whose operands GPUs may round to TF32.

use crate::models::home;
use kiln_cuda::Home;
use kiln_engine::{BuildOptions, Engine, Kept, Session, build, open_device};
use kiln_graph::{Builder, DType, Dim, Graph, Tensor};

/// Two layers of f32.
fn layers() -> Graph {
    let mut b = Builder::new("layers");
    let x = b.input("x", DType::F32, &["N".into(), Dim::from(96)]).unwrap();
    let [w, v] = [("w", [64, 96]), ("v", [48, 64])].map(|(name, shape)| {
        let weight = Tensor::random(DType::F32, &shape, shape[0] as u64).unwrap();
        b.weight_data(name, weight).unwrap()
    });
    let h = b.linear(x, w, None, true).unwrap();
    let h = b.relu(h).unwrap();
    let y = b.linear(h, v, None, true).unwrap();
    b.output("y", y);
    b.finish()
}

fn options(tf32: bool, home: Home) -> BuildOptions {
    let targets = ["cpu", "sm_75", "sm_80"].map(|target| target.parse().unwrap()).to_vec();
    BuildOptions { targets, tf32, ..BuildOptions::new(home) }
}

fn run(engine: &Engine, device: &str, x: &Tensor) -> Vec<f64> {
    let mut session = Session::new(engine, open_device(device).unwrap()).unwrap();
    session.run(&[("x", x)]).unwrap().remove(0).1.to_f64_vec()
}

#[test]
fn it_changes_products_where_tensor_cores_round_and_nothing_else() {
    let (graph, x) = (layers(), Tensor::random(DType::F32, &[40, 96], 5).unwrap());
    let [exact, rounded] = [false, true].map(|tf32| build(&graph, &options(tf32, home()), &|_| {}).unwrap().0);
    assert!(!exact.settings.tf32 && rounded.settings.tf32);
    for device in ["cpu:2", "sim:sm_75:fast"] {
        assert_eq!(run(&exact, device, &x), run(&rounded, device, &x), "{device}");
    }
    let wanted = run(&exact, "cpu:2", &x);
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let off = |engine| {
        let found = run(engine, "sim:sm_80:fast", &x);
        norm(&found.iter().zip(&wanted).map(|(f, e)| f - e).collect::<Vec<_>>()) / norm(&wanted)
    };
    // Two products one after the other, each of two operands that are off by 2^-11 at most.
    let (exact, rounded) = (off(&exact), off(&rounded));
    assert!(exact < 1e-6, "{exact:e}");
    assert!((1e-5..4.0 / 2048.0).contains(&rounded), "{rounded:e}");
}

#[test]
fn an_engine_that_is_kept_is_not_taken_for_one_that_rounds() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = |tf32| {
        let targets = vec!["cpu".parse().unwrap()];
        BuildOptions { targets, ..options(tf32, Home::at(folder.path())) }
    };
    let graph = layers();
    let kept = |tf32| Kept::new(&graph, &cpu(tf32).targets[0], &cpu(tf32)).unwrap();
    let (engine, _) = build(&graph, &cpu(true), &|_| {}).unwrap();
    kept(true).store(&engine).unwrap();
    assert!(kept(true).find().unwrap().is_some_and(|found| found.settings.tf32));
    assert!(kept(false).find().unwrap().is_none());
    // The setting is in the file.
    assert!(engine.check(&engine.graph_hash, &cpu(false).settings(), "cpu").is_err());
}
