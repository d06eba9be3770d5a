//! Gathers: views whose places are data.

use super::{Values, Writer};
use crate::Result;
use kiln_graph::{Dim, Node, Op, ValueId};
use kiln_tile::expr::CompareOp;
use kiln_tile::{Expr, Type};

impl Values<'_> {
    /// The value of `v`, the result of a gather, at `index`.
    pub(super) fn gathered(&mut self, k: &mut dyn Writer, v: ValueId, index: &[Expr]) -> Result<Expr> {
        let graph = self.graph;
        let node = graph.producer(v);
        let (x, places) = (node.inputs[0], node.inputs[1]);
        let rank = self.shape(places).len();
        // The axes of `x` that places address.
        let (at, placed) = match &node.op {
            Op::Gather { axis } => {
                let mut at = index[..*axis].to_vec();
                at.push(self.place(k, node, &index[*axis..*axis + rank], *axis)?);
                at.extend_from_slice(&index[*axis + rank..]);
                (at, *axis..*axis + 1)
            }
            Op::GatherElements { axis } => {
                let mut at = index.to_vec();
                at[*axis] = self.place(k, node, index, *axis)?;
                (at, *axis..*axis + 1)
            }
            Op::GatherNd { batch_dims } => {
                let mut at = index[..*batch_dims].to_vec();
                at.extend(self.coordinates(k, node, &index[..rank - 1], *batch_dims)?);
                let placed = *batch_dims..at.len();
                at.extend_from_slice(&index[rank - 1..]);
                (at, placed)
            }
            op => return self.malformed(format!("`{}` stands where only gathers may", op.name())),
        };
        // Of an axis without elements there is nothing to load, whatever the place.
        let mut occupied = Expr::bool(true);
        for extent in &self.shape(x)[placed] {
            if extent.bounds(self.symbols).0 < 1 {
                occupied = occupied.and(self.dim(k, extent).gt(0));
            }
        }
        self.within(k, x, &at, occupied, |dtype| Expr::int(dtype, 0))
    }

    /// Which element along `axis` of its first operand `node` addresses at `index` of its second: negative places count from the end.
    /// Those outside are noted as a fault and clamped, unless they provably cannot be.
    pub fn place(&mut self, k: &mut dyn Writer, node: &Node, index: &[Expr], axis: usize) -> Result<Expr> {
        let (extent, places) = (&self.shape(node.inputs[0])[axis], node.inputs[1]);
        let raw = self.value(k, places, index)?.cast(Type::Index);
        let raw = self.name(k, "place", raw);
        let (low, high) = self.range(places);
        let least = i128::from(extent.bounds(self.symbols).0.max(0));
        let n = self.dim(k, extent);
        let from_start = if low < 0 { raw.lt(0).select(&(&raw + &n), &raw) } else { raw };
        if -least <= low && high < least {
            return Ok(self.name(k, "at", from_start));
        }
        let from_start = self.name(k, "from_start", from_start);
        let last = self.dim(k, &(extent.clone() - Dim::from(1)));
        let at = self.name(k, "at", from_start.min(last).max(0));
        let mut outside = at.compare(CompareOp::Ne, &from_start);
        if least < 1 {
            outside = outside.or(n.le(0));
        }
        self.check(k, outside, || {
            let name = if node.name.is_empty() { node.op.name() } else { &node.name };
            format!("`{name}` has an index outside of axis {axis}, of extent {extent}")
        });
        Ok(at)
    }

    /// The coordinates that the last axis of the second operand of `node` holds at `index`, into the axes of the first from `first` on.
    pub fn coordinates(&mut self, k: &mut dyn Writer, node: &Node, index: &[Expr], first: usize) -> Result<Vec<Expr>> {
        let count = self.shape(node.inputs[1]).last().and_then(Dim::as_const).unwrap_or(0);
        let axes = first..self.shape(node.inputs[0]).len();
        let mut at = vec![];
        for (c, axis) in (0..count).zip(axes) {
            let mut index = index.to_vec();
            index.push(Expr::index(c));
            at.push(self.place(k, node, &index, axis)?);
        }
        Ok(at)
    }
}
