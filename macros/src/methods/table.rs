//! The methods, by family. `docs/methods.md` is made of this table.
//!
//! An entry has the parameters with their kinds (functions of [`crate::args`]) and defaults, the function of `kiln-graph` that is called, on
//! abstract types at expansion and by the generated code, the shapes of receiver and result, and what it does.

use super::{Form, Method, Param, forms};
use crate::args::Lend;
use kiln_graph::{BinaryOp, CompareOp, UnaryOp};
use quote::quote;
use std::sync::LazyLock;

/// A family of methods.
pub(super) struct Group {
    /// Its heading in the page of methods.
    #[cfg_attr(not(test), expect(dead_code, reason = "for docs/methods.md"))]
    pub title: &'static str,
    /// The methods.
    pub methods: Vec<Method>,
}

macro_rules! default {
    () => {
        None
    };
    ($default:expr) => {
        Some(stringify!($default))
    };
}

macro_rules! params {
    ($($arg:ident $(= $default:expr)?),*) => {
        &[$(Param { name: stringify!($arg), default: default!($($default)?) }),*]
    };
}

macro_rules! method {
    // A function of the builder.
    ($name:ident($($arg:ident: $kind:ident $(= $default:expr)?),*) => $owner:ident::$function:ident,
     $shapes:literal, $about:literal) => {
        Method {
            name: stringify!($name),
            params: params!($($arg $(= $default)?),*),
            shapes: $shapes,
            about: $about,
            form: Form::Method(|lower, call, x, bound| {
                let [$($arg),*] = bound else { return lower.unknown(call) };
                $(let $arg = lower.$kind($arg)?;)*
                #[allow(unused_parens, reason = "a pattern of one")]
                let outcome = match (x.value, $($arg.value.as_ref()),*) {
                    (Some(x), $(Some($arg)),*) => {
                        Some(kiln_graph::$owner::$function(&mut lower.graph, x, $(Lend::lend($arg)),*))
                    }
                    _ => None,
                };
                lower.applied(outcome, &quote!($owner::$function), x, &[$($arg.tokens),*], call.whole)
            }),
        }
    };
    // A form of its own.
    ($name:ident($($arg:ident $(= $default:expr)?),*) by $form:path, $shapes:literal, $about:literal) => {
        Method {
            name: stringify!($name),
            params: params!($($arg $(= $default)?),*),
            shapes: $shapes,
            about: $about,
            form: Form::Method($form),
        }
    };
}

/// The functions of one operand, from the table of `kiln-graph`.
fn unary() -> impl Iterator<Item = Method> {
    UnaryOp::ALL.iter().map(|&op| Method {
        name: op.method(),
        params: &[],
        shapes: "`[..]` -> `[..]`",
        about: op.doc(),
        form: Form::Unary(op),
    })
}

/// Those of two operands, and comparisons.
fn pairs() -> impl Iterator<Item = Method> {
    let pair = |name, shapes, about, form| Method { name, params: params!(rhs), shapes, about, form };
    let binary = BinaryOp::ALL
        .iter()
        .map(move |&op| pair(op.method(), "`[..]`, `[..]` or a number -> broadcast", op.doc(), Form::Binary(op)));
    let compare = CompareOp::ALL
        .iter()
        .map(move |&op| pair(op.name(), "`[..]`, `[..]` or a number -> bool, broadcast", op.doc(), Form::Compare(op)));
    binary.chain(compare)
}

