//! One GPU: how many of what an architecture has, how fast they run, and what memory feeds them.
//!
//! Figures are dense rates from the vendor's datasheets and architecture whitepapers: Tesla T4 datasheet (2019), A100 80GB SXM
//! datasheet (2021), A10 datasheet (2021), GA102 whitepaper (RTX 3090) and, scaled by SMs and clock, RTX 3060, Jetson AGX Orin technical
//! brief (2022), L4 and L40S datasheets (2023), Ada whitepaper (RTX 4090) and, scaled, RTX 4060, H100 and H200 SXM datasheets, HGX B200 / B300 datasheets, Blackwell RTX whitepaper (RTX 5090).

use crate::arch::Arch;
use kiln_num::DType;
use serde::{Deserialize, Serialize};

/// Peak rates of one GPU in 10^12 operations a second (a multiply-add counts as two).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// binary64 outside the tensor cores.
    pub f64: f64,
    /// binary32 outside the tensor cores.
    pub f32: f64,
    /// TF32 tensor cores; 0 where there are none.
    pub tf32: f64,
    /// f16 (and, from sm_80, bf16) tensor cores with f32 accumulators.
    pub f16: f64,
    /// 8-bit float tensor cores; 0 where there are none.
    pub f8: f64,
    /// 8-bit integer tensor cores.
    pub i8: f64,
}

/// A GPU, or the typical GPU of an architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// The vendor's product name.
    pub name: String,
    /// What code is compiled for.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Boost clock in GHz.
    pub clock_ghz: f64,
    /// Device memory in GB (10^9 bytes).
    pub memory_gb: f64,
    /// Device memory bandwidth in GB/s.
    pub bandwidth_gbs: f64,
    /// Level-2 cache in bytes.
    pub l2_bytes: u64,
    /// Peak rates.
    pub rates: Rates,
    /// What kernels make of the rates.
    #[serde(default)]
    pub costs: Costs,
}

/// Coefficients of the cost models: round figures for all GPUs, near the best for 47 kernels whose Configs were all timed on an H200
/// (`docs/performance-gpu.md`). They rank Configs of one region; times are within a factor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Costs {
    /// Time that one launch adds to a stream, in seconds (within a replayed CUDA graph; a lone launch costs about twice that).
    pub launch_seconds: f64,
    /// Time from a load of device memory to its value, in seconds.
    pub latency_seconds: f64,
    /// The same where memory is busy, which says how much must be on its way to keep it so.
    pub loaded_latency_seconds: f64,
    /// Share of its nominal bandwidth that device memory reaches.
    pub memory_share: f64,
    /// Bandwidth of the level-2 cache over that of device memory.
    pub l2_factor: f64,
    /// Time from what one CTA leaves in memory to its use by the next, or by the next kernel, in seconds: a counter's way there and back, loads, what
    /// drains and fills.
    pub handover_seconds: f64,
    /// Integer operations that go with one access to memory.
    pub access_ops: f64,
    /// Operations of one thread in one step of a reduction across threads: a shuffle and what combines.
    pub shuffle_ops: f64,
    /// Time for the threads of a CTA to wait for each other and exchange a value, in seconds.
    pub barrier_seconds: f64,
    /// Time for the CTAs of a cluster to wait for each other and read what the others have, in seconds for each doubling of their number: the latency
    /// from SM to SM (Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking").
    pub cluster_seconds: f64,
    /// What a launch of clusters takes more than one of CTAs that each are for themselves, in seconds: they start together, and meet at both ends.
    pub cluster_launch_seconds: f64,
    /// Memory and arithmetic overlap, but not perfectly: the faster of the two still adds this share of its time.
    pub overlap_loss: f64,
    /// Bytes that the level-2 cache gives one SM in a cycle.
    pub l2_sm_bytes: f64,
    /// Bytes that an SM takes in a cycle, whoever asked for them: what a cluster's CTAs bring each other counts too.
    pub sm_bytes: f64,
    /// Share of their highest that clocks keep while tensor cores are always busy.
    pub tensor_share: f64,
    /// Share of that that `mma.sync` reaches where a GPU has better instructions.
    pub sync_share: f64,
    /// Share of a step's time that a product loses to waiting with one step on its way, less with more.
    pub pipeline_loss: f64,
    /// Time between the products of one tile and those of the next that nothing hides, in seconds.
    pub tile_seconds: f64,
    /// Time of a convolution that gathers its image element by element over that of one which reads runs of neighbouring channels: kernels of the first kind
    /// reached 0.26 of cuDNN's rate on an H200, those of the second about all of it.
    pub gather_loss: f64,
}

