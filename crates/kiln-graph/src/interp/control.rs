//! Control flow: subgraphs run in the bindings of the graph around them.

use super::array::{Array, Eval};
use super::bind::bind_within;
use super::{Run, view};
use crate::{Dim, Graph};

/// Runs a subgraph on captured values.
fn call(run: &Run, graph: &Graph, args: Vec<Array>) -> Eval<Vec<Array>> {
    let shapes: Vec<Vec<usize>> = args.iter().map(|a| a.shape.clone()).collect();
    let bindings = bind_within(graph, &shapes, &run.bindings).map_err(|e| e.to_string())?;
    let mut weights = run.weights.clone();
    weights.push(&graph.weights);
    Run { graph, bindings, weights, keep: false }.outputs(args).map_err(|e| e.to_string())
}

pub(super) fn branch(run: &Run, then_graph: &Graph, else_graph: &Graph, args: &[Array]) -> Eval<Vec<Array>> {
    let taken = if args[0].int()? != 0 { then_graph } else { else_graph };
    call(run, taken, args[1..].to_vec())
}

pub(super) fn repeat(run: &Run, body: &Graph, carried: usize, trip: Option<&Dim>, args: &[Array]) -> Eval<Vec<Array>> {
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
