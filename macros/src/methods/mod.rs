//! Methods of tensors: what a method is, and how a call of one is lowered. The methods themselves are in [`table`], those with a form of
//! their own in [`forms`].

mod bind;
mod forms;
mod function;
#[cfg(test)]
mod page;
mod pair;
pub(crate) mod suggest;
mod table;

use crate::args::Arg;
use crate::expand::support;
use crate::lower::{Lower, Lowered, Res};
use crate::scope::Val;
use kiln_graph::{BinaryOp, CompareOp, UnaryOp, ValueId};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use std::borrow::Cow;
use syn::{Error, Expr};

pub(crate) use function::{FUNCTIONS, Function};

/// A method of tensors.
pub(crate) struct Method {
    /// Its name.
    pub name: &'static str,
    /// Parameters after the receiver.
    pub params: &'static [Param],
    /// Shapes of receiver and result.
    #[cfg_attr(not(test), expect(dead_code, reason = "for docs/methods.md"))]
    pub shapes: &'static str,
    /// What it does, in a line.
    #[cfg_attr(not(test), expect(dead_code, reason = "for docs/methods.md"))]
    pub about: &'static str,
    /// How it is lowered.
    pub form: Form,
}

/// A parameter. It is given by place or by name.
pub(crate) struct Param {
    /// Its name.
    pub name: &'static str,
    /// Source of the expression that stands for it where it is left out; none if it must be given.
    pub default: Option<&'static str>,
}

/// Arguments by parameter, with defaults.
type Bound<'e> = [Cow<'e, Expr>];

/// How a method is lowered.
pub(crate) enum Form {
    /// A function of one operand.
    Unary(UnaryOp),
    /// A function of two operands that broadcast, either of which may be a number.
    Binary(BinaryOp),
    /// A comparison of two operands that broadcast, either of which may be a number.
    Compare(CompareOp),
    /// Anything else.
    Method(fn(&mut Lower<'_>, &Call<'_>, &Arg<ValueId>, &Bound<'_>) -> Res<Lowered>),
}

/// A call of a method or free function.
pub(crate) struct Call<'e> {
    name: &'e str,
    args: &'e [&'e Expr],
    whole: &'e Expr,
    span: Span,
}

/// What a function of the builder makes: one value, or a tuple.
trait Made: Sized {
    /// The value of the call.
    fn val(made: Option<Self>) -> Val;
}

impl Made for ValueId {
    fn val(made: Option<ValueId>) -> Val {
        Val::Tensor(made)
    }
}

impl Made for (ValueId, ValueId) {
    fn val(made: Option<(ValueId, ValueId)>) -> Val {
        Val::Tuple(vec![Val::Tensor(made.map(|m| m.0)), Val::Tensor(made.map(|m| m.1))])
    }
}

/// The method of this name.
fn lookup(name: &str) -> Option<&'static Method> {
    table::GROUPS.iter().flat_map(|g| &g.methods).find(|m| m.name == name)
}

impl Lower<'_> {
    /// Lowers a method, or an operator under its method's name.
    pub(crate) fn method(
        &mut self,
        name: &str,
        receiver: &Expr,
        args: &[&Expr],
        whole: &Expr,
        span: Span,
    ) -> Res<Lowered> {
        let call = Call { name, args, whole, span };
        let (method, p) = (lookup(name), support());
        match method {
            Some(Method { params, form: Form::Binary(op), .. }) => {
                let (bound, variant) = (call.bind(params)?, format_ident!("{}", format!("{op:?}")));
                let first = quote!(#p::BinaryOp::#variant);
                return self.pair(receiver, &bound[0], &call, "binary", first, |g, a, b| g.binary(*op, a, b));
            }
            Some(Method { params, form: Form::Compare(op), .. }) => {
                let (bound, variant) = (call.bind(params)?, format_ident!("{}", format!("{op:?}")));
                let first = quote!(#p::CompareOp::#variant);
                return self.pair(receiver, &bound[0], &call, "compare", first, |g, a, b| g.compare(*op, a, b));
            }
            _ => {}
        }
        let x = match self.expr(receiver)? {
            Lowered { val: Val::Tensor(value), tokens } => Arg { value, tokens },
            Lowered { val: Val::Host(_), tokens } if !matches!(crate::types::bare(receiver), Expr::Lit(_)) => {
                return self.on_config(&call, &tokens);
            }
            Lowered { val, .. } => {
                let hint = if let Val::Optional(_) = val { "; `if let Some(x) = ..` takes it out" } else { "" };
                let message = format!("`{name}` is a method of tensors, and this is {}{hint}", val.describe());
                return Err(Error::new_spanned(receiver, message).into());
            }
        };
        let Some(method) = method else { return self.unknown(&call) };
        let bound = call.bind(method.params)?;
        match method.form {
            Form::Unary(op) => {
                let val = x.value.map(|x| self.graph.unary(op, x)).map(|o| self.judge(o, whole)).transpose()?;
                let variant = format_ident!("{}", format!("{op:?}"));
                let (b, t, attempt, x) = (self.builder(), self.temporary(), self.attempt(whole), x.tokens);
                let tokens = quote!({ let #t = #x; #b.unary(#p::UnaryOp::#variant, #t)#attempt });
                Ok(Lowered { val: Val::Tensor(val), tokens })
            }
            Form::Method(lower) => lower(self, &call, &x, &bound),
            Form::Binary(_) | Form::Compare(_) => self.unknown(&call),
        }
    }

    fn unknown(&self, call: &Call<'_>) -> Res<Lowered> {
        let message = format!("tensors have no method `{}`{}", call.name, suggest::method(call.name));
        Err(Error::new(call.span, message).into())
    }

    /// `{ let x = ..; Owner::function(builder, x, ..)? }`. Arguments may use the builder, so they are evaluated first.
    fn invoke(&mut self, function: &TokenStream, x: &TokenStream, args: &[TokenStream], whole: &Expr) -> TokenStream {
        let (p, b, attempt, t) = (support(), self.builder(), self.attempt(whole), self.temporary());
        let names: Vec<syn::Ident> = args.iter().map(|_| self.temporary()).collect();
        quote!({ let #t = #x; #(let #names = #args;)* #p::#function(#b, #t, #(#names),*)#attempt })
    }

    /// The outcome of an abstract step and the code of the real one.
    fn applied<M: Made>(
        &mut self,
        outcome: Option<kiln_graph::Result<M>>,
        function: &TokenStream,
        x: &Arg<ValueId>,
        args: &[TokenStream],
        whole: &Expr,
    ) -> Res<Lowered> {
        let made = outcome.map(|o| self.judge(o, whole)).transpose()?;
        let tokens = self.invoke(function, &x.tokens, args, whole);
        Ok(Lowered { val: M::val(made), tokens })
    }
}
