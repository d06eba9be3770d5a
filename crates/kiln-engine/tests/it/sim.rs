//! The kernels that ship, executed: engines for GPUs on the simulator with every check on.

use crate::models::{block, convnet, engine_at, half_block, home, residual_net, self_attention};
use kiln_engine::{Engine, Session, Tolerance, open_device};
use kiln_graph::{Builder, DType, Graph, Op, Tensor, interpret};

fn on_every_architecture(graph: &Graph, name: &str, dtype: DType, shapes: &[&[usize]], tolerance: Tolerance) {
    let targets = ["sm_75", "sm_80", "sm_89", "sm_90a"];
    let engine = engine_at(graph, &targets, home());
    for target in targets {
        let mut session = Session::new(&engine, open_device(&format!("sim:{target}")).unwrap()).unwrap();
        for (i, shape) in shapes.iter().enumerate() {
            let x = Tensor::random(dtype, shape, 60 + i as u64).unwrap();
            let expected = interpret(graph, std::slice::from_ref(&x)).unwrap();
            session.poison(0xcb).unwrap();
            // A finding of any check is an error here.
            for (e, (name, f)) in expected.iter().zip(session.run(&[(name, &x)]).unwrap()) {
                let d = tolerance.compare(e, &f);
                assert!(d.agrees(), "{target} {shape:?} {name}: {d}");
            }
        }
    }
}

#[test]
fn a_transformer_block_runs_clean_and_right() {
    on_every_architecture(
        &block(),
        "x",
        DType::F32,
        &[&[1, 1, 24], &[2, 17, 24]],
        Tolerance { rtol: 1e-4, atol: 1e-5 },
    );
}

#[test]
fn a_half_precision_block_runs_clean_and_right() {
    // Values are of order 1 and each is rounded to f16 (2^-11) a handful of times on the way.
    let tolerance = Tolerance { rtol: 1e-2, atol: 1e-2 };
    on_every_architecture(&half_block(), "x", DType::F16, &[&[3, 64], &[33, 64]], tolerance);
}

#[test]
fn attention_is_one_kernel_where_tensor_cores_have_the_type() {
    for (dtype, oldest) in [(DType::F16, "sm_75"), (DType::BF16, "sm_80")] {
        let graph = self_attention(dtype);
        let engine = engine_at(&graph, &["sm_90a", "sm_75", "cpu", "sm_80"], home());
        for image in &engine.targets {
            let regions = image.plan.regions.iter().filter(|r| r.anchor == kiln_fuse::Anchor::Attention).count();
            let expected = image.target != "cpu" && !(oldest == "sm_80" && image.target == "sm_75");
            assert_eq!(regions, usize::from(expected), "{dtype} {}", image.target);
        }
        // Products of values rounded to a part in 2^11 or 2^8, of order 1, a few times in a row.
        let bound = if dtype == DType::F16 { 1e-2 } else { 6e-2 };
        on_every_architecture(&graph, "x", dtype, &[&[1, 1, 64], &[2, 37, 64]], Tolerance { rtol: bound, atol: bound });
    }
}

#[test]
fn a_convolutional_net_runs_clean_and_right() {
    let tolerance = Tolerance { rtol: 1e-4, atol: 1e-5 };
    on_every_architecture(&convnet(), "image", DType::F32, &[&[1, 3, 5, 5], &[1, 3, 11, 14]], tolerance);
}

/// Channels are last inside, whatever the model has at its border.
#[test]
fn a_residual_net_runs_with_channels_last() {
    let graph = residual_net();
    let engine = engine_at(&graph, &["sm_75", "sm_80", "sm_90a"], home());
    for image in &engine.targets {
        let convolutions = image.plan.regions.iter().filter(|r| r.anchor == kiln_fuse::Anchor::Conv);
        let last = convolutions.filter(|r| r.graph.nodes.iter().any(|n| matches!(n.op, Op::Permute { .. })));
        assert!(last.count() >= 3, "{}: {}", image.target, image.plan);
    }
    // Values of order 1 are rounded to f16 after each layer.
    let tolerance = Tolerance { rtol: 1e-2, atol: 1e-2 };
    on_every_architecture(&graph, "image", DType::F16, &[&[1, 3, 11, 14], &[3, 3, 11, 14]], tolerance);
}

/// A row that no CTA holds: the CTAs of a cluster share it, where there are clusters, out of the engine's file too.
#[test]
fn a_softmax_of_long_rows_runs_in_clusters() {
    let mut b = Builder::new("long");
    let rows = b.symbol("N", 1, 4);
    let x = b.input("x", DType::F32, &[rows, 20001.into()]).unwrap();
    let y = b.softmax(x, -1).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let engine = engine_at(&graph, &["sm_89", "sm_90a"], home());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.kiln");
    engine.save(&path).unwrap();
    let engine = Engine::load(&path).unwrap();
    for (image, target) in engine.targets.iter().zip(["sm_89", "sm_90a"]) {
        let clustered =
            image.kernels.values().flat_map(|made| made.kernels()).any(|(_, kernel, _)| kernel.launch.clustered());
        assert_eq!(clustered, target == "sm_90a", "{target}");
        let mut session = Session::new(&engine, open_device(&format!("sim:{target}")).unwrap()).unwrap();
        for n in [1, 3] {
            let x = Tensor::random(DType::F32, &[n, 20001], 70).unwrap();
            let expected = interpret(&graph, std::slice::from_ref(&x)).unwrap();
            session.poison(0xcb).unwrap();
            let found = session.run(&[("x", &x)]).unwrap();
            let d = Tolerance { rtol: 1e-4, atol: 1e-9 }.compare(&expected[0], &found[0].1);
            assert!(d.agrees(), "{target} {n} rows: {d}");
        }
    }
}
