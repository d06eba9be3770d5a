//! Builds a T0 [`Program`] statement by statement.

use super::{Block, Grid, Level, Op, Operand, Place, Program, Scalar, Schedule, Stmt, Value, ValueId, View, verify};
use crate::builder::identifier;
use crate::dtype::{DType, Type};
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::program::{Access, AtomicOp, Axis, Buffer, Param, ReduceOp, Scope};
use kiln_num::Round;
use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A tile value and its type; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Which value of the program.
    pub id: ValueId,
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<u32>,
}

/// Builds one kernel out of tiles. Mistakes in types and shapes are found by [`Builder::finish`].
pub struct Builder {
    program: Program,
    open: Vec<Block>,
}

impl Builder {
    /// A kernel called `name` (any text; it is made an identifier) that computes what `comment` says in one line.
    pub fn new(name: &str, comment: &str) -> Builder {
        Builder {
            program: Program {
                name: identifier(name),
                comment: comment.lines().collect::<Vec<_>>().join(" "),
                level: Level::Tile,
                params: vec![],
                domain: vec![],
                grid: Grid::Points,
                schedule: Schedule::default(),
                values: vec![],
                shared: vec![],
                channels: vec![],
                barriers: vec![],
                body: vec![],
                next_id: 0,
            },
            open: vec![vec![]],
        }
    }

    /// Sets what the Config decides.
    pub fn schedule(&mut self, schedule: Schedule) {
        self.program.schedule = schedule;
    }

    /// The finished program.
    ///
    /// # Errors
    /// The first rule of [`verify`](super::verify()) that it breaks.
    pub fn finish(mut self) -> Result<Program> {
        self.program.body = self.open.pop().unwrap_or_default();
        verify(&self.program)?;
        Ok(self.program)
    }

    // ---- parameters -------------------------------------------------------------------------------------------------

    /// A runtime index parameter within `range`, known to be a multiple of `multiple_of`.
    pub fn dim(&mut self, name: &str, range: RangeInclusive<i64>, multiple_of: i64) -> Expr {
        self.program.add_dim(name, range, multiple_of)
    }

    /// A runtime scalar parameter of a compute type.
    pub fn scalar(&mut self, name: &str, dtype: DType) -> Expr {
        self.program.add_scalar(name, dtype)
    }

    /// A tensor with given strides in elements.
    pub fn tensor_strided(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[Expr],
        strides: &[Expr],
        access: Access,
    ) -> Buffer {
        self.program.add_tensor(name, dtype, shape, strides, access)
    }

