//! Element types: how a graph's types are held, computed on and rounded.

use kiln_graph as graph;
use kiln_tile::DType;
use kiln_tile::expr::{Expr, UnaryOp};

/// The tile type of the same name, as memory holds it.
pub fn memory(dtype: graph::DType) -> DType {
    match dtype {
        graph::DType::F64 => DType::F64,
        graph::DType::F32 => DType::F32,
        graph::DType::F16 => DType::F16,
        graph::DType::BF16 => DType::BF16,
        graph::DType::F8E4M3 => DType::F8E4M3,
        graph::DType::F8E5M2 => DType::F8E5M2,
        graph::DType::I64 => DType::I64,
        graph::DType::I32 => DType::I32,
        graph::DType::I16 => DType::I16,
        graph::DType::I8 => DType::I8,
        graph::DType::I4 => DType::I4,
        graph::DType::U64 => DType::U64,
        graph::DType::U32 => DType::U32,
        graph::DType::U16 => DType::U16,
        graph::DType::U8 => DType::U8,
        graph::DType::U4 => DType::U4,
        graph::DType::Bool => DType::Bool,
        // No region with another type gets this far: see `is_known`.
        _ => DType::F64,
    }
}

/// Whether tile programs have this type.
pub fn is_known(dtype: graph::DType) -> bool {
    memory(dtype).name() == dtype.name()
}

/// The type that holds a value in a register: that of memory, but a byte for the 4-bit integers.
pub fn register(dtype: graph::DType) -> DType {
    match memory(dtype) {
        DType::I4 => DType::I8,
        DType::U4 => DType::U8,
        other => other,
    }
}

/// The type that arithmetic on values of `dtype` is done in.
pub fn compute(dtype: graph::DType) -> DType {
    register(dtype).compute()
}

/// `e`, a result of arithmetic, as a value of `dtype`: floats round, integers wrap.
pub fn round(e: &Expr, dtype: graph::DType) -> Expr {
    match dtype {
        graph::DType::I4 if e.dtype() != DType::I8 => {
            let low = shifted(&e.cast(DType::I32), 28);
            low.cast(DType::I8)
        }
        graph::DType::U4 if e.dtype() != DType::U8 => e.cast(DType::I32).and(Expr::int(DType::I32, 15)).cast(DType::U8),
        _ => e.cast(register(dtype)),
    }
}

/// `x << bits >> bits`: the sign extended from a narrower field.
fn shifted(x: &Expr, bits: i64) -> Expr {
    use kiln_tile::expr::BinaryOp::{Shl, Shr};
    x.binary(Shl, bits).binary(Shr, bits)
}

/// A float as an integer: toward zero, saturating at the range of `to`, NaN as 0.
pub fn float_to_int(e: &Expr, to: graph::DType) -> Expr {
    let through = match to {
        graph::DType::I64 | graph::DType::U64 | graph::DType::U32 => memory(to),
        _ => DType::I32,
    };
    let x = e.cast(if e.dtype() == DType::F64 { DType::F64 } else { DType::F32 });
    let mut whole = x.cast(through);
    // The hardware's conversion gives 0 for NaN only from f32 to 32 bits.
    if x.dtype() == DType::F64 || through.bits() == 64 {
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
