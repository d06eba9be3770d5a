//! Attention: two products with a softmax of rows between them, which a block streams through, so that scores never reach memory.
//!
//! What stands between the products (scale, mask, cap) is written by `value`, an element at a time.

use super::attention_config::{AttentionConfig, Problem};
use super::causal::diagonal;
use super::contract::finished_value;
use super::online_softmax::{OnlineSoftmax, hidden};
use super::product::{Coordinates, Group, Operand, TileRange, fill_tile, hint, indices};
use super::{op, output_index};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dtype::register;
use kiln_fuse::{Attention, Region};
use kiln_graph::{self as graph, Dim, Op, Symbols};
use kiln_target::arch::Arch;
use kiln_tile::{Buffer, Builder, DType, Expr, Worker};

/// The region with each of its first `most` Configs.
pub fn programs(
    region: &Region,
    symbols: &Symbols,
    arch: Arch,
    most: usize,
) -> Result<Vec<(AttentionConfig, TileProgram)>> {
    let (values, _) = Values::start(region, symbols, &region.name)?;
    let streamed = Streamed::of(&values)?;
    let configs = streamed.problem(&values, symbols, arch).configs();
    if configs.is_empty() {
        return values.unsupported(
            format!("heads of {} and {} columns in one kernel", streamed.depth.total(), streamed.columns.total()),
            "build with `--numerics exact`, which keeps the products apart",
        );
    }
    let candidates = configs.into_iter().take(most).map(|config| {
        let (values, k) = Values::start(region, symbols, &region.name)?;
        Ok((config, streamed.program(values, k, config)?))
    });
    candidates.collect()
}

/// The operands and dimensions of both products, in the labels of the first.
struct Streamed<'a> {
    parts: Attention,
    query: Operand<'a>,
    key: Operand<'a>,
    value: Operand<'a>,
    /// Labels of the scores' axes, and of the second product's.
    scores: Vec<char>,
    out: Vec<char>,
    /// Types of the products' results.
    types: [DType; 2],
    batch: Group,
    /// Rows of the scores.
    rows: Group,
    /// Columns of the scores, which the softmax sums over.
    keys: Group,
    /// What the first product sums over.
    depth: Group,
    /// Columns of the second product.
    columns: Group,
    /// No row sees a key past its own number and this.
    diagonal: Option<Dim>,
}

