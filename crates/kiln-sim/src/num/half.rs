//! Fast f16 and bf16 conversions, in forms the compiler vectorises.

/// Exact f16 to f32.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u32) -> f32 {
    let sign = (h & 0x8000) << 16;
    let mag = (h & 0x7fff) << 13;
    let scaled = (f32::from_bits(mag) * f32::from_bits(0x7780_0000)).to_bits();
    let bits = if mag >= 0x0f80_0000 { mag | 0x7f80_0000 } else { scaled };
    f32::from_bits(sign | bits)
}

/// f32 to f16, to nearest even; NaN becomes the canonical 0x7fff.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u32 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let a = x.to_bits() & 0x7fff_ffff;
    // Adding 0.5 to a value below 2^-14 aligns its bits with the subnormal f16 grid.
    let tiny = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = a.wrapping_sub(0x3800_0000).wrapping_add(0xfff + ((a >> 13) & 1)) >> 13;
    let mag = if a < 0x3880_0000 { tiny } else { normal };
    let mag = if a >= 0x4780_0000 { 0x7c00 } else { mag };
    if a > 0x7f80_0000 { 0x7fff } else { sign | mag }
}

/// Exact bf16 to f32.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u32) -> f32 {
    f32::from_bits(h << 16)
}

/// f32 to bf16, to nearest even; NaN becomes the canonical 0x7fff.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u32 {
    let b = x.to_bits();
    let rounded = b.wrapping_add(0x7fff + ((b >> 16) & 1)) >> 16;
    if x.is_nan() { 0x7fff } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::super::{add_odd, add_odd_f32};
    use super::*;
    use kiln_num::{BF16, F16, Round};
    use proptest::prelude::*;

    #[test]
    fn agree_with_the_general_format() {
        for h in 0..=0xffffu32 {
            let want = F16.decode(h);
            assert!(f64::from(f16_to_f32(h)) == want || want.is_nan() && f16_to_f32(h).is_nan(), "{h:#x}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn floats_round_as_the_general_format_rounds(bits in prop::collection::vec(any::<u32>(), 500)) {
            for x in bits.into_iter().map(f32::from_bits) {
                prop_assert_eq!(f32_to_f16(x), F16.encode(f64::from(x), Round::Nearest, false), "{:e}", x);
                prop_assert_eq!(f32_to_bf16(x), BF16.encode(f64::from(x), Round::Nearest, false), "{:e}", x);
                let near = (f64::from(x).abs() % 70000.0) as f32;
                prop_assert_eq!(f32_to_f16(near), F16.encode(f64::from(near), Round::Nearest, false), "{:e}", near);
            }
        }

        /// Over all exponents, so that sums cancel, round, overflow and fall below the normal numbers.
        #[test]
        fn a_sum_rounded_to_odd_makes_the_f16_fma_exact(halves in prop::collection::vec(any::<[u16; 3]>(), 2000)) {
            for [x, y, z] in halves.into_iter().map(|triple| triple.map(u32::from)) {
                let got = f32_to_f16(add_odd_f32(f16_to_f32(x) * f16_to_f32(y), f16_to_f32(z)));
                let want = add_odd(F16.decode(x) * F16.decode(y), F16.decode(z));
                prop_assert_eq!(got, F16.encode(want, Round::Nearest, false), "{:#x} * {:#x} + {:#x}", x, y, z);
            }
        }
    }
}
