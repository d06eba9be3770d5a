//! Scalar expressions.

use super::Lower;
use crate::dtype::{self, DType, Type};
use crate::error::{Result, TileError};
use crate::expr::{BinaryOp, Expr, ExprKind, UnaryOp};
use crate::program::Buffer;
use crate::threads::{self as t, Binary, Function, Scalar, Unary};

impl t::Expr {
    /// An index in 32 or 64 bits; other types stay what they are.
    pub(super) fn cast_index(self, to: Scalar) -> t::Expr {
        let index = |of: Scalar| matches!(of, Scalar::I32 | Scalar::I64);
        if index(self.scalar()) && index(to) { self.cast(to) } else { self }
    }
}

impl Lower<'_> {
    /// Lowers `e`; an index has 32 bits where that is provably enough.
    pub(super) fn expr(&mut self, e: &Expr) -> Result<t::Expr> {
        let ty = e.ty();
        match e.kind() {
            ExprKind::Const(value) => Ok(literal(*value, ty)),
            ExprKind::Var(var) => match self.vars.get(&var.id) {
                Some(value) => Ok(value.clone()),
                None => Err(self.internal(format!("`{}` has no value here", var.name))),
            },
            ExprKind::Unary(op, a) => {
                let x = self.expr(a)?;
                Ok(unary(*op, a.ty(), x))
            }
            ExprKind::Binary(op, a, b) => {
                let (mut x, y) = (self.expr(a)?, self.expr(b)?);
                if ty != Type::Index {
                    return Ok(binary(*op, ty, x, y));
                }
                let wide = |e: &t::Expr| e.scalar() == Scalar::I64;
                let mut y = y;
                if !wide(&x) && !wide(&y) && !self.facts.range(e).fits_int() {
                    x = x.cast(Scalar::I64);
                }
                if wide(&x) != wide(&y) {
                    (x, y) = (x.cast(Scalar::I64), y.cast(Scalar::I64));
                }
                Ok(binary(*op, ty, x, y))
            }
            ExprKind::Compare(op, a, b) => {
                let (x, y) = (self.expr(a)?, self.expr(b)?);
                Ok(x.compare(*op, y))
            }
            ExprKind::Select(c, a, b) => {
                let (c, mut x, mut y) = (self.expr(c)?, self.expr(a)?, self.expr(b)?);
                if ty == Type::Index && x.ty() != y.ty() {
                    (x, y) = (x.cast(Scalar::I64), y.cast(Scalar::I64));
                }
                Ok(c.select(x, y))
            }
            ExprKind::Fma(a, b, c) => {
                let args = [self.expr(a)?, self.expr(b)?, self.expr(c)?];
                Ok(t::Expr::call(Function::Fma, args))
            }
            ExprKind::Cast(a) => {
                let x = self.expr(a)?;
                self.convert_scalar(x, a.ty(), ty)
            }
            ExprKind::Load(buffer, index) => self.element(buffer, index),
        }
    }

    /// A condition or another scalar that has been got ready, or else an element by its address.
    fn element(&mut self, buffer: &Buffer, index: &[Expr]) -> Result<t::Expr> {
        let key = (buffer.id, index.to_vec());
        let prepared = match self.prepared.get(&key) {
            Some(prepared) => prepared.clone(),
            None => self.address(buffer, index, &[])?,
        };
        if let Some((vector, lane)) = &prepared.vector {
            let lane = self.expr(lane)?;
            return Ok(vector.at(lane));
        }
        let inner = self.expr(&prepared.inner)?;
        Ok(self.load_one(buffer, prepared.pointer, inner))
    }

    /// One element of a tensor.
    pub(super) fn load_one(&self, buffer: &Buffer, pointer: t::Expr, index: t::Expr) -> t::Expr {
        match buffer.dtype {
            DType::I4 | DType::U4 => t::Expr::LoadInt4 {
                pointer: Box::new(pointer),
                index: Box::new(index),
                signed: buffer.dtype == DType::I4,
            },
            _ => t::Expr::load(pointer, index),
        }
    }

    /// Converts a value of type `from` to `to`.
    fn convert_scalar(&self, x: t::Expr, from: Type, to: Type) -> Result<t::Expr> {
        if x.scalar().is_small_float() {
            let single = t::Expr::call(Function::ToF32, [x]);
            return if to == DType::F32 { Ok(single) } else { self.convert_scalar(single, DType::F32.into(), to) };
        }
        let own = Scalar::of(to, false);
        if own.is_small_float() {
            // What f32 does not hold must not be rounded twice. Integers that it does not hold overflow all but bf16.
            let wide = from == DType::F64 || to == DType::BF16 && from.is_int() && from.bits() > 16;
            let single = if wide { t::Expr::call(Function::OddF32, [x]) } else { x.cast(Scalar::F32) };
            return Ok(t::Expr::call(Function::Round(own), [single]));
        }
        Ok(match to {
            Type::Element(DType::Bool) => {
                let zero = t::Expr::zero(x.scalar());
                x.compare(crate::expr::CompareOp::Ne, zero)
            }
            Type::Element(DType::I4 | DType::U4) => {
                return Err(TileError::Unsupported {
                    kernel: self.program.name.clone(),
                    arch: self.arch,
                    what: format!("a cast to {to}"),
                    help: "clamp and pack two values into a u8".to_owned(),
                });
            }
            Type::Index => match x.scalar() {
                // What is narrower than 32 bits fits.
                of if of.is_float() || of.bytes() > 4 || of == Scalar::U32 => x.cast(Scalar::I64),
                _ => x.cast(Scalar::I32),
            },
            _ if from.is_float() && to.is_int() && to.bits() < 32 => x.cast(Scalar::I32).cast(own),
            _ => x.cast(own),
        })
    }
}

