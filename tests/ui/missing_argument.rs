#[kiln::model]
fn normal<B>(x: Tensor<f32, B, 8>) -> Tensor<f32, B, 8> {
    x.layer_norm(-1, weight!("scale", f32, [8]))
}

fn main() {}
