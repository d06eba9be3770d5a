//! What is known of a kernel's values at expansion.

use crate::lower::dtype_tokens;
use kiln_graph::DType;
use proc_macro2::TokenStream;
use quote::ToTokens;
use std::fmt;
use syn::{Expr, Ident};

/// An element type as the kernel names it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ty {
    /// A dtype.
    Known(DType),
    /// The dtype parameter.
    Generic(Ident),
}

impl Ty {
    /// In which type arithmetic on it is.
    pub(crate) fn compute(&self) -> DType {
        match self {
            Ty::Known(dtype) => dtype.compute(),
            Ty::Generic(_) => DType::F32,
        }
    }

    /// Rust of type `DType`.
    pub(crate) fn tokens(&self) -> TokenStream {
        match self {
            Ty::Known(dtype) => dtype_tokens(*dtype),
            Ty::Generic(ident) => ident.to_token_stream(),
        }
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ty::Known(dtype) => dtype.fmt(f),
            Ty::Generic(ident) => ident.fmt(f),
        }
    }
}

/// The extent of an axis of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Dim {
    /// A name.
    Sym(Ident),
    /// An integer.
    Lit(u32),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Sym(ident) => ident.fmt(f),
            Dim::Lit(n) => n.fmt(f),
        }
    }
}

impl Dim {
    /// Rust of type `Expr`.
    pub(crate) fn tokens(&self, p: &TokenStream) -> TokenStream {
        match self {
            Dim::Sym(ident) => code!(#ident.clone()),
            Dim::Lit(n) => code!(#p::kernel::Expr::index(#n as i64)),
        }
    }
}

/// The extent of an axis of a tile, as text: two that are written differently are not taken to be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ext(pub String);

impl Ext {
    /// The text of an expression, and of one that has a name what that stands for.
    pub(crate) fn of(expr: &Expr, alias: Option<&str>) -> Ext {
        match alias {
            Some(alias) => Ext(alias.to_owned()),
            None => Ext(text(expr)),
        }
    }

    /// One element, for certain.
    pub(crate) fn one() -> Ext {
        Ext("1".into())
    }

    pub(crate) fn is_one(&self) -> bool {
        self.0 == "1"
    }
}

/// An expression without spaces.
pub(crate) fn text(expr: &impl ToTokens) -> String {
    expr.to_token_stream().to_string().replace(' ', "")
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// One element for each place.
    Tile(Ty, Vec<Ext>),
    /// A uniform number.
    Scalar(DType),
    /// A uniform index: a dim, or arithmetic of such.
    Index,
    /// A uniform condition.
    Cond,
    /// A variable of the grid or of a loop: along which dim, how far a step, and whether it is an index rather than an axis.
    Walk { dim: Dim, ext: Ext, index: bool },
    /// A tensor.
    View(String),
    /// A box of a tensor, which is loaded where it is used.
    Place { view: String, shape: Vec<Ext> },
    /// An ordinary Rust value; under which other text its value is known, if it has a name.
    Host(Option<String>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Tile(ty, shape) => write!(f, "{ty}{}", shown(shape)),
            Kind::Scalar(dtype) => write!(f, "the number {dtype}"),
            Kind::Index => f.write_str("an index"),
            Kind::Cond => f.write_str("a condition"),
            Kind::Walk { dim, .. } => write!(f, "a position along {dim}"),
            Kind::View(name) => write!(f, "the tensor `{name}`"),
            Kind::Place { view, shape } => write!(f, "a tile of `{view}`, {}", shown(shape)),
            Kind::Host(_) => f.write_str("a Rust value"),
        }
    }
}

/// `[cfg.bm, cfg.bn]`
pub(crate) fn shown(shape: &[Ext]) -> String {
    let extents: Vec<&str> = shape.iter().map(|ext| ext.0.as_str()).collect();
    format!("[{}]", extents.join(", "))
}

/// The extents of what two broadcast to; else the two that disagree.
pub(crate) fn broadcast(a: &[Ext], b: &[Ext]) -> Result<Vec<Ext>, (Ext, Ext)> {
    let rank = a.len().max(b.len());
    let at =
        |shape: &[Ext], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(Ext::one(), |i| shape[i].clone());
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (one, other) | (other, one) if one.is_one() => Ok(other),
            (x, y) if x == y => Ok(x),
            pair => Err(pair),
        })
        .collect()
}
