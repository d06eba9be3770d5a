//! `#[kiln::model]`: a model is an ordinary Rust function, and its shapes are checked while it compiles.
//!
//! Knows: Rust syntax and `kiln-graph`, whose builder interprets a model's body abstractly at expansion, so that a wrong dtype or
//! shape is a compile error at the expression that made it.
//!
//! Must not know: files, kernels, GPUs, or how a graph is executed.
//!
//! The pipeline is one file a step: `signature` reads the function's types, `lower` walks statements and
//! expressions and yields both their abstract value and the Rust that builds them, `chain` keeps long chains from nesting, `host` does the same for config values
//! and dims, `methods` is the table of tensor methods and what is suggested for names that are not in it, `call` inlines one
//! model into another, and `expand` writes the result.
#![forbid(unsafe_code)]

mod args;
mod call;
mod chain;
mod control;
mod expand;
mod host;
mod lower;
mod methods;
mod scope;
mod signature;
mod types;

use proc_macro::TokenStream;

/// Makes a function over tensors a model.
///
/// ```text
/// #[kiln::model]
/// fn mlp<B>(x: Tensor<f32, B, 784>, cfg: &Config) -> Tensor<f32, B, 10> {
///     let w1 = weight!("fc1.weight", f32, [cfg.hidden, 784]);
///     let b1 = weight!("fc1.bias", f32, [cfg.hidden]);
///     let mut h = x.linear(w1, b1).relu();
///     for i in 0..cfg.layers {
///         h = h + block(h, cfg, i);
///     }
///     h.linear(weight!("out.weight", f32, [10, cfg.hidden]), weight!("out.bias", f32, [10]))
/// }
///
/// let graph = mlp::graph(&cfg)?;
/// ```
///
/// # Types
///
/// `Tensor<dtype, axis, axis, ..>` is a tensor; every other parameter is a *config* value, an ordinary Rust value that is known
/// when the graph is built. An axis is an integer, a *symbol* (a type parameter without bounds, whose value is known only when
/// the graph runs) or a braced expression over integers, symbols, const generics and config values: `{ cfg.hidden / cfg.heads }`.
///
/// A dtype is a name such as `f16`, or a type parameter bounded by `Float` or `Int` (of `kiln::prelude`), which takes the dtype of the argument:
/// `fn block<T: Float, B>(x: Tensor<T, B, 64>)`. In the body it is a dtype too: `weight!("w", T, [64])`, `x.cast(T)`. Only `graph`, which has no
/// arguments, is told: `block::graph::<f16>()`.
///
/// `Option<Tensor<..>>` is a tensor that may be absent. It goes to optional arguments as it is (`x.linear(w, bias)`), is looked into by `if let
/// Some(b) = bias`, `match` and `bias.is_some()`, and made by `Some(x)` and `None`. `graph` takes a `bool` in its place: whether there is such an input.
///
/// `#[kiln::model(S % 4 == 0)]` requires extents to be multiples, of symbols or config values; several are separated by commas. A model that is built
/// or run with others fails with that text, and in the body `S / 4 * 4` is `S`.
///
/// # What it becomes
///
/// A type of the function's name with two functions: `graph(config..) -> Result<Graph>`, and `build(&mut Builder, params..) ->
/// Result<..>`, which adds the model to a graph under construction. Calling a model from a model inlines it. An output takes the name of
/// the variable that is returned, else `output` (`output0`, `output1`, .. in a tuple). Nodes and values are named by the calls, the turns of
/// loops and the variables that lead to them: `encoder.3.attention.scores`.
///
/// In an `impl`, a model takes `&self`, whose fields are config values, and becomes two methods: `cfg.block_graph(config..)` and
/// `cfg.block_build(builder, params..)`. Other models call it as `cfg.block(x)`. As a method's signature is out of sight of other macros, the type of its
/// result is known to them when the graph is built, or by an annotation: `let y: Tensor<f32, B, 64> = self.block(x);`.
///
/// # What is checked, and when
///
/// Everything that follows from the signature is checked at compile time. A config value such as `cfg.hidden` is provably equal
/// to itself only; a mistake that depends on its value is the same error, returned by `graph`.
///
/// # The body
///
/// `let`, assignment, blocks, `for` over config values, `if` and `match` on config values, tuples, `+ - * /`, unary `-` and `!`, the
/// tensor methods, and `concat`, `stack`, `einsum`, `full`, `iota`; `docs/methods.md` lists them all. Options of a method are given by name:
/// `x.conv(w, pads = 1, groups = 4)`. `weight!("name", dtype, [dims..])` is a named weight; the name
/// takes inline arguments as `format!` does: `weight!("layer.{i}.bias", f32, [cfg.hidden])`. A number meets a tensor in the tensor's dtype. Comparisons
/// are methods (`x.lt(y)`), as in any Rust library of tensors.
#[proc_macro_attribute]
pub fn model(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand::attribute(attribute.into(), item.into()).into()
}

/// Continues the expansion of a model with the signature of a model that it calls. Not for use by hand.
#[doc(hidden)]
#[proc_macro]
pub fn model_step(input: TokenStream) -> TokenStream {
    expand::step(input.into()).into()
}
