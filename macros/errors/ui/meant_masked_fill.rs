#[kiln::model]
fn hidden<B>(x: Tensor<f32, B, 12>, mask: Tensor<bool, B, 12>) -> Tensor<f32, B, 12> {
    x.masked_fill(mask, 0.0)
}

fn main() {}
