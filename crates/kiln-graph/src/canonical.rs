//! A canonical byte serialization of graphs, for others to hash: what engine files and caches keep.

use crate::{Constraint, Encoder, Graph, ValueId};

impl Graph {
    /// Bytes that are equal exactly for graphs of equal structure: same ops, attributes, literals, types, symbols' ranges and constraints, reached in the same
    /// order from the outputs. Names of the graph, nodes, values, inputs, outputs and weights do not count, nor do labels of contractions, dead nodes and the
    /// data of weights. The bytes begin with the version of their form.
    pub fn structural_bytes(&self) -> Vec<u8> {
        encode(self, false)
    }

    /// [`Graph::structural_bytes`] that also tells apart the names of inputs, outputs and weights: what a caller can see.
    pub fn interface_bytes(&self) -> Vec<u8> {
        encode(self, true)
    }
}

/// Which bytes mean what. Hashes of another version are of another form.
const VERSION: u64 = 2;

pub(crate) fn encode(graph: &Graph, names: bool) -> Vec<u8> {
    let mut to = Encoder::naming(names);
    let order = order(graph);
    // Position of each node's first result in the order of emission.
    let mut first = vec![None; graph.nodes.len()];
    let mut next = 0u64;
    for &n in &order {
        first[n] = Some(next);
        next += graph.nodes[n].outputs.len() as u64;
    }
    let place = |id: ValueId| {
        let value = graph.value(id);
        first[value.node.index()].unwrap_or(u64::MAX) + u64::from(value.result)
    };
    to.number(VERSION);
    to.number(graph.inputs.len() as u64);
    to.number(order.len() as u64);
    for &n in &order {
        let node = &graph.nodes[n];
        to.op(&node.op);
        to.number(node.inputs.len() as u64);
        for &id in &node.inputs {
            to.number(place(id));
        }
        to.number(node.outputs.len() as u64);
        for &id in &node.outputs {
            to.ty(graph.ty(id));
        }
    }
    to.number(graph.outputs.len() as u64);
    for (name, id) in &graph.outputs {
        to.name(name);
        to.number(place(*id));
    }
    let symbols: Vec<_> = graph.symbols.iter().collect();
    to.number(symbols.len() as u64);
    for (symbol, (low, high)) in symbols {
        to.bytes(symbol.as_bytes());
        to.number(low as u64);
        to.number(high as u64);
    }
    let requirement = |c: &Constraint| {
        let mut one = Encoder::new();
        one.requirement(&c.requirement);
        one.finish()
    };
    to.sorted(graph.constraints.iter().map(requirement).collect());
    to.finish()
}

/// Nodes in the order of the inputs, then depth first from the outputs, operands before users.
fn order(graph: &Graph) -> Vec<usize> {
    let mut seen = vec![false; graph.nodes.len()];
    let mut entered = seen.clone();
    let mut order = Vec::new();
    let roots = graph.inputs.iter().chain(graph.outputs.iter().map(|(_, id)| id));
    for root in roots {
        // (node, operands already followed)
        let mut stack = vec![(graph.value(*root).node.index(), 0)];
        while let Some((n, followed)) = stack.pop() {
            // An entered node that is not finished is a cycle, which no valid graph has.
            if seen[n] || (followed == 0 && std::mem::replace(&mut entered[n], true)) {
                continue;
            }
            match graph.nodes[n].inputs.get(followed) {
                Some(&operand) => {
                    stack.push((n, followed + 1));
                    stack.push((graph.value(operand).node.index(), 0));
                }
                None => {
                    seen[n] = true;
                    order.push(n);
                }
            }
        }
    }
    order
}
