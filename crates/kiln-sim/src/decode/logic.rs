//! Moves, selection, logic and shifts ("Comparison and Selection Instructions", "Logic and Shift
//! Instructions", "Data Movement and Conversion Instructions").

use super::op::Special;
use super::operand::{Build, alu, arg, immediate, items};
use super::{Clock, Code, Decoded, Op, Ty, compare};
use crate::exec::{AluFn, FULL, LOCAL_BASE, Lane, PARAM_BASE, Regs, SHARED_BASE, WINDOW, f1, f2, f3, wide};
use crate::ptx::{Arg, RegKind, Stmt};

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    match code.base {
        "mov" => mov(b, code, stmt),
        "cvta" => cvta(b, code, stmt),
        "isspacep" => isspacep(b, code, stmt),
        "mapa" => mapa(b, code, stmt),
        "getctarank" => {
            let (d, a) = (b.r(arg(stmt, 0)?)?, arg(stmt, 1)?);
            let own = b.r(&Arg::Special("%cluster_ctarank".into()))?;
            let rank = |shared: u32, own: u32| if shared >> 24 == 0 { own } else { (shared >> 24) - 1 };
            if code.types().last() == Some(&Ty::U64) {
                let a = b.d(a)?;
                return alu(f2::<u32, u64, u32>(d, [a, own], move |a, own| rank(a as u32, own)));
            }
            let a = b.r(a)?;
            alu(f2::<u32, u32, u32>(d, [a, own], rank))
        }
        "selp" => selp(b, code, stmt),
        "slct" => slct(b, code, stmt),
        "setp" | "set" | "testp" => compare::decode(b, code, stmt),
        "copysign" => {
            let types = code.types();
            let bits = types.last().map_or(32, |t| t.bits());
            let d = b.value(bits, arg(stmt, 0)?)?;
            let s = [b.value(bits, arg(stmt, 1)?)?, b.value(bits, arg(stmt, 2)?)?];
            alu(match bits {
                64 => f2::<u64, u64, u64>(d, s, |a, v| a & 1 << 63 | v & !(1 << 63)),
                _ => f2::<u32, u32, u32>(d, s, |a, v| a & 1 << 31 | v & !(1 << 31)),
            })
        }
        "lop3" => lop3(b, code, stmt),
        "prmt" => prmt(b, code, stmt),
        "shf" => {
            let d = b.r(arg(stmt, 0)?)?;
            let s = [b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?, b.r(arg(stmt, 3)?)?];
            let (left, wrap) = (code.has("l"), code.has("wrap"));
            alu(f3::<u32, u32, u32, u32>(d, s, move |lo, hi, n| {
                let n = if wrap { n & 31 } else { n.min(32) };
                let both = u64::from(hi) << 32 | u64::from(lo);
                if left { ((both << n) >> 32) as u32 } else { (both >> n) as u32 }
            }))
        }
        _ => bitwise(b, code, stmt),
    }
}

