//! Loop-invariant code motion: what the body of a loop computes from its captures alone is computed once, before the loop, where the rest of
//! fusion sees it (a slice of a weight is then folded).
//!
//! Only ops move that cannot fail and whose results have no more elements than their operands, so that no loop needs more memory for it.

use kiln_graph::{Graph, Op, ValueId, infer};
use std::collections::HashMap;

/// The graph with everything moved; `None` if there is nothing to move.
pub(crate) fn hoist(graph: &Graph) -> Option<Graph> {
    let loops = |op: &Op| matches!(op, Op::Loop { .. } | Op::If { .. });
    if !graph.nodes.iter().any(|n| loops(&n.op)) {
        return None;
    }
    let mut moved = false;
    let mut copy = Copy::new(graph);
    for node in &graph.nodes {
        let mut operands: Vec<ValueId> = node.inputs.iter().map(|v| copy.to[v]).collect();
        let op = match &node.op {
            Op::If { then_graph, else_graph } => {
                let inner = [then_graph, else_graph].map(|g| hoist(g).inspect(|_| moved = true));
                let [a, b] = inner;
                Op::If {
                    then_graph: a.map_or_else(|| then_graph.clone(), Box::new),
                    else_graph: b.map_or_else(|| else_graph.clone(), Box::new),
                }
            }
            Op::Loop { body, carried, trip } => {
                let inner = hoist(body).inspect(|_| moved = true);
                let body = inner.as_ref().unwrap_or(body);
                let body = match split(body, 2 + carried, &mut copy.graph, &mut operands) {
                    Some(rest) => {
                        moved = true;
                        rest
                    }
                    None => body.clone(),
                };
                Op::Loop { body: Box::new(body), carried: *carried, trip: trip.clone() }
            }
            op => op.clone(),
        };
        copy.push(graph, node, op, &operands);
    }
    moved.then(|| copy.finish(graph))
}

/// A graph being copied.
struct Copy {
    graph: Graph,
    /// The new value of each old one.
    to: HashMap<ValueId, ValueId>,
}

impl Copy {
    fn new(of: &Graph) -> Copy {
        let graph = Graph {
            symbols: of.symbols.clone(),
            weights: of.weights.clone(),
            constraints: of.constraints.clone(),
            ..Graph::new(of.name.clone())
        };
        Copy { graph, to: HashMap::new() }
    }

    fn push(&mut self, of: &Graph, node: &kiln_graph::Node, op: Op, operands: &[ValueId]) {
        let results = push(&mut self.graph, of, node, op, operands);
        self.to.extend(node.outputs.iter().copied().zip(results));
    }

    fn finish(mut self, of: &Graph) -> Graph {
        self.graph.inputs = of.inputs.iter().filter_map(|v| self.to.get(v).copied()).collect();
        self.graph.outputs = of.outputs.iter().map(|(name, v)| (name.clone(), self.to[v])).collect();
        self.graph
    }
}

/// Adds a node with the types and names of `node` of another graph.
fn push(graph: &mut Graph, of: &Graph, node: &kiln_graph::Node, op: Op, operands: &[ValueId]) -> Vec<ValueId> {
    let types = node.outputs.iter().map(|v| of.ty(*v).clone()).collect();
    let results = graph.push_node(op, operands, types, &node.name);
    for (result, old) in results.iter().zip(&node.outputs) {
        graph.values[result.index()].name.clone_from(&of.value(*old).name);
    }
    results
}

/// How a value of a body depends on the iteration.
#[derive(Clone, Copy, PartialEq)]
enum Dependence {
    /// On no value at all: repeated wherever it is needed.
    Literal,
    /// On captures alone.
    Captures,
    Iteration,
}

fn moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Compare(_)
            | Op::Select
            | Op::Cast { .. }
            | Op::Quantize { .. }
            | Op::Dequantize { .. }
            | Op::Permute { .. }
            | Op::Reshape { .. }
            | Op::Slice { .. }
            | Op::Reduce { .. }
            | Op::ArgReduce { .. }
    )
}

fn dependences(body: &Graph, own: usize) -> Vec<Dependence> {
    let mut all = vec![Dependence::Iteration; body.values.len()];
    for v in body.inputs.iter().skip(own) {
        all[v.index()] = Dependence::Captures;
    }
    for node in &body.nodes {
        let on = |d: Dependence| node.inputs.iter().any(|v| all[v.index()] == d);
        let types: Vec<_> = node.inputs.iter().map(|v| body.ty(*v)).collect();
        let dependence = match &node.op {
            Op::Const { .. } | Op::DimValue { .. } => Dependence::Literal,
            _ if node.inputs.is_empty() || on(Dependence::Iteration) => continue,
            Op::Broadcast { .. } | Op::Reshape { .. } if !on(Dependence::Captures) => Dependence::Literal,
            // Constraints that it needs would have to hold around the loop too.
            op if moves(op) && infer(op, &types, &body.symbols).is_ok_and(|i| i.constraints.is_empty()) => {
                if on(Dependence::Captures) { Dependence::Captures } else { Dependence::Literal }
            }
            _ => continue,
        };
        node.outputs.iter().for_each(|v| all[v.index()] = dependence);
    }
    all
}