/// Every method.
pub(super) static GROUPS: LazyLock<Vec<Group>> = LazyLock::new(|| {
    vec![
    Group {
        title: "Functions of each element",
        methods: unary().chain([
            method!(square() => method::square, "`[..]` -> `[..]`", "`x * x`."),
            method!(cast(dtype: dtype) => Builder::cast, "`[..]` -> `[..]`",
                "Converts: rounds to nearest even; to integers truncates and saturates."),
            method!(to_dtype(dtype: dtype) => Builder::cast, "`[..]` -> `[..]`", "The same as `cast`."),
            method!(clamp(low: bound = None, high: bound = None) => Builder::clip, "`[..]` -> `[..]`",
                "Limits to `low..=high`; NaN stays NaN."),
            method!(dropout(p: number = 0.5) => method::dropout, "`[..]` -> `[..]`",
                "Nothing: a graph is a model that is applied, not trained."),
            method!(clone() by forms::same, "`[..]` -> `[..]`", "The same tensor: tensors are values."),
        ]).collect(),
    },
    Group {
        title: "Functions of two operands",
        methods: pairs().chain([
            method!(select(if_true, if_false) by forms::select, "bool `[..]`, two of `[..]` or a number -> broadcast",
                "`if_true` where it is true, else `if_false`."),
        ]).collect(),
    },
    Group {
        title: "Activations",
        methods: vec![
            method!(relu() => Builder::relu, "`[..]` -> `[..]`", "`max(x, 0)`."),
            method!(leaky_relu(slope: number = 0.01) => Builder::leaky_relu, "`[..]` -> `[..]`",
                "`slope * x` below 0, else `x`."),
            method!(prelu(slope: tensor) => Builder::prelu, "`[..]`, slope that broadcasts -> `[..]`",
                "`slope * x` below 0, else `x`."),
            method!(sigmoid() => Builder::sigmoid, "`[..]` -> `[..]`", "`1 / (1 + exp(-x))`."),
            method!(hard_sigmoid(alpha: number = 1.0 / 6.0, beta: number = 0.5) => Builder::hard_sigmoid, "`[..]` -> `[..]`",
                "`clamp(alpha * x + beta, 0, 1)`."),
            method!(silu() => Builder::silu, "`[..]` -> `[..]`", "`x * sigmoid(x)`."),
            method!(hard_swish() => Builder::hard_swish, "`[..]` -> `[..]`", "`x * hard_sigmoid(x)`."),
            method!(gelu() => Builder::gelu, "`[..]` -> `[..]`", "`x / 2 * (1 + erf(x / sqrt(2)))`."),
            method!(gelu_tanh() => Builder::gelu_tanh, "`[..]` -> `[..]`", "GELU by its approximation with `tanh`."),
            method!(elu(alpha: number = 1.0) => Builder::elu, "`[..]` -> `[..]`", "`alpha * (exp(x) - 1)` below 0, else `x`."),
            method!(selu(alpha: number = 1.673_263_242_354_377_2, gamma: number = 1.050_700_987_355_480_5) => Builder::selu,
                "`[..]` -> `[..]`", "`gamma * elu(x, alpha)`."),
            method!(softplus() => Builder::softplus, "`[..]` -> `[..]`", "`ln(1 + exp(x))`, without overflow."),
            method!(mish() => Builder::mish, "`[..]` -> `[..]`", "`x * tanh(softplus(x))`."),
            method!(softmax(axis: integer) => Builder::softmax, "`[..]` -> `[..]`",
                "`exp(x) / sum(exp(x))` along `axis`, without overflow."),
            method!(log_softmax(axis: integer) => Builder::log_softmax, "`[..]` -> `[..]`", "Logarithm of `softmax`."),
        ],
    },
    Group {
        title: "Reductions and running sums",
        methods: vec![
            method!(sum(axes: axes, keep: flag = false) => Builder::sum, "`[..]` -> `[..]` without `axes`",
                "Sum; narrow floats add in f32."),
            method!(mean(axes: axes, keep: flag = false) => Builder::mean, "`[..]` -> `[..]` without `axes`",
                "Arithmetic mean; integers truncate."),
            method!(var(axes: axes, correction: integer = 0, keep: flag = false) => Builder::var,
                "`[..]` -> `[..]` without `axes`",
                "Variance with divisor `n - correction`: 0 of all there is, 1 of a sample (PyTorch's default)."),
            method!(std(axes: axes, correction: integer = 0, keep: flag = false) => Builder::std,
                "`[..]` -> `[..]` without `axes`", "Root of `var`."),
            method!(amax(axes: axes, keep: flag = false) => Builder::reduce_max, "`[..]` -> `[..]` without `axes`",
                "Maximum; NaN if any is."),
            method!(amin(axes: axes, keep: flag = false) => method::amin, "`[..]` -> `[..]` without `axes`",
                "Minimum; NaN if any is."),
            method!(prod(axes: axes, keep: flag = false) => method::prod, "`[..]` -> `[..]` without `axes`", "Product."),
            method!(all(axes: axes, keep: flag = false) => method::all, "bool `[..]` -> `[..]` without `axes`",
                "Whether all are true."),
            method!(any(axes: axes, keep: flag = false) => method::any, "bool `[..]` -> `[..]` without `axes`",
                "Whether any is true."),
            method!(logsumexp(axes: axes, keep: flag = false) => Builder::logsumexp, "`[..]` -> `[..]` without `axes`",
                "`ln(sum(exp(x)))`, without overflow."),
            method!(argmax(axis: integer, keep: flag = false) => method::argmax, "`[..]` -> i64 `[..]` without `axis`",
                "Index of the first maximum."),
            method!(argmin(axis: integer, keep: flag = false) => method::argmin, "`[..]` -> i64 `[..]` without `axis`",
                "Index of the first minimum."),
            method!(topk(axis: integer, k: extent, largest: flag = true) => Builder::topk,
                "`[.., N, ..]` -> (`[.., k, ..]`, i64 `[.., k, ..]`)",
                "The `k` extreme elements in order, and their indices; ties by lower index."),
            method!(cumsum(axis: integer, exclusive: flag = false, reverse: flag = false) => Builder::cumsum,
                "`[..]` -> `[..]`", "Running sum; `exclusive` leaves the element itself out."),
        ],
    },
    Group {
        title: "Products of matrices and attention",
        methods: vec![
            method!(matmul(rhs: tensor) => Builder::matmul, "`[.., M, K]`, `[.., K, N]` -> `[.., M, N]`",
                "Matrix product; leading axes broadcast; lists are vectors."),
            method!(linear(weight: tensor, bias: given = None) => method::linear, "`[.., K]`, `[N, K]`, `[N]` -> `[.., N]`",
                "`x w^T + bias`, with the weight as PyTorch stores it."),
            method!(grouped_matmul(weights: tensor, ends: tensor, transposed: flag = false) => Builder::grouped_matmul,
                "`[T, K]`, `[G, K, N]`, i32 or i64 `[G]` -> `[T, N]`",
                "Rows in groups, each by a matrix of its own, as rows sorted by expert: group `g` ends before row `ends[g]`, where the next begins. Rows \
                 from the last end on are zero; ends that decrease or pass `T` are an error. `transposed`: weights are `[G, N, K]`."),
            method!(attention(keys: tensor, values: tensor, mask: given = None, scale: scale = None, causal: flag = false,
                offset: extent = 0, window: some_extent = None, cap: bound = None, sinks: given = None) => method::attention,
                "`[.., H, S, D]`, `[.., K, T, D]`, `[.., K, T, E]` -> `[.., H, S, E]`",
                "`softmax(q k^T * scale + mask) v`. A bool mask keeps where true, a float is added. `scale` is `1 / sqrt(D)`. If `causal`, query \
                 `i` sees keys up to `i + offset`, with a `window` no more than that many back from there. `cap` bounds scores by `cap * tanh(x / cap)`. \
                 `sinks` `[H]` are logits that take part in the softmax and weigh nothing. With fewer key heads `K`, each serves `H / K` query heads \
                 in a row, without copies."),
            method!(rope(cos: tensor, sin: tensor, interleaved: flag = false, dim: some_extent = None) => method::rope,
                "`[.., S, D]`, two of `[S, dim / 2]` -> `[.., S, D]`",
                "Rotary embedding of the first `dim` elements (all): pairs `(i, i + dim / 2)`, or `(2 i, 2 i + 1)` if `interleaved`."),
        ],
    },
    Group {
        title: "Normalizations",
        methods: vec![
            method!(layer_norm(axis: integer, scale: given = None, bias: given = None, eps: number = 1e-5) => Builder::layer_norm,
                "`[..]` -> `[..]`", "`(x - mean) / sqrt(var + eps) * scale + bias` over the axes from `axis` on."),
            method!(rms_norm(axis: integer, scale: given = None, eps: number = 1e-5) => Builder::rms_norm, "`[..]` -> `[..]`",
                "`x / sqrt(mean(x^2) + eps) * scale` over the axes from `axis` on."),
            method!(batch_norm(scale: tensor, bias: tensor, mean: tensor, var: tensor, eps: number = 1e-5) => Builder::batch_norm,
                "`[N, C, ..]`, four of `[C]` -> `[N, C, ..]`", "By given statistics of each channel."),
            method!(group_norm(groups: index, scale: given = None, bias: given = None, eps: number = 1e-5) => Builder::group_norm,
                "`[N, C, ..]` -> `[N, C, ..]`", "Statistics over the channels of a group and all spatial axes."),
            method!(instance_norm(scale: given = None, bias: given = None, eps: number = 1e-5) => Builder::instance_norm,
                "`[N, C, ..]` -> `[N, C, ..]`", "Statistics over the spatial axes."),
        ],
    },
    Group {
        title: "Convolutions, pools, resizing",
        methods: vec![
            method!(conv(weight: tensor, strides: counts = 1, pads: sides = 0, dilations: counts = 1, groups: index = 1,
                bias: given = None) => method::conv, "`[N, C, ..]`, `[O, C / groups, k..]` -> `[N, O, ..]`",
                "Convolution over 1 to 3 spatial axes. A pad is a number or `(before, after)`."),
            method!(conv_transpose(weight: tensor, strides: counts = 1, pads: sides = 0, output_padding: counts = 0,
                dilations: counts = 1, groups: index = 1, bias: given = None) => method::conv_transpose,
                "`[N, C, ..]`, `[C, O / groups, k..]` -> `[N, O, ..]`",
                "Transposed convolution; `pads` crop the result, `output_padding` extends its end."),
            method!(max_pool(window: counts, strides: counts = [], pads: sides = 0, dilations: counts = 1, ceil: flag = false)
                => method::max_pool, "`[N, C, ..]` -> `[N, C, ..]`",
                "Maximum of windows; strides are those of the window unless given; `ceil` keeps a last partial one."),
            method!(avg_pool(window: counts, strides: counts = [], pads: sides = 0, dilations: counts = 1, ceil: flag = false,
                count_include_pad: flag = false) => method::avg_pool, "`[N, C, ..]` -> `[N, C, ..]`",
                "Mean of windows, of elements of `x` alone unless `count_include_pad`."),
            method!(global_avg_pool() => Builder::global_avg_pool, "`[N, C, ..]` -> `[N, C, 1..]`", "Mean of the spatial axes."),
            method!(global_max_pool() => Builder::global_max_pool, "`[N, C, ..]` -> `[N, C, 1..]`", "Maximum of the spatial axes."),
            method!(resize(sizes: dims = [], scales: ratios = [], mode: word = "nearest", coordinates: word = "half_pixel",
                rounding: word = "round_prefer_floor", antialias: flag = false) => method::resize,
                "`[.., n..]` -> `[.., sizes..]`",
                "Interpolates the trailing axes to `sizes` or by `scales`: `nearest`, `linear` or `cubic`; coordinates and rounding as in ONNX Resize."),
        ],
    },
    Group {
        title: "Shapes",
        methods: vec![
            method!(reshape(shape: dims) => Builder::reshape_infer, "`[..]` -> `shape`",
                "The same elements in row-major order; one -1 takes what is left, 0 copies the extent."),
            method!(permute(axes: indices) => Builder::transpose, "`[..]` -> `[..]`", "Result axis `i` is axis `axes[i]`."),
            method!(transpose(a: integer = -2, b: integer = -1) => Builder::swap_axes, "`[..]` -> `[..]`", "Exchanges two axes."),
            method!(unsqueeze(axes: axes) => Builder::unsqueeze, "`[..]` -> `[.., 1, ..]`",
                "Inserts axes of extent 1 at these places of the result."),
            method!(squeeze(axes: axes) => Builder::squeeze, "`[.., 1, ..]` -> `[..]`", "Removes axes of extent 1."),
            method!(flatten(axis: integer = 1) => Builder::flatten, "`[a.., b..]` -> `[A, B]`",
                "Two axes: the product of those before `axis`, and of the rest."),
            method!(broadcast_to(shape: dims) => Builder::broadcast_to, "`[..]` -> `shape`", "Repeats axes of extent 1."),
            method!(expand(shape: dims) => method::expand, "`[..]` -> `shape`", "`broadcast_to` where -1 keeps an extent."),
            method!(repeat(times: dims) => method::repeat, "`[n..]` -> `[n * times..]`",
                "The whole so many times along each trailing axis."),
            method!(repeat_interleave(axis: integer, times: extent) => Builder::repeat_interleave,
                "`[.., N, ..]` -> `[.., N * times, ..]`", "Each element so many times in a row."),
            method!(flip(axis: integer) => Builder::flip, "`[..]` -> `[..]`", "Reverses an axis."),
            method!(roll(axis: integer, shift: extent) => Builder::roll, "`[..]` -> `[..]`",
                "Moves elements by `shift`, those beyond the end to the start."),
            method!(pad(pads: edges, mode: word = "constant", value: number = 0.0) => method::pad,
                "`[.., n..]` -> `[.., before + n + after..]`",
                "Pads the trailing axes, each by a number or `(before, after)`: `constant`, `reflect`, `edge` or `wrap`. Negative amounts crop."),
            method!(dim(axis) by forms::dim, "`[..]` -> a dim", "The extent of an axis of a variable, to compute with."),
        ],
    },
    Group {
        title: "Parts, gathers, scatters",
        methods: vec![
            method!(slice(axis, range) by forms::slice, "`[.., N, ..]` -> `[.., n, ..]`",
                "A range of an axis, such as `1..n`; negative places count from the end."),
            method!(index(axis: integer, at: integer) => Builder::index_axis, "`[.., N, ..]` -> `[.., ..]`",
                "One place of an axis, which is removed; negative places count from the end."),
            method!(split(axis, parts) by forms::split, "`[.., N, ..]` -> a tuple",
                "Parts with the extents of a list, or as many equal parts as a number says."),
            method!(chunk(axis, n) by forms::chunk, "`[.., N, ..]` -> a tuple of `n`", "Equal parts but for a smaller last one."),
            method!(gather(indices: tensor, axis: integer) => Builder::gather, "`[.., N, ..]`, `[i..]` -> `[.., i.., ..]`",
                "Places of an axis; negative ones count from the end."),
            method!(gather_elements(indices: tensor, axis: integer) => Builder::gather_elements, "`[..]`, `[i..]` -> `[i..]`",
                "For each index the element at it along `axis` (PyTorch's `gather`)."),
            method!(embedding(ids: tensor) => Builder::embedding, "`[V, D]`, `[i..]` -> `[i.., D]`", "Rows of a table."),
            method!(scatter(indices: tensor, updates: tensor, axis: integer, reduce: word = "set") => method::scatter,
                "`[.., N, ..]`, `[n]`, `[.., n, ..]` -> `[.., N, ..]`",
                "A copy with `updates` at these places of an axis: `set`, `add`, `mul`, `max` or `min`."),
            method!(scatter_elements(indices: tensor, updates: tensor, axis: integer, reduce: word = "set")
                => method::scatter_elements, "`[..]`, `[i..]`, `[i..]` -> `[..]`",
                "A copy with each of `updates` at its index along `axis` (PyTorch's `scatter`)."),
            method!(update(axis, at, rows) by forms::update, "`[.., N, ..]`, `[.., n, ..]` -> `[.., N, ..]`",
                "A copy with `rows` at `at..at + n` of an axis: a cache update. `at` is a dim, or an integer tensor of rank 0 or with leading axes."),
            method!(tril(diagonal: integer = 0) => Builder::tril, "`[.., M, N]` -> `[.., M, N]`",
                "Zero above the diagonal of the last two axes."),
            method!(triu(diagonal: integer = 0) => Builder::triu, "`[.., M, N]` -> `[.., M, N]`",
                "Zero below the diagonal of the last two axes."),
        ],
    },
    Group {
        title: "Quantization",
        methods: vec![
            method!(quantize(scale: tensor, zero_point: given = None, axis: integer = 1, block: index = 0, dtype: some_dtype = None)
                => method::quantize, "`[..]`, scale -> integer `[..]`",
                "`saturate(round(x / scale) + zero_point)`. The scale is one number, a list along `axis`, or one for each `block` elements of `axis`."),
            method!(dequantize(scale: tensor, zero_point: given = None, axis: integer = 1, block: index = 0)
                => method::dequantize, "integer `[..]`, scale -> `[..]`", "`(x - zero_point) * scale`, in the dtype of the scale."),
        ],
    },
]
});
