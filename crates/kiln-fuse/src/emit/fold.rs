//! Values that are known when the plan is built: weight-only terms, evaluated by the reference interpreter.

use super::bytes::moved;
use crate::egraph::{ClassIx, Dag, DagNode, Effort};
use crate::{Error, Result};
use kiln_graph::{Graph, Op, Tensor, TensorType, ValueId};
use std::collections::{BTreeMap, HashMap};

/// Evaluates weight-only classes, each at most once.
pub(crate) struct Folder<'a> {
    weights: &'a BTreeMap<String, Tensor>,
    done: HashMap<ClassIx, Tensor>,
}

impl<'a> Folder<'a> {
    pub fn new(weights: &'a BTreeMap<String, Tensor>) -> Folder<'a> {
        Folder { weights, done: HashMap::new() }
    }

    /// The data of a weight-only class.
    pub fn value(&mut self, dag: &Dag, class: ClassIx) -> Result<Tensor> {
        // Operands first, on a stack of our own: chains of weights may be long.
        let mut stack = vec![class];
        while let Some(&c) = stack.last() {
            if self.done.contains_key(&c) {
                stack.pop();
                continue;
            }
            let node = self.way(dag, c)?;
            let missing: Vec<ClassIx> = node.operands.iter().copied().filter(|o| !self.done.contains_key(o)).collect();
            if missing.is_empty() {
                let value = self.apply(dag, c, node)?;
                self.done.insert(c, value);
                stack.pop();
            } else {
                stack.extend(missing);
            }
        }
        self.done.get(&class).cloned().ok_or_else(|| no_value(dag, class))
    }

    /// The node to evaluate a class by: data at hand if there is any, else the one of least effort among those that need weights alone.
    fn way<'d>(&self, dag: &'d Dag, class: ClassIx) -> Result<&'d DagNode> {
        let nodes = &dag.class(class).nodes;
        let at_hand = |n: &&DagNode| match &n.op {
            Some(Op::Const { .. }) => true,
            Some(Op::Weight { name, .. }) => self.weights.contains_key(name),
            _ => false,
        };
        let computable = |n: &&DagNode| {
            let known = |o: &ClassIx| {
                dag.class(*o).weight_only && dag.class(*o).types.iter().all(|t| t.const_shape().is_some())
            };
            n.op.as_ref().is_some_and(|op| !matches!(op, Op::Weight { .. } | Op::Input { .. } | Op::DimValue { .. }))
                && n.operands.iter().all(known)
        };
        let effort = |n: &DagNode| {
            let operands: Vec<&TensorType> = n.operands.iter().map(|o| dag.class(*o).ty()).collect();
            let own = n.op.as_ref().map_or(Effort::NONE, |op| Effort::of(op, &operands, &dag.class(class).types));
            n.operands.iter().fold(own, |all, o| all.and(dag.class(*o).effort)).operations
        };
        let least = || nodes.iter().filter(computable).min_by(|a, b| effort(a).total_cmp(&effort(b)));
        nodes.iter().find(at_hand).or_else(least).ok_or_else(|| no_value(dag, class))
    }

    fn apply(&self, dag: &Dag, class: ClassIx, node: &DagNode) -> Result<Tensor> {
        let op = node.op.as_ref().ok_or_else(|| no_value(dag, class))?;
        let operand = |c: &ClassIx| {
            let value = self.done.get(c).cloned().ok_or_else(|| no_value(dag, *c))?;
            Ok((dag.class(*c).ty().clone(), value))
        };
        let operands = node.operands.iter().map(operand).collect::<Result<Vec<_>>>()?;
        apply(op, operands, &dag.class(class).types, self.weights)?.ok_or_else(|| no_value(dag, class))
    }

    /// How [`Folder::value`] evaluates a class, for [`replay`]: a graph over the model's weights with one result.
    pub fn recipe(&self, dag: &Dag, class: ClassIx) -> Result<Graph> {
        let mut graph = Graph::new("");
        let mut made: HashMap<ClassIx, ValueId> = HashMap::new();
        let mut stack = vec![class];
        while let Some(&c) = stack.last() {
            if made.contains_key(&c) {
                stack.pop();
                continue;
            }
            let node = self.way(dag, c)?;
            let missing: Vec<ClassIx> = node.operands.iter().copied().filter(|o| !made.contains_key(o)).collect();
            if missing.is_empty() {
                let op = node.op.clone().ok_or_else(|| no_value(dag, c))?;
                let operands: Vec<ValueId> = node.operands.iter().map(|o| made[o]).collect();
                made.insert(c, graph.push_node(op, &operands, dag.class(c).types.clone(), "")[0]);
                stack.pop();
            } else {
                stack.extend(missing);
            }
        }
        graph.outputs.push((String::new(), made[&class]));
        Ok(graph)
    }
}

