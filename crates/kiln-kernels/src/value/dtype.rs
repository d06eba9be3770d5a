//! Element types: how a graph's types are held, computed on and rounded.

use kiln_tile::DType;
use kiln_tile::expr::{Expr, UnaryOp};

/// The type that holds a value in a register: that of memory, but a byte for the 4-bit integers.
pub fn register(dtype: DType) -> DType {
    match dtype {
        DType::I4 => DType::I8,
        DType::U4 => DType::U8,
        other => other,
    }
}

/// `e`, a result of arithmetic, as a value of `dtype`: floats round, integers wrap.
pub fn round(e: &Expr, dtype: DType) -> Expr {
    match dtype {
        DType::I4 if e.ty() != DType::I8 => {
            let low = shifted(&e.cast(DType::I32), 28);
            low.cast(DType::I8)
        }
        DType::U4 if e.ty() != DType::U8 => e.cast(DType::I32).and(Expr::int(DType::I32, 15)).cast(DType::U8),
        _ => e.cast(register(dtype)),
    }
}

/// `x << bits >> bits`: the sign extended from a narrower field.
fn shifted(x: &Expr, bits: i64) -> Expr {
    use kiln_tile::expr::BinaryOp::{Shl, Shr};
    x.binary(Shl, bits).binary(Shr, bits)
}

/// A float as an integer: toward zero, saturating at the range of `to`, NaN as 0.
pub fn float_to_int(e: &Expr, to: DType) -> Expr {
    let through = match to {
        DType::I64 | DType::U64 | DType::U32 => to,
        _ => DType::I32,
    };
    let x = e.cast(if e.ty() == DType::F64 { DType::F64 } else { DType::F32 });
    let mut whole = x.cast(through);
    // The hardware's conversion gives 0 for NaN only from f32 to 32 bits.
    if x.ty() == DType::F64 || through.bits() == 64 {
        whole = x.unary(UnaryOp::IsNan).select(&Expr::int(through, 0), whole);
    }
    match (to.int_range(), register(to)) {
        (Some((low, high)), register) if register != through => {
            let (low, high) = (Expr::wide_int(through, low), Expr::wide_int(through, high));
            whole.max(low).min(high).cast(register)
        }
        _ => whole,
    }
}
