//! Short names of the primitives, used by messages, the text form and Graphviz.

use crate::{ArgOp, BinaryOp, CompareOp, Op, ReduceOp, ScanOp, ScatterOp, UnaryOp};
use std::fmt;

macro_rules! mnemonics {
    ($ty:ident { $($variant:ident => $name:literal),* $(,)? }) => {
        impl $ty {
            /// Every member.
            pub const ALL: &[$ty] = &[$($ty::$variant),*];

            /// The lower-case mnemonic.
            pub const fn name(self) -> &'static str {
                match self {
                    $($ty::$variant => $name),*
                }
            }

            /// The member with that mnemonic.
            pub fn from_name(name: &str) -> Option<$ty> {
                match name {
                    $($name => Some($ty::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

mnemonics!(UnaryOp {
    Neg => "neg", Abs => "abs", Sign => "sign", Ceil => "ceil", Floor => "floor", Round => "round", Sqrt => "sqrt",
    Rsqrt => "rsqrt", Recip => "recip", Exp => "exp", Exp2 => "exp2", Log => "log", Log2 => "log2", Log1p => "log1p",
    Expm1 => "expm1", Sin => "sin", Cos => "cos", Tan => "tan", Asin => "asin", Acos => "acos", Atan => "atan",
    Sinh => "sinh", Cosh => "cosh", Tanh => "tanh", Asinh => "asinh", Acosh => "acosh", Atanh => "atanh", Erf => "erf",
    Not => "not", IsNan => "is_nan", IsInf => "is_inf",
});

mnemonics!(BinaryOp {
    Add => "add", Sub => "sub", Mul => "mul", Div => "div", Mod => "mod", Rem => "rem", Pow => "pow", Min => "min",
    Max => "max", Atan2 => "atan2", And => "and", Or => "or", Xor => "xor", Shl => "shl", Shr => "shr",
});

mnemonics!(CompareOp { Eq => "eq", Ne => "ne", Lt => "lt", Le => "le", Gt => "gt", Ge => "ge" });
mnemonics!(ReduceOp { Sum => "sum", Prod => "prod", Max => "max", Min => "min", All => "all", Any => "any" });
mnemonics!(ArgOp { Max => "argmax", Min => "argmin" });
mnemonics!(ScanOp { Sum => "sum", Prod => "prod", Max => "max", Min => "min" });
mnemonics!(ScatterOp { Set => "set", Add => "add", Mul => "mul", Max => "max", Min => "min" });

impl Op {
    /// The mnemonic, for instance `contract` or `reduce_sum`. Attributes are not part of it.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Input { .. } => "input",
            Op::Weight { .. } => "weight",
            Op::Const { .. } => "const",
            Op::Iota { .. } => "iota",
            Op::DimValue { .. } => "dim",
            Op::Unary(op) => op.name(),
            Op::Binary(op) => op.name(),
            Op::Compare(op) => op.name(),
            Op::Select => "select",
            Op::Cast { .. } => "cast",
            Op::Reduce { op, .. } => match op {
                ReduceOp::Sum => "reduce_sum",
                ReduceOp::Prod => "reduce_prod",
                ReduceOp::Max => "reduce_max",
                ReduceOp::Min => "reduce_min",
                ReduceOp::All => "reduce_all",
                ReduceOp::Any => "reduce_any",
            },
            Op::ArgReduce { op, .. } => op.name(),
            Op::Contract { .. } => "contract",
            Op::Conv { .. } => "conv",
            Op::WindowReduce { op, .. } => match op {
                ReduceOp::Sum => "window_sum",
                ReduceOp::Prod => "window_prod",
                ReduceOp::Max => "window_max",
                ReduceOp::Min => "window_min",
                ReduceOp::All => "window_all",
                ReduceOp::Any => "window_any",
            },
            Op::Permute { .. } => "permute",
            Op::Reshape { .. } => "reshape",
            Op::Broadcast { .. } => "broadcast",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::Concat { .. } => "concat",
            Op::Gather { .. } => "gather",
            Op::GatherElements { .. } => "gather_elements",
            Op::GatherNd { .. } => "gather_nd",
            Op::ScatterElements { .. } => "scatter_elements",
            Op::ScatterNd { .. } => "scatter_nd",
            Op::Scan { op, .. } => match op {
                ScanOp::Sum => "scan_sum",
                ScanOp::Prod => "scan_prod",
                ScanOp::Max => "scan_max",
                ScanOp::Min => "scan_min",
            },
            Op::TopK { .. } => "topk",
            Op::Quantize { .. } => "quantize",
            Op::Dequantize { .. } => "dequantize",
            Op::If { .. } => "if",
            Op::Loop { .. } => "loop",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
