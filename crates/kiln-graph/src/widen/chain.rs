//! Which half-precision values belong to a sum: what feeds it, and what brings its result back into range.

use super::is_half;
use crate::{BinaryOp, DType, Graph, NodeId, Op, UnaryOp, ValueId};

/// How a value follows from a sum.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Follows {
    /// From sums and constants alone.
    Sums,
    /// It met one other value of the graph: what is normalized.
    Joined,
}

/// The half-precision values to keep wide.
pub(super) fn around_sums(graph: &Graph) -> Vec<bool> {
    let constant = constants(graph);
    let mut kept = vec![false; graph.values.len()];
    let mut follows: Vec<Option<Follows>> = vec![None; graph.values.len()];
    for node in &graph.nodes {
        let Some(&y) = node.outputs.first() else { continue };
        let f = if node.op.accumulates() {
            Some(Follows::Sums)
        } else if is_link(&node.op) {
            let data = || node.inputs.iter().filter(|v| !constant[v.index()] && graph.ty(**v).dtype.is_float());
            let most = data().filter_map(|v| follows[v.index()]).fold(None, |a: Option<Follows>, b| match a {
                Some(a) if a >= b => Some(a),
                _ => Some(b),
            });
            let alone = data().all(|v| follows[v.index()].is_some());
            match most {
                Some(most) if alone => Some(most),
                Some(Follows::Sums) => Some(Follows::Joined),
                _ => None,
            }
        } else {
            None
        };
        follows[y.index()] = f;
        kept[y.index()] = f.is_some() && is_half(graph.ty(y).dtype);
    }
    // Backward: links that lead to sums and to nothing else.
    let users = graph.users();
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        let Some(&y) = node.outputs.first() else { continue };
        let leads = |user: &NodeId| {
            let user = graph.node(*user);
            let wide_cast = matches!(user.op, Op::Cast { to: DType::F32, .. });
            user.op.accumulates()
                || user.outputs.iter().any(|o| kept[o.index()])
                || wide_cast && users[user.outputs[0].index()].iter().all(|u| graph.node(*u).op.accumulates())
        };
        let output = graph.outputs.iter().any(|(_, id)| *id == y);
        let all = !users[y.index()].is_empty() && users[y.index()].iter().all(leads);
        debug_assert_eq!(graph.value(y).node, NodeId(i as u32));
        kept[y.index()] |= is_half(graph.ty(y).dtype) && is_link(&node.op) && all && !output;
    }
    kept
}

/// A sum in a model whose terms may overflow in f16 before they are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// The model's name of the node whose result may overflow.
    pub node: String,
    /// What that node does.
    pub op: String,
    /// The model's name of the node that sums.
    pub sum: String,
}

/// Longest way from a product to the sum that is looked at, in nodes.
const FAR: usize = 6;

/// Sums of products, powers and exponentials that are rounded to f16 first: whether they overflow depends on the data.
pub fn risks(graph: &Graph) -> Vec<Risk> {
    let constant = constants(graph);
    let mut found: Vec<Risk> = Vec::new();
    for node in &graph.nodes {
        match &node.op {
            Op::If { then_graph, else_graph } => {
                found.extend([then_graph, else_graph].into_iter().flat_map(|g| risks(g)))
            }
            Op::Loop { body, .. } => found.extend(risks(body)),
            op if op.accumulates() => {
                let mut stack = vec![(node.inputs[0], 0)];
                while let Some((v, far)) = stack.pop() {
                    let term = graph.producer(v);
                    if graph.ty(v).dtype == DType::F16 && grows(&term.op, &term.inputs, &constant) {
                        let (name, op) = (term.name.clone(), term.op.name().to_owned());
                        found.push(Risk { node: name, op, sum: node.name.clone() });
                    } else if far < FAR && is_link(&term.op) {
                        stack.extend(term.inputs.iter().map(|&x| (x, far + 1)));
                    }
                }
            }
            _ => {}
        }
    }
    let mut unique: Vec<Risk> = Vec::new();
    for risk in found {
        if !unique.contains(&risk) {
            unique.push(risk);
        }
    }
    unique
}

/// Whether results may be far larger than operands.
fn grows(op: &Op, operands: &[ValueId], constant: &[bool]) -> bool {
    match op {
        Op::Binary(BinaryOp::Mul) => operands.iter().all(|v| !constant[v.index()]),
        Op::Binary(BinaryOp::Pow) => true,
        Op::Unary(UnaryOp::Exp | UnaryOp::Exp2 | UnaryOp::Expm1 | UnaryOp::Sinh | UnaryOp::Cosh) => true,
        _ => false,
    }
}

/// Ops that make each element from one of each operand.
fn is_link(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Cast { .. }
            | Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Broadcast { .. }
            | Op::Slice { .. }
    )
}

/// Values that do not depend on inputs.
fn constants(graph: &Graph) -> Vec<bool> {
    let mut constant = vec![false; graph.values.len()];
    for node in &graph.nodes {
        let known = match &node.op {
            Op::Input { .. } => false,
            Op::Weight { .. } | Op::Const { .. } | Op::Iota { .. } | Op::DimValue { .. } => true,
            _ => node.inputs.iter().all(|v| constant[v.index()]),
        };
        node.outputs.iter().for_each(|o| constant[o.index()] = known);
    }
    constant
}
