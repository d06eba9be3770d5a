#[kiln::model]
fn add<B>(x: Tensor<f32, B, 784>, y: Tensor<f32, B, 10>) -> Tensor<f32, B, 784> {
    let twice = x * 2.0;
    (twice + y).relu()
}

fn main() {}
