//! What families are asked about.

use super::cost::flops;
use kiln_fuse::{Anchor, Region, typical_sizes};
use kiln_graph::{Bindings, DType, Dim, Node, Op, Symbols, TensorType, ValueId};
use kiln_target::Work;

/// A region, and what is known about the data that it will run on.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The region.
    pub region: Region,
    /// Ranges of its symbols.
    pub symbols: Symbols,
    /// Within what the values of inputs lie, where that is known, as that of constants is; inputs past the end are unknown. Indices that
    /// cannot be out of range are not checked.
    pub ranges: Vec<Option<(i64, i64)>>,
    /// A typical value for each symbol.
    pub sizes: Bindings,
    /// Whether products of f32 may round their operands to TF32.
    pub tf32: bool,
}

impl Subject {
    /// A region and its facts; symbols that `sizes` does not name count as [`typical_sizes`] says.
    pub fn new(region: &Region, symbols: &Symbols, ranges: &[Option<(i64, i64)>], sizes: &Bindings) -> Subject {
        let dims = region.graph.values.iter().flat_map(|value| &value.ty.shape);
        let sizes = typical_sizes(dims, symbols, sizes);
        Subject { region: region.clone(), symbols: symbols.clone(), ranges: ranges.to_vec(), sizes, tf32: false }
    }

    /// The same, whose products of f32 may round their operands to TF32 where `allowed`.
    pub fn with_tf32(self, allowed: bool) -> Subject {
        Subject { tf32: allowed, ..self }
    }

    /// A region of which nothing more is known.
    pub fn of(region: &Region) -> Subject {
        Subject::new(region, &region.graph.symbols, &[], &Bindings::new())
    }

    /// The typical value of a dimension, not negative.
    pub fn size(&self, dim: &Dim) -> f64 {
        dim.eval(&self.sizes).map_or(0.0, |value| value.max(0) as f64)
    }

    /// The typical number of elements of a shape.
    pub fn count(&self, shape: &[Dim]) -> f64 {
        shape.iter().map(|dim| self.size(dim)).product()
    }

    /// Typical bytes of all results, and of what is read of operands.
    pub fn bytes(&self) -> f64 {
        let (graph, wanted) = (&self.region.graph, self.wanted());
        let read = graph.inputs.iter().map(|v| self.bytes_of(graph.ty(*v), wanted[v.index()]));
        read.chain(graph.outputs.iter().map(|(_, v)| self.bytes_of(graph.ty(*v), f64::INFINITY))).sum()
    }

    /// Typical bytes of at most so many elements of a tensor.
    fn bytes_of(&self, ty: &TensorType, most: f64) -> f64 {
        self.count(&ty.shape).min(most) * f64::from(ty.dtype.bits()) / 8.0
    }

    /// What any kernel of the region has to do at the typical sizes: operands move once, results once, and each node's arithmetic is done once. Where
    /// elements are taken by their place (maps) or by index, of an operand no more than there are results.
    pub fn work(&self) -> Work {
        let graph = &self.region.graph;
        let results = || graph.outputs.iter().map(|(_, v)| graph.ty(*v));
        let most = match self.region.anchor {
            Anchor::Map | Anchor::Index => results().map(|ty| self.count(&ty.shape)).fold(0.0, f64::max),
            _ => f64::INFINITY,
        };
        let wanted = self.wanted();
        let read = graph.inputs.iter().map(|v| self.bytes_of(graph.ty(*v), wanted[v.index()].min(most)));
        let written = results().map(|ty| self.bytes_of(ty, f64::INFINITY));
        let products = || graph.nodes.iter().filter_map(|node| Some((node, self.depth(node)?)));
        let count = |value: &ValueId| self.count(&graph.ty(*value).shape);
        Work {
            bytes: read.sum::<f64>() + written.sum::<f64>(),
            scalar_ops: flops(self),
            matrix_ops: products().map(|(node, depth)| 2.0 * depth * node.outputs.iter().map(count).sum::<f64>()).sum(),
            operands: products().last().map_or(DType::F32, |(node, _)| graph.ty(node.inputs[0]).dtype),
            tf32: self.tf32 && matches!(self.region.anchor, Anchor::Contract | Anchor::Conv),
        }
    }

