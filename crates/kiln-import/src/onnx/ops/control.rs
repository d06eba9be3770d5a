//! `If`, `Loop` and `Scan`.

use super::super::lower::{Frame, Lower, OpError, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::shape_values::larger;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{DType, Dim, Graph, Op, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "If" => branch,
        "Loop" => repeat,
        "Scan" => scan,
        _ => return None,
    };
    Some(handler)
}

fn branch<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (then_body, else_body) = (n.graph("then_branch")?, n.graph("else_branch")?);
    if let Some(cond) = n.input(0)?.as_const() {
        let Some([cond]) = cond.to_i64_vec().as_deref().map(<[i64; 1]>::try_from).and_then(Result::ok) else {
            return invalid("the condition must be one bool");
        };
        return l.subgraph(if cond != 0 { then_body } else { else_body }, Vec::new());
    }
    let cond = l.arg(n, 0)?;
    let cond = l.reshape(cond, &[])?;
    let mut frames = Vec::new();
    for body in [then_body, else_body] {
        l.push_frame(false);
        let result =
            l.subgraph(body, Vec::new()).and_then(|vals| results(l, &vals, body.output.iter().map(|o| o.name())));
        let frame = l.pop_frame();
        result?;
        frames.extend(frame);
    }
    let [a, b] = &mut frames[..] else { return invalid("unbalanced subgraphs") };
    let captures = join_captures(l, a, b)?;
    let mut inputs = vec![cond];
    inputs.extend(captures);
    let mut graphs = frames.into_iter().map(|f| Box::new(f.finish()));
    let (Some(then_graph), Some(else_graph)) = (graphs.next(), graphs.next()) else {
        return invalid("unbalanced subgraphs");
    };
    let types = |g: &Graph| g.outputs.iter().map(|(_, id)| (g.ty(*id).dtype, g.ty(*id).rank())).collect::<Vec<_>>();
    if types(&then_graph) != types(&else_graph) {
        return Err(l.needs(n.input(0)?, "which branch is taken"));
    }
    let ids = match l.add(Op::If { then_graph, else_graph }, &inputs) {
        Ok(ids) => ids,
        // Branches of different extents: one of them must be chosen.
        Err(_) => return Err(l.needs(n.input(0)?, "which branch is taken")),
    };
    Ok(ids.into_iter().map(|id| l.run(id)).collect())
}

/// Declares the outputs of the current frame.
fn results<'a>(l: &mut Lower<'_>, vals: &[Val], names: impl Iterator<Item = &'a str>) -> OpResult<()> {
    for (val, name) in vals.iter().zip(names) {
        let id = l.value(val)?;
        l.output(name, id);
    }
    Ok(())
}

/// Gives both branches the same captures in the same order.
fn join_captures(l: &Lower<'_>, a: &mut Frame, b: &mut Frame) -> OpResult<Vec<ValueId>> {
    let mut all: Vec<ValueId> = a.captures.iter().chain(&b.captures).map(|(outer, _)| *outer).collect();
    all.sort_unstable();
    all.dedup();
    for frame in [a, b] {
        let mut inputs = Vec::with_capacity(all.len());
        for (i, outer) in all.iter().enumerate() {
            let known = frame.captures.iter().find(|(o, _)| o == outer).map(|(_, inner)| *inner);
            inputs.push(match known {
                Some(inner) => inner,
                None => {
                    let ty = l.ty(*outer);
                    frame.builder.input(&format!("unused{i}"), ty.dtype, &ty.shape)?
                }
            });
        }
        let graph: &mut Graph = frame.builder.graph_mut();
        graph.inputs = inputs;
    }
    Ok(all)
}

/// Longest loop that is unrolled when its carried values change shape.
const MAX_UNROLL: i64 = 64;

