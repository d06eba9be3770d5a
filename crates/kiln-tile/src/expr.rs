//! Scalar expressions: typed trees over loop variables, kernel parameters and loads.
//!
//! Rust operators build them (`x.clone() * 2.0 + y`); a literal takes the type of the other operand. Index arithmetic is
//! folded as it is built, so that generated code carries no `+ 0` or `* 1`. Sharing a subexpression is by
//! [`Builder::bind`](crate::Builder::bind), which names it in the generated code too.

use crate::dtype::{DType, Scalar, Type};
pub use crate::function::UnaryOp;
use crate::math;
use crate::program::Buffer;
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};
use std::ops::{Add, Div, Mul, Neg, Not, Rem, Sub};
use std::sync::Arc;

/// A named scalar: a parameter, a loop variable or a bound value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Var {
    /// Unique within the program.
    pub id: u32,
    /// What the author called it.
    pub name: Arc<str>,
    /// Its type.
    pub ty: Type,
}

impl PartialEq for Var {
    fn eq(&self, other: &Var) -> bool {
        self.id == other.id
    }
}

impl Eq for Var {}

impl Hash for Var {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// Function of two values of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // each variant is the function of its name
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    /// Integers truncate toward zero.
    Div,
    /// Remainder with the dividend's sign (C's `%` and `fmod`).
    Rem,
    /// The lesser; NaN if either is NaN.
    Min,
    /// The greater; NaN if either is NaN.
    Max,
    Pow,
    Atan2,
    /// Logical (lazy) on `Bool`, bitwise on integers.
    And,
    /// Logical (lazy) on `Bool`, bitwise on integers.
    Or,
    Xor,
    Shl,
    /// Arithmetic on signed integers, logical on unsigned ones.
    Shr,
}

/// Comparison; NaN is unequal to everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // each variant is the comparison of its name
pub enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A typed scalar expression; cheap to clone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Expr(Arc<Node>);

#[derive(Debug, Serialize, Deserialize)]
struct Node {
    ty: Type,
    kind: ExprKind,
}

/// What an [`Expr`] is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ExprKind {
    /// A literal.
    Const(Scalar),
    /// A parameter, loop variable or bound value.
    Var(Var),
    /// Function of one value.
    Unary(UnaryOp, Expr),
    /// Function of two values of one type.
    Binary(BinaryOp, Expr, Expr),
    /// Comparison of two values of one type; gives `Bool`.
    Compare(CompareOp, Expr, Expr),
    /// `if .0 { .1 } else { .2 }`; only the chosen side is evaluated, so it may guard a load.
    Select(Expr, Expr, Expr),
    /// `.0 * .1 + .2` with one rounding.
    Fma(Expr, Expr, Expr),
    /// Conversion to the node's type.
    Cast(Expr),
    /// Element of a buffer at an index per dimension.
    Load(Buffer, Vec<Expr>),
}

/// Whether two expressions are written alike: literals by their bits, variables and buffers by their numbers.
impl PartialEq for Expr {
    fn eq(&self, other: &Expr) -> bool {
        use ExprKind::{Binary, Cast, Compare, Const, Fma, Load, Select, Unary, Var};
        if Arc::ptr_eq(&self.0, &other.0) {
            return true;
        }
        let same = match (self.kind(), other.kind()) {
            (Const(a), Const(b)) => bits(*a) == bits(*b),
            (Var(a), Var(b)) => a == b,
            (Unary(a, _), Unary(b, _)) => a == b,
            (Binary(a, ..), Binary(b, ..)) => a == b,
            (Compare(a, ..), Compare(b, ..)) => a == b,
            (Load(a, _), Load(b, _)) => a.id == b.id,
            (Select(..), Select(..)) | (Fma(..), Fma(..)) | (Cast(_), Cast(_)) => true,
            _ => false,
        };
        same && self.ty() == other.ty() && self.operands() == other.operands()
    }
}

impl Eq for Expr {}

