//! The tile program of an attention.

use super::Problem;
use super::config::Config;
use super::streamed::{Axis, Group, Operand, Streamed};
use crate::Result;
use crate::families::gemm::views;
use crate::families::{Subject, TileLaunch};
use crate::value::dims::multiple;
use crate::value::dtype::round;
use crate::value::{Values, Writer};
use kiln_graph::{Dim, ValueId};
use kiln_tile::expr::{CompareOp, Expr, UnaryOp};
use kiln_tile::ir::{Builder, MapBuilder, Place, Tile, View};
use kiln_tile::{Buffer, DType, ReduceOp};
use std::f64::consts::LOG2_E;

const F32: DType = DType::F32;

/// The kernel that makes an attention as a Config says.
pub fn launch(problem: &Problem, config: &Config) -> Result<TileLaunch> {
    let Subject { region, symbols, ranges, .. } = &*problem.subject;
    let mut values = Values::new(region, symbols)?;
    values.know(ranges);
    let mut k = Builder::new(&region.name, &region.summary);
    k.schedule(config.schedule());
    values.declare(&mut k, <[_]>::to_vec);
    let streamed = &problem.streamed;
    let [rows, keys] = [&streamed.rows, &streamed.keys].map(|group| values.dim(&mut k, &group.total()));
    let mut emit = Emit {
        streamed,
        bm: config.bm,
        bn: config.bn,
        heads: problem.heads.map(|extent| config.padded(extent)),
        values,
        grid: vec![],
        first: Expr::index(0),
        rows,
        keys,
    };
    emit.tiles(&mut k);
    let (total, sums) = emit.stream(&mut k, config.stages)?;
    emit.results(&mut k, &total, &sums)?;
    emit.values.launch(k)
}

struct Emit<'e> {
    streamed: &'e Streamed,
    bm: u32,
    bn: u32,
    /// Padded extents of the depth, and of the columns.
    heads: [u32; 2],
    values: Values<'e>,
    /// The CTA's coordinates along the grid's labels, and its first row.
    grid: Vec<(char, Expr)>,
    first: Expr,
    /// How many rows and keys there are.
    rows: Expr,
    keys: Expr,
}

impl<'e> Emit<'e> {
    /// Spreads CTAs over heads and tiles of queries.
    fn tiles(&mut self, k: &mut Builder) {
        let names: Vec<String> = self.streamed.grid.iter().map(|(label, _)| label.to_string()).collect();
        let extents = self.streamed.grid.iter().map(|(_, dim)| self.values.dim(k, dim)).collect::<Vec<_>>();
        let mut axes: Vec<(&str, Expr)> = names.iter().map(String::as_str).zip(extents).collect();
        let count = self.rows.ceil_div(i64::from(self.bm));
        let tile = ("tile", count.clone());
        // Rows that see most first: the last CTAs to run are short.
        let rows = self.streamed.rows.single();
        let heavy = self.streamed.diagonal.as_ref().is_some_and(|diagonal| Some(diagonal.label) == rows);
        axes.insert(if heavy { 0 } else { axes.len() }, tile);
        let mut at = k.grid(&axes);
        let tile = at.remove(if heavy { 0 } else { at.len() - 1 });
        let tile = if heavy { k.bind("tile", count - 1 - tile) } else { tile };
        self.first = tile * i64::from(self.bm);
        self.grid = self.streamed.grid.iter().map(|(label, _)| *label).zip(at).collect();
    }

