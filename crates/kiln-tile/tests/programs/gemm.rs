//! Matrix products that several tests share.
#![allow(dead_code)] // each test uses some of them

use kiln_tile::{Builder, DType, Expr, Program, Worker};

/// What a product looks like.
#[derive(Clone, Copy)]
pub struct Shape {
    pub dtype: DType,
    pub accumulate: DType,
    pub tile: (u32, u32, u32),
    pub threads: u32,
    pub stages: u32,
    /// `a` is stored `[K, M]`.
    pub transpose_a: bool,
    /// `b` is stored `[N, K]`.
    pub transpose_b: bool,
    /// Known divisor of M, N and K.
    pub multiple: i64,
    /// Apply `max(x, 0)` to `a` as it is loaded.
    pub prologue: bool,
}

impl Shape {
    pub fn new(dtype: DType, tile: (u32, u32, u32), threads: u32) -> Shape {
        let accumulate = dtype.compute();
        Shape {
            dtype,
            accumulate,
            tile,
            threads,
            stages: 3,
            transpose_a: false,
            transpose_b: false,
            multiple: 1,
            prologue: false,
        }
    }
}

/// `c[b, m, n] = a[b] * b[b] + bias[n]`, M, N, K and the batch at run time.
pub fn gemm(shape: Shape) -> Program {
    let (bm, bn, bk) = shape.tile;
    let mut k = Builder::new("gemm", "c = a * b + bias");
    let limit = 1..=1 << 14;
    let batch = k.dim("batch", 1..=1 << 10);
    let m = k.dim_multiple_of("m", limit.clone(), shape.multiple);
    let n = k.dim_multiple_of("n", limit.clone(), shape.multiple);
    let depth = k.dim_multiple_of("k", 0..=1 << 14, shape.multiple);
    let order = |x: &Expr, y: &Expr, swap: bool| {
        let (x, y) = if swap { (y, x) } else { (x, y) };
        [batch.clone(), x.clone(), y.clone()]
    };
    let a = k.input("a", shape.dtype, &order(&m, &depth, shape.transpose_a));
    let b = k.input("b", shape.dtype, &order(&depth, &n, shape.transpose_b));
    let bias = k.input("bias", DType::F32, std::slice::from_ref(&n));
    let c = k.output("c", shape.dtype, &order(&m, &n, false));
    let dims = |x: u32, y: u32, swap: bool| if swap { [y, x] } else { [x, y] };
    let a_tile = k.shared("a_tile", shape.dtype, &dims(bm, bk, shape.transpose_a));
    let b_tile = k.shared("b_tile", shape.dtype, &dims(bk, bn, shape.transpose_b));
    let acc = k.fragment("acc", shape.accumulate, &[bm, bn]);
    k.threads(shape.threads);
    let (bm, bn, bk) = (i64::from(bm), i64::from(bn), i64::from(bk));
    let grid = [("z", batch.clone()), ("tile_m", m.ceil_div(bm)), ("tile_n", n.ceil_div(bn))];
    k.for_each(Worker::Block, &grid, |k, at| {
        k.fill(&acc, 0);
        k.pipelined("step", depth.ceil_div(bk), shape.stages, |k, step| {
            // (row or column of the output, position along K) of an element of a tile
            let place = |ix: &[Expr], tile: &Expr, extent: i64, k_first: bool| {
                let (outer, inner) = if k_first { (&ix[1], &ix[0]) } else { (&ix[0], &ix[1]) };
                (tile * extent + outer, step * bk + inner)
            };
            let of_a = |ix: &[Expr]| place(ix, &at[1], bm, shape.transpose_a);
            let of_b = |ix: &[Expr]| place(ix, &at[2], bn, !shape.transpose_b);
            let inside = |(outer, inner): (Expr, Expr), extent: &Expr| outer.lt(extent).and(inner.lt(&depth));
            k.copy(
                &a_tile,
                &["i", "kk"],
                |ix| inside(of_a(ix), &m),
                |k, ix| {
                    let (row, depth_at) = of_a(ix);
                    let [_, x, y] = order(&row, &depth_at, shape.transpose_a);
                    let value = a.at([&at[0], &x, &y]);
                    if !shape.prologue {
                        return value;
                    }
                    let value = k.bind("value", value.cast(shape.dtype.compute()));
                    value.max(Expr::int(shape.dtype.compute(), 0))
                },
            );
            k.copy(
                &b_tile,
                &["kk", "j"],
                |ix| inside(of_b(ix), &n),
                |_, ix| {
                    let (col, depth_at) = of_b(ix);
                    let [_, x, y] = order(&depth_at, &col, shape.transpose_b);
                    b.at([&at[0], &x, &y])
                },
            );
            k.gemm(&acc, &a_tile, &b_tile, shape.transpose_a, shape.transpose_b);
        });
        k.parallel(&[("i", Expr::index(bm)), ("j", Expr::index(bn))], |k, ix| {
            let row = k.bind("row", &at[1] * bm + &ix[0]);
            let col = k.bind("col", &at[2] * bn + &ix[1]);
            let bias = bias.at([&col]).cast(shape.accumulate);
            k.if_(row.lt(&m).and(col.lt(&n)), |k| k.store(&c, [&at[0], &row, &col], acc.at(ix) + bias));
        });
    });
    k.finish().unwrap()
}
