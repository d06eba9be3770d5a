//! `cvt` ("Data Movement and Conversion Instructions: cvt").

use super::float::rounding;
use super::operand::{Build, alu, arg};
use super::{Code, Decoded, Ty};
use crate::exec::{AluFn, f1, f2, f3};
use crate::num::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, ftz, round_f32, sticky};
use crate::ptx::{Arg, RegKind, Stmt};
use kiln_num::{BF16, E4M3, E5M2, F16, Format, Round, TF32};

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    if code.has("pack") {
        return pack(b, code, stmt);
    }
    if code.has("rs") {
        return Ok(None);
    }
    let types = code.types();
    let [to, from] = types[..] else { return Ok(None) };
    match (to, from) {
        (Ty::F16x2 | Ty::Bf16x2 | Ty::E4m3x2 | Ty::E5m2x2, Ty::F32) => to_pair(b, code, stmt, to),
        (Ty::E4m3x2 | Ty::E5m2x2, Ty::F16x2) | (Ty::F16x2, Ty::E4m3x2 | Ty::E5m2x2) => repack(b, code, stmt, to, from),
        _ => scalar(b, code, stmt, to, from),
    }
}

fn format(ty: Ty) -> Option<Format> {
    Some(match ty {
        Ty::F16 | Ty::F16x2 => F16,
        Ty::Bf16 | Ty::Bf16x2 => BF16,
        Ty::Tf32 => TF32,
        Ty::E4m3x2 | Ty::E4m3 => E4M3,
        Ty::E5m2x2 | Ty::E5m2 => E5M2,
        _ => return None,
    })
}

/// Range of an integer type.
fn range(ty: Ty) -> (i128, i128) {
    let bits = ty.bits();
    if ty.signed() { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) }
}

fn is_integer(ty: Ty) -> bool {
    matches!(
        ty,
        Ty::U8
            | Ty::U16
            | Ty::U32
            | Ty::U64
            | Ty::S8
            | Ty::S16
            | Ty::S32
            | Ty::S64
            | Ty::B8
            | Ty::B16
            | Ty::B32
            | Ty::B64
    )
}

/// Any scalar as a 64-bit pattern: integers extended by their sign, floats as the bits of their f64 value.
fn read(ty: Ty, flush: bool) -> fn(u64) -> u64 {
    match (ty, flush) {
        (Ty::U8 | Ty::B8, _) => |v| v & 0xff,
        (Ty::U16 | Ty::B16, _) => |v| v & 0xffff,
        (Ty::U32 | Ty::B32, _) => |v| v & 0xffff_ffff,
        (Ty::S8, _) => |v| v as i8 as i64 as u64,
        (Ty::S16, _) => |v| v as i16 as i64 as u64,
        (Ty::S32, _) => |v| v as i32 as i64 as u64,
        (Ty::F16, _) => |v| f64::from(f16_to_f32(v as u32 & 0xffff)).to_bits(),
        (Ty::Bf16, _) => |v| f64::from(bf16_to_f32(v as u32 & 0xffff)).to_bits(),
        (Ty::F32, false) => |v| f64::from(f32::from_bits(v as u32)).to_bits(),
        (Ty::F32, true) => |v| f64::from(ftz(f32::from_bits(v as u32))).to_bits(),
        _ => |v| v,
    }
}

/// Builds the lane loop for a conversion given on 64-bit patterns; narrow files are zero-extended around it.
fn through_bits(
    dst_wide: bool,
    src_wide: bool,
    d: u32,
    s: u32,
    f: impl Fn(u64) -> u64 + Send + Sync + 'static,
) -> AluFn {
    match (dst_wide, src_wide) {
        (true, true) => f1::<u64, u64>(d, s, f),
        (true, false) => f1::<u64, u32>(d, s, move |v| f(v.into())),
        (false, true) => f1::<u32, u64>(d, s, move |v| f(v) as u32),
        (false, false) => f1::<u32, u32>(d, s, move |v| f(v.into()) as u32),
    }
}

