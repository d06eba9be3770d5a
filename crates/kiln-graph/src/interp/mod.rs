//! The reference interpreter: the oracle of everything downstream.
//!
//! Floats are computed in f64 and rounded to the declared dtype at each value; integers are exact and wrap as declared.

mod array;
mod bind;
mod contract;
mod control;
mod elementwise;
mod index;
mod quant;
mod reduce;
mod view;
mod window;

use crate::{Bindings, DType, Dim, Error, Graph, Node, NodeId, Op, Result, Tensor, TensorType};
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
struct Run<'a> {
    graph: &'a Graph,
    bindings: Bindings,
    /// Weight tables, innermost graph last.
    weights: Vec<&'a BTreeMap<String, Tensor>>,
    /// Keep values that nobody needs any more.
    keep: bool,
}

impl Run<'_> {
    fn outputs(&self, inputs: Vec<Array>) -> Result<Vec<Array>> {
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

    fn extents(&self, dims: &[Dim]) -> Eval<Vec<usize>> {
        let shape: Vec<usize> =
            dims.iter().map(|d| d.eval_extent(&self.bindings).map_err(|e| e.to_string())).collect::<Eval<_>>()?;
        // An empty shape's other extents count too: reductions over them are sized by their product.
        match shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))).filter(|&n| n <= MAX_ELEMENTS) {
            Some(_) => Ok(shape),
            None => Err(format!("{shape:?} has more than {MAX_ELEMENTS} elements, too many for the reference")),
        }
    }

    fn places(&self, dims: &[Dim]) -> Eval<Vec<i64>> {
        dims.iter().map(|d| d.eval(&self.bindings).map_err(|e| e.to_string())).collect()
    }

    fn evaluate(&self, node: &Node, args: &[Array]) -> Eval<Vec<Array>> {
        // Before anything is computed: a result that is too large is refused, not allocated.
        let shapes =
            node.outputs.iter().map(|&id| self.extents(&self.graph.ty(id).shape)).collect::<Eval<Vec<Vec<usize>>>>()?;
        let shape = |i: usize| shapes.get(i).map(Vec::as_slice).ok_or_else(|| "has no result".to_owned());
        let one = match &node.op {
            Op::Input { name, .. } => return Err(format!("input `{name}` was not supplied")),
            Op::Weight { name, .. } => self.weight(name)?,
            Op::Const { value } => Array::from_tensor(value),
            Op::Iota { ty, axis } => iota(ty.dtype, shape(0)?, *axis),
            Op::DimValue { dim } => Array::scalar(dim.eval(&self.bindings).map_err(|e| e.to_string())?),
            Op::Unary(op) => elementwise::unary(*op, &args[0])?,
            Op::Binary(op) => {
                same_shape(args)?;
                elementwise::binary(*op, &args[0], &args[1])?
            }
            Op::Compare(op) => {
                same_shape(args)?;
                elementwise::compare(*op, &args[0], &args[1])?
            }
            Op::Select => {
                same_shape(args)?;
                elementwise::select(&args[0], &args[1], &args[2])?
            }
            Op::Cast { to, saturate } => elementwise::cast(&args[0], *to, *saturate),
            Op::Reduce { op, axes } => reduce::reduce(*op, &args[0], axes)?,
            Op::ArgReduce { op, axis, last } => reduce::arg(*op, &args[0], *axis, *last)?,
            Op::Scan { op, axis, exclusive, reverse } => reduce::scan(*op, &args[0], *axis, *exclusive, *reverse)?,
            Op::TopK { axis, largest, .. } => return reduce::topk(&args[0], *axis, shape(0)?[*axis], *largest),
            Op::Contract { spec, acc, out } => {
                for (i, l) in spec.lhs.iter().enumerate() {
                    if let Some(j) = spec.rhs.iter().position(|r| r == l)
                        && args[0].shape[i] != args[1].shape[j]
                    {
                        return Err(format!("label `{l}` is {} and {}", args[0].shape[i], args[1].shape[j]));
                    }
                }
                contract::contract(spec, &args[0], &args[1], *acc, *out)?
            }
            Op::Conv { spec, acc, out } => {
                let (found, expected) = (args[0].shape[1], args[1].shape[1].saturating_mul(spec.groups));
                if found != expected {
                    return Err(format!("expected {expected} channels, found {found}"));
                }
                contract::conv(spec, &args[0], &args[1], *acc, *out, shape(0)?)?
            }
            Op::WindowReduce { op, spec } => window::window(*op, spec, &args[0], shape(0)?)?,
            Op::Permute { perm } => args[0].permuted(perm),
            Op::Reshape { .. } => {
                let to = shape(0)?;
                if to.iter().product::<usize>() != args[0].len() {
                    return Err(format!("{:?} does not reshape to {to:?}", args[0].shape));
                }
                args[0].with_shape(to.to_vec())
            }
            Op::Broadcast { .. } => view::broadcast(&args[0], shape(0)?)?,
            Op::Slice { starts, steps, .. } => view::slice(&args[0], &self.places(starts)?, shape(0)?, steps)?,
            Op::Pad { low, high, interior } => {
                if let Some(h) = self.places(high)?.iter().find(|h| **h < 0) {
                    return Err(format!("padding by {h}; amounts must be at least 0"));
                }
                view::pad(&args[0], &args[1], &self.places(low)?, interior, shape(0)?)?
            }
            Op::Concat { axis } => view::concat(args, *axis, shape(0)?)?,
            Op::Gather { axis } => index::gather(&args[0], &args[1], *axis)?,
            Op::GatherElements { axis } => index::gather_elements(&args[0], &args[1], *axis)?,
            Op::GatherNd { batch_dims } => index::gather_nd(&args[0], &args[1], *batch_dims, shape(0)?)?,
            Op::ScatterElements { axis, op } => index::scatter_elements(&args[0], &args[1], &args[2], *axis, *op)?,
            Op::ScatterNd { op } => index::scatter_nd(&args[0], &args[1], &args[2], *op)?,
            Op::Quantize { to, axes } => quant::quantize(&args[0], &args[1], &args[2], *to, axes)?,
            Op::Dequantize { axes } => quant::dequantize(&args[0], &args[1], &args[2], axes)?,
            Op::If { then_graph, else_graph } => return control::branch(self, then_graph, else_graph, args),
            Op::Loop { body, carried, trip } => return control::repeat(self, body, *carried, trip.as_ref(), args),
        };
        Ok(vec![one])
    }

    fn weight(&self, name: &str) -> Eval<Array> {
        match self.weights.iter().rev().find_map(|w| w.get(name)) {
            Some(t) => Ok(Array::from_tensor(t)),
            None => Err(format!("weight `{name}` has no data; bind it before running")),
        }
    }
}

fn same_shape(args: &[Array]) -> Eval<()> {
    match args.iter().find(|a| a.shape != args[0].shape) {
        Some(a) => Err(format!("operands must have equal shapes, found {:?} and {:?}", args[0].shape, a.shape)),
        None => Ok(()),
    }
}

fn iota(dtype: DType, shape: &[usize], axis: usize) -> Array {
    let mut step = vec![0; shape.len()];
    step[axis] = 1;
    let mut values = Vec::with_capacity(shape.iter().product());
    array::odometer(shape, &step, 0, |at| values.push(at as i64));
    if dtype.is_float() {
        Array::rounded(dtype, shape.to_vec(), values.into_iter().map(|v| v as f64).collect())
    } else {
        Array::wrapped(dtype, shape.to_vec(), values)
    }
}
