//! The reference interpreter: the oracle of everything downstream.
//!
//! Floats are computed in f64 and rounded to the declared dtype at each value; integers are exact and wrap as declared.

pub(crate) mod array;
mod bind;

use crate::{Bindings, Dim, Error, Graph, Node, NodeId, Op, Result, Tensor, TensorType};
use array::{Array, Eval};
use std::collections::BTreeMap;

pub use bind::{bind_symbols, bind_within};

/// Most elements of one value: a reference in f64 beyond this is a mistake in a shape.
const MAX_ELEMENTS: usize = 1 << 31;

/// Runs a graph on inputs in the order of [`Graph::inputs`] and gives its outputs in order.
pub fn interpret(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    interpret_within(graph, inputs, &Bindings::new())
}

/// [`interpret`] for a piece of a larger graph: the symbols of what surrounds it keep the values in `outer`.
pub fn interpret_within(graph: &Graph, inputs: &[Tensor], outer: &Bindings) -> Result<Vec<Tensor>> {
    let arrays = start(graph, inputs)?;
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
    let bindings = bind_within(graph, &shapes, outer)?;
    let run = Run { graph, bindings, weights: vec![&graph.weights], keep: false };
    run.outputs(arrays)?.iter().map(Array::to_tensor).collect()
}

/// Runs a graph and gives every value, by [`crate::ValueId`]: for comparing layer by layer.
pub fn interpret_all(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let arrays = start(graph, inputs)?;
    let run = Run { graph, bindings: bindings(graph, inputs)?, weights: vec![&graph.weights], keep: true };
    let values = run.values(arrays)?;
    values
        .iter()
        .enumerate()
        .map(|(i, v)| match v {
            Some(v) => v.to_tensor(),
            None => Err(Error::Verify(format!("value %{i} is never defined"))),
        })
        .collect()
}

fn bindings(graph: &Graph, inputs: &[Tensor]) -> Result<Bindings> {
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
    bind_symbols(graph, &shapes)
}

/// Checks the inputs' dtypes and converts them.
fn start(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Array>> {
    for (&id, t) in graph.inputs.iter().zip(inputs) {
        let expected = graph.ty(id).dtype;
        if t.dtype() != expected {
            let what = format!("input `{}`", graph.input_name(id));
            return Err(Error::Binding { what, message: format!("expected {expected}, found {}", t.dtype()) });
        }
    }
    Ok(inputs.iter().map(Array::from_tensor).collect())
}

/// One execution of one graph.
pub(crate) struct Run<'a> {
    pub graph: &'a Graph,
    pub bindings: Bindings,
    /// Weight tables, innermost graph last.
    pub weights: Vec<&'a BTreeMap<String, Tensor>>,
    /// Keep values that nobody needs any more.
    pub keep: bool,
}

