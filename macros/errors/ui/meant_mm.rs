#[kiln::model]
fn product<B>(x: Tensor<f32, B, 12>, w: Tensor<f32, 12, 3>) -> Tensor<f32, B, 3> {
    x.mm(w)
}

fn main() {}