fn bitwise(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let Some(ty) = code.types().last().copied() else { return Ok(None) };
    if ty == Ty::Pred {
        let (d, _) = b.p(arg(stmt, 0)?)?;
        let (x, nx) = b.p(arg(stmt, 1)?)?;
        let (y, ny) = if stmt.args.len() > 2 { b.p(arg(stmt, 2)?)? } else { (x, nx) };
        let op: fn(u32, u32) -> u32 = match code.base {
            "and" => |x, y| x & y,
            "or" => |x, y| x | y,
            "xor" => |x, y| x ^ y,
            "not" => |x, _| !x,
            _ => return Ok(None),
        };
        return alu(Box::new(move |regs, mask| {
            let v = op(flip(regs, x, nx), flip(regs, y, ny));
            write_pred(regs, d, v, mask);
        }));
    }
    let bits = ty.bits();
    let d = b.value(bits, arg(stmt, 0)?)?;
    let x = b.value(bits, arg(stmt, 1)?)?;
    if matches!(code.base, "shl" | "shr") {
        let s = [x, b.r(arg(stmt, 2)?)?];
        return alu(match (code.base, ty) {
            ("shl", _) if bits == 16 => f2::<u16, u16, u32>(d, s, |x, n| x.checked_shl(n).unwrap_or(0)),
            ("shl", _) if bits == 32 => f2::<u32, u32, u32>(d, s, |x, n| x.checked_shl(n).unwrap_or(0)),
            ("shl", _) => f2::<u64, u64, u32>(d, s, |x, n| x.checked_shl(n).unwrap_or(0)),
            (_, Ty::S16) => f2::<i16, i16, u32>(d, s, |x, n| x >> n.min(15)),
            (_, Ty::S32) => f2::<i32, i32, u32>(d, s, |x, n| x >> n.min(31)),
            (_, Ty::S64) => f2::<i64, i64, u32>(d, s, |x, n| x >> n.min(63)),
            _ if bits == 16 => f2::<u16, u16, u32>(d, s, |x, n| x.checked_shr(n).unwrap_or(0)),
            _ if bits == 32 => f2::<u32, u32, u32>(d, s, |x, n| x.checked_shr(n).unwrap_or(0)),
            _ => f2::<u64, u64, u32>(d, s, |x, n| x.checked_shr(n).unwrap_or(0)),
        });
    }
    if matches!(code.base, "not" | "cnot") {
        let not = code.base == "not";
        return alu(match bits {
            16 => f1::<u16, u16>(d, x, move |x| if not { !x } else { u16::from(x == 0) }),
            32 => f1::<u32, u32>(d, x, move |x| if not { !x } else { u32::from(x == 0) }),
            _ => f1::<u64, u64>(d, x, move |x| if not { !x } else { u64::from(x == 0) }),
        });
    }
    let s = [x, b.value(bits, arg(stmt, 2)?)?];
    alu(match (code.base, bits) {
        ("and", 64) => f2::<u64, u64, u64>(d, s, |x, y| x & y),
        ("or", 64) => f2::<u64, u64, u64>(d, s, |x, y| x | y),
        ("xor", 64) => f2::<u64, u64, u64>(d, s, |x, y| x ^ y),
        ("and", _) => f2::<u32, u32, u32>(d, s, |x, y| x & y),
        ("or", _) => f2::<u32, u32, u32>(d, s, |x, y| x | y),
        ("xor", _) => f2::<u32, u32, u32>(d, s, |x, y| x ^ y),
        _ => return Ok(None),
    })
}

pub(super) fn flip(regs: &Regs, row: u32, negate: bool) -> u32 {
    let v = regs.p[row as usize];
    if negate { !v } else { v }
}

pub(super) fn write_pred(regs: &mut Regs, row: u32, value: u32, mask: u32) {
    let old = &mut regs.p[row as usize];
    *old = *old & !mask | value & mask;
}

fn mov(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let Some(ty) = code.types().last().copied() else { return Ok(None) };
    let (dst, src) = (arg(stmt, 0)?, arg(stmt, 1)?);
    if ty == Ty::Pred {
        let ((d, _), (s, neg)) = (b.p(dst)?, b.p(src)?);
        return alu(Box::new(move |regs, mask| write_pred(regs, d, flip(regs, s, neg), mask)));
    }
    if let Arg::Special(name) = src {
        let kind = match name.as_str() {
            "%clock" | "%globaltimer_lo" => Some(Clock::Lo),
            "%clock_hi" | "%globaltimer_hi" => Some(Clock::Hi),
            "%clock64" | "%globaltimer" => Some(Clock::Full),
            _ => None,
        };
        if let Some(kind) = kind {
            return Ok(Some(Op::Clock { dst: b.reg(dst, ty.bits())?, kind }));
        }
        Special::parse(name)?;
    }
    if let Arg::Vec(parts) = src {
        return pack(b, dst, parts, ty.bits());
    }
    if let Arg::Vec(parts) = dst {
        return unpack(b, parts, src, ty.bits());
    }
    match ty.bits() {
        64 => {
            let (d, s) = (b.d(dst)?, b.d(src)?);
            alu(Box::new(move |regs, mask| {
                if mask == FULL {
                    regs.d[d as usize] = regs.d[s as usize];
                } else {
                    let v = u64::get(regs, s);
                    u64::put(regs, d, &v, mask);
                }
            }))
        }
        128 => {
            let (Arg::Reg(d), Arg::Reg(s)) = (dst, src) else { return Ok(None) };
            let (d, s) = (b.slot(*d), b.slot(*s));
            alu(Box::new(move |regs, mask| {
                for i in 0..2 {
                    let v = u64::get(regs, s + i);
                    u64::put(regs, d + i, &v, mask);
                }
            }))
        }
        _ => {
            let (d, s) = (b.r(dst)?, b.r(src)?);
            alu(Box::new(move |regs, mask| {
                if mask == FULL {
                    regs.r[d as usize] = regs.r[s as usize];
                } else {
                    let v = u32::get(regs, s);
                    u32::put(regs, d, &v, mask);
                }
            }))
        }
    }
}

