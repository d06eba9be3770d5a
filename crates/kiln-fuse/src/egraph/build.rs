//! Graph to e-graph.

use super::{EGraph, Head, Knowledge, Term, commutes};
use crate::region::MAX_OPERANDS;
use crate::{Error, Result};
use egg::Id;
use kiln_graph::{Graph, Op, OpKind, Requirement, TensorType, infer};

/// An e-graph that holds a graph, and where its values are.
pub(crate) struct Built {
    pub egraph: EGraph,
    /// The class of each value of the graph that its outputs depend on.
    pub class_of: Vec<Option<Id>>,
}

/// Puts everything that the outputs depend on into an e-graph.
pub(crate) fn build(graph: &Graph) -> Result<Built> {
    let live = live_nodes(graph);
    let mut egraph = EGraph::new(Knowledge::of(graph));
    let mut class_of: Vec<Option<Id>> = vec![None; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        if !live[i] {
            continue;
        }
        let operands: Option<Vec<Id>> = node.inputs.iter().map(|v| class_of[v.index()]).collect();
        let operands = operands.ok_or_else(|| invalid(graph, &format!("node `{}` uses a later value", node.name)))?;
        let tuple = node.op.kind().is_tuple();
        let id = egraph.put(&node.op, &operands);
        for (result, v) in node.outputs.iter().enumerate() {
            let class =
                if tuple { egraph.add(Term { head: Head::Result(result as u32), children: vec![id] }) } else { id };
            let found = egraph[class].data.types.first();
            if found != Some(graph.ty(*v)) {
                let found = found.map_or("nothing".to_owned(), ToString::to_string);
                return Err(invalid(
                    graph,
                    &format!("node `{}` declares {} but infers {found}", node.name, graph.ty(*v)),
                ));
            }
            class_of[v.index()] = Some(class);
        }
    }
    if let Some(why) = egraph.analysis.unsound.first() {
        return Err(Error::Graph(kiln_graph::Error::Verify(why.clone())));
    }
    Ok(Built { egraph, class_of })
}

fn invalid(graph: &Graph, message: &str) -> Error {
    Error::Graph(kiln_graph::Error::Verify(format!("`{}`: {message}", graph.name)))
}

fn live_nodes(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.nodes.len()];
    let mut stack: Vec<_> = graph.outputs.iter().map(|(_, v)| graph.value(*v).node).collect();
    while let Some(n) = stack.pop() {
        if !std::mem::replace(&mut live[n.index()], true) {
            stack.extend(graph.node(n).inputs.iter().map(|v| graph.value(*v).node));
        }
    }
    live
}

/// Adding ops to an e-graph.
pub(crate) trait Put {
    /// Adds an op. Operands that may be exchanged are put in a fixed order: weights and literals last. A concat of more values than a
    /// region has operands becomes a tree of concats, so that every op alone is a legal region.
    fn put(&mut self, op: &Op, operands: &[Id]) -> Id;
    /// [`Put::put`] for rules: nothing if the op does not type, or only under an equality of dims that the graph does not already
    /// require.
    fn try_put(&mut self, op: &Op, operands: &[Id]) -> Option<Id>;
}

impl Put for EGraph {
    fn put(&mut self, op: &Op, operands: &[Id]) -> Id {
        if matches!(op, Op::Concat { .. }) && operands.len() > MAX_OPERANDS {
            let parts: Vec<Id> = operands.chunks(MAX_OPERANDS).map(|part| self.put(op, part)).collect();
            return self.put(op, &parts);
        }
        let mut children = operands.to_vec();
        if let Op::Binary(b) = op {
            let rank = |id: Id| (self[id].data.literal, self[id].data.weight_only);
            if commutes(*b) && rank(children[0]) > rank(children[1]) {
                children.swap(0, 1);
            }
        }
        let head = match op.code() {
            code if code.kind() == OpKind::Opaque => Head::Opaque(self.analysis.fresh(op)),
            code if code.without_attributes().is_some() => Head::Op(code),
            code => {
                let attr = self.analysis.intern(op);
                children.insert(0, self.add(Term { head: Head::Attr(attr), children: vec![] }));
                Head::Op(code)
            }
        };
        let term = Term { head, children };
        self.analysis.trace.put(&term);
        self.add(term)
    }

    fn try_put(&mut self, op: &Op, operands: &[Id]) -> Option<Id> {
        let types: Option<Vec<&TensorType>> = operands.iter().map(|id| self[*id].data.types.first()).collect();
        let inference = infer(op, &types?, &self.analysis.symbols).ok()?;
        let (given, symbols) = (&self.analysis.constraints, &self.analysis.symbols);
        let known = |r: &Requirement| r.follows_from_all(given, symbols);
        inference.constraints.iter().all(known).then(|| self.put(op, operands))
    }
}
