#[kiln::model]
fn project<B>(x: Tensor<f32, B, 32>) -> Tensor<f32, B, 10> {
    let w = weight!("w", f32);
    x.linear(w)
}

fn main() {}