/// `mov.b32 d, {lo, hi}` and its wider forms: the first element is the least significant.
fn pack(b: &mut Build<'_>, dst: &Arg, parts: &[Arg], bits: u32) -> Decoded {
    let each = bits / parts.len().max(1) as u32;
    if bits == 128 {
        let ([lo, hi], Arg::Reg(d)) = (parts, dst) else { return Ok(None) };
        let (d, lo, hi) = (b.slot(*d), b.d(lo)?, b.d(hi)?);
        return alu(Box::new(move |regs, mask| {
            for (i, s) in [lo, hi].into_iter().enumerate() {
                let v = u64::get(regs, s);
                u64::put(regs, d + i as u32, &v, mask);
            }
        }));
    }
    if each == 0 || each >= 64 {
        return Ok(None);
    }
    let rows: Vec<u32> = parts.iter().map(|p| b.r(p)).collect::<Result<_, _>>()?;
    let d = b.value(bits, dst)?;
    let keep = (1u64 << each) - 1;
    match (bits, rows[..].as_ref()) {
        (32, [lo, hi]) => alu(f2::<u32, u32, u32>(d, [*lo, *hi], |l, h| l & 0xffff | h << 16)),
        (64, [lo, hi]) => alu(f2::<u64, u32, u32>(d, [*lo, *hi], |l, h| u64::from(l) | u64::from(h) << 32)),
        _ => alu(Box::new(move |regs, mask| {
            let mut out = [0u64; 32];
            for (k, row) in rows.iter().enumerate() {
                for (o, v) in out.iter_mut().zip(regs.r[*row as usize].iter()) {
                    *o |= (u64::from(*v) & keep) << (k as u32 * each);
                }
            }
            if bits == 64 {
                u64::put(regs, d, &out, mask);
            } else {
                u32::put(regs, d, &out.map(|v| v as u32), mask);
            }
        })),
    }
}

fn unpack(b: &mut Build<'_>, parts: &[Arg], src: &Arg, bits: u32) -> Decoded {
    let each = bits / parts.len().max(1) as u32;
    if bits == 128 {
        let ([lo, hi], Arg::Reg(s)) = (parts, src) else { return Ok(None) };
        let (s, lo, hi) = (b.slot(*s), b.d(lo)?, b.d(hi)?);
        return alu(Box::new(move |regs, mask| {
            let (l, h) = (u64::get(regs, s), u64::get(regs, s + 1));
            u64::put(regs, lo, &l, mask);
            u64::put(regs, hi, &h, mask);
        }));
    }
    if each == 0 || each >= 64 {
        return Ok(None);
    }
    let s = b.value(bits, src)?;
    let mut rows = Vec::new();
    for (k, part) in parts.iter().enumerate() {
        if *part != Arg::Sink {
            rows.push((k as u32 * each, b.r(part)?));
        }
    }
    let keep = ((1u64 << each) - 1) as u32;
    alu(Box::new(move |regs, mask| {
        if bits == 64 {
            let v = u64::get(regs, s);
            for (shift, row) in &rows {
                u32::put(regs, *row, &v.map(|v| (v >> shift) as u32 & keep), mask);
            }
        } else {
            let v = u32::get(regs, s);
            for (shift, row) in &rows {
                u32::put(regs, *row, &v.map(|v| (v >> shift) & keep), mask);
            }
        }
    }))
}

