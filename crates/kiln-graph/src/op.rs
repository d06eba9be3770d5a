//! The primitive ops. Everything an importer or a macro meets is lowered onto these.

use crate::{DType, Dim, Graph, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// One primitive. Shapes and dtypes follow from [`crate::infer`]; operands are listed in the order the doc names them.
///
/// Elementwise ops take operands of *equal* shape: broadcasting is always an explicit [`Op::Broadcast`], so that rules see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Op {
    /// A graph input. `()`.
    Input {
        /// Its public name.
        name: String,
        /// Its declared type.
        ty: TensorType,
    },
    /// A named constant whose data lives in [`Graph::weights`] (or is bound later). `()`.
    Weight {
        /// Key in the weight table.
        name: String,
        /// Its declared type; shape is constant.
        ty: TensorType,
    },
    /// A small literal. `()`.
    Const {
        /// The value.
        value: Tensor,
    },
    /// `out[i] = i[axis]`. `()`.
    Iota {
        /// Result type (integer or float).
        ty: TensorType,
        /// Axis whose index is written.
        axis: usize,
    },
    /// A runtime scalar (rank 0, i64) holding the value of a dimension expression. `()`.
    DimValue {
        /// The expression.
        dim: Dim,
    },
    /// Elementwise function. `(x)`.
    Unary(UnaryOp),
    /// Elementwise function of two operands of one dtype. `(a, b)`.
    Binary(BinaryOp),
    /// Elementwise comparison to bool; NaN compares false except for `Ne`. `(a, b)`.
    Compare(CompareOp),
    /// `cond ? a : b`. `(cond: bool, a, b)`.
    Select,
    /// Conversion. Float to float rounds to nearest even; float to int truncates toward zero (out of range or NaN: saturates, NaN
    /// to 0); int to int wraps; anything to bool is `!= 0`. `(x)`.
    Cast {
        /// Result dtype.
        to: DType,
        /// For f8 targets: overflow and infinities become the largest finite value instead of NaN / infinity.
        saturate: bool,
    },
    /// Reduction that removes `axes`. Integers wrap. Sums of narrow floats accumulate in f32. Empty extents give the identity. `(x)`.
    Reduce {
        /// What to compute.
        op: ReduceOp,
        /// Sorted, distinct axes.
        axes: Vec<usize>,
    },
    /// Index (i64) of the extreme along `axis`, which is removed. NaN counts as the extreme. `(x)`.
    ArgReduce {
        /// Maximum or minimum.
        op: ArgOp,
        /// Axis.
        axis: usize,
        /// Pick the last of equal extremes instead of the first.
        last: bool,
    },
    /// Einsum of two operands. `(lhs, rhs)`.
    Contract {
        /// Labels.
        spec: EinsumSpec,
        /// Dtype of products and sums.
        acc: DType,
        /// Result dtype.
        out: DType,
    },
    /// Grouped N-d cross-correlation, NCHW order: `(x[N,C,s..], w[O,C/groups,k..]) -> [N,O,s'..]`. A transposed convolution is a
    /// [`Op::Pad`] with interior padding, then this with flipped weights.
    Conv {
        /// Geometry.
        spec: ConvSpec,
        /// Dtype of products and sums.
        acc: DType,
        /// Result dtype.
        out: DType,
    },
    /// Reduction over sliding windows of the trailing axes; padding counts as the identity. `(x)`.
    WindowReduce {
        /// Sum, max, min or product.
        op: ReduceOp,
        /// Geometry, one entry a trailing axis.
        spec: WindowSpec,
    },
    /// `out[i..] = x[perm applied]`: output axis `a` is input axis `perm[a]`. `(x)`.
    Permute {
        /// The permutation.
        perm: Vec<usize>,
    },
    /// Same elements in row-major order under another shape. `(x)`.
    Reshape {
        /// New shape.
        shape: Vec<Dim>,
    },
    /// Numpy broadcast to `shape`: aligned right, each operand axis equals the result's or is 1. `(x)`.
    Broadcast {
        /// Result shape.
        shape: Vec<Dim>,
    },
    /// `out[i] = x[start + i * step]` on each axis, `0 <= i < size`. Steps may be negative, never zero. `(x)`.
    Slice {
        /// First element taken on each axis.
        starts: Vec<Dim>,
        /// Result shape.
        sizes: Vec<Dim>,
        /// Step on each axis.
        steps: Vec<i64>,
    },
    /// Padding with a scalar: `low` before, `high` after, `interior` between neighbours, all >= 0. `(x, value: rank 0)`.
    Pad {
        /// Elements before, a Dim an axis.
        low: Vec<Dim>,
        /// Elements after, a Dim an axis.
        high: Vec<Dim>,
        /// Elements between two neighbours.
        interior: Vec<i64>,
    },
    /// Concatenation of one or more operands of equal dtype. `(x0, x1, ..)`.
    Concat {
        /// Axis.
        axis: usize,
    },
    /// `out[a.., i.., c..] = x[a.., idx[i..], c..]`: the result replaces `axis` by the shape of `idx`. Negative indices count from the end;
    /// others outside the axis are an error of the run on every device. `(x, idx: i32|i64)`.
    Gather {
        /// Axis of `x`.
        axis: usize,
    },
    /// `out[i..] = x[i.. with i[axis] = idx[i..]]`; the result has the shape of `idx`. `(x, idx: i32|i64)`.
    GatherElements {
        /// Axis of `x`.
        axis: usize,
    },
    /// ONNX GatherND: the last axis of `idx` holds coordinates into `x` after `batch_dims` shared leading axes. `(x, idx: i32|i64)`.
    GatherNd {
        /// Shared leading axes.
        batch_dims: usize,
    },
    /// ONNX ScatterElements: copy of `x` with `x[i.. with i[axis] = idx[i..]] op= updates[i..]`. `(x, idx, updates)`.
    ScatterElements {
        /// Axis of `x`.
        axis: usize,
        /// How an update meets the present element.
        op: ScatterOp,
    },
    /// ONNX ScatterND: copy of `x` with slices addressed by the last axis of `idx` updated. `(x, idx, updates)`.
    ScatterNd {
        /// How an update meets the present element.
        op: ScatterOp,
    },
    /// Running reduction along an axis. `(x)`.
    Scan {
        /// Sum or product (or max, min).
        op: ScanOp,
        /// Axis.
        axis: usize,
        /// Element `i` excludes `x[i]`; the first is the identity.
        exclusive: bool,
        /// Run from the last element to the first.
        reverse: bool,
    },
    /// The `k` extreme elements along `axis` in order, and their indices (i64); ties by lower index, NaN above everything. Two results. `(x)`.
    TopK {
        /// Axis.
        axis: usize,
        /// How many.
        k: Dim,
        /// Largest first, else smallest first.
        largest: bool,
    },
    /// `saturate(round_even(x / scale) + zero_point)`. `(x, scale, zero_point)`; scale and zero point have the shape [`QuantAxes`] gives. The
    /// quotient is taken in the scale's [`DType::accumulator`] (f32 for all but f64); NaN gives 0 in an integer type. f8 is not rounded to whole
    /// numbers.
    Quantize {
        /// Result dtype (integer or f8), equal to the zero point's.
        to: DType,
        /// How scale and zero point map onto `x`.
        axes: QuantAxes,
    },
    /// `(x - zero_point) * scale`. `(x, scale, zero_point)`; the result has the dtype of `scale`.
    Dequantize {
        /// How scale and zero point map onto `x`.
        axes: QuantAxes,
    },
    /// Runs one of two graphs. `(cond: bool rank 0, captures..)`: both graphs take the captures as inputs and agree in output types.
    If {
        /// Taken when true.
        then_graph: Box<Graph>,
        /// Taken when false.
        else_graph: Box<Graph>,
    },
    /// `for i in 0..trip while cond`. `(trip: i64 rank 0, cond: bool rank 0, carried.., captures..)`. The body takes
    /// `(i: i64, cond: bool, carried.., captures..)` and gives `(cond, carried.., scans..)`; results are the carried values, then each
    /// scan stacked on a new leading axis.
    Loop {
        /// The body.
        body: Box<Graph>,
        /// Number of carried values.
        carried: usize,
        /// Trip count when it is known at build time; required if there are scan outputs.
        trip: Option<Dim>,
    },
}

