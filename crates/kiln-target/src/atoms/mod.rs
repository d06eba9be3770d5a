//! The matrix and copy instructions of GPUs, as data: "which dtype has tensor cores where" is written here and nowhere else.
//!
//! Sources: PTX ISA, "Warp Level Matrix Instructions", "Asynchronous Warpgroup Level Matrix Instructions", "Data Movement and Conversion
//! Instructions". A new GPU is rows; so is a new type. What compiles programs takes an [`AtomTable`], so that rows can be missing.

mod asm;
mod copy;
mod mma;

pub use asm::{Asm, Role, Slot};
pub use copy::{CopyAtom, CopyKind, Space};
pub use mma::{MatrixType, MmaAtom, MmaKind, Source};

use crate::arch::Arch;
use kiln_num::Round;

/// Which architectures have an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Those from this compute capability on (`10 * major + minor`).
    From(u32),
    /// This one alone.
    Only(Arch),
}

impl Availability {
    /// Whether an architecture is one of them.
    pub fn on(self, arch: Arch) -> bool {
        match self {
            Availability::From(capability) => arch.capability() >= capability,
            Availability::Only(only) => arch == only,
        }
    }
}

/// Who executes one instruction together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Issuer {
    /// Each thread for itself, or one for all (TMA).
    Thread,
    /// 32 threads.
    Warp,
    /// Four warps, the first a multiple of four.
    Warpgroup,
}

impl Issuer {
    /// Threads of one.
    pub fn threads(self) -> u32 {
        match self {
            Issuer::Thread => 1,
            Issuer::Warp => 32,
            Issuer::Warpgroup => 128,
        }
    }
}

/// When what an instruction did may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Completion {
    /// With the next instruction.
    Immediate,
    /// After `cp.async.commit_group` and `cp.async.wait_group`, in the threads that issued it.
    CopyGroup,
    /// When a barrier in shared memory has counted its bytes.
    Mbarrier,
    /// After `cp.async.bulk.commit_group` and `cp.async.bulk.wait_group`, in the thread that issued it.
    BulkGroup,
    /// After `wgmma.commit_group` and `wgmma.wait_group`; until then its registers may not be touched.
    WgmmaGroup,
}

impl Completion {
    /// Whether other instructions run meanwhile.
    pub fn is_async(self) -> bool {
        self != Completion::Immediate
    }
}

/// The instructions that programs for one architecture may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtomTable {
    arch: Arch,
    mma: Vec<MmaAtom>,
    copies: Vec<CopyAtom>,
}

impl AtomTable {
    /// All that the architecture has.
    pub fn new(arch: Arch) -> Self {
        let mma = MmaAtom::ALL.iter().filter(|row| row.available.on(arch)).copied().collect();
        let copies = CopyAtom::ALL.iter().filter(|row| row.available.on(arch)).copied().collect();
        Self { arch, mma, copies }
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The table with only the matrix instructions that `keep` accepts.
    pub fn keep_mma(mut self, keep: impl Fn(&MmaAtom) -> bool) -> Self {
        self.mma.retain(keep);
        self
    }

    /// The table with only the copies that `keep` accepts.
    pub fn keep_copies(mut self, keep: impl Fn(&CopyAtom) -> bool) -> Self {
        self.copies.retain(keep);
        self
    }

    /// What multiplies an `a` by a `b` into sums of type `acc`, best first. The last, where there is one, is [`MmaKind::Fma`]: its
    /// operands are converted to the type of the sums first, which is exact.
    pub fn mma_atoms(&self, a: MatrixType, b: MatrixType, acc: MatrixType) -> Vec<&MmaAtom> {
        let mut found: Vec<&MmaAtom> = self.mma.iter().filter(|row| row.takes(a, b, acc)).collect();
        found.sort_by_key(|row| std::cmp::Reverse((row.kind, row.m * row.k)));
        found
    }

    /// How threads can round f32 to TF32, the best first ("Data Movement and Conversion Instructions: cvt"). Ties to even is how TMA rounds too;
    /// before it, ties go away from zero.
    pub fn tf32_roundings(&self) -> &'static [Round] {
        match self.arch.capability() {
            90.. => &[Round::Nearest, Round::NearestAway],
            80.. => &[Round::NearestAway],
            _ => &[],
        }
    }

    /// What moves data from one space to another, best first: asynchronous before others, wide before narrow. TMA multicast, which is of
    /// use in clusters only, comes after TMA.
    pub fn copy_atoms(&self, from: Space, to: Space) -> Vec<&CopyAtom> {
        let mut found: Vec<&CopyAtom> = self.copies.iter().filter(|row| (row.from, row.to) == (from, to)).collect();
        found.sort_by_key(|row| std::cmp::Reverse(row.rank()));
        found
    }

    /// Whether a copy of a kind is there.
    pub fn has_copy(&self, kind: CopyKind) -> bool {
        self.copies.iter().any(|row| row.kind == kind)
    }

    /// The copy of a kind that writes to a space.
    pub fn copy(&self, kind: CopyKind, to: Space) -> Option<&CopyAtom> {
        self.copies.iter().find(|row| row.kind == kind && row.to == to)
    }
}

/// All that an architecture has.
impl From<Arch> for AtomTable {
    fn from(arch: Arch) -> Self {
        Self::new(arch)
    }
}
