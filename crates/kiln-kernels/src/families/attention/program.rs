//! The tile program of an attention.

use super::Problem;
use super::config::Config;
use super::positions::literal;
use super::streamed::{Axis, Group, Operand, Streamed};
use crate::Result;
use crate::families::gemm::views;
use crate::families::{Subject, TileLaunch};
use crate::value::dims::multiple;
use crate::value::dtype::round;
use crate::value::{Values, Writer};
use kiln_fuse::Weighing;
use kiln_graph::{Dim, ValueId};
use kiln_tile::expr::{CompareOp, Expr, UnaryOp};
use kiln_tile::ir::{Builder, MapBuilder, Place, Schedule, Tile, View};
use kiln_tile::{Access, Buffer, DType, ReduceOp};
use std::f64::consts::LOG2_E;

pub const F32: DType = DType::F32;
/// Columns of an accumulator's instructions: sums of a row's every so many weights meet after the loop, so that no thread asks another for them
/// before.
const PARTIAL_SUMS: u32 = 8;

/// The kernel that makes an attention as a Config says; of one in parts the kernel that leaves what they have.
pub fn launch(problem: &Problem, config: &Config) -> Result<TileLaunch> {
    launch_of(problem, config, config.schedule(), |emit, k| {
        let left = (config.parts > 1).then(|| emit.left(k, problem, config, Access::Write));
        let part = emit.tiles(k, config.parts);
        emit.edges(k);
        let tiles = emit.stream(k, config, part.as_ref())?;
        if let (Some(left), Some(part)) = (left, part) {
            emit.leave(k, &left, &part, &tiles);
            return Ok(());
        }
        let [most, total, sums] = tiles;
        emit.results(k, &most, &total, &sums)?;
        emit.of_rows(k, &most, &total)
    })
}

/// A kernel with a Config's tiles.
pub fn launch_of(
    problem: &Problem,
    config: &Config,
    schedule: Schedule,
    write: impl FnOnce(&mut Emit, &mut Builder) -> Result<()>,
) -> Result<TileLaunch> {
    let Subject { region, symbols, ranges, .. } = &*problem.subject;
    let mut values = Values::new(region, symbols)?;
    values.know(ranges);
    let mut k = Builder::new(&region.name, &region.summary);
    k.schedule(schedule);
    values.declare(&mut k, <[_]>::to_vec);
    let streamed = &problem.streamed;
    let [rows, keys] = [&streamed.rows, &streamed.keys].map(|group| values.dim(&mut k, &group.total()));
    let mut emit = Emit {
        streamed,
        // Threads that multiply have runs of columns, whose sums are one.
        partial_sums: if problem.tensor() { PARTIAL_SUMS.min(config.bn) } else { 1 },
        bm: config.bm,
        bn: config.bn,
        heads: problem.heads.map(|extent| config.padded(extent)),
        values,
        grid: vec![],
        first: Expr::index(0),
        edges: vec![],
        rows,
        keys,
    };
    write(&mut emit, &mut k)?;
    emit.values.launch(k)
}

pub struct Emit<'e> {
    streamed: &'e Streamed,
    /// Sums of weights that a row has in the loop.
    partial_sums: u32,
    bm: u32,
    bn: u32,
    /// Padded extents of the depth, and of the columns.
    pub heads: [u32; 2],
    pub values: Values<'e>,
    /// The CTA's coordinates along the grid's labels, and its first row.
    pub grid: Vec<(char, Expr)>,
    pub first: Expr,
    edges: Vec<Edge>,
    /// How many rows and keys there are.
    rows: Expr,
    keys: Expr,
}

/// Where the keys that rows of a CTA's tile see end, or begin.
struct Edge {
    last: bool,
    /// The key of the row that stands first, and of that which stands last.
    least: Expr,
    most: Expr,
    /// What is added to a position, and what positions are modulo.
    offset: Expr,
    period: Option<Expr>,
    /// The position of all rows, where they have one.
    position: Option<Expr>,
}

