//! Random programs of level T0 with arguments: loads with odd origins and in any order of axes, maps, reductions, loops with carried tiles,
//! dots, branches, stores, atomics and faults.
//!
//! What is drawn is a list of numbers, each of which decides one thing; past its end all are 0, the simplest choice. So proptest shrinks a
//! failure by dropping numbers.

use super::random::{Random, poison};
use super::{f32, walk};
use kiln_target::arch::Arch;
use kiln_tile::interp::Arg;
use kiln_tile::ir::{Builder, MapBuilder, Place, Program, Schedule, Tile};
use kiln_tile::{Access, Array, AtomicOp, Buffer, DType, Expr, ReduceOp, Type};
use proptest::prelude::{Strategy, any};

/// A program, what to run it on, and what it does in words.
pub struct Case {
    pub program: Program,
    pub args: Vec<Arg>,
    pub arch: Arch,
    pub steps: Vec<String>,
}

/// Decisions.
pub fn tapes() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(any::<u16>(), 8..80)
}

struct Tape<'a>(std::slice::Iter<'a, u16>);

impl Tape<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.0.next().map_or(0, |x| usize::from(*x) % n)
    }

    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())].clone()
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }
}

/// The axes that tensors have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Axis {
    M,
    N,
    K,
}

struct Generator<'a> {
    tape: Tape<'a>,
    values: Random,
    k: Builder,
    args: Vec<Arg>,
    steps: Vec<String>,
    /// Of M, N and K: the extent, its value, the tile's.
    extents: [Expr; 3],
    sizes: [usize; 3],
    tile: [u32; 3],
    /// Where the tile starts along M and N.
    origin: [Expr; 2],
    tensors: usize,
    /// Tensors that are read.
    inputs: Vec<(Buffer, Vec<Axis>)>,
    /// Tiles of `[M, N]` in f32.
    pool: Vec<Tile>,
}

/// The program that a list of decisions stands for.
pub fn generate(tape: &[u16]) -> Case {
    let seed = tape.iter().fold(0, |seed: u64, x| seed.wrapping_mul(31).wrapping_add(u64::from(*x)));
    let mut generator = Generator {
        tape: Tape(tape.iter()),
        values: Random(fastrand::Rng::with_seed(seed)),
        k: Builder::new("random", "a random program"),
        args: vec![],
        steps: vec![],
        extents: [0; 3].map(Expr::index),
        sizes: [0; 3],
        tile: [0; 3],
        origin: [0; 2].map(Expr::index),
        tensors: 0,
        inputs: vec![],
        pool: vec![],
    };
    // Half of them where there is most to choose from.
    let arch = if generator.tape.flip() { Arch::Sm90a } else { generator.tape.pick(&Arch::ALL) };
    let schedule = generator.schedule();
    generator.space();
    generator.load();
    for _ in 0..generator.tape.below(6) {
        match generator.tape.below(8) {
            0 | 1 => generator.product(),
            2 => generator.two_products(),
            3 => generator.map(),
            4 => generator.reduce(),
            5 => generator.running(),
            6 => generator.branch(),
            _ => generator.load(),
        }
    }
    for _ in 0..1 + generator.tape.below(3) {
        generator.store();
    }
    let Generator { mut k, args, mut steps, .. } = generator;
    steps.push(format!("{schedule:?} on {arch}"));
    k.schedule(schedule);
    Case { program: k.finish().expect("a valid program"), args, arch, steps }
}

