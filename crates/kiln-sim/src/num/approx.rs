//! The `.approx` functions. The hardware tables are not public; each result here is within the error that
//! "Floating-Point Instructions" states for the instruction, usually far closer.

/// 2^x.
#[inline(always)]
pub(crate) fn ex2_approx(x: f32) -> f32 {
    // Range reduction to [-0.5, 0.5] and a degree-7 polynomial in f64: error below 1e-9, before the one rounding.
    let clamped = f64::from(x).clamp(-160.0, 160.0);
    // Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
    let shifted = clamped + 6_755_399_441_055_744.0;
    let n = shifted - 6_755_399_441_055_744.0;
    let f = (clamped - n) * std::f64::consts::LN_2;
    let p = 1.0 + f * (1.0 + f * (0.5 + f * (C3 + f * (C4 + f * (C5 + f * (C6 + f * C7))))));
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x.is_nan() { f32::NAN } else { (p * scale) as f32 }
}

const C3: f64 = 1.0 / 6.0;
const C4: f64 = 1.0 / 24.0;
const C5: f64 = 1.0 / 120.0;
const C6: f64 = 1.0 / 720.0;
const C7: f64 = 1.0 / 5040.0;

/// log2(x).
pub(crate) fn lg2_approx(x: f32) -> f32 {
    f64::from(x).log2() as f32
}

/// 1/x.
#[inline(always)]
pub(crate) fn rcp_approx(x: f32) -> f32 {
    1.0 / x
}

/// 1/sqrt(x).
#[inline(always)]
pub(crate) fn rsqrt_approx(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

/// sin(x).
pub(crate) fn sin_approx(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

/// cos(x).
pub(crate) fn cos_approx(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

/// tanh(x).
pub(crate) fn tanh_approx(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ex2_is_within_one_ulp() {
        let mut bits = 99u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = (f64::from(bits) / f64::from(u32::MAX) * 300.0 - 150.0) as f32;
            let want = f64::from(x).exp2() as f32;
            let got = ex2_approx(x);
            assert!(got.to_bits().abs_diff(want.to_bits()) <= 1, "{x} {got:e} {want:e}");
        }
        assert_eq!(ex2_approx(f32::INFINITY), f32::INFINITY);
        assert_eq!(ex2_approx(f32::NEG_INFINITY), 0.0);
        assert_eq!(ex2_approx(3.0), 8.0);
        assert!(ex2_approx(f32::NAN).is_nan());
    }
}
