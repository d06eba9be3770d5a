#[kiln::model]
fn image<B>(x: Tensor<f32, B, 3, 8, 8>, w: Tensor<f32, 4, 3, 3, 3>) -> Tensor<f32, B, 4, 8, 8> {
    x.conv(w, padding = 1)
}

fn main() {}
