//! Matrix instructions.

use super::{Asm, Availability, Completion, Issuer, Role};
use crate::arch::Arch;
use kiln_layout::{LayoutError, Mode, RegisterLayout};
use kiln_num::DType;

/// What a matrix instruction takes an element to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each is the type of its name
pub enum MatrixType {
    F64,
    F32,
    /// An f32 whose low 13 bits are not used: not exact.
    Tf32,
    F16,
    BF16,
    E4m3,
    E5m2,
    S32,
    S8,
    U8,
}

impl MatrixType {
    /// The type of elements of a dtype; `None` for those that no matrix instruction takes. An f32 is [`Tf32`](Self::Tf32) only where a
    /// program says so.
    pub fn of(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::F64 => Self::F64,
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            DType::F8E4M3 => Self::E4m3,
            DType::F8E5M2 => Self::E5m2,
            DType::I32 => Self::S32,
            DType::I8 => Self::S8,
            DType::U8 => Self::U8,
            _ => return None,
        })
    }

    /// PTX's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
            Self::S32 => "s32",
            Self::S8 => "s8",
            Self::U8 => "u8",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u32 {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::Tf32 | Self::S32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::E4m3 | Self::E5m2 | Self::S8 | Self::U8 => 1,
        }
    }

    /// Elements of a register, whatever it holds one of being at least a word.
    pub fn per_word(self) -> u32 {
        (4 / self.bytes()).max(1)
    }

    fn is_integer(self) -> bool {
        matches!(self, Self::S32 | Self::S8 | Self::U8)
    }

    /// Whether every value is one of `sums` too.
    fn widens_to(self, sums: Self) -> bool {
        match sums {
            Self::F64 => !self.is_integer(),
            Self::F32 => !self.is_integer() && self != Self::F64,
            Self::S32 => self.is_integer(),
            _ => false,
        }
    }

    fn constraint(self, written: bool) -> &'static str {
        match (self, written) {
            (Self::F64, true) => "+d",
            (Self::F64, false) => "d",
            (Self::F32, true) => "+f",
            (Self::F32, false) => "f",
            (_, true) => "+r",
            (_, false) => "r",
        }
    }
}

/// Families of matrix instructions, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MmaKind {
    /// A thread's multiply and add.
    Fma,
    /// `mma.sync`, of a warp.
    Sync,
    /// `wgmma.mma_async`, of a warpgroup.
    Wgmma,
}

/// Where an operand is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Registers, by [`MmaAtom::a_layout`] or [`MmaAtom::b_layout`].
    Registers,
    /// Shared memory, by a matrix descriptor; whether its m or n axis is dense there instead of k.
    Shared {
        /// m of A, n of B.
        mn_major: bool,
    },
}

/// One matrix instruction: sums (m, n) += left (m, k) * right (k, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmaAtom {
    /// Its family.
    pub kind: MmaKind,
    /// Which architectures have it.
    pub available: Availability,
    /// Type of the left operand.
    pub a: MatrixType,
    /// Type of the right operand.
    pub b: MatrixType,
    /// Type of the sums.
    pub acc: MatrixType,
    /// Rows.
    pub m: u32,
    /// Columns: which it may have, ascending.
    pub widths: &'static [u32],
    /// Depth.
    pub k: u32,
}

/// Columns of wgmma, of floats.
const EIGHTS: [u32; 32] = {
    let mut widths = [0; 32];
    let mut i = 0;
    while i < 32 {
        widths[i] = 8 * (i as u32 + 1);
        i += 1;
    }
    widths
};

/// Columns of wgmma, of integers.
const SIXTEENS: [u32; 18] = [8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256];

const fn fma(ty: MatrixType) -> MmaAtom {
    MmaAtom { kind: MmaKind::Fma, available: Availability::From(0), a: ty, b: ty, acc: ty, m: 1, widths: &[1], k: 1 }
}

const fn sync(from: u32, (m, k): (u32, u32), acc: MatrixType, a: MatrixType, b: MatrixType) -> MmaAtom {
    MmaAtom { kind: MmaKind::Sync, available: Availability::From(from), a, b, acc, m, widths: &[8], k }
}

const fn wgmma(k: u32, widths: &'static [u32], acc: MatrixType, a: MatrixType, b: MatrixType) -> MmaAtom {
    MmaAtom { kind: MmaKind::Wgmma, available: Availability::Only(Arch::Sm90a), a, b, acc, m: 64, widths, k }
}

use MatrixType::{BF16, E4m3, E5m2, F16, F32, F64, S8, S32, Tf32, U8};

