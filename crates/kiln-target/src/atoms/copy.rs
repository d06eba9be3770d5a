//! Copies between global memory, shared memory and registers.

use super::{Asm, Availability, Completion, Issuer, Role};
use crate::arch::Arch;
use kiln_layout::SwizzleMode;

/// Where data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Global memory.
    Global,
    /// Shared memory of the block (of its cluster, for [`CopyKind::TensorMulticast`]).
    Shared,
    /// Registers of the thread.
    Registers,
}

/// Families of copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CopyKind {
    /// A thread's load or store.
    Vector,
    /// `ldmatrix` and `stmatrix`: 8 x 8 matrices of 16-bit elements, in the layout of fragments.
    Matrix {
        /// Matrices.
        count: u32,
        /// Whether each is transposed.
        trans: bool,
    },
    /// `cp.async`.
    Async,
    /// TMA, a box that one barrier or group waits for, to every block of a cluster that asks.
    TensorMulticast,
    /// TMA, channels of pixels that the windows of a convolution see ("im2col").
    TensorWindows,
    /// TMA, a box of a tensor.
    Tensor,
}

/// One copy instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyAtom {
    /// Its name: `cp.async.16`.
    pub name: &'static str,
    /// Its family.
    pub kind: CopyKind,
    /// Which architectures have it.
    pub available: Availability,
    /// Where it reads.
    pub from: Space,
    /// Where it writes.
    pub to: Space,
    /// Bytes a thread moves; of a matrix those of a row, of TMA what inner boxes are multiples of.
    pub bytes: u32,
    /// PTX, with `{d}` for the rank of a tensor map.
    text: &'static str,
}

/// Mnemonics of vector accesses for each width.
macro_rules! vectors {
    ($load:ident, $store:ident, $space:ident, $name:literal) => {
        const $load: [CopyAtom; 5] = [
            vector(concat!("ld.", $name, ".1"), Space::$space, true, 1, concat!("ld.", $name, ".u8 $value, [$from];")),
            vector(concat!("ld.", $name, ".2"), Space::$space, true, 2, concat!("ld.", $name, ".u16 $value, [$from];")),
            vector(concat!("ld.", $name, ".4"), Space::$space, true, 4, concat!("ld.", $name, ".b32 $value, [$from];")),
            vector(
                concat!("ld.", $name, ".8"),
                Space::$space,
                true,
                8,
                concat!("ld.", $name, ".v2.b32 $value*, [$from];"),
            ),
            vector(
                concat!("ld.", $name, ".16"),
                Space::$space,
                true,
                16,
                concat!("ld.", $name, ".v4.b32 $value*, [$from];"),
            ),
        ];
        const $store: [CopyAtom; 5] = [
            vector(concat!("st.", $name, ".1"), Space::$space, false, 1, concat!("st.", $name, ".u8 [$to], $value;")),
            vector(concat!("st.", $name, ".2"), Space::$space, false, 2, concat!("st.", $name, ".u16 [$to], $value;")),
            vector(concat!("st.", $name, ".4"), Space::$space, false, 4, concat!("st.", $name, ".b32 [$to], $value;")),
            vector(
                concat!("st.", $name, ".8"),
                Space::$space,
                false,
                8,
                concat!("st.", $name, ".v2.b32 [$to], $value*;"),
            ),
            vector(
                concat!("st.", $name, ".16"),
                Space::$space,
                false,
                16,
                concat!("st.", $name, ".v4.b32 [$to], $value*;"),
            ),
        ];
    };
}

const fn vector(name: &'static str, space: Space, load: bool, bytes: u32, text: &'static str) -> CopyAtom {
    let (from, to) = if load { (space, Space::Registers) } else { (Space::Registers, space) };
    CopyAtom { name, kind: CopyKind::Vector, available: Availability::From(0), from, to, bytes, text }
}

const fn async_copy(name: &'static str, bytes: u32, text: &'static str) -> CopyAtom {
    let (from, to) = (Space::Global, Space::Shared);
    CopyAtom { name, kind: CopyKind::Async, available: Availability::From(80), from, to, bytes, text }
}

