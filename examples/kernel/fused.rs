//! RMSNorm, SwiGLU and the quantization of every token to int8: a model function, the kernel that implements it, and a model that uses it.

use kiln::prelude::*;

/// What the kernel computes: rows of int8, and the step of each row.
#[kiln::model]
pub fn norm_swiglu_quant<T: Float, M, N>(
    x: Tensor<T, M, N>,
    up: Tensor<T, M, N>,
    scale: Tensor<T, N>,
) -> (Tensor<i8, M, N>, Tensor<f32, M, 1>) {
    let normed = x.cast(f32).rms_norm(-1, scale.cast(f32), eps = 1e-5);
    let gated = normed.silu() * up.cast(f32);
    let step = gated.abs().amax(-1, keep = true).max(1e-12) / 127.0;
    ((gated / step).round().cast(i8), step)
}

/// How rows are taken: so many together, so many columns at a time.
#[derive(kiln::Config)]
pub struct Rows {
    #[one_of(1, 4)]
    rows: u32,
    #[one_of(256, 1024)]
    columns: u32,
    #[one_of(4, 8)]
    warps: u32,
}

/// One CTA takes a few rows: their squares, then their greatest element, then the result; from the second time on they come from the cache.
#[kiln::kernel(implements = norm_swiglu_quant)]
pub fn fused<T: Float>(
    x: View<T, M, N>,
    up: View<T, M, N>,
    scale: View<T, N>,
    q: ViewMut<i8, M, N>,
    step: ViewMut<f32, M, 1>,
    cfg: &Rows,
) {
    for m in grid(M, cfg.rows) {
        let mut squares = zeros::<f32>([cfg.rows, cfg.columns]);
        for n in range(N, cfg.columns) {
            squares += x.tile([m, n]).square();
        }
        let norm = (squares.sum(1) / (N as f32) + 1e-5).rsqrt();
        let mut most = zeros::<f32>([cfg.rows, cfg.columns]);
        for n in range(N, cfg.columns) {
            let normed = x.tile([m, n]) * norm * scale.tile([n]);
            most = most.max((normed.silu() * up.tile([m, n])).abs());
        }
        let by = most.amax(1).max(1e-12) / 127.0;
        step.tile([m, ..]).store(by);
        for n in range(N, cfg.columns) {
            let normed = x.tile([m, n]) * norm * scale.tile([n]);
            let gated = normed.silu() * up.tile([m, n]);
            q.tile([m, n]).store((gated / by).round().cast(i8));
        }
    }
}

/// The gate of an MLP whose result goes on in int8: calling the kernel is calling the function, and the model carries the kernel.
#[kiln::model]
pub fn gate<B>(x: Tensor<f16, B, 64>) -> (Tensor<i8, B, 160>, Tensor<f32, B, 1>) {
    let a = x.linear(weight!("gate", f16, [160, 64]));
    let b = x.linear(weight!("up", f16, [160, 64]));
    let (q, step) = fused(a, b, weight!("scale", f16, [160]));
    (q, step)
}
