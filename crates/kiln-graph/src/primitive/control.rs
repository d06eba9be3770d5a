//! Control flow: subgraphs share the symbols of the graph around them by name, and run in its bindings.

use super::view;
use crate::infer::Cx;
use crate::interp::array::{Array, Eval};
use crate::interp::{Run, bind_within};
use crate::{DType, Dim, Graph, Result, TensorType};

pub(crate) fn branch_type(cx: &mut Cx, then_graph: &Graph, else_graph: &Graph) -> Result<Vec<TensorType>> {
    let Some((cond, captures)) = cx.inputs.split_first() else {
        return cx.fail("needs a condition".into());
    };
    view::scalar(cx, cond, DType::Bool, "the condition")?;
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

pub(crate) fn repeat_type(cx: &mut Cx, body: &Graph, carried: usize, trip: Option<&Dim>) -> Result<Vec<TensorType>> {
    if cx.inputs.len().checked_sub(2).is_none_or(|n| n < carried) {
        return cx.fail(format!(
            "expected a trip count, a condition and {carried} carried values, found {} operands",
            cx.inputs.len()
        ));
    }
    view::scalar(cx, cx.inputs[0], DType::I64, "the trip count")?;
    view::scalar(cx, cx.inputs[1], DType::Bool, "the condition")?;
    arguments(cx, "body", body, cx.inputs)?;
    let outputs = output_types(body);
    if outputs.len() < 1 + carried {
        return cx.fail(format!(
            "the body must give a condition and {carried} carried values, found {} results",
            outputs.len()
        ));
    }
    view::scalar(cx, outputs[0], DType::Bool, "the body's condition")?;
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

/// Runs a subgraph on captured values.
fn call(run: &Run, graph: &Graph, args: Vec<Array>) -> Eval<Vec<Array>> {
    let shapes: Vec<Vec<usize>> = args.iter().map(|a| a.shape.clone()).collect();
    let bindings = bind_within(graph, &shapes, &run.bindings).map_err(|e| e.to_string())?;
    let mut weights = run.weights.clone();
    weights.push(&graph.weights);
    Run { graph, bindings, weights, keep: false }.outputs(args).map_err(|e| e.to_string())
}

pub(crate) fn branch(run: &Run, then_graph: &Graph, else_graph: &Graph, args: &[Array]) -> Eval<Vec<Array>> {
    let taken = if args[0].int()? != 0 { then_graph } else { else_graph };
    call(run, taken, args[1..].to_vec())
}

pub(crate) fn repeat(run: &Run, body: &Graph, carried: usize, trip: Option<&Dim>, args: &[Array]) -> Eval<Vec<Array>> {
    let (limit, mut cond) = (args[0].int()?, args[1].clone());
    let mut state = args[2..2 + carried].to_vec();
    let captures = &args[2 + carried..];
    let scan_count = body.outputs.len() - 1 - carried;
    let mut scans: Vec<Vec<Array>> = vec![Vec::new(); scan_count];
    let mut iteration = 0;
    while iteration < limit && cond.int()? != 0 {
        let mut inputs = vec![Array::scalar(iteration), cond];
        inputs.append(&mut state);
        inputs.extend_from_slice(captures);
        let mut results = call(run, body, inputs)?.into_iter();
        cond = results.next().ok_or("the body gives no condition")?;
        state.extend(results.by_ref().take(carried));
        for (scan, value) in scans.iter_mut().zip(results) {
            let shape = [&[1], value.shape.as_slice()].concat();
            scan.push(value.with_shape(shape));
        }
        iteration += 1;
    }
    for (i, scan) in scans.iter().enumerate() {
        let declared = match trip {
            Some(trip) => trip.eval_extent(&run.bindings).map_err(|e| e.to_string())?,
            None => return Err("scan outputs need a trip count that is known at build time".into()),
        };
        if declared != scan.len() {
            return Err(format!("scan output {i} needs {declared} iterations, the loop ended after {iteration}"));
        }
        state.push(stack(body, 1 + carried + i, scan, run)?);
    }
    Ok(state)
}

/// Joins the values of each iteration; with none, an empty array of the declared type.
fn stack(body: &Graph, output: usize, parts: &[Array], run: &Run) -> Eval<Array> {
    match parts.first() {
        Some(first) => {
            let mut shape = first.shape.clone();
            shape[0] = parts.len();
            view::concat(parts, 0, &shape)
        }
        None => {
            let ty = body.ty(body.outputs[output].1);
            let shape = [vec![0], run.extents(&ty.shape)?].concat();
            let empty = crate::Tensor::zeros(ty.dtype, &shape).map_err(|e| e.to_string())?;
            Ok(Array::from_tensor(&empty))
        }
    }
}
