//! Element types.

use crate::Format;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    pub const fn bits(self) -> u32 {
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
        match n.checked_mul(self.bits() as usize) {
            Some(bits) => Some(bits.div_ceil(8)),
            None => None,
        }
    }

    /// Whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2)
    }

    /// Whether this is one of the 8-bit floats.
    pub const fn is_f8(self) -> bool {
        self.is_float() && self.bits() == 8
    }

    /// Whether this is an integer type (bool is not).
    pub const fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool)
    }

    /// Whether values of this type can be negative.
    pub const fn is_signed(self) -> bool {
        self.is_float() || matches!(self, DType::I64 | DType::I32 | DType::I16 | DType::I8 | DType::I4)
    }

    /// Stored bits of a float's mantissa; `None` for integers and bool.
    pub const fn mantissa_bits(self) -> Option<u32> {
        match (self, Format::of(self)) {
            (_, Some(format)) => Some(format.mantissa),
            (DType::F32, _) => Some(f32::MANTISSA_DIGITS - 1),
            (DType::F64, _) => Some(f64::MANTISSA_DIGITS - 1),
            _ => None,
        }
    }

    /// The inclusive range of an integer type (bool counts as 0..=1); `None` for floats.
    pub const fn int_range(self) -> Option<(i128, i128)> {
        let bits = self.bits();
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
            DType::Bool => DType::I32,
            other => other.compute(),
        }
    }

    /// The type that arithmetic on values of this type is done in: f32 for narrow floats, i32 for narrow integers, itself for the
    /// rest (bool too).
    pub const fn compute(self) -> DType {
        match self {
            _ if self.is_float() && self.bits() < 32 => DType::F32,
            _ if self.is_int() && self.bits() < 32 => DType::I32,
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

/// A name that is no element type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype `{found}`; one of {}", DType::ALL.map(DType::name).join(", "))]
pub struct UnknownDType {
    /// What was given.
    pub found: String,
}

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(text: &str) -> Result<Self, UnknownDType> {
        DType::ALL.into_iter().find(|d| d.name() == text).ok_or_else(|| UnknownDType { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_are_all_told_apart() {
        for (i, dtype) in DType::ALL.into_iter().enumerate() {
            assert_eq!(dtype.name().parse(), Ok(dtype));
            assert_eq!(dtype as usize, i, "{dtype} is not where ALL has it");
        }
        let err = "f7".parse::<DType>().unwrap_err().to_string();
        assert!(err.contains("`f7`") && err.contains("f8e5m2"), "{err}");
    }

    #[test]
    fn facts_fit_each_other() {
        for dtype in DType::ALL {
            let kinds = [dtype.is_float(), dtype.is_int(), dtype == DType::Bool];
            assert_eq!(kinds.into_iter().filter(|&kind| kind).count(), 1, "{dtype}");
            assert_eq!(dtype.int_range().is_none(), dtype.is_float(), "{dtype}");
            assert_eq!(dtype.compute().compute(), dtype.compute(), "{dtype}");
            assert!(
                dtype.compute().bits() >= dtype.bits() && dtype.compute().is_float() == dtype.is_float(),
                "{dtype}"
            );
        }
        assert_eq!([DType::F32, DType::F8E4M3, DType::I8].map(DType::mantissa_bits), [Some(23), Some(3), None]);
        assert_eq!(DType::Bool.accumulator(), DType::I32);
        assert_eq!(DType::F8E5M2.accumulator(), DType::F32);
        assert_eq!(DType::I4.int_range(), Some((-8, 7)));
        assert_eq!(DType::U4.bytes_for(3), Some(2));
    }
}
