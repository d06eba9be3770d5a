//! Engines: building them from a graph, their file, and running them on a device.
//!
//! Knows: lowering a plan for targets ([`build`](build())), memory planning, the engine file ([`Engine::save`], [`Engine::load`]), the [`Device`] trait with
//! its implementations, and [`Session`]. Must not know: HTTP, or how a model was imported.
#![deny(unsafe_code)]

mod build;
mod choose;
mod compare;
mod device;
mod engine;
mod error;
mod file;
mod kept;
mod memory;
mod open;
mod packed;
mod preflight;
mod refit;
mod schedule;
mod session;
mod validate;
mod values;

pub use build::{
    BuildOptions, BuildReport, KernelReport, PLANS, Pass, Progress, RegionReport, StageTime, TargetReport, Used, build,
    build_plans, compile_single, graph_hash, structure, toolchain,
};
pub use choose::Code;
pub use compare::{Departure, Difference, Tolerance, first_departure};
pub use device::{
    Arguments, CpuDevice, Device, Fetch, GpuDevice, GpuInfo, KernelId, KernelImage, MemId, Module, Place, Prepared,
    RecordingId, SimDevice, UserMemory, UserStream, open_device,
};
pub use engine::{Compiled, Engine, Image, Port, Resources, Settings, TargetImage, Toolchain, Variant};
pub use error::{Error, Result};
pub use file::{FORMAT, Header, PrivateKey, PublicKey, Section, Stamp, TargetHeader, parse, read_header, sign};
pub use kept::Kept;
pub use open::OnMismatch;
pub use preflight::{Finding, Preflight, preflight};
pub use refit::Refit;
pub use schedule::{Action, Activation, Schedule, activations};
pub use session::{Memory, Observation, RunTimes, Session, SessionOptions, Updates};
pub use values::{Number, Statistics, numbers};