    /// Totals of the weights of each row, and weighted sums.
    fn stream(&mut self, k: &mut Builder, stages: u32) -> Result<(Tile, Tile)> {
        let streamed = self.streamed;
        let (bm, bn, [depth, columns]) = (self.bm, self.bn, self.heads);
        let zero = Expr::index(0);
        let (rows, keys, deep, wide) = (&streamed.rows, &streamed.keys, &streamed.depth, &streamed.columns);
        let first = self.first.clone();
        let query = self.operand(k, "query", &streamed.query, [(rows, &first), (deep, &zero)], [bm, depth])?;
        let end = self.end(k);
        let most = k.full("most", F32, &[bm, 1], hidden());
        let total = k.full("total", F32, &[bm, 1], Expr::float(F32, 0.0));
        let sums = k.full("acc", F32, &[bm, columns], Expr::float(F32, 0.0));
        let range = (zero.clone(), end, i64::from(bn));
        let last = k.try_for_range("key0", range, Some(stages), &[most, total, sums], |k, start, carried| {
            let [most, total, sums] = carried else { return self.values.malformed("a loop that carries three tiles") };
            let right = self.operand(k, "key", &streamed.key, [(deep, &zero), (keys, start)], [depth, bn])?;
            let scores = k.full("scores", F32, &[bm, bn], Expr::float(F32, 0.0));
            let scores = k.dot(&query, &right, &scores);
            let scores = self.scores(k, &scores, start)?;
            // Powers of two of a factor times the difference to the greatest.
            let factor = streamed.scale.unwrap_or(1.0) * LOG2_E;
            let peak = k.reduce("peak", ReduceOp::Max, &scores, 1);
            let [most, base, fade] = k.map_many(["most", "base", "fade"], &[bm, 1], &[most, &peak], |k, x, _| {
                let most = k.bind("greatest", x[0].max(&x[1]));
                // A row of nothing but minus infinity so far; if that is all, a sum of 0 gives NaN, as it must.
                let base = most.compare(CompareOp::Ne, hidden()).select(&most, Expr::float(F32, 0.0));
                let base = k.bind("base", base);
                let fade = power((&x[0] - &base) * factor);
                [most, if streamed.scale.is_some() { base * -factor } else { base }, fade]
            });
            let weights = k.map("weights", &[bm, bn], &[&scores, &base], |_, x, _| match streamed.scale {
                Some(_) => power(x[0].fma(factor, &x[1])),
                // Differences first: at the greatest score the exponent is exactly 0, however large that is.
                None => power((&x[0] - &x[1]) * factor),
            });
            let sum = k.reduce("sum", ReduceOp::Sum, &weights, 1);
            let total = k.map("total", &[bm, 1], &[total, &fade, &sum], |_, x, _| x[0].fma(&x[1], &x[2]));
            let sums = k.map("acc", &[bm, columns], &[sums, &fade], |_, x, _| &x[0] * &x[1]);
            let weights = k.cast(&weights, streamed.dtype);
            let value = self.operand(k, "value", &streamed.value, [(keys, start), (wide, &zero)], [bn, columns])?;
            let sums = k.dot(&weights, &value, &sums);
            Ok(vec![most, total, sums])
        })?;
        Ok((last[1].clone(), last[2].clone()))
    }

    /// Past the last key that a row of the tile sees.
    fn end(&mut self, k: &mut Builder) -> Expr {
        let Some(diagonal) = &self.streamed.diagonal else { return self.keys.clone() };
        let offset = self.values.dim(k, &diagonal.offset);
        let past = match self.grid.iter().find(|(label, _)| *label == diagonal.label) {
            Some((_, position)) => position + 1,
            None => (&self.first + i64::from(self.bm)).min(&self.rows),
        };
        k.bind("end", (past + offset).min(&self.keys).max(0))
    }

    /// Whether tiles reach past the last row, and past the last key.
    fn partial(&self) -> [bool; 2] {
        let past = |group: &Group, tile: u32| multiple(&group.total()) % i64::from(tile) != 0;
        [past(&self.streamed.rows, self.bm), past(&self.streamed.keys, self.bn)]
    }

