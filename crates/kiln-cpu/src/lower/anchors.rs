//! Ops with a stage of their own.

use super::Lowering;
use super::affine::dense_strides;
use crate::error::Result;
use crate::program::Class;
use crate::stage::{
    Gather, GatherElements, GatherNd, Pad, Place, Scan, Scatter, ScatterKind, Spatial, Stage, TopK, Window,
};
use kiln_graph::{DType, Dim, Op, ValueId};

/// Whether an op is neither elementwise, a view, nor a row reduction.
pub(super) fn has_own_stage(op: &Op) -> bool {
    matches!(
        op,
        Op::Contract { .. }
            | Op::Conv { .. }
            | Op::WindowReduce { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::GatherElements { .. }
            | Op::GatherNd { .. }
            | Op::ScatterElements { .. }
            | Op::ScatterNd { .. }
            | Op::Scan { .. }
            | Op::TopK { .. }
            | Op::If { .. }
            | Op::Loop { .. }
    )
}

impl Lowering<'_> {
    /// The nearest value below the views of `v` that needs a stage of its own and has none yet.
    pub(super) fn anchor_below(&self, v: ValueId) -> Option<ValueId> {
        let mut u = v;
        loop {
            if self.dense_slot(u).is_some() {
                return None;
            }
            let node = self.graph.producer(u);
            match &node.op {
                Op::Permute { .. } | Op::Reshape { .. } | Op::Broadcast { .. } | Op::Slice { .. } => {
                    u = *node.inputs.first()?;
                }
                op if has_own_stage(op) || matches!(op, Op::Reduce { .. } | Op::ArgReduce { .. }) => return Some(u),
                _ => return None,
            }
        }
    }

    /// The dense row-major slot of `v` as `dtype`.
    pub(super) fn dense_as(&mut self, v: ValueId, dtype: DType) -> Result<usize> {
        if self.dtype(v) == dtype || dtype == DType::I64 && self.dtype(v) == DType::U64 {
            if let Some(slot) = self.dense_slot(v) {
                return Ok(slot);
            }
            return self.materialise(v);
        }
        let order: Vec<usize> = (0..self.shape(v).len()).collect();
        Ok(self.pack(v, &order, dtype)?.slot)
    }

    /// A slot for a result computed as `class`, and whether it is the result itself.
    fn result_as(&mut self, v: ValueId, class: Class) -> (usize, bool) {
        let same = self.dtype(v) == class.dtype() || class == Class::I64 && self.dtype(v) == DType::U64;
        let slot = if same { self.assign(v) } else { self.temp(class.dtype(), self.len(v)) };
        (slot, same)
    }

    fn extents(&self, dims: &[Dim]) -> Result<Vec<usize>> {
        dims.iter().map(|d| d.eval_extent(self.bindings).map_err(|e| self.graph_error(e))).collect()
    }

    /// Emits the stages of the anchor that defines `v`.
    pub(super) fn anchor(&mut self, v: ValueId) -> Result<()> {
        let graph = self.graph;
        let node = graph.producer(v);
        match &node.op {
            Op::Contract { spec, acc, out } => self.contract(v, spec, *acc, *out),
            Op::Conv { spec, acc, out } => self.conv(v, spec, *acc, *out),
            Op::WindowReduce { op, spec } => {
                let class = Class::of(self.dtype(v));
                let input = self.shape(node.inputs[0]).to_vec();
                let first = input.len() - spec.window.len();
                let Some(spatial) = Spatial::new(
                    &input[first..],
                    &self.shape(v)[first..],
                    &spec.window,
                    &spec.strides,
                    &spec.pads,
                    &spec.dilations,
                ) else {
                    return Err(self.unsupported(node, "more than three window axes".into()));
                };
                let x = self.dense_as(node.inputs[0], class.dtype())?;
                let (out, same) = self.result_as(v, class);
                let planes = input[..first].iter().product();
                let dtype = self.dtype(v);
                let threads = self.threads;
                self.stages.push(Stage::Window(Window { op: *op, class, dtype, x, out, planes, spatial, threads }));
                if !same {
                    self.convert(out, class.dtype(), v, dtype, dtype);
                }
                Ok(())
            }
            Op::Pad { low, interior, .. } => {
                let low = self.extents(low)?;
                let (x, value) = (self.operand(v, 0)?, self.operand(v, 1)?);
                let shape = self.shape(node.inputs[0]).to_vec();
                let own = dense_strides(self.shape(v));
                let offset = own.iter().zip(&low).map(|(s, &l)| s * l as isize).sum();
                let strides = own.iter().zip(interior).map(|(s, &i)| s * (i as isize + 1)).collect();
                let (dtype, out) = (self.dtype(v), self.assign(v));
                let threads = self.threads;
                self.stages.push(Stage::Pad(Pad { x, value, out, dtype, shape, strides, offset, threads }));
                Ok(())
            }
            Op::Concat { axis } => {
                let outer: usize = self.shape(v)[..*axis].iter().product();
                let mut parts = Vec::with_capacity(node.inputs.len());
                for i in 0..node.inputs.len() {
                    let run: usize = self.shape(node.inputs[i])[*axis..].iter().product();
                    parts.push((self.operand(v, i)?, run));
                }
                let (dtype, out) = (self.dtype(v), self.assign(v));
                let threads = self.threads;
                self.stages.push(Stage::Place(Place { parts, out, dtype, outer, threads }));
                Ok(())
            }
            Op::Gather { axis } => {
                let shape = self.shape(node.inputs[0]).to_vec();
                let x = self.operand(v, 0)?;
                let indices = self.dense_as(node.inputs[1], DType::I64)?;
                let (dtype, out) = (self.dtype(v), self.assign(v));
                self.stages.push(Stage::Gather(Gather {
                    x,
                    indices,
                    out,
                    dtype,
                    axis: *axis,
                    outer: shape[..*axis].iter().product(),
                    extent: shape[*axis],
                    inner: shape[axis + 1..].iter().product(),
                    threads: self.threads,
                }));
                Ok(())
            }
            Op::GatherElements { axis } => {
                let (shape, index_shape) = (self.shape(node.inputs[0]).to_vec(), self.shape(v).to_vec());
                self.check_along(node, &shape, &index_shape, *axis)?;
                let x = self.operand(v, 0)?;
                let indices = self.dense_as(node.inputs[1], DType::I64)?;
                let (dtype, out) = (self.dtype(v), self.assign(v));
                let axis = *axis;
                let threads = self.threads;
                self.stages.push(Stage::GatherElements(GatherElements {
                    x,
                    indices,
                    out,
                    dtype,
                    axis,
                    shape,
                    index_shape,
                    threads,
                }));
                Ok(())
            }
            Op::GatherNd { batch_dims } => {
                let (shape, index_shape) = (self.shape(node.inputs[0]).to_vec(), self.shape(node.inputs[1]).to_vec());
                let x = self.operand(v, 0)?;
                let indices = self.dense_as(node.inputs[1], DType::I64)?;
                let (dtype, out) = (self.dtype(v), self.assign(v));
                let batch_dims = *batch_dims;
                let threads = self.threads;
                self.stages.push(Stage::GatherNd(GatherNd {
                    x,
                    indices,
                    out,
                    dtype,
                    batch_dims,
                    shape,
                    index_shape,
                    threads,
                }));
                Ok(())
            }
            Op::ScatterElements { axis, op } => {
                let (shape, index_shape) = (self.shape(node.inputs[0]).to_vec(), self.shape(node.inputs[1]).to_vec());
                self.check_along(node, &shape, &index_shape, *axis)?;
                self.scatter(v, ScatterKind::Elements { axis: *axis }, *op, shape, index_shape)
            }
            Op::ScatterNd { op } => {
                let (shape, index_shape) = (self.shape(node.inputs[0]).to_vec(), self.shape(node.inputs[1]).to_vec());
                self.scatter(v, ScatterKind::Nd, *op, shape, index_shape)
            }
            Op::Scan { op, axis, exclusive, reverse } => {
                let class = Class::of(self.dtype(v));
                let shape = self.shape(v).to_vec();
                let x = self.dense_as(node.inputs[0], class.dtype())?;
                let (out, same) = self.result_as(v, class);
                let dtype = self.dtype(v);
                self.stages.push(Stage::Scan(Scan {
                    op: *op,
                    class,
                    dtype,
                    x,
                    out,
                    outer: shape[..*axis].iter().product(),
                    extent: shape[*axis],
                    inner: shape[axis + 1..].iter().product(),
                    exclusive: *exclusive,
                    reverse: *reverse,
                    threads: self.threads,
                }));
                if !same {
                    self.convert(out, class.dtype(), v, dtype, dtype);
                }
                Ok(())
            }
            Op::TopK { axis, largest, .. } => {
                let [values, indices] = node.outputs[..] else {
                    return Err(self.unsupported(node, "has two results".into()));
                };
                let class = Class::of(self.dtype(values));
                let shape = self.shape(node.inputs[0]).to_vec();
                let k = self.shape(values)[*axis];
                if k > shape[*axis] {
                    let message = format!("k is {k}, and axis {axis} has only {} elements", shape[*axis]);
                    return Err(self.unsupported(node, message));
                }
                let x = self.dense_as(node.inputs[0], class.dtype())?;
                let (out, same) = self.result_as(values, class);
                let dtype = self.dtype(values);
                let indices = self.assign(indices);
                self.stages.push(Stage::TopK(TopK {
                    class,
                    unsigned: dtype == DType::U64,
                    x,
                    values: out,
                    indices,
                    outer: shape[..*axis].iter().product(),
                    extent: shape[*axis],
                    inner: shape[axis + 1..].iter().product(),
                    k,
                    largest: *largest,
                    threads: self.threads,
                }));
                if !same {
                    self.convert(out, class.dtype(), values, dtype, dtype);
                }
                Ok(())
            }
            _ => Err(self.unsupported(node, "has no CPU kernel".into())),
        }
    }

    fn check_along(&self, node: &kiln_graph::Node, shape: &[usize], index: &[usize], axis: usize) -> Result<()> {
        for (a, (&i, &n)) in index.iter().zip(shape).enumerate() {
            if a != axis && i > n {
                let message = format!("indices {index:?} are longer than {shape:?} on axis {a}");
                return Err(self.unsupported(node, message));
            }
        }
        Ok(())
    }

    fn scatter(
        &mut self,
        v: ValueId,
        kind: ScatterKind,
        op: kiln_graph::ScatterOp,
        shape: Vec<usize>,
        index_shape: Vec<usize>,
    ) -> Result<()> {
        let node = self.graph.producer(v);
        let indices_value = node.inputs[1];
        // Repeated updates accumulate in the class of the dtype and are rounded once.
        let class = Class::of(self.dtype(v));
        let x = self.dense_as(node.inputs[0], class.dtype())?;
        let indices = self.dense_as(indices_value, DType::I64)?;
        let updates = self.dense_as(node.inputs[2], class.dtype())?;
        let (out, same) = self.result_as(v, class);
        let dtype = self.dtype(v);
        let scatter = Scatter { kind, op, class, dtype, x, indices, updates, out, shape, index_shape };
        self.stages.push(Stage::Scatter(scatter));
        if !same {
            self.convert(out, class.dtype(), v, dtype, dtype);
        }
        Ok(())
    }
}
