//! Kernels at the level of tiles, of the kinds that families write.
#![allow(dead_code)] // no test uses all

pub mod generate;
pub mod random;

use kiln_tile::ir::{Block, Builder, MapBuilder, Place, Program, Tile, View};
use kiln_tile::{Access, AtomicOp, Buffer, DType, Expr, ReduceOp};

pub fn f32(value: f64) -> Expr {
    Expr::float(DType::F32, value)
}

/// A box whose axis `a` of the tensor is walked along by axis `axes[a]` of the tile.
pub fn walk(tensor: &Buffer, origin: &[Expr], axes: &[Option<usize>], shape: &[u32]) -> Place {
    Place::View(View {
        tensor: tensor.clone(),
        origin: origin.to_vec(),
        axes: axes.to_vec(),
        shape: shape.to_vec(),
        masked: vec![true; origin.len()],
        walks: vec![],
    })
}

/// `x` as a row of a tile, repeated along the axis before.
pub fn row(k: &mut Builder, x: &Buffer, from: &Expr, cols: u32) -> Tile {
    k.load_or(&x.name, walk(x, std::slice::from_ref(from), &[Some(1)], &[1, cols]), &[1, cols], Expr::int(x.dtype, 0))
}

/// `y[r, c] = gelu(table[ids[r], c] + bias[c])`, where an id below 0 counts from the end and one outside is a fault of code 7.
/// Parameters: `rows, vocab, cols, table, ids, bias, fault, y`.
pub fn gather_gelu(dtype: DType, [br, bc]: [u32; 2]) -> Program {
    let mut k = Builder::new("gather_gelu", "y = gelu(table[ids] + bias)");
    let [rows, vocab, cols] = ["rows", "vocab", "cols"].map(|name| k.dim(name, 1..=1 << 16, 1));
    let table = k.input("table", dtype, &[vocab.clone(), cols.clone()]);
    let ids = k.input("ids", DType::I64, std::slice::from_ref(&rows));
    let bias = k.input("bias", DType::F32, std::slice::from_ref(&cols));
    let fault = k.tensor("fault", DType::I32, &[1.into()], Access::ReadWrite);
    let y = k.output("y", dtype, &[rows.clone(), cols.clone()]);
    let at = k.grid(&[("r", rows.ceil_div(i64::from(br))), ("c", cols.ceil_div(i64::from(bc)))]);
    let (r0, c0) = (k.bind("r0", &at[0] * i64::from(br)), k.bind("c0", &at[1] * i64::from(bc)));
    let id = k.load_or(
        "id",
        walk(&ids, std::slice::from_ref(&r0), &[Some(0)], &[br, 1]),
        &[br, 1],
        Expr::int(DType::I64, 0),
    );
    let bias = row(&mut k, &bias, &c0, bc);
    let out = k.map("out", &[br, bc], &[&id, &bias], |map, x, i| {
        let id = x[0].cast(kiln_tile::Type::Index);
        let wrapped = map.bind("wrapped", id.lt(0).select(&(&id + &vocab), &id));
        let inside = map.bind("inside", wrapped.ge(0).and(wrapped.lt(&vocab)));
        map.check(!inside.clone(), &fault, Expr::int(DType::I32, 7));
        let col = &c0 + &i[1];
        let inside = inside.and(col.lt(&cols));
        let x = map.bind("x", inside.select(&table.at([&wrapped, &col]).cast(DType::F32), 0.0) + &x[1]);
        (&x * 0.5 * ((&x * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0)).cast(dtype)
    });
    let to = k.view(&y, &[r0, c0], &[br, bc]);
    k.store(Place::View(to), &out);
    k.finish().unwrap()
}

/// A softmax of rows that are each one tile. Parameters: `rows, cols, x, y`; `cols <= bc`.
pub fn softmax(dtype: DType, [br, bc]: [u32; 2]) -> Program {
    let mut k = Builder::new("softmax", "y = softmax(x) along the last axis");
    let (rows, cols) = (k.dim("rows", 1..=1 << 16, 1), k.dim("cols", 1..=i64::from(bc), 1));
    let x = k.input("x", dtype, &[rows.clone(), cols.clone()]);
    let y = k.output("y", dtype, &[rows.clone(), cols]);
    let at = k.grid(&[("r", rows.ceil_div(i64::from(br)))]);
    let view = |k: &mut Builder, t: &Buffer| k.view(t, &[&at[0] * i64::from(br), 0.into()], &[br, bc]);
    let from = view(&mut k, &x);
    let x = k.load_or("x", Place::View(from), &[br, bc], Expr::float(dtype, f64::NEG_INFINITY));
    let x = k.cast(&x, DType::F32);
    let peak = k.reduce("peak", ReduceOp::Max, &x, 1);
    let e = k.map("e", &[br, bc], &[&x, &peak], |_, x, _| (&x[0] - &x[1]).exp());
    let total = k.reduce("total", ReduceOp::Sum, &e, 1);
    let out = k.map("out", &[br, bc], &[&e, &total], |_, x, _| &x[0] / &x[1]);
    let to = view(&mut k, &y);
    k.store(Place::View(to), &out);
    k.finish().unwrap()
}

/// The maximum and the sum of exponentials of a row, updated by the elements of a tile.
fn online(k: &mut Builder, x: &Tile, [peak, total]: [&Tile; 2]) -> [Tile; 3] {
    let rows = &[x.shape[0], 1];
    let found = k.reduce("found", ReduceOp::Max, x, 1);
    let next = k.map("peak", rows, &[peak, &found], |_, x, _| x[0].max(&x[1]));
    let e = k.map("e", &x.shape, &[x, &next], |_, x, _| (&x[0] - &x[1]).exp());
    let sum = k.reduce("sum", ReduceOp::Sum, &e, 1);
    let total = k.map("total", rows, &[peak, &next, total, &sum], |_, x, _| &x[2] * (&x[0] - &x[1]).exp() + &x[3]);
    [next, total, e]
}

/// A softmax of rows of any length: a loop with a running maximum, and one that writes. Parameters: `rows, cols, x, y`.
pub fn softmax_loop(dtype: DType, [br, bc]: [u32; 2]) -> Program {
    let mut k = Builder::new("softmax_loop", "y = softmax(x) along the last axis");
    let (rows, cols) = (k.dim("rows", 1..=1 << 16, 1), k.dim("cols", 1..=1 << 16, 1));
    let x = k.input("x", dtype, &[rows.clone(), cols.clone()]);
    let y = k.output("y", dtype, &[rows.clone(), cols.clone()]);
    let at = k.grid(&[("r", rows.ceil_div(i64::from(br)))]);
    let r0 = k.bind("r0", &at[0] * i64::from(br));
    let load = |k: &mut Builder, c: &Expr| {
        let from = k.view(&x, &[r0.clone(), c.clone()], &[br, bc]);
        let x = k.load_or("x", Place::View(from), &[br, bc], Expr::float(dtype, f64::NEG_INFINITY));
        k.cast(&x, DType::F32)
    };
    let range = (Expr::index(0), cols.clone(), i64::from(bc));
    // Finite, so that the first correction is 0 and not NaN.
    let first = [k.full("peak", DType::F32, &[br, 1], f32(-3e38)), k.full("total", DType::F32, &[br, 1], f32(0.0))];
    let last = k.for_range("c", range.clone(), None, &first, |k, c, carried| {
        let x = load(k, c);
        let [peak, total, _] = online(k, &x, [&carried[0], &carried[1]]);
        vec![peak, total]
    });
    k.for_range("c", range, None, &[], |k, c, _| {
        let x = load(k, c);
        let out = k.map("out", &[br, bc], &[&x, &last[0], &last[1]], |_, x, _| (&x[0] - &x[1]).exp() / &x[2]);
        let to = k.view(&y, &[r0.clone(), c.clone()], &[br, bc]);
        k.store(Place::View(to), &out);
        vec![]
    });
    k.finish().unwrap()
}

/// A layer norm of rows that are each one tile. Parameters: `rows, cols, eps, x, gamma, beta, y`; `cols <= bc`.
pub fn layer_norm(dtype: DType, [br, bc]: [u32; 2]) -> Program {
    let mut k = Builder::new("layer_norm", "y = (x - mean) / sqrt(var + eps) * gamma + beta");
    let (rows, cols) = (k.dim("rows", 1..=1 << 16, 1), k.dim("cols", 1..=i64::from(bc), 1));
    let eps = k.scalar("eps", DType::F32);
    let x = k.input("x", dtype, &[rows.clone(), cols.clone()]);
    let [gamma, beta] = ["gamma", "beta"].map(|name| k.input(name, dtype, std::slice::from_ref(&cols)));
    let y = k.output("y", dtype, &[rows.clone(), cols.clone()]);
    let at = k.grid(&[("r", rows.ceil_div(i64::from(br)))]);
    let from = k.view(&x, &[&at[0] * i64::from(br), 0.into()], &[br, bc]);
    let x = k.load("x", from);
    let x = k.cast(&x, DType::F32);
    let n = k.bind("n", cols.cast(DType::F32));
    let sum = k.reduce("sum", ReduceOp::Sum, &x, 1);
    // Where there is no element it is no deviation either.
    let d = k.map("d", &[br, bc], &[&x, &sum], |_, x, i| i[1].lt(&cols).select(&(&x[0] - &x[1] / &n), 0.0));
    let square = k.map("square", &[br, bc], &[&d], |_, x, _| &x[0] * &x[0]);
    let squares = k.reduce("squares", ReduceOp::Sum, &square, 1);
    let scale = k.map("scale", &[br, 1], &[&squares], |_, x, _| (&x[0] / &n + &eps).rsqrt());
    let (gamma, beta) = (row(&mut k, &gamma, &0.into(), bc), row(&mut k, &beta, &0.into(), bc));
    let out = k.map("out", &[br, bc], &[&d, &scale, &gamma, &beta], |_, x, _| {
        &x[0] * &x[1] * x[2].cast(DType::F32) + x[3].cast(DType::F32)
    });
    let to = k.view(&y, &[&at[0] * i64::from(br), 0.into()], &[br, bc]);
    k.store(Place::View(to), &out);
    k.finish().unwrap()
}

/// What a product is of.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub operands: DType,
    pub acc: DType,
    /// Of the tiles: M, N, K.
    pub tile: [u32; 3],
    /// Whether `a` is stored `[K, M]`, and `b` `[N, K]`.
    pub transposed: [bool; 2],
    pub stages: u32,
}

