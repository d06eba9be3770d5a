//! Convolutions as tiled matrix products: blocks of `[M, N]`, tiles of both operands in shared memory, tensor cores where
//! the type has them.

use super::contract::finished_value;
use super::gemm_config::{GemmConfig, Order};
use super::output_index;
use super::product::{Coordinates, Group, Operand, Product, TileRange, fill_tile, hint};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use kiln_fuse::Region;
use kiln_graph::{Dim, Symbols};
use kiln_target::arch::Arch;
use kiln_tile::{Buffer, Builder, DType, Expr, Type, Worker};

/// The product with each of its first `most` Configs; empty if the region's anchor is none that this family takes.
pub fn programs(region: &Region, symbols: &Symbols, arch: Arch, most: usize) -> Result<Vec<(GemmConfig, TileProgram)>> {
    let (values, _) = Values::start(region, symbols, &region.name)?;
    let Some(product) = Product::of(&values)? else { return Ok(Vec::new()) };
    let problem = product.problem(&values, symbols, arch);
    problem
        .configs()
        .take(most)
        .map(|config| {
            let (values, k) = Values::start(region, symbols, &region.name)?;
            Ok((config, product.program(values, k, config, problem.order(&config))?))
        })
        .collect()
}

impl<'a> Product<'a> {
    fn program(
        &self,
        mut values: Values<'a>,
        mut k: Builder,
        config: GemmConfig,
        Order { rows_first, band }: Order,
    ) -> Result<TileProgram> {
        let GemmConfig { tile_m, tile_n, tile_k, threads, stages } = config;
        let (bm, bn, bk) = (i64::from(tile_m), i64::from(tile_n), i64::from(tile_k));
        // Tiles follow memory, so that neighbours in a tile are neighbours there.
        let transpose_a = self.m.has(self.lhs.labels.last());
        let transpose_b = self.k.has(self.rhs.labels.last());
        let dims = |x: u32, y: u32, swap: bool| if swap { [y, x] } else { [x, y] };
        let (a_name, b_name) =
            (format!("{}_tile", hint(&values, self.lhs.value)), format!("{}_tile", hint(&values, self.rhs.value)));
        let a_tile = k.shared(&a_name, self.tile, &dims(tile_m, tile_k, transpose_a));
        let b_tile = k.shared(&b_name, self.tile, &dims(tile_k, tile_n, transpose_b));
        let acc = k.fragment("acc", self.acc.compute(), &[tile_m, tile_n]);
        k.threads(threads);
        let [batches, m, n, depth] = [&self.batch, &self.m, &self.n, &self.k].map(|g| values.dim(&mut k, &g.total()));
        let (rows, columns) = (("tile_m", m.ceil_div(bm)), ("tile_n", n.ceil_div(bn)));
        let (slow, fast) = if rows_first { (columns, rows) } else { (rows, columns) };
        let fast_name = fast.0;
        let grid = match band {
            0 => vec![("batch", batches), slow, fast],
            _ => vec![("batch", batches), ("band", fast.1 / band), slow, (fast_name, Expr::index(band))],
        };
        let mut result = Ok(());
        k.for_each(Worker::Block, &grid, |k, at| {
            let batch = self.batch.coordinates(&mut values, k, &at[0]);
            let [slow, fast] = match at {
                [_, band_at, slow, fast] => [slow.clone(), k.bind(fast_name, band_at * band + fast)],
                _ => [at[1].clone(), at[2].clone()],
            };
            let (row, column) = if rows_first { (&fast, &slow) } else { (&slow, &fast) };
            k.fill(&acc, 0);
            // Where the columns of an image are is found once; it takes divisions.
            let found = self.positions(&mut values, k, column, tile_n);
            k.pipelined("step", depth.ceil_div(bk), stages, |k, step| {
                let rows = OperandTile { of: &self.lhs, outer: &self.m, tile: row, extent: bm, found: &[] };
                let columns = OperandTile { of: &self.rhs, outer: &self.n, tile: column, extent: bn, found: &found };
                let operand_tiles = [(rows, &a_tile, transpose_a), (columns, &b_tile, !transpose_b)];
                for (operand_tile, tile, depth_first) in operand_tiles {
                    let copied = self.copy(&mut values, k, &operand_tile, tile, depth_first, (step, bk), &batch);
                    if result.is_ok() {
                        result = copied;
                    }
                }
                k.gemm(&acc, &a_tile, &b_tile, transpose_a, transpose_b);
            });
            k.parallel(&[("i", Expr::index(bm)), ("j", Expr::index(bn))], |k, ix| {
                let i = k.bind("row", row * bm + &ix[0]);
                let j = k.bind("col", column * bn + &ix[1]);
                let inside = self.m.holds(&i, bm, &m).and(self.n.holds(&j, bn, &n));
                let mut write = |k: &mut Builder| {
                    let stored = values.scoped(|values| self.epilogue(values, k, &acc.at(ix), [&i, &j], &batch));
                    if result.is_ok() {
                        result = stored;
                    }
                };
                if inside.as_const() == Some(1) { write(k) } else { k.if_(inside, write) }
            });
        });
        result?;
        let across = |group: &Group, tile: i64| group.total().ceil_div(&Dim::from(tile));
        let points = self.batch.total() * across(&self.m, bm) * across(&self.n, bn);
        values.finish(k, points)
    }

