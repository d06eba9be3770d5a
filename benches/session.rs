//! What a session adds to the kernels that it runs: a model of one kernel of 64 elements on the CPU.

mod common;

use common::{Fail, cpu_engine, cpu_session, inputs};
use std::hint::black_box;

fn main() -> Result<(), Fail> {
    common::run(|criterion| {
        let graph = common::one_kernel()?;
        let mut session = cpu_session(&cpu_engine(&graph)?)?;
        let inputs = inputs(&graph)?;
        let given: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        session.run(&given)?;
        let mut group = criterion.benchmark_group("session");
        group.bench_function("run", |b| b.iter(|| black_box(session.run(black_box(&given)))));
        group.finish();
        Ok(())
    })
}
