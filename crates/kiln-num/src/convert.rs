//! What a value becomes when it is stored in an element type.

use crate::{DType, Format, Round};

/// Bits of the value of a float type that is nearest to `v`, ties to even. Integer types have no such bits: 0.
pub fn float_to_bits(dtype: DType, v: f64, saturate: bool) -> u64 {
    match (dtype, Format::of(dtype)) {
        (_, Some(format)) => format.encode(v, Round::Nearest, saturate && dtype.bits() == 8).into(),
        (DType::F64, _) => v.to_bits(),
        (DType::F32, _) => (v as f32).to_bits().into(),
        _ => 0,
    }
}

/// The value that the bits of a float type stand for. Integer types have none: 0.
pub fn float_from_bits(dtype: DType, bits: u64) -> f64 {
    match (dtype, Format::of(dtype)) {
        (_, Some(format)) => format.decode(bits as u32),
        (DType::F64, _) => f64::from_bits(bits),
        (DType::F32, _) => f32::from_bits(bits as u32).into(),
        _ => 0.0,
    }
}

/// The value of `v` once stored as `dtype`; with `saturate`, overflow of the 8-bit floats gives their largest value. Integer and bool
/// types follow [`float_to_int`].
pub fn round_to(dtype: DType, v: f64, saturate: bool) -> f64 {
    match dtype {
        DType::F64 => v,
        DType::F32 => f64::from(v as f32),
        _ if dtype.is_float() => float_from_bits(dtype, float_to_bits(dtype, v, saturate)),
        _ => float_to_int(dtype, v) as f64,
    }
}

/// Float to integer: toward zero, saturating, NaN to 0; to bool: `v != 0`.
pub fn float_to_int(dtype: DType, v: f64) -> i128 {
    match dtype.int_range() {
        Some(_) if dtype == DType::Bool => i128::from(v != 0.0),
        Some((low, high)) => (v as i128).clamp(low, high),
        None => v as i128,
    }
}

/// Integer to float, rounded once.
pub fn int_to_float(dtype: DType, v: i128, saturate: bool) -> f64 {
    let nearest = v as f64;
    if dtype == DType::F64 || nearest as i128 == v {
        return round_to(dtype, nearest, saturate);
    }
    // Rounding to odd keeps the second rounding exact.
    let toward_zero = if (nearest as i128).unsigned_abs() > v.unsigned_abs() {
        f64::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    };
    round_to(dtype, f64::from_bits(toward_zero.to_bits() | 1), saturate)
}

/// Integer to integer: keeps the low bits; to bool: `v != 0`.
pub fn wrap_int(dtype: DType, v: i128) -> i128 {
    if dtype == DType::Bool {
        return i128::from(v != 0);
    }
    let unused = 128 - dtype.bits();
    if dtype.is_signed() { (v << unused) >> unused } else { ((v as u128) << unused >> unused) as i128 }
}

/// [`wrap_int`] of what 64 bits hold, of which 64-bit types keep every bit: fast in loops over many values of one type.
#[inline(always)]
pub fn wrap_i64(dtype: DType, v: i64) -> i64 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_saturate_from_floats_and_wrap_from_integers() {
        assert_eq!(float_to_int(DType::I8, -128.9), -128);
        assert_eq!(float_to_int(DType::I8, 1e30), 127);
        assert_eq!(float_to_int(DType::U4, -3.0), 0);
        assert_eq!(float_to_int(DType::U64, f64::INFINITY), i128::from(u64::MAX));
        assert_eq!(float_to_int(DType::I32, f64::NAN), 0);
        assert_eq!(float_to_int(DType::Bool, f64::NAN), 1);
        assert_eq!(wrap_int(DType::I4, 9), -7);
        assert_eq!(wrap_int(DType::U8, -1), 255);
        assert_eq!(wrap_int(DType::I64, i128::from(u64::MAX)), -1);
        assert_eq!(wrap_int(DType::Bool, 256), 1);
    }

    #[test]
    fn floats_above_a_middle_by_less_than_f32_can_tell_round_once() {
        let above = |exponent: i32| 1.0 + 2f64.powi(-exponent) + 2f64.powi(-40);
        for sign in [1.0, -1.0] {
            assert_eq!(round_to(DType::F16, sign * above(11), false), sign * (1.0 + 2f64.powi(-10)));
            assert_eq!(round_to(DType::BF16, sign * above(8), false), sign * (1.0 + 2f64.powi(-7)));
        }
        assert_eq!(round_to(DType::F16, 1e300, true), f64::INFINITY);
        assert_eq!(round_to(DType::BF16, -1e-300, false).to_bits(), (-0.0f64).to_bits());
        // 17 lies between 16 and 18 in e4m3: the even mantissa is 16.
        assert_eq!([17.0, 19.0, 31.9, 1e9].map(|x| round_to(DType::F8E4M3, x, true)), [16.0, 20.0, 32.0, 448.0]);
    }

    #[test]
    fn every_float_type_keeps_what_it_holds() {
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            for v in [-1.5, 0.25, 448.0] {
                assert_eq!(float_from_bits(dtype, float_to_bits(dtype, v, false)), v, "{dtype}");
            }
            assert!(float_to_bits(dtype, -1.5, false) >> (dtype.bits() - 1) == 1, "{dtype}");
        }
    }

    #[test]
    fn integers_of_many_bits_round_once() {
        let big = (1i128 << 62) + (1 << 54) + 1;
        assert_eq!(int_to_float(DType::BF16, big, false), 2f64.powi(62) + 2f64.powi(55));
        assert_eq!(int_to_float(DType::BF16, -big, false), -2f64.powi(62) - 2f64.powi(55));
        let tie_and_more = (1i128 << 60) + (1 << 36) + 1;
        assert_eq!(int_to_float(DType::F32, tie_and_more, false), 2f64.powi(60) + 2f64.powi(37));
    }

    proptest! {
        #[test]
        fn wide_integers_become_f32_as_rust_casts_them(v: i64, shift in 0..40u32) {
            let v = v >> shift;
            prop_assert_eq!(int_to_float(DType::F32, v.into(), false), f64::from(v as f32));
        }

        #[test]
        fn the_64_bit_wrap_is_the_wide_one(v: i64) {
            for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
                let expected = wrap_int(dtype, v.into());
                prop_assert_eq!(wrap_i64(dtype, v), expected as i64, "{}", dtype);
            }
        }
    }
}
