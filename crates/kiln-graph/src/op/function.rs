//! The tables of elementwise functions. A row is all that a function needs to be built, imported, called by a model, typed, and evaluated by the
//! reference interpreter; what a back end computes it with is that back end's own table.

use super::choice::named;
use crate::{Builder, DType, Result, ValueId};
use serde::{Deserialize, Serialize};

/// Which dtypes an elementwise function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Integers and floats.
    Number,
    /// Floats.
    Float,
    /// Integers.
    Int,
    /// Bool and integers.
    Bits,
}

impl Domain {
    /// Whether `dtype` is one of them.
    pub fn holds(self, dtype: DType) -> bool {
        match self {
            Domain::Number => dtype != DType::Bool,
            Domain::Float => dtype.is_float(),
            Domain::Int => dtype.is_int(),
            Domain::Bits => !dtype.is_float(),
        }
    }
}

/// The first of optional expressions, in `Some`.
macro_rules! optional {
    () => {
        None
    };
    ($e:expr) => {
        Some($e)
    };
}

macro_rules! unary {
    ($(
        $(#[doc = $doc:literal])*
        $variant:ident $name:ident $mnemonic:literal $domain:ident
            $(method $method:literal)? $(onnx $($onnx:literal)|+)? $(= $reference:expr)?;
    )*) => {
        /// Elementwise functions of one operand. Float-only unless said otherwise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum UnaryOp {
            $($(#[doc = $doc])* $variant,)*
        }

        named!(UnaryOp { $($variant $mnemonic,)* });

        impl UnaryOp {
            /// The dtypes that it is defined on.
            pub const fn domain(self) -> Domain {
                match self {
                    $(UnaryOp::$variant => Domain::$domain,)*
                }
            }

            /// What it is, in a line.
            pub const fn doc(self) -> &'static str {
                match self {
                    $(UnaryOp::$variant => concat!($($doc),*).trim_ascii(),)*
                }
            }

            /// Its method in models: Rust's name for it, or else the mnemonic.
            pub fn method(self) -> &'static str {
                let own = match self {
                    $(UnaryOp::$variant => optional!($($method)?),)*
                };
                own.unwrap_or(self.name())
            }

            /// The ONNX operators that are this function and nothing else.
            pub const fn onnx(self) -> &'static [&'static str] {
                match self {
                    $(UnaryOp::$variant => &[$($($onnx),+)?],)*
                }
            }

            /// What it is on floats, before rounding to the dtype; `None` for what gives bools or is not defined on floats.
            pub fn reference(self) -> Option<fn(f64) -> f64> {
                match self {
                    $(UnaryOp::$variant => optional!($($reference)?),)*
                }
            }
        }

        /// Elementwise functions of one operand; see [`UnaryOp`].
        #[allow(missing_docs, reason = "named after the op")]
        impl Builder {
            $(pub fn $name(&mut self, x: ValueId) -> Result<ValueId> {
                self.unary(UnaryOp::$variant, x)
            })*
        }
    };
}

// Variant, builder's function, mnemonic, dtypes; then what differs: the method in models, ONNX operators, the function on floats.
unary! {
    /// `-x`; integers wrap. Also the operator `-`.
    Neg neg "neg" Number onnx "Neg" = |v| -v;
    /// Magnitude; integers wrap.
    Abs abs "abs" Number onnx "Abs" = f64::abs;
    /// -1, 0 or 1; NaN stays NaN.
    Sign sign "sign" Number onnx "Sign" = |v| if v.is_nan() || v == 0.0 { v } else { v.signum() };
    /// Rounds up.
    Ceil ceil "ceil" Float onnx "Ceil" = f64::ceil;
    /// Rounds down.
    Floor floor "floor" Float onnx "Floor" = f64::floor;
    /// Rounds to the nearest, halves to even.
    Round round "round" Float onnx "Round" = f64::round_ties_even;
    /// Square root.
    Sqrt sqrt "sqrt" Float onnx "Sqrt" = f64::sqrt;
    /// `1 / sqrt(x)`.
    Rsqrt rsqrt "rsqrt" Float = |v| 1.0 / v.sqrt();
    /// `1 / x`.
    Recip recip "recip" Float = |v| 1.0 / v;
    /// `e^x`.
    Exp exp "exp" Float onnx "Exp" = f64::exp;
    /// `2^x`.
    Exp2 exp2 "exp2" Float = f64::exp2;
    /// Natural logarithm.
    Log log "log" Float method "ln" onnx "Log" = f64::ln;
    /// Logarithm to base 2.
    Log2 log2 "log2" Float = f64::log2;
    /// `ln(1 + x)`, exact near 0.
    Log1p log1p "log1p" Float method "ln_1p" = f64::ln_1p;
    /// `e^x - 1`, exact near 0.
    Expm1 expm1 "expm1" Float method "exp_m1" = f64::exp_m1;
    /// Sine.
    Sin sin "sin" Float onnx "Sin" = f64::sin;
    /// Cosine.
    Cos cos "cos" Float onnx "Cos" = f64::cos;
    /// Tangent.
    Tan tan "tan" Float onnx "Tan" = f64::tan;
    /// Inverse sine.
    Asin asin "asin" Float onnx "Asin" = f64::asin;
    /// Inverse cosine.
    Acos acos "acos" Float onnx "Acos" = f64::acos;
    /// Inverse tangent.
    Atan atan "atan" Float onnx "Atan" = f64::atan;
    /// Hyperbolic sine.
    Sinh sinh "sinh" Float onnx "Sinh" = f64::sinh;
    /// Hyperbolic cosine.
    Cosh cosh "cosh" Float onnx "Cosh" = f64::cosh;
    /// Hyperbolic tangent.
    Tanh tanh "tanh" Float onnx "Tanh" = f64::tanh;
    /// Inverse hyperbolic sine.
    Asinh asinh "asinh" Float onnx "Asinh" = libm::asinh;
    /// Inverse hyperbolic cosine.
    Acosh acosh "acosh" Float onnx "Acosh" = libm::acosh;
    /// Inverse hyperbolic tangent.
    Atanh atanh "atanh" Float onnx "Atanh" = libm::atanh;
    /// The error function.
    Erf erf "erf" Float onnx "Erf" = libm::erf;
    /// Logical of bool, bitwise of integers. Also the operator `!`.
    Not not "not" Bits onnx "Not" | "BitwiseNot";
    /// Whether it is NaN: bool.
    IsNan is_nan "is_nan" Float onnx "IsNaN";
    /// Whether it is infinite: bool.
    IsInf is_inf "is_inf" Float method "is_infinite";
}

