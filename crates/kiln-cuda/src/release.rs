//! NVRTC's releases: which drivers run what they compile, which architectures they know, and the two that `kiln setup` fetches.
//!
//! Sources: the CUDA Compatibility guide (least driver of a major version), the release notes of the toolkit (driver a minor version
//! came with, architectures added), and the PTX ISA's release history.

use std::fmt;

use crate::{CudaError, Result};

/// A CUDA version, as in 12.9: of a toolkit, or the newest that a driver supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CudaVersion {
    /// 12 in 12.9.
    pub major: u32,
    /// 9 in 12.9.
    pub minor: u32,
}

impl CudaVersion {
    /// `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The version of the toolkit that an NVRTC release such as `13.0.88` belongs to.
    pub fn of_release(release: &str) -> Option<Self> {
        let mut parts = release.split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some(Self { major, minor }),
            _ => None,
        }
    }

    /// The driver branch that first supported it, as in `r575`, where it is known.
    pub fn driver(self) -> Option<&'static str> {
        DRIVERS.iter().find(|(version, _)| *version == self).map(|(_, driver)| *driver)
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

const DRIVERS: [(CudaVersion, &str); 12] = [
    (CudaVersion::new(12, 0), "r525"),
    (CudaVersion::new(12, 1), "r530"),
    (CudaVersion::new(12, 2), "r535"),
    (CudaVersion::new(12, 3), "r545"),
    (CudaVersion::new(12, 4), "r550"),
    (CudaVersion::new(12, 5), "r555"),
    (CudaVersion::new(12, 6), "r560"),
    (CudaVersion::new(12, 7), "r565"),
    (CudaVersion::new(12, 8), "r570"),
    (CudaVersion::new(12, 9), "r575"),
    (CudaVersion::new(13, 0), "r580"),
    (CudaVersion::new(13, 1), "r590"),
];

/// The CUDA version whose NVRTC first compiled for a compute capability (`10 * major + minor`). CUDA 13 dropped those below 75.
const ARCHITECTURES: [(u32, CudaVersion); 10] = [
    (75, CudaVersion::new(10, 0)),
    (80, CudaVersion::new(11, 0)),
    (86, CudaVersion::new(11, 1)),
    (87, CudaVersion::new(11, 4)),
    (89, CudaVersion::new(11, 8)),
    (90, CudaVersion::new(11, 8)),
    (100, CudaVersion::new(12, 8)),
    (103, CudaVersion::new(12, 9)),
    (110, CudaVersion::new(13, 0)),
    (120, CudaVersion::new(12, 8)),
];

/// Which NVRTC compiles for an architecture such as `sm_120a`, in words, for the end of a message; empty for one that is not known.
pub(crate) fn nvrtc_for(arch: &str) -> String {
    let capability = arch.trim_start_matches("sm_").trim_end_matches(['a', 'f']).parse::<u32>();
    let Some((number, since)) = ARCHITECTURES.iter().find(|(known, _)| capability.as_ref() == Ok(known)) else {
        return String::new();
    };
    let releases = RELEASES.iter().filter(|release| release.cuda() >= *since).map(Release::advice).collect::<Vec<_>>();
    format!("; sm_{number} needs NVRTC {since} or newer: {}", releases.join(", "))
}

/// An NVRTC release that [`setup`](crate::setup) fetches.
#[derive(Debug, PartialEq, Eq)]
pub struct Release {
    /// Exact version, as in `13.0.88`.
    pub version: &'static str,
    /// Project that publishes it in the Python package index.
    pub(crate) project: &'static str,
    pub(crate) wheels: [Wheel; 2],
}

/// The file of one release for one processor, on Linux.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wheel {
    /// As [`std::env::consts::ARCH`] has it.
    pub arch: &'static str,
    /// Platform tags, as pip takes them and the file's name has them.
    pub platforms: [&'static str; 2],
    pub sha256: &'static str,
    pub bytes: u64,
}

