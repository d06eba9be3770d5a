//! `#[kiln::kernel(implements = f)]`: a kernel of tiles as a Rust function, and the model function that it implements.
//!
//! The signature of the function is asked for as a model asks for that of one it calls ([`crate::expand`]); then the kernel's own is compared with
//! it ([`signature`]), its statements and expressions become Rust that builds a tile program for one dtype and Config ([`body`], [`expr`]), and what
//! a model needs to call it stands beside that.

/// What is quoted has names of its own: a kernel's variables may be called as those of the generated code.
macro_rules! code {
    ($($tokens:tt)*) => {
        quote::quote_spanned!(proc_macro2::Span::mixed_site()=> $($tokens)*)
    };
}

mod body;
pub(crate) mod config;
mod expr;
mod kinds;
mod methods;
mod signature;

use crate::expand::{carrier, support};
use crate::lower::dtype_tokens;
use crate::signature::Signature;
use body::Lower;
use kiln_graph::DType;
use proc_macro2::TokenStream;
use quote::ToTokens;
use signature::KernelSignature;
use syn::{Error, Ident, ItemFn, Path, Result, Token};

/// What stands in a step's list of known signatures where a kernel asks.
pub(crate) const MARK: &str = "kernel";

/// The arguments of the attribute.
struct Arguments {
    implements: Path,
    dtypes: Option<Vec<DType>>,
}

