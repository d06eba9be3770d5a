//! What a model is compiled for, and the roofline that ranks candidate kernels before anything is measured.

use crate::arch::Arch;
use crate::gpu::Gpu;
use kiln_num::DType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The processor that a plan for the CPU device assumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Threads that share the work.
    pub threads: u32,
    /// f32 operations a second of one thread.
    pub ops_per_thread: f64,
    /// Memory bandwidth of all threads together, in bytes a second.
    pub bandwidth: f64,
    /// Time to hand one region to the threads and gather them again, in seconds.
    pub launch_seconds: f64,
}

impl Default for Cpu {
    /// A nominal machine: eight cores with two 256-bit FMA units each at 3 GHz, and two channels of DDR4-3200 (JEDEC: 25.6 GB/s each).
    /// It is not the machine that builds the plan: equal models must give equal plans wherever they are built.
    fn default() -> Cpu {
        Cpu { threads: 8, ops_per_thread: 96e9, bandwidth: 51.2e9, launch_seconds: 3e-6 }
    }
}

/// What a model is compiled for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::large_enum_variant, reason = "a build has a few of them")]
pub enum Target {
    /// A GPU: one cubin a kernel for its architecture.
    Gpu(Gpu),
    /// The CPU device.
    Cpu(Cpu),
}

/// What a kernel does, for [`Target::seconds`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes read from and written to device memory.
    pub bytes: f64,
    /// Arithmetic operations outside contractions.
    pub scalar_ops: f64,
    /// Operations of contractions (a multiply-add counts as two).
    pub matrix_ops: f64,
    /// Type of the contractions' operands.
    pub operands: DType,
    /// Whether operands that are f32 may be rounded to TF32.
    pub tf32: bool,
}

/// Modelled cost of one way to compute something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Time, launches included.
    pub seconds: f64,
    /// Bytes read from and written to device memory.
    pub bytes: f64,
    /// Arithmetic operations (a multiply-add counts as two).
    pub flops: f64,
    /// Kernels.
    pub launches: u32,
}

impl Target {
    /// Adds `sm_80` unless it is there: the driver assembles its PTX on any newer GPU.
    pub fn add_portable(targets: &mut Vec<Target>) {
        if !targets.iter().any(|target| target.arch() == Some(Arch::Sm80)) {
            targets.extend(Gpu::typical(Arch::Sm80).map(Target::Gpu));
        }
    }

    /// The CPU device, on a nominal machine.
    pub fn cpu() -> Target {
        Target::Cpu(Cpu::default())
    }

    /// The architecture to compile for; `None` for the CPU.
    pub fn arch(&self) -> Option<Arch> {
        match self {
            Target::Gpu(gpu) => Some(gpu.arch),
            Target::Cpu(_) => None,
        }
    }

    /// What an engine calls its part for this: the architecture, and behind a colon which GPU unless it is the architecture's typical one: `sm_90a:h200`.
    pub fn label(&self) -> String {
        match self {
            Target::Gpu(gpu) => label(gpu.arch.name(), Some(&gpu.key())),
            Target::Cpu(_) => "cpu".to_owned(),
        }
    }

    /// Time that starting one kernel adds, in seconds.
    pub fn launch_seconds(&self) -> f64 {
        match self {
            Target::Gpu(gpu) => gpu.costs.launch_seconds,
            Target::Cpu(cpu) => cpu.launch_seconds,
        }
    }

    /// By what the time of a convolution is multiplied whose image has its channels apart in memory, so that each element is gathered by itself, and not in runs of so many
    /// `channels` (none if that is known only when it runs).
    pub fn gather_loss(&self, channels: Option<i64>, dtype: DType) -> f64 {
        match self {
            // A run that is shorter than an access of 16 bytes is gathered either way.
            Target::Gpu(gpu) if channels.is_none_or(|n| n * i64::from(dtype.bits()) >= 128) => gpu.costs.gather_loss,
            _ => 1.0,
        }
    }

