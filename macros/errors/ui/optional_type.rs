#[kiln::model]
fn biased<B>(x: Tensor<f32, B, 2>, bias: Option<Tensor<f32, 3>>) -> Tensor<f32, B, 2> {
    if let Some(b) = bias { x + b } else { x }
}

fn main() {}
