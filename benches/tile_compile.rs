//! Regions to CUDA C, and CUDA C to machine code where NVRTC is installed.

mod common;

use common::Fail;
use criterion::{SamplingMode, Throughput};
use kiln::fuse::{Options, fuse};
use kiln::target::Gpu;
use kiln_cuda::{CompileRequest, Compiler, Home, Nvrtc};
use kiln_kernels::families::Subject;
use kiln_kernels::{Kernel, lower};
use std::hint::black_box;
use std::sync::Arc;

const TARGET: &str = "sm_90a";

fn main() -> Result<(), Fail> {
    let compiler = Nvrtc::discover(&Home::from_env()?).map(|nvrtc| Compiler::new(&nvrtc));
    common::run(|criterion| {
        let mut group = criterion.benchmark_group("tile compile");
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        let gpu = Gpu::named("h100").ok_or("no such GPU")?;
        for graph in [common::encoder(1)?, common::convnet(1)?] {
            let plan = fuse(&graph, &Options::new(TARGET.parse()?))?.plan;
            let compile = || -> Result<Vec<Kernel>, Fail> {
                let each = plan.regions.iter().map(|region| lower(&Arc::new(Subject::of(region)), &gpu));
                let variants = each.collect::<Result<Vec<_>, _>>()?.concat();
                Ok(variants.into_iter().flat_map(|(_, made)| made.kernels).collect())
            };
            let kernels = compile()?;
            group.throughput(Throughput::Elements(kernels.len() as u64));
            let name = |stage: &str| format!("{}, {stage}", graph.name);
            group.bench_function(name("regions to CUDA C"), |b| b.iter(|| black_box(compile())));
            let (Ok(compiler), Some(kernel)) = (&compiler, kernels.iter().max_by_key(|k| k.source.len())) else {
                continue;
            };
            let request = CompileRequest {
                name: kernel.entry.clone(),
                source: kernel.source.clone(),
                arch: TARGET.to_owned(),
                options: Vec::new(),
                line_info: false,
            };
            compiler.compile(&request)?;
            group.throughput(Throughput::Elements(1));
            group.bench_function(name(&format!("NVRTC, {}", kernel.entry)), |b| {
                b.iter(|| black_box(compiler.compile(&request)));
            });
        }
        group.finish();
        if let Err(e) = &compiler {
            eprintln!("NVRTC was not timed: {e}");
        }
        Ok(())
    })
}
