//! Register programs: an elementwise DAG with reductions, evaluated a tile of elements at a time.
//!
//! A program is in SSA form: instruction `i` defines value `i`. Values live in registers of one of four element classes; narrow
//! dtypes are computed in the class that holds them exactly and brought back to their dtype after every instruction.

mod convert;
mod exec;
mod float;
mod int;
mod load;
pub(crate) mod quick;
mod reduce;
mod registers;

pub(crate) use exec::{Coords, Machine, Rect, Tile};
pub(crate) use registers::{Registers, allocate};

use kiln_graph::{ArgOp, BinaryOp, CompareOp, DType, ReduceOp, UnaryOp};

/// Index of an instruction and of the value it defines.
pub(crate) type Id = usize;

/// Element type of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// f32 and every narrower float.
    F32,
    /// f64.
    F64,
    /// i32, every narrower integer, and bool as 0 or 1.
    I32,
    /// i64, u32, and the bits of u64.
    I64,
}

impl Class {
    pub(crate) fn of(dtype: DType) -> Class {
        match dtype {
            DType::F64 => Class::F64,
            DType::I64 | DType::U64 | DType::U32 => Class::I64,
            d if d.is_float() => Class::F32,
            _ => Class::I32,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Class::F32 | Class::I32 => 4,
            Class::F64 | Class::I64 => 8,
        }
    }

    /// The dtype that a slot of this class has.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Class::F32 => DType::F32,
            Class::F64 => DType::F64,
            Class::I32 => DType::I32,
            Class::I64 => DType::I64,
        }
    }
}

/// How many elements a value has in a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// One element a row (a position of the dims that reductions keep).
    Row,
    /// One element a position of the whole domain.
    Full,
}

/// A literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar {
    F(f64),
    I(i64),
}

/// A strided view of a slot over the domain's dims, in elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    pub(crate) slot: usize,
    pub(crate) dtype: DType,
    pub(crate) offset: isize,
    pub(crate) strides: Vec<isize>,
}

/// What an instruction does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Const(Scalar),
    Load(usize),
    /// `offset + sum(coefficient * coordinate)` over the domain's dims.
    Iota(isize, Vec<isize>),
    Unary(UnaryOp, Id),
    Binary(BinaryOp, Id, Id),
    Compare(CompareOp, Id, Id),
    Select(Id, Id, Id),
    Cast {
        from: Id,
        saturate: bool,
    },
    /// x, scale, zero point.
    Quantize(Id, Id, Id),
    Dequantize(Id, Id, Id),
    /// A row value repeated over its row.
    Expand(Id),
    Reduce(ReduceOp, Id),
    ArgReduce {
        op: ArgOp,
        last: bool,
        of: Id,
    },
    Store(Id, usize),
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instr {
    pub(crate) kind: Kind,
    pub(crate) level: Level,
    pub(crate) dtype: DType,
}

impl Kind {
    /// The values it reads.
    pub(crate) fn operands(&self) -> impl Iterator<Item = Id> {
        let (a, b, c) = match *self {
            Kind::Const(_) | Kind::Load(_) | Kind::Iota(..) => (None, None, None),
            Kind::Unary(_, a)
            | Kind::Cast { from: a, .. }
            | Kind::Expand(a)
            | Kind::Reduce(_, a)
            | Kind::ArgReduce { of: a, .. }
            | Kind::Store(a, _) => (Some(a), None, None),
            Kind::Binary(_, a, b) | Kind::Compare(_, a, b) => (Some(a), Some(b), None),
            Kind::Select(a, b, c) | Kind::Quantize(a, b, c) | Kind::Dequantize(a, b, c) => (Some(a), Some(b), Some(c)),
        };
        [a, b, c].into_iter().flatten()
    }

    pub(crate) fn is_reduction(&self) -> bool {
        matches!(self, Kind::Reduce(..) | Kind::ArgReduce { .. })
    }
}

/// A program and the views that its loads and stores go through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) instrs: Vec<Instr>,
    pub(crate) accesses: Vec<Access>,
}

impl Program {
    /// A conversion of what the first access reads, to `through` and then to the dtype of the second, which stores it.
    pub(crate) fn cast(accesses: Vec<Access>, through: DType) -> Program {
        let (from, to) = (accesses[0].dtype, accesses[1].dtype);
        let instr = |kind, dtype| Instr { kind, level: Level::Full, dtype };
        let cast = |from| Kind::Cast { from, saturate: false };
        let instrs =
            vec![instr(Kind::Load(0), from), instr(cast(0), through), instr(cast(1), to), instr(Kind::Store(2, 1), to)];
        Program { instrs, accesses }
    }
}