/// Makes a constant again as the build that recorded how ([`crate::Plan::folded`]) made it: op by op, so that equal weights give equal bits.
///
/// # Errors
/// A graph that takes inputs, or reads a weight that is missing.
pub fn replay(recipe: &Graph, weights: &BTreeMap<String, Tensor>) -> Result<Tensor> {
    let lacks =
        || Error::Plan { plan: recipe.name.clone(), message: "a constant is made of a value that is missing".into() };
    let [(_, result)] = recipe.outputs.as_slice() else { return Err(lacks()) };
    let mut uses = vec![0usize; recipe.values.len()];
    recipe.nodes.iter().flat_map(|node| &node.inputs).chain([result]).for_each(|v| uses[v.index()] += 1);
    let mut values: Vec<Option<Tensor>> = vec![None; recipe.values.len()];
    for node in &recipe.nodes {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for v in &node.inputs {
            operands.push((recipe.ty(*v).clone(), values[v.index()].clone().ok_or_else(lacks)?));
            uses[v.index()] -= 1;
            if uses[v.index()] == 0 {
                values[v.index()] = None;
            }
        }
        let types: Vec<TensorType> = node.outputs.iter().map(|v| recipe.ty(*v).clone()).collect();
        let value = apply(&node.op, operands, &types, weights)?;
        if let Some(first) = node.outputs.first() {
            values[first.index()] = value;
        }
    }
    values[result.index()].take().ok_or_else(lacks)
}

/// The first result of one op, by the reference interpreter; `None` without one.
fn apply(
    op: &Op,
    operands: Vec<(TensorType, Tensor)>,
    results: &[TensorType],
    weights: &BTreeMap<String, Tensor>,
) -> Result<Option<Tensor>> {
    match op {
        Op::Const { value } => return Ok(Some(value.clone())),
        Op::Weight { name, .. } => return Ok(weights.get(name).cloned()),
        _ => {}
    }
    if let Some(shape) = results.first().and_then(TensorType::const_shape) {
        let data: Vec<&Tensor> = operands.iter().map(|(_, value)| value).collect();
        if let Some(value) = moved(op, &data, &shape)? {
            return Ok(Some(value));
        }
    }
    let mut graph = Graph::new("fold");
    let (mut inputs, mut data) = (Vec::new(), Vec::new());
    for (i, (ty, value)) in operands.into_iter().enumerate() {
        let op = Op::Input { name: format!("x{i}"), ty: ty.clone() };
        inputs.extend(graph.push_node(op, &[], vec![ty], ""));
        data.push(value);
    }
    let results = graph.push_node(op.clone(), &inputs, results.to_vec(), "");
    let Some(first) = results.first() else { return Ok(None) };
    graph.outputs.push(("y".to_owned(), *first));
    Ok(crate::interpret::evaluate(&graph, &data, &Default::default())?.into_iter().next())
}

fn no_value(dag: &Dag, class: ClassIx) -> Error {
    let ty = dag.class(class).types.first().map_or_else(String::new, ToString::to_string);
    Error::NoCover { value: ty, why: "it was to be folded, but not all its weights are known".into() }
}
