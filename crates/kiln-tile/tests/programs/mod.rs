//! Tile programs that several tests share.
#![allow(dead_code)] // each test uses some of them

pub mod attention;
pub mod gemm;

use kiln_tile::expr::{BinaryOp, UnaryOp};
use kiln_tile::{AtomicOp, Builder, DType, Expr, Program, ReduceOp, Type, Worker};

fn n(value: i64) -> Expr {
    Expr::index(value)
}

fn gelu(x: &Expr) -> Expr {
    x * 0.5 * ((x * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0)
}

/// `y[row, col] = gelu(x[row, col] + bias[col])`, rows at run time.
pub fn bias_gelu(dtype: DType, cols: i64) -> Program {
    let mut k = Builder::new("bias_gelu", "y = gelu(x + bias), x: [rows, cols]");
    let rows = k.dim("rows", 0..=1 << 16);
    let x = k.input("x", dtype, &[rows.clone(), n(cols)]);
    let bias = k.input("bias", dtype, &[n(cols)]);
    let y = k.output("y", dtype, &[rows.clone(), n(cols)]);
    k.for_each(Worker::Thread, &[("row", rows), ("col", n(cols))], |k, ix| {
        let sum = x.at(ix).cast(DType::F32) + bias.at([&ix[1]]).cast(DType::F32);
        let sum = k.bind("sum", sum);
        k.store(&y, ix, gelu(&sum));
    });
    k.finish().unwrap()
}

/// Softmax of each row, a block a row, the row held in registers.
pub fn softmax_block(dtype: DType, cols: u32) -> Program {
    let width = n(cols.into());
    let mut k = Builder::new("softmax_block", "y = softmax(x) along the last axis");
    let rows = k.dim("rows", 1..=1 << 20);
    let x = k.input("x", dtype, &[rows.clone(), width.clone()]);
    let y = k.output("y", dtype, &[rows.clone(), width.clone()]);
    let held = k.fragment("held", DType::F32, &[cols]);
    k.threads(128);
    k.for_each(Worker::Block, &[("row", rows)], |k, ix| {
        let row = &ix[0];
        k.parallel(&[("col", width.clone())], |k, c| {
            k.store(&held, c, x.at([row, &c[0]]).cast(DType::F32));
        });
        let peak = k.reduce("peak", ReduceOp::Max, &[("col", width.clone())], |_, c| held.at(c));
        let total = k.reduce("total", ReduceOp::Sum, &[("col", width.clone())], |_, c| (held.at(c) - &peak).exp());
        k.parallel(&[("col", width.clone())], |k, c| {
            k.store(&y, [row, &c[0]], (held.at(c) - &peak).exp() / &total);
        });
    });
    k.finish().unwrap()
}

/// Layer normalization of each row, a warp a row, the row length at run time and a multiple of `multiple`.
pub fn layer_norm_warp(dtype: DType, multiple: i64) -> Program {
    let mut k = Builder::new("layer_norm", "y = (x - mean) * rsqrt(var + eps) * gamma + beta");
    let rows = k.dim("rows", 1..=1 << 24);
    let cols = k.dim_multiple_of("cols", 1..=1 << 20, multiple);
    let eps = k.scalar("eps", DType::F32);
    let shape = [rows.clone(), cols.clone()];
    let x = k.input("x", dtype, &shape);
    let gamma = k.input("gamma", DType::F32, std::slice::from_ref(&cols));
    let beta = k.input("beta", DType::F32, std::slice::from_ref(&cols));
    let y = k.output("y", dtype, &shape);
    k.for_each(Worker::Warp, &[("row", rows)], |k, ix| {
        let row = &ix[0];
        let at = |c: &Expr| x.at([row, c]).cast(DType::F32);
        let count = k.bind("count", cols.cast(DType::F32));
        let axes = [("col", cols.clone())];
        let sum = k.reduce("sum", ReduceOp::Sum, &axes, |_, c| at(&c[0]));
        let mean = k.bind("mean", sum / &count);
        let squares = k.reduce("squares", ReduceOp::Sum, &axes, |k, c| {
            let centered = k.bind("centered", at(&c[0]) - &mean);
            &centered * &centered
        });
        let scale = k.bind("scale", (squares / &count + &eps).rsqrt());
        k.parallel(&axes, |k, c| {
            let normal = (at(&c[0]) - &mean) * &scale;
            k.store(&y, [row, &c[0]], normal * gamma.at(c) + beta.at(c));
        });
    });
    k.finish().unwrap()
}

/// Rows of a table picked by 64-bit indices; negative ones count from the end.
pub fn gather_rows(dtype: DType, cols: i64) -> Program {
    let mut k = Builder::new("embedding/word", "y[i, :] = table[ids[i], :]");
    let count = k.dim("count", 0..=1 << 20);
    let vocab = k.dim("vocab", 1..=1 << 30);
    let table = k.input("table", dtype, &[vocab.clone(), n(cols)]);
    let ids = k.input("ids", DType::I64, std::slice::from_ref(&count));
    let y = k.output("y", dtype, &[count.clone(), n(cols)]);
    k.for_each(Worker::Thread, &[("i", count), ("col", n(cols))], |k, ix| {
        let id = k.bind("id", ids.at([&ix[0]]).cast(Type::Index));
        let from_start = id.lt(0).select(&(&id + &vocab), &id);
        let row = k.bind("row", from_start.max(0).min(&vocab - 1));
        k.store(&y, ix, table.at([&row, &ix[1]]));
    });
    k.finish().unwrap()
}

/// 2-D max pooling over NCHW with padding, window 3, stride 2.
pub fn max_pool() -> Program {
    let mut k = Builder::new("max_pool", "y = max over 3x3 windows of x, stride 2, padding 1");
    let planes = k.dim("planes", 1..=1 << 20);
    let h = k.dim("h", 1..=1 << 12);
    let w = k.dim("w", 1..=1 << 12);
    let (oh, ow) = ((&h + 1) / 2, (&w + 1) / 2);
    let x = k.input("x", DType::F32, &[planes.clone(), h.clone(), w.clone()]);
    let y = k.output("y", DType::F32, &[planes.clone(), oh.clone(), ow.clone()]);
    k.for_each(Worker::Thread, &[("plane", planes), ("p", oh), ("q", ow)], |k, ix| {
        let best = k.declare("best", Expr::float(DType::F32, f64::NEG_INFINITY));
        k.for_unrolled("r", 0, 3, |k, r| {
            k.for_unrolled("s", 0, 3, |k, s| {
                let row = k.bind("row", &ix[1] * 2 - 1 + r);
                let col = k.bind("col", &ix[2] * 2 - 1 + s);
                let inside = row.ge(0).and(row.lt(&h)).and(col.ge(0)).and(col.lt(&w));
                let value = x.at([&ix[0], &row, &col]);
                k.if_(inside, |k| k.assign(&best, Expr::var(&best).max(value)));
            });
        });
        k.store(&y, ix, Expr::var(&best));
    });
    k.finish().unwrap()
}

/// Transposition of a matrix through a shared tile.
pub fn transpose_tiled(dtype: DType) -> Program {
    let mut k = Builder::new("transpose", "y = transpose(x)");
    let rows = k.dim("rows", 1..=1 << 15);
    let cols = k.dim("cols", 1..=1 << 15);
    let x = k.input("x", dtype, &[rows.clone(), cols.clone()]);
    let y = k.output("y", dtype, &[cols.clone(), rows.clone()]);
    let tile = k.shared("tile", dtype, &[32, 33]);
    let (tiles_r, tiles_c) = (rows.ceil_div(32), cols.ceil_div(32));
    k.for_each(Worker::Block, &[("tile_row", tiles_r), ("tile_col", tiles_c)], |k, t| {
        let square = [("i", n(32)), ("j", n(32))];
        k.parallel(&square, |k, ix| {
            let row = k.bind("row", &t[0] * 32 + &ix[0]);
            let col = k.bind("col", &t[1] * 32 + &ix[1]);
            k.if_(row.lt(&rows).and(col.lt(&cols)), |k| k.store(&tile, ix, x.at([&row, &col])));
        });
        k.parallel(&square, |k, ix| {
            let row = k.bind("row", &t[0] * 32 + &ix[1]);
            let col = k.bind("col", &t[1] * 32 + &ix[0]);
            k.if_(row.lt(&rows).and(col.lt(&cols)), |k| {
                k.store(&y, [&col, &row], tile.at([&ix[1], &ix[0]]));
            });
        });
    });
    k.finish().unwrap()
}

/// Counts of each value, by atomics.
pub fn histogram() -> Program {
    let mut k = Builder::new("histogram", "counts[x[i]] += 1");
    let count = k.dim("count", 0..=1 << 40);
    let x = k.input("x", DType::U8, std::slice::from_ref(&count));
    let counts = k.in_out("counts", DType::I32, &[n(256)]);
    k.for_each(Worker::Thread, &[("i", count)], |k, ix| {
        let bin = k.bind("bin", x.at(ix).cast(Type::Index));
        k.atomic(AtomicOp::Add, &counts, [&bin], Expr::int(DType::I32, 1));
    });
    k.finish().unwrap()
}

/// Every compute function of one f32, one after another, and casts between all stored types.
pub fn functions() -> Program {
    let mut k = Builder::new("functions", "every function of one or two values");
    let count = k.dim("count", 1..=1 << 20);
    let x = k.input("x", DType::F32, std::slice::from_ref(&count));
    let unary = [
        UnaryOp::Neg,
        UnaryOp::Abs,
        UnaryOp::Exp,
        UnaryOp::Exp2,
        UnaryOp::Expm1,
        UnaryOp::Log,
        UnaryOp::Log2,
        UnaryOp::Log1p,
        UnaryOp::Sqrt,
        UnaryOp::Rsqrt,
        UnaryOp::Sin,
        UnaryOp::Cos,
        UnaryOp::Tan,
        UnaryOp::Asin,
        UnaryOp::Acos,
        UnaryOp::Atan,
        UnaryOp::Sinh,
        UnaryOp::Cosh,
        UnaryOp::Tanh,
        UnaryOp::Asinh,
        UnaryOp::Acosh,
        UnaryOp::Atanh,
        UnaryOp::Erf,
        UnaryOp::Floor,
        UnaryOp::Ceil,
        UnaryOp::Trunc,
        UnaryOp::Round,
    ];
    let binary = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Rem,
        BinaryOp::Min,
        BinaryOp::Max,
        BinaryOp::Pow,
        BinaryOp::Atan2,
    ];
    let rows = (unary.len() + binary.len() + 3) as i64;
    let y = k.output("y", DType::F32, &[n(rows), count.clone()]);
    k.for_each(Worker::Thread, &[("i", count)], |k, ix| {
        let i = &ix[0];
        let a = k.bind("a", x.at([i]));
        let b = k.bind("b", &a * 0.5 + 0.25);
        for (row, op) in unary.into_iter().enumerate() {
            k.store(&y, [&n(row as i64), i], a.unary(op));
        }
        for (row, op) in binary.into_iter().enumerate() {
            k.store(&y, [&n((row + unary.len()) as i64), i], a.binary(op, &b));
        }
        let flags = [a.unary(UnaryOp::IsNan), a.unary(UnaryOp::IsInf), a.le(&b).and(!a.lt(0.0))];
        for (row, flag) in flags.into_iter().enumerate() {
            let row = n((row + unary.len() + binary.len()) as i64);
            k.store(&y, [&row, i], flag.cast(DType::F32));
        }
    });
    k.finish().unwrap()
}

/// One cast, elementwise.
pub fn cast(from: DType, to: DType) -> Program {
    let mut k = Builder::new(&format!("cast_{from}_{to}"), &format!("y = x as {to}"));
    let count = k.dim_multiple_of("count", 0..=1 << 30, 16);
    let x = k.input("x", from, std::slice::from_ref(&count));
    let y = k.output("y", to, std::slice::from_ref(&count));
    k.for_each(Worker::Thread, &[("i", count)], |k, ix| k.store(&y, ix, x.at(ix)));
    k.finish().unwrap()
}
