//! Binary floats narrower than f32: exact decoding, and encoding in every rounding mode.

use crate::DType;

/// How a value between two representable ones is rounded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Round {
    /// To nearest, ties to even (PTX `.rn`).
    Nearest,
    /// To nearest, ties away from zero (`.rna`).
    NearestAway,
    /// Toward zero (`.rz`).
    Zero,
    /// Toward negative infinity (`.rm`).
    Down,
    /// Toward positive infinity (`.rp`).
    Up,
}

impl Round {
    /// Rounds to an integral value.
    pub fn integral(self, x: f64) -> f64 {
        match self {
            Round::Nearest => x.round_ties_even(),
            Round::NearestAway => x.round(),
            Round::Zero => x.trunc(),
            Round::Down => x.floor(),
            Round::Up => x.ceil(),
        }
    }
}

/// A format of one sign bit, an exponent and a mantissa, in the low bits of a `u32`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the mantissa that are stored.
    pub mantissa: u32,
    /// Has infinities and IEEE NaNs; e4m3 has no infinity and one NaN.
    pub ieee: bool,
}

/// IEEE binary16.
pub const F16: Format = Format { exponent: 5, mantissa: 10, ieee: true };
/// bfloat16.
pub const BF16: Format = Format { exponent: 8, mantissa: 7, ieee: true };
/// TF32, the operand of a tensor core that is given f32: 19 bits (a 32-bit register holds them shifted left by 13).
pub const TF32: Format = Format { exponent: 8, mantissa: 10, ieee: true };
/// OCP 8-bit float of range 448.
pub const E4M3: Format = Format { exponent: 4, mantissa: 3, ieee: false };
/// OCP 8-bit float of range 57344.
pub const E5M2: Format = Format { exponent: 5, mantissa: 2, ieee: true };

/// Stored bits of an f64's mantissa.
const F64_MANTISSA: u32 = f64::MANTISSA_DIGITS - 1;

impl Format {
    /// The format of a float type narrower than f32; `None` for all other types.
    pub const fn of(dtype: DType) -> Option<Format> {
        match dtype {
            DType::F16 => Some(F16),
            DType::BF16 => Some(BF16),
            DType::F8E4M3 => Some(E4M3),
            DType::F8E5M2 => Some(E5M2),
            _ => None,
        }
    }

    /// The bit of the sign.
    pub const fn sign_bit(self) -> u32 {
        1 << (self.exponent + self.mantissa)
    }

    /// Bits of the largest finite magnitude.
    pub const fn max_bits(self) -> u32 {
        let all = self.sign_bit() - 1;
        if self.ieee { all - (1 << self.mantissa) } else { all - 1 }
    }

    /// Bits of the NaN that conversions give: all ones but the sign, as on the GPU (PTX ISA, "cvt").
    pub const fn nan(self) -> u32 {
        self.sign_bit() - 1
    }

