//! Tile programs that tests and measurements share.

pub mod mutants;

use kiln_tile::expr::UnaryOp;
use kiln_tile::ir::{Builder, Place, Program, Schedule};
use kiln_tile::{DType, Expr, ReduceOp};

/// A role that copies, so many warps that compute, persistent CTAs, results in whole boxes.
pub fn hopper(warps: u32) -> Schedule {
    Schedule {
        warps,
        specialise: true,
        registers: (warps == 8).then_some((40, 232)),
        persistent: true,
        raster: 8,
        staged_epilogue: true,
        ..Schedule::default()
    }
}

/// `y[M, N] = x[M, K] w[N, K]^T`
pub fn gemm(dtype: DType, [bm, bn, bk]: [u32; 3], stages: u32, schedule: Schedule) -> Program {
    let mut k = Builder::new("gemm", "y = x w^T");
    let m = k.dim("m", 1..=1 << 20, 1);
    let n = k.dim("n", 8..=1 << 20, 8);
    let d = k.dim("k", 8..=1 << 20, 8);
    let x = k.input("x", dtype, &[m.clone(), d.clone()]);
    let w = k.input("w", dtype, &[n.clone(), d.clone()]);
    let y = k.output("y", dtype, &[m.clone(), n.clone()]);
    k.schedule(schedule);
    let (tm, tn) = (i64::from(bm), i64::from(bn));
    let at = k.grid(&[("tile_m", m.ceil_div(tm)), ("tile_n", n.ceil_div(tn))]);
    let (row, col) = (&at[0] * tm, &at[1] * tn);
    let zero = k.full("acc", DType::F32, &[bm, bn], Expr::float(DType::F32, 0.0));
    let sum = k.for_range("k0", (Expr::index(0), d.clone(), bk.into()), Some(stages), &[zero], |k, at, acc| {
        let view = k.view(&x, &[row.clone(), at.clone()], &[bm, bk]);
        let a = k.load("a", view);
        let view = k.view(&w, &[col.clone(), at.clone()], &[bn, bk]);
        let b = k.load("b", view);
        let b = k.transpose(&b, &[1, 0]);
        vec![k.dot(&a, &b, &acc[0])]
    });
    let view = k.view(&y, &[row, col], &[bm, bn]);
    k.store(Place::View(view), &sum[0]);
    k.finish().unwrap()
}

/// `y[M, N] = softmax(x[M, N])` of rows that the CTAs of a cluster share; each holds `part` columns.
pub fn shared_softmax(dtype: DType, cluster: u32, part: u32) -> Program {
    let mut k = Builder::new("shared_softmax", "y = softmax(x)");
    let m = k.dim("m", 1..=1 << 16, 1);
    let n = k.dim("n", 1..=i64::from(cluster * part), 1);
    let x = k.input("x", dtype, &[m.clone(), n.clone()]);
    let y = k.output("y", dtype, &[m.clone(), n.clone()]);
    k.schedule(Schedule { warps: 4, cluster, across: true, ..Schedule::default() });
    let at = k.grid(&[("row", m), ("part", Expr::index(cluster.into()))]);
    let origin = [at[0].clone(), k.bind("start", &at[1] * i64::from(part))];
    let view = k.view(&x, &origin, &[1, part]);
    let own = k.load_or("x", Place::View(view), &[1, part], Expr::float(dtype, f64::NEG_INFINITY));
    let own = k.cast(&own, DType::F32);
    let peak = k.reduce("peak", ReduceOp::Max, &own, 1);
    let peak = k.cluster_reduce(&[(ReduceOp::Max, peak)]).remove(0);
    let e = k.map("e", &[1, part], &[&own, &peak], |_, x, _| (&x[0] - &x[1]).unary(UnaryOp::Exp));
    let sum = k.reduce("sum", ReduceOp::Sum, &e, 1);
    let sum = k.cluster_reduce(&[(ReduceOp::Sum, sum)]).remove(0);
    let result = k.map("y", &[1, part], &[&e, &sum], |_, x, _| &x[0] / &x[1]);
    let view = k.view(&y, &origin, &[1, part]);
    k.store(Place::View(view), &result);
    k.finish().unwrap()
}

