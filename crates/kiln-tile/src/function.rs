//! The table of functions of one value: a row is all that the tile level knows of one, but for those few whose C is no call.

use crate::expr::Expr;
use crate::math::erf;
use serde::{Deserialize, Serialize};

/// The C function: named after the mnemonic unless the row says otherwise.
macro_rules! c_name {
    ($name:ident) => {
        stringify!($name)
    };
    ($name:ident $c:literal) => {
        $c
    };
}

macro_rules! unary {
    ($($(#[doc = $doc:literal])* $variant:ident $name:ident $(c $c:literal)? = $reference:expr;)*) => {
        /// Function of one value. Floats unless said otherwise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[allow(missing_docs)] // each variant is the function of its name
        pub enum UnaryOp {
            $($(#[doc = $doc])* $variant,)*
        }

        impl UnaryOp {
            /// Every function.
            pub const ALL: &[UnaryOp] = &[$(UnaryOp::$variant),*];

            /// Its mnemonic.
            pub const fn name(self) -> &'static str {
                match self {
                    $(UnaryOp::$variant => stringify!($name),)*
                }
            }

            /// The function of this mnemonic.
            pub fn from_name(name: &str) -> Option<UnaryOp> {
                match name {
                    $(stringify!($name) => Some(UnaryOp::$variant),)*
                    _ => None,
                }
            }

            /// CUDA's function on f64; that on f32 has an `f` at the end.
            pub const fn c_name(self) -> &'static str {
                match self {
                    $(UnaryOp::$variant => c_name!($name $($c)?),)*
                }
            }

            /// What it is on floats, before rounding to their type.
            pub fn reference(self) -> fn(f64) -> f64 {
                match self {
                    $(UnaryOp::$variant => $reference,)*
                }
            }
        }

        /// Functions of one value; see [`UnaryOp`].
        #[allow(missing_docs)] // each is the function of its name
        impl Expr {
            $($(#[doc = $doc])* pub fn $name(&self) -> Expr {
                self.unary(UnaryOp::$variant)
            })*
        }
    };
}

// Variant, mnemonic, C function where it has another name, the function on floats.
unary! {
    /// Negation; integers too.
    Neg neg = |x| -x;
    /// Absolute value; integers too.
    Abs abs c "fabs" = f64::abs;
    /// Logical not of a `Bool`, bitwise not of an integer; the verifier lets no float reach it.
    Not not = |x| x;
    /// e to the power of the value.
    Exp exp = f64::exp;
    /// 2 to the power of the value.
    Exp2 exp2 = f64::exp2;
    /// 2 to the power of an f32 in one instruction, right to 2^-22 of the result; what is below 2^-126 is 0.
    Exp2Approx exp2_approx = f64::exp2;
    /// One less than [`Expr::exp`].
    Expm1 expm1 = f64::exp_m1;
    /// Natural logarithm.
    Log log = f64::ln;
    Log2 log2 = f64::log2;
    /// Natural logarithm of one more than the value.
    Log1p log1p = f64::ln_1p;
    Sqrt sqrt = f64::sqrt;
    /// One over the square root.
    Rsqrt rsqrt = |x| 1.0 / x.sqrt();
    Sin sin = f64::sin;
    Cos cos = f64::cos;
    Tan tan = f64::tan;
    Asin asin = f64::asin;
    Acos acos = f64::acos;
    Atan atan = f64::atan;
    Sinh sinh = f64::sinh;
    Cosh cosh = f64::cosh;
    Tanh tanh = f64::tanh;
    Asinh asinh = f64::asinh;
    Acosh acosh = f64::acosh;
    Atanh atanh = f64::atanh;
    /// The error function.
    Erf erf = erf;
    Floor floor = f64::floor;
    Ceil ceil = f64::ceil;
    Trunc trunc = f64::trunc;
    /// To the nearest integer, ties to even.
    Round round c "rint" = f64::round_ties_even;
    /// `Bool`: whether the value is NaN.
    IsNan is_nan c "isnan" = |x| x;
    /// `Bool`: whether the value is an infinity.
    IsInf is_inf c "isinf" = |x| x;
}