/// A function of one value of type `ty`.
fn unary(op: UnaryOp, ty: Type, x: t::Expr) -> t::Expr {
    match op {
        UnaryOp::Neg => x.unary(Unary::Neg),
        UnaryOp::Not if ty == DType::Bool => x.unary(Unary::Not),
        UnaryOp::Not => x.unary(Unary::BitNot),
        op => t::Expr::call(Function::Math(op), [x]),
    }
}

/// A function of two values of type `ty`.
pub(super) fn binary(op: BinaryOp, ty: Type, x: t::Expr, y: t::Expr) -> t::Expr {
    let bool = ty == DType::Bool;
    let operator = match op {
        BinaryOp::Add => Binary::Add,
        BinaryOp::Sub => Binary::Sub,
        BinaryOp::Mul => Binary::Mul,
        BinaryOp::Div => Binary::Div,
        BinaryOp::Rem if ty.is_float() => return t::Expr::call(Function::Fmod, [x, y]),
        BinaryOp::Rem => Binary::Rem,
        BinaryOp::Min => return t::Expr::call(Function::Min, [x, y]),
        BinaryOp::Max => return t::Expr::call(Function::Max, [x, y]),
        BinaryOp::Pow => return t::Expr::call(Function::Pow, [x, y]),
        BinaryOp::Atan2 => return t::Expr::call(Function::Atan2, [x, y]),
        BinaryOp::And if bool => return x.and(y),
        BinaryOp::Or if bool => Binary::LogicalOr,
        BinaryOp::And => Binary::And,
        BinaryOp::Or => Binary::Or,
        BinaryOp::Xor => Binary::Xor,
        BinaryOp::Shl => Binary::Shl,
        BinaryOp::Shr => Binary::Shr,
    };
    if ty == Type::Index { x.op(operator, y) } else { t::Expr::Binary(operator, Box::new(x), Box::new(y)) }
}

/// A literal of type `ty`.
pub(super) fn literal(value: dtype::Scalar, ty: Type) -> t::Expr {
    let of = Scalar::of(ty, false);
    match value {
        dtype::Scalar::Int(x) if ty == Type::Index => {
            let wide = x < i128::from(i32::MIN) || x > i128::from(i32::MAX);
            t::Expr::Int(x, Scalar::of(ty, wide))
        }
        value if of.is_float() => t::Expr::Float(value.as_f64(), of),
        value => t::Expr::Int(value.as_i128(), of),
    }
}
