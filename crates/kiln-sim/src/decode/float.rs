//! f32 and f64 arithmetic ("Floating Point Instructions").

use super::operand::{Build, alu, arg};
use super::{Code, Decoded, Ty};
use crate::exec::{AluFn, f1, f2, f3};
use crate::num::{add_odd, cos_approx, ex2_approx, ftz, lg2_approx, rcp_approx, round_f32, rsqrt_approx, sat};
use crate::num::{sin_approx, sticky, tanh_approx};
use crate::ptx::Stmt;
use kiln_num::Round;

/// The rounding modifier; to nearest when absent.
pub(super) fn rounding(code: &Code<'_>) -> Round {
    match () {
        _ if code.has("rz") || code.has("rzi") => Round::Zero,
        _ if code.has("rm") || code.has("rmi") => Round::Down,
        _ if code.has("rp") || code.has("rpi") => Round::Up,
        _ if code.has("rna") => Round::NearestAway,
        _ => Round::Nearest,
    }
}

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    match code.types().last() {
        Some(Ty::F32) => single(b, code, stmt),
        Some(Ty::F64) => double(b, code, stmt),
        Some(Ty::F32x2) => pair(b, code, stmt),
        _ => Ok(None),
    }
}

/// Applies `.ftz` and `.sat` around a function of three values.
fn f32_op(
    d: u32,
    s: [u32; 3],
    flush: bool,
    saturate: bool,
    f: impl Fn(f32, f32, f32) -> f32 + Copy + Send + Sync + 'static,
) -> AluFn {
    match (flush, saturate) {
        (false, false) => f3::<f32, f32, f32, f32>(d, s, f),
        (true, false) => f3::<f32, f32, f32, f32>(d, s, move |x, y, z| ftz(f(ftz(x), ftz(y), ftz(z)))),
        (false, true) => f3::<f32, f32, f32, f32>(d, s, move |x, y, z| sat(f(x, y, z))),
        (true, true) => f3::<f32, f32, f32, f32>(d, s, move |x, y, z| sat(ftz(f(ftz(x), ftz(y), ftz(z))))),
    }
}

/// A sum rounded to odd, with the zero that the mode asks for: an exact zero of unlike signs is -0 when rounding down.
#[inline(always)]
fn sum_in(mode: Round, a: f64, b: f64) -> f64 {
    let s = add_odd(a, b);
    if s == 0.0 && mode == Round::Down && (a.is_sign_negative() || b.is_sign_negative()) { -0.0 } else { s }
}

/// IEEE minimum or maximum: the number wins over NaN, unless `.NaN`; -0 is below +0.
#[inline(always)]
pub(super) fn min_max(x: f32, y: f32, max: bool, nan: bool) -> f32 {
    if x.is_nan() || y.is_nan() {
        return match (nan, x.is_nan(), y.is_nan()) {
            (false, false, _) => x,
            (false, _, false) => y,
            _ => f32::from_bits(0x7fff_ffff),
        };
    }
    let less = if x == y { x.is_sign_negative() } else { x < y };
    if less != max { x } else { y }
}

