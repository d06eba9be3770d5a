//! Kernels that use what a body may hold: fills, columns, choices, branches, turns over Rust values.

use kiln::prelude::*;

#[derive(kiln::Config)]
pub struct Rows {
    #[one_of(1, 4)]
    rows: u32,
    #[one_of(64, 128)]
    columns: u32,
}

#[kiln::model]
pub fn shifted_softmax<T: Float, B, M, N>(x: Tensor<T, B, M, N>, by: Tensor<f32, M>) -> Tensor<T, B, M, N> {
    (x.cast(f32) + by.unsqueeze(1)).softmax(-1).cast(T)
}

/// Rows in one pass for what they are divided by, and one for the result.
#[kiln::kernel(implements = shifted_softmax, dtypes = [f16])]
pub fn softmax<T: Float>(x: View<T, B, M, N>, by: View<f32, M>, y: ViewMut<T, B, M, N>, cfg: &Rows) {
    let columns = cfg.columns;
    for [b, m] in grid([B, M], [1, cfg.rows]) {
        let shift = by.tile([m, _]);
        let mut most = full::<f32>(f32::NEG_INFINITY, [cfg.rows, 1]);
        let mut total = zeros::<f32>([cfg.rows, 1]);
        for n in range(N, columns) {
            let value = x.tile_or([b, m, n], f32::NEG_INFINITY) + shift;
            let next = most.max(value.amax(1));
            let fade = most.eq(next).select(1.0, (most - next).exp());
            total = total * fade + (value - next).exp().sum(1);
            most = next;
        }
        for n in range(N, columns) {
            y.tile([b, m, n]).store((x.tile([b, m, n]) + shift - most).exp() / total);
        }
    }
}

#[kiln::model]
pub fn steps<M, N>(x: Tensor<f32, M, N>) -> Tensor<i32, M, N> {
    (x * 4.0).clamp(-7.0, 7.0).round().cast(i32) * 3
}

/// The same by other words, which differ from CTA to CTA and from Config to Config.
#[kiln::kernel(implements = steps)]
pub fn stepped(x: View<f32, M, N>, y: ViewMut<i32, M, N>, cfg: &Rows) {
    let twice = cfg.rows.min(1) + 1;
    for [m, n] in grid([M, N], [cfg.rows, cfg.columns]) {
        let mut value = x.tile([m, n]);
        for _ in 0..twice {
            value = value + value;
        }
        if m + cfg.rows <= M {
            value = value.clamp(-7.0, 7.0);
        } else {
            value = value.max(-7.0).min(7.0);
        }
        if cfg.rows > 1 {
            value = value.round();
        } else {
            value = -(-value).round();
        }
        y.tile([m, n]).store(value.cast(i32) * 3);
    }
}
