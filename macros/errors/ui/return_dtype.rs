#[kiln::model]
fn best<B>(x: Tensor<f32, B, 12>) -> Tensor<i32, B> {
    x.argmax(-1)
}

fn main() {}
