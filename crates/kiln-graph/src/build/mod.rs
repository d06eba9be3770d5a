//! The builder: one method a primitive, and the named composites that are made of primitives.
//!
//! Composites (softmax, layer norm, attention, GELU, ..) leave nothing but primitives in the graph. They widen narrow floats to f32 and
//! round once at the end where the field does so (norms, softmax, activations).

mod activation;
mod attention;
mod conv;
mod einsum;
mod elementwise;
mod expect;
mod index;
mod matmul;
pub mod method;
mod norm;
mod pool;
mod quant;
mod reduce;
mod resize;
mod rope;
mod shape;
mod view;
mod word;

use crate::{DType, Dim, Error, Graph, Op, Result, Tensor, TensorType, ValueId};

pub use attention::{Attending, SharedHeads};
pub use pool::Pool;
pub use resize::{Coordinates, Interpolation, Resize, ResizeTo, Rounding};
pub use view::PadMode;

/// Builds a [`Graph`] value by value. Nodes are named by the scope they are made in.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    graph: Graph,
    scope: Vec<String>,
}

impl Builder {
    /// A builder of an empty graph.
    pub fn new(name: impl Into<String>) -> Builder {
        Builder { graph: Graph::new(name), scope: Vec::new() }
    }

    /// A builder that continues a graph.
    pub fn from_graph(graph: Graph) -> Builder {
        Builder { graph, scope: Vec::new() }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph so far, to change.
    pub fn graph_mut(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// Enters a scope: nodes made from here on are named `outer.name`.
    pub fn push_scope(&mut self, name: impl Into<String>) {
        self.scope.push(name.into());
    }

    /// Leaves the innermost scope.
    pub fn pop_scope(&mut self) {
        self.scope.pop();
    }

    /// Runs `f` inside a scope.
    pub fn scoped<T>(&mut self, name: impl Into<String>, f: impl FnOnce(&mut Builder) -> Result<T>) -> Result<T> {
        self.push_scope(name);
        let result = f(self);
        self.pop_scope();
        result
    }

    /// The dotted path of the scopes entered.
    pub fn scope(&self) -> String {
        self.scope.join(".")
    }

    /// Appends any op; see [`Graph::add`].
    pub fn add(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let name = self.scope();
        self.graph.add(op, inputs, &name)
    }

    /// Appends an op with one result.
    pub fn add1(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let name = self.scope();
        self.graph.add1(op, inputs, &name)
    }

    /// Type of a value.
    pub fn ty(&self, v: ValueId) -> &TensorType {
        self.graph.ty(v)
    }

    /// Element type of a value.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.graph.ty(v).dtype
    }

    /// Shape of a value.
    pub fn shape(&self, v: ValueId) -> &[Dim] {
        &self.graph.ty(v).shape
    }

    /// Rank of a value.
    pub fn rank(&self, v: ValueId) -> usize {
        self.graph.ty(v).rank()
    }

    /// Names a value.
    pub fn set_name(&mut self, v: ValueId, name: impl Into<String>) {
        self.graph.values[v.index()].name = name.into();
    }

    /// Declares a symbol with an inclusive range.
    pub fn symbol(&mut self, name: &str, min: i64, max: i64) -> Dim {
        self.graph.symbols.declare(name, min, max);
        Dim::sym(name)
    }

    /// A graph input.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> Result<ValueId> {
        let ty = TensorType { dtype, shape: shape.to_vec() };
        let v = self.graph.add1(Op::Input { name: name.to_owned(), ty }, &[], name)?;
        self.set_name(v, name);
        Ok(v)
    }

