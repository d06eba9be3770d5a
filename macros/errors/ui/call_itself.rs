#[kiln::model]
fn forever<B>(x: Tensor<f32, B, 8>) -> Tensor<f32, B, 8> {
    forever(x)
}

fn main() {}
