//! Exact number conversions: what a value becomes when it is stored in an element type.
//!
//! Floats round to nearest, ties to even, straight from f64 (no intermediate type, so no double rounding). Overflow gives infinity, or
//! NaN in f8e4m3, which has no infinity; with `saturate` the f8 types give the largest finite value instead, for infinities too, as ONNX and
//! the GPU's `cvt.satfinite` do.

use crate::DType;

/// A binary float narrower than f64.
struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    /// Bit pattern of the largest finite magnitude.
    max: u32,
    /// Bit pattern of what a magnitude beyond it becomes.
    overflow: u32,
    nan: u32,
}

const F16: Format = Format { exponent_bits: 5, mantissa_bits: 10, max: 0x7bff, overflow: 0x7c00, nan: 0x7e00 };
const BF16: Format = Format { exponent_bits: 8, mantissa_bits: 7, max: 0x7f7f, overflow: 0x7f80, nan: 0x7fc0 };
const E4M3: Format = Format { exponent_bits: 4, mantissa_bits: 3, max: 0x7e, overflow: 0x7f, nan: 0x7f };
const E5M2: Format = Format { exponent_bits: 5, mantissa_bits: 2, max: 0x7b, overflow: 0x7c, nan: 0x7e };

impl Format {
    const fn sign_bit(&self) -> u32 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    /// Exponent of the smallest normal number.
    const fn min_exponent(&self) -> i32 {
        2 - (1 << (self.exponent_bits - 1))
    }

    fn encode(&self, v: f64, saturate: bool) -> u32 {
        let bits = v.to_bits();
        let sign = if bits >> 63 == 1 { self.sign_bit() } else { 0 };
        if v.is_nan() {
            return sign | self.nan;
        }
        let overflow = if saturate { self.max } else { self.overflow };
        if v.is_infinite() {
            return sign | overflow;
        }
        let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
        if exponent == -1023 {
            return sign; // f64 subnormals lie far below half of any quantum here
        }
        let mantissa = (bits & ((1 << 52) - 1)) | (1 << 52);
        // The quantum is 2^(max(exponent, min_exponent) - mantissa_bits): drop the bits of the mantissa below it.
        let below_normal = (self.min_exponent() - exponent).max(0);
        let shift = 52 - self.mantissa_bits as i32 + below_normal;
        if shift > 53 {
            return sign;
        }
        let kept = mantissa >> shift;
        let rest = mantissa & ((1 << shift) - 1);
        let half = 1u64 << (shift - 1);
        let rounded = kept + u64::from(rest > half || (rest == half && kept & 1 == 1));
        // A carry out of the mantissa moves into the exponent by itself.
        let encoded = if below_normal > 0 {
            rounded
        } else {
            rounded + (((exponent - self.min_exponent()) as u64) << self.mantissa_bits)
        };
        if encoded > u64::from(self.max) { sign | overflow } else { sign | encoded as u32 }
    }

    fn decode(&self, bits: u32) -> f64 {
        let sign = if bits & self.sign_bit() != 0 { -1.0 } else { 1.0 };
        let magnitude = bits & (self.sign_bit() - 1);
        if magnitude > self.max {
            let infinite = magnitude == self.overflow && self.overflow != self.nan;
            return if infinite { sign * f64::INFINITY } else { f64::NAN.copysign(sign) };
        }
        let exponent = (magnitude >> self.mantissa_bits) as i32;
        let mantissa = magnitude & ((1 << self.mantissa_bits) - 1);
        let (significand, exponent) = match exponent {
            0 => (mantissa, self.min_exponent()),
            e => (mantissa | (1 << self.mantissa_bits), e - 1 + self.min_exponent()),
        };
        sign * f64::from(significand) * 2f64.powi(exponent - self.mantissa_bits as i32)
    }
}

/// Bits of the f16 nearest to `v`.
pub fn f16_from_f64(v: f64) -> u16 {
    F16.encode(v, false) as u16
}

/// Bits of the bf16 nearest to `v`.
pub fn bf16_from_f64(v: f64) -> u16 {
    BF16.encode(v, false) as u16
}

/// Bits of the f8e4m3 nearest to `v`.
pub fn f8e4m3_from_f64(v: f64, saturate: bool) -> u8 {
    E4M3.encode(v, saturate) as u8
}

/// Bits of the f8e5m2 nearest to `v`.
pub fn f8e5m2_from_f64(v: f64, saturate: bool) -> u8 {
    E5M2.encode(v, saturate) as u8
}

/// Value of f16 bits.
pub fn f16_to_f64(bits: u16) -> f64 {
    F16.decode(u32::from(bits))
}

/// Value of bf16 bits.
pub fn bf16_to_f64(bits: u16) -> f64 {
    BF16.decode(u32::from(bits))
}

/// Value of f8e4m3 bits.
pub fn f8e4m3_to_f64(bits: u8) -> f64 {
    E4M3.decode(u32::from(bits))
}

/// Value of f8e5m2 bits.
pub fn f8e5m2_to_f64(bits: u8) -> f64 {
    E5M2.decode(u32::from(bits))
}

