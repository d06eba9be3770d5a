//! The tile program of rows.

use super::{Config, Problem};
use crate::Result;
use crate::families::{Subject, TileLaunch};
use crate::family::fold::{reduction, within};
use crate::value::dims::multiple;
use crate::value::dtype::register;
use crate::value::{Values, Writer};
use kiln_fuse::Role;
use kiln_graph::{ArgOp, NodeId, Op, ValueId};
use kiln_tile::expr::{CompareOp, Expr, UnaryOp};
use kiln_tile::ir::{Builder, MapBuilder, Place, Schedule, Tile};
use kiln_tile::{DType, ReduceOp};

/// The kernel that takes a problem's rows as a Config says.
pub fn launch(problem: &Problem, config: &Config) -> Result<TileLaunch> {
    let Subject { region, symbols, ranges, .. } = &*problem.subject;
    let mut values = Values::new(region, symbols)?;
    values.know(ranges);
    let mut k = Builder::new(&region.name, &region.summary);
    let row_threads = if config.row_threads < config.threads() { config.row_threads } else { 0 };
    let (warps, cluster) = (config.warps, config.cluster);
    k.schedule(Schedule { warps, row_threads, cluster, across: cluster > 1, ..Schedule::default() });
    values.declare(&mut k, <[_]>::to_vec);
    let [count, length] = [&problem.count, &problem.length].map(|dim| values.dim(&mut k, dim));
    let rows = i64::from(config.rows);
    let mut axes = vec![("tile", count.ceil_div(rows))];
    axes.extend((config.cluster > 1).then(|| ("part", Expr::index(config.cluster.into()))));
    let at = k.grid(&axes);
    let part = at.get(1).cloned();
    let start = part.as_ref().map_or(Expr::index(0), |part| part * i64::from(config.columns));
    let mut emit = Emit {
        problem,
        config,
        values,
        first: &at[0] * rows,
        start: k.bind("start", start),
        part,
        partial: multiple(&problem.count) % rows != 0,
        padded: multiple(&problem.length) % i64::from(config.columns) != 0
            || config.whole && problem.length.as_const().is_none(),
        count,
        length,
        of_rows: vec![],
        elements: vec![],
    };
    for level in 0..problem.plan.levels.len() {
        emit.level(&mut k, level)?;
        emit.once_a_row(&mut k)?;
    }
    emit.results(&mut k)?;
    emit.values.launch(k)
}

struct Emit<'e> {
    problem: &'e Problem,
    config: &'e Config,
    values: Values<'e>,
    /// The CTA's first row, and its first column; of a cluster's, its place there.
    first: Expr,
    start: Expr,
    part: Option<Expr>,
    /// Whether the last CTA has too few rows, and the last chunk too few columns.
    partial: bool,
    padded: bool,
    count: Expr,
    length: Expr,
    /// Values of a row that are there, and values of the elements.
    of_rows: Vec<(ValueId, Tile)>,
    elements: Vec<(ValueId, Tile)>,
}

/// A point of a tile.
struct Point {
    /// Index in the iteration space, and of the row among the rows.
    index: Vec<Expr>,
    row: Vec<Expr>,
    /// Where in the row.
    column: Expr,
    /// Whether it exists, if that is not known.
    exists: Option<Expr>,
}

impl Point {
    /// Index into the reduced or the kept shape, by rank.
    fn of_rank(&self, rank: usize) -> &[Expr] {
        if rank == self.row.len() { &self.row } else { &self.index }
    }
}

/// A reduction of a level: how elements combine, and in which type.
struct Total {
    operand: ValueId,
    result: ValueId,
    name: &'static str,
    op: ReduceOp,
    dtype: DType,
    /// Of an arg-reduction whether the last place counts.
    last: Option<bool>,
}

impl Total {
    fn identity(&self) -> Expr {
        self.op.identity(self.dtype)
    }
}

impl<'e> Emit<'e> {
    fn axes(&self) -> (usize, usize) {
        if self.problem.shape.contiguous { (0, 1) } else { (1, 0) }
    }

    /// Extents of a tile of rows with so many columns.
    fn shape(&self, columns: u32) -> [u32; 2] {
        let rows = self.config.rows;
        if self.problem.shape.contiguous { [rows, columns] } else { [columns, rows] }
    }

