//! Scaled dot-product attention.

use super::Builder;
use crate::{BinaryOp, DType, Dim, Result, ValueId};

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

/// What an attention does beside weighing values by the softmax of scaled scores, see [`Builder::attention_with`].
#[derive(Clone, Debug, Default)]
pub struct Attending {
    /// Broadcasts to the scores `[.., S, T]`: bool keeps where true, a float is added.
    pub mask: Option<ValueId>,
    /// The factor of the scores; `1 / sqrt(D)` unless given.
    pub scale: Option<f64>,
    /// Where query `i` stands among the keys: at `i + offset` (0 without a cache, the cached length with one).
    pub offset: Dim,
    /// Whether a query does not see the keys after its place.
    pub causal: bool,
    /// How many keys a query sees back from its place, that included.
    pub window: Option<Dim>,
    /// Scores are `cap * tanh(scores / cap)`, before they are masked.
    pub cap: Option<f64>,
    /// `[H]`: a logit of each query head that takes part in the softmax and weighs nothing.
    pub sinks: Option<ValueId>,
}

impl Builder {
    /// `softmax(q k^T * scale + mask) v` for `q[.., S, D]`, `k[.., T, D]`, `v[.., T, E]`: [`Builder::attention_with`] a mask, a scale, and the
    /// offset of the diagonal, past which a query sees no key, alone.
    pub fn attention(
        &mut self,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        mask: Option<ValueId>,
        scale: Option<f64>,
        causal: Option<&Dim>,
    ) -> Result<ValueId> {
        let offset = causal.cloned().unwrap_or_default();
        self.attention_with(
            q,
            k,
            v,
            &Attending { mask, scale, offset, causal: causal.is_some(), ..Attending::default() },
        )
    }

    /// Attention of `q[.., S, D]`, `k[.., T, D]`, `v[.., T, E]`: values weighed by the softmax of scores; scores and softmax of narrow floats are in
    /// f32.
    ///
    /// With `q[.., H, S, D]` and `k[.., K, T, D]`, each key head serves `H / K` query heads in a row; keys and values are not copied.
    pub fn attention_with(&mut self, q: ValueId, k: ValueId, v: ValueId, how: &Attending) -> Result<ValueId> {
        Ok(self.attend(q, k, v, how)?[0])
    }

    /// [`Builder::attention_with`], and of each query the logarithm of the sum of the exponentials of its scores, `[.., S]`: with it, attentions over
    /// parts of the keys are put together.
    pub fn attention_and_lse(&mut self, q: ValueId, k: ValueId, v: ValueId, how: &Attending) -> Result<[ValueId; 2]> {
        let [y, peak, total] = self.attend(q, k, v, how)?;
        let log = self.log(total)?;
        let lse = self.plus(peak, log)?;
        let mut rows = self.shape(q).to_vec();
        rows.pop();
        Ok([y, self.reshape(lse, &rows)?])
    }

    /// The result, and the greatest score and the total of each row as the products have them.
    fn attend(&mut self, q: ValueId, k: ValueId, v: ValueId, how: &Attending) -> Result<[ValueId; 3]> {
        self.scoped("attention", |b| {
            let rank = b.rank(q);
            if rank < 2 || b.rank(k) < 2 {
                return b.fail(
                    "attention",
                    format!("needs q[.., S, D] and k[.., T, D], found {} and {}", b.ty(q), b.ty(k)),
                );
            }
            let scale = match (how.scale, b.shape(q)[rank - 1].as_const()) {
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
            if let Some(cap) = how.cap {
                let x = b.mul_scalar(scores, 1.0 / cap)?;
                let x = b.tanh(x)?;
                scores = b.mul_scalar(x, cap)?;
            }
            if how.causal {
                let seen = b.causal_mask(&s, &t, &how.offset)?;
                let seen = fold(b, seen)?;
                scores = b.masked(scores, seen)?;
            }
            if let Some(window) = &how.window {
                let before = b.causal_mask(&s, &t, &(how.offset.clone() - window.clone()))?;
                let seen = b.not(before)?;
                let seen = fold(b, seen)?;
                scores = b.masked(scores, seen)?;
            }
            if let Some(mask) = how.mask {
                let mask = fold(b, mask)?;
                scores = if b.dtype(mask) == DType::Bool {
                    b.masked(scores, mask)?
                } else {
                    let mask = b.cast(mask, wide)?;
                    b.plus(scores, mask)?
                };
            }
            let sinks = match how.sinks {
                None => None,
                Some(sinks) => {
                    let sinks = b.cast(sinks, wide)?;
                    // One a row.
                    let sinks = b.unsqueeze(sinks, &[-1, -2])?;
                    Some(fold(b, sinks)?)
                }
            };
            let [p, peak, total] = b.weights(scores, sinks)?;
            let p = b.cast(p, dtype)?;
            let y = b.matmul(p, v)?;
            if shared.is_none() {
                return Ok([y, peak, total]);
            }
            // The rows of a group are heads again.
            let mut shape = whole;
            shape[rank - 1] = b.shape(y)[rank - 1].clone();
            Ok([b.reshape(y, &shape)?, peak, total])
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

    /// The softmax of `x` along its last axis, with the greatest and the total of each row, `[.., 1]`; one logit more, `[.., 1]`, counts in both.
    fn weights(&mut self, x: ValueId, logit: Option<ValueId>) -> Result<[ValueId; 3]> {
        let mut peak = self.reduce_max(x, &[-1], true)?;
        let rows = self.shape(peak).to_vec();
        let logit = logit.map(|logit| self.broadcast_to(logit, &rows)).transpose()?;
        if let Some(logit) = logit {
            peak = self.binary(BinaryOp::Max, peak, logit)?;
        }
        let shifted = self.sub(x, peak)?;
        let e = self.exp(shifted)?;
        let mut total = self.sum(e, &[-1], true)?;
        if let Some(logit) = logit {
            let own = self.sub(logit, peak)?;
            let own = self.exp(own)?;
            total = self.plus(total, own)?;
        }
        let inverse = self.recip(total)?;
        Ok([self.mul(e, inverse)?, peak, total])
    }

    fn masked(&mut self, scores: ValueId, seen: ValueId) -> Result<ValueId> {
        let hidden = self.scalar(self.dtype(scores), f64::NEG_INFINITY)?;
        self.select(seen, scores, hidden)
    }
}
