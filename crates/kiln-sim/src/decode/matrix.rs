//! ldmatrix, stmatrix, movmatrix, mma.sync and wgmma ("Warp-Level Matrix Instructions", "Asynchronous
//! Warpgroup-Level Matrix Instructions").

use super::memory::space;
use super::op::{MatrixCopy, Mma, Reg, Wgmma, WgmmaA};
use super::operand::{Build, arg, immediate, items};
use super::sync::small;
use super::{Code, Decoded, Op, Ty};
use crate::ptx::{Arg, Stmt};

pub(super) fn decode(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    match code.base {
        "ldmatrix" | "stmatrix" => {
            let copy = if code.base == "ldmatrix" { MatrixCopy::Load } else { MatrixCopy::Store };
            if !code.has("m8n8") || !code.has("b16") {
                return Ok(None);
            }
            let (data, at) = match copy {
                MatrixCopy::Load => (arg(stmt, 0)?, arg(stmt, 1)?),
                MatrixCopy::Store => (arg(stmt, 1)?, arg(stmt, 0)?),
            };
            let regs = items(data).iter().map(|a| b.r(a)).collect::<Result<Vec<_>, _>>()?;
            let count = if code.has("x4") {
                4
            } else if code.has("x2") {
                2
            } else {
                1
            };
            if regs.len() != count {
                return Err(format!("expected {count} registers, found {}", regs.len()));
            }
            Ok(Some(Op::Matrix { copy, regs, trans: code.has("trans"), addr: b.addr(at)?, space: space(code) }))
        }
        "movmatrix" => Ok(Some(Op::Movmatrix { dst: b.r(arg(stmt, 0)?)?, src: b.r(arg(stmt, 1)?)? })),
        "mma" => mma(b, code, stmt),
        _ => wgmma(b, code, stmt),
    }
}