fn scalar(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt, to: Ty, from: Ty) -> Decoded {
    let mode = rounding(code);
    let (flush, saturate, relu) = (code.has("ftz"), code.has("sat"), code.has("relu"));
    let satfinite = code.has("satfinite");
    // The registers may be wider than the types.
    let wide = |b: &Build<'_>, a: &Arg, ty: Ty| match super::logic::register_kind(b, a) {
        Some(RegKind::R64) => true,
        Some(_) => false,
        None => ty.bits() == 64,
    };
    let (da, sa) = (arg(stmt, 0)?, arg(stmt, 1)?);
    let (dw, sw) = (wide(b, da, to), wide(b, sa, from));
    let d = b.value(if dw { 64 } else { 32 }, da)?;
    let s = b.value(if sw { 64 } else { 32 }, sa)?;
    // The conversions that inner loops use.
    if !saturate && !relu && !flush && mode == Round::Nearest && !dw && !sw {
        match (to, from) {
            (Ty::F32, Ty::F16) => return alu(f1::<u32, u32>(d, s, |v| f16_to_f32(v & 0xffff).to_bits())),
            (Ty::F32, Ty::Bf16) => return alu(f1::<u32, u32>(d, s, |v| v << 16)),
            (Ty::F16, Ty::F32) => return alu(f1::<u32, u32>(d, s, |v| f32_to_f16(f32::from_bits(v)))),
            (Ty::Bf16, Ty::F32) => return alu(f1::<u32, u32>(d, s, |v| f32_to_bf16(f32::from_bits(v)))),
            (Ty::F32, Ty::S32) => return alu(f1::<u32, u32>(d, s, |v| (v as i32 as f32).to_bits())),
            _ => {}
        }
    }
    let get = read(from, flush);
    let float_in = !is_integer(from);
    let keep = if to.bits() >= 64 { u64::MAX } else { (1u64 << to.bits()) - 1 };
    // A narrow signed result is sign-extended to the register's width.
    let extend = move |v: u64| {
        let v = v & keep;
        if to.signed() && to.bits() < 32 {
            let shift = 64 - to.bits();
            ((v << shift) as i64 >> shift) as u64
        } else if to.signed() && dw && to.bits() == 32 {
            v as i32 as i64 as u64
        } else {
            v
        }
    };
    let (lo, hi) = range(to);
    let f: AluFn = if is_integer(to) {
        if float_in {
            through_bits(dw, sw, d, s, move |v| {
                let x = f64::from_bits(get(v));
                if x.is_nan() {
                    // Zero, or the top bit where either side has 64 bits.
                    let top = to.bits() == 64 || from == Ty::F64;
                    return if top { 1 << (to.bits() - 1) } else { 0 };
                }
                // Float to integer always clamps.
                extend((mode.integral(x) as i128).clamp(lo, hi) as u64)
            })
        } else {
            let unsigned = !from.signed();
            through_bits(dw, sw, d, s, move |v| {
                let v = get(v);
                if saturate {
                    let x = if unsigned { i128::from(v) } else { i128::from(v as i64) };
                    extend(x.clamp(lo, hi) as u64)
                } else {
                    extend(v)
                }
            })
        }
    } else {
        let unsigned = !from.signed();
        let round_to_integer = code.mods.iter().any(|m| matches!(*m, "rni" | "rzi" | "rmi" | "rpi"));
        let put: Box<dyn Fn(f64) -> u64 + Send + Sync> = match to {
            Ty::F64 => Box::new(|x| x.to_bits()),
            Ty::F32 => Box::new(move |x| {
                let r = round_f32(x, mode);
                let r = if flush { ftz(r) } else { r };
                u64::from(if r.is_nan() { 0x7fff_ffff } else { r.to_bits() })
            }),
            Ty::Tf32 => Box::new(move |x| u64::from(TF32.encode(x, mode, satfinite)) << 13),
            _ => {
                let Some(f) = format(to) else { return Ok(None) };
                Box::new(move |x| u64::from(f.encode(x, mode, satfinite)))
            }
        };
        through_bits(dw, sw, d, s, move |v| {
            let bits = get(v);
            let mut x = if float_in {
                f64::from_bits(bits)
            } else if unsigned {
                integer_value(i128::from(bits), to, mode)
            } else {
                integer_value(i128::from(bits as i64), to, mode)
            };
            if round_to_integer {
                x = mode.integral(x);
            }
            if saturate {
                x = if x > 0.0 { x.min(1.0) } else { 0.0 };
            }
            if relu && x <= 0.0 {
                x = 0.0;
            }
            put(x)
        })
    };
    alu(f)
}

