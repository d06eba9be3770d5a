//! The thread-level IR that tile programs are lowered to: what one CUDA thread does, in C's terms. The printer writes it
//! down and decides nothing.

use crate::dtype::{DType, Type};

/// Type of a C variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the type of its name
pub enum CType {
    Bool,
    Char,
    UChar,
    Short,
    UShort,
    Int,
    UInt,
    Long,
    ULong,
    Float,
    Double,
    /// Prelude struct around 16 bits.
    F16,
    /// Prelude struct around 16 bits.
    Bf16,
    /// Prelude struct around 8 bits.
    E4m3,
    /// Prelude struct around 8 bits.
    E5m2,
}

impl CType {
    /// The type that holds `ty`; an index is `long long` if `wide`, else `int`.
    pub fn of(ty: impl Into<Type>, wide: bool) -> CType {
        let Type::Element(dtype) = ty.into() else { return if wide { CType::Long } else { CType::Int } };
        match dtype {
            DType::Bool => CType::Bool,
            DType::I8 | DType::I4 => CType::Char,
            DType::U8 | DType::U4 => CType::UChar,
            DType::I16 => CType::Short,
            DType::U16 => CType::UShort,
            DType::I32 => CType::Int,
            DType::U32 => CType::UInt,
            DType::I64 => CType::Long,
            DType::U64 => CType::ULong,
            DType::F8E4M3 => CType::E4m3,
            DType::F8E5M2 => CType::E5m2,
            DType::F16 => CType::F16,
            DType::BF16 => CType::Bf16,
            DType::F32 => CType::Float,
            DType::F64 => CType::Double,
        }
    }

    /// As written in C.
    pub fn name(self) -> &'static str {
        match self {
            CType::Bool => "bool",
            CType::Char => "signed char",
            CType::UChar => "unsigned char",
            CType::Short => "short",
            CType::UShort => "unsigned short",
            CType::Int => "int",
            CType::UInt => "unsigned",
            CType::Long => "long long",
            CType::ULong => "unsigned long long",
            CType::Float => "float",
            CType::Double => "double",
            CType::F16 => "f16",
            CType::Bf16 => "bf16",
            CType::E4m3 => "e4m3",
            CType::E5m2 => "e5m2",
        }
    }
}

