//! A few cases under criterion.

use crate::case::{self, Case};
use crate::{Outcome, borrow, common, engine};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Throughput};
use kiln_engine::{Device, Session, open_device};
use kiln_tune::Rotating;
use std::time::Duration;

/// Times [`case::typical`] on the device of `KILN_DEVICE`, or on `cuda:0` if there is one.
pub fn bench() -> Outcome<()> {
    let chosen = std::env::var("KILN_DEVICE").ok();
    let device = chosen.as_deref().unwrap_or("cuda:0");
    // Keeps the GPU's context alive between the cases.
    let _opened = match open_device(device) {
        Ok(opened) => opened,
        Err(e) if chosen.is_none() => {
            println!("nothing was timed, for want of a GPU: {e}");
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    let mut criterion = common::criterion();
    let mut group = criterion.benchmark_group("gpu");
    group.sample_size(10);
    for case in case::typical() {
        time(&mut group, &case, device)?;
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// The device's time of one run, over operands that no cache holds.
fn time(group: &mut BenchmarkGroup<'_, WallTime>, case: &Case, device: &str) -> Outcome<()> {
    let graph = case.graph(case.op.lead())?;
    let timer = Rotating::new(open_device(device)?);
    let mut session = Session::new(&engine(&graph, timer.processor()?)?, Box::new(timer.clone()))?;
    session.run(&borrow(&case.inputs(&graph, 12)?))?;
    let runs = timer.shape().ok_or("the run is more than launches")?.runs as u64;
    group.throughput(match case.op.is_arithmetic() {
        true => Throughput::Elements(case.op.flops() as u64),
        false => Throughput::Bytes(case.bytes() as u64),
    });
    let mut failure = None;
    group.bench_function(case.name(), |b| {
        // A sample is many runs in a row: as many samples as hold all iterations, and the mean of their runs.
        b.iter_custom(|iterations| {
            let samples = iterations.div_ceil(runs);
            let mut seconds = 0.0;
            for _ in 0..samples {
                match timer.sample() {
                    Ok(sample) => seconds += sample.unwrap_or(f64::NAN),
                    Err(e) => failure = Some(e),
                }
            }
            Duration::try_from_secs_f64(seconds / samples as f64 * iterations as f64).unwrap_or(Duration::MAX)
        });
    });
    failure.map_or(Ok(()), |e| Err(e.into()))
}