    /// A row-major tensor.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[Expr], access: Access) -> Buffer {
        self.tensor_strided(name, dtype, shape, &row_major(shape), access)
    }

    /// A row-major tensor that is only read.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Buffer {
        self.tensor(name, dtype, shape, Access::Read)
    }

    /// A row-major tensor that is only written.
    pub fn output(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Buffer {
        self.tensor(name, dtype, shape, Access::Write)
    }

    /// The domain: every point of the product of these axes is executed once, by one CTA. Gives a coordinate for each.
    pub fn grid(&mut self, axes: &[(&str, Expr)]) -> Vec<Expr> {
        let axes: Vec<Axis> = axes
            .iter()
            .map(|(name, extent)| Axis { var: self.program.add_var(name, Type::Index), extent: extent.clone() })
            .collect();
        let at = axes.iter().map(|axis| Expr::var(&axis.var)).collect();
        self.program.domain = axes;
        at
    }

    // ---- scalars ----------------------------------------------------------------------------------------------------

    /// A new variable, to be declared by what it is given to.
    pub fn var(&mut self, name: &str, ty: impl Into<Type>) -> Var {
        self.program.add_var(name, ty)
    }

    /// Names a uniform scalar.
    pub fn bind(&mut self, name: &str, value: Expr) -> Expr {
        if matches!(value.kind(), crate::expr::ExprKind::Const(_) | crate::expr::ExprKind::Var(_)) {
            return value;
        }
        let var = self.var(name, value.ty());
        self.push(vec![], Op::Bind { var: var.clone(), value, below: None });
        Expr::var(&var)
    }

    // ---- tiles ------------------------------------------------------------------------------------------------------

    fn push(&mut self, results: Vec<ValueId>, op: Op) {
        if let Some(block) = self.open.last_mut() {
            block.push(Stmt { results, op });
        }
    }

    fn tile(&mut self, name: &str, dtype: DType, shape: &[u32]) -> Tile {
        Tile { id: self.program.add_value(name, dtype, shape), dtype, shape: shape.to_vec() }
    }

    fn define(&mut self, name: &str, dtype: DType, shape: &[u32], op: Op) -> Tile {
        let tile = self.tile(name, dtype, shape);
        self.push(vec![tile.id], op);
        tile
    }

    /// A tile whose elements are all `value`.
    pub fn full(&mut self, name: &str, dtype: DType, shape: &[u32], value: Expr) -> Tile {
        self.define(name, dtype, shape, Op::Full { value: value.cast(dtype) })
    }

    /// The box of `tensor` at `origin` whose last axes have the extents `shape`; the axes before have extent 1 and no axis in the tile.
    pub fn view(&mut self, tensor: &Buffer, origin: &[Expr], shape: &[u32]) -> View {
        let lead = origin.len().saturating_sub(shape.len());
        View {
            tensor: tensor.clone(),
            origin: origin.to_vec(),
            axes: (0..origin.len()).map(|axis| axis.checked_sub(lead)).collect(),
            shape: shape.to_vec(),
            masked: vec![true; origin.len()],
            walks: vec![],
        }
    }

    /// The elements that `build` tells for coordinates of a tile of this shape: their index, and whether they exist.
    pub fn elements(
        &mut self,
        tensor: &Buffer,
        shape: &[u32],
        build: impl FnOnce(&mut MapBuilder<'_>, &[Expr]) -> (Vec<Expr>, Expr),
    ) -> Place {
        let axes: Vec<Var> = (0..shape.len()).map(|axis| self.var(&format!("i{axis}"), Type::Index)).collect();
        let at: Vec<Expr> = axes.iter().map(Expr::var).collect();
        let mut map = MapBuilder { program: &mut self.program, body: vec![] };
        let (index, mask) = build(&mut map, &at);
        let body = map.body;
        Place::Elements { tensor: tensor.clone(), axes, body, index, mask }
    }

    /// The elements of a box, zero where there are none.
    pub fn load(&mut self, name: &str, view: View) -> Tile {
        let fill = Expr::int(view.tensor.dtype, 0);
        self.load_or(name, Place::View(view.clone()), &view.shape, fill)
    }

    /// Elements from memory, `fill` where there are none.
    pub fn load_or(&mut self, name: &str, from: Place, shape: &[u32], fill: Expr) -> Tile {
        let dtype = from.tensor().dtype;
        self.define(name, dtype, shape, Op::Load { from, fill })
    }

    /// Stores a tile, cast to the tensor's type.
    pub fn store(&mut self, to: Place, value: &Tile) {
        let dtype = to.tensor().dtype;
        let value = self.cast(value, dtype);
        self.push(vec![], Op::Store { to, value: value.id });
    }

    /// Updates elements of memory atomically.
    pub fn atomic(&mut self, op: AtomicOp, to: Place, value: &Tile) {
        let dtype = to.tensor().dtype;
        let value = self.cast(value, dtype);
        self.push(vec![], Op::Atomic { op, to, value: value.id });
    }

    /// Waits until a counter is `value`, and holds it: [`Op::Await`].
    pub fn wait_for(&mut self, counter: &Buffer, index: &[Expr], value: Expr) {
        self.push(vec![], Op::Await { counter: counter.clone(), index: index.to_vec(), value });
    }

    /// Gives a counter back as `value`: [`Op::Signal`].
    pub fn signal(&mut self, counter: &Buffer, index: &[Expr], value: Expr) {
        self.push(vec![], Op::Signal { counter: counter.clone(), index: index.to_vec(), value });
    }

    /// A tile of the operands' elements at the same coordinates, where an axis of extent 1 is repeated; `build` gets the elements and the
    /// coordinates, may name scalars, and gives the result's element.
    pub fn map(
        &mut self,
        name: &str,
        shape: &[u32],
        args: &[&Tile],
        build: impl FnOnce(&mut MapBuilder<'_>, &[Expr], &[Expr]) -> Expr,
    ) -> Tile {
        let [tile] = self.map_many([name], shape, args, |map, x, at| [build(map, x, at)]);
        tile
    }

    /// [`Builder::map`] with several results.
    pub fn map_many<const N: usize>(
        &mut self,
        names: [&str; N],
        shape: &[u32],
        args: &[&Tile],
        build: impl FnOnce(&mut MapBuilder<'_>, &[Expr], &[Expr]) -> [Expr; N],
    ) -> [Tile; N] {
        let Ok(tiles) = self.try_map(&names, shape, args, |map, x, at| Ok::<_, Infallible>(build(map, x, at).to_vec()));
        std::array::from_fn(|i| tiles[i].clone())
    }

    /// [`Builder::map`] with any number of results, which may fail.
    pub fn try_map<E>(
        &mut self,
        names: &[&str],
        shape: &[u32],
        args: &[&Tile],
        build: impl FnOnce(&mut MapBuilder<'_>, &[Expr], &[Expr]) -> std::result::Result<Vec<Expr>, E>,
    ) -> std::result::Result<Vec<Tile>, E> {
        let axes: Vec<Var> = (0..shape.len()).map(|axis| self.var(&format!("i{axis}"), Type::Index)).collect();
        let args: Vec<(Var, ValueId)> = args
            .iter()
            .map(|tile| {
                let name = self.program.value(tile.id).name.clone();
                (self.var(&name, tile.dtype), tile.id)
            })
            .collect();
        let elements: Vec<Expr> = args.iter().map(|(var, _)| Expr::var(var)).collect();
        let at: Vec<Expr> = axes.iter().map(Expr::var).collect();
        let mut map = MapBuilder { program: &mut self.program, body: vec![] };
        let results = build(&mut map, &elements, &at)?;
        let body = map.body;
        let dtype = |e: &Expr| e.ty().element().unwrap_or(DType::I64);
        let results: Vec<Expr> = results.into_iter().map(|e| e.cast(dtype(&e))).collect();
        let tiles: Vec<Tile> = results.iter().zip(names).map(|(e, name)| self.tile(name, dtype(e), shape)).collect();
        let ids = tiles.iter().map(|tile| tile.id).collect();
        self.push(ids, Op::Map { axes, args, body, results });
        Ok(tiles)
    }

    /// The same values in another type.
    pub fn cast(&mut self, tile: &Tile, dtype: DType) -> Tile {
        if tile.dtype == dtype {
            return tile.clone();
        }
        let name = self.program.value(tile.id).name.clone();
        self.map(&name, &tile.shape, &[tile], |_, x, _| x[0].cast(dtype))
    }

    /// Combines the elements along an axis, which is left with extent 1.
    pub fn reduce(&mut self, name: &str, op: ReduceOp, value: &Tile, axis: usize) -> Tile {
        self.reduce_to(name, op, value, axis, 1)
    }

    /// Combines the elements along an axis that are a multiple of `left` apart, so that `left` remain; `left` divides the extent.
    pub fn reduce_to(&mut self, name: &str, op: ReduceOp, value: &Tile, axis: usize, left: u32) -> Tile {
        let mut shape = value.shape.clone();
        if let Some(extent) = shape.get_mut(axis) {
            *extent = left;
        }
        self.define(name, value.dtype, &shape, Op::Reduce { op, value: value.id, axis })
    }

    /// Combines each element with those at its place in the other CTAs of the cluster: [`Op::ClusterReduce`].
    pub fn cluster_reduce(&mut self, of: &[(ReduceOp, Tile)]) -> Vec<Tile> {
        let results: Vec<Tile> = of
            .iter()
            .map(|(_, tile)| {
                let name = self.program.value(tile.id).name.clone();
                self.tile(&name, tile.dtype, &tile.shape)
            })
            .collect();
        let of = of.iter().map(|(op, tile)| (*op, tile.id)).collect();
        self.push(results.iter().map(|tile| tile.id).collect(), Op::ClusterReduce { of });
        results
    }

    /// The same elements with axes in another order.
    pub fn transpose(&mut self, value: &Tile, perm: &[usize]) -> Tile {
        let shape: Vec<u32> = perm.iter().filter_map(|&axis| value.shape.get(axis).copied()).collect();
        let name = self.program.value(value.id).name.clone();
        self.define(&name, value.dtype, &shape, Op::Transpose { value: value.id, perm: perm.to_vec() })
    }

    /// `acc[m, n] + a[m, k] * b[k, n]`; `acc` may not be used again.
    pub fn dot(&mut self, a: &Tile, b: &Tile, acc: &Tile) -> Tile {
        self.dot_rounded(a, b, acc, None)
    }

    /// [`Builder::dot`] of f32 that are rounded to TF32 first, where that is said.
    pub fn dot_rounded(&mut self, a: &Tile, b: &Tile, acc: &Tile, tf32: Option<Round>) -> Tile {
        let name: Arc<str> = self.program.value(acc.id).name.clone();
        let op = Op::Dot { a: Operand::Tile(a.id), b: Operand::Tile(b.id), acc: acc.id, tf32, atom: None };
        self.define(&name, acc.dtype, &acc.shape, op)
    }

    // ---- control flow -----------------------------------------------------------------------------------------------

    fn nested<T>(&mut self, build: impl FnOnce(&mut Builder) -> T) -> (Block, T) {
        self.open.push(vec![]);
        let result = build(self);
        (self.open.pop().unwrap_or_default(), result)
    }

    /// Runs `body` for an index from `start` to `end`, excluded, by `step`; it gets the carried tiles and gives those of the next iteration.
    /// `stages` tells how many tiles the loads that feed its dots may be ahead. Gives the last carried tiles.
    pub fn for_range(
        &mut self,
        name: &str,
        (start, end, step): (Expr, Expr, i64),
        stages: Option<u32>,
        carried: &[Tile],
        build: impl FnOnce(&mut Builder, &Expr, &[Tile]) -> Vec<Tile>,
    ) -> Vec<Tile> {
        let build = |k: &mut Builder, i: &Expr, inside: &[Tile]| Ok::<_, Infallible>(build(k, i, inside));
        let Ok(results) = self.try_for_range(name, (start, end, step), stages, carried, build);
        results
    }

    /// [`Builder::for_range`], which may fail.
    pub fn try_for_range<E>(
        &mut self,
        name: &str,
        (start, end, step): (Expr, Expr, i64),
        stages: Option<u32>,
        carried: &[Tile],
        build: impl FnOnce(&mut Builder, &Expr, &[Tile]) -> std::result::Result<Vec<Tile>, E>,
    ) -> std::result::Result<Vec<Tile>, E> {
        let var = self.var(name, Type::Index);
        let renew = |k: &mut Builder, tile: &Tile| {
            let name = k.program.value(tile.id).name.clone();
            k.tile(&name, tile.dtype, &tile.shape)
        };
        let inside: Vec<Tile> = carried.iter().map(|tile| renew(self, tile)).collect();
        let (body, yields) = self.nested(|k| build(k, &Expr::var(&var), &inside));
        let yields = yields?;
        let results: Vec<Tile> = carried.iter().map(|tile| renew(self, tile)).collect();
        let op = Op::For {
            var,
            start,
            end,
            step: Expr::index(step),
            carried: inside.iter().zip(carried).map(|(inside, first)| (inside.id, first.id)).collect(),
            body,
            yields: yields.iter().map(|tile| tile.id).collect(),
            stages,
        };
        self.push(results.iter().map(|tile| tile.id).collect(), op);
        Ok(results)
    }

    /// Runs one of two blocks, which give tiles of the same types.
    pub fn if_else(
        &mut self,
        cond: Expr,
        then: impl FnOnce(&mut Builder) -> Vec<Tile>,
        otherwise: impl FnOnce(&mut Builder) -> Vec<Tile>,
    ) -> Vec<Tile> {
        let (then, otherwise) = (self.nested(then), self.nested(otherwise));
        self.branch(cond, then, otherwise)
    }

    /// [`Builder::if_else`] with one closure for both, which is told whether the condition holds, and may fail.
    pub fn try_if_else<E>(
        &mut self,
        cond: Expr,
        mut build: impl FnMut(&mut Builder, bool) -> std::result::Result<Vec<Tile>, E>,
    ) -> std::result::Result<Vec<Tile>, E> {
        let (then, yes) = self.nested(|k| build(k, true));
        let (otherwise, no) = self.nested(|k| build(k, false));
        Ok(self.branch(cond, (then, yes?), (otherwise, no?)))
    }

    fn branch(&mut self, cond: Expr, then: (Block, Vec<Tile>), otherwise: (Block, Vec<Tile>)) -> Vec<Tile> {
        let ids = |tiles: &[Tile]| tiles.iter().map(|tile| tile.id).collect::<Vec<ValueId>>();
        let results: Vec<Tile> = then
            .1
            .iter()
            .map(|tile| {
                let Value { name, .. } = self.program.value(tile.id).clone();
                self.tile(&name, tile.dtype, &tile.shape)
            })
            .collect();
        let op = Op::If { cond, then: (then.0, ids(&then.1)), otherwise: (otherwise.0, ids(&otherwise.1)) };
        self.push(ids(&results), op);
        results
    }
}

impl Program {
    fn add_dim(&mut self, name: &str, range: RangeInclusive<i64>, multiple_of: i64) -> Expr {
        let var = self.add_var(name, Type::Index);
        let range = (*range.start(), *range.end());
        self.params.push(Param::Scalar { var: var.clone(), range, multiple_of });
        Expr::var(&var)
    }

    fn add_scalar(&mut self, name: &str, dtype: DType) -> Expr {
        let var = self.add_var(name, dtype);
        self.params.push(Param::Scalar { var: var.clone(), range: (i64::MIN, i64::MAX), multiple_of: 1 });
        Expr::var(&var)
    }

    fn add_tensor(&mut self, name: &str, dtype: DType, shape: &[Expr], strides: &[Expr], access: Access) -> Buffer {
        self.next_id += 1;
        let id = self.next_id - 1;
        let buffer = Buffer::strided(id, name, dtype, Scope::Global, shape.to_vec(), strides.to_vec());
        self.params.push(Param::Buffer { buffer: buffer.clone(), access });
        buffer
    }
}

/// Strides of a row-major tensor.
pub fn row_major(shape: &[Expr]) -> Vec<Expr> {
    let mut strides = vec![Expr::index(1); shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = &strides[i] * &shape[i];
    }
    strides
}

/// Names scalars inside of a map or of a place; may declare parameters that turn out to be needed.
pub struct MapBuilder<'p> {
    program: &'p mut Program,
    body: Vec<Scalar>,
}

impl MapBuilder<'_> {
    /// Names a value, so that it is computed once.
    pub fn bind(&mut self, name: &str, value: Expr) -> Expr {
        let var = self.program.add_var(name, value.ty());
        self.body.push(Scalar::Bind { var: var.clone(), value });
        Expr::var(&var)
    }

    /// Notes a fault where `violated` holds.
    pub fn check(&mut self, violated: Expr, fault: &Buffer, code: Expr) {
        self.body.push(Scalar::Check { violated, fault: fault.clone(), code });
    }

    /// [`Builder::dim`].
    pub fn dim(&mut self, name: &str, range: RangeInclusive<i64>, multiple_of: i64) -> Expr {
        self.program.add_dim(name, range, multiple_of)
    }

    /// [`Builder::scalar`].
    pub fn scalar(&mut self, name: &str, dtype: DType) -> Expr {
        self.program.add_scalar(name, dtype)
    }

    /// [`Builder::tensor`].
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[Expr], access: Access) -> Buffer {
        self.program.add_tensor(name, dtype, shape, &row_major(shape), access)
    }
}
