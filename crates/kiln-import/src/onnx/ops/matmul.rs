//! Matrix products.

use super::super::lower::{Lower, OpResult, invalid};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{DType, EinsumSpec, QuantAxes, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "MatMul" => matmul,
        "Gemm" => gemm,
        "Einsum" => einsum,
        "MatMulInteger" => matmul_integer,
        "QLinearMatMul" => qlinear_matmul,
        _ => return None,
    };
    Some(handler)
}

/// The dtype that products of `dtype` are summed in, and integers stay what they are.
fn accumulator(dtype: DType) -> DType {
    if dtype.is_float() { dtype.accumulator() } else { dtype }
}

fn matmul<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (a, b) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let dtype = l.dtype(a);
    let y = l.matmul_as(a, b, accumulator(dtype), dtype)?;
    l.done(y)
}

fn gemm<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (a, b) = (l.arg(n, 0)?, l.arg(n, 1)?);
    if l.rank(a) != 2 || l.rank(b) != 2 {
        return invalid(format!("needs two matrices, found {} and {}", l.ty(a), l.ty(b)));
    }
    let lhs = if n.flag("transA", false)? { vec!['k', 'm'] } else { vec!['m', 'k'] };
    let rhs = if n.flag("transB", false)? { vec!['n', 'k'] } else { vec!['k', 'n'] };
    let dtype = l.dtype(a);
    let spec = EinsumSpec { lhs, rhs, out: vec!['m', 'n'] };
    let alpha = n.float("alpha", 1.0)?;
    let c = l.maybe_arg(n, 2)?;
    let wide = accumulator(dtype);
    let mut y = l.contract(spec, a, b, wide, if alpha != 1.0 || c.is_some() { wide } else { dtype })?;
    if alpha != 1.0 {
        y = l.mul_scalar(y, alpha)?;
    }
    if let Some(c) = c {
        let mut c = l.cast(c, wide)?;
        let beta = n.float("beta", 1.0)?;
        if beta != 1.0 {
            c = l.mul_scalar(c, beta)?;
        }
        y = l.plus(y, c)?;
    }
    let y = l.cast(y, dtype)?;
    l.done(y)
}

fn einsum<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let count = n.variadic()?.len();
    let operands = (0..count).map(|i| l.arg(n, i)).collect::<OpResult<Vec<_>>>()?;
    let y = l.einsum(n.string("equation", "")?, &operands)?;
    l.done(y)
}

/// `x - zero_point` in i32. A vector of zero points belongs to the rows of the left operand or the columns of the right.
fn centred(l: &mut Lower<'_>, x: ValueId, zero: Option<ValueId>, rows: bool) -> OpResult<ValueId> {
    let wide = l.cast(x, DType::I32)?;
    let Some(mut zero) = zero else { return Ok(wide) };
    if rows && l.rank(zero) == 1 && l.rank(x) > 1 && !l.shape(zero)[0].is(1) {
        zero = l.unsqueeze(zero, &[1])?;
    }
    let zero = l.cast(zero, DType::I32)?;
    Ok(l.sub(wide, zero)?)
}

fn matmul_integer<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (a, b) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let (za, zb) = (l.maybe_arg(n, 2)?, l.maybe_arg(n, 3)?);
    let a = centred(l, a, za, true)?;
    let b = centred(l, b, zb, false)?;
    let y = l.matmul_as(a, b, DType::I32, DType::I32)?;
    l.done(y)
}

fn qlinear_matmul<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (a, b) = (l.arg(n, 0)?, l.arg(n, 3)?);
    let (za, zb) = (l.arg(n, 2)?, l.arg(n, 5)?);
    let a = centred(l, a, Some(za), true)?;
    let b = centred(l, b, Some(zb), false)?;
    let sums = l.matmul_as(a, b, DType::I32, DType::I32)?;
    let (mut sa, sb) = (l.arg(n, 1)?, l.arg(n, 4)?);
    if l.rank(sa) == 1 && !l.shape(sa)[0].is(1) {
        sa = l.unsqueeze(sa, &[1])?;
    }
    let y = requantize(l, sums, sa, sb, n, 6)?;
    l.done(y)
}

/// `saturate(round(sums * (a_scale * b_scale) / y_scale) + y_zero)` with `y_scale` and `y_zero` at inputs `i` and `i + 1`.
pub(super) fn requantize<'m>(
    l: &mut Lower<'m>,
    sums: ValueId,
    a_scale: ValueId,
    b_scale: ValueId,
    n: &Node<'m>,
    i: usize,
) -> OpResult<ValueId> {
    let (scale, zero) = (l.arg(n, i)?, l.arg(n, i + 1)?);
    let wide = |l: &mut Lower<'m>, v: ValueId| l.cast(v, DType::F32);
    let (a, b, sums) = (wide(l, a_scale)?, wide(l, b_scale)?, wide(l, sums)?);
    let factor = l.mul(a, b)?;
    let real = l.mul(sums, factor)?;
    let scale = wide(l, scale)?;
    let scale = l.reshape(scale, &[])?;
    let zero = l.reshape(zero, &[])?;
    Ok(l.quantize(real, scale, zero, QuantAxes::Tensor)?)
}
