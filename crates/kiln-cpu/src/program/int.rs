//! Elementwise integer functions over registers. Results are wrapped to the declared dtype afterwards.

use crate::simd::{map1, map2};
use kiln_graph::{BinaryOp, CompareOp, DType, UnaryOp};

macro_rules! int_ops {
    ($t:ident, $u:ident, $unary:ident, $binary:ident, $compare:ident) => {
        /// `dst = op(a)`. False when the op is not defined on integers.
        pub(super) fn $unary(op: UnaryOp, dtype: DType, dst: &mut [$t], a: &[$t]) -> bool {
            match op {
                UnaryOp::Neg => map1(dst, a, |x| x.wrapping_neg()),
                UnaryOp::Abs if dtype == DType::U64 => dst.copy_from_slice(a),
                UnaryOp::Abs => map1(dst, a, |x| x.wrapping_abs()),
                UnaryOp::Sign if dtype == DType::U64 => map1(dst, a, |x| $t::from(x != 0)),
                UnaryOp::Sign => map1(dst, a, |x| x.signum()),
                UnaryOp::Not if dtype == DType::Bool => map1(dst, a, |x| x ^ 1),
                UnaryOp::Not => map1(dst, a, |x| !x),
                _ => return false,
            }
            true
        }

        /// `dst = a op b`; division by zero gives 0. False when the op is not defined on integers.
        pub(super) fn $binary(op: BinaryOp, dtype: DType, dst: &mut [$t], a: &[$t], b: &[$t]) -> bool {
            let unsigned = dtype == DType::U64;
            let bits = u64::from(dtype.bits());
            match op {
                BinaryOp::Add => map2(dst, a, b, |x, y| x.wrapping_add(y)),
                BinaryOp::Sub => map2(dst, a, b, |x, y| x.wrapping_sub(y)),
                BinaryOp::Mul => map2(dst, a, b, |x, y| x.wrapping_mul(y)),
                BinaryOp::Div if unsigned => {
                    map2(dst, a, b, |x, y| (x as $u).checked_div(y as $u).unwrap_or(0) as $t);
                }
                BinaryOp::Div => map2(dst, a, b, |x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
                BinaryOp::Mod | BinaryOp::Rem if unsigned => {
                    map2(dst, a, b, |x, y| (x as $u).checked_rem(y as $u).unwrap_or(0) as $t);
                }
                BinaryOp::Mod => map2(dst, a, b, |x, y| {
                    if y == 0 {
                        return 0;
                    }
                    let r = x.wrapping_rem(y);
                    if r != 0 && (r < 0) != (y < 0) { r + y } else { r }
                }),
                BinaryOp::Rem => map2(dst, a, b, |x, y| if y == 0 { 0 } else { x.wrapping_rem(y) }),
                BinaryOp::Pow => map2(dst, a, b, |x, y| pow(x as i64, y as i64, unsigned) as $t),
                BinaryOp::Min if unsigned => map2(dst, a, b, |x, y| (x as $u).min(y as $u) as $t),
                BinaryOp::Min => map2(dst, a, b, |x, y| x.min(y)),
                BinaryOp::Max if unsigned => map2(dst, a, b, |x, y| (x as $u).max(y as $u) as $t),
                BinaryOp::Max => map2(dst, a, b, |x, y| x.max(y)),
                BinaryOp::And => map2(dst, a, b, |x, y| x & y),
                BinaryOp::Or => map2(dst, a, b, |x, y| x | y),
                BinaryOp::Xor => map2(dst, a, b, |x, y| x ^ y),
                BinaryOp::Shl => {
                    map2(dst, a, b, |x, y| if (y as u64) < bits { x.wrapping_shl(y as u32) } else { 0 });
                }
                BinaryOp::Shr if unsigned => {
                    map2(dst, a, b, |x, y| if (y as u64) < bits { (x as $u).wrapping_shr(y as u32) as $t } else { 0 });
                }
                BinaryOp::Shr => {
                    map2(dst, a, b, |x, y| if (y as u64) < bits { x.wrapping_shr(y as u32) } else { 0 });
                }
                BinaryOp::Atan2 => return false,
            }
            true
        }

        /// `dst = a op b` as 0 or 1.
        pub(super) fn $compare(op: CompareOp, dtype: DType, dst: &mut [i32], a: &[$t], b: &[$t]) {
            // Flipping the top bit orders unsigned values as signed ones.
            let flip = if dtype == DType::U64 { $t::MIN } else { 0 };
            match op {
                CompareOp::Eq => map2(dst, a, b, |x, y| i32::from(x == y)),
                CompareOp::Ne => map2(dst, a, b, |x, y| i32::from(x != y)),
                CompareOp::Lt => map2(dst, a, b, |x, y| i32::from((x ^ flip) < (y ^ flip))),
                CompareOp::Le => map2(dst, a, b, |x, y| i32::from((x ^ flip) <= (y ^ flip))),
                CompareOp::Gt => map2(dst, a, b, |x, y| i32::from((x ^ flip) > (y ^ flip))),
                CompareOp::Ge => map2(dst, a, b, |x, y| i32::from((x ^ flip) >= (y ^ flip))),
            }
        }
    };
}

int_ops!(i32, u32, unary_i32, binary_i32, compare_i32);
int_ops!(i64, u64, unary_i64, binary_i64, compare_i64);

/// Wrapping integer power; a negative exponent truncates the exact result toward zero.
fn pow(base: i64, exponent: i64, unsigned: bool) -> i64 {
    if exponent < 0 && !unsigned {
        return match base {
            1 => 1,
            -1 if exponent % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    let (mut result, mut square, mut e) = (1i64, base, exponent as u64);
    while e > 0 {
        if e & 1 == 1 {
            result = result.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        e >>= 1;
    }
    result
}