impl<'a> Streamed<'a> {
    fn of(values: &Values<'a>) -> Result<Streamed<'a>> {
        let Some(parts) = values.region.attention() else { return values.malformed("it is no attention") };
        let (first, second) = (values.graph.node(parts.scores), values.graph.node(parts.product));
        let (Op::Contract { spec: one, out: score, .. }, Op::Contract { spec: two, out: result, .. }) =
            (op(values, parts.scores), op(values, parts.product))
        else {
            return values.malformed("its anchors are no contractions");
        };
        let scores = one.out.clone();
        let operands = [(first.inputs[0], &one.lhs), (first.inputs[1], &one.rhs)];
        let [query, key] =
            if scores.last().is_some_and(|l| one.rhs.contains(l)) { operands } else { [operands[1], operands[0]] };
        let operands = [(second.inputs[0], &two.lhs), (second.inputs[1], &two.rhs)];
        let [(_, weights), value] =
            if second.inputs[0] == parts.weights { operands } else { [operands[1], operands[0]] };
        // The second product's labels are others: those of the weights stand for the scores' axes, the rest is new.
        let unused: Vec<char> =
            ('\u{e000}'..).filter(|c| !one.lhs.contains(c) && !one.rhs.contains(c)).take(value.1.len()).collect();
        let rename = |l: &char| match (weights.iter().position(|w| w == l), value.1.iter().position(|v| v == l)) {
            (Some(axis), _) => scores[axis],
            (None, at) => unused[at.unwrap_or(0)],
        };
        let [value_labels, out] = [value.1, &two.out].map(|labels| labels.iter().map(rename).collect::<Vec<char>>());
        let group = |from: (graph::ValueId, &[char]), member: &dyn Fn(&char) -> bool| {
            let members = from.1.iter().zip(values.shape(from.0)).filter(|(l, _)| member(l));
            let (labels, extents): (Vec<char>, Vec<Dim>) = members.map(|(l, extent)| (*l, extent.clone())).unzip();
            Group { labels, extents }
        };
        let square = (parts.x, &scores[..]);
        let (last, before) = (&scores[scores.len() - 1..], &scores[..scores.len() - 1]);
        let shared = |l: &char| key.1.contains(l) || value_labels.contains(l);
        let groups = [
            group(square, &|l| before.contains(l) && shared(l)),
            group(square, &|l| before.contains(l) && !shared(l)),
            group(square, &|l| last.contains(l)),
            group((key.0, key.1), &|l| !scores.contains(l)),
            group((value.0, &value_labels), &|l| !scores.contains(l)),
        ];
        let [batch, rows, keys, depth, columns] = groups;
        let diagonal = diagonal(values, parts.x).filter(|(axis, _)| rows.labels[..] == [scores[*axis]]);
        Ok(Streamed {
            query: Operand::plain(query.0, query.1),
            key: Operand::plain(key.0, key.1),
            value: Operand::plain(value.0, &value_labels),
            types: [*score, *result],
            parts,
            scores,
            out,
            batch,
            rows,
            keys,
            depth,
            columns,
            diagonal: diagonal.map(|(_, offset)| offset),
        })
    }

    fn problem(&self, values: &Values, symbols: &Symbols, arch: Arch) -> Problem {
        // Rows in memory that are whole 16-byte vectors.
        let direct = |of: &Operand| {
            let row = values.shape(of.value).last();
            row.is_some_and(|row| row.terms().all(|(_, coefficient)| coefficient % 8 == 0))
        };
        let most = |group: &Group| group.total().bounds(symbols).1;
        let range = |group: &Group| group.total().bounds(symbols);
        Problem {
            arch,
            batch: range(&self.batch),
            rows: range(&self.rows),
            depth: padded(most(&self.depth)),
            columns: padded(most(&self.columns)),
            direct: arch.has_cp_async() && direct(&self.key) && direct(&self.value),
        }
    }

    fn program(&self, mut values: Values<'a>, mut k: Builder, config: AttentionConfig) -> Result<TileProgram> {
        let AttentionConfig { rows: tile_m, keys: tile_n, threads, stages } = config;
        let (bm, bn) = (i64::from(tile_m), i64::from(tile_n));
        let (Some(depth), Some(columns)) = (self.depth.total().as_const(), self.columns.total().as_const()) else {
            return values.malformed("a head has no fixed extent");
        };
        let (depth, columns) = (padded(depth), padded(columns));
        let query = OperandTile::new(&values, &mut k, &self.query, (&self.rows, tile_m), (&self.depth, depth));
        let key = OperandTile::new(&values, &mut k, &self.key, (&self.keys, tile_n), (&self.depth, depth));
        let value = OperandTile::new(&values, &mut k, &self.value, (&self.keys, tile_n), (&self.columns, columns));
        let softmax = OnlineSoftmax::new(&mut k, [tile_m, tile_n, columns]);
        let OnlineSoftmax { scores, acc, total, .. } = &softmax;
        k.threads(threads);
        let [batches, m, n] = [&self.batch, &self.rows, &self.keys].map(|g| values.dim(&mut k, &g.total()));
        let c_end = values.dim(&mut k, &self.columns.total());
        let mut result = Ok(());
        k.for_each(Worker::Block, &[("batch", batches), ("tile_m", m.ceil_div(bm))], |k, at| {
            let batch = self.batch.coordinates(&mut values, k, &at[0]);
            // Keys that a row sees, and the rows that see most first: the last blocks to run are short.
            let (tile, end) = match &self.diagonal {
                None => (at[1].clone(), n.clone()),
                Some(offset) => {
                    let tile = k.bind("tile", m.ceil_div(bm) - 1 - &at[1]);
                    let past = ((&tile + 1) * bm).min(&m) + values.dim(k, offset);
                    (tile, k.bind("end", past.min(&n).max(0)))
                }
            };
            let mut keep = |done: Result<()>| {
                if result.is_ok() {
                    result = done;
                }
            };
            keep(query.copy(&mut values, k, &tile, &batch));
            softmax.start(k);
            k.pipelined("step", end.ceil_div(bn), stages, |k, step| {
                keep(key.copy(&mut values, k, step, &batch));
                keep(value.copy(&mut values, k, step, &batch));
                k.fill(scores, 0);
                k.gemm(scores, &query.tile, &key.tile, query.transposed, !key.transposed);
                k.parallel(&softmax.of_scores(), |k, ix| {
                    let row = k.bind("row", &tile * bm + &ix[0]);
                    let col = k.bind("key", step * bn + &ix[1]);
                    let inside = self.rows.holds(&row, bm, &m).and(self.keys.holds(&col, bn, &n));
                    let mut write = |k: &mut Builder| {
                        let x = values.scoped(|values| self.score(values, k, &scores.at(ix), [&row, &col], &batch));
                        keep(x.map(|x| k.store(scores, ix, x)));
                    };
                    match inside.as_const() {
                        Some(1) => write(k),
                        _ => k.if_else(inside, write, |k| k.store(scores, ix, hidden())),
                    }
                });
                softmax.weigh(k);
                k.gemm(acc, scores, &value.tile, false, value.transposed);
            });
            softmax.finish(k);
            k.parallel(&softmax.of_sums(), |k, ix| {
                let row = k.bind("row", &tile * bm + &ix[0]);
                let inside = self.rows.holds(&row, bm, &m).and(self.columns.holds(&ix[1], columns.into(), &c_end));
                let mut write = |k: &mut Builder| {
                    let weighted = acc.at(ix) * total.at([&ix[0]]);
                    // A sum over no keys is 0.
                    let weighted = n.gt(0).select(&weighted, Expr::float(DType::F32, 0.0));
                    keep(values.scoped(|values| self.epilogue(values, k, &weighted, [&row, &ix[1]], &batch)));
                };
                if inside.as_const() == Some(1) { write(k) } else { k.if_(inside, write) }
            });
        });
        result?;
        let points = self.batch.total() * self.rows.total().ceil_div(&Dim::from(bm));
        values.finish(k, points)
    }

    /// What the softmax takes, from a sum of the first product.
    fn score(
        &self,
        values: &mut Values,
        k: &mut Builder,
        sum: &Expr,
        at: [&Expr; 2],
        batch: &Coordinates,
    ) -> Result<Expr> {
        let mut coordinates = batch.clone();
        coordinates.extend(self.rows.coordinates(values, k, at[0]));
        coordinates.extend(self.keys.coordinates(values, k, at[1]));
        let sum = finished_value(sum, DType::F32, self.types[0]);
        values.bind(values.graph.node(self.parts.scores).outputs[0], sum);
        values.number(k, self.parts.x, &indices(&self.scores, &coordinates))
    }

    /// Stores the region's results at one element of the second product.
    fn epilogue(
        &self,
        values: &mut Values,
        k: &mut Builder,
        sum: &Expr,
        at: [&Expr; 2],
        batch: &Coordinates,
    ) -> Result<()> {
        let mut coordinates = batch.clone();
        coordinates.extend(self.rows.coordinates(values, k, at[0]));
        coordinates.extend(self.columns.coordinates(values, k, at[1]));
        let index = output_index(values, k, self.parts.product, &indices(&self.out, &coordinates))?;
        let sum = values.name(k, "contracted", finished_value(sum, DType::F32, self.types[1]));
        values.bind(values.graph.node(self.parts.product).outputs[0], sum);
        (0..values.graph.outputs.len()).try_for_each(|i| values.store(k, i, &index))
    }
}

/// Columns in whole blocks of the tensor cores.
fn padded(extent: i64) -> u32 {
    u32::try_from(extent).map_or(u32::MAX, |extent| extent.next_multiple_of(16))
}

/// One operand and its shared tile: positions along one group, and all of another.
struct OperandTile<'s> {
    of: &'s Operand<'s>,
    tile: Buffer,
    /// Whether the tile is stored with the inner group first: tiles follow memory, so that neighbours are neighbours there.
    transposed: bool,
    outer: &'s Group,
    inner: &'s Group,
    /// Extents of the tile in both.
    extents: [i64; 2],
}

