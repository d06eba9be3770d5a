//! Attention and rotary position embedding.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::tensor;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{BinaryOp, CompareOp, DType, Dim, PadMode, ReduceOp, SharedHeads, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Attention" => attention,
        "RotaryEmbedding" => rotary,
        _ => return None,
    };
    Some(handler)
}

/// Operators of the `ai.onnx.preview` domain.
pub(super) fn lookup_preview(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "FlexAttention" => flex_attention,
        _ => return None,
    };
    Some(handler)
}

/// `[batch, sequence, heads * size]` to `[batch, heads, sequence, size]`; rank 4 stays.
fn heads(l: &mut Lower<'_>, x: ValueId, count: i64) -> OpResult<ValueId> {
    if l.rank(x) == 4 {
        return Ok(x);
    }
    let shape = l.shape(x).to_vec();
    let count = Dim::from(count);
    let size = if count.is(0) { None } else { shape.get(2).and_then(|d| d.exact_div(&count)) };
    let (3, Some(size)) = (shape.len(), size) else {
        return invalid(format!("{} does not split into {count} heads", l.ty(x)));
    };
    let x = l.reshape(x, &[shape[0].clone(), shape[1].clone(), count, size])?;
    Ok(l.transpose(x, &[0, 2, 1, 3])?)
}

/// The reverse of [`heads`].
fn merge_heads(l: &mut Lower<'_>, x: ValueId) -> OpResult<ValueId> {
    let s = l.shape(x).to_vec();
    let x = l.transpose(x, &[0, 2, 1, 3])?;
    Ok(l.reshape(x, &[s[0].clone(), s[2].clone(), s[1].clone() * s[3].clone()])?)
}

/// Queries, or probabilities, as rows of the key heads that they share.
fn folded(l: &mut Lower<'_>, x: ValueId, heads: Option<&SharedHeads>) -> OpResult<ValueId> {
    Ok(match heads {
        Some(heads) => l.fold_queries(x, heads)?,
        None => x,
    })
}

/// The reverse of [`folded`], where `whole` is the shape of the queries.
fn unfolded(l: &mut Lower<'_>, x: ValueId, whole: &[Dim]) -> OpResult<ValueId> {
    let last = l.shape(x)[3].clone();
    Ok(l.reshape(x, &[whole[0].clone(), whole[1].clone(), whole[2].clone(), last])?)
}

fn attention<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (q, k, v) = (l.arg(n, 0)?, l.arg(n, 1)?, l.arg(n, 2)?);
    let merged = l.rank(q) == 3;
    let (q_heads, kv_heads) = (n.int("q_num_heads", 0)?, n.int("kv_num_heads", 0)?);
    let q = heads(l, q, q_heads)?;
    let (mut k, mut v) = (heads(l, k, kv_heads)?, heads(l, v, kv_heads)?);
    if [q, k, v].iter().any(|&x| l.rank(x) != 4) {
        return invalid(format!("needs q, k and v of rank 3 or 4, found {}, {} and {}", l.ty(q), l.ty(k), l.ty(v)));
    }
    let dtype = l.dtype(q);
    let mut past = Dim::from(0);
    if let (Some(pk), Some(pv)) = (l.maybe_arg(n, 4)?, l.maybe_arg(n, 5)?) {
        past = l.shape(pk).get(2).cloned().unwrap_or_default();
        k = l.concat(&[pk, k], 2)?;
        v = l.concat(&[pv, v], 2)?;
    }
    let present = [l.run(k), l.run(v)];
    let (whole, keys) = (l.shape(q).to_vec(), l.shape(k)[2].clone());
    let shared = l.shared_heads(q, k)?;
    let q = folded(l, q, shared.as_ref())?;

    // Both factors carry the root of the scale, as the specification has it.
    let scale = match (n.maybe_float("scale")?, whole[3].as_const()) {
        (Some(scale), _) => scale,
        (None, Some(size)) => 1.0 / (size as f64).sqrt(),
        (None, None) => return unsupported("the head size is not constant, and no scale is given"),
    };
    let wide = dtype.accumulator();
    let k = l.swap_axes(k, -1, -2)?;
    let raw = if wide == dtype {
        let q = l.mul_scalar(q, scale.sqrt())?;
        let k = l.mul_scalar(k, scale.sqrt())?;
        l.matmul(q, k)?
    } else {
        // In half precision the scores stay wide until they are probabilities, and the operands what they are.
        let product = l.matmul_as(q, k, wide, wide)?;
        l.mul_scalar(product, scale)?
    };
    let softcap = n.float("softcap", 0.0)?;
    let capped = if softcap > 0.0 {
        let x = l.mul_scalar(raw, 1.0 / softcap)?;
        let x = l.tanh(x)?;
        l.mul_scalar(x, softcap)?
    } else {
        raw
    };
    let raw_dtype = l.dtype(raw);
    let mut bias = bias(l, n, raw_dtype, &whole[2], &keys, &past)?;
    if let (Some(bias), Some(shared)) = (&mut bias, &shared) {
        bias.value = l.fold_mask(bias.value, shared, &whole[2])?;
    }
    let scores = match &bias {
        Some(bias) => l.plus(capped, bias.value)?,
        None => capped,
    };
    let precision = match n.maybe_int("softmax_precision")? {
        Some(code) => tensor::dtype(i32::try_from(code).unwrap_or(0)).or_else(unsupported)?,
        None => wide,
    };
    // Asked for in half precision, the softmax is no less precise for being taken wide.
    let precision = if precision.bits() < wide.bits() { wide } else { precision };
    let precise = l.cast(scores, precision)?;
    let mut p = l.softmax(precise, -1)?;
    if let Some(bias) = bias.filter(|b| b.may_mask_all) {
        // A query that sees no key gives zeros, not NaN.
        let last = [l.rank(bias.value) as i64 - 1];
        let most = l.reduce(ReduceOp::Max, bias.value, &last, true)?;
        let blind = l.compare_scalar(CompareOp::Eq, most, f64::NEG_INFINITY)?;
        let zero = l.scalar(precision, 0.0)?;
        p = l.select(blind, zero, p)?;
    }
    let p = l.cast(p, dtype)?;
    let y = l.matmul(p, v)?;
    let mut y = unfolded(l, y, &whole)?;
    if merged {
        y = merge_heads(l, y)?;
    }
    let shown = match n.int("qk_matmul_output_mode", 0)? {
        0 => raw,
        1 => capped,
        2 => scores,
        3 => p,
        other => return invalid(format!("qk_matmul_output_mode is {other}")),
    };
    let shown = l.cast(shown, dtype)?;
    let shown = unfolded(l, shown, &whole)?;
    let [present_k, present_v] = present;
    Ok(vec![l.run(y), present_k, present_v, l.run(shown)])
}

