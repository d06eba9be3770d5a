//! An engine in memory: plans, code for each target, and weights.

use crate::refit::Refit;
use crate::{Error, Result, Session};
use bytes::Bytes;
use kiln_fuse::{Plan, Region, RegionId};
use kiln_graph::{Bindings, Symbols, Tensor, TensorType};
use kiln_kernels::{Guard, Implementation, Kernel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Resources of one compiled kernel, from the assembler's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Spill stores and loads, bytes.
    pub spill_bytes: u32,
    /// Static and dynamic shared memory a block, bytes.
    pub shared_bytes: u32,
    /// Stack frame, bytes.
    pub stack_bytes: u32,
}

/// Machine code of one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// For the exact architecture.
    pub cubin: Bytes,
    /// PTX of the same compilation.
    pub ptx: Bytes,
    /// What it uses.
    pub resources: Resources,
}

/// A region's kernels for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// In order: the first runs whose guard holds, and the last one's always does.
    pub variants: Vec<Variant>,
}

/// One way to run a region, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// When it may run.
    pub guard: Guard,
    /// Source and launch.
    pub implementation: Implementation,
    /// One an implementation's kernel.
    pub images: Vec<Image>,
}

impl Compiled {
    /// One way for all shapes.
    pub fn single(implementation: Implementation, images: Vec<Image>) -> Compiled {
        Compiled { variants: vec![Variant { guard: Guard::always(), implementation, images }] }
    }

    /// The variant that runs at these sizes of the region's symbols.
    pub fn at(&self, sizes: &Bindings) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.guard.holds(sizes).unwrap_or(false))
    }

    /// All kernels, in the order of the variants.
    pub fn kernels(&self) -> impl Iterator<Item = (&Variant, &Kernel, &Image)> {
        let own = |v: &'_ Variant| v.implementation.kernels.len().min(v.images.len());
        self.variants
            .iter()
            .flat_map(move |v| (0..own(v)).map(move |i| (v, &v.implementation.kernels[i], &v.images[i])))
    }
}

/// Where the code of a target came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// NVRTC release, for instance `13.0.88`.
    pub nvrtc: String,
    /// Options of every compilation.
    pub options: Vec<String>,
}

/// Everything for one target.
#[derive(Clone, Debug)]
pub struct TargetImage {
    /// `cpu` or `sm_XX[a]`.
    pub target: String,
    /// The GPU that kernels were chosen for, by its short name ([`kiln_target::Gpu::key`]).
    pub gpu: Option<String>,
    /// Absent for the CPU, whose regions need no compilation.
    pub toolchain: Option<Toolchain>,
    /// What runs.
    pub plan: Plan,
    /// Those of each distinct region of the plan and its nested plans, by identity. Empty for the CPU.
    pub kernels: BTreeMap<RegionId, Compiled>,
}

impl TargetImage {
    /// What it is called in the engine: `cpu`, `sm_90a`, `sm_90a:h200`. See [`kiln_target::Target::label`].
    pub fn label(&self) -> String {
        kiln_target::label(&self.target, self.gpu.as_deref())
    }

    /// The distinct regions of the plan, then of its nested plans, with their kernels, which there are none of for the CPU.
    pub fn regions(&self) -> Vec<(&Region, Option<&Compiled>)> {
        let regions = crate::validate::regions(&self.plan);
        regions.into_iter().map(|(id, region)| (region, self.kernels.get(&id))).collect()
    }
}

/// What decides, beside graph and targets, what an engine computes and holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Which rewrites were allowed.
    pub numerics: kiln_fuse::Numerics,
    /// Whether GPUs may round the operands of products of f32 matrices to TF32.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tf32: bool,
    /// Whether GPU kernels have source line information.
    pub line_info: bool,
    /// Sizes of symbols for which kernels were chosen.
    pub sizes: Bindings,
    /// BLAKE3 of the kernels of one's own that it was built with; empty without any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernels: String,
    /// How much was fused.
    #[serde(default, skip_serializing_if = "kiln_fuse::Extent::is_full")]
    pub extent: kiln_fuse::Extent,
}

/// Name and type of an input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Public name.
    pub name: String,
    /// Element type and symbolic shape.
    #[serde(flatten)]
    pub ty: TensorType,
}

/// A built or loaded engine.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Name of the model.
    pub model: String,
    /// Version of Kiln that built it.
    pub kiln: String,
    /// BLAKE3 of the canonical graph with its weights: those that it has, or was built with.
    pub graph_hash: String,
    /// How it was built.
    pub settings: Settings,
    /// The original graph's text form, without weight data.
    pub graph_text: String,
    /// Signature.
    pub inputs: Vec<Port>,
    /// Signature.
    pub outputs: Vec<Port>,
    /// Ranges of the symbols: the profile.
    pub symbols: Symbols,
    /// One a target.
    pub targets: Vec<TargetImage>,
    /// Weights of all plans by name.
    pub weights: BTreeMap<String, Tensor>,
    /// The model's weights, where they are kept so that the model can be built again: see [`Engine::keep_model`]. Else none.
    pub sources: BTreeMap<String, Tensor>,
    /// Whether the weights were taken out: see [`Engine::strip_weights`].
    pub stripped: bool,
    /// How the weights come of the model's.
    pub refit: Refit,
    /// The file, when it came from one.
    pub path: PathBuf,
}

impl Engine {
    /// The image of that label, else the first one for that architecture; the error names those present.
    pub fn target(&self, target: &str) -> Result<&TargetImage> {
        let labelled = self.targets.iter().find(|image| image.label() == target);
        labelled.or_else(|| self.targets.iter().find(|image| image.target == target)).ok_or_else(|| {
            let present: Vec<String> = self.targets.iter().map(TargetImage::label).collect();
            Error::Mismatch {
                path: self.path.clone(),
                field: "target",
                expected: target.to_owned(),
                found: present.join(", "),
                fix: format!(
                    "build the model again with `--target {}`",
                    [&present[..], &[target.to_owned()]].concat().join(",")
                ),
            }
        })
    }

    /// The image whose kernels are for a GPU: chosen for it by name, else for its architecture.
    ///
    /// # Errors
    /// There is none.
    pub fn target_of(&self, gpu: &kiln_target::Gpu) -> Result<&TargetImage> {
        let own = kiln_target::label(gpu.arch.name(), Some(&gpu.key()));
        self.target(&own).or_else(|_| self.target(gpu.arch.name()))
    }

    /// Checks that this is the engine of a graph with this [`graph_hash`](crate::graph_hash), built with these settings for this target; the error names
    /// what is not.
    pub fn check(&self, graph_hash: &str, settings: &Settings, target: &str) -> Result<()> {
        self.target(target)?;
        let mismatch = |field, expected, found| {
            let fix = "build the model again".to_owned();
            Err(Error::Mismatch { path: self.path.clone(), field, expected, found, fix })
        };
        if graph_hash != self.graph_hash {
            return mismatch("graph hash", graph_hash.to_owned(), self.graph_hash.clone());
        }
        if *settings != self.settings {
            return mismatch("settings", format!("{settings:?}"), format!("{:?}", self.settings));
        }
        Ok(())
    }

    /// Loads the engine on a device by its name: see [`open_device`](crate::open_device).
    ///
    /// # Errors
    /// No such device, or no code for it in this engine.
    pub fn session(&self, device: &str) -> Result<Session> {
        Session::new(self, crate::open_device(device)?)
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> usize {
        self.weights.values().map(|t| t.data().len()).sum()
    }
}
