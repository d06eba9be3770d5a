//! Removal of what no output needs: unwanted results of operators, and attempts at lowering that came to nothing.

use kiln_graph::{Graph, NodeId, Op, ValueId};

/// The graph without nodes that no output depends on. Inputs stay, for they are the signature.
pub(super) fn prune(mut graph: Graph) -> Graph {
    let mut live = vec![false; graph.values.len()];
    for (_, id) in &graph.outputs {
        live[id.index()] = true;
    }
    let mut kept = vec![false; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        kept[i] = matches!(node.op, Op::Input { .. }) || node.outputs.iter().any(|o| live[o.index()]);
        if kept[i] {
            for input in &node.inputs {
                live[input.index()] = true;
            }
        }
    }
    if kept.iter().all(|&k| k) {
        return graph;
    }
    let mut renamed = vec![ValueId(0); graph.values.len()];
    let values = std::mem::take(&mut graph.values);
    let nodes = std::mem::take(&mut graph.nodes);
    for (mut node, _) in nodes.into_iter().zip(&kept).filter(|(_, kept)| **kept) {
        let id = NodeId(graph.nodes.len() as u32);
        for input in &mut node.inputs {
            *input = renamed[input.index()];
        }
        for output in &mut node.outputs {
            let mut value = values[output.index()].clone();
            value.node = id;
            renamed[output.index()] = ValueId(graph.values.len() as u32);
            *output = renamed[output.index()];
            graph.values.push(value);
        }
        graph.nodes.push(node);
    }
    for id in graph.inputs.iter_mut().chain(graph.outputs.iter_mut().map(|(_, id)| id)) {
        *id = renamed[id.index()];
    }
    let nodes = &graph.nodes;
    graph.weights.retain(|key, _| nodes.iter().any(|n| matches!(&n.op, Op::Weight { name, .. } if name == key)));
    graph
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::{Builder, DType, Dim, Tensor};

    #[test]
    fn only_what_outputs_need_remains() {
        let mut b = Builder::new("g");
        let x = b.input("x", DType::F32, &[Dim::from(4)]).unwrap();
        let unused = b.input("unused", DType::F32, &[Dim::from(2)]).unwrap();
        b.weight_data("w", Tensor::from_slice(&[4], &[1f32, 2.0, 3.0, 4.0]).unwrap()).unwrap();
        b.exp(unused).unwrap();
        let parts = b.chunk(x, 0, 2).unwrap();
        let y = b.neg(parts[1]).unwrap();
        b.output("y", y);
        let whole = b.finish();
        let g = prune(whole.clone());
        let ops: Vec<&str> = g.nodes.iter().map(|n| n.op.name()).collect();
        assert_eq!(ops, ["input", "input", "slice", "neg"]);
        assert!(g.weights.is_empty());
        let inputs = [Tensor::random(DType::F32, &[4], 1).unwrap(), Tensor::random(DType::F32, &[2], 2).unwrap()];
        assert_eq!(kiln_graph::interpret(&g, &inputs).unwrap(), kiln_graph::interpret(&whole, &inputs).unwrap());
    }
}
