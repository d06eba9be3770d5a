//! Long chains. `x.f().g()..` and `a + b + ..` nest one expression for every link, and the compiler's stack does not hold a thousand of
//! them: beyond a few, each link becomes a statement of its own.

use crate::lower::{Lower, Lowered, Res};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{BinOp, Expr, ExprBinary, ExprMethodCall, ExprPath};

/// Links that are written as one expression.
const NESTED: usize = 16;

/// What an expression is applied to, if it is a link of a chain: the receiver of a method, or the left operand.
pub(crate) fn left(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::MethodCall(call) => Some(&call.receiver),
        Expr::Binary(binary) if !assigns(&binary.op) => Some(&binary.left),
        _ => None,
    }
}

fn assigns(op: &BinOp) -> bool {
    use BinOp::{
        AddAssign, BitAndAssign, BitOrAssign, BitXorAssign, DivAssign, MulAssign, RemAssign, ShlAssign, ShrAssign,
        SubAssign,
    };
    matches!(
        op,
        AddAssign(_)
            | SubAssign(_)
            | MulAssign(_)
            | DivAssign(_)
            | RemAssign(_)
            | BitAndAssign(_)
            | BitOrAssign(_)
            | BitXorAssign(_)
            | ShlAssign(_)
            | ShrAssign(_)
    )
}

/// A link applied to something else.
fn applied_to(link: &Expr, receiver: Expr) -> Expr {
    match link {
        Expr::MethodCall(call) => Expr::MethodCall(ExprMethodCall {
            attrs: call.attrs.clone(),
            receiver: Box::new(receiver),
            dot_token: call.dot_token,
            method: call.method.clone(),
            turbofish: call.turbofish.clone(),
            paren_token: call.paren_token,
            args: call.args.clone(),
        }),
        Expr::Binary(binary) => Expr::Binary(ExprBinary {
            attrs: binary.attrs.clone(),
            left: Box::new(receiver),
            op: binary.op,
            right: binary.right.clone(),
        }),
        other => other.clone(),
    }
}

impl Lower<'_> {
    /// Lowers a long chain link by link; `None` for any other expression.
    pub(crate) fn chain(&mut self, expr: &Expr) -> Res<Option<Lowered>> {
        let mut links: Vec<&Expr> = std::iter::successors(Some(expr), |e| left(e)).collect();
        if links.len() <= NESTED {
            return Ok(None);
        }
        // The innermost expression that holds a tensor; numbers before it belong to its first link.
        while links.last().is_some_and(|e| !self.tensorial(e)) {
            links.pop();
        }
        let Some(base) = links.pop() else { return Ok(None) };
        let start = base.span();
        let mut lowered = self.expr(base)?;
        let mut lets = TokenStream::new();
        self.scopes.enter();
        for link in links.into_iter().rev() {
            let (name, tokens) = (format_ident!("link_{}", self.temporary(), span = at(start)), lowered.tokens);
            lets.extend(quote!(let #name = #tokens;));
            self.scopes.declare(&name, lowered.val, false);
            let receiver = Expr::Path(ExprPath { attrs: Vec::new(), qself: None, path: name.into() });
            lowered = self.expr(&applied_to(link, receiver))?;
        }
        self.scopes.leave();
        let tokens = lowered.tokens;
        Ok(Some(Lowered { val: lowered.val, tokens: quote!({ #lets #tokens }) }))
    }
}

/// Names of the macro's own, in messages placed at the source.
fn at(source: Span) -> Span {
    Span::mixed_site().located_at(source)
}
