//! A graph to a plan: e-graph, saturation, cuts, selection.

mod common;
#[path = "../crates/kiln-fuse/tests/common/large.rs"]
mod large;

use common::Fail;
use criterion::SamplingMode;
use kiln::fuse::{Options, Pattern, fuse};
use kiln::graph::{Builder, DType, Graph};
use std::hint::black_box;
use std::sync::Arc;

fn main() -> Result<(), Fail> {
    common::run(|criterion| {
        let mut group = criterion.benchmark_group("fusion");
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        for graph in [common::one_kernel()?, common::encoder(1)?, common::encoder(4)?, common::convnet(4)?] {
            for target in ["cpu", "sm_90a"] {
                let options = Options::new(target.parse()?);
                fuse(&graph, &options)?;
                let name = format!("{}, {target}", graph.name);
                group.bench_function(name, |b| b.iter(|| black_box(fuse(black_box(&graph), &options))));
            }
        }
        // A layer more should take what a layer takes.
        let deep = [8, 16, 32, 64].map(large::llama);
        for graph in deep.into_iter().chain([large::unet(3)]) {
            let options = Options::new("sm_90a".parse()?);
            let fused = fuse(&graph, &options)?;
            let (ops, distinct) = (fused.report.ops, fused.report.distinct);
            let stages: Vec<String> = fused.report.stages.iter().map(|(name, s)| format!("{name} {s:.3} s")).collect();
            println!("{}: {ops} ops, {distinct} distinct regions; {}", graph.name, stages.join(", "));
            group.bench_function(&graph.name, |b| b.iter(|| black_box(fuse(black_box(&graph), &options))));
        }
        // Looking for a function costs what this takes beyond the same without.
        let graph = common::encoder(4)?;
        let patterns = vec![Arc::new(Pattern::new("linear_gelu", &linear_gelu()?)?)];
        let options = Options { patterns, ..Options::new("sm_90a".parse()?) };
        let name = format!("{} with a kernel's function, sm_90a", graph.name);
        group.bench_function(name, |b| b.iter(|| black_box(fuse(black_box(&graph), &options))));
        group.finish();
        Ok(())
    })
}

/// `gelu(x w' + b)`.
fn linear_gelu() -> Result<Graph, Fail> {
    let mut b = Builder::new("linear_gelu");
    let [m, k, n] = ["M", "K", "N"].map(|s| b.symbol(s, 1, 1 << 20));
    let x = b.input("x", DType::F32, &[m, k.clone()])?;
    let w = b.input("w", DType::F32, &[n.clone(), k])?;
    let bias = b.input("b", DType::F32, &[n])?;
    let y = b.linear(x, w, Some(bias), true)?;
    let y = b.gelu(y)?;
    b.output("y", y);
    Ok(b.finish())
}
