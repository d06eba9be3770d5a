//! Composites under the arguments that a method of a tensor has: plain numbers, lists and words, where the [`Builder`]'s own functions take
//! geometries and modes. `#[kiln::model]` calls them, at expansion on abstract types and from the code that it generates.
//!
//! A list of strides, pads or dilations has an entry for each trailing (spatial) axis, or one for all of them.

use super::{Attending, Builder};
use crate::{
    ArgOp, ConvSpec, DType, Dim, PadMode, Pool, ReduceOp, Resize, ResizeTo, Result, ScatterOp, ValueId, WindowSpec,
};
use std::str::FromStr;

/// A word as the choice that it names.
fn word<T: FromStr<Err = String>>(b: &Builder, op: &str, what: &str, word: &str) -> Result<T> {
    word.parse().or_else(|message: String| b.fail(op, format!("`{what}`: {message}")))
}

/// An entry for each of `count` axes.
fn each<T: Clone>(b: &Builder, op: &str, what: &str, list: &[T], count: usize) -> Result<Vec<T>> {
    match list {
        [one] => Ok(vec![one.clone(); count]),
        list if list.len() == count => Ok(list.to_vec()),
        list => b.fail(op, format!("`{what}` has {} entries for {count} spatial axes", list.len())),
    }
}

/// Dropout when a model is applied: nothing. `p` must be a probability.
pub fn dropout(b: &mut Builder, x: ValueId, p: f64) -> Result<ValueId> {
    if (0.0..=1.0).contains(&p) { Ok(x) } else { b.fail("dropout", format!("`p` is {p}, which is no probability")) }
}

/// `x * x`.
pub fn square(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    b.mul(x, x)
}

/// Minimum over `axes`.
pub fn amin(b: &mut Builder, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
    b.reduce(ReduceOp::Min, x, axes, keep)
}

/// Product over `axes`.
pub fn prod(b: &mut Builder, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
    b.reduce(ReduceOp::Prod, x, axes, keep)
}

/// Whether all along `axes` are true.
pub fn all(b: &mut Builder, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
    b.reduce(ReduceOp::All, x, axes, keep)
}

/// Whether any along `axes` is true.
pub fn any(b: &mut Builder, x: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
    b.reduce(ReduceOp::Any, x, axes, keep)
}

/// Index of the first largest element along `axis`.
pub fn argmax(b: &mut Builder, x: ValueId, axis: i64, keep: bool) -> Result<ValueId> {
    b.arg_reduce(ArgOp::Max, x, axis, false, keep)
}

/// Index of the first smallest element along `axis`.
pub fn argmin(b: &mut Builder, x: ValueId, axis: i64, keep: bool) -> Result<ValueId> {
    b.arg_reduce(ArgOp::Min, x, axis, false, keep)
}

/// Broadcasts to `shape`, in which -1 is the extent that `x` has.
pub fn expand(b: &mut Builder, x: ValueId, shape: &[Dim]) -> Result<ValueId> {
    let own = b.shape(x).to_vec();
    let mut target = shape.to_vec();
    for (i, d) in target.iter_mut().enumerate().filter(|(_, d)| d.is(-1)) {
        match (i + own.len()).checked_sub(shape.len()).map(|at| own[at].clone()) {
            Some(extent) => *d = extent,
            None => return b.fail("expand", format!("-1 on axis {i} keeps an extent that {} does not have", b.ty(x))),
        }
    }
    b.broadcast_to(x, &target)
}

/// Repeats `x` along its trailing axes; more numbers than axes make new leading ones.
pub fn repeat(b: &mut Builder, x: ValueId, times: &[Dim]) -> Result<ValueId> {
    let one = Dim::from(1);
    let mut shape = b.shape(x).to_vec();
    let mut repeats = times.to_vec();
    while shape.len() < repeats.len() {
        shape.insert(0, one.clone());
    }
    while repeats.len() < shape.len() {
        repeats.insert(0, one.clone());
    }
    let x = b.reshape(x, &shape)?;
    b.tile(x, &repeats)
}

/// Pads the trailing axes, an entry of `pads` each, by so much before and after. `value` counts in mode `constant`.
pub fn pad(b: &mut Builder, x: ValueId, pads: &[(Dim, Dim)], mode: &str, value: f64) -> Result<ValueId> {
    let Some(lead) = b.rank(x).checked_sub(pads.len()) else {
        return b.fail("pad", format!("{} pads for the axes of {}", pads.len(), b.ty(x)));
    };
    let mode = match word(b, "pad", "mode", mode)? {
        PadMode::Constant(_) => PadMode::Constant(value),
        mode => mode,
    };
    let (mut low, mut high) = (vec![Dim::from(0); lead], vec![Dim::from(0); lead]);
    for (before, after) in pads {
        low.push(before.clone());
        high.push(after.clone());
    }
    b.pad(x, &low, &high, mode)
}

