//! Element types.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// OCP 8-bit float, 4 exponent and 3 mantissa bits, finite only, one NaN pattern, maximum 448.
    F8E4M3,
    /// OCP 8-bit float, 5 exponent and 2 mantissa bits, with infinities, maximum 57344.
    F8E5M2,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer.
    I8,
    /// 64-bit unsigned integer.
    U64,
    /// 32-bit unsigned integer.
    U32,
    /// 16-bit unsigned integer.
    U16,
    /// 8-bit unsigned integer.
    U8,
    /// 4-bit signed integer, two a byte, first element in the low nibble.
    I4,
    /// 4-bit unsigned integer, two a byte, first element in the low nibble.
    U4,
    /// A byte that is 0 or 1.
    Bool,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 17] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::I4,
        DType::U4,
        DType::Bool,
    ];

    /// Width of one element, in bits.
    pub const fn bits(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 64,
            DType::F32 | DType::I32 | DType::U32 => 32,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 16,
            DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 | DType::Bool => 8,
            DType::I4 | DType::U4 => 4,
        }
    }

    /// Bytes that `n` densely packed elements take; `None` on overflow.
    pub const fn bytes_for(self, n: usize) -> Option<usize> {
        match n.checked_mul(self.bits()) {
            Some(bits) => Some(bits.div_ceil(8)),
            None => None,
        }
    }

    /// Whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2)
    }

    /// Whether this is an integer type (bool is not).
    pub const fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool)
    }

    /// Whether values of this type can be negative.
    pub const fn is_signed(self) -> bool {
        self.is_float() || matches!(self, DType::I64 | DType::I32 | DType::I16 | DType::I8 | DType::I4)
    }

    /// The inclusive range of an integer type (bool counts as 0..=1); `None` for floats.
    pub const fn int_range(self) -> Option<(i128, i128)> {
        let bits = self.bits() as u32;
        match self {
            DType::Bool => Some((0, 1)),
            _ if self.is_float() => None,
            _ if self.is_signed() => Some((-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)),
            _ => Some((0, (1i128 << bits) - 1)),
        }
    }

    /// The type that sums and products of this type accumulate in unless an op says otherwise: f32 for narrow floats, i32 for
    /// narrow integers, itself for the rest.
    pub const fn accumulator(self) -> DType {
        match self {
            DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2 => DType::F32,
            DType::I8 | DType::U8 | DType::I4 | DType::U4 | DType::I16 | DType::U16 | DType::Bool => DType::I32,
            other => other,
        }
    }

    /// The name used in text forms, headers and messages, for instance `f16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F8E4M3 => "f8e4m3",
            DType::F8E5M2 => "f8e5m2",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U64 => "u64",
            DType::U32 => "u32",
            DType::U16 => "u16",
            DType::U8 => "u8",
            DType::I4 => "i4",
            DType::U4 => "u4",
            DType::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        DType::ALL
            .into_iter()
            .find(|d| d.name() == s)
            .ok_or_else(|| format!("unknown dtype `{s}`; one of {}", DType::ALL.map(DType::name).join(", ")))
    }
}