/// `o[H, Q, D] = softmax(q[H, Q, D] k[H, K, D]^T / sqrt(D)) v[H, K, D]`, streamed over keys.
pub fn attention(dtype: DType, d: u32, [bm, bn, _]: [u32; 3], stages: u32, schedule: Schedule) -> Program {
    let f32 = DType::F32;
    let mut k = Builder::new("attention", "o = softmax(q k^T) v");
    let heads = k.dim("heads", 1..=1 << 16, 1);
    let queries = k.dim("queries", 1..=1 << 20, 1);
    let keys = k.dim("keys", 1..=1 << 20, 1);
    let width = Expr::index(d.into());
    let q = k.input("q", dtype, &[heads.clone(), queries.clone(), width.clone()]);
    let key = k.input("key", dtype, &[heads.clone(), keys.clone(), width.clone()]);
    let v = k.input("v", dtype, &[heads.clone(), keys.clone(), width.clone()]);
    let o = k.output("o", dtype, &[heads.clone(), queries.clone(), width]);
    k.schedule(schedule);
    let at = k.grid(&[("head", heads), ("tile", queries.ceil_div(i64::from(bm)))]);
    let (head, row) = (at[0].clone(), &at[1] * i64::from(bm));
    let zero = Expr::index(0);
    let view = k.view(&q, &[head.clone(), row.clone(), zero.clone()], &[bm, d]);
    let query = k.load("query", view);
    let scale = f64::from(d).powf(-0.5) * std::f64::consts::LOG2_E;
    let lowest = k.full("most", f32, &[bm, 1], Expr::float(f32, f64::NEG_INFINITY));
    let none = k.full("total", f32, &[bm, 1], Expr::float(f32, 0.0));
    let empty = k.full("acc", f32, &[bm, d], Expr::float(f32, 0.0));
    let range = (zero.clone(), keys.clone(), i64::from(bn));
    let last = k.for_range("key0", range, Some(stages), &[lowest, none, empty], |k, start, carried| {
        let [most, total, acc] = carried else { unreachable!() };
        let view = k.view(&key, &[head.clone(), start.clone(), zero.clone()], &[bn, d]);
        let right = k.load("key", view);
        let right = k.transpose(&right, &[1, 0]);
        let scores = k.full("scores", f32, &[bm, bn], Expr::float(f32, 0.0));
        let scores = k.dot(&query, &right, &scores);
        // Only the last tile may reach past the end.
        let whole = (start + i64::from(bn)).le(&keys);
        let scores = k
            .if_else(
                whole,
                |_| vec![scores.clone()],
                |k| {
                    vec![k.map("scores", &[bm, bn], &[&scores], |_, x, at| {
                        let inside = (start + &at[1]).lt(&keys);
                        inside.select(&x[0], Expr::float(f32, f64::NEG_INFINITY))
                    })]
                },
            )
            .remove(0);
        let peak = k.reduce("peak", ReduceOp::Max, &scores, 1);
        let next = k.map("most", &[bm, 1], &[most, &peak], |_, x, _| x[0].max(&x[1]));
        let fade = k.map("fade", &[bm, 1], &[most, &next], |_, x, _| {
            ((&x[0] - &x[1]) * scale).unary(kiln_tile::expr::UnaryOp::Exp2Approx)
        });
        let weights = k.map("weights", &[bm, bn], &[&scores, &next], |_, x, _| {
            x[0].fma(scale, &x[1] * -scale).unary(kiln_tile::expr::UnaryOp::Exp2Approx)
        });
        let sum = k.reduce("sum", ReduceOp::Sum, &weights, 1);
        let total = k.map("total", &[bm, 1], &[total, &fade, &sum], |_, x, _| x[0].fma(&x[1], &x[2]));
        let acc = k.map("acc", &[bm, d], &[acc, &fade], |_, x, _| &x[0] * &x[1]);
        let weights = k.cast(&weights, dtype);
        let view = k.view(&v, &[head.clone(), start.clone(), zero.clone()], &[bn, d]);
        let value = k.load("value", view);
        let acc = k.dot(&weights, &value, &acc);
        vec![next, total, acc]
    });
    let result = k.map("result", &[bm, d], &[&last[2], &last[1]], |_, x, _| &x[0] / &x[1]);
    let view = k.view(&o, &[head, row, zero], &[bm, d]);
    k.store(Place::View(view), &result);
    k.finish().unwrap()
}
