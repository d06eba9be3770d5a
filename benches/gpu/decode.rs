//! One token through the layers of a LLaMA: grouped-query attention over a cache, rotary positions, gated feed-forward.
//!
//! No embedding table and no head over the vocabulary. A layer's new key and value are results: appending them is the caller's part.

use crate::Outcome;
use crate::common::random;
use kiln_graph::{Builder, DType, Dim, ValueId};

/// Sizes of a decoding step; one sequence.
#[derive(Clone, Copy)]
pub struct Decode {
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Width of the feed-forward layer.
    pub inner: usize,
    /// Tokens in the cache.
    pub context: usize,
}

impl Decode {
    pub fn hidden(&self) -> usize {
        self.heads * self.head
    }

    /// Elements of all weights, without the norms' scales.
    pub fn weights(&self) -> usize {
        let hidden = self.hidden();
        self.layers * hidden * (2 * hidden + 2 * self.kv_heads * self.head + 3 * self.inner)
    }

    /// Elements of both caches of all layers.
    pub fn cached(&self) -> usize {
        2 * self.layers * self.kv_heads * self.context * self.head
    }

    /// Multiplications and additions.
    pub fn flops(&self) -> f64 {
        2.0 * self.weights() as f64 + 4.0 * (self.layers * self.hidden() * (self.context + 1)) as f64
    }

    /// Results: the hidden state, then each layer's key and value.
    pub fn build(&self, b: &mut Builder, dtype: DType) -> Outcome<Vec<ValueId>> {
        let half = [1, 1, self.head / 2].map(Dim::from);
        let mut x = b.input("x", dtype, &[1, self.hidden()].map(Dim::from))?;
        let turn = (b.input("cos", dtype, &half)?, b.input("sin", dtype, &half)?);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for i in 0..self.layers {
            let mut layer = Layer { sizes: self, b, dtype, name: format!("layers.{i}"), seed: 100 * i as u64 };
            let (key, value);
            (x, key, value) = layer.build(x, turn)?;
            keys.push(key);
            values.push(value);
        }
        Ok([vec![x], keys, values].concat())
    }
}

struct Layer<'a> {
    sizes: &'a Decode,
    b: &'a mut Builder,
    dtype: DType,
    name: String,
    seed: u64,
}

impl Layer<'_> {
    fn build(&mut self, x: ValueId, turn: (ValueId, ValueId)) -> Outcome<(ValueId, ValueId, ValueId)> {
        let Decode { heads, kv_heads, head, inner, context, .. } = *self.sizes;
        let hidden = self.sizes.hidden();
        let normed = self.norm(x, "input_norm")?;
        let [q, k, v] = [("q", heads), ("k", kv_heads), ("v", kv_heads)].map(|(name, heads)| {
            let y = self.linear(normed, name, hidden, heads * head)?;
            Ok::<_, crate::common::Fail>(self.b.reshape(y, &[1, heads, head].map(Dim::from))?)
        });
        // Queries of one key head form its rows.
        let (q, k) = (self.rotate(q?, turn)?, self.rotate(k?, turn)?);
        let rows = |heads: usize| [kv_heads, heads / kv_heads, head].map(Dim::from);
        let q = self.b.reshape(q, &rows(heads))?;
        let (k, v) = (self.b.reshape(k, &rows(kv_heads))?, self.b.reshape(v?, &rows(kv_heads))?);
        let [keys, values] = [("k", k), ("v", v)].map(|(name, new)| {
            let shape = [kv_heads, context, head].map(Dim::from);
            let cache = self.b.input(&format!("{}.{name}_cache", self.name), self.dtype, &shape)?;
            self.b.concat(&[cache, new], 1)
        });
        let attended = self.b.attention(q, keys?, values?, None, None, None)?;
        let attended = self.b.reshape(attended, &[1, hidden].map(Dim::from))?;
        let y = self.linear(attended, "o", hidden, hidden)?;
        let x = self.b.plus(x, y)?;
        let normed = self.norm(x, "post_norm")?;
        let gate = self.linear(normed, "gate", hidden, inner)?;
        let gate = self.b.silu(gate)?;
        let up = self.linear(normed, "up", hidden, inner)?;
        let gated = self.b.mul(gate, up)?;
        let y = self.linear(gated, "down", inner, hidden)?;
        Ok((self.b.plus(x, y)?, k, v))
    }

    fn norm(&mut self, x: ValueId, name: &str) -> Outcome<ValueId> {
        let scale = self.weight(name, &[self.sizes.hidden()], 1.0)?;
        Ok(self.b.rms_norm(x, -1, Some(scale), 1e-5)?)
    }

    fn linear(&mut self, x: ValueId, name: &str, inputs: usize, outputs: usize) -> Outcome<ValueId> {
        // A variance of 1 / inputs keeps the scale of what goes through.
        let w = self.weight(name, &[outputs, inputs], (3.0 / inputs as f64).sqrt())?;
        Ok(self.b.linear(x, w, None, true)?)
    }

    fn weight(&mut self, name: &str, shape: &[usize], scale: f64) -> Outcome<ValueId> {
        self.seed += 1;
        let data = random(self.dtype, shape, self.seed, scale)?;
        Ok(self.b.weight_data(&format!("{}.{name}", self.name), data)?)
    }

    /// Turns the pairs (i, i + head / 2) of each head by the position's angles.
    fn rotate(&mut self, x: ValueId, (cos, sin): (ValueId, ValueId)) -> Outcome<ValueId> {
        let halves = self.b.chunk(x, -1, 2)?;
        let (low, high) = (halves[0], halves[1]);
        let [low_cos, low_sin] = [cos, sin].map(|t| self.b.mul(low, t));
        let [high_cos, high_sin] = [cos, sin].map(|t| self.b.mul(high, t));
        let turned = [self.b.sub(low_cos?, high_sin?)?, self.b.plus(high_cos?, low_sin?)?];
        Ok(self.b.concat(&turned, -1)?)
    }
}
