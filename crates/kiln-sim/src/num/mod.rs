//! Roundings and approximations of the PTX ISA, independent of any instruction; the narrow formats are `kiln_num`'s.

mod approx;
mod half;

pub(crate) use approx::{cos_approx, ex2_approx, lg2_approx, rcp_approx, rsqrt_approx, sin_approx, tanh_approx};
pub(crate) use half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

use kiln_num::Round;

/// `a + b` rounded to odd in f64: enough extra bits that a later rounding to a narrower format is
/// the correct rounding of the exact sum.
#[inline(always)]
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let bb = s - a;
    let err = (a - (s - bb)) + (b - bb);
    sticky(s, err)
}

/// [`add_odd`] in f32.
#[inline(always)]
pub(crate) fn add_odd_f32(a: f32, b: f32) -> f32 {
    let s = a + b;
    let bb = s - a;
    let err = (a - (s - bb)) + (b - bb);
    let bits = s.to_bits();
    let away = ((err.to_bits() ^ bits) as i32 >> 31) as u32;
    // The error of an infinity or NaN is NaN, which is not above zero.
    let step = if (err.abs() > 0.0) & (bits & 1 == 0) { away | 1 } else { 0 };
    f32::from_bits(bits.wrapping_add(step))
}

/// Folds the sign of a nonzero residue `err` (exact minus `s`) into the last bit of `s`.
#[inline(always)]
pub(crate) fn sticky(s: f64, err: f64) -> f64 {
    let bits = s.to_bits();
    let inexact = (err != 0.0) & s.is_finite() & err.is_finite() & (bits & 1 == 0);
    // An even `s` is replaced by its odd neighbour on the side of the exact value.
    let step = if (err > 0.0) == (s > 0.0) { 1 } else { u64::MAX };
    f64::from_bits(bits.wrapping_add(if inexact { step } else { 0 }))
}

/// Rounds f64 to f32 in any mode.
pub(crate) fn round_f32(x: f64, mode: Round) -> f32 {
    if mode == Round::Nearest {
        return x as f32;
    }
    let near = x as f32;
    if x.is_nan() || f64::from(near) == x {
        return near;
    }
    // `near` is inexact: step to the neighbour on the wanted side.
    let (down, up) = if f64::from(near) > x { (near.next_down(), near) } else { (near, near.next_up()) };
    match mode {
        Round::Down => down,
        Round::Up => up,
        Round::Zero if x > 0.0 => down,
        Round::Zero => up,
        Round::Nearest | Round::NearestAway => near,
    }
}

/// Flushes a subnormal to a zero of the same sign.
#[inline(always)]
pub(crate) fn ftz(x: f32) -> f32 {
    if x.to_bits() & 0x7f80_0000 == 0 { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// Clamps to [0, 1]; NaN becomes +0 (`.sat`).
#[inline(always)]
pub(crate) fn sat(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}
