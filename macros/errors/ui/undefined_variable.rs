#[kiln::model]
fn add<B>(x: Tensor<f32, B, 8>) -> Tensor<f32, B, 8> {
    x.relu() + y
}

fn main() {}
