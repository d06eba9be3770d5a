//! Config values and dims: what is known of them at expansion, and the Rust that computes them.
//!
//! A config value such as `cfg.hidden` is an opaque symbol named by its source. An integer expression over such names and symbols is a
//! [`Dim`], so that `cfg.heads * 64` equals itself however it is written.

use crate::lower::{Lower, Res, Stop};
use crate::scope::{Host, Val};
use crate::types::bare;
use kiln_graph::Dim;
use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{BinOp, Error, Expr, ExprBinary, Lit, UnOp};

impl Lower<'_> {
    /// Lowers an expression that holds no tensor.
    pub(crate) fn host(&mut self, expr: &Expr) -> Res<(Host, TokenStream)> {
        if self.symbolic(expr) {
            let (dim, tokens) = self.dim(expr)?;
            return Ok((Host { name: Some(dim.to_string()), dim: Some(dim), symbolic: true }, tokens));
        }
        let dim = self.abstract_dim(expr)?;
        let name = self.canonical(expr);
        Ok((Host { name, dim, symbolic: false }, expr.to_token_stream()))
    }

    /// Lowers an expression in the place of a dim: its abstract value, and Rust of type `Dim`.
    pub(crate) fn dim(&mut self, expr: &Expr) -> Res<(Dim, TokenStream)> {
        let p = crate::expand::support();
        let expr = bare(expr);
        if !self.symbolic(expr) {
            if let Expr::Lit(lit) = expr
                && !matches!(lit.lit, Lit::Int(_))
            {
                return Err(Error::new_spanned(expr, "a dim is an integer").into());
            }
            let dim = match self.abstract_dim(expr)? {
                Some(dim) => dim,
                None => self.opaque(&expr.to_token_stream().to_string()),
            };
            return Ok((dim, quote_spanned!(expr.span()=> #p::dim(&(#expr)))));
        }
        match expr {
            Expr::Path(_) => match self.abstract_dim(expr)? {
                Some(dim) => Ok((dim, quote!(::core::clone::Clone::clone(&#expr)))),
                None => Err(self.no_dim(expr)),
            },
            Expr::Binary(ExprBinary { left, op, right, .. }) => {
                let ((a, left), (b, right)) = (self.dim(left)?, self.dim(right)?);
                let tokens = match op {
                    BinOp::Add(_) => quote!((#left + #right)),
                    BinOp::Sub(_) => quote!((#left - #right)),
                    BinOp::Mul(_) => quote!((#left * #right)),
                    BinOp::Div(_) => quote!((#left).floor_div(&#right)),
                    _ => return Err(self.no_dim(expr)),
                };
                arithmetic(op, a, b).map(|d| (d, tokens)).ok_or_else(|| self.no_dim(expr))
            }
            Expr::MethodCall(call) if call.method == "dim" => {
                let axis = call.args.first().and_then(literal);
                let (Some(axis), 1, Val::Tensor(id)) = (axis, call.args.len(), self.place(&call.receiver)?) else {
                    return Err(
                        Error::new_spanned(call, "`dim` is called on a tensor variable with a literal axis").into()
                    );
                };
                let dim = match id {
                    Some(id) => {
                        let ty = self.ty(id);
                        let rank = ty.rank() as i64;
                        let at = if axis < 0 { axis + rank } else { axis };
                        match usize::try_from(at).ok().and_then(|at| ty.shape.get(at)) {
                            Some(dim) => dim.clone(),
                            None => {
                                let message = format!("dim: axis {axis} does not exist at rank {rank} of {ty}");
                                return Err(Error::new_spanned(&call.args, message).into());
                            }
                        }
                    }
                    None => self.opaque(&call.to_token_stream().to_string()),
                };
                let (b, x) = (self.builder(), &call.receiver);
                Ok((dim, quote!(#p::axis(#b, #x, #axis)?)))
            }
            Expr::MethodCall(call)
                if call.args.len() == 1 && ["min", "max", "div_ceil"].iter().any(|m| call.method == m) =>
            {
                let ((a, left), (b, right)) = (self.dim(&call.receiver)?, self.dim(&call.args[0])?);
                Ok(match call.method.to_string().as_str() {
                    "min" => (a.minimum(&b), quote!((#left).minimum(&#right))),
                    "max" => (a.maximum(&b), quote!((#left).maximum(&#right))),
                    _ => (a.ceil_div(&b), quote!((#left).ceil_div(&#right))),
                })
            }
            Expr::Reference(reference) => self.dim(&reference.expr),
            Expr::Cast(cast) => self.dim(&cast.expr),
            _ => Err(self.no_dim(expr)),
        }
    }

    fn no_dim(&self, expr: &Expr) -> Stop {
        Error::new_spanned(
            expr,
            "a symbol's value is not known yet: dims are computed with + - * /, `min`, `max` and `div_ceil`",
        )
        .into()
    }

    /// Whether an expression depends on a symbol, so that its Rust value is a `Dim`.
    pub(crate) fn symbolic(&self, expr: &Expr) -> bool {
        self.any_ident(&expr.to_token_stream(), &|name| match self.scopes.get(name) {
            Some(var) => match &var.val {
                Val::Host(host) => host.symbolic,
                // Whether a tensor is there is known; its extents are not.
                val => val.is_tensor() && !matches!(val, Val::Optional(_)),
            },
            None => self.symbols.contains(name),
        })
    }

    /// The value of a config expression as a dim, if it is an integer as far as can be seen.
    fn abstract_dim(&mut self, expr: &Expr) -> Res<Option<Dim>> {
        Ok(match bare(expr) {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Int(int) => Some(Dim::from(int.base10_parse::<i64>()?)),
                _ => None,
            },
            Expr::Path(path) if path.path.get_ident().is_some_and(|i| self.symbols.contains(&i.to_string())) => {
                path.path.get_ident().map(|i| Dim::sym(i.to_string()))
            }
            Expr::Path(path) => match path.path.get_ident().and_then(|i| self.scopes.get(&i.to_string())) {
                Some(var) => match &var.val {
                    Val::Host(host) if !var.mutable => {
                        host.dim.clone().or_else(|| host.name.as_ref().map(|n| Dim::sym(n.clone())))
                    }
                    _ => None,
                },
                None => self.canonical(expr).map(Dim::sym),
            },
            Expr::Binary(ExprBinary { left, op, right, .. }) => {
                match (self.abstract_dim(left)?, self.abstract_dim(right)?) {
                    (Some(a), Some(b)) => arithmetic(op, a, b),
                    _ => None,
                }
            }
            Expr::Unary(unary) => match unary.op {
                UnOp::Neg(_) => self.abstract_dim(&unary.expr)?.map(|d| -d),
                UnOp::Deref(_) => self.abstract_dim(&unary.expr)?,
                _ => None,
            },
            Expr::Reference(reference) => self.abstract_dim(&reference.expr)?,
            Expr::Cast(cast) => self.abstract_dim(&cast.expr)?,
            expr => self.canonical(expr).map(Dim::sym),
        })
    }

    /// A name that stands for the value of a config expression: equal names, equal values. Config values do not change while a graph is
    /// built, except through `mut` variables, which have no name.
    pub(crate) fn canonical(&self, expr: &Expr) -> Option<String> {
        let list = |args: &syn::punctuated::Punctuated<Expr, syn::Token![,]>| {
            args.iter().map(|a| self.canonical(a)).collect::<Option<Vec<_>>>().map(|a| a.join(", "))
        };
        Some(match bare(expr) {
            Expr::Path(path) => match path.path.get_ident().and_then(|i| self.scopes.get(&i.to_string())) {
                Some(var) if var.mutable => return None,
                Some(var) => match &var.val {
                    Val::Host(host) => host.name.clone()?,
                    _ => return None,
                },
                None => tight(&path.to_token_stream()),
            },
            Expr::Lit(lit) => tight(&lit.to_token_stream()),
            Expr::Field(field) => {
                format!("{}.{}", self.canonical(&field.base)?, tight(&field.member.to_token_stream()))
            }
            Expr::MethodCall(call) => {
                format!("{}.{}({})", self.canonical(&call.receiver)?, call.method, list(&call.args)?)
            }
            Expr::Call(call) => format!("{}({})", self.canonical(&call.func)?, list(&call.args)?),
            Expr::Index(index) => format!("{}[{}]", self.canonical(&index.expr)?, self.canonical(&index.index)?),
            Expr::Binary(binary) => format!(
                "({} {} {})",
                self.canonical(&binary.left)?,
                tight(&binary.op.to_token_stream()),
                self.canonical(&binary.right)?
            ),
            Expr::Reference(reference) => self.canonical(&reference.expr)?,
            Expr::Unary(unary) if matches!(unary.op, UnOp::Deref(_)) => self.canonical(&unary.expr)?,
            Expr::Cast(cast) => format!("{} as {}", self.canonical(&cast.expr)?, tight(&cast.ty.to_token_stream())),
            _ => return None,
        })
    }

    /// A symbol that equals nothing else.
    pub(crate) fn opaque(&mut self, source: &str) -> Dim {
        Dim::sym(self.unique(source))
    }

    /// A name not used before: the given one if possible.
    pub(crate) fn unique(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut n = 1;
        while self.scopes.names_host(&name) || !self.taken.insert(name.clone()) {
            n += 1;
            name = format!("{base}#{n}");
        }
        name
    }
}

/// An integer literal, perhaps negative.
pub(crate) fn literal(expr: &Expr) -> Option<i64> {
    match bare(expr) {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Int(int) => int.base10_parse().ok(),
            _ => None,
        },
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => literal(&unary.expr)?.checked_neg(),
        _ => None,
    }
}

fn arithmetic(op: &BinOp, a: Dim, b: Dim) -> Option<Dim> {
    match op {
        BinOp::Add(_) => Some(a + b),
        BinOp::Sub(_) => Some(a - b),
        BinOp::Mul(_) => Some(a * b),
        BinOp::Div(_) if !b.is(0) => Some(a.floor_div(&b)),
        _ => None,
    }
}

fn tight(tokens: &TokenStream) -> String {
    tokens.to_string().replace(' ', "")
}
