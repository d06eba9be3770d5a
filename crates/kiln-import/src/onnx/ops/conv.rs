//! Convolutions.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::shape_values::larger;
use super::super::value::Val;
use super::Handler;
use super::matmul::requantize;
use kiln_graph::{ConvSpec, DType, Dim, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Conv" => conv,
        "ConvTranspose" => conv_transpose,
        "ConvInteger" => conv_integer,
        "QLinearConv" => qlinear_conv,
        _ => return None,
    };
    Some(handler)
}

/// Largest stride, pad, dilation, window or group count accepted: above it, sums of a few overflow.
const MAX_GEOMETRY: i64 = 1 << 24;

/// A list attribute with one entry a spatial axis, each at least `min`.
pub(super) fn geometry(n: &Node<'_>, name: &str, count: usize, min: i64, default: i64) -> OpResult<Vec<usize>> {
    let Some(list) = n.ints(name)? else { return Ok(vec![default as usize; count]) };
    if list.len() != count || list.iter().any(|v| !(min..=MAX_GEOMETRY).contains(v)) {
        return invalid(format!("attribute `{name}` is {list:?}, expected {count} values of at least {min}"));
    }
    Ok(list.iter().map(|&v| v as usize).collect())
}

/// `(before, after)` on each axis from `pads`, or from `auto_pad` and the extents.
pub(super) fn padding(
    n: &Node<'_>,
    extents: &[Dim],
    window: &[usize],
    strides: &[usize],
    dilations: &[usize],
) -> OpResult<Vec<(usize, usize)>> {
    let count = extents.len();
    let upper = match n.string("auto_pad", "NOTSET")? {
        "NOTSET" | "" => {
            let pads = geometry(n, "pads", 2 * count, 0, 0)?;
            return Ok((0..count).map(|a| (pads[a], pads[count + a])).collect());
        }
        "VALID" => return Ok(vec![(0, 0); count]),
        "SAME_UPPER" => true,
        "SAME_LOWER" => false,
        other => return invalid(format!("auto_pad is `{other}`")),
    };
    (0..count)
        .map(|a| {
            let span = dilations[a] * (window[a] - 1) + 1;
            let total = match extents[a].as_const().and_then(|d| usize::try_from(d).ok()) {
                // As many windows as strides fit in the axis, rounded up.
                Some(d) => {
                    (d.div_ceil(strides[a]).saturating_sub(1).saturating_mul(strides[a]) + span).saturating_sub(d)
                }
                None if strides[a] == 1 => span - 1,
                None => {
                    return unsupported(format!(
                        "auto_pad with stride {} over the symbolic extent {}",
                        strides[a], extents[a]
                    ));
                }
            };
            let less = total / 2;
            Ok(if upper { (less, total - less) } else { (total - less, less) })
        })
        .collect()
}

/// Geometry of a convolution of `x` with `w`.
fn spec(l: &Lower<'_>, n: &Node<'_>, x: ValueId, w: ValueId) -> OpResult<(ConvSpec, Vec<usize>)> {
    let (x, w) = (l.ty(x), l.ty(w));
    if x.rank() < 3 || w.rank() != x.rank() {
        return invalid(format!("needs x[N, C, ..] and w of one rank, found {x} and {w}"));
    }
    let count = x.rank() - 2;
    let taps: Option<Vec<i64>> = w.shape[2..].iter().map(Dim::as_const).collect();
    let Some(taps) = taps else { return unsupported(format!("the kernel extents of {w} are not constant")) };
    if taps.iter().any(|t| !(1..=MAX_GEOMETRY).contains(t)) {
        return invalid(format!("kernel extents of {w}"));
    }
    let taps: Vec<usize> = taps.iter().map(|&t| t as usize).collect();
    if geometry(n, "kernel_shape", count, 1, 1)? != taps && n.has("kernel_shape") {
        return invalid(format!("kernel_shape does not match {w}"));
    }
    let strides = geometry(n, "strides", count, 1, 1)?;
    let dilations = geometry(n, "dilations", count, 1, 1)?;
    let groups = n.int("group", 1)?;
    if !(1..=MAX_GEOMETRY).contains(&groups) {
        return invalid(format!("group is {groups}"));
    }
    let pads = vec![(0, 0); count];
    Ok((ConvSpec { strides, pads, dilations, groups: groups as usize }, taps))
}

fn padded_spec(l: &Lower<'_>, n: &Node<'_>, x: ValueId, w: ValueId) -> OpResult<ConvSpec> {
    let (mut spec, taps) = spec(l, n, x, w)?;
    spec.pads = padding(n, &l.shape(x)[2..], &taps, &spec.strides, &spec.dilations)?;
    Ok(spec)
}

fn conv<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, w, bias) = (l.arg(n, 0)?, l.arg(n, 1)?, l.maybe_arg(n, 2)?);
    let spec = padded_spec(l, n, x, w)?;
    let y = l.conv(x, w, bias, spec)?;
    l.done(y)
}

