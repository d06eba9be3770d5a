//! A kernel's signature, and how it compares with that of the function that it implements.

use super::kinds::{Dim, Ty};
use crate::signature::{ParamKind, Signature};
use crate::types::{TensorSpec, as_ident, bare};
use kiln_graph::DType;
use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::{
    Error, Expr, ExprLit, FnArg, GenericArgument, GenericParam, Ident, ItemFn, Lit, Pat, PathArguments, Result,
    ReturnType, Type,
};

/// A tensor parameter.
#[derive(Clone)]
pub(crate) struct View {
    pub ident: Ident,
    pub ty: Ty,
    pub dims: Vec<Dim>,
    pub output: bool,
    /// Of the type, for messages.
    pub span: Span,
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}<{}", if self.output { "ViewMut" } else { "View" }, self.ty)?;
        self.dims.iter().try_for_each(|dim| write!(f, ", {dim}"))?;
        f.write_str(">")
    }
}

/// What a kernel's signature says.
pub(crate) struct KernelSignature {
    pub ident: Ident,
    /// The dtype parameter.
    pub generic: Option<Ident>,
    pub views: Vec<View>,
    /// The Config's name and type.
    pub config: Option<(Ident, Type)>,
}

impl KernelSignature {
    pub(crate) fn new(item: &ItemFn) -> Result<KernelSignature> {
        let sig = &item.sig;
        for (found, what) in [
            (sig.asyncness.is_some(), "async"),
            (sig.abi.is_some(), "extern"),
            (sig.variadic.is_some(), "variadic"),
            (sig.constness.is_some(), "const"),
        ] {
            if found {
                return Err(Error::new_spanned(sig.fn_token, format!("a kernel cannot be {what}")));
            }
        }
        if let ReturnType::Type(_, ty) = &sig.output {
            return Err(Error::new_spanned(ty, "a kernel returns nothing: it stores to its `ViewMut`s"));
        }
        let generic = generic(item)?;
        let (mut views, mut config): (Vec<View>, Option<(Ident, Type)>) = (vec![], None);
        for arg in &sig.inputs {
            let FnArg::Typed(arg) = arg else {
                return Err(Error::new_spanned(arg, "a kernel is a function, not a method"));
            };
            let Pat::Ident(pat) = &*arg.pat else {
                return Err(Error::new_spanned(&arg.pat, "a parameter of a kernel needs a plain name"));
            };
            if let Some((ident, _)) = &config {
                return Err(Error::new_spanned(arg, format!("the Config `{ident}` is the last parameter")));
            }
            match view(&pat.ident, &arg.ty, generic.as_ref())? {
                Some(view) => {
                    if !view.output && views.iter().any(|view| view.output) {
                        return Err(Error::new_spanned(arg, "inputs (`View`) stand before outputs (`ViewMut`)"));
                    }
                    views.push(view);
                }
                None => {
                    let Type::Reference(of) = &*arg.ty else {
                        let message = "expected `View<dtype, dims..>`, `ViewMut<dtype, dims..>`, or the Config by reference, as in `cfg: &Tiles`";
                        return Err(Error::new_spanned(&arg.ty, message));
                    };
                    config = Some((pat.ident.clone(), (*of.elem).clone()));
                }
            }
        }
        if !views.iter().any(|view| view.output) {
            return Err(Error::new_spanned(&sig.ident, "a kernel needs an output, as in `y: ViewMut<T, M, N>`"));
        }
        Ok(KernelSignature { ident: sig.ident.clone(), generic, views, config })
    }

    /// Whether some tensor has the dim.
    pub(crate) fn has(&self, ident: &Ident) -> bool {
        self.dims().iter().any(|dim| dim == ident)
    }

    /// All dims that have names, once each.
    pub(crate) fn dims(&self) -> Vec<Ident> {
        let mut all: Vec<Ident> = vec![];
        for dim in self.views.iter().flat_map(|view| &view.dims) {
            if let Dim::Sym(ident) = dim
                && !all.contains(ident)
            {
                all.push(ident.clone());
            }
        }
        all
    }