    /// Exponent of the smallest normal number.
    const fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent - 1))
    }

    /// The exact value of `bits`.
    #[inline]
    pub fn decode(self, bits: u32) -> f64 {
        let sign = if bits & self.sign_bit() != 0 { -1.0 } else { 1.0 };
        let magnitude = bits & (self.sign_bit() - 1);
        if magnitude > self.max_bits() {
            let infinite = self.ieee && magnitude == self.max_bits() + 1;
            return if infinite { sign * f64::INFINITY } else { f64::NAN.copysign(sign) };
        }
        let mantissa = magnitude & ((1 << self.mantissa) - 1);
        let (significand, exponent) = match (magnitude >> self.mantissa) as i32 {
            0 => (mantissa, self.min_exponent()),
            e => (mantissa | 1 << self.mantissa, e - 1 + self.min_exponent()),
        };
        // A power of two that f64 holds as a normal number, whatever the format.
        let quantum = f64::from_bits(((exponent - self.mantissa as i32 + 1023) as u64) << F64_MANTISSA);
        sign * f64::from(significand) * quantum
    }

    /// Bits of `x` rounded to this format; with `saturate` the largest finite value stands for what is beyond it, infinities
    /// included. A NaN becomes [`Format::nan`].
    #[inline]
    pub fn encode(self, x: f64, round: Round, saturate: bool) -> u32 {
        if x.is_nan() {
            return self.nan();
        }
        let negative = x.is_sign_negative();
        let sign = if negative { self.sign_bit() } else { 0 };
        let infinity = if self.ieee { self.max_bits() + 1 } else { self.nan() };
        if x.is_infinite() {
            return sign | if saturate { self.max_bits() } else { infinity };
        }
        let bits = x.to_bits();
        let (field, fraction) = ((bits >> F64_MANTISSA & 0x7ff) as i32, bits & ((1 << F64_MANTISSA) - 1));
        let (exponent, significand) = match field {
            0 => (-1022, fraction),
            e => (e - 1023, fraction | 1 << F64_MANTISSA),
        };
        // The quantum is 2^(max(exponent, min_exponent) - mantissa): drop the bits of the significand below it. At 54 all are below
        // half of the quantum, and more would tell nothing new.
        let below_normal = (self.min_exponent() - exponent).max(0);
        let shift = ((F64_MANTISSA - self.mantissa) as i32 + below_normal).min(54);
        let kept = significand >> shift;
        let rest = significand & ((1 << shift) - 1);
        let half = 1u64 << (shift - 1);
        let up = match round {
            Round::Nearest => rest > half || rest == half && kept & 1 == 1,
            Round::NearestAway => rest >= half,
            Round::Zero => false,
            Round::Down => negative && rest > 0,
            Round::Up => !negative && rest > 0,
        };
        // A carry out of the mantissa moves into the exponent by itself.
        let magnitude = kept
            + u64::from(up)
            + match below_normal {
                0 => ((exponent - self.min_exponent()) as u64) << self.mantissa,
                _ => 0,
            };
        if magnitude <= u64::from(self.max_bits()) {
            return sign | magnitude as u32;
        }
        let toward_zero = match round {
            Round::Nearest | Round::NearestAway => false,
            Round::Zero => true,
            Round::Down => !negative,
            Round::Up => negative,
        };
        sign | if saturate || toward_zero { self.max_bits() } else { infinity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [(Format, u32); 5] = [(F16, 16), (BF16, 16), (TF32, 19), (E4M3, 8), (E5M2, 8)];
    const MODES: [Round; 5] = [Round::Nearest, Round::NearestAway, Round::Zero, Round::Down, Round::Up];

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        for (format, bits) in ALL {
            for code in 0..1u32 << bits {
                let v = format.decode(code);
                for mode in MODES {
                    let expected = if v.is_nan() { format.nan() } else { code };
                    assert_eq!(format.encode(v, mode, false), expected, "{format:?} {code:#x}");
                }
            }
        }
        assert_eq!((0..=255).filter(|&code| E4M3.decode(code).is_nan()).count(), 2);
    }

    #[test]
    fn codes_mean_what_they_mean_to_half() {
        for bits in 0..=u16::MAX {
            assert!(same(F16.decode(bits.into()), half::f16::from_bits(bits).to_f64()), "f16 {bits:#x}");
            assert!(same(BF16.decode(bits.into()), half::bf16::from_bits(bits).to_f64()), "bf16 {bits:#x}");
        }
        // E5M2 is the upper half of f16; E4M3 of the f16 numbers with a bias of 7 instead of 15, but for its top.
        for bits in 0..=u8::MAX {
            let upper = half::f16::from_bits(u16::from(bits) << 8).to_f64();
            assert!(same(E5M2.decode(bits.into()), upper), "e5m2 {bits:#x}");
            let magnitude = u16::from(bits & 0x7f) << 7;
            let shifted = half::f16::from_bits(u16::from(bits & 0x80) << 8 | magnitude).to_f64() * 256.0;
            assert!(bits & 0x7f == 0x7f || same(E4M3.decode(bits.into()), shifted), "e4m3 {bits:#x}");
        }
    }

    /// Between each two neighbours: the middle, and what lies nearest to it on both sides.
    #[test]
    fn rounding_is_exact_around_every_midpoint() {
        for (format, _) in ALL {
            for low in 0..format.max_bits() {
                let (a, b) = (format.decode(low), format.decode(low + 1));
                let middle = (a + b) / 2.0;
                let even = low + (low & 1);
                for sign in [1.0, -1.0] {
                    let negative = if sign < 0.0 { format.sign_bit() } else { 0 };
                    let check = |x: f64, mode, expected: u32| {
                        let found = format.encode(sign * x, mode, false);
                        assert_eq!(found, expected | negative, "{format:?} {mode:?} {} between {a} and {b}", sign * x);
                    };
                    check(middle, Round::Nearest, even);
                    check(middle, Round::NearestAway, low + 1);
                    for (x, nearest) in [(middle.next_down(), low), (middle, even), (middle.next_up(), low + 1)] {
                        check(x, Round::Nearest, nearest);
                        check(x, Round::Zero, low);
                        check(x, Round::Down, low + u32::from(sign < 0.0));
                        check(x, Round::Up, low + u32::from(sign > 0.0));
                    }
                }
            }
        }
    }

    #[test]
    fn overflow_follows_the_documented_rule() {
        let nearest = |format: Format, x: f64, saturate| format.encode(x, Round::Nearest, saturate);
        assert_eq!(nearest(E4M3, 464.0, false), 0x7e);
        assert_eq!(nearest(E4M3, 464.0f64.next_up(), false), 0x7f);
        assert_eq!(nearest(E4M3, -1e9, true), 0xfe);
        assert_eq!(nearest(E4M3, f64::INFINITY, true), 0x7e);
        assert_eq!(nearest(E5M2, 1e9, false), 0x7c);
        assert_eq!(nearest(E5M2, f64::NEG_INFINITY, true), 0xfb);
        assert_eq!(nearest(E5M2, -f64::NAN, true), 0x7f);
        assert_eq!(nearest(F16, 65520.0, false), 0x7c00);
        assert_eq!(nearest(F16, 65520.0f64.next_down(), false), 0x7bff);
        for (mode, [below, above]) in
            [(Round::Zero, [0xfbff, 0x7bff]), (Round::Down, [0xfc00, 0x7bff]), (Round::Up, [0xfbff, 0x7c00])]
        {
            assert_eq!([F16.encode(-1e6, mode, false), F16.encode(1e6, mode, false)], [below, above], "{mode:?}");
            // An infinity is no rounding error.
            assert_eq!(F16.encode(f64::INFINITY, mode, false), 0x7c00, "{mode:?}");
        }
    }

    #[test]
    fn what_f64_barely_holds_rounds_by_the_mode() {
        for x in [f64::from_bits(1), f64::MIN_POSITIVE, 1e-300] {
            for (format, _) in ALL {
                let found = MODES.map(|mode| format.encode(x, mode, false));
                assert_eq!(found, [0, 0, 0, 0, 1], "{format:?} {x:e}");
                let found = MODES.map(|mode| format.encode(-x, mode, false) ^ format.sign_bit());
                assert_eq!(found, [0, 0, 0, 1, 0], "{format:?} {:e}", -x);
            }
        }
    }

    proptest! {
        #[test]
        fn f32_values_round_as_half_rounds_them(bits: u32) {
            let v = f32::from_bits(bits);
            prop_assume!(!v.is_nan());
            let x = f64::from(v);
            prop_assert_eq!(F16.encode(x, Round::Nearest, false), u32::from(half::f16::from_f32(v).to_bits()));
            prop_assert_eq!(BF16.encode(x, Round::Nearest, false), u32::from(half::bf16::from_f32(v).to_bits()));
        }

        #[test]
        fn the_nearest_of_all_values_is_found(x in prop_oneof![-500.0..500.0f64, -1e-2..1e-2f64]) {
            for format in [E4M3, E5M2] {
                let found = format.decode(format.encode(x, Round::Nearest, true));
                let distance = |code: u32| (format.decode(code) - x).abs();
                let least = (0..256).map(distance).filter(|d| !d.is_nan()).fold(f64::INFINITY, f64::min);
                prop_assert_eq!((found - x).abs(), least, "{} in {:?}", x, format);
            }
        }
    }
}
