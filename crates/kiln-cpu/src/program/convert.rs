//! Conversions between dtypes and register classes, and rounding of registers to a declared dtype.

use super::Scalar;
use half::f16;
use kiln_graph::DType;
use kiln_num::{float_from_bits, int_to_float, load_bits, round_to, wrap_i64};

/// [`kiln_num::float_to_int`] in 64 bits, for whole patches: toward zero, saturating, NaN to 0.
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
        _ if dtype.is_f8() => {
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
pub(super) fn round_i32(xs: &mut [i32], dtype: DType) {
    if matches!(dtype, DType::I32 | DType::Bool) {
        return;
    }
    crate::simd::update1(xs, |x| wrap_i64(dtype, i64::from(x)) as i32);
}

/// Wraps i64 registers to the dtype they stand for.
pub(super) fn round_i64(xs: &mut [i64], dtype: DType) {
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
        let bits = load_bits(dtype, data, index)?;
        Some(match dtype.is_float() {
            true => Scalar::F(float_from_bits(dtype, bits)),
            false => Scalar::I(wrap_i64(dtype, bits as i64)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::Rng;

    /// What is fast here and what is exact there are one function.
    #[test]
    fn conversions_are_those_of_the_one_codec() {
        let mut rng = Rng::new(17);
        let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.5, -0.5, 1e300, 65520.0, 464.0, 1e-8];
        let drawn = (0..20_000).map(|_| f64::from_bits(rng.next_u64()));
        let mut rng = Rng::new(18);
        let near = (0..20_000).map(|_| (rng.next_u64() as i64 >> rng.range(0, 62)) as f64 * 2f64.powi(-20));
        for x in wild.into_iter().chain(drawn).chain(near) {
            for dtype in DType::ALL {
                if !dtype.is_float() {
                    assert_eq!(float_to_int(x, dtype), kiln_num::float_to_int(dtype, x) as i64, "{x:e} to {dtype}");
                } else if dtype.bits() < 32 {
                    for saturate in [false, true] {
                        let (found, expected) = (narrow(x, dtype, saturate), round_to(dtype, x, saturate) as f32);
                        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                        assert!(same, "{x:e} to {dtype}: {found:e}, expected {expected:e}");
                    }
                }
            }
        }
    }
}
