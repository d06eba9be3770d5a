//! `#[kiln::model]` end to end: what it builds computes what the model says.

use kiln::graph::{DType, Graph};

struct Config {
    hidden: usize,
    layers: usize,
}

#[kiln::model]
fn block<B>(x: Tensor<f32, B, { cfg.hidden }>, cfg: &Config, i: usize) -> Tensor<f32, B, { cfg.hidden }> {
    let w = weight!("block.{i}.weight", f32, [cfg.hidden, cfg.hidden]);
    let h = x.linear(w).relu();
    h
}

/// A residual MLP.
#[kiln::model]
fn mlp<B>(x: Tensor<f32, B, 6>, cfg: &Config) -> Tensor<f32, B, 3> {
    let mut h = x.linear(weight!("in.weight", f32, [cfg.hidden, 6]), weight!("in.bias", f32, [cfg.hidden]));
    for i in 0..cfg.layers {
        h = h + block(h, cfg, i) * 0.5;
    }
    let logits = h.linear(weight!("out.weight", f32, [3, cfg.hidden]));
    logits
}

fn weights(graph: &Graph) -> Vec<String> {
    let ops = graph.nodes.iter().map(|n| &n.op);
    ops.filter_map(|op| match op {
        kiln::graph::Op::Weight { name, ty } => Some(format!("{name}: {ty}")),
        _ => None,
    })
    .collect()
}

#[test]
fn a_model_has_its_signature_and_its_weights() {
    let graph = mlp::graph(&Config { hidden: 5, layers: 2 }).unwrap();
    assert_eq!(graph.name, "mlp");
    assert_eq!(graph.ty(graph.inputs[0]).to_string(), "f32[B, 6]");
    let (name, output) = &graph.outputs[0];
    assert_eq!((name.as_str(), graph.ty(*output).to_string().as_str()), ("logits", "f32[B, 3]"));
    assert_eq!(graph.ty(*output).dtype, DType::F32);
    assert_eq!(
        weights(&graph),
        [
            "in.weight: f32[5, 6]",
            "in.bias: f32[5]",
            "block.0.weight: f32[5, 5]",
            "block.1.weight: f32[5, 5]",
            "out.weight: f32[3, 5]"
        ]
    );
    assert!(graph.constraints.is_empty(), "{:?}", graph.constraints);
}
