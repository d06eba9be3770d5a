//! Convolutions point by point: a thread has the sums of some points in registers, and adds up what filters see there.
//!
//! A CTA has a tile of rows and columns of results, where columns are what is fast in memory: filters of an image whose channels lie side by side, else
//! places. So loads of the image are wide and coalesced, what taps have in common comes from the level-1 cache, and of filters that all rows share each
//! thread loads its own once ("direct convolution"; depthwise kernels: Zhang et al., "High Performance Depthwise and Pointwise Convolutions on Mobile
//! Devices", AAAI 2020). State: sums in registers. Floor: the image, filters and results once, the products.

use super::{FILTER, labels};
use crate::Result;
use crate::families::cost::{Stream, flops};
use crate::families::gemm::{stored, views};
use crate::families::{Built, KernelFamily, Subject};
use crate::value::Values;
use crate::value::dims::{multiple, numel};
use crate::value::dtype::round;
use kiln_fuse::Anchor;
use kiln_graph::{DType, Dim, NodeId, Op, ValueId};
use kiln_target::{Estimate, Gpu};
use kiln_tile::expr::Expr;
use kiln_tile::ir::{Builder, MapBuilder, Place, Schedule, Tile};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The family.
pub struct Direct;

/// What a CTA takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Rows of its tile.
    pub rows: u32,
    /// Columns of its tile.
    pub columns: u32,
    /// Its warps.
    pub warps: u32,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}, {} warps", self.rows, self.columns, self.warps)
    }
}

impl Config {
    /// Points of a thread.
    fn points(&self) -> u32 {
        self.rows * self.columns / (32 * self.warps)
    }
}

/// A convolution.
pub struct Problem {
    subject: Arc<Subject>,
    anchor: NodeId,
    /// Axes of results that are rows; the others are columns.
    rows: usize,
    /// Taps and channels that a point sees.
    depth: Vec<Dim>,
    /// Whether columns are filters that see one channel each.
    depthwise: bool,
}

/// Most products that are written one after another.
const UNROLLED: i64 = 32;
/// Most points of a thread, and most products of all of them that are written one after another: more have more operands on their way than registers.
const POINTS: u32 = 32;
const WRITTEN: f64 = 96.0;

impl KernelFamily for Direct {
    type Config = Config;
    type Problem = Problem;