impl Edge {
    /// Whether a row sees a key.
    fn sees(&self, row: &Expr, key: &Expr) -> Expr {
        let position = self.position.clone().unwrap_or_else(|| match &self.period {
            Some(period) => row % period,
            None => row.clone(),
        });
        let edge = position + &self.offset;
        if self.last { key.le(edge) } else { key.ge(edge) }
    }
}

impl<'e> Emit<'e> {
    /// Spreads CTAs over heads and tiles of queries, and over parts of the keys if there are several; which part is the CTA's.
    pub fn tiles(&mut self, k: &mut Builder, parts: u32) -> Option<Expr> {
        let names: Vec<String> = self.streamed.grid.iter().map(|(label, _)| label.to_string()).collect();
        let extents = self.streamed.grid.iter().map(|(_, dim)| self.values.dim(k, dim)).collect::<Vec<_>>();
        let mut axes: Vec<(&str, Expr)> = names.iter().map(String::as_str).zip(extents).collect();
        let count = self.rows.ceil_div(i64::from(self.bm));
        let tile = ("tile", count.clone());
        // Rows that see most first: the last CTAs to run are short.
        let rows = self.streamed.rows.single();
        let labels = self.streamed.positions.bounds.iter().filter(|bound| bound.last);
        let heavy = labels.map(|bound| Some(self.streamed.scores[bound.axis])).any(|label| label == rows);
        axes.insert(if heavy { 0 } else { axes.len() }, tile);
        let parts = (parts > 1).then(|| ("part", Expr::index(parts.into())));
        axes.splice(0..0, parts.clone());
        let mut at = k.grid(&axes);
        let part = parts.map(|_| at.remove(0));
        let tile = at.remove(if heavy { 0 } else { at.len() - 1 });
        let tile = if heavy { k.bind("tile", (count - 1 - tile).max(0)) } else { tile };
        self.first = tile * i64::from(self.bm);
        self.grid = self.streamed.grid.iter().map(|(label, _)| *label).zip(at).collect();
        part
    }

    /// By what differences of scores are powers of two.
    pub fn factor(&self) -> f64 {
        self.streamed.scale.unwrap_or(1.0) * LOG2_E
    }

    /// The greatest score and the total of the weights of each row, and weighted sums, over the CTA's part of the keys.
    fn stream(&mut self, k: &mut Builder, config: &Config, part: Option<&Expr>) -> Result<[Tile; 3]> {
        let streamed = self.streamed;
        let (bm, bn, [depth, columns]) = (self.bm, self.bn, self.heads);
        let zero = Expr::index(0);
        let (rows, keys, deep, wide) = (&streamed.rows, &streamed.keys, &streamed.depth, &streamed.columns);
        let first = self.first.clone();
        let query = self.operand(k, "query", &streamed.query, [(rows, &first), (deep, &zero)], [bm, depth])?;
        let (mut start, mut end) = self.seen(k);
        if let Some(part) = part {
            let steps = (&end - &start).ceil_div(i64::from(bn)).ceil_div(i64::from(config.parts));
            let length = k.bind("length", steps * i64::from(bn));
            start = k.bind("start", start + part * &length);
            end = k.bind("end", end.min(&start + length));
        }
        let partial_sums = self.partial_sums;
        let most = k.full("most", F32, &[bm, 1], hidden());
        let total = k.full("total", F32, &[bm, partial_sums], Expr::float(F32, 0.0));
        let sums = k.full("acc", F32, &[bm, columns], Expr::float(F32, 0.0));
        let range = (start, end, i64::from(bn));
        let pipelined = (config.stages > 1).then_some(config.stages);
        // Powers of two of a factor times the difference to the greatest.
        let factor = self.factor();
        let last = k.try_for_range("key0", range, pipelined, &[most, total, sums], |k, start, carried| {
            let [most, total, sums] = carried else { return self.values.malformed("a loop that carries three tiles") };
            let right = self.operand(k, "key", &streamed.key, [(deep, &zero), (keys, start)], [depth, bn])?;
            let scores = k.full("scores", F32, &[bm, bn], Expr::float(F32, 0.0));
            let scores = k.dot(&query, &right, &scores);
            let scores = self.scores(k, &scores, start)?;
            let peak = k.reduce("peak", ReduceOp::Max, &scores, 1);
            let [most, base, fade] = k.map_many(["most", "base", "fade"], &[bm, 1], &[most, &peak], |k, x, _| {
                let most = k.bind("greatest", x[0].max(&x[1]));
                let base = k.bind("base", base_of(&most));
                let fade = faded(&x[0], &base, factor);
                [most, if streamed.scale.is_some() { base * -factor } else { base }, fade]
            });
            let weights = k.map("weights", &[bm, bn], &[&scores, &base], |_, x, _| match streamed.scale {
                Some(_) => power(x[0].fma(factor, &x[1])),
                // Differences first: at the greatest score the exponent is exactly 0, however large that is.
                None => faded(&x[0], &x[1], factor),
            });
            let sum = k.reduce_to("sum", ReduceOp::Sum, &weights, 1, partial_sums);
            let total = k.map("total", &[bm, partial_sums], &[total, &fade, &sum], |_, x, _| x[0].fma(&x[1], &x[2]));
            let sums = k.map("acc", &[bm, columns], &[sums, &fade], |_, x, _| &x[0] * &x[1]);
            let weights = k.cast(&weights, streamed.dtype);
            let value = self.operand(k, "value", &streamed.value, [(keys, start), (wide, &zero)], [bn, columns])?;
            let sums = k.dot(&weights, &value, &sums);
            Ok(vec![most, total, sums])
        })?;
        Ok([last[0].clone(), k.reduce("total", ReduceOp::Sum, &last[1], 1), last[2].clone()])
    }

