//! Loads, stores and atomics ("Data Movement and Conversion Instructions", "Parallel Synchronization and
//! Communication Instructions").

use super::op::{Atom, AtomOp, Move};
use super::operand::{Build, arg, items};
use super::{Code, Decoded, Op};
use crate::ptx::{Arg, Space, Stmt};

/// The state space named by the modifiers.
pub(super) fn space(code: &Code<'_>) -> Space {
    for m in &code.mods {
        match *m {
            "global" => return Space::Global,
            "shared" | "shared::cta" => return Space::Shared,
            "shared::cluster" => return Space::SharedCluster,
            "local" => return Space::Local,
            "param" | "param::entry" | "param::func" => return Space::Param,
            "const" => return Space::Const,
            _ => {}
        }
    }
    Space::Generic
}

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    match code.base {
        "ld" | "ldu" | "st" => transfer(b, code, stmt),
        "atom" | "red" => atomic(b, code, stmt),
        // Hints about caches change no value.
        "prefetch" | "prefetchu" | "discard" | "applypriority" => Ok(Some(Op::Nop)),
        "createpolicy" => {
            let d = b.d(arg(stmt, 0)?)?;
            super::operand::alu(crate::exec::f1::<u64, u64>(d, d, |_| 0))
        }
        _ => Ok(None),
    }
}

fn transfer(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    if code.has("async") {
        return Ok(None);
    }
    let Some(ty) = code.types().last().copied() else { return Ok(None) };
    let size = ty.bits() / 8;
    let count = match () {
        _ if code.has("v2") => 2,
        _ if code.has("v4") => 4,
        _ if code.has("v8") => 8,
        _ => 1,
    };
    let load = code.base != "st";
    let (data, at) = if load { (arg(stmt, 0)?, arg(stmt, 1)?) } else { (arg(stmt, 1)?, arg(stmt, 0)?) };
    let list = items(data);
    if size == 0 || list.len() != count || size * count as u32 > 32 {
        return Err(format!("expected {count} registers in the vector, found {}", list.len()));
    }
    let regs = list.iter().map(|a| b.reg(a, ty.bits())).collect::<Result<Vec<_>, _>>()?;
    let mut space = space(code);
    if let Arg::Addr(base, _) = at
        && space == Space::Param
    {
        match **base {
            Arg::KernelParam(_) | Arg::Reg(_) => {}
            // The parameter of an inlined call lives in the local frame.
            _ => space = Space::Local,
        }
    }
    let addr = match at {
        Arg::Addr(base, off) => match **base {
            Arg::KernelParam(p) => b.addr_of(&Arg::Int(0), p + off)?,
            _ => b.addr(at)?,
        },
        _ => return Err("expected an address in brackets".into()),
    };
    let m = Move { space, size, total: size * count as u32, signed: ty.signed(), regs, addr };
    Ok(Some(if load { Op::Ld(m) } else { Op::St(m) }))
}

fn atomic(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    if code.has("async") {
        return Ok(None);
    }
    let Some(ty) = code.types().last().copied() else { return Ok(None) };
    let op = code.mods.iter().find_map(|m| {
        Some(match *m {
            "add" => AtomOp::Add,
            "and" => AtomOp::And,
            "or" => AtomOp::Or,
            "xor" => AtomOp::Xor,
            "exch" => AtomOp::Exch,
            "cas" => AtomOp::Cas,
            "min" => AtomOp::Min,
            "max" => AtomOp::Max,
            "inc" => AtomOp::Inc,
            "dec" => AtomOp::Dec,
            _ => return None,
        })
    });
    let Some(op) = op else { return Ok(None) };
    if ty.bits() < 16 || ty.bits() > 64 {
        return Ok(None);
    }
    let returns = code.base == "atom";
    let first = usize::from(returns);
    let dst = if returns {
        items(arg(stmt, 0)?).iter().map(|a| b.reg(a, ty.bits())).collect::<Result<Vec<_>, _>>()?
    } else {
        Vec::new()
    };
    let addr = b.addr(arg(stmt, first)?)?;
    let a = items(arg(stmt, first + 1)?).iter().map(|a| b.reg(a, ty.bits())).collect::<Result<Vec<_>, _>>()?;
    let other = match op {
        AtomOp::Cas => Some(b.reg(arg(stmt, first + 2)?, ty.bits())?),
        _ => None,
    };
    let ordered = code.has("release") || code.has("acquire") || code.has("acq_rel");
    Ok(Some(Op::Atom(Box::new(Atom { space: space(code), op, ty, dst, a, b: other, addr, ordered }))))
}
