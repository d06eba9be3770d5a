//! `cp.async`, `cp.async.bulk` and `cp.async.bulk.tensor` ("Data Movement and Conversion Instructions:
//! Asynchronous copy").

use super::memory::space;
use super::op::{AtomOp, Bulk, BulkDir, MapField, Tensor, Tensormap};
use super::operand::{Build, arg};
use super::sync::small;
use super::{Code, Decoded, Op};
use crate::ptx::{Arg, Stmt};

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let has = |m: &str| code.has(m);
    let bulk = has("bulk");
    if code.mods.first() == Some(&"reduce") {
        return bulk_copy(b, code, stmt);
    }
    Ok(Some(match () {
        _ if has("commit_group") && bulk => Op::BulkCommit,
        _ if has("wait_group") && bulk => Op::BulkWait { left: small(arg(stmt, 0)?)?, read: has("read") },
        _ if has("commit_group") => Op::CpCommit,
        _ if has("wait_group") => Op::CpWait(small(arg(stmt, 0)?)?),
        _ if has("wait_all") => Op::CpWaitAll,
        _ if has("mbarrier") => Op::CpMbarArrive { addr: b.addr(arg(stmt, 0)?)?, noinc: has("noinc") },
        _ if bulk => return bulk_copy(b, code, stmt),
        _ => {
            let size = small(arg(stmt, 2)?)?;
            if !matches!(size, 4 | 8 | 16) {
                return Err(format!("cp.async of {size} bytes; expected 4, 8 or 16"));
            }
            let (mut src_size, mut ignore) = (None, None);
            if let Some(a) = stmt.args.get(3) {
                match a {
                    // With a cache policy alone the fourth operand is 64 bits wide.
                    Arg::Reg(r) if b.kind(*r) == crate::ptx::RegKind::R64 => {}
                    Arg::Not(_) => ignore = Some(b.p(a)?),
                    Arg::Reg(r) if b.kind(*r) == crate::ptx::RegKind::Pred => ignore = Some(b.p(a)?),
                    _ => src_size = Some(b.r(a)?),
                }
            }
            Op::CpAsync { dst: b.addr(arg(stmt, 0)?)?, src: b.addr(arg(stmt, 1)?)?, size, src_size, ignore }
        }
    }))
}

