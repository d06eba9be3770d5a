#[kiln::model]
fn pick<B>(mask: Tensor<i64, B>, x: Tensor<f32, B>) -> Tensor<f32, B> {
    mask.select(x, 0.0)
}

fn main() {}