/// The origin and extents of a matrix that may be stored transposed.
fn stored(transposed: bool, [i, j]: [Expr; 2]) -> [Expr; 2] {
    if transposed { [j, i] } else { [i, j] }
}

/// `y[z] = a[z] b[z] + bias`. Parameters: `batch, m, n, k, a, b, bias, y`.
pub fn gemm(of: Product) -> Program {
    let mut k = Builder::new("gemm", "y = a b + bias");
    let [batch, m, n] = ["batch", "m", "n"].map(|name| k.dim(name, 1..=1 << 16, 1));
    let depth = k.dim("k", 0..=1 << 16, 1);
    let matrix = |transposed, i: &Expr, j: &Expr| {
        let [i, j] = stored(transposed, [i.clone(), j.clone()]);
        [batch.clone(), i, j]
    };
    let a = k.input("a", of.operands, &matrix(of.transposed[0], &m, &depth));
    let b = k.input("b", of.operands, &matrix(of.transposed[1], &depth, &n));
    let bias = k.input("bias", of.acc, std::slice::from_ref(&n));
    let y = k.output("y", of.acc, &[batch.clone(), m.clone(), n.clone()]);
    let [bm, bn, bk] = of.tile;
    let at = k.grid(&[("z", batch), ("i", m.ceil_div(i64::from(bm))), ("j", n.ceil_div(i64::from(bn)))]);
    let (m0, n0) = (k.bind("m0", &at[1] * i64::from(bm)), k.bind("n0", &at[2] * i64::from(bn)));
    let zero = k.full("acc", of.acc, &[bm, bn], Expr::int(of.acc, 0));
    let range = (Expr::index(0), depth, i64::from(bk));
    let acc = k.for_range("k", range, Some(of.stages), &[zero], |k, p, carried| {
        // One way of each operand's transposition: of the box, and of the tile.
        let [i, j] = stored(of.transposed[0], [m0.clone(), p.clone()]);
        let shape = if of.transposed[0] { [bk, bm] } else { [bm, bk] };
        let mut from = k.view(&a, &[at[0].clone(), i, j], &shape);
        if of.transposed[0] {
            from = from.transposed(&[1, 0]);
        }
        let a = k.load("a", from);
        let [i, j] = stored(of.transposed[1], [p.clone(), n0.clone()]);
        let shape = if of.transposed[1] { [bn, bk] } else { [bk, bn] };
        let from = k.view(&b, &[at[0].clone(), i, j], &shape);
        let mut b = k.load("b", from);
        if of.transposed[1] {
            b = k.transpose(&b, &[1, 0]);
        }
        vec![k.dot(&a, &b, &carried[0])]
    });
    let bias = row(&mut k, &bias, &n0, bn);
    let out = k.map("out", &[bm, bn], &[&acc[0], &bias], |_, x, _| &x[0] + &x[1]);
    let to = k.view(&y, &[at[0].clone(), m0, n0], &[bm, bn]);
    k.store(Place::View(to), &out);
    k.finish().unwrap()
}