    fn name(&self) -> &'static str {
        "conv_direct"
    }

    fn accept(&self, subject: &Arc<Subject>, _: &Gpu) -> Result<Option<Problem>> {
        let region = &subject.region;
        let (Anchor::Conv, [anchor]) = (region.anchor, &region.anchors()[..]) else { return Ok(None) };
        let values = Values::new(region, &subject.symbols)?;
        let node = region.graph.node(*anchor);
        let Op::Conv { spec, .. } = &node.op else { return values.malformed("its anchor is not a convolution") };
        let filter = values.shape(node.inputs[1]);
        let views = views(&values, &[*anchor], values.output(0))?;
        let labels = labels(spec.strides.len()).and_then(|labels| stored(&views, &values, &labels));
        let all = values.shape(values.output(0)).len();
        let last = all.saturating_sub(1);
        // Behind a reshape rows are what they are.
        let labels = labels.filter(|labels| labels.len() == all);
        let at = labels.and_then(|labels| labels.iter().position(|label| *label == FILTER));
        let rows = at.map_or(last, |at| if at == last { last } else { at + 1 });
        let depthwise = at == Some(last) && filter[1].is(1);
        let depth = [&filter[2..], &filter[1..2]].concat();
        let problem = Problem { subject: subject.clone(), anchor: *anchor, rows, depth, depthwise };
        self.build(&problem, &Config { rows: 1, columns: 32, warps: 1 })?;
        Ok(Some(problem))
    }

    fn space(&self, problem: &Problem, _: &Gpu) -> Vec<Config> {
        let [rows, columns] = problem.extents().map(|dims| problem.subject.count(dims));
        let products = problem.subject.count(&problem.depth).min(UNROLLED as f64);
        let fits = |points: u32| points > 0 && points <= POINTS && f64::from(points) * products <= WRITTEN;
        let mut space = vec![];
        for warps in [4, 8] {
            for tile in [
                [1, 128],
                [1, 256],
                [4, 64],
                [4, 128],
                [8, 32],
                [8, 64],
                [8, 128],
                [16, 32],
                [16, 64],
                [32, 32],
                [32, 64],
                [64, 32],
            ] {
                let config = Config { rows: tile[0], columns: tile[1], warps };
                // A tile that is mostly outside is for nothing.
                let idle = |tile: u32, least: u32, extent: f64| tile > least && f64::from(tile) / 2.0 >= extent;
                let whole = tile[0] * tile[1] % (32 * warps) == 0;
                if whole && fits(config.points()) && !idle(tile[0], 1, rows) && !idle(tile[1], 32, columns) {
                    space.push(config);
                }
            }
        }
        if space.is_empty() {
            space.push(Config { rows: 8, columns: 32, warps: 4 });
        }
        space
    }

    fn estimate(&self, problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
        let subject = &problem.subject;
        let [rows, columns] = problem.extents().map(|dims| subject.count(dims));
        let graph = &subject.region.graph;
        let bytes = |v: ValueId| f64::from(graph.ty(v).dtype.bits()) / 8.0;
        let inputs = &graph.node(problem.anchor).inputs;
        let depth = subject.count(&problem.depth);
        let products = rows * columns * depth;
        // Of runs of 16 bytes each is one access; filters of columns are loaded once for all rows of a thread.
        let run = if problem.depthwise { problem.run() } else { 1.0 };
        let shared = if problem.depthwise { f64::from(config.points()).min(f64::from(config.rows)) / run } else { 1.0 };
        let tiles = |extent: f64, tile: u32| (extent / f64::from(tile)).ceil();
        let held = f64::from(config.points()) * (4.0 + bytes(inputs[0]));
        Stream {
            ctas: tiles(rows, config.rows) * tiles(columns, config.columns),
            threads: 32 * config.warps,
            registers: (held / 4.0).ceil() as u32 + 16,
            ahead: f64::from(config.points()) * bytes(inputs[0]) * depth.min(UNROLLED as f64),
            bytes: subject.bytes(),
            cached: products * bytes(inputs[0]),
            flops: 2.0 * products + flops(subject),
            accesses: products / run + products / shared.max(1.0) + rows * columns,
            shuffles: 0.0,
            barriers: 0.0,
            meetings: 0.0,
        }
        .estimate(gpu)
    }

    fn build(&self, problem: &Problem, config: &Config) -> Result<Built> {
        let Subject { region, symbols, ranges, .. } = &*problem.subject;
        let mut values = Values::new(region, symbols)?;
        values.know(ranges);
        let mut k = Builder::new(&region.name, &region.summary);
        k.schedule(Schedule { warps: config.warps, ..Schedule::default() });
        values.declare(&mut k, |shape| shape.to_vec());
        let extents = problem.extents().map(|dims| values.dim(&mut k, &numel(dims)));
        let shape = [config.rows, config.columns];
        let [rows, columns] = [0, 1].map(|axis| extents[axis].ceil_div(i64::from(shape[axis])));
        let at = k.grid(&[("tile_m", rows), ("tile_n", columns)]);
        let first = [0, 1].map(|axis| &at[axis] * i64::from(shape[axis]));
        let views = views(&values, &[problem.anchor], values.output(0))?;
        let points = Points { problem, views, extents, first, shape };
        let mut program = Program { values, points, coordinates: [vec![], vec![]] };
        program.coordinates(&mut k)?;
        program.write(&mut k)?;
        program.values.launch(k).map(Built::one)
    }
}

impl Problem {
    /// Extents of rows and of columns.
    fn extents(&self) -> [&[Dim]; 2] {
        let graph = &self.subject.region.graph;
        let (rows, columns) = graph.ty(graph.outputs[0].1).shape.split_at(self.rows);
        [rows, columns]
    }

    /// Neighbouring columns of the image that one access loads.
    fn run(&self) -> f64 {
        let graph = &self.subject.region.graph;
        let bytes = i64::from((graph.ty(graph.node(self.anchor).inputs[0]).dtype.bits() / 8).max(1));
        let together = multiple(&numel(self.extents()[1]));
        [8, 4, 2].into_iter().find(|run| together % run == 0 && run * bytes <= 16).unwrap_or(1) as f64
    }
}

struct Program<'a> {
    values: Values<'a>,
    points: Points<'a>,
    /// What rows, and columns, are along each of their axes, where taking them apart divides by what is known when the kernel runs: else every tap would.
    coordinates: [Vec<Tile>; 2],
}

