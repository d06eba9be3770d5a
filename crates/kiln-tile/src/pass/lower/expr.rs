//! Lowers scalar expressions to C.

use super::Lower;
use crate::dtype::{DType, Scalar, Type};
use crate::error::{Result, TileError};
use crate::expr::{BinaryOp, CompareOp, Expr, ExprKind, UnaryOp};
use crate::pass::layout::FragmentLayout;
use crate::pass::layout::tiled::SharedLayout;
use crate::pass::simplify::simplify_div_mod;
use crate::print::prelude::Helper;
use crate::program::{Buffer, Scope};
use crate::thread::{CExpr, CType};
use kiln_num::float_to_bits;

/// A C expression with its type.
pub type Value = (CExpr, CType);

impl Lower<'_> {
    /// Lowers `e`.
    pub fn expr(&mut self, e: &Expr) -> Result<CExpr> {
        Ok(self.value(e)?.0)
    }

    /// Lowers `e` and tells the C type, which for an index depends on its range.
    pub fn value(&mut self, e: &Expr) -> Result<Value> {
        let ty = e.ty();
        let own = CType::of(ty, false);
        match e.kind() {
            ExprKind::Const(value) => {
                self.helpers.extend(small_float(ty));
                Ok(literal(*value, ty))
            }
            ExprKind::Var(var) => match self.vars.get(&var.id) {
                Some(value) => Ok(value.clone()),
                None => Err(self.internal(format!("`{}` has no C name", var.name))),
            },
            ExprKind::Unary(op, a) => {
                let (x, operand) = self.value(a)?;
                let result = if ty == DType::Bool { CType::Bool } else { operand };
                Ok((self.unary(*op, a.ty(), x), result))
            }
            ExprKind::Binary(op, a, b) if ty == Type::Index => self.index_binary(e, *op, a, b),
            ExprKind::Binary(op, a, b) => {
                let (x, y) = (self.expr(a)?, self.expr(b)?);
                Ok((self.binary(*op, ty, x, y), own))
            }
            ExprKind::Compare(op, a, b) => {
                let op = match op {
                    CompareOp::Eq => "==",
                    CompareOp::Ne => "!=",
                    CompareOp::Lt => "<",
                    CompareOp::Le => "<=",
                    CompareOp::Gt => ">",
                    CompareOp::Ge => ">=",
                };
                let (x, y) = (self.expr(a)?, self.expr(b)?);
                Ok((CExpr::Binary(op, Box::new(x), Box::new(y)), CType::Bool))
            }
            ExprKind::Select(c, a, b) => {
                let c = self.expr(c)?;
                let ((x, tx), (y, ty)) = (self.value(a)?, self.value(b)?);
                let ty = if tx == CType::Long { tx } else { ty };
                Ok((CExpr::Ternary(Box::new(c), Box::new(x), Box::new(y)), ty))
            }
            ExprKind::Fma(a, b, c) => {
                let name = if ty == DType::F32 { "fmaf" } else { "fma" };
                let args = [self.expr(a)?, self.expr(b)?, self.expr(c)?];
                Ok((CExpr::call(name, args), own))
            }
            ExprKind::Cast(a) => {
                let value = self.value(a)?;
                self.cast(value, a.ty(), ty)
            }
            ExprKind::Load(buffer, index) => {
                let element = self.load(buffer, index)?;
                Ok((element, own))
            }
        }
    }

    fn index_binary(&mut self, e: &Expr, op: BinaryOp, a: &Expr, b: &Expr) -> Result<Value> {
        let (mut x, tx) = self.value(a)?;
        let (mut y, ty) = self.value(b)?;
        let mut wide = tx == CType::Long || ty == CType::Long;
        if !wide && !self.facts.range(e).fits_int() {
            x = widen(x);
            wide = true;
        } else if wide && matches!(op, BinaryOp::Min | BinaryOp::Max) {
            // The two overloads of min and max do not mix.
            if tx == CType::Int {
                x = widen(x);
            }
            if ty == CType::Int {
                y = widen(y);
            }
        }
        Ok((self.binary(op, Type::Index, x, y), if wide { CType::Long } else { CType::Int }))
    }

    /// Position of an element in its buffer, in 32 bits where that is provably enough.
    pub fn offset(&mut self, buffer: &Buffer, index: &[Expr]) -> Result<CExpr> {
        if let (Some(SharedLayout::Swizzled { cols }), [row, col]) = (self.layouts.shared(buffer), index) {
            self.helpers.insert(Helper::Swizzle);
            let args = [self.expr(row)?, self.expr(col)?];
            return Ok(CExpr::call(format!("swizzled<{cols}>"), args));
        }
        let offset = simplify_div_mod(&self.facts, &self.layouts.offset(buffer, index));
        self.expr(&offset)
    }

    fn load(&mut self, buffer: &Buffer, index: &[Expr]) -> Result<CExpr> {
        if let Some(hoisted) = self.hoisted(buffer, index)? {
            return Ok(hoisted);
        }
        let place = self.place(buffer, index)?;
        match (buffer.dtype, place) {
            (DType::I4 | DType::U4, CExpr::Index(base, offset)) => {
                self.helpers.insert(Helper::Int4);
                let name = if buffer.dtype == DType::I4 { "load_i4" } else { "load_u4" };
                Ok(CExpr::call(name, [*base, *offset]))
            }
            (_, place) => Ok(place),
        }
    }

    /// The C lvalue of an element.
    pub fn place(&mut self, buffer: &Buffer, index: &[Expr]) -> Result<CExpr> {
        let base = CExpr::name(self.buffer_name(buffer));
        if buffer.scope == Scope::Fragment && self.layouts.fragment(buffer) != FragmentLayout::ThreadLocal {
            let by_row = matches!(self.layouts.fragment(buffer), FragmentLayout::Slice(_));
            return match if by_row { self.row_registers.clone() } else { self.register_index() } {
                Some(registers) => Ok(registers.into_iter().fold(base, CExpr::at)),
                None => Err(self.internal(format!("`{}` is used outside of a loop over it", buffer.name))),
            };
        }
        Ok(base.at(self.offset(buffer, index)?))
    }

    fn unary(&mut self, op: UnaryOp, ty: Type, x: CExpr) -> CExpr {
        match op {
            UnaryOp::Neg => return CExpr::Unary("-", Box::new(x)),
            UnaryOp::Not if ty == DType::Bool => return CExpr::Unary("!", Box::new(x)),
            UnaryOp::Not => return CExpr::Unary("~", Box::new(x)),
            UnaryOp::Abs if ty.element().is_none_or(|dtype| !dtype.is_float()) => {
                return match ty.element() {
                    Some(DType::U32 | DType::U64) => x,
                    Some(DType::I64) => CExpr::call("llabs", [x]),
                    _ => CExpr::call("abs", [x]),
                };
            }
            UnaryOp::Exp2Approx => {
                self.helpers.insert(Helper::Exp2Approx);
                return CExpr::call(op.c_name(), [x]);
            }
            // CUDA has these for both types under one name.
            UnaryOp::IsNan | UnaryOp::IsInf => return CExpr::call(op.c_name(), [x]),
            _ => {}
        }
        let name = op.c_name();
        CExpr::call(if ty == DType::F32 { format!("{name}f") } else { name.to_owned() }, [x])
    }

    /// Lowers a function of two values of type `ty`.
    pub fn binary(&mut self, op: BinaryOp, ty: Type, x: CExpr, y: CExpr) -> CExpr {
        let float = ty.is_float();
        let single = |name: &str| if ty == DType::F32 { format!("{name}f") } else { name.to_owned() };
        let operator = match op {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Rem if float => return CExpr::call(single("fmod"), [x, y]),
            BinaryOp::Rem => "%",
            BinaryOp::Min | BinaryOp::Max => {
                if float {
                    self.helpers.insert(Helper::MinMax);
                }
                let least = op == BinaryOp::Min;
                let name = match (float, least) {
                    (true, true) => "min_of",
                    (true, false) => "max_of",
                    (false, true) => "min",
                    (false, false) => "max",
                };
                return CExpr::call(name, [x, y]);
            }
            BinaryOp::Pow => return CExpr::call(single("pow"), [x, y]),
            BinaryOp::Atan2 => return CExpr::call(single("atan2"), [x, y]),
            BinaryOp::And if ty == DType::Bool => "&&",
            BinaryOp::Or if ty == DType::Bool => "||",
            BinaryOp::Xor if ty == DType::Bool => "!=",
            BinaryOp::And => "&",
            BinaryOp::Or => "|",
            BinaryOp::Xor => "^",
            BinaryOp::Shl => "<<",
            BinaryOp::Shr => ">>",
        };
        if ty == Type::Index { x.op(operator, y) } else { CExpr::Binary(operator, Box::new(x), Box::new(y)) }
    }

    /// Converts a value of type `from` to `to`.
    pub fn cast(&mut self, (x, ty): Value, from: impl Into<Type>, to: impl Into<Type>) -> Result<Value> {
        let (from, to) = (from.into(), to.into());
        let convert = |x: CExpr, from: CType, to: CType| {
            if from == to { x } else { CExpr::Cast(to, Box::new(x)) }
        };
        if let Some(helper) = small_float(from) {
            self.helpers.insert(helper);
            let single = CExpr::call("to_f32", [x]);
            return if to == DType::F32 {
                Ok((single, CType::Float))
            } else {
                self.cast((single, CType::Float), DType::F32, to)
            };
        }
        if let Some(helper) = small_float(to) {
            self.helpers.insert(helper);
            // What f32 does not hold must not be rounded twice. Integers that it does not hold overflow all but bf16.
            let wide = from == DType::F64 || to == DType::BF16 && from.is_int() && from.bits() > 16;
            let single = if wide {
                self.helpers.insert(Helper::OddF32);
                CExpr::call("odd_f32", [x])
            } else {
                convert(x, ty, CType::Float)
            };
            let own = CType::of(to, false);
            return Ok((CExpr::call(format!("to_{}", own.name()), [single]), own));
        }
        let value = match to {
            Type::Element(DType::Bool) => {
                let zero = literal(if from.is_float() { Scalar::Float(0.0) } else { Scalar::Int(0) }, from).0;
                (CExpr::Binary("!=", Box::new(x), Box::new(zero)), CType::Bool)
            }
            Type::Element(DType::I4 | DType::U4) => {
                return Err(TileError::Unsupported {
                    kernel: self.program.name.clone(),
                    arch: self.arch,
                    what: format!("a cast to {to}"),
                    help: "clamp and pack two values into a u8".to_owned(),
                });
            }
            Type::Index => match ty {
                // C promotes what is narrower than int.
                CType::Char | CType::UChar | CType::Short | CType::UShort | CType::Int | CType::Bool => (x, CType::Int),
                ty => (convert(x, ty, CType::Long), CType::Long),
            },
            _ if from.is_float() && to.is_int() && to.bits() < 32 => {
                let own = CType::of(to, false);
                (convert(convert(x, ty, CType::Int), CType::Int, own), own)
            }
            to => {
                let own = CType::of(to, false);
                (convert(x, ty, own), own)
            }
        };
        Ok(value)
    }
}