impl MmaAtom {
    /// Every matrix instruction of every architecture.
    pub const ALL: &'static [MmaAtom] = &[
        fma(F32),
        fma(F64),
        fma(S32),
        sync(75, (16, 8), F32, F16, F16),
        sync(80, (16, 16), F32, F16, F16),
        sync(80, (16, 16), F32, BF16, BF16),
        sync(80, (16, 8), F32, Tf32, Tf32),
        sync(80, (8, 4), F64, F64, F64),
        sync(75, (8, 16), S32, S8, S8),
        sync(75, (8, 16), S32, S8, U8),
        sync(75, (8, 16), S32, U8, S8),
        sync(75, (8, 16), S32, U8, U8),
        sync(80, (16, 32), S32, S8, S8),
        sync(80, (16, 32), S32, S8, U8),
        sync(80, (16, 32), S32, U8, S8),
        sync(80, (16, 32), S32, U8, U8),
        sync(89, (16, 32), F32, E4m3, E4m3),
        sync(89, (16, 32), F32, E4m3, E5m2),
        sync(89, (16, 32), F32, E5m2, E4m3),
        sync(89, (16, 32), F32, E5m2, E5m2),
        wgmma(16, &EIGHTS, F32, F16, F16),
        wgmma(16, &EIGHTS, F32, BF16, BF16),
        wgmma(8, &EIGHTS, F32, Tf32, Tf32),
        wgmma(32, &EIGHTS, F32, E4m3, E4m3),
        wgmma(32, &EIGHTS, F32, E4m3, E5m2),
        wgmma(32, &EIGHTS, F32, E5m2, E4m3),
        wgmma(32, &EIGHTS, F32, E5m2, E5m2),
        wgmma(32, &SIXTEENS, S32, S8, S8),
        wgmma(32, &SIXTEENS, S32, S8, U8),
        wgmma(32, &SIXTEENS, S32, U8, S8),
        wgmma(32, &SIXTEENS, S32, U8, U8),
    ];

    /// Its name, in which `N` stands for the columns where they vary: `wgmma.m64nNk16.f32.bf16.bf16`.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            MmaKind::Fma => return format!("fma.{}", self.acc.name()),
            MmaKind::Sync => "mma",
            MmaKind::Wgmma => "wgmma",
        };
        let columns = if let [only] = self.widths { only.to_string() } else { "N".to_owned() };
        format!("{kind}.m{}n{columns}k{}.{}.{}.{}", self.m, self.k, self.acc.name(), self.a.name(), self.b.name())
    }

    /// Whether it multiplies an `a` by a `b` into `acc`: of its types, or an fma into whose type they convert exactly.
    pub fn takes(&self, a: MatrixType, b: MatrixType, acc: MatrixType) -> bool {
        let operands = match self.kind {
            MmaKind::Fma => a.widens_to(acc) && b.widens_to(acc),
            MmaKind::Sync | MmaKind::Wgmma => (self.a, self.b) == (a, b),
        };
        operands && self.acc == acc
    }

    /// Who issues it.
    pub fn issuer(&self) -> Issuer {
        match self.kind {
            MmaKind::Fma => Issuer::Thread,
            MmaKind::Sync => Issuer::Warp,
            MmaKind::Wgmma => Issuer::Warpgroup,
        }
    }

    /// When the sums may be read.
    pub fn completes(&self) -> Completion {
        if self.kind == MmaKind::Wgmma { Completion::WgmmaGroup } else { Completion::Immediate }
    }

    /// Whether it reads its left operand from there.
    pub fn takes_a(&self, source: Source) -> bool {
        source == Source::Registers || self.takes_b(source)
    }

    /// Whether it reads its right operand from there.
    pub fn takes_b(&self, source: Source) -> bool {
        match source {
            Source::Registers => self.kind != MmaKind::Wgmma,
            Source::Shared { mn_major } => self.kind == MmaKind::Wgmma && (!mn_major || self.a.bytes() == 2),
        }
    }

    /// Which (m, k) a thread's registers of the left operand hold ("Matrix Fragments"): a word holds neighbours of k, four lanes follow
    /// each other along k, eight along m.
    pub fn a_layout(&self) -> RegisterLayout {
        let word = self.a.per_word();
        let rows = self.rows_of_a_warp();
        fragment(match self.kind {
            MmaKind::Fma => RegisterLayout::new(&[1, 1], &[], &[]),
            _ => RegisterLayout::new(
                &[self.m, self.k],
                &[Mode::along(1, word, 1), Mode::along(0, rows / 8, 8), Mode::along(1, self.k / (4 * word), 4 * word)],
                &[Mode::along(1, 4, word), Mode::along(0, 8, 1), Mode::along(0, self.m / rows, rows)],
            ),
        })
    }

    /// Which (k, n) a thread's registers of the right operand hold; `None` where it comes from shared memory.
    pub fn b_layout(&self) -> Option<RegisterLayout> {
        let word = self.b.per_word();
        match self.kind {
            MmaKind::Wgmma => None,
            MmaKind::Fma => Some(fragment(RegisterLayout::new(&[1, 1], &[], &[]))),
            MmaKind::Sync => Some(fragment(RegisterLayout::new(
                &[self.k, self.widths[0]],
                &[Mode::along(0, word, 1), Mode::along(0, self.k / (4 * word), 4 * word)],
                &[Mode::along(0, 4, word), Mode::along(1, 8, 1)],
            ))),
        }
    }

    /// Which (m, n) a thread's sums are, for `n` columns; `None` for columns it cannot have.
    pub fn acc_layout(&self, n: u32) -> Option<RegisterLayout> {
        let rows = self.rows_of_a_warp();
        self.widths.contains(&n).then(|| {
            fragment(match self.kind {
                MmaKind::Fma => RegisterLayout::new(&[1, 1], &[], &[]),
                _ => RegisterLayout::new(
                    &[self.m, n],
                    &[Mode::along(1, 2, 1), Mode::along(0, rows / 8, 8), Mode::along(1, n / 8, 8)],
                    &[Mode::along(1, 4, 2), Mode::along(0, 8, 1), Mode::along(0, self.m / rows, rows)],
                ),
            })
        })
    }

    /// The statement for `n` columns, operands from there; `None` for what it cannot have. Roles are words of the sums, words or
    /// descriptors of the operands; of wgmma also whether to add to the sums.
    pub fn asm(&self, n: u32, a: Source, b: Source) -> Option<Asm> {
        if !self.widths.contains(&n) || !self.takes_a(a) || !self.takes_b(b) {
            return None;
        }
        let [acc_ty, a_ty, b_ty] = [self.acc, self.a, self.b].map(MatrixType::name);
        let sums = (Role::Accumulator, self.acc_layout(n)?.registers(), self.acc.constraint(true));
        let words = |layout: RegisterLayout, ty: MatrixType| layout.registers() / ty.per_word();
        let left = match a {
            Source::Registers => (Role::A, words(self.a_layout(), self.a), self.a.constraint(false)),
            Source::Shared { .. } => (Role::A, 1, "l"),
        };
        let right = match self.b_layout() {
            Some(layout) => (Role::B, words(layout, self.b), self.b.constraint(false)),
            None => (Role::B, 1, "l"),
        };
        let (m, k) = (self.m, self.k);
        Some(match self.kind {
            MmaKind::Fma => {
                let op = if self.acc == S32 { "mad.lo.s32".to_owned() } else { format!("fma.rn.{acc_ty}") };
                Asm::new(&format!("{op} $acc, $a, $b, $acc;"), &[sums, left, right], false)
            }
            MmaKind::Sync => {
                let op = format!("mma.sync.aligned.m{m}n{n}k{k}.row.col.{acc_ty}.{a_ty}.{b_ty}.{acc_ty}");
                Asm::new(&format!("{op} $acc*, $a*, $b*, $acc*;"), &[sums, left, right], false)
            }
            MmaKind::Wgmma => {
                let turned = |source| u32::from(source == Source::Shared { mn_major: true });
                let a_text = if a == Source::Registers { "$a*" } else { "$a" };
                // Signs of the operands, which integers lack, and transposes, which only 16-bit operands in shared memory have.
                let signs = if self.acc == S32 { "" } else { ", 1, 1" };
                let turns = match (self.a.bytes(), a) {
                    (2, Source::Registers) => format!(", {}", turned(b)),
                    (2, _) => format!(", {}, {}", turned(a), turned(b)),
                    _ => String::new(),
                };
                let op = format!("wgmma.mma_async.sync.aligned.m{m}n{n}k{k}.{acc_ty}.{a_ty}.{b_ty}");
                let text = format!(
                    "{{.reg .pred p; setp.ne.b32 p, $accumulate, 0; {op} $acc*, {a_text}, $b, p{signs}{turns};}}"
                );
                Asm::new(&text, &[sums, left, right, (Role::Accumulate, 1, "r")], true)
            }
        })
    }

    /// Rows that one of its warps has.
    fn rows_of_a_warp(&self) -> u32 {
        self.m.min(16)
    }
}

/// A fragment of the table, which is one by its rows (tests read them all).
fn fragment(built: Result<RegisterLayout, LayoutError>) -> RegisterLayout {
    built.unwrap_or_else(|error| unreachable!("a row of the table of matrix instructions: {error}"))
}
