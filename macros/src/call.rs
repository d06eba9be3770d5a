//! Calls: one model in another, which inlines it, and the few free functions over tensors.
//!
//! A procedural macro sees one function at a time. So each model leaves behind a macro of its own name that hands out its signature, and
//! a model that calls another asks for it before it is checked: see [`crate::expand`].

use crate::expand::support;
use crate::lower::{Lower, Lowered, Res, Stop};
use crate::methods::{FUNCTIONS, Function, suggest};
use crate::scope::{Host, Scopes, Val};
use crate::signature::{Param, ParamKind, Signature};
use crate::types::as_ident;
use kiln_graph::{DType, TensorType};
use quote::{ToTokens, quote};
use std::collections::BTreeMap;
use syn::{Error, Expr, ExprCall, GenericArgument, GenericParam, PathArguments};

/// Signatures that were asked for, by path.
pub(crate) type Known = BTreeMap<String, Signature>;

/// The free function that is called, which makes a tensor whatever its arguments are.
pub(crate) fn creates(func: &Expr) -> Option<&'static Function> {
    let ident = as_ident(func)?;
    FUNCTIONS.iter().find(|f| ident == f.name)
}

/// The path of a model without generic arguments, and those of its last segment.
pub(crate) fn plain(path: &syn::Path) -> (syn::Path, PathArguments) {
    let mut plain = path.clone();
    let arguments = plain.segments.last_mut().map(|s| std::mem::take(&mut s.arguments)).unwrap_or_default();
    (plain, arguments)
}

/// The key of a path in [`Known`].
pub(crate) fn key(path: &syn::Path) -> String {
    path.to_token_stream().to_string().replace(' ', "")
}

