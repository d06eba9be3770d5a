#[kiln::model]
fn heads<B>(x: Tensor<f32, B, 12>) -> Tensor<f32, B, 3, 4> {
    x.view([B, 3, 4])
}

fn main() {}
