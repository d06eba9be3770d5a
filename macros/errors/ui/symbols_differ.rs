#[kiln::model]
fn add<B, S>(x: Tensor<f32, B, S>, y: Tensor<f32, S, B>) -> Tensor<f32, B, S> {
    x + y
}

fn main() {}
