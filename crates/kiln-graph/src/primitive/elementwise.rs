//! Elementwise ops, on operands of equal shape, and casts.

use crate::infer::Cx;
use crate::interp::array::{Array, Data, Eval, store, wide, with_data};
use crate::number::{float_to_int, int_to_float, round_to};
use crate::{BinaryOp, CompareOp, DType, Domain, Result, TensorType, UnaryOp};

pub(crate) fn unary_type(cx: &Cx, op: UnaryOp) -> Result<TensorType> {
    let x = cx.inputs[0];
    if !op.domain().holds(x.dtype) {
        let wanted = match op.domain() {
            Domain::Number => "a number",
            Domain::Float => "a float",
            Domain::Int => "an integer",
            Domain::Bits => "bool or an integer",
        };
        return cx.fail(format!("needs {wanted}, found {x}"));
    }
    let dtype = if op.is_test() { DType::Bool } else { x.dtype };
    Ok(TensorType { dtype, shape: x.shape.clone() })
}

pub(crate) fn binary_type(cx: &mut Cx, op: BinaryOp) -> Result<TensorType> {
    pair(cx)?;
    let a = cx.inputs[0];
    if !op.domain().holds(a.dtype) {
        let wanted = match op.domain() {
            Domain::Number => "numbers",
            Domain::Float => "floats",
            Domain::Int => "integers",
            Domain::Bits => "bools or integers",
        };
        return cx.fail(format!("needs {wanted}, found {a}"));
    }
    Ok(a.clone())
}

pub(crate) fn compare_type(cx: &mut Cx, op: CompareOp) -> Result<TensorType> {
    pair(cx)?;
    let a = cx.inputs[0];
    if a.dtype == DType::Bool && !matches!(op, CompareOp::Eq | CompareOp::Ne) {
        return cx.fail(format!("bools have no order, found {a}"));
    }
    Ok(TensorType { dtype: DType::Bool, shape: a.shape.clone() })
}

pub(crate) fn cast_type(cx: &Cx, to: DType) -> Result<TensorType> {
    Ok(TensorType { dtype: to, shape: cx.inputs[0].shape.clone() })
}

pub(crate) fn select_type(cx: &mut Cx) -> Result<TensorType> {
    let [cond, a, b] = [cx.inputs[0], cx.inputs[1], cx.inputs[2]];
    cx.dtype(cond, DType::Bool, "the condition")?;
    cx.dtype(b, a.dtype, "the second branch")?;
    cx.same_shape(a, b, "branches")?;
    cx.same_shape(a, cond, "branches and condition")?;
    Ok(a.clone())
}

/// Two operands of one dtype and shape.
fn pair(cx: &mut Cx) -> Result<()> {
    let (a, b) = (cx.inputs[0], cx.inputs[1]);
    if a.dtype != b.dtype {
        return cx.fail(format!("operands must have one dtype, found {a} and {b}; insert a cast"));
    }
    cx.same_shape(a, b, "operands")
}

pub(crate) fn unary(op: UnaryOp, x: &Array) -> Eval<Array> {
    let shape = x.shape.clone();
    match x.data.as_ref() {
        Data::Float(v) => {
            if op.is_test() {
                let test = |v: &f64| i64::from(if op == UnaryOp::IsNan { v.is_nan() } else { v.is_infinite() });
                return Ok(Array::new(DType::Bool, shape, Data::Int(v.iter().map(test).collect())));
            }
            let f = op.reference().ok_or_else(|| format!("`{op}` is not defined on {}", x.dtype))?;
            Ok(Array::rounded(x.dtype, shape, v.iter().map(|&v| f(v)).collect()))
        }
        Data::Int(v) => {
            let dtype = x.dtype;
            let f: fn(i128) -> i128 = match op {
                UnaryOp::Neg => |v| -v,
                UnaryOp::Abs => i128::abs,
                UnaryOp::Sign => i128::signum,
                UnaryOp::Not if dtype == DType::Bool => |v| 1 - v,
                UnaryOp::Not => |v| !v,
                _ => return Err(format!("`{op}` is not defined on {dtype}")),
            };
            Ok(Array::new(dtype, shape, Data::Int(v.iter().map(|&v| store(dtype, f(wide(dtype, v)))).collect())))
        }
    }
}

pub(crate) fn binary(op: BinaryOp, a: &Array, b: &Array) -> Eval<Array> {
    same_shape(a, b)?;
    let (dtype, shape) = (a.dtype, a.shape.clone());
    match (a.data.as_ref(), b.data.as_ref()) {
        (Data::Float(x), Data::Float(y)) => {
            let f: fn(f64, f64) -> f64 = match op {
                BinaryOp::Add => |a, b| a + b,
                BinaryOp::Sub => |a, b| a - b,
                BinaryOp::Mul => |a, b| a * b,
                BinaryOp::Div => |a, b| a / b,
                BinaryOp::Rem => |a, b| a % b,
                BinaryOp::Mod => |a, b| {
                    let r = a % b;
                    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
                },
                BinaryOp::Pow => f64::powf,
                BinaryOp::Min => min,
                BinaryOp::Max => max,
                BinaryOp::Atan2 => f64::atan2,
                _ => return Err(format!("`{op}` is not defined on {dtype}")),
            };
            Ok(Array::rounded(dtype, shape, x.iter().zip(y).map(|(&a, &b)| f(a, b)).collect()))
        }
        (Data::Int(x), Data::Int(y)) => {
            let f = |(&a, &b): (&i64, &i64)| integer(op, dtype, wide(dtype, a), wide(dtype, b));
            let values = x.iter().zip(y).map(|p| f(p).map(|v| store(dtype, v))).collect::<Eval<Vec<i64>>>()?;
            Ok(Array::new(dtype, shape, Data::Int(values)))
        }
        _ => Err(format!("operands differ in kind, {} and {}", a.dtype, b.dtype)),
    }
}

