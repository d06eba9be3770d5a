#[kiln::model]
fn joined<B>(x: Tensor<f32, B, 2>) -> Tensor<f32, B, 4> {
    cat([x, x], 1)
}

fn main() {}
