#[kiln::model]
fn outer<B>(x: Tensor<f32, B, 8>) -> Tensor<f32, B, 5> {
    let y = inner(x);
    y.relu()
}

#[kiln::model]
fn inner<N>(x: Tensor<f32, N, 8>) -> Tensor<f32, N, 4> {
    x.linear(weight!("w", f32, [4, 8]))
}

fn main() {}
