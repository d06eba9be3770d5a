//! Scaled dot-product attention.

use super::Builder;
use crate::{DType, Dim, Result, ValueId};

impl Builder {
    /// `softmax(q k^T * scale + mask) v` for `q[.., S, D]`, `k[.., T, D]`, `v[.., T, E]`; scores and softmax of narrow floats are in f32.
    ///
    /// `mask` broadcasts to `[.., S, T]`: bool keeps where true, a float is added. `scale` is `1 / sqrt(D)` unless given. `causal` is the
    /// offset of the diagonal: query `i` sees keys `j <= i + offset` (0 without a cache, the cached length with one).
    pub fn attention(
        &mut self,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        mask: Option<ValueId>,
        scale: Option<f64>,
        causal: Option<&Dim>,
    ) -> Result<ValueId> {
        self.scoped("attention", |b| {
            let rank = b.rank(q);
            if rank < 2 || b.rank(k) < 2 {
                return b.fail(
                    "attention",
                    format!("needs q[.., S, D] and k[.., T, D], found {} and {}", b.ty(q), b.ty(k)),
                );
            }
            let scale = match (scale, b.shape(q)[rank - 1].as_const()) {
                (Some(scale), _) => scale,
                (None, Some(d)) => 1.0 / (d as f64).sqrt(),
                (None, None) => return b.fail("attention", "give a scale: the head size is not constant".into()),
            };
            let dtype = b.dtype(q);
            let wide = dtype.accumulator();
            let keys = b.swap_axes(k, -1, -2)?;
            let scores = b.matmul_as(q, keys, wide, wide)?;
            let mut scores = b.mul_scalar(scores, scale)?;
            if let Some(offset) = causal {
                let (s, t) = (b.shape(q)[rank - 2].clone(), b.shape(k)[b.rank(k) - 2].clone());
                let seen = b.causal_mask(&s, &t, offset)?;
                scores = b.masked(scores, seen)?;
            }
            if let Some(mask) = mask {
                scores = if b.dtype(mask) == DType::Bool {
                    b.masked(scores, mask)?
                } else {
                    let mask = b.cast(mask, wide)?;
                    b.plus(scores, mask)?
                };
            }
            let p = b.softmax(scores, -1)?;
            let p = b.cast(p, dtype)?;
            b.matmul(p, v)
        })
    }

    fn masked(&mut self, scores: ValueId, seen: ValueId) -> Result<ValueId> {
        let hidden = self.scalar(self.dtype(scores), f64::NEG_INFINITY)?;
        self.select(seen, scores, hidden)
    }
}
