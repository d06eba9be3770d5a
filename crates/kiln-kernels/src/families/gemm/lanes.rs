//! Products of few rows whose operands meet in registers: threads that share a column take neighbouring runs of its depth, multiply them with the
//! same runs of every row, and add up at the end. Columns are read once, 16 bytes a thread, with nothing between memory and registers; the
//! rows come from the level-1 cache (the matrix-vector kernels of decoding; Harris, "Optimizing Parallel Reduction in CUDA").

use super::product::Along;
use super::program::{Lies, Program};
use crate::Result;
use kiln_tile::ReduceOp;
use kiln_tile::expr::Expr;
use kiln_tile::ir::{Builder, Tile};

impl Program<'_> {
    /// The sums of the CTA's tile.
    pub fn lane_sums(&mut self, k: &mut Builder) -> Result<Tile> {
        let (bm, bn, bk) = (self.config.bm, self.config.bn, self.config.bk);
        let sums = self.problem.sums;
        let operands = self.sides().map(|side| self.operand(k, side));
        let [Some(rows), Some(columns)] = operands else {
            return self.values.malformed("an operand whose elements are computed meets the other in tiles");
        };
        let depth = self.extent(k, Along::Depth);
        let zeros: Vec<Tile> = (0..bm).map(|_| k.full("acc", sums, &[bn, bk], Expr::int(sums, 0))).collect();
        let range = (Expr::index(0), depth, i64::from(bk));
        let added = k.for_range("k0", range, None, &zeros, |k, k0, acc| {
            let column = self.run(k, "b", &columns, (bn, self.first(1)), k0);
            let of_row = |(i, acc): (usize, &Tile)| {
                let row = self.run(k, "a", &rows, (1, self.first(0) + i as i64), k0);
                k.map("acc", &[bn, bk], &[acc, &row, &column], |_, x, _| {
                    let wide = |x: &Expr, tile: &Tile| x.cast(tile.dtype.compute()).cast(sums);
                    let (a, b) = (wide(&x[1], &row), wide(&x[2], &column));
                    if sums.is_float() { a.fma(b, &x[0]) } else { &x[0] + a * b }
                })
            };
            acc.iter().enumerate().map(of_row).collect()
        });
        let total = |acc: &Tile| {
            let total = k.reduce("sum", ReduceOp::Sum, acc, 1);
            k.transpose(&total, &[1, 0])
        };
        let totals: Vec<Tile> = added.iter().map(total).collect();
        if let [only] = &totals[..] {
            return Ok(only.clone());
        }
        let totals: Vec<&Tile> = totals.iter().collect();
        Ok(k.map("sums", &[bm, bn], &totals, |_, x, at| {
            let row = |so_far: Expr, i: usize| at[0].eq(i as i64).select(&x[i], so_far);
            (1..x.len()).fold(x[0].clone(), row)
        }))
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
