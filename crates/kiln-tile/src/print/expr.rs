//! Scalar expressions as text. What binds tighter needs no parentheses; a literal that is neither an index, an f32 nor a `bool` says its type.

use crate::dtype::{DType, Scalar, Type};
use crate::expr::{BinaryOp, CompareOp, Expr, ExprKind, Var};
use crate::program::Buffer;
use std::fmt::{self, Display, Formatter};

/// What variables and tensors are called in a text.
pub trait Names {
    /// The name of a variable.
    fn var(&self, var: &Var) -> String;
    /// The name of a tensor.
    fn tensor(&self, buffer: &Buffer) -> String;
}

/// Names for messages: a variable is followed by its number.
struct Numbered;

impl Names for Numbered {
    fn var(&self, var: &Var) -> String {
        format!("{}.{}", var.name, var.id)
    }

    fn tensor(&self, buffer: &Buffer) -> String {
        buffer.name.clone()
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self, &Numbered))
    }
}

/// Operators between their operands, with how tightly they bind; those alike group to the left.
pub const INFIX: [(BinaryOp, &str, u8); 10] = [
    (BinaryOp::Or, "|", 2),
    (BinaryOp::Xor, "^", 3),
    (BinaryOp::And, "&", 4),
    (BinaryOp::Shl, "<<", 5),
    (BinaryOp::Shr, ">>", 5),
    (BinaryOp::Add, "+", 6),
    (BinaryOp::Sub, "-", 6),
    (BinaryOp::Mul, "*", 7),
    (BinaryOp::Div, "/", 7),
    (BinaryOp::Rem, "%", 7),
];

/// Functions of two values that are called by name.
pub const CALLED: [(BinaryOp, &str); 4] =
    [(BinaryOp::Min, "min"), (BinaryOp::Max, "max"), (BinaryOp::Pow, "pow"), (BinaryOp::Atan2, "atan2")];

/// Comparisons; they bind least, and none groups with another.
pub const COMPARE: [(CompareOp, &str); 6] = [
    (CompareOp::Eq, "=="),
    (CompareOp::Ne, "!="),
    (CompareOp::Lt, "<"),
    (CompareOp::Le, "<="),
    (CompareOp::Gt, ">"),
    (CompareOp::Ge, ">="),
];

/// How tightly comparisons bind.
pub const COMPARED: u8 = 1;

/// How tightly a name or a call binds.
const ATOM: u8 = 8;

/// The expression as text.
pub fn text(e: &Expr, names: &dyn Names) -> String {
    let mut out = String::new();
    write(&mut out, e, names, 0);
    out
}

/// Expressions as text, with commas between.
pub fn list<'a>(exprs: impl IntoIterator<Item = &'a Expr>, names: &dyn Names) -> String {
    exprs.into_iter().map(|e| text(e, names)).collect::<Vec<_>>().join(", ")
}

fn binds(e: &Expr) -> u8 {
    match e.kind() {
        ExprKind::Binary(op, ..) => INFIX.iter().find(|row| row.0 == *op).map_or(ATOM, |row| row.2),
        ExprKind::Compare(..) => COMPARED,
        _ => ATOM,
    }
}

/// Writes `e`, in parentheses if it binds less tightly than `least`.
fn write(out: &mut String, e: &Expr, names: &dyn Names, least: u8) {
    let own = binds(e);
    if own < least {
        out.push('(');
        write(out, e, names, 0);
        out.push(')');
        return;
    }
    let infix = |out: &mut String, a: &Expr, sign: &str, b: &Expr, left: u8| {
        write(out, a, names, left);
        out.push(' ');
        out.push_str(sign);
        out.push(' ');
        write(out, b, names, own + 1);
    };
    let call = |out: &mut String, function: &str, args: &[&Expr]| {
        out.push_str(function);
        out.push('(');
        for (i, arg) in args.iter().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            write(out, arg, names, 0);
        }
        out.push(')');
    };
    match e.kind() {
        ExprKind::Const(value) => out.push_str(&literal(e.ty(), *value)),
        ExprKind::Var(var) => out.push_str(&names.var(var)),
        ExprKind::Unary(op, x) => call(out, op.name(), &[x]),
        ExprKind::Binary(op, a, b) => match INFIX.iter().find(|row| row.0 == *op) {
            Some((_, sign, _)) => infix(out, a, sign, b, own),
            None => {
                let function = CALLED.iter().find(|row| row.0 == *op).map_or("?", |row| row.1);
                call(out, function, &[a, b]);
            }
        },
        ExprKind::Compare(op, a, b) => {
            let sign = COMPARE.iter().find(|row| row.0 == *op).map_or("?", |row| row.1);
            infix(out, a, sign, b, own + 1);
        }
        ExprKind::Select(c, a, b) => call(out, "select", &[c, a, b]),
        ExprKind::Fma(a, b, c) => call(out, "fma", &[a, b, c]),
        ExprKind::Cast(x) => call(out, e.ty().name(), &[x]),
        ExprKind::Load(buffer, index) => {
            out.push_str(&format!("{}[{}]", names.tensor(buffer), list(index, names)));
        }
    }
}

/// A literal that reads back to the same bits (of a NaN, to its sign).
fn literal(ty: Type, value: Scalar) -> String {
    match (ty, value) {
        (Type::Element(DType::Bool), Scalar::Int(x)) => (x != 0).to_string(),
        (Type::Index, Scalar::Int(x)) => x.to_string(),
        (_, Scalar::Int(x)) => format!("{x}{ty}"),
        (_, Scalar::Float(x)) if !x.is_finite() => {
            let sign = if x.is_sign_negative() { "-" } else { "" };
            let word = if x.is_nan() { "nan" } else { "inf" };
            if ty == DType::F32 { format!("{sign}{word}") } else { format!("{sign}{word}_{ty}") }
        }
        (Type::Element(DType::F32), Scalar::Float(x)) => format!("{:?}", x as f32),
        (_, Scalar::Float(x)) => format!("{x:?}{ty}"),
    }
}

/// What `inf`, `nan`, `inf_f16`.. say: the value and its type.
pub fn special(word: &str) -> Option<(f64, DType)> {
    let (value, rest) = match (word.strip_prefix("inf"), word.strip_prefix("nan")) {
        (Some(rest), _) => (f64::INFINITY, rest),
        (_, Some(rest)) => (f64::NAN, rest),
        _ => return None,
    };
    let dtype = if rest.is_empty() { DType::F32 } else { rest.strip_prefix('_')?.parse().ok()? };
    dtype.is_float().then_some((value, dtype))
}