impl Hash for Expr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ty().hash(state);
        std::mem::discriminant(self.kind()).hash(state);
        match self.kind() {
            ExprKind::Const(value) => bits(*value).hash(state),
            ExprKind::Var(var) => var.hash(state),
            ExprKind::Unary(op, _) => op.hash(state),
            ExprKind::Binary(op, ..) => op.hash(state),
            ExprKind::Compare(op, ..) => op.hash(state),
            ExprKind::Load(buffer, _) => buffer.id.hash(state),
            ExprKind::Select(..) | ExprKind::Fma(..) | ExprKind::Cast(_) => {}
        }
        self.operands().hash(state);
    }
}

/// What tells literals of one type apart.
fn bits(value: Scalar) -> i128 {
    match value {
        Scalar::Float(x) => x.to_bits().into(),
        Scalar::Int(x) => x,
    }
}

impl Expr {
    /// A node of the given type. Types are checked by [`verify`](crate::verify::verify), not here.
    pub fn new(ty: impl Into<Type>, kind: ExprKind) -> Expr {
        Expr(Arc::new(Node { ty: ty.into(), kind }))
    }

    /// A literal of type `ty`; the value is cast to it.
    pub fn constant(ty: impl Into<Type>, value: Scalar) -> Expr {
        let ty = ty.into();
        Expr::new(ty, ExprKind::Const(value.cast(ty)))
    }

    /// An index literal.
    pub fn index(value: i64) -> Expr {
        Expr::constant(Type::Index, Scalar::Int(value.into()))
    }

    /// A float literal (or, for an integer type, its truncation).
    pub fn float(ty: impl Into<Type>, value: f64) -> Expr {
        Expr::constant(ty, Scalar::Float(value))
    }

    /// An integer literal.
    pub fn int(ty: impl Into<Type>, value: i64) -> Expr {
        Expr::constant(ty, Scalar::Int(value.into()))
    }

    /// An integer literal of any integer type's range.
    pub fn wide_int(ty: impl Into<Type>, value: i128) -> Expr {
        Expr::constant(ty, Scalar::Int(value))
    }

    /// `true` or `false`.
    pub fn bool(value: bool) -> Expr {
        Expr::constant(DType::Bool, Scalar::Int(value.into()))
    }

    /// The value of a variable.
    pub fn var(var: &Var) -> Expr {
        Expr::new(var.ty, ExprKind::Var(var.clone()))
    }

    /// Its type.
    pub fn ty(&self) -> Type {
        self.0.ty
    }

    /// What it is.
    pub fn kind(&self) -> &ExprKind {
        &self.0.kind
    }

    /// Its value if it is an integer literal.
    pub fn as_const(&self) -> Option<i128> {
        match self.kind() {
            ExprKind::Const(Scalar::Int(x)) => Some(*x),
            _ => None,
        }
    }

    /// Converts to type `to` (rules of [`Scalar::cast`]).
    pub fn cast(&self, to: impl Into<Type>) -> Expr {
        let to = to.into();
        match self.kind() {
            _ if to == self.ty() => self.clone(),
            ExprKind::Const(value) => Expr::constant(to, *value),
            _ => Expr::new(to, ExprKind::Cast(self.clone())),
        }
    }

    /// Applies a function of one value.
    pub fn unary(&self, op: UnaryOp) -> Expr {
        let ty = match op {
            UnaryOp::IsNan | UnaryOp::IsInf => DType::Bool.into(),
            _ => self.ty(),
        };
        Expr::new(ty, ExprKind::Unary(op, self.clone()))
    }

    /// Applies a function of two values; index arithmetic is folded.
    pub fn binary(&self, op: BinaryOp, rhs: impl Operand) -> Expr {
        let rhs = rhs.into_expr(self.ty());
        if let Some(folded) = fold(op, self, &rhs) {
            return folded;
        }
        Expr::new(self.ty(), ExprKind::Binary(op, self.clone(), rhs))
    }

