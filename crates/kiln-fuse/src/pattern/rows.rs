//! A function of rows whose rows have several axes: `[M, K]` as `[A, B, K]`.
//!
//! A row-major array of `M = A*B` rows is the same memory under either shape, so a kernel for one is a kernel for the other. The graph is the function's
//! with the leading axis divided wherever it stands; where an op does anything with that axis but carry it along, there is no such graph.

use kiln_graph::{Atom, Dim, EinsumSpec, Graph, Op, QuantAxes, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The graph with its leading axis as `axes` of them, and what the symbol of that axis is then. The leading axis is the first of the first output, a symbol alone.
pub(super) fn split(graph: &Graph, axes: usize) -> Option<(Graph, BTreeMap<String, Dim>)> {
    let leading = graph.ty(graph.outputs.first()?.1).shape.first()?;
    let [([Atom::Sym(symbol)], 1)] = leading.terms().collect::<Vec<_>>()[..] else { return None };
    let parts: Vec<Dim> = (0..axes).map(|i| Dim::sym(format!("{symbol}{}", "'".repeat(i + 1)))).collect();
    let product = parts.iter().fold(Dim::from(1), |a, b| a * b.clone());
    let rows = Rows { symbol, parts: &parts, meaning: BTreeMap::from([(symbol.clone(), product)]) };

    let mut made = Graph::new(graph.name.clone());
    made.symbols = graph.symbols.clone();
    let (low, high) = graph.symbols.range(symbol);
    for part in &parts {
        // Rows may be none; if there are some, there are some along each axis.
        made.symbols.declare(&part.to_string(), low.min(1), high);
    }
    let mut values: Vec<ValueId> = Vec::with_capacity(graph.values.len());
    for node in &graph.nodes {
        let operands: Vec<ValueId> = node.inputs.iter().map(|v| values[v.index()]).collect();
        let types: Vec<TensorType> = node.outputs.iter().map(|v| rows.ty(graph.ty(*v))).collect::<Option<_>>()?;
        let divided: Vec<bool> = node.inputs.iter().map(|v| rows.leads(graph.ty(*v))).collect();
        let op = rows.op(&node.op, &divided, node.outputs.iter().any(|v| rows.leads(graph.ty(*v))))?;
        let results = made.add(op, &operands, &node.name).ok()?;
        if results.iter().zip(&types).any(|(v, ty)| made.ty(*v) != ty) {
            return None;
        }
        values.extend(results);
    }
    // Values are numbered in the order of their nodes, so that the two graphs' agree.
    made.outputs = graph.outputs.iter().map(|(name, v)| (name.clone(), values[v.index()])).collect();
    Some((made, rows.meaning))
}

struct Rows<'a> {
    symbol: &'a str,
    parts: &'a [Dim],
    /// What the symbol is in parts.
    meaning: BTreeMap<String, Dim>,
}

