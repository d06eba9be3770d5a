use kiln::prelude::*;

#[kiln::model]
fn linear<T: Float, M, N, K>(x: Tensor<T, M, K>, w: Tensor<T, N, K>, b: Tensor<T, N>) -> Tensor<T, M, N> {
    x.linear(w, b)
}

#[derive(kiln::Config)]
struct Tiles {
    #[one_of(64)]
    bm: u32,
    #[one_of(64)]
    bn: u32,
    #[one_of(32)]
    bk: u32,
    #[range(2..=3)]
    stages: u32,
}

#[kiln::kernel(implements = linear)]
fn gemm<T: Float>(x: View<T, M, K>, w: View<T, N, K>, b: View<T, N>, y: ViewMut<T, M, N>, cfg: &Tiles) {
    for [m, n] in grid([M, N], [cfg.bm, cfg.bn]) {
        let mut acc = zeros::<f32>([cfg.bm, cfg.bn]);
        for k in pipeline(K, cfg.bk, cfg.stages) {
            acc += dot(x.tile([m, k]), w.tile([n, k]).t());
        }
        y.tile([m, n]).store((acc + b.tile([n])).geluu());
    }
}

fn main() {}