fn repeat<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let body = n.graph("body")?;
    let carried: Vec<Val> = n
        .inputs
        .iter()
        .skip(2)
        .map(|v| v.clone().ok_or_else(|| OpError::Invalid("a carried value is missing".into())))
        .collect::<OpResult<_>>()?;
    let count = carried.len();
    if body.input.len() != count + 2 || body.output.len() < count + 1 {
        return invalid(format!(
            "the body has {} inputs and {} outputs for {count} carried values",
            body.input.len(),
            body.output.len()
        ));
    }
    let scans = body.output.len() - 1 - count;
    let trip = match n.optional(0) {
        Some(v) => v.as_dims().and_then(|d| d.dims.first().cloned()),
        None => Some(Dim::from(i64::MAX)),
    };
    let always = match n.optional(1) {
        Some(v) => v.as_const().and_then(|t| t.to_i64_vec()).map(|v| v.first().copied().unwrap_or(0) != 0),
        None => Some(true),
    };
    if always == Some(false) && scans == 0 {
        return Ok(carried);
    }
    if let (Some(trips), Some(true)) = (trip.as_ref().and_then(Dim::as_const), always)
        && let Some(vals) = unroll(l, n, trips, carried.clone(), scans)?
    {
        return Ok(vals);
    }
    // A loop with a body of fixed types.
    let trip_id = match n.optional(0) {
        Some(v) => {
            let id = l.value(v)?;
            l.reshape(id, &[])?
        }
        None => l.scalar_int(DType::I64, i128::from(i64::MAX))?,
    };
    let cond_id = match n.optional(1) {
        Some(v) => {
            let id = l.value(v)?;
            l.reshape(id, &[])?
        }
        None => l.scalar_int(DType::Bool, 1)?,
    };
    let mut inputs = vec![trip_id, cond_id];
    for val in &carried {
        inputs.push(l.value(val)?);
    }
    let types: Vec<_> = inputs[2..].iter().map(|&id| l.ty(id).clone()).collect();
    l.push_frame(false);
    let result = loop_body(l, n, &types, always == Some(true));
    let frame = l.pop_frame();
    let cond_is_constant = result?;
    let Some(frame) = frame else { return invalid("unbalanced subgraphs") };
    if scans > 0 && !cond_is_constant {
        return unsupported("stacks outputs, and its condition is computed, so their length is not known");
    }
    inputs.extend(frame.captures.iter().map(|(outer, _)| *outer));
    let body = Box::new(frame.finish());
    let trip = trip.filter(|t| !t.is(i64::MAX)).map(|t| larger(&t, &Dim::from(0), &l.graph().symbols));
    let ids = l.add(Op::Loop { body, carried: count, trip }, &inputs)?;
    Ok(ids.into_iter().map(|id| l.run(id)).collect())
}

/// Fills the current frame with a loop body; true if the condition it gives is the constant true.
fn loop_body<'m>(l: &mut Lower<'m>, n: &Node<'m>, types: &[kiln_graph::TensorType], cond: bool) -> OpResult<bool> {
    let body = n.graph("body")?;
    let i = l.input("i", DType::I64, &[])?;
    let cond_in = l.input("cond", DType::Bool, &[])?;
    let cond_val = if cond { Val::constant(kiln_graph::Tensor::scalar(true)) } else { l.run(cond_in) };
    let mut args = vec![l.run(i), cond_val];
    for (at, ty) in types.iter().enumerate() {
        let id = l.input(&format!("carried{at}"), ty.dtype, &ty.shape)?;
        args.push(l.run(id));
    }
    let mut vals = l.subgraph(body, args)?;
    let constant = vals.first().and_then(|v| v.as_const()?.to_i64_vec()).is_some_and(|v| v == [1]);
    let cond_out = l.value(&vals[0])?;
    let cond_out = l.reshape(cond_out, &[])?;
    vals[0] = l.run(cond_out);
    results(l, &vals, body.output.iter().map(|o| o.name()))?;
    Ok(constant)
}

/// Repeats the body in line while its condition stays constant; `None` if it does not, or the loop is long.
fn unroll<'m>(
    l: &mut Lower<'m>,
    n: &Node<'m>,
    trips: i64,
    mut carried: Vec<Val>,
    scans: usize,
) -> OpResult<Option<Vec<Val>>> {
    let body = n.graph("body")?;
    let count = carried.len();
    if trips > MAX_UNROLL && n.optional(1).is_none() && n.optional(0).is_some() {
        return Ok(None);
    }
    let mut stacked: Vec<Vec<Val>> = vec![Vec::new(); scans];
    let mut cond = Val::constant(kiln_graph::Tensor::scalar(true));
    for i in 0..trips.max(0) {
        if i >= MAX_UNROLL {
            return Ok(None);
        }
        let mut args = vec![Val::constant(kiln_graph::Tensor::scalar(i)), cond.clone()];
        args.append(&mut carried);
        let mut vals = l.subgraph(body, args)?.into_iter();
        let (Some(next), rest) = (vals.next(), vals.collect::<Vec<_>>()) else {
            return invalid("the body has no condition");
        };
        let Some(going) = next.as_const().and_then(|t| t.to_i64_vec()) else { return Ok(None) };
        cond = next;
        carried = rest[..count].to_vec();
        for (stack, val) in stacked.iter_mut().zip(&rest[count..]) {
            stack.push(val.clone());
        }
        if going.first() == Some(&0) {
            break;
        }
    }
    let mut out = carried;
    for stack in stacked {
        if stack.is_empty() {
            return unsupported("stacks outputs of a loop that never runs");
        }
        let mut parts = Vec::with_capacity(stack.len());
        for val in &stack {
            let id = l.value(val)?;
            parts.push(l.unsqueeze(id, &[0])?);
        }
        let all = l.concat(&parts, 0)?;
        out.push(l.run(all));
    }
    Ok(Some(out))
}

