//! The tile programs of a product.

use super::Problem;
use super::config::{Config, Depth};
use super::groups::Part;
use super::product::{Along, Axes, Operand, views};
use super::shared::tile_counts;
use super::windows::Image;
use crate::Result;
use crate::families::TileLaunch;
use crate::value::dims::numel;
use crate::value::dtype::{register, round};
use crate::value::{Values, Writer};
use kiln_fuse::MemoryAxis;
use kiln_graph::{DType, Dim, NodeId, Op, ValueId};
use kiln_tile::expr::Expr;
use kiln_tile::ir::{Builder, Place, Schedule, Tile, View};
use kiln_tile::{Access, Buffer};

/// The program that makes the product; of one in parts the program that leaves their sums.
pub fn product(problem: &Problem, config: &Config) -> Result<TileLaunch> {
    let (mut program, mut k) = Program::start(problem, config)?;
    let schedule = Schedule {
        warps: config.warps,
        specialise: config.specialise,
        // Of fewer threads each has enough from the start.
        registers: (config.specialise && config.tiles() * config.warps >= 8).then_some(REGISTERS),
        persistent: config.persistent,
        raster: config.raster,
        row_threads: config.lanes,
        staged_epilogue: config.staged(problem),
        cluster: config.ctas(),
        across: config.cluster[1] > 1,
        ping_pong: config.ping_pong,
        ..Schedule::default()
    };
    k.schedule(schedule);
    match config.depth {
        Depth::Whole => {
            match &problem.groups {
                Some(groups) => program.grouped_tiles(&mut k, groups)?,
                None => program.tiles(&mut k, false),
            }
            let sums = program.sums(&mut k)?;
            program.results(&mut k, &sums)?;
        }
        Depth::Parts(_) => {
            let parts = program.partial(&mut k, Access::Write);
            program.tiles(&mut k, true);
            let part = program.at[0].clone();
            for (n, sums) in program.sums(&mut k)?.iter().enumerate() {
                let place = program.tile_of(&parts, Program::layer(problem, Some(&part), n));
                k.store(Place::View(place), sums);
            }
        }
        Depth::Turns(parts) => program.turns(&mut k, parts)?,
        Depth::Stream(ctas) => program.stream(&mut k, ctas)?,
    }
    program.values.launch(k)
}

/// The program that adds the parts.
pub fn combination(problem: &Problem, config: &Config) -> Result<TileLaunch> {
    let small = Config { bm: config.bm.min(COMBINED), bn: config.bn.min(COMBINED), warps: 4, ..*config };
    let (mut program, mut k) = Program::start(problem, &small)?;
    k.schedule(Schedule { warps: small.warps, ..Schedule::default() });
    let parts = program.partial(&mut k, Access::Read);
    program.tiles(&mut k, false);
    let zeros = program.zeros(&mut k);
    let range = (Expr::index(0), Expr::index(config.depth.parts().into()), 1);
    let sums = k.for_range("part", range, None, &zeros, |k, part, sums| {
        let add = |(n, sums): (usize, &Tile)| {
            let view = program.tile_of(&parts, Program::layer(problem, Some(part), n));
            let more = k.load("part", view);
            k.map("sums", &more.shape.clone(), &[sums, &more], |_, x, _| &x[0] + &x[1])
        };
        sums.iter().enumerate().map(add).collect()
    });
    program.results(&mut k, &sums)?;
    program.values.launch(k)
}

/// Bytes of sums that CTAs leave for others.
pub fn scratch_bytes(problem: &Problem, config: &Config) -> Dim {
    match config.depth {
        Depth::Whole => Dim::from(0),
        _ => numel(&Program::sums_shape(problem, config)) * Dim::from(i64::from(problem.sums.bits() / 8)),
    }
}

/// Bytes of the counters of those.
pub fn counter_bytes(problem: &Problem, config: &Config) -> Dim {
    match config.depth {
        Depth::Whole | Depth::Parts(_) => Dim::from(0),
        Depth::Turns(_) | Depth::Stream(_) => numel(&tile_counts(problem, config)) * Dim::from(4),
    }
}

