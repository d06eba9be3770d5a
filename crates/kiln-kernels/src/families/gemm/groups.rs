//! Rows in groups, each multiplied by a matrix of its own, in one launch whatever the groups are when it runs.
//!
//! Tiles have places along the rows: those of group `g`, which begins at row `start`, are from `start / height + g` on. That leaves each group as many
//! as it can need, at least one, and all groups together the rows' tiles and one a group, so a CTA finds its group among the ends alone, by binary
//! search. (Grouped kernels of CUTLASS and Triton walk over the tiles of all groups before; MegaBlocks, Gale et al. 2023, adds them up beforehand in
//! another kernel.) What has no rows has no depth either. Rows behind the last end are a group without depth: zeros, with what is behind the product.
//! Where ends decrease, which is noted, rows may be of several groups and are written by each.

use super::product::Along;
use super::program::Program;
use crate::Result;
use kiln_graph::{Dim, ValueId};
use kiln_tile::Type;
use kiln_tile::expr::Expr;
use kiln_tile::ir::Builder;

/// The groups of a product's rows.
pub struct Groups {
    /// Row before which each ends.
    pub ends: ValueId,
    /// How many there are.
    pub count: Dim,
}

/// What a CTA has of a group.
pub struct Part {
    /// Row before which the group ends.
    pub end: Expr,
    /// The depth of the product; 0 where there are no rows, or no matrix.
    pub depth: Expr,
}

impl Program<'_> {
    /// Spreads CTAs over the tiles of all groups.
    pub fn grouped_tiles(&mut self, k: &mut Builder, groups: &Groups) -> Result<()> {
        let along = usize::from(self.sides()[0] != 0);
        let extents = [self.config.bm, self.config.bn].map(i64::from);
        let (height, width) = (extents[along], extents[1 - along]);
        let [rows, columns, depth] =
            [Along::Outer(0), Along::Outer(1), Along::Depth].map(|along| self.extent(k, along));
        let count = self.values.dim(k, &groups.count);
        let (least, most) = groups.count.bounds(&self.problem.subject.symbols);
        let mut counts = [rows.ceil_div(height) + &count, columns.ceil_div(width)];
        counts.rotate_left(along);
        let [down, across] = counts;
        let at = k.grid(&[("tile_m", down), ("tile_n", across)]);
        let (place, column) = (&at[along], &at[1 - along]);

        // The last group that begins at this place or before, of those with a matrix and the one behind them.
        let mut group = Expr::index(0);
        // More are not passed in 32 bits.
        for step in (0..=most.clamp(1, i32::MAX.into()).ilog2()).rev().map(|bit| 1i64 << bit) {
            let next = &group + step;
            let exists = next.le(&count);
            let start = self.end(k, groups, &(&next - 1), &exists)?.max(0).min(&rows);
            let begun = exists.and((start / height + &next).le(place));
            group = k.bind("group", begun.select(&next, &group));
        }
        let (first, own) = (group.gt(0), group.lt(&count));
        let start = self.end(k, groups, &(&group - 1), &first)?.max(0).min(&rows);
        let start = k.bind("start", first.select(&start, 0));
        let end = self.end(k, groups, &group, &own)?.max(0).min(&rows);
        let end = k.bind("end", own.select(&end, &rows));
        // Never before its group's first; places that have no rows may lie behind all.
        let row = (&start + (place - &start / height - &group).max(0) * height).min(&rows);
        let row = k.bind("row", row);
        let depth = k.bind("depth", row.lt(&end).and(own).select(&depth, 0));
        self.part = Some(Part { end, depth });

        // Every end has a place whose CTAs look at it, whether or not they have its group.
        let known = place.lt(&count);
        let before = place.gt(0);
        let [own, previous] = [(place.clone(), known.clone()), (place - 1, known.clone().and(before.clone()))]
            .map(|(group, exists)| self.end(k, groups, &group, &exists));
        let own = own?;
        let wrong = own.lt(before.select(&previous?, 0)).or(own.gt(&rows));
        let extent = self.problem.product.extent(Along::Outer(0));
        let node = self.values.graph.node(self.problem.product.anchor);
        let name = if node.name.is_empty() { node.op.name() } else { &node.name };
        self.values.check(k, known.and(wrong), || {
            format!("`{name}` has groups that end before they begin, or past row {extent}")
        });

        let mut tile = [row, column * width];
        tile.rotate_left(along);
        let last = &count - 1;
        let matrix = group.min(if least < 1 { last.max(0) } else { last });
        let grid = self.problem.product.grid.iter().map(|_| matrix.clone());
        self.at = grid.chain(tile).collect();
        Ok(())
    }

    /// Where a group is said to end, evaluated where it exists.
    fn end(&mut self, k: &mut Builder, groups: &Groups, group: &Expr, exists: &Expr) -> Result<Expr> {
        let index = std::slice::from_ref(group);
        let end = self.values.guarded(exists.clone(), |values| values.value(k, groups.ends, index))?;
        Ok(end.cast(Type::Index))
    }
}