/// Addresses of a space and generic addresses differ by the base of the space's window.
fn cvta(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let base = match () {
        _ if code.has("shared") || code.has("shared::cta") || code.has("shared::cluster") => SHARED_BASE,
        _ if code.has("local") => LOCAL_BASE,
        _ if code.has("param") || code.has("param::entry") => PARAM_BASE,
        _ => 0,
    };
    let to = code.has("to");
    if code.types().last() != Some(&Ty::U64) {
        return Ok(None);
    }
    let (d, s) = (b.d(arg(stmt, 0)?)?, b.d(arg(stmt, 1)?)?);
    // A generic address of another space becomes an address far outside the wanted one, and is caught at its use.
    alu(f1::<u64, u64>(d, s, move |a| if to { a.wrapping_sub(base) } else { a.wrapping_add(base) }))
}

fn isspacep(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let ((d, _), s) = (b.p(arg(stmt, 0)?)?, b.d(arg(stmt, 1)?)?);
    let within = |base: u64| move |a: u64| a.wrapping_sub(base) < WINDOW;
    alu(match () {
        _ if code.has("shared") || code.has("shared::cta") => {
            f1::<bool, u64>(d, s, |a| a.wrapping_sub(SHARED_BASE) < 1 << 24)
        }
        _ if code.has("shared::cluster") => f1::<bool, u64>(d, s, within(SHARED_BASE)),
        _ if code.has("local") => f1::<bool, u64>(d, s, within(LOCAL_BASE)),
        _ if code.has("param") => f1::<bool, u64>(d, s, within(PARAM_BASE)),
        _ if code.has("global") => f1::<bool, u64>(d, s, |a| {
            ![SHARED_BASE, LOCAL_BASE, PARAM_BASE].iter().any(|w| a.wrapping_sub(*w) < WINDOW)
        }),
        _ => return Ok(None),
    })
}

/// A peer's shared address carries its rank + 1 above bit 24.
fn mapa(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let rank = b.r(arg(stmt, 2)?)?;
    let place = |a: u32, rank: u32| a & 0xff_ffff | rank.wrapping_add(1) << 24;
    match code.types().last() {
        Some(Ty::U32) => {
            let (d, a) = (b.r(arg(stmt, 0)?)?, b.r(arg(stmt, 1)?)?);
            alu(f2::<u32, u32, u32>(d, [a, rank], place))
        }
        Some(Ty::U64) => {
            let (d, a) = (b.d(arg(stmt, 0)?)?, b.d(arg(stmt, 1)?)?);
            alu(f2::<u64, u64, u32>(d, [a, rank], move |a, r| a & !0xffff_ffff | u64::from(place(a as u32, r))))
        }
        _ => Ok(None),
    }
}

fn selp(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let Some(ty) = code.types().last().copied() else { return Ok(None) };
    let (p, neg) = b.p(arg(stmt, 3)?)?;
    let bits = ty.bits();
    let d = b.value(bits, arg(stmt, 0)?)?;
    let (x, y) = (b.value(bits, arg(stmt, 1)?)?, b.value(bits, arg(stmt, 2)?)?);
    fn select<T: Lane>(regs: &mut Regs, [d, x, y]: [u32; 3], p: u32, mask: u32) {
        wide(
            #[inline(always)]
            move || {
                let (x, y) = (T::get(regs, x), T::get(regs, y));
                T::put(regs, d, &y, mask);
                T::put(regs, d, &x, mask & p);
            },
        );
    }
    alu(match bits {
        64 => Box::new(move |regs, mask| select::<u64>(regs, [d, x, y], flip(regs, p, neg), mask)),
        _ => Box::new(move |regs, mask| select::<u32>(regs, [d, x, y], flip(regs, p, neg), mask)),
    })
}

fn slct(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let types = code.types();
    let [ty, by] = types[..] else { return Ok(None) };
    let d = b.value(ty.bits(), arg(stmt, 0)?)?;
    let s = [b.value(ty.bits(), arg(stmt, 1)?)?, b.value(ty.bits(), arg(stmt, 2)?)?, b.r(arg(stmt, 3)?)?];
    let float = by == Ty::F32;
    let first = move |c: u32| if float { f32::from_bits(c) >= 0.0 } else { c as i32 >= 0 };
    alu(match ty.bits() {
        64 => f3::<u64, u64, u64, u32>(d, s, move |x, y, c| if first(c) { x } else { y }),
        _ => f3::<u32, u32, u32, u32>(d, s, move |x, y, c| if first(c) { x } else { y }),
    })
}

