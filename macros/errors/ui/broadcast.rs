#[kiln::model]
fn scale<B>(x: Tensor<f32, B, 16, 8>, y: Tensor<f32, 16, 1, 4>) -> Tensor<f32, B, 16, 8> {
    x * y
}

fn main() {}
