//! The primitive ops, each declared once. Everything an importer or a macro meets is lowered onto these.

mod choice;
mod function;
mod kind;
mod spec;
mod table;

pub use function::{BinaryOp, CompareOp, Domain, UnaryOp};
pub use kind::OpKind;
pub use spec::{ConvSpec, EinsumSpec, QuantAxes, WindowSpec};

use crate::encode::{Encoder, Structure};
use crate::infer::Cx;
use crate::interp::Call;
use crate::interp::array::{Array, Eval};
use crate::primitive::{Several, contract, control, elementwise, index, quant, reduce, source, view, window};
use crate::text::{Attribute, Reader, Text};
use crate::{DType, Dim, Graph, Result, Tensor, TensorType};
use choice::{choice, named, prefixed};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use table::{decoded, key, mnemonic, mnemonics, operands, ops};

ops! {
    functions {
        /// Elementwise function.
        Unary(op: UnaryOp) (x) Elementwise
            => |cx| elementwise::unary_type(cx, *op), |c| elementwise::unary(*op, c.arg(0));
        /// Elementwise function of two operands of one dtype.
        Binary(op: BinaryOp) (a, b) Elementwise
            => |cx| elementwise::binary_type(cx, *op), |c| elementwise::binary(*op, c.arg(0), c.arg(1));
        /// Elementwise comparison to bool; NaN compares false except for `Ne`.
        Compare(op: CompareOp) (a, b) Elementwise
            => |cx| elementwise::compare_type(cx, *op), |c| elementwise::compare(*op, c.arg(0), c.arg(1));
    }
    plain {
        /// `cond ? a : b`; the condition is a bool.
        Select "select" (cond, a, b) Elementwise
            => |cx| elementwise::select_type(cx), |c| elementwise::select(c.arg(0), c.arg(1), c.arg(2));
    }
    with_attributes {
        /// A graph input.
        Input "input" () Source {
            /// Its public name.
            name as "": String,
            /// Its declared type.
            ty: TensorType,
        } => |cx| source::input_type(cx, ty), |c| source::input(name);
        /// A named constant whose data lives in [`Graph::weights`] (or is bound later).
        Weight "weight" () Source {
            /// Key in the weight table.
            name as "": String,
            /// Its declared type; shape is constant.
            ty: TensorType,
        } => |cx| source::weight_type(cx, name, ty), |c| c.weight(name);
        /// A small literal.
        Const "const" () Nullary {
            /// The value.
            value: Tensor,
        } => |cx| source::constant_type(value), |c| source::constant(value);
        /// `out[i] = i[axis]`.
        Iota "iota" () Nullary {
            /// Result type (integer or float).
            ty: TensorType,
            /// Axis whose index is written.
            axis: usize,
        } => |cx| source::iota_type(cx, ty, *axis), |c| source::iota(ty.dtype, c.shape(0)?, *axis);
        /// A runtime scalar (rank 0, i64) holding the value of a dimension expression.
        DimValue "dim" () Nullary {
            /// The expression.
            dim as "": Dim,
        } => |cx| source::dim_type(), |c| source::dim(c, dim);
        /// Conversion. Float to float rounds to nearest even; float to int truncates toward zero (out of range or NaN: saturates, NaN
        /// to 0); int to int wraps; anything to bool is `!= 0`.
        Cast "cast" (x) Elementwise {
            /// Result dtype.
            to: DType,
            /// For f8 targets: overflow and infinities become the largest finite value instead of NaN / infinity.
            saturate: bool,
        } => |cx| elementwise::cast_type(cx, *to), |c| Eval::Ok(elementwise::cast(c.arg(0), *to, *saturate));
        /// Reduction that removes `axes`. Integers wrap. Sums of narrow floats accumulate in f32. Empty extents give the identity.
        Reduce "reduce_" (x) Reduce [
            /// What to compute.
            op: ReduceOp, reduce_name
        ] {
            /// Sorted, distinct axes.
            axes: Vec<usize>,
        } => |cx| reduce::reduce_type(cx, *op, axes), |c| reduce::reduce(*op, c.arg(0), axes);
        /// Index (i64) of the extreme along `axis`, which is removed. NaN counts as the extreme.
        ArgReduce "" (x) Reduce [
            /// Maximum or minimum.
            op: ArgOp, name
        ] {
            /// Axis.
            axis: usize,
            /// Pick the last of equal extremes instead of the first.
            last: bool,
        } => |cx| reduce::arg_type(cx, *axis), |c| reduce::arg(*op, c.arg(0), *axis, *last);
        /// Einsum of two operands.
        Contract "contract" (lhs, rhs) Contract {
            /// Labels.
            spec: EinsumSpec,
            /// Dtype of products and sums.
            acc: DType,
            /// Result dtype.
            out: DType,
        } => |cx| contract::contract_type(cx, spec, *acc, *out),
            |c| contract::contract(spec, c.arg(0), c.arg(1), *acc, *out);
        /// Products of groups of rows, each with a right operand of its own: row `t` of `x[T, K]` times `w[g]` of `w[G, K, N]`, where group `g` has the
        /// rows from `ends[g - 1]` (the first from 0) to `ends[g]`, excluded; rows from the last end on are zero. `ends[G]` are i32 or i64. Ends that
        /// decrease, are negative or pass `T` are an error of the run on every device.
        GroupedMatmul "grouped_matmul" (x, w, ends) Contract {
            /// Whether right operands lie transposed: `w[G, N, K]`.
            transposed: bool,
            /// Dtype of products and sums.
            acc: DType,
            /// Result dtype.
            out: DType,
        } => |cx| contract::grouped_type(cx, *transposed, *acc, *out),
            |c| contract::grouped(*transposed, c.arg(0), c.arg(1), c.arg(2), *acc, *out);
        /// Grouped N-d cross-correlation, NCHW order: `(x[N,C,s..], w[O,C/groups,k..]) -> [N,O,s'..]`. A transposed convolution is a
        /// [`Op::Pad`] with interior padding, then this with flipped weights.
        Conv "conv" (x, w) Conv {
            /// Geometry.
            spec: ConvSpec,
            /// Dtype of products and sums.
            acc: DType,
            /// Result dtype.
            out: DType,
        } => |cx| contract::conv_type(cx, spec, *acc, *out),
            |c| contract::conv(spec, c.arg(0), c.arg(1), *acc, *out, c.shape(0)?);
        /// Reduction over sliding windows of the trailing axes; padding counts as the identity.
        WindowReduce "window_" (x) Window [
            /// Sum, max, min or product.
            op: ReduceOp, window_name
        ] {
            /// Geometry, one entry a trailing axis.
            spec: WindowSpec,
        } => |cx| window::window_type(cx, *op, spec), |c| window::window(*op, spec, c.arg(0), c.shape(0)?);
        /// `out[i..] = x[perm applied]`: output axis `a` is input axis `perm[a]`.
        Permute "permute" (x) View {
            /// The permutation.
            perm: Vec<usize>,
        } => |cx| view::permute_type(cx, perm), |c| Eval::Ok(c.arg(0).permuted(perm));
        /// Same elements in row-major order under another shape.
        Reshape "reshape" (x) View {
            /// New shape.
            shape: Vec<Dim>,
        } => |cx| view::reshape_type(cx, shape), |c| view::reshape(c.arg(0), c.shape(0)?);
        /// Numpy broadcast to `shape`: aligned right, each operand axis equals the result's or is 1.
        Broadcast "broadcast" (x) View {
            /// Result shape.
            shape: Vec<Dim>,
        } => |cx| view::broadcast_type(cx, shape), |c| view::broadcast(c.arg(0), c.shape(0)?);
        /// `out[i] = x[start + i * step]` on each axis, `0 <= i < size`. Steps may be negative, never zero.
        Slice "slice" (x) View {
            /// First element taken on each axis.
            starts: Vec<Dim>,
            /// Result shape.
            sizes: Vec<Dim>,
            /// Step on each axis.
            steps: Vec<i64>,
        } => |cx| view::slice_type(cx, starts, sizes, steps),
            |c| view::slice(c.arg(0), &c.places(starts)?, c.shape(0)?, steps);
        /// Padding with a scalar (rank 0): `low` before, `high` after, `interior` between neighbours, all >= 0.
        Pad "pad" (x, value) View {
            /// Elements before, a Dim an axis.
            low: Vec<Dim>,
            /// Elements after, a Dim an axis.
            high: Vec<Dim>,
            /// Elements between two neighbours.
            interior: Vec<i64>,
        } => |cx| view::pad_type(cx, low, high, interior),
            |c| view::pad(c.arg(0), c.arg(1), &c.places(low)?, &c.places(high)?, interior, c.shape(0)?);
        /// Concatenation of one or more operands of equal dtype.
        Concat "concat" (; x..) View {
            /// Axis.
            axis: usize,
        } => |cx| view::concat_type(cx, *axis), |c| view::concat(c.args, *axis, c.shape(0)?);
        /// `out[a.., i.., c..] = x[a.., idx[i..], c..]`: the result replaces `axis` by the shape of `idx` (i32 or i64). Negative indices count from the
        /// end; others outside the axis are an error of the run on every device.
        Gather "gather" (x, idx) Gather {
            /// Axis of `x`.
            axis: usize,
        } => |cx| index::gather_type(cx, *axis), |c| index::gather(c.arg(0), c.arg(1), *axis);
        /// `out[i..] = x[i.. with i[axis] = idx[i..]]`; the result has the shape of `idx` (i32 or i64).
        GatherElements "gather_elements" (x, idx) Gather {
            /// Axis of `x`.
            axis: usize,
        } => |cx| index::gather_elements_type(cx, *axis), |c| index::gather_elements(c.arg(0), c.arg(1), *axis);
        /// ONNX GatherND: the last axis of `idx` (i32 or i64) holds coordinates into `x` after `batch_dims` shared leading axes.
        GatherNd "gather_nd" (x, idx) Gather {
            /// Shared leading axes.
            batch_dims: usize,
        } => |cx| index::gather_nd_type(cx, *batch_dims),
            |c| index::gather_nd(c.arg(0), c.arg(1), *batch_dims, c.shape(0)?);
        /// ONNX ScatterElements: copy of `x` with `x[i.. with i[axis] = idx[i..]] op= updates[i..]`.
        ScatterElements "scatter_elements" (x, idx, updates) Scatter {
            /// Axis of `x`.
            axis: usize,
            /// How an update meets the present element.
            op: ScatterOp,
        } => |cx| index::scatter_elements_type(cx, *axis, *op),
            |c| index::scatter_elements(c.arg(0), c.arg(1), c.arg(2), *axis, *op);
        /// ONNX ScatterND: copy of `x` with slices addressed by the last axis of `idx` updated.
        ScatterNd "scatter_nd" (x, idx, updates) Scatter {
            /// How an update meets the present element.
            op: ScatterOp,
        } => |cx| index::scatter_nd_type(cx, *op), |c| index::scatter_nd(c.arg(0), c.arg(1), c.arg(2), *op);
        /// Running reduction along an axis.
        Scan "scan_" (x) Sink [
            /// Sum or product (or max, min).
            op: ScanOp, scan_name
        ] {
            /// Axis.
            axis: usize,
            /// Element `i` excludes `x[i]`; the first is the identity.
            exclusive: bool,
            /// Run from the last element to the first.
            reverse: bool,
        } => |cx| reduce::scan_type(cx, *axis), |c| reduce::scan(*op, c.arg(0), *axis, *exclusive, *reverse);
        /// The `k` extreme elements along `axis` in order, and their indices (i64); ties by lower index, NaN above everything. Two results.
        TopK "topk" (x) Alone {
            /// Axis.
            axis: usize,
            /// How many.
            k: Dim,
            /// Largest first, else smallest first.
            largest: bool,
        } => |cx| reduce::topk_type(cx, *axis, k), |c| reduce::topk(c.arg(0), *axis, c.shape(0)?[*axis], *largest);
        /// `saturate(round_even(x / scale) + zero_point)`. Scale and zero point have the shape [`QuantAxes`] gives. The quotient is taken in the
        /// scale's [`DType::accumulator`] (f32 for all but f64); NaN gives 0 in an integer type. f8 is not rounded to whole numbers.
        Quantize "quantize" (x, scale, zero_point) Elementwise {
            /// Result dtype (integer or f8), equal to the zero point's.
            to: DType,
            /// How scale and zero point map onto `x`.
            axes: QuantAxes,
        } => |cx| quant::quantize_type(cx, *to, axes), |c| quant::quantize(c.arg(0), c.arg(1), c.arg(2), *to, axes);
        /// `(x - zero_point) * scale`; the result has the dtype of `scale`.
        Dequantize "dequantize" (x, scale, zero_point) Elementwise {
            /// How scale and zero point map onto `x`.
            axes: QuantAxes,
        } => |cx| quant::dequantize_type(cx, axes), |c| quant::dequantize(c.arg(0), c.arg(1), c.arg(2), axes);
        /// Runs one of two graphs, by a bool of rank 0: both graphs take the captures as inputs and agree in output types.
        If "if" (cond; captures..) Opaque {
            /// Taken when true.
            then_graph as "then": Box<Graph>,
            /// Taken when false.
            else_graph as "else": Box<Graph>,
        } => |cx| control::branch_type(cx, then_graph, else_graph),
            |c| control::branch(c.run, then_graph, else_graph, c.args);
        /// `for i in 0..trip while cond` (i64 and bool, rank 0). The body takes `(i: i64, cond: bool, carried.., captures..)` and gives
        /// `(cond, carried.., scans..)`; results are the carried values, then each scan stacked on a new leading axis.
        Loop "loop" (trip, cond; carried.., captures..) Opaque {
            /// Number of carried values.
            carried: usize,
            /// Trip count when it is known at build time; required if there are scan outputs.
            trip: Option<Dim>,
            /// The body.
            body: Box<Graph>,
        } => |cx| control::repeat_type(cx, body, *carried, trip.as_ref()),
            |c| control::repeat(c.run, body, *carried, trip.as_ref(), c.args);
    }
}