    /// Compares; integer literals at once.
    pub fn compare(&self, op: CompareOp, rhs: impl Operand) -> Expr {
        let rhs = rhs.into_expr(self.ty());
        if let (Some(x), Some(y)) = (self.as_const(), rhs.as_const()) {
            return Expr::bool(math::compare(op, Scalar::Int(x), Scalar::Int(y)));
        }
        Expr::new(DType::Bool, ExprKind::Compare(op, self.clone(), rhs))
    }

    /// `if self { then } else { otherwise }`; a literal `otherwise` takes the type of `then`. Of a literal condition only the chosen
    /// side is left.
    pub fn select(&self, then: &Expr, otherwise: impl Operand) -> Expr {
        let otherwise = otherwise.into_expr(then.ty());
        match self.as_const() {
            Some(0) => return otherwise,
            Some(_) => return then.clone(),
            None => {}
        }
        Expr::new(then.ty(), ExprKind::Select(self.clone(), then.clone(), otherwise))
    }

    /// `self * factor + addend` with one rounding.
    pub fn fma(&self, factor: impl Operand, addend: impl Operand) -> Expr {
        let factor = factor.into_expr(self.ty());
        let addend = addend.into_expr(self.ty());
        Expr::new(self.ty(), ExprKind::Fma(self.clone(), factor, addend))
    }

    /// `ceil(self / divisor)` for non-negative indices.
    pub fn ceil_div(&self, divisor: impl Operand) -> Expr {
        let divisor = divisor.into_expr(self.ty());
        (self.clone() + (divisor.clone() - 1)) / divisor
    }

    /// The direct operands.
    pub fn operands(&self) -> Vec<&Expr> {
        match self.kind() {
            ExprKind::Const(_) | ExprKind::Var(_) => vec![],
            ExprKind::Unary(_, a) | ExprKind::Cast(a) => vec![a],
            ExprKind::Binary(_, a, b) | ExprKind::Compare(_, a, b) => vec![a, b],
            ExprKind::Select(a, b, c) | ExprKind::Fma(a, b, c) => vec![a, b, c],
            ExprKind::Load(_, index) => index.iter().collect(),
        }
    }

    /// Calls `visit` on this node and all below it.
    pub fn walk(&self, visit: &mut impl FnMut(&Expr)) {
        visit(self);
        for operand in self.operands() {
            operand.walk(visit);
        }
    }

    /// Whether any node below (or this one) satisfies `test`.
    pub fn any(&self, test: &mut impl FnMut(&Expr) -> bool) -> bool {
        test(self) || self.operands().into_iter().any(|operand| operand.any(test))
    }

    /// Replaces variables for which `replace` returns an expression.
    pub fn substitute(&self, replace: &impl Fn(&Var) -> Option<Expr>) -> Expr {
        match self.kind() {
            ExprKind::Var(var) => replace(var).unwrap_or_else(|| self.clone()),
            _ => self.map_operands(&mut |e| e.substitute(replace)),
        }
    }

    /// The same operation on other operands of the same types.
    pub fn map_operands(&self, map: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
        match self.kind() {
            ExprKind::Const(_) | ExprKind::Var(_) => self.clone(),
            ExprKind::Unary(op, a) => map(a).unary(*op),
            ExprKind::Binary(op, a, b) => map(a).binary(*op, map(b)),
            ExprKind::Compare(op, a, b) => map(a).compare(*op, map(b)),
            ExprKind::Select(c, a, b) => map(c).select(&map(a), map(b)),
            ExprKind::Fma(a, b, c) => map(a).fma(map(b), map(c)),
            ExprKind::Cast(a) => map(a).cast(self.ty()),
            ExprKind::Load(buffer, index) => {
                let index = index.iter().map(map).collect();
                Expr::new(self.ty(), ExprKind::Load(buffer.clone(), index))
            }
        }
    }
}