const fn tensor(name: &'static str, load: bool, text: &'static str) -> CopyAtom {
    let (from, to) = if load { (Space::Global, Space::Shared) } else { (Space::Shared, Space::Global) };
    CopyAtom { name, kind: CopyKind::Tensor, available: Availability::From(90), from, to, bytes: 16, text }
}

const fn matrix(name: &'static str, load: bool, count: u32, trans: bool, text: &'static str) -> CopyAtom {
    let (from, to) = if load { (Space::Shared, Space::Registers) } else { (Space::Registers, Space::Shared) };
    let available = Availability::From(if load { 75 } else { 90 });
    CopyAtom { name, kind: CopyKind::Matrix { count, trans }, available, from, to, bytes: 16, text }
}

vectors!(LOAD_GLOBAL, STORE_GLOBAL, Global, "global");
vectors!(LOAD_SHARED, STORE_SHARED, Shared, "shared");

#[rustfmt::skip]
const OTHERS: [CopyAtom; 19] = [
    // The last operand is how many bytes exist; the others are filled with zeros.
    async_copy("cp.async.4", 4, "cp.async.ca.shared.global [$to], [$from], 4, $bytes;"),
    async_copy("cp.async.8", 8, "cp.async.ca.shared.global [$to], [$from], 8, $bytes;"),
    async_copy("cp.async.16", 16, "cp.async.cg.shared.global [$to], [$from], 16, $bytes;"),
    tensor("tma.load", true, "cp.async.bulk.tensor.{d}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [$to], [$map, $at*], [$barrier];"),
    CopyAtom {
        kind: CopyKind::TensorMulticast,
        available: Availability::Only(Arch::Sm90a),
        ..tensor("tma.load.multicast", true, "cp.async.bulk.tensor.{d}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [$to], [$map, $at*], [$barrier], $blocks;")
    },
    CopyAtom {
        kind: CopyKind::TensorWindows,
        ..tensor("tma.load.im2col", true, "cp.async.bulk.tensor.{d}d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [$to], [$map, $at*], [$barrier], $offset*;")
    },
    tensor("tma.store", false, "cp.async.bulk.tensor.{d}d.global.shared::cta.tile.bulk_group [$map, $at*], [$from];"),
    matrix("ldmatrix.x1", true, 1, false, "ldmatrix.sync.aligned.m8n8.x1.shared.b16 $value*, [$from];"),
    matrix("ldmatrix.x2", true, 2, false, "ldmatrix.sync.aligned.m8n8.x2.shared.b16 $value*, [$from];"),
    matrix("ldmatrix.x4", true, 4, false, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 $value*, [$from];"),
    matrix("ldmatrix.x1.trans", true, 1, true, "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 $value*, [$from];"),
    matrix("ldmatrix.x2.trans", true, 2, true, "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 $value*, [$from];"),
    matrix("ldmatrix.x4.trans", true, 4, true, "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 $value*, [$from];"),
    matrix("stmatrix.x1", false, 1, false, "stmatrix.sync.aligned.m8n8.x1.shared.b16 [$to], $value*;"),
    matrix("stmatrix.x2", false, 2, false, "stmatrix.sync.aligned.m8n8.x2.shared.b16 [$to], $value*;"),
    matrix("stmatrix.x4", false, 4, false, "stmatrix.sync.aligned.m8n8.x4.shared.b16 [$to], $value*;"),
    matrix("stmatrix.x1.trans", false, 1, true, "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [$to], $value*;"),
    matrix("stmatrix.x2.trans", false, 2, true, "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [$to], $value*;"),
    matrix("stmatrix.x4.trans", false, 4, true, "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [$to], $value*;"),
];

impl CopyAtom {
    /// Every copy of every architecture.
    pub const ALL: &'static [CopyAtom] = &{
        let parts: [&[CopyAtom]; 5] = [&LOAD_GLOBAL, &STORE_GLOBAL, &LOAD_SHARED, &STORE_SHARED, &OTHERS];
        let mut all = [OTHERS[0]; 4 * 5 + OTHERS.len()];
        let (mut part, mut at) = (0, 0);
        while part < parts.len() {
            let mut i = 0;
            while i < parts[part].len() {
                all[at] = parts[part][i];
                (i, at) = (i + 1, at + 1);
            }
            part += 1;
        }
        all
    };

    /// Who issues it.
    pub fn issuer(&self) -> Issuer {
        if matches!(self.kind, CopyKind::Matrix { .. }) { Issuer::Warp } else { Issuer::Thread }
    }

    /// When the data is there; of a store to global memory by TMA, when shared memory may be written again.
    pub fn completes(&self) -> Completion {
        match (self.kind, self.to) {
            (CopyKind::Vector | CopyKind::Matrix { .. }, _) => Completion::Immediate,
            (CopyKind::Async, _) => Completion::CopyGroup,
            (_, Space::Shared) => Completion::Mbarrier,
            _ => Completion::BulkGroup,
        }
    }

    /// Whether it is TMA.
    pub fn is_tensor(&self) -> bool {
        matches!(self.kind, CopyKind::Tensor | CopyKind::TensorMulticast | CopyKind::TensorWindows)
    }

    /// What addresses in global memory are multiples of: of TMA the tensor's base and strides.
    pub fn global_alignment(&self) -> u32 {
        self.bytes
    }

    /// What addresses in shared memory are multiples of, without the swizzle's own alignment.
    pub fn shared_alignment(&self) -> u32 {
        if self.is_tensor() { 128 } else { self.bytes }
    }

    /// Swizzles that the instruction itself applies in shared memory; where threads give the addresses, these can be swizzled in any way.
    pub fn swizzles(&self) -> &'static [SwizzleMode] {
        if self.is_tensor() { &SwizzleMode::ALL } else { &[SwizzleMode::None] }
    }

    /// The statement, for a tensor map of `rank` axes where it takes one; `None` for a rank that TMA lacks. A value of up to 4 bytes is
    /// one word (16 bits for 1 and 2 bytes), else as many words as it takes.
    pub fn asm(&self, rank: u32) -> Option<Asm> {
        // Windows move along one axis of space at least, besides those of channels and images.
        let least = if self.kind == CopyKind::TensorWindows { 3 } else { 1 };
        if self.is_tensor() && !(least..=5).contains(&rank) {
            return None;
        }
        let words = if let CopyKind::Matrix { count, .. } = self.kind { count } else { self.bytes.div_ceil(4) };
        let value = match (self.to == Space::Registers, self.bytes) {
            (true, 1 | 2) => (Role::Value, 1, "=h"),
            (true, _) => (Role::Value, words, "=r"),
            (false, 1 | 2) => (Role::Value, 1, "h"),
            (false, _) => (Role::Value, words, "r"),
        };
        let address = |space| if space == Space::Global { "l" } else { "r" };
        let (to, from) = ((Role::To, 1, address(self.to)), (Role::From, 1, address(self.from)));
        let box_of = [(Role::Map, 1, "l"), (Role::At, rank, "r")];
        let barrier = (Role::Barrier, 1, "r");
        let operands = match (self.kind, self.to) {
            (CopyKind::Vector | CopyKind::Matrix { .. }, Space::Registers) => vec![value, from],
            (CopyKind::Vector | CopyKind::Matrix { .. }, _) => vec![value, to],
            (CopyKind::Async, _) => vec![to, from, (Role::Bytes, 1, "r")],
            (CopyKind::Tensor, Space::Shared) => vec![to, box_of[0], box_of[1], barrier],
            (CopyKind::Tensor, _) => vec![box_of[0], box_of[1], from],
            (CopyKind::TensorMulticast, _) => vec![to, box_of[0], box_of[1], barrier, (Role::Blocks, 1, "h")],
            (CopyKind::TensorWindows, _) => vec![to, box_of[0], box_of[1], barrier, (Role::Offset, rank - 2, "h")],
        };
        Some(Asm::new(&self.text.replace("{d}", &rank.to_string()), &operands, true))
    }

    /// What makes one better than another.
    pub(super) fn rank(&self) -> (CopyKind, u32) {
        (self.kind, self.bytes)
    }
}
