//! A tile program: one kernel, explicit about memory scope and silent about threads.

use crate::dtype::{DType, Type};
use crate::expr::{BinaryOp, Expr, Var};
use serde::{Deserialize, Serialize};
use std::ops::Deref;
use std::sync::Arc;

/// Where a buffer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// GPU memory, a kernel parameter. The base address is a multiple of 16 bytes.
    Global,
    /// Shared memory of a block; only in [`Worker::Block`] programs.
    Shared,
    /// Registers, spread over the threads of a worker (a thread-local array under [`Worker::Thread`]).
    Fragment,
}

/// A typed N-d array; cheap to clone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer(Arc<BufferDecl>);

/// What a [`Buffer`] is.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct BufferDecl {
    /// Unique within the program.
    pub id: u32,
    /// What the author called it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Where it lives.
    pub scope: Scope,
    /// Extent of each dimension; constants unless global.
    pub shape: Vec<Expr>,
    /// Elements between neighbours along each dimension.
    pub strides: Vec<Expr>,
}

impl Deref for Buffer {
    type Target = BufferDecl;
    fn deref(&self) -> &BufferDecl {
        &self.0
    }
}

impl Buffer {
    /// A row-major buffer.
    pub fn new(id: u32, name: &str, dtype: DType, scope: Scope, shape: Vec<Expr>) -> Buffer {
        let mut strides = vec![Expr::index(1); shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = &strides[i] * &shape[i];
        }
        Buffer::strided(id, name, dtype, scope, shape, strides)
    }

    /// A buffer with given strides, in elements.
    pub fn strided(id: u32, name: &str, dtype: DType, scope: Scope, shape: Vec<Expr>, strides: Vec<Expr>) -> Buffer {
        Buffer(Arc::new(BufferDecl { id, name: name.to_owned(), dtype, scope, shape, strides }))
    }

    /// The element at `index`, in the buffer's own type.
    pub fn at(&self, index: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        let index = index.into_iter().map(Into::into).collect();
        Expr::new(self.dtype, crate::expr::ExprKind::Load(self.clone(), index))
    }

    /// Position of an element, counted from the first.
    pub fn offset(&self, index: &[Expr]) -> Expr {
        let terms = index.iter().zip(&self.strides).map(|(i, stride)| i * stride);
        terms.fold(Expr::index(0), |sum, term| sum + term)
    }

    /// Number of elements if every extent is constant.
    pub fn const_len(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, extent| product.checked_mul(u64::try_from(extent.as_const()?).ok()?))
    }
}

/// How a kernel uses a global buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Only loaded.
    Read,
    /// Only stored.
    Write,
    /// Loaded and stored, or updated atomically.
    ReadWrite,
}

/// A kernel parameter, in the order of the launch arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Param {
    /// A pointer to GPU memory.
    Buffer {
        /// The array behind it.
        buffer: Buffer,
        /// How it is used.
        access: Access,
    },
    /// A number.
    Scalar {
        /// The variable that holds it.
        var: Var,
        /// Least and greatest value; only integers have a use for it.
        range: (i64, i64),
        /// A known divisor of the value; lets rows be read 16 bytes at a time.
        multiple_of: i64,
    },
}

/// Who executes one point of the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Worker {
    /// One thread; the body is scalar code. Several neighbouring points go to a thread if that makes wide accesses.
    Thread,
    /// One warp of 32 threads; `parallel` and `reduce` spread over them.
    Warp,
    /// One block; `parallel`, `reduce`, `copy` and `gemm` spread over its threads, shared memory may be used.
    Block,
}

/// A dimension of an iteration space: `var` runs over `0..extent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// The loop variable, an index.
    pub var: Var,
    /// How far it runs.
    pub extent: Expr,
}

/// The grid: every point of the product of `axes` is executed once, by one worker, in no order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Domain {
    /// Who executes a point.
    pub worker: Worker,
    /// Outermost first; neighbours along the last axis are neighbours in time and memory.
    pub axes: Vec<Axis>,
}

/// How values are combined by [`Stmt::Reduce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // each variant is the function of its name
pub enum ReduceOp {
    Sum,
    Prod,
    /// NaN if any value is NaN.
    Min,
    /// NaN if any value is NaN.
    Max,
    And,
    Or,
}

impl ReduceOp {
    /// The two-operand function.
    pub fn binary(self) -> BinaryOp {
        match self {
            ReduceOp::Sum => BinaryOp::Add,
            ReduceOp::Prod => BinaryOp::Mul,
            ReduceOp::Min => BinaryOp::Min,
            ReduceOp::Max => BinaryOp::Max,
            ReduceOp::And => BinaryOp::And,
            ReduceOp::Or => BinaryOp::Or,
        }
    }

