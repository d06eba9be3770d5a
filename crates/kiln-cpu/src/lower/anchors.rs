//! Ops with a stage of their own.

use super::Lowering;
use crate::error::Result;
use crate::program::Class;
use crate::stage;
use kiln_graph::{DType, Dim, Op, OpKind, ValueId};

/// Whether an op is neither elementwise, a view, nor a row reduction.
pub(super) fn has_own_stage(op: &Op) -> bool {
    match op.kind() {
        OpKind::Source | OpKind::Nullary | OpKind::Elementwise | OpKind::Reduce => false,
        // The other views are strides.
        OpKind::View => matches!(op, Op::Pad { .. } | Op::Concat { .. }),
        _ => true,
    }
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
                op if has_own_stage(op) || op.kind() == OpKind::Reduce => return Some(u),
                _ => return None,
            }
        }
    }

    /// The dense row-major slot of `v` as `dtype`.
    pub(crate) fn dense_as(&mut self, v: ValueId, dtype: DType) -> Result<usize> {
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
    pub(crate) fn result_as(&mut self, v: ValueId, class: Class) -> (usize, bool) {
        let same = self.dtype(v) == class.dtype() || class == Class::I64 && self.dtype(v) == DType::U64;
        let slot = if same { self.assign(v) } else { self.temp(class.dtype(), self.len(v)) };
        (slot, same)
    }

    pub(crate) fn extents(&self, dims: &[Dim]) -> Result<Vec<usize>> {
        dims.iter().map(|d| d.eval_extent(self.bindings).map_err(|e| self.graph_error(e))).collect()
    }

    /// Emits the stages of the anchor that defines `v`.
    pub(super) fn anchor(&mut self, v: ValueId) -> Result<()> {
        let graph = self.graph;
        let node = graph.producer(v);
        match &node.op {
            Op::Contract { spec, acc, out } => self.contract(v, spec, *acc, *out),
            Op::GroupedMatmul { transposed, acc, out } => self.grouped(v, *transposed, *acc, *out),
            Op::Conv { spec, acc, out } => self.conv(v, spec, *acc, *out),
            _ => stage::lower(self, v),
        }
    }
}