impl Lower<'_> {
    pub(crate) fn call(&mut self, call: &ExprCall, expr: &Expr) -> Res<Lowered> {
        let Expr::Path(func) = &*call.func else {
            return Err(Error::new_spanned(&call.func, "only models are called with tensors").into());
        };
        let args: Vec<&Expr> = call.args.iter().collect();
        if let Some(function) = creates(&call.func) {
            return self.function(function, &args, expr);
        }
        if let ([arg], Some(some)) = (&args[..], as_ident(&call.func))
            && some == "Some"
        {
            let arg = self.tensor(arg)?;
            let tokens = arg.tokens;
            return Ok(Lowered { val: Val::Optional(arg.value), tokens: quote!(#some(#tokens)) });
        }
        if let (Some(Expr::Array(_)), Some(name)) = (args.first(), as_ident(&call.func))
            && let Some(hint) = suggest::function(&name.to_string())
        {
            return Err(Error::new_spanned(name, format!("`{name}` is no function of tensors{hint}")).into());
        }
        let (path, arguments) = plain(&func.path);
        if path.is_ident(&self.model) {
            return Err(Error::new_spanned(&path, "a model that calls itself never ends: a call inlines it").into());
        }
        if let Some(last) = path.segments.last().filter(|s| s.ident.to_string().starts_with(char::is_uppercase)) {
            let message = format!("`{}` is no model, and a tensor is not kept in other values than tuples", last.ident);
            return Err(Error::new_spanned(&path, message).into());
        }
        let known = self.known;
        let Some(signature) = known.get(&key(&path)) else { return Err(Stop::Want(path)) };
        if call.args.len() != signature.params.len() {
            let names: Vec<String> = signature.params.iter().map(|p| p.ident.to_string()).collect();
            let message = format!(
                "model `{}` takes {} arguments ({}), found {}",
                signature.ident,
                names.len(),
                names.join(", "),
                call.args.len()
            );
            return Err(Error::new_spanned(expr, message).into());
        }
        let args = call.args.iter().map(|a| self.expr(a)).collect::<Res<Vec<_>>>()?;
        let results = self.inlined(signature, &args, call, &arguments)?;
        let (b, attempt) = (self.builder(), self.attempt(expr));
        let (mut lets, mut passed) = (Vec::new(), Vec::new());
        for (param, arg) in signature.params.iter().zip(args) {
            let tokens = arg.tokens;
            if param.spec().is_some() {
                let t = self.temporary();
                lets.push(quote!(let #t = #tokens;));
                passed.push(t.to_token_stream());
            } else {
                passed.push(tokens);
            }
        }
        let (scope, result) = (signature.ident.to_string(), self.temporary());
        let tokens = quote!({
            #(#lets)*
            #b.push_scope(#scope);
            let #result = #path::build #arguments (#b, #(#passed),*)#attempt;
            #b.pop_scope();
            #result
        });
        Ok(Lowered { val: results, tokens })
    }

    /// Checks arguments against a signature and yields the value of the call.
    fn inlined(
        &mut self,
        signature: &Signature,
        args: &[Lowered],
        call: &ExprCall,
        arguments: &PathArguments,
    ) -> Res<Val> {
        let mut callee = Scopes::default();
        callee.enter();
        let mut host = |ident: &syn::Ident, host: Host| callee.declare(ident, Val::Host(host), false);
        for ((param, arg), source) in signature.params.iter().zip(args).zip(&call.args) {
            match (&param.kind, &arg.val) {
                (ParamKind::Host(_), Val::Host(value)) => host(&param.ident, value.clone()),
                // `None` for a config value.
                (ParamKind::Host(_), Val::Optional(None)) => host(&param.ident, Host::default()),
                (ParamKind::Tensor(_), Val::Tensor(_)) | (ParamKind::Optional(_), Val::Optional(_)) => {}
                (ParamKind::Optional(_), Val::Tensor(_)) => {
                    let message = format!(
                        "argument `{}` of `{}` may be absent: write `Some({})`",
                        param.ident,
                        signature.ident,
                        source.to_token_stream()
                    );
                    return Err(Error::new_spanned(source, message).into());
                }
                (ParamKind::Tensor(spec) | ParamKind::Optional(spec), val) => {
                    let message = format!(
                        "argument `{}` of `{}` is {}, found {}",
                        param.ident,
                        signature.ident,
                        spec.source
                            .to_string()
                            .replace(" ,", ",")
                            .replace("< ", "<")
                            .replace(" <", "<")
                            .replace(" >", ">"),
                        val.describe()
                    );
                    return Err(Error::new_spanned(source, message).into());
                }
                (ParamKind::Host(_), val) => {
                    let message = format!(
                        "argument `{}` of `{}` is a config value, found {}",
                        param.ident,
                        signature.ident,
                        val.describe()
                    );
                    return Err(Error::new_spanned(source, message).into());
                }
            }
        }
        let mut given = match arguments {
            PathArguments::AngleBracketed(list) => list.args.iter().collect::<Vec<_>>().into_iter(),
            _ => Vec::new().into_iter(),
        };
        for param in signature.generics.params.iter() {
            let argument = if matches!(param, GenericParam::Lifetime(_)) { None } else { given.next() };
            if let GenericParam::Const(generic) = param {
                let value = match argument {
                    Some(GenericArgument::Const(expr)) => self.host(expr)?.0,
                    Some(GenericArgument::Type(ty)) => match syn::parse2::<Expr>(ty.to_token_stream()) {
                        Ok(expr) => self.host(&expr)?.0,
                        Err(_) => Host::default(),
                    },
                    _ => Host::default(),
                };
                let name = value.name.or_else(|| Some(self.unique(&format!("{}::{}", signature.ident, generic.ident))));
                host(&generic.ident, Host { name, ..value });
            }
        }
        // A symbol takes the extent of the first axis that it is alone on.
        let tensors = signature.params.iter().zip(args).filter_map(|(p, a)| Some((p.tensor()?, &a.val)));
        for (spec, val) in tensors.clone() {
            let ty = match val {
                Val::Tensor(Some(id)) => Some(self.ty(*id)),
                _ => None,
            };
            for (axis, dim) in spec.dims.iter().enumerate() {
                if let Some(symbol) = as_ident(dim).filter(|i| signature.symbols.contains(i))
                    && callee.get(&symbol.to_string()).is_none()
                {
                    let dim = match ty.as_ref().and_then(|t| t.shape.get(axis)) {
                        Some(dim) => dim.clone(),
                        None => self.opaque(&symbol.to_string()),
                    };
                    let host = Host { name: Some(dim.to_string()), dim: Some(dim), symbolic: true };
                    callee.declare(symbol, Val::Host(host), false);
                }
            }
        }
        let dtypes = self.dtypes_of(signature, args, call)?;
        if dtypes.len() < signature.dtypes.len() {
            // A dtype is not known before the graph is built, and so is nothing else.
            return Ok(match signature.tuple {
                false => Val::Tensor(None),
                true => Val::Tuple(vec![Val::Tensor(None); signature.outputs.len()]),
            });
        }
        let caller = (std::mem::replace(&mut self.scopes, callee), std::mem::replace(&mut self.dtypes, dtypes));
        let types = (|| {
            let specs = signature.params.iter().filter_map(Param::spec);
            let params = specs.map(|s| Ok(self.spec(s)?.0)).collect::<Res<Vec<TensorType>>>()?;
            let outputs = signature.outputs.iter().map(|s| Ok(self.spec(s)?.0)).collect::<Res<Vec<TensorType>>>()?;
            Ok::<_, Stop>((params, outputs))
        })();
        (self.scopes, self.dtypes) = caller;
        let (params, outputs) = types?;
        let sources = signature.params.iter().zip(args).zip(&call.args).filter(|((p, _), _)| p.spec().is_some());
        for (((param, arg), source), ty) in sources.zip(&params) {
            if let Val::Tensor(Some(id)) | Val::Optional(Some(id)) = arg.val {
                let outcome = self.graph.expect(id, ty, &argument(&param.ident, &signature.ident));
                self.judge(outcome, source)?;
            }
        }
        let mut vals = outputs
            .into_iter()
            .map(|ty| Ok(Val::Tensor(Some(self.value(ty, &call.func)?))))
            .collect::<Res<Vec<_>>>()?;
        Ok(match (signature.tuple, vals.pop()) {
            (false, Some(val)) => val,
            (_, last) => Val::Tuple(vals.into_iter().chain(last).collect()),
        })
    }

    /// The dtypes that the arguments of a call give to a model's dtype parameters, as far as they are known.
    fn dtypes_of(&self, signature: &Signature, args: &[Lowered], call: &ExprCall) -> Res<BTreeMap<String, DType>> {
        let mut dtypes = BTreeMap::new();
        for ((param, arg), source) in signature.params.iter().zip(args).zip(&call.args) {
            let class = param.tensor().and_then(|spec| signature.class(&spec.dtype));
            let (Some(class), Val::Tensor(Some(id))) = (class, &arg.val) else { continue };
            let ty = self.ty(*id);
            if !class.has(ty.dtype) {
                let what = argument(&param.ident, &signature.ident);
                let message = format!("{what} has a dtype `{}: {}`, found {ty}", class.ident, class.name());
                return Err(Error::new_spanned(source, message).into());
            }
            dtypes.entry(class.ident.to_string()).or_insert(ty.dtype);
        }
        Ok(dtypes)
    }

    /// `weight!("name", dtype, [dims..])`.
    pub(crate) fn weight(&mut self, mac: &syn::Macro) -> Res<Lowered> {
        const USAGE: &str = "a weight is `weight!(\"name\", dtype, [dims..])`";
        let args: Vec<Expr> = mac
            .parse_body_with(syn::punctuated::Punctuated::<Expr, syn::Token![,]>::parse_terminated)?
            .into_iter()
            .collect();
        let [name, dtype, dims] = args.as_slice() else {
            let missing = match args.len() {
                0 => "its name, dtype and dims are missing",
                1 => "its dtype and dims are missing",
                2 => "its dims are missing",
                _ => "there are too many arguments",
            };
            return Err(Error::new_spanned(mac, format!("{USAGE}; {missing}")).into());
        };
        let Expr::Path(path) = dtype else { return Err(Error::new_spanned(dtype, USAGE).into()) };
        let (dtype, variant) = self.element(&path.path)?;
        let Expr::Array(list) = dims else { return Err(Error::new_spanned(dims, USAGE).into()) };
        let (mut shape, mut built) = (Vec::new(), Vec::new());
        for expr in &list.elems {
            let (dim, tokens) = self.dim(expr)?;
            let mut names = Default::default();
            dim.symbols(&mut names);
            if let Some(symbol) = names.iter().find(|n| self.symbols.contains(*n)) {
                let message =
                    format!("a weight's shape is known when the graph is built, and the symbol `{symbol}` is not");
                return Err(Error::new_spanned(expr, message).into());
            }
            shape.push(dim);
            built.push(tokens);
        }
        let label = match name {
            Expr::Lit(lit) if matches!(lit.lit, syn::Lit::Str(_)) => quote!(::std::format!(#lit)),
            name => quote!(::std::string::ToString::to_string(&(#name))),
        };
        let (p, b, attempt) = (support(), self.builder(), self.attempt(name));
        let id = self.value(TensorType { dtype, shape }, mac)?;
        let tokens = quote!(
            #p::weight(#b, &#label, #variant, ::std::vec![#(#built),*])#attempt
        );
        Ok(Lowered { val: Val::Tensor(Some(id)), tokens })
    }
}

/// How messages call a parameter.
pub(crate) fn argument(param: &syn::Ident, model: &syn::Ident) -> String {
    format!("argument `{param}` of `{model}`")
}