impl syn::parse::Parse for Arguments {
    fn parse(input: syn::parse::ParseStream<'_>) -> Result<Arguments> {
        let (mut implements, mut dtypes) = (None, None);
        let start = input.span();
        while !input.is_empty() {
            let name: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            if name == "implements" {
                implements = Some(input.parse()?);
            } else if name == "dtypes" {
                let list;
                syn::bracketed!(list in input);
                let paths = list.parse_terminated(Path::parse_mod_style, Token![,])?;
                dtypes = Some(paths.iter().map(crate::types::dtype).collect::<Result<Vec<_>>>()?);
            } else {
                return Err(Error::new_spanned(
                    &name,
                    format!("no argument is called `{name}`; there are `implements = f` and `dtypes = [f16, ..]`"),
                ));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let implements = implements.ok_or_else(|| {
            Error::new(
                start,
                "a kernel names the model function that it implements: `#[kiln::kernel(implements = linear_gelu)]`",
            )
        })?;
        Ok(Arguments { implements, dtypes })
    }
}

/// Expands the attribute: asks for the function's signature.
pub(crate) fn attribute(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let read = || -> Result<TokenStream> {
        let arguments: Arguments = syn::parse2(attribute.clone())?;
        let _: ItemFn = syn::parse2(item.clone())?;
        let path = arguments.implements;
        let mark = Ident::new(MARK, proc_macro2::Span::call_site());
        Ok(code!(#path! { { #path } { #mark } { #attribute } { #item } }))
    };
    read().unwrap_or_else(Error::into_compile_error)
}

/// Goes on with the function's signature.
pub(crate) fn expand(function: &syn::Signature, attribute: TokenStream, item: TokenStream) -> TokenStream {
    let made = || -> Result<TokenStream> {
        let arguments: Arguments = syn::parse2(attribute)?;
        let item: ItemFn = syn::parse2(item)?;
        whole(function, &arguments, &item)
    };
    made().unwrap_or_else(Error::into_compile_error)
}

fn whole(function: &syn::Signature, arguments: &Arguments, item: &ItemFn) -> Result<TokenStream> {
    let implemented = Signature::new(function)?;
    let signature = KernelSignature::new(item)?;
    let mut errors = signature.implements(&implemented);
    let mut lower = Lower::new(&signature);
    let statements = lower.whole(&item.block);
    errors.append(&mut lower.errors);
    let dtypes = match (&signature.generic, &arguments.dtypes) {
        (Some(_), None) => vec![DType::F16, DType::BF16, DType::F32],
        (Some(generic), Some(dtypes)) => {
            if dtypes.is_empty() || dtypes.iter().any(|dtype| !dtype.is_float() || dtype.bits() == 64) {
                errors.push(Error::new_spanned(
                    generic,
                    "the dtypes of a kernel that is generic are floats of up to 32 bits, one at least",
                ));
            }
            dtypes.clone()
        }
        (None, None) => vec![],
        (None, Some(_)) => {
            errors
                .push(Error::new_spanned(&signature.ident, "`dtypes` are for a kernel that is generic, `<T: Float>`"));
            vec![]
        }
    };
    // What a model that calls it is told.
    let mut called = function.clone();
    called.ident = signature.ident.clone();
    let carrier = carrier(&called, &item.vis, &item.to_token_stream());
    let parts = match errors.is_empty() {
        true => parts(arguments, &signature, &implemented, &dtypes, &statements, lower.rank),
        // One mistake is enough: nothing is said of code that follows from it.
        false => Parts::default(),
    };
    let code = items(item, &signature, &implemented, &parts);
    let errors = errors.into_iter().map(Error::into_compile_error);
    Ok(code!(#(#errors)* #carrier #code))
}

/// Bodies of the generated functions; without any they are never run.
struct Parts {
    kernel: TokenStream,
    build: TokenStream,
    program: TokenStream,
}

impl Default for Parts {
    fn default() -> Parts {
        let never = || code!(::core::unreachable!());
        Parts { kernel: never(), build: never(), program: never() }
    }
}

/// The names of the inputs.
fn inputs(signature: &KernelSignature) -> Vec<&Ident> {
    signature.views.iter().filter(|view| !view.output).map(|view| &view.ident).collect()
}

fn parts(
    arguments: &Arguments,
    signature: &KernelSignature,
    implemented: &Signature,
    dtypes: &[DType],
    statements: &TokenStream,
    rank: usize,
) -> Parts {
    let (p, body, function) = (support(), Lower::body(), &arguments.implements);
    let name = signature.ident.to_string();
    let comment = format!("{name}, which implements {}", implemented.ident);
    let config = config(signature);
    let given = signature.config.as_ref().map(|(name, _)| code!(let #name = config;));
    let generic = signature.generic.as_ref().map(|ident| code!(let #ident = dtype;));
    let dims = signature.dims().into_iter().map(|dim| {
        let text = dim.to_string();
        code!(let #dim = #body.dim(function, #text);)
    });
    let tensors = signature.views.iter().map(|view| {
        let (ident, text, dtype) = (&view.ident, view.ident.to_string(), view.ty.tokens());
        let shape = view.dims.iter().map(|dim| dim.tokens(&p));
        let declare = if view.output { code!(output) } else { code!(input) };
        code!(let #ident = #body.#declare(#text, #dtype, &[#(#shape),*]);)
    });
    let instances: Vec<_> = match &signature.generic {
        Some(_) => dtypes
            .iter()
            .map(|dtype| {
                let element = match dtype {
                    DType::F16 => code!(#p::kernel::f16),
                    DType::BF16 => code!(#p::kernel::bf16),
                    dtype => Ident::new(dtype.name(), proc_macro2::Span::call_site()).to_token_stream(),
                };
                (code!(#function::graph::<#element>()), *dtype)
            })
            .collect(),
        // Its tensors have their own.
        None => vec![(code!(#function::graph()), DType::F32)],
    };
    let instances = instances.into_iter().map(|(graph, dtype)| {
        let dtype = dtype_tokens(dtype);
        code! {
            let function = #p::kernel::function(#name, #graph)?;
            let candidates = #p::kernel::candidates::<#config>(|config| Self::program(&function, #dtype, config))?;
            let kernel = kernel.instance(function, candidates)?;
        }
    });
    let inputs = inputs(signature);
    Parts {
        kernel: code! {
            static MADE: ::std::sync::OnceLock<#p::kernel::Result<::std::sync::Arc<#p::kernel::Kernel>>> =
                ::std::sync::OnceLock::new();
            MADE.get_or_init(|| {
                let kernel = #p::kernel::Kernel::new(#name)?;
                #(#instances)*
                ::core::result::Result::Ok(::std::sync::Arc::new(kernel))
            })
            .clone()
        },
        build: code! {
            #p::kernel::attach(builder, Self::kernel())?;
            #function::build(builder, #(#inputs),*)
        },
        program: code! {
            #given
            #generic
            #p::kernel::program(
                #name,
                #comment,
                #rank,
                |schedule| #p::kernel::Config::schedule(config, schedule),
                |#body| {
                    #(#dims)*
                    #(#tensors)*
                    #statements
                    ::core::result::Result::Ok(())
                },
            )
        },
    }
}

/// The Config's type.
fn config(signature: &KernelSignature) -> TokenStream {
    let p = support();
    signature.config.as_ref().map_or(code!(#p::kernel::NoConfig), |(_, ty)| ty.to_token_stream())
}

/// The type of the kernel's name.
fn items(item: &ItemFn, signature: &KernelSignature, implemented: &Signature, parts: &Parts) -> TokenStream {
    let p = support();
    let (vis, attrs, ident) = (&item.vis, &item.attrs, &signature.ident);
    let (config, inputs) = (config(signature), inputs(signature));
    let result = match (implemented.tuple, implemented.outputs.len()) {
        (false, _) => code!(#p::ValueId),
        (true, n) => {
            let ids = std::iter::repeat_n(code!(#p::ValueId,), n);
            code!((#(#ids)*))
        }
    };
    let Parts { kernel, build, program } = parts;
    code! {
        #(#attrs)*
        #[allow(non_camel_case_types)]
        #vis enum #ident {}

        #[allow(clippy::all, clippy::pedantic, dead_code, non_snake_case, unused_assignments, unused_braces, unused_mut, unused_parens, unused_variables)]
        impl #ident {
            /// The kernel, for every dtype and Config.
            #vis fn kernel() -> #p::kernel::Result<::std::sync::Arc<#p::kernel::Kernel>> {
                #kernel
            }

            /// Adds the function that it implements to a graph under construction, which then carries the kernel.
            #vis fn build(builder: &mut #p::Builder, #(#inputs: #p::ValueId),*) -> #p::Result<#result> {
                #build
            }

            fn program(function: &#p::Graph, dtype: #p::DType, config: &#config) -> #p::kernel::Result<#p::kernel::Program> {
                #program
            }
        }
    }
}
