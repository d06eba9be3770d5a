#[kiln::model]
fn outer<B>(x: Tensor<f32, B, 8>) -> Tensor<f32, B, 8> {
    inner(x)
}

#[kiln::model]
fn inner<N>(x: Tensor<f32, N, 8>, scale: f32) -> Tensor<f32, N, 8> {
    x * scale
}

fn main() {}