impl<'s> OperandTile<'s> {
    fn new(
        values: &Values,
        k: &mut Builder,
        of: &'s Operand<'s>,
        (outer, out_extent): (&'s Group, u32),
        (inner, in_extent): (&'s Group, u32),
    ) -> OperandTile<'s> {
        let transposed = !inner.has(of.labels.last());
        let dims = if transposed { [in_extent, out_extent] } else { [out_extent, in_extent] };
        let dtype = register(values.graph.ty(of.value).dtype);
        let tile = k.shared(&format!("{}_tile", hint(values, of.value)), dtype, &dims);
        OperandTile { of, tile, transposed, outer, inner, extents: [out_extent, in_extent].map(i64::from) }
    }

    /// Fills the tile of number `at`.
    fn copy(&self, values: &mut Values, k: &mut Builder, at: &Expr, batch: &Coordinates) -> Result<()> {
        let [outer_extent, inner_extent] = self.extents;
        let outer = TileRange { group: self.outer, first: at * outer_extent, extent: outer_extent };
        let inner = TileRange { group: self.inner, first: Expr::index(0), extent: inner_extent };
        fill_tile(values, k, (&self.tile, self.transposed), [outer, inner], |values, k, [outer, inner], _| {
            let mut coordinates = batch.clone();
            coordinates.extend(self.outer.coordinates(values, k, outer));
            coordinates.extend(self.inner.coordinates(values, k, inner));
            values.value(k, self.of.value, &indices(&self.of.labels, &coordinates))
        })
    }
}
