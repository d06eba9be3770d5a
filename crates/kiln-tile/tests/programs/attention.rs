//! Attention that streams through keys and values: an online softmax between two products.

use kiln_tile::{Builder, DType, Expr, Program, ReduceOp, Worker};

/// `softmax(q k^T) v` for each of `batch`, with `[queries, 32]` of `q`, `[keys, 32]` of `k`, `[keys, 48]` of `v`.
pub fn attention(dtype: DType, tile_m: u32, tile_n: u32, threads: u32) -> Program {
    let (depth, columns) = (32, 48);
    let mut k = Builder::new("attention", "o = softmax(q k^T) v");
    let [batch, queries, keys] =
        [("batch", 1 << 10), ("queries", 1 << 14), ("keys", 1 << 14)].map(|(n, to)| k.dim(n, 1..=to));
    let extents = |rows: &Expr, columns: u32| [batch.clone(), rows.clone(), Expr::index(columns.into())];
    let q = k.input("q", dtype, &extents(&queries, depth));
    let key = k.input("k", dtype, &extents(&keys, depth));
    let v = k.input("v", dtype, &extents(&keys, columns));
    let o = k.output("o", dtype, &extents(&queries, columns));
    let q_tile = k.shared("q_tile", dtype, &[tile_m, depth]);
    let k_tile = k.shared("k_tile", dtype, &[tile_n, depth]);
    let v_tile = k.shared("v_tile", dtype, &[tile_n, columns]);
    let scores = k.fragment("scores", DType::F32, &[tile_m, tile_n]);
    let acc = k.fragment("acc", DType::F32, &[tile_m, columns]);
    let [peak, total, base, scale, found] =
        ["peak", "total", "base", "scale", "found"].map(|name| k.fragment(name, DType::F32, &[tile_m]));
    k.threads(threads);
    let (bm, bn) = (i64::from(tile_m), i64::from(tile_n));
    let minus_infinity = || Expr::float(DType::F32, f64::NEG_INFINITY);
    let zero = || Expr::float(DType::F32, 0.0);
    k.for_each(Worker::Block, &[("z", batch.clone()), ("tile_m", queries.ceil_div(bm))], |k, at| {
        let row = |i: &Expr| &at[1] * bm + i;
        k.copy(&q_tile, &["i", "d"], |ix| row(&ix[0]).lt(&queries), |_, ix| q.at([&at[0], &row(&ix[0]), &ix[1]]));
        k.fill(&acc, 0);
        k.fill(&total, 0);
        k.fill(&peak, minus_infinity());
        k.pipelined("step", keys.ceil_div(bn), 2, |k, step| {
            let col = |j: &Expr| step * bn + j;
            for (tile, from) in [(&k_tile, &key), (&v_tile, &v)] {
                k.copy(tile, &["j", "d"], |ix| col(&ix[0]).lt(&keys), |_, ix| from.at([&at[0], &col(&ix[0]), &ix[1]]));
            }
            k.fill(&scores, 0);
            k.gemm(&scores, &q_tile, &k_tile, false, true);
            let rows = || [("i", Expr::index(bm))];
            let square = || [("i", Expr::index(bm)), ("j", Expr::index(bn))];
            k.parallel(&square(), |k, ix| {
                let exists = col(&ix[1]).lt(&keys);
                k.store(&scores, ix, exists.select(&scores.at(ix), minus_infinity()));
            });
            k.reduce_rows(&found, ReduceOp::Max, square(), |_, ix| scores.at(ix));
            k.parallel(&rows(), |k, ix| {
                let new = k.bind("new", peak.at(ix).max(found.at(ix)));
                // Rows of which nothing exists so far.
                let finite = k.bind("finite", new.ne(minus_infinity()).select(&new, zero()));
                k.store(&scale, ix, (peak.at(ix) - &finite).exp());
                k.store(&base, ix, finite);
                k.store(&peak, ix, new);
            });
            k.parallel(&square(), |k, ix| k.store(&scores, ix, (scores.at(ix) - base.at([&ix[0]])).exp()));
            k.reduce_rows(&found, ReduceOp::Sum, square(), |_, ix| scores.at(ix));
            k.parallel(&rows(), |k, ix| k.store(&total, ix, total.at(ix) * scale.at(ix) + found.at(ix)));
            k.parallel(&[("i", Expr::index(bm)), ("c", Expr::index(columns.into()))], |k, ix| {
                k.store(&acc, ix, acc.at(ix) * scale.at([&ix[0]]));
            });
            k.gemm(&acc, &scores, &v_tile, false, false);
        });
        k.parallel(&[("i", Expr::index(bm)), ("c", Expr::index(columns.into()))], |k, ix| {
            let row = k.bind("row", row(&ix[0]));
            k.if_(row.lt(&queries), |k| k.store(&o, [&at[0], &row, &ix[1]], acc.at(ix) / total.at([&ix[0]])));
        });
    });
    k.finish().unwrap()
}
