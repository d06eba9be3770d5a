//! f16, bf16 and packed 16-bit arithmetic ("Half Precision Floating Point Instructions", and the `x2` forms).

use super::float::{min_max, rounding};
use super::operand::{Build, alu, arg};
use super::{Code, Decoded, Ty};
use crate::exec::{f1, f2, f3};
use crate::num::{
    Round, add_odd, bf16_to_f32, ex2_approx, f16_to_f32, f32_to_bf16, f32_to_f16, round_f32, tanh_approx,
};
use crate::ptx::Stmt;

/// A 16-bit format's conversions.
trait Half: 'static {
    fn wide(h: u32) -> f32;
    /// From a value rounded to odd in f64.
    fn narrow(x: f64) -> u32;
    fn narrow_f32(x: f32) -> u32;
}

struct F16;
struct Bf16;

/// f64 to f32 rounded to odd, so that the next rounding is the only one that counts.
#[inline(always)]
fn odd_f32(x: f64) -> f32 {
    let down = round_f32(x, Round::Zero);
    if f64::from(down) == x || !down.is_finite() { x as f32 } else { f32::from_bits(down.to_bits() | 1) }
}

impl Half for F16 {
    #[inline(always)]
    fn wide(h: u32) -> f32 {
        f16_to_f32(h & 0xffff)
    }
    #[inline(always)]
    fn narrow(x: f64) -> u32 {
        f32_to_f16(odd_f32(x))
    }
    #[inline(always)]
    fn narrow_f32(x: f32) -> u32 {
        f32_to_f16(x)
    }
}

impl Half for Bf16 {
    #[inline(always)]
    fn wide(h: u32) -> f32 {
        bf16_to_f32(h & 0xffff)
    }
    #[inline(always)]
    fn narrow(x: f64) -> u32 {
        f32_to_bf16(odd_f32(x))
    }
    #[inline(always)]
    fn narrow_f32(x: f32) -> u32 {
        f32_to_bf16(x)
    }
}

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    match code.types().last() {
        Some(Ty::F16) => half::<F16>(b, code, stmt, false),
        Some(Ty::F16x2) => half::<F16>(b, code, stmt, true),
        Some(Ty::Bf16) => half::<Bf16>(b, code, stmt, false),
        Some(Ty::Bf16x2) => half::<Bf16>(b, code, stmt, true),
        Some(ty @ (Ty::U16x2 | Ty::S16x2)) => integer_pairs(b, code, stmt, *ty == Ty::S16x2),
        _ => Ok(None),
    }
}