    /// Tables of the coordinates of a tile's columns, for each label that has more than one.
    fn positions(&self, values: &mut Values, k: &mut Builder, tile: &Expr, tile_n: u32) -> Vec<Found> {
        let mut table = |label: &char| k.shared(&format!("{label}_of"), DType::I32, &[tile_n]);
        let labels = self.n.labels.iter().zip(&self.n.extents);
        let tables: Vec<Found> = labels.map(|(l, extent)| (*l, (!extent.is(1)).then(|| table(l)))).collect();
        k.parallel(&[("i", Expr::index(tile_n.into()))], |k, ix| {
            values.scoped(|values| {
                let coordinates = self.n.coordinates(values, k, &(tile * i64::from(tile_n) + &ix[0]));
                for ((_, table), (_, place)) in tables.iter().zip(coordinates) {
                    if let Some(table) = table {
                        k.store(table, [ix[0].clone()], place);
                    }
                }
            });
        });
        tables
    }

    /// Copies one operand's tile of step `step` along K.
    #[allow(clippy::too_many_arguments)] // a tile has two directions with two numbers each
    fn copy(
        &self,
        values: &mut Values,
        k: &mut Builder,
        operand_tile: &OperandTile,
        tile: &Buffer,
        depth_first: bool,
        (step, tile_k): (&Expr, i64),
        batch: &Coordinates,
    ) -> Result<()> {
        let outer = TileRange {
            group: operand_tile.outer,
            first: operand_tile.tile * operand_tile.extent,
            extent: operand_tile.extent,
        };
        let inner = TileRange { group: &self.k, first: step * tile_k, extent: tile_k };
        fill_tile(values, k, (tile, depth_first), [outer, inner], |values, k, [outer, depth], column| {
            let mut coordinates = batch.clone();
            if operand_tile.found.is_empty() {
                coordinates.extend(operand_tile.outer.coordinates(values, k, outer));
            } else {
                let find = |table: &Buffer| table.at([column.clone()]).cast(Type::Index);
                let place = |(label, table): &Found| (*label, table.as_ref().map_or(Expr::index(0), find));
                coordinates.extend(operand_tile.found.iter().map(place));
            }
            coordinates.extend(self.k.coordinates(values, k, depth));
            let element = self.element(values, k, operand_tile.of, &coordinates)?;
            if element.ty() == self.tile {
                return Ok(element);
            }
            Ok(element.cast(values.graph.ty(operand_tile.of.value).dtype.compute()).cast(self.tile))
        })
    }

    /// Stores the region's results at one element of the product.
    fn epilogue(
        &self,
        values: &mut Values,
        k: &mut Builder,
        total: &Expr,
        [row, col]: [&Expr; 2],
        batch: &Coordinates,
    ) -> Result<()> {
        let mut coordinates = batch.clone();
        coordinates.extend(self.m.coordinates(values, k, row));
        coordinates.extend(self.n.coordinates(values, k, col));
        let index = output_index(values, k, self.anchor, &self.index(&coordinates))?;
        let total = values.name(k, "contracted", finished_value(total, self.acc, self.out));
        values.bind(self.result, total);
        (0..values.graph.outputs.len()).try_for_each(|i| values.store(k, i, &index))
    }
}

/// A label, and the table of its coordinates unless all are 0.
type Found = (char, Option<Buffer>);

/// One operand and its direction across K.
struct OperandTile<'s> {
    of: &'s Operand<'s>,
    outer: &'s Group,
    /// Number of the tile.
    tile: &'s Expr,
    /// Extent of a tile.
    extent: i64,
    /// The coordinates of its positions, if they are in tables.
    found: &'s [Found],
}
