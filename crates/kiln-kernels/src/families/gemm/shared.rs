//! Sums of a tile that several CTAs add to one after another: each loads what was summed before it, adds its own, and leaves it to the next; the
//! last has the results. A counter for each tile says whose turn it is. The order is that of CTAs, so every run gives the same bits.

use super::product::Along;
use super::program::Program;
use crate::Result;
use kiln_graph::Dim;
use kiln_tile::expr::Expr;
use kiln_tile::ir::{Builder, Place, Tile, View};
use kiln_tile::{Access, Buffer};

/// Where sums and counters are.
pub struct Shared {
    sums: Buffer,
    counters: Buffer,
}

/// On what condition something is done, and what the tile's counter is then.
type Turn = (Expr, Expr);

impl Program<'_> {
    /// Parts of the depth, each a CTA, from the first on.
    pub fn turns(&mut self, k: &mut Builder, parts: u32) -> Result<()> {
        let shared = self.shared(k);
        self.tiles(k, true);
        let part = self.at[0].clone();
        let sums = self.sums(k)?;
        let last = i64::from(parts) - 1;
        self.in_turn(k, &shared, &sums, (part.gt(0), part.clone()), (part.lt(last), &part + 1))
    }

    /// All steps of all tiles in a line, of which each CTA has a share. Of one tile the last steps are the first that their CTA makes, and the
    /// first ones the last: so sums are handed on against the depth, and nobody waits for long. The first CTA has the line's end, for CTAs
    /// wait for earlier ones only.
    pub fn stream(&mut self, k: &mut Builder, ctas: u32) -> Result<()> {
        let shared = self.shared(k);
        let bk = i64::from(self.config.bk);
        let depth = self.extent(k, Along::Depth);
        let sizes: Vec<Expr> =
            tile_counts(self.problem, &self.config).iter().map(|dim| self.values.dim(k, dim)).collect();
        let cta = k.grid(&[("cta", Expr::index(ctas.into()))]).remove(0);
        let steps = k.bind("steps", depth.ceil_div(bk).max(1));
        let tiles = sizes.iter().fold(Expr::index(1), |tiles, size| tiles * size);
        let all = k.bind("all", tiles * &steps);
        let share = k.bind("share", all.ceil_div(i64::from(ctas)));
        let begin = k.bind("begin", (Expr::index(i64::from(ctas) - 1) - cta) * &share);
        let end = k.bind("end", (&begin + share).min(all));
        let of = |step: &Expr| (step + &steps - 1) / &steps;
        k.try_for_range("tile", (&begin / &steps, of(&end), 1), None, &[], |k, tile, _| {
            let done = k.bind("done", tile * &steps);
            let first = k.bind("first", (&begin - &done).max(0));
            let last = k.bind("last", (&end - done).min(&steps));
            // Tiles follow each other along rows: neighbours share columns.
            let (mut rest, mut at) = (tile.clone(), vec![Expr::index(0); sizes.len()]);
            let (rows, columns) = (sizes.len() - 2, sizes.len() - 1);
            for axis in [rows, columns].into_iter().chain((0..rows).rev()) {
                at[axis] = k.bind("at", &rest % &sizes[axis]);
                rest = k.bind("rest", rest / &sizes[axis]);
            }
            self.place(at);
            let start = k.bind("start", &first * bk);
            let stop = k.bind("stop", (&last * bk).min(&depth));
            let sums = self.sums_between(k, start, stop)?;
            let (before, after) = ((last.lt(&steps), &steps - &last), (first.gt(0), &steps - &first));
            self.in_turn(k, &shared, &sums, before, after).map(|()| vec![])
        })?;
        Ok(())
    }

    fn shared(&mut self, k: &mut Builder) -> Shared {
        let shape = Self::sums_shape(self.problem, &self.config);
        let counts = tile_counts(self.problem, &self.config);
        Shared {
            sums: self.values.scratch(k, "shared", self.problem.sums, &shape, Access::ReadWrite),
            counters: self.values.zeroed(k, "turns", &counts),
        }
    }

    /// Adds what was summed `before`; then leaves the sums for what comes `after`, or writes the results.
    fn in_turn(&mut self, k: &mut Builder, shared: &Shared, own: &[Tile], before: Turn, after: Turn) -> Result<()> {
        let views: Vec<View> =
            (0..own.len()).map(|n| self.tile_of(&shared.sums, Self::layer(self.problem, None, n))).collect();
        let turn = self.tile.clone();
        let sums = k.if_else(
            before.0.clone(),
            |k| {
                k.wait_for(&shared.counters, &turn, before.1.clone());
                let add = |(own, view): (&Tile, &View)| {
                    let so_far = k.load("so_far", view.clone());
                    k.map("sums", &own.shape, &[&so_far, own], |_, x, _| &x[0] + &x[1])
                };
                own.iter().zip(&views).map(add).collect()
            },
            |_| own.to_vec(),
        );
        k.try_if_else(after.0, |k, more| {
            if more {
                for (view, sums) in views.iter().zip(&sums) {
                    k.store(Place::View(view.clone()), sums);
                }
                k.signal(&shared.counters, &turn, after.1.clone());
            } else {
                self.results(k, &sums)?;
                let back = |k: &mut Builder| {
                    k.signal(&shared.counters, &turn, Expr::index(0));
                    vec![]
                };
                k.if_else(before.0.clone(), back, |_| vec![]);
            }
            Ok(vec![])
        })?;
        Ok(())
    }
}

/// Tiles along every axis of the grid, along rows and columns.
pub fn tile_counts(problem: &super::Problem, config: &super::Config) -> Vec<Dim> {
    let mut counts: Vec<Dim> = problem.product.grid.iter().map(|(_, dim)| dim.clone()).collect();
    let sides = config.sides().into_iter().zip([config.bm, config.bn]);
    counts.extend(sides.map(|(side, tile)| {
        let extent = problem.product.extent(Along::Outer(side));
        extent.ceil_div(&Dim::from(i64::from(tile)))
    }));
    counts
}
