//! Contractions as tiled matrix products: blocks of `[M, N]`, tiles of both operands in shared memory, tensor cores where the type has
//! them.
//!
//! The labels of the einsum fall into batch (in both operands and the result), M (left and result), N (right and result) and K (both
//! operands, summed); each group is one flat dimension of the product. What fits no group is left to the loop nest.

use super::contract::finished_value;
use super::gemm_config::{GemmConfig, Problem};
use super::{anchor, op};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use crate::value::dtype::{compute, memory, register};
use kiln_fuse::{OpKind, Region, Stage};
use kiln_graph::{self as graph, Dim, EinsumSpec, NodeId, Op, Symbols, ValueId};
use kiln_target::arch::Arch;
use kiln_tile::{Buffer, Builder, DType, Expr, Worker};

/// The product with each of its first `most` Configs; empty if the region's contraction is none that this family takes.
pub fn programs(region: &Region, symbols: &Symbols, arch: Arch, most: usize) -> Result<Vec<(GemmConfig, TileProgram)>> {
    let (values, _) = Values::start(region, symbols, &region.name)?;
    let Some(product) = Product::of(&values)? else { return Ok(Vec::new()) };
    let problem = product.problem(&values, symbols, arch);
    problem
        .configs()
        .take(most)
        .map(|config| {
            let (values, k) = Values::start(region, symbols, &region.name)?;
            Ok((config, product.program(values, k, config)?))
        })
        .collect()
}

/// One group of labels, flattened.
struct Group {
    labels: Vec<char>,
    extents: Vec<Dim>,
}

impl Group {
    fn total(&self) -> Dim {
        numel(&self.extents)
    }

    fn has(&self, label: Option<&char>) -> bool {
        label.is_some_and(|label| self.labels.contains(label))
    }
}

struct Product<'a> {
    anchor: NodeId,
    spec: &'a EinsumSpec,
    lhs: ValueId,
    rhs: ValueId,
    result: ValueId,
    acc: graph::DType,
    out: graph::DType,
    /// Element type of the shared tiles.
    tile: DType,
    batch: Group,
    m: Group,
    n: Group,
    k: Group,
}

/// Indices that labels stand for.
type Places = Vec<(char, Expr)>;