/// `o = softmax(q k^T) v` for each of `batch`. Parameters: `batch, queries, keys, q, k, v, o`.
pub fn attention(dtype: DType, [bm, bn]: [u32; 2], [depth, columns]: [u32; 2]) -> Program {
    let mut k = Builder::new("attention", "o = softmax(q k^T) v");
    let [batch, queries, keys] = ["batch", "queries", "keys"].map(|name| k.dim(name, 1..=1 << 14, 1));
    let extents = |rows: &Expr, columns: u32| [batch.clone(), rows.clone(), i64::from(columns).into()];
    let q = k.input("q", dtype, &extents(&queries, depth));
    let key = k.input("k", dtype, &extents(&keys, depth));
    let v = k.input("v", dtype, &extents(&keys, columns));
    let o = k.output("o", dtype, &extents(&queries, columns));
    let at = k.grid(&[("z", batch.clone()), ("i", queries.ceil_div(i64::from(bm)))]);
    let origin = |row: Expr| [at[0].clone(), row, Expr::index(0)];
    let m0 = k.bind("m0", &at[1] * i64::from(bm));
    let from = k.view(&q, &origin(m0.clone()), &[bm, depth]);
    let q = k.load("q", from);
    let first = [
        k.full("peak", DType::F32, &[bm, 1], f32(-3e38)),
        k.full("total", DType::F32, &[bm, 1], f32(0.0)),
        k.full("acc", DType::F32, &[bm, columns], f32(0.0)),
    ];
    let range = (Expr::index(0), keys.clone(), i64::from(bn));
    let last = k.for_range("j", range, Some(2), &first, |k, j, carried| {
        let from = k.view(&key, &origin(j.clone()), &[bn, depth]).transposed(&[1, 0]);
        let keys_tile = k.load("k", from);
        let zero = k.full("scores", DType::F32, &[bm, bn], f32(0.0));
        let scores = k.dot(&q, &keys_tile, &zero);
        let scores =
            k.map("scores", &[bm, bn], &[&scores], |_, x, i| (j + &i[1]).lt(&keys).select(&x[0], f64::NEG_INFINITY));
        let [peak, total, e] = online(k, &scores, [&carried[0], &carried[1]]);
        let acc =
            k.map("acc", &[bm, columns], &[&carried[2], &carried[0], &peak], |_, x, _| &x[0] * (&x[1] - &x[2]).exp());
        let e = k.cast(&e, dtype);
        let from = k.view(&v, &origin(j.clone()), &[bn, columns]);
        let values = k.load("v", from);
        vec![peak, total, k.dot(&e, &values, &acc)]
    });
    let out = k.map("out", &[bm, columns], &[&last[2], &last[1]], |_, x, _| &x[0] / &x[1]);
    let to = k.view(&o, &origin(m0), &[bm, columns]);
    k.store(Place::View(to), &out);
    k.finish().unwrap()
}

