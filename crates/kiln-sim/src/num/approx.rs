//! The `.approx` functions. The hardware tables are not public; each result here is within the error that
//! "Floating-Point Instructions" states for the instruction, usually far closer.

/// 2^x.
#[inline(always)]
pub(crate) fn ex2_approx(x: f32) -> f32 {
    // Range reduction to [-0.5, 0.5] and the Taylor polynomial of degree 7, off by 2^-27 before its last rounding.
    let clamped = x.clamp(-160.0, 160.0);
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    let shifted = clamped + MAGIC;
    let f = clamped - (shifted - MAGIC);
    let p = EX2.iter().rev().fold(0.0f32, |p, c| p.mul_add(f, *c));
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    // In two steps, so that each power is a normal number; only the second may round.
    let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    let result = p * power(n >> 1) * power(n - (n >> 1));
    if x.is_nan() { f32::NAN } else { result }
}

const MAGIC: f32 = 12_582_912.0;

/// `ln(2)^k / k!`.
const EX2: [f32; 8] = {
    let (mut terms, mut term, mut k) = ([1.0f32; 8], 1.0f64, 1);
    while k < terms.len() {
        term *= std::f64::consts::LN_2 / k as f64;
        terms[k] = term as f32;
        k += 1;
    }
    terms
};

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
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn ex2_is_within_one_ulp(values in prop::collection::vec(-150f32..150.0, 500)) {
            for x in values {
                let want = f64::from(x).exp2() as f32;
                let got = ex2_approx(x);
                prop_assert!(got.to_bits().abs_diff(want.to_bits()) <= 1, "{} {:e} {:e}", x, got, want);
            }
        }
    }

    #[test]
    fn ex2_of_special_values() {
        assert_eq!(ex2_approx(f32::INFINITY), f32::INFINITY);
        assert_eq!(ex2_approx(f32::NEG_INFINITY), 0.0);
        assert_eq!(ex2_approx(3.0), 8.0);
        assert!(ex2_approx(f32::NAN).is_nan());
    }
}