/// An integer as f64; to a narrower float through round-to-odd, so that only the last rounding shows.
fn integer_value(v: i128, to: Ty, mode: Round) -> f64 {
    let x = v as f64;
    let residue = v - x as i128;
    if to != Ty::F64 {
        return sticky(x, residue as f64);
    }
    match mode {
        Round::Up if residue > 0 => x.next_up(),
        Round::Down if residue < 0 => x.next_down(),
        Round::Zero if residue < 0 && x > 0.0 => x.next_down(),
        Round::Zero if residue > 0 && x < 0.0 => x.next_up(),
        _ => x,
    }
}

/// Two f32 to one packed register: the first source goes to the upper half.
fn to_pair(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt, to: Ty) -> Decoded {
    let (mode, relu, satfinite) = (rounding(code), code.has("relu"), code.has("satfinite"));
    let d = b.r(arg(stmt, 0)?)?;
    let s = [b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?];
    let plain = mode == Round::Nearest && !relu && !satfinite;
    let Some(f) = format(to) else { return Ok(None) };
    let width = to.bits() / 2;
    alu(match to {
        Ty::F16x2 if plain => {
            f2::<u32, u32, u32>(d, s, |hi, lo| f32_to_f16(f32::from_bits(hi)) << 16 | f32_to_f16(f32::from_bits(lo)))
        }
        Ty::Bf16x2 if plain => {
            f2::<u32, u32, u32>(d, s, |hi, lo| f32_to_bf16(f32::from_bits(hi)) << 16 | f32_to_bf16(f32::from_bits(lo)))
        }
        _ => f2::<u32, f32, f32>(d, s, move |hi, lo| {
            let one = |x: f32| f.encode(if relu && x <= 0.0 { 0.0 } else { x.into() }, mode, satfinite);
            one(hi) << width | one(lo)
        }),
    })
}

/// Packed pairs of 8-bit and 16-bit floats.
fn repack(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt, to: Ty, from: Ty) -> Decoded {
    let (Some(f), Some(t)) = (format(from), format(to)) else { return Ok(None) };
    let (mode, relu) = (rounding(code), code.has("relu"));
    let (wf, wt) = (from.bits() / 2, to.bits() / 2);
    let satfinite = code.has("satfinite");
    let (d, s) = (b.r(arg(stmt, 0)?)?, b.r(arg(stmt, 1)?)?);
    alu(f1::<u32, u32>(d, s, move |v| {
        let one = |h: u32| {
            let x = f.decode(h & ((1 << wf) - 1));
            t.encode(if relu && x <= 0.0 { 0.0 } else { x }, mode, satfinite)
        };
        one(v >> wf) << wt | one(v)
    }))
}

/// `cvt.pack.sat.to.from.b32 d, a, b, c`: saturates a and b and places them below c's lower bits.
fn pack(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let types = code.types();
    let (to, from) = match types[..] {
        [to, from, ..] => (to, from),
        _ => return Ok(None),
    };
    let width = to.bits();
    if from != Ty::S32 || width > 16 || !is_integer(to) {
        return Ok(None);
    }
    let (lo, hi) = range(to);
    let clamp = move |v: u32| (i128::from(v as i32).clamp(lo, hi) as u32) & ((1 << width) - 1);
    let d = b.r(arg(stmt, 0)?)?;
    let (x, y) = (b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?);
    if width == 16 && stmt.args.len() == 3 {
        return alu(f2::<u32, u32, u32>(d, [x, y], move |x, y| clamp(x) << 16 | clamp(y)));
    }
    let z = b.r(arg(stmt, 3)?)?;
    alu(f3::<u32, u32, u32, u32>(d, [x, y, z], move |x, y, z| z << (2 * width) | clamp(x) << width | clamp(y)))
}
