#[kiln::model]
fn padded<B>(x: Tensor<f32, B, 2>) -> Tensor<f32, B, 4> {
    x.pad([1], mode = "mirror")
}

fn main() {}
