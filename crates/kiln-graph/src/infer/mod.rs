//! Result types of every op from its operands' types: one function an op, pure, used by the builder, the importers, the macros and
//! the verifier alike.

mod contract;
mod control;
mod elementwise;
mod index;
mod quant;
mod reduce;
mod view;

use crate::{DType, Dim, Error, Op, Requirement, Result, Symbols, TensorType};

/// What an op yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inference {
    /// Types of the results, in order.
    pub results: Vec<TensorType>,
    /// What must hold at run time though it is not provable now.
    pub constraints: Vec<Requirement>,
}

/// Infers the result types of `op` on operands of the given types.
///
/// Dims that are provably equal pass, dims that are provably different are an error, anything else becomes a constraint.
pub fn infer(op: &Op, inputs: &[&TensorType], symbols: &Symbols) -> Result<Inference> {
    let mut cx = Cx { op: op.name(), inputs, symbols, constraints: Vec::new() };
    let results = match op {
        Op::Input { ty, .. } => {
            cx.arity(0)?;
            cx.extents(&ty.shape)?;
            vec![ty.clone()]
        }
        Op::Weight { name, ty } => {
            cx.arity(0)?;
            if ty.const_shape().is_none() {
                return cx.fail(format!("weight `{name}` needs a constant shape, found {ty}"));
            }
            vec![ty.clone()]
        }
        Op::Const { value } => {
            cx.arity(0)?;
            vec![TensorType::new(value.dtype(), value.shape().iter().copied())]
        }
        Op::Iota { ty, axis } => {
            cx.arity(0)?;
            cx.extents(&ty.shape)?;
            cx.check_axis(*axis, ty.rank())?;
            if ty.dtype == DType::Bool {
                return cx.fail("counts in an integer or float type, found bool".into());
            }
            vec![ty.clone()]
        }
        Op::DimValue { .. } => {
            cx.arity(0)?;
            vec![TensorType::new(DType::I64, [0i64; 0])]
        }
        Op::Unary(u) => vec![elementwise::unary(&cx, *u)?],
        Op::Binary(b) => vec![elementwise::binary(&mut cx, *b)?],
        Op::Compare(c) => vec![elementwise::compare(&mut cx, *c)?],
        Op::Select => vec![elementwise::select(&mut cx)?],
        Op::Cast { to, .. } => {
            cx.arity(1)?;
            vec![TensorType { dtype: *to, shape: inputs[0].shape.clone() }]
        }
        Op::Reduce { op, axes } => vec![reduce::reduce(&cx, *op, axes)?],
        Op::ArgReduce { axis, .. } => vec![reduce::arg(&cx, *axis)?],
        Op::Scan { axis, .. } => vec![reduce::scan(&cx, *axis)?],
        Op::TopK { axis, k, .. } => reduce::topk(&mut cx, *axis, k)?,
        Op::Contract { spec, acc, out } => vec![contract::contract(&mut cx, spec, *acc, *out)?],
        Op::Conv { spec, acc, out } => vec![contract::conv(&mut cx, spec, *acc, *out)?],
        Op::WindowReduce { op, spec } => vec![contract::window(&mut cx, *op, spec)?],
        Op::Permute { perm } => vec![view::permute(&cx, perm)?],
        Op::Reshape { shape } => vec![view::reshape(&mut cx, shape)?],
        Op::Broadcast { shape } => vec![view::broadcast(&mut cx, shape)?],
        Op::Slice { starts, sizes, steps } => vec![view::slice(&mut cx, starts, sizes, steps)?],
        Op::Pad { low, high, interior } => vec![view::pad(&mut cx, low, high, interior)?],
        Op::Concat { axis } => vec![view::concat(&mut cx, *axis)?],
        Op::Gather { axis } => vec![index::gather(&cx, *axis)?],
        Op::GatherElements { axis } => vec![index::gather_elements(&mut cx, *axis)?],
        Op::GatherNd { batch_dims } => vec![index::gather_nd(&mut cx, *batch_dims)?],
        Op::ScatterElements { axis, op } => vec![index::scatter_elements(&mut cx, *axis, *op)?],
        Op::ScatterNd { op } => vec![index::scatter_nd(&mut cx, *op)?],
        Op::Quantize { to, axes } => vec![quant::quantize(&mut cx, *to, axes)?],
        Op::Dequantize { axes } => vec![quant::dequantize(&mut cx, axes)?],
        Op::If { then_graph, else_graph } => control::branch(&mut cx, then_graph, else_graph)?,
        Op::Loop { body, carried, trip } => control::repeat(&mut cx, body, *carried, trip.as_ref())?,
    };
    Ok(Inference { results, constraints: cx.constraints })
}

