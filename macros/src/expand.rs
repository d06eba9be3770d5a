//! The generated code.
//!
//! A model `m` becomes `enum m {}` with `graph` and `build`, and a macro `m!` that passes its signature on. When the body of a model
//! calls models whose signatures are not known yet, its expansion is `callee! { .. }`: that macro adds the callee's signature and calls
//! [`step`], until all are known. Paths, `use` and visibility thus work for models as for any other item.

use crate::call::{Known, argument, key};
use crate::lower::{Lower, Lowered, Stop};
use crate::scope::{Host, Val};
use crate::signature::{ParamKind, Signature};
use crate::types::as_ident;
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use std::hash::{DefaultHasher, Hash, Hasher};
use syn::{Error, Expr, GenericParam, Ident, ItemFn, Result, Stmt, Visibility};

/// Path of what generated code calls.
pub(crate) fn support() -> TokenStream {
    quote!(::kiln::__private)
}

/// Expands the attribute.
pub(crate) fn attribute(attribute: TokenStream, item: TokenStream) -> TokenStream {
    if !attribute.is_empty() {
        return Error::new_spanned(attribute, "`#[kiln::model]` takes no arguments").into_compile_error();
    }
    let parsed = syn::parse2::<ItemFn>(item).and_then(|f| Ok((Signature::new(&f.sig)?, f)));
    match parsed {
        Ok((signature, item)) => {
            let carrier = carrier(&item);
            let body = expand(&item, &signature, &Known::new(), &TokenStream::new());
            quote!(#carrier #body)
        }
        Err(error) => error.into_compile_error(),
    }
}

/// Goes on with one more signature: `{ signature } { path } { known.. } { item }`.
pub(crate) fn step(input: TokenStream) -> TokenStream {
    let again = || -> Result<TokenStream> {
        let groups: Vec<TokenStream> = input
            .clone()
            .into_iter()
            .filter_map(|t| match t {
                TokenTree::Group(group) => Some(group.stream()),
                _ => None,
            })
            .collect();
        let [signature, path, known, item] = groups.as_slice() else {
            return Err(Error::new(Span::call_site(), "a model is called from the body of another `#[kiln::model]`"));
        };
        let all = quote!(#known { #path } { #signature });
        let item: ItemFn = syn::parse2(item.clone())?;
        let own = Signature::new(&item.sig)?;
        Ok(expand(&item, &own, &signatures(&all)?, &all))
    };
    again().unwrap_or_else(Error::into_compile_error)
}

/// Reads `{ path } { signature } ..`.
fn signatures(all: &TokenStream) -> Result<Known> {
    let mut known = Known::new();
    let mut path = None;
    for token in all.clone() {
        let TokenTree::Group(group) = token else { continue };
        match path.take() {
            None => path = Some(syn::parse2::<syn::Path>(group.stream())?),
            Some(path) => {
                let sig: syn::Signature = syn::parse2(group.stream())?;
                known.insert(key(&path), Signature::new(&sig)?);
            }
        }
    }
    Ok(known)
}

/// The macro that hands out the signature.
fn carrier(item: &ItemFn) -> TokenStream {
    let (sig, vis, ident) = (&item.sig, &item.vis, &item.sig.ident);
    let mut hasher = DefaultHasher::new();
    item.to_token_stream().to_string().hash(&mut hasher);
    let name = format_ident!("__kiln_model_{}_{:x}", ident, hasher.finish());
    let export = matches!(vis, Visibility::Public(_)).then(|| quote!(#[macro_export]));
    let vis = match vis {
        Visibility::Inherited => quote!(),
        vis => quote!(#vis),
    };
    quote! {
        #export
        #[doc(hidden)]
        #[allow(unused_macros)]
        macro_rules! #name {
            ($($state:tt)*) => { ::kiln::__model_step! { { #sig } $($state)* } };
        }
        #[doc(hidden)]
        #[allow(unused_imports)]
        #vis use #name as #ident;
    }
}

/// The model itself, or a call of the macro that has the next signature it needs.
fn expand(item: &ItemFn, signature: &Signature, known: &Known, all: &TokenStream) -> TokenStream {
    let mut lower = Lower::new(&signature.ident.to_string(), &signature.symbols, known);
    let parts = match model(&mut lower, item, signature) {
        Ok(parts) => Some(parts),
        Err(Stop::Want(path)) => return quote!(#path! { { #path } { #all } { #item } }),
        Err(Stop::Error(error)) => {
            lower.errors.push(error);
            None
        }
    };
    let errors: Vec<TokenStream> = lower.errors.iter().map(Error::to_compile_error).collect();
    let parts = parts
        .filter(|_| errors.is_empty())
        .unwrap_or_else(|| Parts { graph: quote!(::core::unreachable!()), build: quote!(::core::unreachable!()) });
    let code = items(item, signature, &lower.builder(), &parts);
    quote!(#(#errors)* #code)
}

/// Bodies of the two generated functions.
struct Parts {
    graph: TokenStream,
    build: TokenStream,
}

fn items(item: &ItemFn, signature: &Signature, builder: &Ident, parts: &Parts) -> TokenStream {
    let p = support();
    let (vis, ident, attrs) = (&item.vis, &signature.ident, &item.attrs);
    let (generics, _, filter) = signature.generics.split_for_impl();
    let host = signature.params.iter().filter_map(|param| match &param.kind {
        ParamKind::Host(ty) => {
            let (name, mutable) = (&param.ident, param.mutable.then(|| quote!(mut)));
            Some(quote!(#mutable #name: #ty))
        }
        ParamKind::Tensor(_) => None,
    });
    let all = signature.params.iter().map(|param| {
        let (name, mutable) = (&param.ident, param.mutable.then(|| quote!(mut)));
        match &param.kind {
            ParamKind::Host(ty) => quote!(#mutable #name: #ty),
            ParamKind::Tensor(_) => quote!(#mutable #name: #p::ValueId),
        }
    });
    let result = match (signature.tuple, signature.outputs.len()) {
        (false, _) => quote!(#p::ValueId),
        (true, n) => {
            let ids = std::iter::repeat_n(quote!(#p::ValueId,), n);
            quote!((#(#ids)*))
        }
    };
    let Parts { graph, build } = parts;
    quote! {
        #(#attrs)*
        #[allow(non_camel_case_types)]
        #vis enum #ident {}

        #[allow(clippy::all, clippy::pedantic, dead_code, non_snake_case, unused_braces, unused_mut, unused_parens, unused_variables)]
        impl #ident {
            /// The model as a graph of its own.
            #vis fn graph #generics (#(#host),*) -> #p::Result<#p::Graph> #filter { #graph }

            /// Adds the model to a graph under construction.
            #vis fn build #generics (#builder: &mut #p::Builder, #(#all),*) -> #p::Result<#result> #filter { #build }
        }
    }
}

fn model(lower: &mut Lower, item: &ItemFn, signature: &Signature) -> std::result::Result<Parts, Stop> {
    let p = support();
    let b = lower.builder();
    let model = &signature.ident;
    for param in &signature.generics.params {
        if let GenericParam::Const(generic) = param {
            let name = Some(lower.unique(&generic.ident.to_string()));
            lower.scopes.declare(&generic.ident, Val::Host(Host { name, ..Host::default() }), false);
        }
    }
    for param in &signature.params {
        if let ParamKind::Host(_) = param.kind {
            let name = Some(lower.unique(&param.ident.to_string()));
            lower.scopes.declare(&param.ident, Val::Host(Host { name, ..Host::default() }), param.mutable);
        }
    }
    let (mut values, mut inputs, mut checks, mut bindings) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut bound: Vec<&Ident> = Vec::new();
    for (ident, spec) in signature.tensors() {
        let (ty, built) = lower.spec(spec)?;
        values.push((ident, lower.value(ty, &spec.source)?));
        let name = ident.to_string();
        inputs.push(quote!(let #ident = #p::input(#b, #name, #built)?;));
        let (what, attempt) = (argument(ident, model), lower.attempt(ident));
        checks.push(quote!(#b.expect(#ident, &#built, #what)#attempt;));
        for (axis, dim) in spec.dims.iter().enumerate() {
            if let Some(symbol) = as_ident(dim).filter(|i| signature.symbols.contains(i))
                && !bound.contains(&symbol)
            {
                bound.push(symbol);
                let axis = axis as i64;
                bindings.push(quote!(let #symbol = #p::axis(#b, #ident, #axis)#attempt;));
            }
        }
    }
    for param in signature.params.iter().filter(|p| p.tensor().is_some()) {
        if let Some((_, id)) = values.iter().find(|(i, _)| **i == param.ident) {
            lower.scopes.declare(&param.ident, Val::Tensor(Some(*id)), param.mutable);
        }
    }

    let (tail, names) = tail(item, signature)?;
    let count = item.block.stmts.len() - 1;
    let Lowered { tokens: body, .. } = lower.statements(&item.block.stmts[..count])?;
    let result = lower.expr(tail)?;
    let (lets, result) = returned(lower, signature, result, tail)?;

    let symbols = signature.symbols.iter().map(|s| {
        let name = s.to_string();
        quote!(let #s = #b.symbol(#name, 1, ::core::primitive::i64::MAX);)
    });
    let generics = signature.generics.params.iter().filter_map(|g| match g {
        GenericParam::Lifetime(_) => None,
        GenericParam::Type(t) => Some(t.ident.to_token_stream()),
        GenericParam::Const(c) => Some(c.ident.to_token_stream()),
    });
    let generics: Vec<TokenStream> = generics.collect();
    let turbofish = (!generics.is_empty()).then(|| quote!(::<#(#generics),*>));
    let params = signature.params.iter().map(|p| &p.ident);
    let name = model.to_string();
    let results: Vec<Ident> = names.iter().map(|_| lower.temporary()).collect();
    let pattern = if signature.tuple { quote!((#(#results,)*)) } else { quote!(#(#results)*) };
    let graph = quote! {
        let mut #b = #p::Builder::new(#name);
        let #b = &mut #b;
        #(#symbols)*
        #(#inputs)*
        let #pattern = Self::build #turbofish (#b, #(#params),*)?;
        #(#b.output(#names, #results);)*
        ::core::result::Result::Ok(::core::mem::take(#b).finish())
    };
    let build = quote! {
        #(#bindings)*
        #(#checks)*
        #body
        #lets
        ::core::result::Result::Ok(#result)
    };
    Ok(Parts { graph, build })
}

/// The expression that a model returns, and the names of its outputs.
fn tail<'a>(item: &'a ItemFn, signature: &Signature) -> std::result::Result<(&'a Expr, Vec<String>), Stop> {
    let Some(Stmt::Expr(tail, None)) = item.block.stmts.last() else {
        return Err(
            Error::new_spanned(&item.sig.output, "the body must end with the tensor that the model returns").into()
        );
    };
    let name = |expr: &Expr, default: String| as_ident(expr).map_or(default, Ident::to_string);
    let names = match tail {
        Expr::Tuple(tuple) if signature.tuple && tuple.elems.len() == signature.outputs.len() => {
            tuple.elems.iter().enumerate().map(|(i, e)| name(e, format!("output{i}"))).collect()
        }
        _ if signature.tuple => (0..signature.outputs.len()).map(|i| format!("output{i}")).collect(),
        tail => vec![name(tail, "output".to_owned())],
    };
    Ok((tail, names))
}

/// Checks what is returned against the signature: statements, then the expression to return.
fn returned(
    lower: &mut Lower,
    signature: &Signature,
    result: Lowered,
    tail: &Expr,
) -> std::result::Result<(TokenStream, TokenStream), Stop> {
    let what = |i: usize| match signature.tuple {
        true => format!("result {i} of `{}`", signature.ident),
        false => format!("the result of `{}`", signature.ident),
    };
    if !signature.tuple {
        let Lowered { tokens, .. } = lower.expect(&signature.outputs[0], result, tail, &what(0))?;
        return Ok((TokenStream::new(), tokens));
    }
    let n = signature.outputs.len();
    let vals = match result.val {
        Val::Tuple(vals) if vals.len() == n => vals,
        Val::Tensor(None) => vec![Val::Tensor(None); n],
        val => {
            let message = format!("`{}` returns a tuple of {n} tensors, found {}", signature.ident, val.describe());
            return Err(Error::new_spanned(tail, message).into());
        }
    };
    let items: Vec<Ident> = vals.iter().map(|_| lower.temporary()).collect();
    let tokens = result.tokens;
    let lets = quote!(let (#(#items,)*) = #tokens;);
    let mut results = Vec::new();
    for (i, (val, item)) in vals.into_iter().zip(&items).enumerate() {
        let source = match tail {
            Expr::Tuple(tuple) => &tuple.elems[i],
            tail => tail,
        };
        let lowered = Lowered { val, tokens: item.to_token_stream() };
        results.push(lower.expect(&signature.outputs[i], lowered, source, &what(i))?.tokens);
    }
    Ok((lets, quote!((#(#results,)*))))
}
