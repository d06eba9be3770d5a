//! ONNX bytes to a graph.

mod common;
#[path = "../tests/files_cli/onnx.rs"]
mod onnx;

use bytes::Bytes;
use common::Fail;
use criterion::{BatchSize, Throughput};
use kiln::import::onnx::{Options, import_bytes};
use std::hint::black_box;

/// A chain of layers, each a product and an activation as exporters write them.
fn model(layers: usize) -> Bytes {
    let ops: [(&str, &[&str]); 6] = [
        ("MatMul", &["", "w"]),
        ("Mul", &["", "scale"]),
        ("Add", &["", "bias"]),
        ("Sigmoid", &[""]),
        ("Add", &["", "w"]),
        ("Softmax", &[""]),
    ];
    let names: Vec<String> = (0..=layers * ops.len()).map(|i| format!("x{i}")).collect();
    // An op's first operand is the result before it.
    let chained = |i: usize| -> Vec<&str> {
        ops[i % ops.len()].1.iter().map(|input| if input.is_empty() { names[i].as_str() } else { input }).collect()
    };
    let inputs: Vec<Vec<&str>> = (0..layers * ops.len()).map(chained).collect();
    let nodes: Vec<(&str, &[&str], &str)> = inputs
        .iter()
        .enumerate()
        .map(|(i, from)| (ops[i % ops.len()].0, from.as_slice(), names[i + 1].as_str()))
        .collect();
    let shape: &[&str] = &["64", "64"];
    let constants = [("scale", 0.125), ("bias", 0.5)];
    let result = names.last().map_or("", String::as_str);
    Bytes::from(onnx::model(&[("x0", shape), ("w", shape)], &constants, &nodes, &[(result, shape)]))
}

fn main() -> Result<(), Fail> {
    common::run(|criterion| {
        let mut group = criterion.benchmark_group("import");
        for layers in [8, 64] {
            let model = model(layers);
            let nodes = import_bytes(model.clone(), &Options::default())?.nodes.len();
            group.throughput(Throughput::Elements(nodes as u64));
            group.bench_function(format!("onnx, {layers} layers"), |b| {
                let import = |bytes| import_bytes(bytes, &Options::default());
                b.iter_batched(|| model.clone(), |bytes| black_box(import(bytes)), BatchSize::SmallInput);
            });
        }
        group.finish();
        Ok(())
    })
}
