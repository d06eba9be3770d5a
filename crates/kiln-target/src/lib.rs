//! What a GPU or CPU is: architectures, their matrix and copy instructions, capacities, rates, occupancy and the roofline cost model.
//!
//! Must not know: graphs, kernels or how anything is scheduled.
#![forbid(unsafe_code)]

pub mod arch;
pub mod atoms;
mod gpu;
mod occupancy;
mod target;

pub use gpu::{Costs, Detected, Gpu, Rates};
pub use occupancy::{BlockResources, Limit, Occupancy, occupancy};
pub use target::{Cpu, Estimate, Target, UnknownTarget, Work, label};
