//! A simulator that executes PTX on the CPU, checks it for races and counts what it does.
//!
//! It runs the PTX that NVRTC and other compilers emit, so that what ships is what is tested, with no GPU: parse a
//! [`Module`], decode a [`Kernel`], put data into a [`Device`]'s memory and launch. The [`Report`] lists what the
//! kernel did wrong ([`Finding`]) and, if asked for, counters.
//!
//! # What is modelled of sm_90a
//!
//! * A wgmma is one operation of its warpgroup, and so is `wgmma.wait_group`: it ends when the groups of all four warps
//!   are complete. After it, one thread may give shared memory back on behalf of all (`if ((t & 127) == 0) arrive(empty)`);
//!   an arrival before it leaves a race. All four must issue the same instructions with the same descriptors.
//!   Accumulators are NaNs until the wait of the warp that holds them. Whether `wgmma.fence` is where it must be is not
//!   checked.
//! * Bulk and tensor copies land late, at random under a seed, or when nothing else can run. Tiles of rank 1 to 5, im2col of
//!   rank 3 to 5 ([`TensorMap`], [`Im2colMap`]), swizzles of 32, 64 and 128 bytes, no interleaving, multicast, reductions.
//!   `tensormap.replace` changes a map, and copies must not use it before a release and an acquire of the tensormap proxy.
//! * `setmaxnreg` moves registers between the warps and the pool of a CTA; `.inc` sleeps until there are enough.
//! * A launch ends before the next one begins, so that `griddepcontrol.wait` returns at once; `.launch_dependents` is
//!   counted. What a dependent grid does before it waits is not checked against the grid before it.
//!
//! The crate knows the PTX ISA and nothing else: no tile programs, no graphs, no CUDA driver. Chapter names in its
//! comments are those of the PTX ISA document.
//!
//! ```
//! use kiln_sim::{Arg, Device, LaunchConfig, Module, Options};
//! let ptx = r#"
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry double_it(.param .u64 p) {
//!   .reg .b64 %rd<4>; .reg .b32 %r<2>; .reg .f32 %f<3>;
//!   ld.param.u64 %rd1, [p];
//!   mov.u32 %r1, %tid.x;
//!   mul.wide.u32 %rd2, %r1, 4;
//!   add.s64 %rd3, %rd1, %rd2;
//!   ld.global.f32 %f1, [%rd3];
//!   add.f32 %f2, %f1, %f1;
//!   st.global.f32 [%rd3], %f2;
//!   ret;
//! }"#;
//! let kernel = Module::parse(ptx)?.kernel("double_it")?;
//! let device = Device::default();
//! let address = device.alloc(16)?;
//! device.upload(address, &[1.5f32, -2.0, 0.25, 8.0].map(f32::to_le_bytes).concat())?;
//! let report = device.launch(&kernel, LaunchConfig::linear(1, 4), &[Arg::U64(address)], &Options::default())?;
//! assert!(report.clean());
//! let mut out = [0; 4];
//! device.download(address + 4, &mut out)?;
//! assert_eq!(f32::from_le_bytes(out), -4.0);
//! # Ok::<(), kiln_sim::Error>(())
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]
// Loops over lanes index several rows at once; an iterator over one of them hides that.
#![allow(clippy::needless_range_loop)]

mod check;
mod counters;
mod decode;
mod device;
mod error;
mod exec;
mod launch;
mod memory;
mod module;
mod num;
mod ptx;
mod report;

pub use check::FindingKind;
pub use counters::{CounterReport, InstructionCounters, LineCounters, MatrixCounters, Mix};
pub use device::Device;
pub use error::{Error, Result};
pub use launch::{Arg, Checks, Im2colMap, LaunchConfig, Options, Swizzle, TensorMap, TensorType};
pub use module::{Entry, Kernel, Module, Param};
pub use report::{Finding, Report};
