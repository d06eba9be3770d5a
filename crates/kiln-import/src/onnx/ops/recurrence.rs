//! Recurrences over a sequence: written out when short, a loop otherwise; and the operators that are little else.

use super::super::lower::{Lower, OpError, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{ConvSpec, DType, Dim, Op, ReduceOp, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "LinearAttention" => linear_attention,
        "CausalConvWithState" => causal_conv,
        _ => return None,
    };
    Some(handler)
}

/// Longest sequence that is written out step by step.
const UNROLLED: i64 = 4;

/// One step of a recurrence: the elements of the sequences and the states, to the next states and an output.
pub(super) type Step<'a> = dyn Fn(&mut Lower<'_>, &[ValueId], &[ValueId]) -> OpResult<(Vec<ValueId>, ValueId)> + 'a;

/// Runs `step` over the first axis of every sequence; gives the final states and the outputs stacked on a new first axis.
pub(super) fn recur(
    l: &mut Lower<'_>,
    steps: &Dim,
    sequences: &[Val],
    start: Vec<ValueId>,
    step: &Step<'_>,
) -> OpResult<(Vec<ValueId>, ValueId)> {
    if let Some(count) = steps.as_const().filter(|s| (1..=UNROLLED).contains(s)) {
        let (mut states, mut all) = (start, Vec::new());
        for t in 0..count {
            let mut elements = Vec::with_capacity(sequences.len());
            for sequence in sequences {
                let sequence = l.value(sequence)?;
                elements.push(l.index_axis(sequence, 0, t)?);
            }
            let (next, output) = step(l, &elements, &states)?;
            states = next;
            all.push(l.unsqueeze(output, &[0])?);
        }
        let all = l.concat(&all, 0)?;
        return Ok((states, all));
    }
    let types: Vec<_> = start.iter().map(|&s| l.ty(s).clone()).collect();
    let trip = l.dim_value(steps, DType::I64)?;
    let go = l.scalar_int(DType::Bool, 1)?;
    l.push_frame(false);
    let result = loop_body(l, sequences, &types, step);
    let frame = l.pop_frame();
    result?;
    let Some(frame) = frame else { return invalid("unbalanced subgraphs") };
    let mut operands = vec![trip, go];
    operands.extend(&start);
    operands.extend(frame.captures.iter().map(|(outer, _)| *outer));
    let body = Box::new(frame.finish());
    let mut states = l.add(Op::Loop { body, carried: start.len(), trip: Some(steps.clone()) }, &operands)?;
    match states.pop() {
        Some(all) => Ok((states, all)),
        None => Err(OpError::Invalid("the loop has no results".into())),
    }
}

fn loop_body(l: &mut Lower<'_>, sequences: &[Val], types: &[kiln_graph::TensorType], step: &Step<'_>) -> OpResult<()> {
    let i = l.input("i", DType::I64, &[])?;
    l.input("cond", DType::Bool, &[])?;
    let mut states = Vec::new();
    for (at, ty) in types.iter().enumerate() {
        states.push(l.input(&format!("state{at}"), ty.dtype, &ty.shape)?);
    }
    let mut elements = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        let sequence = l.value(sequence)?;
        elements.push(l.gather(sequence, i, 0)?);
    }
    let (states, output) = step(l, &elements, &states)?;
    let go = l.scalar_int(DType::Bool, 1)?;
    l.output("cond", go);
    for (at, &state) in states.iter().enumerate() {
        l.output(format!("state{at}"), state);
    }
    l.output("y", output);
    Ok(())
}

/// `[batch, steps, heads * size]` as a sequence `[steps, batch, heads, size]` of wide floats.
fn unpack(l: &mut Lower<'_>, x: ValueId, heads: i64) -> OpResult<ValueId> {
    let s = l.shape(x).to_vec();
    let size = if heads < 1 { None } else { s.get(2).and_then(|d| d.exact_div(&Dim::from(heads))) };
    let (3, Some(size)) = (s.len(), size) else {
        return invalid(format!("{} does not split into {heads} heads", l.ty(x)));
    };
    let dtype = l.dtype(x).accumulator();
    let x = l.cast(x, dtype)?;
    let x = l.reshape(x, &[s[0].clone(), s[1].clone(), Dim::from(heads), size])?;
    Ok(l.transpose(x, &[1, 0, 2, 3])?)
}