/// A loop over slices of the scan inputs.
fn scan<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    if n.version < 9 {
        return unsupported("the batched form of operator set 8");
    }
    let body = n.graph("body")?;
    let Ok(scanned) = usize::try_from(n.int("num_scan_inputs", 0)?) else {
        return invalid("num_scan_inputs is negative");
    };
    let Some(states) = n.inputs.len().checked_sub(scanned).filter(|_| scanned > 0) else {
        return invalid(format!("{scanned} scan inputs of {}", n.inputs.len()));
    };
    if body.input.len() != n.inputs.len() || body.output.len() < states {
        return invalid(format!("the body has {} inputs and {} outputs", body.input.len(), body.output.len()));
    }
    let scan_outputs = body.output.len() - states;
    let list = |name: &str, count: usize| -> OpResult<Vec<i64>> {
        let v = n.ints(name)?.map_or_else(|| vec![0; count], <[i64]>::to_vec);
        if v.len() == count {
            Ok(v)
        } else {
            invalid(format!("attribute `{name}` has {} entries, expected {count}", v.len()))
        }
    };
    let (in_axes, in_back) = (list("scan_input_axes", scanned)?, list("scan_input_directions", scanned)?);
    let (out_axes, out_back) = (list("scan_output_axes", scan_outputs)?, list("scan_output_directions", scan_outputs)?);
    let mut state = Vec::new();
    for i in 0..states {
        state.push(l.arg(n, i)?);
    }
    // Every scan input with the scanned axis first, in the order it is read.
    let mut sequences = Vec::new();
    let mut trip = None;
    for i in 0..scanned {
        let mut x = l.arg(n, states + i)?;
        let axis = l.axis(x, in_axes[i])?;
        if in_back[i] != 0 {
            x = l.flip(x, axis as i64)?;
        }
        let perm: Vec<usize> = std::iter::once(axis).chain((0..l.rank(x)).filter(|&a| a != axis)).collect();
        x = l.transpose(x, &perm)?;
        trip = trip.or_else(|| l.shape(x).first().cloned());
        sequences.push(l.run(x));
    }
    let Some(trip) = trip else { return invalid("there is nothing to scan") };
    let trip_id = l.dim_value(&trip, DType::I64)?;
    let cond_id = l.scalar_int(DType::Bool, 1)?;
    let mut inputs = vec![trip_id, cond_id];
    inputs.extend(&state);
    let types: Vec<_> = state.iter().map(|&id| l.ty(id).clone()).collect();
    l.push_frame(false);
    let result = (|| {
        let i = l.input("i", DType::I64, &[])?;
        l.input("cond", DType::Bool, &[])?;
        let mut args = Vec::new();
        for (at, ty) in types.iter().enumerate() {
            let id = l.input(&format!("carried{at}"), ty.dtype, &ty.shape)?;
            args.push(l.run(id));
        }
        for sequence in &sequences {
            let x = l.value(sequence)?;
            let at = l.gather(x, i, 0)?;
            args.push(l.run(at));
        }
        let vals = l.subgraph(body, args)?;
        let go = l.scalar_int(DType::Bool, 1)?;
        l.output("cond", go);
        results(l, &vals, body.output.iter().map(|o| o.name()))
    })();
    let frame = l.pop_frame();
    result?;
    let Some(frame) = frame else { return invalid("unbalanced subgraphs") };
    inputs.extend(frame.captures.iter().map(|(outer, _)| *outer));
    let ids = l.add(Op::Loop { body: Box::new(frame.finish()), carried: states, trip: Some(trip) }, &inputs)?;
    let mut out = Vec::new();
    for (i, id) in ids.into_iter().enumerate() {
        let mut id = id;
        if let Some(s) = i.checked_sub(states) {
            let axis = l.axis(id, out_axes[s])?;
            if out_back[s] != 0 {
                id = l.flip(id, 0)?;
            }
            let mut perm: Vec<usize> = (1..l.rank(id)).collect();
            perm.insert(axis, 0);
            id = l.transpose(id, &perm)?;
        }
        out.push(l.run(id));
    }
    Ok(out)
}