/// The exact result before it wraps to `dtype`.
fn integer(op: BinaryOp, dtype: DType, a: i128, b: i128) -> Eval<i128> {
    let bits = i128::from(dtype.bits());
    Ok(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a.wrapping_mul(b), // u64 squared needs 128 bits, and only the low 64 count
        BinaryOp::Div | BinaryOp::Mod | BinaryOp::Rem if b == 0 => return Err("integer division by zero".into()),
        BinaryOp::Div => a / b,
        BinaryOp::Rem => a % b,
        BinaryOp::Mod => (a % b + b) % b,
        BinaryOp::Pow => power(a, b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Max => a.max(b),
        BinaryOp::And => a & b,
        BinaryOp::Or => a | b,
        BinaryOp::Xor => a ^ b,
        BinaryOp::Shl | BinaryOp::Shr if !(0..bits).contains(&b) => 0,
        BinaryOp::Shl => a.wrapping_shl(b as u32),
        BinaryOp::Shr => a >> b,
        BinaryOp::Atan2 => return Err(format!("`{op}` is not defined on {dtype}")),
    })
}

/// `a^b` modulo 2^128; a negative power truncates toward zero.
fn power(a: i128, b: i128) -> i128 {
    match (a, b) {
        (1, _) => 1,
        (-1, _) => 1 - 2 * (b & 1),
        (_, b) if b < 0 => 0,
        _ => {
            let (mut result, mut base, mut left) = (1i128, a, b);
            while left > 0 {
                if left & 1 == 1 {
                    result = result.wrapping_mul(base);
                }
                base = base.wrapping_mul(base);
                left >>= 1;
            }
            result
        }
    }
}

/// The smaller; NaN if either is.
pub(crate) fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

/// The larger; NaN if either is.
pub(crate) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

pub(crate) fn compare(op: CompareOp, a: &Array, b: &Array) -> Eval<Array> {
    same_shape(a, b)?;
    fn all<T: PartialOrd>(op: CompareOp, a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> Vec<i64> {
        a.zip(b)
            .map(|(a, b)| {
                i64::from(match op {
                    CompareOp::Eq => a == b,
                    CompareOp::Ne => a != b,
                    CompareOp::Lt => a < b,
                    CompareOp::Le => a <= b,
                    CompareOp::Gt => a > b,
                    CompareOp::Ge => a >= b,
                })
            })
            .collect()
    }
    let values = match (a.data.as_ref(), b.data.as_ref()) {
        (Data::Float(x), Data::Float(y)) => all(op, x.iter(), y.iter()),
        (Data::Int(x), Data::Int(y)) => {
            all(op, x.iter().map(|&v| wide(a.dtype, v)), y.iter().map(|&v| wide(b.dtype, v)))
        }
        _ => return Err(format!("operands differ in kind, {} and {}", a.dtype, b.dtype)),
    };
    Ok(Array::new(DType::Bool, a.shape.clone(), Data::Int(values)))
}

pub(crate) fn select(cond: &Array, a: &Array, b: &Array) -> Eval<Array> {
    same_shape(cond, a)?;
    same_shape(cond, b)?;
    fn pick<T: Copy>(cond: &[i64], a: &[T], b: &[T]) -> Vec<T> {
        cond.iter().zip(a.iter().zip(b)).map(|(&c, (&a, &b))| if c != 0 { a } else { b }).collect()
    }
    let cond = cond.ints()?;
    let data = match (a.data.as_ref(), b.data.as_ref()) {
        (Data::Float(x), Data::Float(y)) => Data::Float(pick(cond, x, y)),
        (Data::Int(x), Data::Int(y)) => Data::Int(pick(cond, x, y)),
        _ => return Err(format!("branches differ in kind, {} and {}", a.dtype, b.dtype)),
    };
    Ok(Array::new(a.dtype, a.shape.clone(), data))
}

pub(crate) fn cast(x: &Array, to: DType, saturate: bool) -> Array {
    let data = match x.data.as_ref() {
        Data::Float(v) if to.is_float() => Data::Float(v.iter().map(|&v| round_to(to, v, saturate)).collect()),
        Data::Float(v) => Data::Int(v.iter().map(|&v| float_to_int(to, v) as i64).collect()),
        Data::Int(v) if to.is_float() => {
            Data::Float(v.iter().map(|&v| int_to_float(to, wide(x.dtype, v), saturate)).collect())
        }
        Data::Int(v) => Data::Int(v.iter().map(|&v| store(to, wide(x.dtype, v))).collect()),
    };
    Array::new(to, x.shape.clone(), data)
}

fn same_shape(a: &Array, b: &Array) -> Eval<()> {
    if a.shape == b.shape {
        return Ok(());
    }
    Err(format!("operands must have equal shapes, found {:?} and {:?}", a.shape, b.shape))
}

/// One element repeated.
pub(crate) fn fill(value: &Array, count: usize) -> Eval<Data> {
    if value.len() != 1 {
        return Err(format!("expected a scalar, found {:?}", value.shape));
    }
    Ok(with_data!(value.data.as_ref(), v => vec![v[0]; count]))
}