    /// A weight by name. Asking again for the same name and type gives the same value.
    pub fn weight(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<ValueId> {
        let ty = TensorType::new(dtype, shape.iter().copied());
        for node in &self.graph.nodes {
            if let Op::Weight { name: other, ty: other_ty } = &node.op
                && other == name
            {
                if *other_ty == ty {
                    return Ok(node.outputs[0]);
                }
                let message = format!("`{name}` is already declared as {other_ty}, found {ty}");
                return Err(Error::Infer { op: "weight".into(), message });
            }
        }
        let v = self.graph.add1(Op::Weight { name: name.to_owned(), ty }, &[], name)?;
        self.set_name(v, name);
        Ok(v)
    }

    /// A weight with its data.
    pub fn weight_data(&mut self, name: &str, data: Tensor) -> Result<ValueId> {
        let v = self.weight(name, data.dtype(), data.shape())?;
        self.graph.weights.insert(name.to_owned(), data);
        Ok(v)
    }

    /// Declares a result of the graph.
    pub fn output(&mut self, name: impl Into<String>, v: ValueId) {
        self.graph.outputs.push((name.into(), v));
    }

    /// A literal.
    pub fn constant(&mut self, value: Tensor) -> Result<ValueId> {
        self.add1(Op::Const { value }, &[])
    }

    /// A rank-0 literal, rounded to `dtype`.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Result<ValueId> {
        let value = Tensor::full(dtype, &[], value)?;
        self.constant(value)
    }

    /// A rank-0 integer literal, exact.
    pub fn scalar_int(&mut self, dtype: DType, value: i128) -> Result<ValueId> {
        let value = Tensor::from_i128(dtype, &[], &[value])?;
        self.constant(value)
    }

    /// A rank-0 value converted to `dtype` that holds a dimension expression: a literal if it is constant.
    pub fn dim_value(&mut self, dim: &Dim, dtype: DType) -> Result<ValueId> {
        if let Some(v) = dim.as_const() {
            return self.scalar_int(dtype, i128::from(v));
        }
        let v = self.add1(Op::DimValue { dim: dim.clone() }, &[])?;
        self.cast(v, dtype)
    }

    /// `out[i] = i[axis]`.
    pub fn iota(&mut self, dtype: DType, shape: &[Dim], axis: usize) -> Result<ValueId> {
        self.add1(Op::Iota { ty: TensorType { dtype, shape: shape.to_vec() }, axis }, &[])
    }

    /// An axis counted from the end when negative.
    pub fn axis(&self, v: ValueId, axis: i64) -> Result<usize> {
        self.axis_of(self.rank(v), axis)
    }

    /// Like [`Builder::axis`], for a rank.
    pub fn axis_of(&self, rank: usize, axis: i64) -> Result<usize> {
        let resolved = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(resolved) {
            Ok(a) if a < rank => Ok(a),
            _ => self.fail("axis", format!("axis {axis} does not exist at rank {rank}")),
        }
    }

    /// Sorted, distinct axes, counted from the end where negative.
    fn axes(&self, v: ValueId, axes: &[i64]) -> Result<Vec<usize>> {
        let mut resolved = axes.iter().map(|&a| self.axis(v, a)).collect::<Result<Vec<_>>>()?;
        resolved.sort_unstable();
        resolved.dedup();
        if resolved.len() != axes.len() {
            return self.fail("axes", format!("axes {axes:?} are not distinct at rank {}", self.rank(v)));
        }
        Ok(resolved)
    }

    fn fail<T>(&self, op: &str, message: String) -> Result<T> {
        let scope = self.scope();
        let op = if scope.is_empty() { op.to_owned() } else { format!("{op} `{scope}`") };
        Err(Error::Infer { op, message })
    }

    /// Computes in the accumulator what is stored in a narrower type: widens, runs `f`, rounds back. The one rounding of a composite.
    pub fn widened(&mut self, x: ValueId, f: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId>) -> Result<ValueId> {
        let dtype = self.dtype(x);
        let wide = self.widen(x)?;
        let y = f(self, wide)?;
        self.cast(y, dtype)
    }

    /// The value in the type that numbers of its dtype are accumulated in.
    pub fn widen(&mut self, x: ValueId) -> Result<ValueId> {
        let dtype = self.dtype(x);
        if dtype == DType::Bool { Ok(x) } else { self.cast(x, dtype.accumulator()) }
    }
}
