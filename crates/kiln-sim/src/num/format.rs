//! Narrow binary floating-point formats: exact decoding, rounding and encoding through f64.

/// A PTX rounding mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Round {
    /// `.rn`: to nearest, ties to even.
    Nearest,
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
    /// `.rz`.
    Zero,
    /// `.rm`.
    Down,
    /// `.rp`.
    Up,
}

impl Round {
    /// Rounds to an integral value.
    pub(crate) fn integral(self, x: f64) -> f64 {
        match self {
            Round::Nearest => x.round_ties_even(),
            Round::NearestAway => x.round(),
            Round::Zero => x.trunc(),
            Round::Down => x.floor(),
            Round::Up => x.ceil(),
        }
    }
}

/// A format of one sign bit, `exponent` bits and `mantissa` bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    exponent: i32,
    mantissa: i32,
    /// Has infinities and IEEE NaNs; e4m3 has neither infinity nor more than one NaN.
    ieee: bool,
}

/// IEEE binary16.
pub(crate) const F16: Format = Format { exponent: 5, mantissa: 10, ieee: true };
/// bfloat16.
pub(crate) const BF16: Format = Format { exponent: 8, mantissa: 7, ieee: true };
/// TF32, as 19 bits (a `.b32` register holds it shifted left by 13).
pub(crate) const TF32: Format = Format { exponent: 8, mantissa: 10, ieee: true };
/// 8-bit float, range 448.
pub(crate) const E4M3: Format = Format { exponent: 4, mantissa: 3, ieee: false };
/// 8-bit float, range 57344.
pub(crate) const E5M2: Format = Format { exponent: 5, mantissa: 2, ieee: true };

/// 2^e for any e that f64 can hold.
fn exp2i(e: i32) -> f64 {
    if e < -1022 { f64::from_bits(1 << (e + 1074).max(0)) } else { f64::from_bits(((e.min(1023) + 1023) as u64) << 52) }
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    fn sign_bit(self) -> u32 {
        1 << (self.exponent + self.mantissa)
    }

    /// Bits of the largest finite magnitude.
    fn max_bits(self) -> u32 {
        let all = self.sign_bit() - 1;
        if self.ieee { all - (1 << self.mantissa) } else { all - 1 }
    }

    /// Canonical NaN.
    fn nan(self) -> u32 {
        self.sign_bit() - 1
    }

    /// The exact value of `bits`.
    pub(crate) fn decode(self, bits: u32) -> f64 {
        let sign = if bits & self.sign_bit() != 0 { -1.0 } else { 1.0 };
        let mag = bits & (self.sign_bit() - 1);
        if mag > self.max_bits() {
            let inf = self.ieee && mag & ((1 << self.mantissa) - 1) == 0;
            return if inf { sign * f64::INFINITY } else { f64::NAN };
        }
        let e = (mag >> self.mantissa) as i32;
        let m = f64::from(mag & ((1 << self.mantissa) - 1));
        let one = f64::from(1u32 << self.mantissa);
        let (m, e) = if e == 0 { (m, 1) } else { (m + one, e) };
        sign * m * exp2i(e - self.bias() - self.mantissa)
    }

    /// Rounds `x` into this format; `satfinite` replaces overflow and infinity by the largest finite value.
    pub(crate) fn encode(self, x: f64, mode: Round, satfinite: bool) -> u32 {
        if x.is_nan() {
            return self.nan();
        }
        let sign = if x.is_sign_negative() { self.sign_bit() } else { 0 };
        let a = x.abs();
        let overflow = |inexact: bool| {
            let to_max = satfinite
                || inexact
                    && match mode {
                        Round::Zero => true,
                        Round::Down => sign == 0,
                        Round::Up => sign != 0,
                        Round::Nearest | Round::NearestAway => false,
                    };
            sign | match (to_max, self.ieee) {
                (true, _) => self.max_bits(),
                (false, true) => self.max_bits() + 1,
                (false, false) => self.nan(),
            }
        };
        if a.is_infinite() {
            return overflow(false);
        }
        let emin = 1 - self.bias();
        let e = (((a.to_bits() >> 52) as i32) - 1023).max(emin);
        // The directed modes act on the signed value.
        let scaled = mode
            .integral(x * exp2i(-(e - self.mantissa) / 2) * exp2i(-(e - self.mantissa) - (-(e - self.mantissa) / 2)));
        let m = scaled.abs() as u32;
        // A mantissa that rounded up to the next power of two carries into the exponent by itself.
        let mag = (((e - emin) as u32) << self.mantissa) + m;
        if mag > self.max_bits() { overflow(true) } else { sign | mag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_a_round_trip() {
        for (f, bits) in [(F16, 16), (BF16, 16), (E4M3, 8), (E5M2, 8), (TF32, 19)] {
            for code in 0..1u32 << bits {
                let v = f.decode(code);
                if v.is_nan() {
                    continue;
                }
                for mode in [Round::Nearest, Round::NearestAway, Round::Zero, Round::Down, Round::Up] {
                    assert_eq!(f.encode(v, mode, false), code, "{f:?} {code:#x}");
                }
            }
        }
    }

    #[test]
    fn halfway_cases_follow_the_mode() {
        // Between 1.0 and 1.0009765625 (f16).
        let mid = 1.0 + 0.000_488_281_25;
        assert_eq!(F16.encode(mid, Round::Nearest, false), 0x3c00);
        assert_eq!(F16.encode(mid, Round::NearestAway, false), 0x3c01);
        assert_eq!(F16.encode(-mid, Round::Down, false), 0xbc01);
        assert_eq!(F16.encode(-mid, Round::Up, false), 0xbc00);
        assert_eq!(F16.encode(65520.0, Round::Nearest, false), 0x7c00);
        assert_eq!(F16.encode(65520.0, Round::Zero, false), 0x7bff);
        assert_eq!(E4M3.encode(1e6, Round::Nearest, true), 0x7e);
        assert_eq!(E4M3.encode(1e6, Round::Nearest, false), 0x7f);
        // Half of the smallest f16 subnormal ties to zero.
        assert_eq!(F16.encode(exp2i(-25), Round::Nearest, false), 0);
        assert_eq!(F16.encode(exp2i(-25) * 1.5, Round::Nearest, false), 1);
    }
}