/// `counts[x % bins] op= amount(x)`. Parameters: `n, bins, x, counts`.
pub fn scatter(op: AtomicOp, tile: u32) -> Program {
    let mut k = Builder::new("scatter", "combines values by their remainder");
    let (n, bins) = (k.dim("n", 1..=1 << 16, 1), k.dim("bins", 1..=1 << 16, 1));
    let x = k.input("x", DType::I32, std::slice::from_ref(&n));
    let counts = k.tensor("counts", DType::I32, std::slice::from_ref(&bins), Access::ReadWrite);
    let at = k.grid(&[("t", n.ceil_div(i64::from(tile)))]);
    let first = k.bind("first", &at[0] * i64::from(tile));
    let from = k.view(&x, std::slice::from_ref(&first), &[tile]);
    let amount = k.load("amount", from);
    let i = k.var("i", kiln_tile::Type::Index);
    let element = &first + Expr::var(&i);
    let bin = k.var("bin", kiln_tile::Type::Index);
    let exists = element.lt(&n);
    let value = exists.select(&x.at([&element]).cast(kiln_tile::Type::Index), 0) % &bins;
    let to = Place::Elements {
        tensor: counts,
        axes: vec![i],
        body: vec![kiln_tile::ir::Scalar::Bind { var: bin.clone(), value }],
        index: vec![Expr::var(&bin)],
        mask: exists,
    };
    k.atomic(op, to, &amount);
    k.finish().unwrap()
}

