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
mod kernel;
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

/// Makes a function over tiles a kernel: how a GPU computes a model function.
///
/// ```text
/// #[derive(kiln::Config)]
/// struct Tiles {
///     #[one_of(64, 128)] bm: u32,
///     #[one_of(64, 128)] bn: u32,
///     #[one_of(32, 64)] bk: u32,
///     #[range(2..=4)] stages: u32,
/// }
///
/// #[kiln::kernel(implements = linear_gelu)]
/// fn gemm_gelu<T: Float>(x: View<T, M, K>, w: View<T, N, K>, b: View<T, N>, y: ViewMut<T, M, N>, cfg: &Tiles) {
///     for [m, n] in grid([M, N], [cfg.bm, cfg.bn]) {
///         let mut acc = zeros::<f32>([cfg.bm, cfg.bn]);
///         for k in pipeline(K, cfg.bk, cfg.stages) {
///             acc += dot(x.tile([m, k]), w.tile([n, k]).t());
///         }
///         y.tile([m, n]).store((acc + b.tile([n])).gelu());
///     }
/// }
/// ```
///
/// The function is a [`macro@model`] of tensors alone, with the same tensors under the same names: its inputs are `View`s, then its results `ViewMut`s.
/// `implements` names it; `dtypes = [f16, bf16]` says for which types a kernel of `T: Float` is made (f16, bf16 and f32).
///
/// It becomes a type of the kernel's name. In models it is called as the function would be, and a model that does so carries the kernel:
/// `kiln::EngineBuilder` uses it wherever the function occurs. `gemm_gelu::kernel()` gives it by itself, for `EngineBuilder::kernel` with other models,
/// `kiln::export`, and `kiln::kernels::Check`. `docs/howto/write-a-kernel.md` says what a body may hold.
#[proc_macro_attribute]
pub fn kernel(attribute: TokenStream, item: TokenStream) -> TokenStream {
    kernel::attribute(attribute.into(), item.into()).into()
}

/// Makes a struct the Config of a kernel: each field is `u32`, `i64` or `bool`, and says what it may be by `#[one_of(64, 128)]` or `#[range(2..=4)]`; a
/// `bool` may be both. `#[config(legal = path)]` names a function that leaves some out.
///
/// Fields called `warps`, `raster`, `row_threads`, `specialise`, `persistent`, `staged_epilogue`, `overlap` and `ping_pong` decide the schedule. The
/// struct is `Copy`, ordered, hashed, shown and serialized by its fields; do not derive these beside it.
#[proc_macro_derive(Config, attributes(one_of, range, config))]
pub fn config(input: TokenStream) -> TokenStream {
    kernel::config::derive(input.into()).into()
}

/// Continues the expansion of a model with the signature of a model that it calls. Not for use by hand.
#[doc(hidden)]
#[proc_macro]
pub fn model_step(input: TokenStream) -> TokenStream {
    expand::step(input.into()).into()
}
