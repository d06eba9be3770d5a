//! Two operands that broadcast together, of which one may be a number: it takes the dtype of the tensor beside it.

use super::Call;
use crate::expand::support;
use crate::lower::{Lower, Lowered, Res};
use crate::scope::Val;
use kiln_graph::{Builder, DType, TensorType, ValueId};
use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::{Error, Expr, Lit};

impl Lower<'_> {
    /// A function of two operands; `op` comes before them.
    pub(super) fn pair(
        &mut self,
        left: &Expr,
        right: &Expr,
        call: &Call<'_>,
        function: &str,
        op: TokenStream,
        run: impl FnOnce(&mut Builder, ValueId, ValueId) -> kiln_graph::Result<ValueId>,
    ) -> Res<Lowered> {
        let (l, r) = (self.expr(left)?, self.expr(right)?);
        let (a, b) = self.alike(&l, &r, left, right)?;
        let outcome = a.zip(b).map(|(a, b)| run(&mut self.graph, a, b));
        let val = outcome.map(|o| self.judge(o, call.whole)).transpose()?;
        let (ta, tb) = (self.temporary(), self.temporary());
        let lets = self.operands((&ta, l, left), (&tb, r, right));
        let (g, function, attempt) = (self.builder(), format_ident!("{function}"), self.attempt(call.whole));
        let tokens = quote!({ #lets #g.#function(#op, #ta, #tb)#attempt });
        Ok(Lowered { val: Val::Tensor(val), tokens })
    }

    /// Abstract values of two operands, of which one may be a number.
    pub(super) fn alike(
        &mut self,
        l: &Lowered,
        r: &Lowered,
        left: &Expr,
        right: &Expr,
    ) -> Res<(Option<ValueId>, Option<ValueId>)> {
        match (&l.val, &r.val) {
            (Val::Tensor(a), Val::Tensor(b)) => Ok((*a, *b)),
            (Val::Tensor(a), Val::Host(_)) => Ok((*a, self.number_like(*a, right)?)),
            (Val::Host(_), Val::Tensor(b)) => Ok((self.number_like(*b, left)?, *b)),
            (Val::Host(_), Val::Host(_)) => Err(Error::new_spanned(left, "one of the two must be a tensor").into()),
            (Val::Tensor(_), val) => {
                Err(Error::new_spanned(right, format!("expected a tensor or a number, found {}", val.describe()))
                    .into())
            }
            (val, _) => {
                Err(Error::new_spanned(left, format!("expected a tensor or a number, found {}", val.describe())).into())
            }
        }
    }

    fn number_like(&mut self, like: Option<ValueId>, source: &Expr) -> Res<Option<ValueId>> {
        let Some(like) = like else { return Ok(None) };
        let ty = self.ty(like);
        let fraction = matches!(crate::types::bare(source), Expr::Lit(lit) if matches!(lit.lit, Lit::Float(_)));
        if ty.dtype == DType::Bool || fraction && ty.dtype.is_int() {
            let message =
                format!("`{}` is no {} and cannot meet {ty}; insert a cast", source.to_token_stream(), ty.dtype);
            return Err(Error::new_spanned(source, message).into());
        }
        self.value(TensorType { dtype: ty.dtype, shape: Vec::new() }, source).map(Some)
    }

    /// `let` statements for two operands, tensors before numbers.
    pub(super) fn operands(&self, l: (&syn::Ident, Lowered, &Expr), r: (&syn::Ident, Lowered, &Expr)) -> TokenStream {
        let (p, b) = (support(), self.builder());
        let number = |name: &syn::Ident, tokens: &TokenStream, val: &Val, like: &syn::Ident, source: &Expr| {
            let attempt = self.attempt(source);
            match val {
                Val::Host(host) if host.symbolic => quote!(let #name = #p::symbolic(#b, #like, &#tokens)#attempt;),
                _ => quote!(let #name = #p::number(#b, #like, (#tokens) as f64)#attempt;),
            }
        };
        let ((ln, l, left), (rn, r, right)) = (l, r);
        let (lt, rt) = (&l.tokens, &r.tokens);
        match (&l.val, &r.val) {
            (Val::Host(_), _) => {
                let second = number(ln, lt, &l.val, rn, left);
                quote!(let #rn = #rt; #second)
            }
            (_, Val::Host(_)) => {
                let second = number(rn, rt, &r.val, ln, right);
                quote!(let #ln = #lt; #second)
            }
            _ => quote!(let #ln = #lt; let #rn = #rt;),
        }
    }
}
