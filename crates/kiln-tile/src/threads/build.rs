//! Makes expressions: their types, and arithmetic of indices that is folded as it is written.

use super::{Binary, Block, Expr, Function, Place, Scalar, Space, Special, Stmt, Ty, Unary, Var};
use crate::expr::{CompareOp, UnaryOp};

impl Expr {
    /// A 32-bit literal.
    pub fn int(value: impl Into<i128>) -> Expr {
        Expr::Int(value.into(), Scalar::I32)
    }

    /// Zero of a type.
    pub fn zero(of: Scalar) -> Expr {
        if of.is_float() { Expr::Float(0.0, of) } else { Expr::Int(0, of) }
    }

    /// `true` or `false`.
    pub fn bool(value: bool) -> Expr {
        Expr::Int(value.into(), Scalar::Bool)
    }

    /// Number of the thread in the CTA, with a sign like all indices.
    pub fn thread() -> Expr {
        Expr::Cast(Scalar::I32, Box::new(Expr::Special(Special::Thread)))
    }

    /// Its type.
    pub fn ty(&self) -> Ty {
        match self {
            Expr::Int(_, of) | Expr::Float(_, of) | Expr::Cast(of, _) => Ty::Scalar(*of),
            Expr::Var(var) => var.ty(),
            Expr::Element(var, _) => Ty::Scalar(var.ty().element()),
            Expr::Special(_) | Expr::SharedAddress(_) => Ty::Scalar(Scalar::U32),
            Expr::GlobalAddress(..) => Ty::Scalar(Scalar::U64),
            Expr::Unary(_, a) => a.ty(),
            Expr::Binary(_, a, b) if b.scalar() == Scalar::I64 => {
                if a.scalar() == Scalar::U64 {
                    a.ty()
                } else {
                    b.ty()
                }
            }
            Expr::Binary(_, a, _) => a.ty(),
            Expr::Compare(..) => Ty::Scalar(Scalar::Bool),
            Expr::Select(_, a, b) => {
                if b.scalar() == Scalar::I64 {
                    b.ty()
                } else {
                    a.ty()
                }
            }
            Expr::Call(function, args) => {
                let first = args.first().map_or(Ty::Scalar(Scalar::U32), Expr::ty);
                match function {
                    Function::Math(UnaryOp::IsNan | UnaryOp::IsInf) => Ty::Scalar(Scalar::Bool),
                    Function::ToF32 | Function::OddF32 => Ty::Scalar(Scalar::F32),
                    Function::Round(to) | Function::FromBits(to) | Function::ClusterLoad(to) => Ty::Scalar(*to),
                    Function::RoundPair(_) | Function::Pack | Function::RoundTf32(_) => Ty::Scalar(Scalar::U32),
                    Function::Bits => Ty::Scalar(match (first, first.element().bytes()) {
                        (Ty::Vector(..), _) | (_, 4) => Scalar::U32,
                        (_, 1) => Scalar::U8,
                        (_, 2) => Scalar::U16,
                        _ => Scalar::U64,
                    }),
                    _ => first,
                }
            }
            Expr::Load { pointer, lanes, .. } => match (pointer.scalar(), lanes) {
                (of, 1) => Ty::Scalar(of),
                (of, lanes) => Ty::Vector(of, *lanes),
            },
            Expr::LoadInt4 { signed, .. } => Ty::Scalar(if *signed { Scalar::I8 } else { Scalar::U8 }),
            Expr::SharedPointer { to, .. } => Ty::Pointer { to: *to, space: Space::Shared, constant: false },
        }
    }

    /// The type of its elements.
    pub fn scalar(&self) -> Scalar {
        self.ty().element()
    }

    /// Its value if it is an integer literal.
    pub fn as_int(&self) -> Option<i128> {
        if let Expr::Int(value, _) = self { Some(*value) } else { None }
    }

    /// Converts an integer or a float that C can convert.
    pub fn cast(self, to: Scalar) -> Expr {
        match self {
            same if same.ty() == Ty::Scalar(to) => same,
            Expr::Int(value, _) if matches!(to, Scalar::I32 | Scalar::I64) => Expr::Int(value, to),
            other => Expr::Cast(to, Box::new(other)),
        }
    }