    /// Finds where the keys that the tile's rows see end and begin.
    fn edges(&mut self, k: &mut Builder) {
        let streamed = self.streamed;
        for bound in &streamed.positions.bounds {
            let offset = self.values.dim(k, &bound.offset);
            let period = bound.period.as_ref().map(|period| self.values.dim(k, period));
            let within = |at: &Expr| period.as_ref().map_or(at.clone(), |period| at % period);
            let label = streamed.scores[bound.axis];
            let position = self.grid.iter().find(|(l, _)| *l == label).map(|(_, at)| within(at));
            let (least, past) = match (&position, &period) {
                (Some(position), _) => (position.clone(), position + 1),
                (None, None) => (self.first.clone(), (&self.first + i64::from(self.bm)).min(&self.rows)),
                (None, Some(period)) => {
                    let first = k.bind("position", within(&self.first));
                    let past = &first + i64::from(self.bm);
                    // Where rows begin again.
                    let next = &self.first - &first + period;
                    let again = past.gt(period).and(next.lt(&self.rows));
                    (again.select(&Expr::index(0), &first), past.min(period))
                }
            };
            let (least, most) = (k.bind("least", least + &offset), k.bind("most", past - 1 + &offset));
            self.edges.push(Edge { last: bound.last, least, most, offset, period, position });
        }
    }

