//! Elementwise float functions over registers.

use crate::math;
use crate::simd::{map1, map2};
use kiln_graph::{BinaryOp, CompareOp, UnaryOp};

macro_rules! float_ops {
    ($t:ident, $unary:ident, $binary:ident, $compare:ident, $test:ident, $exp:path, $expm1:path, $tanh:path, $erf:path, $log:path) => {
        /// `dst = op(a)`. False when the op is not defined on floats.
        pub(super) fn $unary(op: UnaryOp, dst: &mut [$t], a: &[$t]) -> bool {
            match op {
                UnaryOp::Neg => map1(dst, a, |x| -x),
                UnaryOp::Abs => map1(dst, a, |x| x.abs()),
                UnaryOp::Sign => map1(dst, a, |x| {
                    if x > 0.0 {
                        1.0
                    } else if x < 0.0 {
                        -1.0
                    } else {
                        x
                    }
                }),
                UnaryOp::Ceil => map1(dst, a, |x| x.ceil()),
                UnaryOp::Floor => map1(dst, a, |x| x.floor()),
                UnaryOp::Round => map1(dst, a, |x| x.round_ties_even()),
                UnaryOp::Sqrt => map1(dst, a, |x| x.sqrt()),
                UnaryOp::Rsqrt => map1(dst, a, |x| 1.0 / x.sqrt()),
                UnaryOp::Recip => map1(dst, a, |x| 1.0 / x),
                UnaryOp::Exp => map1(
                    dst,
                    a,
                    #[inline(always)]
                    |x| $exp(x),
                ),
                UnaryOp::Exp2 => map1(dst, a, |x| x.exp2()),
                UnaryOp::Log => map1(
                    dst,
                    a,
                    #[inline(always)]
                    |x| $log(x),
                ),
                UnaryOp::Log2 => map1(dst, a, |x| x.log2()),
                UnaryOp::Log1p => map1(dst, a, |x| x.ln_1p()),
                UnaryOp::Expm1 => map1(
                    dst,
                    a,
                    #[inline(always)]
                    |x| $expm1(x),
                ),
                UnaryOp::Sin => map1(dst, a, |x| x.sin()),
                UnaryOp::Cos => map1(dst, a, |x| x.cos()),
                UnaryOp::Tan => map1(dst, a, |x| x.tan()),
                UnaryOp::Asin => map1(dst, a, |x| x.asin()),
                UnaryOp::Acos => map1(dst, a, |x| x.acos()),
                UnaryOp::Atan => map1(dst, a, |x| x.atan()),
                UnaryOp::Sinh => map1(dst, a, |x| x.sinh()),
                UnaryOp::Cosh => map1(dst, a, |x| x.cosh()),
                UnaryOp::Tanh => map1(
                    dst,
                    a,
                    #[inline(always)]
                    |x| $tanh(x),
                ),
                UnaryOp::Erf => map1(
                    dst,
                    a,
                    #[inline(always)]
                    |x| $erf(x),
                ),
                // Functions without a form of their own are the reference's.
                _ => match op.reference() {
                    Some(f) => map1(dst, a, |x| f(f64::from(x)) as $t),
                    None => return false,
                },
            }
            true
        }

        /// `dst = a op b`. False when the op is not defined on floats.
        pub(super) fn $binary(op: BinaryOp, dst: &mut [$t], a: &[$t], b: &[$t]) -> bool {
            match op {
                BinaryOp::Add => map2(dst, a, b, |x, y| x + y),
                BinaryOp::Sub => map2(dst, a, b, |x, y| x - y),
                BinaryOp::Mul => map2(dst, a, b, |x, y| x * y),
                BinaryOp::Div => map2(dst, a, b, |x, y| x / y),
                BinaryOp::Mod => map2(dst, a, b, |x, y| {
                    let r = x % y;
                    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
                }),
                BinaryOp::Rem => map2(dst, a, b, |x, y| x % y),
                BinaryOp::Pow => map2(dst, a, b, |x, y| x.powf(y)),
                BinaryOp::Min => map2(dst, a, b, |x, y| if x < y || x.is_nan() { x } else { y }),
                BinaryOp::Max => map2(dst, a, b, |x, y| if x > y || x.is_nan() { x } else { y }),
                BinaryOp::Atan2 => map2(dst, a, b, |x, y| x.atan2(y)),
                BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Shl | BinaryOp::Shr => return false,
            }
            true
        }

        /// `dst = a op b` as 0 or 1.
        pub(super) fn $compare(op: CompareOp, dst: &mut [i32], a: &[$t], b: &[$t]) {
            match op {
                CompareOp::Eq => map2(dst, a, b, |x, y| i32::from(x == y)),
                CompareOp::Ne => map2(dst, a, b, |x, y| i32::from(x != y)),
                CompareOp::Lt => map2(dst, a, b, |x, y| i32::from(x < y)),
                CompareOp::Le => map2(dst, a, b, |x, y| i32::from(x <= y)),
                CompareOp::Gt => map2(dst, a, b, |x, y| i32::from(x > y)),
                CompareOp::Ge => map2(dst, a, b, |x, y| i32::from(x >= y)),
            }
        }

        /// `dst = isnan(a)` or `isinf(a)` as 0 or 1.
        pub(super) fn $test(op: UnaryOp, dst: &mut [i32], a: &[$t]) {
            if op == UnaryOp::IsNan {
                map1(dst, a, |x| i32::from(x.is_nan()));
            } else {
                map1(dst, a, |x| i32::from(x.abs() == $t::INFINITY));
            }
        }
    };
}

float_ops!(f32, unary_f32, binary_f32, compare_f32, test_f32, math::exp, math::expm1, math::tanh, math::erf, math::log);
float_ops!(f64, unary_f64, binary_f64, compare_f64, test_f64, f64::exp, f64::exp_m1, f64::tanh, libm::erf, f64::ln);
