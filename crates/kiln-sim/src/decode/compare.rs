//! `set`, `setp` and `testp` ("Comparison and Selection Instructions").

use super::logic::{flip, write_pred};
use super::operand::{Build, alu, arg};
use super::{Code, Decoded, Ty};
use crate::exec::{Lane, Regs, ballot, f1, wide};
use crate::num::{bf16_to_f32, f16_to_f32};
use crate::ptx::{Arg, Stmt};

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    match code.base {
        "setp" => setp(b, code, stmt),
        "set" => set(b, code, stmt),
        _ => testp(b, code, stmt),
    }
}

/// A comparison that yields a bit a lane.
type Compare = Box<dyn Fn(&Regs) -> u32 + Send + Sync>;

fn bits_of<A: Lane>(a: u32, b: u32, f: impl Fn(A, A) -> bool + Send + Sync + 'static) -> Compare {
    Box::new(move |regs| {
        let f = &f;
        wide(
            #[inline(always)]
            move || {
                let (x, y) = (A::get(regs, a), A::get(regs, b));
                ballot(|i| f(x[i], y[i]))
            },
        )
    })
}

fn integer_compare<A: Lane + Ord + 'static>(op: &str, a: u32, b: u32) -> Option<Compare> {
    Some(match op {
        "eq" => bits_of::<A>(a, b, |x, y| x == y),
        "ne" => bits_of::<A>(a, b, |x, y| x != y),
        "lt" | "lo" => bits_of::<A>(a, b, |x, y| x < y),
        "le" | "ls" => bits_of::<A>(a, b, |x, y| x <= y),
        "gt" | "hi" => bits_of::<A>(a, b, |x, y| x > y),
        "ge" | "hs" => bits_of::<A>(a, b, |x, y| x >= y),
        _ => return None,
    })
}

/// `view` turns the stored bits into something comparable.
fn float_compare<A: Lane + 'static, F: PartialOrd + 'static>(
    op: &str,
    a: u32,
    b: u32,
    view: fn(A) -> F,
) -> Option<Compare> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let (want, unordered): (&'static [std::cmp::Ordering], bool) = match op {
        "eq" => (&[Equal], false),
        "ne" => (&[Less, Greater], false),
        "lt" => (&[Less], false),
        "le" => (&[Less, Equal], false),
        "gt" => (&[Greater], false),
        "ge" => (&[Greater, Equal], false),
        "equ" => (&[Equal], true),
        "neu" => (&[Less, Greater], true),
        "ltu" => (&[Less], true),
        "leu" => (&[Less, Equal], true),
        "gtu" => (&[Greater], true),
        "geu" => (&[Greater, Equal], true),
        "num" => (&[Less, Equal, Greater], false),
        "nan" => (&[], true),
        _ => return None,
    };
    Some(match (want, unordered) {
        ([Less], false) => bits_of::<A>(a, b, move |x, y| view(x) < view(y)),
        ([Greater], false) => bits_of::<A>(a, b, move |x, y| view(x) > view(y)),
        ([Equal], false) => bits_of::<A>(a, b, move |x, y| view(x) == view(y)),
        _ => bits_of::<A>(a, b, move |x, y| match view(x).partial_cmp(&view(y)) {
            Some(o) => want.contains(&o),
            None => unordered,
        }),
    })
}

/// The comparison of a `set` or `setp` on operands of type `ty`.
fn comparison(b: &mut Build<'_>, code: &Code<'_>, ty: Ty, x: &Arg, y: &Arg) -> Result<Option<Compare>, String> {
    let bits = ty.bits();
    let (a, c) = (b.value(bits, x)?, b.value(bits, y)?);
    let op = code.mods.first().copied().unwrap_or("");
    let flush = code.has("ftz");
    Ok(match ty {
        Ty::U16 | Ty::B16 => integer_compare::<u16>(op, a, c),
        Ty::S16 => integer_compare::<i16>(op, a, c),
        Ty::U32 | Ty::B32 => integer_compare::<u32>(op, a, c),
        Ty::S32 => integer_compare::<i32>(op, a, c),
        Ty::U64 | Ty::B64 => integer_compare::<u64>(op, a, c),
        Ty::S64 => integer_compare::<i64>(op, a, c),
        Ty::F32 if flush => float_compare::<f32, f32>(op, a, c, crate::num::ftz),
        Ty::F32 => float_compare::<f32, f32>(op, a, c, |v| v),
        Ty::F64 => float_compare::<f64, f64>(op, a, c, |v| v),
        Ty::F16 => float_compare::<u16, f32>(op, a, c, |v| f16_to_f32(v.into())),
        Ty::Bf16 => float_compare::<u16, f32>(op, a, c, |v| bf16_to_f32(v.into())),
        _ => None,
    })
}

fn bool_op(code: &Code<'_>) -> Option<fn(u32, u32) -> u32> {
    match code.mods.get(1).copied() {
        Some("and") => Some(|x, c| x & c),
        Some("or") => Some(|x, c| x | c),
        Some("xor") => Some(|x, c| x ^ c),
        _ => None,
    }
}