impl Rows<'_> {
    /// Whether a type's first axis is the one that is divided.
    fn leads(&self, ty: &TensorType) -> bool {
        ty.shape.first().is_some_and(|d| *d == Dim::sym(self.symbol))
    }

    /// A type with the axis divided; `None` if the symbol is anywhere else.
    fn ty(&self, ty: &TensorType) -> Option<TensorType> {
        Some(TensorType { dtype: ty.dtype, shape: self.shape(&ty.shape)? })
    }

    fn shape(&self, shape: &[Dim]) -> Option<Vec<Dim>> {
        let lead = shape.first().is_some_and(|d| *d == Dim::sym(self.symbol));
        let rest = &shape[usize::from(lead)..];
        let mut used = BTreeSet::new();
        rest.iter().for_each(|d| d.symbols(&mut used));
        let parts = if lead { self.parts } else { &[] };
        (!used.contains(self.symbol)).then(|| [parts, rest].concat())
    }

    /// An axis of a divided operand, counted after division. The divided one has no such number.
    fn axis(&self, axis: usize) -> Option<usize> {
        (axis > 0).then(|| axis + self.parts.len() - 1)
    }

    /// One entry an axis, where that of the divided axis says to take all of it.
    fn entries<T: Clone + PartialEq>(&self, all: &[T], whole: T) -> Option<Vec<T>> {
        let (first, rest) = all.split_first()?;
        (*first == whole).then(|| [&vec![whole; self.parts.len()][..], rest].concat())
    }

    /// An op whose operands are divided where `divided` says so, and its result if `result`.
    fn op(&self, op: &Op, divided: &[bool], result: bool) -> Option<Op> {
        let all = divided.iter().all(|d| *d);
        let any = divided.iter().any(|d| *d);
        let x = divided.first().copied().unwrap_or(false);
        let mut op = op.clone();
        match &mut op {
            Op::Input { ty, .. } => *ty = self.ty(ty)?,
            Op::DimValue { dim } => *dim = dim.substitute(&self.meaning),
            Op::Reshape { shape } if x == result => *shape = self.shape(shape)?,
            Op::Broadcast { shape } if result || !any => *shape = self.shape(shape)?,
            Op::Iota { ty, axis } => {
                if result {
                    *axis = self.axis(*axis)?;
                }
                *ty = self.ty(ty)?;
            }
            _ if !any && !result => {}
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast { .. } if all => {}
            Op::Reduce { axes, .. } => *axes = axes.iter().map(|a| self.axis(*a)).collect::<Option<_>>()?,
            Op::ArgReduce { axis, .. } => *axis = self.axis(*axis)?,
            Op::Concat { axis } if all => *axis = self.axis(*axis)?,
            Op::Gather { axis, .. } if x => *axis = self.axis(*axis)?,
            Op::GatherElements { axis } if all => *axis = self.axis(*axis)?,
            Op::Permute { perm } if perm.first() == Some(&0) => {
                let rest: Option<Vec<usize>> = perm[1..].iter().map(|a| self.axis(*a)).collect();
                *perm = (0..self.parts.len()).chain(rest?).collect();
            }
            Op::Slice { starts, sizes, steps } => {
                *starts = self.entries(starts, Dim::from(0))?;
                *sizes = self.shape(sizes).filter(|_| result)?;
                *steps = self.entries(steps, 1)?;
            }
            Op::Pad { low, high, interior } => {
                *low = self.entries(low, Dim::from(0))?;
                *high = self.entries(high, Dim::from(0))?;
                *interior = self.entries(interior, 0)?;
            }
            Op::Quantize { axes, .. } | Op::Dequantize { axes } => match axes {
                QuantAxes::Tensor => {}
                QuantAxes::Axis(axis) | QuantAxes::Block { axis, .. } => *axis = self.axis(*axis)?,
            },
            Op::Contract { spec, .. } => *spec = self.spec(spec, divided)?,
            _ => return None,
        }
        Some(op)
    }

    /// The labels of a contraction whose operands are divided so: that of the axis must be a free one, or shared by everything.
    fn spec(&self, spec: &EinsumSpec, divided: &[bool]) -> Option<EinsumSpec> {
        let label = *spec.out.first()?;
        let mut fresh = ('A'..='Z').filter(|c| ![&spec.lhs, &spec.rhs, &spec.out].iter().any(|l| l.contains(c)));
        let several: Vec<char> = fresh.by_ref().take(self.parts.len()).collect();
        let replaced = |labels: &[char], divided: bool| {
            let lead = labels.first() == Some(&label);
            let elsewhere = labels.iter().skip(1).any(|l| *l == label);
            (lead == divided && !elsewhere).then(|| {
                let parts = if lead { &several[..] } else { &[] };
                [parts, &labels[usize::from(lead)..]].concat()
            })
        };
        let [lhs, rhs] = divided else { return None };
        let (lhs, rhs) = (replaced(&spec.lhs, *lhs)?, replaced(&spec.rhs, *rhs)?);
        Some(EinsumSpec { lhs, rhs, out: replaced(&spec.out, true)? })
    }
}
