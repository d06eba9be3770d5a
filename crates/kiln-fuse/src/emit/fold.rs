//! Values that are known when the plan is built: weight-only terms, evaluated by the reference interpreter.

use crate::egraph::{ClassIx, Dag, DagNode, Effort};
use crate::{Error, Result};
use kiln_graph::{Graph, Op, Tensor, TensorType};
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
        match op {
            Op::Const { value } => return Ok(value.clone()),
            Op::Weight { name, .. } => return self.weights.get(name).cloned().ok_or_else(|| no_value(dag, class)),
            _ => {}
        }
        let mut graph = Graph::new("fold");
        let mut inputs = Vec::new();
        let mut data = Vec::new();
        for (i, operand) in node.operands.iter().enumerate() {
            let ty = dag.class(*operand).ty().clone();
            let op = Op::Input { name: format!("x{i}"), ty: ty.clone() };
            inputs.extend(graph.push_node(op, &[], vec![ty], ""));
            data.push(self.done.get(operand).cloned().ok_or_else(|| no_value(dag, *operand))?);
        }
        let results = graph.push_node(op.clone(), &inputs, dag.class(class).types.clone(), "");
        graph.outputs.push(("y".to_owned(), results[0]));
        let results = crate::interpret::evaluate(&graph, &data, &Default::default())?;
        results.into_iter().next().ok_or_else(|| no_value(dag, class))
    }
}

fn no_value(dag: &Dag, class: ClassIx) -> Error {
    let ty = dag.class(class).types.first().map_or_else(String::new, ToString::to_string);
    Error::NoCover { value: ty, why: "it was to be folded, but not all its weights are known".into() }
}
