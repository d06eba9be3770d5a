#[kiln::model]
fn project<B>(x: Tensor<f32, B, 32>) -> Tensor<f32, B, 10> {
    let w = weight!("w", f32, [64, 10]);
    x.matmul(w)
}

fn main() {}