/// The prelude type that holds a small float.
pub fn small_float(ty: impl Into<Type>) -> Option<Helper> {
    match ty.into().element()? {
        DType::F16 => Some(Helper::F16),
        DType::BF16 => Some(Helper::Bf16),
        DType::F8E4M3 => Some(Helper::E4m3),
        DType::F8E5M2 => Some(Helper::E5m2),
        _ => None,
    }
}

/// `x` as a `long long`.
fn widen(x: CExpr) -> CExpr {
    match x {
        CExpr::Int(value, _) => CExpr::Int(value, CType::Long),
        x => CExpr::Cast(CType::Long, Box::new(x)),
    }
}

/// A literal of type `ty`.
pub fn literal(value: Scalar, ty: impl Into<Type>) -> Value {
    let Type::Element(dtype) = ty.into() else {
        let x = value.as_i128();
        let wide = x < i128::from(i32::MIN) || x > i128::from(i32::MAX);
        let ty = CType::of(Type::Index, wide);
        return (CExpr::Int(x, ty), ty);
    };
    let ty = CType::of(dtype, false);
    match dtype {
        DType::Bool => (CExpr::Bool(value.as_i128() != 0), CType::Bool),
        DType::F32 | DType::F64 => (CExpr::Float(value.as_f64(), ty), ty),
        _ if dtype.is_float() => {
            let bits = float_to_bits(dtype, value.as_f64(), true);
            // Brace initialisation of the prelude's struct.
            (CExpr::Name(format!("{}{{{bits:#x}}}", ty.name())), ty)
        }
        _ => (CExpr::Int(value.as_i128(), ty), ty),
    }
}
