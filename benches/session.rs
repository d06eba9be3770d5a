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
        group.bench_function("run_bound", |b| b.iter(|| black_box(session.run_bound())));
        let (name, x) = given[0];
        let x = x.to_vec::<f32>().ok_or("the input is no f32")?;
        let output = session.outputs().next().map(|(name, _)| name.to_owned()).ok_or("there is no output")?;
        let mut y = vec![0f32; 64];
        group.bench_function("bind, run_bound, read", |b| {
            b.iter(|| {
                session.bind(name, &[1, 64], black_box(&x))?;
                session.run_bound()?;
                session.read(&output, black_box(&mut y))
            });
        });
        group.finish();
        Ok(())
    })
}
