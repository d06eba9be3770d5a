//! What one thread of a kernel does: typed variables, expressions and statements, without a word of C or PTX. [`cuda`] writes it down
//! and decides nothing; [`dce`] takes out what nobody reads.

mod build;
pub mod cuda;
pub mod dce;
mod prelude;
mod walk;

use crate::dtype::{DType, Type};
use crate::expr::{CompareOp, UnaryOp};
use crate::program::AtomicOp;
use kiln_num::Round;
use kiln_target::atoms::{CopyAtom, MmaAtom, Source};
use std::sync::Arc;

/// Type of a number in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each variant is the type of its name
pub enum Scalar {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    Bf16,
    E4m3,
    E5m2,
    F32,
    F64,
}

/// Memory that a pointer points into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each variant is the space of its name
pub enum Space {
    Global,
    Shared,
    /// Global memory in which CTAs read what others stored.
    Exchange,
}

/// Type of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    /// A number.
    Scalar(Scalar),
    /// Neighbours in memory, moved together; at most 16 bytes.
    Vector(Scalar, u32),
    /// Elements in registers, one after another; of use only where all indices are known once loops are unrolled.
    Array(Scalar, u32),
    /// A pointer.
    Pointer {
        /// To elements of this type.
        to: Scalar,
        /// Where they are.
        space: Space,
        /// Whether they are never written.
        constant: bool,
    },
    /// 128 bytes that tell the tensor memory accelerator of a tensor; a parameter by value.
    TensorMap,
}

/// A variable; cheap to clone, known by its number.
#[derive(Clone, Debug)]
pub struct Var(Arc<(u32, String, Ty)>);

/// What the hardware tells a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// Number of the thread in its CTA.
    Thread,
    /// Number of the CTA.
    Block,
    /// How many CTAs there are.
    Blocks,
    /// Number of the CTA in its cluster.
    ClusterRank,
    /// Number of the thread in its warp.
    Lane,
}

/// Operator on one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// The negative.
    Neg,
    /// Logical not of a `bool`.
    Not,
    /// Bitwise not.
    BitNot,
}

/// Operator on two numbers of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each variant is the operator of its name
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    /// Lazy, on `bool`.
    LogicalAnd,
    /// Lazy, on `bool`.
    LogicalOr,
}

/// Function without effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// A function of the table, on `f32`, `f64` or (absolute values) integers.
    Math(UnaryOp),
    /// The lesser; NaN if either is.
    Min,
    /// The greater; NaN if either is.
    Max,
    /// Remainder of floats.
    Fmod,
    /// `.0` to the power `.1`.
    Pow,
    /// Arc tangent of `.0 / .1`.
    Atan2,
    /// `.0 * .1 + .2`, rounded once.
    Fma,
    /// A 16- or 8-bit float as `f32`.
    ToF32,
    /// To `f32` rounded so that another rounding to 16 bits or fewer is the only one.
    OddF32,
    /// `f32` rounded to this small float.
    Round(Scalar),
    /// Two `f32` rounded to `F16` or `Bf16`, in a `U32`, the first lowest.
    RoundPair(Scalar),
    /// The bits of an `f32`, as a `U32`, rounded to TF32 to nearest; ties to even, or away from zero.
    RoundTf32(Round),
    /// The same bits as an unsigned number of as many; of a vector of 4 bytes a `U32`.
    Bits,
    /// The same bits as this type of as many.
    FromBits(Scalar),
    /// Two 16-bit or four 8-bit numbers in a `U32`, the first lowest.
    Pack,
    /// The number of the thread of the warp whose number differs in these bits.
    ShuffleXor(u32),
    /// `.0` of lane `.1`; also of vectors.
    Shuffle,
    /// The number of this type that CTA `.1` of the cluster has at the shared address `.0`.
    ClusterLoad(Scalar),
}

