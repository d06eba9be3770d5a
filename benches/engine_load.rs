//! An engine file to a session that has run once.

mod common;

use common::{Fail, cpu_session, inputs};
use criterion::{BatchSize, SamplingMode};
use kiln::Engine;
use kiln::engine::read_header;
use std::hint::black_box;

fn main() -> Result<(), Fail> {
    common::run(|criterion| {
        let folder = tempfile::tempdir()?;
        let mut group = criterion.benchmark_group("engine load");
        group.sampling_mode(SamplingMode::Flat);
        for graph in [common::one_kernel()?, common::encoder(6)?] {
            let path = folder.path().join(&graph.name);
            common::cpu_engine(&graph)?.save(&path)?;
            let name = |stage: &str| format!("{}, {stage}", graph.name);
            group.bench_function(name("header"), |b| b.iter(|| black_box(read_header(&path))));
            group.bench_function(name("load"), |b| b.iter(|| black_box(Engine::load(&path))));
            let engine = Engine::load(&path)?;
            group.bench_function(name("session"), |b| b.iter(|| black_box(cpu_session(&engine).map(drop))));
            let inputs = inputs(&graph)?;
            let given: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            cpu_session(&engine)?.run(&given)?;
            // Packs weights and plans memory.
            group.bench_function(name("first run"), |b| {
                b.iter_batched(
                    || cpu_session(&engine),
                    |session| black_box(session.and_then(|mut session| Ok(session.run(&given)?))),
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
        Ok(())
    })
}
