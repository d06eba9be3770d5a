//! A model's signature: which parameters are tensors, which are config values, and which generics are symbols.

use crate::types::{TensorSpec, tensor_spec};
use syn::{Error, FnArg, GenericParam, Ident, Pat, Result, ReturnType, Type};

/// What a function's signature says about its tensors.
pub(crate) struct Signature {
    /// Name of the model.
    pub ident: Ident,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Results in order.
    pub outputs: Vec<TensorSpec>,
    /// Whether the function returns a tuple rather than one tensor.
    pub tuple: bool,
    /// Type parameters that stand for axes.
    pub symbols: Vec<Ident>,
    /// What remains generic in the functions that are generated.
    pub generics: syn::Generics,
}

/// One parameter.
pub(crate) struct Param {
    /// Name.
    pub ident: Ident,
    /// Whether it is declared `mut`.
    pub mutable: bool,
    /// Tensor or config value.
    pub kind: ParamKind,
}

/// What a parameter is.
pub(crate) enum ParamKind {
    /// A tensor of the given type.
    Tensor(TensorSpec),
    /// An ordinary Rust value.
    Host(Box<Type>),
}

impl Signature {
    /// Reads a function signature.
    pub(crate) fn new(sig: &syn::Signature) -> Result<Signature> {
        for (found, what) in [
            (sig.asyncness.is_some(), "async"),
            (matches!(sig.safety, syn::Safety::Unsafe(_)), "unsafe"),
            (sig.abi.is_some(), "extern"),
            (sig.variadic.is_some(), "variadic"),
        ] {
            if found {
                return Err(Error::new_spanned(sig.fn_token, format!("a model cannot be {what}")));
            }
        }
        let params = sig.inputs.iter().map(param).collect::<Result<Vec<_>>>()?;
        let (outputs, tuple) = outputs(sig)?;
        let specs = || params.iter().filter_map(Param::tensor).chain(&outputs);
        let is_axis = |ident: &Ident| specs().flat_map(|s| &s.dims).any(|d| crate::types::mentions(d, ident));
        let mut generics = sig.generics.clone();
        let mut symbols = Vec::new();
        generics.params = sig
            .generics
            .params
            .iter()
            .filter(|p| match p {
                GenericParam::Type(t) if t.bounds.is_empty() && is_axis(&t.ident) => {
                    symbols.push(t.ident.clone());
                    false
                }
                _ => true,
            })
            .cloned()
            .collect();
        for symbol in &symbols {
            let binds = |s: &TensorSpec| s.dims.iter().any(|d| crate::types::as_ident(d) == Some(symbol));
            if !params.iter().filter_map(Param::tensor).any(binds) {
                return Err(Error::new_spanned(
                    symbol,
                    format!(
                        "symbol `{symbol}` takes its value from an input: at least one needs it as an axis of its own"
                    ),
                ));
            }
        }
        Ok(Signature { ident: sig.ident.clone(), params, outputs, tuple, symbols, generics })
    }

    /// The parameters that are tensors.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&Ident, &TensorSpec)> {
        self.params.iter().filter_map(|p| p.tensor().map(|t| (&p.ident, t)))
    }
}

impl Param {
    /// The type, if it is a tensor.
    pub(crate) fn tensor(&self) -> Option<&TensorSpec> {
        match &self.kind {
            ParamKind::Tensor(spec) => Some(spec),
            ParamKind::Host(_) => None,
        }
    }
}

fn param(arg: &FnArg) -> Result<Param> {
    let FnArg::Typed(arg) = arg else {
        return Err(Error::new_spanned(arg, "a model is a free function: pass what it needs as a parameter"));
    };
    let Pat::Ident(pat) = &*arg.pat else {
        return Err(Error::new_spanned(&arg.pat, "a parameter of a model needs a plain name"));
    };
    let kind = match tensor_spec(&arg.ty)? {
        Some(spec) => ParamKind::Tensor(spec),
        None => ParamKind::Host(arg.ty.clone()),
    };
    Ok(Param { ident: pat.ident.clone(), mutable: pat.mutability.is_some(), kind })
}

fn outputs(sig: &syn::Signature) -> Result<(Vec<TensorSpec>, bool)> {
    let wants = "a model returns `Tensor<dtype, axes..>` or a tuple of them";
    let ReturnType::Type(_, ty) = &sig.output else {
        return Err(Error::new_spanned(&sig.ident, wants));
    };
    let need = |ty: &Type| tensor_spec(ty)?.ok_or_else(|| Error::new_spanned(ty, wants));
    match &**ty {
        Type::Tuple(tuple) if !tuple.elems.is_empty() => {
            Ok((tuple.elems.iter().map(need).collect::<Result<_>>()?, true))
        }
        ty => Ok((vec![need(ty)?], false)),
    }
}