/// A state `[batch, heads, key, value]` that decays and takes up the outer product of each key and value.
fn linear_attention<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (q_heads, heads) = (n.int("q_num_heads", 0)?, n.int("kv_num_heads", 0)?);
    let (gated, delta) = match n.string("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return invalid(format!("update_rule is `{other}`")),
    };
    if heads < 1 || q_heads < 1 || q_heads % heads != 0 {
        return invalid(format!("{q_heads} query heads do not share {heads} key heads evenly"));
    }
    let q = l.arg(n, 0)?;
    let dtype = l.dtype(q);
    let q = unpack(l, q, q_heads)?;
    let (k, v) = (l.arg(n, 1)?, l.arg(n, 2)?);
    let (k, v) = (unpack(l, k, heads)?, unpack(l, v, heads)?);
    let wide = l.dtype(q);
    let [steps, batch, _, size] = <[Dim; 4]>::try_from(l.shape(q).to_vec()).unwrap_or_default();
    let value_size = l.shape(v)[3].clone();
    let (count, shared) = (Dim::from(heads), Dim::from(q_heads / heads));
    let scale = match (n.float("scale", 0.0)?, size.as_const()) {
        (0.0, Some(size)) => 1.0 / (size as f64).sqrt(),
        (0.0, None) => return unsupported("the head size is not constant, and no scale is given"),
        (scale, _) => scale,
    };
    // Queries [.., heads, shared, key], keys [.., heads, key, 1], values [.., heads, 1, value].
    let q = l.reshape(q, &[steps.clone(), batch.clone(), count.clone(), shared, size.clone()])?;
    let q = l.mul_scalar(q, scale)?;
    let k = l.unsqueeze(k, &[4])?;
    let v = l.unsqueeze(v, &[3])?;
    let mut sequences = vec![l.run(q), l.run(k), l.run(v)];
    if gated {
        let decay = l.arg(n, 4)?;
        let decay = unpack(l, decay, heads)?;
        let decay = l.exp(decay)?;
        let decay = l.unsqueeze(decay, &[4])?;
        sequences.push(l.run(decay));
    }
    if delta {
        let beta = l.arg(n, 5)?;
        let each = if l.shape(beta).last().is_some_and(|d| d.is(1)) { 1 } else { heads };
        let beta = unpack(l, beta, each)?;
        let beta = l.unsqueeze(beta, &[4])?;
        sequences.push(l.run(beta));
    }
    let state = match l.maybe_arg(n, 3)? {
        Some(state) => l.cast(state, wide)?,
        None => {
            let zero = l.scalar(wide, 0.0)?;
            l.broadcast_to(zero, &[batch.clone(), count, size, value_size.clone()])?
        }
    };
    let step = |l: &mut Lower<'_>, x: &[ValueId], states: &[ValueId]| {
        let (q, k, mut v) = (x[0], x[1], x[2]);
        let mut s = states[0];
        if gated {
            s = l.mul(s, x[3])?;
        }
        if delta {
            // What the state already answers to this key is not added again.
            let answered = l.mul(s, k)?;
            let answered = l.reduce(ReduceOp::Sum, answered, &[2], true)?;
            let new = l.sub(v, answered)?;
            v = l.mul(new, x[x.len() - 1])?;
        }
        let outer = l.mul(k, v)?;
        let s = l.plus(s, outer)?;
        let y = l.matmul(q, s)?;
        Ok((vec![s], y))
    };
    let (last, y) = recur(l, &steps, &sequences, vec![state], &step)?;
    let y = l.transpose(y, &[1, 0, 2, 3, 4])?;
    let y = l.reshape(y, &[batch, steps, Dim::from(q_heads) * value_size])?;
    let y = l.cast(y, dtype)?;
    let state_type = n.optional(3).map_or(dtype, Val::dtype);
    let last = l.cast(last[0], state_type)?;
    Ok(vec![l.run(y), l.run(last)])
}

/// Depthwise convolution of each position with those before it, the first of which come from the state.
fn causal_conv<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, w, bias) = (l.arg(n, 0)?, l.arg(n, 1)?, l.maybe_arg(n, 2)?);
    let taps = l.shape(w).last().and_then(Dim::as_const);
    let channels = l.shape(x).get(1).and_then(Dim::as_const).and_then(|c| usize::try_from(c).ok());
    let (3, 3, Some(taps @ 1..), Some(channels @ 1..)) = (l.rank(x), l.rank(w), taps, channels) else {
        return invalid(format!("needs x[N, C, L] and w[C, 1, K], found {} and {}", l.ty(x), l.ty(w)));
    };
    let before = Dim::from(taps - 1);
    let past = match l.maybe_arg(n, 3)? {
        Some(past) => past,
        None => {
            let dtype = l.dtype(x);
            let shape = [l.shape(x)[0].clone(), l.shape(x)[1].clone(), before.clone()];
            let zero = l.scalar(dtype, 0.0)?;
            l.broadcast_to(zero, &shape)?
        }
    };
    let all = l.concat(&[past, x], 2)?;
    let spec = ConvSpec { strides: vec![1], pads: vec![(0, 0)], dilations: vec![1], groups: channels };
    let silu = match n.string("activation", "none")? {
        "none" => false,
        "silu" | "swish" => true,
        other => return invalid(format!("activation is `{other}`")),
    };
    let dtype = l.dtype(x);
    let wide = dtype.accumulator();
    let mut y = l.conv_as(all, w, spec, wide, wide)?;
    if let Some(bias) = bias {
        let bias = l.per_channel(y, bias)?;
        let bias = l.cast(bias, wide)?;
        y = l.plus(y, bias)?;
    }
    if silu {
        y = l.silu(y)?;
    }
    let y = l.cast(y, dtype)?;
    let length = l.shape(x)[2].clone();
    let state = l.slice_axis(all, 2, &length, &before, 1)?;
    Ok(vec![l.run(y), l.run(state)])
}