/// One inference in progress.
struct Cx<'a> {
    op: &'static str,
    inputs: &'a [&'a TensorType],
    symbols: &'a Symbols,
    constraints: Vec<Requirement>,
}

impl Cx<'_> {
    fn fail<T>(&self, message: String) -> Result<T> {
        Err(Error::Infer { op: self.op.to_owned(), message })
    }

    fn arity(&self, expected: usize) -> Result<()> {
        if self.inputs.len() == expected {
            Ok(())
        } else {
            self.fail(format!("expected {expected} operands, found {}", self.inputs.len()))
        }
    }

    fn check_axis(&self, axis: usize, rank: usize) -> Result<()> {
        if axis < rank { Ok(()) } else { self.fail(format!("axis {axis} does not exist at rank {rank}")) }
    }

    fn rank(&self, ty: &TensorType, rank: usize, what: &str) -> Result<()> {
        if ty.rank() == rank { Ok(()) } else { self.fail(format!("{what} must have rank {rank}, found {ty}")) }
    }

    fn dtype(&self, ty: &TensorType, expected: DType, what: &str) -> Result<()> {
        if ty.dtype == expected {
            Ok(())
        } else {
            self.fail(format!("{what} must be {expected}, found {}; insert a cast", ty.dtype))
        }
    }

    /// Requires a number of entries in an attribute list.
    fn entries(&self, what: &str, found: usize, expected: usize) -> Result<()> {
        if found == expected { Ok(()) } else { self.fail(format!("expected {expected} {what}, found {found}")) }
    }

    /// Requires dims that can be extents: not provably negative.
    fn extents(&self, shape: &[Dim]) -> Result<()> {
        for d in shape {
            if d.bounds(self.symbols).1 < 0 {
                return self.fail(format!("extent `{d}` is negative"));
            }
        }
        Ok(())
    }

    /// Requires `found == expected`: an error if impossible, a constraint if unknown.
    fn same(&mut self, expected: &Dim, found: &Dim, what: impl FnOnce() -> String) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        if expected.differs(found, self.symbols) {
            return self.fail(format!("{}: expected {expected}, found {found}", what()));
        }
        self.need(Requirement::equal(expected.clone(), found.clone()));
        Ok(())
    }

    /// Requires that `from` is 1 or `to`: an error if impossible, a constraint if unknown.
    fn broadcasts(&mut self, from: &Dim, to: &Dim, what: impl FnOnce() -> String) -> Result<()> {
        if from.is(1) || from == to {
            return Ok(());
        }
        if from.differs(&Dim::from(1), self.symbols) {
            return self.same(to, from, what);
        }
        if to.is(1) {
            return self.same(from, to, what);
        }
        self.need(Requirement::broadcasts(from.clone(), to.clone()));
        Ok(())
    }

    fn need(&mut self, requirement: Requirement) {
        if !self.constraints.contains(&requirement) {
            self.constraints.push(requirement);
        }
    }

    /// Requires equal shapes.
    fn same_shape(&mut self, expected: &TensorType, found: &TensorType, what: &str) -> Result<()> {
        if expected.rank() != found.rank() {
            return self.fail(format!(
                "{what} must have equal shapes, expected rank {} of {expected}, found {found}",
                expected.rank()
            ));
        }
        for (axis, (e, f)) in expected.shape.iter().zip(&found.shape).enumerate() {
            self.same(e, f, || format!("{what} must have equal shapes, {expected} and {found} differ on axis {axis}"))?;
        }
        Ok(())
    }

    /// Requires `small <= large`: an error if impossible, a constraint if unknown.
    fn at_most(&mut self, small: &Dim, large: &Dim, what: impl FnOnce() -> String) -> Result<()> {
        let (low, high) = (small.clone() - large.clone()).bounds(self.symbols);
        let (s, l) = (small.bounds(self.symbols), large.bounds(self.symbols));
        if low > 0 || s.0 > l.1 {
            return self.fail(format!("{}: {small} exceeds {large}", what()));
        }
        if high > 0 && s.1 > l.0 {
            self.need(Requirement::at_most(small.clone(), large.clone()));
        }
        Ok(())
    }
}
