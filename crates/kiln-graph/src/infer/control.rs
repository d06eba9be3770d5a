//! Control flow: subgraphs share the symbols of the graph around them by name.

use super::{Cx, view::scalar};
use crate::{DType, Dim, Graph, Result, TensorType};

pub(super) fn branch(cx: &mut Cx, then_graph: &Graph, else_graph: &Graph) -> Result<Vec<TensorType>> {
    let Some((cond, captures)) = cx.inputs.split_first() else {
        return cx.fail("needs a condition".into());
    };
    scalar(cx, cond, DType::Bool, "the condition")?;
    arguments(cx, "then branch", then_graph, captures)?;
    arguments(cx, "else branch", else_graph, captures)?;
    let (a, b) = (output_types(then_graph), output_types(else_graph));
    if a.len() != b.len() {
        return cx.fail(format!("the then branch gives {} results, the else branch {}", a.len(), b.len()));
    }
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        agree(cx, a, b, &format!("result {i} of the two branches"))?;
    }
    Ok(a.into_iter().cloned().collect())
}

pub(super) fn repeat(cx: &mut Cx, body: &Graph, carried: usize, trip: Option<&Dim>) -> Result<Vec<TensorType>> {
    if cx.inputs.len().checked_sub(2).is_none_or(|n| n < carried) {
        return cx.fail(format!(
            "expected a trip count, a condition and {carried} carried values, found {} operands",
            cx.inputs.len()
        ));
    }
    scalar(cx, cx.inputs[0], DType::I64, "the trip count")?;
    scalar(cx, cx.inputs[1], DType::Bool, "the condition")?;
    arguments(cx, "body", body, cx.inputs)?;
    let outputs = output_types(body);
    if outputs.len() < 1 + carried {
        return cx.fail(format!(
            "the body must give a condition and {carried} carried values, found {} results",
            outputs.len()
        ));
    }
    scalar(cx, outputs[0], DType::Bool, "the body's condition")?;
    let mut results = Vec::new();
    for i in 0..carried {
        let start = cx.inputs[2 + i];
        agree(cx, start, outputs[1 + i], &format!("carried value {i} before and after the body"))?;
        results.push(start.clone());
    }
    for scanned in &outputs[1 + carried..] {
        let Some(trip) = trip else {
            return cx.fail("scan outputs need a trip count that is known at build time".into());
        };
        let mut ty = (*scanned).clone();
        ty.shape.insert(0, trip.clone());
        results.push(ty);
    }
    Ok(results)
}

fn output_types(graph: &Graph) -> Vec<&TensorType> {
    graph.outputs.iter().map(|(_, id)| graph.ty(*id)).collect()
}

fn arguments(cx: &mut Cx, what: &str, graph: &Graph, given: &[&TensorType]) -> Result<()> {
    if graph.inputs.len() != given.len() {
        return cx.fail(format!("the {what} takes {} inputs, found {}", graph.inputs.len(), given.len()));
    }
    for (i, (id, given)) in graph.inputs.iter().zip(given).enumerate() {
        agree(cx, graph.ty(*id), given, &format!("input {i} of the {what}"))?;
    }
    Ok(())
}

fn agree(cx: &mut Cx, expected: &TensorType, found: &TensorType, what: &str) -> Result<()> {
    if expected.dtype != found.dtype {
        return cx.fail(format!("{what} must agree, expected {expected}, found {found}"));
    }
    cx.same_shape(expected, found, what)
}