    /// Compares with the signature of the function that it implements.
    pub(crate) fn implements(&self, function: &Signature) -> Vec<Error> {
        let name = &function.ident;
        let mut errors = vec![];
        let mut wrong = |span: Span, message: String| errors.push(Error::new(span, message));
        let mut inputs = vec![];
        for param in &function.params {
            match &param.kind {
                ParamKind::Tensor(spec) => inputs.push((Some(&param.ident), spec)),
                ParamKind::Optional(_) | ParamKind::Host(_) => {
                    let message = format!(
                        "`{name}` takes `{}`, which is no tensor: a kernel implements a function of tensors alone",
                        param.ident
                    );
                    wrong(self.ident.span(), message);
                    return errors;
                }
            }
        }
        let outputs: Vec<_> = function.outputs.iter().map(|spec| (None, spec)).collect();
        for (output, expected, what) in [(false, inputs, "inputs"), (true, outputs, "outputs")] {
            let views: Vec<&View> = self.views.iter().filter(|view| view.output == output).collect();
            if views.len() != expected.len() {
                let message = format!("`{name}` has {} {what}, and this kernel {}", expected.len(), views.len());
                wrong(self.ident.span(), message);
                continue;
            }
            for (view, (ident, spec)) in views.into_iter().zip(expected) {
                if let Some(ident) = ident.filter(|ident| **ident != view.ident) {
                    let message = format!("`{name}` calls this input `{ident}`, and the kernel `{}`", view.ident);
                    wrong(view.ident.span(), message);
                    continue;
                }
                if !alike(view, spec) {
                    let found = spec
                        .source
                        .to_string()
                        .replace(" ,", ",")
                        .replace("< ", "<")
                        .replace(" <", "<")
                        .replace(" >", ">");
                    wrong(view.span, format!("`{}` is `{view}`, and `{name}` has `{found}` there", view.ident));
                }
            }
        }
        if errors.is_empty() && function.dtypes.len() > 1 {
            errors.push(Error::new(
                self.ident.span(),
                format!("`{name}` has several dtype parameters, and a kernel has one at most"),
            ));
        }
        errors
    }
}

/// Whether a tensor of a kernel is that of the function.
fn alike(view: &View, spec: &TensorSpec) -> bool {
    let dtype = spec.dtype.get_ident().is_some_and(|ident| match &view.ty {
        Ty::Generic(own) => own == ident,
        Ty::Known(dtype) => ident.to_string().parse::<DType>().is_ok_and(|other| other == *dtype),
    });
    let dims = spec.dims.iter().map(|dim| match as_ident(dim) {
        Some(ident) => Some(Dim::Sym(ident.clone())),
        None => literal(dim).map(Dim::Lit),
    });
    dtype && dims.eq(view.dims.iter().cloned().map(Some))
}

fn literal(expr: &Expr) -> Option<u32> {
    match bare(expr) {
        Expr::Lit(ExprLit { lit: Lit::Int(int), .. }) => int.base10_parse().ok(),
        _ => None,
    }
}

fn generic(item: &ItemFn) -> Result<Option<Ident>> {
    let mut found: Option<Ident> = None;
    for param in &item.sig.generics.params {
        let GenericParam::Type(ty) = param else {
            return Err(Error::new_spanned(param, "a kernel is generic in its dtype alone, as in `<T: Float>`"));
        };
        let float = ty.bounds.iter().any(|bound| matches!(bound, syn::TypeParamBound::Trait(t) if t.path.segments.last().is_some_and(|s| s.ident == "Float")));
        if !float {
            let message = format!(
                "`{0}` is no dtype: a kernel's is bounded, as in `{0}: Float`, and its dims are not declared",
                ty.ident
            );
            return Err(Error::new_spanned(ty, message));
        }
        if let Some(first) = &found {
            return Err(Error::new_spanned(ty, format!("a kernel has one dtype parameter, and `{first}` is one")));
        }
        found = Some(ty.ident.clone());
    }
    Ok(found)
}

fn view(ident: &Ident, ty: &Type, generic: Option<&Ident>) -> Result<Option<View>> {
    let Type::Path(path) = ty else { return Ok(None) };
    let Some(last) = path.path.segments.last() else { return Ok(None) };
    let output = last.ident == "ViewMut";
    if !output && last.ident != "View" {
        return Ok(None);
    }
    let wants = "a tensor needs its dtype and dims, as in `View<T, M, K>`";
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return Err(Error::new_spanned(ty, wants)) };
    let mut arguments = arguments.args.iter();
    let element = match arguments.next() {
        Some(GenericArgument::Type(Type::Path(path))) => match path.path.get_ident() {
            Some(ident) if Some(ident) == generic => Ty::Generic(ident.clone()),
            _ => Ty::Known(crate::types::dtype(&path.path)?),
        },
        Some(other) => return Err(Error::new_spanned(other, wants)),
        None => return Err(Error::new_spanned(ty, wants)),
    };
    let dim = |argument: &GenericArgument| {
        let named = match argument {
            GenericArgument::Type(Type::Path(path)) => path.path.get_ident().cloned().map(Dim::Sym),
            GenericArgument::Const(expr) => literal(expr).map(Dim::Lit),
            _ => None,
        };
        named.ok_or_else(|| Error::new_spanned(argument, "a dim of a kernel is a name or an integer"))
    };
    let dims = arguments.map(dim).collect::<Result<_>>()?;
    Ok(Some(View { ident: ident.clone(), ty: element, dims, output, span: ty.span() }))
}