/// Registers of a thread that copies and of one that multiplies.
const REGISTERS: (u32, u32) = (40, 232);
/// Greatest extent of a tile that parts are added in.
const COMBINED: u32 = 64;

/// Where the tiles of an operand come from.
pub struct Source<'a> {
    operand: &'a Operand,
    /// The tensor that it is a box of, if it is one.
    pub lies: Option<Lies>,
    /// The image whose windows it has, if it has some.
    image: Option<Image<'a>>,
}

pub struct Program<'a> {
    pub values: Values<'a>,
    pub problem: &'a Problem,
    pub config: Config,
    /// Coordinates of the CTA: its part if there are any, its place along every axis of the product's grid, its first row and column.
    pub at: Vec<Expr>,
    /// Whether the first of those is a part.
    parted: bool,
    /// The tile: its place along every axis of the grid, along rows and columns.
    pub tile: Vec<Expr>,
    /// What the CTA has of a group of rows, if they come in groups.
    pub part: Option<Part>,
}

impl<'a> Program<'a> {
    fn start(problem: &'a Problem, config: &Config) -> Result<(Program<'a>, Builder)> {
        let region = &problem.subject.region;
        let mut values = Values::new(region, &problem.subject.symbols)?;
        values.know(&problem.subject.ranges);
        let mut k = Builder::new(&region.name, &region.summary);
        values.declare(&mut k, |shape| shape.to_vec());
        let (problem, config) = (problem, *config);
        Ok((Program { values, problem, config, at: vec![], parted: false, tile: vec![], part: None }, k))
    }

    /// Which operand gives the rows of tiles, 0 or 1, and which the columns.
    pub fn sides(&self) -> [usize; 2] {
        self.config.sides()
    }

    pub fn extent(&mut self, k: &mut dyn Writer, along: Along) -> Expr {
        self.values.dim(k, &self.problem.product.extent(along))
    }

    /// Spreads CTAs over the tiles.
    pub fn tiles(&mut self, k: &mut Builder, parted: bool) {
        let [rows, columns] = self.sides().map(|side| self.extent(k, Along::Outer(side)));
        let (bm, bn) = (i64::from(self.config.bm), i64::from(self.config.bn));
        let grid: Vec<(String, Dim)> =
            self.problem.product.grid.iter().map(|(label, dim)| (label.to_string(), dim.clone())).collect();
        let mut axes: Vec<(&str, Expr)> = vec![];
        if parted {
            axes.push(("part", Expr::index(self.config.depth.parts().into())));
        }
        axes.extend(grid.iter().map(|(name, dim)| (name.as_str(), self.values.dim(k, dim))));
        axes.extend([("tile_m", rows.ceil_div(bm)), ("tile_n", columns.ceil_div(bn))]);
        let mut at = k.grid(&axes);
        let part = parted.then(|| at.remove(0));
        self.place(at);
        self.at.splice(0..0, part);
        self.parted = parted;
    }

    /// The CTA is at a tile.
    pub fn place(&mut self, tile: Vec<Expr>) {
        self.at.clone_from(&tile);
        let last = self.at.len() - 2..;
        for (at, extent) in self.at[last].iter_mut().zip([self.config.bm, self.config.bn]) {
            *at = &*at * i64::from(extent);
        }
        (self.tile, self.parted) = (tile, false);
    }

    fn grid_at(&self, axis: usize) -> Expr {
        self.at[axis + usize::from(self.parted)].clone()
    }

    /// The first row, or column, of the CTA's tile.
    pub fn first(&self, axis: usize) -> Expr {
        self.at[self.at.len() - 2 + axis].clone()
    }

    /// A box of a tensor with the product's axes: `tile` tells which of the tile's axes, if any, walks along a dimension, and from where.
    pub fn view(
        &self,
        tensor: &Buffer,
        axes: &Axes,
        shape: [u32; 2],
        tile: impl Fn(Along) -> Option<(usize, Expr)>,
    ) -> View {
        let place = |(along, _): &(Along, MemoryAxis)| match (along, tile(*along)) {
            (_, Some((axis, first))) => (first, Some(axis)),
            (Along::Grid(axis), None) => (self.grid_at(*axis), None),
            (_, None) => (Expr::index(0), None),
        };
        let (origin, walked) = axes.0.iter().map(place).unzip();
        let masked = vec![true; axes.0.len()];
        View { tensor: tensor.clone(), origin, axes: walked, shape: shape.to_vec(), masked, walks: vec![] }
    }