choice! {
    /// Reductions. Identity: 0, 1, lowest (`-inf`), highest (`+inf`), true, false.
    ReduceOp [reduce_name "reduce_", window_name "window_"] {
        Sum "sum",
        Prod "prod",
        /// NaN if any is.
        Max "max",
        /// NaN if any is.
        Min "min",
        /// Bool only.
        All "all",
        /// Bool only.
        Any "any",
    }
}

choice! {
    /// Which extreme an [`Op::ArgReduce`] finds.
    ArgOp [] { Max "argmax", Min "argmin", }
}

choice! {
    /// What an [`Op::Scan`] accumulates.
    ScanOp [scan_name "scan_"] { Sum "sum", Prod "prod", Max "max", Min "min", }
}

choice! {
    /// How a scattered update meets the present element. `Set` with repeated indices: the last in row-major order wins.
    ScatterOp [] { Set "set", Add "add", Mul "mul", Max "max", Min "min", }
}

/// A row of [`ops`].
#[derive(Clone, Debug)]
pub struct OpInfo {
    /// Its mnemonics: one for each function, or member of what parametrizes it.
    pub mnemonics: Vec<&'static str>,
    /// How its results depend on its operands.
    pub kind: OpKind,
    /// Names of the operands; `..` follows what may be any number.
    pub operands: &'static str,
    /// Names and Rust types of the attributes, but for what the mnemonic says.
    pub attributes: Vec<(&'static str, &'static str)>,
    /// What it means.
    pub doc: &'static str,
}

impl Op {
    /// The mnemonic, for instance `contract` or `reduce_sum`. Attributes are not part of it.
    pub const fn name(&self) -> &'static str {
        self.code().name()
    }

    /// How its results depend on its operands.
    pub const fn kind(&self) -> OpKind {
        self.code().kind()
    }

    /// Whether each element is a sum or product of any number of elements.
    pub(crate) const fn accumulates(&self) -> bool {
        match self {
            Op::Reduce { op, .. } | Op::WindowReduce { op, .. } => matches!(op, ReduceOp::Sum | ReduceOp::Prod),
            Op::Scan { op, .. } => matches!(op, ScanOp::Sum | ScanOp::Prod),
            _ => false,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for OpCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Ord for OpCode {
    fn cmp(&self, other: &OpCode) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for OpCode {
    fn partial_cmp(&self, other: &OpCode) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
