#[kiln::model]
fn attend<B>(x: Tensor<f32, B, 12>) -> Tensor<f32, B, 12> {
    x.softmax(2)
}

fn main() {}
