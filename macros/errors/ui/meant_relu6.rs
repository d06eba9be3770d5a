#[kiln::model]
fn capped<B>(x: Tensor<f32, B, 12>) -> Tensor<f32, B, 12> {
    x.relu6()
}

fn main() {}
