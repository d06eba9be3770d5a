//! What this machine has. An absent thing is a stated fact, not a failure.

use std::fmt;
use std::path::PathBuf;

use kiln_host::Total;
use serde::{Deserialize, Serialize};

use crate::discover::FoundBy;
use crate::{
    CubinCache, CudaDevice, CudaVersion, DeviceProperties, Home, Nvrtc, Python, Release, Result, cubin_refused,
    driver_cuda, driver_version,
};

/// Something that is here, or the reason it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Fact<T> {
    /// It is here.
    Present(T),
    /// It is not.
    Absent {
        /// Why, and what would change that.
        reason: String,
    },
}

impl<T> Fact<T> {
    fn of(result: Result<T>) -> Self {
        match result {
            Ok(value) => Self::Present(value),
            Err(error) => Self::Absent { reason: error.to_string() },
        }
    }

    /// The thing, if it is here.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent { .. } => None,
        }
    }
}

/// The report of [`examine`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The host's processor.
    pub cpu: Cpu,
    /// The NVIDIA driver.
    pub driver: Fact<Driver>,
    /// GPUs, in the driver's order; empty without a driver.
    pub gpus: Vec<DeviceProperties>,
    /// The NVRTC that a build would use.
    pub nvrtc: Fact<NvrtcReport>,
    /// The python3 that `kiln setup` would use.
    pub python: Fact<PythonReport>,
    /// Kiln's folder.
    pub home: PathBuf,
    /// The folder of the cache of compiled kernels.
    pub cache_folder: PathBuf,
    /// How large that is.
    pub cache: Fact<Total>,
}

/// The host's processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Model, if the system tells it.
    pub model: Option<String>,
    /// Architecture, as in `x86_64`.
    pub arch: String,
    /// Threads this process may run at once.
    pub threads: usize,
    /// Vector and matrix extensions that Kiln's CPU kernels can make use of.
    pub features: Vec<String>,
}

/// The NVIDIA driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// Newest CUDA version it supports, as in `13.0`.
    pub cuda: String,
    /// Its release, as in `580.95.05`, if the system tells it.
    pub release: Option<String>,
    /// The NVRTC release that `kiln setup` fetches for it.
    pub nvrtc: String,
}

/// NVRTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvrtcReport {
    /// Exact release, as in `13.0.88`.
    pub release: String,
    /// The library.
    pub path: PathBuf,
    /// The rule that found it.
    pub found_by: Option<FoundBy>,
    /// Architectures it compiles for, as in `sm_90`.
    pub architectures: Vec<String>,
    /// The oldest driver branch that runs what it compiles, as in `r580`, where that is known.
    pub drivers_from: Option<String>,
    /// Why the driver here does not run what it compiles, and what to do; `None` if it does, or there is no driver.
    pub refused: Option<String>,
}

/// Python.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonReport {
    /// Its version.
    pub version: String,
    /// The interpreter.
    pub path: PathBuf,
    /// Version of its pip module, if it has one.
    pub pip: Option<String>,
}

/// Looks at this machine. Opens no context on a GPU, downloads nothing, writes nothing.
pub fn examine(home: &Home) -> Report {
    let cache = CubinCache::in_home(home);
    let supported = driver_cuda();
    let nvrtc = || Release::fitting(supported).version.to_owned();
    let driver = Fact::of(driver_version().map(|(cuda, release)| Driver { cuda, release, nvrtc: nvrtc() }));
    let gpus = (0..CudaDevice::count().unwrap_or(0)).filter_map(|i| DeviceProperties::query(i).ok()).collect();
    Report {
        cpu: Cpu::of_host(),
        driver,
        gpus,
        nvrtc: Fact::of(Nvrtc::discover(home).map(|nvrtc| NvrtcReport::new(&nvrtc, supported))),
        python: Fact::of(Python::find().map(|python| PythonReport {
            version: python.version().to_owned(),
            path: python.path().to_owned(),
            pip: python.pip_version(),
        })),
        home: home.root().to_owned(),
        cache_folder: cache.folder().to_owned(),
        cache: Fact::of(cache.size()),
    }
}

impl NvrtcReport {
    fn new(nvrtc: &Nvrtc, driver: Option<CudaVersion>) -> Self {
        let release = nvrtc.release().to_owned();
        let least = CudaVersion::of_release(&release).map(|version| CudaVersion::new(version.major, 0));
        Self {
            path: nvrtc.path().to_owned(),
            found_by: nvrtc.found_by(),
            architectures: nvrtc.architectures().iter().map(|arch| format!("sm_{arch}")).collect(),
            drivers_from: least.and_then(CudaVersion::driver).map(str::to_owned),
            refused: driver.and_then(|driver| cubin_refused(&release, driver)),
            release,
        }
    }
}

impl Cpu {
    fn of_host() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == "model name")
            .map(|(_, value)| value.trim().to_owned());
        Self {
            model,
            arch: std::env::consts::ARCH.to_owned(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            features: cpu_features().into_iter().map(str::to_owned).collect(),
        }
    }
}