const X86_64: [&str; 2] = ["manylinux2010_x86_64", "manylinux_2_12_x86_64"];
const AARCH64: [&str; 2] = ["manylinux2014_aarch64", "manylinux_2_17_aarch64"];

/// The releases that [`setup`](crate::setup) fetches, newest first: one a major version of CUDA, for what a major version compiles runs on
/// every driver of that major version and on later ones.
pub const RELEASES: [Release; 2] = [
    Release {
        version: "13.0.88",
        project: "nvidia-cuda-nvrtc",
        wheels: [
            Wheel {
                arch: "x86_64",
                platforms: X86_64,
                sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
                bytes: 90_215_200,
            },
            Wheel {
                arch: "aarch64",
                platforms: AARCH64,
                sha256: "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
                bytes: 43_015_449,
            },
        ],
    },
    Release {
        version: "12.9.86",
        project: "nvidia-cuda-nvrtc-cu12",
        wheels: [
            Wheel {
                arch: "x86_64",
                platforms: X86_64,
                sha256: "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
                bytes: 89_568_129,
            },
            Wheel {
                arch: "aarch64",
                platforms: AARCH64,
                sha256: "096d4de6bda726415dfaf3198d4f5c522b8e70139c97feef5cd2ca6d4cd9cead",
                bytes: 44_528_905,
            },
        ],
    },
];

impl Release {
    /// The one of a major version of CUDA.
    pub fn of_major(major: u32) -> Option<&'static Release> {
        RELEASES.iter().find(|release| release.cuda().major == major)
    }

    /// The one for a driver that supports CUDA versions up to `driver`; without a driver the newest.
    pub fn fitting(driver: Option<CudaVersion>) -> &'static Release {
        let runs = |release: &&Release| driver.is_none_or(|driver| driver.major >= release.cuda().major);
        // A driver too old for all of them runs nothing, whatever is compiled.
        RELEASES.iter().find(runs).unwrap_or(&RELEASES[RELEASES.len() - 1])
    }

    /// The toolkit that it belongs to.
    pub fn cuda(&self) -> CudaVersion {
        CudaVersion::of_release(self.version).unwrap_or(CudaVersion::new(0, 0))
    }

    /// How a user gets it.
    pub(crate) fn advice(&self) -> String {
        format!("`kiln setup --nvrtc {}` fetches {}", self.cuda().major, self.version)
    }

    /// The file for this machine.
    ///
    /// # Errors
    /// [`CudaError::UnsupportedHost`].
    pub(crate) fn wheel(&self) -> Result<&Wheel> {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let found = self.wheels.iter().find(|wheel| os == "linux" && wheel.arch == arch);
        found.ok_or(CudaError::UnsupportedHost { os, arch })
    }
}

/// Why a driver does not run machine code of this NVRTC release; `None` if it does. Code runs on every driver of its major version or a later one.
pub fn cubin_refused(release: &str, driver: CudaVersion) -> Option<String> {
    let needed = CudaVersion::new(CudaVersion::of_release(release)?.major, 0);
    (driver < needed).then(|| {
        format!(
            "code of NVRTC {release} needs a driver for CUDA {needed}{} or newer, and the one here supports up to CUDA {driver}: update \
             it, or build again with an older NVRTC ({})",
            in_brackets(needed.driver()),
            Release::fitting(Some(driver)).advice()
        )
    })
}

/// Why a driver does not assemble this PTX; `None` if it does, as far as its version says.
pub fn ptx_refused(ptx: &str, driver: CudaVersion) -> Option<String> {
    let Some((major, minor)) = ptx_version(ptx) else { return Some("the PTX has no `.version`".to_owned()) };
    let needed = ptx_cuda(major, minor);
    (driver < needed).then(|| {
        format!(
            "PTX {major}.{minor} is assembled by drivers for CUDA {needed}{} or newer, and the one here supports up to CUDA {driver}: \
             update it, or build for this GPU's own architecture",
            in_brackets(needed.driver())
        )
    })
}

