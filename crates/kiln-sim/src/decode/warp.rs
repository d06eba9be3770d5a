//! Warp collectives ("shfl.sync", "vote.sync", "match.sync", "redux.sync", "activemask", "elect.sync").

use super::op::{ReduxOp, ShflMode, VoteMode};
use super::operand::{Build, arg};
use super::{Code, Decoded, Op, Ty};
use crate::ptx::{Arg, Stmt};

/// `d|p` or `d`.
fn destination(a: &Arg) -> (&Arg, Option<&Arg>) {
    match a {
        Arg::Pair(d, p) => (d, Some(p)),
        d => (d, None),
    }
}

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let pred_row = |b: &mut Build<'_>, p: Option<&Arg>| match p {
        Some(Arg::Sink) | None => Ok(None),
        Some(p) => b.p(p).map(|(row, _)| Some(row)),
    };
    if code.base != "activemask" && !code.has("sync") {
        return Err("the forms without .sync were removed in PTX 6.4".into());
    }
    Ok(Some(match code.base {
        "shfl" => {
            let (d, p) = destination(arg(stmt, 0)?);
            let mode = match () {
                _ if code.has("up") => ShflMode::Up,
                _ if code.has("down") => ShflMode::Down,
                _ if code.has("bfly") => ShflMode::Bfly,
                _ if code.has("idx") => ShflMode::Idx,
                _ => return Ok(None),
            };
            Op::Shfl {
                mode,
                dst: b.r(d)?,
                pred: pred_row(b, p)?,
                src: b.r(arg(stmt, 1)?)?,
                b: b.r(arg(stmt, 2)?)?,
                c: b.r(arg(stmt, 3)?)?,
                mask: b.r(arg(stmt, 4)?)?,
            }
        }
        "vote" => {
            let mode = match () {
                _ if code.has("all") => VoteMode::All,
                _ if code.has("any") => VoteMode::Any,
                _ if code.has("uni") => VoteMode::Uni,
                _ if code.has("ballot") => VoteMode::Ballot,
                _ => return Ok(None),
            };
            let dst = if mode == VoteMode::Ballot { b.r(arg(stmt, 0)?)? } else { b.p(arg(stmt, 0)?)?.0 };
            Op::Vote { mode, dst, src: b.p(arg(stmt, 1)?)?, mask: b.r(arg(stmt, 2)?)? }
        }
        "match" => {
            let (d, p) = destination(arg(stmt, 0)?);
            let bits = if code.has("b64") { 64 } else { 32 };
            Op::Match {
                all: code.has("all"),
                dst: b.r(d)?,
                pred: pred_row(b, p)?,
                src: b.reg(arg(stmt, 1)?, bits)?,
                mask: b.r(arg(stmt, 2)?)?,
            }
        }
        "redux" => {
            let signed = code.types().last() == Some(&Ty::S32);
            let op = match code.mods.get(1).copied() {
                Some("add") => ReduxOp::Add,
                Some("and") => ReduxOp::And,
                Some("or") => ReduxOp::Or,
                Some("xor") => ReduxOp::Xor,
                Some("min") if signed => ReduxOp::MinS,
                Some("max") if signed => ReduxOp::MaxS,
                Some("min") => ReduxOp::Min,
                Some("max") => ReduxOp::Max,
                _ => return Ok(None),
            };
            if code.has("f32") {
                return Ok(None);
            }
            Op::Redux { op, dst: b.r(arg(stmt, 0)?)?, src: b.r(arg(stmt, 1)?)?, mask: b.r(arg(stmt, 2)?)? }
        }
        "activemask" => Op::ActiveMask { dst: b.r(arg(stmt, 0)?)? },
        "elect" => {
            let (d, p) = destination(arg(stmt, 0)?);
            let dst = if *d == Arg::Sink { None } else { Some(b.r(d)?) };
            let Some(p) = p else { return Err("expected d|p".into()) };
            Op::Elect { dst, pred: b.p(p)?.0, mask: b.r(arg(stmt, 1)?)? }
        }
        _ => return Ok(None),
    }))
}
