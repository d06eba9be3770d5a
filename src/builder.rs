//! Building engines, with defaults for everything.

use crate::kernels::Kernel;
use crate::{Jit, Model, Result};
use kiln_cuda::Home;
use kiln_engine::{BuildOptions, BuildReport, Engine, Kept, Progress};
use kiln_fuse::{Kernels, Numerics};
use kiln_target::Target;
use kiln_tune::{Prices, Tuning};
use std::path::PathBuf;
use std::sync::Arc;

/// Builds an engine from a [`Model`]: for the CPU if nothing else is said, with NVRTC and the kernel cache in `$KILN_HOME`.
///
/// ```no_run
/// # fn main() -> kiln::Result<()> {
/// # use kiln::prelude::*;
/// let model = Model::load("model.onnx")?;
/// EngineBuilder::new(&model).target("cpu")?.target("h100")?.build()?.save("model.kiln")?;
/// # Ok(()) }
/// ```
pub struct EngineBuilder<'a> {
    model: &'a Model,
    targets: Vec<Target>,
    portable: bool,
    strip_weights: bool,
    keep_model: bool,
    numerics: Numerics,
    tf32: bool,
    sizes: kiln_graph::Bindings,
    kernels: Vec<Arc<Kernel>>,
    home: Option<PathBuf>,
    progress: Option<&'a (dyn Fn(Progress<'_>) + Sync)>,
    prices: Option<Arc<dyn Kernels>>,
}

impl<'a> EngineBuilder<'a> {
    /// A builder with all defaults.
    pub fn new(model: &'a Model) -> EngineBuilder<'a> {
        let (targets, sizes) = (Vec::new(), kiln_graph::Bindings::new());
        EngineBuilder {
            model,
            targets,
            portable: false,
            strip_weights: false,
            keep_model: false,
            numerics: Numerics::Reassoc,
            tf32: false,
            sizes,
            kernels: Vec::new(),
            home: None,
            progress: None,
            prices: None,
        }
    }

    /// Adds a target: `cpu`, an architecture such as `sm_90a`, or a GPU such as `h100`. The first one takes the place of the default.
    ///
    /// # Errors
    /// No such target.
    pub fn target(mut self, target: &str) -> Result<EngineBuilder<'a>> {
        self.targets.push(target.parse()?);
        Ok(self)
    }