    /// Roofline time of one kernel without its launch, in seconds: the larger of memory time and arithmetic time.
    pub fn seconds(&self, work: &Work) -> f64 {
        let (bandwidth, scalar, matrix) = match self {
            Target::Gpu(gpu) => {
                let rounded = if work.tf32 && work.operands == DType::F32 { 1e12 * gpu.rates.tf32 } else { 0.0 };
                let matrix = gpu.peak_ops(work.operands, true).max(rounded);
                (gpu.bandwidth_gbs * 1e9, gpu.peak_ops(DType::F32, false), matrix)
            }
            Target::Cpu(cpu) => {
                let f32_rate = cpu.ops_per_thread * f64::from(cpu.threads);
                // Elementwise code reaches a fraction of the FMA rate: transcendental functions and no fused multiply-adds.
                (cpu.bandwidth, f32_rate / 8.0, if work.operands.bits() == 64 { f32_rate / 2.0 } else { f32_rate })
            }
        };
        (work.bytes / bandwidth).max(work.scalar_ops / scalar + work.matrix_ops / matrix)
    }
}

/// [`Target::label`] from the names of the architecture and of the GPU.
pub fn label(arch: &str, gpu: Option<&str>) -> String {
    let typical = arch.parse().ok().and_then(Gpu::typical).map(|gpu| gpu.key());
    match gpu {
        Some(gpu) if typical.as_deref() != Some(gpu) => format!("{arch}:{gpu}"),
        _ => arch.to_owned(),
    }
}

impl fmt::Display for Target {
    /// The name that parses back to the architecture: `sm_90a` or `cpu`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Gpu(gpu) => f.write_str(gpu.arch.name()),
            Target::Cpu(_) => f.write_str("cpu"),
        }
    }
}

/// Text that names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a target; choose `cpu`, an architecture ({}) or a GPU ({})", arch_names(), gpu_names())]
pub struct UnknownTarget {
    /// What was given.
    pub found: String,
}

fn arch_names() -> String {
    Arch::ALL.map(Arch::name).join(", ")
}

fn gpu_names() -> String {
    Gpu::names().collect::<Vec<_>>().join(", ")
}

impl FromStr for Target {
    type Err = UnknownTarget;

    /// Accepts `cpu`, an architecture (its typical GPU is assumed) or a GPU's short name.
    fn from_str(text: &str) -> Result<Target, UnknownTarget> {
        let lower = text.trim().to_ascii_lowercase();
        if lower == "cpu" {
            return Ok(Target::cpu());
        }
        Gpu::named(&lower)
            .or_else(|| lower.parse().ok().and_then(Gpu::typical))
            .map(Target::Gpu)
            .ok_or_else(|| UnknownTarget { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse() {
        assert_eq!("cpu".parse::<Target>().unwrap().to_string(), "cpu");
        for arch in Arch::ALL {
            assert_eq!(arch.name().parse::<Target>().unwrap().arch(), Some(arch));
        }
        let Target::Gpu(h200) = "H200".parse::<Target>().unwrap() else { panic!("a GPU") };
        assert_eq!((h200.arch, h200.bandwidth_gbs), (Arch::Sm90a, 4800.0));
        let label = |text: &str| text.parse::<Target>().unwrap().label();
        assert_eq!(
            ["cpu", "sm_90a", "h100", "h200", "l4", "l40s"].map(label),
            ["cpu", "sm_90a", "sm_90a", "sm_90a:h200", "sm_89", "sm_89:l40s"]
        );
        let err = "sm_91".parse::<Target>().unwrap_err().to_string();
        for word in ["sm_91", "cpu", "sm_75", "sm_120", "h100"] {
            assert!(err.contains(word), "{err}");
        }
    }

    #[test]
    fn roofline_takes_the_slower_side() {
        let target: Target = "a100".parse().unwrap();
        let gemm = |n: f64| Work {
            bytes: 3.0 * n * n * 2.0,
            scalar_ops: 0.0,
            matrix_ops: 2.0 * n * n * n,
            operands: DType::F16,
            tf32: true,
        };
        // Small square GEMMs are bound by memory, large ones by the tensor cores.
        let small = target.seconds(&gemm(64.0));
        assert!((small - 3.0 * 64.0 * 64.0 * 2.0 / 2039e9).abs() < 1e-15);
        let large = target.seconds(&gemm(8192.0));
        assert!((large - 2.0 * 8192f64.powi(3) / 312e12).abs() < 1e-9);
        // f32 is multiplied outside of the tensor cores unless it may be rounded, and there are such.
        let of = |gpu: &str, tf32| {
            let work = Work { operands: DType::F32, tf32, ..gemm(8192.0) };
            2.0 * 8192f64.powi(3) / gpu.parse::<Target>().unwrap().seconds(&work) / 1e12
        };
        assert_eq!([of("a100", false), of("a100", true), of("t4", true)].map(f64::round), [20.0, 156.0, 8.0]);
    }
}