/// An expression without effects, but for what loads may see.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Literal of an integer type or `bool`.
    Int(i128, Scalar),
    /// Literal of a floating-point type, already of its precision.
    Float(f64, Scalar),
    /// Value of a variable.
    Var(Var),
    /// Element of an array or a vector.
    Element(Var, Box<Expr>),
    /// What the hardware tells.
    Special(Special),
    /// Operator on one number.
    Unary(Unary, Box<Expr>),
    /// Operator on two numbers.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// Comparison of two numbers of one type.
    Compare(CompareOp, Box<Expr>, Box<Expr>),
    /// `.0 ? .1 : .2`, lazy.
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
    /// Conversion between numbers that C has; small floats are converted by functions.
    Cast(Scalar, Box<Expr>),
    /// A function.
    Call(Function, Vec<Expr>),
    /// `lanes` neighbours from `pointer + index` on; a number if `lanes` is 1.
    Load {
        /// Of a pointer type.
        pointer: Box<Expr>,
        /// Elements after it.
        index: Box<Expr>,
        /// How many are loaded together.
        lanes: u32,
    },
    /// A 4-bit element of a pointer to bytes, two a byte, the low half first.
    LoadInt4 {
        /// Of a pointer type.
        pointer: Box<Expr>,
        /// Elements after it.
        index: Box<Expr>,
        /// Whether it has a sign.
        signed: bool,
    },
    /// Pointer to elements `bytes` after the start of the CTA's shared memory.
    SharedPointer {
        /// To what.
        to: Scalar,
        /// Bytes.
        bytes: Box<Expr>,
    },
    /// The `U32` that instructions call the place `bytes` after the start of the CTA's shared memory.
    SharedAddress(Box<Expr>),
    /// The address of a global pointer moved on by `.1` elements, as a `U64`.
    GlobalAddress(Box<Expr>, Box<Expr>),
}

/// What can be assigned to.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A variable.
    Var(Var),
    /// Element of an array or a vector.
    Element(Var, Expr),
}

/// Things done for their effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// All threads of the CTA wait for each other.
    SyncThreads,
    /// All threads of the warp wait for each other.
    SyncWarp,
    /// `threads` threads meet at barrier `id`; those that do not `wait` only arrive.
    NamedBarrier {
        /// 0 to 15.
        id: Expr,
        /// How many.
        threads: u32,
        /// Whether this one waits.
        wait: bool,
    },
    /// All threads of the cluster wait for each other.
    ClusterSync,
    /// The first half of that: arrives.
    ClusterArrive,
    /// The second half: waits until all have.
    ClusterWait,
    /// Sets up an mbarrier.
    BarrierInit {
        /// Shared address.
        address: Expr,
        /// Arrivals of a phase.
        count: u32,
    },
    /// Arrives at an mbarrier and adds the bytes that its phase waits for.
    BarrierExpect {
        /// Shared address.
        address: Expr,
        /// Bytes.
        bytes: u32,
    },
    /// Arrives at an mbarrier.
    BarrierArrive {
        /// Shared address.
        address: Expr,
    },
    /// Arrives at the mbarrier of CTA `rank` of the cluster that has this address there.
    BarrierArriveRemote {
        /// Shared address.
        address: Expr,
        /// Which CTA.
        rank: Expr,
    },
    /// Waits until the phase of this parity has ended.
    BarrierWait {
        /// Shared address.
        address: Expr,
        /// 0 or 1.
        parity: Expr,
    },
    /// Starts a copy of 4, 8 or 16 bytes to shared memory; zeros where `exists` does not hold.
    CopyAsync {
        /// Shared address.
        to: Expr,
        /// Global address.
        from: Expr,
        /// Bytes.
        bytes: u32,
        /// Whether the source is there.
        exists: Expr,
    },
    /// Starts a copy of a box to shared memory, which completes on an mbarrier.
    TmaLoad {
        /// Shared address.
        to: Expr,
        /// The tensor map.
        map: Var,
        /// First element of the box, innermost axis first.
        origin: Vec<Expr>,
        /// Where in windows the pixels are, 16 bits each; none where a box is copied.
        offsets: Vec<Expr>,
        /// Shared address of the mbarrier.
        barrier: Expr,
        /// The CTAs of the cluster that get it, as bits; `None`: this one.
        multicast: Option<Expr>,
    },
    /// Starts a copy of a box from shared memory.
    TmaStore {
        /// Shared address.
        from: Expr,
        /// The tensor map.
        map: Var,
        /// First element of the box, innermost axis first.
        origin: Vec<Expr>,
    },
    /// Closes a group.
    Commit(crate::ir::Group),
    /// Waits until at most `pending` groups are unfinished.
    WaitGroup {
        /// Of which kind.
        group: crate::ir::Group,
        /// How many may be.
        pending: u32,
    },
    /// Orders accesses.
    Fence(crate::ir::Fence),
    /// Makes a register's value here and no later.
    Pin(Place),
    /// Gives up or takes registers.
    SetRegisters {
        /// Registers a thread.
        count: u32,
        /// Whether it takes more.
        increase: bool,
    },
    /// Waits until an `int` of global memory has a value; what was stored before that was set is seen then.
    CounterWait {
        /// Of a pointer type.
        pointer: Expr,
        /// Elements after it.
        index: Expr,
        /// The value.
        value: Expr,
    },
    /// Sets an `int` of global memory, after everything that the thread has stored or seen stored.
    CounterSet {
        /// Of a pointer type.
        pointer: Expr,
        /// Elements after it.
        index: Expr,
        /// The value.
        value: Expr,
    },
    /// Updates an element of global memory.
    Atomic {
        /// How.
        op: AtomicOp,
        /// Of a pointer type.
        pointer: Expr,
        /// Elements after it.
        index: Expr,
        /// The operand.
        value: Expr,
    },
}