    /// A tile for the sums of each contraction.
    fn zeros(&self, k: &mut Builder) -> Vec<Tile> {
        let sums = self.problem.sums;
        let zero = |_| k.full("acc", sums, &[self.config.bm, self.config.bn], Expr::int(sums, 0));
        (0..self.problem.contractions()).map(zero).collect()
    }

    /// The sums of the CTA's tile, or of its part, of each contraction.
    pub fn sums(&mut self, k: &mut Builder) -> Result<Vec<Tile>> {
        if self.config.lanes > 0 {
            return self.lane_sums(k);
        }
        let depth = match &self.part {
            Some(part) => part.depth.clone(),
            None => self.extent(k, Along::Depth),
        };
        let (step, parts) = (i64::from(self.config.bk), self.config.depth.parts());
        if parts == 1 {
            return self.sums_between(k, Expr::index(0), depth);
        }
        let steps = depth.ceil_div(step).ceil_div(i64::from(parts));
        let length = k.bind("length", steps * step);
        let start = k.bind("start", &self.at[0] * &length);
        let end = k.bind("end", depth.min(&start + length));
        self.sums_between(k, start, end)
    }

    /// The sums of some of the depth.
    pub fn sums_between(&mut self, k: &mut Builder, start: Expr, end: Expr) -> Result<Vec<Tile>> {
        let Config { bk, stages, .. } = self.config;
        let sources = self.sources(k);
        let zeros = self.zeros(k);
        k.try_for_range("k0", (start, end, i64::from(bk)), Some(stages), &zeros, |k, k0, acc| {
            let mut tiles: Vec<[Tile; 2]> = vec![];
            for own in &sources {
                let mut tile = |axis: usize| match &own[axis] {
                    Some(source) => self.operand_tile(k, axis, source, k0),
                    None => Ok(tiles[0][axis].clone()),
                };
                let pair = [tile(0)?, tile(1)?];
                tiles.push(pair);
            }
            let dot = |([a, b], acc): (&[Tile; 2], &Tile)| k.dot_rounded(a, b, acc, self.problem.tf32);
            Ok(tiles.iter().zip(acc).map(dot).collect())
        })
    }

    /// What each contraction multiplies along rows and along columns; none where that is what the first does.
    pub fn sources(&mut self, k: &mut Builder) -> Vec<[Option<Source<'a>>; 2]> {
        let product = &self.problem.product;
        let sides = self.sides();
        let mut source = |n: usize, side: usize| {
            let operand = product.own(n, side)?;
            let lies = operand.lies.clone().map(|(input, axes)| {
                let memory: Vec<&MemoryAxis> = axes.0.iter().map(|(_, axis)| axis).collect();
                let (tensor, starts) = self.values.input_box(k, input, &memory);
                Lies { tensor, axes, starts }
            });
            let image = operand.windows.as_ref().map(|windows| Image::of(windows, &mut self.values, k));
            Some(Source { operand, lies, image })
        };
        (0..=product.twins.len()).map(|n| sides.map(|side| source(n, side))).collect()
    }

    /// [`Program::view`] of an operand.
    pub fn operand_view(&self, lies: &Lies, shape: [u32; 2], tile: impl Fn(Along) -> Option<(usize, Expr)>) -> View {
        let mut view = self.view(&lies.tensor, &lies.axes, shape, tile);
        view.origin.iter_mut().zip(&lies.starts).for_each(|(at, start)| *at = &*at + start);
        view
    }