/// What is added to the scores.
struct Bias {
    value: ValueId,
    /// Whether a query may be left without any key.
    may_mask_all: bool,
}

/// The sum of mask, causal mask, window and padding: 0 or a float where a key is seen, -inf where it is not.
fn bias<'m>(
    l: &mut Lower<'m>,
    n: &Node<'m>,
    dtype: DType,
    queries: &Dim,
    keys: &Dim,
    past: &Dim,
) -> OpResult<Option<Bias>> {
    let mut seen: Option<ValueId> = None;
    let both = |l: &mut Lower<'m>, a: Option<ValueId>, b: ValueId| match a {
        Some(a) => l.binary(BinaryOp::And, a, b),
        None => Ok(b),
    };
    let mut added = None;
    let mut may_mask_all = false;
    if let Some(mut mask) = l.maybe_arg(n, 3)? {
        may_mask_all = true;
        let (rank, one) = (l.rank(mask), Dim::from(1));
        let last = l.shape(mask).last().cloned().unwrap_or_else(|| one.clone());
        // Keys beyond a short mask are not seen; a mask of one key is for all of them.
        let short = (keys.clone() - last.clone()) * (last - one.clone()).minimum(&one);
        if !short.is(0) {
            let is_bool = l.dtype(mask) == DType::Bool;
            let mut high = vec![Dim::from(0); rank];
            high[rank - 1] = short;
            let fill = PadMode::Constant(if is_bool { 0.0 } else { f64::NEG_INFINITY });
            mask = l.pad(mask, &vec![Dim::from(0); rank], &high, fill)?;
        }
        if l.dtype(mask) == DType::Bool {
            seen = Some(mask);
        } else {
            added = Some(l.cast(mask, dtype)?);
        }
    }
    let key = l.iota(DType::I64, &[queries.clone(), keys.clone()], 1)?;
    let row = l.iota(DType::I64, &[queries.clone(), keys.clone()], 0)?;
    let lens = match l.maybe_arg(n, 6)? {
        Some(lens) => {
            let lens = l.cast(lens, DType::I64)?;
            Some(l.unsqueeze(lens, &[1, 2, 3])?)
        }
        None => None,
    };
    let (left, right) = (n.int("left_window_size", -1)?, n.int("right_window_size", -1)?);
    let causal = n.flag("is_causal", false)?;
    if causal || left >= 0 || right >= 0 {
        let offset = match lens {
            Some(lens) => {
                may_mask_all = true;
                let queries = l.dim_value(queries, DType::I64)?;
                l.sub(lens, queries)?
            }
            None => l.dim_value(past, DType::I64)?,
        };
        let place = l.plus(row, offset)?;
        if causal {
            let ok = l.compare(CompareOp::Le, key, place)?;
            seen = Some(both(l, seen, ok)?);
        }
        if left >= 0 {
            may_mask_all = true;
            let left = l.scalar_int(DType::I64, i128::from(left))?;
            let first = l.sub(place, left)?;
            let ok = l.compare(CompareOp::Ge, key, first)?;
            seen = Some(both(l, seen, ok)?);
        }
        if right >= 0 {
            let right = l.scalar_int(DType::I64, i128::from(right))?;
            let last = l.plus(place, right)?;
            let ok = l.compare(CompareOp::Le, key, last)?;
            seen = Some(both(l, seen, ok)?);
        }
    }
    if let Some(lens) = lens {
        may_mask_all = true;
        let ok = l.compare(CompareOp::Lt, key, lens)?;
        seen = Some(both(l, seen, ok)?);
    }
    let hidden = match seen {
        Some(seen) => {
            let zero = l.scalar(dtype, 0.0)?;
            let hidden = l.scalar(dtype, f64::NEG_INFINITY)?;
            Some(l.select(seen, zero, hidden)?)
        }
        None => None,
    };
    let value = match (hidden, added) {
        (Some(a), Some(b)) => l.plus(a, b)?,
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return Ok(None),
    };
    Ok(Some(Bias { value, may_mask_all }))
}

