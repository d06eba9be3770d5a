//! Gathers: views whose places are data.

use super::Values;
use crate::Result;
use kiln_graph::{Dim, Op, ValueId};
use kiln_tile::{Builder, DType, Expr};

impl Values<'_> {
    /// The value of `v`, the result of a gather, at `index`.
    pub(super) fn gathered(&mut self, k: &mut Builder, v: ValueId, index: &[Expr]) -> Result<Expr> {
        let graph = self.graph;
        let node = graph.producer(v);
        let (x, places) = (node.inputs[0], node.inputs[1]);
        let from = self.shape(x);
        let at = match &node.op {
            Op::Gather { axis } => {
                let rank = self.shape(places).len();
                let place = self.place(k, places, &index[*axis..*axis + rank], &from[*axis])?;
                let mut at = index[..*axis].to_vec();
                at.push(place);
                at.extend_from_slice(&index[*axis + rank..]);
                at
            }
            Op::GatherElements { axis } => {
                let mut at = index.to_vec();
                at[*axis] = self.place(k, places, index, &from[*axis])?;
                at
            }
            Op::GatherNd { batch_dims } => {
                let kept = self.shape(places).len() - 1;
                let mut at = index[..*batch_dims].to_vec();
                at.extend(self.coordinates(k, places, &index[..kept], &from[*batch_dims..])?);
                at.extend_from_slice(&index[kept..]);
                at
            }
            op => return self.malformed(format!("`{}` stands where only gathers may", op.name())),
        };
        self.value(k, x, &at)
    }

    /// The index that `places` holds at `index`, into an axis of `extent`: negative ones count from the end, others clamp.
    pub fn place(&mut self, k: &mut Builder, places: ValueId, index: &[Expr], extent: &Dim) -> Result<Expr> {
        let raw = self.value(k, places, index)?.cast(DType::Index);
        let raw = self.name(k, "place", raw);
        let n = self.dim(k, extent);
        let last = self.dim(k, &(extent.clone() - Dim::from(1)));
        let from_start = raw.lt(0).select(&(&raw + n), &raw);
        Ok(self.name(k, "at", from_start.max(0).min(last)))
    }

    /// The coordinates that the last axis of `places` holds at `index`, into the leading axes of `shape`.
    pub fn coordinates(
        &mut self,
        k: &mut Builder,
        places: ValueId,
        index: &[Expr],
        shape: &[Dim],
    ) -> Result<Vec<Expr>> {
        let count = self.shape(places).last().and_then(Dim::as_const).unwrap_or(0);
        let mut at = vec![];
        for (c, extent) in (0..count).zip(shape) {
            let mut index = index.to_vec();
            index.push(Expr::index(c));
            at.push(self.place(k, places, &index, extent)?);
        }
        Ok(at)
    }
}
