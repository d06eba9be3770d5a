#[kiln::model]
fn table<B, S>(x: Tensor<f32, B, S>) -> Tensor<f32, B, S> {
    x + weight!("bias", f32, [S])
}

fn main() {}
