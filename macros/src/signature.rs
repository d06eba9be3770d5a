//! A model's signature: which parameters are tensors, which are config values, and which generics are symbols or dtypes.

use crate::types::{TensorSpec, as_ident, optional, tensor_spec};
use kiln_graph::DType;
use syn::{Error, Expr, FnArg, GenericParam, Ident, Pat, Receiver, Result, ReturnType, Type, TypeParam};

/// What a function's signature says about its tensors.
pub(crate) struct Signature {
    /// Name of the model.
    pub ident: Ident,
    /// `&self`, if the model is a method of a config value.
    pub receiver: Option<Receiver>,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Results in order.
    pub outputs: Vec<TensorSpec>,
    /// Whether the function returns a tuple rather than one tensor.
    pub tuple: bool,
    /// Type parameters that stand for axes.
    pub symbols: Vec<Ident>,
    /// Type parameters that stand for dtypes.
    pub dtypes: Vec<Class>,
    /// What remains generic in `build`: neither symbols nor dtypes.
    pub generics: syn::Generics,
    /// What remains generic in `graph`, which nothing tells the dtypes.
    pub graph_generics: syn::Generics,
}

/// A type parameter that stands for a dtype.
pub(crate) struct Class {
    /// Its name.
    pub ident: Ident,
    /// Whether it is an integer rather than a float.
    pub int: bool,
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
    /// A tensor that may be absent: `Option<Tensor<..>>`.
    Optional(TensorSpec),
    /// An ordinary Rust value.
    Host(Box<Type>),
}

impl Class {
    /// The class that the bounds of a type parameter name.
    fn new(param: &TypeParam) -> Option<Class> {
        param.bounds.iter().find_map(|bound| {
            let syn::TypeParamBound::Trait(bound) = bound else { return None };
            match bound.path.segments.last()?.ident.to_string().as_str() {
                "Float" => Some(Class { ident: param.ident.clone(), int: false }),
                "Int" => Some(Class { ident: param.ident.clone(), int: true }),
                _ => None,
            }
        })
    }

    /// Whether a dtype belongs to the class.
    pub(crate) fn has(&self, dtype: DType) -> bool {
        if self.int { dtype.is_int() } else { dtype.is_float() }
    }

    /// The trait that bounds it.
    pub(crate) fn name(&self) -> &'static str {
        if self.int { "Int" } else { "Float" }
    }

    /// The dtype that stands for it in one of two checks of the body. No two parameters are the same in both, and neither is any written dtype:
    /// what mixes them is found in one.
    pub(crate) fn sample(&self, place: usize, check: usize) -> DType {
        const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
        const INTS: [DType; 4] = [DType::I64, DType::I32, DType::I16, DType::I8];
        (if self.int { INTS } else { FLOATS })[(place + check) % 4]
    }
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
        let receiver = sig.receiver().cloned();
        if let Some(receiver) =
            receiver.as_ref().filter(|r| !matches!(r.kind, syn::ReceiverKind::Reference(_, _, None)))
        {
            return Err(Error::new_spanned(receiver, "a model that is a method takes `&self`"));
        }
        let params = sig.inputs.iter().filter_map(|arg| param(arg).transpose()).collect::<Result<Vec<_>>>()?;
        let (outputs, tuple) = outputs(sig)?;
        let specs = || params.iter().filter_map(Param::spec).chain(&outputs);
        let is_axis = |ident: &Ident| specs().flat_map(|s| &s.dims).any(|d| crate::types::mentions(d, ident));
        let is_dtype = |ident: &Ident| specs().any(|s| s.dtype.is_ident(ident));
        let (mut symbols, mut dtypes) = (Vec::new(), Vec::new());
        let (mut generics, mut graph_generics) = (sig.generics.clone(), sig.generics.clone());
        (generics.params, graph_generics.params) = (Default::default(), Default::default());
        for generic in &sig.generics.params {
            if let GenericParam::Type(t) = generic {
                if t.bounds.is_empty() && is_axis(&t.ident) {
                    symbols.push(t.ident.clone());
                    continue;
                }
                if is_dtype(&t.ident) {
                    let Some(class) = Class::new(t) else {
                        let message =
                            format!("a dtype is bounded by its class, as in `{0}: Float` or `{0}: Int`", t.ident);
                        return Err(Error::new_spanned(t, message));
                    };
                    dtypes.push(class);
                    graph_generics.params.push(generic.clone());
                    continue;
                }
            }
            generics.params.push(generic.clone());
            graph_generics.params.push(generic.clone());
        }
        let tensors = || params.iter().filter_map(Param::tensor);
        for symbol in &symbols {
            if !tensors().any(|s| s.dims.iter().any(|d| as_ident(d) == Some(symbol))) {
                let message = format!(
                    "symbol `{symbol}` takes its value from an input: at least one needs it as an axis of its own"
                );
                return Err(Error::new_spanned(symbol, message));
            }
        }
        for Class { ident, .. } in &dtypes {
            if !tensors().any(|s| s.dtype.is_ident(ident)) {
                let message = format!("dtype `{ident}` takes its value from an input: at least one needs it");
                return Err(Error::new_spanned(ident, message));
            }
        }
        Ok(Signature {
            ident: sig.ident.clone(),
            receiver,
            params,
            outputs,
            tuple,
            symbols,
            dtypes,
            generics,
            graph_generics,
        })
    }

    /// The type parameter for a dtype of this name.
    pub(crate) fn class(&self, path: &syn::Path) -> Option<&Class> {
        self.dtypes.iter().find(|c| path.is_ident(&c.ident))
    }
}

