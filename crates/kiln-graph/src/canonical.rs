//! A canonical byte serialization, for others to hash. Engine files keep such hashes, so the bytes must not depend on the machine or the release of Rust as those fed to
//! `std::hash` do: attributes are written as the text form has them.

use crate::text::attributes;
use crate::{Graph, Op, ValueId};

impl Graph {
    /// Bytes that are equal exactly for graphs of equal structure: same ops, attributes, literals, types, symbols' ranges and constraints, reached in the same
    /// order from the outputs. Names of the graph, nodes, values, inputs, outputs and weights do not count, nor do dead nodes and the
    /// data of weights.
    pub fn structural_bytes(&self) -> Vec<u8> {
        encode(self, false)
    }

    /// [`Graph::structural_bytes`] that also tells apart the names of inputs, outputs and weights: what a caller can see.
    pub fn interface_bytes(&self) -> Vec<u8> {
        encode(self, true)
    }
}

fn encode(graph: &Graph, names: bool) -> Vec<u8> {
    let mut out = Vec::new();
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
    number(&mut out, graph.inputs.len() as u64);
    number(&mut out, order.len() as u64);
    for &n in &order {
        let node = &graph.nodes[n];
        bytes(&mut out, node.op.name().as_bytes());
        match &node.op {
            Op::Const { value } => bytes(&mut out, value.data()),
            Op::Input { name, .. } | Op::Weight { name, .. } => {
                bytes(&mut out, if names { name.as_bytes() } else { b"" })
            }
            op => {
                let (label, rest) = attributes(op);
                bytes(&mut out, label.as_bytes());
                bytes(&mut out, rest.as_bytes());
            }
        }
        for (_, sub) in node.op.subgraphs() {
            bytes(&mut out, &encode(sub, names));
        }
        number(&mut out, node.inputs.len() as u64);
        for &id in &node.inputs {
            number(&mut out, place(id));
        }
        number(&mut out, node.outputs.len() as u64);
        for &id in &node.outputs {
            bytes(&mut out, graph.ty(id).to_string().as_bytes());
        }
    }
    number(&mut out, graph.outputs.len() as u64);
    for (name, id) in &graph.outputs {
        bytes(&mut out, if names { name.as_bytes() } else { b"" });
        number(&mut out, place(*id));
    }
    for (symbol, (low, high)) in graph.symbols.iter() {
        bytes(&mut out, symbol.as_bytes());
        number(&mut out, low as u64);
        number(&mut out, high as u64);
    }
    let mut constraints: Vec<_> = graph.constraints.iter().map(|c| &c.requirement).collect();
    constraints.sort();
    for requirement in constraints {
        bytes(&mut out, requirement.to_string().as_bytes());
    }
    out
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

fn number(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(&v.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, data: &[u8]) {
    number(out, data.len() as u64);
    out.extend_from_slice(data);
}
