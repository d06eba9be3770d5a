//! What `#[kiln::kernel]` writes a kernel's body with: tiles, uniform scalars and numbers as one kind of [`Value`], over
//! [`kiln_tile::ir::Builder`].
//!
//! * Arithmetic is in the compute type: `f32` for narrower floats, `i32` for narrower integers. A number takes the type of what it meets.
//! * Tiles broadcast as arrays do in NumPy. All tiles of a kernel have its greatest rank, those of fewer axes with extents of 1 in front.
//! * A load past the end of a tensor gives 0, or what it is told; a store there does nothing.

use super::wrong;
use crate::value::dtype::float_to_int;
use crate::{Error, Result};
use kiln_graph::{Dim, Graph, Relation};
use kiln_tile::ir::{self, Builder, Place, Program, Schedule, Tile};
use kiln_tile::program::Buffer;
use kiln_tile::{DType, Expr};

pub use kiln_tile::ReduceOp;
pub use kiln_tile::expr::UnaryOp;

/// A value of a kernel's body.
#[derive(Clone, Debug)]
pub enum Value {
    /// One element for each place of a tile.
    Tile(Tile),
    /// The same in all threads: made of dims and of loop variables.
    Scalar(Expr),
    /// A literal, or a number of the Config.
    Number(f64),
}

impl Value {
    fn ty(&self) -> Option<kiln_tile::Type> {
        match self {
            Value::Tile(tile) => Some(tile.dtype.compute().into()),
            Value::Scalar(e) => Some(e.ty()),
            Value::Number(_) => None,
        }
    }
}

/// A variable of the grid or of a loop: where its tile begins, and how many elements it has.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Index of the first element.
    pub origin: Expr,
    /// How many.
    pub extent: u32,
}

/// What an axis of a tensor is to a tile.
pub enum At<'w> {
    /// The tile walks along it.
    Walk(&'w Walk),
    /// All of it, which must be of constant extent.
    All,
    /// One index.
    One(Expr),
    /// None: an axis of one element that the tensor lacks.
    New,
}

/// Numbers of a Config as extents, counts and values.
pub trait Number: Copy {
    /// As a number.
    fn number(self) -> f64;
}

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            fn number(self) -> f64 {
                self as f64
            }
        }
    )*};
}

numbers!(i32, u32, i64, u64, usize, f32, f64);

impl<N: Number> Number for &N {
    fn number(self) -> f64 {
        (*self).number()
    }
}

/// A kernel under construction.
pub struct Body<'b> {
    k: &'b mut Builder,
    facts: &'b mut Facts,
}

/// What is known of the whole kernel.
pub struct Facts {
    kernel: String,
    rank: usize,
    pipelined: bool,
    /// Elements of the greatest tile of sums of products, and of all tiles.
    sums: u32,
    greatest: u32,
}

/// Sums that a thread holds at most by default.
const SUMS_A_THREAD: u32 = 128;
/// Elements of a tile that a thread holds at most by default.
const ELEMENTS_A_THREAD: u32 = 32;
/// Tiles along the first axis that are taken before the second one moves on.
const RASTER: u32 = 8;
/// Registers of a thread that copies, and of one of two warpgroups that compute.
const REGISTERS: (u32, u32) = (40, 232);

