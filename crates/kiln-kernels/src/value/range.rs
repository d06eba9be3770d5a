//! Within what an integer value provably lies.

use super::Values;
use kiln_graph::{BinaryOp, Op, ValueId};

/// Least and greatest value.
type Range = (i128, i128);

impl Values<'_> {
    /// Within what `v`, of an integer type, lies.
    pub(super) fn range(&self, v: ValueId) -> Range {
        let of_type = self.graph.ty(v).dtype.int_range().unwrap_or((i128::MIN / 4, i128::MAX / 4));
        let (low, high) = self.known_range(v).unwrap_or(of_type);
        // What leaves the type wraps.
        if low < of_type.0 || high > of_type.1 { of_type } else { (low, high) }
    }

    fn known_range(&self, v: ValueId) -> Option<Range> {
        if let Some(i) = self.graph.inputs.iter().position(|&input| input == v) {
            let (low, high) = (*self.ranges.get(i)?)?;
            return Some((low.into(), high.into()));
        }
        let node = self.graph.producer(v);
        let of = |i: usize| self.range(node.inputs[i]);
        let hull = |ranges: &mut dyn Iterator<Item = Range>| ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let is_int = |i: usize| self.graph.ty(node.inputs[i]).dtype.int_range().is_some();
        match &node.op {
            Op::Const { value } => hull(&mut value.to_i128_vec()?.into_iter().map(|x| (x, x))),
            Op::Iota { axis, .. } => Some((0, i128::from(self.shape(v)[*axis].bounds(self.symbols).1 - 1).max(0))),
            Op::DimValue { dim } => {
                let (low, high) = dim.bounds(self.symbols);
                Some((low.into(), high.into()))
            }
            Op::Cast { .. } if is_int(0) => Some(of(0)),
            Op::Permute { .. } | Op::Reshape { .. } | Op::Broadcast { .. } | Op::Slice { .. } => Some(of(0)),
            Op::Concat { .. } | Op::Pad { .. } => hull(&mut (0..node.inputs.len()).map(of)),
            Op::Select => hull(&mut [of(1), of(2)].into_iter()),
            Op::Binary(op) => {
                let ((a, b), (c, d)) = (of(0), of(1));
                match op {
                    BinaryOp::Add => Some((a + c, b + d)),
                    BinaryOp::Sub => Some((a - d, b - c)),
                    BinaryOp::Min => Some((a.min(c), b.min(d))),
                    BinaryOp::Max => Some((a.max(c), b.max(d))),
                    // The remainder has the divisor's sign.
                    BinaryOp::Mod if c > 0 => Some((0, d - 1)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}
