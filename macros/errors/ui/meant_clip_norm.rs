#[kiln::model]
fn limited<B>(x: Tensor<f32, B, 2>) -> (Tensor<f32, B, 2>, Tensor<f32, B>) {
    let a = x.clip(-1.0, 1.0);
    let b = x.norm(1);
    (a, b)
}

fn main() {}