    /// An operator; sums, products and quotients of integers with 0 and 1 are folded, and what literals give.
    pub fn op(self, op: Binary, rhs: Expr) -> Expr {
        let wide = |kept: Expr, lost: &Expr| if lost.scalar() == Scalar::I64 { kept.cast(Scalar::I64) } else { kept };
        let index = matches!(self.scalar(), Scalar::I32 | Scalar::I64 | Scalar::U32);
        match (op, self.as_int(), rhs.as_int()) {
            _ if !index => {}
            (Binary::Add, Some(0), _) | (Binary::Mul, Some(1), _) => return wide(rhs, &self),
            (Binary::Add | Binary::Sub, _, Some(0)) | (Binary::Mul | Binary::Div, _, Some(1)) => {
                return wide(self, &rhs);
            }
            (Binary::Mul, Some(0), _) | (Binary::Mul, _, Some(0)) | (Binary::Rem, _, Some(1)) => {
                return Expr::Int(0, if rhs.scalar() == Scalar::I64 { Scalar::I64 } else { self.scalar() });
            }
            (Binary::Add, Some(a), Some(b)) => return Expr::Int(a + b, self.scalar()),
            (Binary::Mul, Some(a), Some(b)) => return Expr::Int(a * b, self.scalar()),
            _ => {}
        }
        Expr::Binary(op, Box::new(self), Box::new(rhs))
    }

    /// `self + rhs`
    pub fn plus(self, rhs: Expr) -> Expr {
        self.op(Binary::Add, rhs)
    }

    /// `self * rhs`
    pub fn times(self, rhs: Expr) -> Expr {
        self.op(Binary::Mul, rhs)
    }

    /// `self / rhs`
    pub fn over(self, rhs: Expr) -> Expr {
        self.op(Binary::Div, rhs)
    }

    /// `self % rhs`
    pub fn modulo(self, rhs: Expr) -> Expr {
        self.op(Binary::Rem, rhs)
    }

    /// Whether both hold; a literal is folded.
    pub fn and(self, rhs: Expr) -> Expr {
        match (self.as_int(), rhs.as_int()) {
            (Some(0), _) | (_, Some(1)) => self,
            (Some(_), _) | (_, Some(0)) => rhs,
            _ => Expr::Binary(Binary::LogicalAnd, Box::new(self), Box::new(rhs)),
        }
    }

    /// A comparison.
    pub fn compare(self, op: CompareOp, rhs: Expr) -> Expr {
        Expr::Compare(op, Box::new(self), Box::new(rhs))
    }

    /// `self == rhs`
    pub fn equals(self, rhs: Expr) -> Expr {
        self.compare(CompareOp::Eq, rhs)
    }

    /// `self ? then : otherwise`
    pub fn select(self, then: Expr, otherwise: Expr) -> Expr {
        Expr::Select(Box::new(self), Box::new(then), Box::new(otherwise))
    }

    /// An operator on one number.
    pub fn unary(self, op: Unary) -> Expr {
        Expr::Unary(op, Box::new(self))
    }

    /// A function.
    pub fn call(function: Function, args: impl IntoIterator<Item = Expr>) -> Expr {
        Expr::Call(function, args.into_iter().collect())
    }

    /// One element at `pointer + index`.
    pub fn load(pointer: Expr, index: Expr) -> Expr {
        Expr::load_lanes(pointer, index, 1)
    }

    /// `lanes` neighbours at `pointer + index`.
    pub fn load_lanes(pointer: Expr, index: Expr, lanes: u32) -> Expr {
        Expr::Load { pointer: Box::new(pointer), index: Box::new(index), lanes }
    }
}

impl From<&Var> for Expr {
    fn from(var: &Var) -> Expr {
        Expr::Var(var.clone())
    }
}

impl Var {
    /// An element of the array or vector.
    pub fn at(&self, index: Expr) -> Expr {
        Expr::Element(self.clone(), Box::new(index))
    }

    /// An element of the array or vector, to be assigned to.
    pub fn place(&self, index: Expr) -> Place {
        Place::Element(self.clone(), index)
    }
}

impl Stmt {
    /// Names a value.
    pub fn constant(var: &Var, value: Expr) -> Stmt {
        Stmt::Declare { var: var.clone(), value: Some(value), constant: true }
    }

    /// Declares a variable without a value, or an array.
    pub fn declare(var: &Var) -> Stmt {
        Stmt::Declare { var: var.clone(), value: None, constant: false }
    }

    /// Repeats `body` for `var` from 0 to `extent`, unrolled.
    pub fn unrolled(var: &Var, extent: u32, body: Block) -> Stmt {
        let (start, end, step) = (Expr::int(0), Expr::int(extent), Expr::int(1));
        Stmt::For { var: var.clone(), start, end, step, unroll: true, body }
    }

    /// Runs `then` if `cond` holds; no condition if that is a literal.
    pub fn when(cond: Expr, then: Block) -> Block {
        match cond.as_int() {
            Some(0) => vec![],
            Some(_) => then,
            None => vec![Stmt::If { cond, then, otherwise: vec![] }],
        }
    }
}