impl Default for Costs {
    fn default() -> Costs {
        Costs {
            launch_seconds: 2.5e-6,
            latency_seconds: 4e-7,
            loaded_latency_seconds: 6e-7,
            memory_share: 0.88,
            l2_factor: 2.5,
            handover_seconds: 3.2e-6,
            access_ops: 8.0,
            shuffle_ops: 4.0,
            barrier_seconds: 2e-7,
            cluster_seconds: 1e-7,
            cluster_launch_seconds: 1.2e-6,
            overlap_loss: 0.1,
            l2_sm_bytes: 49.0,
            sm_bytes: 60.0,
            tensor_share: 0.78,
            sync_share: 0.6,
            pipeline_loss: 0.05,
            tile_seconds: 5e-7,
            gather_loss: 3.8,
        }
    }
}

struct Row {
    key: &'static str,
    name: &'static str,
    arch: Arch,
    sms: u32,
    clock_ghz: f64,
    memory_gb: f64,
    bandwidth_gbs: f64,
    l2_mib: u64,
    /// f64, f32, tf32, f16, f8, i8.
    rates: [f64; 6],
}

/// Known GPUs; the first of an architecture is its default.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { key: "t4", name: "Tesla T4", arch: Arch::Sm75, sms: 40, clock_ghz: 1.59, memory_gb: 16.0, bandwidth_gbs: 320.0, l2_mib: 4, rates: [0.25, 8.1, 0.0, 65.0, 0.0, 130.0] },
    Row { key: "a100", name: "A100 80GB SXM", arch: Arch::Sm80, sms: 108, clock_ghz: 1.41, memory_gb: 80.0, bandwidth_gbs: 2039.0, l2_mib: 40, rates: [9.7, 19.5, 156.0, 312.0, 0.0, 624.0] },
    Row { key: "a10", name: "A10", arch: Arch::Sm86, sms: 72, clock_ghz: 1.695, memory_gb: 24.0, bandwidth_gbs: 600.0, l2_mib: 6, rates: [0.49, 31.2, 62.5, 125.0, 0.0, 250.0] },
    Row { key: "rtx3060", name: "GeForce RTX 3060", arch: Arch::Sm86, sms: 28, clock_ghz: 1.777, memory_gb: 12.0, bandwidth_gbs: 360.0, l2_mib: 3, rates: [0.2, 12.7, 12.7, 25.5, 0.0, 101.9] },
    Row { key: "rtx3090", name: "GeForce RTX 3090", arch: Arch::Sm86, sms: 82, clock_ghz: 1.695, memory_gb: 24.0, bandwidth_gbs: 936.0, l2_mib: 6, rates: [0.56, 35.6, 35.6, 71.0, 0.0, 284.0] },
    Row { key: "orin", name: "Jetson AGX Orin 64GB", arch: Arch::Sm87, sms: 16, clock_ghz: 1.3, memory_gb: 64.0, bandwidth_gbs: 204.8, l2_mib: 4, rates: [0.08, 5.3, 21.0, 42.5, 0.0, 85.0] },
    Row { key: "l4", name: "L4", arch: Arch::Sm89, sms: 58, clock_ghz: 2.04, memory_gb: 24.0, bandwidth_gbs: 300.0, l2_mib: 48, rates: [0.47, 30.3, 60.0, 121.0, 242.5, 242.5] },
    Row { key: "l40s", name: "L40S", arch: Arch::Sm89, sms: 142, clock_ghz: 2.52, memory_gb: 48.0, bandwidth_gbs: 864.0, l2_mib: 96, rates: [1.43, 91.6, 183.0, 362.0, 733.0, 733.0] },
    Row { key: "rtx4060", name: "GeForce RTX 4060", arch: Arch::Sm89, sms: 24, clock_ghz: 2.46, memory_gb: 8.0, bandwidth_gbs: 272.0, l2_mib: 24, rates: [0.24, 15.1, 15.1, 30.2, 60.5, 121.0] },
    Row { key: "rtx4090", name: "GeForce RTX 4090", arch: Arch::Sm89, sms: 128, clock_ghz: 2.52, memory_gb: 24.0, bandwidth_gbs: 1008.0, l2_mib: 72, rates: [1.29, 82.6, 82.6, 165.2, 330.3, 660.6] },
    Row { key: "h100", name: "H100 SXM", arch: Arch::Sm90a, sms: 132, clock_ghz: 1.98, memory_gb: 80.0, bandwidth_gbs: 3350.0, l2_mib: 50, rates: [34.0, 67.0, 494.7, 989.4, 1978.9, 1978.9] },
    Row { key: "h200", name: "H200 SXM", arch: Arch::Sm90a, sms: 132, clock_ghz: 1.98, memory_gb: 141.0, bandwidth_gbs: 4800.0, l2_mib: 50, rates: [34.0, 67.0, 494.7, 989.4, 1978.9, 1978.9] },
    Row { key: "b200", name: "B200", arch: Arch::Sm100, sms: 148, clock_ghz: 1.965, memory_gb: 180.0, bandwidth_gbs: 8000.0, l2_mib: 126, rates: [37.0, 75.0, 1100.0, 2250.0, 4500.0, 4500.0] },
    Row { key: "b300", name: "B300", arch: Arch::Sm103, sms: 148, clock_ghz: 1.965, memory_gb: 270.0, bandwidth_gbs: 8000.0, l2_mib: 126, rates: [1.2, 75.0, 1100.0, 2250.0, 4500.0, 150.0] },
    Row { key: "rtx5090", name: "GeForce RTX 5090", arch: Arch::Sm120, sms: 170, clock_ghz: 2.407, memory_gb: 32.0, bandwidth_gbs: 1792.0, l2_mib: 96, rates: [1.64, 104.8, 104.8, 209.5, 419.0, 838.0] },
];