fn single(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let mode = rounding(code);
    let (flush, saturate) = (code.has("ftz"), code.has("sat"));
    let d = b.r(arg(stmt, 0)?)?;
    let mut rows = [0; 3];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = match stmt.args.get(i + 1) {
            Some(a) => b.r(a)?,
            None => b.r(arg(stmt, 1)?)?,
        };
    }
    let count = stmt.args.len() - 1;
    let op = |f: AluFn| alu(f);
    macro_rules! fin {
        ($f:expr) => {
            op(f32_op(d, rows, flush, saturate, $f))
        };
    }
    let near = mode == Round::Nearest;
    match (code.base, count) {
        ("add", 2) if near => fin!(|x, y, _| x + y),
        ("sub", 2) if near => fin!(|x, y, _| x - y),
        ("mul", 2) if near => fin!(|x, y, _| x * y),
        ("fma" | "mad", 3) if near => fin!(|x, y, z| x.mul_add(y, z)),
        ("add", 2) => fin!(move |x, y, _| round_f32(sum_in(mode, x.into(), y.into()), mode)),
        ("sub", 2) => fin!(move |x, y, _| round_f32(sum_in(mode, x.into(), -f64::from(y)), mode)),
        ("mul", 2) => fin!(move |x, y, _| round_f32(f64::from(x) * f64::from(y), mode)),
        ("fma" | "mad", 3) => fin!(move |x, y, z| round_f32(sum_in(mode, f64::from(x) * f64::from(y), z.into()), mode)),
        // The approximate forms may err by 2 ulp; the exact quotient is within that. Large divisors give 0.
        ("div", 2) if code.has("approx") => fin!(|x, y, _| {
            let huge = y.is_finite() && y.abs() > f32::from_bits(0x7e80_0000);
            // The quotient is made of a reciprocal that has flushed to zero, so infinity gives NaN.
            match (huge, x.is_infinite()) {
                (true, true) => f32::NAN,
                (true, false) => 0.0f32.copysign(x * y.signum()),
                (false, _) => x / y,
            }
        }),
        ("div", 2) if near => fin!(|x, y, _| x / y),
        ("div", 2) => fin!(move |x, y, _| {
            let (x, y) = (f64::from(x), f64::from(y));
            let q = x / y;
            let residue = -q.mul_add(y, -x);
            round_f32(sticky(q, residue * y.signum()), mode)
        }),
        ("rcp", 1) if code.has("approx") => fin!(|x, _, _| rcp_approx(x)),
        ("rcp", 1) => fin!(move |x, _, _| {
            let x = f64::from(x);
            let q = 1.0 / x;
            round_f32(sticky(q, -q.mul_add(x, -1.0) * x.signum()), mode)
        }),
        ("sqrt", 1) if near => fin!(|x, _, _| x.sqrt()),
        ("sqrt", 1) => fin!(move |x, _, _| {
            let x = f64::from(x);
            let r = x.sqrt();
            round_f32(sticky(r, -r.mul_add(r, -x)), mode)
        }),
        ("rsqrt", 1) => fin!(|x, _, _| rsqrt_approx(x)),
        ("ex2", 1) => fin!(|x, _, _| ex2_approx(x)),
        ("lg2", 1) => fin!(|x, _, _| lg2_approx(x)),
        ("sin", 1) => fin!(|x, _, _| sin_approx(x)),
        ("cos", 1) => fin!(|x, _, _| cos_approx(x)),
        ("tanh", 1) => fin!(|x, _, _| tanh_approx(x)),
        ("abs", 1) => fin!(|x, _, _| x.abs()),
        ("neg", 1) => fin!(|x: f32, _, _| -x),
        ("min" | "max", 2 | 3) => {
            let (max, nan, xorsign) = (code.base == "max", code.has("NaN"), code.has("xorsign"));
            let (abs, three) = (code.has("abs"), count == 3);
            if !nan && !abs && !three {
                return if max {
                    fin!(|x, y, _| min_max(x, y, true, false))
                } else {
                    fin!(|x, y, _| min_max(x, y, false, false))
                };
            }
            fin!(move |x, y, z| {
                let (a, b) = if abs { (x.abs(), y.abs()) } else { (x, y) };
                let mut r = min_max(a, b, max, nan);
                if three {
                    r = min_max(r, if abs { z.abs() } else { z }, max, nan);
                }
                if xorsign {
                    r.copysign(if x.is_sign_negative() != y.is_sign_negative() { -1.0 } else { 1.0 })
                } else {
                    r
                }
            })
        }
        _ => Ok(None),
    }
}

