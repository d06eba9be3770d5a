//! Control flow, barriers, fences and mbarriers.

use super::memory::space;
use super::op::{BarMode, FenceKind, Mbar, Reg, Tensormap};
use super::operand::{Build, arg, immediate};
use super::{Code, Decoded, Op};
use crate::ptx::{Arg, Space, Stmt};

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    Ok(Some(match code.base {
        "bra" => Op::Bra(b.label(arg(stmt, 0)?)?),
        "brx" => Op::BraIdx { index: b.r(arg(stmt, 0)?)?, targets: b.targets(arg(stmt, 1)?)? },
        "ret" | "exit" => Op::Exit,
        "trap" | "brkpt" => Op::Trap,
        // The launch before has ended, so that nothing is waited for.
        "griddepcontrol" if code.has("wait") => Op::Nop,
        "griddepcontrol" => Op::LaunchDependents,
        "setmaxnreg" => Op::SetMaxNReg { increase: code.has("inc"), count: small(arg(stmt, 0)?)? },
        "nanosleep" | "pmevent" => Op::Nop,
        "membar" => Op::Fence(if code.has("cta") { FenceKind::Cta } else { FenceKind::Gpu }),
        "fence" if code.has("tensormap::generic") => {
            let acquire = code.has("acquire");
            let op = if acquire { Tensormap::Acquire { addr: b.addr(arg(stmt, 0)?)? } } else { Tensormap::Release };
            Op::Tensormap(Box::new(op))
        }
        "fence" => Op::Fence(match () {
            _ if code.has("proxy") && code.mods.iter().any(|m| m.starts_with("async")) => FenceKind::ProxyAsync,
            _ if code.has("proxy") || code.has("mbarrier_init") => FenceKind::Other,
            _ if code.has("cta") => FenceKind::Cta,
            _ => FenceKind::Gpu,
        }),
        "bar" | "barrier" => return barrier(b, code, stmt),
        "mbarrier" => return mbarrier(b, code, stmt),
        _ => return Ok(None),
    }))
}

fn barrier(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let aligned = code.base == "bar" || code.has("aligned");
    if code.has("cluster") {
        return Ok(Some(if code.has("arrive") { Op::ClusterArrive { aligned } } else { Op::ClusterWait { aligned } }));
    }
    if code.has("warp") {
        return Ok(Some(Op::BarWarp { mask: b.r(arg(stmt, 0)?)? }));
    }
    if code.has("red") {
        let id = b.r(arg(stmt, 1)?)?;
        let (count, p) = match stmt.args.len() {
            3 => (None, arg(stmt, 2)?),
            _ => (Some(b.r(arg(stmt, 2)?)?), arg(stmt, 3)?),
        };
        let p = b.p(p)?;
        let mode = match () {
            _ if code.has("popc") => BarMode::Popc(b.r(arg(stmt, 0)?)?, p),
            _ if code.has("and") => BarMode::And(b.p(arg(stmt, 0)?)?.0, p),
            _ if code.has("or") => BarMode::Or(b.p(arg(stmt, 0)?)?.0, p),
            _ => return Ok(None),
        };
        return Ok(Some(Op::Bar { mode, id, count, aligned }));
    }
    let mode = if code.has("arrive") { BarMode::Arrive } else { BarMode::Sync };
    let id = b.r(arg(stmt, 0)?)?;
    let count = match stmt.args.get(1) {
        Some(a) => Some(b.r(a)?),
        None => None,
    };
    Ok(Some(Op::Bar { mode, id, count, aligned }))
}

fn mbarrier(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    if !matches!(space(code), Space::Shared | Space::SharedCluster | Space::Generic) {
        return Ok(None);
    }
    let has = |m: &str| code.has(m);
    let (op, at) = match code.mods.first().copied() {
        Some("init") => (Mbar::Init { count: b.r(arg(stmt, 1)?)? }, 0),
        Some("inval") => (Mbar::Inval, 0),
        Some("expect_tx") => (Mbar::ExpectTx { bytes: b.r(arg(stmt, 1)?)? }, 0),
        Some("complete_tx") => (Mbar::CompleteTx { bytes: b.r(arg(stmt, 1)?)? }, 0),
        Some("pending_count") => {
            let op = Mbar::PendingCount { dst: b.r(arg(stmt, 0)?)?, state: b.d(arg(stmt, 1)?)? };
            let addr = b.addr_of(&Arg::Int(0), 0)?;
            return Ok(Some(Op::Mbar { op: Box::new(op), addr }));
        }
        Some("arrive" | "arrive_drop") => {
            let (state, at) = match arg(stmt, 0)? {
                Arg::Addr(..) => (Reg::None, 0),
                a => (b.reg(a, 64)?, 1),
            };
            let last = match stmt.args.get(at + 1) {
                Some(a) => Some(b.r(a)?),
                None => None,
            };
            let (count, expect) = if has("expect_tx") { (None, last) } else { (last, None) };
            if has("noComplete") {
                return Ok(None);
            }
            (Mbar::Arrive { state, count, expect, drop: has("arrive_drop") }, at)
        }
        Some(kind @ ("test_wait" | "try_wait")) => {
            let dst = b.p(arg(stmt, 0)?)?.0;
            let (state, parity) =
                if has("parity") { (None, Some(b.r(arg(stmt, 2)?)?)) } else { (Some(b.reg(arg(stmt, 2)?, 64)?), None) };
            (Mbar::Wait { dst, state, parity, block: kind == "try_wait" }, 1)
        }
        _ => return Ok(None),
    };
    let addr = b.addr(arg(stmt, at)?)?;
    Ok(Some(Op::Mbar { op: Box::new(op), addr }))
}

/// A small immediate, as waits take it.
pub(super) fn small(a: &Arg) -> Result<u32, String> {
    u32::try_from(immediate(a)?).map_err(|_| "immediate above 2^32".to_string())
}
