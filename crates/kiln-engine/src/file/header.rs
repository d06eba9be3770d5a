//! The JSON header.

use crate::engine::{Port, Resources, Settings, Toolchain};
use kiln_fuse::RegionId;
use kiln_graph::{DType, Symbols};
use kiln_kernels::{Guard, Implementation};
use serde::{Deserialize, Serialize};

/// Version of the file format. A reader takes exactly its own.
pub const FORMAT: u32 = 5;

/// What any tool can read about an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Versions and hashes.
    pub stamp: Stamp,
    /// Name of the model.
    pub model: String,
    /// Signature.
    pub inputs: Vec<Port>,
    /// Signature.
    pub outputs: Vec<Port>,
    /// Ranges of the symbols.
    pub symbols: Symbols,
    /// One a target.
    pub targets: Vec<TargetHeader>,
    /// Whether the weights were taken out: there is no section `weights` then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stripped: bool,
    /// Where each weight lies in the section `weights`.
    pub weights: Vec<WeightEntry>,
    /// Where each weight of the model lies in the section `weights`, if they are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<WeightEntry>,
    /// All sections.
    pub sections: Vec<Section>,
}

/// What an engine was made by and from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// File format.
    pub format: u32,
    /// Kiln version.
    pub kiln: String,
    /// BLAKE3 of the canonical graph with its weights.
    pub graph_hash: String,
    /// How it was built.
    pub settings: Settings,
}

/// One target's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHeader {
    /// `cpu` or `sm_XX[a]`.
    pub target: String,
    /// The GPU that kernels were chosen for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Compiler versions and options, for GPUs.
    pub toolchain: Option<Toolchain>,
    /// BLAKE3 over the kernels' configs and sources.
    pub config_hash: String,
    /// Section with the plan, as JSON.
    pub plan: String,
    /// Section with the kernels, as JSON; empty for the CPU.
    pub kernels: Option<String>,
    /// Section with cubins and PTX.
    pub code: Option<String>,
}

/// What of the header is the same in every version, so that an engine that keeps its model can be built again by another one.
#[derive(Debug, Deserialize)]
pub(crate) struct Portable {
    pub stamp: PortableStamp,
    #[serde(default)]
    pub sources: Vec<WeightEntry>,
    pub sections: Vec<Section>,
}

/// What of the stamp is.
#[derive(Debug, Deserialize)]
pub(crate) struct PortableStamp {
    pub settings: Settings,
}

/// One weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightEntry {
    /// Name in the plans.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
    /// First byte within the section, a multiple of 256.
    pub offset: usize,
}

/// A byte range of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Unique name.
    pub name: String,
    /// First byte in the file, a multiple of 4096.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
    /// Of the contents.
    pub blake3: String,
}

/// One region's kernels in a `kernels.*` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KernelRecord {
    /// The region that they serve.
    pub region: RegionId,
    /// In order: the first runs whose guard holds.
    pub variants: Vec<VariantRecord>,
}

/// One way to run a region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VariantRecord {
    pub guard: Guard,
    pub implementation: Implementation,
    pub images: Vec<ImageRecord>,
}

/// Ranges of one kernel's code in a `code.*` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub cubin: (usize, usize),
    pub ptx: (usize, usize),
    pub resources: Resources,
}