fn double(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let mode = rounding(code);
    let d = b.d(arg(stmt, 0)?)?;
    let mut rows = [0; 3];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = match stmt.args.get(i + 1) {
            Some(a) => b.d(a)?,
            None => b.d(arg(stmt, 1)?)?,
        };
    }
    let two = [rows[0], rows[1]];
    let exact = matches!(code.base, "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt");
    if exact && mode != Round::Nearest {
        return directed(d, rows, code.base, mode);
    }
    alu(match (code.base, stmt.args.len() - 1) {
        ("add", 2) => f2::<f64, f64, f64>(d, two, |x, y| x + y),
        ("sub", 2) => f2::<f64, f64, f64>(d, two, |x, y| x - y),
        ("mul", 2) => f2::<f64, f64, f64>(d, two, |x, y| x * y),
        ("fma" | "mad", 3) => f3::<f64, f64, f64, f64>(d, rows, |x, y, z| x.mul_add(y, z)),
        ("div", 2) => f2::<f64, f64, f64>(d, two, |x, y| x / y),
        // The approximate f64 forms keep the upper 32 bits of the result.
        ("rcp", 1) if code.has("approx") => f1::<f64, f64>(d, rows[0], |x| high_word(1.0 / x)),
        ("rsqrt", 1) if code.has("ftz") => f1::<f64, f64>(d, rows[0], |x| high_word(1.0 / x.sqrt())),
        // Without .ftz the assembler refines it to full precision.
        ("rsqrt", 1) => f1::<f64, f64>(d, rows[0], |x| 1.0 / x.sqrt()),
        ("rcp", 1) => f1::<f64, f64>(d, rows[0], |x| 1.0 / x),
        ("sqrt", 1) => f1::<f64, f64>(d, rows[0], f64::sqrt),
        ("abs", 1) => f1::<f64, f64>(d, rows[0], f64::abs),
        ("neg", 1) => f1::<f64, f64>(d, rows[0], |x| -x),
        ("min", 2) => {
            f2::<f64, f64, f64>(
                d,
                two,
                |x, y| if x < y || y.is_nan() || x == y && x.is_sign_negative() { x } else { y },
            )
        }
        ("max", 2) => {
            f2::<f64, f64, f64>(
                d,
                two,
                |x, y| if x > y || y.is_nan() || x == y && y.is_sign_negative() { x } else { y },
            )
        }
        _ => return Ok(None),
    })
}

fn high_word(x: f64) -> f64 {
    f64::from_bits(x.to_bits() & !0xffff_ffff)
}

/// The f64 neighbour of `near` that a directed mode asks for, given the sign of (exact - near).
fn adjust(mode: Round, near: f64, residue: f64) -> f64 {
    if near.is_infinite() {
        // Overflow of finite operands: the caller passes a residue that points back to the finite values.
        let keep = residue == 0.0 || residue.is_nan();
        return match (mode, near > 0.0) {
            _ if keep => near,
            (Round::Zero | Round::Down, true) => f64::MAX,
            (Round::Zero | Round::Up, false) => f64::MIN,
            _ => near,
        };
    }
    if residue == 0.0 || near.is_nan() || residue.is_nan() {
        return near;
    }
    let up = residue > 0.0;
    match mode {
        Round::Up if up => near.next_up(),
        Round::Down if !up => near.next_down(),
        Round::Zero if near > 0.0 && !up => near.next_down(),
        Round::Zero if near < 0.0 && up => near.next_up(),
        _ => near,
    }
}

const UP300: f64 = f64::from_bits((1023 + 300) << 52);
const TINY: f64 = f64::from_bits((1023 - 700) << 52);

/// Sign of `x * y - p` for `p` the rounded product, out of reach of underflow.
fn product_residue(x: f64, y: f64, p: f64) -> f64 {
    if p.is_infinite() && x.is_finite() && y.is_finite() {
        return -p.signum();
    }
    if p.abs() < TINY { (x * UP300).mul_add(y * UP300, -(p * UP300 * UP300)) } else { x.mul_add(y, -p) }
}

/// Sign of `x / y - q` for `q` the rounded quotient.
fn quotient_residue(mut x: f64, mut y: f64, mut q: f64) -> f64 {
    if q.is_infinite() {
        return if x.is_finite() && y != 0.0 { -q.signum() } else { 0.0 };
    }
    if x.abs() < TINY && y.abs() < 1.0 / TINY {
        (x, y) = (x * UP300, y * UP300);
    }
    if q.abs() < TINY {
        (x, q) = (x * UP300, q * UP300);
    }
    -q.mul_add(y, -x) * y.signum()
}

