#[kiln::model]
fn project<B>(x: Tensor<f32, B, 32>) -> Tensor<f32, B, 10> {
    // Weights of `linear` are [outputs, inputs].
    x.linear(weight!("w", f32, [32, 10]))
}

fn main() {}
