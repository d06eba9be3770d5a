//! Fusion by equality saturation: a [`kiln_graph::Graph`] becomes a [`Plan`] of [`Region`]s.
//!
//! Knows: the e-graph, rewrite rules, legal cuts and their cost. Must not know: CUDA.
#![forbid(unsafe_code)]

mod attention;
mod canonical;
mod cuts;
mod dump;
mod egraph;
mod emit;
mod error;
mod explain;
mod fuse;
mod hoist;
mod interpret;
mod kernels;
mod options;
mod pass;
mod pattern;
mod plan;
mod print;
mod region;
mod report;
mod rules;
mod strided;

pub use attention::{Attention, Weighing};
pub use canonical::{Canonical, RegionId};
pub use cuts::operations;
pub use emit::{node_name, replay};
pub use error::{Error, Result};
pub use fuse::{Fused, fuse, fuse_plans, fuse_watched};
pub use interpret::interpret_plan;
pub use kernels::{Kernels, Price};
pub use options::{Extent, Numerics, Options, typical_sizes};
pub use pass::{Pass, Watch};
pub use pattern::{Bound, Pattern};
pub use plan::{Anchor, Buffer, BufferId, BufferKind, Plan, Region, Step};
pub use region::{MAX_KERNEL_NODES, MAX_NODES, MAX_OPERANDS, MAX_TWINS, Role, Rows};
pub use report::{FunctionReport, KernelReport, LaunchReport, NextBest, Report, RuleReport};
pub use rules::named as rule;
pub use strided::{MemoryAxis, Strided, reshape_groups};
