//! The free functions: what makes tensors of lists, equations and numbers.

use super::{Call, Param};
use crate::args::Arg;
use crate::expand::support;
use crate::lower::{Lower, Lowered, Res};
use crate::scope::Val;
use kiln_graph::{TensorType, ValueId};
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{Error, Expr};

/// A free function.
pub(crate) struct Function {
    /// Its name.
    pub name: &'static str,
    /// Shapes of operands and result.
    #[cfg_attr(not(test), expect(dead_code, reason = "for docs/methods.md"))]
    pub shapes: &'static str,
    /// What it does, in a line.
    #[cfg_attr(not(test), expect(dead_code, reason = "for docs/methods.md"))]
    pub about: &'static str,
    /// Its parameters.
    pub params: &'static [Param],
}

macro_rules! params {
    ($($name:literal),*) => {
        &[$(Param { name: $name, default: None }),*]
    };
}

/// Every free function.
pub(crate) static FUNCTIONS: [Function; 5] = [
    Function {
        name: "concat",
        params: params!("list", "axis"),
        shapes: "list of `[.., n, ..]` -> `[.., sum of n, ..]`",
        about: "Joins along an axis.",
    },
    Function {
        name: "stack",
        params: params!("list", "axis"),
        shapes: "list of `[..]` -> `[.., count, ..]`",
        about: "Joins along a new axis.",
    },
    Function {
        name: "einsum",
        params: params!("equation", "operands.."),
        shapes: "any",
        about: "Einstein summation, as in `einsum(\"bik,bjk->bij\", q, k)`.",
    },
    Function {
        name: "full",
        params: params!("dtype", "shape", "value"),
        shapes: "`shape`",
        about: "One number everywhere.",
    },
    Function {
        name: "iota",
        params: params!("dtype", "shape", "axis"),
        shapes: "`shape`",
        about: "The index along `axis`.",
    },
];

impl Lower<'_> {
    /// Lowers a call of a free function.
    pub(crate) fn function(&mut self, function: &Function, args: &[&Expr], whole: &Expr) -> Res<Lowered> {
        let name = function.name;
        let call = Call { name, args, whole, span: whole.span() };
        let (p, b, attempt) = (support(), self.builder(), self.attempt(whole));
        if name == "einsum" {
            let Some((equation, operands)) = args.split_first() else {
                return Err(Error::new(call.span, "`einsum` takes an equation and its operands").into());
            };
            let equation = self.text(equation)?;
            let operands = operands.iter().map(|a| self.tensor(a)).collect::<Res<Vec<Arg<ValueId>>>>()?;
            let list: Option<Vec<ValueId>> = operands.iter().map(|a| a.value).collect();
            let outcome = list.map(|list| self.graph.einsum(&equation, &list));
            let (t, tokens) = (self.temporary(), operands.iter().map(|a| &a.tokens));
            let tokens = quote!({ let #t = &[#(#tokens),*]; #b.einsum(#equation, #t)#attempt });
            let val = outcome.map(|outcome| self.judge(outcome, whole)).transpose()?;
            return Ok(Lowered { val: Val::Tensor(val), tokens });
        }
        let bound = call.bind(function.params)?;
        let (val, tokens) = match name {
            "concat" | "stack" => {
                let (list, axis) = (self.tensors(&bound[0])?, self.integer(&bound[1])?);
                let outcome = list.value.zip(axis.value).map(|(list, axis)| match name {
                    "concat" => self.graph.concat(&list, axis),
                    _ => self.graph.stack(&list, axis),
                });
                let (t, list, axis, function) = (self.temporary(), list.tokens, axis.tokens, format_ident!("{name}"));
                (outcome, quote!({ let #t = #list; #b.#function(#t, #axis)#attempt }))
            }
            "full" => {
                let (dtype, shape, value) = (self.dtype(&bound[0])?, self.dims(&bound[1])?, self.number(&bound[2])?);
                let made = dtype.value.zip(shape.value).map(|(dtype, shape)| TensorType { dtype, shape });
                let val = made.map(|ty| self.value(ty, whole)).transpose()?;
                let (dtype, shape, value) = (dtype.tokens, shape.tokens, value.tokens);
                (val.map(Ok), quote!(#p::full(#b, #dtype, #shape, #value)#attempt))
            }
            _ => {
                let (dtype, shape, axis) = (self.dtype(&bound[0])?, self.dims(&bound[1])?, self.index(&bound[2])?);
                let outcome = match (dtype.value, shape.value, axis.value) {
                    (Some(dtype), Some(shape), Some(axis)) => Some(self.graph.iota(dtype, &shape, axis)),
                    _ => None,
                };
                let (dtype, shape, axis) = (dtype.tokens, shape.tokens, axis.tokens);
                (outcome, quote!(#b.iota(#dtype, #shape, #axis)#attempt))
            }
        };
        let val = val.map(|outcome| self.judge(outcome, whole)).transpose()?;
        Ok(Lowered { val: Val::Tensor(val), tokens })
    }
}