/// Moves what depends on captures alone from a body, whose first `own` inputs are no captures, to the graph around; `operands` are those of
/// the loop there. Gives what remains of the body; `None` if nothing moves.
fn split(body: &Graph, own: usize, around: &mut Graph, operands: &mut Vec<ValueId>) -> Option<Graph> {
    let dependence = dependences(body, own);
    let is = |v: ValueId, d: Dependence| dependence[v.index()] == d;
    let moved = |v: ValueId| is(v, Dependence::Captures) && !matches!(body.producer(v).op, Op::Input { .. });
    if !(0..body.values.len()).any(|i| moved(ValueId(i as u32))) {
        return None;
    }
    // Values by which the rest of the body goes on.
    let mut used = vec![false; body.values.len()];
    let rest = |node: &kiln_graph::Node| node.outputs.iter().any(|&v| !is(v, Dependence::Captures));
    let reads = body.nodes.iter().filter(|n| rest(n)).flat_map(|n| &n.inputs);
    reads.chain(body.outputs.iter().map(|(_, v)| v)).for_each(|v| used[v.index()] = true);

    let mut outer: HashMap<ValueId, ValueId> = body.inputs.iter().copied().zip(operands.iter().copied()).collect();
    let mut inner = Copy::new(body);
    let (mut inputs, mut given) = (Vec::new(), Vec::new());
    for (i, v) in body.inputs.iter().enumerate() {
        if i < own || used[v.index()] {
            let node = body.producer(*v);
            inner.push(body, node, node.op.clone(), &[]);
            inputs.push(inner.to[v]);
            given.push(operands[i]);
        }
    }
    for node in &body.nodes {
        if matches!(node.op, Op::Input { .. }) {
            continue;
        }
        if !rest(node) {
            let mut results = Vec::new();
            for &v in &node.inputs {
                literal(body, v, around, &mut outer);
                results.push(outer[&v]);
            }
            let results = push(around, body, node, node.op.clone(), &results);
            outer.extend(node.outputs.iter().copied().zip(results));
            for &v in node.outputs.iter().filter(|v| used[v.index()]) {
                let ty = body.ty(v).clone();
                let op = Op::Input { name: unused(&inner.graph), ty: ty.clone() };
                let id = inner.graph.push_node(op, &[], vec![ty], &node.name)[0];
                inner.to.insert(v, id);
                inputs.push(id);
                given.push(outer[&v]);
            }
            continue;
        }
        let own: Vec<ValueId> = node.inputs.iter().map(|v| inner.to[v]).collect();
        inner.push(body, node, node.op.clone(), &own);
    }
    *operands = given;
    let mut rest = inner.finish(body);
    rest.inputs = inputs;
    Some(rest)
}

/// Repeats a literal of the body in the graph around.
fn literal(body: &Graph, v: ValueId, around: &mut Graph, outer: &mut HashMap<ValueId, ValueId>) {
    if outer.contains_key(&v) {
        return;
    }
    let node = body.producer(v);
    let mut operands = Vec::new();
    for &i in &node.inputs {
        literal(body, i, around, outer);
        operands.push(outer[&i]);
    }
    let results = push(around, body, node, node.op.clone(), &operands);
    outer.extend(node.outputs.iter().copied().zip(results));
}

