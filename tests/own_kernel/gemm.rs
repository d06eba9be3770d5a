//! The kernel that the design of the tile compiler begins with.

use kiln::prelude::*;

#[kiln::model]
pub fn linear_gelu<T: Float, M, N, K>(x: Tensor<T, M, K>, w: Tensor<T, N, K>, b: Tensor<T, N>) -> Tensor<T, M, N> {
    x.linear(w, b).gelu()
}

#[derive(kiln::Config)]
#[config(legal = Tiles::fits)]
pub struct Tiles {
    #[one_of(64, 128)]
    bm: u32,
    #[one_of(64, 128, 256)]
    bn: u32,
    #[one_of(32, 64)]
    bk: u32,
    #[range(2..=4)]
    stages: u32,
}

impl Tiles {
    /// Small ones, so that checks are quick.
    pub fn fits(&self) -> bool {
        self.bm * self.bn <= 64 * 128 && self.stages < 4
    }
}

#[kiln::kernel(implements = linear_gelu, dtypes = [f16, f32])]
pub fn gemm_gelu<T: Float>(x: View<T, M, K>, w: View<T, N, K>, b: View<T, N>, y: ViewMut<T, M, N>, cfg: &Tiles) {
    for [m, n] in grid([M, N], [cfg.bm, cfg.bn]) {
        let mut acc = zeros::<f32>([cfg.bm, cfg.bn]);
        for k in pipeline(K, cfg.bk, cfg.stages) {
            acc += dot(x.tile([m, k]), w.tile([n, k]).t());
        }
        y.tile([m, n]).store((acc + b.tile([n])).gelu());
    }
}

/// More sums than threads have registers for.
#[derive(kiln::Config)]
pub struct Huge {
    #[one_of(512)]
    bm: u32,
}

#[kiln::kernel(implements = linear_gelu, dtypes = [f16])]
pub fn huge_gelu<T: Float>(x: View<T, M, K>, w: View<T, N, K>, b: View<T, N>, y: ViewMut<T, M, N>, cfg: &Huge) {
    for [m, n] in grid([M, N], [cfg.bm, 256]) {
        let mut acc = zeros::<f32>([cfg.bm, 256]);
        for k in pipeline(K, 32, 2) {
            acc += dot(x.tile([m, k]), w.tile([n, k]).t());
        }
        y.tile([m, n]).store((acc + b.tile([n])).gelu());
    }
}

/// A model that would use it.
#[kiln::model]
pub fn huge<B>(x: Tensor<f16, B, 64>) -> Tensor<f16, B, 32> {
    huge_gelu(x, weight!("w", f16, [32, 64]), weight!("b", f16, [32]))
}
