//! GPU architectures by their compiler name (`sm_80`, `sm_90a`...), and what code generation may use on each.
//!
//! Figures are from the CUDA C++ Programming Guide, "Compute Capabilities", and the PTX ISA's target notes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One exact GPU architecture that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Arch {
    /// Turing (T4, RTX 20).
    Sm75,
    /// Ampere data centre (A100).
    Sm80,
    /// Ampere workstation (A10, RTX 30).
    Sm86,
    /// Orin.
    Sm87,
    /// Ada (L4, L40, RTX 40).
    Sm89,
    /// Hopper with its architecture-specific instructions (H100, H200).
    Sm90a,
    /// Blackwell data centre (B200).
    Sm100,
    /// Blackwell Ultra (B300).
    Sm103,
    /// Blackwell workstation (RTX 50, RTX PRO).
    Sm120,
}

/// Shape `m x n x k` of one warp-level matrix instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmaShape {
    /// Rows of the accumulator.
    pub m: u32,
    /// Columns of the accumulator.
    pub n: u32,
    /// Depth of one instruction.
    pub k: u32,
}

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: [Arch; 9] = [
        Arch::Sm75,
        Arch::Sm80,
        Arch::Sm86,
        Arch::Sm87,
        Arch::Sm89,
        Arch::Sm90a,
        Arch::Sm100,
        Arch::Sm103,
        Arch::Sm120,
    ];

    /// The compiler's name: `sm_90a`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Sm75 => "sm_75",
            Arch::Sm80 => "sm_80",
            Arch::Sm86 => "sm_86",
            Arch::Sm87 => "sm_87",
            Arch::Sm89 => "sm_89",
            Arch::Sm90a => "sm_90a",
            Arch::Sm100 => "sm_100",
            Arch::Sm103 => "sm_103",
            Arch::Sm120 => "sm_120",
        }
    }

    /// Compute capability as `10 * major + minor`.
    pub fn capability(self) -> u32 {
        match self {
            Arch::Sm75 => 75,
            Arch::Sm80 => 80,
            Arch::Sm86 => 86,
            Arch::Sm87 => 87,
            Arch::Sm89 => 89,
            Arch::Sm90a => 90,
            Arch::Sm100 => 100,
            Arch::Sm103 => 103,
            Arch::Sm120 => 120,
        }
    }

    /// Whether a driver can assemble PTX of this architecture for a GPU of that compute capability (`10 * major + minor`): for newer GPUs
    /// too, but PTX with architecture-specific instructions (`sm_90a`) only for its own.
    pub fn ptx_runs_on(self, capability: u32) -> bool {
        capability == self.capability() || capability > self.capability() && !self.name().ends_with('a')
    }

    /// What to compile for to run on a GPU of that compute capability: its own architecture, or else the newest whose PTX it runs.
    pub fn for_capability(capability: u32) -> Option<Arch> {
        let own = Arch::ALL.into_iter().find(|arch| arch.capability() == capability);
        own.or_else(|| Arch::ALL.into_iter().rev().find(|arch| arch.ptx_runs_on(capability)))
    }

    /// Whether `cp.async` copies global to shared memory without registers (sm_80 and newer).
    pub fn has_cp_async(self) -> bool {
        self.capability() >= 80
    }

    /// Whether bf16 conversions and `mma.sync` on bf16 exist (sm_80 and newer).
    pub fn has_bf16(self) -> bool {
        self.capability() >= 80
    }

    /// Whether `cvt` to and from the 8-bit floats exists (sm_89 and newer).
    pub fn has_f8_convert(self) -> bool {
        self.capability() >= 89
    }

    /// Shape of the largest dense `mma.sync` for f16 inputs and f32 accumulators.
    pub fn f16_mma(self) -> MmaShape {
        let k = if self.capability() >= 80 { 16 } else { 8 };
        MmaShape { m: 16, n: 8, k }
    }

    /// Most shared memory one block may use, static and dynamic together, in bytes.
    pub fn max_shared_per_block(self) -> u32 {
        let kib = match self {
            Arch::Sm75 => 64,
            Arch::Sm80 | Arch::Sm87 => 163,
            Arch::Sm86 | Arch::Sm89 | Arch::Sm120 => 99,
            Arch::Sm90a | Arch::Sm100 | Arch::Sm103 => 227,
        };
        kib * 1024
    }

    /// Shared memory of one SM that resident blocks divide among them, in bytes.
    pub fn shared_per_sm(self) -> u32 {
        let kib = match self {
            Arch::Sm75 => 64,
            Arch::Sm80 | Arch::Sm87 => 164,
            Arch::Sm86 | Arch::Sm89 | Arch::Sm120 => 100,
            Arch::Sm90a | Arch::Sm100 | Arch::Sm103 => 228,
        };
        kib * 1024
    }

    /// 32-bit registers of one SM.
    pub fn registers_per_sm(self) -> u32 {
        65536
    }

    /// Most 32-bit registers one thread may use.
    pub fn max_registers_per_thread(self) -> u32 {
        255
    }

    /// Most threads resident on one SM.
    pub fn max_threads_per_sm(self) -> u32 {
        match self {
            Arch::Sm75 => 1024,
            Arch::Sm86 | Arch::Sm87 | Arch::Sm89 | Arch::Sm120 => 1536,
            Arch::Sm80 | Arch::Sm90a | Arch::Sm100 | Arch::Sm103 => 2048,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no architecture Kiln generates code for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a GPU architecture that Kiln compiles for; choose one of {}", known_names())]
pub struct UnknownArch {
    /// What was given.
    pub found: String,
}

fn known_names() -> String {
    Arch::ALL.map(Arch::name).join(", ")
}

impl FromStr for Arch {
    type Err = UnknownArch;

    /// Accepts `sm_XX`; `sm_90` means `sm_90a`, since a Hopper GPU runs both.
    fn from_str(text: &str) -> Result<Self, UnknownArch> {
        if text == "sm_90" {
            return Ok(Arch::Sm90a);
        }
        Arch::ALL.into_iter().find(|arch| arch.name() == text).ok_or_else(|| UnknownArch { found: text.to_owned() })
    }
}

impl From<Arch> for String {
    fn from(arch: Arch) -> String {
        arch.name().to_owned()
    }
}

impl TryFrom<String> for Arch {
    type Error = UnknownArch;

    fn try_from(text: String) -> Result<Self, UnknownArch> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_has_its_own_architecture_or_the_newest_that_it_runs() {
        for arch in Arch::ALL {
            assert_eq!(Arch::for_capability(arch.capability()), Some(arch));
        }
        for (capability, expected) in [(88, Arch::Sm87), (110, Arch::Sm103), (121, Arch::Sm120), (130, Arch::Sm120)] {
            assert_eq!(Arch::for_capability(capability), Some(expected), "{capability}");
        }
        assert_eq!(Arch::for_capability(70), None);
        assert!(Arch::Sm80.ptx_runs_on(90) && Arch::Sm80.ptx_runs_on(121) && !Arch::Sm80.ptx_runs_on(75));
        assert!(Arch::Sm90a.ptx_runs_on(90) && !Arch::Sm90a.ptx_runs_on(100) && !Arch::Sm90a.ptx_runs_on(89));
    }

    #[test]
    fn every_name_parses_back() {
        for arch in Arch::ALL {
            assert_eq!(arch.name().parse::<Arch>(), Ok(arch));
        }
        assert_eq!("sm_90".parse::<Arch>(), Ok(Arch::Sm90a));
        let err = "sm_12".parse::<Arch>().unwrap_err().to_string();
        assert!(err.contains("sm_12") && err.contains("sm_120"), "{err}");
    }
}