/// Reads `mMnNkK`.
fn shape(code: &Code<'_>) -> Option<(u32, u32, u32)> {
    code.mods.iter().find_map(|m| {
        let (m_, rest) = m.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some((m_.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
    })
}

/// Registers of a fragment; f64 fragments are 64-bit registers, all others 32-bit.
fn fragment(b: &mut Build<'_>, a: &Arg, ty: Ty) -> Result<Vec<Reg>, String> {
    items(a).iter().map(|a| b.reg(a, if ty == Ty::F64 { 64 } else { 32 })).collect()
}

/// Shapes by operand type ("Matrix multiply-accumulate operation using mma instruction": the table of shapes).
fn shape_exists(m: u32, n: u32, k: u32, a: Ty, c: Ty) -> bool {
    let s = (m, n, k);
    let float_acc = matches!(c, Ty::F32 | Ty::F16);
    match a {
        Ty::F16 => float_acc && matches!(s, (16, 8, 8) | (16, 8, 16)),
        Ty::Bf16 => c == Ty::F32 && matches!(s, (16, 8, 8) | (16, 8, 16)),
        Ty::Tf32 => c == Ty::F32 && matches!(s, (16, 8, 4) | (16, 8, 8)),
        Ty::E4m3 | Ty::E5m2 => float_acc && matches!(s, (16, 8, 16) | (16, 8, 32)),
        Ty::F64 => c == Ty::F64 && matches!(s, (8, 8, 4) | (16, 8, 4) | (16, 8, 8) | (16, 8, 16)),
        Ty::U8 | Ty::S8 => c == Ty::S32 && matches!(s, (8, 8, 16) | (16, 8, 16) | (16, 8, 32)),
        Ty::U4 | Ty::S4 => c == Ty::S32 && matches!(s, (8, 8, 32) | (16, 8, 32) | (16, 8, 64)),
        Ty::B1 => c == Ty::S32 && matches!(s, (8, 8, 128) | (16, 8, 128) | (16, 8, 256)),
        _ => false,
    }
}

fn mma(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    if code.has("sp") || code.has("block_scale") || code.mods.iter().any(|m| m.starts_with("sp::")) {
        return Ok(None);
    }
    let Some((m, n, k)) = shape(code) else { return Ok(None) };
    let types = code.types();
    let [d_ty, a_ty, b_ty, c_ty] = types[..] else { return Ok(None) };
    if !shape_exists(m, n, k, a_ty, c_ty) || !shape_exists(m, n, k, b_ty, d_ty) || !code.has("row") || !code.has("col")
    {
        return Ok(None);
    }
    let (d, a, bb, c) = (
        fragment(b, arg(stmt, 0)?, d_ty)?,
        fragment(b, arg(stmt, 1)?, a_ty)?,
        fragment(b, arg(stmt, 2)?, b_ty)?,
        fragment(b, arg(stmt, 3)?, c_ty)?,
    );
    let need = |rows: u32, cols: u32, ty: Ty| {
        let bits = rows * cols * ty.bits() / 32;
        bits.div_ceil(if ty == Ty::F64 { 64 } else { 32 }).max(1) as usize
    };
    for (name, got, want) in [
        ("d", d.len(), need(m, n, d_ty)),
        ("a", a.len(), need(m, k, a_ty)),
        ("b", bb.len(), need(k, n, b_ty)),
        ("c", c.len(), need(m, n, c_ty)),
    ] {
        if got != want {
            return Err(format!("operand {name} has {got} registers, expected {want}"));
        }
    }
    Ok(Some(Op::Mma(Box::new(Mma {
        m,
        n,
        k,
        a_ty,
        b_ty,
        c_ty,
        d_ty,
        satfinite: code.has("satfinite"),
        b1_and: code.has("and"),
        d,
        a,
        b: bb,
        c,
    }))))
}

fn wgmma(b: &mut Build<'_>, code: &Code<'_>, stmt: &Stmt) -> Decoded {
    match code.mods.first().copied() {
        Some("fence") => return Ok(Some(Op::WgmmaFence)),
        Some("commit_group") => return Ok(Some(Op::WgmmaCommit)),
        Some("wait_group") => return Ok(Some(Op::WgmmaWait(small(arg(stmt, 0)?)?))),
        Some("mma_async") => {}
        _ => return Ok(None),
    }
    if code.has("sp") {
        return Ok(None);
    }
    let Some((m, n, k)) = shape(code) else { return Ok(None) };
    let types = code.types();
    let [d_ty, a_ty, b_ty] = types[..] else { return Ok(None) };
    if ![Ty::F16, Ty::Bf16, Ty::Tf32, Ty::E4m3, Ty::E5m2, Ty::S8, Ty::U8].contains(&a_ty) {
        return Ok(None);
    }
    let want_k = 256 / a_ty.bits();
    if m != 64 || k != want_k || n % 8 != 0 || n == 0 || n > 256 || a_ty.bits() != b_ty.bits() {
        return Ok(None);
    }
    let d = fragment(b, arg(stmt, 0)?, d_ty)?;
    let want = (64 * n * d_ty.bits() / 32 / 128) as usize;
    if d.len() != want {
        return Err(format!("operand d has {} registers, expected {want}", d.len()));
    }
    let a = match arg(stmt, 1)? {
        v @ Arg::Vec(_) => {
            let regs = fragment(b, v, a_ty)?;
            if regs.len() != 4 {
                return Err(format!("operand a has {} registers, expected 4", regs.len()));
            }
            WgmmaA::Regs(regs)
        }
        desc => WgmmaA::Desc(b.d(desc)?),
    };
    let mut imm = [0i64; 4];
    let float = !matches!(a_ty, Ty::U8 | Ty::S8);
    for (slot, a) in imm.iter_mut().zip(stmt.args.iter().skip(4)) {
        *slot = immediate(a)? as i64;
    }
    let from_shared = matches!(a, WgmmaA::Desc(_));
    // Immediates after scale-d: the signs of a and b, then the transpositions of those that are in shared memory.
    let (neg_a, neg_b) = (float && imm[0] == -1, float && imm[1] == -1);
    let (trans_a, trans_b) = if from_shared { (imm[2] == 1, imm[3] == 1) } else { (false, imm[2] == 1) };
    let scale_d = match stmt.args.get(3) {
        Some(p) => b.p(p)?,
        None => b.p(&Arg::Int(1))?,
    };
    Ok(Some(Op::Wgmma(Box::new(Wgmma {
        n,
        k,
        a_ty,
        b_ty,
        d_ty,
        d,
        a,
        b: b.d(arg(stmt, 2)?)?,
        scale_d,
        neg_a,
        neg_b,
        trans_a,
        trans_b,
        satfinite: code.has("satfinite"),
    }))))
}