/// A C expression.
#[derive(Clone, Debug, PartialEq)]
pub enum CExpr {
    /// Integer literal.
    Int(i128, CType),
    /// Floating-point literal.
    Float(f64, CType),
    /// `true` or `false`.
    Bool(bool),
    /// Variable, or a special register such as `threadIdx.x`.
    Name(String),
    /// `.0[.1]`
    Index(Box<CExpr>, Box<CExpr>),
    /// Infix operator.
    Binary(&'static str, Box<CExpr>, Box<CExpr>),
    /// Prefix operator.
    Unary(&'static str, Box<CExpr>),
    /// `.0 ? .1 : .2`
    Ternary(Box<CExpr>, Box<CExpr>, Box<CExpr>),
    /// `.0(.1...)`
    Call(String, Vec<CExpr>),
    /// `(.0).1`
    Cast(CType, Box<CExpr>),
}

impl CExpr {
    /// A name.
    pub fn name(text: impl Into<String>) -> CExpr {
        CExpr::Name(text.into())
    }

    /// An `int` literal.
    pub fn int(value: i128) -> CExpr {
        CExpr::Int(value, CType::Int)
    }

    /// `self[index]`
    pub fn at(self, index: CExpr) -> CExpr {
        CExpr::Index(Box::new(self), Box::new(index))
    }

    /// An infix operator on indices; sums with a literal zero and products with a literal one are folded.
    pub fn op(self, op: &'static str, rhs: CExpr) -> CExpr {
        let literal = |e: &CExpr| if let CExpr::Int(x, CType::Int) = e { Some(*x) } else { None };
        match (op, literal(&self), literal(&rhs)) {
            ("+", Some(0), _) | ("*", Some(1), _) => rhs,
            ("+" | "-", _, Some(0)) | ("*" | "/", _, Some(1)) => self,
            ("*", Some(0), _) | ("*", _, Some(0)) => CExpr::int(0),
            ("+", _, _) if matches!(rhs, CExpr::Binary("+", ..)) => self.offset(rhs),
            _ => CExpr::Binary(op, Box::new(self), Box::new(rhs)),
        }
    }

    /// `self + by`, summed from left to right.
    pub fn offset(self, by: CExpr) -> CExpr {
        match by {
            CExpr::Binary("+", a, b) => self.offset(*a).offset(*b),
            by => self.op("+", by),
        }
    }

    /// An infix operator without folding.
    pub fn infix(self, op: &'static str, rhs: CExpr) -> CExpr {
        CExpr::Binary(op, Box::new(self), Box::new(rhs))
    }

    /// Calls `visit` on this expression and all below it.
    pub fn walk(&self, visit: &mut impl FnMut(&CExpr)) {
        visit(self);
        match self {
            CExpr::Int(..) | CExpr::Float(..) | CExpr::Bool(_) | CExpr::Name(_) => {}
            CExpr::Unary(_, a) | CExpr::Cast(_, a) => a.walk(visit),
            CExpr::Index(a, b) | CExpr::Binary(_, a, b) => [a, b].into_iter().for_each(|e| e.walk(visit)),
            CExpr::Ternary(a, b, c) => [a, b, c].into_iter().for_each(|e| e.walk(visit)),
            CExpr::Call(_, args) => args.iter().for_each(|e| e.walk(visit)),
        }
    }

    /// A call.
    pub fn call(function: impl Into<String>, args: impl IntoIterator<Item = CExpr>) -> CExpr {
        CExpr::Call(function.into(), args.into_iter().collect())
    }
}

/// A C statement.
#[derive(Clone, Debug, PartialEq)]
pub enum CStmt {
    /// `// text`
    Comment(String),
    /// `[const] type name [= value];`
    Declare {
        /// Type as written.
        ty: String,
        /// Variable.
        name: String,
        /// Initial value.
        value: Option<CExpr>,
        /// Whether it never changes.
        constant: bool,
    },
    /// `extern __shared__ unsigned char name[];`
    DynamicShared(String),
    /// `const auto name = [&](param) { body };`, always inlined.
    Lambda {
        /// What it is called.
        name: String,
        /// Its parameter as written.
        param: String,
        /// Its body.
        body: Vec<CStmt>,
    },
    /// `[__shared__] type name[len];`
    Array {
        /// Element type as written.
        ty: String,
        /// Variable.
        name: String,
        /// Extents.
        dims: Vec<u64>,
        /// Whether it is in shared memory (then aligned to 16 bytes).
        shared: bool,
    },
    /// `target = value;`
    Assign(CExpr, CExpr),
    /// `call;`
    Expr(CExpr),
    /// `for (type var = start; var < end; var += step) body`
    For {
        /// Type of the variable.
        ty: CType,
        /// Loop variable.
        var: String,
        /// First value.
        start: CExpr,
        /// Bound, excluded.
        end: CExpr,
        /// Increment.
        step: CExpr,
        /// Whether `#pragma unroll` stands above.
        unroll: bool,
        /// Body.
        body: Vec<CStmt>,
    },
    /// `if (cond) then else otherwise`
    If {
        /// Condition.
        cond: CExpr,
        /// If it holds.
        then: Vec<CStmt>,
        /// If not.
        otherwise: Vec<CStmt>,
    },
    /// `return;`
    Return,
}

impl CStmt {
    /// `for (int var = 0; var < end; ++var) body`, unrolled.
    pub fn unrolled(var: String, end: u64, body: Vec<CStmt>) -> CStmt {
        let (start, end, step) = (CExpr::int(0), CExpr::int(end.into()), CExpr::int(1));
        CStmt::For { ty: CType::Int, var, start, end, step, unroll: true, body }
    }

    /// The expressions of the statement itself, without those of nested bodies.
    pub fn exprs(&self) -> Vec<&CExpr> {
        match self {
            CStmt::Comment(_)
            | CStmt::DynamicShared(_)
            | CStmt::Lambda { .. }
            | CStmt::Array { .. }
            | CStmt::Return => vec![],
            CStmt::Declare { value, .. } => value.iter().collect(),
            CStmt::Assign(target, value) => vec![target, value],
            CStmt::Expr(call) => vec![call],
            CStmt::For { start, end, step, .. } => vec![start, end, step],
            CStmt::If { cond, .. } => vec![cond],
        }
    }

    /// The bodies nested directly inside.
    pub fn bodies_mut(&mut self) -> Vec<&mut Vec<CStmt>> {
        match self {
            CStmt::Lambda { body, .. } | CStmt::For { body, .. } => vec![body],
            CStmt::If { then, otherwise, .. } => vec![then, otherwise],
            _ => vec![],
        }
    }

    /// `const int name = value;`
    pub fn constant(name: &str, value: CExpr) -> CStmt {
        CStmt::Declare { ty: "int".to_owned(), name: name.to_owned(), value: Some(value), constant: true }
    }
}

/// A lowered kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Line that says what it computes.
    pub comment: String,
    /// Entry point.
    pub name: String,
    /// Threads of a block.
    pub threads: u32,
    /// Whether a thread may take all the registers that one block leaves it.
    pub large: bool,
    /// Parameters as written.
    pub params: Vec<String>,
    /// Body.
    pub body: Vec<CStmt>,
}