/// f64 in a directed mode: the nearest result moved one step where the residue says so.
fn directed(d: u32, rows: [u32; 3], base: &str, mode: Round) -> Decoded {
    let two = [rows[0], rows[1]];
    let two_sum = |a: f64, b: f64| {
        let s = a + b;
        let bb = s - a;
        (s, (a - (s - bb)) + (b - bb))
    };
    let sum = move |a: f64, b: f64| {
        let (s, residue) = two_sum(a, b);
        if s == 0.0 && mode == Round::Down && (a.is_sign_negative() || b.is_sign_negative()) {
            return -0.0;
        }
        let overflow = s.is_infinite() && a.is_finite() && b.is_finite();
        adjust(mode, s, if overflow { -s.signum() } else { residue })
    };
    alu(match base {
        "add" => f2::<f64, f64, f64>(d, two, sum),
        "sub" => f2::<f64, f64, f64>(d, two, move |x, y| sum(x, -y)),
        "mul" => f2::<f64, f64, f64>(d, two, move |x, y| adjust(mode, x * y, product_residue(x, y, x * y))),
        "div" => f2::<f64, f64, f64>(d, two, move |x, y| adjust(mode, x / y, quotient_residue(x, y, x / y))),
        "rcp" => f1::<f64, f64>(d, rows[0], move |x| adjust(mode, 1.0 / x, quotient_residue(1.0, x, 1.0 / x))),
        "sqrt" => f1::<f64, f64>(d, rows[0], move |x| {
            let r = x.sqrt();
            let (x, s) = if x < TINY { (x * UP300 * UP300, r * UP300) } else { (x, r) };
            adjust(mode, r, if r.is_finite() { -s.mul_add(s, -x) } else { 0.0 })
        }),
        "fma" | "mad" => f3::<f64, f64, f64, f64>(d, rows, move |x, y, z| {
            // The exact residue of a fused multiply-add, by Boldo and Muller's ErrFmaNearest.
            let r = x.mul_add(y, z);
            let (uh, ul) = (x * y, x.mul_add(y, -(x * y)));
            let (ah, al) = two_sum(z, ul);
            let (bh, bl) = two_sum(uh, ah);
            let g = (bh - r) + bl;
            if r == 0.0 && mode == Round::Down && (uh.is_sign_negative() || z.is_sign_negative()) {
                return -0.0;
            }
            let overflow = r.is_infinite() && x.is_finite() && y.is_finite() && z.is_finite();
            adjust(mode, r, if overflow { -r.signum() } else { g + al })
        }),
        _ => return Ok(None),
    })
}

/// `add`, `sub`, `mul`, `fma` on two packed f32.
fn pair(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    if rounding(code) != Round::Nearest {
        return Ok(None);
    }
    let d = b.d(arg(stmt, 0)?)?;
    let s = [b.d(arg(stmt, 1)?)?, b.d(arg(stmt, 2)?)?, b.d(stmt.args.get(3).unwrap_or(arg(stmt, 1)?))?];
    let f: fn(f32, f32, f32) -> f32 = match code.base {
        "add" => |x, y, _| x + y,
        "sub" => |x, y, _| x - y,
        "mul" => |x, y, _| x * y,
        "fma" => f32::mul_add,
        _ => return Ok(None),
    };
    let flush = code.has("ftz");
    let one = move |x: u64, y: u64, z: u64| {
        let v = [x, y, z].map(|v| f32::from_bits(v as u32)).map(|v| if flush { ftz(v) } else { v });
        let r = f(v[0], v[1], v[2]);
        u64::from((if flush { ftz(r) } else { r }).to_bits())
    };
    alu(f3::<u64, u64, u64, u64>(d, s, move |x, y, z| one(x, y, z) | one(x >> 32, y >> 32, z >> 32) << 32))
}
