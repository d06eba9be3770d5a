//! The generated code.
//!
//! A model `m` becomes `enum m {}` with `graph` and `build`, and a macro `m!` that passes its signature on. When the body of a model
//! calls models whose signatures are not known yet, its expansion is `callee! { .. }`: that macro adds the callee's signature and calls
//! [`step`], until all are known. Paths, `use` and visibility thus work for models as for any other item.
//!
//! A model that is a method becomes two methods, `m_graph` and `m_build`.

use crate::call::{Known, argument, key};
use crate::lower::{Lower, Lowered, Stop};
use crate::scope::{Host, Val};
use crate::signature::{Multiple, Param, ParamKind, Signature};
use crate::types::as_ident;
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use syn::{Error, Expr, GenericParam, Ident, ImplItemFn, Result, Stmt, Visibility};

/// Path of what generated code calls.
pub(crate) fn support() -> TokenStream {
    quote!(::kiln::__private)
}

/// A model's source: the function, and what its attribute requires.
struct Source {
    item: ImplItemFn,
    multiples: Vec<Multiple>,
    /// The attribute's arguments, to hand on with the function.
    attribute: TokenStream,
}

impl Source {
    fn new(attribute: TokenStream, item: TokenStream) -> Result<(Source, Signature)> {
        let item: ImplItemFn = syn::parse2(item)?;
        let signature = Signature::new(&item.sig)?;
        Ok((Source { multiples: Multiple::list(&attribute)?, item, attribute }, signature))
    }
}

