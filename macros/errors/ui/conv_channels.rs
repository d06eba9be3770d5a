#[kiln::model]
fn stem<B>(x: Tensor<f32, B, 3, 32, 32>) -> Tensor<f32, B, 8, 32, 32> {
    x.conv(weight!("w", f32, [8, 4, 3, 3]), [1, 1], [1, 1])
}

fn main() {}
