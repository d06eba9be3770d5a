//! Reads scalar expressions. Nothing is folded: what is written is what is made.

use super::lex::Token;
use super::parse::{Named, Parser};
use crate::dtype::{DType, Scalar, Type};
use crate::error::Result;
use crate::expr::{BinaryOp, CompareOp, Expr, ExprKind, UnaryOp};
use crate::print::expr::{CALLED, COMPARE, COMPARED, INFIX, special};

/// How many operations may be inside of each other; a long sum is deep too.
const DEEPEST: usize = 500;

enum Operator {
    Binary(BinaryOp),
    Compare(CompareOp),
}

impl<'s> Parser<'s> {
    /// An expression.
    pub fn expr(&mut self) -> Result<Expr> {
        Ok(self.operation(0)?.0)
    }

    /// Operators that bind at least as tightly as `least`, and how deep the expression is.
    fn operation(&mut self, least: u8) -> Result<(Expr, usize)> {
        let (mut left, mut depth) = self.deeper(Parser::operand)?;
        let mut compared = false;
        while let Some((operator, own)) = self.operator().filter(|(_, own)| *own >= least) {
            if own == COMPARED && compared {
                return self.fail("parentheses around the first comparison");
            }
            compared = own == COMPARED;
            self.at += 1;
            let (right, below) = self.operation(own + 1)?;
            depth = depth.max(below) + 1;
            if depth > DEEPEST {
                return self.fail("a shorter expression");
            }
            left = match operator {
                Operator::Binary(op) => Expr::new(left.ty(), ExprKind::Binary(op, left, right)),
                Operator::Compare(op) => Expr::new(DType::Bool, ExprKind::Compare(op, left, right)),
            };
        }
        Ok((left, depth))
    }

    fn operator(&self) -> Option<(Operator, u8)> {
        let Token::Sign(sign) = self.peek() else { return None };
        let binary = INFIX.iter().find(|row| row.1 == sign).map(|row| (Operator::Binary(row.0), row.2));
        binary.or_else(|| COMPARE.iter().find(|row| row.1 == sign).map(|row| (Operator::Compare(row.0), COMPARED)))
    }

    fn operand(&mut self) -> Result<(Expr, usize)> {
        if self.eat("(") {
            let inner = self.operation(0)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let start = self.at;
        let negative = self.eat("-");
        match self.peek() {
            Token::Number { digits, suffix } => {
                let Some(value) = number(digits, suffix, negative) else {
                    return self.fail_at(start, "a literal that its type holds, such as 3, 0.5, 3i32 or 0.5f16");
                };
                self.at += 1;
                Ok((value, 1))
            }
            Token::Word(word) if special(word).is_some() && self.lookup(word).is_none() => {
                let Some((value, dtype)) = special(word) else { return self.fail("a literal") };
                self.at += 1;
                let value = if negative { -value } else { value };
                Ok((Expr::new(dtype, ExprKind::Const(Scalar::Float(value))), 1))
            }
            _ if negative => self.fail("a number after `-`; `neg(x)` is for what is no literal"),
            Token::Word(word @ ("true" | "false")) => {
                self.at += 1;
                Ok((Expr::bool(word == "true"), 1))
            }
            Token::Word(word) if self.peek_at(1) == Token::Sign("(") => {
                self.at += 1;
                self.call(start, word)
            }
            Token::Word(word) => {
                let named = self.lookup(word).cloned();
                match named {
                    Some(Named::Var(var, _)) => {
                        self.at += 1;
                        Ok((Expr::var(&var), 1))
                    }
                    Some(Named::Tensor(buffer)) => {
                        self.at += 1;
                        let (index, depth) = self.operands("[", "]")?;
                        Ok((Expr::new(buffer.dtype, ExprKind::Load(buffer, index)), depth))
                    }
                    _ => self.fail("a variable or a tensor that is defined here"),
                }
            }
            _ => self.fail("an expression"),
        }
    }

    /// Expressions in brackets, and how deep an operation on them is.
    fn operands(&mut self, open: &str, close: &str) -> Result<(Vec<Expr>, usize)> {
        let operands = self.list(open, close, |p| p.operation(0))?;
        let depth = 1 + operands.iter().map(|operand| operand.1).max().unwrap_or(0);
        if depth > DEEPEST {
            return self.fail("a shorter expression");
        }
        Ok((operands.into_iter().map(|operand| operand.0).collect(), depth))
    }

    /// A call of the function at token `at`.
    fn call(&mut self, at: usize, function: &str) -> Result<(Expr, usize)> {
        let (args, depth) = self.operands("(", ")")?;
        let ty: Option<Type> =
            if function == "index" { Some(Type::Index) } else { function.parse().ok().map(Type::Element) };
        let binary = CALLED.iter().find(|row| row.1 == function).map(|row| row.0);
        let e = match (&args[..], ty, UnaryOp::from_name(function), binary, function) {
            ([x], Some(ty), ..) => Expr::new(ty, ExprKind::Cast(x.clone())),
            ([x], _, Some(op), ..) => x.unary(op),
            ([a, b], _, _, Some(op), _) => Expr::new(a.ty(), ExprKind::Binary(op, a.clone(), b.clone())),
            ([c, a, b], _, _, _, "select") => Expr::new(a.ty(), ExprKind::Select(c.clone(), a.clone(), b.clone())),
            ([a, b, c], _, _, _, "fma") => Expr::new(a.ty(), ExprKind::Fma(a.clone(), b.clone(), c.clone())),
            _ => {
                let count = args.len();
                return self.fail_at(at, &format!("a type or a function of {count} values"));
            }
        };
        Ok((e, depth))
    }
}

/// A literal; `None` if its type does not have that value.
fn number(digits: &str, suffix: &str, negative: bool) -> Option<Expr> {
    let ty: Type = match suffix {
        "" if digits.contains(['.', 'e']) => DType::F32.into(),
        "" => Type::Index,
        _ => suffix.parse::<DType>().ok()?.into(),
    };
    let sign = if negative { "-" } else { "" };
    let text = format!("{sign}{digits}");
    if ty.is_float() {
        // Read at once to f32: by way of f64 it could be rounded twice.
        let value = if ty == DType::F32 { text.parse::<f32>().ok()?.into() } else { text.parse::<f64>().ok()? };
        let e = Expr::float(ty, value);
        return matches!(e.kind(), ExprKind::Const(Scalar::Float(x)) if x.is_finite()).then_some(e);
    }
    let value: i128 = text.parse().ok()?;
    let (low, high) = ty.int_range()?;
    (low..=high).contains(&value).then(|| Expr::wide_int(ty, value))
}
