//! Scaled dot-product attention.

use super::Builder;
use crate::{DType, Dim, Result, ValueId};

/// Query heads that share key heads, see [`Builder::shared_heads`].
#[derive(Clone, Debug)]
pub struct SharedHeads {
    /// Query heads.
    pub queries: Dim,
    /// Key heads.
    pub keys: Dim,
    /// Query heads a key head.
    pub each: Dim,
}

impl Builder {
    /// `softmax(q k^T * scale + mask) v` for `q[.., S, D]`, `k[.., T, D]`, `v[.., T, E]`; scores and softmax of narrow floats are in f32.
    ///
    /// `mask` broadcasts to `[.., S, T]`: bool keeps where true, a float is added. `scale` is `1 / sqrt(D)` unless given. `causal` is the
    /// offset of the diagonal: query `i` sees keys `j <= i + offset` (0 without a cache, the cached length with one).
    ///
    /// With `q[.., H, S, D]` and `k[.., K, T, D]`, each key head serves `H / K` query heads in a row; keys and values are not copied.
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
            let shared = b.shared_heads(q, k)?;
            let (s, t) = (b.shape(q)[rank - 2].clone(), b.shape(k)[b.rank(k) - 2].clone());
            let whole = b.shape(q).to_vec();
            let q = match &shared {
                Some(shared) => b.fold_queries(q, shared)?,
                None => q,
            };
            let fold = |b: &mut Builder, mask: ValueId| match &shared {
                Some(shared) => b.fold_mask(mask, shared, &s),
                None => Ok(mask),
            };
            let keys = b.swap_axes(k, -1, -2)?;
            let scores = b.matmul_as(q, keys, wide, wide)?;
            let mut scores = b.mul_scalar(scores, scale)?;
            if let Some(offset) = causal {
                let seen = b.causal_mask(&s, &t, offset)?;
                let seen = fold(b, seen)?;
                scores = b.masked(scores, seen)?;
            }
            if let Some(mask) = mask {
                let mask = fold(b, mask)?;
                scores = if b.dtype(mask) == DType::Bool {
                    b.masked(scores, mask)?
                } else {
                    let mask = b.cast(mask, wide)?;
                    b.plus(scores, mask)?
                };
            }
            let p = b.softmax(scores, -1)?;
            let p = b.cast(p, dtype)?;
            let y = b.matmul(p, v)?;
            if shared.is_none() {
                return Ok(y);
            }
            // The rows of a group are heads again.
            let mut shape = whole;
            shape[rank - 1] = b.shape(y)[rank - 1].clone();
            b.reshape(y, &shape)
        })
    }

    /// Whether query heads share key heads: `q[.., H, S, D]` beside `k[.., K, T, D]`. `H` must be a multiple of `K`.
    pub fn shared_heads(&mut self, q: ValueId, k: ValueId) -> Result<Option<SharedHeads>> {
        let rank = self.rank(q);
        if rank < 3 || self.rank(k) != rank {
            return Ok(None);
        }
        let (queries, keys) = (self.shape(q)[rank - 3].clone(), self.shape(k)[rank - 3].clone());
        if queries == keys || queries.is(1) || keys.is(0) {
            return Ok(None);
        }
        let each = queries.exact_div(&keys).unwrap_or_else(|| queries.floor_div(&keys));
        self.agree(&queries, &(each.clone() * keys.clone()), || {
            format!("{queries} query heads, which share {keys} key heads evenly,")
        })?;
        Ok(Some(SharedHeads { queries, keys, each }))
    }

    /// `q[.., H, S, D]` as `[.., K, H / K * S, D]`: the queries of the heads that share a key head are its rows, in place.
    pub fn fold_queries(&mut self, q: ValueId, heads: &SharedHeads) -> Result<ValueId> {
        let mut shape = self.shape(q).to_vec();
        let at = shape.len() - 3;
        shape[at] = heads.keys.clone();
        shape[at + 1] = heads.each.clone() * shape[at + 1].clone();
        self.reshape(q, &shape)
    }

    /// A mask that broadcasts to `[.., H, S, T]`, for scores of folded queries.
    pub fn fold_mask(&mut self, mask: ValueId, heads: &SharedHeads, queries: &Dim) -> Result<ValueId> {
        let mut shape = self.shape(mask).to_vec();
        let Some(row) = shape.len().checked_sub(2) else { return Ok(mask) };
        let own = row.checked_sub(1).map(|h| shape[h].clone()).filter(|h| !h.is(1));
        match own {
            Some(own) => {
                self.agree(&heads.queries, &own, || "heads of queries and mask".into())?;
                shape[row] = queries.clone();
                let mask = self.broadcast_to(mask, &shape)?;
                self.fold_queries(mask, heads)
            }
            // Alike for all heads and all queries.
            None if shape[row].is(1) => Ok(mask),
            None => {
                let mask = self.unsqueeze(mask, &[row as i64])?;
                let mut wide = self.shape(mask).to_vec();
                wide[row] = heads.each.clone();
                wide[row + 1] = queries.clone();
                let mask = self.broadcast_to(mask, &wide)?;
                shape[row] = heads.each.clone() * queries.clone();
                self.reshape(mask, &shape)
            }
        }
    }

    fn masked(&mut self, scores: ValueId, seen: ValueId) -> Result<ValueId> {
        let hidden = self.scalar(self.dtype(scores), f64::NEG_INFINITY)?;
        self.select(seen, scores, hidden)
    }
}