macro_rules! detected {
    ($test:ident: $($name:tt),*) => {
        [$(($name, std::arch::$test!($name))),*].into_iter().filter(|&(_, here)| here).map(|(name, _)| name).collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    detected!(is_x86_feature_detected:
        "sse4.2", "avx", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512vl", "avx512vnni",
        "avx512bf16", "avx512fp16")
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    detected!(is_aarch64_feature_detected: "neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |label: &str, text: String| {
            // An error may take several lines; the rest are set below the first.
            writeln!(f, "{label:<8}{}", text.replace('\n', "\n        "))
        };
        let or_reason = |fact: Result<String, &String>| match fact {
            Ok(text) => text,
            Err(reason) => format!("none: {reason}"),
        };
        for gpu in &self.gpus {
            let (major, minor) = gpu.compute_capability;
            let text = format!(
                "cuda:{} {}, compute capability {major}.{minor}, {} SMs, {:.1} GiB",
                gpu.ordinal,
                gpu.name,
                gpu.sm_count,
                gpu.memory_bytes as f64 / (1u64 << 30) as f64
            );
            line("GPU", text)?;
        }
        if self.gpus.is_empty() {
            line("GPU", "none".to_owned())?;
        }
        line(
            "Driver",
            or_reason(self.driver.text(|Driver { cuda, release, nvrtc }| {
                let release = release.as_ref().map(|release| format!("{release}, ")).unwrap_or_default();
                format!("{release}supports CUDA {cuda}; `kiln setup` fetches NVRTC {nvrtc} for it")
            })),
        )?;
        line(
            "NVRTC",
            or_reason(self.nvrtc.text(|nvrtc| {
                let from = nvrtc.drivers_from.as_ref().map(|d| format!(", for drivers from {d}")).unwrap_or_default();
                let refused = nvrtc.refused.as_ref().map(|why| format!("\n{why}")).unwrap_or_default();
                let (path, architectures) = (nvrtc.path.display(), nvrtc.architectures.join(" "));
                format!("{} at {path}{from}\n{architectures}{refused}", nvrtc.release)
            })),
        )?;
        let model = self.cpu.model.as_deref().unwrap_or("unknown model");
        let cpu = format!("{model} ({}), {} threads\n{}", self.cpu.arch, self.cpu.threads, self.cpu.features.join(" "));
        line("CPU", cpu)?;
        line(
            "Python",
            or_reason(self.python.text(|python| {
                let pip = python.pip.as_ref().map_or("no pip".to_owned(), |pip| format!("pip {pip}"));
                format!("{} at {}, {pip}", python.version, python.path.display())
            })),
        )?;
        line("Home", self.home.display().to_string())?;
        line(
            "Cache",
            or_reason(self.cache.text(|size| {
                let mib = size.bytes as f64 / (1u64 << 20) as f64;
                format!("{} kernels, {mib:.1} MiB in {}", size.entries, self.cache_folder.display())
            })),
        )
    }
}

impl<T> Fact<T> {
    fn text(&self, show: impl FnOnce(&T) -> String) -> Result<String, &String> {
        match self {
            Self::Present(value) => Ok(show(value)),
            Self::Absent { reason } => Err(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_home_is_reported_and_survives_json() {
        let root = tempfile::tempdir().unwrap();
        let report = examine(&Home::at(root.path().join("home")));
        assert_eq!(report.cache, Fact::Present(Total::default()));
        assert!(report.cpu.threads >= 1);
        assert!(report.driver.present().is_some() || report.gpus.is_empty());
        assert!(!root.path().join("home").exists(), "looking must not write");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        let text = report.to_string();
        for label in ["GPU", "Driver", "NVRTC", "CPU", "Python", "Cache"] {
            assert!(text.lines().any(|line| line.starts_with(label)), "{label} missing from:\n{text}");
        }
    }

    #[test]
    fn an_nvrtc_too_new_for_the_driver_is_said() {
        let root = tempfile::tempdir().unwrap();
        let mut report = examine(&Home::at(root.path()));
        report.driver = Fact::Present(Driver {
            cuda: "12.8".to_owned(),
            release: Some("570.86".to_owned()),
            nvrtc: Release::fitting(Some(CudaVersion::new(12, 8))).version.to_owned(),
        });
        report.nvrtc = Fact::Present(NvrtcReport {
            release: "13.0.88".to_owned(),
            path: "/nvrtc/libnvrtc.so.13".into(),
            found_by: None,
            architectures: vec!["sm_80".to_owned()],
            drivers_from: Some("r580".to_owned()),
            refused: cubin_refused("13.0.88", CudaVersion::new(12, 8)),
        });
        let text = report.to_string();
        for part in [
            "570.86, supports CUDA 12.8; `kiln setup` fetches NVRTC 12.9.86",
            "for drivers from r580",
            "kiln setup --nvrtc 12",
        ] {
            assert!(text.contains(part), "{part} missing from:\n{text}");
        }
    }

    #[test]
    fn absent_things_carry_their_reason() {
        let absent: Fact<Driver> = Fact::of(Err(crate::CudaError::NoDriver));
        let json = serde_json::to_value(&absent).unwrap();
        assert_eq!(json["state"], "absent");
        assert!(json["reason"].as_str().unwrap().contains("libcuda"), "{json}");
        let present = Fact::Present(Driver { cuda: "13.0".to_owned(), release: None, nvrtc: "13.0.88".to_owned() });
        assert_eq!(serde_json::to_value(&present).unwrap()["cuda"], "13.0");
    }
}
