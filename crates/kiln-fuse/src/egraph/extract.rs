//! A graph from any choice of e-nodes: for tests, which require that every choice computes the same.

use super::{ClassIx, Dag};
use kiln_graph::{Graph, Op, ValueId};
use std::collections::HashMap;

/// The graph that computes `roots` by node `choose(class, count)` of each class, over the inputs, weights and symbols of `like`.
pub(crate) fn extract(
    dag: &Dag,
    roots: &[ClassIx],
    like: &Graph,
    mut choose: impl FnMut(ClassIx, usize) -> usize,
) -> Graph {
    let mut graph = Graph::new("extracted");
    graph.symbols = like.symbols.clone();
    graph.weights = like.weights.clone();
    let mut named: HashMap<String, ValueId> = HashMap::new();
    for v in &like.inputs {
        let op = like.producer(*v).op.clone();
        let Op::Input { name, ty } = &op else { continue };
        let (name, ty) = (name.clone(), ty.clone());
        named.insert(name, graph.push_node(op, &[], vec![ty], "")[0]);
    }
    // Choices first, so that only what they need is computed.
    let mut chosen: HashMap<ClassIx, usize> = HashMap::new();
    let mut needed = vec![false; dag.classes.len()];
    roots.iter().for_each(|r| needed[r.index()] = true);
    for c in dag.indices().rev() {
        if needed[c.index()] {
            let n = choose(c, dag.class(c).nodes.len());
            chosen.insert(c, n);
            dag.class(c).nodes[n].operands.iter().for_each(|o| needed[o.index()] = true);
        }
    }
    let mut values: HashMap<ClassIx, Vec<ValueId>> = HashMap::new();
    for c in dag.indices().filter(|c| needed[c.index()]) {
        let node = &dag.class(c).nodes[chosen[&c]];
        let made = match &node.op {
            None => vec![values[&node.operands[0]][node.part]],
            Some(Op::Input { name, .. }) => vec![named[name]],
            Some(op) => {
                let inputs: Vec<ValueId> = node.operands.iter().map(|o| values[o][0]).collect();
                graph.push_node(op.clone(), &inputs, dag.class(c).types.clone(), "")
            }
        };
        values.insert(c, made);
    }
    graph.outputs = roots.iter().enumerate().map(|(i, r)| (format!("y{i}"), values[r][0])).collect();
    graph
}
