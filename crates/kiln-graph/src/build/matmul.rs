//! Matrix products. Broadcast batch axes become free labels, so nothing is copied.

use super::Builder;
use crate::{DType, Dim, EinsumSpec, Op, Result, ValueId};

impl Builder {
    /// A two-operand einsum primitive.
    pub fn contract(
        &mut self,
        spec: EinsumSpec,
        lhs: ValueId,
        rhs: ValueId,
        acc: DType,
        out: DType,
    ) -> Result<ValueId> {
        self.add1(Op::Contract { spec, acc, out }, &[lhs, rhs])
    }

    /// Numpy matmul: rank-1 operands are vectors, leading axes are batch axes and broadcast. Accumulates in [`DType::accumulator`].
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        let dtype = self.dtype(a);
        self.matmul_as(a, b, dtype.accumulator(), dtype)
    }

    /// [`Builder::matmul`] with the dtypes of the sums and of the result.
    pub fn matmul_as(&mut self, a: ValueId, b: ValueId, acc: DType, out: DType) -> Result<ValueId> {
        if self.rank(a) == 0 || self.rank(b) == 0 {
            return self.fail("matmul", format!("needs axes to contract, found {} and {}", self.ty(a), self.ty(b)));
        }
        let (m, n) = (self.rank(a) > 1, self.rank(b) > 1);
        let (batch_a, batch_b) = (self.rank(a).saturating_sub(2), self.rank(b).saturating_sub(2));
        let batch = batch_a.max(batch_b);
        let a = self.meet(a, batch_a, b, batch_b)?;
        let b = self.meet(b, batch_b, a, batch_a)?;
        // An operand axis of 1 beside a longer one is dropped: its label is then free in the other operand.
        let dropped = |this: &Builder, x: ValueId, own: usize, other: ValueId, others: usize| -> Vec<i64> {
            (0..own)
                .filter(|&i| {
                    let from_end = own - i;
                    let facing = others.checked_sub(from_end).map(|j| &this.shape(other)[j]);
                    this.shape(x)[i].is(1) && facing.is_some_and(|d: &Dim| !d.is(1))
                })
                .map(|i| i as i64)
                .collect()
        };
        let (drop_a, drop_b) = (dropped(self, a, batch_a, b, batch_b), dropped(self, b, batch_b, a, batch_a));
        let labels = |own: usize, drop: &[i64], last: &[char]| -> Vec<char> {
            let kept = (0..own).filter(|&i| !drop.contains(&(i as i64)));
            kept.map(|i| label(batch - own + i)).chain(last.iter().copied()).collect()
        };
        let lhs = labels(batch_a, &drop_a, if m { &['m', 'k'] } else { &['k'] });
        let rhs = labels(batch_b, &drop_b, if n { &['k', 'n'] } else { &['k'] });
        let mut out_labels: Vec<char> = (0..batch).map(label).collect();
        out_labels.extend(m.then_some('m'));
        out_labels.extend(n.then_some('n'));
        let a = if drop_a.is_empty() { a } else { self.squeeze(a, &drop_a)? };
        let b = if drop_b.is_empty() { b } else { self.squeeze(b, &drop_b)? };
        self.contract(EinsumSpec { lhs, rhs, out: out_labels }, a, b, acc, out)
    }

    /// Rows of `x[T, K]` in groups, each by a matrix of its own of `w[G, K, N]`, or `w[G, N, K]` if `transposed`: group `g` has the rows up to `ends[g]`
    /// from where the one before it ends, as in layers of experts whose rows are sorted by expert. Rows from the last end on are zero. Ends that
    /// decrease or pass `T` are an error of the run. Accumulates in [`DType::accumulator`].
    pub fn grouped_matmul(&mut self, x: ValueId, w: ValueId, ends: ValueId, transposed: bool) -> Result<ValueId> {
        let dtype = self.dtype(x);
        self.add1(Op::GroupedMatmul { transposed, acc: dtype.accumulator(), out: dtype }, &[x, w, ends])
    }

    /// `x` with those of its `own` leading axes repeated that may be 1 where `other`'s, aligned right, are longer; axes that are 1 for certain
    /// stay, to be dropped.
    fn meet(&mut self, x: ValueId, own: usize, other: ValueId, others: usize) -> Result<ValueId> {
        let mut shape = self.shape(x).to_vec();
        for i in (0..own).rev().take(others) {
            shape[i] = self.facing(&shape[i], &self.shape(other)[others + i - own]);
        }
        self.broadcast_to(x, &shape)
    }

    /// The extent to which `d` is repeated beside `other`: itself where it is 1 or longer for certain.
    pub(super) fn facing(&self, d: &Dim, other: &Dim) -> Dim {
        let symbols = &self.graph.symbols;
        let known = d.is(1) || d.bounds(symbols).0 > 1;
        if known { d.clone() } else { d.broadcast(other, symbols) }
    }

    /// `x[.., in] * w + bias[out]`, with `w[out, in]` if `transposed` (as PyTorch stores it), else `w[in, out]`.
    pub fn linear(&mut self, x: ValueId, w: ValueId, bias: Option<ValueId>, transposed: bool) -> Result<ValueId> {
        let Some(lead) = self.rank(x).checked_sub(1) else {
            return self.fail("linear", format!("needs an axis to contract, found {}", self.ty(x)));
        };
        let dtype = self.dtype(x);
        let rows: Vec<char> = (0..lead).map(label).collect();
        let spec = EinsumSpec {
            lhs: rows.iter().copied().chain(['k']).collect(),
            rhs: if transposed { vec!['n', 'k'] } else { vec!['k', 'n'] },
            out: rows.iter().copied().chain(['n']).collect(),
        };
        let wide = dtype.accumulator();
        let Some(bias) = bias else { return self.contract(spec, x, w, wide, dtype) };
        let y = self.contract(spec, x, w, wide, wide)?;
        let bias = self.cast(bias, wide)?;
        let y = self.plus(y, bias)?;
        self.cast(y, dtype)
    }
}

/// Label of batch axis `i`: `a..j`, then beyond the alphabet; never `k`, `m` or `n`.
fn label(i: usize) -> char {
    const NAMES: [char; 10] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'];
    NAMES.get(i).copied().or_else(|| char::from_u32(0x3b1 + i as u32)).unwrap_or('?')
}
