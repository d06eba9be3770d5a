//! Reductions over rows and what surrounds them: softmax, normalizations, plain and arg-reductions.
//!
//! Reductions that depend on others run in a pass of their own over the row; what precedes them is computed again in each pass (its
//! loads come from a cache). A row that ends with the last axis is spread over a warp or, when long, a block; otherwise neighbouring threads
//! take neighbouring rows, and each walks its own.

use super::fold::{nest, reduction, step, within};
use super::{axes, names};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::{Region, Role, Rows};
use kiln_graph::{ArgOp, Dim, NodeId, Op, Symbols, ValueId};
use kiln_tile::expr::{CompareOp, Expr, UnaryOp};
use kiln_tile::{Builder, DType, ReduceOp, Worker};

/// Longest row, in elements, that one warp takes.
const WARP_ROW: i64 = 1024;

pub fn program(region: &Region, symbols: &Symbols) -> Result<TileProgram> {
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
    let Some(rows) = region.rows() else { return values.malformed("it has no reduction") };
    let kept = rows.reduced();
    let extents: Vec<Dim> = rows.axes.iter().map(|&a| rows.shape[a].clone()).collect();
    let worker = worker(&rows, &extents, symbols);
    let row_names = names(kept.len(), "ijklmn");
    let domain = axes(&mut values, &mut k, &kept, &row_names);
    let column_names = names(extents.len(), "xyzuvw");
    let columns = axes(&mut values, &mut k, &extents, &column_names);
    if let (Worker::Block, Some(length)) = (worker, numel(&extents).as_const()) {
        // A few elements a thread, whole warps.
        let threads = (length / 4).clamp(128, 512) as u32;
        k.threads(threads.next_multiple_of(32));
    }
    let mut result = Ok(());
    k.for_each(worker, &domain, |k, index| {
        let row = Row { rows: &rows, index: &index[..kept.len()], columns: &columns, worker };
        result = row.body(&mut values, k);
    });
    result?;
    values.finish(k, numel(&kept))
}

/// Who walks a row.
fn worker(rows: &Rows, extents: &[Dim], symbols: &Symbols) -> Worker {
    let length = numel(extents).bounds(symbols).1;
    let last = rows.shape.iter().rposition(|d| !d.is(1));
    let contiguous = last.is_none_or(|last| rows.axes.contains(&last));
    let few_rows = numel(&rows.reduced()).bounds(symbols).1 < 256;
    match (contiguous, length) {
        (false, length) if !few_rows || length <= 64 => Worker::Thread,
        (true, ..=8) => Worker::Thread,
        (_, ..=WARP_ROW) => Worker::Warp,
        _ => Worker::Block,
    }
}

struct Row<'r> {
    rows: &'r Rows,
    /// Index of the row among the rows.
    index: &'r [Expr],
    /// The axes of a row.
    columns: &'r [(&'r str, Expr)],
    worker: Worker,
}

/// Gives the values to combine at an index into the full shape, and into the row.
type Write<'w> = dyn FnMut(&mut Values, &mut Builder, &[Expr], &[Expr]) -> Result<Vec<Expr>> + 'w;
/// Writes what is done at an index into the row.
type Visit<'v> = dyn FnMut(&mut Values, &mut Builder, &[Expr]) -> Result<()> + 'v;

/// One value that a pass over the row combines.
struct Total {
    name: &'static str,
    op: ReduceOp,
    dtype: DType,
}