fn rotary<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let merged = l.rank(x) == 3;
    let x = heads(l, x, n.int("num_heads", 0)?)?;
    let (mut cos, mut sin) = (l.arg(n, 1)?, l.arg(n, 2)?);
    if let Some(ids) = l.maybe_arg(n, 3)? {
        cos = l.gather(cos, ids, 0)?;
        sin = l.gather(sin, ids, 0)?;
    }
    if l.rank(cos) != 3 || l.rank(sin) != 3 || l.rank(x) != 4 {
        return invalid(format!("x {}, cos {} and sin {} do not fit", l.ty(x), l.ty(cos), l.ty(sin)));
    }
    // [batch, sequence, half] beside [batch, heads, sequence, half].
    let (cos, sin) = (l.unsqueeze(cos, &[1])?, l.unsqueeze(sin, &[1])?);
    let turned = Some(n.int("rotary_embedding_dim", 0)?).filter(|&d| d != 0).map(Dim::from);
    let interleaved = n.flag("interleaved", false)?;
    let mut y = l.rope(x, cos, sin, interleaved, turned.as_ref())?;
    if merged {
        y = merge_heads(l, y)?;
    }
    l.done(y)
}

/// Attention with subgraphs that change the scores and the probabilities.
fn flex_attention<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (q, k, v) = (l.arg(n, 0)?, l.arg(n, 1)?, l.arg(n, 2)?);
    if [q, k, v].iter().any(|&x| l.rank(x) != 4) {
        return invalid(format!("needs q, k and v of rank 4, found {}, {} and {}", l.ty(q), l.ty(k), l.ty(v)));
    }
    let (dtype, whole) = (l.dtype(q), l.shape(q).to_vec());
    let precision = match n.maybe_int("softmax_precision")? {
        Some(code) => tensor::dtype(i32::try_from(code).unwrap_or(0)).or_else(unsupported)?,
        None => dtype.accumulator(),
    };
    let scale = match (n.maybe_float("scale")?, whole[3].as_const()) {
        (Some(scale), _) => scale,
        (None, Some(size)) => 1.0 / (size as f64).sqrt(),
        (None, None) => return unsupported("the head size is not constant, and no scale is given"),
    };
    let shared = l.shared_heads(q, k)?;
    let q = folded(l, q, shared.as_ref())?;
    let k = l.swap_axes(k, -1, -2)?;
    let scores = l.matmul_as(q, k, dtype.accumulator(), precision)?;
    let scores = unfolded(l, scores, &whole)?;
    let scores = l.mul_scalar(scores, scale)?;
    let scores = modified(l, n, "score_mod", scores)?;
    let p = l.softmax(scores, -1)?;
    let p = modified(l, n, "prob_mod", p)?;
    let p = l.cast(p, dtype)?;
    let p = folded(l, p, shared.as_ref())?;
    let y = l.matmul(p, v)?;
    let y = unfolded(l, y, &whole)?;
    l.done(y)
}

/// What an optional subgraph of one input makes of a value.
fn modified<'m>(l: &mut Lower<'m>, n: &Node<'m>, attribute: &str, x: ValueId) -> OpResult<ValueId> {
    if !n.has(attribute) {
        return Ok(x);
    }
    let arg = l.run(x);
    match l.subgraph(n.graph(attribute)?, vec![arg])?.first() {
        Some(val) => l.value(val),
        None => invalid(format!("`{attribute}` has no output")),
    }
}
