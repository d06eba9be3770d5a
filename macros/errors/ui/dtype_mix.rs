#[kiln::model]
fn mix<B>(x: Tensor<f32, B, 4>, y: Tensor<f16, B, 4>) -> Tensor<f32, B, 4> {
    x + y
}

fn main() {}
