#[kiln::model(S % 4 == 0)]
fn patches<S>(x: Tensor<f32, S>) -> Tensor<f32, { S / 8 }, 8> {
    x.reshape([S / 8, 8])
}

fn main() {}
