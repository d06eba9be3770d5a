#[kiln::model]
fn fold<B>(x: Tensor<f32, B, 12>) -> Tensor<f32, B, 5, 2> {
    x.reshape([B, 5, 2])
}

fn main() {}