/// Elementwise functions of one operand. Float-only unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "names of standard functions")]
pub enum UnaryOp {
    /// Any number; integers wrap.
    Neg,
    /// Any number; integers wrap.
    Abs,
    /// -1, 0, 1 (NaN stays NaN). Any number.
    Sign,
    Ceil,
    Floor,
    /// Half to even.
    Round,
    Sqrt,
    Rsqrt,
    /// `1 / x`.
    Recip,
    Exp,
    Exp2,
    Log,
    Log2,
    Log1p,
    Expm1,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Tanh,
    Asinh,
    Acosh,
    Atanh,
    Erf,
    /// Bool: logical; integers: bitwise.
    Not,
    /// Float to bool.
    IsNan,
    /// Float to bool.
    IsInf,
}

/// Elementwise functions of two operands of one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "names of standard functions")]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    /// Integers truncate toward zero; by zero is an error in the reference and 0 on a device.
    Div,
    /// Remainder with the sign of the divisor (Python `%`).
    Mod,
    /// Remainder with the sign of the dividend (C `fmod`).
    Rem,
    Pow,
    /// NaN if either is.
    Min,
    /// NaN if either is.
    Max,
    Atan2,
    /// Bool: logical; integers: bitwise.
    And,
    Or,
    Xor,
    /// Integers; a shift by the width or more gives 0.
    Shl,
    /// Integers; arithmetic when signed.
    Shr,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "names of standard relations")]