impl Run<'_> {
    pub fn outputs(&self, inputs: Vec<Array>) -> Result<Vec<Array>> {
        let values = self.values(inputs)?;
        self.graph
            .outputs
            .iter()
            .map(|(name, id)| {
                let value = values.get(id.index()).cloned().flatten();
                value.ok_or_else(|| Error::Verify(format!("output `{name}` is never defined")))
            })
            .collect()
    }

    fn values(&self, inputs: Vec<Array>) -> Result<Vec<Option<Array>>> {
        let mut uses = vec![0usize; self.graph.values.len()];
        for id in self.graph.nodes.iter().flat_map(|n| &n.inputs).chain(self.graph.outputs.iter().map(|(_, id)| id)) {
            if let Some(u) = uses.get_mut(id.index()) {
                *u += 1;
            }
        }
        let mut values: Vec<Option<Array>> = vec![None; self.graph.values.len()];
        for (id, array) in self.graph.inputs.iter().zip(inputs) {
            values[id.index()] = Some(array);
        }
        for (i, node) in self.graph.nodes.iter().enumerate() {
            if let Op::Input { .. } = node.op {
                continue;
            }
            let fail = |message: String| Error::Interpret { node: self.label(NodeId(i as u32)), message };
            let mut operands = Vec::with_capacity(node.inputs.len());
            for id in &node.inputs {
                let value = values.get(id.index()).cloned().flatten();
                operands.push(value.ok_or_else(|| fail(format!("operand %{} is not defined yet", id.0)))?);
            }
            let results = self.evaluate(node, &operands).map_err(fail)?;
            for (&id, result) in node.outputs.iter().zip(results) {
                self.check(&result, self.graph.ty(id)).map_err(fail)?;
                values[id.index()] = Some(result);
            }
            for id in &node.inputs {
                uses[id.index()] = uses[id.index()].saturating_sub(1);
            }
            for id in node.inputs.iter().chain(&node.outputs) {
                if uses[id.index()] == 0 && !self.keep {
                    values[id.index()] = None;
                }
            }
        }
        Ok(values)
    }

    fn label(&self, id: NodeId) -> String {
        let node = self.graph.node(id);
        if node.name.is_empty() { format!("{} #{}", node.op, id.0) } else { format!("{} `{}`", node.op, node.name) }
    }

    /// Compares a result with its declared type.
    fn check(&self, found: &Array, declared: &TensorType) -> Eval<()> {
        let shape = self.extents(&declared.shape)?;
        if found.dtype != declared.dtype || found.shape != shape {
            return Err(format!(
                "expected {declared}, here {shape:?}, found {}{:?}; an input shape breaks a constraint",
                found.dtype, found.shape
            ));
        }
        Ok(())
    }

    pub fn extents(&self, dims: &[Dim]) -> Eval<Vec<usize>> {
        let shape: Vec<usize> =
            dims.iter().map(|d| d.eval_extent(&self.bindings).map_err(|e| e.to_string())).collect::<Eval<_>>()?;
        // An empty shape's other extents count too: reductions over them are sized by their product.
        match shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))).filter(|&n| n <= MAX_ELEMENTS) {
            Some(_) => Ok(shape),
            None => Err(format!("{shape:?} has more than {MAX_ELEMENTS} elements, too many for the reference")),
        }
    }

    fn evaluate(&self, node: &Node, args: &[Array]) -> Eval<Vec<Array>> {
        // Before anything is computed: a result that is too large is refused, not allocated.
        let shapes =
            node.outputs.iter().map(|&id| self.extents(&self.graph.ty(id).shape)).collect::<Eval<Vec<Vec<usize>>>>()?;
        node.op.values(&Call { run: self, args, shapes })
    }

    fn weight(&self, name: &str) -> Eval<Array> {
        match self.weights.iter().rev().find_map(|w| w.get(name)) {
            Some(t) => Ok(Array::from_tensor(t)),
            None => Err(format!("weight `{name}` has no data; bind it before running")),
        }
    }
}

/// One application of an op: its operands' values, and what is declared of its results.
pub(crate) struct Call<'a> {
    pub run: &'a Run<'a>,
    pub args: &'a [Array],
    shapes: Vec<Vec<usize>>,
}

impl Call<'_> {
    /// An operand; inference has counted them.
    pub fn arg(&self, i: usize) -> &Array {
        &self.args[i]
    }

    /// The declared shape of a result.
    pub fn shape(&self, i: usize) -> Eval<&[usize]> {
        self.shapes.get(i).map(Vec::as_slice).ok_or_else(|| "has no result".to_owned())
    }

    /// Dims that need not be extents.
    pub fn places(&self, dims: &[Dim]) -> Eval<Vec<i64>> {
        dims.iter().map(|d| d.eval(&self.run.bindings).map_err(|e| e.to_string())).collect()
    }

    /// The data of a weight.
    pub fn weight(&self, name: &str) -> Eval<Array> {
        self.run.weight(name)
    }
}