impl<'a> Product<'a> {
    /// The region's contraction as a matrix product, if it is one.
    fn of(values: &Values<'a>) -> Result<Option<Product<'a>>> {
        let anchor = anchor(values)?;
        let Op::Contract { spec, acc, out } = op(values, anchor) else {
            return values.malformed("its anchor is not a contraction");
        };
        let node = values.graph.node(anchor);
        let (lhs, rhs, result) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        let distinct = |labels: &[char]| (1..labels.len()).all(|i| !labels[..i].contains(&labels[i]));
        if !distinct(&spec.lhs) || !distinct(&spec.rhs) {
            return Ok(None);
        }
        let group = |order: &[char], in_lhs: bool, in_rhs: bool, in_out: bool| {
            let member = |l: &&char| {
                spec.lhs.contains(l) == in_lhs && spec.rhs.contains(l) == in_rhs && spec.out.contains(l) == in_out
            };
            let labels: Vec<char> = order.iter().filter(member).copied().collect();
            let (from, shape) = if in_lhs { (&spec.lhs, values.shape(lhs)) } else { (&spec.rhs, values.shape(rhs)) };
            let extent = |l: &char| from.iter().position(|o| o == l).map(|i| shape[i].clone());
            Group { extents: labels.iter().filter_map(extent).collect(), labels }
        };
        let (batch, m) = (group(&spec.out, true, true, true), group(&spec.out, true, false, true));
        let (n, k) = (group(&spec.out, false, true, true), group(&spec.lhs, true, true, false));
        let whole = ![&m, &n, &k].iter().any(|group| group.labels.is_empty());
        if !whole {
            return Ok(None);
        }
        let total = compute(*acc);
        if !matches!(total, DType::F32 | DType::F64 | DType::I32 | DType::U32 | DType::I64 | DType::U64) {
            return Ok(None);
        }
        let (a, b) = (values.graph.ty(lhs).dtype, values.graph.ty(rhs).dtype);
        let tile = if a == b && compute(a) == total { register(a) } else { total };
        let (acc, out) = (*acc, *out);
        Ok(Some(Product { anchor, spec, lhs, rhs, result, acc, out, tile, batch, m, n, k }))
    }

    /// What the choice of a Config depends on.
    fn problem(&self, values: &Values, symbols: &Symbols, arch: Arch) -> Problem {
        let most = |group: &Group| group.total().bounds(symbols).1.max(1);
        // Rows that are whole 16-byte vectors of what the tile holds, read straight from memory.
        let vector = i64::from(128 / self.tile.bits());
        let straight = |v: ValueId| values.graph.inputs.contains(&v) && memory(values.graph.ty(v).dtype) == self.tile;
        let wide = |v: ValueId| {
            let divisible = |d: &Dim| d.terms().all(|(_, coefficient)| coefficient % vector == 0);
            straight(v) && values.shape(v).last().is_some_and(divisible)
        };
        Problem {
            arch,
            tile: self.tile,
            accumulator: compute(self.acc),
            batch: most(&self.batch),
            m: most(&self.m),
            n: most(&self.n),
            k: most(&self.k),
            wide: wide(self.lhs) && wide(self.rhs),
        }
    }

    fn program(&self, mut values: Values<'a>, mut k: Builder, config: GemmConfig) -> Result<TileProgram> {
        let GemmConfig { tile_m, tile_n, tile_k, threads, stages } = config;
        let (bm, bn, bk) = (i64::from(tile_m), i64::from(tile_n), i64::from(tile_k));
        // Tiles follow memory, so that neighbours in a tile are neighbours there.
        let transpose_a = self.m.has(self.spec.lhs.last());
        let transpose_b = self.k.has(self.spec.rhs.last());
        let dims = |x: u32, y: u32, swap: bool| if swap { [y, x] } else { [x, y] };
        let (a_name, b_name) =
            (format!("{}_tile", hint(&values, self.lhs)), format!("{}_tile", hint(&values, self.rhs)));
        let a_tile = k.shared(&a_name, self.tile, &dims(tile_m, tile_k, transpose_a));
        let b_tile = k.shared(&b_name, self.tile, &dims(tile_k, tile_n, transpose_b));
        let acc = k.fragment("acc", compute(self.acc), &[tile_m, tile_n]);
        k.threads(threads);
        let [batches, m, n, depth] = [&self.batch, &self.m, &self.n, &self.k].map(|g| values.dim(&mut k, &g.total()));
        let grid = [("batch", batches), ("tile_m", m.ceil_div(bm)), ("tile_n", n.ceil_div(bn))];
        let mut result = Ok(());
        k.for_each(Worker::Block, &grid, |k, at| {
            let batch = self.places(&mut values, k, &self.batch, &at[0]);
            k.fill(&acc, 0);
            k.pipelined("step", depth.ceil_div(bk), stages, |k, step| {
                let rows = Side { of: self.lhs, labels: &self.spec.lhs, outer: &self.m, tile: &at[1], extent: bm };
                let columns = Side { of: self.rhs, labels: &self.spec.rhs, outer: &self.n, tile: &at[2], extent: bn };
                let sides = [(rows, &a_tile, transpose_a), (columns, &b_tile, !transpose_b)];
                for (side, tile, depth_first) in sides {
                    let copied = self.copy(&mut values, k, &side, tile, depth_first, (step, bk), &batch);
                    if result.is_ok() {
                        result = copied;
                    }
                }
                k.gemm(&acc, &a_tile, &b_tile, transpose_a, transpose_b);
            });
            k.parallel(&[("i", Expr::index(bm)), ("j", Expr::index(bn))], |k, ix| {
                let row = k.bind("row", &at[1] * bm + &ix[0]);
                let col = k.bind("col", &at[2] * bn + &ix[1]);
                let inside = fits(&row, &self.m, bm, &m).and(fits(&col, &self.n, bn, &n));
                let mut write = |k: &mut Builder| {
                    let stored = values.scoped(|values| self.epilogue(values, k, &acc.at(ix), [&row, &col], &batch));
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

    /// The indices of a group's labels at a flat position.
    fn places(&self, values: &mut Values, k: &mut Builder, group: &Group, position: &Expr) -> Places {
        let mut index = vec![Expr::index(0); group.labels.len()];
        values.split(k, &group.extents, position.clone(), &mut index);
        group.labels.iter().copied().zip(index).collect()
    }

    /// Copies one operand's tile of step `step` along K.
    #[allow(clippy::too_many_arguments)] // a tile has two directions with two numbers each
    fn copy(
        &self,
        values: &mut Values,
        k: &mut Builder,
        side: &Side,
        tile: &Buffer,
        depth_first: bool,
        (step, tile_k): (&Expr, i64),
        batch: &Places,
    ) -> Result<()> {
        let depth_extent = values.dim(k, &self.k.total());
        let outer_extent = values.dim(k, &side.outer.total());
        let at = |ix: &[Expr]| {
            let (outer, depth) = if depth_first { (&ix[1], &ix[0]) } else { (&ix[0], &ix[1]) };
            (side.tile * side.extent + outer, step * tile_k + depth)
        };
        let mask = |ix: &[Expr]| {
            let (outer, depth) = at(ix);
            let outer = fits(&outer, side.outer, side.extent, &outer_extent);
            outer.and(fits(&depth, &self.k, tile_k, &depth_extent))
        };
        let mut result = Ok(());
        k.copy(tile, if depth_first { &["d", "i"] } else { &["i", "d"] }, mask, |k, ix| {
            let (outer, depth) = at(ix);
            let element = values.scoped(|values| {
                let mut places = batch.clone();
                places.extend(self.places(values, k, side.outer, &outer));
                places.extend(self.places(values, k, &self.k, &depth));
                let index = indices(side.labels, &places);
                let element = values.value(k, side.of, &index)?;
                if element.dtype() == self.tile {
                    return Ok(element);
                }
                Ok(element.cast(compute(values.graph.ty(side.of).dtype)).cast(self.tile))
            });
            element.unwrap_or_else(|e| {
                result = Err(e);
                Expr::int(self.tile, 0)
            })
        });
        result
    }

    /// Stores the region's results at one element of the product.
    fn epilogue(
        &self,
        values: &mut Values,
        k: &mut Builder,
        total: &Expr,
        [row, col]: [&Expr; 2],
        batch: &Places,
    ) -> Result<()> {
        let mut places = batch.clone();
        places.extend(self.places(values, k, &self.m, row));
        places.extend(self.places(values, k, &self.n, col));
        let index = self.ahead(values, k, &indices(&self.spec.out, &places))?;
        let total = values.name(k, "contracted", finished_value(total, self.acc, self.out));
        values.give(self.result, total);
        (0..values.graph.outputs.len()).try_for_each(|i| values.store(k, i, &index))
    }

    /// Where output 0 shows the element at `index` of the product: through the permutes and reshapes of the epilogue.
    fn ahead(&self, values: &mut Values, k: &mut Builder, index: &[Expr]) -> Result<Vec<Expr>> {
        let graph = values.graph;
        let stages = values.region.stages();
        let mut views = vec![];
        let mut v = values.output(0);
        while graph.value(v).node != self.anchor {
            let node = graph.producer(v);
            if OpKind::of(&node.op) == OpKind::View {
                views.push(node);
            }
            let depends = |stage| matches!(stage, Stage::Anchor | Stage::Epilogue);
            match node.inputs.iter().find(|v| depends(stages[graph.value(**v).node.index()])) {
                Some(&next) => v = next,
                None => return values.malformed("the first result does not depend on the anchor"),
            }
        }
        let mut index = index.to_vec();
        for view in views.into_iter().rev() {
            index = match &view.op {
                Op::Permute { perm } => perm.iter().map(|&axis| index[axis].clone()).collect(),
                Op::Reshape { shape } => values.reshaped(k, values.shape(view.inputs[0]), shape, &index),
                op => return values.malformed(format!("`{}` stands behind a contraction", op.name())),
            };
        }
        Ok(index)
    }
}

/// One operand and its direction across K.
struct Side<'s> {
    of: ValueId,
    labels: &'s [char],
    outer: &'s Group,
    /// Number of the tile.
    tile: &'s Expr,
    /// Extent of a tile.
    extent: i64,
}

/// Whether a position that tiles of `tile` reach lies within `group`, whose extent is `end`.
fn fits(position: &Expr, group: &Group, tile: i64, end: &Expr) -> Expr {
    match group.total().as_const() {
        Some(extent) if extent % tile == 0 => Expr::bool(true),
        _ => position.lt(end),
    }
}

fn indices(labels: &[char], places: &Places) -> Vec<Expr> {
    let find = |label: &char| places.iter().find(|(l, _)| l == label).map(|(_, at)| at.clone());
    labels.iter().filter_map(find).collect()
}

/// What an operand's tile is named after.
fn hint(values: &Values, v: ValueId) -> String {
    if values.graph.inputs.contains(&v) {
        values.graph.input_name(v)
    } else {
        values.graph.producer(v).op.name().to_owned()
    }
}
