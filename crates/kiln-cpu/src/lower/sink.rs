//! Moves gathers below the elementwise ops and broadcasts that they read through, so that a table is converted where it is read instead of
//! as a whole.

use kiln_graph::{Bindings, Builder, Dim, Graph, Node, Op, Result, ValueId};
use std::collections::HashMap;

/// The graph with every such gather moved that reads fewer elements than its table has; `None` if there is none.
pub(super) fn sink_gathers(graph: &Graph, bindings: &Bindings) -> Result<Option<Graph>> {
    let elements = |v: ValueId| graph.ty(v).concrete(bindings).map(|s| s.iter().product::<usize>());
    let mut moved = Vec::new();
    for node in &graph.nodes {
        if let (&Op::Gather { axis }, [table, _], [v]) = (&node.op, &node.inputs[..], &node.outputs[..])
            && passes(graph.producer(*table))
            && indexed(graph, bindings, *table, axis)
            && elements(*v)? <= elements(*table)?
        {
            moved.push(*v);
        }
    }
    if moved.is_empty() {
        return Ok(None);
    }
    let b = Builder::new(graph.name.clone());
    let mut sink = Sink { graph, bindings, to: Vec::new(), known: HashMap::new(), b };
    sink.b.graph_mut().symbols = graph.symbols.clone();
    sink.b.graph_mut().weights = graph.weights.clone();
    for node in &graph.nodes {
        let operands: Vec<ValueId> = node.inputs.iter().map(|i| sink.to[i.index()]).collect();
        let outputs = match (&node.op, &node.inputs[..]) {
            (&Op::Gather { axis }, &[table, _]) if moved.contains(&node.outputs[0]) => {
                vec![sink.gather(table, axis, operands[1])?]
            }
            _ => sink.b.add(node.op.clone(), &operands)?,
        };
        sink.to.extend(outputs);
    }
    for (name, v) in &graph.outputs {
        sink.b.output(name.clone(), sink.to[v.index()]);
    }
    Ok(Some(sink.b.finish()))
}

/// Whether a gather of this node's result is the node on gathered operands.
fn passes(node: &Node) -> bool {
    matches!(
        node.op,
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast { .. } | Op::Broadcast { .. }
    )
}

/// Whether something behind `x` is still indexed along `axis` after the move, so that indices out of range are found.
fn indexed(graph: &Graph, bindings: &Bindings, x: ValueId, axis: usize) -> bool {
    let node = graph.producer(x);
    match (&node.op, &node.inputs[..]) {
        (Op::Broadcast { shape }, &[from]) => {
            let own = &graph.ty(from).shape;
            let axis = axis.checked_sub(shape.len() - own.len());
            axis.is_some_and(|axis| !is_one(&own[axis], bindings) && indexed(graph, bindings, from, axis))
        }
        (_, operands) if passes(node) => operands.iter().any(|&o| indexed(graph, bindings, o, axis)),
        _ => true,
    }
}

fn is_one(d: &Dim, bindings: &Bindings) -> bool {
    d.eval(bindings) == Ok(1)
}

struct Sink<'g> {
    graph: &'g Graph,
    bindings: &'g Bindings,
    /// For each value of the graph, that of the new one.
    to: Vec<ValueId>,
    /// What [`Sink::gather`] gave.
    known: HashMap<(ValueId, usize, ValueId), ValueId>,
    b: Builder,
}

impl Sink<'_> {
    /// The elements of `x` at `indices` along `axis`.
    fn gather(&mut self, x: ValueId, axis: usize, indices: ValueId) -> Result<ValueId> {
        if let Some(&known) = self.known.get(&(x, axis, indices)) {
            return Ok(known);
        }
        let node = self.graph.producer(x);
        let gathered = match (&node.op, &node.inputs[..]) {
            (Op::Broadcast { shape }, &[from]) => {
                let own = self.graph.ty(from).shape.clone();
                let places = self.b.shape(indices).to_vec();
                let replaced =
                    |shape: &[Dim], axis: usize, by: &[Dim]| [&shape[..axis], by, &shape[axis + 1..]].concat();
                let target = replaced(shape, axis, &places);
                let from = match axis.checked_sub(shape.len() - own.len()) {
                    Some(axis) if is_one(&own[axis], self.bindings) => {
                        let units = vec![Dim::from(1); places.len()];
                        let shape = replaced(&own, axis, &units);
                        self.b.reshape(self.to[from.index()], &shape)?
                    }
                    Some(axis) => self.gather(from, axis, indices)?,
                    None => self.to[from.index()],
                };
                self.b.broadcast_to(from, &target)?
            }
            (op, operands) if passes(node) => {
                let operands = operands.iter().map(|&o| self.gather(o, axis, indices)).collect::<Result<Vec<_>>>()?;
                self.b.add1(op.clone(), &operands)?
            }
            _ => self.b.add1(Op::Gather { axis }, &[self.to[x.index()], indices])?,
        };
        self.known.insert((x, axis, indices), gathered);
        Ok(gathered)
    }
}