/// A row of the atom table, and in which form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Atom {
    /// A matrix product.
    Mma {
        /// Which.
        row: MmaAtom,
        /// Columns.
        width: u32,
        /// Where it reads its left operand.
        a: Source,
        /// Where it reads its right operand.
        b: Source,
    },
    /// A load or store of fragments.
    Copy(CopyAtom),
}

/// One instruction of the atom table.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Which.
    pub atom: Atom,
    /// Registers that it reads and writes, in the order of the table.
    pub accumulators: Vec<Place>,
    /// Whether a product adds to them, or overwrites them.
    pub accumulate: bool,
    /// Registers that it writes.
    pub results: Vec<Place>,
    /// What it reads: registers, shared addresses, descriptors; of the left operand first.
    pub operands: Vec<Expr>,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// A line for the reader.
    Comment(String),
    /// Declares a variable.
    Declare {
        /// The variable.
        var: Var,
        /// Its first value.
        value: Option<Expr>,
        /// Whether it is the only one.
        constant: bool,
    },
    /// Gives a variable or an element another value.
    Assign(Place, Expr),
    /// Stores a number or a vector.
    Store {
        /// Of a pointer type.
        pointer: Expr,
        /// Elements after it.
        index: Expr,
        /// What.
        value: Expr,
    },
    /// Counts `var` from `start` up to `end`, excluded.
    For {
        /// The loop variable.
        var: Var,
        /// First value.
        start: Expr,
        /// Bound.
        end: Expr,
        /// Increment.
        step: Expr,
        /// Whether it is unrolled fully, or left as it is.
        unroll: bool,
        /// What is repeated.
        body: Block,
    },
    /// Runs one of two blocks.
    If {
        /// The condition.
        cond: Expr,
        /// If it holds.
        then: Block,
        /// If not.
        otherwise: Block,
    },
    /// Something done for its effect.
    Effect(Effect),
    /// One instruction.
    Instruction(Instruction),
    /// Ends the thread.
    Return,
}

/// Statements in order, with names of their own.
pub type Block = Vec<Stmt>;

