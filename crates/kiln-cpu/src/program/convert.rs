//! Conversions between dtypes and register classes, and rounding of registers to a declared dtype.

use super::Scalar;
use half::{bf16, f16};
use kiln_graph::DType;
use kiln_graph::number::{f8e4m3_from_f64, f8e4m3_to_f64, f8e5m2_from_f64, f8e5m2_to_f64, int_to_float, round_to};

/// Decodes an 8-bit float.
pub(crate) fn f8_decode(bits: u8, dtype: DType) -> f32 {
    if dtype == DType::F8E4M3 { f8e4m3_to_f64(bits) as f32 } else { f8e5m2_to_f64(bits) as f32 }
}

/// Encodes to an 8-bit float that already holds the value or rounds to it.
pub(crate) fn f8_encode(x: f32, dtype: DType) -> u8 {
    let x = f64::from(x);
    if dtype == DType::F8E4M3 { f8e4m3_from_f64(x, false) } else { f8e5m2_from_f64(x, false) }
}

/// Wraps an integer to a dtype's width.
#[inline(always)]
pub(crate) fn wrap(v: i64, dtype: DType) -> i64 {
    match dtype {
        DType::I32 => i64::from(v as i32),
        DType::I16 => i64::from(v as i16),
        DType::I8 => i64::from(v as i8),
        DType::U32 => i64::from(v as u32),
        DType::U16 => i64::from(v as u16),
        DType::U8 => i64::from(v as u8),
        DType::I4 => (v << 60) >> 60,
        DType::U4 => v & 15,
        DType::Bool => i64::from(v != 0),
        _ => v,
    }
}

/// Converts a float to an integer dtype: toward zero, saturating, NaN to 0.
#[inline(always)]
pub(crate) fn float_to_int(x: f64, dtype: DType) -> i64 {
    match dtype {
        DType::Bool => i64::from(x != 0.0),
        DType::U64 => (x as u64) as i64,
        DType::I64 => x as i64,
        DType::U32 => i64::from(x as u32),
        DType::I32 => i64::from(x as i32),
        DType::U16 => i64::from(x as u16),
        DType::I16 => i64::from(x as i16),
        DType::U8 => i64::from(x as u8),
        DType::I8 => i64::from(x as i8),
        DType::I4 => (x as i64).clamp(-8, 7),
        _ => (x as i64).clamp(0, 15),
    }
}

/// Rounds an f64 once to a narrow float, as f32. (`half` converts an f64 by way of f32, where it may round twice.)
pub(crate) fn narrow(x: f64, dtype: DType, saturate: bool) -> f32 {
    let single = x as f32;
    match dtype {
        DType::F16 if f64::from(single) == x => f16::from_f32(single).to_f32(),
        DType::BF16 if f64::from(single) == x => round_bf16(single),
        _ => round_to(dtype, x, saturate) as f32,
    }
}

/// Rounds an integer once to a narrow float, as f32.
pub(super) fn narrow_int(x: i128, dtype: DType, saturate: bool) -> f32 {
    int_to_float(dtype, x, saturate) as f32
}

/// Rounds f32 registers to the dtype they stand for.
pub(super) fn round_f32(xs: &mut [f32], dtype: DType) {
    match dtype {
        DType::F16 => {
            for x in xs {
                *x = f16::from_f32(*x).to_f32();
            }
        }
        DType::BF16 => crate::simd::update1(xs, round_bf16),
        DType::F8E4M3 | DType::F8E5M2 => {
            for x in xs {
                *x = narrow(f64::from(*x), dtype, false);
            }
        }
        _ => {}
    }
}

/// Nearest-even rounding to bfloat16.
#[inline(always)]
pub(super) fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { bits | 0x0040_0000 } else { rounded })
}

/// Wraps i32 registers to the dtype they stand for.
pub(super) fn wrap_i32(xs: &mut [i32], dtype: DType) {
    if matches!(dtype, DType::I32 | DType::Bool) {
        return;
    }
    crate::simd::update1(xs, |x| wrap(i64::from(x), dtype) as i32);
}

/// Wraps i64 registers to the dtype they stand for.
pub(super) fn wrap_i64(xs: &mut [i64], dtype: DType) {
    if dtype == DType::U32 {
        crate::simd::update1(xs, |x| i64::from(x as u32));
    }
}

impl Scalar {
    /// As a float.
    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Scalar::F(x) => x,
            Scalar::I(v) => v as f64,
        }
    }

    /// As an integer.
    pub(crate) fn as_i64(self) -> i64 {
        match self {
            Scalar::F(x) => x as i64,
            Scalar::I(v) => v,
        }
    }

    /// Reads element `index` of little-endian data.
    pub(crate) fn read(data: &[u8], dtype: DType, index: usize) -> Option<Scalar> {
        fn at<const N: usize>(data: &[u8], index: usize) -> Option<[u8; N]> {
            data.get(index * N..)?.first_chunk().copied()
        }
        Some(match dtype {
            DType::F64 => Scalar::F(f64::from_le_bytes(at(data, index)?)),
            DType::F32 => Scalar::F(f64::from(f32::from_le_bytes(at(data, index)?))),
            DType::F16 => Scalar::F(f16::from_le_bytes(at(data, index)?).to_f64()),
            DType::BF16 => Scalar::F(bf16::from_le_bytes(at(data, index)?).to_f64()),
            DType::F8E4M3 | DType::F8E5M2 => Scalar::F(f64::from(f8_decode(*data.get(index)?, dtype))),
            DType::I64 | DType::U64 => Scalar::I(i64::from_le_bytes(at(data, index)?)),
            DType::I32 => Scalar::I(i64::from(i32::from_le_bytes(at(data, index)?))),
            DType::U32 => Scalar::I(i64::from(u32::from_le_bytes(at(data, index)?))),
            DType::I16 => Scalar::I(i64::from(i16::from_le_bytes(at(data, index)?))),
            DType::U16 => Scalar::I(i64::from(u16::from_le_bytes(at(data, index)?))),
            DType::I8 => Scalar::I(i64::from(*data.get(index)? as i8)),
            DType::U8 => Scalar::I(i64::from(*data.get(index)?)),
            DType::Bool => Scalar::I(i64::from(*data.get(index)? != 0)),
            DType::I4 | DType::U4 => {
                let nibble = (*data.get(index / 2)? >> (index % 2 * 4)) & 15;
                Scalar::I(wrap(i64::from(nibble), dtype))
            }
            _ => return None,
        })
    }
}
