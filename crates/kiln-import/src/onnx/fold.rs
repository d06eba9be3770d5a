//! Constant folding: a node of small constants is lowered into a scratch graph and run by the reference interpreter.

use super::lower::{Lower, OpError, OpResult};
use super::node::Node;
use super::ops::Handler;
use super::value::Val;
use kiln_graph::Op;

/// Most elements of the operands, and of every value on the way: folding is for shapes and scalars, not for weights.
const MAX_ELEMENTS: usize = 1 << 14;

/// The results of a node whose inputs are all constant and small; `None` if it is not one, or does not fold.
pub(super) fn constants<'m>(lower: &mut Lower<'m>, node: &Node<'m>, handler: Handler) -> OpResult<Option<Vec<Val>>> {
    let mut elements = 0usize;
    for input in node.inputs.iter().flatten() {
        let Some(tensor) = input.as_const() else { return Ok(None) };
        elements = elements.saturating_add(tensor.len());
    }
    if node.inputs.iter().flatten().next().is_none() || elements > MAX_ELEMENTS {
        return Ok(None);
    }
    let unsupported = lower.unsupported.clone();
    let needed = lower.needed.clone();
    let level = lower.level();
    lower.push_frame(true);
    let result = handler(lower, node);
    let frame = lower.pop_frame();
    let clean = lower.unsupported == unsupported;
    lower.unsupported = unsupported;
    lower.needed = needed;
    let (Some(mut frame), Ok(vals), true) = (frame, result, clean) else { return Ok(None) };
    // What the handler already knows needs no run.
    let mut computed = Vec::new();
    for val in &vals {
        if let Val::Run { level: at, id, .. } = val {
            if *at <= level {
                return Ok(None);
            }
            computed.push(*id);
        }
    }
    let graph = frame.builder.graph_mut();
    graph.outputs = computed.iter().enumerate().map(|(i, &id)| (i.to_string(), id)).collect();
    let small = graph.values.iter().all(|v| {
        let shape = v.ty.const_shape();
        shape.and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d))).is_some_and(|n| n <= MAX_ELEMENTS)
    });
    let loops = graph.nodes.iter().any(|n| matches!(n.op, Op::Loop { .. }));
    if !small || loops || !graph.inputs.is_empty() {
        return Ok(None);
    }
    let mut tensors = if computed.is_empty() {
        Vec::new().into_iter()
    } else {
        match kiln_graph::interpret(graph, &[]) {
            Ok(tensors) => tensors.into_iter(),
            // The run decides, with the error that fits it.
            Err(_) => return Ok(None),
        }
    };
    let fill = |val: Val| match val {
        Val::Run { .. } => tensors.next().map(Val::constant).ok_or(OpError::NotConstant),
        known => Ok(known),
    };
    vals.into_iter().map(fill).collect::<OpResult<_>>().map(Some)
}
