#[kiln::model]
fn id<B>(x: Tensor<float32, B>) -> Tensor<float32, B> {
    x
}

fn main() {}
