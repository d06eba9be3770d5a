//! Fusion by equality saturation: a [`kiln_graph::Graph`] becomes a [`Plan`] of [`Region`]s.
//!
//! Knows: the e-graph, rewrite rules, legal cuts and their cost. Must not know: CUDA.
#![forbid(unsafe_code)]

mod plan;

pub use plan::{Anchor, Buffer, BufferId, BufferKind, Plan, Region, Step};