impl Generator<'_> {
    fn schedule(&mut self) -> Schedule {
        let tape = &mut self.tape;
        let registers = if tape.flip() { Some((40, 232)) } else { None };
        Schedule {
            warps: tape.pick(&[4, 8]),
            specialise: tape.flip(),
            registers,
            persistent: tape.flip(),
            raster: tape.pick(&[0, 2, 3]),
            row_threads: tape.pick(&[0, 8]),
            staged_epilogue: tape.flip(),
            overlap: tape.flip(),
            ping_pong: tape.flip(),
            cluster: tape.pick(&[1, 2, 4]),
            across: tape.flip(),
        }
    }

    /// Extents that are constants or parameters, of any divisor, and the grid.
    fn space(&mut self) {
        for axis in 0..3 {
            let name = ["m", "n", "k"][axis];
            let align = self.tape.pick(&[1, 8, 64]);
            let whole = 1 + self.tape.below(if align == 64 { 2 } else { 50 / align });
            let empty = axis == 2 && align == 1 && self.tape.below(8) == 1;
            let size = if empty { 0 } else { align * whole };
            self.sizes[axis] = size;
            self.extents[axis] = if self.tape.flip() {
                Expr::index(size as i64)
            } else {
                self.args.push(Arg::dim(size as i64));
                let least = if axis == 2 { 0 } else { align as i64 };
                self.k.dim(name, least..=1 << 16, align as i64)
            };
            self.tile[axis] = self.tape.pick(&[32, 16, 64]);
            self.steps.push(format!("{name} is {size}, a multiple of {align}, by tiles of {}", self.tile[axis]));
        }
        let [bm, bn] = [0, 1].map(|axis| i64::from(self.tile[axis]));
        let at = self.k.grid(&[("i", self.extents[0].ceil_div(bm)), ("j", self.extents[1].ceil_div(bn))]);
        self.origin = [&at[0] * bm, &at[1] * bn];
        if self.tape.flip() {
            self.origin = [self.k.bind("m0", self.origin[0].clone()), self.k.bind("n0", self.origin[1].clone())];
        }
    }

    fn shape(&self) -> [u32; 2] {
        [self.tile[0], self.tile[1]]
    }

    fn name(&mut self) -> String {
        self.tensors += 1;
        format!("t{}", self.tensors)
    }

    /// A new tensor, or one that is there.
    fn input(&mut self, dtype: DType, axes: &[Axis]) -> Buffer {
        let alike = self.inputs.iter().rfind(|(tensor, known)| tensor.dtype == dtype && known == axes);
        if let Some((tensor, _)) = alike
            && self.tape.below(3) == 1
        {
            self.steps.push(format!("{} again", tensor.name));
            return tensor.clone();
        }
        let shape: Vec<Expr> = axes.iter().map(|axis| self.extents[*axis as usize].clone()).collect();
        let len = axes.iter().map(|axis| self.sizes[*axis as usize]).product();
        self.args.push(Arg::Array(self.values.array(dtype, len)));
        let name = self.name();
        let tensor = self.k.input(&name, dtype, &shape);
        self.inputs.push((tensor.clone(), axes.to_vec()));
        tensor
    }

    fn element(&mut self) -> DType {
        self.tape.pick(&[DType::F16, DType::F32, DType::BF16])
    }

    /// A new tensor for boxes of `axes`.
    fn matrix(&mut self, dtype: DType, axes: [Axis; 2]) -> Matrix {
        let way = self.tape.below(3);
        let tensor = self.input(dtype, &if way == 0 { axes } else { [axes[1], axes[0]] });
        self.steps.push(format!("{} is {axes:?} of {dtype}, way {way}", tensor.name));
        Matrix { tensor, way }
    }

    /// A tile of the pool.
    fn any(&mut self) -> Tile {
        let at = self.tape.below(self.pool.len());
        self.pool[self.pool.len() - 1 - at].clone()
    }

    fn load(&mut self) {
        let (shape, [m0, n0]) = (self.shape(), self.origin.clone());
        let dtype = self.element();
        let tile = match self.tape.below(4) {
            0 => {
                let matrix = self.matrix(dtype, [Axis::M, Axis::N]);
                matrix.load(&mut self.k, [m0, n0], shape)
            }
            // From an odd place, with a fill that is seen.
            1 => {
                let tensor = self.input(dtype, &[Axis::M, Axis::N]);
                let shift = [self.tape.below(4), self.tape.below(4)].map(|x| x as i64);
                self.steps.push(format!("{} is shifted by {shift:?}", tensor.name));
                let view = self.k.view(&tensor, &[m0 + shift[0], n0 + shift[1]], &shape);
                let fill = Expr::float(dtype, self.tape.pick(&[0.0, 1.5, f64::NEG_INFINITY]));
                self.k.load_or(&tensor.name, Place::View(view), &shape, fill)
            }
            // A row or a column, repeated.
            2 => {
                let along = usize::from(self.tape.flip());
                let tensor = self.input(dtype, &[[Axis::M, Axis::N][along]]);
                self.steps.push(format!("{} is repeated", tensor.name));
                let mut line = [1, 1];
                line[along] = shape[along];
                let place = walk(&tensor, &[[m0, n0][along].clone()], &[Some(along)], &line);
                let tile = self.k.load_or(&tensor.name, place, &line, Expr::float(dtype, 0.0));
                self.k.map(&tensor.name, &shape, &[&tile], |_, x, _| x[0].cast(DType::F32))
            }
            // Element by element, from the other end.
            _ => {
                let tensor = self.input(dtype, &[Axis::N]);
                self.steps.push(format!("{} is reversed", tensor.name));
                let [i, j] = ["i", "j"].map(|name| self.k.var(name, Type::Index));
                let at = n0 + Expr::var(&j);
                let mask = at.lt(&self.extents[1]).and(Expr::var(&i).ne(3));
                let index = vec![&self.extents[1] - 1 - at];
                let place = Place::Elements { tensor: tensor.clone(), axes: vec![i, j], body: vec![], index, mask };
                self.k.load_or(&tensor.name, place, &shape, Expr::float(dtype, 0.5))
            }
        };
        let tile = self.k.cast(&tile, DType::F32);
        self.pool.push(tile);
    }

    /// An elementwise function of two tiles.
    fn map(&mut self) {
        let (x, y) = (self.any(), self.any());
        // Loads inside of maps have a pass of their own: often enough that every run meets some.
        let (which, shape, n) = (self.tape.below(16).min(8), self.shape(), self.extents[1].clone());
        let [m0, n0] = self.origin.clone();
        let gathered = (which == 8).then(|| self.input(DType::F32, &[Axis::N]));
        let fault = (which == 7).then(|| {
            self.args.push(Arg::Array(Array::zeros(DType::I32, 1)));
            let name = self.name();
            self.k.tensor(&name, DType::I32, &[1.into()], Access::ReadWrite)
        });
        self.steps.push(format!("map {which}"));
        let element = |map: &mut MapBuilder<'_>, x: &[Expr], i: &[Expr]| match which {
            0 => &x[0] + &x[1],
            1 => &x[0] * &x[1] - &x[0],
            2 => x[0].max(&x[1]) * 0.5,
            3 => (&x[0] / (x[1].abs() + 1.0)).tanh(),
            4 => {
                let e = map.bind("e", (-x[0].abs()).exp());
                &e * &e + &x[1]
            }
            5 => (&m0 + &i[0]).ge(&n0 + &i[1]).select(&x[0], &x[1]),
            8 => {
                let at = map.bind("at", (&n0 + &i[1]).min(&n - 1));
                let bias = gathered.as_ref().map_or(f32(0.0), |bias| bias.at([&at]));
                &x[0] + bias
            }
            6 => &x[1] - &x[0].cast(DType::F16).cast(DType::F32),
            _ => {
                if let Some(fault) = &fault {
                    map.check(x[0].gt(&x[1]), fault, (&i[0] + &i[1] + 1).cast(DType::I32));
                }
                x[0].min(&x[1])
            }
        };
        let [tile, _unused] = self.k.map_many(["z", "w"], &shape, &[&x, &y], |map, x, i| {
            let z = element(map, x, i);
            let w = z.cast(DType::F16);
            [z, w]
        });
        self.pool.push(tile);
    }

    /// Something combined along an axis, and what that does to a tile.
    fn reduce(&mut self) {
        let (x, y) = (self.any(), self.any());
        let (axis, shape) = (1 - self.tape.below(2), self.shape());
        let op = self.tape.pick(&[ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod]);
        self.steps.push(format!("{op:?} along {axis}"));
        let line = self.k.reduce("line", op, &x, axis);
        let tile = self.k.map("out", &shape, &[&y, &line], |_, x, _| &x[0] - (&x[1] * 0.25).tanh());
        self.pool.push(tile);
    }

    fn stages(&mut self) -> Option<u32> {
        self.tape.pick(&[None, Some(2), Some(3), Some(1), Some(4)])
    }

    /// A dot in a loop along K, perhaps one that only some CTAs run.
    fn product(&mut self) {
        let dtype = self.element();
        let (a, b) = (self.matrix(dtype, [Axis::M, Axis::K]), self.matrix(dtype, [Axis::K, Axis::N]));
        let ([bm, bn, bk], [m0, n0], stages) = (self.tile, self.origin.clone(), self.stages());
        let range = (Expr::index(0), self.extents[2].clone(), i64::from(bk));
        let first = if self.tape.flip() { Some(self.any()) } else { None };
        let (some, order, times) = (self.tape.below(4) == 3, self.tape.below(3), 1 + self.tape.below(2));
        let range = (range.0, range.1, range.2 * times as i64);
        self.steps.push(format!(
            "product with {stages:?} stages, {times} a time, {} sum{}",
            ["a", "no"][usize::from(first.is_none())],
            ["", ", of some CTAs"][usize::from(some)]
        ));
        let build = |k: &mut Builder| {
            let acc = first.unwrap_or_else(|| k.full("acc", DType::F32, &[bm, bn], f32(0.0)));
            k.for_range("p", range, stages, &[acc], |k, p, carried| {
                let p = &match order {
                    0 => p.clone(),
                    1 => k.bind("odd", p + 1),
                    _ => k.bind("block", p / i64::from(bk)) * i64::from(bk),
                };
                // What is brought together may be used in another order.
                let at: Vec<Expr> = (0..times).map(|i| p + i as i64 * i64::from(bk)).collect();
                let pairs: Vec<[Tile; 2]> = at
                    .iter()
                    .map(|p| {
                        let x = a.load(k, [m0.clone(), p.clone()], [bm, bk]);
                        [x, b.load(k, [p.clone(), n0.clone()], [bk, bn])]
                    })
                    .collect();
                let sum = |acc: Tile, [a, b]: &[Tile; 2]| k.dot(a, b, &acc);
                vec![pairs.iter().rev().fold(carried[0].clone(), sum)]
            })
        };
        let tiles = if some {
            let cond = (m0.clone() / i64::from(bm) % 2).eq(0);
            self.k.if_else(cond, build, |k| vec![k.full("none", DType::F32, &[bm, bn], f32(-1.0))])
        } else {
            build(&mut self.k)
        };
        self.pool.extend(tiles);
    }

    /// A dot, something elementwise with what a loop carries, and another dot: along K, like attention.
    fn two_products(&mut self) {
        let dtype = self.tape.pick(&[DType::F16, DType::BF16]);
        let ([bm, bn, bk], [m0, n0], stages) = (self.tile, self.origin.clone(), self.stages());
        let (q, keys) = (self.matrix(dtype, [Axis::M, Axis::N]), self.matrix(dtype, [Axis::N, Axis::K]));
        let v = self.matrix(dtype, [Axis::K, Axis::N]);
        let reduced = self.tape.flip();
        self.steps.push(format!("two products with {stages:?} stages{}", ["", " and a maximum"][usize::from(reduced)]));
        let range = (Expr::index(0), self.extents[2].clone(), i64::from(bk));
        let end = self.extents[2].clone();
        let k = &mut self.k;
        let q = q.load(k, [m0, n0.clone()], [bm, bn]);
        let first = [k.full("acc", DType::F32, &[bm, bn], f32(0.0)), k.full("peak", DType::F32, &[bm, 1], f32(-8.0))];
        let last = k.for_range("p", range, stages, &first, |k, p, carried| {
            let keys = keys.load(k, [n0.clone(), p.clone()], [bn, bk]);
            let zero = k.full("s", DType::F32, &[bm, bk], f32(0.0));
            let s = k.dot(&q, &keys, &zero);
            let s = k.map("s", &[bm, bk], &[&s], |_, x, i| (p + &i[1]).lt(&end).select(&(&x[0] * 0.1), -20.0));
            let peak = if reduced {
                let found = k.reduce("found", ReduceOp::Max, &s, 1);
                k.map("peak", &[bm, 1], &[&carried[1], &found], |_, x, _| x[0].max(&x[1]))
            } else {
                carried[1].clone()
            };
            let e = k.map("e", &[bm, bk], &[&s, &peak], |_, x, _| (&x[0] - &x[1]).exp().cast(dtype));
            let acc =
                k.map("acc", &[bm, bn], &[&carried[0], &carried[1], &peak], |_, x, _| &x[0] * (&x[1] - &x[2]).exp());
            let v = v.load(k, [p.clone(), n0.clone()], [bk, bn]);
            vec![k.dot(&e, &v, &acc), peak]
        });
        self.pool.push(last[0].clone());
    }

    /// A loop that carries a line and a tile, and multiplies nothing.
    fn running(&mut self) {
        let dtype = self.element();
        let matrix = self.matrix(dtype, [Axis::M, Axis::K]);
        let ([bm, bn, bk], [m0, _]) = (self.tile, self.origin.clone());
        let first = [self.k.full("line", DType::F32, &[bm, 1], f32(-1.0)), self.any()];
        let stages = self.stages();
        self.steps.push("a running maximum".to_owned());
        let range = (Expr::index(0), self.extents[2].clone(), i64::from(bk));
        let last = self.k.for_range("p", range, stages, &first, |k, p, carried| {
            let x = matrix.load(k, [m0.clone(), p.clone()], [bm, bk]);
            let x = k.cast(&x, DType::F32);
            let found = k.reduce("found", ReduceOp::Max, &x, 1);
            let line = k.map("line", &[bm, 1], &[&carried[0], &found], |_, x, _| x[0].max(&x[1]) + 0.125);
            let tile = k.map("tile", &[bm, bn], &[&carried[1], &carried[0]], |_, x, _| &x[0] * 0.5 + &x[1]);
            vec![line, tile]
        });
        self.pool.push(last[1].clone());
    }

    /// One of two tiles.
    fn branch(&mut self) {
        let (x, y, shape) = (self.any(), self.any(), self.shape());
        self.steps.push("a branch".to_owned());
        let cond = self.origin[1].lt(&self.extents[1] / 2);
        let tiles = self.k.if_else(
            cond,
            |k| vec![k.map("half", &shape, &[&x], |_, x, _| &x[0] * 0.5)],
            |k| {
                let peak = k.reduce("peak", ReduceOp::Max, &y, 0);
                vec![k.map("less", &shape, &[&y, &peak], |_, x, _| &x[0] - &x[1])]
            },
        );
        self.pool.extend(tiles);
    }

    fn output(&mut self, dtype: DType, axes: &[Axis], access: Access) -> Buffer {
        let shape: Vec<Expr> = axes.iter().map(|axis| self.extents[*axis as usize].clone()).collect();
        let len = axes.iter().map(|axis| self.sizes[*axis as usize]).product();
        self.args.push(poison(dtype, len));
        let name = self.name();
        self.k.tensor(&name, dtype, &shape, access)
    }

    fn store(&mut self) {
        let (tile, shape, [m0, n0]) = (self.any(), self.shape(), self.origin.clone());
        let way = self.tape.below(4);
        self.steps.push(format!("store, way {way}"));
        match way {
            0 | 1 => {
                let dtype = self.element();
                let turned = way == 1;
                let axes = if turned { [Axis::N, Axis::M] } else { [Axis::M, Axis::N] };
                let y = self.output(dtype, &axes, Access::Write);
                let view = if turned {
                    self.k.view(&y, &[n0, m0], &[shape[1], shape[0]]).transposed(&[1, 0])
                } else {
                    self.k.view(&y, &[m0, n0], &shape)
                };
                self.k.store(Place::View(view), &tile);
            }
            2 => {
                let y = self.output(DType::F32, &[Axis::M, Axis::N], Access::Write);
                let turned = self.k.transpose(&tile, &[1, 0]);
                let place = walk(&y, &[m0, n0], &[Some(1), Some(0)], &[shape[1], shape[0]]);
                self.k.store(place, &turned);
            }
            // Integers, whose sums have no order.
            _ => {
                let y = self.output(DType::I32, &[Axis::M], Access::ReadWrite);
                let whole = self.k.map("whole", &shape, &[&tile], |_, x, _| (&x[0] * 8.0).cast(DType::I32));
                let [i, j] = ["i", "j"].map(|name| self.k.var(name, Type::Index));
                let row = m0 + Expr::var(&i);
                let mask = row.lt(&self.extents[0]).and((n0 + Expr::var(&j)).lt(&self.extents[1]));
                let place = Place::Elements { tensor: y, axes: vec![i, j], body: vec![], index: vec![row], mask };
                self.k.atomic(AtomicOp::Add, place, &whole);
            }
        }
    }
}

/// A tensor of two axes: stored as the tile is, or the other way around and turned by the box (1) or as a tile (2).
struct Matrix {
    tensor: Buffer,
    way: usize,
}

impl Matrix {
    fn load(&self, k: &mut Builder, at: [Expr; 2], shape: [u32; 2]) -> Tile {
        let name = &self.tensor.name;
        let [i, j] = at;
        if self.way == 0 {
            let view = k.view(&self.tensor, &[i, j], &shape);
            return k.load(name, view);
        }
        let view = k.view(&self.tensor, &[j, i], &[shape[1], shape[0]]);
        if self.way == 1 {
            return k.load(name, view.transposed(&[1, 0]));
        }
        let tile = k.load(name, view);
        k.transpose(&tile, &[1, 0])
    }
}