    /// What the softmax takes, from sums of the first product; in units of the factor if there is no more.
    fn scores(&mut self, k: &mut Builder, sums: &Tile, start: &Expr) -> Result<Tile> {
        let streamed = self.streamed;
        let plain = streamed.scale.is_some();
        let [rows, keys] = self.partial();
        let mut whole: Option<Expr> = None;
        let mut and = |cond: Expr| whole = Some(whole.take().map_or(cond.clone(), |whole| whole.and(cond)));
        let past = start + i64::from(self.bn);
        if keys {
            and(past.le(&self.keys));
        }
        if rows && !plain {
            and((&self.first + i64::from(self.bm)).le(&self.rows));
        }
        if let Some(diagonal) = &streamed.diagonal {
            let offset = self.values.dim(k, &diagonal.offset);
            let least = self.grid.iter().find(|(label, _)| *label == diagonal.label);
            let least = least.map_or(&self.first, |(_, position)| position);
            and(past.le(least + offset + 1));
        }
        let tiles = match whole {
            Some(whole) => k.try_if_else(whole, |k, whole| match whole && plain {
                true => Ok(vec![sums.clone()]),
                false => self.masked(k, sums, start, whole).map(|tile| vec![tile]),
            })?,
            None if plain => return Ok(sums.clone()),
            None => return self.masked(k, sums, start, true),
        };
        Ok(tiles[0].clone())
    }

    /// [`Emit::scores`] of a tile; `whole`: all its rows exist and see all its keys.
    fn masked(&mut self, k: &mut Builder, sums: &Tile, start: &Expr, whole: bool) -> Result<Tile> {
        let streamed = self.streamed;
        let (first, grid) = (self.first.clone(), self.grid.clone());
        let (rows, keys) = (self.rows.clone(), self.keys.clone());
        let [rows_end, keys_end] = self.partial();
        let values = &mut self.values;
        let tiles = k.try_map(&["scores"], &[self.bm, self.bn], &[sums], |k, x, at| {
            let row = k.bind("row", &first + &at[0]);
            let key = k.bind("key", start + &at[1]);
            let existing = [(rows_end, row.lt(&rows)), (keys_end, key.lt(&keys))];
            let exists = |which: &[(bool, Expr)]| {
                let ends = which.iter().filter(|(end, _)| *end && !whole).map(|(_, inside)| inside.clone());
                ends.reduce(|a, b| a.and(b))
            };
            let inside = exists(&existing[1..]);
            if streamed.scale.is_some() {
                let seen = streamed.diagonal.as_ref().filter(|_| !whole).map(|diagonal| {
                    let position = grid.iter().find(|(label, _)| *label == diagonal.label).map_or(&row, |(_, at)| at);
                    key.le(position + values.dim(k, &diagonal.offset))
                });
                let seen = inside.into_iter().chain(seen).reduce(|a, b| a.and(b));
                return Ok(vec![seen.map_or(x[0].clone(), |seen| seen.select(&x[0], hidden()))]);
            }
            let exists = exists(&existing).map(|exists| k.bind("exists", exists));
            let score = values.at_points(exists, |values| {
                let mut coordinates = grid;
                coordinates.extend(streamed.rows.coordinates(values, k, &row));
                coordinates.extend(streamed.keys.coordinates(values, k, &key));
                let index = indices(&streamed.scores, &coordinates);
                let score = score(values, k, streamed, &x[0], &index, whole);
                values.unbind();
                score
            })?;
            Ok(vec![inside.map_or(score.clone(), |inside| inside.select(&score, hidden()))])
        })?;
        Ok(tiles[0].clone())
    }

