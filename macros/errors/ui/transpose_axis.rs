#[kiln::model]
fn turn<B>(x: Tensor<f32, B, 12>) -> Tensor<f32, 12, B> {
    x.transpose(0, 2)
}

fn main() {}