/// Identities of index arithmetic: exact, so always safe.
fn fold(op: BinaryOp, a: &Expr, b: &Expr) -> Option<Expr> {
    if a.ty() != Type::Index || b.ty() != Type::Index {
        return fold_bool(op, a, b);
    }
    use BinaryOp::{Add, Div, Max, Min, Mul, Rem, Sub};
    let constant = |x: i128| i64::try_from(x).ok().map(Expr::index);
    if let (Some(x), Some(y)) = (a.as_const(), b.as_const()) {
        return match op {
            Add => constant(x + y),
            Sub => constant(x - y),
            Mul => constant(x * y),
            Div if y != 0 => constant(x / y),
            Rem if y != 0 => constant(x % y),
            Min => constant(x.min(y)),
            Max => constant(x.max(y)),
            _ => None,
        };
    }
    match (op, a.as_const(), b.as_const()) {
        (Add, Some(0), _) => Some(b.clone()),
        (Add | Sub, _, Some(0)) | (Mul | Div, _, Some(1)) => Some(a.clone()),
        (Mul, Some(1), _) => Some(b.clone()),
        (Mul, Some(0), _) | (Mul, _, Some(0)) | (Rem, _, Some(1)) => constant(0),
        (Div | Rem, Some(0), _) => constant(0),
        // (x + c1) + c2, (x * c1) * c2: keep one literal.
        (Add, None, Some(y)) => match a.kind() {
            ExprKind::Binary(Add, x, c) => Some(x.binary(Add, constant(c.as_const()? + y)?)),
            ExprKind::Binary(Sub, x, c) => Some(x.binary(Add, constant(y - c.as_const()?)?)),
            _ => None,
        },
        (Mul, None, Some(y)) => match a.kind() {
            ExprKind::Binary(Mul, x, c) => Some(x.binary(Mul, constant(c.as_const()? * y)?)),
            _ => None,
        },
        (Mul, Some(_), None) => Some(b.binary(Mul, a.clone())),
        _ => None,
    }
}

fn fold_bool(op: BinaryOp, a: &Expr, b: &Expr) -> Option<Expr> {
    if a.ty() != DType::Bool {
        return None;
    }
    match (op, a.as_const(), b.as_const()) {
        (BinaryOp::And, Some(1), _) | (BinaryOp::Or, Some(0), _) => Some(b.clone()),
        (BinaryOp::And, _, Some(1)) | (BinaryOp::Or, _, Some(0)) => Some(a.clone()),
        (BinaryOp::And, Some(0), _) | (BinaryOp::And, _, Some(0)) => Some(Expr::bool(false)),
        (BinaryOp::Or, Some(1), _) | (BinaryOp::Or, _, Some(1)) => Some(Expr::bool(true)),
        _ => None,
    }
}

/// What may stand on the right of an operator: an expression, or a literal that takes the other side's type.
pub trait Operand {
    /// The expression, a literal being given type `like`.
    fn into_expr(self, like: Type) -> Expr;
}

impl Operand for Expr {
    fn into_expr(self, _: Type) -> Expr {
        self
    }
}

impl Operand for &Expr {
    fn into_expr(self, _: Type) -> Expr {
        self.clone()
    }
}

impl Operand for f64 {
    fn into_expr(self, like: Type) -> Expr {
        Expr::float(like, self)
    }
}

impl Operand for i64 {
    fn into_expr(self, like: Type) -> Expr {
        Expr::int(like, self)
    }
}

impl Operand for i32 {
    fn into_expr(self, like: Type) -> Expr {
        Expr::int(like, self.into())
    }
}

impl From<i64> for Expr {
    fn from(value: i64) -> Expr {
        Expr::index(value)
    }
}

impl From<&Expr> for Expr {
    fn from(value: &Expr) -> Expr {
        value.clone()
    }
}

macro_rules! operator {
    ($($trait:ident $method:ident $op:expr;)*) => {$(
        impl<T: Operand> $trait<T> for Expr {
            type Output = Expr;
            fn $method(self, rhs: T) -> Expr {
                self.binary($op, rhs)
            }
        }
        impl<T: Operand> $trait<T> for &Expr {
            type Output = Expr;
            fn $method(self, rhs: T) -> Expr {
                self.binary($op, rhs)
            }
        }
        impl $trait<Expr> for f64 {
            type Output = Expr;
            fn $method(self, rhs: Expr) -> Expr {
                self.into_expr(rhs.ty()).binary($op, rhs)
            }
        }
        impl $trait<&Expr> for f64 {
            type Output = Expr;
            fn $method(self, rhs: &Expr) -> Expr {
                self.into_expr(rhs.ty()).binary($op, rhs)
            }
        }
    )*};
}

