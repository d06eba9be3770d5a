//! Types and scopes of scalar expressions.

use crate::dtype::{DType, Type};
use crate::error::{Result, TileError};
use crate::expr::{BinaryOp, Expr, ExprKind, UnaryOp, Var};
use crate::program::{Access, AtomicOp, Buffer, ReduceOp};
use std::collections::{HashMap, HashSet};

/// What expressions may refer to.
#[derive(Clone, Copy)]
pub(crate) struct Scalars<'a> {
    /// The kernel's name.
    pub kernel: &'a str,
    /// Variables that are visible.
    pub scope: &'a HashSet<u32>,
    /// How tensors may be used.
    pub access: &'a HashMap<u32, Access>,
}

impl Scalars<'_> {
    pub fn invalid<T>(&self, what: String, place: &str, help: &str) -> Result<T> {
        Err(TileError::Invalid { kernel: self.kernel.to_owned(), what, place: place.to_owned(), help: help.to_owned() })
    }

    pub fn require(&self, e: &Expr, place: &str, expected: impl Into<Type>) -> Result<()> {
        let expected = expected.into();
        self.expr(e)?;
        self.types(e.ty() == expected, e.ty(), place, expected.name())
    }

    pub fn types(&self, ok: bool, found: impl Into<Type>, place: &str, expected: &str) -> Result<()> {
        if ok {
            return Ok(());
        }
        let (kernel, place, expected) = (self.kernel.to_owned(), place.to_owned(), expected.to_owned());
        Err(TileError::Type { kernel, place, found: found.into(), expected })
    }

    pub fn index(&self, buffer: &Buffer, index: &[Expr]) -> Result<()> {
        if index.len() != buffer.shape.len() {
            let what = format!("{} indices for rank {}", index.len(), buffer.shape.len());
            return self.invalid(what, &buffer.name, "give one index per dimension");
        }
        for (position, (i, extent)) in index.iter().zip(&buffer.shape).enumerate() {
            self.require(i, &format!("index {position} of `{}`", buffer.name), Type::Index)?;
            if let (Some(i), Some(extent)) = (i.as_const(), extent.as_const())
                && !(0..extent).contains(&i)
            {
                let what = format!("index {i} in dimension {position} of extent {extent}");
                return self.invalid(what, &buffer.name, "keep indices inside the shape");
            }
        }
        Ok(())
    }

    fn variable(&self, var: &Var) -> Result<()> {
        if self.scope.contains(&var.id) {
            return Ok(());
        }
        let what = format!("`{}` is used outside of where it is defined", var.name);
        self.invalid(what, &var.name, "bind it in an enclosing body, or use it inside")
    }

    pub fn expr(&self, e: &Expr) -> Result<()> {
        for operand in e.operands() {
            self.expr(operand)?;
        }
        let same = |a: &Expr, b: &Expr, place: String| self.types(a.ty() == b.ty(), b.ty(), &place, a.ty().name());
        match e.kind() {
            ExprKind::Const(_) | ExprKind::Cast(_) => Ok(()),
            ExprKind::Var(var) => self.variable(var),
            ExprKind::Unary(op, a) => {
                let ty = a.ty();
                let ok = match op {
                    UnaryOp::Not => !ty.is_float(),
                    UnaryOp::Neg | UnaryOp::Abs => ty != DType::Bool,
                    UnaryOp::Exp2Approx => ty == DType::F32,
                    _ => ty.is_float(),
                };
                let place = format!("operand of {op:?}");
                self.types(ok && ty.is_compute(), ty, &place, "a compute type it is defined on")
            }
            ExprKind::Binary(op, a, b) => {
                same(a, b, format!("right operand of {op:?}"))?;
                let ty = a.ty();
                let ok = match op {
                    BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => !ty.is_float(),
                    BinaryOp::Shl | BinaryOp::Shr => ty.is_int(),
                    BinaryOp::Pow | BinaryOp::Atan2 => ty.is_float(),
                    _ => ty != DType::Bool,
                };
                let place = format!("operand of {op:?}");
                self.types(ok && ty.is_compute(), ty, &place, "a compute type it is defined on")
            }
            ExprKind::Compare(op, a, b) => {
                same(a, b, format!("right operand of {op:?}"))?;
                let place = format!("operand of {op:?}");
                self.types(a.ty().is_compute(), a.ty(), &place, "a compute type")
            }
            ExprKind::Select(c, a, b) => {
                self.types(c.ty() == DType::Bool, c.ty(), "condition of select", "bool")?;
                same(a, b, "second value of select".to_owned())
            }
            ExprKind::Fma(a, b, c) => {
                same(a, b, "factor of fma".to_owned())?;
                same(a, c, "addend of fma".to_owned())?;
                let ok = a.ty() == DType::F32 || a.ty() == DType::F64;
                self.types(ok, a.ty(), "operand of fma", "f32 or f64")
            }
            ExprKind::Load(buffer, index) => {
                self.index(buffer, index)?;
                if self.access.get(&buffer.id) == Some(&Access::Write) {
                    let what = "load from an output".to_owned();
                    return self.invalid(what, &buffer.name, "declare it with in_out");
                }
                Ok(())
            }
        }
    }

    /// Whether an atomic is defined on the elements of a tensor.
    pub fn atomic(&self, op: AtomicOp, buffer: &Buffer) -> Result<()> {
        let dtype = buffer.dtype;
        let ok = match op {
            AtomicOp::Add => {
                matches!(dtype, DType::I32 | DType::U32 | DType::I64 | DType::U64 | DType::F32 | DType::F64)
            }
            AtomicOp::Min | AtomicOp::Max => {
                matches!(dtype, DType::I32 | DType::U32 | DType::I64 | DType::U64)
            }
        };
        self.types(ok, dtype, &buffer.name, "a type with this atomic (add: 32/64 bit; min, max: integers)")
    }

    /// Whether a reduction is defined on a type.
    pub fn reduces(&self, op: ReduceOp, ty: Type, place: &str) -> Result<()> {
        let logical = matches!(op, ReduceOp::And | ReduceOp::Or);
        let ok = if logical { !ty.is_float() } else { ty != DType::Bool };
        self.types(ok && ty.is_compute(), ty, place, "a type the reduction is defined on")
    }
}
