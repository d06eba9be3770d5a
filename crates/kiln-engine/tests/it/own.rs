//! Hand-written kernels in the place of a region's own.

use crate::models::home;
use bytes::Bytes;
use kiln_cuda::{CompileRequest, Compiler, Nvrtc};
use kiln_engine::{Compiled, Engine, Image, Session, Variant};
use kiln_graph::Dim;
use kiln_kernels::{Grid, Guard, Implementation, Kernel, Launch, Param};

/// A grid of one axis.
pub fn blocks(n: impl Into<Dim>) -> Grid {
    Grid::Fixed([n.into(), 1.into(), 1.into()])
}

/// The kernel `entry` of a source, with blocks of 64 threads.
pub fn kernel(entry: &str, source: &str, grid: Grid, params: Vec<Param>) -> Kernel {
    let launch = Launch { grid, cluster: [1; 3], block: [64, 1, 1], dynamic_shared: 0, params };
    Kernel { entry: entry.to_owned(), source: source.to_owned(), launch, checks: Vec::new() }
}

/// An implementation without memory of its own.
pub fn made(kernels: Vec<Kernel>) -> Implementation {
    Implementation::new("test", serde_json::Value::Null, kernels)
}

/// Compiles the variants and puts them in the place of a region's own, for the engine's only target; then the engine as its file gives it.
pub fn replaced(mut engine: Engine, region: usize, variants: Vec<(Guard, Implementation)>) -> Engine {
    let compiler = Compiler::new(&Nvrtc::discover(&home()).unwrap());
    let image = &mut engine.targets[0];
    let target = image.target.clone();
    let compile = |kernel: &Kernel| {
        let request = CompileRequest {
            name: kernel.entry.clone(),
            source: kernel.source.clone(),
            arch: target.clone(),
            options: Vec::new(),
            line_info: true,
        };
        let made = compiler.compile(&request).unwrap();
        Image { cubin: Bytes::from(made.cubin), ptx: Bytes::from(made.ptx), resources: Default::default() }
    };
    let variant = |(guard, implementation): (Guard, Implementation)| {
        let images = implementation.kernels.iter().map(compile).collect();
        Variant { guard, implementation, images }
    };
    let region = image.plan.regions[region].identity();
    image.kernels.insert(region, Compiled { variants: variants.into_iter().map(variant).collect() });
    engine.pack_weights().unwrap();
    engine
}

/// What a file keeps of an engine.
pub fn reloaded(engine: &Engine) -> kiln_engine::Result<Engine> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.kiln");
    engine.save(&path).unwrap();
    Engine::load(&path)
}

/// The simulator for a target, and `cuda:0` where that is its GPU.
pub fn devices(target: &str) -> Vec<Box<dyn kiln_engine::Device>> {
    let sim = kiln_engine::open_device(&format!("sim:{target}")).unwrap();
    let gpu = kiln_engine::open_device("cuda:0").ok().filter(|gpu| gpu.target() == target);
    std::iter::once(sim).chain(gpu).collect()
}

/// Which kernel the only region of the last run took.
pub fn ran(session: &mut Session) -> String {
    session.implementations().remove(0).1
}
