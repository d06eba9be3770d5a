#[kiln::model]
fn biased<B>(x: Tensor<f32, B, 2>, bias: Option<Tensor<f32, 2>>) -> Tensor<f32, B, 2> {
    x + bias.relu()
}

#[kiln::model]
fn caller<B>(x: Tensor<f32, B, 2>) -> Tensor<f32, B, 2> {
    biased(x, x)
}

fn main() {}
