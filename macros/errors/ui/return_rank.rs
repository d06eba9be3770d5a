#[kiln::model]
fn pool<B, S>(x: Tensor<f32, B, S, 12>) -> Tensor<f32, B, 12> {
    x.mean(1, keep = true)
}

fn main() {}