fn conv_transpose<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, w, bias) = (l.arg(n, 0)?, l.arg(n, 1)?, l.maybe_arg(n, 2)?);
    let (mut spec, taps) = spec(l, n, x, w)?;
    let count = taps.len();
    let mut output_padding = geometry(n, "output_padding", count, 0, 0)?;
    let auto_pad = n.string("auto_pad", "NOTSET")?;
    let wanted = n.ints("output_shape")?;
    if wanted.is_none() && !auto_pad.starts_with("SAME") {
        spec.pads = padding(n, &l.shape(x)[2..], &taps, &spec.strides, &spec.dilations)?;
    } else {
        // Batch and channels may be listed too.
        let wanted = wanted.map(|s| s.get(s.len().saturating_sub(count)..).unwrap_or_default());
        if wanted.is_some_and(|s| s.len() != count || s.iter().any(|v| !(1..=MAX_GEOMETRY).contains(v))) {
            return invalid(format!("output_shape is {wanted:?}, expected {count} extents of at least 1"));
        }
        let upper = auto_pad == "SAME_UPPER";
        if let Some(wanted) = wanted
            && l.shape(x)[2..].iter().any(|d| d.as_const().is_none())
        {
            let y = cropped_transpose(l, [x, w], bias, spec, &output_padding, wanted, upper)?;
            return l.done(y);
        }
        for a in 0..count {
            let extent = &l.shape(x)[2 + a];
            let stride = spec.strides[a];
            let span = spec.dilations[a] * (taps[a] - 1) + 1;
            // Without pads the result has (n - 1) * stride + output_padding + span elements; pads cut it down to what is wanted.
            let total = match (wanted, extent.as_const()) {
                (Some(s), Some(n)) => n
                    .saturating_sub(1)
                    .saturating_mul(stride as i64)
                    .saturating_add((output_padding[a] + span) as i64)
                    .saturating_sub(s[a]),
                _ => (output_padding[a] + span) as i64 - stride as i64,
            };
            // What is wanted beyond the result is zeros after it.
            output_padding[a] += usize::try_from(-total).unwrap_or(0);
            let total = usize::try_from(total).unwrap_or(0);
            let less = total / 2;
            spec.pads[a] = if upper { (less, total - less) } else { (total - less, less) };
        }
    }
    let y = l.conv_transpose(x, w, bias, spec, &output_padding)?;
    l.done(y)
}

/// A transposed convolution with `output_shape` over symbolic extents: the whole result, then cut or extended to what is wanted.
fn cropped_transpose(
    l: &mut Lower<'_>,
    [x, w]: [ValueId; 2],
    bias: Option<ValueId>,
    spec: ConvSpec,
    output_padding: &[usize],
    wanted: &[i64],
    upper: bool,
) -> OpResult<ValueId> {
    let dtype = l.dtype(x);
    let (x, w) = (l.widen(x)?, l.widen(w)?);
    let mut y = l.conv_transpose(x, w, None, spec, output_padding)?;
    let rank = l.rank(y);
    let (mut starts, mut after) = (vec![Dim::from(0); rank], vec![Dim::from(0); rank]);
    let mut sizes = l.shape(y).to_vec();
    for (a, &want) in wanted.iter().enumerate() {
        let (whole, want) = (std::mem::replace(&mut sizes[2 + a], Dim::from(want)), Dim::from(want));
        let symbols = &l.graph().symbols;
        let total = larger(&(whole.clone() - want.clone()), &Dim::from(0), symbols);
        after[2 + a] = larger(&(want - whole), &Dim::from(0), symbols);
        starts[2 + a] = if upper { total.floor_div(&Dim::from(2)) } else { total.ceil_div(&Dim::from(2)) };
    }
    let zero = l.scalar(dtype.accumulator(), 0.0)?;
    y = l.pad_with(y, zero, &vec![Dim::from(0); rank], &after, &vec![0; rank])?;
    y = l.slice(y, &starts, &sizes, &vec![1; rank])?;
    if let Some(bias) = bias {
        let bias = l.widen(bias)?;
        let bias = l.per_channel(y, bias)?;
        y = l.plus(y, bias)?;
    }
    Ok(l.cast(y, dtype)?)
}

/// `x - zero_point` in i32; a vector of zero points has one for each index of axis 0.
fn centred(l: &mut Lower<'_>, x: ValueId, zero: Option<ValueId>) -> OpResult<ValueId> {
    let wide = l.cast(x, DType::I32)?;
    let Some(zero) = zero else { return Ok(wide) };
    let mut zero = l.cast(zero, DType::I32)?;
    if l.rank(zero) == 1 {
        let trailing: Vec<i64> = (1..l.rank(x) as i64).collect();
        zero = l.unsqueeze(zero, &trailing)?;
    }
    Ok(l.sub(wide, zero)?)
}

fn conv_integer<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, w) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let spec = padded_spec(l, n, x, w)?;
    let (zx, zw) = (l.maybe_arg(n, 2)?, l.maybe_arg(n, 3)?);
    let x = centred(l, x, zx)?;
    let w = centred(l, w, zw)?;
    let y = l.conv_as(x, w, spec, DType::I32, DType::I32)?;
    l.done(y)
}

fn qlinear_conv<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, w) = (l.arg(n, 0)?, l.arg(n, 3)?);
    let spec = padded_spec(l, n, x, w)?;
    let (zx, zw) = (l.arg(n, 2)?, l.arg(n, 5)?);
    let x = centred(l, x, Some(zx))?;
    let w = centred(l, w, Some(zw))?;
    let mut sums = l.conv_as(x, w, spec, DType::I32, DType::I32)?;
    if let Some(bias) = l.maybe_arg(n, 8)? {
        let bias = l.per_channel(sums, bias)?;
        sums = l.plus(sums, bias)?;
    }
    let (sx, mut sw) = (l.arg(n, 1)?, l.arg(n, 4)?);
    if l.rank(sw) == 1 {
        sw = l.per_channel(sums, sw)?;
    }
    let y = requantize(l, sums, sx, sw, n, 6)?;
    l.done(y)
}