    /// The point at coordinates `at` of a tile that begins at column `start`; without one, the row's. Rows past the last are the last one, or, where
    /// lanes lie along rows, do not exist.
    fn point(values: &mut Values, k: &mut dyn Writer, of: &Ends, at: &[Expr], start: Option<&Expr>) -> Point {
        let (rows, columns) = of.axes;
        let row = k.bind("row", &of.first + &at[rows]);
        let mut exists = None;
        let row = match (of.partial, of.clamp) {
            (true, true) => k.bind("row", row.min(&of.count - 1)),
            (true, false) => {
                exists = Some(row.lt(&of.count));
                row
            }
            _ => row,
        };
        let column = start.map_or(Expr::index(0), |start| start + &at[columns]);
        if let (true, Some(_)) = (of.padded, start) {
            let inside = column.lt(&of.length);
            exists = Some(exists.map_or(inside.clone(), |exists| exists.and(inside)));
        }
        let rows = &of.problem.plan.rows;
        let kept = rows.reduced();
        let mut row_index = vec![Expr::index(0); kept.len()];
        values.split(k, &kept, row, &mut row_index);
        let mut column_index = vec![Expr::index(0); rows.axes.len()];
        if start.is_some() {
            values.split(k, &of.problem.plan.columns, column.clone(), &mut column_index);
        }
        let (mut of_row, mut of_column) = (row_index.iter(), column_index.iter());
        let place = |axis| if rows.axes.contains(&axis) { of_column.next() } else { of_row.next() };
        let index = (0..rows.shape.len()).map(place).map(|i| i.cloned().unwrap_or(Expr::index(0))).collect();
        Point { index, row: row_index, column, exists }
    }

