//! Engines: building them from a graph, their file, and running them on a device.
//!
//! Knows: lowering a plan for targets ([`build`](build())), memory planning, the engine file ([`save`], [`load`]), the [`Device`] trait with
//! its implementations, and [`Session`]. Must not know: HTTP, or how a model was imported.
#![deny(unsafe_code)]

mod build;
mod compare;
mod device;
mod engine;
mod error;
mod file;
mod memory;
mod schedule;
mod session;
mod validate;

pub use build::{
    BuildOptions, BuildReport, KernelReport, Pass, Progress, RegionReport, StageTime, TargetReport, build, graph_hash,
};
pub use compare::{Departure, Difference, Tolerance, first_departure};
pub use device::{
    Arguments, CpuDevice, Device, GpuDevice, KernelId, KernelImage, MemId, Module, Place, Prepared, RecordingId,
    SimDevice, open_device,
};
pub use engine::{Compiled, Engine, Image, Port, Resources, Settings, TargetImage, Toolchain};
pub use error::{Error, Result};
pub use file::{FORMAT, Header, Section, Stamp, TargetHeader, load, parse, read_header, save, save_in};
pub use schedule::{Action, Schedule};
pub use session::{Memory, Observation, RunTimes, Session};
