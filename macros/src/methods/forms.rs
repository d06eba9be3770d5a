//! Methods that no function of the builder fits as it is: results that are tuples of a length known at expansion, ranges, and places that are
//! dims or tensors.

use super::{Bound, Call};
use crate::args::Arg;
use crate::expand::support;
use crate::lower::{Lower, Lowered, Res};
use crate::scope::Val;
use crate::types::bare;
use kiln_graph::ValueId;
use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Error, Expr};

/// `clone`: nothing.
pub(super) fn same(_: &mut Lower<'_>, _: &Call<'_>, x: &Arg<ValueId>, _: &Bound<'_>) -> Res<Lowered> {
    Ok(Lowered { val: Val::Tensor(x.value), tokens: x.tokens.clone() })
}

/// `dim` is no tensor: it is lowered where a dim is expected.
pub(super) fn dim(_: &mut Lower<'_>, call: &Call<'_>, _: &Arg<ValueId>, _: &Bound<'_>) -> Res<Lowered> {
    Err(Error::new_spanned(call.whole, "`dim` is called on a tensor variable with a literal axis").into())
}

/// `condition.select(if_true, if_false)`.
pub(super) fn select(lower: &mut Lower<'_>, call: &Call<'_>, x: &Arg<ValueId>, bound: &Bound<'_>) -> Res<Lowered> {
    let (a, b) = (&*bound[0], &*bound[1]);
    let (la, lb) = (lower.expr(a)?, lower.expr(b)?);
    let (ta, tb) = (lower.temporary(), lower.temporary());
    let (va, vb) = lower.alike(&la, &lb, a, b)?;
    let outcome = match (x.value, va, vb) {
        (Some(x), Some(a), Some(b)) => Some(lower.graph.select(x, a, b)),
        _ => None,
    };
    let val = outcome.map(|o| lower.judge(o, call.whole)).transpose()?;
    let lets = lower.operands((&ta, la, a), (&tb, lb, b));
    let (cond, passed) = (lower.temporary(), [ta.to_token_stream(), tb.to_token_stream()]);
    let made = lower.invoke(&quote!(Builder::select), &cond.to_token_stream(), &passed, call.whole);
    let x = &x.tokens;
    Ok(Lowered { val: Val::Tensor(val), tokens: quote!({ let #cond = #x; #lets #made }) })
}

/// `x.slice(axis, start..end)`.
pub(super) fn slice(lower: &mut Lower<'_>, call: &Call<'_>, x: &Arg<ValueId>, bound: &Bound<'_>) -> Res<Lowered> {
    let (axis, (start, end)) = (lower.integer(&bound[0])?, lower.range(&bound[1])?);
    let outcome = match (x.value, axis.value, &start.value, &end.value) {
        (Some(x), Some(axis), Some(start), Some(end)) => Some(lower.graph.slice_range(x, axis, start, end, 1)),
        _ => None,
    };
    let args = [axis.tokens, start.tokens, end.tokens, quote!(1)];
    lower.applied(outcome, &quote!(Builder::slice_range), x, &args, call.whole)
}

/// `x.split(axis, [a, b, ..])` or `x.split(axis, n)`.
pub(super) fn split(lower: &mut Lower<'_>, call: &Call<'_>, x: &Arg<ValueId>, bound: &Bound<'_>) -> Res<Lowered> {
    if !matches!(bare(&bound[1]), Expr::Array(_) | Expr::Reference(_)) {
        return parts(lower, call, x, bound, "split_evenly", |lower, x, axis, n| lower.graph.split_evenly(x, axis, n));
    }
    let (axis, sizes) = (lower.integer(&bound[0])?, lower.dims(&bound[1])?);
    let count = lower.list(&bound[1])?.len();
    let outcome = match (x.value, axis.value, &sizes.value) {
        (Some(x), Some(axis), Some(sizes)) => Some(lower.graph.split(x, axis, sizes)),
        _ => None,
    };
    tuple(lower, call, x, outcome, count, "split", [axis.tokens, sizes.tokens])
}

/// `x.chunk(axis, n)`.
pub(super) fn chunk(lower: &mut Lower<'_>, call: &Call<'_>, x: &Arg<ValueId>, bound: &Bound<'_>) -> Res<Lowered> {
    parts(lower, call, x, bound, "chunk", |lower, x, axis, n| lower.graph.chunk(x, axis, n))
}

/// Parts whose number is an argument.
fn parts(
    lower: &mut Lower<'_>,
    call: &Call<'_>,
    x: &Arg<ValueId>,
    bound: &Bound<'_>,
    function: &str,
    run: fn(&mut Lower<'_>, ValueId, i64, usize) -> kiln_graph::Result<Vec<ValueId>>,
) -> Res<Lowered> {
    let (axis, n) = (lower.integer(&bound[0])?, lower.index(&bound[1])?);
    let Some(count) = n.value else {
        let message = "the number of parts is a literal: it decides what the result is";
        return Err(Error::new_spanned(&*bound[1], message).into());
    };
    let outcome = x.value.zip(axis.value).map(|(x, axis)| run(lower, x, axis, count));
    tuple(lower, call, x, outcome, count, function, [axis.tokens, n.tokens])
}

/// A list of `count` values as a tuple.
fn tuple(
    lower: &mut Lower<'_>,
    call: &Call<'_>,
    x: &Arg<ValueId>,
    outcome: Option<kiln_graph::Result<Vec<ValueId>>>,
    count: usize,
    function: &str,
    args: [TokenStream; 2],
) -> Res<Lowered> {
    let made = outcome.map(|o| lower.judge(o, call.whole)).transpose()?;
    let vals = match made {
        Some(made) => made.into_iter().map(Some).collect(),
        None => vec![None; count],
    };
    let function = quote::format_ident!("{function}");
    let (all, made) = (lower.temporary(), lower.invoke(&quote!(Builder::#function), &x.tokens, &args, call.whole));
    let items = (0..count).map(|i| quote!(#all[#i]));
    let tokens = quote!({ let #all = #made; (#(#items,)*) });
    Ok(Lowered { val: Val::Tuple(vals.into_iter().map(Val::Tensor).collect()), tokens })
}

/// `cache.update(axis, at, rows)`, where `at` is a dim or a tensor.
pub(super) fn update(lower: &mut Lower<'_>, call: &Call<'_>, x: &Arg<ValueId>, bound: &Bound<'_>) -> Res<Lowered> {
    let (axis, rows) = (lower.integer(&bound[0])?, lower.tensor(&bound[2])?);
    if lower.tensorial(&bound[1]) {
        let at = lower.tensor(&bound[1])?;
        let outcome = match (x.value, axis.value, at.value, rows.value) {
            (Some(x), Some(axis), Some(at), Some(rows)) => Some(lower.graph.update_at(x, axis, at, rows)),
            _ => None,
        };
        let args = [axis.tokens, at.tokens, rows.tokens];
        return lower.applied(outcome, &quote!(Builder::update_at), x, &args, call.whole);
    }
    let at = lower.extent(&bound[1])?;
    let outcome = match (x.value, axis.value, &at.value, rows.value) {
        (Some(x), Some(axis), Some(at), Some(rows)) => Some(lower.graph.update(x, axis, at, rows)),
        _ => None,
    };
    lower.applied(outcome, &quote!(Builder::update), x, &[axis.tokens, at.tokens, rows.tokens], call.whole)
}

impl Lower<'_> {
    /// `config.block(h, ..)`: a model that is a method of a config value. Its signature is out of sight here, so its result is checked when the
    /// graph is built, or against an annotation.
    pub(super) fn on_config(&mut self, call: &Call<'_>, receiver: &TokenStream) -> Res<Lowered> {
        let p = support();
        let (mut lets, mut passed) = (Vec::new(), Vec::new());
        for &arg in call.args {
            let lowered = self.expr(arg)?;
            let tokens = lowered.tokens;
            match lowered.val {
                Val::Host(_) => passed.push(tokens),
                _ => {
                    let t = self.temporary();
                    lets.push(quote!(let #t = #tokens;));
                    passed.push(t.to_token_stream());
                }
            }
        }
        let (b, attempt, scope) = (self.builder(), self.attempt(call.whole), call.name);
        let (result, build) = (self.temporary(), crate::expand::method_name(call.name, "build", call.span));
        let tokens = quote!({
            #(#lets)*
            #p::Builder::push_scope(#b, #scope);
            let #result = #receiver.#build(#b, #(#passed),*)#attempt;
            #p::Builder::pop_scope(#b);
            #result
        });
        Ok(Lowered { val: Val::Tensor(None), tokens })
    }
}
