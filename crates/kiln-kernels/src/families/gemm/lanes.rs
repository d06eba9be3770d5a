//! Products of few rows whose operands meet in registers: threads that share a column take neighbouring runs of its depth, multiply them with the
//! same runs of every row, and add up at the end. Columns are read once, 16 bytes a thread, with nothing between memory and registers; the
//! rows come from the level-1 cache (the matrix-vector kernels of decoding; Harris, "Optimizing Parallel Reduction in CUDA").

use super::product::Along;
use super::program::{Lies, Program, Source};
use crate::Result;
use kiln_tile::ReduceOp;
use kiln_tile::expr::Expr;
use kiln_tile::ir::{Builder, Tile};

impl Program<'_> {
    /// The sums of the CTA's tile, of each contraction.
    pub fn lane_sums(&mut self, k: &mut Builder) -> Result<Vec<Tile>> {
        let (bm, bn, bk) = (self.config.bm, self.config.bn, self.config.bk);
        let sums = self.problem.sums;
        let sources = self.sources(k);
        if sources.iter().flatten().flatten().any(|source| source.lies.is_none()) {
            return self.values.malformed("an operand whose elements are computed meets the other in tiles");
        }
        let depth = self.extent(k, Along::Depth);
        // Of every row, of every contraction.
        let zero = |_| k.full("acc", sums, &[bn, bk], Expr::int(sums, 0));
        let zeros: Vec<Tile> = (0..bm as usize * sources.len()).map(zero).collect();
        let range = (Expr::index(0), depth, i64::from(bk));
        let added = k.for_range("k0", range, None, &zeros, |k, k0, acc| {
            let columns = self.runs(k, "b", &sources, 1, (bn, self.first(1)), k0);
            let mut next = vec![];
            for (i, acc) in acc.chunks(sources.len()).enumerate() {
                let rows = self.runs(k, "a", &sources, 0, (1, self.first(0) + i as i64), k0);
                next.extend(acc.iter().zip(rows.iter().zip(&columns)).map(|(acc, (row, column))| {
                    k.map("acc", &[bn, bk], &[acc, row, column], |_, x, _| {
                        let wide = |x: &Expr, tile: &Tile| x.cast(tile.dtype.compute()).cast(sums);
                        let (a, b) = (wide(&x[1], row), wide(&x[2], column));
                        if sums.is_float() { a.fma(b, &x[0]) } else { &x[0] + a * b }
                    })
                }));
            }
            next
        });
        let of = |n: usize| {
            let total = |acc: &Tile| {
                let total = k.reduce("sum", ReduceOp::Sum, acc, 1);
                k.transpose(&total, &[1, 0])
            };
            let totals: Vec<Tile> = added.iter().skip(n).step_by(sources.len()).map(total).collect();
            if let [only] = &totals[..] {
                return only.clone();
            }
            let totals: Vec<&Tile> = totals.iter().collect();
            k.map("sums", &[bm, bn], &totals, |_, x, at| {
                let row = |so_far: Expr, i: usize| at[0].eq(i as i64).select(&x[i], so_far);
                (1..x.len()).fold(x[0].clone(), row)
            })
        };
        Ok((0..sources.len()).map(of).collect())
    }

    /// [`Program::run`] of what every contraction has along the rows or the columns.
    fn runs(
        &self,
        k: &mut Builder,
        name: &str,
        sources: &[[Option<Source>; 2]],
        axis: usize,
        outer: (u32, Expr),
        k0: &Expr,
    ) -> Vec<Tile> {
        let mut runs: Vec<Tile> = vec![];
        for [rows, columns] in sources {
            let own = [rows, columns][axis].as_ref().and_then(|source| source.lies.as_ref());
            let run = own.map(|lies| self.run(k, name, lies, outer.clone(), k0));
            runs.extend(run.or_else(|| runs.first().cloned()));
        }
        runs
    }

    /// So many of an operand's outer positions from `first` on, each with a run of the depth.
    fn run(&self, k: &mut Builder, name: &str, lies: &Lies, outer: (u32, Expr), k0: &Expr) -> Tile {
        let view = self.operand_view(lies, [outer.0, self.config.bk], |along| match along {
            Along::Outer(_) => Some((0, outer.1.clone())),
            Along::Depth => Some((1, k0.clone())),
            Along::Grid(_) => None,
        });
        k.load(name, view)
    }
}