/// Where the points of a CTA's tile are.
struct Points<'a> {
    problem: &'a Problem,
    /// The views between the convolution and results, from those on.
    views: Vec<ValueId>,
    /// Rows and columns.
    extents: [Expr; 2],
    first: [Expr; 2],
    shape: [u32; 2],
}

impl Program<'_> {
    /// Finds the coordinates.
    fn coordinates(&mut self, k: &mut Builder) -> Result<()> {
        let (points, values) = (&self.points, &mut self.values);
        for (axis, dims) in points.problem.extents().into_iter().enumerate() {
            if dims.iter().skip(1).all(|dim| dim.as_const().is_some()) {
                continue;
            }
            let names: Vec<String> = (0..dims.len()).map(|i| format!("{}{i}", ["row", "col"][axis])).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut shape = [1; 2];
            shape[axis] = points.shape[axis];
            self.coordinates[axis] = k.try_map(&names, &shape, &[], |k, _, at| {
                values.at_points(None, |values| {
                    let position = k.bind("position", &points.first[axis] + &at[axis]);
                    let mut along = vec![Expr::index(0); dims.len()];
                    values.split(k, dims, position, &mut along);
                    Ok::<_, crate::Error>(along.into_iter().map(|at| at.cast(kiln_tile::DType::I64)).collect())
                })
            })?;
        }
        Ok(())
    }

    /// Writes the tile of all results.
    fn write(&mut self, k: &mut Builder) -> Result<()> {
        let graph = self.values.graph;
        let problem = self.points.problem;
        let outputs: Vec<ValueId> = graph.outputs.iter().map(|(_, v)| *v).collect();
        let hints: Vec<String> = outputs.iter().map(|v| self.values.hint(*v)).collect();
        let names: Vec<&str> = hints.iter().map(String::as_str).collect();
        let Op::Conv { acc, out, .. } = graph.node(problem.anchor).op else {
            return self.values.malformed("its anchor is not a convolution");
        };
        let result = graph.node(problem.anchor).outputs[0];
        let depth = numel(&problem.depth);
        let few = depth.as_const().filter(|depth| *depth <= UNROLLED);
        let summed = if few.is_none() { vec![self.sums(k, acc.compute(), &depth)?] } else { vec![] };
        let tiles = self.map(k, &names, &summed, |values, k, points, x, index| {
            let total = match (x.first(), few) {
                (Some(total), _) => total.clone(),
                (None, products) => {
                    let zero = Expr::int(acc.compute(), 0);
                    points.add(values, k, zero, index, (&Expr::index(0), products.unwrap_or(0)))?
                }
            };
            let total = round(&round(&total, acc).cast(acc.compute()), out);
            let total = values.name(k, "convolved", total);
            values.bind(result, total);
            let results: Result<Vec<Expr>> = outputs.iter().map(|v| values.value(k, *v, index)).collect();
            values.unbind();
            results
        })?;
        let shape = problem.extents().map(numel);
        for (i, tile) in tiles.iter().enumerate() {
            let buffer = self.values.output_as(k, i, &shape);
            let view = k.view(&buffer, &self.points.first, &self.points.shape);
            k.store(Place::View(view), tile);
        }
        Ok(())
    }

    /// The sums of many products.
    fn sums(&mut self, k: &mut Builder, dtype: DType, depth: &Dim) -> Result<Tile> {
        let divides = |products: &i64| depth.as_const().is_some_and(|depth| depth % products == 0);
        let products = (1..=UNROLLED / 2).rev().find(divides).unwrap_or(1);
        let zero = k.full("sums", dtype, &self.points.shape, Expr::int(dtype, 0));
        let depth = self.values.dim(k, depth);
        let sums = k.try_for_range("d0", (Expr::index(0), depth, products), None, &[zero], |k, d0, sums| {
            self.map(k, &["sums"], sums, |values, k, points, x, index| {
                Ok(vec![points.add(values, k, x[0].clone(), index, (d0, products))?])
            })
        })?;
        Ok(sums[0].clone())
    }

    /// Tiles of what `write` gives for every point, from the elements of `args` and its index in results.
    fn map(
        &mut self,
        k: &mut Builder,
        names: &[&str],
        args: &[Tile],
        write: impl FnOnce(&mut Values, &mut MapBuilder, &Points, &[Expr], &[Expr]) -> Result<Vec<Expr>>,
    ) -> Result<Vec<Tile>> {
        let (points, values, known) = (&self.points, &mut self.values, &self.coordinates);
        let all: Vec<&Tile> = args.iter().chain(known.iter().flatten()).collect();
        k.try_map(names, &points.shape, &all, |k, x, at| {
            let (x, known_at) = x.split_at(args.len());
            let known_at = known_at.split_at(known[0].len());
            values.at_points(None, |values| {
                let (index, exists) = points.at(values, k, at, [known_at.0, known_at.1]);
                values.at_points(exists, |values| write(values, k, points, x, &index))
            })
        })
    }
}

