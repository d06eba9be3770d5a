//! A graph to a plan: e-graph, saturation, cuts, selection.

mod common;

use common::Fail;
use criterion::SamplingMode;
use kiln::fuse::{Options, fuse};
use std::hint::black_box;

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
        group.finish();
        Ok(())
    })
}