impl Row<'_> {
    fn body(&self, values: &mut Values, k: &mut Builder) -> Result<()> {
        for level in levels(values) {
            self.level(values, k, &level)?;
            self.once_a_row(values, k)?;
        }
        let outputs = 0..values.graph.outputs.len();
        let (full, rest): (Vec<usize>, Vec<usize>) =
            outputs.partition(|&i| values.shape(values.output(i)) == self.rows.shape);
        if !rest.is_empty() {
            self.each(values, k, &[("once", Expr::index(1))], &mut |values, k, _| {
                rest.iter().try_for_each(|&i| {
                    let index = self.row_index(values.shape(values.output(i)).len());
                    values.store(k, i, &index)
                })
            })?;
        }
        if !full.is_empty() {
            self.each(values, k, self.columns, &mut |values, k, column| {
                let index = self.full_index(column);
                full.iter().try_for_each(|&i| values.store(k, i, &index))
            })?;
        }
        Ok(())
    }

    /// Computes what follows from the reductions so far and is one value for the whole row, such as a mean.
    fn once_a_row(&self, values: &mut Values, k: &mut Builder) -> Result<()> {
        let graph = values.graph;
        let roles = values.region.roles();
        let depends = |v: &&ValueId| {
            let stage = roles[graph.value(**v).node.index()];
            matches!(stage, Role::Anchor | Role::Epilogue)
        };
        for (node, stage) in graph.nodes.iter().zip(&roles) {
            let Some(&v) = node.outputs.first() else { continue };
            let ready = node.inputs.iter().filter(depends).all(|x| values.is_bound(*x));
            if *stage != Role::Epilogue || !ready || values.is_bound(v) || graph.ty(v).shape == self.rows.shape {
                continue;
            }
            let index = self.row_index(graph.ty(v).shape.len());
            let value = values.value(k, v, &index)?;
            let value = values.name(k, &values.hint(v), value);
            values.bind(v, value);
        }
        Ok(())
    }

    /// Computes the reductions of one level, whose operands depend on earlier levels only.
    fn level(&self, values: &mut Values, k: &mut Builder, level: &[NodeId]) -> Result<()> {
        let graph = values.graph;
        let operand = |node: &NodeId| graph.node(*node).inputs[0];
        let result = |node: &NodeId| graph.node(*node).outputs[0];
        let mut totals = vec![];
        for node in level {
            let (name, op) = match &graph.node(*node).op {
                Op::ArgReduce { op: ArgOp::Max, .. } => ("greatest", ReduceOp::Max),
                Op::ArgReduce { .. } => ("least", ReduceOp::Min),
                Op::Reduce { op, .. } => named(reduction(*op)),
                _ => return values.malformed("its anchor is not a reduction"),
            };
            totals.push(Total { name, op, dtype: graph.ty(operand(node)).dtype.compute() });
        }
        let found = self.pass(values, k, &totals, &mut |values, k, index, _| {
            level.iter().map(|node| values.number(k, operand(node), index)).collect()
        })?;
        let mut extremes: Vec<(&NodeId, bool, Expr)> = vec![];
        for ((node, total), found) in level.iter().zip(&totals).zip(found) {
            if let Op::ArgReduce { last, .. } = graph.node(*node).op {
                extremes.push((node, last, found));
                continue;
            }
            let dtype = graph.ty(result(node)).dtype;
            let rounded = values.rounded(k, &within(&found, total.op, dtype), dtype)?;
            let rounded = values.name(k, total.name, rounded);
            values.bind(result(node), rounded);
        }
        if extremes.is_empty() {
            return Ok(());
        }
        // Where the extremes are: the least or greatest place that holds one.
        let position = |last| if last { ReduceOp::Max } else { ReduceOp::Min };
        let totals: Vec<Total> = extremes
            .iter()
            .map(|(_, last, _)| Total { name: "position", op: position(*last), dtype: DType::I64 })
            .collect();
        let positions = self.pass(values, k, &totals, &mut |values, k, index, column| {
            let place = column[0].cast(DType::I64);
            let hit = |(node, last, extreme): &(&NodeId, bool, Expr)| {
                let value = values.number(k, operand(node), index)?;
                let mut hit = value.compare(CompareOp::Eq, extreme);
                if extreme.ty().is_float() {
                    hit = hit.or(value.unary(UnaryOp::IsNan).and(extreme.unary(UnaryOp::IsNan)));
                }
                Ok(hit.select(&place, position(*last).identity(DType::I64)))
            };
            extremes.iter().map(hit).collect()
        })?;
        for ((node, ..), position) in extremes.iter().zip(positions) {
            values.bind(result(node), position);
        }
        Ok(())
    }

    /// One pass over the row that combines the values that `write` returns for each index, and gives the totals.
    fn pass(&self, values: &mut Values, k: &mut Builder, totals: &[Total], write: &mut Write) -> Result<Vec<Expr>> {
        let mut result = Ok(());
        let mut write = |k: &mut Builder, column: &[Expr]| {
            let index = self.full_index(column);
            values.scoped(|values| write(values, k, &index, column)).unwrap_or_else(|e| {
                result = Err(e);
                vec![]
            })
        };
        let found = if self.worker == Worker::Thread {
            let running: Vec<_> = totals.iter().map(|t| k.declare(t.name, t.op.identity(t.dtype))).collect();
            nest(k, self.columns, &mut |k, column| {
                for ((value, total), running) in write(k, column).iter().zip(totals).zip(&running) {
                    step(k, running, total.op, value);
                }
            });
            running.iter().map(Expr::var).collect()
        } else {
            k.reduce_many(self.columns, |k, column| {
                let named = |(value, t): (Expr, &Total)| (t.name.to_owned(), t.op, value);
                write(k, column).into_iter().zip(totals).map(named).collect()
            })
        };
        result.map(|()| found)
    }

    /// Runs `visit` for each of `axes`, spread over the worker's threads if it has several.
    fn each(&self, values: &mut Values, k: &mut Builder, axes: &[(&str, Expr)], visit: &mut Visit) -> Result<()> {
        let mut result = Ok(());
        let mut body = |k: &mut Builder, index: &[Expr]| result = values.scoped(|values| visit(values, k, index));
        match self.worker {
            Worker::Thread => nest(k, axes, &mut body),
            _ => k.parallel(axes, body),
        }
        result
    }

    /// Index into the full shape.
    fn full_index(&self, column: &[Expr]) -> Vec<Expr> {
        let (mut row, mut column) = (self.index.iter(), column.iter());
        let place = |axis| if self.rows.axes.contains(&axis) { column.next() } else { row.next() };
        (0..self.rows.shape.len()).map(place).map(|i| i.cloned().unwrap_or(Expr::index(0))).collect()
    }

    /// Index into the reduced or the kept shape, by rank.
    fn row_index(&self, rank: usize) -> Vec<Expr> {
        if rank == self.index.len() { self.index.to_vec() } else { self.full_index(&[]) }
    }
}

/// The reductions, those that depend on no other first.
fn levels(values: &Values) -> Vec<Vec<NodeId>> {
    let graph = values.graph;
    let anchors = values.region.anchors();
    let mut depth = vec![0usize; graph.nodes.len()];
    let mut levels: Vec<Vec<NodeId>> = vec![];
    for (i, node) in graph.nodes.iter().enumerate() {
        let below = node.inputs.iter().map(|v| depth[graph.value(*v).node.index()]).max().unwrap_or(0);
        let own = anchors.contains(&NodeId(i as u32));
        depth[i] = below + usize::from(own);
        if own {
            levels.resize_with(levels.len().max(depth[i]), Vec::new);
            levels[below].push(NodeId(i as u32));
        }
    }
    levels
}

/// What a total is called.
fn named(op: ReduceOp) -> (&'static str, ReduceOp) {
    let name = match op {
        ReduceOp::Sum => "sum",
        ReduceOp::Prod => "product",
        ReduceOp::Max => "greatest",
        ReduceOp::Min => "least",
        ReduceOp::And => "all",
        ReduceOp::Or => "any",
    };
    (name, op)
}