fn bulk_copy(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let has = |m: &str| code.has(m);
    // Gathers of rows, half boxes of im2col and pairs of CTAs came after sm_90.
    if code.mods.iter().any(|m| ["im2col::", "tile::", "cta_group"].iter().any(|new| m.starts_with(new))) {
        return Ok(None);
    }
    let im2col = has("im2col") || has("im2col_no_offs");
    let spaces: Vec<&str> =
        code.mods.iter().copied().filter(|m| matches!(*m, "global" | "shared::cluster" | "shared::cta")).collect();
    let (dir, tensor) = match (has("prefetch"), spaces.as_slice()) {
        (true, _) => (BulkDir::Prefetch, has("tensor")),
        (_, ["global", "shared::cta"]) => (BulkDir::ToGlobal, has("tensor")),
        (_, ["shared::cluster" | "shared::cta", "global"]) => (BulkDir::ToShared, has("tensor")),
        (_, ["shared::cluster", "shared::cta"]) => (BulkDir::SharedToCluster, has("tensor")),
        _ => return Ok(None),
    };
    if dir == BulkDir::Prefetch {
        return Ok(Some(Op::Nop));
    }
    let reduce = if code.mods.first() == Some(&"reduce") {
        let op = match () {
            _ if has("add") => AtomOp::Add,
            _ if has("min") => AtomOp::Min,
            _ if has("max") => AtomOp::Max,
            _ if has("and") => AtomOp::And,
            _ if has("or") => AtomOp::Or,
            _ if has("xor") => AtomOp::Xor,
            _ if has("inc") => AtomOp::Inc,
            _ if has("dec") => AtomOp::Dec,
            _ => return Ok(None),
        };
        // A tensor reduction takes its type from the tensor map.
        Some((op, code.types().last().copied().unwrap_or(super::Ty::B32)))
    } else {
        None
    };
    let tensor_operand = |b: &mut Build<'_>, a: &Arg| -> Result<_, String> {
        let Arg::Tensor(map, rest) = a else { return Err("expected [tensorMap, {coordinates}]".into()) };
        let [Arg::Vec(list)] = rest.as_slice() else { return Err("expected one coordinate vector".into()) };
        let map = b.addr_of(map, 0)?;
        let coords = list.iter().map(|c| b.r(c)).collect::<Result<Vec<_>, _>>()?;
        let mut offsets = Vec::new();
        if has("im2col") {
            // One offset for each spatial dimension.
            let list = super::operand::items(arg(stmt, 3)?);
            if list.len() + 2 != coords.len() {
                return Err(format!("{} im2col offsets for {} coordinates", list.len(), coords.len()));
            }
            offsets = list.iter().map(|o| b.r(o)).collect::<Result<_, _>>()?;
        }
        Ok(Tensor { map, coords, im2col: im2col.then_some(offsets) })
    };
    let zero = b.addr_of(&Arg::Int(0), 0)?;
    let none = b.r(&Arg::Int(0))?;
    let copy = match (dir, tensor) {
        (BulkDir::ToGlobal, true) => {
            let t = tensor_operand(b, arg(stmt, 0)?)?;
            Bulk {
                dir,
                dst: zero,
                src: b.addr(arg(stmt, 1)?)?,
                bytes: none,
                mbar: None,
                tensor: Some(t),
                multicast: None,
                reduce,
            }
        }
        (_, true) => Bulk {
            dir,
            dst: b.addr(arg(stmt, 0)?)?,
            src: zero,
            bytes: none,
            mbar: Some(b.addr(arg(stmt, 2)?)?),
            tensor: Some(tensor_operand(b, arg(stmt, 1)?)?),
            multicast: match has("multicast::cluster") {
                true => Some(b.r(arg(stmt, if has("im2col") { 4 } else { 3 })?)?),
                false => None,
            },
            reduce,
        },
        (BulkDir::ToGlobal, false) => Bulk {
            dir,
            dst: b.addr(arg(stmt, 0)?)?,
            src: b.addr(arg(stmt, 1)?)?,
            bytes: b.r(arg(stmt, 2)?)?,
            mbar: None,
            tensor: None,
            multicast: None,
            reduce,
        },
        _ => Bulk {
            dir,
            dst: b.addr(arg(stmt, 0)?)?,
            src: b.addr(arg(stmt, 1)?)?,
            bytes: b.r(arg(stmt, 2)?)?,
            mbar: Some(b.addr(arg(stmt, 3)?)?),
            tensor: None,
            multicast: if has("multicast::cluster") { Some(b.r(arg(stmt, 4)?)?) } else { None },
            reduce,
        },
    };
    Ok(Some(Op::Bulk(Box::new(copy))))
}

/// `tensormap.replace` and `tensormap.cp_fenceproxy`.
pub(super) fn tensormap(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    let has = |m: &str| code.has(m);
    if has("cp_fenceproxy") {
        if small(arg(stmt, 2)?)? != 128 {
            return Err("expected a size of 128".into());
        }
        let op = Tensormap::CopyRelease { dst: b.addr(arg(stmt, 0)?)?, src: b.addr(arg(stmt, 1)?)? };
        return Ok(Some(Op::Tensormap(Box::new(op))));
    }
    let field = code.mods.iter().find_map(|m| {
        Some(match *m {
            "global_address" => MapField::GlobalAddress,
            "rank" => MapField::Rank,
            "box_dim" => MapField::BoxDim,
            "global_dim" => MapField::GlobalDim,
            "global_stride" => MapField::GlobalStride,
            "element_stride" => MapField::ElementStride,
            "elemtype" => MapField::ElementType,
            "interleave_layout" => MapField::Interleave,
            "swizzle_mode" => MapField::Swizzle,
            "fill_mode" => MapField::Fill,
            _ => return None,
        })
    });
    let (Some(field), true) = (field, has("replace") && has("tile")) else { return Ok(None) };
    let several =
        matches!(field, MapField::BoxDim | MapField::GlobalDim | MapField::GlobalStride | MapField::ElementStride);
    let ord = if several { Some(b.r(arg(stmt, 1)?)?) } else { None };
    let value = b.reg(arg(stmt, if several { 2 } else { 1 })?, if has("b64") { 64 } else { 32 })?;
    let op = Tensormap::Replace { addr: b.addr(arg(stmt, 0)?)?, space: space(code), field, ord, value };
    Ok(Some(Op::Tensormap(Box::new(op))))
}
