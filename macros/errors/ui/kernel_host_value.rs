use kiln::prelude::*;

#[kiln::model]
fn scaled<T: Float, N>(x: Tensor<T, N>, by: f64) -> Tensor<T, N> {
    x * by
}

#[kiln::kernel(implements = scaled)]
fn double<T: Float>(x: View<T, N>, y: ViewMut<T, N>) {
    for n in grid(N, 256) {
        y.tile([n]).store(x.tile([n]) * 2.0);
    }
}

fn main() {}