/// A copy of `x` with `updates` at `idx[N]` of `axis`.
pub fn scatter(
    b: &mut Builder,
    x: ValueId,
    idx: ValueId,
    updates: ValueId,
    axis: i64,
    reduce: &str,
) -> Result<ValueId> {
    let op: ScatterOp = word(b, "scatter", "reduce", reduce)?;
    b.scatter(x, idx, updates, axis, op)
}

/// A copy of `x` with each of `updates` where `idx` says along `axis`.
pub fn scatter_elements(
    b: &mut Builder,
    x: ValueId,
    idx: ValueId,
    updates: ValueId,
    axis: i64,
    reduce: &str,
) -> Result<ValueId> {
    let op: ScatterOp = word(b, "scatter_elements", "reduce", reduce)?;
    b.scatter_elements(x, idx, updates, axis, op)
}

/// How many spatial axes `x[N, C, ..]` has.
fn spatial(b: &Builder, op: &str, x: ValueId) -> Result<usize> {
    match b.rank(x).checked_sub(2) {
        Some(count) if count > 0 => Ok(count),
        _ => b.fail(op, format!("needs x[N, C, ..] with spatial axes, found {}", b.ty(x))),
    }
}

fn conv_spec(
    b: &Builder,
    op: &str,
    x: ValueId,
    [strides, dilations]: [&[usize]; 2],
    pads: &[(usize, usize)],
    groups: usize,
) -> Result<ConvSpec> {
    let count = spatial(b, op, x)?;
    Ok(ConvSpec {
        strides: each(b, op, "strides", strides, count)?,
        pads: each(b, op, "pads", pads, count)?,
        dilations: each(b, op, "dilations", dilations, count)?,
        groups,
    })
}

/// Convolution.
#[allow(clippy::too_many_arguments, reason = "the arguments of the method")]
pub fn conv(
    b: &mut Builder,
    x: ValueId,
    weight: ValueId,
    strides: &[usize],
    pads: &[(usize, usize)],
    dilations: &[usize],
    groups: usize,
    bias: Option<ValueId>,
) -> Result<ValueId> {
    let spec = conv_spec(b, "conv", x, [strides, dilations], pads, groups)?;
    b.conv(x, weight, bias, spec)
}

/// Transposed convolution.
#[allow(clippy::too_many_arguments, reason = "the arguments of the method")]
pub fn conv_transpose(
    b: &mut Builder,
    x: ValueId,
    weight: ValueId,
    strides: &[usize],
    pads: &[(usize, usize)],
    output_padding: &[usize],
    dilations: &[usize],
    groups: usize,
    bias: Option<ValueId>,
) -> Result<ValueId> {
    let op = "conv_transpose";
    let spec = conv_spec(b, op, x, [strides, dilations], pads, groups)?;
    let output_padding = each(b, op, "output_padding", output_padding, spec.strides.len())?;
    b.conv_transpose(x, weight, bias, spec, &output_padding)
}

/// A pooling; no strides are those of the window.
fn pooling(
    b: &Builder,
    op: &str,
    x: ValueId,
    [window, strides, dilations]: [&[usize]; 3],
    pads: &[(usize, usize)],
    ceil_mode: bool,
) -> Result<Pool> {
    let count = spatial(b, op, x)?;
    let window = each(b, op, "window", window, count)?;
    let strides = if strides.is_empty() { window.clone() } else { each(b, op, "strides", strides, count)? };
    let (pads, dilations) = (each(b, op, "pads", pads, count)?, each(b, op, "dilations", dilations, count)?);
    Ok(Pool { spec: WindowSpec { window, strides, pads, dilations }, ceil_mode })
}

/// Maximum of windows.
pub fn max_pool(
    b: &mut Builder,
    x: ValueId,
    window: &[usize],
    strides: &[usize],
    pads: &[(usize, usize)],
    dilations: &[usize],
    ceil: bool,
) -> Result<ValueId> {
    let pool = pooling(b, "max_pool", x, [window, strides, dilations], pads, ceil)?;
    b.max_pool(x, &pool)
}