operator! {
    Add add BinaryOp::Add;
    Sub sub BinaryOp::Sub;
    Mul mul BinaryOp::Mul;
    Div div BinaryOp::Div;
    Rem rem BinaryOp::Rem;
}

macro_rules! named_binary {
    ($($(#[$doc:meta])* $name:ident $op:expr;)*) => {
        impl Expr {$(
            $(#[$doc])*
            pub fn $name(&self, rhs: impl Operand) -> Expr {
                self.binary($op, rhs)
            }
        )*}
    };
}

named_binary! {
    /// The lesser; NaN if either is NaN.
    min BinaryOp::Min;
    /// The greater; NaN if either is NaN.
    max BinaryOp::Max;
    /// Logical (lazy) on `Bool`, bitwise on integers.
    and BinaryOp::And;
    /// Logical (lazy) on `Bool`, bitwise on integers.
    or BinaryOp::Or;
    /// Exclusive or.
    xor BinaryOp::Xor;
    /// `self` to the power `rhs`.
    pow BinaryOp::Pow;
}

macro_rules! named_compare {
    ($($(#[$doc:meta])* $name:ident $op:expr;)*) => {
        impl Expr {$(
            $(#[$doc])*
            pub fn $name(&self, rhs: impl Operand) -> Expr {
                self.compare($op, rhs)
            }
        )*}
    };
}

named_compare! {
    /// `self == rhs`
    eq CompareOp::Eq;
    /// `self != rhs`
    ne CompareOp::Ne;
    /// `self < rhs`
    lt CompareOp::Lt;
    /// `self <= rhs`
    le CompareOp::Le;
    /// `self > rhs`
    gt CompareOp::Gt;
    /// `self >= rhs`
    ge CompareOp::Ge;
}

impl Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        self.unary(UnaryOp::Neg)
    }
}

impl Not for Expr {
    type Output = Expr;
    fn not(self) -> Expr {
        self.unary(UnaryOp::Not)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_arithmetic_folds() {
        let n = Expr::var(&Var { id: 0, name: "n".into(), ty: Type::Index });
        assert!(matches!((&n * 1 + 0).kind(), ExprKind::Var(_)));
        assert_eq!(n.binary(BinaryOp::Mul, 0).as_const(), Some(0));
        assert_eq!((Expr::index(7) * 3 - 1).as_const(), Some(20));
        let ExprKind::Binary(BinaryOp::Add, _, c) = (&n + 3 + 4).kind().clone() else { panic!("not a sum") };
        assert_eq!(c.as_const(), Some(7));
    }

    #[test]
    fn expressions_are_equal_by_structure() {
        let [x, y] = [0, 1].map(|id| Expr::var(&Var { id, name: "x".into(), ty: Type::Element(DType::F32) }));
        let of = |a: &Expr, c: f64| (a * Expr::float(DType::F32, c)).tanh().lt(0.5);
        let hash = |e: &Expr| {
            let mut hasher = std::hash::DefaultHasher::new();
            e.hash(&mut hasher);
            hasher.finish()
        };
        let alike = of(&x, 2.0);
        assert!(alike == of(&x, 2.0) && hash(&alike) == hash(&of(&x, 2.0)));
        // A literal is its bits: zeros of two signs differ, and a NaN is itself.
        assert!(of(&x, f64::NAN) == of(&x, f64::NAN));
        let others = [of(&y, 2.0), of(&x, 3.0), of(&x, -0.0), of(&x, 0.0), (&x * 2.0).tanh(), (&x * 2.0).erf().lt(0.5)];
        for (i, other) in others.iter().enumerate() {
            assert!(alike != *other, "{i}");
            assert!(others[..i].iter().all(|earlier| earlier != other && hash(earlier) != hash(other)), "{i}");
        }
    }
}