/// `lop3.b32 d, a, b, c, lut`, or `lop3.or.b32 d|p, a, b, c, lut, q`.
fn lop3(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let lut = immediate(arg(stmt, 4)?)?;
    let s = [b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?, b.r(arg(stmt, 3)?)?];
    let eval = move |x: u32, y: u32, z: u32| {
        let mut out = 0;
        for term in 0..8 {
            if lut >> term & 1 != 0 {
                out |= (if term & 4 != 0 { x } else { !x })
                    & (if term & 2 != 0 { y } else { !y })
                    & (if term & 1 != 0 { z } else { !z });
            }
        }
        out
    };
    if let Arg::Pair(d, p) = arg(stmt, 0)? {
        let (q, neg) = b.p(arg(stmt, 5)?)?;
        let d = if **d == Arg::Sink { None } else { Some(b.r(d)?) };
        let (p, _) = b.p(p)?;
        let and = code.has("and");
        return alu(Box::new(move |regs, mask| {
            let (x, y, z) = (u32::get(regs, s[0]), u32::get(regs, s[1]), u32::get(regs, s[2]));
            let out: [u32; 32] = std::array::from_fn(|i| eval(x[i], y[i], z[i]));
            let any = (0..32).fold(0, |m, i| m | u32::from(out[i] != 0) << i);
            let q = flip(regs, q, neg);
            if let Some(d) = d {
                u32::put(regs, d, &out, mask);
            }
            write_pred(regs, p, if and { any & q } else { any | q }, mask);
        }));
    }
    let d = b.r(arg(stmt, 0)?)?;
    let f: AluFn = match lut {
        0xc0 => f2::<u32, u32, u32>(d, [s[0], s[1]], |x, y| x & y),
        0x96 => f3::<u32, u32, u32, u32>(d, s, |x, y, z| x ^ y ^ z),
        0xfe => f3::<u32, u32, u32, u32>(d, s, |x, y, z| x | y | z),
        0xf8 => f3::<u32, u32, u32, u32>(d, s, |x, y, z| x | y & z),
        0xea => f3::<u32, u32, u32, u32>(d, s, |x, y, z| x & y | z),
        0xe8 => f3::<u32, u32, u32, u32>(d, s, |x, y, z| x & y | x & z | y & z),
        0x78 => f3::<u32, u32, u32, u32>(d, s, |x, y, z| x ^ y & z),
        0x6a => f3::<u32, u32, u32, u32>(d, s, |x, y, z| x & y ^ z),
        _ => f3::<u32, u32, u32, u32>(d, s, eval),
    };
    alu(f)
}

/// `prmt.b32{.mode} d, a, b, c`.
fn prmt(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let d = b.r(arg(stmt, 0)?)?;
    let s = [b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?, b.r(arg(stmt, 3)?)?];
    let table: Option<[[u8; 4]; 4]> = match code.mods.iter().find(|m| **m != "b32").copied() {
        None => None,
        Some("f4e") => Some([[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        Some("b4e") => Some([[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        Some("rc8") => Some([[0; 4], [1; 4], [2; 4], [3; 4]]),
        Some("ecl") => Some([[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        Some("ecr") => Some([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        Some("rc16") => Some([[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
        Some(_) => return Ok(None),
    };
    alu(f3::<u32, u32, u32, u32>(d, s, move |x, y, sel| {
        let both = u64::from(y) << 32 | u64::from(x);
        (0..4).fold(0, |out, i| {
            let (index, sign) = match table {
                Some(t) => (u32::from(t[(sel & 3) as usize][i]), false),
                None => (sel >> (4 * i) & 7, sel >> (4 * i) & 8 != 0),
            };
            let byte = (both >> (8 * index)) as u8;
            let byte = if sign { ((byte as i8) >> 7) as u8 } else { byte };
            out | u32::from(byte) << (8 * i)
        })
    }))
}

/// Declared kind of a register operand, for the decoders that accept several widths.
pub(super) fn register_kind(b: &Build<'_>, a: &Arg) -> Option<RegKind> {
    match items(a).first() {
        Some(Arg::Reg(r)) => Some(b.kind(*r)),
        _ => None,
    }
}
