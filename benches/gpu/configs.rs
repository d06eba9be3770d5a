//! Times every Config of some matrix products and attentions: the cost formula's order beside the clock's.

use crate::case::{self, Case};
use crate::rotating::Rotating;
use crate::{Outcome, borrow, engine, relative};
use bytes::Bytes;
use kiln_cuda::{CompileRequest, Compiler, Home, Nvrtc};
use kiln_engine::{Compiled, Engine, Image, Resources, Session, open_device};
use kiln_graph::Tensor;
use kiln_kernels::families::Subject;
use kiln_kernels::{Implementation, candidates};
use kiln_target::Target;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const SAMPLES: usize = 20;

/// A row a case: its Configs in the formula's order, each with the median time of a run. Also how many gave another result than the first.
pub fn measure(device: &str) -> Outcome<(Vec<Value>, usize)> {
    let compiler = Compiler::new(&Nvrtc::discover(&Home::from_env()?)?);
    let rows = case::ranked().iter().map(|case| ranked(case, device, &compiler)).collect::<Outcome<Vec<_>>>()?;
    let disagree =
        |row: &Value| row["configs"].as_array().into_iter().flatten().filter(|c| c["agrees"] != json!(true)).count();
    let failed = rows.iter().map(disagree).sum();
    Ok((rows, failed))
}

fn ranked(case: &Case, device: &str, compiler: &Compiler) -> Outcome<Value> {
    let start = Instant::now();
    let graph = case.graph(case.op.lead())?;
    let inputs = case.inputs(&graph, 12)?;
    let processor = open_device(device)?.processor()?;
    let target = processor.to_string();
    let mut engine = engine(&graph, processor.clone())?;
    let image = &engine.targets[0];
    let Target::Gpu(gpu) = processor else { return Err("only GPUs have Configs".into()) };
    let [region] = &image.plan.regions[..] else { return Err("a product is one region".into()) };
    let (mut configs, mut first) = (Vec::new(), None);
    let (id, subject) = (region.identity(), Arc::new(Subject::of(region)));
    for candidate in candidates(&subject, &gpu)? {
        let config = candidate.config.clone();
        engine.targets[0].kernels = [(id, compiled(candidate, compiler, &target)?)].into();
        let (us, found) = timed(&engine, &inputs, device)?;
        // All of them compute the same; the order of the sums differs.
        let rel = relative(first.get_or_insert_with(|| found.clone()), &found);
        println!("{:40} {us:10.1} us, differs from the first by {rel:.1e}: {config}", case.name());
        configs.push(json!({ "config": config, "us": us, "agrees": rel <= case.tolerance() }));
    }
    Ok(json!({ "name": case.name(), "configs": configs, "seconds": start.elapsed().as_secs_f64() }))
}

fn compiled(implementation: Implementation, compiler: &Compiler, target: &str) -> Outcome<Compiled> {
    let image = |kernel: &kiln_kernels::Kernel| -> Outcome<Image> {
        let made = compiler.compile(&CompileRequest {
            name: kernel.entry.clone(),
            source: kernel.source.clone(),
            arch: target.to_owned(),
            options: Vec::new(),
            line_info: false,
        })?;
        Ok(Image { cubin: Bytes::from(made.cubin), ptx: Bytes::from(made.ptx), resources: Resources::default() })
    };
    let images = implementation.kernels.iter().map(image).collect::<Outcome<_>>()?;
    Ok(Compiled::single(implementation, images))
}

/// Median microseconds of a run, and its result.
fn timed(engine: &Engine, inputs: &[(String, Tensor)], device: &str) -> Outcome<(f64, Tensor)> {
    let timer = Rotating::new(open_device(device)?);
    let mut session = Session::new(engine, Box::new(timer.clone()))?;
    let found = session.run(&borrow(inputs))?.swap_remove(0).1;
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        samples.push(timer.sample()?.ok_or("the run is more than launches")?);
    }
    samples.sort_by(f64::total_cmp);
    Ok((samples[SAMPLES / 2] * 1e6, found))
}
