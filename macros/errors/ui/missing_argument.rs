#[kiln::model]
fn norm<B, D>(x: Tensor<f32, B, D>, scale: Tensor<f32, D>) -> Tensor<f32, B, D> {
    let a = x.batch_norm(scale, scale);
    a.softmax(-1, 0)
}

fn main() {}