impl Row {
    /// The GPU of a product name: the table's own, or a driver's, which has the short name among its words.
    fn of(arch: Arch, name: &str) -> Option<&'static Row> {
        let words: Vec<String> = name.split_whitespace().map(str::to_ascii_lowercase).collect();
        let named = |row: &&Row| {
            let is = |words: &[String]| words.concat().split('-').any(|word| word == row.key);
            row.arch == arch && (words.windows(1).any(is) || words.windows(2).any(is))
        };
        TABLE.iter().find(|row| row.arch == arch && row.name == name).or_else(|| TABLE.iter().find(named))
    }
}

impl From<&Row> for Gpu {
    fn from(row: &Row) -> Gpu {
        let [f64, f32, tf32, f16, f8, i8] = row.rates;
        Gpu {
            name: row.name.to_owned(),
            arch: row.arch,
            sms: row.sms,
            clock_ghz: row.clock_ghz,
            memory_gb: row.memory_gb,
            bandwidth_gbs: row.bandwidth_gbs,
            l2_bytes: row.l2_mib << 20,
            rates: Rates { f64, f32, tf32, f16, f8, i8 },
            costs: Costs::default(),
        }
    }
}

/// What a driver says of a GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Detected {
    /// Its product name, as in `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// What code is compiled for.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Highest clock in GHz, if that is told.
    pub clock_ghz: Option<f64>,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Device memory bandwidth in GB/s, if what it follows from is told.
    pub bandwidth_gbs: Option<f64>,
    /// Level-2 cache in bytes.
    pub l2_bytes: u64,
}

impl Gpu {
    /// The GPU that a driver has found: the table's of that name, else the typical one of its architecture, with what the driver tells in
    /// its place; rates go with SMs and clock. `None` for an architecture that the table lacks.
    pub fn detected(found: &Detected) -> Option<Gpu> {
        let known = Row::of(found.arch, &found.name).map(Gpu::from).or_else(|| Gpu::typical(found.arch))?;
        let clock_ghz = found.clock_ghz.unwrap_or(known.clock_ghz);
        let share = f64::from(found.sms) * clock_ghz / (f64::from(known.sms) * known.clock_ghz);
        let Rates { f64, f32, tf32, f16, f8, i8 } = known.rates;
        let [f64, f32, tf32, f16, f8, i8] = [f64, f32, tf32, f16, f8, i8].map(|rate| rate * share);
        Some(Gpu {
            name: found.name.clone(),
            sms: found.sms,
            clock_ghz,
            memory_gb: found.memory_bytes as f64 / 1e9,
            bandwidth_gbs: found.bandwidth_gbs.unwrap_or(known.bandwidth_gbs),
            l2_bytes: found.l2_bytes,
            rates: Rates { f64, f32, tf32, f16, f8, i8 },
            ..known
        })
    }

    /// The GPU under a short name such as `h200` or `rtx4090`.
    pub fn named(key: &str) -> Option<Gpu> {
        TABLE.iter().find(|row| row.key == key).map(Gpu::from)
    }

    /// Its short name, by which engines tell apart GPUs of one architecture: the table's, else its name in small letters and digits.
    pub fn key(&self) -> String {
        match Row::of(self.arch, &self.name) {
            Some(row) => row.key.to_owned(),
            None => self.name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect(),
        }
    }