    /// The value that changes nothing.
    pub fn identity(self, ty: impl Into<Type>) -> Expr {
        let ty = ty.into();
        let (lo, hi) = match ty.int_range() {
            Some((lo, hi)) => (Expr::wide_int(ty, lo), Expr::wide_int(ty, hi)),
            None => (Expr::float(ty, f64::NEG_INFINITY), Expr::float(ty, f64::INFINITY)),
        };
        match self {
            ReduceOp::Sum => Expr::int(ty, 0),
            ReduceOp::Prod => Expr::int(ty, 1),
            ReduceOp::Min => hi,
            ReduceOp::Max => lo,
            ReduceOp::And if ty == DType::Bool => Expr::bool(true),
            ReduceOp::And => Expr::int(ty, -1),
            ReduceOp::Or => Expr::int(ty, 0),
        }
    }
}

/// One of the values that a [`Stmt::Reduce`] computes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reduction {
    /// Receives the result; every thread of the worker sees it.
    pub var: Var,
    /// How values are combined.
    pub op: ReduceOp,
    /// The value at each point.
    pub value: Expr,
}

/// Read-modify-write of one element that no other thread can interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // each variant is the function of its name
pub enum AtomicOp {
    Add,
    /// Integers only.
    Min,
    /// Integers only.
    Max,
}

/// A statement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Stmt {
    /// Names a value.
    Bind {
        /// The name.
        var: Var,
        /// The value.
        value: Expr,
    },
    /// Declares a variable that [`Stmt::Assign`] may change.
    Declare {
        /// The variable.
        var: Var,
        /// Its first value.
        value: Expr,
    },
    /// Changes a declared variable.
    Assign {
        /// The variable.
        var: Var,
        /// Its new value.
        value: Expr,
    },
    /// Stores one element.
    Store {
        /// Where.
        buffer: Buffer,
        /// At which index.
        index: Vec<Expr>,
        /// What; of the buffer's type.
        value: Expr,
    },
    /// Updates one element of global memory atomically.
    Atomic {
        /// How.
        op: AtomicOp,
        /// Where.
        buffer: Buffer,
        /// At which index.
        index: Vec<Expr>,
        /// The operand; of the buffer's type.
        value: Expr,
    },
    /// Notes a fault: where `violated` holds, `fault` becomes the greater of what it is and `code`. Costs nothing but the condition
    /// where it does not hold, and keeps no access from being wide.
    Check {
        /// The condition that must not hold.
        violated: Expr,
        /// One `i32` in global memory.
        fault: Buffer,
        /// What is noted; of type `i32`.
        code: Expr,
    },
    /// Runs `body` for `start, start + 1, .. end` in order.
    For {
        /// The loop variable.
        var: Var,
        /// First value.
        start: Expr,
        /// One past the last value.
        end: Expr,
        /// Whether to unroll fully; the bounds are then constants.
        unroll: bool,
        /// What to run.
        body: Vec<Stmt>,
    },
    /// Runs one of two bodies. At block level the condition is the same for all threads.
    If {
        /// The condition.
        cond: Expr,
        /// If it holds.
        then: Vec<Stmt>,
        /// If not.
        otherwise: Vec<Stmt>,
    },
    /// Runs `body` for every point of `axes`, spread over the worker's threads, in no order.
    Parallel {
        /// The points.
        axes: Vec<Axis>,
        /// Straight-line or looping scalar code.
        body: Vec<Stmt>,
    },
    /// Combines values over every point of `axes`, spread over the worker's threads.
    Reduce {
        /// The points.
        axes: Vec<Axis>,
        /// Names used by the values.
        body: Vec<Stmt>,
        /// What is computed.
        results: Vec<Reduction>,
    },
    /// Combines the elements of each row of an accumulator: `into[i] = value(i, 0) op value(i, 1) op ..`.
    ReduceRows {
        /// A row and a column, over the extents of the accumulator that `value` reads.
        axes: [Axis; 2],
        /// Names used by the value.
        body: Vec<Stmt>,
        /// How values are combined.
        op: ReduceOp,
        /// The value at each point; of the type of `into`.
        value: Expr,
        /// Fragment of one element a row.
        into: Buffer,
    },
    /// Sets every element of a fragment.
    Fill {
        /// The fragment.
        buffer: Buffer,
        /// The value; of its type.
        value: Expr,
    },
    /// Fills a shared tile: the element at `axes` is `value` where `mask` holds and `fill` elsewhere.
    Copy {
        /// The shared tile; one dimension per axis.
        dst: Buffer,
        /// One per dimension of `dst`, with its extents.
        axes: Vec<Axis>,
        /// Where `body` and `value` may be evaluated.
        mask: Expr,
        /// Names used by the value.
        body: Vec<Stmt>,
        /// The element, usually a load from global memory.
        value: Expr,
        /// The element elsewhere.
        fill: Expr,
    },
    /// `acc[m, n] += sum over k of a[m, k] * b[k, n]` on whole tiles.
    Gemm {
        /// Fragment of shape `[M, N]`.
        acc: Buffer,
        /// Shared tile of shape `[M, K]`, or `[K, M]` if transposed; or an accumulator of shape `[M, K]`, rounded to the type of `b`.
        a: Buffer,
        /// Shared tile of shape `[K, N]`, or `[N, K]` if transposed.
        b: Buffer,
        /// Whether `a` is stored `[K, M]`.
        transpose_a: bool,
        /// Whether `b` is stored `[N, K]`.
        transpose_b: bool,
    },
    /// A serial loop whose copies run ahead of its arithmetic: copies first, then the rest.
    Pipelined {
        /// The loop variable, from 0.
        var: Var,
        /// Number of iterations.
        extent: Expr,
        /// Shared tiles in flight, at least 2.
        stages: u32,
        /// [`Stmt::Copy`] statements, then what consumes the tiles.
        body: Vec<Stmt>,
    },
    /// All threads of the block wait for each other. Inserted by the compiler.
    Barrier,
}

