#[kiln::model]
fn less<B>(x: Tensor<f32, B>, y: Tensor<f32, B>) -> Tensor<bool, B> {
    x < y
}

fn main() {}