    /// The tile of an operand of the rows, 0, or of the columns, 1, at depth `k0`: `[rows, depth]`, `[depth, columns]`.
    fn operand_tile(&mut self, k: &mut Builder, axis: usize, source: &Source, k0: &Expr) -> Result<Tile> {
        let side = self.sides()[axis];
        let name = ["a", "b"][axis];
        let outer = [self.config.bm, self.config.bn][axis];
        let deep = 1 - axis;
        let mut shape = [self.config.bk; 2];
        shape[axis] = outer;
        let tile = match (&source.lies, &source.image) {
            (_, Some(image)) => {
                let view = self.windows(k, image, axis, shape, k0);
                k.load(name, view)
            }
            (Some(lies), None) => {
                let view = self.operand_view(lies, shape, |along| match along {
                    Along::Outer(_) => Some((axis, self.first(axis))),
                    Along::Depth => Some((deep, k0.clone())),
                    Along::Grid(_) => None,
                });
                let tile = k.load(name, view);
                match source.operand.is_made() {
                    true => self.made(k, &tile, (axis, source.operand), k0)?,
                    false => tile,
                }
            }
            (None, None) => self.computed(k, name, (axis, source.operand), shape, k0)?,
        };
        Ok(k.cast(&tile, self.problem.types[side]))
    }

    /// The tile of an operand whose elements are made of those of a tile of what lies in memory.
    fn made(&mut self, k: &mut Builder, of: &Tile, (axis, operand): (usize, &Operand), k0: &Expr) -> Result<Tile> {
        let problem = self.problem;
        let along = Along::Outer(self.sides()[axis]);
        let [rows, depth] = [along, Along::Depth].map(|along| self.extent(k, along));
        let (first, at_grid) = (self.first(axis), self.grid_coordinates());
        let to = register(operand.dtype);
        let step = i64::from(self.config.bk);
        let whole = problem.product.depth.total().as_const().is_some_and(|depth| depth % step == 0);
        let values = &mut self.values;
        let name = values.hint(operand.value);
        let tiles = k.try_map(&[name.as_str()], &of.shape.clone(), &[of], |k, x, at| {
            // What is beside may be the same for all rows: those outside are made as the last one is.
            let row = k.bind("row", (&first + &at[axis]).min(&rows - 1));
            let place = k.bind("depth", k0 + &at[1 - axis]);
            // Behind the depth the other operand is 0, and times 0 not all is 0.
            let exists = (!whole).then(|| k.bind("exists", place.lt(&depth)));
            values.at_points(exists.clone(), |values| {
                let mut coordinates = at_grid;
                coordinates.extend(operand.outer.coordinates(values, k, &row));
                coordinates.extend(problem.product.depth.coordinates(values, k, &place));
                values.bind(operand.from, x[0].cast(register(values.graph.ty(operand.from).dtype)));
                let made = element(values, k, operand, &coordinates, to);
                values.unbind();
                let made = made?;
                Ok(vec![exists.map_or(made.clone(), |exists| exists.select(&made, Expr::int(to, 0)))])
            })
        })?;
        Ok(tiles[0].clone())
    }

    /// A tile of an operand of which every element is computed, in the order of memory.
    fn computed(
        &mut self,
        k: &mut Builder,
        name: &str,
        (axis, operand): (usize, &Operand),
        shape: [u32; 2],
        k0: &Expr,
    ) -> Result<Tile> {
        let problem = self.problem;
        let side = self.sides()[axis];
        let deep = 1 - axis;
        // The axis of the last label is the fast one.
        let dense = |label: &char| problem.product.depth.labels.contains(label);
        let last = operand.labels.iter().rfind(|l| dense(l) || operand.outer.labels.contains(l));
        let fast = if last.is_none_or(dense) { deep } else { axis };
        let order = [1 - fast, fast];
        let [rows, depth] = [Along::Outer(side), Along::Depth].map(|along| self.extent(k, along));
        let first = self.first(axis);
        let at_grid = self.grid_coordinates();
        let to = problem.types[side];
        let values = &mut self.values;
        let tiles = k.try_map(&[name], &order.map(|axis| shape[axis]), &[], |k, _, at| {
            let at = |of: usize| &at[usize::from(order[1] == of)];
            let row = k.bind("row", &first + at(axis));
            let place = k.bind("depth", k0 + at(deep));
            let exists = row.lt(&rows).and(place.lt(&depth));
            let exists = k.bind("exists", exists);
            values.at_points(Some(exists.clone()), |values| {
                let mut coordinates = at_grid;
                coordinates.extend(operand.outer.coordinates(values, k, &row));
                coordinates.extend(problem.product.depth.coordinates(values, k, &place));
                let element = element(values, k, operand, &coordinates, to)?;
                Ok(vec![exists.select(&element, Expr::int(to, 0))])
            })
        })?;
        Ok(if order == [0, 1] { tiles[0].clone() } else { k.transpose(&tiles[0], &[1, 0]) })
    }

