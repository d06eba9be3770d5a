#[kiln::model]
fn outer<B>(x: Tensor<f32, B, 8>) -> Tensor<f32, B, 4> {
    inner(x.tanh())
}

#[kiln::model]
fn inner<N>(x: Tensor<f32, N, 9>) -> Tensor<f32, N, 4> {
    x.linear(weight!("w", f32, [4, 9]))
}

fn main() {}