    /// How many elements of each value are read at most: of what is sliced a part.
    fn wanted(&self) -> Vec<f64> {
        let graph = &self.region.graph;
        let mut wanted = vec![0.0; graph.values.len()];
        for (_, v) in &graph.outputs {
            wanted[v.index()] = f64::INFINITY;
        }
        for node in graph.nodes.iter().rev() {
            let Some(own) = node.outputs.first() else { continue };
            for v in &node.inputs {
                wanted[v.index()] += match node.op {
                    Op::Slice { .. } => self.count(&graph.ty(*own).shape),
                    Op::Permute { .. } | Op::Reshape { .. } => wanted[own.index()],
                    _ => f64::INFINITY,
                };
            }
        }
        wanted
    }

    /// How many products are added up for one element of a contraction's or a convolution's result; none of other nodes.
    fn depth(&self, node: &Node) -> Option<f64> {
        let shape = |i: usize| &self.region.graph.ty(node.inputs[i]).shape;
        match &node.op {
            Op::Contract { spec, .. } => {
                let contracted = spec.lhs.iter().zip(shape(0)).filter(|(label, _)| !spec.out.contains(label));
                Some(contracted.map(|(_, dim)| self.size(dim)).product())
            }
            Op::GroupedMatmul { .. } => shape(0).last().map(|dim| self.size(dim)),
            Op::Conv { .. } => Some(self.count(&shape(1)[1..])),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::{Builder, ConvSpec};

    fn work(anchor: Anchor, build: impl FnOnce(&mut Builder) -> ValueId) -> Work {
        let mut b = Builder::new("work");
        let y = build(&mut b);
        b.output("y", y);
        Subject::of(&Region { name: "work".into(), summary: String::new(), anchor, graph: b.finish() }).work()
    }

    #[test]
    fn operands_and_results_move_once_and_products_count_twice() {
        let (m, k, n) = (5.0, 7.0, 11.0);
        let found = work(Anchor::Contract, |b| {
            let x = b.input("x", DType::F16, &[5.into(), 7.into()]).unwrap();
            let w = b.input("w", DType::F16, &[7.into(), 11.into()]).unwrap();
            let y = b.linear(x, w, None, false).unwrap();
            b.exp(y).unwrap()
        });
        assert_eq!((found.bytes, found.matrix_ops), (2.0 * (m * k + n * k + m * n), 2.0 * m * n * k));
        assert_eq!((found.scalar_ops, found.operands), (12.0 * m * n, DType::F16));
        let found = work(Anchor::Conv, |b| {
            let x = b.input("x", DType::BF16, &[1.into(), 6.into(), 9.into(), 8.into()]).unwrap();
            let w = b.input("w", DType::BF16, &[4.into(), 3.into(), 3.into(), 5.into()]).unwrap();
            let spec = ConvSpec { strides: vec![1, 1], pads: vec![(1, 1), (2, 2)], dilations: vec![1, 1], groups: 2 };
            b.conv(x, w, None, spec).unwrap()
        });
        assert_eq!((found.matrix_ops, found.operands), (2.0 * (4.0 * 72.0) * (3.0 * 15.0), DType::BF16));
        // Of a table of 1000 rows no more is read than there are results.
        let found = work(Anchor::Index, |b| {
            let table = b.input("table", DType::F32, &[1000.into(), 3.into()]).unwrap();
            let rows = b.input("rows", DType::I64, &[9.into()]).unwrap();
            b.gather(table, rows, 0).unwrap()
        });
        assert_eq!(found.bytes, 4.0 * 27.0 + 8.0 * 9.0 + 4.0 * 27.0);
    }
}