/// `y = flag == 0 ? x * 2 : max over x`, of one tile. Parameters: `flag, n, x, y`.
pub fn branches(tile: u32) -> Program {
    let mut k = Builder::new("branches", "one of two values");
    let (flag, n) = (k.dim("flag", 0..=1, 1), k.dim("n", 1..=i64::from(tile), 1));
    let x = k.input("x", DType::F32, std::slice::from_ref(&n));
    let y = k.output("y", DType::F32, std::slice::from_ref(&n));
    let from = k.view(&x, &[0.into()], &[tile]);
    let x = k.load_or("x", Place::View(from), &[tile], f32(f64::NEG_INFINITY));
    let twice = |map: &mut MapBuilder<'_>, x: &[Expr]| map.bind("twice", &x[0] * 2.0);
    let out = k.if_else(
        flag.eq(0),
        |k| vec![k.map("twice", &[tile], &[&x], |map, x, _| twice(map, x))],
        |k| {
            let peak = k.reduce("peak", ReduceOp::Max, &x, 0);
            vec![k.map("peak", &[tile], &[&peak], |_, x, _| x[0].clone())]
        },
    );
    let to = k.view(&y, &[0.into()], &[tile]);
    k.store(Place::View(to), &out[0]);
    k.finish().unwrap()
}

/// Calls `visit` on every block of a program, the inner ones first.
pub fn blocks_mut(block: &mut Block, visit: &mut dyn FnMut(&mut Block)) {
    for stmt in block.iter_mut() {
        stmt.op.blocks_mut().into_iter().for_each(|inner| blocks_mut(inner, visit));
    }
    visit(block);
}