/// Mean of windows.
#[allow(clippy::too_many_arguments, reason = "the arguments of the method")]
pub fn avg_pool(
    b: &mut Builder,
    x: ValueId,
    window: &[usize],
    strides: &[usize],
    pads: &[(usize, usize)],
    dilations: &[usize],
    ceil: bool,
    count_include_pad: bool,
) -> Result<ValueId> {
    let pool = pooling(b, "avg_pool", x, [window, strides, dilations], pads, ceil)?;
    b.avg_pool(x, &pool, count_include_pad)
}

/// Resizes the trailing axes to `sizes` or by `scales`, of which one has an entry an axis and the other none.
#[allow(clippy::too_many_arguments, reason = "the arguments of the method")]
pub fn resize(
    b: &mut Builder,
    x: ValueId,
    sizes: &[Dim],
    scales: &[f64],
    mode: &str,
    coordinates: &str,
    rounding: &str,
    antialias: bool,
) -> Result<ValueId> {
    let to = match (sizes, scales) {
        (sizes, []) if !sizes.is_empty() => ResizeTo::Sizes(sizes),
        ([], scales) if !scales.is_empty() => ResizeTo::Scales(scales),
        _ => return b.fail("resize", "give `sizes` or `scales`, an entry for each trailing axis that changes".into()),
    };
    let rank = b.rank(x);
    let Some(first) = rank.checked_sub(sizes.len() + scales.len()) else {
        return b.fail("resize", format!("{} extents for the axes of {}", sizes.len() + scales.len(), b.ty(x)));
    };
    let rule = Resize {
        mode: word(b, "resize", "mode", mode)?,
        coordinates: word(b, "resize", "coordinates", coordinates)?,
        rounding: Some(word(b, "resize", "rounding", rounding)?),
        antialias,
        ..Resize::default()
    };
    let axes: Vec<usize> = (first..rank).collect();
    b.resize(x, &axes, &to, &[], &rule)
}

/// Quantization; the dtype is that of the zero point, or given where there is none.
pub fn quantize(
    b: &mut Builder,
    x: ValueId,
    scale: ValueId,
    zero_point: Option<ValueId>,
    axis: i64,
    block: usize,
    dtype: Option<DType>,
) -> Result<ValueId> {
    let to = match (zero_point.map(|z| b.dtype(z)), dtype) {
        (Some(zero), None) => zero,
        (None, Some(dtype)) => dtype,
        (Some(zero), Some(dtype)) if zero == dtype => dtype,
        (Some(zero), Some(dtype)) => {
            return b.fail("quantize", format!("the zero point is {zero}, and the dtype that is asked for {dtype}"));
        }
        (None, None) => return b.fail("quantize", "give a zero point or a dtype, such as `dtype = i8`".into()),
    };
    let axes = b.quant_axes(x, scale, axis, block)?;
    let (scale, zero_point) = b.quant_parameters(&axes, scale, zero_point, to)?;
    b.quantize(x, scale, zero_point, axes)
}

/// The reverse of [`quantize`], in the dtype of the scale.
pub fn dequantize(
    b: &mut Builder,
    x: ValueId,
    scale: ValueId,
    zero_point: Option<ValueId>,
    axis: i64,
    block: usize,
) -> Result<ValueId> {
    let axes = b.quant_axes(x, scale, axis, block)?;
    let dtype = b.dtype(x);
    let (scale, zero_point) = b.quant_parameters(&axes, scale, zero_point, dtype)?;
    b.dequantize(x, scale, zero_point, axes)
}

/// Attention, see [`Builder::attention_with`].
#[allow(clippy::too_many_arguments, reason = "the arguments of the method")]
pub fn attention(
    b: &mut Builder,
    queries: ValueId,
    keys: ValueId,
    values: ValueId,
    mask: Option<ValueId>,
    scale: Option<f64>,
    causal: bool,
    offset: &Dim,
    window: Option<Dim>,
    cap: Option<f64>,
    sinks: Option<ValueId>,
) -> Result<ValueId> {
    let offset = offset.clone();
    b.attention_with(queries, keys, values, &Attending { mask, scale, offset, causal, window, cap, sinks })
}

/// Rotary position embedding of the first `dim` elements of the last axis, all unless given.
pub fn rope(
    b: &mut Builder,
    x: ValueId,
    cos: ValueId,
    sin: ValueId,
    interleaved: bool,
    dim: Option<Dim>,
) -> Result<ValueId> {
    b.rope(x, cos, sin, interleaved, dim.as_ref())
}

/// `x w^T + bias` with `w[out, in]`.
pub fn linear(b: &mut Builder, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> Result<ValueId> {
    b.linear(x, weight, bias, true)
}
