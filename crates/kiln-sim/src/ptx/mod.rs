//! PTX text to a syntax tree with names resolved inside functions.

mod ast;
mod lex;
mod parse;
mod vars;

pub(crate) use ast::{Arg, Func, PtxFile, RegKind, Space, Stmt};
pub(crate) use parse::parse;
