#[kiln::model]
fn total<B>(x: Tensor<f32, B, 8>) -> Tensor<f32, B> {
    x.sum(x)
}

fn main() {}