fn setp(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let Some(ty) = code.types().last().copied() else { return Ok(None) };
    let (x, y) = (arg(stmt, 1)?, arg(stmt, 2)?);
    if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
        return setp_packed(b, code, stmt, ty);
    }
    let (p, q) = match arg(stmt, 0)? {
        Arg::Pair(p, q) => (&**p, Some(&**q)),
        p => (p, None),
    };
    let row = |b: &mut Build<'_>, a: &Arg| if *a == Arg::Sink { Ok(None) } else { b.p(a).map(|(r, _)| Some(r)) };
    let p = row(b, p)?;
    let q = match q {
        Some(q) => row(b, q)?,
        None => None,
    };
    let Some(cmp) = comparison(b, code, ty, x, y)? else { return Ok(None) };
    let third = match (bool_op(code), stmt.args.get(3)) {
        (Some(op), Some(c)) => Some((op, b.p(c)?)),
        (None, None) => None,
        _ => return Err("a combining predicate needs .and, .or or .xor".into()),
    };
    alu(match (p, q, third) {
        (Some(p), None, None) => Box::new(move |regs: &mut Regs, mask| {
            let v = cmp(regs);
            write_pred(regs, p, v, mask);
        }),
        _ => Box::new(move |regs: &mut Regs, mask| {
            let v = cmp(regs);
            let (mut yes, mut no) = (v, !v);
            if let Some((op, (c, neg))) = third {
                let c = flip(regs, c, neg);
                (yes, no) = (op(yes, c), op(no, c));
            }
            if let Some(p) = p {
                write_pred(regs, p, yes, mask);
            }
            if let Some(q) = q {
                write_pred(regs, q, no, mask);
            }
        }),
    })
}

/// `setp.f16x2 p|q`: p compares the low halves, q the high ones.
fn setp_packed(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt, ty: Ty) -> Decoded {
    let Arg::Pair(p, q) = arg(stmt, 0)? else { return Ok(None) };
    if bool_op(code).is_some() {
        return Ok(None);
    }
    let ((p, _), (q, _)) = (b.p(p)?, b.p(q)?);
    let (a, c) = (b.r(arg(stmt, 1)?)?, b.r(arg(stmt, 2)?)?);
    let op = code.mods.first().copied().unwrap_or("");
    let half = ty == Ty::F16x2;
    let low: fn(u32) -> f32 = if half { |v| f16_to_f32(v & 0xffff) } else { |v| bf16_to_f32(v & 0xffff) };
    let high: fn(u32) -> f32 = if half { |v| f16_to_f32(v >> 16) } else { |v| bf16_to_f32(v >> 16) };
    let (Some(lo), Some(hi)) = (float_compare::<u32, f32>(op, a, c, low), float_compare::<u32, f32>(op, a, c, high))
    else {
        return Ok(None);
    };
    alu(Box::new(move |regs, mask| {
        let (l, h) = (lo(regs), hi(regs));
        write_pred(regs, p, l, mask);
        write_pred(regs, q, h, mask);
    }))
}

/// `set`: the destination is all ones or 1.0 where the comparison holds.
fn set(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let types = code.types();
    let [to, ty] = types[..] else { return Ok(None) };
    let Some(cmp) = comparison(b, code, ty, arg(stmt, 1)?, arg(stmt, 2)?)? else { return Ok(None) };
    let third = match (bool_op(code), stmt.args.get(3)) {
        (Some(op), Some(c)) => Some((op, b.p(c)?)),
        _ => None,
    };
    let d = b.r(arg(stmt, 0)?)?;
    let yes = match to {
        Ty::U32 | Ty::S32 => u32::MAX,
        Ty::U16 | Ty::S16 => 0xffff,
        Ty::F32 => 1f32.to_bits(),
        Ty::F16 => 0x3c00,
        Ty::Bf16 => 0x3f80,
        _ => return Ok(None),
    };
    alu(Box::new(move |regs, mask| {
        let mut v = cmp(regs);
        if let Some((op, (c, neg))) = third {
            v = op(v, flip(regs, c, neg));
        }
        let out: [u32; 32] = std::array::from_fn(|i| if v >> i & 1 != 0 { yes } else { 0 });
        u32::put(regs, d, &out, mask);
    }))
}

fn testp(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let (d, _) = b.p(arg(stmt, 0)?)?;
    let test: fn(f64, bool) -> bool = match code.mods.first().copied() {
        Some("finite") => |v, _| v.is_finite(),
        Some("infinite") => |v, _| v.is_infinite(),
        Some("number") => |v, _| !v.is_nan(),
        Some("notanumber") => |v, _| v.is_nan(),
        Some("normal") => |v, sub| v.is_finite() && v != 0.0 && !sub,
        Some("subnormal") => |_, sub| sub,
        _ => return Ok(None),
    };
    alu(match code.types().last() {
        Some(Ty::F32) => f1::<bool, f32>(d, b.r(arg(stmt, 1)?)?, move |v| test(v.into(), v.is_subnormal())),
        Some(Ty::F64) => f1::<bool, f64>(d, b.d(arg(stmt, 1)?)?, move |v| test(v, v.is_subnormal())),
        _ => return Ok(None),
    })
}