/// The value of `v` once stored as `dtype`; integer and bool types follow [`float_to_int`].
pub fn round_to(dtype: DType, v: f64, saturate: bool) -> f64 {
    match dtype {
        DType::F64 => v,
        DType::F32 => f64::from(v as f32),
        DType::F16 => F16.decode(F16.encode(v, false)),
        DType::BF16 => BF16.decode(BF16.encode(v, false)),
        DType::F8E4M3 => E4M3.decode(E4M3.encode(v, saturate)),
        DType::F8E5M2 => E5M2.decode(E5M2.encode(v, saturate)),
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
    let unused = 128 - dtype.bits() as u32;
    if dtype.is_signed() { (v << unused) >> unused } else { ((v as u128) << unused >> unused) as i128 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn every_16_bit_pattern_agrees_with_half_and_survives() {
        for bits in 0..=u16::MAX {
            let (h, b) = (half::f16::from_bits(bits).to_f64(), half::bf16::from_bits(bits).to_f64());
            assert!(same(f16_to_f64(bits), h), "f16 {bits:#x}");
            assert!(same(bf16_to_f64(bits), b), "bf16 {bits:#x}");
            assert!(h.is_nan() || f16_from_f64(h) == bits, "f16 {bits:#x}");
            assert!(b.is_nan() || bf16_from_f64(b) == bits, "bf16 {bits:#x}");
        }
    }

    #[test]
    fn every_8_bit_pattern_survives() {
        for bits in 0..=u8::MAX {
            let (a, b) = (f8e4m3_to_f64(bits), f8e5m2_to_f64(bits));
            assert!(a.is_nan() || f8e4m3_from_f64(a, false) == bits, "e4m3 {bits:#x}");
            assert!(b.is_nan() || f8e5m2_from_f64(b, false) == bits, "e5m2 {bits:#x}");
            // E5M2 is the upper half of f16.
            assert!(same(b, half::f16::from_bits(u16::from(bits) << 8).to_f64()), "e5m2 {bits:#x}");
        }
        assert_eq!((0..=255).filter(|&b| f8e4m3_to_f64(b).is_nan()).count(), 2);
    }

    /// Neighbours of each midpoint go to the nearer side, the midpoint itself to the even pattern.
    fn check_midpoints(format: &Format) {
        for bits in 0..format.max {
            let (a, b) = (format.decode(bits), format.decode(bits + 1));
            let middle = (a + b) / 2.0;
            let even = if bits & 1 == 0 { bits } else { bits + 1 };
            assert_eq!(format.encode(middle, false), even, "middle of {a} and {b}");
            assert_eq!(format.encode(middle.next_down(), false), bits, "below the middle of {a} and {b}");
            assert_eq!(format.encode(middle.next_up(), false), bits + 1, "above the middle of {a} and {b}");
            assert_eq!(format.encode(-middle.next_up(), false), (bits + 1) | format.sign_bit());
        }
    }

    #[test]
    fn rounding_is_exact_at_every_midpoint() {
        for format in [F16, BF16, E4M3, E5M2] {
            check_midpoints(&format);
        }
    }

    #[test]
    fn overflow_follows_the_documented_rule() {
        assert_eq!(f8e4m3_from_f64(464.0, false), 0x7e);
        assert_eq!(f8e4m3_from_f64(464.0f64.next_up(), false), 0x7f);
        assert_eq!(f8e4m3_from_f64(-1e9, true), 0xfe);
        assert_eq!(f8e4m3_from_f64(f64::INFINITY, true), 0x7e);
        assert_eq!(f8e5m2_from_f64(1e9, false), 0x7c);
        assert_eq!(f8e5m2_from_f64(f64::NEG_INFINITY, true), 0xfb);
        assert!(f8e5m2_to_f64(f8e5m2_from_f64(f64::NAN, true)).is_nan());
        assert_eq!(f16_from_f64(65520.0), 0x7c00);
        assert_eq!(f16_from_f64(65520.0f64.next_down()), 0x7bff);
    }

    #[test]
    fn f32_values_round_to_bf16_as_half_does() {
        let mut rng = Rng::new(7);
        for _ in 0..100_000 {
            let v = f32::from_bits(rng.next_u64() as u32);
            let expected = half::bf16::from_f32(v);
            assert!(expected.is_nan() || bf16_from_f64(f64::from(v)) == expected.to_bits(), "{v:e}");
            let expected = half::f16::from_f32(v);
            assert!(expected.is_nan() || f16_from_f64(f64::from(v)) == expected.to_bits(), "{v:e}");
        }
    }

    #[test]
    fn wide_integers_round_once() {
        let mut rng = Rng::new(3);
        for _ in 0..100_000 {
            let v = rng.next_u64() as i64 >> rng.range(0, 40);
            assert_eq!(int_to_float(DType::F32, i128::from(v), false), f64::from(v as f32), "{v}");
        }
        let tie_and_more = (1i128 << 60) + (1 << 36) + 1;
        assert_eq!(int_to_float(DType::F32, tie_and_more, false), 2f64.powi(60) + 2f64.powi(37));
    }

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
}