impl UnaryOp {
    /// The function that an ONNX operator is.
    pub fn from_onnx(operator: &str) -> Option<UnaryOp> {
        UnaryOp::ALL.iter().copied().find(|op| op.onnx().contains(&operator))
    }

    /// Whether it gives bools.
    pub const fn is_test(self) -> bool {
        matches!(self, UnaryOp::IsNan | UnaryOp::IsInf)
    }
}

macro_rules! binary {
    ($(
        $(#[doc = $doc:literal])*
        $variant:ident $name:ident $mnemonic:literal $domain:ident $(method $method:literal)?;
    )*) => {
        /// Elementwise functions of two operands of one dtype.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum BinaryOp {
            $($(#[doc = $doc])* $variant,)*
        }

        named!(BinaryOp { $($variant $mnemonic,)* });

        impl BinaryOp {
            /// The dtypes that it is defined on.
            pub const fn domain(self) -> Domain {
                match self {
                    $(BinaryOp::$variant => Domain::$domain,)*
                }
            }

            /// What it is, in a line.
            pub const fn doc(self) -> &'static str {
                match self {
                    $(BinaryOp::$variant => concat!($($doc),*).trim_ascii(),)*
                }
            }

            /// Its method in models: Rust's name for it, or else the mnemonic.
            pub fn method(self) -> &'static str {
                let own = match self {
                    $(BinaryOp::$variant => optional!($($method)?),)*
                };
                own.unwrap_or(self.name())
            }

            /// The builder's function.
            pub const fn function(self) -> &'static str {
                match self {
                    $(BinaryOp::$variant => stringify!($name),)*
                }
            }
        }

        /// Elementwise functions of two operands, broadcast; see [`BinaryOp`].
        #[allow(missing_docs, reason = "named after the op")]
        impl Builder {
            $(pub fn $name(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
                self.binary(BinaryOp::$variant, a, b)
            })*
        }
    };
}

// Variant, builder's function, mnemonic, dtypes; then the method in models where it differs.
binary! {
    /// Sum; integers wrap. Also `+`.
    Add plus "add" Number;
    /// Difference; integers wrap. Also `-`.
    Sub sub "sub" Number;
    /// Product; integers wrap. Also `*`.
    Mul mul "mul" Number;
    /// Quotient; integers truncate toward zero, and by zero are an error in the reference, 0 on a device. Also `/`.
    Div div "div" Number;
    /// Remainder with the sign of the divisor, as Python's `%`.
    Mod modulo "mod" Number method "modulo";
    /// Remainder with the sign of the dividend. Also `%`.
    Rem rem "rem" Number;
    /// Power.
    Pow pow "pow" Number method "powf";
    /// The smaller; NaN if either is.
    Min min "min" Number;
    /// The larger; NaN if either is.
    Max max "max" Number;
    /// Angle of the point (`rhs`, `x`).
    Atan2 atan2 "atan2" Float;
    /// Logical of bool, bitwise of integers. Also `&`.
    And and "and" Bits;
    /// Logical of bool, bitwise of integers. Also `|`.
    Or or "or" Bits;
    /// Logical of bool, bitwise of integers. Also `^`.
    Xor xor "xor" Bits;
    /// Integers shifted left; by the width or more gives 0.
    Shl shl "shl" Int;
    /// Integers shifted right, arithmetic where signed.
    Shr shr "shr" Int;
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

named!(CompareOp { Eq "eq", Ne "ne", Lt "lt", Le "le", Gt "gt", Ge "ge", });

impl CompareOp {
    /// What it is, in a line.
    pub const fn doc(self) -> &'static str {
        match self {
            CompareOp::Eq => "Equal; NaN is not.",
            CompareOp::Ne => "Not equal; NaN is.",
            CompareOp::Lt => "Less.",
            CompareOp::Le => "Less or equal.",
            CompareOp::Gt => "Greater.",
            CompareOp::Ge => "Greater or equal.",
        }
    }
}
