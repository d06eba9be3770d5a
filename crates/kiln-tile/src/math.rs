//! What scalar functions mean: the interpreter's arithmetic. Floats are computed in f64 and rounded once to the type of
//! the result; integers are exact and wrap.

use crate::dtype::{DType, Scalar, Type, wrap};
use crate::expr::{BinaryOp, CompareOp, UnaryOp};

/// Applies a function of one value of type `ty`.
pub fn unary(op: UnaryOp, ty: Type, x: Scalar) -> Scalar {
    match x {
        Scalar::Int(x) => Scalar::Int(match op {
            UnaryOp::Neg => wrap(-x, ty),
            UnaryOp::Abs => wrap(x.abs(), ty),
            UnaryOp::Not if ty == DType::Bool => 1 - x,
            UnaryOp::Not => wrap(!x, ty),
            _ => x,
        }),
        Scalar::Float(x) => match op {
            UnaryOp::IsNan => Scalar::Int(x.is_nan().into()),
            UnaryOp::IsInf => Scalar::Int(x.is_infinite().into()),
            _ => Scalar::Float(op.reference()(x)).cast(ty),
        },
    }
}

/// Applies a function of two values of type `ty`; `None` where there is no result (integer division by zero).
pub fn binary(op: BinaryOp, ty: Type, x: Scalar, y: Scalar) -> Option<Scalar> {
    if let (Scalar::Int(x), Scalar::Int(y)) = (x, y) {
        let shift = |y: i128| u32::try_from(y).ok().filter(|&y| y < ty.bits());
        let value = match op {
            BinaryOp::Add => x + y,
            BinaryOp::Sub => x - y,
            BinaryOp::Mul => x.wrapping_mul(y),
            BinaryOp::Div => x.checked_div(y)?,
            BinaryOp::Rem => x.checked_rem(y)?,
            BinaryOp::Min => x.min(y),
            BinaryOp::Max => x.max(y),
            BinaryOp::And => x & y,
            BinaryOp::Or => x | y,
            BinaryOp::Xor => x ^ y,
            BinaryOp::Shl => x << shift(y)?,
            BinaryOp::Shr => x >> shift(y)?,
            BinaryOp::Pow | BinaryOp::Atan2 => return None,
        };
        return Some(Scalar::Int(wrap(value, ty)));
    }
    let (x, y) = (x.as_f64(), y.as_f64());
    let value = match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x * y,
        BinaryOp::Div => x / y,
        BinaryOp::Rem => x % y,
        BinaryOp::Min if x.is_nan() || y.is_nan() => f64::NAN,
        BinaryOp::Max if x.is_nan() || y.is_nan() => f64::NAN,
        BinaryOp::Min => x.min(y),
        BinaryOp::Max => x.max(y),
        BinaryOp::Pow => x.powf(y),
        BinaryOp::Atan2 => x.atan2(y),
        _ => return None,
    };
    Some(Scalar::Float(value).cast(ty))
}

/// Compares two values of one type.
pub fn compare(op: CompareOp, x: Scalar, y: Scalar) -> bool {
    let ordering = match (x, y) {
        (Scalar::Int(x), Scalar::Int(y)) => Some(x.cmp(&y)),
        (x, y) => x.as_f64().partial_cmp(&y.as_f64()),
    };
    match (op, ordering) {
        (CompareOp::Ne, None) => true,
        (_, None) => false,
        (CompareOp::Eq, Some(o)) => o.is_eq(),
        (CompareOp::Ne, Some(o)) => o.is_ne(),
        (CompareOp::Lt, Some(o)) => o.is_lt(),
        (CompareOp::Le, Some(o)) => o.is_le(),
        (CompareOp::Gt, Some(o)) => o.is_gt(),
        (CompareOp::Ge, Some(o)) => o.is_ge(),
    }
}

/// The error function to within a few units in the last place: a series of positive terms near zero, the continued
/// fraction of `erfc` away from it (Abramowitz and Stegun 7.1.6 and 7.1.14).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if x.is_nan() {
        return x;
    }
    if a > 6.0 {
        return x.signum();
    }
    let magnitude = if a < 2.5 {
        let mut term = a;
        let mut sum = a;
        let mut n = 1.0;
        while term > sum * 1e-17 {
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        sum * (-a * a).exp() * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=60).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    magnitude.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in [
            (0.1, 0.1124629160182849),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (2.0, 0.9953222650189527),
            (2.6, 0.9997639655834707),
            (3.5, 0.9999992569016276),
        ] {
            assert!((erf(x) - expected).abs() < 2e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(f64::INFINITY), 1.0);
        assert_eq!(erf(0.0), 0.0);
    }

    #[test]
    fn nan_spreads_through_min_and_max() {
        let nan = Scalar::Float(f64::NAN);
        for op in [BinaryOp::Min, BinaryOp::Max] {
            for (x, y) in [(nan, Scalar::Float(1.0)), (Scalar::Float(1.0), nan)] {
                let Some(Scalar::Float(z)) = binary(op, DType::F32.into(), x, y) else { panic!() };
                assert!(z.is_nan());
            }
        }
        assert_eq!(binary(BinaryOp::Div, DType::I32.into(), Scalar::Int(1), Scalar::Int(0)), None);
    }
}