    /// Short names that [`Gpu::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|row| row.key)
    }

    /// The typical GPU of an architecture: what the cost model assumes when only `sm_XX` is given. `None` for an architecture that
    /// the table lacks.
    pub fn typical(arch: Arch) -> Option<Gpu> {
        TABLE.iter().find(|row| row.arch == arch).map(Gpu::from)
    }

    /// Peak operations a second that kernels may reach on operands of a type, on tensor cores where `matrix` allows and [`Arch::mma`]
    /// has the type.
    pub fn peak_ops(&self, operands: DType, matrix: bool) -> f64 {
        let rates = &self.rates;
        1e12 * match operands {
            _ if matrix && self.arch.mma(operands).is_some() => match operands {
                dtype if dtype.is_f8() => rates.f8,
                dtype if dtype.is_int() => rates.i8,
                _ => rates.f16,
            },
            dtype if dtype.bits() == 64 => rates.f64,
            _ => rates.f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_has_a_typical_gpu() {
        for arch in Arch::ALL {
            assert_eq!(Gpu::typical(arch).map(|g| g.arch), Some(arch));
        }
    }

    #[test]
    fn what_a_driver_finds_is_the_table_s_with_its_own_figures() {
        let found = |name: &str, arch, sms| Detected {
            name: name.into(),
            arch,
            sms,
            clock_ghz: None,
            memory_bytes: 24 << 30,
            bandwidth_gbs: None,
            l2_bytes: 3 << 20,
        };
        // As drivers name them, and the row that each is.
        for (name, arch, key) in [
            ("NVIDIA H200", Arch::Sm90a, "h200"),
            ("NVIDIA H100 80GB HBM3", Arch::Sm90a, "h100"),
            ("NVIDIA A100-SXM4-80GB", Arch::Sm80, "a100"),
            ("NVIDIA A10", Arch::Sm86, "a10"),
            ("NVIDIA L40S", Arch::Sm89, "l40s"),
            ("NVIDIA GeForce RTX 4090", Arch::Sm89, "rtx4090"),
            ("NVIDIA GeForce RTX 3060 Ti", Arch::Sm86, "rtx3060"),
            ("Tesla T4", Arch::Sm75, "t4"),
            ("NVIDIA RTX A6000", Arch::Sm86, "a10"),
        ] {
            let row = Gpu::named(key).unwrap();
            let gpu = Gpu::detected(&found(name, arch, row.sms)).unwrap();
            assert_eq!((gpu.name.as_str(), gpu.rates, gpu.l2_bytes), (name, row.rates, 3 << 20));
        }
        for key in Gpu::names() {
            assert_eq!(Gpu::named(key).unwrap().key(), key);
        }
        let gpu = |name: &str, arch| Gpu::detected(&found(name, arch, 100)).unwrap().key();
        assert_eq!(gpu("NVIDIA H200", Arch::Sm90a), "h200");
        assert_eq!(gpu("NVIDIA GeForce RTX 4090", Arch::Sm89), "rtx4090");
        assert_eq!(gpu("NVIDIA RTX A6000", Arch::Sm86), "nvidiartxa6000");
        let half = Detected {
            clock_ghz: Some(0.99),
            bandwidth_gbs: Some(2000.0),
            ..found("NVIDIA H100 PCIe", Arch::Sm90a, 66)
        };
        let gpu = Gpu::detected(&half).unwrap();
        assert!((gpu.rates.f16 - 989.4 / 4.0).abs() < 1e-9 && gpu.bandwidth_gbs == 2000.0, "{gpu:?}");
    }

    #[test]
    fn scalar_rates_follow_from_cores_and_clock() {
        // 2 operations x cores x clock, at 64 (T4, A100) or 128 f32 lanes an SM: a check against mistyped rows.
        for key in Gpu::names() {
            let gpu = Gpu::named(key).unwrap();
            let lanes = if matches!(gpu.arch, Arch::Sm75 | Arch::Sm80) { 64.0 } else { 128.0 };
            let derived = 2.0 * lanes * f64::from(gpu.sms) * gpu.clock_ghz / 1e3;
            let ratio = gpu.rates.f32 / derived;
            assert!((0.9..1.1).contains(&ratio), "{key}: table {} derived {derived}", gpu.rates.f32);
        }
    }

    #[test]
    fn tensor_cores_only_where_they_exist() {
        let t4 = Gpu::named("t4").unwrap();
        assert_eq!(t4.peak_ops(DType::F16, true), 65e12);
        assert_eq!(t4.peak_ops(DType::BF16, true), 8.1e12);
        assert_eq!(t4.peak_ops(DType::F16, false), 8.1e12);
        // No kernel feeds them integers.
        assert_eq!(t4.peak_ops(DType::I8, true), 8.1e12);
        assert_eq!(t4.peak_ops(DType::I64, true), 0.25e12);
    }
}