    /// The first key that a row of the tile may see, at the start of a step, and past the last one.
    fn seen(&self, k: &mut Builder) -> (Expr, Expr) {
        let step = i64::from(self.bn);
        let of = |last: bool| self.edges.iter().filter(move |edge| edge.last == last);
        let start = of(false).map(|edge| edge.least.clone()).reduce(|a, b| a.max(b));
        let end = of(true).map(|edge| &edge.most + 1).reduce(|a, b| a.min(b));
        let start = start.map_or(Expr::index(0), |start| k.bind("start", start.max(0) / step * step));
        (start, end.map_or(self.keys.clone(), |end| k.bind("end", end.min(&self.keys).max(0))))
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
        for edge in &self.edges {
            and(if edge.last { past.le(&edge.least + 1) } else { start.ge(&edge.most) });
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
        let (edges, values) = (&self.edges, &mut self.values);
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
                let seen = edges.iter().filter(|_| !whole).map(|edge| edge.sees(&row, &key));
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
    pub fn results(&mut self, k: &mut Builder, most: &Tile, total: &Tile, sums: &Tile) -> Result<()> {
        let streamed = self.streamed;
        let weighing = &streamed.parts.weighing;
        let factor =
            self.of_row(k, "factor", most, total, |values, k, index, row| row.factor(values, k, weighing, index))?;
        let outputs: Vec<ValueId> = streamed.full.iter().map(|i| self.values.output(*i)).collect();
        let product = streamed.parts.product;
        let paths: Vec<Vec<ValueId>> =
            outputs.iter().map(|v| views(&self.values, &[product], *v)).collect::<Result<_>>()?;
        let hints: Vec<String> = outputs.iter().map(|v| self.values.hint(*v)).collect();
        let names: Vec<&str> = hints.iter().map(String::as_str).collect();
        let points = self.points(k);
        let keys = self.keys.clone();
        let values = &mut self.values;
        let tiles = k.try_map(&names, &sums.shape, &[sums, &factor], |k, x, at| {
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
        for ((i, path), tile) in streamed.full.iter().zip(&paths).zip(&tiles) {
            let place = match self.output_box(k, *i, &sums.shape) {
                Some(view) => Place::View(view),
                None => self.output_elements(k, *i, path, &sums.shape)?,
            };
            k.store(place, tile);
        }
        Ok(())
    }

    /// A value of each row from the greatest score and the sum of the exponentials of the differences to it; `make` gets the index of a score of the row.
    fn of_row(
        &mut self,
        k: &mut Builder,
        name: &str,
        most: &Tile,
        total: &Tile,
        make: impl Fn(&mut Values, &mut MapBuilder, &[Expr], &Row) -> Result<Expr>,
    ) -> Result<Tile> {
        let (streamed, place, keys) = (self.streamed, self.row_place(), self.keys.clone());
        let values = &mut self.values;
        let tiles = k.try_map(&[name], &most.shape, &[most, total], |k, x, at| {
            let (index, exists) = place(values, k, at);
            values.at_points(exists, |values| {
                // In units of scores again.
                let greatest = k.bind("greatest", streamed.scale.map_or(x[0].clone(), |scale| &x[0] * scale));
                let empty = keys.gt(0).and(greatest.compare(CompareOp::Eq, hidden()));
                let row = Row { greatest, empty };
                values.bind(streamed.parts.peak, row.greatest.clone());
                for (total, weighing) in &streamed.parts.totals {
                    let sum = &x[1] * row.factor(values, k, weighing, &index)?;
                    values.bind(*total, sum);
                }
                let made = make(values, k, &index, &row);
                values.unbind();
                Ok(vec![made?])
            })
        })?;
        Ok(tiles[0].clone())
    }

    /// Finds a score of a row of the tile, the one of the first key, and whether the row exists, unless it surely does.
    fn row_place(&self) -> impl Fn(&mut Values, &mut MapBuilder, &[Expr]) -> (Vec<Expr>, Option<Expr>) + use<'e> {
        let [partial, _] = self.partial();
        let (streamed, first, rows, grid) = (self.streamed, self.first.clone(), self.rows.clone(), self.grid.clone());
        move |values, k, at| {
            let row = k.bind("row", &first + &at[0]);
            let exists = partial.then(|| k.bind("exists", row.lt(&rows)));
            let mut coordinates = grid.clone();
            coordinates.extend(streamed.rows.coordinates(values, k, &row));
            (indices(&streamed.scores, &coordinates), exists)
        }
    }

    /// Writes the results that follow from the greatest score and the total of each row.
    pub fn of_rows(&mut self, k: &mut Builder, most: &Tile, total: &Tile) -> Result<()> {
        for i in &self.streamed.of_rows {
            let v = self.values.output(*i);
            let (hint, rank) = (self.values.hint(v), self.values.shape(v).len());
            let tile = self.of_row(k, &hint, most, total, |values, k, index, _| values.value(k, v, &index[..rank]))?;
            let buffer = self.values.output_buffer(*i).clone();
            let (place, values) = (self.row_place(), &mut self.values);
            let place = k.elements(&buffer, &most.shape, |k, at| {
                values.scoped(|values| {
                    let (mut index, exists) = place(values, k, at);
                    index.truncate(rank);
                    (index, exists.unwrap_or(Expr::bool(true)))
                })
            });
            k.store(place, &tile);
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
        let firsts = groups.map(|(_, first)| first.clone());
        let groups = groups.map(|(group, _)| group);
        if let Some((axes, memory)) = self.streamed.lies(operand, groups) {
            let (buffer, starts) = self.values.input_box(k, operand.input, &memory);
            let mut view = self.view(&buffer, &axes, firsts.each_ref(), &shape);
            view.origin.iter_mut().zip(&starts).for_each(|(at, start)| *at = &*at + start);
            return Ok(k.load(name, view));
        }
        let own = self.values.shape(self.values.graph.inputs[operand.input]);
        let buffer = self.values.input_as(k, operand.input, own);
        let (grid, values) = (self.grid.clone(), &mut self.values);
        let ends = groups.map(|group| values.dim(k, &group.total()));
        let mut failed = Ok(());
        let place = k.elements(&buffer, &shape, |k, at| {
            values.scoped(|values| {
                let mut coordinates = grid;
                let mut exists = Expr::bool(true);
                for axis in 0..2 {
                    let position = k.bind("position", &firsts[axis] + &at[axis]);
                    exists = exists.and(position.lt(&ends[axis]));
                    coordinates.extend(groups[axis].coordinates(values, k, &position));
                }
                let index = indices(&operand.labels, &coordinates);
                let index = values.leaf_index(k, operand.value, index).unwrap_or_else(|e| {
                    failed = Err(e);
                    vec![]
                });
                (index, exists)
            })
        });
        failed?;
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
        View { tensor: buffer.clone(), origin, axes: walked, shape: shape.to_vec(), masked, walks: vec![] }
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

/// The score at an index from its sum; `whole`: no mask of positions hides it.
fn score(
    values: &mut Values,
    k: &mut dyn Writer,
    streamed: &Streamed,
    sum: &Expr,
    index: &[Expr],
    whole: bool,
) -> Result<Expr> {
    values.bind(streamed.sums, round(sum, streamed.types[0]));
    for (selected, seen) in streamed.positions.decided.iter().filter(|_| whole) {
        let rank = values.shape(*selected).len();
        let seen = match literal(values, *seen) {
            Some(_) => values.value(k, *seen, &vec![Expr::index(0); rank])?,
            None if values.shape(*selected) == values.shape(streamed.parts.x) => values.value(k, *seen, index)?,
            None => continue,
        };
        values.bind(*selected, seen);
    }
    values.number(k, streamed.parts.x, index)
}

/// What is known of a row when all its keys went by.
struct Row {
    greatest: Expr,
    /// Whether there are scores, and all are minus infinity: what is less their greatest is NaN.
    empty: Expr,
}

impl Row {
    /// What exponentials of the row are, over those of the differences to its greatest.
    fn factor(&self, values: &mut Values, k: &mut dyn Writer, weighing: &Weighing, index: &[Expr]) -> Result<Expr> {
        let mut exponent = (!weighing.peak).then(|| self.greatest.clone());
        for shift in &weighing.shifts {
            let shift = values.number(k, *shift, index)?;
            exponent = Some(exponent.map_or(-shift.clone(), |so_far| so_far - shift));
        }
        let mut factor = match exponent {
            Some(exponent) => power(exponent * LOG2_E),
            None => Expr::float(F32, 1.0),
        };
        if weighing.peak {
            factor = self.empty.select(&Expr::float(F32, f64::NAN), factor);
        }
        for (beside, divides) in &weighing.factors {
            let beside = values.number(k, *beside, index)?;
            factor = if *divides { factor / beside } else { factor * beside };
        }
        Ok(factor)
    }
}

/// The score of what does not exist.
pub fn hidden() -> Expr {
    Expr::float(F32, f64::NEG_INFINITY)
}

/// What exponents are less, where this is the greatest score. Of a row of nothing but minus infinity so far it is 0; if that is all, a sum of 0 gives NaN, as it must.
pub fn base_of(greatest: &Expr) -> Expr {
    greatest.compare(CompareOp::Ne, hidden()).select(greatest, Expr::float(F32, 0.0))
}

/// What a weight by one score is over that by another.
pub fn faded(score: &Expr, base: &Expr, factor: f64) -> Expr {
    power((score - base) * factor)
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
