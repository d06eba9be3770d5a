//! Half precision computed wider: for sums that would overflow, and as a reference that does not.

mod chain;
mod rewrite;

use crate::{DType, Graph, Op, Result, Tensor, ValueId, interpret, interpret_all};
use rewrite::Rewrite;
use serde::Serialize;

pub use chain::{Risk, risks};

/// The graph with every sum of half-precision values kept in f32, along with the elementwise ops that feed it and those that bring its result back
/// into range: rounded once, where they meet the rest of the graph. Bodies of control flow too.
pub fn widen_reductions(graph: &Graph) -> Result<Graph> {
    let mut graph = graph.clone();
    for node in &mut graph.nodes {
        match &mut node.op {
            Op::If { then_graph, else_graph } => {
                **then_graph = widen_reductions(then_graph)?;
                **else_graph = widen_reductions(else_graph)?;
            }
            Op::Loop { body, .. } => **body = widen_reductions(body)?,
            _ => {}
        }
    }
    let kept = chain::around_sums(&graph);
    if !kept.contains(&true) {
        return Ok(graph);
    }
    Ok(Rewrite::new(&graph, DType::F32, &kept).run()?.0)
}

/// The outputs of the graph computed in f64 and rounded once, to their own dtypes. Inputs in the order of [`Graph::inputs`].
pub fn reference(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    interpret(&in_f64(graph)?.0, inputs)
}

/// A half-precision value that overflows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overflow {
    /// The model's name of the node that makes it.
    pub node: String,
    /// What the node does.
    pub op: String,
    /// The model's name of the value.
    pub value: String,
    /// Its dtype.
    pub dtype: DType,
    /// How many of its elements overflow.
    pub count: usize,
    /// What f64 gives for the first of them.
    pub exact: f64,
}

/// The first value in half precision that is infinite or NaN where the same graph in f64 is finite. Values inside control flow are not seen.
pub fn first_overflow(graph: &Graph, inputs: &[Tensor]) -> Result<Option<Overflow>> {
    let half = |v: &crate::Value| is_half(v.ty.dtype);
    if !graph.values.iter().any(half) {
        return Ok(None);
    }
    let (exact, places) = in_f64(graph)?;
    let (found, expected) = (interpret_all(graph, inputs)?, interpret_all(&exact, inputs)?);
    for (i, value) in graph.values.iter().enumerate().filter(|(_, v)| half(v)) {
        let (found, expected) = (found[i].to_f64_vec(), expected[places[i].index()].to_f64_vec());
        let lost = |(f, e): &(&f64, &f64)| !f.is_finite() && e.is_finite();
        let count = found.iter().zip(&expected).filter(lost).count();
        let first = found.iter().zip(&expected).find(lost).map(|(_, e)| *e);
        if let Some(exact) = first {
            let node = graph.node(value.node);
            return Ok(Some(Overflow {
                node: node.name.clone(),
                op: node.op.name().to_owned(),
                value: value.name.clone(),
                dtype: value.ty.dtype,
                count,
                exact,
            }));
        }
    }
    Ok(None)
}

/// The graph with all floats in f64, outputs still in their own dtypes, and where each value is in it. What control flow gives stays as it was.
fn in_f64(graph: &Graph) -> Result<(Graph, Vec<ValueId>)> {
    let opaque = |op: &Op| matches!(op, Op::If { .. } | Op::Loop { .. });
    let kept: Vec<bool> =
        graph.values.iter().map(|v| v.ty.dtype.is_float() && !opaque(&graph.node(v.node).op)).collect();
    Rewrite::new(graph, DType::F64, &kept).run()
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

#[cfg(test)]
mod tests;