impl Points<'_> {
    /// The index of the result's element at coordinates of the tile, of which those along an axis may be `known`, and whether it exists, unless it surely does.
    fn at(
        &self,
        values: &mut Values,
        k: &mut MapBuilder,
        at: &[Expr],
        known: [&[Expr]; 2],
    ) -> (Vec<Expr>, Option<Expr>) {
        let mut index = vec![];
        let mut exists: Option<Expr> = None;
        for (axis, dims) in self.problem.extents().into_iter().enumerate() {
            let position = k.bind(["row", "col"][axis], &self.first[axis] + &at[axis]);
            if multiple(&numel(dims)) % i64::from(self.shape[axis]) != 0 {
                let inside = position.lt(&self.extents[axis]);
                exists = Some(exists.map_or(inside.clone(), |exists| exists.and(inside)));
            }
            if known[axis].is_empty() {
                let mut along = vec![Expr::index(0); dims.len()];
                values.split(k, dims, position, &mut along);
                index.extend(along);
            } else {
                index.extend(known[axis].iter().map(|at| at.cast(kiln_tile::Type::Index)));
            }
        }
        (index, exists)
    }

    /// `sum` and so many products from `d0` on, of those that the result's element at `index` sees.
    fn add(
        &self,
        values: &mut Values,
        k: &mut MapBuilder,
        mut sum: Expr,
        index: &[Expr],
        (d0, products): (&Expr, i64),
    ) -> Result<Expr> {
        let node = values.graph.node(self.problem.anchor);
        let (Op::Conv { spec, .. }, &[x, w]) = (&node.op, &node.inputs[..]) else {
            return values.malformed("its anchor is not a convolution");
        };
        let seen = self.views.iter().try_fold(index.to_vec(), |at, view| values.source_index(k, *view, &at))?;
        let (from, filter) = (values.shape(x), values.shape(w));
        // The first channel that a filter sees, of its group.
        let first = match (spec.groups, filter[1].is(1) && filter[0] == from[1]) {
            (1, _) => Expr::index(0),
            (_, true) => seen[1].clone(),
            (groups, _) => {
                let each = values.dim(k, &filter[0].floor_div(&Dim::from(groups)));
                let group = values.name(k, "group", &seen[1] / each);
                group * values.dim(k, &filter[1])
            }
        };
        for d in 0..products {
            let mut tap = vec![Expr::index(0); self.problem.depth.len()];
            values.split(k, &self.problem.depth, d0 + d, &mut tap);
            let Some(channel) = tap.pop() else { continue };
            let mut at = vec![seen[0].clone(), &first + &channel];
            let mut inside = Expr::bool(true);
            for (a, tap) in tap.iter().enumerate() {
                let pad = spec.pads[a].0 as i64;
                let place = &seen[2 + a] * spec.strides[a] as i64 + tap * spec.dilations[a] as i64 - pad;
                let place = values.name(k, "place", place);
                let extent = values.dim(k, &from[2 + a]);
                let before = if pad > 0 { place.ge(0) } else { Expr::bool(true) };
                inside = inside.and(before).and(place.lt(extent));
                at.push(place);
            }
            let of = [&[seen[1].clone(), channel], &tap[..]].concat();
            let a = values.within(k, x, &at, inside, |ty| Expr::int(ty, 0))?;
            let a = a.cast(values.graph.ty(x).dtype.compute()).cast(sum.ty());
            let b = values.number(k, w, &of)?.cast(sum.ty());
            let next = if sum.ty().is_float() { a.fma(b, &sum) } else { &sum + a * b };
            sum = values.name(k, "sum", next);
        }
        Ok(sum)
    }
}
