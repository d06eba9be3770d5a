//! Integer arithmetic ("Integer Arithmetic Instructions", "Extended-Precision Integer Arithmetic Instructions").

use super::operand::{Build, alu, arg};
use super::{Code, Decoded, Ty};
use crate::exec::{AluFn, Lane, Regs, f1, f2, f3};
use crate::ptx::Stmt;

/// `f2` at the width and signedness of a type.
macro_rules! binary {
    ($ty:expr, $d:expr, $s:expr, $f:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => f2::<u16, u16, u16>($d, $s, $f),
            Ty::S16 => f2::<i16, i16, i16>($d, $s, $f),
            Ty::U32 | Ty::B32 => f2::<u32, u32, u32>($d, $s, $f),
            Ty::S32 => f2::<i32, i32, i32>($d, $s, $f),
            Ty::U64 | Ty::B64 => f2::<u64, u64, u64>($d, $s, $f),
            Ty::S64 => f2::<i64, i64, i64>($d, $s, $f),
            _ => return Ok(None),
        }
    };
}

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let types = code.types();
    let Some(ty) = types.last().copied() else { return Ok(None) };
    let simple = matches!(ty, Ty::U16 | Ty::S16 | Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 | Ty::B16 | Ty::B32 | Ty::B64);
    if !simple {
        return Ok(None);
    }
    let bits = ty.bits();
    let base = code.base;
    if code.has("cc") || matches!(base, "addc" | "subc" | "madc") {
        return carry(b, code, stmt, ty);
    }
    let src = |b: &mut Build<'_>, i: usize| b.value(bits, arg(stmt, i)?);
    match base {
        "add" | "sub" | "div" | "rem" | "min" | "max" => {
            let d = src(b, 0)?;
            let s = [src(b, 1)?, src(b, 2)?];
            let f: AluFn = match base {
                "add" if code.has("sat") => f2::<i32, i32, i32>(d, s, |x, y| x.saturating_add(y)),
                "sub" if code.has("sat") => f2::<i32, i32, i32>(d, s, |x, y| x.saturating_sub(y)),
                "add" => binary!(ty, d, s, |x, y| x.wrapping_add(y)),
                "sub" => binary!(ty, d, s, |x, y| x.wrapping_sub(y)),
                "min" => binary!(ty, d, s, |x, y| x.min(y)),
                "max" => binary!(ty, d, s, |x, y| x.max(y)),
                // Division by zero gives all ones, the remainder the dividend, as the hardware's sequences do.
                "div" => binary!(ty, d, s, |x, y| if y == 0 { !0 } else { x.wrapping_div(y) }),
                _ => binary!(ty, d, s, |x, y| if y == 0 { x } else { x.wrapping_rem(y) }),
            };
            alu(f)
        }
        "mul" => {
            if code.has("wide") {
                let d = b.value(bits * 2, arg(stmt, 0)?)?;
                let s = [src(b, 1)?, src(b, 2)?];
                return alu(match ty {
                    Ty::U16 => f2::<u32, u16, u16>(d, s, |x, y| u32::from(x) * u32::from(y)),
                    Ty::S16 => f2::<i32, i16, i16>(d, s, |x, y| i32::from(x) * i32::from(y)),
                    Ty::U32 => f2::<u64, u32, u32>(d, s, |x, y| u64::from(x) * u64::from(y)),
                    Ty::S32 => f2::<i64, i32, i32>(d, s, |x, y| i64::from(x) * i64::from(y)),
                    _ => return Ok(None),
                });
            }
            let d = src(b, 0)?;
            let s = [src(b, 1)?, src(b, 2)?];
            alu(match (code.has("hi"), ty) {
                (true, Ty::U16) => f2::<u16, u16, u16>(d, s, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16),
                (true, Ty::S16) => f2::<i16, i16, i16>(d, s, |x, y| ((i32::from(x) * i32::from(y)) >> 16) as i16),
                (true, Ty::U32) => f2::<u32, u32, u32>(d, s, |x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32),
                (true, Ty::S32) => f2::<i32, i32, i32>(d, s, |x, y| ((i64::from(x) * i64::from(y)) >> 32) as i32),
                (true, Ty::U64) => f2::<u64, u64, u64>(d, s, |x, y| ((u128::from(x) * u128::from(y)) >> 64) as u64),
                (true, Ty::S64) => f2::<i64, i64, i64>(d, s, |x, y| ((i128::from(x) * i128::from(y)) >> 64) as i64),
                (false, _) => binary!(ty, d, s, |x, y| x.wrapping_mul(y)),
                _ => return Ok(None),
            })
        }
        "mad" => {
            if code.has("wide") {
                let d = b.value(bits * 2, arg(stmt, 0)?)?;
                let s = [src(b, 1)?, src(b, 2)?, b.value(bits * 2, arg(stmt, 3)?)?];
                return alu(match ty {
                    Ty::U16 => f3::<u32, u16, u16, u32>(d, s, |x, y, z| (u32::from(x) * u32::from(y)).wrapping_add(z)),
                    Ty::S16 => f3::<i32, i16, i16, i32>(d, s, |x, y, z| (i32::from(x) * i32::from(y)).wrapping_add(z)),
                    Ty::U32 => f3::<u64, u32, u32, u64>(d, s, |x, y, z| (u64::from(x) * u64::from(y)).wrapping_add(z)),
                    Ty::S32 => f3::<i64, i32, i32, i64>(d, s, |x, y, z| (i64::from(x) * i64::from(y)).wrapping_add(z)),
                    _ => return Ok(None),
                });
            }
            let d = src(b, 0)?;
            let s = [src(b, 1)?, src(b, 2)?, src(b, 3)?];
            alu(match (code.has("hi"), code.has("sat"), ty) {
                (true, true, Ty::S32) => f3::<i32, i32, i32, i32>(d, s, |x, y, z| {
                    (((i64::from(x) * i64::from(y)) >> 32) as i32).saturating_add(z)
                }),
                (true, false, Ty::U32) => f3::<u32, u32, u32, u32>(d, s, |x, y, z| {
                    (((u64::from(x) * u64::from(y)) >> 32) as u32).wrapping_add(z)
                }),
                (true, false, Ty::S32) => f3::<i32, i32, i32, i32>(d, s, |x, y, z| {
                    (((i64::from(x) * i64::from(y)) >> 32) as i32).wrapping_add(z)
                }),
                (true, false, Ty::U64) => f3::<u64, u64, u64, u64>(d, s, |x, y, z| {
                    (((u128::from(x) * u128::from(y)) >> 64) as u64).wrapping_add(z)
                }),
                (true, false, Ty::S64) => f3::<i64, i64, i64, i64>(d, s, |x, y, z| {
                    (((i128::from(x) * i128::from(y)) >> 64) as i64).wrapping_add(z)
                }),
                (false, false, _) => match bits {
                    16 => f3::<u16, u16, u16, u16>(d, s, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
                    32 => f3::<u32, u32, u32, u32>(d, s, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
                    _ => f3::<u64, u64, u64, u64>(d, s, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
                },
                _ => return Ok(None),
            })
        }
        "mul24" | "mad24" => {
            let d = src(b, 0)?;
            let c = if base == "mad24" { src(b, 3)? } else { b.r(&crate::ptx::Arg::Int(0))? };
            let s = [src(b, 1)?, src(b, 2)?, c];
            let shift = if code.has("hi") { 16 } else { 0 };
            alu(match ty {
                Ty::U32 => f3::<u32, u32, u32, u32>(d, s, move |x, y, z| {
                    (((u64::from(x & 0xff_ffff) * u64::from(y & 0xff_ffff)) >> shift) as u32).wrapping_add(z)
                }),
                Ty::S32 => f3::<i32, i32, i32, i32>(d, s, move |x, y, z| {
                    (((i64::from(x << 8 >> 8) * i64::from(y << 8 >> 8)) >> shift) as i32).wrapping_add(z)
                }),
                _ => return Ok(None),
            })
        }
        "sad" => {
            let d = src(b, 0)?;
            let s = [src(b, 1)?, src(b, 2)?, src(b, 3)?];
            alu(match ty {
                Ty::U16 => f3::<u16, u16, u16, u16>(d, s, |x, y, z| z.wrapping_add(x.abs_diff(y))),
                Ty::S16 => f3::<u16, i16, i16, u16>(d, s, |x, y, z| z.wrapping_add(x.abs_diff(y))),
                Ty::U32 => f3::<u32, u32, u32, u32>(d, s, |x, y, z| z.wrapping_add(x.abs_diff(y))),
                Ty::S32 => f3::<u32, i32, i32, u32>(d, s, |x, y, z| z.wrapping_add(x.abs_diff(y))),
                Ty::U64 => f3::<u64, u64, u64, u64>(d, s, |x, y, z| z.wrapping_add(x.abs_diff(y))),
                _ => f3::<u64, i64, i64, u64>(d, s, |x, y, z| z.wrapping_add(x.abs_diff(y))),
            })
        }
        "abs" | "neg" => {
            let (d, s) = (src(b, 0)?, src(b, 1)?);
            let abs = base == "abs";
            alu(match ty {
                Ty::S16 => f1::<i16, i16>(d, s, move |x| if abs { x.wrapping_abs() } else { x.wrapping_neg() }),
                Ty::S32 => f1::<i32, i32>(d, s, move |x| if abs { x.wrapping_abs() } else { x.wrapping_neg() }),
                Ty::S64 => f1::<i64, i64>(d, s, move |x| if abs { x.wrapping_abs() } else { x.wrapping_neg() }),
                _ => return Ok(None),
            })
        }
        "popc" | "clz" => {
            let (d, s) = (b.r(arg(stmt, 0)?)?, src(b, 1)?);
            alu(match (base, bits) {
                ("popc", 32) => f1::<u32, u32>(d, s, |x| x.count_ones()),
                ("popc", 64) => f1::<u32, u64>(d, s, |x| x.count_ones()),
                ("clz", 32) => f1::<u32, u32>(d, s, |x| x.leading_zeros()),
                ("clz", 64) => f1::<u32, u64>(d, s, |x| x.leading_zeros()),
                _ => return Ok(None),
            })
        }
        "bfind" => {
            let (d, s) = (b.r(arg(stmt, 0)?)?, src(b, 1)?);
            let shift = code.has("shiftamt");
            let find = move |mag: u64, bits: u32| match mag.checked_ilog2() {
                Some(at) if shift => bits - 1 - at,
                Some(at) => at,
                None => u32::MAX,
            };
            alu(match ty {
                Ty::U32 => f1::<u32, u32>(d, s, move |x| find(u64::from(x), 32)),
                Ty::S32 => f1::<u32, i32>(d, s, move |x| find(u64::from((x ^ x >> 31) as u32), 32)),
                Ty::U64 => f1::<u32, u64>(d, s, move |x| find(x, 64)),
                Ty::S64 => f1::<u32, i64>(d, s, move |x| find((x ^ x >> 63) as u64, 64)),
                _ => return Ok(None),
            })
        }
        "brev" => {
            let (d, s) = (src(b, 0)?, src(b, 1)?);
            alu(match bits {
                32 => f1::<u32, u32>(d, s, |x| x.reverse_bits()),
                _ => f1::<u64, u64>(d, s, |x| x.reverse_bits()),
            })
        }
        "bfe" => {
            let d = src(b, 0)?;
            let s = [src(b, 1)?, b.r(arg(stmt, 2)?)?, b.r(arg(stmt, 3)?)?];
            let signed = ty.signed();
            alu(match bits {
                32 => f3::<u32, u32, u32, u32>(d, s, move |x, p, l| {
                    let x = if signed { i64::from(x as i32) } else { i64::from(x) };
                    extract(x, p, l, 32, signed) as u32
                }),
                _ => f3::<u64, u64, u32, u32>(d, s, move |x, p, l| extract(x as i64, p, l, 64, signed)),
            })
        }
        "bfi" => {
            let d = src(b, 0)?;
            let (f, into, pos, len) = (src(b, 1)?, src(b, 2)?, b.r(arg(stmt, 3)?)?, b.r(arg(stmt, 4)?)?);
            alu(if bits == 32 {
                four::<u32>(d, [f, into, pos, len], |x, y, p, l| insert(x.into(), y.into(), p, l, 32) as u32)
            } else {
                four::<u64>(d, [f, into, pos, len], |x, y, p, l| insert(x, y, p, l, 64))
            })
        }
        "bmsk" => {
            let d = b.r(arg(stmt, 0)?)?;
            let s = [b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?];
            let wrap = code.has("wrap");
            alu(f2::<u32, u32, u32>(d, s, move |pos, len| {
                let (pos, len) = if wrap { (pos & 31, len & 31) } else { (pos.min(32), len.min(32)) };
                ((((1u64 << len) - 1) << pos) & 0xffff_ffff) as u32
            }))
        }
        "szext" => {
            let d = b.r(arg(stmt, 0)?)?;
            let s = [b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?];
            let (wrap, signed) = (code.has("wrap"), ty.signed());
            alu(f2::<u32, u32, u32>(d, s, move |x, n| {
                let n = if wrap { n & 31 } else { n.min(32) };
                match n {
                    0 => 0,
                    32 => x,
                    _ if signed => ((x << (32 - n)) as i32 >> (32 - n)) as u32,
                    _ => x & ((1 << n) - 1),
                }
            }))
        }
        "dp4a" | "dp2a" => dot(b, code, stmt),
        _ => Ok(None),
    }
}

/// `f4` with two 32-bit operands at the end.
fn four<T: Lane>(d: u32, [x, y, p, l]: [u32; 4], f: impl Fn(T, T, u32, u32) -> T + Send + Sync + 'static) -> AluFn {
    Box::new(move |regs: &mut Regs, mask| {
        let (x, y, p, l) = (T::get(regs, x), T::get(regs, y), u32::get(regs, p), u32::get(regs, l));
        let out = std::array::from_fn(|i| f(x[i], y[i], p[i], l[i]));
        T::put(regs, d, &out, mask);
    })
}

/// `bfe`: bits past the top repeat the sign of the field.
fn extract(x: i64, pos: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let width_mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    if len == 0 {
        return 0;
    }
    let top = (pos + len - 1).min(bits - 1);
    let sign = signed && (x as u64) >> top & 1 != 0;
    let value = if pos >= bits { 0 } else { (x as u64 & width_mask) >> pos };
    let kept = if pos >= bits { 0 } else { len.min(bits - pos) };
    let mask = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    let fill = if sign { !mask } else { 0 };
    (value & mask | fill) & width_mask
}

fn insert(field: u64, into: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= bits || len == 0 {
        return into;
    }
    let len = len.min(bits - pos);
    let mask = (if len >= 64 { u64::MAX } else { (1 << len) - 1 }) << pos;
    into & !mask | field << pos & mask
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`.
fn carry(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt, ty: Ty) -> Decoded {
    let bits = ty.bits();
    if bits < 32 {
        return Ok(None);
    }
    let cc = b.carry();
    let d = b.value(bits, arg(stmt, 0)?)?;
    let s: Vec<u32> = (1..stmt.args.len()).map(|i| b.value(bits, &stmt.args[i])).collect::<Result<_, _>>()?;
    let uses = code.base.ends_with('c');
    let sets = code.has("cc");
    let (multiply, subtract) = (code.base.starts_with("mad"), code.base.starts_with("sub"));
    if s.len() != if multiply { 3 } else { 2 } {
        return Err("wrong number of operands".into());
    }
    let (high, signed) = (code.has("hi"), ty.signed());
    alu(Box::new(move |regs: &mut Regs, mask| {
        let flags = regs.p[cc as usize];
        let mut out_flags = flags;
        let read = |regs: &Regs, row: u32, i: usize| {
            if bits == 64 { regs.d[row as usize][i] } else { u64::from(regs.r[row as usize][i]) }
        };
        for i in (0..32).filter(|i| mask >> i & 1 != 0) {
            let (x, y) = (read(regs, s[0], i), read(regs, s[1], i));
            let (x, y) = if multiply {
                let product = match (signed, bits) {
                    (true, 32) => (i128::from(x as u32 as i32) * i128::from(y as u32 as i32)) as u128,
                    (true, _) => (i128::from(x as i64) * i128::from(y as i64)) as u128,
                    (false, _) => u128::from(x) * u128::from(y),
                };
                let part = (if high { product >> bits } else { product }) as u64;
                (if bits == 32 { part & 0xffff_ffff } else { part }, read(regs, s[2], i))
            } else {
                (x, y)
            };
            let flag = uses && flags >> i & 1 != 0;
            // Subtraction keeps a borrow in the flag.
            let wide = if subtract {
                u128::from(x).wrapping_sub(u128::from(y)).wrapping_sub(u128::from(flag))
            } else {
                u128::from(x) + u128::from(y) + u128::from(flag)
            };
            out_flags = out_flags & !(1 << i) | u32::from(wide >> bits & 1 != 0) << i;
            if bits == 64 {
                regs.d[d as usize][i] = wide as u64;
            } else {
                regs.r[d as usize][i] = wide as u32;
            }
        }
        if sets {
            regs.p[cc as usize] = out_flags;
        }
    }))
}

/// `dp4a` and `dp2a`: the two types are those of a and b.
fn dot(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let types = code.types();
    let [a_ty, b_ty] = types[..] else { return Ok(None) };
    let d = b.r(arg(stmt, 0)?)?;
    let s = [b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?, b.r(arg(stmt, 3)?)?];
    let (sa, sb) = (a_ty.signed(), b_ty.signed());
    let byte = |x: u32, i: u32, signed: bool| {
        let v = (x >> (8 * i)) as u8;
        if signed { i32::from(v as i8) } else { i32::from(v) }
    };
    let half = |x: u32, i: u32, signed: bool| {
        let v = (x >> (16 * i)) as u16;
        if signed { i32::from(v as i16) } else { i32::from(v) }
    };
    if code.base == "dp4a" {
        return alu(f3::<i32, u32, u32, i32>(d, s, move |x, y, z| {
            (0..4).fold(z, |acc, i| acc.wrapping_add(byte(x, i, sa).wrapping_mul(byte(y, i, sb))))
        }));
    }
    let high = if code.has("hi") { 2 } else { 0 };
    alu(f3::<i32, u32, u32, i32>(d, s, move |x, y, z| {
        (0..2).fold(z, |acc, i| acc.wrapping_add(half(x, i, sa).wrapping_mul(byte(y, i + high, sb))))
    }))
}