/// Expands the attribute.
pub(crate) fn attribute(attribute: TokenStream, item: TokenStream) -> TokenStream {
    match Source::new(attribute, item) {
        Ok((source, signature)) => {
            // A method is no item with a path: it is called by its receiver, and hands out nothing.
            let item = &source.item;
            let carrier = signature.receiver.is_none().then(|| carrier(&item.sig, &item.vis, &item.to_token_stream()));
            let body = expand(&source, &signature, &Known::new(), &TokenStream::new());
            quote!(#carrier #body)
        }
        Err(error) => error.into_compile_error(),
    }
}

/// Goes on with one more signature: `{ signature } { path } { known.. } { attribute } { item }`.
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
        let [signature, path, known, attribute, item] = groups.as_slice() else {
            return Err(Error::new(Span::call_site(), "a model is called from the body of another `#[kiln::model]`"));
        };
        if known.to_string() == crate::kernel::MARK {
            let function: syn::Signature = syn::parse2(signature.clone())?;
            return Ok(crate::kernel::expand(&function, attribute.clone(), item.clone()));
        }
        let all = quote!(#known { #path } { #signature });
        let (source, own) = Source::new(attribute.clone(), item.clone())?;
        Ok(expand(&source, &own, &signatures(&all)?, &all))
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
pub(crate) fn carrier(sig: &syn::Signature, vis: &Visibility, source: &TokenStream) -> TokenStream {
    let ident = &sig.ident;
    let mut hasher = DefaultHasher::new();
    source.to_string().hash(&mut hasher);
    // Equal models in two modules are exported side by side.
    let place = ident.span().unwrap();
    (place.file(), place.line(), place.column()).hash(&mut hasher);
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
fn expand(source: &Source, signature: &Signature, known: &Known, all: &TokenStream) -> TokenStream {
    let Source { item, attribute, .. } = source;
    // A body that is generic in dtypes is checked with two choices of them; the code is the same for both.
    let checks = if signature.dtypes.is_empty() { 1 } else { 2 };
    let (mut parts, mut errors) = (None, Vec::new());
    for check in 0..checks {
        let mut lower = Lower::new(signature, known, check);
        match model(&mut lower, source, signature) {
            Ok(made) => parts = parts.or(Some(made)),
            Err(Stop::Want(path)) => return quote!(#path! { { #path } { #all } { #attribute } { #item } }),
            Err(Stop::Error(error)) => lower.errors.push(error),
        }
        let with: Vec<String> = lower.dtypes.iter().map(|(name, dtype)| format!("{name} = {dtype}")).collect();
        errors.extend(lower.errors.iter().map(|error| match with.is_empty() {
            true => error.to_compile_error(),
            false => Error::new(error.span(), format!("{error} (with {})", with.join(", "))).to_compile_error(),
        }));
        if !errors.is_empty() {
            break;
        }
    }
    let parts = parts
        .filter(|_| errors.is_empty())
        .unwrap_or_else(|| Parts { graph: quote!(::core::unreachable!()), build: quote!(::core::unreachable!()) });
    let code = items(item, signature, &parts);
    // Beside a method there is no place but in it.
    match &signature.receiver {
        None => quote!(#(#errors)* #code),
        Some(_) if errors.is_empty() => code,
        Some(_) => quote!(#(#errors)*),
    }
}

/// Bodies of the two generated functions.
struct Parts {
    graph: TokenStream,
    build: TokenStream,
}

/// The builder's variable in the generated code.
pub(crate) fn builder() -> Ident {
    Ident::new("builder", Span::mixed_site())
}

/// The name of a function that is generated beside others: `block_graph`, `block_build`.
pub(crate) fn method_name(model: &str, kind: &str, span: Span) -> Ident {
    Ident::new(&format!("{model}_{kind}"), span)
}

fn items(item: &ImplItemFn, signature: &Signature, parts: &Parts) -> TokenStream {
    let p = support();
    let builder = builder();
    let (vis, ident, attrs) = (&item.vis, &signature.ident, &item.attrs);
    let (graph_generics, _, filter) = signature.graph_generics.split_for_impl();
    let (generics, ..) = signature.generics.split_for_impl();
    let host = signature.params.iter().filter_map(|param| {
        let (name, mutable) = (&param.ident, param.mutable.then(|| quote!(mut)));
        match &param.kind {
            ParamKind::Host(ty) => Some(quote!(#mutable #name: #ty)),
            ParamKind::Optional(_) => Some(quote!(#name: ::core::primitive::bool)),
            ParamKind::Tensor(_) => None,
        }
    });
    let all = signature.params.iter().map(|param| {
        let (name, mutable) = (&param.ident, param.mutable.then(|| quote!(mut)));
        match &param.kind {
            ParamKind::Host(ty) => quote!(#mutable #name: #ty),
            ParamKind::Optional(_) => quote!(#mutable #name: ::core::option::Option<#p::ValueId>),
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
    let used = used(signature);
    let receiver = signature.receiver.as_ref().map(|r| quote!(#r,));
    let name = |kind: &str| match &signature.receiver {
        Some(_) => method_name(&ident.to_string(), kind, ident.span()),
        None => Ident::new(kind, Span::call_site()),
    };
    let (graph_name, build_name) = (name("graph"), name("build"));
    let allow = quote! {
        #[allow(clippy::all, clippy::pedantic, dead_code, non_snake_case, unused_braces, unused_mut, unused_parens, unused_variables)]
    };
    // In an `impl` of the user's, `allow` and docs go to each function.
    let (outer, each, docs) = match &signature.receiver {
        Some(_) => (None, Some(&allow), Some(quote!(#(#attrs)* #[doc = ""]))),
        None => (Some(&allow), None, None),
    };
    let functions = quote! {
        #docs
        /// The model as a graph of its own.
        #each
        #vis fn #graph_name #graph_generics (#receiver #(#host),*) -> #p::Result<#p::Graph> #filter { #graph }

        /// Adds the model to a graph under construction.
        #each
        #vis fn #build_name #generics (#receiver #builder: &mut #p::Builder, #(#all),*) -> #p::Result<#result> #filter { #used #build }
    };
    if signature.receiver.is_some() {
        return functions;
    }
    quote! {
        #(#attrs)*
        #[allow(non_camel_case_types)]
        #vis enum #ident {}

        #outer
        impl #ident { #functions }
    }
}

/// Uses the names in the signature's types as the compiler would if they were left there, so that imports made for them are not said to be
/// unused. A macro of each name stands in where nothing is imported: the types are names to `#[kiln::model]` only.
fn used(signature: &Signature) -> TokenStream {
    let specs = signature.params.iter().filter_map(Param::spec).chain(&signature.outputs);
    let mut seen = BTreeSet::new();
    let mut tokens = TokenStream::new();
    for path in specs.flat_map(|spec| [&spec.name, &spec.dtype]) {
        let Some(ident) = path.get_ident().filter(|i| seen.insert(i.to_string())) else { continue };
        // What the language has (f16 only for itself, as yet) is not imported, and dtype parameters are no names of the module.
        const OWN: [&str; 12] = ["f64", "f32", "f16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool"];
        let known = OWN.iter().any(|n| ident == n);
        if known || signature.class(path).is_some() {
            continue;
        }
        let alias = format_ident!("_{}", ident);
        tokens.extend(quote! {
            #[allow(unused_macros)]
            macro_rules! #ident { () => {}; }
            #[allow(unused_imports, non_camel_case_types)]
            use #ident as #alias;
        });
    }
    tokens
}

fn model(lower: &mut Lower, source: &Source, signature: &Signature) -> std::result::Result<Parts, Stop> {
    let item = &source.item;
    let p = support();
    let b = builder();
    let model = &signature.ident;
    if let Some(receiver) = &signature.receiver {
        let name = Some(lower.unique("self"));
        let ident = Ident::new("self", receiver.self_token.span);
        lower.scopes.declare(&ident, Val::Host(Host { name, ..Host::default() }), false);
    }
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
    for param in &signature.params {
        let (Some(spec), ident) = (param.spec(), &param.ident) else { continue };
        let (ty, built) = lower.spec(spec)?;
        let id = Some(lower.value(ty, &spec.source)?);
        let (name, what, attempt) = (ident.to_string(), argument(ident, model), lower.attempt(ident));
        if param.tensor().is_none() {
            inputs.push(quote! {
                let #ident = match #ident {
                    true => ::core::option::Option::Some(#p::input(#b, #name, #built)?),
                    false => ::core::option::Option::None,
                };
            });
            checks.push(quote!(if let ::core::option::Option::Some(present) = #ident {
                #b.expect(present, &#built, #what)#attempt;
            }));
            values.push((param, Val::Optional(id)));
            continue;
        }
        values.push((param, Val::Tensor(id)));
        inputs.push(quote!(let #ident = #p::input(#b, #name, #built)?;));
        checks.push(quote!(#b.expect(#ident, &#built, #what)#attempt;));
        if let Some(class) = signature.class(&spec.dtype).filter(|c| !bound.contains(&&c.ident)) {
            bound.push(&class.ident);
            let (dtype, int) = (&class.ident, class.int);
            bindings.push(quote!(let #dtype = #p::dtype(#b, #ident, #int, #what)#attempt;));
        }
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
    for (param, val) in values {
        lower.scopes.declare(&param.ident, val, param.mutable);
    }
    for Multiple { dim, of, source } in &source.multiples {
        let what = format!("`{}`, which `{model}` requires", source.to_token_stream());
        let ((dim, dim_tokens), (of, of_tokens)) = (lower.dim(dim)?, lower.dim(of)?);
        let outcome = lower.graph.multiple(&dim, &of, &what);
        lower.judge(outcome, source)?;
        let attempt = lower.attempt(source);
        bindings.push(quote!(#b.multiple(&#dim_tokens, &#of_tokens, #what)#attempt;));
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
    let build_name = match &signature.receiver {
        Some(receiver) => {
            let (this, build) = (&receiver.self_token, method_name(&model.to_string(), "build", model.span()));
            quote!(#this.#build)
        }
        None => quote!(Self::build),
    };
    let dtypes = signature.dtypes.iter().map(|class| {
        let ident = &class.ident;
        quote!(let #ident = <#ident as #p::Element>::DTYPE;)
    });
    let name = model.to_string();
    let results: Vec<Ident> = names.iter().map(|_| lower.temporary()).collect();
    let pattern = if signature.tuple { quote!((#(#results,)*)) } else { quote!(#(#results)*) };
    let graph = quote! {
        let mut #b = #p::Builder::new(#name);
        let #b = &mut #b;
        #(#symbols)*
        #(#dtypes)*
        #(#inputs)*
        let #pattern = #build_name #turbofish (#b, #(#params),*)?;
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
fn tail<'a>(item: &'a ImplItemFn, signature: &Signature) -> std::result::Result<(&'a Expr, Vec<String>), Stop> {
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