    fn grid_coordinates(&self) -> Vec<(char, Expr)> {
        let grid = self.problem.product.grid.iter().enumerate();
        grid.map(|(axis, (label, _))| (*label, self.grid_at(axis))).collect()
    }

    /// Writes the results of the CTA's tile, from the sums of each contraction.
    pub fn results(&mut self, k: &mut Builder, sums: &[Tile]) -> Result<()> {
        let problem = self.problem;
        let product = &problem.product;
        let contracted = product.results();
        let stored = Stored::all(&self.values, &product.anchors())?;
        let boxes: Vec<Option<View>> = (0..product.boxes.len()).map(|i| self.output_box(k, i)).collect();
        let beside = self.beside(k);
        let hints: Vec<String> = stored.iter().map(|part| self.values.hint(part.value)).collect();
        let names: Vec<&str> = hints.iter().map(String::as_str).collect();
        let shape = [self.config.bm, self.config.bn];
        let sums: Vec<&Tile> = sums.iter().collect();
        let point = self.points(k);
        let values = &mut self.values;
        let tiles = k.try_map(&names, &shape, &sums, |k, x, at| {
            let point = point.at(values, k, at);
            values.at_points(point.exists.clone(), |values| {
                for (v, view) in &beside {
                    values.given_element(*v, &point.index, &view.tensor, &view.index(at));
                }
                for (sum, result) in x.iter().zip(&contracted) {
                    let total = round(&round(sum, product.acc).cast(product.acc.compute()), product.out);
                    let total = values.name(k, "contracted", total);
                    values.bind(*result, total);
                }
                let results = stored.iter().map(|part| {
                    let index = values.viewed(k, &part.views, &point.index)?;
                    values.value(k, part.value, &index)
                });
                let results: Result<Vec<Expr>> = results.collect();
                values.unbind();
                results
            })
        })?;
        for (part, tile) in stored.iter().zip(&tiles) {
            for result in &part.results {
                let place = match &boxes[result.output] {
                    Some(view) => Place::View(view.clone()),
                    None => self.elements(k, part, result, &shape)?,
                };
                k.store(place, tile);
            }
        }
        Ok(())
    }

    /// Result `i` as a box.
    fn output_box(&mut self, k: &mut Builder, i: usize) -> Option<View> {
        let axes = self.problem.product.boxes[i].as_ref()?;
        let tensor = self.values.output_as(k, i, &axes.shape());
        Some(self.result_view(&tensor, axes))
    }

    fn result_view(&self, tensor: &Buffer, axes: &Axes) -> View {
        let sides = self.sides();
        self.view(tensor, axes, [self.config.bm, self.config.bn], |along| match along {
            Along::Outer(side) => {
                let axis = usize::from(side != sides[0]);
                Some((axis, self.first(axis)))
            }
            _ => None,
        })
    }

    /// Inputs that have an element for each of the product's: where, without taking positions apart.
    fn beside(&mut self, k: &mut Builder) -> Vec<(ValueId, View)> {
        let product = &self.problem.product;
        let shape = self.values.shape(product.result);
        let Some(axes) = &product.plain else { return vec![] };
        let graph = self.values.graph;
        let alike = |v: &ValueId| graph.ty(*v).shape == shape && graph.ty(*v).dtype.bits() >= 8;
        let operand =
            |v: &ValueId| [0, 1].into_iter().flat_map(|side| product.operands_of(side)).any(|o| o.value == *v);
        let inputs = graph.inputs.iter().copied().enumerate().filter(|(_, v)| alike(v) && !operand(v));
        let inputs: Vec<(usize, ValueId)> = inputs.collect();
        let view = |(i, v): (usize, ValueId)| {
            let tensor = self.values.input_as(k, i, &axes.shape());
            (v, tensor)
        };
        let tensors: Vec<(ValueId, Buffer)> = inputs.into_iter().map(view).collect();
        tensors.into_iter().map(|(v, tensor)| (v, self.result_view(&tensor, axes))).collect()
    }

