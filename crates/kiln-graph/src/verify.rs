//! The verifier: what every graph must satisfy, whoever made it.

use crate::{Dim, Error, Graph, NodeId, Op, Requirement, Result, TensorType, infer};
use std::collections::{BTreeMap, BTreeSet};

/// Deepest nesting of subgraphs.
const MAX_DEPTH: usize = 64;

/// Checks a graph: ids in range, values in order of definition and defined before use, result types as inferred, equalities that are not provable
/// recorded as constraints, inputs, outputs and weights consistent and uniquely named. Graphs that were deserialized or rewritten should
/// pass here before anything else reads them.
pub fn verify(graph: &Graph) -> Result<()> {
    verify_at(graph, 0)
}

fn verify_at(graph: &Graph, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::Verify(format!("subgraphs nest deeper than {MAX_DEPTH}")));
    }
    // Ids first: everything after may index with them.
    ids(graph)?;
    symbols(graph)?;
    for (i, node) in graph.nodes.iter().enumerate() {
        for (what, sub) in node.op.subgraphs() {
            verify_at(sub, depth + 1).map_err(|e| Error::Verify(format!("{} of {}: {e}", what, label(graph, i))))?;
        }
    }
    types(graph)?;
    interface(graph)?;
    weights(graph)
}

fn label(graph: &Graph, node: usize) -> String {
    let n = &graph.nodes[node];
    if n.name.is_empty() { format!("node #{node} ({})", n.op) } else { format!("node `{}` ({})", n.name, n.op) }
}

fn ids(graph: &Graph) -> Result<()> {
    let fail = |message: String| Err(Error::Verify(message));
    let mut next = 0;
    for (i, node) in graph.nodes.iter().enumerate() {
        for id in &node.inputs {
            if id.index() >= next {
                return fail(format!("{} uses %{} before it is defined", label(graph, i), id.0));
            }
        }
        for (r, id) in node.outputs.iter().enumerate() {
            let defined = graph.values.get(next).is_some_and(|v| v.node == NodeId(i as u32) && v.result == r as u32);
            if id.index() != next || !defined {
                return fail(format!("result {r} of {} must be value %{next}, found %{}", label(graph, i), id.0));
            }
            next += 1;
        }
    }
    if next != graph.values.len() {
        return fail(format!("{} values are defined by no node", graph.values.len() - next));
    }
    let interface = graph.inputs.iter().chain(graph.outputs.iter().map(|(_, id)| id));
    match interface.into_iter().find(|id| id.index() >= next) {
        Some(id) => fail(format!("the interface names %{}, which does not exist", id.0)),
        None => Ok(()),
    }
}

fn symbols(graph: &Graph) -> Result<()> {
    let mut used: BTreeSet<String> = graph.symbols.iter().map(|(s, _)| s.to_owned()).collect();
    for d in graph.values.iter().flat_map(|v| &v.ty.shape) {
        d.symbols(&mut used);
    }
    for name in used {
        if name.parse::<Dim>() != Ok(Dim::sym(name.clone())) {
            let message =
                format!("symbol `{name}` cannot be written in a dimension; use letters, digits, `_`, `.`, `$`");
            return Err(Error::Verify(message));
        }
        let (low, high) = graph.symbols.range(&name);
        if low < 0 || low > high {
            return Err(Error::Verify(format!("symbol `{name}` has the range {low}..={high}, which holds no extent")));
        }
    }
    Ok(())
}

fn types(graph: &Graph) -> Result<()> {
    for (i, node) in graph.nodes.iter().enumerate() {
        let fail = |message: String| Err(Error::Verify(format!("{}: {message}", label(graph, i))));
        let operands: Vec<&TensorType> = node.inputs.iter().map(|&id| graph.ty(id)).collect();
        let inference = match infer(&node.op, &operands, &graph.symbols) {
            Ok(inference) => inference,
            Err(e) => return fail(e.to_string()),
        };
        if inference.results.len() != node.outputs.len() {
            return fail(format!("expected {} results, found {}", inference.results.len(), node.outputs.len()));
        }
        for (&id, inferred) in node.outputs.iter().zip(&inference.results) {
            if let Err(message) = same_type(graph, graph.ty(id), inferred) {
                return fail(message);
            }
        }
        for requirement in &inference.constraints {
            if !recorded(graph, requirement) {
                return fail(format!("needs {requirement}, which is not among the graph's constraints"));
            }
        }
    }
    Ok(())
}

fn recorded(graph: &Graph, requirement: &Requirement) -> bool {
    requirement.follows_from_all(&graph.constraints, &graph.symbols)
}

/// Whether a declared type is the inferred one, up to equalities that are recorded.
pub(crate) fn same_type(
    graph: &Graph,
    declared: &TensorType,
    inferred: &TensorType,
) -> std::result::Result<(), String> {
    let same = declared.dtype == inferred.dtype
        && declared.rank() == inferred.rank()
        && declared
            .shape
            .iter()
            .zip(&inferred.shape)
            .all(|(d, i)| d == i || recorded(graph, &Requirement::equal(d.clone(), i.clone())));
    if same { Ok(()) } else { Err(format!("declared {declared}, inferred {inferred}")) }
}

fn interface(graph: &Graph) -> Result<()> {
    let fail = |message: String| Err(Error::Verify(message));
    let mut names = BTreeSet::new();
    let mut listed = BTreeSet::new();
    for &id in &graph.inputs {
        let Op::Input { name, .. } = &graph.producer(id).op else {
            return fail(format!("input %{} is defined by {}, not by an input", id.0, graph.producer(id).op));
        };
        if !listed.insert(id) || !names.insert(name) {
            return fail(format!("input `{name}` is listed twice"));
        }
    }
    let defined = graph.nodes.iter().filter(|n| matches!(n.op, Op::Input { .. })).flat_map(|n| &n.outputs);
    if let Some(id) = defined.into_iter().find(|id| !listed.contains(id)) {
        return fail(format!("input `{}` is not listed among the inputs", graph.input_name(*id)));
    }
    let mut names = BTreeSet::new();
    match graph.outputs.iter().find(|(name, _)| !names.insert(name)) {
        Some((name, _)) => fail(format!("output `{name}` is listed twice")),
        None => Ok(()),
    }
}

fn weights(graph: &Graph) -> Result<()> {
    let mut declared: BTreeMap<&str, &TensorType> = BTreeMap::new();
    for node in &graph.nodes {
        let Op::Weight { name, ty } = &node.op else { continue };
        if let Some(other) = declared.insert(name, ty) {
            return Err(Error::Verify(format!("weight `{name}` is declared twice, as {other} and as {ty}")));
        }
        if let Some(data) = graph.weights.get(name)
            && (data.dtype() != ty.dtype || Some(data.shape()) != ty.const_shape().as_deref())
        {
            return Err(Error::Verify(format!(
                "weight `{name}`: expected {ty}, found data of {}{:?}",
                data.dtype(),
                data.shape()
            )));
        }
    }
    Ok(())
}
