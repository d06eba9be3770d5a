//! f32 elementary functions written without branches, so that loops over them become vector code.
//!
//! Coefficients are minimax or Taylor polynomials evaluated with fused multiply-adds; each function's error bound is tested against
//! f64. Every function propagates NaN and gives the limits at the infinities.

#![allow(clippy::excessive_precision, clippy::approx_constant, reason = "coefficients as they were fitted")]

const LOG2_E: f32 = std::f32::consts::LOG2_E;
// ln 2 split so that `n * LN2_HI` is exact for |n| < 2^10.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// Builds `2^n` for `-126 <= n <= 127` from its exponent bits.
#[inline(always)]
fn pow2i(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// `e^r` for `|r| <= ln(2) / 2`, minus one, divided by `r`.
#[inline(always)]
fn exp_series(r: f32) -> f32 {
    // Taylor terms 1 + r/2 + .. + r^7/8!: the first one left out is below 2^-27 relative on this interval.
    let mut p = 1.0 / 40320.0;
    p = f32::mul_add(p, r, 1.0 / 5040.0);
    p = f32::mul_add(p, r, 1.0 / 720.0);
    p = f32::mul_add(p, r, 1.0 / 120.0);
    p = f32::mul_add(p, r, 1.0 / 24.0);
    p = f32::mul_add(p, r, 1.0 / 6.0);
    p = f32::mul_add(p, r, 0.5);
    f32::mul_add(p, r, 1.0)
}

/// `e^x`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Beyond these the result is infinity or zero; the clamp keeps the exponent arithmetic in range and lets NaN through below.
    let c = if x > 88.8 { 88.8 } else { x };
    let c = if c < -104.0 { -104.0 } else { c };
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, whose bits are then the low bits of the sum.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = f32::mul_add(c, LOG2_E, MAGIC);
    let nf = shifted - MAGIC;
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let r = f32::mul_add(nf, -LN2_HI, c);
    let r = f32::mul_add(nf, -LN2_LO, r);
    let p = f32::mul_add(exp_series(r), r, 1.0);
    // Two factors, so that results near the ends of the range (subnormal or close to the maximum) scale correctly.
    let half = n >> 1;
    let y = p * pow2i(half.clamp(-126, 127)) * pow2i((n - half).clamp(-126, 127));
    if x.is_nan() { x } else { y }
}

/// `e^x - 1` for any x, accurate near zero.
#[inline(always)]
pub(crate) fn expm1(x: f32) -> f32 {
    let c = if x > 88.8 { 88.8 } else { x };
    let c = if c < -30.0 { -30.0 } else { c };
    const MAGIC: f32 = 12_582_912.0;
    let shifted = f32::mul_add(c, LOG2_E, MAGIC);
    let nf = shifted - MAGIC;
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let r = f32::mul_add(nf, -LN2_HI, c);
    let r = f32::mul_add(nf, -LN2_LO, r);
    let em1 = exp_series(r) * r;
    // 2^n * (e^r - 1) + (2^n - 1), in two scalings above 2^127.
    let m = if n > 127 { n - 1 } else { n };
    let s = pow2i(m.clamp(-126, 127));
    let y = f32::mul_add(em1, s, s - if n > 127 { 0.0 } else { 1.0 });
    let y = if n > 127 { y * 2.0 } else { y };
    if x.is_nan() { x } else { y }
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let a = x.abs();
    // tanh a = (e^2a - 1) / (e^2a + 1); it is 1 in f32 beyond 9.1.
    let c = if a > 10.0 { 10.0 } else { a };
    let e = expm1(2.0 * c);
    let y = e / (e + 2.0);
    let y = f32::from_bits(y.to_bits() | (x.to_bits() & 0x8000_0000));
    if x.is_nan() { x } else { y }
}

/// Horner evaluation, highest coefficient last.
#[inline(always)]
fn poly<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut p = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        p = f32::mul_add(p, x, c[i]);
    }
    p
}

/// Gauss error function.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = if a > 4.0 { 4.0 } else { a };
    // Below 1: x * P(x^2), interpolated at Chebyshev nodes.
    let small = t * poly(
        t * t,
        [1.128_379_2, -0.376_126_27, 0.112_835_95, -0.026_854_212, 5.189_087_4e-3, -8.016_864_3e-4, 7.875_875e-5],
    );
    // Above: 1 - e^P(x) with P interpolating ln erfc on [1, 4]; beyond 4 the result rounds to 1.
    let log_erfc = poly(
        t,
        [
            3.201_380_5e-4,
            -1.130_233_4,
            -0.631_826_04,
            -0.110_080_086,
            0.026_421_137,
            -4.759_596_4e-3,
            5.968_056_4e-4,
            -4.605_804_3e-5,
            1.637_151_1e-6,
        ],
    );
    let big = 1.0 - exp(log_erfc);
    let y = if t < 1.0 { small } else { big };
    let y = f32::from_bits(y.to_bits() | (x.to_bits() & 0x8000_0000));
    if x.is_nan() { x } else { y }
}