fn half<H: Half>(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt, packed: bool) -> Decoded {
    if rounding(code) != Round::Nearest {
        return Ok(None);
    }
    let (flush, saturate, relu) = (code.has("ftz"), code.has("sat"), code.has("relu"));
    let bf = H::narrow_f32(1.0) == 0x3f80;
    let d = b.r(arg(stmt, 0)?)?;
    let mut rows = [0; 3];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = match stmt.args.get(i + 1) {
            Some(crate::ptx::Arg::F32(v)) => {
                let h = u64::from(H::narrow_f32(f32::from_bits(*v)));
                b.r(&crate::ptx::Arg::Int(h))?
            }
            Some(a) => b.r(a)?,
            None => b.r(arg(stmt, 1)?)?,
        };
    }
    let clean = move |h: u32| {
        // Only f16 has subnormals that `.ftz` flushes.
        if flush && !bf && h & 0x7c00 == 0 { h & 0x8000 } else { h }
    };
    let after = move |h: u32| {
        let h = clean(h);
        let v = H::wide(h);
        if saturate {
            return if v.is_nan() { 0 } else { H::narrow_f32(v.clamp(0.0, 1.0) + 0.0) };
        }
        if relu && (v <= 0.0) { 0 } else { h }
    };
    macro_rules! lanes {
        ($f:expr) => {{
            let f = $f;
            let one = move |x: u32, y: u32, z: u32| -> u32 { after(f(clean(x), clean(y), clean(z))) & 0xffff };
            return alu(if packed {
                f3::<u32, u32, u32, u32>(d, rows, move |x, y, z| {
                    one(x & 0xffff, y & 0xffff, z & 0xffff) | one(x >> 16, y >> 16, z >> 16) << 16
                })
            } else {
                f3::<u32, u32, u32, u32>(d, rows, move |x, y, z| one(x & 0xffff, y & 0xffff, z & 0xffff))
            });
        }};
    }
    match (code.base, stmt.args.len() - 1) {
        // One f32 operation on 16-bit inputs has enough bits that rounding twice is harmless for f16; the sum of
        // two bf16 may not fit f32, so it goes through f64.
        ("add", 2) => lanes!(|x, y, _| H::narrow(add_odd(H::wide(x).into(), H::wide(y).into()))),
        ("sub", 2) => lanes!(|x, y, _| H::narrow(add_odd(H::wide(x).into(), -f64::from(H::wide(y))))),
        ("mul", 2) => lanes!(|x, y, _| H::narrow(f64::from(H::wide(x)) * f64::from(H::wide(y)))),
        ("fma", 3) => {
            lanes!(|x, y, z| H::narrow(add_odd(f64::from(H::wide(x)) * f64::from(H::wide(y)), H::wide(z).into())))
        }
        ("abs", 1) => lanes!(|x: u32, _, _| x & 0x7fff),
        ("neg", 1) => lanes!(|x: u32, _, _| x ^ 0x8000),
        ("ex2", 1) => lanes!(|x, _, _| H::narrow_f32(ex2_approx(H::wide(x)))),
        ("tanh", 1) => lanes!(|x, _, _| H::narrow_f32(tanh_approx(H::wide(x)))),
        ("min" | "max", 2) => {
            let (max, nan, xorsign, abs) = (code.base == "max", code.has("NaN"), code.has("xorsign"), code.has("abs"));
            lanes!(move |x: u32, y: u32, _| {
                let (a, c) = if abs { (x & 0x7fff, y & 0x7fff) } else { (x, y) };
                let r = H::narrow_f32(min_max(H::wide(a), H::wide(c), max, nan));
                if xorsign { r & 0x7fff | (x ^ y) & 0x8000 } else { r }
            })
        }
        _ => Ok(None),
    }
}

fn integer_pairs(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt, signed: bool) -> Decoded {
    let d = b.r(arg(stmt, 0)?)?;
    if stmt.args.len() == 2 {
        let s = b.r(arg(stmt, 1)?)?;
        let f: fn(i16) -> i16 = match code.base {
            "neg" => i16::wrapping_neg,
            "abs" => i16::wrapping_abs,
            _ => return Ok(None),
        };
        return alu(f1::<u32, u32>(d, s, move |x| {
            u32::from(f(x as i16) as u16) | u32::from(f((x >> 16) as i16) as u16) << 16
        }));
    }
    let s = [b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?];
    let f: fn(u16, u16) -> u16 = match (code.base, signed) {
        ("add", _) => u16::wrapping_add,
        ("sub", _) => u16::wrapping_sub,
        ("mul", _) => u16::wrapping_mul,
        ("min", false) => |x, y| x.min(y),
        ("max", false) => |x, y| x.max(y),
        ("min", true) => |x, y| (x as i16).min(y as i16) as u16,
        ("max", true) => |x, y| (x as i16).max(y as i16) as u16,
        _ => return Ok(None),
    };
    let relu = code.has("relu");
    let one = move |x: u32, y: u32| {
        let v = f(x as u16, y as u16);
        u32::from(if relu && (v as i16) < 0 { 0 } else { v })
    };
    alu(f2::<u32, u32, u32>(d, s, move |x, y| one(x, y) | one(x >> 16, y >> 16) << 16))
}