/// A name that no input of a graph has.
fn unused(graph: &Graph) -> String {
    let taken = |name: &str| graph.inputs.iter().any(|&v| graph.input_name(v) == name);
    let mut name = format!("hoisted{}", graph.inputs.len());
    while taken(&name) {
        name.push('\'');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::{BinaryOp, Builder, DType, Dim, EinsumSpec, Tensor, interpret};

    fn names(graph: &Graph) -> Vec<&str> {
        graph.nodes.iter().map(|n| n.op.name()).filter(|n| !matches!(*n, "input" | "const")).collect()
    }

    fn body(graph: &Graph) -> &Graph {
        let body = |n: &kiln_graph::Node| matches!(n.op, Op::Loop { .. });
        let Some(Op::Loop { body, .. }) = graph.nodes.iter().find(|n| body(n)).map(|n| &n.op) else {
            panic!("no loop")
        };
        body
    }

    /// `for i in 0..n: s = s @ half(w)^T + x[i] + 2 v`, which takes the transposed first rows of `w` and the double of `v` in its body.
    fn recurrence(steps: i64) -> Graph {
        let mut b = Builder::new("body");
        let i = b.input("i", DType::I64, &[]).unwrap();
        let cond = b.input("cond", DType::Bool, &[]).unwrap();
        let s = b.input("s", DType::F32, &[2.into(), 3.into()]).unwrap();
        let x = b.input("x", DType::F32, &[5.into(), 2.into(), 3.into()]).unwrap();
        let w = b.input("w", DType::F32, &[6.into(), 3.into()]).unwrap();
        let v = b.input("hoisted5", DType::F32, &[2.into(), 3.into()]).unwrap();
        let half = b.slice_axis(w, 0, &Dim::from(0), &Dim::from(3), 1).unwrap();
        let half = b.transpose(half, &[1, 0]).unwrap();
        let spec = EinsumSpec { lhs: vec!['b', 'k'], rhs: vec!['k', 'n'], out: vec!['b', 'n'] };
        let p = b.contract(spec, s, half, DType::F32, DType::F32).unwrap();
        let row = b.gather(x, i, 0).unwrap();
        let p = b.binary(BinaryOp::Add, p, row).unwrap();
        let double = b.mul_scalar(v, 2.0).unwrap();
        let p = b.binary(BinaryOp::Add, p, double).unwrap();
        b.output("cond", cond);
        b.output("s", p);
        b.output("double", double);
        let body = Box::new(b.finish());
        let mut b = Builder::new("recurrence");
        let s = b.input("s", DType::F32, &[2.into(), 3.into()]).unwrap();
        let x = b.input("x", DType::F32, &[5.into(), 2.into(), 3.into()]).unwrap();
        let w = b.input("w", DType::F32, &[6.into(), 3.into()]).unwrap();
        let v = b.input("v", DType::F32, &[2.into(), 3.into()]).unwrap();
        let (trip, go) = (b.scalar_int(DType::I64, steps.into()).unwrap(), b.scalar_int(DType::Bool, 1).unwrap());
        let op = Op::Loop { body, carried: 1, trip: Some(Dim::from(steps)) };
        let out = b.add(op, &[trip, go, s, x, w, v]).unwrap();
        b.output("s", out[0]);
        b.output("doubles", out[1]);
        b.finish()
    }

    #[test]
    fn what_depends_on_captures_alone_moves() {
        for steps in [0, 1, 5] {
            let graph = recurrence(steps);
            let moved = hoist(&graph).unwrap();
            kiln_graph::verify(&moved).unwrap();
            assert_eq!(names(&moved), ["slice", "permute", "broadcast", "mul", "loop"]);
            // The literal stays in the body too, where nothing uses it any more.
            assert_eq!(names(body(&moved)), ["contract", "gather", "add", "broadcast", "add"]);
            let inputs: Vec<Tensor> = [&[2, 3][..], &[5, 2, 3], &[6, 3], &[2, 3]]
                .iter()
                .zip(1..)
                .map(|(shape, seed)| Tensor::random(DType::F32, shape, seed).unwrap())
                .collect();
            assert_eq!(interpret(&moved, &inputs).unwrap(), interpret(&graph, &inputs).unwrap());
            assert!(hoist(&moved).is_none());
        }
    }

    /// A loop in a loop: what depends on the outer one's iteration stays in its body.
    #[test]
    fn each_value_moves_as_far_as_it_can() {
        let mut b = Builder::new("inner");
        b.input("i", DType::I64, &[]).unwrap();
        let cond = b.input("cond", DType::Bool, &[]).unwrap();
        let s = b.input("s", DType::F32, &[4.into()]).unwrap();
        let (outer, v) = (b.input("outer", DType::F32, &[4.into()]), b.input("v", DType::F32, &[4.into()]));
        let (outer, v) = (b.exp(outer.unwrap()).unwrap(), b.neg(v.unwrap()).unwrap());
        let next = b.plus(s, outer).unwrap();
        let next = b.mul(next, v).unwrap();
        b.output("cond", cond);
        b.output("s", next);
        let inner = Box::new(b.finish());
        let mut b = Builder::new("outer");
        b.input("i", DType::I64, &[]).unwrap();
        let cond = b.input("cond", DType::Bool, &[]).unwrap();
        let s = b.input("s", DType::F32, &[4.into()]).unwrap();
        let v = b.input("v", DType::F32, &[4.into()]).unwrap();
        let three = b.scalar_int(DType::I64, 3).unwrap();
        let next = b.add1(Op::Loop { body: inner, carried: 1, trip: None }, &[three, cond, s, s, v]).unwrap();
        b.output("cond", cond);
        b.output("s", next);
        let outer = Box::new(b.finish());
        let mut b = Builder::new("nested");
        let s = b.input("s", DType::F32, &[4.into()]).unwrap();
        let v = b.input("v", DType::F32, &[4.into()]).unwrap();
        let (trip, go) = (b.scalar_int(DType::I64, 2).unwrap(), b.scalar_int(DType::Bool, 1).unwrap());
        let y = b.add1(Op::Loop { body: outer, carried: 1, trip: None }, &[trip, go, s, v]).unwrap();
        b.output("y", y);
        let graph = b.finish();
        let moved = hoist(&graph).unwrap();
        kiln_graph::verify(&moved).unwrap();
        assert_eq!(names(&moved), ["neg", "loop"]);
        assert_eq!(names(body(&moved)), ["exp", "loop"]);
        assert_eq!(names(body(body(&moved))), ["add", "mul"]);
        let inputs = [Tensor::random(DType::F32, &[4], 1).unwrap(), Tensor::random(DType::F32, &[4], 2).unwrap()];
        assert_eq!(interpret(&moved, &inputs).unwrap(), interpret(&graph, &inputs).unwrap());
    }
}