/// Builds one program: `build` writes the body, `decide` sets what the Config says of the schedule.
///
/// # Errors
/// What the body does wrong with this Config.
pub fn program(
    kernel: &str,
    comment: &str,
    rank: usize,
    decide: impl FnOnce(&mut Schedule),
    build: impl FnOnce(&mut Body<'_>) -> Result<()>,
) -> Result<Program> {
    let mut k = Builder::new(kernel, comment);
    let mut facts = Facts { kernel: kernel.to_owned(), rank: rank.max(2), pipelined: false, sums: 0, greatest: 0 };
    build(&mut Body { k: &mut k, facts: &mut facts })?;
    let warps = facts.sums.div_ceil(32 * SUMS_A_THREAD).max(facts.greatest.div_ceil(32 * ELEMENTS_A_THREAD * 4));
    let mut schedule = Schedule { warps: warps.next_multiple_of(4).clamp(4, 8), ..Schedule::default() };
    if facts.pipelined {
        schedule = Schedule { specialise: true, persistent: true, raster: RASTER, staged_epilogue: true, ..schedule };
    }
    decide(&mut schedule);
    schedule.registers = (schedule.specialise && schedule.warps == 8).then_some(REGISTERS);
    k.schedule(schedule);
    k.finish().map_err(|source| Error::Tile { region: kernel.to_owned(), source: source.into() })
}

impl Body<'_> {
    fn refused(&self, what: &str, help: &str) -> Error {
        wrong(&self.facts.kernel, what, help)
    }

    /// A dim, within what the function declares of the symbol of that name.
    pub fn dim(&mut self, function: &Graph, name: &str) -> Expr {
        let (low, high) = function.symbols.range(name);
        let multiples = function.constraints.iter().filter_map(|c| {
            let own = c.requirement.relation == Relation::Multiple && c.requirement.left == Dim::sym(name);
            own.then(|| c.requirement.right.as_const()).flatten()
        });
        self.k.dim(name, low..=high, multiples.max().unwrap_or(1).max(1))
    }

    /// A tensor that is read.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Buffer {
        self.k.input(name, dtype, shape)
    }

    /// A tensor that is written.
    pub fn output(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Buffer {
        self.k.output(name, dtype, shape)
    }

    /// An extent of a tile.
    ///
    /// # Errors
    /// It is none.
    pub fn extent(&self, number: impl Number) -> Result<u32> {
        let n = number.number();
        if n >= 1.0 && n <= f64::from(1u32 << 16) && n.fract() == 0.0 {
            return Ok(n as u32);
        }
        Err(self.refused(&format!("{n} as the extent of a tile"), "use whole numbers from 1 to 65536"))
    }

    /// The grid: one CTA for each tile of the product of these dims.
    pub fn grid(&mut self, axes: &[(&str, &Expr, u32)]) -> Vec<Walk> {
        let tiles: Vec<(&str, Expr)> =
            axes.iter().map(|(name, dim, extent)| (*name, dim.ceil_div(i64::from(*extent)))).collect();
        let at = self.k.grid(&tiles);
        let walk = |(at, (_, _, extent)): (&Expr, &(&str, &Expr, u32))| Walk {
            origin: at * i64::from(*extent),
            extent: *extent,
        };
        let walks: Vec<Walk> = at.iter().zip(axes).map(walk).collect();
        walks
            .into_iter()
            .zip(axes)
            .map(|(walk, (name, ..))| Walk { origin: self.k.bind(name, walk.origin), ..walk })
            .collect()
    }

    /// The box of a tensor, with the kernel's rank.
    fn view(&mut self, tensor: &Buffer, at: &[At<'_>]) -> Result<ir::View> {
        let axes = at.iter().filter(|at| !matches!(at, At::One(_))).count();
        let mut axis =
            self.facts.rank.checked_sub(axes).ok_or_else(|| self.refused("a tile of too many axes", "use fewer"))?;
        let mut view = ir::View {
            tensor: tensor.clone(),
            origin: vec![],
            axes: vec![],
            shape: vec![1; axis],
            masked: vec![],
            walks: vec![],
        };
        for at in at {
            let extent = match at {
                At::Walk(walk) => walk.extent,
                At::All => {
                    let extent = tensor.shape.get(view.origin.len()).and_then(Expr::as_const);
                    let extent = extent.and_then(|n| u32::try_from(n).ok());
                    extent.ok_or_else(|| {
                        self.refused("`..` along an axis whose extent is no constant", "walk along it in a loop")
                    })?
                }
                At::One(_) | At::New => 1,
            };
            if !matches!(at, At::New) {
                view.origin.push(match at {
                    At::Walk(walk) => walk.origin.clone(),
                    At::One(index) => index.clone(),
                    At::All | At::New => Expr::index(0),
                });
                view.axes.push((!matches!(at, At::One(_))).then_some(axis));
                view.masked.push(!matches!(at, At::All));
            }
            if !matches!(at, At::One(_)) {
                view.shape.push(extent);
                axis += 1;
            }
        }
        Ok(view)
    }

    /// A tile of a tensor, `fill` where there are no elements.
    ///
    /// # Errors
    /// `..` along an axis whose extent is no constant.
    pub fn load(&mut self, tensor: &Buffer, at: &[At<'_>], fill: f64) -> Result<Value> {
        let view = self.view(tensor, at)?;
        let shape = view.shape.clone();
        self.seen(&shape);
        let fill = Expr::float(tensor.dtype, fill);
        Ok(Value::Tile(self.k.load_or(&tensor.name, Place::View(view), &shape, fill)))
    }

    /// Stores a value to a tile of a tensor, in the tensor's type.
    ///
    /// # Errors
    /// Those of [`Body::load`], and extents that are not the tile's.
    pub fn store(&mut self, tensor: &Buffer, at: &[At<'_>], value: &Value) -> Result<()> {
        let view = self.view(tensor, at)?;
        let shape = view.shape.clone();
        let value = match value {
            Value::Tile(tile) if tile.shape == shape => tile.clone(),
            value => {
                // Broadcast: beside a tile of the place's own extents.
                let place = Value::Tile(self.k.full("place", tensor.dtype, &shape, Expr::float(tensor.dtype, 0.0)));
                match self.map("spread", &[place, value.clone()], |x| x[1].clone())? {
                    Value::Tile(tile) if tile.shape == shape => tile,
                    _ => {
                        return Err(self.refused(
                            "a tile of other extents than the place that it is stored to",
                            "store a tile of its extents",
                        ));
                    }
                }
            }
        };
        let Value::Tile(value) = self.cast(&Value::Tile(value), tensor.dtype)? else { return Ok(()) };
        self.k.store(Place::View(view), &value);
        Ok(())
    }

    /// A tile whose elements are all `value`.
    pub fn full(&mut self, dtype: DType, extents: &[u32], value: f64) -> Value {
        let mut shape = vec![1; self.facts.rank.saturating_sub(extents.len())];
        shape.extend(extents);
        self.seen(&shape);
        Value::Tile(self.k.full("full", dtype, &shape, Expr::float(dtype, value)))
    }

    fn seen(&mut self, shape: &[u32]) {
        self.facts.greatest = self.facts.greatest.max(shape.iter().fold(1, |n, extent| n.saturating_mul(*extent)));
    }

    /// A function of elements, which are in their compute types; numbers take the type of the last other one that is not bool, or are `f32`.
    ///
    /// # Errors
    /// Extents that do not broadcast.
    pub fn map(&mut self, name: &str, args: &[Value], of: impl FnOnce(&[Expr]) -> Expr) -> Result<Value> {
        let like = args.iter().rev().filter_map(Value::ty).find(|ty| *ty != DType::Bool);
        let like = like.unwrap_or(DType::F32.into());
        let number = |n: f64| Expr::float(like, n);
        let tiles: Vec<&Tile> =
            args.iter().filter_map(|arg| if let Value::Tile(tile) = arg { Some(tile) } else { None }).collect();
        let Some(first) = tiles.first() else {
            let scalars: Vec<Expr> = args
                .iter()
                .map(|arg| match arg {
                    Value::Scalar(e) => e.clone(),
                    Value::Number(n) => number(*n),
                    Value::Tile(_) => Expr::bool(false),
                })
                .collect();
            return Ok(Value::Scalar(of(&scalars)));
        };
        let mut shape = first.shape.clone();
        for tile in &tiles {
            for (extent, other) in shape.iter_mut().zip(&tile.shape) {
                *extent = match (*extent, *other) {
                    (1, n) | (n, 1) => n,
                    (a, b) if a == b => a,
                    (a, b) => {
                        return Err(self.refused(
                            &format!("tiles of extents {a} and {b} in one formula"),
                            "make them equal, or one of them 1",
                        ));
                    }
                };
            }
        }
        self.seen(&shape);
        let tile = self.k.map(name, &shape, &tiles, |_, x, _| {
            let mut x = x.iter();
            let elements: Vec<Expr> = args
                .iter()
                .map(|arg| match arg {
                    Value::Tile(tile) => x.next().map_or(Expr::bool(false), |x| x.cast(tile.dtype.compute())),
                    Value::Scalar(e) => e.clone(),
                    Value::Number(n) => number(*n),
                })
                .collect();
            of(&elements)
        });
        Ok(Value::Tile(tile))
    }

    /// Converts: floats round to nearest even, and truncate and saturate on the way to integers.
    ///
    /// # Errors
    /// None for a tile.
    pub fn cast(&mut self, value: &Value, dtype: DType) -> Result<Value> {
        match value {
            Value::Tile(tile) if tile.dtype == dtype => Ok(value.clone()),
            Value::Number(n) => Ok(Value::Scalar(Expr::float(dtype, *n))),
            value => self.map("cast", std::slice::from_ref(value), |x| match x[0].ty().is_float() && dtype.is_int() {
                true => float_to_int(&x[0], dtype).cast(dtype),
                false => x[0].cast(dtype),
            }),
        }
    }

    /// The product of two tiles of rank 2, added to `sums` where there are some, which are not used again.
    ///
    /// # Errors
    /// Operands of two types, and depths that differ.
    pub fn dot(&mut self, a: &Value, b: &Value, sums: Option<&Value>) -> Result<Value> {
        let (Value::Tile(a), Value::Tile(b)) = (a, b) else {
            return Err(self.refused("a product of what is no tile", "multiply tiles"));
        };
        let ([m, depth], [k, n]) = (&a.shape[..], &b.shape[..]) else {
            return Err(self.refused("a product of tiles in a kernel of more axes", "use tiles of 2 axes at most"));
        };
        if depth != k {
            let what = format!("a product of [{m}, {depth}] by [{k}, {n}]");
            return Err(self.refused(&what, "make the depths equal; `.t()` exchanges the axes of a tile"));
        }
        let dtype = if a.dtype.is_int() { DType::I32 } else { a.dtype.compute() };
        let sums = match sums {
            Some(Value::Tile(sums)) => sums.clone(),
            _ => self.k.full("sums", dtype, &[*m, *n], Expr::float(dtype, 0.0)),
        };
        self.facts.sums = self.facts.sums.max(m * n);
        Ok(Value::Tile(self.k.dot(a, b, &sums)))
    }

    /// Combines the elements along an axis of so many, counted from the last one: the axis is left with extent 1.
    ///
    /// # Errors
    /// What is no tile.
    pub fn reduce(&mut self, op: ReduceOp, value: &Value, from_last: usize) -> Result<Value> {
        let axis = self.facts.rank.checked_sub(from_last + 1);
        let dtype = value.ty().and_then(kiln_tile::Type::element);
        let (Some(axis), Some(dtype)) = (axis, dtype) else {
            return Err(self.refused("a reduction of what is no tile", "reduce a tile"));
        };
        match self.cast(value, dtype)? {
            Value::Tile(tile) => Ok(Value::Tile(self.k.reduce("reduced", op, &tile, axis))),
            _ => Err(self.refused("a reduction of what is no tile", "reduce a tile")),
        }
    }

    /// A tile with its last two axes exchanged.
    ///
    /// # Errors
    /// What is no tile.
    pub fn transpose(&mut self, value: &Value) -> Result<Value> {
        let Value::Tile(tile) = value else { return Err(self.refused("`.t()` of what is no tile", "give it a tile")) };
        let mut perm: Vec<usize> = (0..tile.shape.len()).collect();
        let rank = perm.len();
        perm.swap(rank - 2, rank - 1);
        Ok(Value::Tile(self.k.transpose(tile, &perm)))
    }

    /// Walks along a dim in tiles; gives what is carried after the last one. `stages` tells how many tiles the loads that feed products may be
    /// ahead.
    ///
    /// # Errors
    /// Those of the body, and carried values that are no tiles.
    pub fn walk(
        &mut self,
        name: &str,
        (dim, extent): (&Expr, u32),
        stages: Option<u32>,
        carried: &[&Value],
        build: impl FnOnce(&mut Body<'_>, &Walk, &[Value]) -> Result<Vec<Value>>,
    ) -> Result<Vec<Value>> {
        let first = carried.iter().map(|value| self.carried(value)).collect::<Result<Vec<Tile>>>()?;
        self.facts.pipelined |= stages.is_some();
        let Body { k, facts } = self;
        let range = (Expr::index(0), dim.clone(), i64::from(extent));
        let last = k.try_for_range(name, range, stages, &first, |k, at, inside| {
            let inside: Vec<Value> = inside.iter().cloned().map(Value::Tile).collect();
            let mut body = Body { k, facts };
            let next = build(&mut body, &Walk { origin: at.clone(), extent }, &inside)?;
            next.iter().map(|value| body.carried(value)).collect::<Result<Vec<Tile>>>()
        })?;
        Ok(last.into_iter().map(Value::Tile).collect())
    }

    /// Runs `build` for when a condition holds and for when it does not; both give what they change.
    ///
    /// # Errors
    /// Those of the bodies, and changed values that are no tiles.
    pub fn branch(
        &mut self,
        cond: &Value,
        mut build: impl FnMut(&mut Body<'_>, bool) -> Result<Vec<Value>>,
    ) -> Result<Vec<Value>> {
        let Value::Scalar(cond) = cond else {
            return Err(self.refused("a condition on elements", "choose between elements by `select`"));
        };
        let Body { k, facts } = self;
        let results = k.try_if_else(cond.clone(), |k, holds| {
            let mut body = Body { k, facts };
            let changed = build(&mut body, holds)?;
            changed.iter().map(|value| body.carried(value)).collect::<Result<Vec<Tile>>>()
        })?;
        Ok(results.into_iter().map(Value::Tile).collect())
    }

    fn carried(&self, value: &Value) -> Result<Tile> {
        match value {
            Value::Tile(tile) => Ok(tile.clone()),
            _ => {
                Err(self
                    .refused("a number that a loop or a branch changes", "make it a tile: `full::<f32>(value, [1])`"))
            }
        }
    }
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`
pub fn gelu(x: &Expr) -> Expr {
    x * 0.5 * ((x * std::f64::consts::FRAC_1_SQRT_2).unary(UnaryOp::Erf) + 1.0)
}

/// GELU by its approximation with `tanh`.
pub fn gelu_tanh(x: &Expr) -> Expr {
    let inner = (x + x * x * x * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
    x * 0.5 * (inner.unary(UnaryOp::Tanh) + 1.0)
}

/// `1 / (1 + exp(-x))`
pub fn sigmoid(x: &Expr) -> Expr {
    1.0 / ((-x.clone()).unary(UnaryOp::Exp) + 1.0)
}

/// `x * sigmoid(x)`
pub fn silu(x: &Expr) -> Expr {
    x * sigmoid(x)
}

/// `1 / x`
pub fn recip(x: &Expr) -> Expr {
    1.0 / x
}

/// A uniform index.
pub fn index(value: Value) -> Expr {
    match value {
        Value::Scalar(e) => e,
        Value::Number(n) => Expr::index(n as i64),
        Value::Tile(_) => Expr::index(0),
    }
}