    /// Writes the results of the CTA's tile.
    fn results(&mut self, k: &mut Builder, total: &Tile, sums: &Tile) -> Result<()> {
        let streamed = self.streamed;
        let outputs: Vec<ValueId> = (0..streamed.boxes.len()).map(|i| self.values.output(i)).collect();
        let product = streamed.parts.product;
        let paths: Vec<Vec<ValueId>> =
            outputs.iter().map(|v| views(&self.values, product, *v)).collect::<Result<_>>()?;
        let hints: Vec<String> = outputs.iter().map(|v| self.values.hint(*v)).collect();
        let names: Vec<&str> = hints.iter().map(String::as_str).collect();
        let inverse = k.map("inverse", &total.shape, &[total], |_, x, _| Expr::float(F32, 1.0) / &x[0]);
        let points = self.points(k);
        let keys = self.keys.clone();
        let values = &mut self.values;
        let tiles = k.try_map(&names, &sums.shape, &[sums, &inverse], |k, x, at| {
            let (index, exists) = points.at(values, k, at);
            values.at_points(exists, |values| {
                // A sum over no keys is 0.
                let weighted = keys.gt(0).select(&(&x[0] * &x[1]), Expr::float(F32, 0.0));
                let weighted = values.name(k, "contracted", round(&weighted, streamed.types[1]));
                values.bind(streamed.result, weighted);
                let results = outputs.iter().zip(&paths).map(|(v, path)| {
                    let index = values.viewed(k, path, &index)?;
                    values.value(k, *v, &index)
                });
                let results: Result<Vec<Expr>> = results.collect();
                values.unbind();
                results
            })
        })?;
        for (i, tile) in tiles.iter().enumerate() {
            let place = match self.output_box(k, i, &sums.shape) {
                Some(view) => Place::View(view),
                None => self.output_elements(k, i, &paths[i], &sums.shape)?,
            };
            k.store(place, tile);
        }
        Ok(())
    }

    fn points(&mut self, k: &mut Builder) -> Points<'e> {
        let columns = &self.streamed.columns.total();
        let padded = multiple(columns) != i64::from(self.heads[1]);
        let columns = self.values.dim(k, columns);
        let [partial, _] = self.partial();
        let (first, grid) = (self.first.clone(), self.grid.clone());
        let ends = [partial.then(|| self.rows.clone()), padded.then_some(columns)];
        Points { streamed: self.streamed, first, grid, ends }
    }

    /// A tile of two groups of an operand, each from where it begins.
    fn operand(
        &mut self,
        k: &mut Builder,
        name: &str,
        operand: &Operand,
        groups: [(&Group, &Expr); 2],
        shape: [u32; 2],
    ) -> Result<Tile> {
        let own = self.values.shape(self.values.graph.inputs[operand.input]);
        let buffer = self.values.input_as(k, operand.input, own);
        let firsts = groups.map(|(_, first)| first.clone());
        let groups = groups.map(|(group, _)| group);
        if let Some(axes) = self.streamed.axes(&operand.labels, groups) {
            let view = self.view(&buffer, &axes, firsts.each_ref(), &shape);
            return Ok(k.load(name, view));
        }
        let (grid, values) = (self.grid.clone(), &mut self.values);
        let ends = groups.map(|group| values.dim(k, &group.total()));
        let place = k.elements(&buffer, &shape, |k, at| {
            values.scoped(|values| {
                let mut coordinates = grid;
                let mut exists = Expr::bool(true);
                for axis in 0..2 {
                    let position = k.bind("position", &firsts[axis] + &at[axis]);
                    exists = exists.and(position.lt(&ends[axis]));
                    coordinates.extend(groups[axis].coordinates(values, k, &position));
                }
                (indices(&operand.labels, &coordinates), exists)
            })
        });
        Ok(k.load_or(name, place, &shape, Expr::int(buffer.dtype, 0)))
    }

    fn view(&self, buffer: &Buffer, axes: &[Axis], firsts: [&Expr; 2], shape: &[u32]) -> View {
        let place = |axis: &Axis| match axis {
            Axis::Tile(place) => (firsts[*place].clone(), Some(*place)),
            Axis::Grid(place) => (self.grid[*place].1.clone(), None),
            Axis::One => (Expr::index(0), None),
        };
        let (origin, walked): (Vec<Expr>, Vec<Option<usize>>) = axes.iter().map(place).unzip();
        let masked = vec![true; origin.len()];
        View { tensor: buffer.clone(), origin, axes: walked, shape: shape.to_vec(), masked }
    }

    /// Result `i` as a box.
    fn output_box(&mut self, k: &mut Builder, i: usize, shape: &[u32]) -> Option<View> {
        let streamed = self.streamed;
        let labels = streamed.boxes[i].as_ref()?;
        let axes = streamed.axes(labels, [&streamed.rows, &streamed.columns])?;
        let extents: Vec<Dim> = labels.iter().map(|label| streamed.extent(*label)).collect();
        let tensor = self.values.output_as(k, i, &extents);
        Some(self.view(&tensor, &axes, [&self.first, &Expr::index(0)], shape))
    }

    /// Where the elements of result `i` go that is no box.
    fn output_elements(&mut self, k: &mut Builder, i: usize, path: &[ValueId], shape: &[u32]) -> Result<Place> {
        let buffer = self.values.output_buffer(i).clone();
        let points = self.points(k);
        let values = &mut self.values;
        let mut failed = Ok(());
        let place = k.elements(&buffer, shape, |k, at| {
            values.scoped(|values| {
                let (index, exists) = points.at(values, k, at);
                let index = values.viewed(k, path, &index).unwrap_or_else(|e| {
                    failed = Err(e);
                    vec![]
                });
                (index, exists.unwrap_or(Expr::bool(true)))
            })
        });
        failed.map(|()| place)
    }
}

