//! f16, bf16 and packed 16-bit arithmetic ("Half Precision Floating Point Instructions", and the `x2` forms).

use super::float::{min_max, rounding};
use super::operand::{Build, alu, arg};
use super::{Code, Decoded, Ty};
use crate::exec::{LANES, Lane, Regs, f1, f2, f3, wide};
use crate::num::{add_odd, add_odd_f32, bf16_to_f32, ex2_approx, f16_to_f32, f32_to_bf16, f32_to_f16, tanh_approx};
use crate::ptx::Stmt;
use kiln_num::{BF16, Round};

/// A 16-bit format's conversions.
trait Half: 'static {
    fn wide(h: u32) -> f32;
    /// The correctly rounded `x * y + z`.
    fn fma(x: f32, y: f32, z: f32) -> u32;
    fn narrow(x: f32) -> u32;
}

struct F16;
struct Bf16;

/// f64 to f32 rounded to odd, so that the next rounding is the only one that counts. Not for f32 subnormals.
#[inline(always)]
fn odd_f32(x: f64) -> f32 {
    const LOW: u64 = (1 << 29) - 1;
    let bits = x.to_bits();
    f64::from_bits(bits & !LOW | u64::from(bits & LOW != 0) << 29) as f32
}

impl Half for F16 {
    #[inline(always)]
    fn wide(h: u32) -> f32 {
        f16_to_f32(h & 0xffff)
    }
    #[inline(always)]
    fn fma(x: f32, y: f32, z: f32) -> u32 {
        // The product is exact and far from the ends of f32.
        f32_to_f16(add_odd_f32(x * y, z))
    }
    #[inline(always)]
    fn narrow(x: f32) -> u32 {
        f32_to_f16(x)
    }
}

impl Half for Bf16 {
    #[inline(always)]
    fn wide(h: u32) -> f32 {
        bf16_to_f32(h & 0xffff)
    }
    #[inline(always)]
    fn fma(x: f32, y: f32, z: f32) -> u32 {
        let exact = add_odd(f64::from(x) * f64::from(y), z.into());
        if exact.abs() < f64::from(f32::MIN_POSITIVE) {
            return BF16.encode(exact, Round::Nearest, false);
        }
        f32_to_bf16(odd_f32(exact))
    }
    #[inline(always)]
    fn narrow(x: f32) -> u32 {
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
    let bf = H::narrow(1.0) == 0x3f80;
    let d = b.r(arg(stmt, 0)?)?;
    let mut rows = [0; 3];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = match stmt.args.get(i + 1) {
            Some(crate::ptx::Arg::F32(v)) => {
                let h = u64::from(H::narrow(f32::from_bits(*v)));
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
            return if v.is_nan() { 0 } else { H::narrow(v.clamp(0.0, 1.0) + 0.0) };
        }
        if relu && (v <= 0.0) { 0 } else { h }
    };
    let plain = !flush && !saturate && !relu;
    macro_rules! lanes {
        ($f:expr) => {{
            let f = $f;
            if plain {
                // The form that inner loops use, without the modifiers' selects.
                return alu(if packed {
                    f3::<u32, u32, u32, u32>(d, rows, move |x, y, z| {
                        f(x & 0xffff, y & 0xffff, z & 0xffff) & 0xffff | f(x >> 16, y >> 16, z >> 16) << 16
                    })
                } else {
                    f3::<u32, u32, u32, u32>(d, rows, move |x, y, z| f(x & 0xffff, y & 0xffff, z & 0xffff) & 0xffff)
                });
            }
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
    let basic = match (code.base, stmt.args.len() - 1) {
        ("add", 2) => Some(Basic::Add),
        ("sub", 2) => Some(Basic::Sub),
        ("mul", 2) => Some(Basic::Mul),
        ("fma", 3) => Some(Basic::Fma),
        _ => None,
    };
    if let (Some(op), true) = (basic, plain) {
        return alu(Box::new(move |regs, mask| {
            wide(
                #[inline(always)]
                || basic_rows::<H>(regs, mask, op, d, rows, packed),
            );
        }));
    }
    match (code.base, stmt.args.len() - 1) {
        ("add", 2) => lanes!(|x, y, _| H::fma(H::wide(x), 1.0, H::wide(y))),
        ("sub", 2) => lanes!(|x, y, _| H::fma(H::wide(y), -1.0, H::wide(x))),
        // Adding -0 keeps the sign of a zero product.
        ("mul", 2) => lanes!(|x, y, _| H::fma(H::wide(x), H::wide(y), -0.0)),
        ("fma", 3) => lanes!(|x, y, z| H::fma(H::wide(x), H::wide(y), H::wide(z))),
        ("abs", 1) => lanes!(|x: u32, _, _| H::narrow(H::wide(x & 0x7fff))),
        ("neg", 1) => lanes!(|x: u32, _, _| x ^ 0x8000),
        ("ex2", 1) => lanes!(|x, _, _| H::narrow(ex2_approx(H::wide(x)))),
        ("tanh", 1) => lanes!(|x, _, _| H::narrow(tanh_approx(H::wide(x)))),
        ("min" | "max", 2) => {
            let (max, nan, xorsign, abs) = (code.base == "max", code.has("NaN"), code.has("xorsign"), code.has("abs"));
            lanes!(move |x: u32, y: u32, _| {
                let (a, c) = if abs { (x & 0x7fff, y & 0x7fff) } else { (x, y) };
                let r = H::narrow(min_max(H::wide(a), H::wide(c), max, nan));
                if xorsign { r & 0x7fff | (x ^ y) & 0x8000 } else { r }
            })
        }
        _ => Ok(None),
    }
}

/// The four operations of inner loops.
#[derive(Clone, Copy)]
enum Basic {
    Add,
    Sub,
    Mul,
    Fma,
}

/// One of them on whole rows, in steps that vectorise.
#[inline(always)]
fn basic_rows<H: Half>(regs: &mut Regs, mask: u32, op: Basic, d: u32, rows: [u32; 3], packed: bool) {
    let [x, y, z] = rows.map(|row| u32::get(regs, row));
    let mut out = [0u32; LANES];
    for shift in if packed { [0, 16].as_slice() } else { &[0] } {
        let part = |v: &[u32; LANES]| -> [f32; LANES] { std::array::from_fn(|i| H::wide(v[i] >> shift & 0xffff)) };
        let (x, y) = (part(&x), part(&y));
        let (a, b, c) = match op {
            Basic::Add => (x, [1.0; LANES], y),
            Basic::Sub => (y, [-1.0; LANES], x),
            // Adding -0 keeps the sign of a zero product.
            Basic::Mul => (x, y, [-0.0; LANES]),
            Basic::Fma => (x, y, part(&z)),
        };
        for i in 0..LANES {
            out[i] |= (H::fma(a[i], b[i], c[i]) & 0xffff) << shift;
        }
    }
    u32::put(regs, d, &out, mask);
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