    /// Where the elements go of what is no box.
    fn elements(&mut self, k: &mut Builder, part: &Stored, result: &Stores, shape: &[u32]) -> Result<Place> {
        let buffer = self.values.output_buffer(result.output).clone();
        let point = self.points(k);
        let values = &mut self.values;
        let mut failed = Ok(());
        let place = k.elements(&buffer, shape, |k, at| {
            values.scoped(|values| {
                let point = point.at(values, k, at);
                let exists = point.exists.clone().unwrap_or(Expr::bool(true));
                let place = part.place(values, k, result, &point.index).unwrap_or_else(|e| {
                    failed = Err(e);
                    (vec![], Expr::bool(true))
                });
                (place.0, exists.and(place.1))
            })
        });
        failed.map(|()| place)
    }

    /// What finds the point of a tile's element.
    fn points(&mut self, k: &mut Builder) -> Points<'a> {
        let sides = self.sides();
        let ends = [0, 1].map(|axis| {
            if let (0, Some(part)) = (sides[axis], &self.part) {
                return Some(part.end.clone());
            }
            // Of a cluster some tiles may be outside.
            let tile = i64::from([self.config.bm, self.config.bn][axis] * self.config.cluster[axis]);
            let extent = self.problem.product.extent(Along::Outer(sides[axis]));
            let whole = extent.as_const().is_some_and(|extent| extent % tile == 0);
            (!whole).then(|| self.values.dim(k, &extent))
        });
        Points {
            problem: self.problem,
            sides,
            first: [self.first(0), self.first(1)],
            ends,
            grid: self.grid_coordinates(),
        }
    }

    /// The sums of all parts.
    fn partial(&mut self, k: &mut Builder, access: Access) -> Buffer {
        let shape = Self::sums_shape(self.problem, &self.config);
        self.values.scratch(k, "parts", self.problem.sums, &shape, access)
    }

    /// The extents of sums in memory: those of the grid, of rows and columns; before them, where there are several, so many layers.
    pub fn sums_shape(problem: &Problem, config: &Config) -> Vec<Dim> {
        let product = &problem.product;
        let parts = if let Depth::Parts(parts) = config.depth { parts } else { 1 };
        let layers = problem.contractions() * parts;
        let mut shape: Vec<Dim> = (layers > 1).then(|| Dim::from(i64::from(layers))).into_iter().collect();
        shape.extend(product.grid.iter().map(|(_, dim)| dim.clone()));
        shape.extend(config.sides().map(|side| product.extent(Along::Outer(side))));
        shape
    }

    /// Which layer of sums in memory is contraction `n`'s, of a part if there are any.
    pub fn layer(problem: &Problem, part: Option<&Expr>, n: usize) -> Option<Expr> {
        match (part, problem.contractions()) {
            (part, 1) => part.cloned(),
            (part, all) => Some(part.map_or(Expr::index(0), |part| part * i64::from(all)) + n as i64),
        }
    }

    /// The CTA's tile of sums in memory, of a layer if there are any.
    pub fn tile_of(&self, sums: &Buffer, layer: Option<Expr>) -> View {
        let mut origin: Vec<Expr> = layer.into_iter().collect();
        origin.extend((0..self.problem.product.grid.len()).map(|axis| self.grid_at(axis)));
        origin.extend([self.first(0), self.first(1)]);
        let rank = origin.len();
        let axes = (0..rank).map(|axis| axis.checked_sub(rank - 2)).collect();
        let shape = vec![self.config.bm, self.config.bn];
        View { tensor: sums.clone(), origin, axes, shape, masked: vec![true; rank], walks: vec![] }
    }
}

/// What is stored of the points of a tile: a value, be it that a result has it beside others, or several results have parts of it.
struct Stored {
    value: ValueId,
    /// The views between the products and the value, from it on.
    views: Vec<ValueId>,
    results: Vec<Stores>,
}

/// How a result has a value.
struct Stores {
    output: usize,
    /// What has it beside others, and as which of them.
    joined: Option<(ValueId, usize)>,
    /// The views behind, from the last on.
    behind: Vec<ValueId>,
    /// The slice that the result is of that.
    slice: Option<ValueId>,
}

