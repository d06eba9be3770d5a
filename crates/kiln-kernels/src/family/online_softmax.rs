//! A softmax whose rows go by in tiles, and what its weights are summed with: the greatest score and the sum of each row so far are kept, and
//! everything accumulated is scaled when the greatest changes (Milakov and Gimelshein, "Online normalizer calculation for softmax"; Dao,
//! "FlashAttention-2"). Powers are of two.

use kiln_tile::{Buffer, Builder, DType, Expr, ReduceOp};
use std::f64::consts::LOG2_E;

/// The fragments of one block.
pub struct OnlineSoftmax {
    /// A tile of scores, which become weights.
    pub scores: Buffer,
    /// Weighted sums.
    pub acc: Buffer,
    /// Sums of the weights of each row; after [`OnlineSoftmax::finish`], their reciprocals.
    pub total: Buffer,
    peak: Buffer,
    found: Buffer,
    base: Buffer,
    scale: Buffer,
}

/// A loop over rows and columns.
type Square = [(&'static str, Expr); 2];

impl OnlineSoftmax {
    /// Declares them: `[rows, keys]` of scores, `[rows, columns]` of sums.
    pub fn new(k: &mut Builder, [rows, keys, columns]: [u32; 3]) -> OnlineSoftmax {
        let scores = k.fragment("scores", DType::F32, &[rows, keys]);
        let acc = k.fragment("acc", DType::F32, &[rows, columns]);
        let [peak, found, base, scale, total] =
            ["peak", "found", "base", "scale", "total"].map(|name| k.fragment(name, DType::F32, &[rows]));
        OnlineSoftmax { scores, acc, total, peak, found, base, scale }
    }

    /// The loop over the scores.
    pub fn of_scores(&self) -> Square {
        [("i", self.scores.shape[0].clone()), ("j", self.scores.shape[1].clone())]
    }

    /// The loop over the sums.
    pub fn of_sums(&self) -> Square {
        [("i", self.acc.shape[0].clone()), ("c", self.acc.shape[1].clone())]
    }

    fn of_rows(&self) -> [(&'static str, Expr); 1] {
        [("i", self.total.shape[0].clone())]
    }

    /// Nothing has gone by yet.
    pub fn start(&self, k: &mut Builder) {
        k.fill(&self.acc, 0);
        k.fill(&self.total, 0);
        k.fill(&self.peak, hidden());
    }

    /// Scores become weights relative to the greatest so far; sums and totals become relative to it too.
    pub fn weigh(&self, k: &mut Builder) {
        let OnlineSoftmax { scores, acc, total, peak, found, base, scale } = self;
        // Differences first: at the greatest score the exponent is exactly 0, however large that is.
        let power = |difference: Expr| (difference * LOG2_E).exp2_approx();
        k.reduce_rows(found, ReduceOp::Max, self.of_scores(), |_, ix| scores.at(ix));
        k.parallel(&self.of_rows(), |k, ix| {
            let new = k.bind("greatest", peak.at(ix).max(found.at(ix)));
            // A row of nothing but minus infinity so far; if that is all, a sum of 0 gives NaN, as it must.
            let from = k.bind("from", new.ne(hidden()).select(&new, Expr::float(DType::F32, 0.0)));
            k.store(scale, ix, power(peak.at(ix) - &from));
            k.store(base, ix, from);
            k.store(peak, ix, new);
        });
        k.parallel(&self.of_scores(), |k, ix| {
            k.store(scores, ix, power(scores.at(ix) - base.at([&ix[0]])));
        });
        k.reduce_rows(found, ReduceOp::Sum, self.of_scores(), |_, ix| scores.at(ix));
        k.parallel(&self.of_rows(), |k, ix| k.store(total, ix, total.at(ix).fma(scale.at(ix), found.at(ix))));
        k.parallel(&self.of_sums(), |k, ix| k.store(acc, ix, acc.at(ix) * scale.at([&ix[0]])));
    }

    /// Everything has gone by: totals become their reciprocals.
    pub fn finish(&self, k: &mut Builder) {
        k.parallel(&self.of_rows(), |k, ix| {
            k.store(&self.total, ix, Expr::float(DType::F32, 1.0) / self.total.at(ix));
        });
    }
}

/// The score of what does not exist.
pub fn hidden() -> Expr {
    Expr::float(DType::F32, f64::NEG_INFINITY)
}
