//! `Tensor<dtype, axes..>` as syntax.

use kiln_graph::DType;
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Error, Expr, GenericArgument, Ident, PathArguments, Result, Stmt, Type};

/// A tensor type as written.
#[derive(Clone)]
pub(crate) struct TensorSpec {
    /// Element type, as written: a dtype or a type parameter that stands for one.
    pub dtype: syn::Path,
    /// The path of `Tensor`, without arguments.
    pub name: syn::Path,
    /// Axes, as expressions.
    pub dims: Vec<Expr>,
    /// The source, for spans.
    pub source: TokenStream,
}

/// Reads `Tensor<..>`; `None` for any other type.
pub(crate) fn tensor_spec(ty: &Type) -> Result<Option<TensorSpec>> {
    let path = match ty {
        Type::Path(path) if path.qself.is_none() => &path.path,
        Type::Group(group) => return tensor_spec(&group.elem),
        Type::Paren(paren) => return tensor_spec(&paren.elem),
        _ => return Ok(None),
    };
    let Some(last) = path.segments.last().filter(|s| s.ident == "Tensor") else { return Ok(None) };
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return Err(Error::new_spanned(ty, "a tensor needs its dtype and axes, as in `Tensor<f32, B, 784>`"));
    };
    let mut arguments = arguments.args.iter();
    let dtype = match arguments.next() {
        Some(GenericArgument::Type(Type::Path(path))) => path.path.clone(),
        other => {
            return Err(Error::new_spanned(
                other.map_or_else(|| ty.to_token_stream(), ToTokens::to_token_stream),
                "the first argument of a tensor is its dtype, as in `Tensor<f32, B, 784>`",
            ));
        }
    };
    let dims = arguments.map(axis).collect::<Result<_>>()?;
    let mut name = path.clone();
    if let Some(last) = name.segments.last_mut() {
        last.arguments = PathArguments::None;
    }
    Ok(Some(TensorSpec { dtype, name, dims, source: ty.to_token_stream() }))
}

/// Reads a dtype.
pub(crate) fn dtype(path: &syn::Path) -> Result<DType> {
    let name = path.get_ident().map(Ident::to_string).unwrap_or_else(|| path.to_token_stream().to_string());
    name.parse::<DType>().map_err(|e| Error::new_spanned(path, e))
}

/// The `T` of `Option<T>`.
pub(crate) fn optional(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|s| s.ident == "Option")?;
    match &last.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first()? {
            GenericArgument::Type(ty) => Some(ty),
            _ => None,
        },
        _ => None,
    }
}

fn axis(argument: &GenericArgument) -> Result<Expr> {
    match argument {
        GenericArgument::Type(Type::Path(path)) => {
            Ok(Expr::Path(syn::ExprPath { attrs: Vec::new(), qself: path.qself.clone(), path: path.path.clone() }))
        }
        GenericArgument::Const(expr) => Ok(bare(expr).clone()),
        other => Err(Error::new_spanned(other, "an axis is an integer, a symbol or a braced expression")),
    }
}

/// The expression in braces, parentheses or invisible groups.
pub(crate) fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Block(block) if block.label.is_none() => match block.block.stmts.as_slice() {
            [Stmt::Expr(inner, None)] => bare(inner),
            _ => expr,
        },
        Expr::Paren(paren) => bare(&paren.expr),
        Expr::Group(group) => bare(&group.expr),
        _ => expr,
    }
}

/// The identifier, if the expression is one.
pub(crate) fn as_ident(expr: &Expr) -> Option<&Ident> {
    match bare(expr) {
        Expr::Path(path) if path.qself.is_none() => path.path.get_ident(),
        _ => None,
    }
}

/// Whether an identifier occurs anywhere in some syntax.
pub(crate) fn mentions(syntax: &impl ToTokens, ident: &Ident) -> bool {
    fn within(tokens: TokenStream, ident: &Ident) -> bool {
        tokens.into_iter().any(|t| match t {
            TokenTree::Ident(i) => i == *ident,
            TokenTree::Group(g) => within(g.stream(), ident),
            _ => false,
        })
    }
    within(syntax.to_token_stream(), ident)
}