    fn ends(&self, clamp: bool) -> Ends<'e> {
        Ends {
            problem: self.problem,
            axes: self.axes(),
            first: self.first.clone(),
            count: self.count.clone(),
            length: self.length.clone(),
            partial: self.partial,
            padded: self.padded,
            clamp,
        }
    }

    /// Tiles of what `write` gives for every point of a tile that begins at column `start`, or for every row; it gets the elements of `args` too.
    fn map(
        &mut self,
        k: &mut Builder,
        names: &[&str],
        start: Option<&Expr>,
        args: &[Tile],
        write: impl FnOnce(&mut Values, &mut MapBuilder, &Point, &[Expr]) -> Result<Vec<Expr>>,
    ) -> Result<Vec<Tile>> {
        let shape = self.shape(start.map_or(1, |_| self.config.columns));
        let elements = if start.is_some() { &self.elements[..] } else { &[] };
        let known = self.of_rows.iter().chain(elements);
        let operands: Vec<&Tile> = args.iter().chain(known.map(|(_, tile)| tile)).collect();
        let ends = self.ends(self.problem.shape.contiguous);
        let values = &mut self.values;
        let of_rows = &self.of_rows;
        k.try_map(names, &shape, &operands, |k, x, at| {
            let (args, x) = x.split_at(args.len());
            let (row_values, element_values) = x.split_at(of_rows.len());
            values.at_points(None, |values| {
                let point = Self::point(values, k, &ends, at, start);
                values.at_points(point.exists.clone(), |values| {
                    of_rows.iter().zip(row_values).for_each(|((v, _), x)| values.bind(*v, x.clone()));
                    elements.iter().zip(element_values).for_each(|((v, _), x)| values.given(*v, &point.index, x));
                    let results = write(values, k, &point, args);
                    values.unbind();
                    results
                })
            })
        })
    }

    /// The reductions of one level, and what they leave for later ones.
    fn level(&mut self, k: &mut Builder, level: usize) -> Result<()> {
        let totals = self.totals(level)?;
        let found = self.combined(k, &totals, level)?;
        let places: Vec<usize> = (0..totals.len()).filter(|&i| totals[i].last.is_some()).collect();
        let positions = if places.is_empty() { vec![] } else { self.positions(k, &totals, &places, &found)? };
        let mut finished = found.iter().map(|(_, tile)| tile.clone()).collect::<Vec<_>>();
        places.iter().zip(positions).for_each(|(&i, tile)| finished[i] = tile);
        let names: Vec<&str> = totals.iter().map(|total| total.name).collect();
        let rounded = self.map(k, &names, None, &finished, |values, k, _, x| {
            let round = |(total, x): (&Total, &Expr)| {
                let dtype = values.graph.ty(total.result).dtype;
                match total.last {
                    Some(_) => Ok(x.cast(register(dtype))),
                    None => values.rounded(k, &within(x, total.op, dtype), dtype),
                }
            };
            totals.iter().zip(x).map(round).collect()
        })?;
        self.of_rows.extend(totals.iter().map(|total| total.result).zip(rounded));
        Ok(())
    }

    fn totals(&self, level: usize) -> Result<Vec<Total>> {
        let graph = self.values.graph;
        let total = |node: &NodeId| {
            let (name, op, last) = match &graph.node(*node).op {
                Op::ArgReduce { op: ArgOp::Max, last, .. } => ("greatest", ReduceOp::Max, Some(*last)),
                Op::ArgReduce { last, .. } => ("least", ReduceOp::Min, Some(*last)),
                Op::Reduce { op, .. } => {
                    let op = reduction(*op);
                    (named(op), op, None)
                }
                _ => return self.values.malformed("its anchor is not a reduction"),
            };
            let (operand, result) = (graph.node(*node).inputs[0], graph.node(*node).outputs[0]);
            Ok(Total { operand, result, name, op, dtype: graph.ty(operand).dtype.compute(), last })
        };
        self.problem.plan.levels[level].iter().map(total).collect()
    }

    /// The elements of each reduction, where they are still there, and what they combine to.
    fn combined(&mut self, k: &mut Builder, totals: &[Total], level: usize) -> Result<Vec<(Option<Tile>, Tile)>> {
        let (_, columns) = self.axes();
        if self.config.whole {
            let kept = &self.problem.plan.kept[level];
            let hints: Vec<String> = kept.iter().map(|v| self.values.hint(*v)).collect();
            let names: Vec<&str> = totals.iter().map(|t| t.name).chain(hints.iter().map(String::as_str)).collect();
            let start = self.start.clone();
            let tiles = self.map(k, &names, Some(&start), &[], |values, k, point, _| {
                let mut results = operands(values, k, totals, point)?;
                for v in kept {
                    results.push(values.value(k, *v, &point.index)?);
                }
                Ok(results)
            })?;
            self.elements.extend(kept.iter().copied().zip(tiles[totals.len()..].iter().cloned()));
            let reduce = |(total, tile): (&Total, &Tile)| (total.op, k.reduce(total.name, total.op, tile, columns));
            let found = totals.iter().zip(&tiles).map(reduce).collect();
            return Ok(tiles.iter().cloned().map(Some).zip(self.together(k, found)).collect());
        }
        let of: Vec<(&'static str, ReduceOp, DType)> = totals.iter().map(|t| (t.name, t.op, t.dtype)).collect();
        let found = self.walk(k, &of, &[], |values, k, point, _| operands(values, k, totals, point))?;
        Ok(found.into_iter().map(|tile| (None, tile)).collect())
    }

    /// Walks rows in chunks, and combines what `write` gives for every point.
    fn walk(
        &mut self,
        k: &mut Builder,
        totals: &[(&'static str, ReduceOp, DType)],
        args: &[Tile],
        write: impl FnOnce(&mut Values, &mut MapBuilder, &Point, &[Expr]) -> Result<Vec<Expr>>,
    ) -> Result<Vec<Tile>> {
        let shape = self.shape(self.config.columns);
        let (_, columns) = self.axes();
        let names: Vec<&str> = totals.iter().map(|(name, ..)| *name).collect();
        let first: Vec<Tile> =
            totals.iter().map(|(name, op, dtype)| k.full(name, *dtype, &shape, op.identity(*dtype))).collect();
        let sums = k.try_for_range("chunk", self.chunks(), None, &first, |k, start, inside| {
            let args = [inside, args].concat();
            self.map(k, &names, Some(start), &args, |values, k, point, x| {
                let (sums, args) = x.split_at(totals.len());
                let found = write(values, k, point, args)?;
                let combine =
                    |((sum, x), (_, op, _)): ((&Expr, Expr), &(&str, ReduceOp, DType))| sum.binary(op.binary(), x);
                Ok(sums.iter().zip(found).zip(totals).map(combine).collect())
            })
        })?;
        let found = sums.iter().zip(totals).map(|(sum, (name, op, _))| (*op, k.reduce(name, *op, sum, columns)));
        let found = found.collect();
        Ok(self.together(k, found))
    }

    /// Where the CTA's chunks begin.
    fn chunks(&self) -> (Expr, Expr, i64) {
        (self.start.clone(), self.length.clone(), self.config.span().into())
    }

    /// What the CTAs of a cluster have found, combined.
    fn together(&self, k: &mut Builder, found: Vec<(ReduceOp, Tile)>) -> Vec<Tile> {
        if self.part.is_some() { k.cluster_reduce(&found) } else { found.into_iter().map(|(_, tile)| tile).collect() }
    }

    /// Where the extremes are that arg-reductions found: the least or greatest place that holds one.
    fn positions(
        &mut self,
        k: &mut Builder,
        totals: &[Total],
        places: &[usize],
        found: &[(Option<Tile>, Tile)],
    ) -> Result<Vec<Tile>> {
        let (low, high) = self.problem.length.bounds(&self.problem.subject.symbols);
        let short = low > 0 && high <= i32::MAX.into();
        let dtype = if short { DType::I32 } else { DType::I64 };
        let place = |i: &usize| if totals[*i].last == Some(true) { ReduceOp::Max } else { ReduceOp::Min };
        let of: Vec<(&'static str, ReduceOp, DType)> = places.iter().map(|i| ("position", place(i), dtype)).collect();
        let hit = |point: &Point, op: ReduceOp, value: &Expr, extreme: &Expr| {
            let mut hit = value.compare(CompareOp::Eq, extreme);
            if extreme.ty().is_float() {
                hit = hit.or(value.unary(UnaryOp::IsNan).and(extreme.unary(UnaryOp::IsNan)));
            }
            let hit = point.exists.as_ref().map_or(hit.clone(), |exists| exists.and(hit));
            hit.select(&point.column.cast(dtype), op.identity(dtype))
        };
        let extremes: Vec<Tile> = places.iter().map(|&i| found[i].1.clone()).collect();
        let elements: Option<Vec<Tile>> = places.iter().map(|&i| found[i].0.clone()).collect();
        let Some(elements) = elements else {
            return self.walk(k, &of, &extremes, |values, k, point, extremes| {
                let write = |((&i, extreme), (_, op, _)): ((&usize, &Expr), &(&str, ReduceOp, DType))| {
                    let value = values.number(k, totals[i].operand, &point.index)?;
                    Ok(hit(point, *op, &value, extreme))
                };
                places.iter().zip(extremes).zip(&of).map(write).collect()
            });
        };
        let (_, columns) = self.axes();
        let names = vec!["position"; places.len()];
        let count = places.len();
        let args = [elements, extremes].concat();
        let start = self.start.clone();
        let tiles = self.map(k, &names, Some(&start), &args, |_, _, point, x| {
            Ok((0..count).map(|i| hit(point, of[i].1, &x[i], &x[count + i])).collect())
        })?;
        let found = tiles.iter().zip(&of).map(|(tile, (name, op, _))| (*op, k.reduce(name, *op, tile, columns)));
        let found = found.collect();
        Ok(self.together(k, found))
    }

    /// Computes what follows from the reductions so far and is one value for the whole row, such as a mean.
    fn once_a_row(&mut self, k: &mut Builder) -> Result<()> {
        let graph = self.values.graph;
        let roles = self.values.region.roles();
        let mut known: Vec<ValueId> = self.of_rows.iter().map(|(v, _)| *v).collect();
        let mut ready = vec![];
        for &v in &self.problem.plan.of_rows {
            let depends = |x: &&ValueId| matches!(roles[graph.value(**x).node.index()], Role::Anchor | Role::Epilogue);
            if !known.contains(&v) && graph.producer(v).inputs.iter().filter(depends).all(|x| known.contains(x)) {
                known.push(v);
                ready.push(v);
            }
        }
        if ready.is_empty() {
            return Ok(());
        }
        let hints: Vec<String> = ready.iter().map(|v| self.values.hint(*v)).collect();
        let names: Vec<&str> = hints.iter().map(String::as_str).collect();
        let tiles = self.map(k, &names, None, &[], |values, k, point, _| {
            ready.iter().map(|v| values.value(k, *v, point.of_rank(values.shape(*v).len()))).collect()
        })?;
        self.of_rows.extend(ready.into_iter().zip(tiles));
        Ok(())
    }

    /// Writes all results.
    fn results(&mut self, k: &mut Builder) -> Result<()> {
        let plan = &self.problem.plan;
        if !plan.rest.is_empty() {
            self.write(k, &plan.rest, None)?;
        }
        if plan.full.is_empty() {
            return Ok(());
        }
        if self.config.whole {
            let start = self.start.clone();
            return self.write(k, &plan.full, Some(&start));
        }
        k.try_for_range("chunk", self.chunks(), None, &[], |k, start, _| {
            self.write(k, &plan.full, Some(start)).map(|()| vec![])
        })?;
        Ok(())
    }

    fn write(&mut self, k: &mut Builder, outputs: &[usize], start: Option<&Expr>) -> Result<()> {
        let outputs: Vec<(usize, ValueId)> = outputs.iter().map(|&i| (i, self.values.output(i))).collect();
        let hints: Vec<String> = outputs.iter().map(|(_, v)| self.values.hint(*v)).collect();
        let names: Vec<&str> = hints.iter().map(String::as_str).collect();
        let index = |point: &Point, values: &Values, v: ValueId| match start {
            Some(_) => point.index.clone(),
            None => point.of_rank(values.shape(v).len()).to_vec(),
        };
        let tiles = self.map(k, &names, start, &[], |values, k, point, _| {
            outputs.iter().map(|(_, v)| values.value(k, *v, &index(point, values, *v))).collect()
        })?;
        for ((i, v), tile) in outputs.iter().zip(&tiles) {
            let place = self.place(k, *i, *v, start, &tile.shape);
            k.store(place, tile);
        }
        Ok(())
    }

    /// Where a tile of output `i` goes; what is one value for the whole row the first CTA of a cluster stores.
    fn place(&mut self, k: &mut Builder, i: usize, v: ValueId, start: Option<&Expr>, shape: &[u32]) -> Place {
        let buffer = self.values.output_buffer(i).clone();
        let ends = self.ends(false);
        let first = self.part.as_ref().filter(|_| start.is_none()).map_or(Expr::bool(true), |part| part.eq(0));
        let values = &mut self.values;
        k.elements(&buffer, shape, |k, at| {
            values.at_points(None, |values| {
                let point = Self::point(values, k, &ends, at, start);
                let index = if start.is_some() { &point.index } else { point.of_rank(values.shape(v).len()) };
                (index.to_vec(), point.exists.clone().map_or(first.clone(), |exists| first.and(exists)))
            })
        })
    }
}

/// Where rows and columns begin and end.
struct Ends<'e> {
    problem: &'e Problem,
    /// Axis of the rows, and of the columns.
    axes: (usize, usize),
    first: Expr,
    count: Expr,
    length: Expr,
    partial: bool,
    padded: bool,
    /// Whether rows past the last are the last one.
    clamp: bool,
}

/// What reductions combine at a point: nothing changes where there is none.
fn operands(values: &mut Values, k: &mut MapBuilder, totals: &[Total], point: &Point) -> Result<Vec<Expr>> {
    let operand = |total: &Total| {
        let value = values.number(k, total.operand, &point.index)?;
        Ok(point.exists.as_ref().map_or(value.clone(), |exists| exists.select(&value, total.identity())))
    };
    totals.iter().map(operand).collect()
}

/// What a total is called.
fn named(op: ReduceOp) -> &'static str {
    match op {
        ReduceOp::Sum => "sum",
        ReduceOp::Prod => "product",
        ReduceOp::Max => "greatest",
        ReduceOp::Min => "least",
        ReduceOp::And => "all",
        ReduceOp::Or => "any",
    }
}
