//! The order of nodes: a file should list them sorted, and many do not.

use super::proto::{AttributeProto, GraphProto, NodeProto};
use crate::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// Nodes with those that compute their inputs before them; the order of the file where it does so already. `given` are names that are not
/// for nodes to write: inputs and initializers.
pub(super) fn sorted<'m>(nodes: &'m [NodeProto], given: &HashSet<&'m str>) -> Result<Vec<&'m NodeProto>> {
    let mut writers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            let first = writers.insert(output, i);
            if let Some(other) = first.map(|j| label(&nodes[j])) {
                return Err(twice(node, output, &format!("{other} writes it too")));
            }
            if given.contains(output.as_str()) {
                return Err(twice(node, output, "it is an input or initializer"));
            }
        }
    }
    let mut waits = vec![0usize; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut in_order = true;
    for (i, node) in nodes.iter().enumerate() {
        let mut needs: HashSet<&str> = HashSet::new();
        reads(node, &mut needs);
        for at in needs.into_iter().filter_map(|name| writers.get(name).copied()) {
            in_order &= at < i;
            waits[i] += 1;
            users[at].push(i);
        }
    }
    if in_order {
        return Ok(nodes.iter().collect());
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|&i| waits[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(&nodes[i]);
        for &user in &users[i] {
            waits[user] -= 1;
            if waits[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    match waits.iter().position(|&w| w > 0) {
        None => Ok(order),
        Some(i) => {
            let message = "it needs its own result, directly or through other nodes: the graph has a cycle".to_owned();
            Err(Error::Node { node: name(&nodes[i]).to_owned(), op: nodes[i].op_type().to_owned(), message })
        }
    }
}

fn name(node: &NodeProto) -> &str {
    match node.name() {
        "" => node.output.first().map_or("", String::as_str),
        name => name,
    }
}

fn label(node: &NodeProto) -> String {
    format!("node `{}` ({})", name(node), node.op_type())
}

fn twice(node: &NodeProto, output: &str, why: &str) -> Error {
    let message = format!("writes `{output}`, and {why}; a name has one value: rename one of the two");
    Error::Node { node: name(node).to_owned(), op: node.op_type().to_owned(), message }
}

/// Adds the names that a node reads, in its subgraphs too.
fn reads<'m>(node: &'m NodeProto, into: &mut HashSet<&'m str>) {
    into.extend(node.input.iter().map(String::as_str));
    for attribute in &node.attribute {
        bodies(attribute).for_each(|body| free(body, into));
    }
}

fn bodies(attribute: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    attribute.g.iter().chain(&attribute.graphs)
}

/// Adds the names that a subgraph takes from around it.
fn free<'m>(graph: &'m GraphProto, into: &mut HashSet<&'m str>) {
    let mut needs: HashSet<&str> = graph.output.iter().map(|o| o.name()).collect();
    graph.node.iter().for_each(|node| reads(node, &mut needs));
    for input in &graph.input {
        needs.remove(input.name());
    }
    for initializer in &graph.initializer {
        needs.remove(initializer.name());
    }
    for output in graph.node.iter().flat_map(|n| &n.output) {
        needs.remove(output.as_str());
    }
    into.extend(needs);
}
