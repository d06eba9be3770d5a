#[kiln::model]
fn pick<B>(x: Tensor<f32, B>, y: Tensor<f32, B>) -> Tensor<f32, B> {
    if x.gt(y) { x } else { y }
}

fn main() {}