/// A kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Entry point, as it is wanted.
    pub name: String,
    /// One line for the reader.
    pub comment: String,
    /// Launch arguments.
    pub params: Vec<Var>,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs that must fit an SM; `None`: the compiler's choice.
    pub min_ctas: Option<u32>,
    /// Most registers of a thread.
    pub max_registers: Option<u32>,
    /// CTAs of a cluster; 1: no clusters.
    pub cluster: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    /// What a thread does.
    pub body: Block,
}

impl PartialEq for Var {
    fn eq(&self, other: &Var) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Var {}

impl std::hash::Hash for Var {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl Var {
    /// A variable; numbers are given by whoever makes them.
    pub fn new(id: u32, name: &str, ty: Ty) -> Var {
        Var(Arc::new((id, name.to_owned(), ty)))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.0
    }

    /// What it is called, if nothing else is called so.
    pub fn name(&self) -> &str {
        &self.0.1
    }

    /// Its type.
    pub fn ty(&self) -> Ty {
        self.0.2
    }
}

impl Scalar {
    /// The register type of `ty`; an index has 64 bits if `wide`, else 32.
    pub fn of(ty: impl Into<Type>, wide: bool) -> Scalar {
        let Type::Element(dtype) = ty.into() else { return if wide { Scalar::I64 } else { Scalar::I32 } };
        match dtype {
            DType::Bool => Scalar::Bool,
            DType::I8 | DType::I4 => Scalar::I8,
            DType::U8 | DType::U4 => Scalar::U8,
            DType::I16 => Scalar::I16,
            DType::U16 => Scalar::U16,
            DType::I32 => Scalar::I32,
            DType::U32 => Scalar::U32,
            DType::I64 => Scalar::I64,
            DType::U64 => Scalar::U64,
            DType::F8E4M3 => Scalar::E4m3,
            DType::F8E5M2 => Scalar::E5m2,
            DType::F16 => Scalar::F16,
            DType::BF16 => Scalar::Bf16,
            DType::F32 => Scalar::F32,
            DType::F64 => Scalar::F64,
        }
    }

    /// Bytes in memory.
    pub fn bytes(self) -> u32 {
        match self {
            Scalar::Bool | Scalar::I8 | Scalar::U8 | Scalar::E4m3 | Scalar::E5m2 => 1,
            Scalar::I16 | Scalar::U16 | Scalar::F16 | Scalar::Bf16 => 2,
            Scalar::I32 | Scalar::U32 | Scalar::F32 => 4,
            Scalar::I64 | Scalar::U64 | Scalar::F64 => 8,
        }
    }

    /// Whether it is a float.
    pub fn is_float(self) -> bool {
        self.is_small_float() || matches!(self, Scalar::F32 | Scalar::F64)
    }

    /// Whether C has no arithmetic for it.
    pub fn is_small_float(self) -> bool {
        matches!(self, Scalar::F16 | Scalar::Bf16 | Scalar::E4m3 | Scalar::E5m2)
    }

    /// The element type that is like it.
    pub fn dtype(self) -> DType {
        match self {
            Scalar::Bool => DType::Bool,
            Scalar::I8 => DType::I8,
            Scalar::U8 => DType::U8,
            Scalar::I16 => DType::I16,
            Scalar::U16 => DType::U16,
            Scalar::I32 => DType::I32,
            Scalar::U32 => DType::U32,
            Scalar::I64 => DType::I64,
            Scalar::U64 => DType::U64,
            Scalar::F16 => DType::F16,
            Scalar::Bf16 => DType::BF16,
            Scalar::E4m3 => DType::F8E4M3,
            Scalar::E5m2 => DType::F8E5M2,
            Scalar::F32 => DType::F32,
            Scalar::F64 => DType::F64,
        }
    }
}

impl Ty {
    /// The type of its elements; of a tensor map, bytes.
    pub fn element(self) -> Scalar {
        match self {
            Ty::Scalar(of) | Ty::Vector(of, _) | Ty::Array(of, _) | Ty::Pointer { to: of, .. } => of,
            Ty::TensorMap => Scalar::U8,
        }
    }
}
