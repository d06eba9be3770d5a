//! Arithmetic with numpy broadcasting. The functions of single ops come from their tables.

use super::Builder;
use crate::{BinaryOp, CompareOp, DType, Dim, Op, Result, UnaryOp, ValueId};

impl Builder {
    /// Any [`UnaryOp`].
    pub fn unary(&mut self, op: UnaryOp, x: ValueId) -> Result<ValueId> {
        self.add1(Op::Unary(op), &[x])
    }

    /// Any [`BinaryOp`], broadcast.
    pub fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> Result<ValueId> {
        let [a, b] = self.broadcast_together([a, b])?;
        self.add1(Op::Binary(op), &[a, b])
    }

    /// A [`BinaryOp`] with a literal on the right, in the dtype of `a`.
    pub fn binary_scalar(&mut self, op: BinaryOp, a: ValueId, b: f64) -> Result<ValueId> {
        let b = self.scalar(self.dtype(a), b)?;
        self.binary(op, a, b)
    }

    /// `x + c`.
    pub fn plus_scalar(&mut self, x: ValueId, c: f64) -> Result<ValueId> {
        self.binary_scalar(BinaryOp::Add, x, c)
    }

    /// `x * c`.
    pub fn mul_scalar(&mut self, x: ValueId, c: f64) -> Result<ValueId> {
        self.binary_scalar(BinaryOp::Mul, x, c)
    }

    /// Any [`CompareOp`], broadcast; gives bool.
    pub fn compare(&mut self, op: CompareOp, a: ValueId, b: ValueId) -> Result<ValueId> {
        let [a, b] = self.broadcast_together([a, b])?;
        self.add1(Op::Compare(op), &[a, b])
    }

    /// A [`CompareOp`] with a literal on the right.
    pub fn compare_scalar(&mut self, op: CompareOp, a: ValueId, b: f64) -> Result<ValueId> {
        let b = self.scalar(self.dtype(a), b)?;
        self.compare(op, a, b)
    }

    /// `cond ? a : b`, broadcast (numpy's `where`).
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> Result<ValueId> {
        let [cond, a, b] = self.broadcast_together([cond, a, b])?;
        self.add1(Op::Select, &[cond, a, b])
    }

    /// Conversion; nothing if the dtype is already `to`. Overflow to f8 gives NaN or infinity.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        if self.dtype(x) == to { Ok(x) } else { self.add1(Op::Cast { to, saturate: false }, &[x]) }
    }

    /// Conversion that clamps at the largest finite f8.
    pub fn cast_saturating(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        if self.dtype(x) == to { Ok(x) } else { self.add1(Op::Cast { to, saturate: true }, &[x]) }
    }

    /// Broadcasts operands to their common numpy shape.
    pub fn broadcast_together<const N: usize>(&mut self, values: [ValueId; N]) -> Result<[ValueId; N]> {
        let shapes: Vec<&[Dim]> = values.iter().map(|&v| self.shape(v)).collect();
        let target = self.broadcast_shape(&shapes)?;
        let mut result = values;
        for v in &mut result {
            // Extents above 1 need no node: the user of the value records that they are equal.
            let symbols = &self.graph.symbols;
            let same = |(o, t): (&Dim, &Dim)| o == t || o.bounds(symbols).0 > 1;
            let old = self.shape(*v);
            if old.len() != target.len() || !old.iter().zip(&target).all(same) {
                *v = self.broadcast_to(*v, &target)?;
            }
        }
        Ok(result)
    }

    /// The numpy broadcast of shapes, aligned right; see [`Dim::broadcast`]. Extents that can neither be equal nor 1 are an error; what cannot
    /// be told yet is recorded by the nodes that broadcast.
    pub fn broadcast_shape(&self, shapes: &[&[Dim]]) -> Result<Vec<Dim>> {
        let symbols = &self.graph.symbols;
        let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut target = vec![Dim::from(1); rank];
        for shape in shapes {
            for (t, d) in target[rank - shape.len()..].iter_mut().zip(*shape) {
                *t = t.broadcast(d, symbols);
            }
        }
        let one = Dim::from(1);
        for shape in shapes {
            for (t, d) in target[rank - shape.len()..].iter().zip(*shape) {
                if d.differs(&one, symbols) && d.differs(t, symbols) {
                    let shapes: Vec<String> = shapes.iter().map(|s| text(s)).collect();
                    return self.fail("broadcast", format!("shapes {} differ: {t} and {d}", shapes.join(" and ")));
                }
            }
        }
        Ok(target)
    }
}

fn text(shape: &[Dim]) -> String {
    format!("[{}]", shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(", "))
}