/// Natural logarithm.
#[inline(always)]
pub(crate) fn log(x: f32) -> f32 {
    // Subnormals are scaled up first.
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 16_777_216.0 } else { x };
    let bits = scaled.to_bits() as i32;
    // Mantissa into [sqrt(1/2), sqrt(2)).
    // Those of a negative number make no sense, and no difference.
    let e = bits.wrapping_sub(0x3f35_04f3) >> 23;
    let m = f32::from_bits(bits.wrapping_sub(e << 23) as u32);
    let e = e as f32 - if tiny { 24.0 } else { 0.0 };
    let f = m - 1.0;
    let q = poly(
        f,
        [
            -0.5,
            0.333_333_3,
            -0.250_007_8,
            0.200_012_34,
            -0.166_266_45,
            0.142_048_56,
            -0.131_275_55,
            0.127_226_73,
            -0.076_736_414,
        ],
    );
    // e*ln2_hi + (f + (e*ln2_lo + f^2 q)): small terms first.
    let low = f32::mul_add(e, LN2_LO, f * f * q);
    let y = f32::mul_add(e, LN2_HI, f + low);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(f: impl Fn(f32) -> f32, reference: impl Fn(f64) -> f64, lo: f32, hi: f32) -> (f64, f32) {
        let n = 400_000;
        let mut worst = (0.0, 0.0);
        for i in 0..=n {
            let x = lo + (hi - lo) * (i as f32 / n as f32);
            let (y, r) = (f64::from(f(x)), reference(f64::from(x)));
            // In units of the last place of the reference rounded to f32.
            let ulp = f64::from(f32::from_bits((r.abs() as f32).max(f32::MIN_POSITIVE).to_bits() & 0x7f80_0000))
                / 8_388_608.0;
            let err = (y - r).abs() / ulp;
            if err > worst.0 {
                worst = (err, x);
            }
        }
        worst
    }

    #[test]
    fn errors_stay_within_a_few_units_in_the_last_place() {
        let erf_series = |x: f64| {
            // Taylor series with enough terms for |x| <= 4.5 in f64, or the asymptote.
            let (mut term, mut sum, mut n) = (x, x, 0.0);
            while f64::abs(term) > 1e-18 {
                n += 1.0;
                term *= -x * x / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        };
        for (name, found, bound) in [
            ("exp", worst(exp, f64::exp, -87.0, 88.7), 2.0),
            ("expm1", worst(expm1, f64::exp_m1, -20.0, 80.0), 3.0),
            ("expm1 near 0", worst(expm1, f64::exp_m1, -0.01, 0.01), 3.0),
            ("tanh", worst(tanh, f64::tanh, -9.5, 9.5), 4.0),
            ("tanh near 0", worst(tanh, f64::tanh, -0.01, 0.01), 4.0),
            ("erf", worst(erf, erf_series, -4.2, 4.2), 3.0),
            ("log", worst(log, f64::ln, 0.4, 3.0), 3.0),
            ("log large", worst(log, f64::ln, 3.0, 3e30), 2.0),
            ("log small", worst(log, f64::ln, 1e-40, 1e-36), 2.0),
        ] {
            assert!(found.0 <= bound, "{name}: {} ulp at {}", found.0, found.1);
        }
    }

    #[test]
    fn limits_and_nan() {
        for f in [exp, expm1, tanh, erf, log] {
            assert!(f(f32::NAN).is_nan());
        }
        assert_eq!((exp(f32::INFINITY), exp(f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
        assert_eq!((exp(89.0), exp(-110.0)), (f32::INFINITY, 0.0));
        assert_eq!((expm1(f32::INFINITY), expm1(f32::NEG_INFINITY)), (f32::INFINITY, -1.0));
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert_eq!((erf(f32::INFINITY), erf(f32::NEG_INFINITY)), (1.0, -1.0));
        assert_eq!((log(f32::INFINITY), log(0.0)), (f32::INFINITY, f32::NEG_INFINITY));
        for x in [-1.0, -1e-3, -1e-38, -1e-45, f32::MIN, f32::NEG_INFINITY] {
            assert!(log(x).is_nan(), "{x}");
        }
    }
}