/// One kernel. Made by a [`Builder`](crate::Builder).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Name of the entry point, a C identifier.
    pub name: String,
    /// One line that says what the kernel computes.
    pub comment: String,
    /// Launch arguments in order.
    pub params: Vec<Param>,
    /// Shared and fragment buffers.
    pub buffers: Vec<Buffer>,
    /// Threads of one block, a multiple of 32.
    pub threads: u32,
    /// Most elements along the last axis that one thread handles at a time; 1 turns wide accesses off.
    pub max_vector: u32,
    /// The grid.
    pub domain: Domain,
    /// What a worker does at each point of the domain.
    pub body: Vec<Stmt>,
    /// Variables and buffers have ids below this one; passes that make more go on from here.
    pub next_id: u32,
}

impl Stmt {
    /// The statements nested directly inside.
    pub fn bodies(&self) -> Vec<&[Stmt]> {
        match self {
            Stmt::For { body, .. }
            | Stmt::Parallel { body, .. }
            | Stmt::Reduce { body, .. }
            | Stmt::ReduceRows { body, .. }
            | Stmt::Copy { body, .. }
            | Stmt::Pipelined { body, .. } => vec![body],
            Stmt::If { then, otherwise, .. } => vec![then, otherwise],
            _ => vec![],
        }
    }

    /// The expressions of this statement itself, not of nested ones.
    pub fn exprs(&self) -> Vec<&Expr> {
        match self {
            Stmt::Bind { value, .. }
            | Stmt::Declare { value, .. }
            | Stmt::Assign { value, .. }
            | Stmt::Fill { value, .. } => vec![value],
            Stmt::Store { index, value, .. } | Stmt::Atomic { index, value, .. } => {
                index.iter().chain([value]).collect()
            }
            Stmt::For { start, end, .. } => vec![start, end],
            Stmt::If { cond, .. } => vec![cond],
            Stmt::Check { violated, code, .. } => vec![violated, code],
            Stmt::Parallel { axes, .. } => axes.iter().map(|axis| &axis.extent).collect(),
            Stmt::Reduce { axes, results, .. } => {
                let extents = axes.iter().map(|axis| &axis.extent);
                extents.chain(results.iter().map(|result| &result.value)).collect()
            }
            Stmt::ReduceRows { axes, value, .. } => axes.iter().map(|axis| &axis.extent).chain([value]).collect(),
            Stmt::Copy { axes, mask, value, fill, .. } => {
                axes.iter().map(|axis| &axis.extent).chain([mask, value, fill]).collect()
            }
            Stmt::Pipelined { extent, .. } => vec![extent],
            Stmt::Gemm { .. } | Stmt::Barrier => vec![],
        }
    }

    /// Calls `visit` on this statement and all nested ones.
    pub fn walk(&self, visit: &mut impl FnMut(&Stmt)) {
        visit(self);
        for body in self.bodies() {
            for stmt in body {
                stmt.walk(visit);
            }
        }
    }
}

impl Program {
    /// Number of workers: the product of the domain's extents.
    pub fn points(&self) -> Expr {
        product(&self.domain.axes)
    }
}

/// Product of the extents of `axes`.
pub fn product(axes: &[Axis]) -> Expr {
    axes.iter().fold(Expr::index(1), |product, axis| product * &axis.extent)
}