impl Stored {
    /// What is stored of all results.
    fn all(values: &Values, anchors: &[NodeId]) -> Result<Vec<Stored>> {
        let mut all: Vec<Stored> = vec![];
        let op = |v: &ValueId| &values.graph.producer(*v).op;
        for output in 0..values.graph.outputs.len() {
            let mut value = values.output(output);
            let slice = matches!(op(&value), Op::Slice { .. }).then_some(value);
            if slice.is_some() {
                value = values.graph.producer(value).inputs[0];
            }
            let path = views(values, anchors, value)?;
            let at = path.iter().position(|v| matches!(op(v), Op::Concat { .. }));
            let parts = match at {
                Some(at) => &values.graph.producer(path[at]).inputs[..],
                None => &[value],
            };
            for (n, part) in parts.iter().enumerate() {
                let joined = at.map(|at| (path[at], n));
                let result = Stores { output, joined, behind: path[..at.unwrap_or(0)].to_vec(), slice };
                match all.iter_mut().find(|stored| stored.value == *part) {
                    Some(stored) => stored.results.push(result),
                    None => {
                        let views = views(values, anchors, *part)?;
                        all.push(Stored { value: *part, views, results: vec![result] });
                    }
                }
            }
        }
        Ok(all)
    }

    /// Where in a result the element of a point of the einsum's result is, and whether it is there.
    fn place(
        &self,
        values: &mut Values,
        k: &mut dyn Writer,
        result: &Stores,
        point: &[Expr],
    ) -> Result<(Vec<Expr>, Expr)> {
        let mut at = values.viewed(k, &self.views, point)?;
        if let Some((whole, part)) = result.joined {
            at = values.joined(k, whole, part, at)?;
            at = values.viewed(k, &result.behind, &at)?;
        }
        match result.slice {
            Some(slice) => values.sliced(k, slice, &at),
            None => Ok((at, Expr::bool(true))),
        }
    }
}

/// What an operand is a box of.
pub struct Lies {
    tensor: Buffer,
    axes: Axes,
    /// Where each of the axes begins.
    starts: Vec<Expr>,
}

/// Finds the points of a tile of results.
struct Points<'a> {
    problem: &'a Problem,
    sides: [usize; 2],
    first: [Expr; 2],
    /// Where rows and columns end, unless tiles do there.
    ends: [Option<Expr>; 2],
    grid: Vec<(char, Expr)>,
}

/// A point.
struct Point {
    /// Its place in the einsum's result.
    index: Vec<Expr>,
    /// Whether it exists, unless it surely does.
    exists: Option<Expr>,
}

impl Points<'_> {
    fn at(&self, values: &mut Values, k: &mut dyn Writer, at: &[Expr]) -> Point {
        let product = &self.problem.product;
        let mut coordinates = self.grid.clone();
        let mut exists: Option<Expr> = None;
        for axis in 0..2 {
            let position = k.bind(["row", "col"][axis], &self.first[axis] + &at[axis]);
            if let Some(end) = &self.ends[axis] {
                let inside = position.lt(end);
                exists = Some(exists.map_or(inside.clone(), |exists| exists.and(inside)));
            }
            coordinates.extend(product.operands[self.sides[axis]].outer.coordinates(values, k, &position));
        }
        Point { index: indices(&product.labels, &coordinates), exists }
    }
}

/// The index whose axes have these labels; those of one element have no coordinate.
fn indices(labels: &[char], coordinates: &[(char, Expr)]) -> Vec<Expr> {
    let find = |label: &char| {
        let found = coordinates.iter().find(|(l, _)| l == label);
        found.map_or(Expr::index(0), |(_, at)| at.clone())
    };
    labels.iter().map(find).collect()
}

/// The element of an operand at its labels' coordinates.
fn element(
    values: &mut Values,
    k: &mut dyn Writer,
    operand: &Operand,
    coordinates: &[(char, Expr)],
    to: DType,
) -> Result<Expr> {
    let value = values.value(k, operand.value, &indices(&operand.labels, coordinates))?;
    if value.ty() == to {
        return Ok(value);
    }
    Ok(value.cast(operand.dtype.compute()).cast(to))
}