impl Param {
    /// The type, if it is a tensor that cannot be absent.
    pub(crate) fn tensor(&self) -> Option<&TensorSpec> {
        match &self.kind {
            ParamKind::Tensor(spec) => Some(spec),
            ParamKind::Optional(_) | ParamKind::Host(_) => None,
        }
    }

    /// The type, if it is a tensor.
    pub(crate) fn spec(&self) -> Option<&TensorSpec> {
        match &self.kind {
            ParamKind::Tensor(spec) | ParamKind::Optional(spec) => Some(spec),
            ParamKind::Host(_) => None,
        }
    }
}

/// A parameter other than `self`.
fn param(arg: &FnArg) -> Result<Option<Param>> {
    let FnArg::Typed(arg) = arg else { return Ok(None) };
    let Pat::Ident(pat) = &*arg.pat else {
        return Err(Error::new_spanned(&arg.pat, "a parameter of a model needs a plain name"));
    };
    let kind = match (tensor_spec(&arg.ty)?, optional(&arg.ty)) {
        (Some(spec), _) => ParamKind::Tensor(spec),
        (None, Some(inner)) => match tensor_spec(inner)? {
            Some(spec) => ParamKind::Optional(spec),
            None => ParamKind::Host(arg.ty.clone()),
        },
        (None, None) => ParamKind::Host(arg.ty.clone()),
    };
    Ok(Some(Param { ident: pat.ident.clone(), mutable: pat.mutability.is_some(), kind }))
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

/// What a model says in its attribute: `#[kiln::model(S % 4 == 0)]`.
pub(crate) struct Multiple {
    /// What must be a multiple.
    pub dim: Expr,
    /// Of what.
    pub of: Expr,
    /// All of it.
    pub source: Expr,
}

impl Multiple {
    /// Reads the arguments of the attribute.
    pub(crate) fn list(attribute: &proc_macro2::TokenStream) -> Result<Vec<Multiple>> {
        use syn::parse::Parser;
        let parser = syn::punctuated::Punctuated::<Expr, syn::Token![,]>::parse_terminated;
        parser.parse2(attribute.clone())?.into_iter().map(Multiple::new).collect()
    }

    fn new(source: Expr) -> Result<Multiple> {
        if let Expr::Binary(equals) = &source
            && let (syn::BinOp::Eq(_), Some(0), Expr::Binary(rest)) =
                (&equals.op, crate::host::literal(&equals.right), &*equals.left)
            && let syn::BinOp::Rem(_) = rest.op
        {
            return Ok(Multiple { dim: (*rest.left).clone(), of: (*rest.right).clone(), source: source.clone() });
        }
        Err(Error::new_spanned(source, "what a model requires of its dims is written `S % 4 == 0`"))
    }
}