    /// Builds for `sm_80` too: the driver assembles its PTX on any newer GPU for which the engine has no code of its own.
    pub fn portable(mut self) -> EngineBuilder<'a> {
        self.portable = true;
        self
    }

    /// Leaves the weights out of the engine, for [`Engine::refit`] to give them: it is small, and runs nothing before.
    pub fn strip_weights(mut self) -> EngineBuilder<'a> {
        self.strip_weights = true;
        self
    }

    /// Keeps the model's weights beside the engine's, so that another version of Kiln, or one for another GPU, can build it anew: see [`Engine::open`].
    pub fn keep_model(mut self) -> EngineBuilder<'a> {
        self.keep_model = true;
        self
    }

    /// How far results may depart from the model's own arithmetic. Default: sums may be regrouped.
    pub fn numerics(mut self, numerics: Numerics) -> EngineBuilder<'a> {
        self.numerics = numerics;
        self
    }

    /// Whether GPUs from sm_80 on may round the operands of products of f32 matrices to TF32 (10 bits of mantissa), which their tensor cores
    /// multiply; sums stay f32. Default: they may not. `docs/numerics.md` has it in full.
    pub fn tf32(mut self, allowed: bool) -> EngineBuilder<'a> {
        self.tf32 = allowed;
        self
    }

    /// The size of a shape symbol to choose kernels for; they run at all others of its range too.
    pub fn typical(mut self, symbol: &str, size: i64) -> EngineBuilder<'a> {
        self.sizes.insert(symbol.to_owned(), size);
        self
    }

    /// A kernel of one's own ([`macro@crate::kernel`]), to be used wherever its function occurs. Those that the model was written with need not be
    /// named; one of the same name takes their place.
    pub fn kernel(mut self, kernel: impl Into<Arc<Kernel>>) -> EngineBuilder<'a> {
        self.kernels.push(kernel.into());
        self
    }

    /// [`EngineBuilder::kernel`] for each, as [`load`](crate::kernels::load) gives them.
    pub fn kernels(mut self, kernels: impl IntoIterator<Item = Arc<Kernel>>) -> EngineBuilder<'a> {
        self.kernels.extend(kernels);
        self
    }

    /// Where NVRTC and the kernel cache are. Default: `$KILN_HOME`, or the user's cache folder.
    pub fn home(mut self, folder: impl Into<PathBuf>) -> EngineBuilder<'a> {
        self.home = Some(folder.into());
        self
    }

    /// Is told the news of the build, from any thread.
    pub fn progress(mut self, progress: &'a (dyn Fn(Progress<'_>) + Sync)) -> EngineBuilder<'a> {
        self.progress = Some(progress);
        self
    }

    /// Builds.
    ///
    /// # Errors
    /// A model that is not well-formed or lacks weights, no NVRTC for a GPU target, and kernels that do not compile; of one that is to be stripped, a
    /// constant that cannot be made of its weights again.
    pub fn build(self) -> Result<Engine> {
        Ok(self.build_with_report()?.0)
    }

    /// [`EngineBuilder::build`] with what fusion and compilation did, and their warnings.
    ///
    /// # Errors
    /// As for `build`.
    pub fn build_with_report(self) -> Result<(Engine, BuildReport)> {
        let progress = self.progress.unwrap_or(&|_| {});
        let graph = self.model.graph();
        let (mut engine, report) = kiln_engine::build(graph, &self.options()?, progress)?;
        if self.keep_model {
            engine.keep_model(graph)?;
        }
        if self.strip_weights {
            engine.strip_weights(&graph.weights)?;
        }
        Ok((engine, report))
    }

    /// Builds for a device on the first run on this machine: see [`Jit`].
    pub fn jit(self, device: &str) -> Jit<'a> {
        Jit::new(self, device)
    }

    /// Builds for a target, or finds what was built before on this machine. What is to be tuned so is fused by what the timing cache knows.
    pub(crate) fn kept(mut self, target: Target, tuning: Option<&Tuning>) -> Result<(Engine, Kept, Home)> {
        self.targets = vec![target];
        let options = self.options()?;
        let kept = Kept::new(self.model.graph(), &self.targets[0], &options)?;
        // What cannot be used is built again, what cannot be kept costs time alone.
        let engine = match kept.find() {
            Ok(Some(engine)) => engine,
            _ => {
                if let (Some(tuning), Target::Gpu(gpu)) = (tuning, &self.targets[0]) {
                    match Prices::of_build(tuning, gpu, &options) {
                        Ok(prices) => self.prices = Some(Arc::new(prices)),
                        // Tuning will say the same.
                        Err(e) => tracing::warn!("fused by the cost models alone: {e}"),
                    }
                }
                let engine = self.build()?;
                let _ = kept.store(&engine);
                engine
            }
        };
        Ok((engine, kept, options.home))
    }

    /// Where NVRTC, kernels and engines are kept.
    pub(crate) fn folder(&self) -> Result<Home> {
        match &self.home {
            Some(folder) => Ok(Home::at(folder)),
            None => Ok(Home::from_env()?),
        }
    }

    fn options(&self) -> Result<BuildOptions> {
        let home = self.folder()?;
        let mut kernels: Vec<Arc<Kernel>> = Vec::new();
        for kernel in self.kernels.iter().rev().cloned().chain(self.model.graph().attached()) {
            if !kernels.iter().any(|other| other.name() == kernel.name()) {
                kernels.push(kernel);
            }
        }
        let mut options = BuildOptions {
            numerics: self.numerics,
            tf32: self.tf32,
            sizes: self.sizes.clone(),
            kernels,
            prices: self.prices.clone(),
            ..BuildOptions::new(home)
        };
        if !self.targets.is_empty() {
            options.targets.clone_from(&self.targets);
        }
        if self.portable {
            Target::add_portable(&mut options.targets);
        }
        Ok(options)
    }
}