fn in_brackets(driver: Option<&str>) -> String {
    driver.map(|driver| format!(" ({driver})")).unwrap_or_default()
}

/// The first `.version` directive.
fn ptx_version(ptx: &str) -> Option<(u32, u32)> {
    let text = ptx.lines().find_map(|line| line.trim_start().strip_prefix(".version"))?;
    let (major, minor) = text.split_whitespace().next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The CUDA version that brought a version of PTX.
fn ptx_cuda(major: u32, minor: u32) -> CudaVersion {
    // PTX 8.6 came with CUDA 12.7; 12.6 brought none. PTX 9.0 came with CUDA 13.0.
    let minor = if major == 8 && minor >= 6 { minor + 1 } else { minor };
    CudaVersion::new(major + 4, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(major: u32, minor: u32) -> CudaVersion {
        CudaVersion::new(major, minor)
    }

    #[test]
    fn a_release_fits_every_driver_from_r525() {
        for (driver, version) in [
            (v(12, 0), "12.9.86"),
            (v(12, 4), "12.9.86"),
            (v(12, 9), "12.9.86"),
            (v(13, 0), "13.0.88"),
            (v(13, 1), "13.0.88"),
            (v(14, 0), "13.0.88"),
        ] {
            let release = Release::fitting(Some(driver));
            assert_eq!(release.version, version, "{driver}");
            assert_eq!(cubin_refused(release.version, driver), None);
        }
        assert_eq!(Release::fitting(None).version, "13.0.88");
        assert_eq!(Release::of_major(12).unwrap().version, "12.9.86");
        assert_eq!(Release::of_major(11), None);
        assert!(RELEASES.is_sorted_by(|a, b| a.cuda() > b.cuda()));
    }

    #[test]
    fn refusals_name_what_fits() {
        let text = cubin_refused("13.0.88", v(12, 8)).unwrap();
        for part in ["13.0.88", "CUDA 13.0 (r580)", "up to CUDA 12.8", "kiln setup --nvrtc 12", "12.9.86"] {
            assert!(text.contains(part), "{part} missing from: {text}");
        }
        assert_eq!(cubin_refused("12.9.86", v(12, 0)), None);
        assert_eq!(cubin_refused("12.9.86", v(13, 0)), None);

        let ptx = "//\n// Generated by NVIDIA NVVM Compiler\n\n.version 8.8\n.target sm_80\n";
        let text = ptx_refused(ptx, v(12, 8)).unwrap();
        for part in ["PTX 8.8", "CUDA 12.9 (r575)", "up to CUDA 12.8"] {
            assert!(text.contains(part), "{part} missing from: {text}");
        }
        assert_eq!(ptx_refused(ptx, v(12, 9)), None);
        for (version, needed) in [
            ("8.0", v(12, 0)),
            ("8.5", v(12, 5)),
            ("8.6", v(12, 7)),
            ("8.7", v(12, 8)),
            ("9.0", v(13, 0)),
            ("9.1", v(13, 1)),
        ] {
            let ptx = format!(".version {version}\n");
            assert_eq!(ptx_refused(&ptx, needed), None, "{version}");
            let older = if needed.minor == 0 { v(needed.major - 1, 9) } else { v(needed.major, needed.minor - 1) };
            assert!(ptx_refused(&ptx, older).is_some(), "{version}");
        }
        assert!(ptx_refused("no directive", v(13, 0)).unwrap().contains(".version"));
    }

    #[test]
    fn architectures_name_the_release_that_has_them() {
        let (blackwell, thor) = (nvrtc_for("sm_120a"), nvrtc_for("sm_110"));
        assert!(
            blackwell.contains("sm_120 needs NVRTC 12.8 or newer") && blackwell.contains("--nvrtc 12"),
            "{blackwell}"
        );
        assert!(
            thor.contains("13.0 or newer") && thor.contains("--nvrtc 13") && !thor.contains("--nvrtc 12"),
            "{thor}"
        );
        assert_eq!(nvrtc_for("sm_37"), "");
    }
}
