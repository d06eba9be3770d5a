//! GPU architectures by their compiler name (`sm_80`, `sm_90a`...), and what code generation may use on each.
//!
//! Figures are from the CUDA C++ Programming Guide, "Compute Capabilities", and the PTX ISA's target notes.

use crate::atoms::{AtomTable, MatrixType, MmaAtom, MmaKind};
use kiln_num::DType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

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

/// Whether kernels feed operands of a type to the tensor cores of any architecture: [`Arch::mma`] says of which.
pub fn has_mma(dtype: DType) -> bool {
    Arch::ALL.into_iter().any(|arch| arch.mma(dtype).is_some())
}

/// What differs between architectures.
struct Facts {
    name: &'static str,
    capability: u32,
    /// Shared memory of one SM.
    shared_kib: u32,
    threads_per_sm: u32,
    blocks_per_sm: u32,
}

/// Makes [`Arch`] of one row an architecture, oldest first.
macro_rules! architectures {
    ($($(#[$doc:meta])* $arch:ident: $facts:expr,)*) => {
        /// One exact GPU architecture that kernels are compiled for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub enum Arch {
            $($(#[$doc])* $arch,)*
        }

        impl Arch {
            /// Every architecture, oldest first.
            pub const ALL: [Arch; [$(Arch::$arch),*].len()] = [$(Arch::$arch),*];

            fn facts(self) -> Facts {
                match self {
                    $(Arch::$arch => $facts,)*
                }
            }
        }
    };
}

#[rustfmt::skip]
architectures! {
    /// Turing (T4, RTX 20).
    Sm75: Facts { name: "sm_75", capability: 75, shared_kib: 64, threads_per_sm: 1024, blocks_per_sm: 16 },
    /// Ampere data centre (A100).
    Sm80: Facts { name: "sm_80", capability: 80, shared_kib: 164, threads_per_sm: 2048, blocks_per_sm: 32 },
    /// Ampere workstation (A10, RTX 30).
    Sm86: Facts { name: "sm_86", capability: 86, shared_kib: 100, threads_per_sm: 1536, blocks_per_sm: 16 },
    /// Orin.
    Sm87: Facts { name: "sm_87", capability: 87, shared_kib: 164, threads_per_sm: 1536, blocks_per_sm: 16 },
    /// Ada (L4, L40, RTX 40).
    Sm89: Facts { name: "sm_89", capability: 89, shared_kib: 100, threads_per_sm: 1536, blocks_per_sm: 24 },
    /// Hopper with its architecture-specific instructions (H100, H200).
    Sm90a: Facts { name: "sm_90a", capability: 90, shared_kib: 228, threads_per_sm: 2048, blocks_per_sm: 32 },
    /// Blackwell data centre (B200).
    Sm100: Facts { name: "sm_100", capability: 100, shared_kib: 228, threads_per_sm: 2048, blocks_per_sm: 32 },
    /// Blackwell Ultra (B300).
    Sm103: Facts { name: "sm_103", capability: 103, shared_kib: 228, threads_per_sm: 2048, blocks_per_sm: 32 },
    /// Blackwell workstation (RTX 50, RTX PRO).
    Sm120: Facts { name: "sm_120", capability: 120, shared_kib: 100, threads_per_sm: 1536, blocks_per_sm: 24 },
}

impl Arch {
    /// The compiler's name: `sm_90a`.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Compute capability as `10 * major + minor`.
    pub fn capability(self) -> u32 {
        self.facts().capability
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

    /// Whether blocks are launched in clusters and tensor maps say what bulk copies (TMA) take (sm_90 and newer).
    pub fn has_clusters(self) -> bool {
        self.capability() >= 90
    }

    /// Whether `cvt` to bf16 and what came with it exist: packed conversions, `min.NaN` and `max.NaN` (sm_80 and newer).
    pub fn has_bf16(self) -> bool {
        self.capability() >= 80
    }

    /// Whether `cvt` to and from the 8-bit floats exists (sm_89 and newer).
    pub fn has_f8_convert(self) -> bool {
        self.capability() >= 89
    }

    /// The copy and matrix instructions of this architecture.
    pub fn atoms(self) -> AtomTable {
        AtomTable::new(self)
    }

    /// The largest matrix instruction of a warp that kernels use on operands of a type, with f32 sums; `None` where the tensor cores
    /// lack the type, or for other than 16-bit floats, which kernels do not use them for.
    pub fn mma(self, operands: DType) -> Option<MmaShape> {
        let ty = MatrixType::of(operands).filter(|_| matches!(operands, DType::F16 | DType::BF16))?;
        let has = |row: &&MmaAtom| {
            let types = (row.a, row.b, row.acc) == (ty, ty, MatrixType::F32);
            types && row.kind == MmaKind::Sync && row.available.on(self)
        };
        let rows = MmaAtom::ALL.iter().filter(has);
        rows.max_by_key(|row| row.k).map(|row| MmaShape { m: row.m, n: row.widths[0], k: row.k })
    }

    /// Shared memory that the system keeps of what one block takes, in bytes.
    pub fn reserved_shared_per_block(self) -> u32 {
        if self.capability() >= 80 { 1024 } else { 0 }
    }

    /// Most shared memory one block may use, static and dynamic together, in bytes.
    pub fn max_shared_per_block(self) -> u32 {
        self.shared_per_sm() - self.reserved_shared_per_block()
    }

    /// Shared memory of one SM that resident blocks divide among them, in bytes.
    pub fn shared_per_sm(self) -> u32 {
        self.facts().shared_kib * 1024
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
        self.facts().threads_per_sm
    }

    /// Most blocks resident on one SM.
    pub fn max_blocks_per_sm(self) -> u32 {
        self.facts().blocks_per_sm
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

    #[test]
    fn rows_stand_by_age_and_say_what_the_guide_says() {
        assert!(Arch::ALL.is_sorted_by_key(|arch| arch.capability()));
        for arch in Arch::ALL {
            assert!(arch.name().starts_with(&format!("sm_{}", arch.capability())), "{arch}");
        }
        // CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
        let blocks = Arch::ALL.map(|arch| arch.max_shared_per_block() / 1024);
        assert_eq!(blocks, [64, 163, 99, 163, 99, 227, 227, 227, 99]);
        assert_eq!(Arch::ALL.map(Arch::max_blocks_per_sm), [16, 32, 16, 16, 24, 32, 32, 32, 24]);
    }

    #[test]
    fn tensor_cores_have_a_type_from_its_first_architecture_on() {
        for dtype in DType::ALL {
            let have = Arch::ALL.map(|arch| arch.mma(dtype).is_some());
            assert!(have.is_sorted(), "{dtype}: {have:?}");
            assert_eq!(has_mma(dtype), have.contains(&true), "{dtype}");
        }
        assert_eq!(Arch::Sm75.mma(DType::F16).map(|shape| shape.k), Some(8));
        assert_eq!(Arch::Sm80.mma(DType::F16).map(|shape| shape.k), Some(16));
        assert_eq!(Arch::Sm75.mma(DType::BF16), None);
        assert_eq!(Arch::Sm90a.mma(DType::F32), None);
    }
}