pub enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Reductions. Identity: 0, 1, lowest (`-inf`), highest (`+inf`), true, false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "names of standard reductions")]
pub enum ReduceOp {
    Sum,
    Prod,
    /// NaN if any is.
    Max,
    /// NaN if any is.
    Min,
    /// Bool only.
    All,
    /// Bool only.
    Any,
}

/// Which extreme an [`Op::ArgReduce`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "self-explaining")]
pub enum ArgOp {
    Max,
    Min,
}

/// What an [`Op::Scan`] accumulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "self-explaining")]
pub enum ScanOp {
    Sum,
    Prod,
    Max,
    Min,
}

/// How a scattered update meets the present element. `Set` with repeated indices: the last in row-major order wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "self-explaining")]
pub enum ScatterOp {
    Set,
    Add,
    Mul,
    Max,
    Min,
}

impl std::str::FromStr for ScatterOp {
    type Err = String;

    /// Reads the name in lower case.
    fn from_str(word: &str) -> Result<ScatterOp, String> {
        Ok(match word {
            "set" => ScatterOp::Set,
            "add" => ScatterOp::Add,
            "mul" => ScatterOp::Mul,
            "max" => ScatterOp::Max,
            "min" => ScatterOp::Min,
            other => return Err(format!("expected one of set, add, mul, max, min, found `{other}`")),
        })
    }
}

/// Labels of a two-operand einsum, for instance `bmk,bkn->bmn`. A label occurs at most once an operand. In both operands and the result:
/// batch. In both operands only: contracted. In one operand and the result: free. A label of one operand alone is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EinsumSpec {
    /// Labels of the left operand's axes.
    pub lhs: Vec<char>,
    /// Labels of the right operand's axes.
    pub rhs: Vec<char>,
    /// Labels of the result's axes.
    pub out: Vec<char>,
}

/// Geometry of [`Op::Conv`], one entry a spatial axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConvSpec {
    /// Step of the window.
    pub strides: Vec<usize>,
    /// Zero padding `(before, after)`.
    pub pads: Vec<(usize, usize)>,
    /// Distance between taps.
    pub dilations: Vec<usize>,
    /// Channel groups.
    pub groups: usize,
}

/// Geometry of [`Op::WindowReduce`], one entry a trailing axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WindowSpec {
    /// Taps.
    pub window: Vec<usize>,
    /// Step of the window.
    pub strides: Vec<usize>,
    /// Padding `(before, after)`, which counts as the identity.
    pub pads: Vec<(usize, usize)>,
    /// Distance between taps.
    pub dilations: Vec<usize>,
}

/// How scales and zero points map onto a quantized tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum QuantAxes {
    /// One scale (rank 0).
    Tensor,
    /// A scale for each index of the axis (rank 1).
    Axis(usize),
    /// A scale for each run of `block` elements along the axis (shape of `x` with that axis divided, rounding up).
    Block {
        /// Axis.
        axis: usize,
        /// Elements a scale.
        block: usize,
    },
}