/// Finds elements of a CTA's tile in the second product's result.
struct Points<'e> {
    streamed: &'e Streamed,
    first: Expr,
    grid: Vec<(char, Expr)>,
    /// Where rows and columns end, unless the tile does there.
    ends: [Option<Expr>; 2],
}

impl Points<'_> {
    /// Where an element is, and whether it exists, unless it surely does.
    fn at(&self, values: &mut Values, k: &mut MapBuilder, at: &[Expr]) -> (Vec<Expr>, Option<Expr>) {
        let Streamed { rows, columns, out, .. } = self.streamed;
        let row = k.bind("row", &self.first + &at[0]);
        let ends = [&row, &at[1]].into_iter().zip(&self.ends);
        let exists = ends.filter_map(|(at, end)| Some(at.lt(end.as_ref()?))).reduce(|a, b| a.and(b));
        let mut coordinates = self.grid.clone();
        coordinates.extend(rows.coordinates(values, k, &row));
        coordinates.extend(columns.coordinates(values, k, &at[1]));
        (indices(out, &coordinates), exists.map(|exists| k.bind("exists", exists)))
    }
}

/// The score at an index from its sum; `whole`: it is not masked by the diagonal.
fn score(
    values: &mut Values,
    k: &mut dyn Writer,
    streamed: &Streamed,
    sum: &Expr,
    index: &[Expr],
    whole: bool,
) -> Result<Expr> {
    values.bind(streamed.sums, round(sum, streamed.types[0]));
    if let (true, Some(diagonal)) = (whole, &streamed.diagonal) {
        let seen = values.value(k, diagonal.seen, index)?;
        values.bind(diagonal.masked, seen);
    }
    values.number(k, streamed.parts.x, index)
}

/// The score of what does not exist.
fn hidden() -> Expr {
    Expr::float(F32, f64::NEG_INFINITY)
}

fn power(exponent: Expr) -> Expr {
    exponent.unary(UnaryOp::Exp2Approx)
}

/// The index whose axes have these labels.
fn indices(labels: &[char], coordinates: &[(char, Expr)]) -> Vec<Expr> {
    let find = |label: &char| {
        let found = coordinates.iter().find(|(l, _)| l == label);
        found.map_or(Expr::index(0), |(_, at)| at.clone())
    };
    labels.iter().map(find).collect()
}
