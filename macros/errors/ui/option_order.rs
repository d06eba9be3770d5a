#[kiln::model]
fn normed<B>(x: Tensor<f32, B, 2>, w: Tensor<f32, 2>) -> Tensor<f32, B, 2> {
    let a = x.layer_norm(-1, scale = w, w);
    a.layer_norm(-1, axis = 0)
}

fn main() {}
